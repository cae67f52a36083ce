//! What is truly concurrent in the server, in every order that its accesses may come in: the sources themselves, with `loom`'s
//! atomics and locks in the place of the real ones.
//!
//! (`rings` is the exception: what a virtqueue and its driver say to each other, as `session/src/virtqueue/ring.rs` has it, whose accesses go through a window.)
//!
//! Each of those files says where its atomics come from by a module `sync` beside it; here another one stands in its place. `tests/threads.rs`
//! runs the [`models`]. They are small, two or three threads with a few steps each, since every order is tried.

// The sources have tests of their own, of the real things, where they stand.
#![cfg(not(test))]
#![expect(dead_code, reason = "the sources are whole, and the models use what matters of them")]

mod events;
mod frames;
mod laggards;
mod memory;
pub mod models;
mod rings;
mod sync;

#[path = "../../../soft/src/gate.rs"]
mod gate;
