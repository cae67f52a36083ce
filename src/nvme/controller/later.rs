//! When to look again at what failed for the moment, however often it was tried: a second later, then two, four … a minute. A
//! controller that is never well is not looked at without end at once, and one that comes to be well is not forgotten.

use core::time::Duration;

use nvme_platform::Time;

const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(64);

/// One thing to look at again.
#[derive(Debug, Default)]
pub(super) struct Later {
    at: Option<Time>,
    /// When it was to be looked at last, and how long after it had failed.
    last: Option<(Time, Duration)>,
}

impl Later {
    /// It failed, for now.
    pub(super) fn failed(&mut self, now: Time) {
        if self.at.is_some() {
            return;
        }
        let wait = match self.last {
            // It was well in between.
            Some((last, wait)) if now - last > 4 * wait => FIRST,
            Some((_, wait)) => (2 * wait).min(MOST),
            None => FIRST,
        };
        self.at = Some(now + wait);
        self.last = Some((now + wait, wait));
    }

    /// Whether it is time; says so once.
    pub(super) fn is_due(&mut self, now: Time) -> bool {
        self.at.take_if(|at| *at <= now).is_some()
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.at
    }

    /// It is going to be looked at anyway.
    pub(super) fn forget(&mut self) {
        self.at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_again_and_again_is_looked_at_less_and_less_often_and_never_given_up() {
        let (mut later, mut now) = (Later::default(), Time::from_nanos(5));
        let mut waits = alloc::vec::Vec::new();
        for _ in 0..9 {
            later.failed(now);
            later.failed(now + FIRST);
            let at = later.next().unwrap();
            assert!(!later.is_due(Time::from_nanos(at.as_nanos() - 1)));
            assert!(later.is_due(at) && !later.is_due(at) && later.next().is_none());
            waits.push((at - now).as_secs());
            now = at;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        now = now + 5 * MOST;
        later.failed(now);
        assert_eq!(later.next(), Some(now + FIRST), "it was well in between");
    }
}
