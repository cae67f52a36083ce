//! Lines, each tied to the one before.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::record::{Record, SCHEMA};

/// The SHA-256 of a line, without its line feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hash([u8; 32]);

impl Hash {
    /// What stands before the first line.
    pub const NONE: Self = Self([0; 32]);

    /// Of a line, without its line feed.
    pub fn of(line: &[u8]) -> Self {
        Self(Sha256::digest(line).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// 64 hexadecimal digits, in lower case.
impl FromStr for Hash {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits =
            text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)).filter(|_| digits) {
            let pair = std::str::from_utf8(pair).map_err(|_| ())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ())?;
        }
        if digits { Ok(Self(hash)) } else { Err(()) }
    }
}

/// The last line: its number, and its hash. Written down elsewhere, it proves the whole file up to there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The number of the last line; 0 before the first.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Head {
    /// Before the first line.
    pub const NONE: Self = Self { seq: 0, hash: Hash::NONE };
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

/// `SEQ:HASH`
impl FromStr for Head {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (seq, hash) = text.split_once(':').ok_or(())?;
        Ok(Self { seq: seq.parse().map_err(|_| ())?, hash: hash.parse()? })
    }
}

/// A line as it stands in the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Line {
    /// [`SCHEMA`]
    pub v: u32,
    /// Its number, counted from 1 over all files of a trail.
    pub seq: u64,
    /// When, in UTC, as RFC 3339 has it, with microseconds.
    pub time: String,
    /// The hash of the line before; zeroes at the first.
    pub prev: String,
    /// What happened.
    #[serde(flatten)]
    pub record: Record,
}

/// Makes lines of records.
#[derive(Clone, Debug)]
pub struct Chain {
    head: Head,
}

impl Chain {
    /// Goes on behind that line.
    pub fn behind(head: Head) -> Self {
        Self { head }
    }

    /// The last line.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The next line, with its line feed. It counts from now on, so it has to be written.
    pub fn line(&mut self, record: Record, time: SystemTime) -> String {
        let seq = self.head.seq.saturating_add(1);
        let time = humantime::format_rfc3339_micros(time).to_string();
        let line = Line { v: SCHEMA, seq, time, prev: self.head.hash.to_string(), record };
        // Nothing in a record can fail to be JSON: there are no maps with other keys than strings.
        let mut text = serde_json::to_string(&line).unwrap_or_default();
        self.head = Head { seq, hash: Hash::of(text.as_bytes()) };
        text.push('\n');
        text
    }
}
