//! The factory's wire format, and both ends of it.
//!
//! One datagram is one request: UTF-8 words, separated by NUL (a NUL at the end makes an empty word, which is
//! refused like any other), and at most one descriptor, a listening stream socket. One datagram is its reply: a little-endian
//! `i32`, 0 or a negative errno, a UTF-8 message, and with 0 exactly one descriptor, the session capability.

mod client;
mod reply;
mod request;

pub use client::Client;
pub use reply::{Refusal, decode, decode_answer, encode};
pub use request::{Caller, CallerError, Request};

/// Most bytes of a request.
pub const REQUEST_MAX: usize = 4096;
/// Most words of a request.
pub const WORDS_MAX: usize = 32;
/// Most bytes of a reply.
pub const REPLY_MAX: usize = 4096;
