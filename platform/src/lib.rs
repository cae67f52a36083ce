//! What a home gives to the core: a handful of small traits, each with a [`fake`] that is stricter than the real
//! thing.
//!
//! * [`Registers`]: a controller's register file. Control role only.
//! * [`QueueDoorbells`]: the two doorbells of one queue pair, owned by the worker that owns the pair.
//! * [`DmaSpace`]: what the controller may reach of client memory. A dataspace is mapped once, when it is registered.
//! * [`DmaPool`]: the driver's own memory ([`DriverMemory`]): queues, PRP and SGL lists, bounce pages.
//! * [`Bus`]: bus mastering, function reset, interrupts, and the proof that a device is cut off ([`CutOff`]).
//! * [`Caches`]: what devices do not see of the CPU's caches, where there is such a thing.
//! * [`Device`]: one controller: all of the above.
//! * [`Notify`]: how a client is told. [`Clock`]: what a worker reads the time from.
//!
//! # The rules of this seam
//!
//! They hold for whoever implements the traits and for whoever calls them. Where one does not fit, the seam changes, for all homes.
//!
//! 1. **Nothing calls back.** No call of a trait leads into the core before it returns. *The caller is in the middle of a step, with
//!    half of its state changed; a call loop would find it so.* News come by `poll` and `pass`, which the home calls.
//! 2. **Every call returns at once.** What takes long is asked for in steps ([`DmaSpace::map`], part by part), or looked at again later
//!    (registers, completions). *One thread serves many sessions, and none may wait for another's mapping.* What can wait for a client is the
//!    home's own to do, elsewhere and with a deadline.
//! 3. **Control and data path are different traits, each with one owner.** [`Registers`], [`DmaSpace`], [`DmaPool`] and [`Bus`] belong to the
//!    control role. [`QueueDoorbells`] and [`Notify`] move to a worker and stay its own; they are `Send`, and never shared. *So the path of a
//!    request needs no lock, and whoever reads a register cannot hold it up.*
//! 4. **A trait is one use, of one to five calls.** *Each can be faked more strictly than the real thing, and a home that lacks one thing
//!    says so in one place.*
//! 5. **A call that fails has changed nothing**, or has left what the next call takes back: after a failed [`DmaSpace::map`] the
//!    reservation is still there, and [`DmaSpace::unmap`] takes all of it away. *The core undoes whole changes; it cannot undo half a call.*
//! 6. **`Ok` means that it is so.** [`DmaSpace::unmap`] returns when no access can reach the memory any more, caches of the IOMMU
//!    included; what cannot be made sure of is an error, and the memory is kept for ever. *What was unmapped goes back to a client at once.*
//! 7. **A proof is made where something was seen**, by the one who saw it: [`CutOff`] when bus mastering was read back as off and no mapping
//!    is left, [`DriverMemory`] when the pages were mapped. That it was asked for, or that time went by, is none. *Memory is freed on the
//!    strength of a proof alone.*
//! 8. **A bus address is the home's**, a multiple of [`PAGE`] where memory begins, and no two mappings of one controller overlap. The
//!    core only adds offsets inside a mapping. *An IOMMU may have holes; a home without one may have its addresses from somebody else.*
//! 9. **Registers cannot fail.** A device that is gone answers all ones, and the core looks for that. An access is one access of that
//!    width, in program order with others. *A `Result` at each read would be believed; all ones has to be handled anyhow.*
//! 10. **A doorbell orders.** What was written to a queue is visible to the controller before it sees the doorbell; the barrier that this
//!     machine needs is inside [`QueueDoorbells`]. *The core cannot know what DMA is ordered with.*
//! 11. **Time is a value** ([`Time`]) that the home passes in, and never goes back. *Whoever reads a clock cannot be tested in
//!     simulated time.*
//! 12. **Errors are facts**, small and `Copy`: which limit, how much was asked, how much is allowed. What to do about it is the home's to
//!     say. *The limit has another name in each home, and the core does not know in which it lives.*
//! 13. **Telling may be late or doubled, and is never lost.** [`Notify`] does not block; two calls may become one. *A client that does not
//!     take its notifications may hold up nobody else.*
//! 14. **Client memory is a [`Window`]**, mapped until the last clone of its owner is gone. Memory that vanishes is replaced by something
//!     readable, and its owner is marked as failed, before anything is read there. *`nvme-mem` argues with this; see its rules M1 to M4.*
//!
//! # Example
//!
//! A home's device in small. It is driven by the real driver, as far as this controller goes: it becomes ready, and answers no command.
//!
//! ```
//! use nvme_core::nvme::{Controller, ControllerEvent, Failure, Options};
//! use nvme_platform::fake::{FakeIommu, FakePool};
//! use nvme_platform::{
//!     Bus, CutOff, Device, DeviceError, DmaError, DmaPool, DmaRights, DmaSpace, DriverMemory, Iova, QueueDoorbells, Registers,
//!     Time, Window,
//! };
//!
//! /// A home has its mapped BAR here, and its handle of the kernel's.
//! struct Toy {
//!     cc: u32,
//!     mastering: bool,
//!     iommu: FakeIommu,
//!     pool: FakePool,
//! }
//!
//! impl Registers for Toy {
//!     fn read32(&self, offset: u32) -> u32 {
//!         match offset {
//!             0x00 => 1 << 24 | 1 << 16 | 63, // CAP: 500 ms to become ready, contiguous queues, 64 entries
//!             0x04 => 1 << 5,                 // CAP, high half: the NVM command set
//!             0x08 => 0x0001_0400,            // VS: 1.4
//!             0x14 => self.cc,
//!             0x1c => self.cc & 1,            // CSTS.RDY follows CC.EN
//!             0x20..0x1000 => 0,
//!             _ => u32::MAX,                  // rule 9
//!         }
//!     }
//!     fn write32(&mut self, offset: u32, value: u32) {
//!         if offset == 0x14 {
//!             self.cc = value;
//!         }
//!     }
//! }
//!
//! impl DmaSpace for Toy {
//!     fn reserve(&mut self, memory: &Window, rights: DmaRights) -> Result<Iova, DmaError> {
//!         self.iommu.reserve(memory, rights)
//!     }
//!     fn map(&mut self, at: Iova, memory: &Window, rights: DmaRights) -> Result<(), DmaError> {
//!         self.iommu.map(at, memory, rights) // rule 2: one part, and back
//!     }
//!     fn unmap(&mut self, at: Iova, len: u64) -> Result<(), DmaError> {
//!         self.iommu.unmap(at, len) // rule 6
//!     }
//! }
//!
//! impl DmaPool for Toy {
//!     fn allocate(&mut self, pages: usize) -> Result<DriverMemory, DmaError> {
//!         self.pool.allocate(pages) // which states `DriverMemory::from_pool`, rule 7
//!     }
//!     fn recycle(&mut self, memory: DriverMemory) {
//!         self.pool.recycle(memory);
//!     }
//! }
//!
//! impl Bus for Toy {
//!     fn vectors(&self) -> u16 {
//!         1
//!     }
//!     fn master(&mut self, on: bool) -> Result<(), DeviceError> {
//!         self.mastering = on;
//!         Ok(())
//!     }
//!     fn reset(&mut self) -> Result<(), DeviceError> {
//!         Err(DeviceError::Unsupported)
//!     }
//!     fn cut_off(&mut self) -> Result<CutOff, DeviceError> {
//!         self.mastering = false;
//!         self.iommu = FakeIommu::new(); // all mappings are gone: the toy reaches memory through this alone
//!         Ok(CutOff::seen()) // rule 7
//!     }
//! }
//!
//! struct Doorbells;
//!
//! impl QueueDoorbells for Doorbells {
//!     fn submission_tail(&mut self, _tail: u16) {}
//!     fn completion_head(&mut self, _head: u16) {}
//! }
//!
//! impl Device for Toy {
//!     fn registers(&mut self) -> &mut dyn Registers {
//!         self
//!     }
//!     fn dma(&mut self) -> &mut dyn DmaSpace {
//!         self
//!     }
//!     fn pool(&mut self) -> &mut dyn DmaPool {
//!         self
//!     }
//!     fn bus(&mut self) -> &mut dyn Bus {
//!         self
//!     }
//!     fn doorbells(&mut self, queue: u16, _stride: u32) -> Result<Box<dyn QueueDoorbells>, DeviceError> {
//!         if queue == 1 { Ok(Box::new(Doorbells)) } else { Err(DeviceError::Unsupported) }
//!     }
//! }
//!
//! let iommu = FakeIommu::new();
//! let pool = iommu.pool();
//! let toy = Toy { cc: 0, mastering: false, iommu: iommu.clone(), pool: pool.clone() };
//! let mut controller = Controller::new(Box::new(toy), 0, Options::default());
//!
//! // Rule 11: the driver reads no clock. It says when it wants to be asked again, and every wait of its ends.
//! let mut now = Time::default();
//! let news = (0..10_000).find_map(|_| {
//!     let event = controller.poll(now);
//!     now = controller.next_deadline().map_or(now, |at| at.max(now));
//!     event
//! });
//! // It became ready, and Identify (06h) was not answered in time.
//! let timeout = Failure::AdminTimeout { opcode: 0x06 };
//! assert!(matches!(&news, Some(ControllerEvent::Failed { why, .. }) if *why == timeout), "{news:?}");
//! assert!(pool.outstanding() > 0 && iommu.mapped() > 0, "the admin queues are in memory of the pool");
//!
//! // Client memory: reserved, mapped part by part, and out of reach when `unmap` returns.
//! let memory = nvme_mem::heap(8192).unwrap();
//! let dma = controller.device().dma();
//! let at = dma.reserve(&memory, DmaRights::Read).unwrap();
//! assert!(iommu.read(at, &mut [0; 4]).is_err());
//! dma.map(at, &memory, DmaRights::Read).unwrap();
//! assert!(iommu.read(at, &mut [0; 4]).is_ok() && iommu.write(at, &[0; 4]).is_err());
//! dma.unmap(at, 8192).unwrap();
//! assert!(iommu.read(at, &mut [0; 4]).is_err());
//!
//! // The driver takes no memory back from a controller that says nothing; this proves that it is done.
//! controller.cut_off().expect("it is seen to be cut off");
//! ```
// Nothing that comes from outside ends a server: what may not be there is looked for, and not counted on.
#![cfg_attr(
    not(test),
    warn(
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable
    )
)]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[macro_use]
pub mod trace;
mod device;
mod dma;
#[cfg(feature = "defmt")]
pub mod frame;
mod notify;
mod time;

pub use device::{Bus, Caches, CutOff, Device, DeviceError, QueueDoorbells, Registers};
pub use dma::{DmaError, DmaPool, DmaRights, DmaSpace, DriverMemory, Iova, PAGE};
pub use notify::Notify;
pub use nvme_mem::{Entries, OutOfBounds, Owner, Table, Window};
pub use time::{Clock, Time};
