//! For how long a worker's thread did something, and for how long it slept: written by it alone, and read by control.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nvme_platform::Time;

/// Of what is asleep, the bit that says that it goes on.
const GOES_ON: u64 = 1;

/// Times of one thread.
#[derive(Default)]
pub(super) struct Times {
    /// In nanoseconds.
    busy: AtomicU64,
    /// Twice the nanoseconds for which it slept. While it sleeps, with [`GOES_ON`], and less what the clock was when it began to: one word, so that who
    /// reads it has either both or neither.
    asleep: AtomicU64,
}

/// What was read last: the two only grow, whatever the moment.
#[derive(Default)]
pub(super) struct Shown(Cell<Duration>);

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Times {
    /// It did something for so long.
    pub(super) fn worked(&self, time: Duration) {
        // Nobody else writes it.
        self.busy.store(self.busy.load(Ordering::Relaxed).wrapping_add(nanos(time)), Ordering::Relaxed);
    }

    /// It goes to sleep.
    pub(super) fn sleeps(&self, now: Time) {
        let slept = self.asleep.load(Ordering::Relaxed);
        self.asleep.store(slept.wrapping_sub(now.as_nanos() << 1) | GOES_ON, Ordering::Relaxed);
    }

    /// It woke.
    pub(super) fn woke(&self, now: Time) {
        self.asleep.store(slept(self.asleep.load(Ordering::Relaxed), now) << 1, Ordering::Relaxed);
    }

    /// How long it did something, and how long it slept until now.
    pub(super) fn read(&self, now: Time, shown: &Shown) -> (Duration, Duration) {
        let asleep = Duration::from_nanos(slept(self.asleep.load(Ordering::Relaxed), now));
        // Whoever woke while this was read may have looked at the clock a little before.
        let asleep = asleep.max(shown.0.get());
        shown.0.set(asleep);
        (Duration::from_nanos(self.busy.load(Ordering::Relaxed)), asleep)
    }
}

/// The nanoseconds that such a word says.
fn slept(word: u64, now: Time) -> u64 {
    let since = if word & GOES_ON == 0 { 0 } else { now.as_nanos() << 1 };
    // It went to sleep after the clock was read.
    let twice = (word & !GOES_ON).wrapping_add(since) as i64;
    (twice >> 1).max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_sleep_that_goes_on_counts_and_nothing_counts_twice() {
        let (times, shown) = (Times::default(), Shown::default());
        let read = |now| times.read(at(now), &shown).1.as_secs();
        assert_eq!(read(5), 0);
        times.sleeps(at(10));
        assert_eq!(read(9), 0);
        assert_eq!((read(10), read(70), read(100)), (0, 60, 90));
        times.woke(at(110));
        assert_eq!((read(110), read(200)), (100, 100));
        times.sleeps(at(200));
        assert_eq!((read(203), read(202)), (103, 103), "it never goes back");
        times.woke(at(205));
        assert_eq!(read(900), 105);
        times.worked(Duration::from_secs(2));
        times.worked(Duration::from_secs(3));
        assert_eq!(times.read(at(900), &shown).0.as_secs(), 5);
    }
}
