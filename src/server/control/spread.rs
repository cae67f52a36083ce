//! Virtqueues of one session on several workers: which of them go elsewhere, when, and when they come home.
//!
//! A worker says when it has much to do, and which virtqueue it could do without; control knows who has not. A virtqueue goes with nothing
//! in flight: its worker takes nothing more from it, hands it back when the last request has ended, and control hands it to the other, on a
//! pair that the session has there for as long as a queue of it is there.

use core::time::Duration;

use nvme_platform::{Time, debug};

use super::super::message::{PairId, QueueKey, Returned, SessionKey, ToWorker};
use super::session::{Abroad, Session, SessionPair};
use super::{Control, PAIR_DEPTH};

/// For how long a session's queues stay at home when others needed the time where one was, or there was no pair.
const STAYS: Duration = Duration::from_secs(5);
/// Of all pairs of a controller, one in so many is for sessions that come, and one at least.
const SPARE: usize = 4;

impl Control {
    /// A worker has much to do, or has not any more.
    pub(super) fn worker_busy(&mut self, worker: usize, busy: bool) {
        if let Some(is) = self.busy.get_mut(worker) {
            *is = busy;
        }
    }

    /// A worker could do without a virtqueue that has much to do.
    pub(super) fn crowded(&mut self, worker: usize, key: QueueKey, now: Time) {
        let Some(session) = self.may_travel(key.session, now) else { return };
        if worker != session.worker || session.running() < 2 || !session.runs(key.index, worker) {
            return;
        }
        let Some(to) = self.room_elsewhere(key.session) else { return };
        let Some(session) = self.sessions.get(&key.session) else { return };
        let made = session.pair_on(to).is_some();
        let asked = session.abroad.iter().any(|abroad| abroad.worker == to);
        match (made, asked) {
            (true, _) => self.depart(key, to),
            // It is being made.
            (false, true) => {}
            (false, false) => self.pair_abroad(key, to, now),
        }
    }

    /// The session, when queues of it may go elsewhere.
    fn may_travel(&self, key: SessionKey, now: Time) -> Option<&Session> {
        let session = self.sessions.get(&key)?;
        let serves = !session.is_leaving() && !session.is_lost() && !session.is_held();
        let settled = self.units.get(usize::from(session.controller())).is_some_and(|u| !u.is_settling());
        let at_home = matches!(session.pair, SessionPair::Has(_)) && now >= session.stays_until;
        Some(session).filter(|_| serves && settled && at_home)
    }

    /// A worker that has not much to do: one where the session has a pair, or the one with the fewest sessions.
    fn room_elsewhere(&self, key: SessionKey) -> Option<usize> {
        let session = self.sessions.get(&key)?;
        let free = |worker: &usize| *worker != session.worker && self.busy.get(*worker) == Some(&false);
        let abroad = session.abroad.iter().map(|abroad| abroad.worker).find(free);
        let least = (0..self.loads.len()).filter(free).min_by_key(|worker| self.loads.get(*worker));
        abroad.or(least)
    }

    /// Finds a pair for a session on a worker where it has none, for a virtqueue to go there.
    fn pair_abroad(&mut self, key: QueueKey, to: usize, now: Time) {
        let Some(controller) = self.sessions.get(&key.session).map(Session::controller) else { return };
        let kept = self.kept_for_static(controller);
        let Some(unit) = self.units.get_mut(usize::from(controller)) else { return };
        let free = usize::from(unit.controller().pairs_free());
        let (mut all, mut idle, mut there) = (free, free, None);
        for (queue, pair) in unit.serving_pairs() {
            all += 1;
            idle += usize::from(pair.users() == 0);
            if pair.users() == 0 && pair.is_for(to) {
                there = Some(queue);
            }
        }
        // Sessions that come later have one, too.
        let enough = idle > kept + (all / SPARE).max(1);
        let pair = match there {
            _ if !enough => None,
            Some(queue) => unit.join(queue).map(|_| Ok(PairId { controller, queue })),
            // A number is told from all others that wait by its low half.
            None if free == 0 => None,
            None => {
                let asked = unit.controller_mut().create_pair(PAIR_DEPTH, key.session.0 as u32);
                asked.ok().map(|()| Err(key.index))
            }
        };
        let Some(session) = self.sessions.get_mut(&key.session) else { return };
        let Some(pair) = pair else {
            session.stays_until = now + STAYS;
            return;
        };
        session.abroad.push(Abroad { worker: to, pair });
        self.more = true;
        if pair.is_ok() {
            self.settled_abroad(key, to);
        }
    }

    /// A session has a pair on another worker: the virtqueue goes there for which it was asked.
    fn settled_abroad(&mut self, key: QueueKey, to: usize) {
        if let Some(load) = self.loads.get_mut(to) {
            *load += 1;
        }
        let goes = self
            .sessions
            .get(&key.session)
            .is_some_and(|s| s.runs(key.index, s.worker) && !s.is_leaving() && !s.is_lost() && !s.is_held());
        if goes {
            self.depart(key, to);
        } else {
            self.come_home(key.session, to);
        }
    }

    /// The session that asked for a pair on another worker under this token, and which worker.
    pub(super) fn wanting_abroad(&self, token: u32) -> Option<(SessionKey, usize)> {
        let wants = |session: &Session| session.abroad.iter().find(|abroad| abroad.pair.is_err()).copied();
        let of = self.sessions.iter().filter(|(key, _)| key.0 as u32 == token);
        of.filter_map(|(key, session)| Some((*key, wants(session)?.worker))).next()
    }

    /// The controller made the pair that a session asked for on that worker.
    pub(super) fn give_pair_abroad(&mut self, session: SessionKey, worker: usize, id: PairId) {
        let abroad = self.sessions.get_mut(&session).into_iter().flat_map(|s| s.abroad.iter_mut());
        let Some(abroad) = abroad.into_iter().find(|a| a.worker == worker) else { return };
        let Err(index) = core::mem::replace(&mut abroad.pair, Ok(id)) else { return };
        if let Some((unit, _)) = self.unit(id.controller) {
            unit.join(id.queue);
        }
        self.settled_abroad(QueueKey { session, index }, worker);
    }

    /// The controller could not make it.
    pub(super) fn no_pair_abroad(&mut self, session: SessionKey, worker: usize, now: Time) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.abroad.retain(|abroad| abroad.worker != worker);
            session.stays_until = now + STAYS;
        }
    }

    /// A virtqueue had better be at home: it has little to do, or others need the time.
    pub(super) fn go_home(&mut self, worker: usize, key: QueueKey, crowds: bool, now: Time) {
        let Some(session) = self.sessions.get_mut(&key.session) else { return };
        if worker == session.worker || !session.runs(key.index, worker) || session.is_leaving() {
            return;
        }
        if crowds {
            session.stays_until = now + STAYS;
        }
        let to = session.worker;
        self.depart(key, to);
    }

    /// Asks the worker that has a virtqueue for it.
    fn depart(&mut self, key: QueueKey, to: usize) {
        let from = self.sessions.get_mut(&key.session).and_then(|session| session.leaves(key.index, to));
        if let Some(from) = from {
            debug!("session {}: queue {} goes from worker {} to {}", key.session.0, key.index, from, to);
            self.tell(from, ToWorker::GiveBack(key));
        }
    }

    /// A virtqueue came back from its worker, or goes on there.
    pub(super) fn given_back(&mut self, worker: usize, key: QueueKey, returned: Option<Returned>) {
        let arrived = self.sessions.get_mut(&key.session).map(|s| s.arrives(key.index, worker, returned));
        let Some((came, notify)) = arrived else { return };
        if came {
            self.launch_queues(key.session);
        }
        let at = self.sessions.get(&key.session).and_then(|session| session.worker_of(key.index));
        match (notify.new, at) {
            // It goes on where it was, and hears of that there.
            (Some(new), Some(at)) if !came => self.tell(at, ToWorker::SetNotify(key, new)),
            (Some(_), _) => self.events.push_back(super::Event::NotifySet(key.session, key.index)),
            (None, _) => {}
        }
        if let (true, Some(at)) = (came, at) {
            if self.sessions.get(&key.session).is_some_and(Session::is_lost) {
                self.tell(at, ToWorker::Fail(key.session));
            }
            if let Some(why) = notify.broken {
                self.tell(at, ToWorker::Break(key.session, why));
            }
        }
        self.come_home(key.session, worker);
    }

    /// A session lets go of its pair on a worker where no queue of it is any more.
    pub(super) fn come_home(&mut self, key: SessionKey, worker: usize) {
        let Some(session) = self.sessions.get_mut(&key).filter(|s| !s.needs(worker)) else { return };
        let Some(at) = session.abroad.iter().position(|a| a.worker == worker && a.pair.is_ok()) else {
            return;
        };
        let Ok(id) = session.abroad.swap_remove(at).pair else { return };
        if let Some(load) = self.loads.get_mut(worker) {
            *load = load.saturating_sub(1);
        }
        self.tell(worker, ToWorker::Release(key));
        if let Some((unit, out)) = self.unit(id.controller) {
            unit.leave(id.queue, out);
        }
    }
}
