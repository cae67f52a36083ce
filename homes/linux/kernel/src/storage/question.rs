//! How large an image is, where its storage has to be asked and takes what time it likes.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A question that somebody else asks than who wants to know.
#[derive(Default)]
pub struct Question {
    /// How often somebody wished that it be asked since it was last answered.
    wishes: AtomicU32,
    answered: AtomicBool,
}

impl Question {
    /// It is to be asked. False: it is being asked, and will be once more.
    pub(super) fn begin(&self) -> bool {
        self.wishes.fetch_add(1, Ordering::AcqRel) == 0
    }

    /// Asks until the answer is to a question that is not older than anybody's wish.
    pub(super) fn ask(&self, ask: impl Fn()) {
        loop {
            let wishes = self.wishes.load(Ordering::Acquire);
            ask();
            self.answered.store(true, Ordering::Release);
            if self.wishes.compare_exchange(wishes, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return;
            }
        }
    }

    /// Whether the answer is still to come.
    pub fn is_open(&self) -> bool {
        self.wishes.load(Ordering::Acquire) > 0
    }

    /// Whether an answer has come since this was asked last. There is one when [`is_open`](Self::is_open) has become false.
    pub fn take_answer(&self) -> bool {
        self.answered.swap(false, Ordering::AcqRel)
    }
}
