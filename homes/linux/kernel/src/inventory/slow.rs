//! What the capability `admin` answers to `slow`: the last requests that took long.

use serde::{Deserialize, Serialize};

/// Milliseconds where nothing is said.
pub const SLOW_MS: u64 = 10;

/// The last requests that took long, the oldest first. Times are nanoseconds on the clock of [`Inventory::clock`](super::Inventory::clock).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slow {
    /// When that was.
    pub clock: u64,
    /// They took so many milliseconds, or longer.
    pub ms: u64,
    /// The requests.
    pub requests: Vec<SlowRequest>,
}

/// A request that took long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlowRequest {
    /// Its session.
    pub session: u64,
    /// That session's device, unless it has ended.
    pub device: Option<String>,
    /// Its virtqueue.
    pub queue: u16,
    /// What it asked for: `read`, `write`, `flush`, `discard`, `write_zeroes` or `other`.
    pub kind: String,
    /// How many bytes.
    pub bytes: u64,
    /// So many of that kind were taken and told together, of which this is the first.
    pub together: u32,
    /// What its driver was told: `ok`, `ioerr` or `unsupp`.
    pub status: String,
    /// How long it took in all, in seconds: from being held back, or else from being taken, to its driver's being told.
    pub seconds: f64,
    /// For how long a limit had held its virtqueue back before it was taken.
    pub held_seconds: f64,
    /// When it was taken from the ring.
    pub taken: u64,
    /// When the last part of it was given to the controller.
    pub submitted: u64,
    /// When the last part of it was seen to be completed.
    pub completed: u64,
    /// When its driver had been told.
    pub used: u64,
}

impl Slow {
    /// The document in one line.
    ///
    /// # Errors
    ///
    /// None that the types here can cause; the signature is serde's.
    pub fn to_json(&self) -> std::io::Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// The document's content.
    ///
    /// # Errors
    ///
    /// What is no such document.
    pub fn from_json(text: &str) -> std::io::Result<Self> {
        Ok(serde_json::from_str(text)?)
    }
}
