//! The audit trail: one JSON object a line, each with the SHA-256 of the line before.
//!
//! * [`Record`]: what happened, to whom, and who asked. [`Peer`], [`Policy`]: parts of it. Nothing of a client's bytes is in any of them.
//! * [`Chain`]: makes lines of records, and knows the head: the number and the hash of the last line.
//! * [`Trail`]: a file of them, written by a thread of its own.
//! * [`Bounds`]: how much of what others can cause is written one by one.
//! * [`resume`]: where a file goes on. [`verify`]: whether a file is one unbroken chain, up to a head that was written down elsewhere.
//!
//! The fields are documented in `doc/audit.md`. A reader takes fields that it does not know for additions, and refuses another
//! [`SCHEMA`].
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
#![forbid(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

mod bounds;
mod chain;
mod record;
mod trail;
mod verify;

pub use bounds::{BURST, BURST_DATASPACES, Bounds};
pub use chain::{Chain, Hash, Head, Line};
pub use record::{Event, Peer, Policy, Record, SCHEMA};
pub use trail::{Ticket, Trail};
pub use verify::{Broken, Verified, is_foreign, resume, verify};
