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
use nvme_policy::line::{Line, Place};

/// For how many requests' time a virtqueue waits longer than it must: then several are taken at once, and not one for each time that a worker
/// wakes, which costs more than a request does.
const TOGETHER: u64 = 8;
/// How long that is at least, and at most, in nanoseconds. What was not used meanwhile is not lost: it is far less than a burst.
const LONGER: core::ops::RangeInclusive<u64> = 1_000_000..=10_000_000;
/// What a request is taken for where nothing is known of it.
const REQUEST: u64 = 4096;
/// A second, in nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// The part of a second's bytes that a request is at most taken for at once.
const PIECES: u64 = 20;
/// The shortest piece.
const PIECE_MIN: u64 = 8192;

/// What the sessions of a factory take from, each in its turn.
#[derive(Debug, Default)]
pub struct Pool {
    iops: Line,
    bytes: Line,
}

impl Pool {
    /// With so much a second.
    pub fn new(rate: Rate) -> Self {
        // The same for all of its sessions, whatever they ask for: who reserves more has more.
        let together = |request: u64, rate: Option<NonZeroU64>| longer(time_of(request, rate));
        Self {
            iops: Line::new(rate.iops, together(1, rate.iops)),
            bytes: Line::new(rate.bytes, together(REQUEST, rate.bytes)),
        }
    }

    /// How much a second.
    pub fn rate(&self) -> Rate {
        Rate { iops: self.iops.rate(), bytes: self.bytes.rate() }
    }
}

/// A session's places in a pool.
#[derive(Debug, Default)]
struct Shared {
    pool: Arc<Pool>,
    iops: Place,
    bytes: Place,
}

/// What bounds one session.
#[derive(Debug, Default)]
pub struct Limits {
    iops: Bucket,
    bytes: Bucket,
    /// With the others of the factories that it came by.
    above: Vec<Shared>,
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
        let place = |pool| Shared { pool, ..Shared::default() };
        Self {
            iops: Bucket::new(rate.iops),
            bytes: Bucket::new(rate.bytes),
            above: above.into_iter().map(place).collect(),
            size: AtomicU64::new(0),
        }
    }

    /// Its own bounds.
    pub fn rate(&self) -> Rate {
        Rate { iops: self.iops.rate(), bytes: self.bytes.rate() }
    }

    /// Its own bounds are these from now on.
    pub(super) fn set_rate(&self, rate: Rate) {
        self.iops.set_rate(rate.iops);
        self.bytes.set_rate(rate.bytes);
    }

    fn rates(&self) -> impl Iterator<Item = Rate> {
        core::iter::once(self.rate()).chain(self.above.iter().map(|shared| shared.pool.rate()))
    }

    /// Whether there is any bound.
    pub(super) fn any(&self) -> bool {
        self.rates().any(|rate| rate != Rate::NONE)
    }

    /// What may be done now; or when to ask again.
    pub(super) fn may(&self, now: Time) -> Result<Allowed, Time> {
        let (now, size) = (now.as_nanos(), self.size.load(Ordering::Relaxed));
        let own = |bucket: &Bucket, request: u64| {
            let wait = |until: u64| until.saturating_add(longer(time_of(request, bucket.rate())));
            bucket.may(now).map_err(wait)
        };
        let (requests, bytes) = (own(&self.iops, 1), own(&self.bytes, size));
        if let Some(until) = requests.err().max(bytes.err()) {
            // Nothing is reserved that could not be used.
            return Err(Time::from_nanos(until));
        }
        let mut allowed = Allowed { requests: requests.unwrap_or(1), singly: self.bytes.rate().is_some() };
        let mut wait = None;
        for Shared { pool, iops, bytes } in &self.above {
            match pool.iops.may(iops, 1, now) {
                Ok(requests) => allowed.requests = allowed.requests.min(requests),
                Err(until) => wait = wait.max(Some(until)),
            }
            allowed.singly |= pool.bytes.rate().is_some();
            if let Err(until) = pool.bytes.may(bytes, size, now) {
                wait = wait.max(Some(until));
            }
        }
        wait.map_or(Ok(allowed), |until| Err(Time::from_nanos(until)))
    }

    /// So much was done.
    pub(super) fn take(&self, requests: u64, bytes: u64, now: Time) {
        if let Some(size) = bytes.checked_div(requests) {
            self.size.store(size, Ordering::Relaxed);
        }
        let now = now.as_nanos();
        if requests > 0 {
            self.iops.take(requests, now);
            self.above.iter().for_each(|shared| shared.pool.iops.take(&shared.iops, requests, now));
        }
        if bytes > 0 {
            self.bytes.take(bytes, now);
            self.above.iter().for_each(|shared| shared.pool.bytes.take(&shared.bytes, bytes, now));
        }
    }

    /// It has nothing left to do: what it reserved is for others.
    pub(super) fn give_back(&self, now: Time) {
        for Shared { pool, iops, bytes } in &self.above {
            pool.iops.give_back(iops, now.as_nanos());
            pool.bytes.give_back(bytes, now.as_nanos());
        }
    }

    /// How much of a request is done at once: 50 ms of what is allowed.
    pub(super) fn piece(&self) -> u64 {
        let rates = self.rates().filter_map(|rate| rate.bytes);
        rates.map(|rate| (rate.get() / PIECES).max(PIECE_MIN)).min().unwrap_or(u64::MAX)
    }
}

/// For how long requests that take so long each are saved up.
fn longer(each: u64) -> u64 {
    each.saturating_mul(TOGETHER).clamp(*LONGER.start(), *LONGER.end())
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
        // The other has nothing left either, and waits until that is paid for and the next is saved; then it is this one's turn again.
        assert_eq!((b.may(now).unwrap_err() - now).as_millis(), 10, "it looks when half of the time is over");
        let wait = |limits: &Limits| {
            let mut at = now;
            while let Err(until) = limits.may(at) {
                at = until;
            }
            (at - now).as_millis()
        };
        assert_eq!((wait(&a), wait(&b)), (30, 20));
    }

    #[test]
    fn who_asks_first_has_no_more_of_what_is_shared() {
        let shared = Arc::new(Pool::new(rate(600, 0)));
        let both = [(); 2].map(|()| Limits::new(Rate::NONE, alloc::vec![Arc::clone(&shared)]));
        let (start, mut next, mut done) = (1 << 40, [1 << 40; 2], [0_u64; 2]);
        while next[0].min(next[1]) < start + 10 * SECOND {
            let who = usize::from(next[1] < next[0]);
            let now = Time::from_nanos(next[who]);
            match both[who].may(now) {
                Ok(allowed) => {
                    both[who].take(allowed.requests, 0, now);
                    done[who] += allowed.requests;
                }
                Err(until) => next[who] = until.as_nanos(),
            }
        }
        assert!(done.iter().all(|one| one.abs_diff(3000) < 90), "{done:?}");
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
