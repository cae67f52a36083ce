//! What a ring is made of. `tests/threads` puts its model's in their place.

pub(super) use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
