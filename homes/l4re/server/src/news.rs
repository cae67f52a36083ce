//! Whose used ring has news: the worker says so in the midst of a pass, and the kernel is asked to raise interrupts after it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nvme_platform::Notify;

/// What there is.
pub(crate) struct News(Arc<Board>);

struct Board {
    /// Whether any bit may be set: most passes have no news.
    any: AtomicBool,
    /// One bit for each place of a session.
    words: Box<[AtomicU64]>,
}

impl News {
    /// For so many places.
    pub(crate) fn new(places: usize) -> Self {
        let words = (0..places.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Board { any: AtomicBool::new(false), words }))
    }

    /// What the worker tells the driver of the queue at that place by.
    pub(crate) fn of(&self, place: usize) -> Box<dyn Notify> {
        Box::new(Bit { board: Arc::clone(&self.0), word: place / 64, bit: 1 << (place % 64) })
    }

    /// Takes the places that have news.
    #[inline]
    pub(crate) fn take(&self, mut each: impl FnMut(usize)) {
        if !self.0.any.load(Ordering::Relaxed) {
            return;
        }
        // Before the bits are looked at: what is set meanwhile says so again. Acquire: whoever said so has set its bit.
        self.0.any.swap(false, Ordering::Acquire);
        for (at, word) in self.0.words.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // Acquire: what the worker published before it said so is published for whoever is told.
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                each(at * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}

struct Bit {
    board: Arc<Board>,
    word: usize,
    bit: u64,
}

impl Notify for Bit {
    fn used(&self) {
        if let Some(word) = self.board.words.get(self.word) {
            word.fetch_or(self.bit, Ordering::Release);
            self.board.any.store(true, Ordering::Release);
        }
    }

    /// Control says so too, and the session acts on that.
    fn broken(&self) {}
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn news_are_told_once_and_by_place() {
        let news = News::new(130);
        let bits: Vec<_> = [129, 0, 63, 64].map(|place| news.of(place)).into();
        bits.iter().for_each(|bit| bit.used());
        bits[0].used();
        let mut told = Vec::new();
        news.take(|place| told.push(place));
        assert_eq!(told, [0, 63, 64, 129]);
        news.take(|place| panic!("{place} again"));
    }
}
