//! Who is served: sessions with their virtqueues, and whose turn it is.
//!
//! Turns go by group, then by session (`shares`), then round robin by its virtqueues: however many virtqueues a session has,
//! it has one turn at a time, and one place in the line for a queue pair that is full. How long a turn may be is a [`Turn`](super::turns::Turn).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use nvme_platform::{Clock, Notify, Time};
use nvme_session::queue::{BlkQueue, QueueTag};
use slab::Slab;

use super::super::message::{GroupKey, NewQueue, PairId, QueueKey, SessionKey};
use super::shares::{self, FREE, Group, Share, following, since};

/// What is still owed to a virtqueue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Duty {
    /// All that its driver asks.
    Serve,
    /// What was taken; then it is dropped.
    Stop,
    /// What was taken: its ring is broken, and nothing more is.
    Broken,
}

/// Whether a virtqueue has turns, and if not, what gives it some again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Activity {
    /// It has one in each turn of its session.
    Polled,
    /// It had nothing to do: a kick, or a completion.
    Asleep,
    /// Its pair was full: it waits, and its session stands in that pair's line.
    InLine,
    /// Its pair is not here: the pair.
    Away,
}

/// What came of the debts while nobody without one has work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Forgiven {
    /// Nobody owes anything.
    None,
    /// One more may have a turn.
    Now,
    /// Others may come back soon, and have the time until then.
    Later,
}

/// See [`Roster::forgive_groups`]. `back`: what the visits of the round brought, and is taken back.
#[inline(never)]
fn forgive(
    mut shares: impl FnMut(&mut dyn FnMut(&mut Share)),
    back: i64,
    patient: bool,
    now: Time,
    waits_since: &mut Option<Time>,
) -> Forgiven {
    let (mut least, mut others) = (i64::MAX, false);
    shares(&mut |share| match share.debt() {
        Some(debt) => least = least.min(debt),
        None => others = true,
    });
    if least == i64::MAX {
        return Forgiven::None;
    }
    if patient && others && least > FREE {
        shares(&mut |share| share.unvisit(back));
        *waits_since = Some(now);
        return Forgiven::Later;
    }
    shares(&mut |share| share.forgive(least));
    Forgiven::Now
}

/// A virtqueue.
pub(super) struct Queue {
    pub(super) key: QueueKey,
    pub(super) virtqueue: Box<BlkQueue>,
    pub(super) pair: PairId,
    pub(super) notify: Box<dyn Notify>,
    pub(super) duty: Duty,
    pub(super) activity: Activity,
    pub(super) last_work: Time,
    /// When its driver was seen to kick it, until what it kicked for is taken.
    pub(super) kicked: Option<Time>,
    /// It is in the list of those whose used ring has entries that were not published.
    pub(super) news: bool,
    /// Its session's place.
    session: usize,
}

/// A session, as far as this worker serves it.
pub(super) struct Served {
    key: SessionKey,
    /// Its group's place.
    group: usize,
    share: Share,
    /// Its device is lost: every request fails.
    pub(super) lost: bool,
    /// Its client is gone: what fails for the moment is not tried again.
    withdrawn: bool,
    /// The tokens of its virtqueues.
    queues: Vec<usize>,
    /// Of those that are [`Polled`](Activity::Polled).
    polled: Vec<usize>,
    /// Some of these are not, any more.
    changed: bool,
    /// Which of these is first in the next turn.
    first: usize,
    /// Of those that are [`InLine`](Activity::InLine), the one that waits longest first.
    waiting: VecDeque<usize>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Roster {
    queues: Slab<Queue>,
    sessions: Slab<Served>,
    groups: Slab<Group>,
    /// The places of the groups that have sessions with polled virtqueues.
    round: Vec<usize>,
    /// Which of these is visited next.
    next: usize,
    /// A session has no polled virtqueue any more.
    emptied: bool,
    /// Since when those groups that owe wait for others.
    waits_since: Option<Time>,
    /// How often a session was let out of a line.
    let_in: u64,
    /// Tokens of the virtqueues whose used ring has news.
    news: Vec<usize>,
    /// How many virtqueues there have been: what tells the next from those.
    lives: u32,
}

impl Roster {
    /// Takes a virtqueue in. It is polled.
    pub(super) fn add(&mut self, new: NewQueue, now: Time) {
        let NewQueue { key, group, queue: mut virtqueue, pair, notify } = new;
        let found = self.sessions.iter().find(|(_, s)| s.key == key.session).map(|(place, _)| place);
        let session = found.unwrap_or_else(|| self.enter(key.session, group));
        let entry = self.queues.vacant_entry();
        let token = entry.key();
        self.lives = self.lives.wrapping_add(1);
        virtqueue.enrol(QueueTag::new(token as u32, self.lives));
        let (duty, activity) = (Duty::Serve, Activity::Asleep);
        entry.insert(Queue {
            key,
            virtqueue,
            pair,
            notify,
            duty,
            activity,
            last_work: now,
            kicked: None,
            news: false,
            session,
        });
        if let Some(served) = self.sessions.get_mut(session) {
            served.queues.push(token);
        }
        self.wake(token);
    }

    /// A session comes, and its group with the first.
    fn enter(&mut self, key: SessionKey, group: GroupKey) -> usize {
        let found = self.groups.iter().find(|(_, g)| g.key == group).map(|(place, _)| place);
        let group = found.unwrap_or_else(|| self.groups.insert(Group::new(group)));
        if let Some(group) = self.groups.get_mut(group) {
            group.sessions += 1;
        }
        let (queues, polled, waiting) = (Vec::new(), Vec::new(), VecDeque::new());
        let share = Share::default();
        let (lost, withdrawn) = (false, false);
        let (changed, first) = (false, 0);
        let served = Served { key, group, share, lost, withdrawn, queues, polled, changed, first, waiting };
        self.sessions.insert(served)
    }

    /// Lets a virtqueue go; its session too with the last one, and its group with the last session.
    pub(super) fn remove(&mut self, token: usize) -> Option<Queue> {
        let queue = self.queues.try_remove(token)?;
        self.news.retain(|t| *t != token);
        let served = self.sessions.get_mut(queue.session)?;
        served.queues.retain(|t| *t != token);
        served.polled.retain(|t| *t != token);
        let (place, is_idle, is_over) = (served.group, served.polled.is_empty(), served.queues.is_empty());
        if is_over {
            self.sessions.remove(queue.session);
        }
        if let Some(group) = self.groups.get_mut(place) {
            if is_idle {
                group.turns.retain(|session| *session != queue.session);
            }
            group.sessions -= usize::from(is_over);
            if group.turns.is_empty() {
                self.round.retain(|group| *group != place);
            }
            if group.sessions == 0 {
                self.groups.remove(place);
            }
        }
        Some(queue)
    }

    #[inline]
    pub(super) fn get(&self, token: usize) -> Option<&Queue> {
        self.queues.get(token)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, token: usize) -> Option<&mut Queue> {
        self.queues.get_mut(token)
    }

    /// A virtqueue and its session.
    #[inline]
    pub(super) fn with_session(&mut self, token: usize) -> Option<(&mut Queue, &mut Served)> {
        let queue = self.queues.get_mut(token)?;
        let served = self.sessions.get_mut(queue.session)?;
        Some((queue, served))
    }

    /// The token of a virtqueue.
    pub(super) fn token(&self, key: QueueKey) -> Option<usize> {
        self.queues.iter().find(|(_, q)| q.key == key).map(|(token, _)| token)
    }

    /// The tokens of a session's virtqueues.
    pub(super) fn tokens_of(&self, session: SessionKey) -> Vec<usize> {
        self.session(session).map(|served| served.queues.clone()).unwrap_or_default()
    }

    /// The tokens of the virtqueues that a pair serves.
    pub(super) fn tokens_on(&self, pair: PairId) -> Vec<usize> {
        self.queues.iter().filter(|(_, q)| q.pair == pair).map(|(token, _)| token).collect()
    }

    fn session(&self, key: SessionKey) -> Option<&Served> {
        self.sessions.iter().find(|(_, s)| s.key == key).map(|(_, served)| served)
    }

    /// The session's client is gone.
    pub(super) fn withdraw(&mut self, key: SessionKey) {
        if let Some((_, served)) = self.sessions.iter_mut().find(|(_, s)| s.key == key) {
            served.withdrawn = true;
        }
    }

    /// Whether a request of this virtqueue that fails for the moment is still to be done.
    pub(super) fn is_wanted(&self, token: usize) -> bool {
        let queue = self.queues.get(token).filter(|queue| queue.duty != Duty::Broken);
        let served = queue.and_then(|queue| self.sessions.get(queue.session));
        served.is_some_and(|served| !served.lost && !served.withdrawn)
    }

    /// The session's device is lost.
    pub(super) fn lose(&mut self, key: SessionKey) {
        if let Some((_, served)) = self.sessions.iter_mut().find(|(_, s)| s.key == key) {
            served.lost = true;
        }
    }

    /// Gives a virtqueue turns, whatever it waited for.
    pub(super) fn wake(&mut self, token: usize) {
        let Some(queue) = self.queues.get_mut(token) else { return };
        if queue.activity == Activity::Polled {
            return;
        }
        queue.virtqueue.ignore_kicks();
        queue.activity = Activity::Polled;
        if let Some(served) = self.sessions.get_mut(queue.session) {
            if served.polled.is_empty()
                && let Some(group) = self.groups.get_mut(served.group)
            {
                if group.turns.is_empty() {
                    self.round.push(served.group);
                }
                // After a turn in which it came to wait for its pair it is still there.
                if !group.turns.contains(&queue.session) {
                    group.turns.push(queue.session);
                }
            }
            served.polled.push(token);
        }
    }

    /// Its used ring has entries to be published.
    #[inline]
    pub(super) fn has_news(&mut self, token: usize) {
        if let Some(queue) = self.queues.get_mut(token)
            && !core::mem::replace(&mut queue.news, true)
        {
            self.news.push(token);
        }
    }

    /// A request of it has ended.
    #[inline(never)]
    pub(super) fn has_ended(&mut self, token: usize) {
        self.has_news(token);
        if self.queues.get(token).is_some_and(|q| q.activity == Activity::Asleep) {
            self.wake(token);
        }
    }

    /// Publishes what there is, and tells drivers.
    pub(super) fn publish(&mut self, now: Time) {
        for token in self.news.drain(..) {
            if let Some(queue) = self.queues.get_mut(token) {
                queue.news = false;
                queue.last_work = now;
                if queue.virtqueue.publish() {
                    queue.notify.used();
                }
            }
        }
    }

    /// As [`publish`](Self::publish), outside of a turn: each session pays for what telling its driver takes.
    pub(super) fn publish_on_account(&mut self, time: &mut Time, clock: &dyn Clock) {
        for at in 0..self.news.len() {
            let Some(queue) = self.news.get(at).and_then(|token| self.queues.get_mut(*token)) else {
                continue;
            };
            queue.news = false;
            queue.last_work = *time;
            if queue.virtqueue.publish() {
                queue.notify.used();
                let (session, then) = (queue.session, *time);
                *time = clock.now();
                self.pay(session, since(then, *time));
            }
        }
        self.news.clear();
    }

    /// The next virtqueue of a session that waits for its pair. It waits no more, and has no turns yet.
    pub(super) fn next_waiting(&mut self, session: usize) -> Option<usize> {
        let token = self.sessions.get_mut(session)?.waiting.pop_front()?;
        if let Some(queue) = self.queues.get_mut(token) {
            queue.activity = Activity::Asleep;
        }
        Some(token)
    }

    /// Whether a virtqueue of the session waits for its pair.
    pub(super) fn waits(&self, session: usize) -> bool {
        self.sessions.get(session).is_some_and(|served| !served.waiting.is_empty())
    }

    /// A virtqueue need not wait for its pair any more. The session, when it is to leave the line.
    pub(super) fn leave_line(&mut self, token: usize) -> Option<usize> {
        let queue = self.queues.get_mut(token).filter(|q| q.activity == Activity::InLine)?;
        queue.activity = Activity::Asleep;
        let session = queue.session;
        let served = self.sessions.get_mut(session)?;
        served.waiting.retain(|t| *t != token);
        served.waiting.is_empty().then_some(session)
    }

    /// How many groups have a turn in a round.
    pub(super) fn groups(&self) -> usize {
        self.round.len()
    }

    /// The session that alone has polled virtqueues, if one does. It owes nothing then.
    #[inline]
    pub(super) fn alone(&mut self) -> Option<usize> {
        let [group] = self.round[..] else { return None };
        let group = self.groups.get_mut(group)?;
        let [session] = group.turns[..] else { return None };
        group.share = Share::default();
        self.sessions.get_mut(session)?.share = Share::default();
        Some(session)
    }

    /// Visits the next group: its place, and whether it may have a turn. While those who owe wait for others, a visit
    /// brings them nothing.
    pub(super) fn next_group(&mut self, waits: bool) -> Option<(usize, bool)> {
        let place = following(&self.round, &mut self.next)?;
        Some((place, self.groups.get_mut(place)?.share.visit(shares::GROUP, waits)))
    }

    /// How many sessions of a group have a turn in a round of it.
    pub(super) fn sessions(&self, group: usize) -> usize {
        self.groups.get(group).map_or(0, |group| group.turns.len())
    }

    /// Visits the next session of a group, likewise.
    pub(super) fn next_session(&mut self, group: usize, waits: bool) -> Option<(usize, bool)> {
        let place = self.groups.get_mut(group)?.next()?;
        Some((place, self.sessions.get_mut(place)?.share.visit(shares::SESSION, waits)))
    }

    /// A session pays for a turn, and its group with it. Whether each of them may go on.
    pub(super) fn pay(&mut self, session: usize, cost: i64) -> (bool, bool) {
        let Some(served) = self.sessions.get_mut(session) else { return (false, false) };
        let Some(group) = self.groups.get_mut(served.group) else { return (false, false) };
        served.share.pay(cost);
        group.share.pay(cost);
        (served.share.may(), group.share.may())
    }

    /// A session has nothing to do for now, and keeps no time for later.
    pub(super) fn forfeit(&mut self, session: usize) {
        if let Some(served) = self.sessions.get_mut(session) {
            served.share.forfeit();
        }
    }

    /// No session of a group has anything to do for now, and the group keeps no time for later.
    pub(super) fn forfeit_group(&mut self, group: usize) {
        if let Some(group) = self.groups.get_mut(group) {
            group.share.forfeit();
        }
    }

    /// No group without a debt has work, after a round in which those who owed waited or did not: forgives them as much as
    /// lets one more have a turn. If that is more than [`FREE`], and a group that owes nothing is there, they wait for it.
    pub(super) fn forgive_groups(&mut self, waited: bool, patient: bool, now: Time) -> Forgiven {
        let groups = &mut self.groups;
        let shares = |each: &mut dyn FnMut(&mut Share)| {
            let places = self.round.iter();
            places.for_each(|place| groups.get_mut(*place).into_iter().for_each(|g| each(&mut g.share)));
        };
        let back = if waited { 0 } else { shares::GROUP };
        forgive(shares, back, patient, now, &mut self.waits_since)
    }

    /// The same among the sessions of a group.
    pub(super) fn forgive_sessions(
        &mut self,
        group: usize,
        waited: bool,
        patient: bool,
        now: Time,
    ) -> Forgiven {
        let Some(group) = self.groups.get_mut(group) else { return Forgiven::None };
        let (sessions, turns) = (&mut self.sessions, &group.turns);
        let shares = |each: &mut dyn FnMut(&mut Share)| {
            turns
                .iter()
                .for_each(|place| sessions.get_mut(*place).into_iter().for_each(|s| each(&mut s.share)));
        };
        let back = if waited { 0 } else { shares::SESSION };
        forgive(shares, back, patient, now, &mut group.waits_since)
    }

    /// Groups that owe waited until now: that pays for as much. Whether any did.
    pub(super) fn groups_waited(&mut self, now: Time) -> bool {
        let Some(begin) = self.waits_since.take() else { return false };
        for place in &self.round {
            if let Some(group) = self.groups.get_mut(*place) {
                group.share.forgive(since(begin, now));
            }
        }
        true
    }

    /// The same for the sessions of a group.
    pub(super) fn sessions_waited(&mut self, group: usize, now: Time) -> bool {
        let Some(group) = self.groups.get_mut(group) else { return false };
        let Some(begin) = group.waits_since.take() else { return false };
        for place in &group.turns {
            if let Some(served) = self.sessions.get_mut(*place) {
                served.share.forgive(since(begin, now));
            }
        }
        true
    }

    /// Whether others have work as well as the sessions of this one's group, or had a moment ago: another group, or another
    /// session of it.
    pub(super) fn is_shared(&self, session: usize) -> bool {
        let group = self.sessions.get(session).and_then(|served| self.groups.get(served.group));
        self.round.len() > 1 || group.is_some_and(|group| group.turns.len() > 1)
    }

    /// Of the sessions in a line, the one to be let out: of the group whose turn there is longest ago, the first.
    pub(super) fn next_in(&mut self, line: &mut VecDeque<usize>) -> Option<usize> {
        let group = |session: &usize| self.sessions.get(*session).and_then(|s| self.groups.get(s.group));
        let since = line.iter().map(|session| group(session).map_or(0, |g| g.let_in));
        let (at, _) = since.enumerate().min_by_key(|(_, since)| *since)?;
        let session = line.remove(at)?;
        self.let_in += 1;
        if let Some(served) = self.sessions.get(session)
            && let Some(group) = self.groups.get_mut(served.group)
        {
            group.let_in = self.let_in;
        }
        Some(session)
    }

    /// The pair that serves a session: one for all its virtqueues.
    pub(super) fn pair_of(&self, session: usize) -> Option<PairId> {
        let token = self.sessions.get(session)?.queues.first()?;
        self.queues.get(*token).map(|queue| queue.pair)
    }

    /// How many virtqueues have a turn in this turn of their session.
    pub(super) fn polled(&self, session: usize) -> usize {
        self.sessions.get(session).map_or(0, |served| served.polled.len())
    }

    /// The virtqueue whose turn it is, `at` turns after the session's first.
    pub(super) fn polled_at(&self, session: usize, at: usize) -> Option<usize> {
        let served = self.sessions.get(session)?;
        let (at, count) = (served.first + at, served.polled.len());
        served.polled.get(if at < count { at } else { at.checked_rem(count)? }).copied()
    }

    /// A session had its turn, and another virtqueue is first next time: the one behind those that were served until the
    /// turn was spent, else the second.
    pub(super) fn end_turn(&mut self, session: usize, served_until: usize) {
        let Some(served) = self.sessions.get_mut(session) else { return };
        served.first += served_until;
        if served.first >= served.polled.len() {
            served.first = served.first.checked_rem(served.polled.len()).unwrap_or(0);
        }
        if core::mem::take(&mut served.changed) {
            let queues = &self.queues;
            served.polled.retain(|token| queues.get(*token).is_some_and(|q| q.activity == Activity::Polled));
            served.first = 0;
            self.emptied |= served.polled.is_empty();
        }
    }

    /// Who has no polled virtqueue any more has no turns.
    pub(super) fn end_turns(&mut self) {
        if !core::mem::take(&mut self.emptied) {
            return;
        }
        let (sessions, groups) = (&self.sessions, &mut self.groups);
        self.round.retain(|place| {
            let Some(group) = groups.get_mut(*place) else { return false };
            group.turns.retain(|place| sessions.get(*place).is_some_and(|s| !s.polled.is_empty()));
            !group.turns.is_empty()
        });
    }

    /// Whether more than one virtqueue is polled.
    pub(super) fn is_crowded(&self) -> bool {
        let groups = self.round.iter().filter_map(|place| self.groups.get(*place));
        let sessions = groups.flat_map(|group| &group.turns).filter_map(|place| self.sessions.get(*place));
        sessions.map(|served| served.polled.len()).sum::<usize>() > 1
    }

    /// Lets virtqueues without work ask for kicks, those of which `which` says so. True when none is polled any more.
    pub(super) fn let_sleep(&mut self, which: impl Fn(&Queue) -> bool) -> bool {
        let (groups, sessions, queues) = (&self.groups, &mut self.sessions, &mut self.queues);
        let groups = self.round.iter().filter_map(|place| groups.get(*place));
        for place in groups.flat_map(|group| &group.turns) {
            let Some(served) = sessions.get_mut(*place) else { continue };
            served.polled.retain(|token| {
                let Some(queue) = queues.get_mut(*token) else { return false };
                let idle = match queue.duty {
                    Duty::Serve | Duty::Stop => which(queue),
                    Duty::Broken => true,
                };
                // True from `listen` means that something came before the driver could know that we want kicks.
                if !idle || queue.virtqueue.listen() {
                    return true;
                }
                queue.activity = Activity::Asleep;
                false
            });
        }
        self.emptied = true;
        self.end_turns();
        self.round.is_empty()
    }
}

impl Queue {
    /// Its pair is not here.
    #[cold]
    pub(super) fn go_away(&mut self, served: &mut Served) {
        self.activity = Activity::Away;
        served.changed = true;
    }

    /// Waits for its pair, in whose line its session stands then.
    pub(super) fn stand_in_line(&mut self, token: usize, served: &mut Served, line: &mut VecDeque<usize>) {
        if self.activity == Activity::InLine {
            return;
        }
        self.activity = Activity::InLine;
        served.changed = true;
        if served.waiting.is_empty() {
            line.push_back(self.session);
        }
        served.waiting.push_back(token);
    }
}
