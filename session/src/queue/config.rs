//! How a queue is set up.

use nvme_policy::Grant;

use crate::operation::Limits;
use crate::virtqueue::RingAddresses;

/// What says which way a data buffer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The descriptors' flags, strictly: a request whose flags do not fit its type fails.
    AsFlagged,
    /// The request's type; flags are ignored, and what counts is whether the region may be written (L4virtio).
    ByRequest,
}

/// What control decided about a queue; checked where it came in.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// Number of descriptors: a power of two from 1 to [`QUEUE_MAX`](crate::virtqueue::QUEUE_MAX).
    pub size: u16,
    /// Where the rings are.
    pub rings: RingAddresses,
    /// The available entry to start from.
    pub next_avail: u16,
    /// What the driver acknowledged.
    pub features: u64,
    /// What says which way a data buffer goes.
    pub direction: Direction,
    /// What the session holds.
    pub grant: Grant,
    /// What the device can do.
    pub limits: Limits,
    /// What GET_ID answers.
    pub id: [u8; 20],
    /// The cache mode; true: write-back.
    pub write_back: bool,
}
