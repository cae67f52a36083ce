//! A virtual bus without hardware. Stricter than io: registers answer only while the function decodes memory, interrupts are
//! checked on their whole way from the vector to the line, and the same memory is mapped for DMA once.
//!
//! * [`Bus`]: implements the traits of [`bus`](crate::bus). Clones are the same bus.
//! * [`Behind`]: what is behind a function's registers; the test brings it.
//! * `world`: what there is. `config`: configuration spaces. `lines`, `icu`: lines, and what is asked of them. `memory`, `dma`:
//!   dataspaces, and the DMA spaces where they are mapped.

mod config;
mod dma;
mod icu;
mod lines;
mod memory;
mod world;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use spin::Mutex;

pub use self::config::Shape;
use self::config::{Config, REGISTERS};
use self::lines::Lines;
use self::memory::Dma;
pub use self::world::{Behind, Bus};
use self::world::{Function, World};
use crate::bus::{BusDevice, BusHandle, Mmio, Resource, Vbus, Width};
use crate::kernel::{L4Error, Label};

/// Where the first BAR is; the next ones follow at this distance.
const BARS: u64 = 0xfe00_0000;
const BAR_LEN: u64 = 0x10_0000;
const BAR_USED: usize = 0x4000;

impl Bus {
    /// An empty one, which may use so many message-signalled interrupts.
    pub fn new(messages: u32) -> Self {
        let lines = Lines::new(messages);
        Self(Arc::new(Mutex::new(World {
            functions: Vec::new(),
            lines,
            dma: Dma { collision: Some(L4Error(-17)), ..Dma::default() },
            paused: Duration::ZERO,
        })))
    }

    fn add(&self, config: Option<Config>, domain: Option<u32>, behind: Option<Box<dyn Behind>>) -> BusHandle {
        let mut world = self.world();
        let index = world.functions.len();
        // Handles are nobody's business: not from 0, not one by one.
        let handle = BusHandle(3 + 5 * index as i64);
        let mut resources = alloc::vec![Resource::Other];
        if config.is_some() {
            let start = bar(index);
            resources.push(Resource::Memory { start, end: start + BAR_USED as u64 - 1 });
        }
        resources.extend(domain.map(Resource::DmaDomain));
        world.functions.push(Function { handle, config, domain, resources, behind, gone: false });
        handle
    }

    /// Puts a device on the bus that is not on PCI.
    pub fn add_other(&self) -> BusHandle {
        self.add(None, None, None)
    }

    /// Puts a function on the bus. `domain`: its own DMA domain; without, it is in that of the whole bus.
    pub fn add_function(&self, shape: Shape, domain: Option<u32>, behind: Box<dyn Behind>) -> BusHandle {
        let at = bar(self.world().functions.len());
        self.add(Some(Config::new(shape, at)), domain, Some(behind))
    }

    /// Pulls a function out.
    pub fn pull(&self, handle: BusHandle) {
        if let Ok(function) = self.world().function(handle) {
            function.gone = true;
        }
    }

    /// A function's configuration space, as it is now.
    pub fn config(&self, handle: BusHandle, register: u32, width: Width) -> u32 {
        self.config_read(handle, register, width).unwrap_or(u32::MAX)
    }

    /// A function's MSI-X table: address, upper half of it, data and control of each vector.
    pub fn table(&self, handle: BusHandle) -> Vec<[u32; 4]> {
        let mut world = self.world();
        let config = world.function(handle).ok().and_then(|f| f.config.as_ref());
        config.map_or_else(Vec::new, Config::table)
    }

    /// The labels under which interrupts reported since they were asked for last.
    pub fn interrupts(&self) -> Vec<Label> {
        self.world().lines.take()
    }

    /// How long devices were waited for, in all.
    pub fn paused(&self) -> Duration {
        self.world().paused
    }
}

fn bar(index: usize) -> u64 {
    BARS + index as u64 * BAR_LEN
}

impl Vbus for Bus {
    fn next_device(&self, after: Option<BusHandle>) -> Result<Option<BusDevice>, L4Error> {
        let world = self.world();
        let next = match after {
            None => 0,
            Some(after) => {
                1 + world.functions.iter().position(|f| f.handle == after).ok_or(L4Error::INVAL)?
            }
        };
        Ok(world.functions.get(next).map(|f| BusDevice {
            handle: f.handle,
            pci: f.config.is_some(),
            resources: f.resources.len() as u32,
        }))
    }

    fn resource(&self, device: BusHandle, index: u32) -> Result<Resource, L4Error> {
        let mut world = self.world();
        world.function(device)?.resources.get(index as usize).copied().ok_or(L4Error::NOENT)
    }

    fn config_read(&self, device: BusHandle, register: u32, width: Width) -> Result<u32, L4Error> {
        let mut world = self.world();
        let function = world.function(device)?;
        let config = function.config.as_ref().ok_or(L4Error::NOSYS)?;
        Ok(if function.gone { u32::MAX >> (32 - width as u32) } else { config.read(register, width) })
    }

    fn config_write(
        &self,
        device: BusHandle,
        register: u32,
        width: Width,
        value: u32,
    ) -> Result<(), L4Error> {
        let mut world = self.world();
        let function = world.function(device)?;
        let config = function.config.as_mut().ok_or(L4Error::NOSYS)?;
        if function.gone {
            return Ok(());
        }
        let change = config.write(register, width, value);
        if let Some(behind) = &mut function.behind {
            let bus = behind.device().bus();
            if let Some(on) = change.master {
                bus.master(on).expect("a function that can be told");
            }
            if change.reset {
                bus.reset().expect("a function that can be reset");
            }
            // What it raised while it could not tell, it tells now.
            let at = world.functions.iter().position(|f| f.handle == device);
            world.deliver(at.unwrap_or(usize::MAX));
        }
        Ok(())
    }

    fn registers(&self, at: u64, len: usize) -> Result<Arc<dyn Mmio>, L4Error> {
        let end = at.checked_add(len as u64).ok_or(L4Error::INVAL)?;
        let inside = |f: &Function| {
            f.resources.iter().any(|r| match r {
                Resource::Memory { start, end: last } => *start <= at && end <= last + 1,
                _ => false,
            })
        };
        assert!(at.is_multiple_of(4096) && len.is_multiple_of(4096) && len > 0, "whole pages are mapped");
        let function = self.world().functions.iter().position(inside).ok_or(L4Error::NOENT)?;
        let offset = (at - bar(function)) as usize;
        Ok(Arc::new(Registers { bus: self.clone(), function, offset, len }))
    }

    fn pause(&self, time: Duration) {
        self.world().paused += time;
    }
}

/// A part of a function's BAR.
struct Registers {
    bus: Bus,
    function: usize,
    offset: usize,
    len: usize,
}

impl Mmio for Registers {
    fn read32(&self, offset: usize) -> u32 {
        if !offset.is_multiple_of(4) || offset + 4 > self.len {
            return u32::MAX;
        }
        let at = self.offset + offset;
        let mut world = self.bus.world();
        let function = &mut world.functions[self.function];
        match (&function.config, &mut function.behind) {
            (Some(config), Some(behind)) if config.decodes() && !function.gone => match at {
                REGISTERS.. => config.table_read(at - REGISTERS),
                _ => behind.device().registers().read32(at as u32),
            },
            _ => u32::MAX,
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        if !offset.is_multiple_of(4) || offset + 4 > self.len {
            return;
        }
        let at = self.offset + offset;
        let mut world = self.bus.world();
        let function = &mut world.functions[self.function];
        match (&mut function.config, &mut function.behind) {
            (Some(config), Some(behind)) if config.decodes() && !function.gone => match at {
                REGISTERS.. => config.table_write(at - REGISTERS, value),
                _ => {
                    behind.device().registers().write32(at as u32, value);
                    behind.written();
                }
            },
            _ => {}
        }
        world.deliver(self.function);
    }

    fn len(&self) -> usize {
        self.len
    }
}
