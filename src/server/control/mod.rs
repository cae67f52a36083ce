//! The control role: what there is, who has it, and what becomes of it when something fails.
//!
//! * `unit`: one controller: its driver, its queue pairs, its partition tables, its recovery. `news`: what it reports.
//! * `effects`: carries out what a recovery wants.
//! * `catalogue`: what the controllers have becomes the catalogue.
//! * `session`: a client asks for a session, registers memory, starts and stops queues, ends. `error`: or does not get what it asked for.
//! * `adopt`: sessions of a server that was there before.
//! * `complaints`: requests that controllers failed.
//! * `drain`: sessions whose device is drained wait.
//! * `assign`: which session is on which queue pair.
//! * `limits`: how much sessions may do a second.
//! * `memory`: memory is mapped for DMA in steps (`job`), handed to the worker as a table, and unmapped once it is quiet.
//! * [`Anomaly`]: what cannot happen is counted and said. `outbox`: that, and messages for workers.
//!
//! Nothing here waits. [`Control::poll`] does what can be done now; the home calls it after every event, and when
//! [`Control::next_deadline`] has come.

mod adopt;
mod anomaly;
mod assign;
mod catalogue;
mod complaints;
mod drain;
mod effects;
mod error;
mod factories;
mod job;
mod limits;
mod memory;
mod news;
mod outbox;
mod session;
mod spread;
mod unit;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::{Device, DriverMemory, Iova, Time};
use nvme_policy::PciPlace;
use nvme_session::Transport;
use nvme_session::factory::{Catalogue, CatalogueConfig, FactoryId};
use nvme_session::queue::Laggards;

pub use self::adopt::Adopted;
pub use self::anomaly::{Anomalies, Anomaly};
use self::complaints::Complaints;
pub use self::drain::Drained;
pub use self::error::SessionError;
pub use self::job::RegionMemory;
pub use self::memory::{MemoryChange, MemoryPlan, NewRegion, Regions};
use self::outbox::Outbox;
pub use self::session::{InForce, QueueSpec, Session};
pub use self::unit::{ControllerState, RecoveryTimes};
use self::unit::{Input, Unit};
use super::limits::Pool;
use super::message::{FromWorker, PairId, SessionKey, StuckCommand, ToWorker};
use crate::nvme;

/// Entries of an I/O queue, where the controller allows as many.
const PAIR_DEPTH: u16 = 256;
/// How much client memory is mapped for DMA in one step.
const MAP_STEP: usize = 64 << 20;
/// The large page of every IOMMU that has any.
const LARGE_PAGE: usize = 2 << 20;

/// What the operator chose, and what the home is like.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many workers there are; at least 1.
    pub workers: usize,
    /// Most sessions at a time.
    pub sessions_max: usize,
    /// Most bytes of memory that one session may register.
    pub memory_max: u64,
    /// Whether clients may register memory only from trusted dataspaces.
    pub trusted_only: bool,
    /// Virtqueues that a session may have.
    pub queues: u16,
    /// How clients reach them.
    pub transport: Transport,
    /// The driver's choices and deadlines.
    pub nvme: nvme::Options,
    /// How long each step of a recovery may take.
    pub recovery: RecoveryTimes,
    /// How long a shutdown waits for sessions to drain.
    pub drain: Duration,
}

/// What the home should know.
#[derive(Debug)]
pub enum Event {
    /// All controllers were scanned (or failed): requests for sessions can be answered.
    Scanned,
    /// The catalogue has news: a device that was absent may be there.
    CatalogueChanged,
    /// What a session asked for is done, or not.
    Done(SessionKey, Result<(), SessionError>),
    /// A virtqueue has stopped; the driver's next request will be at this index.
    QueueStopped(SessionKey, u16, u16),
    /// A worker has the new way to tell a virtqueue's driver ([`Control::set_notify`]).
    NotifySet(SessionKey, u16),
    /// A worker serves the session in the cache mode that its driver wrote ([`Control::write_config`]).
    WriteBackSet(SessionKey),
    /// A virtqueue is broken; its driver was told.
    QueueBroken(SessionKey, u16, nvme_session::virtqueue::Broken),
    /// A session's device is lost for good. Followed by [`ConfigChanged`](Self::ConfigChanged).
    Lost(SessionKey),
    /// A session's configuration space says something else: its namespace grew, or it has none any more. The driver is
    /// to be told in the transport's way; [`Session::read_config`] has what is new.
    ConfigChanged(SessionKey),
    /// Storage that hangs has not let go in time of what a session's client wants back (a queue that stops, memory), or has left.
    /// A client that is still there is to be closed, by [`Control::clear`] or [`Control::end`]: both go on once the storage does, and
    /// until then the memory, and the device, are nobody else's.
    Hangs(SessionKey),
    /// A session whose device is drained ([`Control::drain`]) has nothing in flight any more.
    Held(SessionKey),
    /// Nothing is left of a session's last client.
    Cleared(SessionKey),
    /// Nothing is left of a session.
    Ended(SessionKey),
    /// Nothing is left of a factory that was taken back, nor of anything below it.
    FactoryEnded(FactoryId),
    /// All sessions have ended and all controllers are shut down.
    ShutDown,
}

/// The control role.
pub struct Control {
    config: Config,
    /// The controllers, each at the place that is its number.
    units: Vec<Unit>,
    catalogue: Catalogue,
    sessions: BTreeMap<SessionKey, Session>,
    /// Who may have how many regions.
    regions: Regions,
    /// Whose sessions wait.
    drained: Vec<Drained>,
    /// Controllers whose disks somebody else may still change: their sessions wait.
    unsettled: Vec<u16>,
    /// What the sessions of a factory may do together.
    pools: BTreeMap<FactoryId, Arc<Pool>>,
    /// How many sessions each worker serves.
    loads: Vec<usize>,
    /// Which of them have much to do.
    busy: Vec<bool>,
    /// Requests that took long.
    laggards: Arc<Laggards>,
    /// Requests that failed.
    complaints: Complaints,
    out: Outbox,
    events: VecDeque<Event>,
    scanned: bool,
    /// When nobody waits for the scan any longer. Set by the first poll.
    scan_until: Option<Time>,
    /// Whether the last poll left something that can be done at once.
    more: bool,
    shutdown: Option<Shutdown>,
}

struct Shutdown {
    /// When sessions that have not drained are left behind.
    until: Time,
    controllers_told: bool,
}

impl Control {
    /// A control role without controllers.
    pub fn new(config: Config) -> Self {
        let catalogue = Catalogue::new(CatalogueConfig { sessions_max: config.sessions_max });
        let loads = alloc::vec![0; config.workers.max(1)];
        Self {
            config,
            units: Vec::new(),
            catalogue,
            sessions: BTreeMap::new(),
            regions: Regions::default(),
            drained: Vec::new(),
            unsettled: Vec::new(),
            pools: BTreeMap::new(),
            busy: alloc::vec![false; loads.len()],
            loads,
            laggards: Arc::default(),
            complaints: Complaints::default(),
            out: Outbox::default(),
            events: VecDeque::new(),
            scanned: false,
            scan_until: None,
            more: false,
            shutdown: None,
        }
    }

    /// Takes a controller. It is brought up and scanned by the next polls.
    pub fn add_device(&mut self, name: &str, device: Box<dyn Device>) {
        self.add_pci_device(name, device, None, None);
    }

    /// Takes a controller of which the home knows what it is, and where.
    pub fn add_pci_device(
        &mut self,
        name: &str,
        device: Box<dyn Device>,
        pci: Option<nvme::PciId>,
        place: Option<PciPlace>,
    ) {
        let index = u16::try_from(self.units.len()).unwrap_or(u16::MAX);
        let options = nvme::Options { pci, place, ..self.config.nvme };
        let controller = nvme::Controller::new(device, index, options);
        self.units.push(Unit::new(name, controller, self.config.recovery));
    }

    /// How a controller can be left running, by its place in the order of [`add_device`](Self::add_device), and where its admin queue is;
    /// see [`Controller::leave`](nvme::Controller::leave). `None`: not now.
    pub fn leave_device(&self, controller: u16) -> Option<(Iova, nvme::Left)> {
        self.units.get(usize::from(controller))?.controller().leave()
    }

    /// How long the slowest controller may take for a reset.
    pub fn reset_wait(&self) -> Duration {
        self.units.iter().map(|unit| unit.controller().reset_wait()).max().unwrap_or_default()
    }

    /// A controller was left running by another server; see [`Controller::go_on`](nvme::Controller::go_on). Before the first
    /// [`poll`](Self::poll).
    pub fn go_on_with_device(&mut self, controller: u16, left: nvme::Left, memory: DriverMemory) {
        if let Some((unit, _)) = self.unit(controller) {
            unit.controller_mut().go_on(left, memory);
        }
    }

    /// Gives a controller up, by its place in the order of [`add_device`](Self::add_device): the home wants it back. What is
    /// in flight fails, its sessions are lost, and it is cut off.
    pub fn remove_device(&mut self, controller: u16) {
        let Some((unit, _)) = self.unit(controller) else { return };
        nvme_platform::warn!("controller {controller}: it is taken away");
        if !unit.is_lost() {
            // At whatever time: nothing that follows has a deadline.
            self.device_lost(controller, None, Time::default());
        } else if !unit.cut_off() {
            // Everything has ended; the device itself may still be held.
            nvme_platform::error!("controller {controller}: it could not be cut off");
        }
        self.more = true;
    }

    /// The bus reports an error of a controller: it is reset, and what was in flight is issued again.
    pub fn device_failed(&mut self, controller: u16) {
        let Some((unit, _)) = self.unit(controller) else { return };
        unit.controller_mut().bus_failed();
        self.more = true;
    }

    /// Bounds the regions of all sessions together, for a home whose own room for them is bounded.
    pub fn limit_regions(&mut self, regions: Regions) {
        self.regions = regions;
    }

    /// How it was configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the devices are, and who has them.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// For what the home does before it serves: reservations of static clients.
    pub fn catalogue_mut(&mut self) -> &mut Catalogue {
        &mut self.catalogue
    }

    /// Whether all controllers were scanned (or failed).
    pub fn scanned(&self) -> bool {
        self.scanned
    }

    /// The sessions.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionKey, &Session)> {
        self.sessions.iter().map(|(key, session)| (*key, session))
    }

    /// One session.
    pub fn session(&self, key: SessionKey) -> Option<&Session> {
        self.sessions.get(&key)
    }

    /// The controllers, in the order in which they were added.
    pub fn controllers(&self) -> impl Iterator<Item = (&str, &nvme::Controller, ControllerState)> + '_ {
        self.units.iter().map(|unit| (unit.name(), unit.controller(), unit.state()))
    }

    /// The last requests that took long, those of sessions that have ended too.
    pub fn laggards(&self) -> &Laggards {
        &self.laggards
    }

    /// How often something happened that cannot: a fault of the server's own, or of a home.
    pub fn anomalies(&self) -> &Anomalies {
        self.out.anomalies()
    }

    /// The next message, with the worker it is for.
    pub fn take_message(&mut self) -> Option<(usize, ToWorker)> {
        self.out.take()
    }

    /// The next event.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Does what can be done now.
    pub fn poll(&mut self, now: Time) {
        self.more = false;
        self.poll_units(now);
        self.poll_start(now);
        self.poll_sessions();
        self.poll_quiet(now);
        for controller in self.numbers() {
            self.recover(controller, Input::Tick, now);
        }
        self.poll_shutdown(now);
        self.tell_failed(now);
    }

    fn poll_units(&mut self, now: Time) {
        for controller in self.numbers() {
            self.poll_unit(controller, now);
        }
    }

    /// A controller, and where to say what it has to say. There is one of that number; were there none, that is counted and said.
    fn unit(&mut self, controller: u16) -> Option<(&mut Unit, &mut Outbox)> {
        let unit = self.units.get_mut(usize::from(controller));
        if unit.is_none() {
            self.out.anomaly(Anomaly::NoController(controller));
        }
        Some((unit?, &mut self.out))
    }

    /// The numbers of the controllers.
    fn numbers(&self) -> core::ops::Range<u16> {
        0..u16::try_from(self.units.len()).unwrap_or(u16::MAX)
    }

    /// When [`poll`](Self::poll) is to be called though nothing happened.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.more || !self.out.is_empty() {
            return Some(Time::default());
        }
        let units = self.units.iter().filter_map(Unit::next_deadline);
        let shutdown = self.shutdown.iter().filter(|s| !s.controllers_told).map(|s| s.until);
        let start = self.scan_until.filter(|_| !self.scanned);
        let told = self.complaints.deadline();
        units.chain(shutdown).chain(start).chain(self.quiet_deadline()).chain(told).min()
    }

    /// Takes a message of a worker.
    pub fn from_worker(&mut self, worker: usize, message: FromWorker, now: Time) {
        match message {
            FromWorker::PairTaken(id, pair) => {
                let Some((unit, out)) = self.unit(id.controller) else {
                    // Nothing is known of its controller: it stays, with what is in flight.
                    return core::mem::forget(pair);
                };
                let input = unit.handed_back(id.queue, pair, out);
                self.recover(id.controller, input, now);
                self.more = true;
            }
            FromWorker::QueueStopped(key, next) => self.queue_stopped(key, next),
            FromWorker::NotifySet(key) => self.events.push_back(Event::NotifySet(key.session, key.index)),
            FromWorker::GivenBack(key, returned) => self.given_back(worker, key, returned),
            FromWorker::Busy(busy) => self.worker_busy(worker, busy),
            FromWorker::Crowded(key) => self.crowded(worker, key, now),
            FromWorker::GoHome(key, crowds) => self.go_home(worker, key, crowds, now),
            FromWorker::WriteBackSet(session) => self.write_back_set(session),
            FromWorker::QueueBroken(key, why) => self.queue_broken(key, why),
            FromWorker::Held(session) => self.held(session),
            FromWorker::TableSet(session, generation) => self.table_set(session, generation),
            FromWorker::Expired(command) => self.expired(command, now),
            FromWorker::Failed(mishap) => self.request_failed(&mishap, now),
            FromWorker::Stuck(command, stuck) => {
                self.recover(command.pair.controller, Input::Stuck(command, stuck), now);
            }
        }
    }

    /// A worker reports a command whose deadline has passed.
    fn expired(&mut self, command: StuckCommand, now: Time) {
        let PairId { controller, queue } = command.pair;
        match self.units.get(usize::from(controller)) {
            Some(unit) if unit.has_pair(queue) => self.recover(controller, Input::Late(command), now),
            _ => self.out.anomaly(Anomaly::NoPair(command.pair)),
        }
    }

    /// Ends all sessions, then shuts the controllers down. Ends in [`Event::ShutDown`].
    pub fn shut_down(&mut self, now: Time) {
        if self.shutdown.is_some() {
            return;
        }
        self.shutdown = Some(Shutdown { until: now + self.config.drain, controllers_told: false });
        let keys: Vec<SessionKey> = self.sessions.keys().copied().collect();
        for key in keys {
            self.end(key);
        }
    }

    fn poll_shutdown(&mut self, now: Time) {
        let Some(shutdown) = &mut self.shutdown else { return };
        if !shutdown.controllers_told && (self.sessions.is_empty() || now >= shutdown.until) {
            shutdown.controllers_told = true;
            for unit in &mut self.units {
                unit.shut_down(now);
            }
            self.poll_units(now);
        }
        let told = self.shutdown.as_ref().is_some_and(|s| s.controllers_told);
        if told && self.units.iter().all(Unit::is_down) {
            self.shutdown = None;
            self.events.push_back(Event::ShutDown);
        }
    }

    fn tell(&mut self, worker: usize, message: ToWorker) {
        self.out.tell(worker, message);
    }
}
