//! How a controller is told to shut down.

use core::time::Duration;

use nvme_platform::{Device, Time};

use super::super::super::spec::registers::{CC, Configuration};
use super::{Bringup, State};

/// CC.SHN: normal shutdown notification.
const SHUTDOWN_NORMAL: u8 = 1;

/// How long a shutdown may take at a controller that did not say.
pub(super) const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);

/// What came of telling it to shut down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Shutdown {
    /// It was told.
    Begun,
    /// It was told before.
    Already,
    /// There was nothing to shut down.
    Idle,
    /// It is on its way down or up already: it is cut short.
    Abrupt,
}

impl Bringup {
    /// How long a shutdown may take.
    pub(in super::super) fn set_shutdown_wait(&mut self, wait: Duration) {
        self.shutdown_wait = wait;
    }

    /// Sets CC.SHN (Base 3.6.1).
    pub(in super::super) fn shut_down(&mut self, device: &mut dyn Device, now: Time) -> Shutdown {
        match self.state {
            State::Setup | State::Running | State::Stuck | State::Enabling { .. } => {
                let registers = device.registers();
                let configuration = Configuration::from_bits(registers.read32(CC));
                registers.write32(CC, configuration.with_shn(SHUTDOWN_NORMAL).into_bits());
                self.state = State::ShuttingDown { deadline: now + self.shutdown_wait };
                self.look = Some(now);
                Shutdown::Begun
            }
            State::ShuttingDown { .. } => Shutdown::Already,
            // Nothing was written through a controller that never ran, or that runs no more.
            State::New | State::Dead => {
                self.state = State::Dead;
                Shutdown::Idle
            }
            State::Starting { .. } | State::Resting { .. } | State::Disabling { .. } => Shutdown::Abrupt,
        }
    }
}
