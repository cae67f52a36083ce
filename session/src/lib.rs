//! The session: the capability that a client holds.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod memory;
pub mod operation;
