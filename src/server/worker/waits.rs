//! How long kicks waited until the worker took what they were for, and how much of that single turns account for.

use core::time::Duration;

use nvme_platform::Time;

/// What a worker can say of it at any time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Waits {
    /// The longest time that ever passed from seeing a kick to taking what it was for.
    pub longest: Duration,
    /// The same of those kicks that no long turn fell upon.
    pub otherwise: Duration,
    /// Turns that took longer than five passes by their session's doing: memory that had to be brought, an eventfd that many watch. What
    /// is done about such a session is done after its first, as a rule.
    pub long_turns: u32,
    /// When the last of these was over.
    long_until: Time,
}

impl Waits {
    /// A turn was long, and is over.
    pub(super) fn was_long(&mut self, now: Time) {
        self.long_turns = self.long_turns.saturating_add(1);
        self.long_until = now;
    }

    /// What a kick was for is taken.
    pub(super) fn took(&mut self, kicked: Time, now: Time) {
        let waited = now - kicked;
        self.longest = self.longest.max(waited);
        if kicked >= self.long_until {
            self.otherwise = self.otherwise.max(waited);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_long_turn_held_up_is_told_apart() {
        let at = |millis: u64| Time::from_nanos(millis * 1_000_000);
        let mut waits = Waits::default();
        waits.took(at(1), at(3));
        // Seen before the turn was over, and after.
        waits.was_long(at(20));
        waits.took(at(10), at(21));
        waits.took(at(20), at(24));
        let millis = Duration::from_millis;
        assert_eq!((waits.longest, waits.otherwise, waits.long_turns), (millis(11), millis(4), 1));
    }
}
