//! Sessions: what a client asks for, one thing at a time, and how a session ends.

mod ending;
mod quiet;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use nvme_platform::{Notify, debug, error, info};
use nvme_policy::{Grant, Policy};
use nvme_session::blk::Offer;
use nvme_session::dataspace::{Registry, RegistryConfig};
use nvme_session::factory::{CreateError, FactoryId, Minted};
use nvme_session::memory::MemoryTable;
use nvme_session::queue::{BlkQueue, QueueConfig};
use nvme_session::virtqueue::{Broken, RingAddresses};

use super::super::message::{GroupKey, NewQueue, PairId, QueueKey, SessionKey, ToWorker};
use super::error::SessionError;
use super::job::MemoryJob;
use super::{Anomaly, Control, Event};
use crate::nvme::Mishap;

/// When what was asked is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InForce {
    /// It is.
    Now,
    /// Once its worker has said so, of which there is an [`Event`]. A client that is answered then waits for itself.
    Later,
}

/// How a virtqueue is to be started.
#[derive(Clone, Copy, Debug)]
pub struct QueueSpec {
    /// Entries.
    pub size: u16,
    /// Where its rings are.
    pub rings: RingAddresses,
    /// Where to go on.
    pub next_avail: u16,
}

enum QueueState {
    /// Made, waiting for the session's pair.
    Waiting(Box<BlkQueue>, Box<dyn Notify>),
    /// With the worker.
    Running,
    /// The worker was told to stop it.
    Stopping,
}

/// What a session is on its way to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// Nowhere: it serves.
    Serve,
    /// Nothing of its last client is to be left.
    Clear,
    /// Nothing of it is to be left.
    End,
}

/// The pair of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SessionPair {
    /// It has none: no queue was started.
    None,
    /// The controller is making one.
    Wanted,
    /// It waits for the one that another session wanted.
    WaitsForAnother,
    /// This one.
    Has(PairId),
}

/// One session.
pub struct Session {
    minted: Minted,
    is_static: bool,
    offer: Offer,
    features: u64,
    write_back: bool,
    pub(super) worker: usize,
    pub(super) pair: SessionPair,
    queues: BTreeMap<u16, QueueState>,
    pub(super) registry: Registry,
    pub(super) job: Option<MemoryJob>,
    pub(super) generation: u64,
    goal: Goal,
    lost: bool,
    /// Its memory may still be used by a device that nothing proves quiet.
    quarantined: bool,
    /// Since when storage that can hang has something that is wanted back.
    hangs: quiet::Hangs,
}

impl Session {
    /// What was minted: device, access, limits.
    pub fn minted(&self) -> &Minted {
        &self.minted
    }

    /// What is registered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The features that its device offers.
    pub fn offered(&self) -> u64 {
        self.offer.features()
    }

    /// The features that the driver acknowledged.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Whether it is a static client's.
    pub fn is_static(&self) -> bool {
        self.is_static
    }

    /// Whether its device is lost.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether what its client left is being cleared away.
    pub fn is_leaving(&self) -> bool {
        self.goal != Goal::Serve
    }

    pub(super) fn is_quarantined(&self) -> bool {
        self.quarantined
    }

    /// How many virtqueues run (or are about to).
    pub fn running(&self) -> usize {
        self.queues.len()
    }

    /// The worker that serves it.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// The controller that it is on.
    pub fn controller(&self) -> u16 {
        self.minted.grant().extent().namespace().controller
    }

    /// Whether it is on that controller, and so far with its pair.
    pub(super) fn is_on(&self, controller: u16, pair: SessionPair) -> bool {
        self.controller() == controller && self.pair == pair
    }

    pub(super) fn uses(&self, pair: PairId) -> bool {
        self.pair == SessionPair::Has(pair)
    }

    /// Whether it has queues to be served, and nobody makes a pair for it.
    pub(super) fn waits_for_pair(&self) -> bool {
        self.pair == SessionPair::None && !self.lost && !self.queues.is_empty()
    }

    /// Whether a worker has queues of it.
    pub(super) fn at_worker(&self) -> bool {
        self.queues.values().any(|q| !matches!(q, QueueState::Waiting(..)))
    }

    /// Reads the virtio-blk configuration space; behind its end there are zeroes.
    pub fn read_config(&self, offset: u32, into: &mut [u8]) {
        self.offer.config_space(self.write_back).read(u64::from(offset), into);
    }

    /// Gives queues that wait for a pair their new table. One whose rings are gone
    /// finds that out when it is served.
    pub(super) fn set_waiting_tables(&mut self, table: &Arc<MemoryTable>) {
        for queue in self.queues.values_mut() {
            if let QueueState::Waiting(queue, _) = queue {
                let _ = queue.set_table(Arc::clone(table));
            }
        }
    }
}

impl Control {
    /// Mints a session for a client.
    pub fn create(&mut self, policy: &Policy, is_static: bool) -> Result<SessionKey, CreateError> {
        let minted = if is_static { self.catalogue.claim(policy) } else { self.catalogue.create(policy) }?;
        Ok(self.enter(minted, is_static))
    }

    /// What was minted is a session from now on.
    pub(super) fn enter(&mut self, minted: Minted, is_static: bool) -> SessionKey {
        let policy = minted.policy();
        let key = SessionKey(minted.session().number());
        let offer = self.offer(&minted);
        let registry = Registry::new(RegistryConfig {
            ds_max: policy.ds_max(),
            memory_max: self.config.memory_max,
            trusted_only: self.config.trusted_only,
            dataspaces: policy.dataspaces(),
        });
        let write_back = minted.limits().volatile_cache;
        self.sessions.insert(
            key,
            Session {
                minted,
                is_static,
                offer,
                features: 0,
                write_back,
                worker: 0,
                pair: SessionPair::None,
                queues: BTreeMap::new(),
                registry,
                job: None,
                generation: 0,
                goal: Goal::Serve,
                lost: false,
                quarantined: false,
                hangs: quiet::Hangs::No,
            },
        );
        debug!("session {}: minted", key.0);
        key
    }

    /// What a session's device offers.
    fn offer(&self, minted: &Minted) -> Offer {
        Offer::new(minted.grant(), minted.limits(), self.config.transport, self.config.queues)
    }

    /// The namespace that a session has grew: it has all of it from now on. (What shrinks keeps its extent, and the
    /// controller refuses what is behind the end.)
    pub(super) fn session_grows(&mut self, key: SessionKey, grant: Grant) {
        let Some(session) = self.known(key).filter(|s| !s.lost) else { return };
        session.minted.grow(grant.clone());
        let minted = session.minted.clone();
        let offer = self.offer(&minted);
        let Some(session) = self.known(key) else { return };
        session.offer = offer;
        let (worker, told) = (session.worker, session.at_worker());
        for queue in session.queues.values_mut() {
            if let QueueState::Waiting(queue, _) = queue {
                queue.set_grant(grant.clone());
            }
        }
        if told {
            self.tell(worker, ToWorker::SetGrant(key, grant));
        }
        info!("session {}: {} has {} bytes now", key.0, minted.device(), minted.grant().extent().bytes());
        self.events.push_back(Event::ConfigChanged(key));
    }

    /// A session that control itself speaks of, so it is there. Were it not, that is counted and said.
    pub(super) fn known(&mut self, key: SessionKey) -> Option<&mut Session> {
        if !self.sessions.contains_key(&key) {
            self.out.anomaly(Anomaly::NoSession(key));
        }
        self.sessions.get_mut(&key)
    }

    /// The session, unless it is ending.
    pub(super) fn live(&mut self, key: SessionKey) -> Result<&mut Session, SessionError> {
        self.sessions.get_mut(&key).filter(|s| s.goal == Goal::Serve).ok_or(SessionError::Ended)
    }

    /// The driver acknowledged these features. Refused while queues run, and when one was not offered.
    pub fn set_features(&mut self, key: SessionKey, features: u64) -> Result<(), SessionError> {
        let session = self.live(key)?;
        if !session.queues.is_empty() || features & !session.offer.features() != 0 {
            return Err(SessionError::Queue);
        }
        session.features = features;
        // Without the feature there is no way to say otherwise: the default counts again.
        session.write_back = session.minted.limits().volatile_cache;
        Ok(())
    }

    /// The driver wrote to the configuration space. In force later: [`Event::WriteBackSet`].
    pub fn write_config(
        &mut self,
        key: SessionKey,
        offset: u32,
        bytes: &[u8],
    ) -> Result<InForce, SessionError> {
        let session = self.live(key)?;
        let on = session.offer.write_config(session.features, offset, bytes).ok_or(SessionError::Config)?;
        session.write_back = on;
        let (worker, told) = (session.worker, session.at_worker());
        for queue in session.queues.values_mut() {
            if let QueueState::Waiting(queue, _) = queue {
                queue.set_write_back(on);
            }
        }
        if !told {
            return Ok(InForce::Now);
        }
        self.tell(worker, ToWorker::SetWriteBack(key, on));
        Ok(InForce::Later)
    }

    /// Starts a virtqueue.
    pub fn start_queue(
        &mut self,
        key: SessionKey,
        index: u16,
        spec: QueueSpec,
        notify: Box<dyn Notify>,
    ) -> Result<(), SessionError> {
        let (direction, queues) = (self.config.transport.direction, self.config.queues);
        let session = self.live(key)?;
        if session.lost {
            return Err(SessionError::DeviceLost);
        }
        if index >= queues || session.queues.contains_key(&index) {
            return Err(SessionError::Queue);
        }
        let config = QueueConfig {
            size: spec.size,
            rings: spec.rings,
            next_avail: spec.next_avail,
            features: session.features,
            direction,
            grant: session.minted.grant().clone(),
            limits: *session.minted.limits(),
            id: session.minted.id(),
            write_back: session.write_back,
        };
        let queue = BlkQueue::new(config, session.registry.table()).map_err(SessionError::Ring)?;
        session.queues.insert(index, QueueState::Waiting(Box::new(queue), notify));
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
    pub(super) fn launch_queues(&mut self, key: SessionKey) {
        let factory = self.sessions.get(&key).map_or(FactoryId::SERVER, |s| s.minted.factory());
        let top = self.catalogue.top_of(factory);
        let Some(session) = self.known(key) else { return };
        // The queues of a lost session fail what they are asked, without any pair.
        let nowhere = PairId { controller: session.controller(), queue: 0 };
        let pair = match session.pair {
            SessionPair::Has(pair) => pair,
            _ if session.lost => nowhere,
            _ => return,
        };
        let worker = session.worker;
        let group = if session.is_static { GroupKey::of_static(key) } else { GroupKey::of_factory(top) };
        let mut launched = Vec::new();
        for (index, state) in &mut session.queues {
            if let QueueState::Waiting(..) = state
                && let QueueState::Waiting(queue, notify) = core::mem::replace(state, QueueState::Running)
            {
                let key = QueueKey { session: key, index: *index };
                launched.push(NewQueue { key, group, queue, pair, notify });
            }
        }
        for new in launched {
            debug!(
                "session {}: queue {} on pair {} of controller {}",
                key.0, new.key.index, pair.queue, pair.controller
            );
            self.tell(worker, ToWorker::AddQueue(new));
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
        let worker = session.worker;
        match session.queues.get_mut(&index) {
            None => Err(SessionError::Queue),
            Some(QueueState::Waiting(_, notify)) => {
                *notify = new;
                Ok(InForce::Now)
            }
            Some(QueueState::Running | QueueState::Stopping) => {
                self.tell(worker, ToWorker::SetNotify(QueueKey { session: key, index }, new));
                Ok(InForce::Later)
            }
        }
    }

    /// Stops a virtqueue after what is in flight has ended: [`Event::QueueStopped`]. An error when it does not run.
    pub fn stop_queue(&mut self, key: SessionKey, index: u16) -> Result<(), SessionError> {
        self.live(key)?;
        debug!("session {}: queue {} stops", key.0, index);
        self.stop(key, index)
    }

    fn stop(&mut self, key: SessionKey, index: u16) -> Result<(), SessionError> {
        let session = self.sessions.get_mut(&key).ok_or(SessionError::Ended)?;
        let worker = session.worker;
        match session.queues.get_mut(&index) {
            None => Err(SessionError::Queue),
            Some(QueueState::Waiting(queue, _)) => {
                let next = queue.next_avail();
                session.queues.remove(&index);
                self.events.push_back(Event::QueueStopped(key, index, next));
                Ok(())
            }
            Some(QueueState::Stopping) => Ok(()),
            Some(state @ QueueState::Running) => {
                *state = QueueState::Stopping;
                self.tell(worker, ToWorker::StopQueue(QueueKey { session: key, index }));
                Ok(())
            }
        }
    }

    /// The running virtqueues of a session.
    pub fn running_queues(&self, key: SessionKey) -> Vec<u16> {
        self.sessions.get(&key).map(|s| s.queues.keys().copied().collect()).unwrap_or_default()
    }

    pub(super) fn queue_stopped(&mut self, key: QueueKey, next: u16) {
        let QueueKey { session: key, index } = key;
        if let Some(session) = self.sessions.get_mut(&key)
            && session.queues.remove(&index).is_some()
        {
            self.events.push_back(Event::QueueStopped(key, index, next));
        }
    }

    pub(super) fn queue_broken(&mut self, key: QueueKey, why: Broken) {
        if self.sessions.contains_key(&key.session) {
            self.events.push_back(Event::QueueBroken(key.session, key.index, why));
        }
    }

    /// The operator is told of a request that failed: whose, where, and why.
    pub(super) fn request_failed(&self, mishap: &Mishap) {
        let Mishap { session: key, what, place, .. } = *mishap;
        // What failed last may be told when the session has ended.
        let minted = self.sessions.get(&SessionKey(key)).map(Session::minted);
        let Some((minted, extent)) = minted.map(|minted| (minted, minted.grant().extent())) else { return };
        let device = minted.device();
        let first = extent.first() << extent.block_size().shift();
        match place {
            Some((at, bytes)) => {
                let offset = at.saturating_sub(first);
                error!(
                    "session {key}: {device}: a {what} of {bytes} bytes at offset {offset} failed: {mishap}"
                );
            }
            None => error!("session {key}: {device}: a {what} failed: {mishap}"),
        }
    }

    /// Breaks a session's virtqueues, for instance because its memory vanished.
    pub fn break_session(&mut self, key: SessionKey, why: Broken) {
        // It may have ended meanwhile.
        let Some(session) = self.sessions.get(&key) else { return };
        let worker = session.worker;
        if session.at_worker() {
            self.tell(worker, ToWorker::Break(key, why));
        }
    }

    /// The session, when its client may ask for a change of its memory now.
    pub(super) fn can_work(&self, key: SessionKey) -> Result<&Session, SessionError> {
        let session = self.sessions.get(&key).filter(|s| s.goal == Goal::Serve).ok_or(SessionError::Ended)?;
        if session.job.is_some() { Err(SessionError::Busy) } else { Ok(session) }
    }
}
