//! What a [`Doorbell`](super::Doorbell) is made of. `tests/threads` puts its model's in their place.

pub(super) use std::sync::atomic::{AtomicU32, Ordering};
