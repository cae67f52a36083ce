//! The virtual bus, and its DMA spaces.
#![expect(unsafe_code, reason = "calls L4Re's C functions")]

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ffi::c_int;
use core::time::Duration;

use nvme_platform::{Caches, DmaRights, Window};
use spin::Mutex;

use super::types::{
    L4_CAP_FPAGE_RW, L4RE_PROTO_DMA_SPACE, l4_umword_t, l4vbus_device_handle_t, l4vbus_device_t,
    l4vbus_resource_t,
};
use super::{arch, c, env, memory, objects};
use crate::bus::{BusDevice, BusHandle, DmaSpaces, DriverDataspaces, Mmio, Resource, Vbus, Width};
use crate::kernel::{Cap, L4Error};

/// The root of the bus, and the handle before the first.
const ROOT: l4vbus_device_handle_t = 0;
const NULL: l4vbus_device_handle_t = -1;
/// Through all levels.
const DEPTH: c_int = 100;
/// The bit of devices with a configuration space.
const PCIDEV: u32 = 1 << 3;
const MEMORY: u16 = 2;
const DMA_DOMAIN: u16 = 6;
/// The identifier of the interrupt controller.
const ICU: &core::ffi::CStr = c"L40009";
/// Domains: bind, or not; the space is an `L4Re::Dma_space`.
const BIND: u32 = 1;
const UNBIND: u32 = 0;
/// The bus's own domain.
const WHOLE_BUS: u32 = u32::MAX;
/// Directions of DMA.
const BIDIRECTIONAL: c_int = 0;
const TO_DEVICE: c_int = 1;

/// The DMA spaces that were made, by domain.
pub(super) type Spaces = Arc<Mutex<BTreeMap<Option<u32>, Cap>>>;

/// The bus that the program was started with.
#[derive(Clone)]
pub struct Hardware {
    pub(super) vbus: Cap,
    pub(super) icu: Cap,
    spaces: Spaces,
}

fn device() -> l4vbus_device_t {
    l4vbus_device_t { kind: 0, name: [0; 64], num_resources: 0, flags: 0 }
}

impl Hardware {
    /// Opens the bus.
    pub(super) fn new(vbus: Cap, spaces: Spaces) -> Result<Self, L4Error> {
        let (mut child, mut info) = (NULL, device());
        let hid = ICU.as_ptr();
        // SAFETY: the name ends with NUL, and what is written is ours.
        let found =
            unsafe { c::l4vbus_get_device_by_hid(vbus.0, ROOT, &raw mut child, hid, DEPTH, &raw mut info) };
        c::check(found)?;
        let icu = objects::cap_alloc()?;
        // SAFETY: the slot is free.
        let got = unsafe { c::l4vbus_vicu_get_cap(vbus.0, child, icu.0) };
        if let Err(why) = c::check(got) {
            objects::cap_free(icu);
            return Err(why);
        }
        Ok(Self { vbus, icu, spaces })
    }
}

impl Vbus for Hardware {
    fn next_device(&self, after: Option<BusHandle>) -> Result<Option<BusDevice>, L4Error> {
        let (mut child, mut info) = (after.map_or(NULL, |after| after.0 as isize), device());
        // SAFETY: what is written is ours.
        let next =
            unsafe { c::l4vbus_get_next_device(self.vbus.0, ROOT, &raw mut child, DEPTH, &raw mut info) };
        match c::check(next) {
            // However it says it: there is no other.
            Err(L4Error::NODEV | L4Error::NOENT) => Ok(None),
            Err(why) => Err(why),
            Ok(_) => Ok(Some(BusDevice {
                handle: BusHandle(child as i64),
                pci: info.kind & PCIDEV != 0,
                resources: info.num_resources,
            })),
        }
    }

    fn resource(&self, device: BusHandle, index: u32) -> Result<Resource, L4Error> {
        let mut resource = l4vbus_resource_t { kind: 0, flags: 0, start: 0, end: 0, provider: 0, id: 0 };
        // SAFETY: what is written is ours.
        let got = unsafe { c::l4vbus_get_resource(self.vbus.0, device.0 as isize, index, &raw mut resource) };
        c::check(got)?;
        Ok(match resource.kind {
            MEMORY => Resource::Memory { start: resource.start as u64, end: resource.end as u64 },
            DMA_DOMAIN => Resource::DmaDomain(resource.start as u32),
            _ => Resource::Other,
        })
    }

    fn config_read(&self, device: BusHandle, register: u32, width: Width) -> Result<u32, L4Error> {
        let mut value = 0;
        let (handle, width) = (device.0 as isize, width as u32);
        // SAFETY: what is written is ours.
        let read = unsafe { c::l4vbus_pcidev_cfg_read(self.vbus.0, handle, register, &raw mut value, width) };
        c::check(read).map(|_| value)
    }

    fn config_write(
        &self,
        device: BusHandle,
        register: u32,
        width: Width,
        value: u32,
    ) -> Result<(), L4Error> {
        let handle = device.0 as isize;
        // SAFETY: no memory is passed. What the register does with the device, this program answers for.
        let written =
            unsafe { c::l4vbus_pcidev_cfg_write(self.vbus.0, handle, register, value, width as u32) };
        c::check(written).map(|_| ())
    }

    fn registers(&self, at: u64, len: usize) -> Result<Arc<dyn Mmio>, L4Error> {
        memory::registers(self.vbus, at, len)
    }

    fn pause(&self, time: Duration) {
        super::ipc::l4_sleep(time.as_micros() as u64);
    }
}

impl Hardware {
    fn assign(&self, domain: Option<u32>, flags: u32, space: Cap) -> Result<(), L4Error> {
        let id = domain.unwrap_or(WHOLE_BUS);
        // SAFETY: no memory is passed. The devices of the domain reach what is mapped in the space from here on.
        c::check(unsafe { c::l4vbus_assign_dma_domain(self.vbus.0, id, flags, space.0) }).map(|_| ())
    }
}

/// Maps in a DMA space.
pub(super) fn dma_map(
    space: Cap,
    dataspace: Cap,
    offset: u64,
    len: u64,
    rights: DmaRights,
) -> Result<(u64, u64), L4Error> {
    let mut size = usize::try_from(len).map_err(|_| L4Error::INVAL)?;
    let mut at = 0;
    let direction = if rights == DmaRights::Read { TO_DEVICE } else { BIDIRECTIONAL };
    let dataspace = dataspace.0 | L4_CAP_FPAGE_RW;
    // SAFETY: `size` and `at` are ours. Devices write into what is mapped, which is a client's memory or the driver's own, seen
    // through windows alone.
    let mapped = unsafe {
        c::l4re_dma_space_map(space.0, dataspace, offset, &raw mut size, 0, direction, &raw mut at)
    };
    c::check(mapped).map(|_| (at, size as u64))
}

/// Takes away what was mapped at an address.
pub(super) fn dma_unmap(space: Cap, at: u64, len: u64) -> Result<(), L4Error> {
    // SAFETY: no memory is passed.
    let unmapped = unsafe { c::l4re_dma_space_unmap(space.0, at, len as usize, 0, BIDIRECTIONAL) };
    c::check(unmapped).map(|_| ())
}

impl DmaSpaces for Hardware {
    fn space(&self, domain: Option<u32>) -> Result<Cap, L4Error> {
        if let Some(space) = self.spaces.lock().get(&domain) {
            return Ok(*space);
        }
        let words = [L4RE_PROTO_DMA_SPACE as l4_umword_t];
        // SAFETY: the user factory is L4Re's memory server; it makes a DMA space.
        let space = unsafe { objects::l4_factory_create(env::get().mem_alloc, &words, None) }?;
        if let Err(why) = self.assign(domain, BIND, space) {
            objects::cap_free(space);
            return Err(why);
        }
        self.spaces.lock().insert(domain, space);
        Ok(space)
    }

    fn map(
        &self,
        space: Cap,
        dataspace: Cap,
        offset: u64,
        len: u64,
        rights: DmaRights,
    ) -> Result<(u64, u64), L4Error> {
        dma_map(space, dataspace, offset, len, rights)
    }

    fn unmap(&self, space: Cap, at: u64, len: u64) -> Result<(), L4Error> {
        dma_unmap(space, at, len)
    }

    fn unassign(&self, domain: Option<u32>) -> Result<(), L4Error> {
        let Some(space) = self.spaces.lock().get(&domain).copied() else { return Ok(()) };
        self.assign(domain, UNBIND, space)
    }

    fn caches(&self) -> Option<Arc<dyn Caches>> {
        arch::caches()
    }

    fn duplicate(&self, dataspace: Cap) -> Result<Cap, L4Error> {
        objects::cap_copy(dataspace, L4_CAP_FPAGE_RW)
    }
}

impl DriverDataspaces for Hardware {
    fn same(&self, a: Cap, b: Cap) -> bool {
        objects::same_object(a, b)
    }

    fn is_there(&self, dataspace: Cap) -> bool {
        objects::cap_valid(dataspace)
    }

    fn release(&self, dataspace: Cap) {
        objects::cap_free(dataspace);
    }

    fn memory(&self, len: usize) -> Result<Window, L4Error> {
        memory::own(len)
    }
}
