//! The document that `list` answers with.

use serde::{Deserialize, Serialize};

/// What a factory holds, and what was minted through it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listing {
    /// The factory that was asked.
    pub factory: ListedFactory,
    /// The sessions below it.
    pub sessions: Vec<ListedSession>,
    /// The factories below it, makers before what they made.
    pub factories: Vec<ListedFactory>,
}

impl Listing {
    /// As it is sent.
    pub fn to_json(&self) -> String {
        // Nothing in it can fail to be JSON: there are no maps with other keys than strings.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// One factory. What is absent is not bounded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListedFactory {
    /// Its number; 0 is the server's own.
    pub factory: u64,
    /// The number of the one that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// What `name=` said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it was taken back, and waits for what is below it to end.
    #[serde(default)]
    pub ended: bool,
    /// What it holds.
    pub devices: Vec<ListedDevice>,
    /// Whether it mints read-only sessions alone.
    pub read_only: bool,
    /// Dataspaces of each session at most.
    pub ds_max: u16,
    /// The trusted dataspaces that its sessions may register.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataspaces: Option<Vec<String>>,
    /// Sessions below it at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_max: Option<u64>,
    /// Factories below it at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factories_max: Option<u64>,
    /// Memory of all sessions below it together at most, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_max: Option<u64>,
    /// Requests of each session a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u64>,
    /// Bytes of each session a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Requests of all together a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops_all: Option<u64>,
    /// Bytes of all together a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_all: Option<u64>,
}

/// A device that a factory holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListedDevice {
    /// Its canonical name; the one that it was asked for by while it is not there.
    pub device: String,
    /// Whether it is there.
    pub present: bool,
    /// Whether it is held for reading alone.
    pub read_only: bool,
    /// In bytes, while it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// A session that was minted there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListedSession {
    /// Its number.
    pub session: u64,
    /// The number of the factory that minted it.
    pub factory: u64,
    /// What `name=` said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its device by its canonical name.
    pub device: String,
    /// Whether it can only read.
    pub read_only: bool,
    /// Dataspaces at most.
    pub ds_max: u16,
    /// The trusted dataspaces that it may register.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataspaces: Option<Vec<String>>,
    /// Requests a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u64>,
    /// Bytes a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Memory that it has registered, in bytes.
    pub memory: u64,
}
