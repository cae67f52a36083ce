//! What a home gives to the core: a handful of small traits, each with a [`fake`] that is stricter than the real
//! thing.
//!
//! * [`Registers`]: a controller's register file. Control role only.
//! * [`QueueDoorbells`]: the two doorbells of one queue pair, owned by the worker that owns the pair.
//! * [`DmaSpace`]: what the controller may reach of client memory. A dataspace is mapped once, when it is registered.
//! * [`DmaPool`]: the driver's own memory ([`DriverMemory`]): queues, PRP and SGL lists, bounce pages.
//! * [`Bus`]: bus mastering, function reset, interrupts, and the proof that a device is cut off ([`CutOff`]).
//! * [`Device`]: one controller: all of the above.
//! * [`Notify`]: how a client is told.
//!
//! All calls are made by one side at a time and return at once; nothing calls back into the core. Time is a value
//! ([`Time`]) that the home passes in.
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

pub use device::{Bus, CutOff, Device, DeviceError, QueueDoorbells, Registers};
pub use dma::{DmaError, DmaPool, DmaRights, DmaSpace, DriverMemory, Iova, PAGE};
pub use notify::Notify;
pub use nvme_mem::{Entries, OutOfBounds, Owner, Window};
pub use time::Time;
