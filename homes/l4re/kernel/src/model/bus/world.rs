//! What there is on the bus.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::Device;
use spin::{Mutex, MutexGuard};

use super::config::Config;
use super::lines::Lines;
use super::memory::Dma;
use crate::bus::{BusHandle, Resource};
use crate::kernel::L4Error;

/// What is behind a function's registers.
pub trait Behind: Send {
    /// It, as a home would have it: its registers; where it reaches memory; bus mastering and reset.
    fn device(&mut self) -> &mut dyn Device;
    /// A register was written: it may have something to do.
    fn written(&mut self) {}
    /// The vectors that it raised since it was asked last.
    fn raised(&mut self) -> Vec<u16> {
        Vec::new()
    }
}

pub(super) struct Function {
    pub(super) handle: BusHandle,
    /// `None`: not on PCI.
    pub(super) config: Option<Config>,
    pub(super) domain: Option<u32>,
    pub(super) resources: Vec<Resource>,
    pub(super) behind: Option<Box<dyn Behind>>,
    /// It was pulled out.
    pub(super) gone: bool,
}

pub(super) struct World {
    pub(super) functions: Vec<Function>,
    pub(super) lines: Lines,
    pub(super) dma: Dma,
    pub(super) paused: Duration,
}

/// The bus. Clones are the same.
#[derive(Clone)]
pub struct Bus(pub(super) Arc<Mutex<World>>);

impl Bus {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock()
    }
}

impl World {
    pub(super) fn function(&mut self, handle: BusHandle) -> Result<&mut Function, L4Error> {
        self.functions.iter_mut().find(|f| f.handle == handle).ok_or(L4Error::NODEV)
    }

    /// Takes what a function has raised to the lines.
    pub(super) fn deliver(&mut self, at: usize) {
        let Some(function) = self.functions.get_mut(at) else { return };
        let (Some(config), Some(behind)) = (&function.config, &mut function.behind) else { return };
        for vector in behind.raised() {
            match config.message(vector) {
                Some(message) => self.lines.message(message, function.handle),
                None if config.pin() => self.lines.raise_pin(function.handle),
                None => {}
            }
        }
    }
}
