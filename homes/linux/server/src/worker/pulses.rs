//! What others see of a worker while it works.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nvme_core::server::worker::Waits;

use super::times::Times;

/// What others see of a worker while it works.
#[derive(Clone, Default)]
pub(super) struct Pulses {
    /// The longest time from seeing a kick to taking what it was for, in nanoseconds.
    longest_wait: Arc<AtomicU64>,
    /// The same of those that no long turn fell upon, and how many of these there were.
    otherwise: Arc<AtomicU64>,
    long_turns: Arc<AtomicU64>,
    /// How long it went round since it last looked for kicks, at most, before the round in which it looked again.
    pub(super) longest_unseen: Arc<AtomicU64>,
    /// How often it went round, twice; odd while it sleeps.
    pub(super) pulse: Arc<AtomicU64>,
    pub(super) times: Arc<Times>,
}

impl Pulses {
    pub(super) fn waited(&self, waits: &Waits) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.longest_wait.store(nanos(waits.longest), Ordering::Relaxed);
        self.otherwise.store(nanos(waits.otherwise), Ordering::Relaxed);
        self.long_turns.store(waits.long_turns.into(), Ordering::Relaxed);
    }

    pub(super) fn waits(&self) -> (Duration, Duration, u64) {
        let time = |nanos: &AtomicU64| Duration::from_nanos(nanos.load(Ordering::Relaxed));
        (time(&self.longest_wait), time(&self.otherwise), self.long_turns.load(Ordering::Relaxed))
    }
}
