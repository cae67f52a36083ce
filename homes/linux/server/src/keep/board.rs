//! Memory that is kept: what changes too often, or has to be said too soon, for a document.
//!
//! Plain stores, in the order in which they are made: those of a process that was killed are all there. Of each session, and of each factory that a caller made, it
//! says whether it lives, and whether its document tells all; of each image, which error of a write-back is still to be said; of each thread, whose turn it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nvme_linux::keep::crash::{PLACE, PLACES};
use nvme_linux::memory::{MemoryFile, Refusal, Trusted, made_of_zeroes};
use nvme_platform::Window;
use rustix::io::Errno;

/// Images whose errors have a place: 16 bits each.
const IMAGES: usize = 256;
/// Where threads begin.
const THREADS: usize = 2 * IMAGES;
/// Where sessions and factories begin, at 16 bytes each: a number of 64 bits, and what is known of it.
const SLOTS: usize = THREADS + PLACE * PLACES;
const SLOT: usize = 16;
const STATE: usize = 8;
/// Sessions and factories that have a place.
const SESSIONS: usize = 4096;
const LEN: usize = SLOTS + SLOT * SESSIONS;

/// What is known of a session, or of a factory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// It is not, or has ended.
    Gone,
    /// Its document tells all.
    Told,
    /// Its client may have said something that the document does not tell; something is being read from a factory's caller, or answered.
    Says,
    /// A factory's caller has asked for something, and was not answered.
    Asks,
}

impl State {
    fn number(self) -> u16 {
        match self {
            Self::Gone => 0,
            Self::Told => 1,
            Self::Says => 2,
            Self::Asks => 3,
        }
    }
}

/// The memory.
pub(crate) struct Board {
    file: OwnedFd,
    window: Window,
    used: Vec<bool>,
}

/// It is not that of a server of this version.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoBoard {
    #[error("memory that is kept: {0}")]
    Memory(#[from] Refusal),
    #[error("memory that is kept: {0}")]
    System(#[from] Errno),
}

impl Board {
    /// An empty one.
    pub(crate) fn new() -> Result<Self, NoBoard> {
        Self::of(made_of_zeroes("nvme-board", LEN as u64)?)
    }

    /// That of the server before.
    pub(crate) fn of(file: OwnedFd) -> Result<Self, NoBoard> {
        let again = rustix::io::fcntl_dupfd_cloexec(&file, 0)?;
        let window = MemoryFile::open(again, &Trusted::default())?.map(0, LEN as u64)?;
        Ok(Self { file, window, used: vec![false; SESSIONS] })
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn at(slot: u32) -> Option<usize> {
        usize::try_from(slot).ok().filter(|slot| *slot < SESSIONS).map(|slot| SLOTS + SLOT * slot)
    }

    /// A place for a session. It is nobody's until its state is set.
    pub(crate) fn take(&mut self, number: u64) -> Option<u32> {
        let slot = self.used.iter().position(|used| !used)?;
        *self.used.get_mut(slot)? = true;
        let slot = u32::try_from(slot).ok()?;
        self.set(slot, State::Gone);
        let _ = self.window.write_value(Self::at(slot)?, &number.to_le());
        Some(slot)
    }

    /// The place that a session had already. `None`: it is another's.
    pub(crate) fn take_again(&mut self, slot: u32, number: u64) -> Option<State> {
        let at = Self::at(slot)?;
        let used = self.used.get_mut(usize::try_from(slot).ok()?)?;
        let known: u64 = self.window.read_value(at).ok()?;
        if *used || u64::from_le(known) != number {
            return None;
        }
        *used = true;
        Some(match self.window.load16(at + STATE).ok()? {
            1 => State::Told,
            2 => State::Says,
            3 => State::Asks,
            _ => State::Gone,
        })
    }

    /// The place that a session had on the board of the server before. `false`: it is another's.
    pub(crate) fn take_at(&mut self, slot: u32, number: u64, state: State) -> bool {
        let used = usize::try_from(slot).ok().and_then(|slot| self.used.get_mut(slot));
        let Some((used, at)) = used.filter(|used| !**used).zip(Self::at(slot)) else { return false };
        *used = true;
        let _ = self.window.write_value(at, &number.to_le());
        self.set(slot, state);
        true
    }

    /// Whether a session's document tells all.
    pub(crate) fn is_told(&self, slot: u32) -> bool {
        Self::at(slot).and_then(|at| self.window.load16(at + STATE).ok()) == Some(State::Told.number())
    }

    /// Nobody has it any more.
    pub(crate) fn give_back(&mut self, slot: u32) {
        self.set(slot, State::Gone);
        if let Some(used) = usize::try_from(slot).ok().and_then(|slot| self.used.get_mut(slot)) {
            *used = false;
        }
    }

    pub(crate) fn set(&self, slot: u32, state: State) {
        if let Some(at) = Self::at(slot) {
            // In bounds.
            let _ = self.window.store16(at + STATE, state.number());
        }
    }

    /// All places that no session of the server before claimed are free, and say so.
    pub(crate) fn settle(&self) {
        for (slot, used) in (0..).zip(&self.used) {
            if !used {
                self.set(slot, State::Gone);
            }
        }
    }

    /// Nobody has a place, and all say so.
    pub(crate) fn clear(&mut self) {
        self.used.fill(false);
        self.settle();
    }

    /// Where a thread says whose turn it is.
    pub(crate) fn turn_of(&self, thread: usize) -> Option<Window> {
        (thread < PLACES).then(|| self.window.sub(THREADS + PLACE * thread, PLACE).ok()).flatten()
    }

    /// In whose turns the server before crashed. It is forgotten.
    pub(crate) fn crashed(&self) -> Vec<u64> {
        let places = (0..PLACES).filter_map(|thread| self.turn_of(thread));
        let crashed = places.filter_map(|place| {
            let session: u64 = place.read_value(0).ok()?;
            let marked = place.load16(STATE).is_ok_and(|mark| mark != 0);
            let _ = place.fill(0, PLACE, 0);
            (marked && session != 0).then_some(u64::from_le(session))
        });
        crashed.collect()
    }

    /// Where the error of an image's write-back is kept.
    pub(crate) fn loss(&self, image: usize) -> Option<Window> {
        (image < IMAGES).then(|| self.window.sub(2 * image, 2).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_there_for_the_next_and_a_place_is_one_session_s() {
        let mut board = Board::new().unwrap();
        let (one, two) = (board.take(7).unwrap(), board.take(8).unwrap());
        assert_ne!(one, two);
        board.set(one, State::Told);
        board.set(two, State::Says);
        board.loss(3).unwrap().store16(0, 5).unwrap();
        for (thread, mark) in [(1, 0), (2, 1), (127, 1)] {
            board.turn_of(thread).unwrap().write_value(0, &(thread as u64).to_le()).unwrap();
            board.turn_of(thread).unwrap().store16(STATE, mark).unwrap();
        }
        let again = rustix::io::fcntl_dupfd_cloexec(&board.file, 0).unwrap();
        drop(board);
        let mut board = Board::of(again).unwrap();
        assert_eq!(board.loss(3).unwrap().load16(0).unwrap(), 5);
        assert_eq!((board.crashed(), board.crashed()), (vec![2, 127], vec![]));
        assert_eq!(board.take_again(one, 8), None, "it is another's");
        assert_eq!(
            (board.take_again(one, 7), board.take_again(two, 8)),
            (Some(State::Told), Some(State::Says))
        );
        assert_eq!(board.take_again(one, 7), None, "it has it already");
        board.give_back(one);
        assert_eq!(board.take_again(one, 7), Some(State::Gone), "it has ended");
        board.settle();
        assert!(board.take_again(SESSIONS as u32, 0).is_none() && board.loss(IMAGES).is_none());
        assert_eq!((0..SESSIONS).filter(|n| board.take(*n as u64).is_some()).count(), SESSIONS - 2);
    }

    #[test]
    fn other_memory_is_no_board() {
        let mut board = Board::new().unwrap();
        assert!(board.take_at(7, 3, State::Told) && !board.take_at(7, 4, State::Told));
        assert!(!board.take_at(SESSIONS as u32, 5, State::Told), "there is no such place");
        assert!(board.take_at(8, 4, State::Says));
        assert_eq!((board.is_told(7), board.is_told(8)), (true, false));
        let short = made_of_zeroes("short", 100).unwrap();
        assert!(matches!(Board::of(short), Err(NoBoard::Memory(_))));
    }
}
