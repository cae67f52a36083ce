//! Windows onto memory that somebody else can change at any time.
//!
//! A [`Window`] is a range of bytes that a client, a controller or another thread may read and write while we
//! do. It never becomes a Rust reference: everything goes through bounds-checked copies, 16- and 32-bit atomics
//! and values that are read exactly once. The home makes windows (that is the `unsafe` part); everybody else
//! narrows them with [`Window::sub`].
//!
//! What is read from a window is only a claim of whoever can write it. Parse it into a type that can hold
//! nothing invalid, and never read it a second time.
#![forbid(clippy::disallowed_methods)]
#![no_std]

extern crate alloc;

mod entry;
mod heap;
mod owner;
mod window;

pub use entry::Entries;
pub use heap::heap;
pub use owner::Owner;
pub use window::{OutOfBounds, Window};
