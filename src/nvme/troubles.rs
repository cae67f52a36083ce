//! What went wrong with a controller, counted: by itself and by all of its pairs, on whatever workers these are.
//!
//! Nothing of it happens often, so these are shared counters, unlike those of what goes well.

use core::sync::atomic::{AtomicU64, Ordering};

/// One of the counts.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// One more.
    #[cold]
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one controller.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    pub(super) failed: Count,
    pub(super) repeated: Count,
    pub(super) late: Count,
    pub(super) aborts: Count,
    pub(super) resets: Count,
    pub(super) dropped: Count,
}

impl Troubles {
    /// What was counted so far.
    pub(super) fn read(&self) -> Troubled {
        Troubled {
            failed: self.failed.get(),
            repeated: self.repeated.get(),
            late: self.late.get(),
            aborts: self.aborts.get(),
            resets: self.resets.get(),
            dropped: self.dropped.get(),
        }
    }
}

/// What went wrong with a controller so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Troubled {
    /// Commands of sessions that it failed for good.
    pub failed: u64,
    /// Those that it failed for the moment, and that were tried again.
    pub repeated: u64,
    /// How often the deadline of a command passed; one that never ends has another, and another.
    pub late: u64,
    /// How often it was asked to abort one.
    pub aborts: u64,
    /// How often it was reset.
    pub resets: u64,
    /// Completions that belong to no command in flight, and were dropped.
    pub dropped: u64,
}
