//! What a gate is made of. `tests/threads` puts its model's in their place.

pub(crate) use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

pub(crate) use spin::{Mutex, MutexGuard};
