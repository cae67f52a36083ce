//! What is written down.

use serde::{Deserialize, Serialize};

/// The version of the records: another one when a field changes its meaning or goes. (One that is new changes nothing.)
pub const SCHEMA: u32 = 1;

/// Who asked, as the kernel says of the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Process.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a session or a factory may do.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Policy {
    /// Devices: one for a session, one or more for a factory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Whether it can only read.
    pub read_only: bool,
    /// Dataspaces at most.
    pub ds_max: u16,
    /// The trusted dataspaces that it is bounded to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataspaces: Option<Vec<String>>,
    /// Requests a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u64>,
    /// Bytes a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Of a factory: sessions at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// Of a factory: factories at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factories: Option<u64>,
    /// Of a factory: memory of all its sessions together at most, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_max: Option<u64>,
    /// Of a factory: requests a second of all its sessions together at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops_all: Option<u64>,
    /// Of a factory: bytes a second of all its sessions together at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_all: Option<u64>,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The server serves.
    Start,
    /// The server was told to stop.
    Stop,
    /// A session was minted.
    Grant,
    /// A request was refused.
    Refusal,
    /// A factory was made.
    Delegation,
    /// A session, or a factory, has ended.
    End,
    /// A limit was changed.
    Limit,
    /// A dataspace was registered.
    Dataspace,
    /// A dataspace was refused.
    DataspaceRefused,
    /// A device is lost.
    DeviceLost,
    /// Another program took over.
    Upgrade,
    /// The operator did something.
    Operator,
    /// Records were not written.
    Lost,
    /// The file was continued behind a line that was torn.
    Torn,
    /// The trail goes on in another file.
    Rotated,
}

/// One record, without what the chain adds. What does not apply is left out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// What happened.
    pub event: Event,
    /// The session, by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// The factory that it is about, or that minted the session; 0 is the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factory: Option<u64>,
    /// The factory that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// `name=`: a label, not unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The static client that the session is for, by its capability's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// What was granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// The device by its canonical name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The error number of a refusal, positive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Of a dataspace: its place among the trusted ones by name, or its device and inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataspace: Option<String>,
    /// Bytes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// How many this stands for: records that were lost, refusals that were counted and not written one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Record {
    /// Of that event, and nothing else so far.
    pub fn of(event: Event) -> Self {
        Self {
            event,
            session: None,
            factory: None,
            parent: None,
            name: None,
            client: None,
            peer: None,
            policy: None,
            device: None,
            errno: None,
            why: None,
            dataspace: None,
            size: None,
            count: None,
        }
    }
}
