//! Registers: from whatever state the controller is found in to ready, and back (Base 3.5, 3.6, 3.7).
//!
//! Every wait is for one bit, with a deadline from CAP.TO. A read of all ones means that the device is gone.
//! The machine knows registers and the bus alone: what is asked of a controller that is ready is others' business.

use core::time::Duration;

use nvme_platform::{Device, DeviceError, Iova, Time, warn};

use super::super::event::{Failure, ResetReason};
use super::super::options::Options;
use super::super::quiet::{Generation, QueueQuiet};
use super::super::quirks::Quirks;
use super::super::spec::command::{CQE_SHIFT, SQE_SHIFT};
use super::super::spec::registers::{
    ACQ, AQA, ASQ, AdminQueueAttributes, CAP, CC, CRTO, CSTS, Capabilities, Configuration, ReadyTimeouts,
    Status, VS, Version,
};
use super::admin::DEPTH;

mod shutdown;

use self::shutdown::SHUTDOWN_WAIT;
pub(super) use self::shutdown::Shutdown;

/// How often a register is looked at while we wait for a bit: no interrupt tells of it.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// The unit of CAP.TO and CRTO.
const READY_UNIT: Duration = Duration::from_millis(500);
/// CSTS.SHST: shutdown processing complete.
const SHUTDOWN_COMPLETE: u8 = 2;
/// How long the host may take to reset the link to a controller after it said that there was an error.
const BUS_REST: Duration = Duration::from_secs(3);

/// What the controller is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
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
enum Purpose {
    /// The first bring-up.
    First,
    /// A reset that was asked for.
    Reset,
    /// Nothing: bring-up failed, and the controller is to be quiet.
    Stop(Failure),
}

/// What one look at the registers came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Nothing to do before [`Bringup::next_look`].
    Wait,
    /// There is more to do at once.
    On,
    /// Others have to do something.
    Turn(Turn),
}

/// What others have to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// CSTS.RDY was seen to be zero: all pairs are quiet. [`Bringup::enable`] is next.
    Stopped(QueueQuiet),
    /// It is ready to be asked what it is.
    Ready,
    /// It runs as somebody else left it, and is ready to be asked what it is.
    Taken,
    /// It is of no use any more.
    Failed { why: Failure, quiet: Option<QueueQuiet> },
    /// It has to be reset.
    Stuck(ResetReason),
    /// All ones.
    Gone,
    /// It stopped as it was told to, or did not.
    ShutDown { clean: bool },
}

/// The register machine.
pub(super) struct Bringup {
    index: u16,
    ready_floor: Duration,
    ready_ceiling: Duration,
    /// How often a controller on a bus is looked at.
    watch_every: Option<Duration>,
    delay_after_disable: Duration,
    /// What to take for CAP.MQES where that says none.
    unsaid_mqes: u16,
    /// It is not even looked at.
    refused: Option<Failure>,
    shutdown_wait: Duration,
    state: State,
    purpose: Purpose,
    cap: Capabilities,
    /// How long CSTS.RDY may take to follow CC.EN, once that is known.
    ready_wait: Duration,
    /// Proof of the reset that is going on, or of the end.
    quiet: Option<QueueQuiet>,
    /// Somebody else reset the function, or is about to: what the home set up there (interrupts) may be gone, and a function
    /// reset of its own brings it back. How long others are left alone before that.
    disturbed: Option<Duration>,
    /// Whether a function reset was tried in the present attempt.
    function_reset: bool,
    /// Where the admin queue is that somebody else left running.
    left: Option<(Iova, Iova)>,
    /// It runs as somebody else left it, and is not set up yet: what goes wrong may be undone by a reset.
    taken: bool,
    /// When a register is to be looked at again.
    look: Option<Time>,
}

impl Bringup {
    /// A controller that nobody looked at yet.
    pub(super) fn new(index: u16, options: &Options, quirks: &Quirks) -> Self {
        Self {
            index,
            ready_floor: options.ready_floor,
            ready_ceiling: options.ready_ceiling,
            watch_every: options.pci.map(|_| options.watch_every),
            delay_after_disable: quirks.delay_after_disable,
            unsaid_mqes: quirks.unsaid_mqes.unwrap_or(0),
            refused: quirks.long_entries.then_some(Failure::QueueShape),
            shutdown_wait: SHUTDOWN_WAIT,
            state: State::New,
            purpose: Purpose::First,
            cap: Capabilities::new(),
            ready_wait: Duration::ZERO,
            quiet: None,
            disturbed: None,
            function_reset: false,
            left: None,
            taken: false,
            look: None,
        }
    }

    /// It was left running, with its admin queue there, and goes on so if it looks like that. Before the first look.
    pub(super) fn expect(&mut self, places: (Iova, Iova)) {
        self.left = Some(places);
    }

    /// CAP, as it was found.
    pub(super) fn cap(&self) -> &Capabilities {
        &self.cap
    }

    /// How long it may take to stop and to start again.
    pub(super) fn reset_wait(&self) -> Duration {
        2 * self.ready_wait
    }

    /// Entries of the longest queue, less one.
    pub(super) fn mqes(&self) -> u16 {
        if self.cap.mqes() == 0 { self.unsaid_mqes } else { self.cap.mqes() }
    }

    /// The distance between two doorbell registers in bytes.
    pub(super) fn stride(&self) -> u32 {
        4 << self.cap.dstrd()
    }

    /// Proof of the last reset, or of the end.
    pub(super) fn quiet(&self) -> Option<QueueQuiet> {
        self.quiet
    }

    /// When [`step`](Self::step) wants to be called though nothing happens.
    pub(super) fn next_look(&self) -> Option<Time> {
        self.look
    }

    /// Whether it answers admin commands, as far as we know.
    pub(super) fn listens(&self) -> bool {
        matches!(self.state, State::Setup | State::Running)
    }

    /// Whether it is being asked what it is.
    pub(super) fn is_setting_up(&self) -> bool {
        self.state == State::Setup
    }

    /// Whether it takes I/O.
    pub(super) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Whether it is coming back from a reset.
    pub(super) fn is_reset(&self) -> bool {
        self.purpose == Purpose::Reset
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    /// Looks at CSTS and goes on by one step. `next` is the generation that the next queue pair would get.
    pub(super) fn step(&mut self, device: &mut dyn Device, next: Generation, now: Time) -> Step {
        self.look = None;
        match self.state {
            State::Dead => Step::Wait,
            State::New => self.found(device, next, now),
            State::Resting { until } if now < until => self.wait(until),
            State::Resting { .. } => {
                if self.disturbed.take().is_some()
                    && let Err(why) = device.bus().reset()
                {
                    // It may still do without, with queues that interrupt nobody.
                    warn!("controller {}: its function could not be reset: {why}", self.index);
                }
                self.wait_for_stop(device, now)
            }
            State::Starting { deadline } => {
                let Some(status) = status(device) else { return Step::Turn(Turn::Gone) };
                if status.rdy() || status.cfs() || now >= deadline {
                    self.disable(device, now);
                    Step::On
                } else {
                    self.look_again_at(now, deadline)
                }
            }
            State::Disabling { deadline, waited } => self.disabling(device, next, now, deadline, waited),
            State::Enabling { deadline, waited } => {
                let Some(status) = status(device) else { return Step::Turn(Turn::Gone) };
                if status.cfs() {
                    self.stop(device, Failure::Fatal, now);
                    Step::On
                } else if status.rdy() {
                    self.state = State::Setup;
                    Step::Turn(Turn::Ready)
                } else if now < deadline {
                    self.look_again_at(now, deadline)
                } else {
                    self.stop(device, Failure::NotReady(waited), now);
                    Step::On
                }
            }
            State::Setup => {
                let Some(status) = status(device) else { return Step::Turn(Turn::Gone) };
                if status.cfs() || !status.rdy() {
                    self.stop(device, Failure::Fatal, now);
                    return Step::On;
                }
                Step::Wait
            }
            State::Running => {
                let Some(status) = status(device) else { return Step::Turn(Turn::Gone) };
                if status.cfs() || !status.rdy() {
                    // It does not stop by itself: somebody reset it.
                    self.disturbed = (!status.cfs()).then_some(Duration::ZERO);
                    return Step::Turn(Turn::Stuck(ResetReason::Fatal));
                }
                self.look = self.watch_every.map(|every| now + every);
                Step::Wait
            }
            // While others reset the link to it, all that it says is ones.
            State::Stuck if self.disturbed.is_some() => Step::Wait,
            State::Stuck => status(device).map_or(Step::Turn(Turn::Gone), |_| Step::Wait),
            State::ShuttingDown { deadline } => {
                let Some(status) = status(device) else { return Step::Turn(Turn::Gone) };
                let clean = status.shst() == SHUTDOWN_COMPLETE;
                if clean || now >= deadline {
                    Step::Turn(Turn::ShutDown { clean })
                } else {
                    self.look_again_at(now, deadline)
                }
            }
        }
    }

    fn disabling(
        &mut self,
        device: &mut dyn Device,
        next: Generation,
        now: Time,
        deadline: Time,
        waited: Duration,
    ) -> Step {
        let Some(status) = status(device) else { return Step::Turn(Turn::Gone) };
        if !status.rdy() {
            // The controller does no more DMA (Base 3.7.2).
            let quiet = QueueQuiet::reset(self.index, next);
            self.quiet = Some(quiet);
            return Step::Turn(match self.purpose {
                Purpose::First | Purpose::Reset => Turn::Stopped(quiet),
                Purpose::Stop(why) => Turn::Failed { why, quiet: Some(quiet) },
            });
        }
        if now < deadline {
            return self.look_again_at(now, deadline);
        }
        if !self.function_reset && device.bus().reset().is_ok() {
            // Once: after a function reset, the registers are as after power-on (Base 3.7.1).
            warn!("controller {}: did not stop in time, its function was reset", self.index);
            self.function_reset = true;
            return self.wait_for_stop(device, now);
        }
        let why = match self.purpose {
            Purpose::Stop(why) => why,
            Purpose::First | Purpose::Reset => Failure::NotStopped(waited),
        };
        Step::Turn(Turn::Failed { why, quiet: None })
    }

    fn wait(&mut self, until: Time) -> Step {
        self.look = Some(until);
        Step::Wait
    }

    fn look_again_at(&mut self, now: Time, deadline: Time) -> Step {
        self.wait((now + LOOK_EVERY).min(deadline))
    }

    /// The first look.
    fn found(&mut self, device: &mut dyn Device, next: Generation, now: Time) -> Step {
        let bits = device.registers().read64(CAP);
        if bits == u64::MAX {
            return Step::Turn(Turn::Gone);
        }
        self.cap = Capabilities::from_bits(bits);
        self.ready_wait = self.ready_wait(device);
        let why = if self.refused.is_some() {
            self.refused
        } else if self.cap.css() & 1 == 0 {
            Some(Failure::CommandSet)
        } else if self.cap.mpsmin() != 0 {
            Some(Failure::PageSize)
        } else if self.mqes() == 0 {
            Some(Failure::QueueShape)
        } else {
            None
        };
        if let Some(why) = why {
            // It was not touched, and does no DMA for us.
            return Step::Turn(Turn::Failed { why, quiet: Some(QueueQuiet::reset(self.index, next)) });
        }
        let Some(status) = status(device) else { return Step::Turn(Turn::Gone) };
        if let Some(places) = self.left.take() {
            if is_left(device, status, places) {
                (self.state, self.taken) = (State::Setup, true);
                return Step::Turn(Turn::Taken);
            }
            warn!("controller {}: it does not run as it was left: it is reset", self.index);
        }
        let configuration = Configuration::from_bits(device.registers().read32(CC));
        if configuration.en() && !status.rdy() && !status.cfs() {
            // CC.EN must not be cleared while it starts (Base 3.1.3.5, EN).
            self.state = State::Starting { deadline: now + self.ready_wait(device) };
        } else {
            self.disable(device, now);
        }
        Step::On
    }

    /// How long CSTS.RDY may take to follow CC.EN.
    fn ready_wait(&self, device: &mut dyn Device) -> Duration {
        let mut units = u32::from(self.cap.to());
        if self.cap.crms() & 1 != 0 {
            let timeouts = ReadyTimeouts::from_bits(device.registers().read32(CRTO));
            units = units.max(timeouts.crwmt().into());
        }
        let (floor, ceiling) = (self.ready_floor, self.ready_ceiling);
        READY_UNIT.saturating_mul(units).max(floor).min(ceiling.max(floor))
    }

    /// Clears CC.EN.
    fn disable(&mut self, device: &mut dyn Device, now: Time) {
        self.function_reset = false;
        let registers = device.registers();
        let configuration = Configuration::from_bits(registers.read32(CC));
        registers.write32(CC, configuration.with_en(false).with_shn(0).into_bits());
        let delay = self.delay_after_disable.max(self.disturbed.unwrap_or_default());
        if self.disturbed.is_some() || configuration.en() && !delay.is_zero() {
            self.state = State::Resting { until: now + delay };
            self.look = Some(now + delay);
        } else {
            self.wait_for_stop(device, now);
        }
    }

    fn wait_for_stop(&mut self, device: &mut dyn Device, now: Time) -> Step {
        let waited = self.ready_wait(device);
        self.state = State::Disabling { deadline: now + waited, waited };
        self.look = Some(now);
        Step::On
    }

    /// Gives up: stops the controller, and then says why.
    pub(super) fn stop(&mut self, device: &mut dyn Device, why: Failure, now: Time) {
        if core::mem::take(&mut self.taken) {
            warn!("controller {}: it cannot be taken as it was left ({why}): it is reset", self.index);
            self.disable(device, now);
            return;
        }
        self.purpose = Purpose::Stop(why);
        self.disable(device, now);
    }

    /// Stops it to start it again. False where there is nothing to be stopped, or that is under way.
    pub(super) fn reset(&mut self, device: &mut dyn Device, now: Time) -> bool {
        let can = matches!(self.state, State::Setup | State::Running | State::Stuck);
        if can {
            self.purpose = Purpose::Reset;
            self.disable(device, now);
        }
        can
    }

    /// Starts a controller that was stopped, with its admin queues there.
    pub(super) fn enable(
        &mut self,
        device: &mut dyn Device,
        (sq, cq): (Iova, Iova),
        now: Time,
    ) -> Result<(), DeviceError> {
        device.bus().master(true)?;
        let waited = self.ready_wait(device);
        let registers = device.registers();
        registers.write32(AQA, attributes().into_bits());
        registers.write64(ASQ, sq.0);
        registers.write64(ACQ, cq.0);
        registers.write32(CC, configuration().into_bits());
        self.state = State::Enabling { deadline: now + waited, waited };
        Ok(())
    }

    /// The version that it says it is of.
    pub(super) fn version(&self, device: &mut dyn Device) -> Version {
        Version::from_bits(device.registers().read32(VS))
    }

    /// Set-up is over.
    pub(super) fn run(&mut self) {
        (self.state, self.taken) = (State::Running, false);
    }

    /// Only a reset helps. False when that is known, or does not matter any more.
    pub(super) fn stick(&mut self) -> bool {
        let first = self.is_running();
        if first {
            self.state = State::Stuck;
        }
        first
    }

    /// The bus has an error of it, and the host may be about to reset the link.
    pub(super) fn disturb(&mut self) {
        // Its status may have been seen first.
        if matches!(self.state, State::Running | State::Stuck) {
            self.disturbed = Some(BUS_REST);
        }
    }

    /// How long its registers are left alone after CC.EN was cleared, as it turned out.
    pub(super) fn set_delay(&mut self, delay: Duration) {
        self.delay_after_disable = delay;
    }

    /// It does nothing more.
    pub(super) fn die(&mut self, quiet: Option<QueueQuiet>) {
        self.state = State::Dead;
        self.look = None;
        self.quiet = quiet;
    }
}

/// What CC is written to enable a controller: NVM command set, pages of 4 KiB, round robin.
fn configuration() -> Configuration {
    Configuration::new().with_iosqes(SQE_SHIFT).with_iocqes(CQE_SHIFT).with_en(true)
}

fn attributes() -> AdminQueueAttributes {
    AdminQueueAttributes::new().with_asqs(DEPTH - 1).with_acqs(DEPTH - 1)
}

/// Whether a controller runs as this driver has one run, with its admin queue there.
fn is_left(device: &mut dyn Device, status: Status, (sq, cq): (Iova, Iova)) -> bool {
    let registers = device.registers();
    status.rdy()
        && !status.cfs()
        && status.shst() == 0
        && registers.read32(CC) == configuration().into_bits()
        && registers.read32(AQA) == attributes().into_bits()
        && (registers.read64(ASQ), registers.read64(ACQ)) == (sq.0, cq.0)
}

/// CSTS; `None` when the device is gone.
fn status(device: &mut dyn Device) -> Option<Status> {
    match device.registers().read32(CSTS) {
        u32::MAX => None,
        bits => Some(Status::from_bits(bits)),
    }
}

impl core::fmt::Debug for Bringup {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.state.fmt(f)
    }
}

#[cfg(test)]
#[path = "bringup_tests.rs"]
mod tests;
