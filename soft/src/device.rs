//! The controller as the driver sees it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use nvme_platform::{
    Bus, CutOff, Device, DeviceError, DmaError, DmaPool, DmaRights, DmaSpace, DriverMemory, Iova, PAGE,
    QueueDoorbells, Registers, Window,
};

use crate::admin::Nature;
use crate::chip::Chip;
use crate::config::{Config, ConfigError};
use crate::control::Control;
use crate::doorbells::{Engine, PairDoorbells};
use crate::faulty::Faults;
use crate::handle::SoftHandle;
use crate::namespace::Namespace;
use crate::shared::{Fixed, Outside, World};
use crate::space::Space;

/// A software NVMe controller. All that it is, it was told by its [`Config`].
///
/// Bus mastering is off at first, as on hardware: until [`Bus::master`] turns it on, no command is fetched.
pub struct SoftDevice {
    chip: Arc<Chip>,
    memory: Box<dyn FnMut(usize) -> Option<Window> + Send>,
    vectors: u16,
}

impl SoftDevice {
    /// Makes a controller, switched on and not enabled.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let nature = Nature::of(&config);
        let Config { namespaces, namespaces_max, write_cache, interrupts, apart, pause, vectors, .. } =
            config;
        let mut slots = Vec::new();
        for namespace in namespaces {
            slots.push(Some(Arc::new(Namespace::new(namespace)?)));
        }
        slots.resize(namespaces_max as usize, None);
        let fixed = Fixed {
            transfer_max: if config.mdts == 0 { usize::MAX } else { PAGE << config.mdts },
            sgl: config.sgl,
            dataset_management: config.dataset_management,
            write_zeroes: config.write_zeroes,
        };
        let world = World {
            space: Space::default(),
            namespaces: slots,
            mastering: false,
            write_back: write_cache,
            fixed,
            view: None,
        };
        let outside = Outside { interrupts, wake: apart, pause };
        let faults = config.faults.map(Faults::new);
        let chip = Chip::new(world, config.queues, Control::new(nature), faults, outside);
        chip.counters.power_cycles.store(1, Ordering::Relaxed);
        let memory = config.memory.unwrap_or_else(|| Box::new(nvme_mem::heap));
        Ok(Self { chip, memory, vectors })
    }

    /// What pulls the strings from outside.
    pub fn handle(&self) -> SoftHandle {
        SoftHandle::new(&self.chip)
    }

    /// What runs I/O commands apart.
    pub fn engine(&self) -> Engine {
        Engine::new(&self.chip)
    }

    /// Waits for the engines after something was taken away.
    fn settle(&self) -> Result<(), DmaError> {
        self.chip.settle().map_err(|_| {
            self.chip.control.lock().fail(&self.chip);
            DmaError::Gone
        })
    }
}

impl Registers for SoftDevice {
    fn read32(&self, offset: u32) -> u32 {
        if self.chip.is_gone() {
            return u32::MAX;
        }
        self.chip.control.lock().read(&self.chip, offset)
    }

    fn write32(&mut self, offset: u32, value: u32) {
        if !self.chip.is_gone() {
            self.chip.control.lock().write(&self.chip, offset, value);
        }
    }
}

impl DmaSpace for SoftDevice {
    fn reserve(&mut self, memory: &Window, _: DmaRights) -> Result<Iova, DmaError> {
        self.chip.world.lock().space.reserve(memory.len() as u64)
    }

    fn map(&mut self, at: Iova, memory: &Window, rights: DmaRights) -> Result<(), DmaError> {
        self.chip.change(|world| world.space.map(at, memory, rights))
    }

    fn unmap(&mut self, at: Iova, len: u64) -> Result<(), DmaError> {
        let unmapped = self.chip.change(|world| world.space.unmap(at, len))?;
        self.settle()?;
        // Acquire: pairs with the end of the requests that reached it.
        let reached = unmapped.iter().any(|(_, uses)| uses.load(Ordering::Acquire) > 0);
        if reached { Err(DmaError::InUse) } else { Ok(()) }
    }
}

impl DmaPool for SoftDevice {
    #[expect(clippy::disallowed_methods, reason = "the pool of this home")]
    fn allocate(&mut self, pages: usize) -> Result<DriverMemory, DmaError> {
        let len = pages.checked_mul(PAGE).filter(|len| *len > 0).ok_or(DmaError::BadRange)?;
        let window = (self.memory)(len).filter(|w| w.len() == len).ok_or(DmaError::NoMemory)?;
        self.chip.change(|world| {
            let iova = world.space.reserve(len as u64)?;
            if let Err(error) = world.space.map(iova, &window, DmaRights::ReadWrite) {
                return world.space.unmap(iova, len as u64).and(Err(error));
            }
            Ok(DriverMemory::from_pool(window.clone(), iova))
        })
    }

    fn recycle(&mut self, memory: DriverMemory) {
        // After a cut-off it is not mapped any more.
        let _ = self.unmap(memory.iova(), memory.window().len() as u64);
    }
}

impl Bus for SoftDevice {
    fn vectors(&self) -> u16 {
        self.vectors
    }

    fn master(&mut self, on: bool) -> Result<(), DeviceError> {
        if self.chip.is_gone() {
            return Err(DeviceError::Gone);
        }
        self.chip.change(|world| world.mastering = on);
        if on { Ok(()) } else { self.settle().map_err(|_| DeviceError::Failed) }
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        if self.chip.is_gone() {
            return Err(DeviceError::Gone);
        }
        self.chip.control.lock().reset(&self.chip).map_err(|_| DeviceError::Failed)
    }

    #[expect(clippy::disallowed_methods, reason = "its map is empty and its queues are gone")]
    fn cut_off(&mut self) -> Result<CutOff, DeviceError> {
        self.chip.change(|world| world.mastering = false);
        self.settle().map_err(|_| DeviceError::Failed)?;
        // Storage has no power switch: what is under way there goes on. What it does not reach can be unmapped all the same.
        if !self.chip.quiet() {
            return Err(DeviceError::Failed);
        }
        let unmapped = self.chip.change(|world| core::mem::take(&mut world.space));
        drop(unmapped);
        self.settle().map_err(|_| DeviceError::Failed)?;
        Ok(CutOff::seen())
    }
}

impl Device for SoftDevice {
    fn registers(&mut self) -> &mut dyn Registers {
        self
    }
    fn dma(&mut self) -> &mut dyn DmaSpace {
        self
    }
    fn pool(&mut self) -> &mut dyn DmaPool {
        self
    }
    fn bus(&mut self) -> &mut dyn Bus {
        self
    }
    fn doorbells(&mut self, queue: u16, stride: u32) -> Result<Box<dyn QueueDoorbells>, DeviceError> {
        if self.chip.is_gone() {
            return Err(DeviceError::Gone);
        }
        if stride != self.chip.control.lock().stride() {
            return Err(DeviceError::Unsupported);
        }
        let pair = PairDoorbells::new(&self.chip, queue).ok_or(DeviceError::Unsupported)?;
        Ok(Box::new(pair))
    }
}
