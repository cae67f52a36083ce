//! What every test that plays a client needs, once: a virtqueue as a driver writes it, and virtio-blk's words.
//!
//! [`Ring`] is raw: it writes whatever it is told to, wherever its parts lie. Who has which slots, what a request is, and how much of it is
//! wrong on purpose is each test's own. Nothing of the product's definitions is used here: these are a second opinion.
#![forbid(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

mod block;
mod ring;

pub use block::{BlkConfig, Header, Range, Segment, Status, feature, kind, status};
pub use ring::{Chained, Desc, Ring, desc_flag};
