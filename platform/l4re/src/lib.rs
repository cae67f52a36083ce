//! The L4Re home.
//!
//! * [`kernel`]: what the home asks of kernel and L4Re, as small traits.
//! * [`chunk`]: how a dataspace is divided for DMA.
#![no_std]

pub mod chunk;
pub mod kernel;
