//! The turns of a pass: what sessions offer is taken, submitted, and where the controller runs here, done.

use core::time::Duration;

use nvme_platform::{Clock, Time};
use nvme_session::memory::Spares;
use nvme_session::queue::Next;
use nvme_session::virtqueue::Broken;

use super::quick::quick;
use super::roster::{Activity, Duty, Forgiven, Queue, Served};
use super::shares::{GROUP, OVERRUN, nanos, since};
use super::submit::{submit, weight};
use super::{Pair, Waits, Worker};

/// Most units spent on one virtqueue at once. A pass rings one doorbell for all of them, so many make it cheap.
const TAKE: u32 = 32;
/// The same where the controller runs on this worker, and a doorbell costs nothing. Few, so that a driver that offers many
/// hears of the first while the others are still worked on: the two overlap instead of waiting for each other.
const TAKE_HERE: u32 = 8;
/// The same where as many as [`MANY`] are offered: the driver has more to do meanwhile than to wait.
const TAKE_MORE: u32 = 2 * TAKE_HERE;
/// With fewer, a driver that sleeps is woken for the first of them while the rest is worked on.
const MANY: u32 = 64;
/// Most units spent on one session before the clock is read, as many virtqueues as it may have.
const TURN: u32 = 4 * TAKE;
/// The same where the controller runs here, while nobody else has work: ten microseconds.
const TURN_HERE: u32 = 2 * TAKE_HERE;
/// What a unit costs at least, in nanoseconds. A clock that stands still lets nobody go on for ever.
const UNIT: i64 = 250;
/// A turn that takes longer, in nanoseconds, may have been interrupted by the host.
const LONG: i64 = 50_000;

/// How much a session may have done before the clock is read again, in units: a request as most are is one, and what takes
/// longer is more ([`weight`]). Who has spent its turn goes on later, with the virtqueue at which it stopped.
pub(super) struct Turn {
    left: u32,
}

impl Turn {
    /// Of so many units.
    pub(super) fn of(units: u32) -> Self {
        Self { left: units }
    }

    /// How many units may be spent on one virtqueue that is given `most` at once.
    pub(super) fn allows(&self, most: u32) -> u32 {
        self.left.min(most)
    }

    /// Whether nothing is left after so many more.
    fn spend(&mut self, units: u32) -> bool {
        self.left = self.left.saturating_sub(units);
        self.is_spent()
    }

    /// Whether nothing is left.
    fn is_spent(&self) -> bool {
        self.left == 0
    }
}

impl Pair {
    /// Most units for it at once from one virtqueue that offers so many.
    #[inline]
    fn most(&self, offered: u16) -> u32 {
        match (self.queues.runs_here(), u32::from(offered) >= MANY) {
            (false, _) => TAKE,
            (true, false) => TAKE_HERE,
            (true, true) => TAKE_MORE,
        }
    }

    /// Most units for it from one session before the clock is read: fewer while others wait.
    #[inline]
    fn turn(&self, shared: bool) -> u32 {
        match (self.queues.runs_here(), shared) {
            (false, _) => TURN,
            (true, false) => TURN_HERE,
            (true, true) => TAKE_HERE,
        }
    }
}

impl Worker {
    /// Rounds of turns: one, as a rule, and until `end` at most. Those who are in debt are passed over while others have work.
    pub(super) fn turns(&mut self, end: Time, time: &mut Time, clock: &dyn Clock) -> bool {
        if let Some(session) = self.roster.alone() {
            return self.turn_alone(session, end, time, clock);
        }
        let mut waited = self.roster.groups_waited(*time);
        let (mut worked, mut later) = (false, false);
        loop {
            for _ in 0..self.roster.groups() {
                let Some((group, may)) = self.roster.next_group(waited) else { break };
                if may {
                    worked |= self.turn_group(group, end, &mut later, time, clock);
                }
                if *time >= end {
                    break;
                }
            }
            if worked || *time >= end {
                break;
            }
            match self.roster.forgive_groups(waited, self.is_patient(), *time) {
                // One more may have a turn each time, so this comes to an end.
                Forgiven::Now => waited = false,
                Forgiven::None => break,
                Forgiven::Later => {
                    later = true;
                    break;
                }
            }
        }
        self.roster.end_turns();
        worked || later
    }

    /// The turns of a session while nobody else is there, as long as a group's turn is: then others are looked for. Nobody pays for
    /// anything but long turns.
    fn turn_alone(&mut self, session: usize, end: Time, time: &mut Time, clock: &dyn Clock) -> bool {
        let mut left = GROUP;
        while left > 0 && *time < end {
            let units = self.serve(session, *time);
            if units == 0 {
                self.look_closely(Some(session), time, clock);
                break;
            }
            let then = core::mem::replace(time, clock.now());
            self.roster.settle(*time);
            let took = since(then, *time);
            if took > LONG {
                // Others may have come meanwhile.
                self.pay_for_long(session, then, *time, clock);
            }
            left -= cost(took, units);
        }
        self.roster.end_turns();
        left < GROUP
    }

    /// Whether who owes waits a while for others that are there, though nobody else has work: where the thread polls anyhow. Where
    /// it has no time to lose it may be in their way.
    fn is_patient(&self) -> bool {
        !self.poll_for.is_zero()
    }

    /// A group's turn: its sessions', until it has used what the visit brought it, or none of them has anything to do.
    /// `later` becomes true when those who owe wait for others.
    fn turn_group(
        &mut self,
        group: usize,
        end: Time,
        later: &mut bool,
        time: &mut Time,
        clock: &dyn Clock,
    ) -> bool {
        let mut waited = self.roster.sessions_waited(group, *time);
        let mut worked = false;
        loop {
            let mut some = false;
            for _ in 0..self.roster.sessions(group) {
                let Some((session, may)) = self.roster.next_session(group, waited) else { break };
                let mut goes_on = may;
                while goes_on {
                    let units = self.serve(session, *time);
                    if units == 0 {
                        self.looked = true;
                        self.look_closely(Some(session), time, clock);
                        self.roster.forfeit(session);
                        // Looks that take long, and are paid for, are no reason to look once more before anything else is done.
                        if *time >= end {
                            return worked | some;
                        }
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
            if some {
                waited = false;
                continue;
            }
            match self.roster.forgive_sessions(group, waited, self.is_patient(), *time) {
                // Each time one more may have a turn, so this comes to an end.
                Forgiven::Now => waited = false,
                Forgiven::None => {
                    self.roster.forfeit_group(group);
                    return worked;
                }
                Forgiven::Later => {
                    *later = true;
                    return worked;
                }
            }
        }
    }

    /// Serves a session's virtqueues until the turn is spent. How many units that came to; 0: there is nothing to do.
    #[inline(always)]
    fn serve(&mut self, session: usize, now: Time) -> u32 {
        if self.finds_nothing(session) { 0 } else { self.serve_some(session, now) }
    }

    /// Whether a look shows that there is nothing to do: so a turn in which nothing is done, as there is after each that has done something,
    /// is no more than the look.
    #[inline]
    fn finds_nothing(&mut self, session: usize) -> bool {
        let Some(only) = self.roster.only(session) else { return false };
        self.say_turn(Some(session));
        let nothing = self
            .roster
            .get_mut(only)
            .is_some_and(|queue| queue.kicked.is_none() && !queue.virtqueue.has_work());
        self.say_turn(None);
        nothing
    }

    #[inline(never)]
    fn serve_some(&mut self, session: usize, now: Time) -> u32 {
        let Some(id) = self.roster.pair_of(session) else { return 0 };
        let pair = self.pairs.iter().position(|pair| pair.id == id);
        let (mut turn, mut here) = (Turn::of(TURN), false);
        if let Some(pair) = pair.and_then(|at| self.pairs.get_mut(at)) {
            let shared = self.roster.is_shared(session);
            pair.queues.share(shared);
            (turn, here) = (Turn::of(pair.turn(shared)), pair.queues.runs_here());
        }
        let (mut units, mut until) = (0, 1);
        self.say_turn(Some(session));
        loop {
            let before = units;
            for at in 0..self.roster.polled(session) {
                let Some(token) = self.roster.polled_at(session, at) else { break };
                let taken = self.take(token, pair, &turn, now, false);
                units += taken;
                if turn.spend(taken) {
                    until = at + 1;
                    break;
                }
            }
            if units == before {
                break;
            }
            // Where a session's controller runs here, what was taken is done in its turn, its driver is told, and all of that is
            // on its account.
            if let Some(at) = pair.filter(|_| here) {
                self.turn_pair(at, now);
                self.roster.publish(now);
            }
            if !here || turn.is_spent() {
                break;
            }
        }
        self.roster.end_turn(session, until);
        self.say_turn(None);
        units
    }

    /// Whose turn it is, where somebody wants to know.
    fn say_turn(&self, session: Option<usize>) {
        let Some(turn_of) = &self.turn_of else { return };
        let key = session.and_then(|session| self.roster.key_of(session));
        // A place that is too small says nothing.
        let _ = turn_of.write_value(0, &key.map_or(0, |key| key.0).to_le());
    }

    /// Lets sessions that found their pair full have their turn, in the order in which they came, and by group.
    pub(super) fn serve_line(&mut self, at: usize, time: &mut Time, clock: &dyn Clock) -> bool {
        let mut worked = false;
        let waiting = self.pairs.get(at).map_or(0, |p| p.line.len());
        for _ in 0..waiting {
            let Some(pair) = self.pairs.get_mut(at).filter(|p| p.has_room()) else { break };
            // A smaller turn than where there is room for all.
            let mut turn = Turn::of(pair.most(0));
            let Some(session) = self.roster.next_in(&mut pair.line) else { break };
            let mut units = 0;
            while let Some(token) = self.roster.next_waiting(session) {
                let taken = self.take(token, Some(at), &turn, *time, true);
                units += taken;
                let activity = self.roster.get(token).map(|q| q.activity);
                let waits = activity == Some(Activity::InLine);
                if !waits && activity != Some(Activity::Held) {
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
    fn charge(&mut self, session: usize, units: u32, time: &mut Time, clock: &dyn Clock) -> (bool, bool) {
        let then = core::mem::replace(time, clock.now());
        self.roster.settle(*time);
        let took = since(then, *time);
        if took > LONG {
            return self.pay_for_long(session, then, *time, clock);
        }
        self.looked = false;
        self.roster.pay(session, cost(took, units))
    }

    /// The same for a turn that took long, as far as that is the session's doing.
    #[cold]
    pub(super) fn pay_for_long(
        &mut self,
        session: usize,
        then: Time,
        now: Time,
        clock: &dyn Clock,
    ) -> (bool, bool) {
        let took = since(then, now);
        let faults = self.faults;
        let lost = nanos(self.preempted(clock)).min(took);
        let own = took - lost;
        if own > OVERRUN {
            self.waits.was_long(now);
        }
        // Others were looked at as well since then: it may have been the memory of one of these. The next time that is known.
        let others = core::mem::take(&mut self.looked);
        if own > OVERRUN && self.faults != faults && others {
            self.measure_closely(now);
        } else if own > OVERRUN && self.faults != faults {
            self.overran.extend(self.roster.key_of(session).map(|key| (key, own.cast_unsigned())));
        }
        self.roster.pay(session, own)
    }

    /// A session was looked at, or something of it was done, that is nobody's cost. After a pass that took too long, time is taken of
    /// that as well.
    #[inline]
    pub(super) fn look_closely(&mut self, session: Option<usize>, time: &mut Time, clock: &dyn Clock) {
        if self.closely > 0 {
            let then = core::mem::replace(time, clock.now());
            self.looked = false;
            if since(then, *time) > OVERRUN
                && let Some(session) = session
            {
                self.pay_for_long(session, then, *time, clock);
            }
        }
    }

    /// For how long the host kept this thread from running since it was asked last: nobody pays for that.
    #[cold]
    pub(super) fn preempted(&mut self, clock: &dyn Clock) -> Duration {
        let now = clock.preempted();
        self.faults = clock.faults();
        now.saturating_sub(core::mem::replace(&mut self.preempted, now))
    }

    /// Takes requests from one virtqueue and submits them, as many as the turn allows. While others stand in line for its
    /// pair, which is in that place, only if it is its turn there. How many units that came to.
    fn take(&mut self, token: usize, pair: Option<usize>, turn: &Turn, now: Time, its_turn: bool) -> u32 {
        let Some((queue, served)) = self.roster.with_session(token) else { return 0 };
        if served.lost {
            return self.fail_requests(token, now);
        }
        if served.limited && queue.duty == Duty::Serve {
            return self.take_limited(token, pair, turn, now, its_turn);
        }
        if served.limited {
            // It is not held back.
            return self.take_begun(token, pair, turn, now, its_turn);
        }
        queue.piece = u64::MAX;
        let pair = pair.and_then(|at| self.pairs.get_mut(at));
        let taking = Taking { token, queue, served, pair, spares: &mut self.spares, waits: &mut self.waits };
        let taken = taking.some(turn, now, its_turn);
        self.tell_of(token, taken)
    }

    /// The same, whatever the session may do.
    pub(super) fn take_some(
        &mut self,
        token: usize,
        pair: Option<usize>,
        turn: &Turn,
        now: Time,
        its_turn: bool,
    ) -> u32 {
        let Some((queue, served)) = self.roster.with_session(token) else { return 0 };
        let pair = pair.and_then(|at| self.pairs.get_mut(at));
        let taking = Taking { token, queue, served, pair, spares: &mut self.spares, waits: &mut self.waits };
        let taken = taking.some(turn, now, its_turn);
        self.tell_of(token, taken)
    }

    /// What was taken is told of, where there is something to be told. How many units that came to.
    #[inline(always)]
    fn tell_of(&mut self, token: usize, taken: Taken) -> u32 {
        let Taken { units, news, broken } = taken;
        if news {
            self.roster.has_news(token);
        }
        match broken {
            Some(why) => units + u32::from(self.break_queue(token, why)),
            None => units,
        }
    }

    /// Ends the requests of a virtqueue whose device is lost. How many.
    fn fail_requests(&mut self, token: usize, now: Time) -> u32 {
        let Some(queue) = self.roster.get_mut(token) else { return 0 };
        queue.virtqueue.set_time(now);
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

/// A virtqueue from which requests are taken, with all that this takes.
struct Taking<'w> {
    token: usize,
    queue: &'w mut Queue,
    served: &'w mut Served,
    /// Its pair, if that is here.
    pair: Option<&'w mut Pair>,
    spares: &'w mut Spares,
    waits: &'w mut Waits,
}

/// What was taken: how many units, whether there is something to be published, and why the ring is broken, if it is.
struct Taken {
    units: u32,
    news: bool,
    broken: Option<Broken>,
}

impl Taking<'_> {
    /// Takes as many requests as the turn allows, and submits them.
    #[inline(always)]
    fn some(self, turn: &Turn, now: Time, its_turn: bool) -> Taken {
        let Self { token, queue, served, pair, spares, waits } = self;
        let Some(pair) = pair else {
            queue.go_away(served);
            return Taken { units: 0, news: false, broken: None };
        };
        if !pair.line.is_empty() && !its_turn {
            queue.stand_in_line(token, served, &mut pair.line);
            return Taken { units: 0, news: false, broken: None };
        }
        if let Some(kicked) = queue.kicked.take() {
            waits.took(kicked, now);
            // It is polled from now on.
            queue.virtqueue.ignore_kicks();
        }
        queue.virtqueue.set_time(now);
        let most = turn.allows(pair.most(queue.virtqueue.offered()));
        let mut taken = 0;
        let mut news = false;
        let mut full = false;
        let mut broken = None;
        while taken < most {
            let mut back = None;
            let (units, slow) = quick(&mut queue.virtqueue, &mut pair.queues, most - taken, now, &mut back);
            taken += units;
            let next = match (back, slow) {
                (Some(request), _) => Next::Request(request),
                (None, Some(slow)) => queue.virtqueue.next_slow(slow, spares),
                (None, None) => break,
            };
            match next {
                Next::Request(request) => {
                    match submit(queue, &mut pair.queues, request, &mut news, now, spares) {
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
            queue.units = queue.units.wrapping_add(taken);
            queue.virtqueue.show();
        }
        Taken { units: taken, news, broken }
    }
}

/// What a turn cost that took so long, and came to so many units.
fn cost(took: i64, units: u32) -> i64 {
    took.max(UNIT * i64::from(units))
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
