//! Which I/O queue pair serves which session.
//!
//! A session gets a pair of its own while the controller has one to spare, on the worker with the least to do; otherwise
//! it shares the pair with the fewest users. A pair whose session ended is kept for the next one. Pairs are held
//! back for static clients that have none yet.

use alloc::boxed::Box;
use alloc::vec::Vec;

use nvme_platform::Time;

use super::super::message::{PairId, SessionKey, ToWorker};
use super::{Control, PAIR_DEPTH, SessionError};
use crate::nvme::{PairError, QueuePair};

/// Where a pair is and who uses it.
#[derive(Debug)]
pub(super) struct PairState {
    pub(super) worker: usize,
    pub(super) users: u32,
    /// Whether it is with its worker (or on the way there), and of use.
    pub(super) serving: bool,
}

/// The pair of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SessionPair {
    /// It has none: no queue was started.
    None,
    /// The controller is making one.
    Wanted,
    /// It waits for the one that another session wanted.
    Hopes,
    /// This one.
    Has(PairId),
}

impl Control {
    /// Finds a pair for a session that has none. Its queues start at once, or when the pair is there.
    pub(super) fn assign_pair(&mut self, key: SessionKey) -> Result<(), SessionError> {
        let Some(session) = self.sessions.get(&key) else { return Err(SessionError::Ended) };
        if session.pair != SessionPair::None {
            return Ok(());
        }
        let controller = session.controller();
        let idle = self.pairs_of(controller).find(|(_, p)| p.users == 0).map(|(id, _)| id);
        if let Some(id) = idle {
            self.give_pair(key, id);
            return Ok(());
        }
        let kept = if session.is_static() { 0 } else { self.static_sessions_without_pair(controller) };
        let worker = self.least_loaded();
        let depth = PAIR_DEPTH;
        let unit = self.units.get_mut(usize::from(controller)).ok_or(SessionError::DeviceLost)?;
        let driver = unit.controller_mut();
        if usize::from(driver.pairs_free()) > kept && driver.create_pair(depth, key.0 as u32).is_ok() {
            if let Some(session) = self.sessions.get_mut(&key) {
                session.pair = SessionPair::Wanted;
                session.worker = worker;
            }
            return Ok(());
        }
        self.share_pair(key, controller)
    }

    fn share_pair(&mut self, key: SessionKey, controller: u16) -> Result<(), SessionError> {
        let least = self.pairs_of(controller).min_by_key(|(_, p)| p.users).map(|(id, _)| id);
        if let Some(id) = least {
            self.give_pair(key, id);
            return Ok(());
        }
        let wanted = |s: &super::Session| s.controller() == controller && s.pair == SessionPair::Wanted;
        if !self.sessions.values().any(wanted) {
            return Err(SessionError::NoQueuePair);
        }
        if let Some(session) = self.sessions.get_mut(&key) {
            session.pair = SessionPair::Hopes;
        }
        Ok(())
    }

    /// Sessions that hoped for a pair that another wanted: there is one now, or there will be none.
    fn settle_hopes(&mut self, controller: u16) {
        let hopes = |s: &super::Session| s.controller() == controller && s.pair == SessionPair::Hopes;
        let keys: Vec<SessionKey> =
            self.sessions.iter().filter(|(_, s)| hopes(s)).map(|(key, _)| *key).collect();
        for key in keys {
            if self.share_pair(key, controller).is_err() {
                self.lose_session(key);
            }
        }
    }

    fn pairs_of(&self, controller: u16) -> impl Iterator<Item = (PairId, &PairState)> {
        self.pairs
            .iter()
            .map(|(id, p)| (*id, p))
            .filter(move |(id, p)| id.controller == controller && p.serving)
    }

    fn static_sessions_without_pair(&self, controller: u16) -> usize {
        let waits = |s: &&super::Session| {
            s.is_static() && s.controller() == controller && s.pair == SessionPair::None
        };
        self.sessions.values().filter(waits).count()
    }

    fn least_loaded(&self) -> usize {
        let least = self.loads.iter().enumerate().min_by_key(|(_, load)| **load);
        least.map_or(0, |(worker, _)| worker)
    }

    fn give_pair(&mut self, key: SessionKey, id: PairId) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        pair.users += 1;
        if let Some(session) = self.sessions.get_mut(&key) {
            session.pair = SessionPair::Has(id);
            session.worker = pair.worker;
            if let Some(load) = self.loads.get_mut(pair.worker) {
                *load += 1;
            }
        }
        self.launch_queues(key);
    }

    /// The session that asked for a pair under this token: the low half of its number.
    fn wanting(&self, token: u32) -> SessionKey {
        let wants = |(key, s): &(&SessionKey, &super::Session)| {
            key.0 as u32 == token && s.pair == SessionPair::Wanted
        };
        self.sessions.iter().find(wants).map_or(SessionKey(u64::from(token)), |(key, _)| *key)
    }

    /// The controller made a pair.
    pub(super) fn pair_ready(&mut self, controller: u16, token: u32, pair: QueuePair) {
        let id = PairId { controller, queue: pair.id() };
        let key = self.wanting(token);
        let wanted = self.sessions.get(&key).filter(|s| s.pair == SessionPair::Wanted);
        let worker = wanted.map_or_else(|| self.least_loaded(), |s| s.worker);
        let waits = wanted.is_some();
        self.pairs.insert(id, PairState { worker, users: 0, serving: true });
        self.tell(worker, ToWorker::AddPair(id, Box::new(pair)));
        if waits {
            self.give_pair(key, id);
        }
        self.settle_hopes(controller);
    }

    /// The controller could not make a pair: share one.
    pub(super) fn pair_failed(&mut self, controller: u16, token: u32, why: PairError) {
        let key = self.wanting(token);
        nvme_platform::warn!("no queue pair of its own for session {token}: {why}");
        let Some(session) = self.sessions.get_mut(&key).filter(|s| s.pair == SessionPair::Wanted) else {
            return;
        };
        session.pair = SessionPair::None;
        if self.share_pair(key, controller).is_err() {
            self.lose_session(key);
        }
        self.settle_hopes(controller);
    }

    /// A session does not need its pair any more.
    pub(super) fn release_pair(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let SessionPair::Has(id) = core::mem::replace(&mut session.pair, SessionPair::None) else { return };
        let worker = session.worker;
        if let Some(pair) = self.pairs.get_mut(&id) {
            pair.users = pair.users.saturating_sub(1);
        }
        if let Some(load) = self.loads.get_mut(worker) {
            *load = load.saturating_sub(1);
        }
    }

    /// A worker handed a pair back, as a recovery had asked.
    pub(super) fn pair_taken(&mut self, id: PairId, pair: Option<Box<QueuePair>>, now: Time) {
        self.recovery_took(id, pair, now);
    }
}
