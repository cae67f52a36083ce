//! A vhost-user-blk front-end for tests, the quick start and the benchmark: what a virtual machine monitor and its
//! guest's driver do together, each layer open to whoever wants to do it wrong.
//!
//! | layer | what | for hostile tests |
//! | --- | --- | --- |
//! | [`socket`] | bytes and descriptors, with deadlines | any bytes, half messages, any descriptors |
//! | [`FrontEnd`] | vhost-user requests and replies | [`FrontEnd::send`] with any header |
//! | [`Memory`] | files, regions, guest addresses | regions that lie; files truncated by their owner |
//! | [`Ring`] | a split virtqueue's three parts, raw ([`nvme_testkit::Ring`]) | any descriptor, any index |
//! | [`Queue`] | a driver: requests in, completions out | [`Queue::ring`], [`Queue::kick`] |
//! | [`Client`] | all of it negotiated; `read`, `write`, `flush`, … | its parts are public |
//! | [`Factory`] | `create` on the factory socket | any datagram |
//! | [`bench`] | a load generator and what it measures | |
//! | [`watchers`] | many who wait for an eventfd | what a notification takes |
//! | [`nbd`] | a device for programs that speak NBD | |
//!
//! Nothing here waits without a deadline ([`Error::Deadline`] names what did not come).
#![forbid(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

pub mod bench;
mod client;
mod error;
mod factory;
mod frontend;
mod memory;
pub mod message;
pub mod nbd;
pub mod power;
mod queue;
mod ring;
pub mod socket;
pub mod watchers;

pub use client::{Client, Options};
pub use error::{Error, Result};
pub use factory::{Factory, Reply};
pub use frontend::{Addresses, BackEndChannel, FrontEnd, Inflight, receive};
pub use memory::{Memory, Region, memfd};
pub use nvme_testkit::{BlkConfig, Desc, Header, Range, Segment, Status, desc_flag, feature, kind, status};
pub use queue::{Completion, Format, Io, Queue};
pub use ring::Ring;
