//! What is kept of a server in case it is killed, in parts: one document for each session, one for each factory that a caller made, and one
//! for the rest.

use serde::{Deserialize, Serialize};

use crate::state::{Drained, Factory, Session};
use crate::{Capability, Document, File};

/// What is kept of a server beside its sessions and the factories that callers made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptServer {
    /// What it was started with.
    pub capabilities: Vec<Capability>,
    /// The words of its hardware controllers, which the next one opens by itself.
    pub hardware: Vec<String>,
    /// Memory that says of each session whether it lives, and whether its connection is as its document says.
    pub board: File,
    /// What has to hang up before images are as they will stay: of this server, and of those before it that had not yet.
    pub gates: Vec<Gate>,
    /// The number of the next session. No number is used twice.
    pub next_session: u64,
    /// The number of the next factory.
    pub next_factory: u64,
    /// The operator's factories, without descriptors: those are among the capabilities.
    pub factories: Vec<Factory>,
    /// What is drained: its sessions wait until it is resumed.
    pub drained: Vec<Drained>,
    /// Whose turn it was when servers crashed, the last ones.
    pub crashes: Vec<Crash>,
}

/// One end of a pipe, whose other end somebody holds who may still write, or read into clients' memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// The controller's serial number whose image that is about; none: all images.
    pub serial: Option<String>,
    /// The end.
    pub file: File,
}

/// A crash in a session's turn.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crash {
    /// The session's number.
    pub session: u64,
    /// The static client whose it was.
    pub client: Option<String>,
    /// The factory right below the server's own that it was minted through; 0: none.
    pub factory: u64,
    /// Seconds since the machine started.
    pub at: u64,
}

/// Where all that is kept lies, for a server that takes over and goes on writing there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// The board of the server before: the next one has its own, from when it writes its first document.
    pub board: File,
    /// The server's own shelf.
    pub own: Shelf,
    /// What has to hang up before images are as they will stay: of the server before, and of those before that.
    pub gates: Vec<Gate>,
    /// Whose turn it was when servers crashed, the last ones.
    pub crashes: Vec<Crash>,
    /// The sessions that are kept.
    pub sessions: Vec<Shelved>,
    /// The factories that are kept.
    pub factories: Vec<Shelved>,
}

/// A shelf on which nothing is that is stale.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shelf {
    /// The end that is read from.
    pub reader: File,
    /// The end that is written to.
    pub writer: File,
    /// The number of the last version.
    pub version: u64,
    /// Messages there.
    pub messages: u32,
}

/// What is kept of one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shelved {
    /// Its number.
    pub number: u64,
    /// Its place on the board.
    pub slot: u32,
    /// Its document tells all.
    pub told: bool,
    /// Where that lies.
    pub shelf: Shelf,
}

impl Store {
    pub(crate) fn name(&self, files: &mut Vec<File>) {
        files.push(self.board);
        files.extend(self.gates.iter().map(|gate| gate.file));
        let shelves = self.sessions.iter().chain(&self.factories).map(|shelved| shelved.shelf);
        files.extend(shelves.chain([self.own]).flat_map(|shelf| [shelf.reader, shelf.writer]));
    }
}

/// What is kept of a session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptSession {
    /// Its place on the board.
    pub slot: u32,
    /// All of it.
    pub session: Session,
}

/// What is kept of a factory that a caller made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptFactory {
    /// Its place on the board.
    pub slot: u32,
    /// All of it.
    pub factory: Factory,
}

impl Document for KeptServer {
    const KIND: &'static str = "server";

    fn files(&self) -> Vec<File> {
        let mut files: Vec<File> = self.capabilities.iter().map(|capability| capability.file).collect();
        files.push(self.board);
        files.extend(self.gates.iter().map(|gate| gate.file));
        self.factories.iter().for_each(|factory| factory.name(&mut files));
        files
    }
}

impl Document for KeptSession {
    const KIND: &'static str = "session";

    fn files(&self) -> Vec<File> {
        let mut files = Vec::new();
        self.session.name(&mut files);
        files
    }
}

impl Document for KeptFactory {
    const KIND: &'static str = "factory";

    fn files(&self) -> Vec<File> {
        let mut files = Vec::new();
        self.factory.name(&mut files);
        files
    }
}
