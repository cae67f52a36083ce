//! Who of a virtqueue's two sides tells whom, and who may sleep: what `session/src/virtqueue/ring.rs` does in `listen`, `look` and `publish`, access by access, and what
//! virtio 1.2 (2.7.13 and 2.7.14) asks of a driver.

use loom::sync::atomic::{AtomicU16, Ordering, fence};

/// The four words that order everything.
pub(crate) struct Rings {
    /// The available ring's index, and in its event field from which used entry on the driver wants to be told.
    avail: AtomicU16,
    used_event: AtomicU16,
    /// The used ring's index, and in its event field from which available entry on the device wants to be told.
    used: AtomicU16,
    avail_event: AtomicU16,
}

/// Whether an event is one of the entries from `old` up to `new` (virtio 1.2, 2.7.10).
fn wanted(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

impl Rings {
    pub(crate) fn new() -> Self {
        let word = || AtomicU16::new(0);
        Self { avail: word(), used_event: word(), used: word(), avail_event: word() }
    }

    /// The device looks for what is available.
    pub(crate) fn look(&self) -> u16 {
        self.avail.load(Ordering::Acquire)
    }

    /// The device wants to be told of the next entry. Whether there is one already.
    pub(crate) fn listen(&self, next: u16) -> bool {
        self.avail_event.store(next, Ordering::Release);
        fence(Ordering::SeqCst);
        self.look() != next
    }

    /// The device shows its used entries. Whether the driver wants to be told.
    pub(crate) fn publish(&self, old: u16, new: u16) -> bool {
        self.used.store(new, Ordering::Release);
        fence(Ordering::SeqCst);
        wanted(self.used_event.load(Ordering::Acquire), old, new)
    }

    /// The driver makes entries available. Whether the device wants to be told.
    pub(crate) fn offer(&self, old: u16, new: u16) -> bool {
        self.avail.store(new, Ordering::Release);
        fence(Ordering::SeqCst);
        wanted(self.avail_event.load(Ordering::Acquire), old, new)
    }

    /// The driver wants to be told of the next used entry. Whether there is one already.
    pub(crate) fn wait(&self, next: u16) -> bool {
        self.used_event.store(next, Ordering::Release);
        fence(Ordering::SeqCst);
        self.used.load(Ordering::Acquire) != next
    }

    pub(crate) fn used(&self) -> u16 {
        self.used.load(Ordering::Acquire)
    }
}
