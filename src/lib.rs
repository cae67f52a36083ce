//! nvme-drv: the controller side and the server.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod disk;
pub mod nvme;
pub mod server;
