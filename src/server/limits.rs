//! How much a session may do a second: its own bounds, and those that it shares with all others of a factory.
//!
//! Control makes them and may change a session's own at any time; workers ask before they take from a virtqueue, and say afterwards what
//! they took. Sessions of one factory may be on several workers: what they share is counted in atomics, once for each turn.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU64, Ordering};

use nvme_platform::Time;
use nvme_policy::bucket::Bucket;
use nvme_policy::limits::Rate;

/// For how many requests' time a virtqueue waits longer than it must: then several are taken at once, and not one for each time that a worker
/// wakes, which costs more than a request does.
const TOGETHER: u64 = 8;
/// How long that is at least, and at most, in nanoseconds. What was not used meanwhile is not lost: it is far less than a burst.
const LONGER: core::ops::RangeInclusive<u64> = 1_000_000..=10_000_000;
/// A second, in nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// The part of a second's bytes that a request is at most taken for at once.
const PIECES: u64 = 20;
/// The shortest piece.
const PIECE_MIN: u64 = 8192;

/// What several take from.
#[derive(Debug, Default)]
pub struct Pool {
    iops: Bucket,
    bytes: Bucket,
}

impl Pool {
    /// With so much a second.
    pub fn new(rate: Rate) -> Self {
        Self { iops: Bucket::new(rate.iops), bytes: Bucket::new(rate.bytes) }
    }

    /// How much a second.
    pub fn rate(&self) -> Rate {
        Rate { iops: self.iops.rate(), bytes: self.bytes.rate() }
    }
}

/// What bounds one session.
#[derive(Debug, Default)]
pub struct Limits {
    own: Pool,
    /// Of the factories that it came by.
    above: Vec<Arc<Pool>>,
    /// Bytes of its requests, as those were that were taken last.
    size: AtomicU64,
}

/// What a limited session may do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Allowed {
    /// So many requests.
    pub(super) requests: u64,
    /// One after the other: what they come to in bytes is known only then.
    pub(super) singly: bool,
}

impl Limits {
    /// Of its own, and of what it shares.
    pub fn new(rate: Rate, above: Vec<Arc<Pool>>) -> Self {
        Self { own: Pool::new(rate), above, size: AtomicU64::new(0) }
    }

    /// Its own bounds.
    pub fn rate(&self) -> Rate {
        self.own.rate()
    }

    /// Its own bounds are these from now on.
    pub(super) fn set_rate(&self, rate: Rate) {
        self.own.iops.set_rate(rate.iops);
        self.own.bytes.set_rate(rate.bytes);
    }

    fn pools(&self) -> impl Iterator<Item = &Pool> {
        core::iter::once(&self.own).chain(self.above.iter().map(|pool| &**pool))
    }

    /// Whether there is any bound.
    pub(super) fn any(&self) -> bool {
        self.pools().any(|pool| pool.rate() != Rate::NONE)
    }

    /// What may be done now; or when to ask again.
    pub(super) fn may(&self, now: Time) -> Result<Allowed, Time> {
        let mut allowed = Allowed { requests: u64::MAX, singly: false };
        let (mut wait, mut longer) = (None, 0);
        let size = self.size.load(Ordering::Relaxed);
        for pool in self.pools() {
            match pool.iops.may(now.as_nanos()) {
                Ok(requests) => allowed.requests = allowed.requests.min(requests),
                Err(until) => {
                    wait = wait.max(Some(until));
                    longer = longer.max(time_of(1, pool.iops.rate()));
                }
            }
            if pool.bytes.rate().is_some() {
                allowed.singly = true;
            }
            if let Err(until) = pool.bytes.may(now.as_nanos()) {
                wait = wait.max(Some(until));
                longer = longer.max(time_of(size, pool.bytes.rate()));
            }
        }
        let Some(until) = wait else { return Ok(allowed) };
        let longer = longer.saturating_mul(TOGETHER).clamp(*LONGER.start(), *LONGER.end());
        Err(Time::from_nanos(until.saturating_add(longer)))
    }

    /// So much was done.
    pub(super) fn take(&self, requests: u64, bytes: u64, now: Time) {
        if let Some(size) = bytes.checked_div(requests) {
            self.size.store(size, Ordering::Relaxed);
        }
        for pool in self.pools() {
            if requests > 0 {
                pool.iops.take(requests, now.as_nanos());
            }
            if bytes > 0 {
                pool.bytes.take(bytes, now.as_nanos());
            }
        }
    }

    /// How much of a request is done at once: 50 ms of what is allowed.
    pub(super) fn piece(&self) -> u64 {
        let rates = self.pools().filter_map(|pool| pool.bytes.rate());
        rates.map(|rate| (rate.get() / PIECES).max(PIECE_MIN)).min().unwrap_or(u64::MAX)
    }
}

/// How long so much takes, in nanoseconds.
fn time_of(units: u64, rate: Option<NonZeroU64>) -> u64 {
    rate.map_or(0, |rate| units.saturating_mul(SECOND) / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(iops: u64, bytes: u64) -> Rate {
        Rate { iops: NonZeroU64::new(iops), bytes: NonZeroU64::new(bytes) }
    }

    #[test]
    fn the_strictest_of_a_session_s_own_and_its_factories_bounds_holds() {
        let shared = Arc::new(Pool::new(rate(100, 0)));
        let a = Limits::new(rate(1000, 0), alloc::vec![Arc::clone(&shared)]);
        let b = Limits::new(Rate::NONE, alloc::vec![shared]);
        let now = Time::from_nanos(1 << 40);
        assert!(a.any() && b.any() && !Limits::default().any());
        assert_eq!(b.may(now), Ok(Allowed { requests: 11, singly: false }), "10 of a burst, one on credit");
        a.take(11, 0, now);
        // The other has nothing left either, and waits until that is paid for.
        let until = b.may(now).unwrap_err();
        assert_eq!(until, a.may(now).unwrap_err());
        assert_eq!((until - now).as_millis(), 20, "one is paid for, and the next is saved");
        assert!(b.may(until).is_ok());
    }

    /// How many requests of that size are done for each time that somebody waits, and how often in ten seconds.
    fn waits(rate: Rate, size: u64) -> (f64, f64) {
        let limits = Limits::new(rate, Vec::new());
        let (start, mut done, mut waits) = (1 << 40, 0_u32, 0_u32);
        let mut now = Time::from_nanos(start);
        while now.as_nanos() < start + 10 * SECOND {
            match limits.may(now) {
                Ok(Allowed { requests, singly }) => {
                    let requests = if singly { 1 } else { requests };
                    limits.take(requests, requests * size, now);
                    done += u32::try_from(requests).unwrap();
                }
                Err(until) => {
                    assert!(until > now);
                    (now, waits) = (until, waits + 1);
                }
            }
        }
        (f64::from(done) / 10.0, f64::from(done) / f64::from(waits))
    }

    #[test]
    fn who_is_held_back_has_several_requests_done_for_each_wait_and_its_whole_rate() {
        for (a_second, size, least) in [
            (100.0, 4096, 2.0),
            (244.0, 4096, 3.0),
            (2000.0, 512, 8.9),
            (20_000.0, 4096, 4.9),
            (200_000.0, 512, 100.0),
        ] {
            for rate in [rate(a_second as u64, 0), rate(0, a_second as u64 * size)] {
                let (done, each) = waits(rate, size);
                // With what a burst brings.
                assert!((done / a_second - 1.0).abs() < 0.012, "{done} of {rate:?}");
                assert!(each >= least * 0.98, "{each} of {rate:?} for each wait");
            }
        }
    }

    #[test]
    fn a_bound_of_bytes_makes_pieces_of_50_ms() {
        assert_eq!(Limits::new(rate(5, 0), Vec::new()).piece(), u64::MAX);
        assert_eq!(Limits::new(rate(0, 20_000_000), Vec::new()).piece(), 1_000_000);
        assert_eq!(Limits::new(rate(0, 1), Vec::new()).piece(), 8192);
        let limits = Limits::new(rate(0, 1 << 20), Vec::new());
        assert!(limits.may(Time::default()).unwrap().singly);
        limits.set_rate(Rate::NONE);
        assert!(!limits.any());
    }
}
