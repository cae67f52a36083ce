//! Requests that failed, for whoever tells the operator: one in a while for each pair, and how many there were besides.

use core::fmt;
use core::time::Duration;

use nvme_platform::Time;
use nvme_session::operation::Operation;
use nvme_session::queue::Asked;

use super::spec::command::Status;

/// A pair tells of one in so long.
const EVERY: Duration = Duration::from_millis(250);

/// A request that the controller failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mishap {
    /// The session's number.
    pub session: u64,
    /// What it was.
    pub what: &'static str,
    /// Where, in bytes from the beginning of its namespace. Nothing: everywhere.
    pub place: Option<(u64, u64)>,
    /// How the controller called it.
    pub status: Status,
    /// How many more there were since the last.
    pub more: u64,
}

/// The reason in words, where there are some.
impl fmt::Display for Mishap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.status.code() {
            Status::CAPACITY_EXCEEDED => "no space, ",
            Status::WRITE_FAULT => "it was not written, or not made durable, ",
            Status::READ_ERROR => "it cannot be read, ",
            _ => "",
        };
        write!(f, "{words}status {:#05x} ({})", self.status.code(), self.status.name())?;
        if self.more > 0 {
            write!(f, " ({} more)", self.more)?;
        }
        Ok(())
    }
}

/// What an operation is called.
pub(super) fn word(operation: &Operation) -> &'static str {
    match operation {
        Operation::Read(_) | Operation::ReadPart(_) => "read",
        Operation::Write { .. } | Operation::WritePart { .. } => "write",
        Operation::Flush { .. } => "flush",
        Operation::Discard { .. } => "discard",
        Operation::WriteZeroes { .. } => "write-zeroes",
    }
}

/// What an operation is counted as.
pub(super) fn asked(operation: &Operation) -> Asked {
    match operation {
        Operation::Read(_) | Operation::ReadPart(_) => Asked::Read,
        Operation::Write { .. } | Operation::WritePart { .. } => Asked::Write,
        Operation::Flush { .. } => Asked::Flush,
        Operation::Discard { .. } => Asked::Discard,
        Operation::WriteZeroes { .. } => Asked::WriteZeroes,
    }
}

/// Those of one pair.
#[derive(Debug, Default)]
pub(super) struct Mishaps {
    first: Option<Mishap>,
    more: u64,
    /// Nothing is told before this.
    after: Time,
}

impl Mishaps {
    /// One more.
    pub(super) fn note(&mut self, session: u64, operation: &Operation, status: Status) {
        if self.first.is_some() {
            self.more += 1;
            return;
        }
        let place =
            operation.place().map(|place| (place.first() << place.block_size().shift(), place.bytes()));
        self.first = Some(Mishap { session, what: word(operation), place, status, more: 0 });
    }

    /// The first since the last that was told, if it is time for one.
    pub(super) fn take(&mut self, now: Time) -> Option<Mishap> {
        if now < self.after {
            return None;
        }
        let first = self.first.take()?;
        self.after = now + EVERY;
        Some(Mishap { more: core::mem::take(&mut self.more), ..first })
    }
}
