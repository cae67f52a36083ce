//! A session's virtqueues: they start, wait for the session's pair, run at its worker, and stop.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use nvme_platform::{Notify, Window, debug};
use nvme_session::factory::FactoryId;
use nvme_session::queue::{BlkQueue, QueueConfig};
use nvme_session::virtqueue::{Broken, RingAddresses};

use super::super::super::message::{GroupKey, NewQueue, Old, PairId, QueueKey, SessionKey, ToWorker};
use super::super::{Control, Event};
use super::places::QueueState;
use super::{InForce, Session, SessionError, SessionPair};

/// How a virtqueue is to be started.
#[derive(Clone, Debug)]
pub struct QueueSpec {
    /// Entries.
    pub size: u16,
    /// Where its rings are.
    pub rings: RingAddresses,
    /// Where to go on.
    pub next_avail: u16,
    /// Where what is in flight is kept for the next server: [`journal_len`](nvme_session::virtqueue::journal_len) bytes.
    pub journal: Option<Window>,
}

impl Control {
    /// Starts a virtqueue. Refused when the session's device is lost.
    pub fn start_queue(
        &mut self,
        key: SessionKey,
        index: u16,
        spec: QueueSpec,
        notify: Box<dyn Notify>,
    ) -> Result<(), SessionError> {
        let queue = self.prepare_queue(key, index, spec)?;
        self.start_prepared(key, index, queue, notify)
    }

    /// The first half of that: the queue is set up, and its memory not touched. Whoever does so before it is started says its client what is found
    /// there, and that takes what time the client makes it take.
    pub fn prepare_queue(
        &self,
        key: SessionKey,
        index: u16,
        spec: QueueSpec,
    ) -> Result<Box<BlkQueue>, SessionError> {
        let session = self.sessions.get(&key).filter(|s| !s.is_leaving()).ok_or(SessionError::Ended)?;
        if session.lost {
            return Err(SessionError::DeviceLost);
        }
        self.prepared(session, index, spec)
    }

    /// The second half.
    pub fn start_prepared(
        &mut self,
        key: SessionKey,
        index: u16,
        queue: Box<BlkQueue>,
        notify: Box<dyn Notify>,
    ) -> Result<(), SessionError> {
        if self.live(key)?.lost {
            return Err(SessionError::DeviceLost);
        }
        self.begin_queue(key, index, queue, notify)
    }

    /// Starts a virtqueue again that the home had stopped for a while, of which its driver knows nothing: when the device was lost meanwhile, what
    /// it is asked fails, as on any other of that session.
    pub fn resume_queue(
        &mut self,
        key: SessionKey,
        index: u16,
        spec: QueueSpec,
        notify: Box<dyn Notify>,
    ) -> Result<(), SessionError> {
        let session = self.sessions.get(&key).filter(|s| !s.is_leaving()).ok_or(SessionError::Ended)?;
        let queue = self.prepared(session, index, spec)?;
        self.begin_queue(key, index, queue, notify)
    }

    fn prepared(
        &self,
        session: &Session,
        index: u16,
        spec: QueueSpec,
    ) -> Result<Box<BlkQueue>, SessionError> {
        if index >= self.config.queues || session.queues.contains_key(&index) {
            return Err(SessionError::Queue);
        }
        let config = QueueConfig {
            size: spec.size,
            rings: spec.rings,
            next_avail: spec.next_avail,
            features: session.features,
            direction: self.config.transport.direction,
            grant: session.minted.grant().clone(),
            limits: *session.minted.limits(),
            id: session.minted.id(),
            write_back: session.write_back,
        };
        // Its memory may take long to be reached, so it is touched where that is the session's own time: by its worker at last.
        let mut queue = BlkQueue::prepared(config, session.registry.table()).map_err(SessionError::Ring)?;
        if let Some(journal) = spec.journal {
            queue.keep(journal).map_err(SessionError::Ring)?;
        }
        Ok(Box::new(queue))
    }

    fn begin_queue(
        &mut self,
        key: SessionKey,
        index: u16,
        mut queue: Box<BlkQueue>,
        notify: Box<dyn Notify>,
    ) -> Result<(), SessionError> {
        let laggards = Arc::clone(&self.laggards);
        let session = self.live(key)?;
        let lost = session.lost;
        if session.queues.contains_key(&index) {
            return Err(SessionError::Queue);
        }
        // What has changed since it was set up.
        queue.set_table(session.registry.table()).map_err(SessionError::Ring)?;
        queue.set_grant(session.minted.grant().clone());
        queue.set_write_back(session.write_back);
        queue.set_counts(Arc::clone(session.counts.entry(index).or_default()));
        queue.set_laggards(laggards, key.0, index);
        session.queues.insert(index, QueueState::Waiting(queue, notify, None));
        if lost {
            self.launch_queues(key);
            // That worker may not have had any of it when it was lost.
            self.tell_workers(key, || ToWorker::Fail(key));
            return Ok(());
        }
        if let Err(why) = self.assign_pair(key) {
            if let Some(session) = self.sessions.get_mut(&key) {
                session.queues.remove(&index);
            }
            return Err(why);
        }
        self.launch_queues(key);
        Ok(())
    }

    /// Hands waiting queues to the worker, once the session has a pair.
    pub(in super::super) fn launch_queues(&mut self, key: SessionKey) {
        let factory = self.sessions.get(&key).map_or(FactoryId::SERVER, |s| s.minted.factory());
        let top = self.catalogue.top_of(factory);
        let Some(session) = self.known(key) else { return };
        // The queues of a lost session fail what they are asked, without any pair.
        let nowhere = PairId { controller: session.controller(), queue: 0 };
        if !matches!(session.pair, SessionPair::Has(_)) && !session.lost {
            return;
        }
        if session.is_held() && !session.lost {
            return;
        }
        let group = if session.is_static { GroupKey::of_static(key) } else { GroupKey::of_factory(top) };
        let mut launched = Vec::new();
        let waits = |(index, state): (&u16, &QueueState)| match state {
            QueueState::Waiting(_, _, to) => Some((*index, *to)),
            _ => None,
        };
        let waiting: Vec<(u16, Option<usize>)> = session.queues.iter().filter_map(waits).collect();
        for (index, to) in waiting {
            // Where it has no pair any more it does not go.
            let there = to.and_then(|to| session.pair_on(to).map(|pair| (to, pair)));
            let home = (session.worker, session.pair_on(session.worker).unwrap_or(nowhere));
            let (worker, pair) = there.unwrap_or(home);
            let Some(state) = session.queues.get_mut(&index) else { continue };
            if let QueueState::Waiting(queue, notify, _) =
                core::mem::replace(state, QueueState::Running(worker))
            {
                let (key, limits) = (QueueKey { session: key, index }, Arc::clone(&session.limits));
                let abroad = worker != session.worker;
                launched.push((worker, NewQueue { key, group, queue, pair, notify, limits, abroad }));
            }
        }
        let stops = core::mem::take(&mut session.stops);
        for (worker, new) in launched {
            let PairId { controller, queue } = new.pair;
            debug!(
                "session {}: queue {} on pair {} of controller {}",
                key.0, new.key.index, queue, controller
            );
            self.tell(worker, ToWorker::AddQueue(new));
        }
        for (index, old) in stops {
            // One that was just launched can be stopped.
            let _ = self.stop(key, index, old);
        }
    }

    /// Tells the driver of a virtqueue in another way from now on. In force later: [`Event::NotifySet`].
    pub fn set_notify(
        &mut self,
        key: SessionKey,
        index: u16,
        new: Box<dyn Notify>,
    ) -> Result<InForce, SessionError> {
        let session = self.live(key)?;
        match session.queues.get_mut(&index) {
            None => Err(SessionError::Queue),
            Some(QueueState::Waiting(_, notify, _)) => {
                *notify = new;
                Ok(InForce::Now)
            }
            Some(QueueState::Leaving(journey)) => {
                journey.unheard.new = Some(new);
                Ok(InForce::Later)
            }
            Some(QueueState::Running(at) | QueueState::Stopping(at, _)) => {
                let at = *at;
                self.tell(at, ToWorker::SetNotify(QueueKey { session: key, index }, new));
                Ok(InForce::Later)
            }
        }
    }

    /// Stops a virtqueue after what is in flight has ended: [`Event::QueueStopped`]. An error when it does not run. One of a session that ends
    /// stops already: until it has, its worker may look into its rings, and tell its driver of what failed.
    pub fn stop_queue(&mut self, key: SessionKey, index: u16) -> Result<(), SessionError> {
        debug!("session {}: queue {} stops", key.0, index);
        self.stop_known(key, index, Old::Left)
    }

    /// The same, after what was in flight when the last server died, too: its driver may go on elsewhere, where nobody knows of that.
    pub fn finish_queue(&mut self, key: SessionKey, index: u16) -> Result<(), SessionError> {
        debug!("session {}: queue {} comes to its end", key.0, index);
        self.stop_known(key, index, Old::First)
    }

    /// Where a virtqueue goes on is in its journal, if it has one, and its worker opens that. One that waits for a pair stops there: soon. Of
    /// one that waits for a drain to be over, which may take long, it is found out here.
    fn stop_known(&mut self, key: SessionKey, index: u16, old: Old) -> Result<(), SessionError> {
        let session = self.sessions.get_mut(&key).ok_or(SessionError::Ended)?;
        let held = session.is_held();
        if let Some(QueueState::Waiting(queue, ..)) = session.queues.get_mut(&index)
            && queue.is_unopened()
        {
            if !held {
                session.stops.entry(index).or_insert(old);
                return Ok(());
            }
            queue.touch();
        }
        self.stop(key, index, old)
    }

    /// A session is held from now on: what stops once its worker has it does not wait for the end of that, unless something is to be done first.
    pub(in super::super) fn stop_what_waits(&mut self, key: SessionKey) {
        let stops = self.sessions.get_mut(&key).map(|session| core::mem::take(&mut session.stops));
        for (index, old) in stops.into_iter().flatten() {
            // It waits, so it can be stopped.
            let _ = self.stop_known(key, index, old);
        }
    }

    pub(super) fn stop(&mut self, key: SessionKey, index: u16, old: Old) -> Result<(), SessionError> {
        let session = self.sessions.get_mut(&key).ok_or(SessionError::Ended)?;
        match session.queues.get_mut(&index) {
            None => Err(SessionError::Queue),
            Some(QueueState::Waiting(queue, ..)) if old == Old::First && queue.has_old() => {
                session.stops.entry(index).or_insert(old);
                Ok(())
            }
            Some(QueueState::Waiting(queue, ..)) => {
                let next = queue.next_avail();
                session.queues.remove(&index);
                session.stops.remove(&index);
                self.events.push_back(Event::QueueStopped(key, index, next));
                Ok(())
            }
            Some(QueueState::Stopping(..)) => Ok(()),
            Some(state @ (QueueState::Running(_) | QueueState::Leaving(_))) => {
                // One that leaves is told of the new way by nobody any more.
                let told = matches!(state, QueueState::Leaving(journey) if journey.unheard.new.is_some());
                if let Some(at) = state.at() {
                    *state = QueueState::Stopping(at, None);
                    self.tell(at, ToWorker::StopQueue(QueueKey { session: key, index }, old));
                }
                if told {
                    self.events.push_back(Event::NotifySet(key, index));
                }
                Ok(())
            }
        }
    }

    /// The running virtqueues of a session.
    pub fn running_queues(&self, key: SessionKey) -> Vec<u16> {
        self.sessions.get(&key).map(|s| s.queues.keys().copied().collect()).unwrap_or_default()
    }

    pub(in super::super) fn queue_stopped(&mut self, key: QueueKey, next: u16) {
        let QueueKey { session: key, index } = key;
        if let Some(session) = self.sessions.get_mut(&key)
            && let Some(state) = session.queues.remove(&index)
        {
            let (at, next) = match state {
                // It came back before its worker heard that it stops.
                QueueState::Stopping(at, came_back) => (Some(at), came_back.unwrap_or(next)),
                other => (other.at(), next),
            };
            self.events.push_back(Event::QueueStopped(key, index, next));
            if let Some(at) = at {
                self.come_home(key, at);
            }
        }
    }

    pub(in super::super) fn queue_broken(&mut self, key: QueueKey, why: Broken) {
        if self.sessions.contains_key(&key.session) {
            self.events.push_back(Event::QueueBroken(key.session, key.index, why));
        }
    }
}
