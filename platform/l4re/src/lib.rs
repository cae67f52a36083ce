//! The L4Re home.
//!
//! * [`kernel`]: what the home asks of kernel and L4Re, as small traits.
#![no_std]

pub mod kernel;
