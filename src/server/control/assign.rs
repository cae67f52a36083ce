//! Which session is on which I/O queue pair.
//!
//! A session gets a pair of its own while the controller has one to spare, on the worker with the least to do; otherwise
//! it shares the pair with the fewest users. A pair whose session ended is kept for the next one. Pairs are held
//! back for static clients that have none yet, and for devices that are reserved for one. While a controller is reset, or
//! reads partition tables with its only pair, sessions wait.

use alloc::vec::Vec;

use nvme_platform::{DmaError, Time};

use super::super::message::{PairId, SessionKey, ToWorker};
use super::anomaly::Anomaly;
use super::error::SessionError;
use super::session::{Session, SessionPair};
use super::unit::Input;
use super::{Control, PAIR_DEPTH};
use crate::nvme::{PairError, QueuePair};

impl Control {
    /// Finds a pair for a session that has none. Its queues start at once, or when the pair is there.
    pub(super) fn assign_pair(&mut self, key: SessionKey) -> Result<(), SessionError> {
        let session = self.sessions.get(&key).ok_or(SessionError::Ended)?;
        if session.pair != SessionPair::None {
            return Ok(());
        }
        let controller = session.controller();
        let kept = if session.is_static() { 0 } else { self.kept_for_static(controller) };
        let unit = self.units.get_mut(usize::from(controller)).ok_or(SessionError::DeviceLost)?;
        if unit.is_lost() {
            return Err(SessionError::DeviceLost);
        }
        let idle: Vec<u16> =
            unit.serving_pairs().filter(|(_, p)| p.users() == 0).map(|(queue, _)| queue).collect();
        let shared = unit.serving_pairs().count() > idle.len();
        let free = usize::from(unit.controller().pairs_free());
        let waits = unit.is_settling() || free == 0;
        let mut no_memory = None;
        // Without any pair to share, the first is for whoever comes first: static clients can share it later.
        if free + idle.len() > kept || !shared {
            if let Some(queue) = idle.first() {
                self.give_pair(key, PairId { controller, queue: *queue });
                return Ok(());
            }
            if free > 0 {
                match self.want_pair(key) {
                    Ok(()) => return Ok(()),
                    Err(why) => no_memory = why,
                }
            }
        }
        match self.share_pair(key) {
            // There will be one: after the recovery, or when the scan gives its own back.
            Err(SessionError::NoQueuePair) if waits => Ok(()),
            Err(SessionError::NoQueuePair) => {
                Err(no_memory.map_or(SessionError::NoQueuePair, SessionError::Dma))
            }
            other => other,
        }
    }

    /// Asks the controller for a pair for a session. When that fails for want of memory, it says what is missing.
    fn want_pair(&mut self, key: SessionKey) -> Result<(), Option<DmaError>> {
        let worker = self.least_loaded();
        let session = self.sessions.get_mut(&key).ok_or(None)?;
        let unit = self.units.get_mut(usize::from(session.controller())).ok_or(None)?;
        // A number is told from all others that wait by its low half.
        match unit.controller_mut().create_pair(PAIR_DEPTH, key.0 as u32) {
            Ok(()) => {
                session.pair = SessionPair::Wanted;
                session.worker = worker;
                Ok(())
            }
            Err(PairError::Memory(why)) => Err(Some(why)),
            Err(_) => Err(None),
        }
    }

    /// Sessions that wait and that nobody makes a pair for.
    pub(super) fn assign_waiting(&mut self) {
        let waits = |(_, s): &(&SessionKey, &Session)| s.waits_for_pair();
        let keys: Vec<SessionKey> = self.sessions.iter().filter(waits).map(|(key, _)| *key).collect();
        for key in keys {
            if self.assign_pair(key).is_err() {
                self.lose_session(key);
            }
        }
    }

    fn share_pair(&mut self, key: SessionKey) -> Result<(), SessionError> {
        let controller = self.sessions.get(&key).ok_or(SessionError::Ended)?.controller();
        let unit = self.units.get(usize::from(controller)).ok_or(SessionError::DeviceLost)?;
        let least = unit.serving_pairs().min_by_key(|(_, p)| p.users()).map(|(queue, _)| queue);
        if let Some(queue) = least {
            self.give_pair(key, PairId { controller, queue });
            return Ok(());
        }
        if !self.sessions.values().any(|s| s.is_on(controller, SessionPair::Wanted)) {
            return Err(SessionError::NoQueuePair);
        }
        let session = self.sessions.get_mut(&key).ok_or(SessionError::Ended)?;
        session.pair = SessionPair::WaitsForAnother;
        Ok(())
    }

    /// Sessions that hoped for a pair that another wanted: there is one now, or there will be none.
    fn settle_waiting(&mut self, controller: u16) {
        let waits = |s: &&mut Session| s.is_on(controller, SessionPair::WaitsForAnother);
        self.sessions.values_mut().filter(waits).for_each(|session| session.pair = SessionPair::None);
        self.assign_waiting();
    }

    /// How many static clients have no pair yet, or are not there yet.
    pub(super) fn kept_for_static(&self, controller: u16) -> usize {
        let waits = |s: &&Session| s.is_static() && s.is_on(controller, SessionPair::None);
        let live = self.sessions.values().filter(waits).count();
        live + self.catalogue.reserved_on(controller)
    }

    fn least_loaded(&self) -> usize {
        let least = self.loads.iter().enumerate().min_by_key(|(_, load)| **load);
        least.map_or(0, |(worker, _)| worker)
    }

    fn give_pair(&mut self, key: SessionKey, id: PairId) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return self.out.anomaly(Anomaly::NoSession(key));
        };
        let unit = self.units.get_mut(usize::from(id.controller));
        let Some(worker) = unit.and_then(|unit| unit.join(id.queue)) else {
            return self.out.anomaly(Anomaly::NoPair(id));
        };
        session.pair = SessionPair::Has(id);
        session.worker = worker;
        if let Some(load) = self.loads.get_mut(worker) {
            *load += 1;
        }
        self.launch_queues(key);
    }

    /// The session that asked for a pair under this token, which is the low half of its number. It may have ended.
    fn wanting(&self, token: u32) -> Option<SessionKey> {
        let wants =
            |(key, s): &(&SessionKey, &Session)| key.0 as u32 == token && s.pair == SessionPair::Wanted;
        self.sessions.iter().find(wants).map(|(key, _)| *key)
    }

    /// The controller made a pair.
    pub(super) fn pair_ready(&mut self, controller: u16, token: u32, pair: QueuePair, now: Time) {
        let id = PairId { controller, queue: pair.id() };
        let abroad = self.wanting_abroad(token);
        let key = if abroad.is_some() { None } else { self.wanting(token) };
        let wanted = key.and_then(|key| self.sessions.get(&key)).map(|session| session.worker);
        let wanted = abroad.map(|(_, worker)| worker).or(wanted);
        let worker = wanted.unwrap_or_else(|| self.least_loaded());
        let Some((unit, _)) = self.unit(controller) else { return };
        unit.pair_made(worker, pair);
        self.recover(controller, Input::Made(id.queue), now);
        if let Some((key, worker)) = abroad {
            self.give_pair_abroad(key, worker, id);
        }
        if let Some(key) = key {
            self.give_pair(key, id);
        }
        self.settle_waiting(controller);
    }

    /// The controller could not make a pair: share one.
    pub(super) fn pair_failed(&mut self, controller: u16, token: u32, why: PairError, now: Time) {
        if let Some((key, worker)) = self.wanting_abroad(token) {
            return self.no_pair_abroad(key, worker, now);
        }
        if let Some(key) = self.wanting(token) {
            nvme_platform::warn!("no queue pair of its own for session {}: {why}", key.0);
            if let Some(session) = self.sessions.get_mut(&key) {
                session.pair = SessionPair::None;
            }
            // After a reset it is asked for again (`assign_waiting`).
            if why != PairError::Reset && self.share_pair(key).is_err() {
                self.lose_session(key);
            }
        }
        // As long as another wants one, those who hope for it do: were they to ask again, each might wait for the other by turns, without an end.
        if self.sessions.values().any(|s| s.is_on(controller, SessionPair::Wanted)) {
            return self.assign_waiting();
        }
        self.settle_waiting(controller);
    }

    /// A session does not need its pair any more.
    pub(super) fn release_pair(&mut self, key: SessionKey) {
        let Some(session) = self.known(key) else { return };
        // It may have started no queue.
        let SessionPair::Has(id) = core::mem::replace(&mut session.pair, SessionPair::None) else { return };
        let worker = session.worker;
        if let Some(load) = self.loads.get_mut(worker) {
            *load = load.saturating_sub(1);
        }
        self.tell(worker, ToWorker::Release(key));
        if let Some((unit, out)) = self.unit(id.controller) {
            unit.leave(id.queue, out);
        }
    }
}
