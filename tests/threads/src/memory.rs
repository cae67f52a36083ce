//! In the place of `homes/linux/kernel/src/memory`.

use std::ptr;

#[path = "../../../homes/linux/kernel/src/memory/entries.rs"]
mod entries;
#[path = "../../../homes/linux/kernel/src/memory/range.rs"]
mod range;
mod faults {
    /// Of no use in a model.
    pub(crate) struct Faults;
}
mod sync {
    pub(super) use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
    pub(super) use loom::thread::yield_now;
}

use entries::{Entry, Table};
use range::Range;
use sync::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Mutex};

/// A table with room for `N` windows, each of which is `LEN` bytes at a multiple of that.
pub(crate) struct Windows<const N: usize>(Table<N>);

const LEN: usize = 4096;

impl<const N: usize> Windows<N> {
    pub(crate) fn new() -> Self {
        let entries = std::array::from_fn(|_| Entry {
            version: AtomicU64::new(0),
            base: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            block: AtomicU32::new(0),
            writable: AtomicBool::new(false),
            owner: AtomicPtr::new(ptr::null_mut()),
            faults: AtomicPtr::new(ptr::null_mut()),
        });
        let free = Mutex::new(Vec::new());
        Self(Table { entries, used: AtomicUsize::new(0), handlers: AtomicUsize::new(0), free })
    }

    /// Enters window `number`, whose owner is told from others by its address.
    pub(crate) fn enter(&self, number: usize, owner: usize) -> Option<usize> {
        let range = Range { base: number * LEN, len: LEN, block: LEN, writable: true };
        self.0.enter(range, ptr::without_provenance_mut(owner), ptr::null_mut())
    }

    /// Takes it out.
    pub(crate) fn clear(&self, index: usize) {
        self.0.clear(index);
    }

    pub(crate) fn give_back(&self, index: usize) {
        self.0.give_back(index);
    }

    /// As a handler, with a fault in window `number`: `act` learns the owner.
    pub(crate) fn fault(&self, number: usize, act: impl FnOnce(usize)) -> bool {
        self.0.with(number * LEN + 5, |_, found| {
            assert!(found.range.base == number * LEN && found.range.len == LEN, "parts of two entries");
            act(found.owner.addr());
            true
        })
    }
}
