//! A session as an L4virtio device: its status and its queue.

use nvme_core::server::message::SessionKey;
use nvme_l4re::kernel::{L4Error, Reply};
use nvme_platform::Time;
use nvme_session::blk::{ConfigSpace, features};

use super::Server;
use super::calls::Outcome;
use super::patience::PATIENCE;
use crate::message::{number, refusal};
use crate::page::{CONFIG, VRING};
use crate::session::status::{self, Next};
use crate::session::{Run, queue_spec};
use crate::{Kernel, Output};

/// The one queue of a session.
const QUEUE: u16 = 0;

impl<K: Kernel, O: Output> Server<K, O> {
    pub(super) fn set_status(&mut self, slot: usize, asked: u32, since: Time, now: Time) -> Outcome {
        let Ok(asked) = u8::try_from(asked) else { return Outcome::Reply(refusal(L4Error::INVAL)) };
        if asked == 0 {
            return match self.clear_device(slot, since, now) {
                Ok(true) => {
                    if let Some(session) = self.sessions.get_mut(slot) {
                        session.epoch = session.epoch.wrapping_add(1);
                    }
                    Outcome::Reply(number(0))
                }
                Ok(false) => Outcome::Wait,
                Err(why) => Outcome::Reply(refusal(why)),
            };
        }
        let Some(session) = self.sessions.get_mut(slot) else { return gone() };
        let (current, has_queue) = (session.status, session.queue.is_some());
        let (key, acknowledged) = (session.key, session.page.driver_features());
        let running = session.run != Run::Idle;
        let control = &mut self.control;
        let agree = || {
            let (Some(key), Some(acknowledged)) = (key, acknowledged) else { return false };
            let same = control.session(key).is_some_and(|s| s.features() == acknowledged);
            // (What runs keeps its features.)
            acknowledged & features::VERSION_1 != 0
                && (running && same || control.set_features(key, acknowledged).is_ok())
        };
        match status::next(current, asked, agree, has_queue) {
            Next::Is(status) => self.show_status(slot, status),
            Next::Run(status) => {
                let status = if self.start(slot, now) { status } else { current | status::NEEDS_RESET };
                self.show_status(slot, status);
            }
            Next::Stop(status) => {
                self.stop(slot, now);
                self.show_status(slot, status);
            }
            // There is no queue, so there is nothing to wait for.
            Next::Broken(status) => {
                self.show_device(slot);
                self.show_status(slot, status);
            }
        }
        Outcome::Reply(number(0))
    }

    /// Resets the device: in flight is nothing any more, what is registered stays. Whether it is done.
    pub(super) fn clear_device(&mut self, slot: usize, since: Time, now: Time) -> Result<bool, L4Error> {
        if !self.stop(slot, now) {
            if now - since < PATIENCE {
                return Ok(false);
            }
            // It goes on; the driver may try again.
            let status = self.sessions.get(slot).map_or(0, |s| s.status);
            self.show_status(slot, status | status::NEEDS_RESET);
            self.refused(slot, now, "a reset", &"its device does not end what is in flight; try again");
            return Err(L4Error::BUSY);
        }
        let Some(session) = self.sessions.get_mut(slot) else { return Err(L4Error::NOENT) };
        if let Some(key) = session.key {
            // Nothing runs, and zero is always offered.
            let _ = self.control.set_features(key, 0);
            if session.fixed && session.lost {
                // Its device may come back; then it begins again.
                self.control.end(key);
                self.control_at = Some(Time::default());
            }
        }
        self.show_device(slot);
        Ok(true)
    }

    /// Shows what the device is, as after a reset.
    pub(super) fn show_device(&mut self, slot: usize) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        session.queue = None;
        session.status = 0;
        session.write_back = None;
        self.modes.retain(|s| *s != slot);
        let found = session.key.and_then(|key| self.control.session(key));
        // A device that is away has no sectors, and nothing to offer but that it is a device.
        let mut space = [0; ConfigSpace::SIZE];
        let offered = found.map_or(features::VERSION_1, |found| {
            found.read_config(0, &mut space);
            found.offered()
        });
        session.page.reset(offered, &space);
    }

    fn show_status(&mut self, slot: usize, status: u8) {
        if let Some(session) = self.sessions.get_mut(slot) {
            session.status = status;
            session.page.set_status(status);
        }
    }

    pub(super) fn config_queue(&mut self, slot: usize, index: u32, since: Time, now: Time) -> Outcome {
        let Some(session) = self.sessions.get_mut(slot) else { return gone() };
        if !status::may_configure(session.status) {
            return Outcome::Reply(refusal(L4Error::IO));
        }
        let Some(key) = session.key else { return Outcome::Reply(refusal(L4Error::NODEV)) };
        let Some(claim) = session.page.queue(index) else { return Outcome::Reply(refusal(L4Error::INVAL)) };
        let table = self.control.session(key).map(|found| found.registry().table());
        let spec = table.and_then(|table| queue_spec(&claim, &table));
        if claim.ready && spec.is_none() {
            self.refused(
                slot,
                now,
                "a queue",
                &"it does not lie in registered memory, or is misaligned or too long",
            );
            return Outcome::Reply(refusal(L4Error::INVAL));
        }
        // Whatever it is to be, the one that runs ends first.
        if !self.stop(slot, now) {
            let over = now - since >= PATIENCE;
            return if over { Outcome::Reply(refusal(L4Error::BUSY)) } else { Outcome::Wait };
        }
        let Some(session) = self.sessions.get_mut(slot) else { return gone() };
        session.queue = spec.filter(|_| claim.ready);
        if status::is_running(session.status) && session.queue.is_some() && !self.start(slot, now) {
            return Outcome::Reply(refusal(L4Error::IO));
        }
        Outcome::Reply(number(0))
    }

    /// Serves the queue; false when that cannot be.
    fn start(&mut self, slot: usize, now: Time) -> bool {
        let Some(session) = self.sessions.get_mut(slot) else { return false };
        let (Some(key), Some(spec)) = (session.key, session.queue.clone()) else { return false };
        match session.run {
            Run::Running => return true,
            Run::Stopping(_) => return false,
            Run::Idle => {}
        }
        let notify = self.news.of(slot);
        if let Err(why) = self.control.start_queue(key, QUEUE, spec, notify) {
            self.refused(slot, now, "starting its queue", &why);
            return false;
        }
        session.run = Run::Running;
        self.control_at = Some(Time::default());
        let found = self.control.session(key);
        if found.is_some_and(|found| found.features() & features::CONFIG_WCE != 0) {
            // As control has it from the reset on, whatever the page says by now.
            let mut mode = [0];
            if let Some(found) = found {
                found.read_config(ConfigSpace::WRITEBACK, &mut mode);
            }
            session.write_back = Some(mode[0]);
            self.modes.retain(|s| *s != slot);
            self.modes.push(slot);
        }
        true
    }

    /// Serves the queue no more. Whether nothing of it is in flight.
    pub(super) fn stop(&mut self, slot: usize, now: Time) -> bool {
        let Some(session) = self.sessions.get_mut(slot) else { return true };
        match (session.run, session.key) {
            (Run::Idle, _) => true,
            (Run::Running, Some(key)) => {
                self.modes.retain(|s| *s != slot);
                session.run = Run::Stopping(now);
                self.control_at = Some(Time::default());
                if self.control.stop_queue(key, QUEUE).is_err() {
                    // It does not run as control sees it.
                    self.stopped(slot);
                    return true;
                }
                false
            }
            (Run::Stopping(_), Some(_)) => false,
            (_, None) => {
                self.stopped(slot);
                true
            }
        }
    }

    /// The queue has stopped.
    pub(super) fn stopped(&mut self, slot: usize) {
        if let Some(session) = self.sessions.get_mut(slot) {
            session.run = Run::Idle;
            session.token = None;
        }
    }

    /// The worker has the queue: this is its name for it.
    pub(super) fn queue_added(&mut self, key: SessionKey, token: Option<usize>) {
        if let Some(slot) = self.slot_of(key)
            && let Some(session) = self.sessions.get_mut(slot)
        {
            session.token = token;
        }
    }

    /// Lets the drivers that have news know.
    #[inline]
    pub(super) fn tell_news(&mut self) {
        let (sessions, kernel) = (&self.sessions, &self.kernel);
        self.news.take(|slot| {
            let Some(session) = sessions.get(slot) else { return };
            session.page.add_irq_status(VRING);
            if let Some(irq) = session.irq {
                kernel.trigger(irq);
            }
        });
    }

    /// Takes the cache modes that drivers chose, where they may, before requests are taken. A driver writes the byte and says
    /// nothing; it counts for what is taken after that.
    #[inline]
    pub(super) fn look_at_modes(&mut self) {
        for at in 0..self.modes.len() {
            let Some(session) = self.modes.get(at).and_then(|slot| self.sessions.get_mut(*slot)) else {
                continue;
            };
            // Anything else than 1 is write-through: the safe one.
            let chosen = u8::from(session.page.write_back() == 1);
            if session.write_back != Some(chosen)
                && let Some(key) = session.key
            {
                session.write_back = Some(chosen);
                if self.control.write_config(key, ConfigSpace::WRITEBACK, &[chosen]).is_ok() {
                    self.control_at = Some(Time::default());
                }
            }
        }
    }

    /// A device that was away is back, maybe as another. Whatever the driver had begun, it has to begin again.
    pub(super) fn device_is_back(&mut self, slot: usize) {
        let before = self.sessions.get(slot).map_or(0, |s| s.status);
        self.show_device(slot);
        if before != 0 {
            self.show_status(slot, before);
            self.needs_reset(slot);
        }
    }

    /// The device's configuration is another, and the driver is told.
    pub(super) fn config_changed(&mut self, slot: usize) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(found) = session.key.and_then(|key| self.control.session(key)) else { return };
        let mut space = [0; ConfigSpace::SIZE];
        found.read_config(0, &mut space);
        session.page.set_space(&space);
        self.tell_config(slot);
    }

    /// Lets a driver look at status and configuration. Before it is ready it may not be told of anything.
    fn tell_config(&mut self, slot: usize) {
        let Some(session) = self.sessions.get(slot) else { return };
        if status::is_driver_ok(session.status) {
            session.page.add_irq_status(CONFIG);
            if let Some(irq) = session.irq {
                self.kernel.trigger(irq);
            }
        }
    }

    /// The device cannot go on before a reset, and the driver is told.
    pub(super) fn needs_reset(&mut self, slot: usize) {
        let status = self.sessions.get(slot).map_or(0, |s| s.status);
        self.show_status(slot, status | status::NEEDS_RESET);
        self.tell_config(slot);
    }
}

fn gone() -> Outcome {
    let reply: Reply = refusal(L4Error::NOENT);
    Outcome::Reply(reply)
}
