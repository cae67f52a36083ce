//! A software NVMe controller: the embedded default of the product, and (with [`faulty`] rules) its tests' faulty twin.
//!
//! * [`SoftDevice`] is made from a [`Config`], and is what the driver drives. It gives any number of [`SoftHandle`]s
//!   (what pulls the strings from outside) and, for a thread of its own, an [`Engine`].
//! * Admin commands run inside the write of the admin doorbell, on the control role's thread. I/O commands run in
//!   [`QueueDoorbells::run`](nvme_platform::QueueDoorbells::run), on the worker that owns the queue pair: a bounded
//!   batch per call. Data goes in one copy from the medium's window to the client's, or back.
//! * All DMA goes through a map of bus addresses that faults on whatever is not mapped: the command fails.
//! * A [`Medium`] is what a namespace's blocks are kept in.
//!
//! **Who may touch what.** What an engine needs (mappings, namespaces) is an immutable snapshot with a generation.
//! Each submission queue has a gate (`gate`): an engine is inside it while it runs a batch, and never waits for it.
//! Control changes the world first and then passes through each gate once (asking the engine to leave after the
//! command at hand): whoever enters later sees the new world. So when Delete I/O SQ completes, CSTS.RDY is 0,
//! `unmap` returns or a namespace is removed, no engine touches what went away.
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

mod admin;
mod admin_queue;
mod batch;
mod chip;
mod command;
mod config;
mod control;
mod device;
mod doorbells;
mod engine;
pub mod faulty;
mod flight;
mod gate;
mod handle;
mod map;
mod meddled;
mod medium;
mod namespace;
mod queue;
mod shared;
mod shutdown;
mod space;
mod storage;
mod stored;
mod sync;
mod transfer;
pub mod wire;
mod world;
mod write_cache;

pub use admin::Health;
pub use config::{Backing, Config, ConfigError, Interrupts, NamespaceConfig};
pub use device::SoftDevice;
pub use doorbells::Engine;
pub use handle::{SoftHandle, Statistics};
pub use medium::{Medium, MediumFailed, MemoryMedium};
pub use storage::{Begun, Failure, Job, Missing, Request, Resident, Storage};
pub use write_cache::WriteCache;
