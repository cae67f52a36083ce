//! The Linux home.

pub mod clientmem;
pub mod inventory;
pub mod spawn;
pub mod caps;
pub mod events;
#[cfg(feature = "defmt")]
pub mod frames;
pub mod logger;
pub mod sandbox;
mod accounts;
pub mod dispose;
pub mod factory;
pub mod memory;
pub mod socket;
pub mod vhost;
pub mod start;
