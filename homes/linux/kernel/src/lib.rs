//! The Linux home.
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

mod accounts;
pub mod caps;
pub mod clientmem;
pub mod dispose;
pub mod events;
pub mod factory;
#[cfg(feature = "defmt")]
pub mod frames;
// Its tests need no feature.
#[cfg(all(test, not(feature = "defmt")))]
#[path = "frames/ring.rs"]
mod frames_ring;
pub mod inventory;
pub mod keep;
pub mod lanes;
pub mod logger;
pub mod memory;
pub mod priority;
pub mod sandbox;
pub mod socket;
pub mod spawn;
pub mod standard;
pub mod start;
pub mod storage;
#[cfg(all(test, not(feature = "defmt")))]
#[path = "frames/sync.rs"]
mod sync;
pub mod vfio;
pub mod vhost;
