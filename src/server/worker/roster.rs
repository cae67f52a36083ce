//! Who is served: sessions with their virtqueues, and whose turn it is.
//!
//! Turns go by group, then by session (`shares`), then round robin by its virtqueues: however many virtqueues a session has,
//! it has one turn at a time, and one place in the line for a queue pair that is full. How long a turn may be is a [`Turn`](super::turns::Turn).
//!
//! * here: who comes and goes, and who is meant by a key or a token.
//! * `turns`: which virtqueues have turns. `lines`: which wait for a pair that is full. `rounds`: whose turn is next, and what each owes.
//! * `news`: whose used ring is to be published. `split`: a session goes to a worker of its own.

mod lines;
mod news;
mod rounds;
mod split;
mod turns;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::{Notify, Time};
use nvme_session::queue::{BlkQueue, QueueTag};
use slab::Slab;

use super::super::limits::Limits;
use super::super::message::{GroupKey, NewQueue, PairId, QueueKey, SessionKey};
use super::shares::{Group, Share};

pub(super) use rounds::Forgiven;

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
    /// Its session did all that it may for now: the time, or other limits.
    Held,
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
    /// Since when it is [`Held`](Activity::Held), if it is.
    held_since: Time,
    /// Most bytes of a request that are submitted at once.
    pub(super) piece: u64,
    /// Units of work since that was asked last.
    pub(super) units: u32,
    /// Its session is at home on another worker.
    pub(super) abroad: bool,
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
    /// It takes nothing new for now.
    held: bool,
    /// It may not do as much as it likes.
    pub(super) limited: bool,
    /// How much it may do.
    pub(super) limits: Arc<Limits>,
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
    /// Which of the sessions that have turns comes first when some are let sleep.
    sleeps_next: usize,
    /// Since when those groups that owe wait for others.
    waits_since: Option<Time>,
    /// How often a session was let out of a line.
    let_in: u64,
    /// Tokens of the virtqueues whose used ring has news.
    news: Vec<usize>,
    /// Tokens of those that were published in a turn, whose answers are counted by the clock behind it.
    told: Vec<usize>,
    /// How many virtqueues there have been: what tells the next from those.
    lives: u32,
}

impl Roster {
    /// Takes a virtqueue in. It is polled.
    pub(super) fn add(&mut self, new: NewQueue, now: Time) {
        let NewQueue { key, group, queue: mut virtqueue, pair, notify, limits, abroad } = new;
        let found = self.sessions.iter().find(|(_, s)| s.key == key.session).map(|(place, _)| place);
        let session = found.unwrap_or_else(|| self.enter(key.session, group, limits));
        let entry = self.queues.vacant_entry();
        let token = entry.key();
        self.lives = self.lives.wrapping_add(1);
        // Here its client pays for it. One that comes from another worker was touched.
        virtqueue.touch();
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
            held_since: now,
            piece: u64::MAX,
            units: 0,
            abroad,
            news: false,
            session,
        });
        if let Some(served) = self.sessions.get_mut(session) {
            served.queues.push(token);
        }
        self.wake(token);
    }

    /// A session comes, and its group with the first.
    fn enter(&mut self, key: SessionKey, group: GroupKey, limits: Arc<Limits>) -> usize {
        let found = self.groups.iter().find(|(_, g)| g.key == group).map(|(place, _)| place);
        let group = found.unwrap_or_else(|| self.groups.insert(Group::new(group)));
        if let Some(group) = self.groups.get_mut(group) {
            group.sessions += 1;
        }
        let (queues, polled, waiting) = (Vec::new(), Vec::new(), VecDeque::new());
        let share = Share::default();
        let (lost, held, withdrawn) = (false, false, false);
        let (changed, first) = (false, 0);
        let served = Served {
            key,
            group,
            share,
            lost,
            held,
            limited: limits.any(),
            limits,
            withdrawn,
            queues,
            polled,
            changed,
            first,
            waiting,
        };
        self.sessions.insert(served)
    }

    /// Lets a virtqueue go; its session too with the last one, and its group with the last session.
    pub(super) fn remove(&mut self, token: usize) -> Option<Queue> {
        let queue = self.queues.try_remove(token)?;
        self.news.retain(|t| *t != token);
        self.told.retain(|t| *t != token);
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

    /// The places of the sessions that had something done lately.
    pub(super) fn sessions_at_work(&self, now: Time, lately: Duration) -> impl Iterator<Item = usize> {
        let recent = move |token: &usize| self.get(*token).is_some_and(|q| now - q.last_work <= lately);
        self.sessions.iter().filter(move |(_, s)| s.queues.iter().any(recent)).map(|(place, _)| place)
    }

    /// Whether there is no virtqueue.
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
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

    /// Whether the session of a virtqueue has requests waiting in any.
    pub(super) fn has_more(&mut self, token: usize) -> bool {
        let served = self.queues.get(token).and_then(|queue| self.sessions.get(queue.session));
        let tokens = served.map(|served| served.queues.as_slice()).unwrap_or_default();
        let queues = &mut self.queues;
        tokens.iter().any(|token| queues.get_mut(*token).is_some_and(|queue| queue.virtqueue.has_work()))
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

    /// The session takes nothing new for now, or goes on.
    pub(super) fn set_held(&mut self, key: SessionKey, on: bool) {
        if let Some((_, served)) = self.sessions.iter_mut().find(|(_, s)| s.key == key) {
            served.held = on;
        }
    }

    /// Whether the session takes nothing new for now.
    pub(super) fn is_held(&self, key: SessionKey) -> bool {
        self.session(key).is_some_and(|served| served.held)
    }

    /// All virtqueues.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Queue> {
        self.queues.iter_mut().map(|(_, queue)| queue)
    }

    /// The session's device is lost.
    pub(super) fn lose(&mut self, key: SessionKey) {
        if let Some((_, served)) = self.sessions.iter_mut().find(|(_, s)| s.key == key) {
            served.lost = true;
        }
    }

    /// Whether a session is limited may have changed.
    pub(super) fn look_at_limits(&mut self, key: SessionKey) {
        if let Some((_, served)) = self.sessions.iter_mut().find(|(_, s)| s.key == key) {
            served.limited = served.limits.any();
        }
    }

    /// Which session is in that place.
    pub(super) fn key_of(&self, session: usize) -> Option<SessionKey> {
        self.sessions.get(session).map(|served| served.key)
    }

    /// The pair that serves a session: one for all its virtqueues.
    pub(super) fn pair_of(&self, session: usize) -> Option<PairId> {
        let token = self.sessions.get(session)?.queues.first()?;
        self.queues.get(*token).map(|queue| queue.pair)
    }
}

impl Served {
    /// What there is of it, for another roster. Only its virtqueues stay, which are taken away one after the other.
    fn take(&mut self) -> Self {
        let Self { key, group, lost, held, limited, ref limits, withdrawn, ref queues, .. } = *self;
        let limits = Arc::clone(limits);
        let share = core::mem::take(&mut self.share);
        let (queues, waiting) = (queues.clone(), core::mem::take(&mut self.waiting));
        let (polled, changed, first) = (Vec::new(), false, 0);
        Self {
            key,
            group,
            share,
            lost,
            held,
            limited,
            limits,
            withdrawn,
            queues,
            polled,
            changed,
            first,
            waiting,
        }
    }
}
