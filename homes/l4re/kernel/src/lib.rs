//! The L4Re home.
//!
//! * [`kernel`]: what the home asks of kernel and L4Re, as small traits.
//! * [`attached`], [`Place`]: which part of which dataspace a window shows.
//! * [`chunk`]: how a dataspace is divided for DMA. [`dma`]: dataspaces in DMA spaces, mapped once; the driver's own memory.
//! * [`bus`]: what the home asks of the virtual bus, and the NVMe controllers on it, as the core drives them.
//! * `sys` (feature `sys`): L4Re itself.
//! * [`model`] (feature `model`): what stands behind the traits in tests.
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

extern crate alloc;

mod attachment;
pub mod bus;
pub mod chunk;
pub mod dma;
pub mod kernel;
#[cfg(feature = "model")]
#[cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::panic,
        clippy::expect_used,
        reason = "for tests: a misuse of the kernel is to end them"
    )
)]
pub mod model;
#[cfg(feature = "sys")]
pub mod sys;

pub use attachment::{Place, attached, place};
