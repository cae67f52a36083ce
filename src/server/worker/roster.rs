//! Who is served: sessions with their virtqueues, and whose turn it is.
//!
//! Turns go by session, then round robin by its virtqueues: however many virtqueues a session has, it has one turn in a
//! pass, and one place in the line for a queue pair that is full. What a turn may cost is a [`Turn`].

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use nvme_platform::{Notify, Time};
use nvme_session::queue::{BlkQueue, QueueTag};
use slab::Slab;

use super::super::message::{NewQueue, PairId, QueueKey, SessionKey};

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

/// A virtqueue.
pub(super) struct Queue {
    pub(super) key: QueueKey,
    pub(super) virtqueue: Box<BlkQueue>,
    pub(super) pair: PairId,
    pub(super) notify: Box<dyn Notify>,
    pub(super) duty: Duty,
    pub(super) activity: Activity,
    pub(super) last_work: Time,
    /// It is in the list of those whose used ring has entries that were not published.
    pub(super) news: bool,
    /// Its session's place.
    session: usize,
}

/// A session, as far as this worker serves it.
pub(super) struct Served {
    key: SessionKey,
    /// Its device is lost: every request fails.
    pub(super) lost: bool,
    /// Its client is gone: what fails for the moment is not tried again.
    withdrawn: bool,
    /// The tokens of its virtqueues.
    queues: Vec<usize>,
    /// Of those that are [`Polled`](Activity::Polled).
    polled: Vec<usize>,
    /// Which of these is first in the next turn.
    first: usize,
    /// Of those that are [`InLine`](Activity::InLine), the one that waits longest first.
    waiting: VecDeque<usize>,
}

/// What a session may have done in one pass. Whatever a session's time is to be measured by is counted here: who has spent
/// its turn goes on in the next pass, with the virtqueue at which it stopped.
pub(super) struct Turn {
    left: u32,
}

impl Turn {
    /// Of so many requests.
    pub(super) fn of(requests: u32) -> Self {
        Self { left: requests }
    }

    /// How many requests may be taken from one virtqueue that is given `most` at once.
    pub(super) fn allows(&self, most: u32) -> u32 {
        self.left.min(most)
    }

    /// Whether nothing is left after so many more.
    pub(super) fn spend(&mut self, requests: u32) -> bool {
        self.left = self.left.saturating_sub(requests);
        self.left == 0
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Roster {
    queues: Slab<Queue>,
    sessions: Slab<Served>,
    /// The places of the sessions that have polled virtqueues.
    turns: Vec<usize>,
    /// Which of these is first in the next pass.
    first: usize,
    /// Tokens of the virtqueues whose used ring has news.
    news: Vec<usize>,
    /// How many virtqueues there have been: what tells the next from those.
    lives: u32,
}

impl Roster {
    /// Takes a virtqueue in. It is polled.
    pub(super) fn add(&mut self, new: NewQueue, now: Time) {
        let NewQueue { key, queue: mut virtqueue, pair, notify } = new;
        let found = self.sessions.iter().find(|(_, s)| s.key == key.session).map(|(place, _)| place);
        let session = found.unwrap_or_else(|| {
            let (queues, polled, waiting) = (Vec::new(), Vec::new(), VecDeque::new());
            self.sessions.insert(Served {
                key: key.session,
                lost: false,
                withdrawn: false,
                queues,
                polled,
                first: 0,
                waiting,
            })
        });
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
            news: false,
            session,
        });
        if let Some(served) = self.sessions.get_mut(session) {
            served.queues.push(token);
        }
        self.wake(token);
    }

    /// Lets a virtqueue go; its session too with the last one.
    pub(super) fn remove(&mut self, token: usize) -> Option<Queue> {
        let queue = self.queues.try_remove(token)?;
        self.news.retain(|t| *t != token);
        let served = self.sessions.get_mut(queue.session)?;
        served.queues.retain(|t| *t != token);
        served.polled.retain(|t| *t != token);
        if served.polled.is_empty() {
            self.turns.retain(|place| *place != queue.session);
        }
        if served.queues.is_empty() {
            self.sessions.remove(queue.session);
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
            if served.polled.is_empty() {
                self.turns.push(queue.session);
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

    /// How many sessions have a turn in this pass.
    pub(super) fn turns(&self) -> usize {
        self.turns.len()
    }

    /// The session whose turn it is, `at` turns after the first.
    pub(super) fn turn(&self, at: usize) -> Option<usize> {
        self.turns.get((self.first + at) % self.turns.len().max(1)).copied()
    }

    /// How many virtqueues have a turn in this turn of their session.
    pub(super) fn polled(&self, session: usize) -> usize {
        self.sessions.get(session).map_or(0, |served| served.polled.len())
    }

    /// The virtqueue whose turn it is, `at` turns after the session's first.
    pub(super) fn polled_at(&self, session: usize, at: usize) -> Option<usize> {
        let served = self.sessions.get(session)?;
        served.polled.get((served.first + at) % served.polled.len().max(1)).copied()
    }

    /// A session had its turn, and another virtqueue is first next time: the one behind those that were served until the
    /// turn was spent, else the second.
    pub(super) fn end_turn(&mut self, session: usize, served_until: usize) {
        let Some(served) = self.sessions.get_mut(session) else { return };
        served.first = (served.first + served_until) % served.polled.len().max(1);
        let queues = &self.queues;
        let before = served.polled.len();
        served.polled.retain(|token| queues.get(*token).is_some_and(|q| q.activity == Activity::Polled));
        if served.polled.len() < before {
            served.first = 0;
        }
    }

    /// All had their turns, and another session is first next time, so that a full pair starves nobody.
    pub(super) fn end_turns(&mut self) {
        let sessions = &self.sessions;
        self.turns.retain(|place| sessions.get(*place).is_some_and(|served| !served.polled.is_empty()));
        self.first = if self.first + 1 < self.turns.len() { self.first + 1 } else { 0 };
    }

    /// Whether more than one virtqueue is polled.
    pub(super) fn is_crowded(&self) -> bool {
        let first = self.turns.first().and_then(|place| self.sessions.get(*place));
        self.turns.len() > 1 || first.is_some_and(|served| served.polled.len() > 1)
    }

    /// Lets virtqueues without work ask for kicks, those of which `which` says so. True when none is polled any more.
    pub(super) fn let_sleep(&mut self, which: impl Fn(&Queue) -> bool) -> bool {
        for place in &self.turns {
            let Some(served) = self.sessions.get_mut(*place) else { continue };
            let queues = &mut self.queues;
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
        self.end_turns();
        self.turns.is_empty()
    }
}

impl Queue {
    /// Waits for its pair, in whose line its session stands then.
    pub(super) fn stand_in_line(&mut self, token: usize, served: &mut Served, line: &mut VecDeque<usize>) {
        if self.activity == Activity::InLine {
            return;
        }
        self.activity = Activity::InLine;
        if served.waiting.is_empty() {
            line.push_back(self.session);
        }
        served.waiting.push_back(token);
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
