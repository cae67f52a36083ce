//! So many in a second.

use nvme_platform::Time;

const SECOND: u64 = 1_000_000_000;

/// Lets a bounded number pass in each second, and counts the rest. For the log as a whole, and for what one client can
/// cause.
#[derive(Clone, Debug)]
pub struct RateLimit {
    per_second: u32,
    /// The second that is counted, since the clock's zero.
    second: u64,
    passed: u32,
    held_back: u64,
}

impl RateLimit {
    /// At most `per_second`, and none before the first call.
    pub fn new(per_second: u32) -> Self {
        Self { per_second, second: 0, passed: 0, held_back: 0 }
    }

    /// Whether one more may pass, and how many were held back since this was last said: zero, except to the first in
    /// a new second.
    pub fn allow(&mut self, now: Time) -> (bool, u64) {
        let second = now.as_nanos() / SECOND;
        let mut missed = 0;
        if second != self.second {
            self.second = second;
            self.passed = 0;
            missed = std::mem::take(&mut self.held_back);
        }
        let allowed = self.passed < self.per_second;
        if allowed {
            self.passed += 1;
        } else {
            self.held_back = self.held_back.saturating_add(1);
        }
        (allowed, missed)
    }

    /// How many were held back since this was last said.
    pub fn rest(&mut self) -> u64 {
        std::mem::take(&mut self.held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_second_is_counted_and_told_in_the_next() {
        let at = |millis: u64| Time::from_nanos(millis * 1_000_000);
        let mut limit = RateLimit::new(2);
        let answers: Vec<_> =
            [5000, 5001, 5002, 5999, 6000, 6001, 6002, 9000].map(|t| limit.allow(at(t))).into();
        let wanted =
            [(true, 0), (true, 0), (false, 0), (false, 0), (true, 2), (true, 0), (false, 0), (true, 1)];
        assert_eq!(answers, wanted);
    }
}
