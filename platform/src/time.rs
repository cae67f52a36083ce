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
