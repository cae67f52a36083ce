//! One controller, and all that the control role does with it.
//!
//! * [`recovery`]: what is done when a command is late or the controller is in trouble, as a pure machine; its table of
//!   transitions is its test.
//! * [`pairs`]: where its queue pairs are. `effects`: what the recovery wants of the controller and of them. `retire`: how a
//!   pair goes.
//! * `tables`: reads the partition tables of its namespaces. `health`: asks it how it is.
//!
//! A unit knows neither sessions nor the catalogue: what they have to know of comes out of [`Unit::poll`] as [`News`], and of the
//! recovery as effects that `Control` carries out (`control/effects.rs`).

mod effects;
mod health;
mod pairs;
mod recovery;
mod retire;
mod tables;

use alloc::boxed::Box;
use alloc::string::String;

use nvme_platform::Time;
use nvme_policy::Namespace;
use nvme_session::factory::{DiskIdentity, Subsystem};
use nvme_session::memory::QuietBy;

use super::super::message::PairId;
use super::anomaly::Anomaly;
use super::outbox::Outbox;
use crate::disk::Table;
use crate::nvme::{self, Controller, NamespaceInfo, QueueQuiet};

pub(super) use self::effects::Fate;
use self::health::Health;
pub(super) use self::pairs::Pair;
use self::pairs::Pairs;
use self::recovery::Recovery;
pub use self::recovery::RecoveryTimes;
pub(super) use self::recovery::{Effect, Effects, Fails, Input};
use self::tables::{Next, Tables};

/// What a controller is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControllerState {
    /// It is brought up.
    Starting,
    /// Its partition tables are read.
    Scanning,
    /// It serves.
    Serving,
    /// It is in trouble: some requests wait.
    Recovering,
    /// It is lost.
    Lost,
    /// It was shut down.
    Down,
}

impl ControllerState {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Scanning => "scanning",
            Self::Serving => "serving",
            Self::Recovering => "recovering",
            Self::Lost => "lost",
            Self::Down => "down",
        }
    }
}

/// What a poll of a unit came to.
#[expect(clippy::large_enum_variant, reason = "one at a time, and none is kept")]
pub(super) enum News {
    /// The driver has news.
    Driver(nvme::ControllerEvent),
    /// A partition table was read.
    Found(NamespaceInfo, Table),
    /// All tables were read, for the first time.
    Scanned,
    /// It went on; there may be more.
    Worked,
}

/// A controller, and what the control role does with it.
pub(super) struct Unit {
    name: String,
    controller: Controller,
    state: ControllerState,
    tables: Tables,
    recovery: Recovery,
    pairs: Pairs,
    health: Health,
    /// The proof that a lost device does no more DMA, if there is one.
    quiet: Option<QueueQuiet>,
}

impl Unit {
    pub(super) fn new(name: &str, controller: Controller, times: RecoveryTimes) -> Self {
        Self {
            name: name.into(),
            controller,
            state: ControllerState::Starting,
            tables: Tables::default(),
            recovery: Recovery::new(times),
            pairs: Pairs::default(),
            health: Health::default(),
            quiet: None,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn controller(&self) -> &Controller {
        &self.controller
    }

    pub(super) fn controller_mut(&mut self) -> &mut Controller {
        &mut self.controller
    }

    /// The number of the controller.
    pub(super) fn index(&self) -> u16 {
        self.controller.index()
    }

    fn id(&self, queue: u16) -> PairId {
        PairId { controller: self.index(), queue }
    }

    pub(super) fn state(&self) -> ControllerState {
        match self.state {
            ControllerState::Serving if !self.recovery.is_idle() => ControllerState::Recovering,
            state => state,
        }
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.state, ControllerState::Starting | ControllerState::Scanning)
    }

    /// Whether its namespaces were listed, and it is in use.
    fn is_up(&self) -> bool {
        matches!(self.state, ControllerState::Scanning | ControllerState::Serving)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.state == ControllerState::Lost
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(self.state, ControllerState::Down | ControllerState::Lost)
    }

    /// Whether it has no pairs for now, but will.
    pub(super) fn is_settling(&self) -> bool {
        self.recovery.is_settling() || !self.controller.is_ready()
    }

    /// When it is to be polled though nothing happened.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let health = self.can_be_asked().then(|| self.health.deadline());
        let all = [self.controller.next_deadline(), self.tables.deadline(), self.recovery.deadline(), health];
        all.into_iter().flatten().min()
    }

    /// Goes on with the controller, and with its tables. Nothing: there is nothing to do now.
    pub(super) fn poll(&mut self, now: Time) -> Option<News> {
        if let Some(event) = self.controller.poll(now) {
            return Some(News::Driver(event));
        }
        if !self.is_up() {
            return None;
        }
        match self.tables.next(self.controller.namespaces(), now) {
            Next::Nothing if self.state == ControllerState::Scanning => {
                self.state = ControllerState::Serving;
                Some(News::Scanned)
            }
            Next::Nothing | Next::Wait => self.ask_health(now),
            Next::Again => Some(News::Worked),
            Next::Read(place, token) => {
                self.controller.scan_read(place, token);
                Some(News::Worked)
            }
            Next::Found(info, table) => Some(News::Found(info, table)),
        }
    }

    /// Whether it serves, and nothing is wrong that would be in the way of its answer.
    fn can_be_asked(&self) -> bool {
        self.state() == ControllerState::Serving && self.controller.is_ready()
    }

    fn ask_health(&mut self, now: Time) -> Option<News> {
        if !self.can_be_asked() || !self.health.is_due(now) {
            return None;
        }
        self.controller.ask_smart();
        self.controller.ask_errors();
        Some(News::Worked)
    }

    /// It said how it is.
    pub(super) fn health_told(&mut self, smart: &nvme::Smart) {
        self.health.told(&self.name, smart);
    }

    /// It was brought up: its tables are read.
    pub(super) fn ready(&mut self, out: &mut Outbox) {
        if self.state != ControllerState::Starting {
            // Unless it was given up before that was heard.
            if !self.is_down() {
                out.anomaly(Anomaly::Ready(self.index()));
            }
            return;
        }
        self.state = ControllerState::Scanning;
        self.read_tables();
    }

    /// The list of its namespaces is another one: all tables are read again.
    pub(super) fn read_tables(&mut self) {
        self.tables.read_all(self.controller.namespaces());
    }

    /// A namespace's table is read again.
    pub(super) fn read_again(&mut self, namespace: Namespace) {
        self.tables.read_again(namespace);
    }

    /// Looks again at what it has: its namespaces, then their tables.
    pub(super) fn look_again(&mut self) {
        self.controller.look_again();
    }

    /// Whether what it has is being looked at, or will be.
    pub(super) fn is_looking(&self) -> bool {
        !self.is_down() && (self.controller.is_looking() || self.tables.are_read())
    }

    /// Reads again what it shares and `has` does not know of. True: there is such a namespace.
    pub(super) fn read_shared(&mut self, has: impl Fn(Namespace) -> bool) -> bool {
        // Otherwise its namespaces are about to be looked at, or never again.
        if !self.is_up() {
            return false;
        }
        let mut any = false;
        for info in self.controller.namespaces() {
            let namespace = info.namespace();
            if info.shared && !has(namespace) && !self.tables.will_read(namespace) {
                self.tables.read_again(namespace);
                any = true;
            }
        }
        any
    }

    /// A read of a table ended.
    pub(super) fn table_read(
        &mut self,
        token: u32,
        result: Result<alloc::vec::Vec<u8>, nvme::ScanError>,
        now: Time,
        out: &mut Outbox,
    ) {
        if self.tables.supply(token, result, !self.pairs.is_empty(), now) {
            self.retire_idle(out);
        }
    }

    /// What tells a namespace of its from others.
    pub(super) fn disk_identity(&self, info: &NamespaceInfo) -> DiskIdentity {
        let about = self.controller.info();
        let (serial, model) = (about.serial.as_str().into(), about.model.as_str().into());
        let name = match about.subsystem.as_str() {
            // Older than such names, or it is not its own. These three are the subsystem's, too (Base 5.17.2.1).
            "" => alloc::format!("{:04x} {serial} {model}", about.vendor),
            name => name.into(),
        };
        DiskIdentity {
            subsystem: Subsystem { name, serial, model },
            controller: about.number,
            shared: info.shared,
            nsid: info.namespace().nsid,
            unique: info.unique,
        }
    }

    /// Whether the device has no way to any memory.
    pub(super) fn is_cut_off(&self) -> bool {
        self.quiet.is_some_and(|quiet| quiet.by() == QuietBy::CutOff)
    }

    /// Whether it is proven that nothing of what it had goes on.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.is_some()
    }

    /// Takes the device off the bus, if that was not done; false when that cannot be seen.
    pub(super) fn cut_off(&mut self) -> bool {
        if !self.is_cut_off()
            && let Ok(quiet) = self.controller.cut_off()
        {
            self.quiet = Some(quiet);
        }
        self.is_cut_off()
    }

    /// Nothing is done with it any more. It is cut off, unless there is proof already that it does no DMA.
    pub(super) fn lose(&mut self) {
        if self.quiet.is_none() {
            self.cut_off();
        }
        self.state = ControllerState::Lost;
        self.tables.stop();
        self.pairs.serve_no_more();
    }

    /// What was proven when it failed.
    pub(super) fn proven(&mut self, quiet: Option<QueueQuiet>) {
        self.quiet = self.quiet.or(quiet);
    }

    pub(super) fn shut_down(&mut self, now: Time) {
        if !self.is_lost() {
            self.controller.shutdown(now);
        }
    }

    pub(super) fn is_shut_down(&mut self) {
        self.state = ControllerState::Down;
    }

    /// The pairs that sessions may be put on, by their queues' identifiers.
    pub(super) fn serving_pairs(&self) -> impl Iterator<Item = (u16, &Pair)> {
        self.pairs.serving()
    }

    pub(super) fn has_pair(&self, queue: u16) -> bool {
        self.pairs.get(queue).is_some()
    }

    /// A new pair, for a worker; it is here.
    pub(super) fn pair_made(&mut self, worker: usize, pair: nvme::QueuePair) {
        self.pairs.insert(worker, Box::new(pair));
    }

    /// One session more uses a pair. Tells its worker.
    pub(super) fn join(&mut self, queue: u16) -> Option<usize> {
        self.pairs.join(queue)
    }

    /// One session less uses a pair, which goes if it is of no use any more. One that is kept for ever is none any more.
    pub(super) fn leave(&mut self, queue: u16, out: &mut Outbox) {
        if self.pairs.leave(queue).unwrap_or_default() {
            self.retire(queue, out);
        }
    }
}
