//! The service manager's watchdog (systemd's `WatchdogSec=`), which ends a server that does not go round.
//!
//! It is fed twice in its time, by control, and only while every worker has gone round since the last time or sleeps for want of
//! work. So what takes long, a page fault in a client's memory or a message that takes its time, starves nobody's watchdog: what does
//! is a thread that is stuck for as long as all that.

use std::time::Duration;

use nvme_linux::logger::Notifier;
use nvme_platform::Time;

use crate::worker::Pulse;

/// A worker that did not go round is looked at again after this part of the time.
const AGAIN: u32 = 8;

/// See the [module](self).
pub(crate) struct Watchdog {
    every: Option<Duration>,
    due: Time,
    seen: Vec<Pulse>,
    /// Whether a stuck worker was named already.
    said: bool,
}

impl Watchdog {
    pub(crate) fn new(notifier: &Notifier) -> Self {
        Self { every: notifier.feed(), due: Time::default(), seen: Vec::new(), said: false }
    }

    /// When it is to be looked at again.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.every.map(|_| self.due)
    }

    /// Whether it is to be fed now, as the workers' pulses are.
    pub(crate) fn feeds(&mut self, now: Time, pulses: impl Iterator<Item = Pulse>) -> bool {
        let Some(every) = self.every.filter(|_| now >= self.due) else { return false };
        let found: Vec<Pulse> = pulses.collect();
        let moved =
            |(at, pulse): (usize, &Pulse)| *pulse == Pulse::Asleep || self.seen.get(at) != Some(pulse);
        match found.iter().enumerate().find(|(at, pulse)| !moved((*at, pulse))) {
            None => {
                (self.seen, self.due, self.said) = (found, now + every, false);
                true
            }
            Some((worker, _)) => {
                self.due = now + every / AGAIN;
                if !core::mem::replace(&mut self.said, true) {
                    log::error!("worker {worker} has not gone round for {every:?}; the watchdog is not fed");
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(8);

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    fn watchdog() -> Watchdog {
        Watchdog { every: Some(EVERY), due: Time::default(), seen: Vec::new(), said: false }
    }

    #[test]
    fn it_is_fed_while_all_go_round_or_sleep() {
        let mut w = watchdog();
        assert!(w.feeds(at(0), [Pulse::Round(1), Pulse::Asleep].into_iter()));
        assert!(!w.feeds(at(7), [Pulse::Round(2), Pulse::Asleep].into_iter()), "it is not due");
        assert!(w.feeds(at(8), [Pulse::Round(2), Pulse::Asleep].into_iter()));
        assert_eq!(w.deadline(), Some(at(16)));
    }

    #[test]
    fn one_that_is_stuck_keeps_it_hungry_until_it_comes_on() {
        let mut w = watchdog();
        assert!(w.feeds(at(0), [Pulse::Round(1), Pulse::Round(1)].into_iter()));
        for second in 8..100 {
            assert!(!w.feeds(at(second), [Pulse::Round(second), Pulse::Round(1)].into_iter()));
        }
        assert!(w.feeds(at(101), [Pulse::Round(200), Pulse::Round(2)].into_iter()));
        // One that was asleep and is stuck from the start of its first round.
        assert!(w.feeds(at(109), [Pulse::Asleep, Pulse::Asleep].into_iter()));
        assert!(w.feeds(at(117), [Pulse::Round(7), Pulse::Asleep].into_iter()));
        assert!(!w.feeds(at(125), [Pulse::Round(7), Pulse::Asleep].into_iter()));
    }

    #[test]
    fn without_a_watchdog_there_is_nothing_to_do() {
        let mut w = Watchdog::new(&Notifier::default());
        assert_eq!(w.deadline(), None);
        assert!(!w.feeds(at(1), [Pulse::Asleep].into_iter()));
    }
}
