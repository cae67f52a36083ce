//! This thread's UTCB: message registers, buffer registers, error code.
#![expect(unsafe_code, reason = "the UTCB is memory that the kernel shares with this thread")]

use core::marker::PhantomData;

use super::arch;
use super::types::l4_umword_t;

/// Message registers.
pub(super) const WORDS: usize = 63;
/// Where the buffer descriptor is; the buffer registers follow.
const BUFFERS: usize = 64;
const BUFFERS_LAST: usize = 122;
/// Where the error code is.
const ERROR: usize = 123;

/// The UTCB of the thread that asked for it. Any message overwrites it: what is to be kept is copied out.
#[derive(Clone, Copy)]
pub(super) struct l4_utcb_t {
    base: *mut l4_umword_t,
    thread: PhantomData<*mut ()>,
}

/// This thread's.
#[inline]
pub(super) fn l4_utcb() -> l4_utcb_t {
    l4_utcb_t { base: arch::utcb(), thread: PhantomData }
}

impl l4_utcb_t {
    #[inline]
    fn get(self, word: usize) -> l4_umword_t {
        debug_assert!(word <= ERROR);
        // SAFETY: the UTCB is mapped as long as its thread lives, has more words than this, and is used by this thread alone,
        // word by word.
        unsafe { self.base.wrapping_add(word).read_volatile() }
    }

    #[inline]
    fn set(self, word: usize, value: l4_umword_t) {
        debug_assert!(word <= ERROR);
        // SAFETY: as in `get`.
        unsafe { self.base.wrapping_add(word).write_volatile(value) }
    }

    /// Message register `at`; zero beyond the last.
    #[inline]
    pub(super) fn mr(self, at: usize) -> l4_umword_t {
        if at < WORDS { self.get(at) } else { 0 }
    }

    /// Sets message register `at`; nothing beyond the last.
    #[inline]
    pub(super) fn set_mr(self, at: usize, value: l4_umword_t) {
        if at < WORDS {
            self.set(at, value);
        }
    }

    /// Sets the first message registers.
    #[inline]
    pub(super) fn set_mrs(self, values: &[l4_umword_t]) {
        for (at, value) in values.iter().enumerate() {
            self.set_mr(at, *value);
        }
    }

    /// Where to look in the buffer registers for each kind of item.
    #[inline]
    pub(super) fn set_bdr(self, value: l4_umword_t) {
        self.set(BUFFERS, value);
    }

    /// Sets buffer register `at`.
    #[inline]
    pub(super) fn set_br(self, at: usize, value: l4_umword_t) {
        if at < BUFFERS_LAST - BUFFERS {
            self.set(BUFFERS + 1 + at, value);
        }
    }

    /// Why the last message was not delivered.
    #[inline]
    pub(super) fn error(self) -> l4_umword_t {
        self.get(ERROR) & 0x1f
    }
}
