//! Whose used ring has news: the worker says so in the midst of a pass, and the kernel is asked to raise interrupts after it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use nvme_platform::Notify;

/// One bit for each place of a session.
pub(crate) struct News(Arc<[AtomicU64]>);

impl News {
    /// For so many places.
    pub(crate) fn new(places: usize) -> Self {
        Self((0..places.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// What the worker tells the driver of the queue at that place by.
    pub(crate) fn of(&self, place: usize) -> Box<dyn Notify> {
        Box::new(Bit { news: Arc::clone(&self.0), word: place / 64, bit: 1 << (place % 64) })
    }

    /// Takes the places that have news.
    #[inline]
    pub(crate) fn take(&self, mut each: impl FnMut(usize)) {
        for (at, word) in self.0.iter().enumerate() {
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
    news: Arc<[AtomicU64]>,
    word: usize,
    bit: u64,
}

impl Notify for Bit {
    fn used(&self) {
        if let Some(word) = self.news.get(self.word) {
            word.fetch_or(self.bit, Ordering::Release);
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
