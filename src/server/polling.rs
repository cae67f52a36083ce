//! How long a home polls before it sleeps.

use core::time::Duration;

/// Polls as long as it pays, and for a given time at most. Polling pays when the next work comes soon after the last; when it
/// comes later, the time was spent for nothing, and others could have had the CPU.
pub struct Polling {
    most: Duration,
    window: Duration,
}

impl Polling {
    /// The least that is worth trying.
    const LEAST: Duration = Duration::from_micros(2);

    /// Polls for `most` at most, and at first.
    pub fn new(most: Duration) -> Self {
        Self { most, window: most }
    }

    /// How long to go on after the last work.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The worker slept, and was woken this long after its last work.
    pub fn slept(&mut self, gap: Duration) {
        self.window = if gap <= self.most {
            (self.window * 2).max(Self::LEAST).min(self.most)
        } else {
            self.window / 2
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_that_does_not_pay_is_given_up_and_taken_up_again() {
        let most = Duration::from_micros(20);
        let mut polling = Polling::new(most);
        for _ in 0..20 {
            polling.slept(Duration::from_millis(1));
        }
        assert!(polling.window() < Duration::from_micros(1));
        for _ in 0..10 {
            polling.slept(Duration::from_micros(10));
        }
        assert_eq!(polling.window(), most);
        let mut never = Polling::new(Duration::ZERO);
        never.slept(Duration::ZERO);
        assert_eq!(never.window(), Duration::ZERO);
    }
}
