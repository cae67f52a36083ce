//! What a place is made of. `tests/threads` puts its model's in their place.

pub(super) use core::sync::atomic::{AtomicU64, Ordering, fence};
