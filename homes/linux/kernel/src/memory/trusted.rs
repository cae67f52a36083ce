//! Trusted dataspaces, and how one is recognised.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::identity::{FileId, Refusal, check_access, identify};
use super::lock::{holds_byte, lock_byte, unlock_byte};

/// Where the probes lock: far beyond any file's end, so that they are in nobody's way.
const PROBE: i64 = i64::MAX - (1 << 20);
/// How often a probe is tried: another thread that closes a descriptor of the same file takes our lock away, and one that closes
/// what clients sent may close many.
const TRIES: i64 = 64;

#[derive(Debug)]
struct Original {
    name: String,
    file: OwnedFd,
    id: FileId,
}

/// The memory files that the operator trusts, kept open. With at least one, no other memory is accepted.
#[derive(Debug, Default)]
pub struct Trusted {
    originals: Vec<Original>,
}

impl Trusted {
    /// Trusts nothing in particular: all memory that can be no trap is accepted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts a regular file, on whatever file system. It must be readable.
    pub fn add(&mut self, name: &str, file: OwnedFd) -> Result<(), Refusal> {
        check_access(file.as_fd())?;
        let id = identify(file.as_fd())?.id;
        self.originals.push(Original { name: name.into(), file, id });
        Ok(())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.originals.is_empty()
    }

    /// The name of each, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.originals.iter().map(|o| o.name.as_str())
    }

    /// The same, with the files.
    pub fn files(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.originals.iter().map(|o| (o.name.as_str(), o.file.as_fd()))
    }

    /// Which trusted files `candidate` is (two names may have been given to one file), by any descriptor that can be read. It must be a
    /// regular file.
    ///
    /// Device and inode come first: inode numbers of live files may repeat where they wrap (those of memfds have 32
    /// bits), but a candidate with the same device lies on a file system that is trusted to answer. Then the proof: this process
    /// locks a byte of the original, and asks through the candidate who has locked that byte. The kernel
    /// itself writes down whose a process's lock is, so no other file can have one of ours. The lock is the process's
    /// and the question is asked for the candidate's open file description: that works when the two are the same description,
    /// too, as when one memfd was inherited by both sides.
    pub(super) fn recognise(&self, candidate: BorrowedFd<'_>, id: FileId) -> Vec<usize> {
        let _turn = turn();
        let is = |original: &Original| original.id == id && same_file(original.file.as_fd(), candidate);
        let places = self.originals.iter().enumerate().filter(|(_, original)| is(original));
        places.map(|(place, _)| place).collect()
    }
}

/// Locks are the process's: while one is asked for, no thread asks for another, or closes a descriptor of the same file.
pub(super) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn same_file(original: BorrowedFd<'_>, candidate: BorrowedFd<'_>) -> bool {
    (0..TRIES).any(|n| {
        // Another byte each time: a client may hold locks on a file that it shares with others.
        let at = PROBE + n * 4096;
        let same = lock_byte(original, at).is_ok() && holds_byte(candidate, at);
        unlock_byte(original, at);
        same
    })
}
