//! For how long a session's memory held its worker up, where no thread is free for it.

use std::time::Duration;

use nvme_platform::Time;

/// At once.
const MOST: Duration = Duration::from_millis(50);
/// All sessions together: one part in so many of a worker's time, so that whose memory is slow now and then is served for ever.
const PART: u32 = 10;

/// What is not forgiven yet.
#[derive(Debug, Default)]
pub(crate) struct HeldUp {
    owed: Duration,
    last: Time,
}

impl HeldUp {
    /// It held its worker up once more; there are so many sessions. Whether that is too much.
    pub(crate) fn add(&mut self, took: Duration, sessions: usize, now: Time) -> bool {
        let sessions = u32::try_from(sessions.max(1)).unwrap_or(u32::MAX);
        let forgiven = (now - self.last) / PART / sessions;
        self.owed = self.owed.saturating_sub(forgiven).saturating_add(took);
        self.last = now;
        self.owed > MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn slow_memory_now_and_then_is_forgiven_and_slow_memory_all_the_time_is_not() {
        let took = Duration::from_millis(2);
        let mut held = HeldUp::default();
        // Ten times a second, for an hour, with fifty sessions: 2 ms are forgiven in a second.
        assert!((0..3600).all(|second| !held.add(took, 50, at(1000 * second))));
        let mut held = HeldUp::default();
        let ended = (0..3600_u64).find(|tenth| held.add(took, 50, at(100 * tenth)));
        assert_eq!(ended, Some(27), "50 ms of 56, less 5.4 ms");
        assert!(HeldUp::default().add(Duration::from_millis(51), 1, at(0)));
        // Alone, with a tenth of the time.
        let mut held = HeldUp::default();
        assert!((0..3600).all(|turn| !held.add(took, 1, at(20 * turn))));
    }
}
