//! When a thread leaves storage alone for a while.
//!
//! Each waking costs a thread more than most answers do. Where every queue has many requests under way, none of them is what its driver
//! waits for: more of them come back while the thread sleeps on, and are worked off together. So a thread that would wait for such storage
//! *rests*: it sleeps for a quarter of what a request takes now, and only then looks, or asks to be woken. Where one queue has few under way,
//! or answers come soon, nobody rests: there each of them is waited for.

use std::time::Duration;

use nvme_platform::Time;

/// So many requests of one queue are many.
const MANY: u32 = 16;
/// A request that takes so long is slow. What takes less is over before a thread that sleeps is awake again.
const SLOW: Duration = Duration::from_micros(250);
/// Queues that are told apart; with more of them on one ring nobody rests.
const QUEUES: usize = 32;
/// Storage from which nothing came for so long is none to count on.
const STUCK: Duration = Duration::from_millis(10);
/// The longest rest.
const LONGEST: Duration = Duration::from_micros(200);
/// The part of a request's time that is slept through.
const PART: u32 = 4;
/// Most waits without a rest, after rests in vain.
const PAUSE_MAX: u32 = 64;

/// How many requests each queue has under way on a ring.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    queues: Vec<(usize, u32)>,
    /// Those that have some, and not many; all that have no place above are among them.
    few: u32,
}

/// Where a request was counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted(Option<u8>);

impl Crowd {
    /// A request of that queue is under way.
    pub(super) fn join(&mut self, queue: usize) -> Counted {
        let own = self.queues.iter().position(|(q, count)| *q == queue && *count > 0);
        let place = own.or_else(|| self.queues.iter().position(|(_, count)| *count == 0));
        let place = place.or_else(|| {
            let room = self.queues.len() < QUEUES;
            room.then(|| self.queues.push((queue, 0))).map(|()| self.queues.len() - 1)
        });
        let Some((place, entry)) = place.and_then(|place| Some((place, self.queues.get_mut(place)?))) else {
            self.few += 1;
            return Counted(None);
        };
        *entry = (queue, entry.1 + 1);
        match entry.1 {
            1 => self.few += 1,
            MANY => self.few = self.few.saturating_sub(1),
            _ => {}
        }
        Counted(u8::try_from(place).ok())
    }

    /// One is over.
    pub(super) fn leave(&mut self, counted: Counted) {
        let entry = counted.0.and_then(|place| self.queues.get_mut(usize::from(place)));
        let Some((_, count)) = entry else {
            self.few = self.few.saturating_sub(1);
            return;
        };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.few = self.few.saturating_sub(1);
        } else if *count == MANY - 1 {
            self.few += 1;
        }
    }

    /// How many queues have requests under way.
    pub(super) fn queues(&self) -> usize {
        self.queues.iter().filter(|(_, count)| *count > 0).count()
    }

    /// Whether each queue that has requests under way has many.
    pub(super) fn is_deep(&self) -> bool {
        self.few == 0 && self.queues() > 0
    }
}

/// How long to rest.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// From one answer to the next, on average.
    every: Duration,
    /// When something came last, or began on an idle ring.
    last: Time,
    /// Until when it rests, and whether something came since.
    until: Option<Time>,
    /// Waits without a rest, and how many it will be next time.
    pause: u32,
    next_pause: u32,
}

impl Rest {
    /// The ring was idle until now.
    pub(super) fn begins(&mut self, now: Time) {
        self.last = now;
    }

    /// So many came back.
    pub(super) fn came(&mut self, count: u32, now: Time) {
        if count > 0 {
            let every = (now - self.last).min(LONGEST * MANY) / count;
            self.every = (self.every * 3 + every) / 4;
            self.last = now;
        }
        let Some(until) = self.until.take() else { return };
        if count > 1 {
            (self.pause, self.next_pause) = (0, 1);
        } else if now >= until {
            // All of them come together, or each much later: who slept was woken for nothing.
            self.pause = self.next_pause.max(1);
            self.next_pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether a request takes long, of so many that are under way, and they do come back.
    pub(super) fn is_slow(&self, under_way: u32, now: Time) -> bool {
        self.every * under_way >= SLOW && now - self.last <= STUCK
    }

    /// How long to rest while so many are under way. None: not now.
    pub(super) fn take(&mut self, under_way: u32, now: Time) -> Option<Duration> {
        if now - self.last > LONGEST {
            // Nothing came for so long: to be woken is soon enough.
            return None;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        let rest = (self.every * under_way / PART).min(LONGEST);
        self.until = Some(now + rest);
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn only_where_every_queue_has_many_requests_under_way_is_a_ring_left_alone() {
        let mut crowd = Crowd::default();
        assert!(!crowd.is_deep());
        let mut counted: Vec<_> = (1..MANY).map(|_| crowd.join(7)).collect();
        assert!(!crowd.is_deep());
        counted.push(crowd.join(7));
        assert!(crowd.is_deep());
        // Another one waits for its only answer.
        let other = crowd.join(9);
        assert!(!crowd.is_deep());
        crowd.leave(other);
        assert!(crowd.is_deep());
        counted.push(crowd.join(7));
        crowd.leave(counted.pop().unwrap());
        assert!(crowd.is_deep());
        crowd.leave(counted.pop().unwrap());
        assert!(!crowd.is_deep());
        counted.drain(..).for_each(|c| crowd.leave(c));
        assert!(!crowd.is_deep() && crowd.few == 0);
    }

    #[test]
    fn more_queues_than_are_told_apart_keep_it_awake_and_are_forgotten_when_they_are_done() {
        let mut crowd = Crowd::default();
        let count = QUEUES + 3;
        let all: Vec<_> = (0..count).flat_map(|q| (0..2 * MANY).map(move |_| q)).collect();
        let counted: Vec<_> = all.iter().map(|q| crowd.join(*q)).collect();
        assert!(!crowd.is_deep());
        counted.into_iter().for_each(|c| crowd.leave(c));
        assert_eq!((crowd.few, crowd.queues.iter().map(|(_, c)| c).sum::<u32>()), (0, 0));
        let again: Vec<_> = (0..MANY).map(|_| crowd.join(1000)).collect();
        assert!(crowd.is_deep() && crowd.queues.len() == QUEUES);
        again.into_iter().for_each(|c| crowd.leave(c));
    }

    /// Answers come one every so often, `depth` are under way, and whoever rests finds what came meanwhile. Wakings for each answer.
    fn load(rest: &mut Rest, every: Duration, depth: u32, answers: u32) -> f64 {
        let (mut now, mut came, mut wakings) = (Time::from_nanos(1 << 40), 0, 0);
        rest.begins(now);
        while came < answers {
            wakings += 1;
            let slept = rest.take(depth, now).unwrap_or(every).max(every);
            let count = u32::try_from(slept.as_nanos() / every.as_nanos()).unwrap();
            now = now + every * count;
            came += count;
            rest.came(count, now);
        }
        f64::from(wakings) / f64::from(came)
    }

    #[test]
    fn a_quarter_of_what_is_under_way_is_waited_for_at_once() {
        let mut rest = Rest::default();
        load(&mut rest, micros(20), 32, 100);
        let each = load(&mut rest, micros(20), 32, 1000);
        assert!((0.1..=0.2).contains(&each), "{each}");
        // Never longer than said.
        assert_eq!(rest.take(1000, rest.last), Some(LONGEST));
        // What is fast is not waited for asleep.
        let mut fast = Rest::default();
        load(&mut fast, micros(5), 32, 1000);
        assert!(rest.is_slow(32, rest.last) && !fast.is_slow(32, fast.last) && fast.is_slow(64, fast.last));
    }

    #[test]
    fn storage_whose_answers_come_together_is_not_looked_at_in_vain() {
        let mut rest = Rest::default();
        let mut now = Time::from_nanos(1 << 40);
        let (mut vain, mut waits) = (0, 0);
        for _ in 0..1000 {
            // Thirty-two begin, and are all back after 400 µs.
            let begun = now;
            rest.begins(now);
            while let Some(slept) = rest.take(32, now) {
                vain += 1;
                now = now + slept;
                rest.came(0, now);
            }
            waits += 1;
            now = begun + micros(400);
            rest.came(32, now);
        }
        assert!(vain < waits / 20, "{vain} of {waits}");
    }

    #[test]
    fn storage_that_stands_still_is_asked_to_wake() {
        let mut rest = Rest::default();
        load(&mut rest, micros(20), 32, 100);
        let last = rest.last;
        assert_eq!(rest.take(32, last + LONGEST + micros(1)), None);
        assert!(rest.is_slow(32, last + STUCK) && !rest.is_slow(32, last + STUCK + micros(1)));
    }
}
