//! What the server tells about itself on its `ctl` socket.
//!
//! The `ctl` socket is a listening `AF_UNIX` `SOCK_STREAM` socket. Whoever connects is sent one [`Inventory`] as a JSON
//! document in UTF-8, after which the server closes the connection. The server reads nothing: introspection has no
//! request, so that there is nothing to parse on its side.
//!
//! The document only grows: a reader ignores fields that it does not know, and a field that is new has a default here.
//! [`VERSION`] changes when a field changes its meaning.

mod counters;
pub mod metrics;
mod slow;

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

pub use counters::{
    ByKind, ByStatus, ControllerCounters, Counters, Form, Latency, NAMES, Name, QueueCounters, Scope, Worker,
};
pub use metrics::Format;
pub use slow::{SLOW_MS, Slow, SlowRequest};

/// The version of the document that this code writes and reads.
pub const VERSION: u32 = 1;

/// The longest document that a reader takes, in bytes.
pub const LENGTH_MAX: u64 = 16 << 20;

/// Everything that `nvme-ctl ls` shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// [`VERSION`].
    pub version: u32,
    /// The server, for instance `nvme-drv 0.1.0`.
    pub server: String,
    /// The server's process id.
    pub pid: u32,
    /// Whether devices are still being scanned: more may appear.
    pub scanning: bool,
    /// The controllers, in the order of their capabilities.
    pub controllers: Vec<Controller>,
    /// The sessions, the oldest first.
    pub sessions: Vec<Session>,
    /// The static clients, whether one is connected or not.
    pub clients: Vec<Client>,
    /// The names of the trusted dataspaces. With at least one, no other memory can be registered.
    pub trusted: Vec<String>,
    /// The threads that serve virtqueues.
    pub workers: Vec<Worker>,
    /// When that was: nanoseconds on a clock that never goes back.
    pub clock: u64,
    /// What one session, and the server, may have.
    pub limits: Limits,
    /// The audit trail, where there is one.
    pub audit: Option<Audit>,
    /// How often something happened in the server that cannot happen; the log says what. Anything but 0 is a defect.
    pub anomalies: u64,
}

/// The audit trail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Audit {
    /// The last record that is written, as `SEQ:HASH`.
    pub head: String,
    /// Whether nothing is granted that is not written down.
    pub required: bool,
    /// Why records are not written, if they are not.
    pub failed: Option<String>,
}

/// A controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Controller {
    /// What its capability was given, for instance `soft:disk.img` or `pci:0000:01:00.0`.
    pub name: String,
    /// The serial number, trimmed at both ends.
    pub serial: String,
    /// The model, trimmed.
    pub model: String,
    /// The firmware revision, trimmed.
    pub firmware: String,
    /// Where it stands.
    pub state: State,
    /// The active namespaces, by number.
    pub namespaces: Vec<Namespace>,
    /// Its health, and what went wrong.
    pub counters: ControllerCounters,
}

/// Where a controller stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Being brought up or scanned.
    #[default]
    Starting,
    /// Serving.
    Ready,
    /// Being reset: requests wait.
    Resetting,
    /// Given up after an error, or removed.
    Failed,
    /// Something that this reader does not know.
    #[serde(other)]
    Other,
}

impl State {
    /// The word that stands for it in the document.
    pub const fn word(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Ready => "ready",
            State::Resetting => "resetting",
            State::Failed => "failed",
            State::Other => "other",
        }
    }
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// The namespace identifier.
    pub nsid: u32,
    /// Its size, in blocks.
    pub blocks: u64,
    /// The size of a block, in bytes.
    pub block_size: u32,
    /// Whether the medium itself cannot be written.
    pub read_only: bool,
    /// What kind of partition table it has, be it empty or broken: `gpt`, `mbr`, or nothing when there is none.
    pub table: Option<String>,
    /// Its partitions, by number.
    pub partitions: Vec<Partition>,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Partition {
    /// Its number in the table, from 1.
    pub number: u32,
    /// Its UUID, or the 8-2 digit form of an MBR disk's.
    pub uuid: String,
    /// Its GPT name; empty when it has none.
    pub label: String,
    /// Its first block in the namespace.
    pub first: u64,
    /// Its size, in blocks.
    pub blocks: u64,
    /// Whether a session of it has to be read-only: its table says so, or it covers that table.
    pub read_only: bool,
}

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// The server's number for it; never used twice.
    pub id: u64,
    /// The device by its canonical name.
    pub device: String,
    /// What `name=` said.
    pub name: Option<String>,
    /// The number of the factory that minted it; 0 is the server's own.
    pub factory: u64,
    /// Where its clients connect, if they come to a socket with a name.
    pub path: Option<String>,
    /// Since when it is there: seconds since 1970.
    pub since: u64,
    /// Whether it waits because its device is drained.
    pub held: bool,
    /// What it may do.
    pub access: Access,
    /// How many dataspaces it may register.
    pub ds_max: u32,
    /// How many dataspaces it has registered.
    pub dataspaces: u32,
    /// How many regions of memory these are.
    pub regions: u32,
    /// How many bytes these are.
    pub registered: u64,
    /// How many virtqueues run.
    pub queues: u32,
    /// The capability name of the static client that it belongs to.
    pub client: Option<String>,
    /// Whether a front-end is connected.
    pub connected: bool,
    /// Who asked for it, or who is connected.
    pub peer: Option<Peer>,
    /// How many requests a second it may make of itself.
    pub iops: Option<u64>,
    /// How many bytes a second.
    pub bytes: Option<u64>,
    /// What it did so far.
    pub counters: Counters,
    /// What each of its virtqueues did that did anything.
    pub by_queue: Vec<QueueCounters>,
}

/// What a session may do with its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Read.
    #[default]
    #[serde(rename = "read-only")]
    ReadOnly,
    /// Read and write.
    #[serde(rename = "read-write")]
    ReadWrite,
}

impl Access {
    /// The word that stands for it in the document.
    pub const fn word(self) -> &'static str {
        match self {
            Access::ReadOnly => "read-only",
            Access::ReadWrite => "read-write",
        }
    }
}

/// The process at the other end of a socket, as the kernel knew it at connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A static client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Client {
    /// The name of its capability.
    pub name: String,
    /// The device that is reserved for it.
    pub device: String,
    /// What it may do.
    pub access: Access,
    /// Whether the device is there.
    pub present: bool,
    /// Whether a front-end is connected.
    pub connected: bool,
}

/// What one session, and the server, may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Sessions at once, those of static clients among them.
    pub sessions: u32,
    /// Bytes of memory that one session may register.
    pub memory: u64,
    /// Regions that one session may register.
    pub regions: u32,
    /// Virtqueues of one session.
    pub queues: u32,
    /// Threads that serve queues.
    pub workers: u32,
}

impl Inventory {
    /// The document, as it goes over the socket.
    ///
    /// # Errors
    ///
    /// None that the types here can cause; the signature is serde's.
    pub fn to_json(&self) -> io::Result<Vec<u8>> {
        let mut document = serde_json::to_vec(self)?;
        document.push(b'\n');
        Ok(document)
    }

    /// The document of a server that was connected to. Waits until it is complete.
    ///
    /// # Errors
    ///
    /// What reading says, a document longer than [`LENGTH_MAX`] or with a newer [`VERSION`], and one that is no such
    /// document.
    pub fn read(from: impl Read) -> io::Result<Inventory> {
        let mut document = Vec::new();
        from.take(LENGTH_MAX + 1).read_to_end(&mut document)?;
        if document.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed without an answer"));
        }
        if document.len() as u64 > LENGTH_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
        Inventory::from_json(&document)
    }

    /// The document's content.
    ///
    /// # Errors
    ///
    /// A newer [`VERSION`], and what is no such document.
    pub fn from_json(document: &[u8]) -> io::Result<Inventory> {
        let inventory: Inventory = serde_json::from_slice(document)?;
        if inventory.version != VERSION {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the document has version {}, not {VERSION}", inventory.version),
            ));
        }
        Ok(inventory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Inventory {
        Inventory {
            version: VERSION,
            controllers: vec![Controller {
                serial: "1234".into(),
                state: State::Ready,
                namespaces: vec![Namespace {
                    nsid: 1,
                    blocks: 8,
                    block_size: 512,
                    partitions: vec![Partition {
                        number: 1,
                        label: "äöü \"x\"".into(),
                        ..Partition::default()
                    }],
                    ..Namespace::default()
                }],
                ..Controller::default()
            }],
            sessions: vec![Session {
                access: Access::ReadWrite,
                peer: Some(Peer { pid: 7, uid: 1, gid: 1 }),
                ..Session::default()
            }],
            ..Inventory::default()
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let document = example().to_json().unwrap();
        assert_eq!(Inventory::read(document.as_slice()).unwrap(), example());
    }

    #[test]
    fn unknown_fields_and_states_are_no_error_and_missing_fields_have_defaults() {
        let document = br#"{"version":1,"new":[1],"controllers":[{"state":"melting","serial":"x","hue":3}]}"#;
        let inventory = Inventory::read(document.as_slice()).unwrap();
        assert_eq!(inventory.controllers[0].state, State::Other);
        assert_eq!(inventory.controllers[0].serial, "x");
        assert!(inventory.sessions.is_empty());
    }

    #[test]
    fn another_version_an_empty_and_a_broken_document_are_refused() {
        assert!(Inventory::read(br#"{"version":2}"#.as_slice()).is_err());
        assert!(Inventory::read(b"".as_slice()).is_err());
        assert!(Inventory::read(br#"{"version":1"#.as_slice()).is_err());
    }

    #[test]
    fn the_words_are_those_of_the_document() {
        for state in [State::Starting, State::Ready, State::Resetting, State::Failed] {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{}\"", state.word()));
        }
        for access in [Access::ReadOnly, Access::ReadWrite] {
            assert_eq!(serde_json::to_string(&access).unwrap(), format!("\"{}\"", access.word()));
        }
    }
}
