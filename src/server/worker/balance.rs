//! How much a worker has to do, where there are others: what it says of that, and of virtqueues that had better be elsewhere.
//!
//! Time is counted by passes: one that worked was busy until the next began. Once in a [`WINDOW`] that is compared with the time that went by.
//! Who was busy for most of it says so, and says which virtqueue it could do without: of a session with two that have much to do the second.
//! A virtqueue whose session is at home elsewhere goes there when it has little to do for a [`LULL`], or when a worker that is busy has others
//! to serve as well.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::Time;

use super::super::message::{FromWorker, QueueKey, SessionKey};

/// How long is looked at.
const WINDOW: Duration = Duration::from_millis(10);
/// A window that is longer than so many had a worker in it that slept.
const SLEPT: u32 = 4;
/// Busy is who was for more than so many percent of a window; not any more who was for less than the other.
const MUCH: u64 = 85;
const LITTLE: u64 = 60;
/// So many windows one after the other, before anything is given away.
const WINDOWS: u32 = 3;
/// How long nothing is said again of what could be given away.
const PAUSE: Duration = Duration::from_millis(50);
/// A virtqueue has much to do that has one in so many of its worker's units.
const PART: u32 = 8;
/// How long a virtqueue that is not at home has little to do before it goes home, and what is little.
const LULL: Duration = Duration::from_secs(1);
const FEW: u32 = 1000;

/// What one virtqueue did since it was asked last.
pub(super) struct Did {
    pub(super) key: QueueKey,
    /// Whether its session is at home elsewhere.
    pub(super) abroad: bool,
    /// Units of work.
    pub(super) units: u32,
}

/// The balance of one worker.
#[derive(Default)]
pub(super) struct Balance {
    on: bool,
    /// When the pass began that worked, if the last one did.
    working: Option<Time>,
    /// Nanoseconds, in this window.
    busy: u64,
    begun: Time,
    /// As it was said.
    said: bool,
    /// How many windows were busy, one after the other.
    windows: u32,
    /// Nothing is given away before.
    quiet_until: Time,
    /// What virtqueues that are not at home did since when.
    guests: Vec<(QueueKey, u32, Time)>,
}

impl Balance {
    /// There are other workers.
    pub(super) fn turn_on(&mut self) {
        self.on = true;
    }

    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// A pass begins.
    #[inline]
    pub(super) fn begins(&mut self, now: Time) {
        if let Some(then) = self.working.take() {
            self.busy += now.as_nanos().saturating_sub(then.as_nanos());
        }
    }

    /// The pass that began then has worked.
    #[inline]
    pub(super) fn worked(&mut self, then: Time) {
        self.working = Some(then);
    }

    /// Whether a window is over.
    pub(super) fn is_due(&self, now: Time) -> bool {
        self.on && now - self.begun >= WINDOW
    }

    /// A window is over, in which virtqueues did that: says what follows.
    pub(super) fn look(&mut self, now: Time, did: &[Did], out: &mut VecDeque<FromWorker>) {
        let whole = now - core::mem::replace(&mut self.begun, now);
        let nanos = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX).max(1);
        let slept = whole > WINDOW * SLEPT;
        let percent = if slept { 0 } else { core::mem::take(&mut self.busy).saturating_mul(100) / nanos };
        self.busy = 0;
        let busy = if self.said { percent >= LITTLE } else { percent >= MUCH };
        if busy != self.said {
            self.said = busy;
            out.push_back(FromWorker::Busy(busy));
        }
        self.windows = if percent >= MUCH { self.windows.saturating_add(1) } else { 0 };
        let all = did.iter().map(|did| did.units).fold(0, u32::saturating_add);
        let much = |did: &&Did| did.units > 0 && did.units >= all / PART;
        self.look_at_guests(now, did, out);
        if self.windows < WINDOWS || now < self.quiet_until {
            return;
        }
        // Whoever is at home here has the time first.
        let residents = did.iter().filter(much).any(|did| !did.abroad);
        let mut guests = did.iter().filter(much).filter(|did| did.abroad);
        let key = match (guests.next(), residents) {
            (Some(guest), true) => FromWorker::GoHome(guest.key, true),
            _ => match second(did.iter().filter(much).filter(|did| !did.abroad)) {
                Some(key) => FromWorker::Crowded(key),
                None => return,
            },
        };
        self.quiet_until = now + PAUSE;
        out.push_back(key);
    }

    fn look_at_guests(&mut self, now: Time, did: &[Did], out: &mut VecDeque<FromWorker>) {
        let here = |key: &QueueKey| did.iter().any(|did| did.abroad && did.key == *key);
        self.guests.retain(|(key, ..)| here(key));
        for did in did.iter().filter(|did| did.abroad) {
            match self.guests.iter_mut().find(|(key, ..)| *key == did.key) {
                None => self.guests.push((did.key, did.units, now)),
                Some((key, units, since)) => {
                    *units = units.saturating_add(did.units);
                    if now - *since >= LULL {
                        if *units < FEW {
                            out.push_back(FromWorker::GoHome(*key, false));
                        }
                        (*units, *since) = (0, now);
                    }
                }
            }
        }
    }
}

/// Of the session of which two virtqueues have the most to do: the second of them.
fn second<'d>(much: impl Iterator<Item = &'d Did> + Clone) -> Option<QueueKey> {
    let of = |session: SessionKey| much.clone().filter(move |did| did.key.session == session);
    let sessions = much.clone().filter(|did| of(did.key.session).count() > 1);
    let session = sessions.max_by_key(|did| did.units)?.key.session;
    let first = of(session).max_by_key(|did| did.units)?.key;
    Some(of(session).filter(|did| did.key != first).max_by_key(|did| did.units)?.key)
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::*;

    fn did(session: u64, index: u16, units: u32, abroad: bool) -> Did {
        Did { key: QueueKey { session: SessionKey(session), index }, abroad, units }
    }

    /// So many windows in which it was busy for so many of ten milliseconds, and what it said.
    fn windows(balance: &mut Balance, at: &mut u64, count: u32, busy: u64, all: &[Did]) -> Vec<String> {
        let mut out = VecDeque::new();
        for _ in 0..count {
            balance.begins(Time::from_nanos(*at));
            balance.worked(Time::from_nanos(*at));
            balance.begins(Time::from_nanos(*at + busy * 1_000_000));
            *at += 10_000_000;
            assert!(balance.is_due(Time::from_nanos(*at)));
            balance.look(Time::from_nanos(*at), all, &mut out);
        }
        let say = |message| match message {
            FromWorker::Busy(busy) => alloc::format!("busy {busy}"),
            FromWorker::Crowded(key) => alloc::format!("crowded {} {}", key.session.0, key.index),
            FromWorker::GoHome(key, why) => alloc::format!("home {} {} {why}", key.session.0, key.index),
            _ => unreachable!(),
        };
        out.into_iter().map(say).collect()
    }

    fn on() -> (Balance, u64) {
        let mut balance = Balance::default();
        balance.turn_on();
        balance.look(Time::from_nanos(1_000_000_000), &[], &mut VecDeque::new());
        (balance, 1_000_000_000)
    }

    #[test]
    fn a_worker_that_is_busy_gives_the_second_busy_queue_of_a_session_away() {
        let (mut b, mut at) = on();
        let all = [did(1, 0, 900, false), did(2, 0, 500, false), did(2, 3, 400, false), did(2, 4, 9, false)];
        assert_eq!(windows(&mut b, &mut at, 2, 9, &all), ["busy true"]);
        assert_eq!(windows(&mut b, &mut at, 1, 9, &all), ["crowded 2 3"]);
        assert!(windows(&mut b, &mut at, 4, 9, &all).is_empty(), "not again so soon");
        assert_eq!(windows(&mut b, &mut at, 1, 9, &all), ["crowded 2 3"]);
        assert!(windows(&mut b, &mut at, 1, 7, &all).is_empty(), "not busy enough, and busy all the same");
        assert_eq!(windows(&mut b, &mut at, 1, 5, &all), ["busy false"]);
    }

    #[test]
    fn one_queue_of_each_session_stays_and_so_do_all_of_a_worker_that_has_time() {
        let (mut b, mut at) = on();
        let single = [did(1, 0, 900, false), did(2, 0, 500, false)];
        assert_eq!(windows(&mut b, &mut at, 9, 9, &single), ["busy true"]);
        let (mut b, mut at) = on();
        let two = [did(1, 0, 900, false), did(1, 1, 500, false)];
        assert!(windows(&mut b, &mut at, 9, 8, &two).is_empty());
    }

    #[test]
    fn a_guest_goes_home_when_it_idles_or_when_others_need_the_time() {
        let (mut b, mut at) = on();
        let idle = [did(1, 0, 3, true)];
        assert!(windows(&mut b, &mut at, 100, 0, &idle).is_empty());
        assert_eq!(windows(&mut b, &mut at, 1, 0, &idle), ["home 1 0 false"]);
        let busy = [did(1, 0, 300, true)];
        assert_eq!(windows(&mut b, &mut at, 300, 9, &busy), ["busy true"], "alone it stays");
        let both = [did(1, 0, 300, true), did(2, 0, 300, false)];
        assert_eq!(windows(&mut b, &mut at, 1, 9, &both), ["home 1 0 true"]);
    }

    #[test]
    fn a_worker_that_slept_is_not_busy() {
        let (mut b, mut at) = on();
        assert_eq!(windows(&mut b, &mut at, 1, 9, &[]), ["busy true"]);
        let mut out = VecDeque::new();
        b.look(Time::from_nanos(at + 1_000_000_000), &[], &mut out);
        assert!(matches!(out.pop_front(), Some(FromWorker::Busy(false))));
    }
}
