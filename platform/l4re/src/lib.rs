//! The L4Re home.
//!
//! * [`kernel`]: what the home asks of kernel and L4Re, as small traits.
//! * [`chunk`]: how a dataspace is divided for DMA.
//! * [`model`] (feature `model`): what stands behind them in tests.
#![no_std]

extern crate alloc;

pub mod chunk;
pub mod kernel;
#[cfg(feature = "model")]
pub mod model;
