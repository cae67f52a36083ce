//! The place of one request: several may write, and several read, and nobody waits.

use core::array;

use super::sync::{AtomicU64, Ordering, fence};

/// So many words.
pub(super) struct Place<const WORDS: usize> {
    /// How often it was written, twice; odd while it is.
    turn: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> Place<WORDS> {
    /// Nobody has written there.
    pub(super) fn new() -> Self {
        Self { turn: AtomicU64::new(0), words: array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Writes there, unless somebody else does just now.
    pub(super) fn write(&self, words: [u64; WORDS]) {
        let turn = self.turn.load(Ordering::Relaxed);
        let begun = turn.wrapping_add(1);
        // Acquire, so that nothing is written before the place is ours.
        if !turn.is_multiple_of(2)
            || self.turn.compare_exchange(turn, begun, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return;
        }
        // Whoever reads one of the words that follow sees that somebody writes.
        fence(Ordering::Release);
        for (to, word) in self.words.iter().zip(words) {
            to.store(word, Ordering::Relaxed);
        }
        self.turn.store(begun.wrapping_add(1), Ordering::Release);
    }

    /// What was written last, if nobody writes.
    pub(super) fn read(&self) -> Option<[u64; WORDS]> {
        let before = self.turn.load(Ordering::Acquire);
        let words = array::from_fn(|at| self.words.get(at).map_or(0, |word| word.load(Ordering::Relaxed)));
        // The words were read before the turn is read again.
        fence(Ordering::Acquire);
        (before != 0 && before.is_multiple_of(2) && self.turn.load(Ordering::Relaxed) == before)
            .then_some(words)
    }
}
