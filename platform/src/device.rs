//! One NVMe controller, as the core sees it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use crate::{DmaPool, DmaRights, DmaSpace, Time, Window};

/// The controller's register file (BAR 0). A read of all ones is what a device that is gone answers.
pub trait Registers: Send {
    /// Reads 32 bits at a byte offset, a multiple of four. Outside the BAR: all ones.
    fn read32(&self, offset: u32) -> u32;
    /// Writes 32 bits at a byte offset, a multiple of four. Outside the BAR: nothing happens.
    fn write32(&mut self, offset: u32, value: u32);
    /// Reads 64 bits, low half first.
    fn read64(&self, offset: u32) -> u64 {
        u64::from(self.read32(offset)) | u64::from(self.read32(offset + 4)) << 32
    }
    /// Writes 64 bits, low half first.
    fn write64(&mut self, offset: u32, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}

/// The doorbells of one I/O queue pair (submission and completion queue have the same identifier). Belongs to
/// whoever owns the pair.
pub trait QueueDoorbells: Send {
    /// Writes the submission queue's tail doorbell. What was written to the queue before is visible to the
    /// controller by then.
    fn submission_tail(&mut self, tail: u16);
    /// Writes the completion queue's head doorbell.
    fn completion_head(&mut self, head: u16);
    /// For a controller that runs on the caller's own time: executes up to `budget` commands and says when it
    /// wants to be run again: `Some(now)` or earlier means that there is more to do at once. Hardware has nothing
    /// to do here and says `None`.
    fn run(&mut self, budget: u32, now: Time) -> Option<Time> {
        let _ = (budget, now);
        None
    }
    /// Whether commands are executed in [`run`](Self::run), and nowhere else. Then the caller loses nothing by ringing for
    /// few of them at a time; for hardware each doorbell write costs something, in a virtual machine much.
    fn runs_here(&self) -> bool {
        false
    }
    /// Whether data is copied in [`run`](Self::run): then a long command is a long call, and everybody else on the caller's
    /// thread waits for its end.
    fn copies_here(&self) -> bool {
        self.runs_here() && !self.waits_for_storage()
    }
    /// Whether a command may take as long as what it waits for: behind this controller is storage that can hang, and that is no
    /// fault of the controller, so nothing is ever late.
    fn waits_for_storage(&self) -> bool {
        false
    }
    /// Whether, from now on, whoever calls [`run`](Self::run) may be held up for long by the memory that commands name, and nobody else
    /// is to be: so control does not wait for its end. For a pair whose session has a thread of its own.
    fn set_apart(&mut self, apart: bool) {
        let _ = apart;
    }
}

/// Why a device did not do what it was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceError {
    /// The device is gone (all ones, or the home says so).
    Gone,
    /// It has no such thing (queue, vector, reset).
    Unsupported,
    /// The home failed to do it.
    Failed,
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the device is gone",
            Self::Unsupported => "the device cannot do that",
            Self::Failed => "the platform could not do that",
        })
    }
}

impl core::error::Error for DeviceError {}

/// Proof that a device is out. Having this value tells you that it can do no more DMA, to no memory at all and for good: bus mastering
/// was seen to be off and its IOMMU mappings are gone, or the device itself is.
///
/// Only a home's [`Bus::cut_off`] makes it.
#[derive(Debug)]
pub struct CutOff(());

impl CutOff {
    /// For implementors of [`Bus`]: states that the device was seen to be cut off.
    pub fn seen() -> Self {
        Self(())
    }
}

/// The device's place on its bus.
pub trait Bus: Send {
    /// How many interrupt vectors there are: vector 0 is the control role's; pairs of workers take the others, or share.
    /// At least 1.
    fn vectors(&self) -> u16;
    /// Lets the device do DMA, or not.
    fn master(&mut self, on: bool) -> Result<(), DeviceError>;
    /// Resets the function, where it can be reset ([`DeviceError::Unsupported`] otherwise).
    fn reset(&mut self) -> Result<(), DeviceError>;
    /// Turns bus mastering off and takes all of the device's mappings away, for good.
    fn cut_off(&mut self) -> Result<CutOff, DeviceError>;
}

/// Caches of the CPU that a device does not look into. Where devices see what is in the caches nobody has any.
pub trait Caches: Send + Sync {
    /// A device is about to be told of memory of a client's: of what it reads there, or ([`ReadWrite`](DmaRights::ReadWrite)) of where it writes.
    fn before(&self, memory: &Window, rights: DmaRights);
    /// A device has written there, and is done.
    fn after(&self, memory: &Window);
}

/// One controller.
pub trait Device: Send {
    /// Its register file.
    fn registers(&mut self) -> &mut dyn Registers;
    /// What it may reach of client memory.
    fn dma(&mut self) -> &mut dyn DmaSpace;
    /// The driver's own memory.
    fn pool(&mut self) -> &mut dyn DmaPool;
    /// Its place on the bus.
    fn bus(&mut self) -> &mut dyn Bus;
    /// The doorbells of I/O queue pair `queue` (1 and up); `stride` is the distance between two doorbell
    /// registers in bytes (4 << CAP.DSTRD).
    fn doorbells(&mut self, queue: u16, stride: u32) -> Result<Box<dyn QueueDoorbells>, DeviceError>;
    /// Whether the operator wants its doorbells in memory, where the controller offers that: it is a virtual one, and each doorbell write
    /// leaves the virtual machine.
    fn doorbell_buffers(&self) -> bool {
        false
    }
    /// What is to be done around each transfer of a client's memory, if anything is. The driver's own memory needs nothing: the home makes it so.
    fn caches(&self) -> Option<Arc<dyn Caches>> {
        None
    }
}
