//! Who keeps a window's memory alive, and whether that memory is still what it was.

use alloc::boxed::Box;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
#[cfg(debug_assertions)]
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};

/// The owner of mapped memory. Dropping the last reference to it drops `resource`, which unmaps.
pub struct Owner {
    failed: AtomicBool,
    /// So many stores are made still ([`limit`](Self::limit)).
    #[cfg(debug_assertions)]
    left: AtomicU32,
    /// Eight bytes that become others once they were read ([`Window::change_once_read`](crate::Window::change_once_read)); null: none.
    #[cfg(debug_assertions)]
    changes: AtomicPtr<u8>,
    #[cfg(debug_assertions)]
    becomes: AtomicU64,
    resource: Option<Box<dyn Any + Send + Sync>>,
}

impl Owner {
    /// Wraps whatever unmaps the memory when it is dropped.
    pub fn new(resource: Box<dyn Any + Send + Sync>) -> Self {
        Self {
            failed: AtomicBool::new(false),
            #[cfg(debug_assertions)]
            left: AtomicU32::new(u32::MAX),
            #[cfg(debug_assertions)]
            changes: AtomicPtr::new(core::ptr::null_mut()),
            #[cfg(debug_assertions)]
            becomes: AtomicU64::new(0),
            resource: Some(resource),
        }
    }

    /// For tests, and only in builds that assert: so many stores of ours are made from now on, and none afterwards, as if this process had
    /// ended there. [`u32::MAX`]: all. A copy counts as one, what is copied from window to window not at all.
    #[cfg(debug_assertions)]
    pub fn limit(&self, stores: u32) {
        self.left.store(stores, Ordering::SeqCst);
    }

    /// How many are left.
    #[cfg(debug_assertions)]
    pub fn left(&self) -> u32 {
        self.left.load(Ordering::SeqCst)
    }

    /// The eight bytes there, which are mapped, are to become others.
    #[cfg(debug_assertions)]
    pub(crate) fn change(&self, at: *mut u8, to: u64) {
        self.becomes.store(to, Ordering::SeqCst);
        self.changes.store(at, Ordering::SeqCst);
    }

    /// Whether the first of the bytes that are to become others is among these, which were just read: where they are, and what they become.
    #[cfg(debug_assertions)]
    #[inline]
    pub(crate) fn changed_by(&self, from: *const u8, len: usize) -> Option<(*mut u8, u64)> {
        let at = self.changes.load(Ordering::Relaxed);
        let read = from.addr()..from.addr() + len;
        if at.is_null() || !read.contains(&at.addr()) {
            return None;
        }
        self.changes.store(core::ptr::null_mut(), Ordering::SeqCst);
        Some((at, self.becomes.load(Ordering::SeqCst)))
    }

    /// Whether the store that comes now is not to be made.
    #[cfg(debug_assertions)]
    pub(crate) fn is_spent(&self) -> bool {
        match self.left() {
            0 => true,
            u32::MAX => false,
            left => {
                self.limit(left - 1);
                false
            }
        }
    }

    /// Whether the store that comes now is not to be made: never, in other builds.
    #[cfg(not(debug_assertions))]
    #[expect(clippy::unused_self, reason = "as in builds that assert")]
    #[inline(always)]
    pub(crate) const fn is_spent(&self) -> bool {
        false
    }

    /// Says that the memory behind this owner vanished and reads as something else now (zeroes, as a rule).
    /// Async-signal-safe.
    pub fn fail(&self) {
        // Release: whoever sees the flag also sees that the replacement is mapped.
        self.failed.store(true, Ordering::Release);
    }

    /// Whether the memory vanished. To be asked after the bytes were copied, before they are believed.
    #[inline]
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// The resource given to [`Owner::new`].
    pub fn resource(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.resource.as_deref()
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").field("failed", &self.failed).finish_non_exhaustive()
    }
}
