//! How long a home polls before it sleeps.

use core::time::Duration;

use nvme_platform::Time;

/// Polls as long as it pays, and for a given time at most. Polling pays when the next work comes soon after the last; when it
/// comes later, the time was spent for nothing, and others could have had the CPU.
///
/// Who slept knows when it was awake again, not when the work came: waking may take longer than the work did. So when it may have come in
/// time, that is tried: the next time is polled for as long as may be. When that was in vain, it is tried again after one sleep, then after two,
/// and so on, up to [`PAUSE_MAX`](Self::PAUSE_MAX).
pub struct Polling {
    most: Duration,
    window: Duration,
    /// Sleeps until it is tried again.
    pause: u32,
    /// How many that will be the next time.
    next_pause: u32,
    /// When it was woken last.
    woken: Time,
}

impl Polling {
    /// Most sleeps between two tries.
    const PAUSE_MAX: u32 = 64;
    /// For how many times as long as it polls at most it has to go without sleep, so that polling has paid: a few times for each that it was in vain.
    const PAID: u32 = 2;

    /// Polls for `most` at most, and at first.
    pub fn new(most: Duration) -> Self {
        Self { most, window: most, pause: 0, next_pause: 1, woken: Time::default() }
    }

    /// How long to go on after the last work.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The worker slept, and was woken this long after its last work, now.
    pub fn slept(&mut self, gap: Duration, now: Time) {
        let paid = (now - self.woken).saturating_sub(gap) >= self.most * Self::PAID;
        self.woken = now;
        if paid {
            (self.pause, self.next_pause) = (0, 1);
        }
        if gap > self.most * 2 {
            self.window /= 2;
        } else if self.window == self.most && !paid {
            self.window = Duration::ZERO;
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(Self::PAUSE_MAX);
        } else if self.pause > 0 {
            self.pause -= 1;
        } else {
            self.window = self.most;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(80);

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// Work comes so long after the last, each time, and a worker that sleeps takes so long to wake. For how long it polled in vain, and how
    /// often it slept.
    fn load(
        polling: &mut Polling,
        now: &mut Time,
        every: Duration,
        waking: Duration,
        times: u32,
    ) -> (Duration, u32) {
        let (mut vain, mut sleeps) = (Duration::ZERO, 0);
        for _ in 0..times {
            if every < polling.window() {
                *now = *now + every;
                continue;
            }
            vain += polling.window();
            sleeps += 1;
            *now = *now + every + waking;
            polling.slept(every + waking, *now);
        }
        (vain, sleeps)
    }

    #[test]
    fn polling_that_does_not_pay_is_given_up_and_taken_up_again() {
        let (mut polling, mut now) = (Polling::new(MOST), Time::default());
        let (vain, _) = load(&mut polling, &mut now, micros(1000), micros(5), 20);
        assert!(vain <= 2 * MOST && polling.window() < micros(1), "{vain:?}");
        load(&mut polling, &mut now, micros(10), micros(5), 10);
        assert_eq!(polling.window(), MOST);
        let mut never = Polling::new(Duration::ZERO);
        never.slept(Duration::ZERO, now);
        assert_eq!(never.window(), Duration::ZERO);
    }

    #[test]
    fn a_worker_that_is_slow_to_wake_finds_out_that_polling_would_pay() {
        let (mut polling, mut now) = (Polling::new(MOST), Time::default());
        load(&mut polling, &mut now, micros(5000), micros(45), 50);
        assert!(polling.window() < micros(1), "after it idled");
        // Together that is longer than it ever polls.
        let (_, sleeps) = load(&mut polling, &mut now, micros(60), micros(45), 1000);
        assert_eq!((sleeps, polling.window()), (1, MOST));
    }

    #[test]
    fn work_that_comes_a_little_too_late_is_seldom_polled_for() {
        let (mut polling, mut now) = (Polling::new(MOST), Time::default());
        let (vain, sleeps) = load(&mut polling, &mut now, micros(100), micros(45), 10_000);
        assert_eq!(sleeps, 10_000);
        assert!(vain <= MOST * 200, "{vain:?}: once in {} sleeps or so", Polling::PAUSE_MAX);
        // And when it comes sooner, that is found within as many.
        let (_, sleeps) = load(&mut polling, &mut now, micros(50), micros(45), 1000);
        assert!(sleeps <= Polling::PAUSE_MAX + 1, "{sleeps}");
        // It has paid then, and is not given up for what comes too late once.
        load(&mut polling, &mut now, micros(100), micros(0), 1);
        assert_eq!(load(&mut polling, &mut now, micros(50), micros(45), 1000).1, 0);
    }
}
