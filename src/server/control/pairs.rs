//! Which I/O queue pair serves which session.
//!
//! A session gets a pair of its own while the controller has one to spare, on the worker with the least to do; otherwise
//! it shares the pair with the fewest users. A pair whose session ended is kept for the next one. Pairs are held
//! back for static clients that have none yet, and for devices that are reserved for one. While a controller is reset, or
//! reads partition tables with its only pair, sessions wait.
//!
//! A pair that is of no use any more, or that the control role itself needs, is *retired*: taken back, its queues
//! deleted, its memory and its identifier free again.

use alloc::boxed::Box;
use alloc::vec::Vec;

use nvme_platform::Time;

use super::super::message::{PairId, SessionKey, ToWorker};
use super::{Control, ControllerState, PAIR_DEPTH, SessionError};
use crate::nvme::{PairError, QueuePair};

/// Where a pair is and who uses it.
#[derive(Debug)]
pub(super) struct PairState {
    pub(super) worker: usize,
    pub(super) users: u32,
    /// Whether it is with its worker (or on the way there), and of use.
    pub(super) serving: bool,
    pub(super) retiring: Option<Retiring>,
}

/// How far a pair is on its way out.
#[derive(Debug)]
pub(super) enum Retiring {
    /// Its worker was asked for it.
    Asked,
    /// Its queues are being deleted, or nothing proves it quiet.
    Held(Box<QueuePair>),
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
        let idle: Vec<PairId> =
            self.pairs_of(controller).filter(|(_, p)| p.users == 0).map(|(id, _)| id).collect();
        let shared = self.pairs_of(controller).count() > idle.len();
        let kept = if session.is_static() { 0 } else { self.kept_for_static(controller) };
        let worker = self.least_loaded();
        let passing = self.is_passing(controller);
        let unit = self.units.get_mut(usize::from(controller)).ok_or(SessionError::DeviceLost)?;
        if unit.state() == ControllerState::Lost {
            return Err(SessionError::DeviceLost);
        }
        let driver = unit.controller_mut();
        let free = usize::from(driver.pairs_free());
        let mut no_memory = None;
        // Without any pair to share, the first is for whoever comes first: static clients can share it later.
        if free + idle.len() > kept || !shared {
            if let Some(id) = idle.first() {
                self.give_pair(key, *id);
                return Ok(());
            }
            // A number is told from all others that wait by its low half.
            match (free > 0).then(|| driver.create_pair(PAIR_DEPTH, key.0 as u32)) {
                Some(Ok(())) => {
                    if let Some(session) = self.sessions.get_mut(&key) {
                        session.pair = SessionPair::Wanted;
                        session.worker = worker;
                    }
                    return Ok(());
                }
                Some(Err(PairError::Memory(why))) => no_memory = Some(why),
                _ => {}
            }
        }
        match self.share_pair(key, controller) {
            // There will be one: after the recovery, or when the scan gives its own back.
            Err(SessionError::NoQueuePair) if passing || free == 0 => Ok(()),
            Err(SessionError::NoQueuePair) => {
                Err(no_memory.map_or(SessionError::NoQueuePair, SessionError::Dma))
            }
            other => other,
        }
    }

    /// Whether a controller has no pairs for now, but will.
    fn is_passing(&self, controller: u16) -> bool {
        self.recoveries.get(&controller).is_some_and(super::Recovery::is_passing)
            || self.units.get(usize::from(controller)).is_some_and(|u| !u.controller().is_ready())
    }

    /// Sessions that wait and that nobody makes a pair for.
    pub(super) fn assign_waiting(&mut self) {
        let waits = |(_, s): &(&SessionKey, &super::Session)| s.waits_for_pair();
        let keys: Vec<SessionKey> = self.sessions.iter().filter(waits).map(|(key, _)| *key).collect();
        for key in keys {
            if self.assign_pair(key).is_err() {
                self.lose_session(key);
            }
        }
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
        for session in self.sessions.values_mut().filter(|s| hopes(s)) {
            session.pair = SessionPair::None;
        }
        self.assign_waiting();
    }

    fn pairs_of(&self, controller: u16) -> impl Iterator<Item = (PairId, &PairState)> {
        self.pairs
            .iter()
            .map(|(id, p)| (*id, p))
            .filter(move |(id, p)| id.controller == controller && p.serving)
    }

    /// How many static clients have no pair yet, or are not there yet.
    fn kept_for_static(&self, controller: u16) -> usize {
        let waits = |s: &&super::Session| {
            s.is_static() && s.controller() == controller && s.pair == SessionPair::None
        };
        let live = self.sessions.values().filter(waits).count();
        live + self.catalogue.reserved_on(controller)
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
        self.pairs.insert(id, PairState { worker, users: 0, serving: true, retiring: None });
        if let Some(pair) = self.recovery_keeps(id, Box::new(pair)) {
            self.tell(worker, ToWorker::AddPair(id, pair));
        }
        if waits {
            self.give_pair(key, id);
        }
        self.settle_hopes(controller);
    }

    /// The controller could not make a pair: share one.
    pub(super) fn pair_failed(&mut self, controller: u16, token: u32, why: PairError) {
        let key = self.wanting(token);
        nvme_platform::warn!("no queue pair of its own for session {}: {why}", key.0);
        let Some(session) = self.sessions.get_mut(&key).filter(|s| s.pair == SessionPair::Wanted) else {
            return self.settle_hopes(controller);
        };
        session.pair = SessionPair::None;
        // After a reset it is asked for again (`assign_waiting`).
        if why != PairError::Reset && self.share_pair(key, controller).is_err() {
            self.lose_session(key);
        }
        self.settle_hopes(controller);
    }

    /// A session does not need its pair any more.
    pub(super) fn release_pair(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let SessionPair::Has(id) = core::mem::replace(&mut session.pair, SessionPair::None) else { return };
        let worker = session.worker;
        let mut useless = false;
        if let Some(pair) = self.pairs.get_mut(&id) {
            pair.users = pair.users.saturating_sub(1);
            useless = pair.users == 0 && !pair.serving;
        }
        if let Some(load) = self.loads.get_mut(worker) {
            *load = load.saturating_sub(1);
        }
        if useless {
            self.retire(id);
        }
    }

    /// Begins to retire a pair that nobody uses.
    fn retire(&mut self, id: PairId) {
        let Some(pair) = self.pairs.get_mut(&id).filter(|p| p.retiring.is_none()) else { return };
        pair.serving = false;
        pair.retiring = Some(Retiring::Asked);
        let worker = pair.worker;
        self.tell(worker, ToWorker::TakePair(id));
    }

    /// The control role needs the controller's only pair for itself, if nobody uses it.
    pub(super) fn retire_idle(&mut self, controller: u16) {
        if self.is_passing(controller) {
            return;
        }
        let idle = self.pairs_of(controller).find(|(_, p)| p.users == 0).map(|(id, _)| id);
        if let Some(id) = idle {
            self.retire(id);
        }
    }

    /// A pair that is to be retired came back from its worker.
    fn retire_taken(&mut self, id: PairId, pair: Box<QueuePair>) {
        let Some(unit) = self.units.get_mut(usize::from(id.controller)) else { return };
        // Its queues may be gone already.
        match unit.controller_mut().retire_pair(pair) {
            Ok(()) => {
                self.pairs.remove(&id);
            }
            Err(pair) => {
                // If they cannot even be asked to go, a reset will take them, or the pair is kept.
                let _ = unit.controller_mut().delete_pair(id.queue);
                if let Some(state) = self.pairs.get_mut(&id) {
                    state.retiring = Some(Retiring::Held(pair));
                }
                self.more = true;
            }
        }
    }

    /// The queues of a pair are gone. True: it was one to be retired, and is.
    pub(super) fn retire_deleted(&mut self, id: PairId) -> bool {
        let Some(state) = self.pairs.get_mut(&id) else { return false };
        match state.retiring.take() {
            Some(Retiring::Held(pair)) => {
                self.retire_taken_again(id, pair);
                true
            }
            other => {
                state.retiring = other;
                false
            }
        }
    }

    fn retire_taken_again(&mut self, id: PairId, pair: Box<QueuePair>) {
        let Some(unit) = self.units.get_mut(usize::from(id.controller)) else { return };
        match unit.controller_mut().retire_pair(pair) {
            Ok(()) => {
                self.pairs.remove(&id);
                self.more = true;
            }
            Err(pair) => {
                if let Some(state) = self.pairs.get_mut(&id) {
                    state.retiring = Some(Retiring::Held(pair));
                }
            }
        }
    }

    /// After a reset or a cut-off: all queues are gone.
    pub(super) fn retire_held(&mut self, controller: u16) {
        let held = |(id, p): &(&PairId, &PairState)| {
            id.controller == controller && matches!(p.retiring, Some(Retiring::Held(_)))
        };
        let ids: Vec<PairId> = self.pairs.iter().filter(held).map(|(id, _)| *id).collect();
        for id in ids {
            self.retire_deleted(id);
        }
    }

    /// A worker handed a pair back, as it was asked to.
    pub(super) fn pair_taken(&mut self, id: PairId, pair: Option<Box<QueuePair>>, now: Time) {
        let retiring = self.pairs.get(&id).is_some_and(|p| p.retiring.is_some());
        match pair {
            Some(pair) if retiring => self.retire_taken(id, pair),
            pair => self.recovery_took(id, pair, now),
        }
    }
}
