//! Who keeps a window's memory alive, and whether that memory is still what it was.

use alloc::boxed::Box;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

/// The owner of mapped memory. Dropping the last reference to it drops `resource`, which unmaps.
pub struct Owner {
    failed: AtomicBool,
    resource: Option<Box<dyn Any + Send + Sync>>,
}

impl Owner {
    /// Wraps whatever unmaps the memory when it is dropped.
    pub fn new(resource: Box<dyn Any + Send + Sync>) -> Self {
        Self { failed: AtomicBool::new(false), resource: Some(resource) }
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
