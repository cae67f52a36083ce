//! In the place of `homes/linux/kernel/src/frames`.

#[path = "../../../homes/linux/kernel/src/frames/ring.rs"]
mod ring;
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
}

/// A ring, as its writer and its reader have it.
#[derive(Debug)]
pub(crate) struct Ring(ring::Ring);

impl Ring {
    pub(crate) fn new(capacity: usize) -> Self {
        Self(ring::Ring::new(capacity))
    }

    pub(crate) fn push(&self, frame: &[u8]) {
        self.0.push(frame);
    }

    pub(crate) fn pop(&self, into: &mut [u8]) -> usize {
        self.0.pop(into)
    }

    pub(crate) fn take_lost(&self) -> u64 {
        self.0.take_lost()
    }
}
