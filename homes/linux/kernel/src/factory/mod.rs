//! The factory's wire format, and both ends of it.
//!
//! One datagram is one request: UTF-8 words, separated by NUL (a NUL at the end makes an empty word, which is
//! refused like any other), and at most one descriptor: a listening socket, of streams for a session, of packets for a factory. One
//! datagram is its reply: a little-endian `i32`, 0 or a negative errno, a UTF-8 message, and with 0 what was minted: one descriptor for
//! a session, two for a factory (its connection and its lifetime, or its lifetime alone where a listening socket came), none for `list`.

mod client;
mod listing;
mod reply;
mod request;

pub use client::{Client, Delegated};
pub use listing::{ListedDevice, ListedFactory, ListedSession, Listing};
pub use reply::{Refusal, decode, decode_all, decode_answer, encode};
pub use request::{Caller, CallerError, Request};

/// Most bytes of a request.
pub const REQUEST_MAX: usize = 4096;
/// Most words of a request.
pub const WORDS_MAX: usize = 128;
/// Most bytes of a reply that mints or refuses.
pub const REPLY_MAX: usize = 4096;
/// Most bytes of a reply that lists. A datagram is not larger.
pub const ANSWER_MAX: usize = 128 << 10;
