//! Who waits for room: for something of an image to end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::events::Doorbell;

/// Bells of threads for whose requests there was no room, if there are any.
#[derive(Default)]
pub(super) struct Room {
    waiting: Mutex<Vec<Arc<Doorbell>>>,
    is_full: AtomicBool,
}

impl Room {
    /// There was none for a request of that thread's, which tries once more when this is said.
    pub(super) fn wait(&self, bell: &Arc<Doorbell>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|other| Arc::ptr_eq(other, bell)) {
            waiting.push(Arc::clone(bell));
        }
        self.is_full.store(true, Ordering::SeqCst);
    }

    /// Something has ended: whoever waits is woken.
    pub(super) fn is_made(&self) {
        if !self.is_full.load(Ordering::SeqCst) || !self.is_full.swap(false, Ordering::SeqCst) {
            return;
        }
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.iter().for_each(|bell| bell.ring());
    }
}
