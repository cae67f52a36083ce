//! The core of nvme-drv: the controller side, partition tables, and the server's two roles.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod disk;
pub mod nvme;
pub mod server;
