//! Registers: from whatever state the controller is found in to ready, and back (Base 3.5, 3.6, 3.7).
//!
//! Every wait is for one bit, with a deadline from CAP.TO. A read of all ones means that the device is gone.

use core::time::Duration;

use nvme_platform::{DeviceError, Time, error, warn};

use super::admin::{AdminQueue, DEPTH, Patience};
use super::controller::{Controller, Purpose, State};
use super::event::{AbortOutcome, Event, Failure, ResetReason};
use super::quiet::QueueQuiet;
use super::spec::command::{CQE_SHIFT, SQE_SHIFT};
use super::spec::registers::{
    ACQ, AQA, ASQ, AdminQueueAttributes, CAP, CC, CRTO, CSTS, Capabilities, Configuration, ReadyTimeouts,
    Status,
};

/// How often a register is looked at while we wait for a bit: no interrupt tells of it.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// The unit of CAP.TO and CRTO.
const READY_UNIT: Duration = Duration::from_millis(500);
/// Steps that one poll takes without waiting.
const STEPS: u32 = 8;
/// CSTS.SHST: shutdown processing complete.
const SHUTDOWN_COMPLETE: u8 = 2;
/// CC.SHN: normal shutdown notification.
const SHUTDOWN_NORMAL: u8 = 1;

impl Controller {
    /// Looks at CSTS and goes on as far as it can.
    pub(super) fn advance_registers(&mut self, now: Time) {
        for _ in 0..STEPS {
            let before = self.state;
            self.register_step(now);
            if self.state == before {
                return;
            }
        }
        self.wake = Some(now);
    }

    fn register_step(&mut self, now: Time) {
        match self.state {
            State::Dead => {}
            State::New => self.found(now),
            State::Resting { until } if now < until => self.wake = Some(until),
            State::Resting { .. } => {
                if self.disturbed.take().is_some()
                    && let Err(why) = self.device.bus().reset()
                {
                    // It may still do without, with queues that interrupt nobody.
                    warn!("controller {}: its function could not be reset: {why}", self.index);
                }
                self.wait_for_stop(now);
            }
            State::Starting { deadline } => {
                let Some(status) = self.status() else { return };
                if status.rdy() || status.cfs() || now >= deadline {
                    self.begin_disable(now);
                } else {
                    self.look_again_at(now, deadline);
                }
            }
            State::Disabling { deadline, waited } => {
                let Some(status) = self.status() else { return };
                if !status.rdy() {
                    self.stopped(now);
                } else if now < deadline {
                    self.look_again_at(now, deadline);
                } else if !self.function_reset && self.device.bus().reset().is_ok() {
                    // Once: after a function reset, the registers are as after power-on (Base 3.7.1).
                    warn!("controller {}: did not stop in time, its function was reset", self.index);
                    self.function_reset = true;
                    self.wait_for_stop(now);
                } else {
                    let why = match self.purpose {
                        Purpose::Stop(why) => why,
                        _ => Failure::NotStopped(waited),
                    };
                    self.fail(why, None);
                }
            }
            State::Enabling { deadline, waited } => {
                let Some(status) = self.status() else { return };
                if status.cfs() {
                    self.stop(Failure::Fatal, now);
                } else if status.rdy() {
                    self.begin_setup();
                } else if now < deadline {
                    self.look_again_at(now, deadline);
                } else {
                    self.stop(Failure::NotReady(waited), now);
                }
            }
            State::Setup => {
                let Some(status) = self.status() else { return };
                if status.cfs() || !status.rdy() {
                    self.stop(Failure::Fatal, now);
                }
            }
            State::Running => {
                let Some(status) = self.status() else { return };
                if status.cfs() || !status.rdy() {
                    // It does not stop by itself: somebody reset it.
                    self.disturbed = (!status.cfs()).then_some(Duration::ZERO);
                    self.stuck(ResetReason::Fatal);
                } else if self.options.pci.is_some() {
                    self.wake = Some(now + self.options.watch_every);
                }
            }
            // While others reset the link to it, all that it says is ones.
            State::Stuck if self.disturbed.is_some() => {}
            State::Stuck => {
                let _ = self.status();
            }
            State::ShuttingDown { deadline } => {
                let Some(status) = self.status() else { return };
                let complete = status.shst() == SHUTDOWN_COMPLETE;
                if complete || now >= deadline {
                    self.shut_down(complete);
                } else {
                    self.look_again_at(now, deadline);
                }
            }
        }
    }

    fn look_again_at(&mut self, now: Time, deadline: Time) {
        self.wake = Some((now + LOOK_EVERY).min(deadline));
    }

    /// CSTS; `None` when the device is gone, which was said then.
    fn status(&mut self) -> Option<Status> {
        match self.device.registers().read32(CSTS) {
            u32::MAX => {
                self.gone();
                None
            }
            bits => Some(Status::from_bits(bits)),
        }
    }

    /// The first look.
    fn found(&mut self, now: Time) {
        let bits = self.device.registers().read64(CAP);
        if bits == u64::MAX {
            return self.gone();
        }
        self.cap = Capabilities::from_bits(bits);
        let cap = self.cap;
        let why = if cap.css() & 1 == 0 {
            Some(Failure::CommandSet)
        } else if cap.mpsmin() != 0 {
            Some(Failure::PageSize)
        } else if cap.mqes() == 0 {
            Some(Failure::QueueShape)
        } else {
            None
        };
        if let Some(why) = why {
            // It was not touched, and does no DMA for us.
            return self.fail(why, Some(QueueQuiet::reset(self.index, self.next_generation)));
        }
        let Some(status) = self.status() else { return };
        let configuration = Configuration::from_bits(self.device.registers().read32(CC));
        if configuration.en() && !status.rdy() && !status.cfs() {
            // CC.EN must not be cleared while it starts (Base 3.1.3.5, EN).
            self.state = State::Starting { deadline: now + self.ready_wait() };
        } else {
            self.begin_disable(now);
        }
    }

    /// How long CSTS.RDY may take to follow CC.EN.
    fn ready_wait(&mut self) -> Duration {
        let mut units = u32::from(self.cap.to());
        if self.cap.crms() & 1 != 0 {
            let timeouts = ReadyTimeouts::from_bits(self.device.registers().read32(CRTO));
            units = units.max(timeouts.crwmt().into());
        }
        let (floor, ceiling) = (self.options.ready_floor, self.options.ready_ceiling);
        READY_UNIT.saturating_mul(units).max(floor).min(ceiling.max(floor))
    }

    /// Clears CC.EN.
    pub(super) fn begin_disable(&mut self, now: Time) {
        self.function_reset = false;
        let registers = self.device.registers();
        let configuration = Configuration::from_bits(registers.read32(CC));
        registers.write32(CC, configuration.with_en(false).with_shn(0).into_bits());
        let delay = self.quirks.delay_after_disable.max(self.disturbed.unwrap_or_default());
        if self.disturbed.is_some() || configuration.en() && !delay.is_zero() {
            self.state = State::Resting { until: now + delay };
            self.wake = Some(now + delay);
        } else {
            self.wait_for_stop(now);
        }
    }

    fn wait_for_stop(&mut self, now: Time) {
        let waited = self.ready_wait();
        self.state = State::Disabling { deadline: now + waited, waited };
        self.wake = Some(now);
    }

    /// Gives up: stops the controller, and then says why.
    pub(super) fn stop(&mut self, why: Failure, now: Time) {
        self.purpose = Purpose::Stop(why);
        self.begin_disable(now);
    }

    /// CSTS.RDY was seen to be zero: the controller does no more DMA (Base 3.7.2).
    fn stopped(&mut self, now: Time) {
        let quiet = QueueQuiet::reset(self.index, self.next_generation);
        self.quiet = Some(quiet);
        self.end_pending(Some(quiet));
        match self.purpose {
            Purpose::First | Purpose::Reset => self.enable(now),
            Purpose::Stop(why) => self.fail(why, Some(quiet)),
        }
    }

    fn enable(&mut self, now: Time) {
        let patience = Patience { admin: self.options.admin_timeout, abort: self.options.abort_timeout };
        if self.admin.is_none() {
            match AdminQueue::new(self.device.pool(), patience) {
                Ok(admin) => self.admin = Some(admin),
                Err(e) => return self.fail(Failure::Memory(e), self.quiet),
            }
        }
        if let Err(e) = self.device.bus().master(true) {
            return self.fail(Failure::Device(e), self.quiet);
        }
        let Some((sq, cq)) = self.admin.as_ref().map(AdminQueue::places) else { return };
        let waited = self.ready_wait();
        let registers = self.device.registers();
        let attributes = AdminQueueAttributes::new().with_asqs(DEPTH - 1).with_acqs(DEPTH - 1);
        registers.write32(AQA, attributes.into_bits());
        registers.write64(ASQ, sq.0);
        registers.write64(ACQ, cq.0);
        // NVM command set, pages of 4 KiB, round robin.
        let configuration = Configuration::new().with_iosqes(SQE_SHIFT).with_iocqes(CQE_SHIFT).with_en(true);
        registers.write32(CC, configuration.into_bits());
        self.state = State::Enabling { deadline: now + waited, waited };
    }

    /// Ends everything that was asked for and will have no answer.
    fn end_pending(&mut self, quiet: Option<QueueQuiet>) {
        if let Some(admin) = &mut self.admin {
            let aborts = admin.aborts();
            let aborted = |(pair, cid)| Event::Aborted { pair, cid, outcome: AbortOutcome::Unanswered };
            self.events.extend(aborts.into_iter().map(aborted));
            if quiet.is_some() {
                admin.clear();
            }
        }
        self.listing = None;
        self.look_again = false;
        self.end_scans();
        self.end_pairs(quiet);
    }

    fn fail(&mut self, why: Failure, quiet: Option<QueueQuiet>) {
        error!("controller {}: {why}", self.index);
        self.die(quiet);
        self.events.push_back(Event::Failed { why, quiet });
    }

    fn gone(&mut self) {
        error!("controller {}: {}", self.index, DeviceError::Gone);
        self.die(None);
        self.events.push_back(Event::Gone);
    }

    pub(super) fn die(&mut self, quiet: Option<QueueQuiet>) {
        self.state = State::Dead;
        self.wake = None;
        self.quiet = quiet;
        self.end_pending(quiet);
    }

    /// Sets CC.SHN (Base 3.6.1).
    pub(super) fn begin_shutdown(&mut self, now: Time) {
        match self.state {
            State::Setup | State::Running | State::Stuck | State::Enabling { .. } => {
                self.end_scans();
                let registers = self.device.registers();
                let configuration = Configuration::from_bits(registers.read32(CC));
                registers.write32(CC, configuration.with_shn(SHUTDOWN_NORMAL).into_bits());
                self.state = State::ShuttingDown { deadline: now + self.shutdown_wait };
                self.wake = Some(now);
            }
            State::ShuttingDown { .. } => {}
            // Nothing was written through a controller that never ran, or that runs no more.
            State::New | State::Dead => {
                self.state = State::Dead;
                self.events.push_back(Event::ShutDown { clean: true });
            }
            State::Starting { .. } | State::Resting { .. } | State::Disabling { .. } => self.shut_down(false),
        }
    }

    fn shut_down(&mut self, clean: bool) {
        if !clean {
            warn!("controller {}: did not confirm its shutdown in time", self.index);
        }
        // What may still be going on reaches no memory any more.
        let _ = self.device.bus().master(false);
        self.die(None);
        self.events.push_back(Event::ShutDown { clean });
    }
}
