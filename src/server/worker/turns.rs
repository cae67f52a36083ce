//! The turns of a pass: what sessions offer is taken, submitted, and where the controller runs here, done.

use core::time::Duration;

use nvme_platform::Time;
use nvme_session::queue::Next;

use super::roster::Activity;
use super::shares::nanos;
use super::submit::{submit, weight};
use super::{Pair, Worker};
use crate::nvme::QueuePair;

/// Most units spent on one virtqueue at once. A pass rings one doorbell for all of them, so many make it cheap.
const TAKE: u32 = 32;
/// The same where the controller runs on this worker, and a doorbell costs nothing. Few, so that a driver that offers many
/// hears of the first while the others are still worked on: the two overlap instead of waiting for each other.
const TAKE_HERE: u32 = 8;
/// Most units spent on one session before the clock is read, as many virtqueues as it may have.
const TURN: u32 = 4 * TAKE;
/// The same where the controller runs here: a few microseconds.
const TURN_HERE: u32 = 2 * TAKE_HERE;
/// What a unit costs at least. A clock that stands still lets nobody go on for ever.
const UNIT: Duration = Duration::from_nanos(250);
/// How much a session may have done before the clock is read again, in units: a request as most are is one, and what takes
/// longer is more ([`weight`]). Who has spent its turn goes on later, with the virtqueue at which it stopped.
struct Turn {
    left: u32,
}

impl Turn {
    /// Of so many units.
    fn of(units: u32) -> Self {
        Self { left: units }
    }

    /// How many units may be spent on one virtqueue that is given `most` at once.
    fn allows(&self, most: u32) -> u32 {
        self.left.min(most)
    }

    /// Whether nothing is left after so many more.
    fn spend(&mut self, units: u32) -> bool {
        self.left = self.left.saturating_sub(units);
        self.left == 0
    }
}

impl Pair {
    /// Most units for it from one virtqueue at once.
    #[inline]
    fn most(&self) -> u32 {
        if self.queues.runs_here() { TAKE_HERE } else { TAKE }
    }

    /// Most units for it from one session at once.
    #[inline]
    fn turn(&self) -> u32 {
        if self.queues.runs_here() { TURN_HERE } else { TURN }
    }
}

impl Worker {
    /// Rounds of turns: one, as a rule, and until `end` at most. Those who are in debt are passed over while others have work.
    pub(super) fn turns(&mut self, end: Time, time: &mut Time, clock: &dyn Fn() -> Time) -> bool {
        let mut worked = false;
        loop {
            for _ in 0..self.roster.groups() {
                let Some((group, may)) = self.roster.next_group() else { break };
                if may {
                    worked |= self.turn_group(group, end, time, clock);
                }
                if *time >= end {
                    break;
                }
            }
            // One more may have a turn each time, so this comes to an end.
            if worked || *time >= end || !self.roster.forgive_groups() {
                break;
            }
        }
        self.roster.end_turns();
        worked
    }

    /// A group's turn: its sessions', until it has used what the visit brought it, or none of them has anything to do.
    fn turn_group(&mut self, group: usize, end: Time, time: &mut Time, clock: &dyn Fn() -> Time) -> bool {
        let mut worked = false;
        loop {
            let mut some = false;
            for _ in 0..self.roster.sessions(group) {
                let Some((session, may)) = self.roster.next_session(group) else { break };
                let mut goes_on = may;
                while goes_on {
                    let units = self.serve(session, *time);
                    if units == 0 {
                        self.roster.forfeit(session);
                        break;
                    }
                    some = true;
                    let (session_may, group_may) = self.charge(session, units, time, clock);
                    if !group_may || *time >= end {
                        return true;
                    }
                    goes_on = session_may;
                }
            }
            worked |= some;
            // Each time one more may have a turn, so this comes to an end.
            if !some && !self.roster.forgive_sessions(group) {
                self.roster.forfeit_group(group);
                return worked;
            }
        }
    }

    /// Serves a session's virtqueues until the turn is spent. How many units that came to; 0: there is nothing to do.
    fn serve(&mut self, session: usize, now: Time) -> u32 {
        let Some(mut turn) = self.roster.pair_of(session).map(|id| {
            let pair = self.pairs.iter().find(|pair| pair.id == id);
            Turn::of(pair.map_or(TURN, Pair::turn))
        }) else {
            return 0;
        };
        let mut units = 0;
        let mut until = 1;
        for at in 0..self.roster.polled(session) {
            let Some(token) = self.roster.polled_at(session, at) else { break };
            let taken = self.take(token, &turn, now, false);
            units += taken;
            if turn.spend(taken) {
                until = at + 1;
                break;
            }
        }
        if units > 0 {
            self.finish_here(session, now);
        }
        self.roster.end_turn(session, until);
        units
    }

    /// Where a session's controller runs here, what was taken is done in its turn, its driver is told, and all of that is on its
    /// account.
    fn finish_here(&mut self, session: usize, now: Time) {
        let Some(id) = self.roster.pair_of(session) else { return };
        if let Some(at) = self.pairs.iter().position(|pair| pair.id == id && pair.queues.runs_here()) {
            self.turn_pair(at, now);
            self.roster.publish(now);
        }
    }

    /// Lets sessions that found their pair full have their turn, in the order in which they came, and by group.
    pub(super) fn serve_line(&mut self, at: usize, time: &mut Time, clock: &dyn Fn() -> Time) -> bool {
        let mut worked = false;
        let waiting = self.pairs.get(at).map_or(0, |p| p.line.len());
        for _ in 0..waiting {
            let Some(pair) = self.pairs.get_mut(at).filter(|p| p.has_room()) else { break };
            // A smaller turn than where there is room for all.
            let mut turn = Turn::of(pair.most());
            let Some(session) = self.roster.next_in(&mut pair.line) else { break };
            let mut units = 0;
            while let Some(token) = self.roster.next_waiting(session) {
                let taken = self.take(token, &turn, *time, true);
                units += taken;
                let waits = self.roster.get(token).is_some_and(|q| q.activity == Activity::InLine);
                if !waits {
                    self.roster.wake(token);
                }
                if turn.spend(taken) || waits {
                    break;
                }
            }
            if units > 0 {
                worked = true;
                self.charge(session, units, time, clock);
            }
            if let Some(pair) = self.pairs.get_mut(at)
                && self.roster.waits(session)
                && !pair.line.contains(&session)
            {
                pair.line.push_back(session);
            }
        }
        worked
    }

    /// A session pays for what was done since `time`. Whether it may go on, and whether its group may.
    fn charge(
        &mut self,
        session: usize,
        units: u32,
        time: &mut Time,
        clock: &dyn Fn() -> Time,
    ) -> (bool, bool) {
        let then = core::mem::replace(time, clock());
        let cost = nanos(*time - then).max(nanos(UNIT * units));
        self.roster.pay(session, cost)
    }

    /// Takes requests from one virtqueue and submits them, as many as the turn allows. While others stand in line for its
    /// pair, only if it is its turn there. How many units that came to.
    fn take(&mut self, token: usize, turn: &Turn, now: Time, its_turn: bool) -> u32 {
        let Some((queue, served)) = self.roster.with_session(token) else { return 0 };
        if served.lost {
            return self.fail_requests(token, now);
        }
        let Some(pair) = self.pairs.iter_mut().find(|p| p.id == queue.pair) else {
            queue.activity = Activity::Away;
            return 0;
        };
        if !pair.line.is_empty() && !its_turn {
            queue.stand_in_line(token, served, &mut pair.line);
            return 0;
        }
        if let Some(kicked) = queue.kicked.take() {
            self.longest_wait = self.longest_wait.max(now - kicked);
        }
        let most = turn.allows(pair.most());
        let mut taken = 0;
        let mut news = false;
        let mut full = false;
        let mut broken = None;
        while taken < most {
            let slow = match queue.virtqueue.next_fast() {
                Ok(request) => {
                    let spares = &mut self.spares;
                    let (queue, news) = (&mut *queue, &mut news);
                    let slow =
                        |pair: &mut QueuePair, request| submit(queue, pair, request, news, now, spares);
                    match pair.queues.submit_fast(request, now, slow) {
                        None => taken += 1,
                        Some(0) => {
                            full = true;
                            break;
                        }
                        Some(units) => taken += units,
                    }
                    continue;
                }
                Err(slow) => slow,
            };
            match queue.virtqueue.next_slow(slow, &mut self.spares) {
                Next::Request(request) => {
                    match submit(queue, &mut pair.queues, request, &mut news, now, &mut self.spares) {
                        0 => {
                            full = true;
                            break;
                        }
                        units => taken += units,
                    }
                }
                Next::Again => {
                    news = true;
                    taken += weight(queue, 0);
                }
                Next::Idle => break,
                Next::Broken(why) => {
                    broken = Some(why);
                    break;
                }
            }
        }
        if full {
            queue.stand_in_line(token, served, &mut pair.line);
        }
        if taken > 0 {
            queue.last_work = now;
        }
        if news {
            self.roster.has_news(token);
        }
        match broken {
            Some(why) => taken + u32::from(self.break_queue(token, why)),
            None => taken,
        }
    }

    /// Ends the requests of a virtqueue whose device is lost. How many.
    fn fail_requests(&mut self, token: usize, now: Time) -> u32 {
        let Some(queue) = self.roster.get_mut(token) else { return 0 };
        let mut taken = 0;
        let mut broken = None;
        while taken < TAKE {
            match queue.virtqueue.next(&mut self.spares) {
                Next::Request(request) => {
                    queue.virtqueue.put_back(request);
                    queue.virtqueue.cancel(&mut self.spares);
                }
                Next::Again => {}
                Next::Idle => break,
                Next::Broken(why) => {
                    broken = Some(why);
                    break;
                }
            }
            taken += weight(queue, 0);
        }
        if taken > 0 {
            queue.last_work = now;
            self.roster.has_news(token);
        }
        match broken {
            Some(why) => taken + u32::from(self.break_queue(token, why)),
            None => taken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_spent_by_all_virtqueues_together() {
        let mut turn = Turn::of(10);
        assert_eq!((turn.allows(8), turn.spend(8), turn.allows(8), turn.spend(2)), (8, false, 2, true));
        assert!(turn.spend(1), "one more than it had");
    }
}
