//! Time, as a value.

use core::ops::{Add, Sub};
use core::time::Duration;

/// Nanoseconds on a clock that never goes back. The home reads the clock; the core only compares.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time(u64);

impl Time {
    /// A point in time, in nanoseconds since any fixed moment.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's zero.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

/// What a thread that works for others reads the time from.
pub trait Clock {
    /// The time. Cheap: it is read once for each turn of a session.
    fn now(&self) -> Time;

    /// For how long the calling thread could have run, all in all, and did not, because the processor had other programs to run.
    /// What it waited for itself is not in it. Never goes back. This may cost a system call, and is asked seldom. A home that
    /// does not know says nothing.
    fn preempted(&self) -> Duration {
        Duration::ZERO
    }

    /// How often memory that the calling thread touched had to be brought first, as it was when [`preempted`](Self::preempted) was
    /// asked last. Never goes back. A home whose memory is always there says nothing.
    fn faults(&self) -> u64 {
        0
    }
}

impl<F: Fn() -> Time> Clock for F {
    fn now(&self) -> Time {
        self()
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    #[inline]
    fn add(self, later: Duration) -> Time {
        let nanos = later.as_secs().saturating_mul(1_000_000_000);
        Time(self.0.saturating_add(nanos).saturating_add(later.subsec_nanos().into()))
    }
}

impl Sub for Time {
    type Output = Duration;

    /// How much later `self` is; zero when it is earlier.
    fn sub(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
