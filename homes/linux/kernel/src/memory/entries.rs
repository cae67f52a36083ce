//! The table of windows that the handler of SIGBUS looks into: who enters and clears entries takes a lock, handlers never do.
//!
//! Stepped through every order of its accesses by `tests/threads`.

use std::ptr;
use std::sync::PoisonError;

use nvme_mem::Owner;

use super::faults::Faults;
use super::range::Range;
use super::sync::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering, fence, yield_now,
};

pub(super) struct Entry {
    /// Odd while the entry changes.
    pub(super) version: AtomicU64,
    pub(super) base: AtomicUsize,
    /// 0: free.
    pub(super) len: AtomicUsize,
    /// The size of its pages, as a power of two.
    pub(super) block: AtomicU32,
    pub(super) writable: AtomicBool,
    pub(super) owner: AtomicPtr<Owner>,
    /// Null: the window fails.
    pub(super) faults: AtomicPtr<Faults>,
}

/// Entries in use are below `used`.
pub(super) struct Table<const N: usize> {
    pub(super) entries: [Entry; N],
    pub(super) used: AtomicUsize,
    /// Handlers that run now.
    pub(super) handlers: AtomicUsize,
    /// Entries below `used` that are free. Handlers do not look here.
    pub(super) free: Mutex<Vec<usize>>,
}

#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) range: Range,
    pub(super) owner: *mut Owner,
    pub(super) faults: *mut Faults,
}

const NOTHING: Range = Range { base: 0, len: 0, block: 0, writable: false };

impl Entry {
    fn set(&self, range: Range, owner: *mut Owner, faults: *mut Faults) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Whoever sees any of the new fields also sees the odd version.
        fence(Ordering::Release);
        self.base.store(range.base, Ordering::Relaxed);
        self.len.store(range.len, Ordering::Relaxed);
        self.block.store(range.block.checked_ilog2().unwrap_or(0), Ordering::Relaxed);
        self.writable.store(range.writable, Ordering::Relaxed);
        self.owner.store(owner, Ordering::Relaxed);
        self.faults.store(faults, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The window, if it holds `address` and did not change meanwhile.
    fn holding(&self, address: usize) -> Option<Found> {
        let version = self.version.load(Ordering::Acquire);
        let base = self.base.load(Ordering::Relaxed);
        let len = self.len.load(Ordering::Relaxed);
        let block = 1usize.checked_shl(self.block.load(Ordering::Relaxed)).unwrap_or(0);
        let writable = self.writable.load(Ordering::Relaxed);
        let owner = self.owner.load(Ordering::Relaxed);
        let faults = self.faults.load(Ordering::Relaxed);
        // The fields are read before the version is read again.
        fence(Ordering::Acquire);
        let stable = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        (stable && address.wrapping_sub(base) < len).then_some(Found {
            range: Range { base, len, block, writable },
            owner,
            faults,
        })
    }
}

impl<const N: usize> Table<N> {
    /// Enters a window. `None`: the table is full.
    pub(super) fn enter(&self, range: Range, owner: *mut Owner, faults: *mut Faults) -> Option<usize> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let used = self.used.load(Ordering::Relaxed);
        let index = free.pop().unwrap_or(used);
        self.entries.get(index)?.set(range, owner, faults);
        if index == used {
            // After the entry: a handler that looks at it finds it filled.
            self.used.store(used + 1, Ordering::Release);
        }
        Some(index)
    }

    /// Clears an entry. Every handler that might have read it has returned by then.
    pub(super) fn clear(&self, index: usize) {
        let Some(entry) = self.entries.get(index) else { return };
        entry.set(NOTHING, ptr::null_mut(), ptr::null_mut());
        // Either a handler that starts from here on sees the cleared entry, or we see the handler.
        fence(Ordering::SeqCst);
        while self.handlers.load(Ordering::SeqCst) != 0 {
            // A handler takes some microseconds; it waits for nobody.
            yield_now();
        }
    }

    /// An entry that was cleared may be used for another window.
    pub(super) fn give_back(&self, index: usize) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(index);
    }

    /// By a handler: does something with the window that holds an address, which stays until that is done. False: there is none.
    pub(super) fn with(&self, address: usize, act: impl FnOnce(usize, Found) -> bool) -> bool {
        self.handlers.fetch_add(1, Ordering::SeqCst);
        // Pairs with the fence in `clear`.
        fence(Ordering::SeqCst);
        let used = self.used.load(Ordering::Acquire).min(N);
        let mut entries = self.entries.iter().take(used).enumerate();
        let found = entries.find_map(|(index, entry)| Some((index, entry.holding(address)?)));
        let done = found.is_some_and(|(index, found)| act(index, found));
        self.handlers.fetch_sub(1, Ordering::SeqCst);
        done
    }
}
