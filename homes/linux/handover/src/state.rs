//! What came of what the server was started with.

use serde::{Deserialize, Serialize};

use crate::File;
use crate::kept::Store;

/// All that a server has.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The number of the next session. No number is used twice.
    pub next_session: u64,
    /// The number of the next factory.
    pub next_factory: u64,
    /// The last record of the audit trail, as `SEQ:HASH`, where there is a trail.
    pub head: Option<String>,
    /// The factories, makers before what they made.
    pub factories: Vec<Factory>,
    /// The sessions.
    pub sessions: Vec<Session>,
    /// Who is connected to a factory's socket.
    pub callers: Vec<Caller>,
    /// Images that lost something.
    pub lost: Vec<Lost>,
    /// What is drained: its sessions wait until it is resumed.
    pub drained: Vec<Drained>,
    /// How long it stands still at most, from when it was asked to, in milliseconds.
    pub stands_still: u64,
    /// Where it has memory mapped for its hardware controllers.
    pub mapped: Vec<Mapped>,
    /// Where it keeps what outlives a server that is killed, if it does.
    pub store: Option<Store>,
}

/// The bus addresses of a hardware controller that a server uses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapped {
    /// The word of `--cap` that the controller was opened by.
    pub word: String,
    /// First address, and bytes.
    pub ranges: Vec<(u64, u64)>,
    /// How it is left running; none: it has to be reset.
    pub left: Option<Left>,
}

/// A hardware controller that is left running: its admin queue goes on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// The memory of the queue.
    pub file: File,
    /// Its bus address.
    pub at: u64,
    /// The place of the next command.
    pub tail: u16,
    /// The place of the next answer.
    pub head: u16,
    /// The phase tag that it has.
    pub phase: bool,
    /// Identifiers of the requests to be told of events.
    pub events: Vec<u16>,
    /// How many I/O queue pairs it granted.
    pub pairs: u16,
    /// Identifiers of those that it has, which are to be deleted.
    pub live: Vec<u16>,
}

/// Something that is drained.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drained {
    /// The serial number of a controller; none: everything is drained.
    pub serial: Option<String>,
    /// Blocks of it: namespace, first, and how many; none: all of it.
    pub blocks: Option<(u32, u64, u64)>,
}

/// Somebody who is connected to a factory's socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    /// The factory; 0: the server's own.
    pub factory: u64,
    /// The connection.
    pub socket: File,
}

/// Who asked, as the kernel said then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Process.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Most a second; none: not bounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests.
    pub iops: Option<u64>,
    /// Bytes.
    pub bytes: Option<u64>,
}

/// What a session may do, its place on disk aside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its device by the name that it was asked for.
    pub device: String,
    /// It can only read.
    pub read_only: bool,
    /// Dataspaces that it may register.
    pub ds_max: u16,
    /// The trusted dataspaces that it is bounded to, by name; none: not bounded.
    pub dataspaces: Option<Vec<String>>,
    /// Most a second.
    pub rate: Rate,
    /// What listings call it.
    pub tag: Option<String>,
}

/// A device: a namespace, or a partition of one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// The serial number of its controller.
    pub serial: String,
    /// Where its controller is, where it has a place.
    pub place: Option<String>,
    /// What tells its disk from others.
    pub identity: Identity,
    /// The namespace's number.
    pub nsid: u32,
    /// The bytes of its blocks.
    pub block_size: u64,
    /// Its first block.
    pub first: u64,
    /// How many it has.
    pub blocks: u64,
    /// The partition that it is; none: the whole namespace.
    pub partition: Option<Partition>,
}

/// What tells a disk from others, as far as its controller said.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The name of its subsystem.
    pub subsystem: String,
    /// The subsystem's serial number.
    pub serial: String,
    /// The subsystem's model number.
    pub model: String,
    /// The number of the controller in it.
    pub controller: u16,
    /// Other controllers may have it, too.
    pub shared: bool,
    /// Its number in the subsystem.
    pub nsid: u32,
    /// NGUID; zeroes: not said.
    pub nguid: [u8; 16],
    /// EUI-64; zeroes: not said.
    pub eui64: [u8; 8],
    /// UUID; zeroes: not said.
    pub uuid: [u8; 16],
}

/// A partition, as the scan found it that it was bound in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Its number in the table.
    pub number: u32,
    /// Its identifier.
    pub id: String,
    /// Its label; may be empty.
    pub label: String,
    /// Another had its identifier before.
    pub id_taken: bool,
    /// Another had its label before.
    pub label_taken: bool,
}

/// A factory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factory {
    /// Its number.
    pub number: u64,
    /// Which made it; 0: the server's own.
    pub parent: u64,
    /// The capability of the command line that it is had at, where it is the operator's.
    pub capability: Option<String>,
    /// What it may give at most.
    pub ceiling: Ceiling,
    /// What listings call it.
    pub tag: Option<String>,
    /// What it holds.
    pub holdings: Vec<Holding>,
    /// The server's end of its lifetime.
    pub lifetime: Option<File>,
    /// Where its callers come from; of the operator's, that came with the capabilities.
    pub listener: Option<File>,
    /// The server's end of its connection.
    pub connection: Option<File>,
    /// Numbers of the sockets that are its capability.
    pub cookies: Vec<u64>,
}

/// What a factory may give at most, places on disk aside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceiling {
    /// For reading only.
    pub read_only: bool,
    /// Dataspaces that each session may register.
    pub ds_max: u16,
    /// The trusted dataspaces, by name; none: not bounded.
    pub dataspaces: Option<Vec<String>>,
    /// Most a second of each session.
    pub rate: Rate,
    /// Sessions below it.
    pub sessions: Option<u64>,
    /// Factories below it.
    pub factories: u64,
    /// Bytes that all sessions below it may register together.
    pub memory: Option<u64>,
    /// Most a second of all sessions below it together.
    pub all: Rate,
}

/// A device that a factory holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holding {
    /// By what it was named.
    pub name: String,
    /// For reading only.
    pub read_only: bool,
    /// What it was bound to; none while it was never there.
    pub device: Option<Device>,
}

/// A session, or a static client's place for one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Its number.
    pub number: u64,
    /// The static client whose it is.
    pub client: Option<String>,
    /// The factory that minted it.
    pub factory: u64,
    /// What it holds.
    pub device: Device,
    /// What it may do.
    pub policy: Policy,
    /// What bounds it now, which the operator may have changed.
    pub rate: Rate,
    /// Who asked for it.
    pub owner: Option<Peer>,
    /// Since when it is there: nanoseconds since 1970.
    pub since: u64,
    /// Numbers of the sockets that are its capability.
    pub cookies: Vec<u64>,
    /// The server's end of its lifetime.
    pub lifetime: Option<File>,
    /// Where its clients come from; a static client's came with the capabilities.
    pub listener: Option<File>,
    /// Who connected and waits.
    pub waiting: Vec<File>,
    /// What its virtqueues did so far, in the words of this version of the server.
    pub counters: Vec<Counters>,
    /// Nobody is let in any more.
    pub barred: bool,
    /// The cache mode is write-back.
    pub write_back: bool,
    /// Its client.
    pub connection: Option<Connection>,
}

/// What a virtqueue did so far.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Which.
    pub queue: u16,
    /// Numbers.
    pub words: Vec<u64>,
}

/// An image whose write-back failed: nothing counts as durable there, until the operator says so.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    /// The serial number of its controller.
    pub serial: String,
    /// The error.
    pub errno: i32,
}

/// A connected client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// Its socket.
    pub socket: File,
    /// Where it is told of news.
    pub channel: Option<File>,
    /// There is news that it was not told.
    pub change_pending: bool,
    /// Who it is.
    pub peer: Option<Peer>,
    /// It came to a listening socket.
    pub accepted: bool,
    /// It yields to the next one.
    pub yields: bool,
    /// What was said so far.
    pub machine: Machine,
    /// Features that its driver acknowledged, as the session has them.
    pub features: u64,
    /// Its memory, by region.
    pub memory: Vec<Memory>,
    /// The files of its memory.
    pub files: Vec<File>,
    /// Where it keeps what is in flight.
    pub inflight: Option<Inflight>,
    /// Where the server keeps what is in flight of rings whose client does not.
    pub journals: Vec<Journals>,
    /// Its rings.
    pub rings: Vec<Ring>,
}

/// Journals of some rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journals {
    /// The first of the rings.
    pub first: u16,
    /// The file.
    pub file: File,
}

/// How far a connection is in its protocol.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Device features that were acknowledged, with the protocol's own.
    pub features: u64,
    /// Protocol features that were acknowledged.
    pub protocol: u64,
    /// The device was taken.
    pub taken: bool,
    /// `SET_OWNER` came.
    pub owned: bool,
    /// Protocol features came after the last features.
    pub negotiated: bool,
    /// Something came at all.
    pub touched: bool,
    /// What is here of a message.
    pub input: Vec<u8>,
    /// What came with it.
    pub files: Vec<File>,
    /// What is not sent yet.
    pub output: Vec<u8>,
    /// What goes with it.
    pub attached: Option<File>,
}

/// A region of a client's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Its address in the guest.
    pub guest: u64,
    /// Its address in the client.
    pub user: u64,
    /// Bytes.
    pub len: u64,
    /// Where it begins in its file.
    pub offset: u64,
    /// Which of the connection's files.
    pub file: u32,
}

/// Where a client keeps what is in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inflight {
    /// The file.
    pub file: File,
    /// Where it begins there.
    pub offset: u64,
    /// For so many rings.
    pub rings: u16,
    /// Of so many entries.
    pub size: u16,
}

/// A virtqueue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    /// Its number.
    pub index: u16,
    /// Entries.
    pub size: Option<u16>,
    /// Descriptors, available ring, used ring.
    pub addresses: Option<(u64, u64, u64)>,
    /// The driver's next request.
    pub base: u16,
    /// The driver has it enabled.
    pub enabled: bool,
    /// It ran, and goes on.
    pub runs: bool,
    /// Its kick.
    pub kick: Option<File>,
    /// Its call.
    pub call: Option<File>,
    /// How its driver is told that it broke.
    pub error: Option<File>,
}

impl State {
    /// The descriptors that it names.
    pub(crate) fn files(&self) -> Vec<File> {
        let mut files = Vec::new();
        for factory in &self.factories {
            factory.name(&mut files);
        }
        files.extend(self.callers.iter().map(|caller| caller.socket));
        for session in &self.sessions {
            session.name(&mut files);
        }
        files.extend(self.mapped.iter().filter_map(|mapped| Some(mapped.left.as_ref()?.file)));
        self.store.iter().for_each(|store| store.name(&mut files));
        files
    }
}

impl Factory {
    pub(crate) fn name(&self, files: &mut Vec<File>) {
        files.extend(self.lifetime.iter().chain(&self.listener).chain(&self.connection));
    }
}

impl Session {
    pub(crate) fn name(&self, files: &mut Vec<File>) {
        files.extend(self.lifetime.iter().chain(&self.listener).chain(&self.waiting));
        if let Some(connection) = &self.connection {
            connection.name(files);
        }
    }
}

impl Connection {
    fn name(&self, files: &mut Vec<File>) {
        files.push(self.socket);
        files.extend(self.channel.iter().chain(&self.machine.files).chain(&self.machine.attached));
        files.extend(&self.files);
        files.extend(self.inflight.map(|inflight| inflight.file));
        files.extend(self.journals.iter().map(|journals| journals.file));
        for ring in &self.rings {
            files.extend(ring.kick.iter().chain(&ring.call).chain(&ring.error));
        }
    }
}
