//! virtio-blk (virtio 1.2, 5.2).
//!
//! * [`features`]: what is offered.
//! * [`config`]: the configuration space.
//! * [`request`]: headers, types and status values on the wire.

pub mod config;
pub mod features;
pub mod request;

pub use config::ConfigSpace;
pub use features::Offer;

/// Most data segments of one request.
pub const SEG_MAX: u32 = 254;
/// Most segments of one discard or write-zeroes request.
pub const RANGES_MAX: u32 = 16;
/// Most 512-byte sectors in one such segment: 2 GiB.
pub const RANGE_SECTORS_MAX: u32 = 1 << 22;
