//! The core of nvme-drv: the controller side, partition tables, and the server's two roles.
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

pub mod disk;
pub mod nvme;
pub mod server;
