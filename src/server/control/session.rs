//! Sessions: what a client asks for, one thing at a time (`queues`: its virtqueues), and how a session ends (`ending`; `quiet`: what has
//! to be quiet for that).

mod ending;
mod places;
mod queues;
mod quiet;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use nvme_platform::{Time, debug, info};
use nvme_policy::{Extent, Grant, Policy, Rate};
use nvme_session::blk::Offer;
use nvme_session::dataspace::{Registry, RegistryConfig};
use nvme_session::factory::{CreateError, Minted};
use nvme_session::memory::MemoryTable;
use nvme_session::queue::{Counted, Counts};
use nvme_session::virtqueue::Broken;

use super::super::limits::Limits;
use super::super::message::{Old, PairId, SessionKey, ToWorker};
use super::error::SessionError;
use super::job::MemoryJob;
use super::{Anomaly, Control, Event};

pub(super) use self::places::Abroad;
use self::places::QueueState;
pub use self::queues::QueueSpec;

/// When what was asked is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InForce {
    /// It is.
    Now,
    /// Once its worker has said so, of which there is an [`Event`]. A client that is answered then waits for itself.
    Later,
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

/// Whether a session waits because its device is drained.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    No,
    /// It finishes what it has in flight.
    Finishes,
    /// It has nothing in flight.
    Quiet,
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
    /// Where it is at home: where its queues begin, and where those gather that have little to do.
    pub(super) worker: usize,
    pub(super) pair: SessionPair,
    /// Its pairs on other workers, while queues of it are there.
    pub(super) abroad: Vec<Abroad>,
    /// Until when no queue of it goes to another worker.
    pub(super) stays_until: Time,
    queues: BTreeMap<u16, QueueState>,
    /// Of those that wait, the ones that stop once their worker has them: what was in flight before is to be done, or where they go on is in their
    /// journal.
    stops: BTreeMap<u16, Old>,
    /// Of changes of its cache mode: how many workers have not answered yet.
    write_back_asked: VecDeque<usize>,
    /// How often workers were asked to say that nothing of it is in flight, and have not said it yet.
    hold_asked: usize,
    /// How much it may do a second.
    pub(super) limits: Arc<Limits>,
    /// What its virtqueues did, those that were stopped too.
    counts: BTreeMap<u16, Arc<Counts>>,
    pub(super) registry: Registry,
    pub(super) job: Option<MemoryJob>,
    pub(super) generation: u64,
    goal: Goal,
    lost: bool,
    /// Its device is drained.
    hold: Hold,
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

    /// Whether its cache mode is write-back.
    pub fn write_back(&self) -> bool {
        self.write_back
    }

    /// The cache mode of a session that goes on, before any queue runs.
    pub(super) fn set_write_back(&mut self, on: bool) {
        self.write_back = on;
    }

    /// Whether it is a static client's.
    pub fn is_static(&self) -> bool {
        self.is_static
    }

    /// The blocks that it has.
    pub(super) fn extent(&self) -> &Extent {
        self.minted.grant().extent()
    }

    /// Whether it waits because its device is drained.
    pub fn is_held(&self) -> bool {
        self.hold != Hold::No
    }

    /// Whether it waits, and has nothing in flight.
    pub fn is_quiet(&self) -> bool {
        self.hold == Hold::Quiet
    }

    /// Has it wait, or not. Whether that is another thing than before.
    pub(super) fn set_held(&mut self, on: bool) -> bool {
        // One whose device is lost has nothing to wait for: its requests fail.
        let on = on && !self.lost;
        let changes = on != self.is_held();
        if changes {
            self.hold = if on { Hold::Finishes } else { Hold::No };
        }
        changes
    }

    /// So many workers are to say that nothing of it is in flight. Whether nobody is waited for. (Who was asked before and has not
    /// answered does so, too, and what it says is not about this time.)
    pub(super) fn ask_for_quiet(&mut self, workers: usize) -> bool {
        self.hold_asked += workers;
        self.hold_asked == 0
    }

    /// One of them says so. Whether it was the last.
    pub(super) fn one_less_to_be_quiet(&mut self) -> bool {
        self.hold_asked = self.hold_asked.saturating_sub(1);
        self.hold_asked == 0
    }

    /// Whether nobody is waited for who was asked whether anything of it is in flight.
    pub(super) fn has_said_it_is_quiet(&self) -> bool {
        self.hold_asked == 0
    }

    /// If it waits, there is something that is still to end.
    pub(super) fn is_not_quiet(&mut self) {
        if self.hold == Hold::Quiet {
            self.hold = Hold::Finishes;
        }
    }

    /// It has nothing in flight any more. Whether it waits, and that is news.
    pub(super) fn became_quiet(&mut self) -> bool {
        let news = self.hold == Hold::Finishes;
        if news {
            self.hold = Hold::Quiet;
        }
        news
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

    /// How much it may do a second, of itself.
    pub fn rate(&self) -> Rate {
        self.limits.rate()
    }

    /// What that virtqueue of its does is counted here.
    pub(super) fn counts(&mut self, index: u16) -> &Counts {
        self.counts.entry(index).or_default()
    }

    /// What each of its virtqueues did so far, whoever its clients were.
    pub fn counted_by_queue(&self) -> impl Iterator<Item = (u16, Counted)> {
        self.counts.iter().map(|(index, counts)| (*index, counts.read()))
    }

    /// What all of them did.
    pub fn counted(&self) -> Counted {
        self.counted_by_queue().fold(Counted::default(), |mut sum, (_, counted)| {
            sum.add(&counted);
            sum
        })
    }

    /// How many virtqueues run (or are about to).
    pub fn running(&self) -> usize {
        self.queues.len()
    }

    /// The worker where it is at home. Single virtqueues may be on others ([`worker_of`](Self::worker_of)).
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

    /// Whether it has queues to be served, and nobody makes a pair for it.
    pub(super) fn waits_for_pair(&self) -> bool {
        self.pair == SessionPair::None && !self.lost && !self.queues.is_empty()
    }

    /// Reads the virtio-blk configuration space; behind its end there are zeroes.
    pub fn read_config(&self, offset: u32, into: &mut [u8]) {
        self.offer.config_space(self.write_back).read(u64::from(offset), into);
    }

    /// Gives queues that wait for a pair their new table. One whose rings are gone
    /// finds that out when it is served.
    pub(super) fn set_waiting_tables(&mut self, table: &Arc<MemoryTable>) {
        for queue in self.queues.values_mut() {
            if let QueueState::Waiting(queue, ..) = queue {
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
        let hold = self.hold_of(minted.grant().extent());
        let limits = self.limits_of(&minted);
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
                abroad: Vec::new(),
                stays_until: Time::default(),
                queues: BTreeMap::new(),
                stops: BTreeMap::new(),
                write_back_asked: VecDeque::new(),
                hold_asked: 0,
                limits,
                counts: BTreeMap::new(),
                registry,
                job: None,
                generation: 0,
                goal: Goal::Serve,
                lost: false,
                hold,
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
        for queue in session.queues.values_mut() {
            if let QueueState::Waiting(queue, ..) = queue {
                queue.set_grant(grant.clone());
            }
        }
        self.tell_workers(key, || ToWorker::SetGrant(key, grant.clone()));
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
        for queue in session.queues.values_mut() {
            if let QueueState::Waiting(queue, ..) = queue {
                queue.set_write_back(on);
            }
        }
        let told = self.tell_workers(key, || ToWorker::SetWriteBack(key, on));
        if told == 0 {
            return Ok(InForce::Now);
        }
        self.live(key)?.write_back_asked.push_back(told);
        Ok(InForce::Later)
    }

    /// A worker serves the session in the cache mode that its driver wrote.
    pub(super) fn write_back_set(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(left) = session.write_back_asked.front_mut() else { return };
        *left -= 1;
        if *left == 0 {
            session.write_back_asked.pop_front();
            self.events.push_back(Event::WriteBackSet(key));
        }
    }

    /// Breaks a session's virtqueues, for instance because its memory vanished.
    pub fn break_session(&mut self, key: SessionKey, why: Broken) {
        // It may have ended meanwhile.
        let Some(session) = self.sessions.get_mut(&key) else { return };
        for state in session.queues.values_mut() {
            if let QueueState::Leaving(journey) = state {
                journey.unheard.broken = Some(why);
            }
        }
        self.tell_workers(key, || ToWorker::Break(key, why));
    }

    /// The session, when its client may ask for a change of its memory now.
    pub(super) fn can_work(&self, key: SessionKey) -> Result<&Session, SessionError> {
        let session = self.sessions.get(&key).filter(|s| s.goal == Goal::Serve).ok_or(SessionError::Ended)?;
        if session.job.is_some() { Err(SessionError::Busy) } else { Ok(session) }
    }
}
