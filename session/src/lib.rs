//! The session: the capability that a client holds.
//!
//! * [`factory`]: the catalogue of what there is and who has it; it mints sessions.
//! * [`dataspace`]: the control side of a session's memory: what was registered, and what may be.
//! * [`memory`]: one state of that memory, and the mediation that makes a [`DmaRange`](memory::DmaRange).
//! * [`virtqueue`], [`blk`]: rings and requests on the wire.
//! * [`queue`]: one virtqueue on one worker: chains in, [`Operation`](operation::Operation)s out, and back.
//! * [`operation`]: what a session asks of the driver.
//! * [`Transport`]: what the home says of how its clients reach their queues.
//!
//! No state machine here waits, allocates per request, or believes what a client wrote.
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

pub mod blk;
pub mod dataspace;
pub mod factory;
pub mod memory;
pub mod operation;
pub mod queue;
mod transport;
pub mod virtqueue;

pub use transport::Transport;
