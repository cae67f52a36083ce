//! One controller, as the core sees it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::time::Duration;

use nvme_platform::{Bus, Caches, CutOff, Device, DeviceError, DmaPool, DmaSpace, QueueDoorbells, Registers};

use super::messages::Enabled;
use super::pci::{COMMAND_MASTER, COMMAND_MEMORY, Function, PciError};
use super::registers::Bar;
use super::traits::{Platform, Width};
use crate::dma::{Pool, Space};

/// How long a function may not be touched after its reset began (PCI Express Base 4.0, 6.6.2).
const AFTER_RESET: Duration = Duration::from_millis(100);
/// The BARs.
const BARS: core::ops::Range<u32> = 0..6;
const BAR0: u32 = 0x10;
/// CSTS: all ones when nothing answers.
const CSTS: u32 = 0x1c;

/// A controller on the virtual bus.
pub struct L4Device<P> {
    pub(super) platform: P,
    pub(super) function: Function<P>,
    pub(super) bar: Bar,
    pub(super) space: Space<P>,
    pub(super) pool: Pool<P>,
    pub(super) enabled: Enabled,
    pub(super) vectors: u16,
    /// The DMA domain, if no other controller is in it.
    pub(super) own_domain: Option<u32>,
}

fn failed(why: PciError) -> DeviceError {
    match why {
        PciError::Gone => DeviceError::Gone,
        PciError::Lacks(_) | PciError::Bus(_) => DeviceError::Failed,
    }
}

impl<P: Platform> L4Device<P> {
    /// Brings the function back to where it was before its reset, but for bus mastering.
    fn restore(&mut self, bars: &[u32; 6]) -> Result<(), PciError> {
        for (index, bar) in BARS.zip(bars) {
            self.function.write(BAR0 + index * 4, Width::Dword, *bar)?;
        }
        self.function.command(COMMAND_MEMORY, COMMAND_MASTER)?;
        self.enabled.enable(&self.function)
    }
}

impl<P: Platform> Bus for L4Device<P> {
    fn vectors(&self) -> u16 {
        self.vectors
    }

    fn master(&mut self, on: bool) -> Result<(), DeviceError> {
        let (set, clear) = if on { (COMMAND_MEMORY | COMMAND_MASTER, 0) } else { (0, COMMAND_MASTER) };
        self.function.command(set, clear).map_err(failed)
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        let mut bars = [0; 6];
        for (index, bar) in BARS.zip(&mut bars) {
            *bar = self.function.read(BAR0 + index * 4, Width::Dword).map_err(|_| DeviceError::Failed)?;
        }
        self.function.reset().map_err(|why| match why {
            PciError::Lacks(_) => DeviceError::Unsupported,
            why => failed(why),
        })?;
        self.platform.pause(AFTER_RESET);
        self.restore(&bars).map_err(failed)?;
        // A bus that does not let us write real BARs has lost the device.
        if self.bar.read32(CSTS) == u32::MAX { Err(DeviceError::Failed) } else { Ok(()) }
    }

    #[expect(clippy::disallowed_methods, reason = "the device masters the bus no more")]
    fn cut_off(&mut self) -> Result<CutOff, DeviceError> {
        // There may be no IOMMU: that the function is off the bus must be seen, or that it is gone.
        match self.function.command(0, COMMAND_MASTER) {
            Ok(()) | Err(PciError::Gone) => {}
            Err(_) if self.function.is_gone() => {}
            Err(_) => return Err(DeviceError::Failed),
        }
        self.space.cut_off().map_err(|_| DeviceError::Failed)?;
        self.pool.cut_off();
        self.bar.withdraw();
        if self.own_domain.is_some() {
            let _ = self.platform.unassign(self.own_domain);
        }
        Ok(CutOff::seen())
    }
}

impl<P: Platform> Device for L4Device<P> {
    fn registers(&mut self) -> &mut dyn Registers {
        &mut self.bar
    }

    fn dma(&mut self) -> &mut dyn DmaSpace {
        &mut self.space
    }

    fn pool(&mut self) -> &mut dyn DmaPool {
        &mut self.pool
    }

    fn bus(&mut self) -> &mut dyn Bus {
        self
    }

    fn doorbells(&mut self, queue: u16, stride: u32) -> Result<Box<dyn QueueDoorbells>, DeviceError> {
        let doorbells = self.bar.doorbells(queue, stride).ok_or(DeviceError::Unsupported)?;
        Ok(Box::new(doorbells))
    }

    fn caches(&self) -> Option<Arc<dyn Caches>> {
        self.platform.caches()
    }
}
