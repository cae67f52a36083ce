//! A virtual bus, and the NVMe controllers on it.
//!
//! * [`traits`](self): what is asked of the bus, its interrupt controller and its DMA spaces; libio-vbus and L4Re stand behind
//!   them in the real program, a model in the tests.
//! * `pci`: one function's configuration space: command register, capabilities, BARs, function-level reset.
//! * `messages`: the MSI-X table and the MSI capability.
//! * `interrupts`: which kind of interrupt a controller gets, and how many.
//! * `registers`: BAR 0, and doorbells.
//! * `device`: a controller as the core sees it.
//! * `find`: what is on the bus.

mod device;
mod find;
mod interrupts;
mod messages;
mod pci;
mod registers;
mod traits;

pub use device::L4Device;
pub use find::{Found, Skipped, find};
pub use interrupts::{Interrupts, Mode, Options};
pub use pci::PciError;
pub use traits::{
    BusDevice, BusHandle, DmaSpaces, DriverDataspaces, Icu, IcuInfo, Line, Message, Mmio, Pin, Platform,
    Resource, Unmask, Vbus, Width,
};
