//! The Linux home.

mod accounts;
pub mod caps;
pub mod clientmem;
pub mod dispose;
pub mod events;
pub mod factory;
#[cfg(feature = "defmt")]
pub mod frames;
pub mod inventory;
pub mod logger;
pub mod memory;
pub mod sandbox;
pub mod socket;
pub mod spawn;
pub mod start;
pub mod vhost;
