//! A token bucket: so much a second, and what was not used of the last [`BURST`].
//!
//! It is kept as a time: until when what was taken is paid for. Whoever finds that time passed may take, whatever that comes to, and
//! moves it on by what it was; whoever finds it ahead waits until then. So one request at a time is taken on credit, since what it comes to
//! is known only when it was looked at, and nothing is ever taken on top of a debt. Time that was not used counts for
//! [`BURST`] at most.
//!
//! Several threads may take from one bucket. Each may find it free at the same moment, so the credit is one request for each of them.

use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU64, Ordering};

/// How much of the time that was not used may be made up for, in nanoseconds.
pub const BURST: u64 = 100_000_000;

/// Parts of a nanosecond in which it is counted: what one unit costs is rounded up to one of them.
pub(crate) const PARTS: u64 = 16;
pub(crate) const SECOND: u128 = 1_000_000_000 * PARTS as u128;

/// A token bucket. Times are nanoseconds on one clock that never goes back.
#[derive(Debug, Default)]
pub struct Bucket {
    /// Units a second; 0: any number.
    rate: AtomicU64,
    /// Until when what was taken is paid for, in parts of nanoseconds.
    paid: AtomicU64,
}

impl Bucket {
    /// A bucket of so many units a second, full; `None`: of any number.
    pub fn new(rate: Option<NonZeroU64>) -> Self {
        Self { rate: AtomicU64::new(rate.map_or(0, NonZeroU64::get)), paid: AtomicU64::new(0) }
    }

    /// Units a second.
    pub fn rate(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.rate.load(Ordering::Relaxed))
    }

    /// So many units a second from now on. What is owed at the old rate is forgiven.
    pub fn set_rate(&self, rate: Option<NonZeroU64>) {
        self.rate.store(rate.map_or(0, NonZeroU64::get), Ordering::Relaxed);
        self.paid.store(0, Ordering::Relaxed);
    }

    /// How many units may be taken now, the last of them on credit; at least one. Or when the next may.
    pub fn may(&self, now: u64) -> Result<u64, u64> {
        let Some(rate) = self.rate() else { return Ok(u64::MAX) };
        let (at, paid) = (now.saturating_mul(PARTS), self.paid.load(Ordering::Relaxed));
        if paid > at {
            return Err(paid.div_ceil(PARTS));
        }
        let unused = u128::from((at - paid).min(BURST * PARTS));
        let units = unused * u128::from(rate.get()) / SECOND + 1;
        Ok(u64::try_from(units).unwrap_or(u64::MAX))
    }

    /// Until when what was taken is paid for, in parts of nanoseconds.
    pub(crate) fn paid(&self) -> u64 {
        self.paid.load(Ordering::Relaxed)
    }

    /// So many units were taken.
    pub fn take(&self, units: u64, now: u64) {
        let Some(rate) = self.rate() else { return };
        let cost = (u128::from(units) * SECOND).div_ceil(u128::from(rate.get()));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let oldest = now.saturating_sub(BURST).saturating_mul(PARTS);
        let next = |paid: u64| Some(paid.max(oldest).saturating_add(cost));
        // Relaxed: no other memory depends on it. It never fails, since there is always a next.
        let _ = self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const NANOS: u64 = 1_000_000_000;

    fn bucket(rate: u64) -> Bucket {
        Bucket::new(NonZeroU64::new(rate))
    }

    #[test]
    fn a_bucket_without_a_rate_holds_nobody_back() {
        let free = bucket(0);
        free.take(u64::MAX, 5);
        assert_eq!(free.may(0), Ok(u64::MAX));
    }

    #[test]
    fn one_request_is_taken_on_credit_and_the_next_waits_for_it() {
        let bucket = bucket(1000);
        let start = 7 * NANOS;
        // 100 ms were not used, whatever was not used before.
        assert_eq!(bucket.may(start), Ok(101));
        bucket.take(101, start);
        assert_eq!(bucket.may(start), Err(start + 1_000_000));
        assert_eq!(bucket.may(start + 1_000_000), Ok(1));
        bucket.take(5000, start + 1_000_000);
        assert_eq!(bucket.may(start + 2_000_000), Err(start + 5_001_000_000));
    }

    #[test]
    fn a_new_rate_begins_without_a_debt() {
        let bucket = bucket(1);
        bucket.take(3600, NANOS);
        assert!(bucket.may(2 * NANOS).is_err());
        bucket.set_rate(NonZeroU64::new(10));
        assert_eq!(bucket.may(2 * NANOS), Ok(2));
        bucket.set_rate(None);
        assert_eq!((bucket.may(2 * NANOS), bucket.rate()), (Ok(u64::MAX), None));
    }

    /// Somebody who takes as much as it may, in requests of these sizes, looking again whenever it was told to, or these times later. How much
    /// it took by when it stopped.
    fn greedy(bucket: &Bucket, sizes: &[u64], late: &[u64], start: u64, end: u64) -> (u64, u64) {
        let (mut now, mut taken, mut requests) = (start, 0_u64, 0_u64);
        let mut sizes = sizes.iter().cycle();
        let mut late = late.iter().cycle();
        // Bounded, however fast the bucket is.
        while now < end && requests < 20_000 {
            match bucket.may(now) {
                Ok(_) => {
                    let size = *sizes.next().unwrap_or(&1);
                    bucket.take(size, now);
                    taken = taken.saturating_add(size);
                    requests += 1;
                }
                Err(until) => now = until + late.next().unwrap_or(&0),
            }
        }
        (taken, now - start)
    }

    proptest! {
        /// Over any time, the rate, one burst, and one request.
        #[test]
        fn never_more_than_the_rate_a_burst_and_one_request(
            rate in prop_oneof![1_u64..100, 100_u64..1_000_000, 1_000_000_u64..10_000_000_000],
            sizes in proptest::collection::vec(1_u64..5_000_000, 1..8),
            late in proptest::collection::vec(0_u64..3_000_000, 1..8),
            start in 0_u64..1 << 58,
        ) {
            let bucket = bucket(rate);
            let (taken, time) = greedy(&bucket, &sizes, &late, start, start + 20 * NANOS);
            let most = u128::from(rate) * u128::from(time + BURST) / u128::from(NANOS);
            prop_assert!(u128::from(taken) <= most + u128::from(*sizes.iter().max().unwrap()) + 1);
        }

        /// Whoever always has something to take, and is never later than a burst is long, gets the rate, to the time that one request costs.
        #[test]
        fn whoever_always_wants_something_gets_the_rate(
            rate in prop_oneof![1_u64..100, 100_u64..1_000_000, 1_000_000_u64..10_000_000_000],
            requests in proptest::collection::vec(1_u64..100, 1..8),
            late in proptest::collection::vec(0_u64..3_000_000, 1..8),
            start in 0_u64..1 << 58,
        ) {
            let bucket = bucket(rate);
            // A request is something that takes a microsecond at least.
            let sizes: Vec<u64> = requests.iter().map(|n| n * (rate / 1_000_000).max(1)).collect();
            let (taken, time) = greedy(&bucket, &sizes, &late, start, start + 20 * NANOS);
            let largest = *sizes.iter().max().unwrap();
            // 16 parts of a nanosecond: what is lost by rounding is less than one in ten thousand.
            let owed = u128::from(rate) * u128::from(time) / u128::from(NANOS) * 9_999 / 10_000;
            let in_hand = u128::from(rate) * 3_000_000 / u128::from(NANOS);
            prop_assert!(u128::from(taken) + u128::from(largest) + in_hand + 1 >= owed, "{taken} {owed}");
        }

        /// Nobody waits for longer than what it took costs.
        #[test]
        fn a_debt_is_what_was_taken(rate in 1_u64..1 << 40, size in 1_u64..1 << 32, now in 0_u64..1 << 58) {
            let bucket = bucket(rate);
            bucket.take(size, now);
            let cost = u64::try_from(u128::from(size) * u128::from(NANOS) / u128::from(rate)).unwrap_or(u64::MAX);
            match bucket.may(now) {
                Ok(_) => prop_assert!(cost <= BURST),
                Err(until) => prop_assert!(until - now <= cost.saturating_sub(now.min(BURST)) + 1 || now < BURST),
            }
        }
    }
}
