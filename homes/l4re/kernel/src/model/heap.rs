//! An allocator that counts.
#![expect(unsafe_code, reason = "is an allocator")]

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicU64, Ordering};

/// Counts what another allocator is asked for: memory, or more of it.
pub struct Counting<A> {
    heap: A,
    asked: AtomicU64,
}

impl<A> Counting<A> {
    /// Counts for that one.
    pub const fn new(heap: A) -> Self {
        Self { heap, asked: AtomicU64::new(0) }
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

// SAFETY: all that is asked is passed on, and what is answered comes from there.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.asked.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.heap.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; it came from there.
        unsafe { self.heap.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.asked.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.heap.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.asked.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise; it came from there.
        unsafe { self.heap.realloc(at, layout, size) }
    }
}
