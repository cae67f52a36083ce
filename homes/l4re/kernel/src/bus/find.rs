//! What is on the bus.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use nvme_platform::PAGE;
use spin::Mutex;

use super::device::L4Device;
use super::interrupts::{self, Given, Interrupts, Messages, Options, Pins};
use super::pci::{COMMAND_MASTER, COMMAND_MEMORY, Function, PciError};
use super::registers::{Bar, DOORBELLS};
use super::traits::{BusDevice, BusHandle, Platform, Resource};
use crate::dma::{Chunks, Pool, Space};
use crate::kernel::{L4Error, Label};

/// Most devices of a bus that are looked at.
const DEVICES_MAX: usize = 4096;
/// Most resources of a device.
const RESOURCES_MAX: u32 = 64;
/// The least that a controller's BAR 0 can be: all registers, and a page of doorbells.
const BAR_LEAST: u64 = (DOORBELLS + PAGE) as u64;
/// The most of it that is mapped: the doorbells of all pairs at any sensible stride.
const BAR_MOST: u64 = 16 << 20;

/// A controller.
pub struct Found<P> {
    /// Which device of the bus.
    pub handle: BusHandle,
    /// PCI vendor and device.
    pub id: (u16, u16),
    /// It, for the core.
    pub device: L4Device<P>,
    /// Its interrupts.
    pub interrupts: Interrupts,
}

/// An NVMe controller that cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// Which device of the bus.
    pub handle: BusHandle,
    /// Why.
    pub why: PciError,
}

/// Takes all NVMe controllers of the bus, in its order, and leaves other devices alone. None of them can master the bus until
/// its driver says so. Each interrupt gets a label from `label`.
pub fn find<P: Platform>(
    platform: &P,
    options: Options,
    label: &mut dyn FnMut() -> Label,
) -> Result<Vec<Result<Found<P>, Skipped>>, L4Error> {
    let controllers = controllers(platform)?;
    let mut domains: BTreeMap<Option<u32>, usize> = BTreeMap::new();
    for (_, domain, _) in &controllers {
        *domains.entry(*domain).or_default() += 1;
    }
    let messages = Messages::new(platform.info().map_or(0, |info| info.messages));
    let mut given = Given { messages, pins: Pins::new(), label };
    let mut left = controllers.len() as u32;
    let mut chunks = BTreeMap::new();
    let found = controllers.into_iter().map(|(handle, domain, memory)| {
        let function = Function::new(platform.clone(), handle);
        let one = One { platform, function, domain, memory, alone: domains.get(&domain) == Some(&1) };
        let found = one.open(options, &mut given, left, &mut chunks);
        left -= 1;
        found.map_err(|why| Skipped { handle, why })
    });
    Ok(found.collect())
}

/// An NVMe controller, its DMA domain, and its memory on the bus.
type Controller = (BusHandle, Option<u32>, Vec<(u64, u64)>);

fn controllers<P: Platform>(platform: &P) -> Result<Vec<Controller>, L4Error> {
    let (mut all, mut last) = (Vec::new(), None);
    for _ in 0..DEVICES_MAX {
        let Some(device) = platform.next_device(last)? else { break };
        last = Some(device.handle);
        // A device whose registers cannot be read is nobody we know.
        if device.pci && Function::new(platform.clone(), device.handle).is_nvme().unwrap_or(false) {
            all.push(resources(platform, &device)?);
        }
    }
    Ok(all)
}

fn resources<P: Platform>(platform: &P, device: &BusDevice) -> Result<Controller, L4Error> {
    let (mut domain, mut memory) = (None, Vec::new());
    for index in 0..device.resources.min(RESOURCES_MAX) {
        match platform.resource(device.handle, index)? {
            Resource::DmaDomain(id) => domain = domain.or(Some(id)),
            Resource::Memory { start, end } => memory.push((start, end)),
            Resource::Other => {}
        }
    }
    Ok((device.handle, domain, memory))
}

/// A controller to be opened.
struct One<'p, P> {
    platform: &'p P,
    function: Function<P>,
    domain: Option<u32>,
    memory: Vec<(u64, u64)>,
    /// Whether no other controller is in its domain.
    alone: bool,
}

type Domains<P> = BTreeMap<Option<u32>, Arc<Mutex<Chunks<P>>>>;

impl<P: Platform> One<'_, P> {
    fn open(
        self,
        options: Options,
        given: &mut Given<'_>,
        controllers: u32,
        domains: &mut Domains<P>,
    ) -> Result<Found<P>, PciError> {
        let Self { platform, function, domain, .. } = &self;
        let (platform, domain) = (*platform, *domain);
        // Whatever it was doing for somebody else reaches no memory any more.
        function.command(COMMAND_MEMORY, COMMAND_MASTER)?;
        let id = function.id()?;
        let at = function.bar(0)?;
        let bar = Bar::new(platform.registers(at, self.bar_len(at))?);
        let chunks = match domains.get(&domain) {
            Some(chunks) => Arc::clone(chunks),
            None => {
                let space = platform.space(domain)?;
                let chunks = Arc::new(Mutex::new(Chunks::new(platform.clone(), space)));
                domains.insert(domain, Arc::clone(&chunks));
                chunks
            }
        };
        let (interrupts, enabled) =
            interrupts::enable(platform, function, options.of(id), given, controllers)?;
        let device = L4Device {
            platform: platform.clone(),
            function: function.clone(),
            bar,
            space: Space::new(Arc::clone(&chunks)),
            pool: Pool::new(platform.clone(), chunks),
            enabled,
            vectors: interrupts.count(),
            own_domain: domain.filter(|_| self.alone),
        };
        Ok(Found { handle: function.handle, id, device, interrupts })
    }

    /// How much of BAR 0 is to be mapped: whole pages, as the bus says.
    fn bar_len(&self, at: u64) -> usize {
        let holds = |(start, end): &&(u64, u64)| *start <= at && at < *end;
        let len = self.memory.iter().find(holds).map_or(BAR_LEAST, |(_, end)| end - at + 1);
        let page = PAGE as u64;
        (len.clamp(BAR_LEAST, BAR_MOST) / page * page) as usize
    }
}
