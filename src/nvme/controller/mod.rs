//! The controller, as the control role sees it.
//!
//! Everything that is asked for here returns at once, and ends in exactly one [`ControllerEvent`] of [`Controller::poll`], by a
//! deadline. The exceptions are named at the calls.
//!
//! It is put together from machines that do not know each other; each is told what happened and says what is to be done:
//!
//! * [`bringup`]: registers, from reset to ready, and back.
//! * [`admin`]: the admin queue: what is asked, what was answered, what is late.
//! * [`setup`]: what is asked of a controller that is ready; [`namespaces`]: which it has. `identify`: what Identify data may say.
//! * [`pairs`]: creating queue pairs, deleting them, and creating them again.
//! * [`left`](super::left): one that another driver left running goes on with the same admin queue.
//! * [`reads`]: the control role's own reads. [`notices`]: asynchronous events. [`later`]: what failed for the moment.
//! * `turns`: what is done with what they say. `anomaly`: what none of them believes in.

mod admin;
mod anomaly;
mod bringup;
mod identify;
mod later;
mod namespaces;
mod notices;
mod pair_memory;
mod pairs;
mod reads;
mod setup;
mod turns;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use nvme_platform::{Device, DeviceError, DriverMemory, Iova, PAGE, Time};
use nvme_policy::{LbaRange, PciPlace};

pub(super) use self::admin::DEPTH as ADMIN_DEPTH;
use self::admin::{AdminQueue, Job};
use self::bringup::{Bringup, Shutdown};
use self::later::Later;
use self::namespaces::Namespaces;
use self::notices::Notices;
use self::pairs::Pairs;
use self::reads::Reads;
pub use self::reads::SCAN_MAX;
use self::setup::Setup;
use super::event::{AbortOutcome, ControllerEvent, Failure, PairError, ResetReason, ScanError, Smart};
use super::info::{ControllerInfo, NamespaceInfo};
use super::left::Left;
use super::options::Options;
use super::pair::QueuePair;
use super::quiet::QueueQuiet;
use super::quirks::Quirks;
use super::spec::command::Completion;
use super::spec::log::page;
use super::troubles::Troubled;

/// One NVMe controller.
pub struct Controller {
    device: Box<dyn Device>,
    index: u16,
    options: Options,
    bringup: Bringup,
    /// From the first time that it is enabled.
    admin: Option<AdminQueue>,
    setup: Setup,
    namespaces: Namespaces,
    pairs: Pairs,
    reads: Reads,
    notices: Notices,
    /// What somebody else left running, until it is set up.
    left: Option<Left>,
    /// Where its admin queue is, until it is the driver's.
    left_memory: Option<DriverMemory>,
    /// What it told unasked before it was set up.
    early: Vec<Completion>,
    /// What it said of its health last.
    smart: Option<Smart>,
    /// Another look at what failed for the moment.
    later: Later,
    events: VecDeque<ControllerEvent>,
    /// How often something happened that cannot happen.
    anomalies: u64,
    /// There is more to do at once.
    more: bool,
    now: Time,
}

impl Controller {
    /// Takes a device. It is brought up by the following [`poll`](Self::poll)s, which end in [`ControllerEvent::Ready`] or
    /// [`ControllerEvent::Failed`]. `index` is the number that its [`Namespace`](nvme_policy::Namespace)s carry.
    pub fn new(device: Box<dyn Device>, index: u16, options: Options) -> Self {
        let quirks = Quirks::of(options.pci);
        Self {
            device,
            index,
            options,
            bringup: Bringup::new(index, &options, &quirks),
            admin: None,
            setup: Setup::new(index, options, quirks),
            namespaces: Namespaces::new(index, options.namespaces_max),
            pairs: Pairs::new(index, &options),
            reads: Reads::new(),
            notices: Notices::new(index),
            left: None,
            left_memory: None,
            early: Vec::new(),
            smart: None,
            later: Later::default(),
            events: VecDeque::new(),
            anomalies: 0,
            more: false,
            now: Time::default(),
        }
    }

    /// It was left running by another driver, with its admin queue in this memory of two pages: it goes on without a reset, if it can. Before the
    /// first [`poll`](Self::poll).
    pub fn go_on(&mut self, left: Left, memory: DriverMemory) {
        if left.is_sound() && memory.window().len() >= 2 * PAGE {
            self.bringup.expect(admin::places(memory.iova()));
        }
        (self.left, self.left_memory) = (Some(left), Some(memory));
    }

    /// What whoever [goes on](Self::go_on) with it has to know, and where the memory of its admin queue is. `None`: something is under way, or it
    /// has to be reset for another reason. Nothing may be submitted to its queues any more.
    pub fn leave(&self) -> Option<(Iova, Left)> {
        let (at, left) = self.admin.as_ref().filter(|_| self.is_ready())?.leave()?;
        let live = self.pairs.leave()?;
        Some((at, Left { pairs: self.info().pairs, live, ..left }))
    }

    /// How long a reset of it may take, as it says; nothing before its first [`poll`](Self::poll).
    pub fn reset_wait(&self) -> Duration {
        self.bringup.reset_wait()
    }

    /// Goes on with whatever there is to do, and tells the next piece of news. To be called until it says `None`, after
    /// each admin interrupt, after each call that asks for something, and at [`next_deadline`](Self::next_deadline).
    pub fn poll(&mut self, now: Time) -> Option<ControllerEvent> {
        self.now = now;
        if self.events.is_empty() {
            self.more = false;
            self.advance(now);
        }
        self.events.pop_front()
    }

    /// When [`poll`](Self::poll) wants to be called though nothing happens.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.more || !self.events.is_empty() {
            return Some(self.now);
        }
        let admin =
            self.admin.as_ref().filter(|_| self.bringup.listens()).and_then(AdminQueue::next_deadline);
        let later = self.later.next().filter(|_| self.is_ready());
        [self.bringup.next_look(), admin, self.reads.next_deadline(), later].into_iter().flatten().min()
    }

    /// Serial number, model and so on. Empty before [`ControllerEvent::Ready`].
    pub fn info(&self) -> &ControllerInfo {
        self.setup.info()
    }

    /// The namespaces that can be served, by rising identifier.
    pub fn namespaces(&self) -> &[NamespaceInfo] {
        self.namespaces.all()
    }

    /// Looks at all namespaces again. Ends in [`ControllerEvent::NamespacesChanged`]. In nothing where it is not ready: it is looked
    /// at when it is.
    pub fn look_again(&mut self) {
        if self.is_ready() {
            self.begin_look();
        }
    }

    /// Whether its namespaces are about to be others than [`namespaces`](Self::namespaces) says, or may be.
    pub fn is_looking(&self) -> bool {
        let told = |event: &ControllerEvent| matches!(event, ControllerEvent::NamespacesChanged);
        !self.is_ready() || self.namespaces.is_looking() || self.events.iter().any(told)
    }

    /// The number that its namespaces carry.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Where it is on its bus, as far as the home knows.
    pub fn place(&self) -> Option<PciPlace> {
        self.options.place
    }

    /// Whether pairs can be created.
    pub fn is_ready(&self) -> bool {
        self.bringup.is_running()
    }

    /// How often the driver found itself where it holds that it cannot be. Each time was said, and led to a reset.
    pub fn anomalies(&self) -> u64 {
        self.anomalies
    }

    /// The device, for mapping client memory.
    pub fn device(&mut self) -> &mut dyn Device {
        &mut *self.device
    }

    /// Asks the controller to end a command. Ends in [`ControllerEvent::Aborted`], also when it does not answer.
    pub fn abort(&mut self, pair: u16, cid: u16) {
        self.pairs.troubles().aborts.add();
        let admin = self.admin.as_mut().filter(|_| self.bringup.is_running());
        if admin.is_none_or(|admin| admin.ask(Job::Abort { pair, cid }).is_err()) {
            self.events.push_back(ControllerEvent::Aborted { pair, cid, outcome: AbortOutcome::Unanswered });
        }
    }

    /// Asks for the SMART log. Ends in [`ControllerEvent::Smart`]; in nothing when it cannot be had.
    pub fn ask_smart(&mut self) {
        self.ask_log(page::SMART);
    }

    /// Asks for the newest entry of the error log. What is new there is said; it ends in nothing.
    pub fn ask_errors(&mut self) {
        self.ask_log(page::ERROR);
    }

    fn ask_log(&mut self, id: u8) {
        let job = Job::Log { id, asked: true };
        if self.is_ready() && !self.admin.as_ref().is_some_and(|admin| admin.has(job)) {
            self.ask(job);
        }
    }

    /// What it said of its health when it was [asked](Self::ask_smart) last.
    pub fn smart(&self) -> Option<&Smart> {
        self.smart.as_ref()
    }

    /// What went wrong so far.
    pub fn troubled(&self) -> Troubled {
        self.pairs.troubles().read()
    }

    /// The bus reports an error of the device (PCI Express AER). What it holds can no longer be relied upon: a reset is needed,
    /// unless one is under way.
    pub fn bus_failed(&mut self) {
        self.bringup.disturb();
        self.stuck(ResetReason::Bus);
    }

    /// Resets the controller, with all pairs in the control role's hands. Ends in [`ControllerEvent::Reset`], or in
    /// [`ControllerEvent::Failed`].
    pub fn reset(&mut self) {
        self.pairs.troubles().resets.add();
        if !self.bringup.reset(&mut *self.device, self.now) && self.bringup.is_dead() {
            let (why, quiet) = (Failure::Device(DeviceError::Gone), self.bringup.quiet());
            self.events.push_back(ControllerEvent::Failed { why, quiet });
        }
    }

    /// Tells the controller to make everything durable and stop. Ends in [`ControllerEvent::ShutDown`].
    pub fn shutdown(&mut self, now: Time) {
        self.now = now;
        match self.bringup.shut_down(&mut *self.device, now) {
            Shutdown::Begun => self.end_reads(),
            Shutdown::Already => {}
            Shutdown::Idle => self.events.push_back(ControllerEvent::ShutDown { clean: true }),
            Shutdown::Abrupt => self.is_down(false),
        }
    }

    /// Takes the device off the bus for good: no more DMA, whatever the controller does.
    pub fn cut_off(&mut self) -> Result<QueueQuiet, DeviceError> {
        let proof = self.device.bus().cut_off()?;
        let quiet = QueueQuiet::cut_off(self.index, self.pairs.next_generation(), proof);
        self.die(Some(quiet));
        Ok(quiet)
    }

    /// How many pairs [`create_pair`](Self::create_pair) can still make.
    pub fn pairs_free(&self) -> u16 {
        if self.is_ready() { self.pairs.free() } else { 0 }
    }

    /// Whether its commands may take as long as they like, since storage that hangs is no fault of its own.
    pub fn waits_for_storage(&self) -> bool {
        self.pairs.waits_for_storage()
    }

    /// Bytes of the driver's own memory that a pair of this depth takes.
    pub fn pair_bytes(&self, depth: u16) -> u64 {
        self.pairs.bytes(depth)
    }

    /// Creates an I/O queue pair with `depth` entries (made to fit the controller, 2 to 1024). Ends in
    /// [`ControllerEvent::PairReady`] or [`ControllerEvent::PairFailed`] with this token, or at once in an error.
    pub fn create_pair(&mut self, depth: u16, token: u32) -> Result<(), PairError> {
        if !self.is_ready() {
            return Err(PairError::NotReady);
        }
        let job = self.pairs.create(&mut *self.device, depth, token)?;
        self.ask(job);
        Ok(())
    }

    /// Deletes a pair's queues, with the pair in the control role's hands. Ends in [`ControllerEvent::PairDeleted`], or in
    /// [`ControllerEvent::ResetNeeded`] and then, after the reset, in [`ControllerEvent::PairDeleted`]. An error when there is no such pair,
    /// or it is being worked on.
    pub fn delete_pair(&mut self, id: u16) -> Result<(), PairError> {
        let job = self.pairs.delete(id)?;
        if self.is_ready() {
            self.ask(job);
        }
        Ok(())
    }

    /// Creates the queues of a pair again, after [`ControllerEvent::PairDeleted`] or [`ControllerEvent::Reset`], with the same identifier and
    /// memory. The pair must be in the control role's hands. Ends in [`ControllerEvent::PairRecreated`], whose doorbells are for
    /// [`QueuePair::restart`], or in [`ControllerEvent::PairLost`]; or at once in an error.
    pub fn recreate_pair(&mut self, pair: &mut QueuePair) -> Result<(), PairError> {
        if !self.is_ready() {
            return Err(PairError::NotReady);
        }
        let job = self.pairs.recreate(pair)?;
        self.ask(job);
        Ok(())
    }

    /// Takes back a pair that is not needed any more: after [`ControllerEvent::PairDeleted`], [`ControllerEvent::Reset`] or a cut-off, with
    /// nothing in flight ([`QueuePair::fail_all`], and all of its operations taken). Its identifier and memory are
    /// free again. Otherwise it comes back.
    pub fn retire_pair(&mut self, pair: Box<QueuePair>) -> Result<(), Box<QueuePair>> {
        self.pairs.retire(self.device.pool(), pair)
    }

    /// Reads blocks for the control role, at most [`SCAN_MAX`] bytes. Ends in [`ControllerEvent::ScanRead`] with this token.
    pub fn scan_read(&mut self, range: LbaRange, token: u32) {
        let asked = if range.namespace().controller != self.index {
            Err(ScanError::BadRange)
        } else if !self.is_ready() {
            Err(ScanError::NotReady)
        } else {
            self.reads.ask(range, token)
        };
        if let Err(why) = asked {
            self.events.push_back(ControllerEvent::ScanRead { token, result: Err(why) });
        }
    }
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller")
            .field("index", &self.index)
            .field("serial", &self.info().serial)
            .field("state", &self.bringup)
            .finish_non_exhaustive()
    }
}
