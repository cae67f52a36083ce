//! What a virtqueue did, counted.
//!
//! [`Counts`] is written by the worker that serves the queue, and by nobody else: with plain stores, so that nothing is locked. Control reads it
//! at any time; the numbers that it finds are each right, and of about the same moment.
//!
//! A request's latency is the time from the clock of the pass that took it to the one behind the publish that told its driver. No
//! clock is read for it: requests of one kind that were taken and told together are one run (`tally`), and are counted when the next clock is read.

use core::array;
use core::sync::atomic::{AtomicU64, Ordering};

use super::fault::{FAULTS, Fault};
use crate::blk::request::Kind;

/// What a request asked for, as it is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Asked {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
    /// A discard.
    Discard,
    /// Write-zeroes.
    WriteZeroes,
    /// The name, and what is not known.
    Other,
}

impl Asked {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::Flush, Self::Discard, Self::WriteZeroes, Self::Other];

    /// The word that stands for it wherever numbers are shown.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::WriteZeroes => "write_zeroes",
            Self::Other => "other",
        }
    }

    /// What the type in a header asks for.
    pub(super) fn of(wire: u32) -> Self {
        match Kind::from_wire(wire) {
            Some(Kind::In) => Self::Read,
            Some(Kind::Out) => Self::Write,
            Some(Kind::Flush) => Self::Flush,
            Some(Kind::Discard) => Self::Discard,
            Some(Kind::WriteZeroes) => Self::WriteZeroes,
            Some(Kind::GetId) | None => Self::Other,
        }
    }
}

/// How many kinds there are.
pub const KINDS: usize = Asked::ALL.len();
/// How many buckets a latency may fall into: one for each power of two of nanoseconds.
pub const BUCKETS: usize = 64;

/// An atomic that one thread writes.
#[derive(Debug, Default)]
pub(super) struct Cell(AtomicU64);

impl Cell {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Relaxed, and no read-modify-write: nobody else writes, and no other memory depends on it.
    #[inline(always)]
    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline(always)]
    fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }
}

/// What a virtqueue did, as its worker writes it down. It outlives the queue: one that is started again goes on counting.
#[derive(Debug)]
pub struct Counts {
    latency: [[Cell; BUCKETS]; KINDS],
    time: [Cell; KINDS],
    failed: [Cell; KINDS],
    unsupported: [Cell; KINDS],
    errors: [[Cell; FAULTS]; KINDS],
    pub(super) read: Cell,
    pub(super) written: Cell,
    pub(super) in_flight: Cell,
    pub(super) depth_most: Cell,
    notified: Cell,
    slow: Cell,
    bounced: Cell,
    held: Cell,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            latency: array::from_fn(|_| array::from_fn(|_| Cell::default())),
            time: array::from_fn(|_| Cell::default()),
            failed: array::from_fn(|_| Cell::default()),
            unsupported: array::from_fn(|_| Cell::default()),
            errors: array::from_fn(|_| array::from_fn(|_| Cell::default())),
            read: Cell::default(),
            written: Cell::default(),
            in_flight: Cell::default(),
            depth_most: Cell::default(),
            notified: Cell::default(),
            slow: Cell::default(),
            bounced: Cell::default(),
            held: Cell::default(),
        }
    }
}

impl Counts {
    /// What is counted so far.
    pub fn read(&self) -> Counted {
        let mut kinds = Counted::default().kinds;
        let numbers = self.time.iter().zip(&self.failed).zip(&self.unsupported);
        let arrays = self.latency.iter().zip(&self.errors);
        for ((kind, (latency, errors)), ((time, failed), unsupported)) in
            kinds.iter_mut().zip(arrays).zip(numbers)
        {
            let cells = latency.iter().chain(errors);
            for (to, from) in kind.latency.iter_mut().chain(&mut kind.errors).zip(cells) {
                *to = from.get();
            }
            (kind.time, kind.failed, kind.unsupported) = (time.get(), failed.get(), unsupported.get());
        }
        Counted {
            kinds,
            read_bytes: self.read.get(),
            written_bytes: self.written.get(),
            in_flight: self.in_flight.get(),
            depth_most: self.depth_most.get(),
            notifications: self.notified.get(),
            slow_path: self.slow.get(),
            bounced: self.bounced.get(),
            held: self.held.get(),
        }
    }

    /// Goes on from what another server counted, before any queue counts here: the words of [`Counted::words`]. False: these are none.
    pub fn go_on_from(&self, words: &[u64]) -> bool {
        let kinds = KINDS * CountedKind::WORDS;
        let (Some(each), Some([read, written, depth_most, notified, slow, bounced, held])) =
            (words.get(..kinds), words.get(kinds..))
        else {
            return false;
        };
        for (kind, words) in each.chunks(CountedKind::WORDS).enumerate() {
            let arrays = self.latency.get(kind).into_iter().flatten();
            let arrays = arrays.chain(self.errors.get(kind).into_iter().flatten());
            let others = [self.time.get(kind), self.failed.get(kind), self.unsupported.get(kind)];
            for (cell, word) in arrays.chain(others.into_iter().flatten()).zip(words) {
                cell.set(*word);
            }
        }
        for (cell, word) in [
            (&self.read, read),
            (&self.written, written),
            (&self.depth_most, depth_most),
            (&self.notified, notified),
            (&self.slow, slow),
            (&self.bounced, bounced),
            (&self.held, held),
        ] {
            cell.set(*word);
        }
        true
    }

    /// Its queue is gone, and nothing is in flight there.
    pub fn stopped(&self) {
        self.in_flight.set(0);
    }

    /// Its driver was told once more.
    pub fn notified(&self) {
        self.notified.add(1);
    }

    /// The data of a request is copied through bounce memory.
    pub fn bounced(&self) {
        self.bounced.add(1);
    }

    /// Requests lay there for so many nanoseconds because a limit was reached.
    pub fn held(&self, nanos: u64) {
        self.held.add(nanos);
    }

    pub(super) fn count(&self, asked: Asked, many: u64, nanos: u64) {
        let kind = asked as usize;
        let bucket = (nanos | 1).ilog2() as usize;
        if let Some(cell) = self.latency.get(kind).and_then(|all| all.get(bucket)) {
            cell.add(many);
        }
        if let Some(cell) = self.time.get(kind) {
            cell.add(many.wrapping_mul(nanos));
        }
    }
}

/// Of one kind of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CountedKind {
    /// How many were answered after a time from 2ⁿ to 2ⁿ⁺¹ nanoseconds, for each n; what took none is in the first.
    pub latency: [u64; BUCKETS],
    /// Nanoseconds that all of them took together.
    pub time: u64,
    /// How many were answered with `IOERR`.
    pub failed: u64,
    /// How many were answered with `UNSUPP`.
    pub unsupported: u64,
    /// How many commands for them the device failed, by [`Fault`].
    pub errors: [u64; FAULTS],
}

impl CountedKind {
    /// Numbers of one.
    const WORDS: usize = BUCKETS + FAULTS + 3;

    /// How many were answered.
    pub fn requests(&self) -> u64 {
        self.latency.iter().fold(0, |sum, n| sum.wrapping_add(*n))
    }
}

/// What a virtqueue did, or all of a session's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    /// By [`Asked`].
    pub kinds: [CountedKind; KINDS],
    /// Bytes that reads asked for.
    pub read_bytes: u64,
    /// Bytes that writes brought.
    pub written_bytes: u64,
    /// Requests that are not answered.
    pub in_flight: u64,
    /// The most that ever were. Of several queues: of the one that had most.
    pub depth_most: u64,
    /// How often a driver was told of answers.
    pub notifications: u64,
    /// Requests that were not of the form that most have.
    pub slow_path: u64,
    /// Requests whose data was copied.
    pub bounced: u64,
    /// Nanoseconds for which requests lay there because a limit was reached; of several queues the sum.
    pub held: u64,
}

impl Default for Counted {
    fn default() -> Self {
        let kind =
            CountedKind { latency: [0; BUCKETS], time: 0, failed: 0, unsupported: 0, errors: [0; FAULTS] };
        Self {
            kinds: [kind; KINDS],
            read_bytes: 0,
            written_bytes: 0,
            in_flight: 0,
            depth_most: 0,
            notifications: 0,
            slow_path: 0,
            bounced: 0,
            held: 0,
        }
    }
}

impl Counted {
    /// Adds what another queue did.
    pub fn add(&mut self, other: &Self) {
        for (to, from) in self.kinds.iter_mut().zip(&other.kinds) {
            let numbers = from.latency.iter().chain(&from.errors);
            for (to, from) in to.latency.iter_mut().chain(&mut to.errors).zip(numbers) {
                *to = to.wrapping_add(*from);
            }
            to.time = to.time.wrapping_add(from.time);
            to.failed = to.failed.wrapping_add(from.failed);
            to.unsupported = to.unsupported.wrapping_add(from.unsupported);
        }
        self.depth_most = self.depth_most.max(other.depth_most);
        for (to, from) in [
            (&mut self.read_bytes, other.read_bytes),
            (&mut self.written_bytes, other.written_bytes),
            (&mut self.in_flight, other.in_flight),
            (&mut self.notifications, other.notifications),
            (&mut self.slow_path, other.slow_path),
            (&mut self.bounced, other.bounced),
            (&mut self.held, other.held),
        ] {
            *to = to.wrapping_add(from);
        }
    }

    /// All of it but what is in flight, for another server to go on from.
    pub fn words(&self) -> alloc::vec::Vec<u64> {
        let kinds = self.kinds.iter().flat_map(|kind| {
            let arrays = kind.latency.iter().chain(&kind.errors);
            arrays.copied().chain([kind.time, kind.failed, kind.unsupported])
        });
        let others = [
            self.read_bytes,
            self.written_bytes,
            self.depth_most,
            self.notifications,
            self.slow_path,
            self.bounced,
            self.held,
        ];
        kinds.chain(others).collect()
    }

    /// Of one kind.
    pub fn of(&self, asked: Asked) -> &CountedKind {
        let [first, ..] = &self.kinds;
        self.kinds.get(asked as usize).unwrap_or(first)
    }

    /// How many requests were answered.
    pub fn requests(&self) -> u64 {
        self.kinds.iter().fold(0, |sum, kind| sum.wrapping_add(kind.requests()))
    }
}

impl Counts {
    /// So many of a kind were answered with an error.
    #[cold]
    pub(super) fn refused(&self, asked: Asked, unsupported: bool) {
        let cells = if unsupported { &self.unsupported } else { &self.failed };
        if let Some(cell) = cells.get(asked as usize) {
            cell.add(1);
        }
    }

    /// The device failed a command for such a request.
    #[cold]
    pub fn device_failed(&self, asked: Asked, fault: Fault) {
        if let Some(cell) = self.errors.get(asked as usize).and_then(|all| all.get(fault as usize)) {
            cell.add(1);
        }
    }

    /// A request went the slow way.
    pub(super) fn slow(&self) {
        self.slow.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_server_counted_is_gone_on_from() {
        let counts = Counts::default();
        counts.count(Asked::Write, 3, 1000);
        counts.count(Asked::Read, 1, 7);
        counts.refused(Asked::Flush, true);
        counts.refused(Asked::Discard, false);
        counts.device_failed(Asked::Flush, Fault::WriteFault);
        counts.device_failed(Asked::Other, Fault::Other);
        counts.read.set(1);
        counts.written.set(2);
        counts.depth_most.set(3);
        counts.notified();
        counts.slow();
        counts.bounced();
        counts.held(9);
        let words = counts.read().words();
        assert_eq!(counts.read().of(Asked::Flush).errors[Fault::WriteFault as usize], 1);
        let next = Counts::default();
        assert!(next.go_on_from(&words));
        assert_eq!(next.read(), counts.read());
        assert!(!next.go_on_from(words.get(1..).unwrap()) && !next.go_on_from(&[]));
        assert_eq!(next.read(), counts.read(), "what is none changes nothing");
        let mut sum = counts.read();
        sum.add(&next.read());
        assert_eq!(sum.of(Asked::Other).errors[Fault::Other as usize], 2);
    }
}
