//! vhost-user, the back-end's side, as a protocol machine without I/O.
//!
//! ```text
//! socket ─► Connection ─bytes, descriptors─► Machine ─► Incoming::Request{token, call} ─► control role
//! socket ◄─ Connection ◄──────bytes───────── Machine ◄─ reply(token, Reply), at any later time ◄┘
//! ```
//!
//! [`Machine`] parses, checks and answers; it knows the features of the device and nothing else of it. One request is
//! outstanding at a time, and nothing is read while it is, so a client's pipelined messages stay in its socket.
//! [`Connection`] moves the bytes between a non-blocking socket and a machine. [`wire`] is what both ends share. [`Talk`]: a connection
//! that goes on in another server.

mod connection;
mod machine;
mod parse;
mod request;
mod talk;
pub mod wire;

pub use connection::{Connection, ConnectionError, Interest};
pub use machine::{Machine, Stage, WrongReply};
pub use parse::{inflight_len, inflight_stride};
pub use request::{Call, Incoming, ProtocolError, Refusal, Region, RegionFile, Reply, Request, Token, Why};
pub use talk::{NotTaken, Talk};

/// Queues that a device may have at most (`GET_QUEUE_NUM`).
pub const QUEUES: u16 = 256;
/// Most entries of a ring.
pub const RING_SIZE_MAX: u16 = 1024;
/// Regions that a client may register (`GET_MAX_MEM_SLOTS`).
pub const MEM_SLOTS: u64 = 512;
/// Most descriptors that one message may carry, and so most regions of one `SET_MEM_TABLE`. Front-ends send 8 (QEMU) or
/// 32 (rust-vmm) at most; what one message can pin of the server's descriptor table stays small. More regions
/// come one by one (`ADD_MEM_REG`).
pub use crate::socket::DESCRIPTORS_MAX;
