//! In the place of `session/src/queue/laggards.rs`.

#[path = "../../../session/src/queue/laggards/place.rs"]
mod place;
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};
}

/// A place of two words.
pub(crate) struct Place(place::Place<2>);

impl Place {
    pub(crate) fn new() -> Self {
        Self(place::Place::new())
    }

    pub(crate) fn write(&self, word: u64) {
        self.0.write([word; 2]);
    }

    pub(crate) fn read(&self) -> Option<[u64; 2]> {
        self.0.read()
    }
}
