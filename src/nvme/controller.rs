//! The controller, as the control role sees it.
//!
//! Everything that is asked for here returns at once, and ends in exactly one [`Event`] of [`Controller::poll`], by a
//! deadline. The exceptions are named at the calls.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use nvme_platform::{Device, DeviceError, Time, warn};

use super::admin::{AdminQueue, Job};
use super::event::{AbortOutcome, Event, Failure, ResetReason, Smart};
use super::info::{ControllerInfo, NamespaceInfo};
use super::options::Options;
use super::pair::CommandCaps;
use super::pairs::Pairs;
use super::quiet::{Generation, QueueQuiet};
use super::quirks::Quirks;
use super::scan::Scan;
use super::setup::NamespaceScan;
use super::spec::registers;

/// Rounds of asking and answering in one poll: a controller that answers at once is set up in few polls, one that never
/// stops is not listened to for ever.
const ROUNDS: u32 = 256;

/// How long the host may take to reset the link to a controller after it said that there was an error.
const BUS_REST: Duration = Duration::from_secs(3);

/// What the controller is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    New,
    /// CC.EN is being set to one while the controller still starts from an earlier time: waiting for RDY.
    Starting {
        deadline: Time,
    },
    /// Left alone for a while, then `Disabling`.
    Resting {
        until: Time,
    },
    /// Waiting for CSTS.RDY = 0.
    Disabling {
        deadline: Time,
        waited: Duration,
    },
    /// Waiting for CSTS.RDY = 1.
    Enabling {
        deadline: Time,
        waited: Duration,
    },
    /// Asking what it is.
    Setup,
    Running,
    /// Only a reset helps, and that was said.
    Stuck,
    /// Waiting for CSTS.SHST.
    ShuttingDown {
        deadline: Time,
    },
    /// Failed, gone, cut off or shut down.
    Dead,
}

/// What comes after CSTS.RDY = 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// The first bring-up.
    First,
    /// A reset that was asked for.
    Reset,
    /// Nothing: bring-up failed, and the controller is to be quiet.
    Stop(Failure),
}

/// One NVMe controller.
pub struct Controller {
    pub(super) device: Box<dyn Device>,
    pub(super) index: u16,
    pub(super) options: Options,
    pub(super) quirks: Quirks,
    pub(super) state: State,
    pub(super) purpose: Purpose,
    pub(super) admin: Option<AdminQueue>,
    pub(super) info: ControllerInfo,
    pub(super) caps: CommandCaps,
    pub(super) cap: registers::Capabilities,
    pub(super) namespaces: Vec<NamespaceInfo>,
    pub(super) listing: Option<NamespaceScan>,
    /// Another look at the namespaces is due after the present one.
    pub(super) look_again: bool,
    pub(super) highest_nsid: u32,
    pub(super) events_max: u16,
    pub(super) namespace_notices: bool,
    pub(super) notices: u64,
    pub(super) shutdown_wait: Duration,
    pub(super) pairs: Pairs,
    pub(super) scan: Scan,
    pub(super) next_generation: Generation,
    /// Proof of the reset that is going on.
    pub(super) quiet: Option<QueueQuiet>,
    /// Somebody else reset the function, or is about to: what the home set up there (interrupts) may be gone, and a function
    /// reset of its own brings it back. How long others are left alone before that.
    pub(super) disturbed: Option<Duration>,
    /// Whether a function reset was tried in the present attempt.
    pub(super) function_reset: bool,
    pub(super) events: VecDeque<Event>,
    /// When a register is to be looked at again.
    pub(super) wake: Option<Time>,
    pub(super) now: Time,
}

impl Controller {
    /// Takes a device. It is brought up by the following [`poll`](Self::poll)s, which end in [`Event::Ready`] or
    /// [`Event::Failed`]. `index` is the number that its [`Namespace`](nvme_policy::Namespace)s carry.
    pub fn new(device: Box<dyn Device>, index: u16, options: Options) -> Self {
        Self {
            device,
            index,
            quirks: Quirks::of(options.pci),
            options,
            state: State::New,
            purpose: Purpose::First,
            admin: None,
            info: ControllerInfo::default(),
            caps: CommandCaps::default(),
            cap: registers::Capabilities::new(),
            namespaces: Vec::new(),
            listing: None,
            look_again: false,
            highest_nsid: 0,
            events_max: 1,
            namespace_notices: false,
            notices: 0,
            shutdown_wait: Duration::from_secs(5),
            pairs: Pairs::new(),
            scan: Scan::new(),
            next_generation: 1,
            quiet: None,
            disturbed: None,
            function_reset: false,
            events: VecDeque::new(),
            wake: None,
            now: Time::default(),
        }
    }

    /// Goes on with whatever there is to do, and tells the next piece of news. To be called until it says `None`, after
    /// each admin interrupt, after each call that asks for something, and at [`next_deadline`](Self::next_deadline).
    pub fn poll(&mut self, now: Time) -> Option<Event> {
        self.now = now;
        if self.events.is_empty() {
            self.wake = None;
            self.advance(now);
        }
        self.events.pop_front()
    }

    /// When [`poll`](Self::poll) wants to be called though nothing happens.
    pub fn next_deadline(&self) -> Option<Time> {
        if !self.events.is_empty() {
            return Some(self.now);
        }
        let admin = self.admin.as_ref().filter(|_| self.listens()).and_then(AdminQueue::next_deadline);
        [self.wake, admin, self.scan.next_deadline()].into_iter().flatten().min()
    }

    /// Whether it answers admin commands, as far as we know.
    pub(super) fn listens(&self) -> bool {
        matches!(self.state, State::Setup | State::Running)
    }

    fn advance(&mut self, now: Time) {
        self.advance_registers(now);
        if !self.listens() {
            return;
        }
        for _ in 0..ROUNDS {
            let progress = self.answers(now) | self.advance_scan(now);
            if !self.listens() {
                // It became stuck, or is being stopped: registers have the word from now on.
                self.wake = Some(now);
                return;
            }
            if !progress {
                self.check_admin_deadlines(now);
                return;
            }
        }
        self.wake = Some(now);
    }

    /// Submits admin commands and takes answers. True when there was any.
    fn answers(&mut self, now: Time) -> bool {
        let stride = 4_u32 << self.cap.dstrd();
        let Some(admin) = &mut self.admin else { return false };
        if let Some(tail) = admin.pump(now) {
            self.device.registers().write32(registers::DOORBELLS, tail.into());
        }
        let mut any = false;
        for _ in 0..super::admin::DEPTH {
            if !self.listens() {
                // Being stopped: what was asked ends there.
                break;
            }
            let Some(answer) = self.admin.as_mut().and_then(AdminQueue::pop) else { break };
            any = true;
            self.answered(answer, now);
        }
        if let Some(head) = self.admin.as_mut().and_then(AdminQueue::head) {
            self.device.registers().write32(registers::DOORBELLS + stride, head.into());
        }
        any
    }

    fn check_admin_deadlines(&mut self, now: Time) {
        for _ in 0..super::admin::DEPTH {
            let Some((job, opcode)) = self.admin.as_mut().and_then(|a| a.expired(now)) else { return };
            match job {
                Job::Abort { pair, cid } => {
                    self.events.push_back(Event::Aborted { pair, cid, outcome: AbortOutcome::Unanswered });
                }
                _ if self.state == State::Setup => self.stop(Failure::AdminTimeout { opcode }, now),
                Job::DeleteSq { id } if !self.is_scan_pair(id) => {
                    self.stuck(ResetReason::DeleteFailed { id })
                }
                _ => self.stuck(ResetReason::AdminTimeout { opcode }),
            }
            if !self.listens() {
                return;
            }
        }
    }

    /// Says once that only a reset helps.
    pub(super) fn stuck(&mut self, why: ResetReason) {
        if self.state == State::Running {
            warn!("controller {}: needs a reset: {why}", self.index);
            self.state = State::Stuck;
            self.events.push_back(Event::ResetNeeded(why));
        }
    }

    /// Serial number, model and so on. Empty before [`Event::Ready`].
    pub fn info(&self) -> &ControllerInfo {
        &self.info
    }

    /// The namespaces that can be served, by rising identifier.
    pub fn namespaces(&self) -> &[NamespaceInfo] {
        &self.namespaces
    }

    /// The number that its namespaces carry.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Whether pairs can be created.
    pub fn is_ready(&self) -> bool {
        self.state == State::Running
    }

    /// The device, for mapping client memory.
    pub fn device(&mut self) -> &mut dyn Device {
        &mut *self.device
    }

    /// Asks the controller to end a command. Ends in [`Event::Aborted`], also when it does not answer.
    pub fn abort(&mut self, pair: u16, cid: u16) {
        let job = Job::Abort { pair, cid };
        let running = self.state == State::Running;
        if !(running && self.admin.as_mut().is_some_and(|admin| admin.ask(job))) {
            self.events.push_back(Event::Aborted { pair, cid, outcome: AbortOutcome::Unanswered });
        }
    }

    /// Asks for the SMART log. Ends in [`Event::Smart`]; in nothing when it cannot be had.
    pub fn ask_smart(&mut self) {
        let asked = Job::Log { id: super::spec::log::page::SMART, asked: true };
        if let Some(admin) = self.admin.as_mut().filter(|_| self.state == State::Running)
            && !admin.has(|job| *job == asked)
        {
            admin.ask(asked);
        }
    }

    pub(super) fn smart(&mut self, smart: Smart) {
        self.events.push_back(Event::Smart(smart));
    }

    /// The bus reports an error of the device (PCI Express AER). What it holds can no longer be relied upon: a reset is needed,
    /// unless one is under way.
    pub fn bus_failed(&mut self) {
        // Its status may have been seen first.
        if matches!(self.state, State::Running | State::Stuck) {
            self.disturbed = Some(BUS_REST);
        }
        self.stuck(ResetReason::Bus);
    }

    /// Resets the controller, with all pairs in the control role's hands. Ends in [`Event::Reset`], or in
    /// [`Event::Failed`].
    pub fn reset(&mut self) {
        if matches!(self.state, State::Setup | State::Running | State::Stuck) {
            self.purpose = Purpose::Reset;
            self.begin_disable(self.now);
        } else if self.state == State::Dead {
            self.events
                .push_back(Event::Failed { why: Failure::Device(DeviceError::Gone), quiet: self.quiet });
        }
    }

    /// Tells the controller to make everything durable and stop. Ends in [`Event::ShutDown`].
    pub fn shutdown(&mut self, now: Time) {
        self.now = now;
        self.begin_shutdown(now);
    }

    /// Takes the device off the bus for good: no more DMA, whatever the controller does.
    pub fn cut_off(&mut self) -> Result<QueueQuiet, DeviceError> {
        let proof = self.device.bus().cut_off()?;
        let quiet = QueueQuiet::cut_off(self.index, self.next_generation, proof);
        self.die(Some(quiet));
        Ok(quiet)
    }

    /// For homes with a pin interrupt: masks it (true) until the admin queue and the pairs were polled, or unmasks it.
    /// Not to be used with MSI or MSI-X (Base 3.1.3.3).
    pub fn mask_pin(&mut self, masked: bool) {
        let offset = if masked { registers::INTMS } else { registers::INTMC };
        self.device.registers().write32(offset, u32::MAX);
    }
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller")
            .field("index", &self.index)
            .field("serial", &self.info.serial)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
