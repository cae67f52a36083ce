//! What [`entries`](super::entries) are made of. `tests/threads` puts its model's in their place.

pub(super) use std::sync::Mutex;
pub(super) use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub(super) use std::thread::yield_now;
