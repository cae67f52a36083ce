//! What is asked of the virtual bus, as small traits. Nothing here is a client's: io answers, and L4Re's memory server.

use alloc::sync::Arc;
use core::time::Duration;

use nvme_platform::{Caches, DmaRights, Window};

use crate::kernel::{Cap, L4Error, Label};

/// A device on the bus.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BusHandle(pub i64);

/// What the bus says of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusDevice {
    /// Which one.
    pub handle: BusHandle,
    /// Whether it has a configuration space.
    pub pci: bool,
    /// How many resources it has.
    pub resources: u32,
}

/// What belongs to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource {
    /// The DMA domain of its own.
    DmaDomain(u32),
    /// Memory: its first and last address on the bus.
    Memory {
        /// First.
        start: u64,
        /// Last.
        end: u64,
    },
    /// Anything else.
    Other,
}

/// Bits of a configuration register that are read or written at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 8.
    Byte = 8,
    /// 16.
    Word = 16,
    /// 32.
    Dword = 32,
}

/// Device registers: a BAR, or a part of one. Offsets are in bytes, multiples of four.
pub trait Mmio: Send + Sync {
    /// Reads a register. Outside: all ones.
    fn read32(&self, offset: usize) -> u32;
    /// Writes a register; what was written to memory before is visible to the device by then. Outside: nothing happens.
    fn write32(&self, offset: usize, value: u32);
    /// How many bytes there are.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The bus.
pub trait Vbus {
    /// The device after `after` (or the first), on the whole bus. `None`: there is no other.
    fn next_device(&self, after: Option<BusHandle>) -> Result<Option<BusDevice>, L4Error>;
    /// A device's resource.
    fn resource(&self, device: BusHandle, index: u32) -> Result<Resource, L4Error>;
    /// Reads a register of a function's configuration space.
    fn config_read(&self, device: BusHandle, register: u32, width: Width) -> Result<u32, L4Error>;
    /// Writes one.
    fn config_write(&self, device: BusHandle, register: u32, width: Width, value: u32)
    -> Result<(), L4Error>;
    /// Maps `len` bytes of registers at a bus address; both are whole pages.
    fn registers(&self, at: u64, len: usize) -> Result<Arc<dyn Mmio>, L4Error>;
    /// Waits, for a device that may not be touched for a while.
    fn pause(&self, time: Duration);
}

/// An input of the interrupt controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// A message-signalled interrupt, by its number on this bus.
    Msi(u32),
    /// A wire.
    Pin(u32),
}

/// What the interrupt controller has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IcuInfo {
    /// Message-signalled interrupts that this bus may use.
    pub messages: u32,
}

/// Who lets an interrupt come again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmask {
    /// The interrupt object itself.
    Irq,
    /// The interrupt controller.
    Icu,
}

/// What a device writes, and where, to interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// A device's wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pin {
    /// Which one.
    pub number: u32,
    /// Whether it interrupts as long as it is held, so that it is masked each time and must be unmasked.
    pub level: bool,
}

/// Interrupts, and the controller that they come through.
pub trait Icu {
    /// What there is.
    fn info(&self) -> Result<IcuInfo, L4Error>;
    /// Makes an interrupt that reports under `label`, and binds it to a line. `Err`: nothing was made.
    fn bind(&self, line: Line, label: Label) -> Result<(Cap, Unmask), L4Error>;
    /// What `device` is to write for a bound message-signalled interrupt.
    fn message(&self, line: Line, device: BusHandle) -> Result<Message, L4Error>;
    /// Lets a bound interrupt come (again).
    fn unmask(&self, line: Line, irq: Cap, by: Unmask) -> Result<(), L4Error>;
    /// The wire of a device.
    fn pin(&self, device: BusHandle) -> Result<Pin, L4Error>;
}

/// DMA spaces: what devices may reach.
pub trait DmaSpaces {
    /// The DMA space of a domain (`None`: that of the whole bus), made and assigned when it is asked for first.
    fn space(&self, domain: Option<u32>) -> Result<Cap, L4Error>;
    /// Lets the space's devices reach a part of a dataspace, and says where, and how many bytes of it: fewer than asked for when
    /// the rest lies elsewhere.
    fn map(
        &self,
        space: Cap,
        dataspace: Cap,
        offset: u64,
        len: u64,
        rights: DmaRights,
    ) -> Result<(u64, u64), L4Error>;
    /// Takes away what was mapped at an address.
    fn unmap(&self, space: Cap, at: u64, len: u64) -> Result<(), L4Error>;
    /// Takes everything from the devices of a domain.
    fn unassign(&self, domain: Option<u32>) -> Result<(), L4Error>;
    /// What devices do not see of the caches; none where they see everything.
    fn caches(&self) -> Option<Arc<dyn Caches>> {
        None
    }
    /// Another capability to a dataspace, in a slot of its own.
    fn duplicate(&self, dataspace: Cap) -> Result<Cap, L4Error>;
}

/// Capabilities that [`DmaSpaces::duplicate`] made, and the driver's own memory.
pub trait DriverDataspaces {
    /// Whether both are the same dataspace.
    fn same(&self, a: Cap, b: Cap) -> bool;
    /// Whether there is still a dataspace in the slot.
    fn is_there(&self, dataspace: Cap) -> bool;
    /// Gives a slot back.
    fn release(&self, dataspace: Cap);
    /// New, zeroed, contiguous memory, as a window that is [`attached`](crate::attached). It is gone with the window.
    fn memory(&self, len: usize) -> Result<Window, L4Error>;
}

/// All of it, as one handle that is cheap to clone.
pub trait Platform: Vbus + Icu + DmaSpaces + DriverDataspaces + Clone + Send + Sync + 'static {}

impl<P: Vbus + Icu + DmaSpaces + DriverDataspaces + Clone + Send + Sync + 'static> Platform for P {}
