//! Pulling the strings from outside.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use nvme_platform::Time;

use crate::admin::Health;
use crate::chip::Chip;
use crate::config::{ConfigError, NamespaceConfig};
use crate::faulty::Faults;
use crate::namespace::Namespace;
use crate::shared::Trouble;
use crate::wire::Status;

/// A string to the controller, for any thread.
#[derive(Clone)]
pub struct SoftHandle {
    chip: Arc<Chip>,
}

/// What a controller did since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Reads that succeeded.
    pub reads: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Flushes.
    pub flushes: u64,
    /// Accesses to memory that is not mapped, may not be written, or vanished.
    pub dma_faults: u64,
    /// Failures of a medium.
    pub media_errors: u64,
}

impl SoftHandle {
    pub(crate) fn new(chip: &Arc<Chip>) -> Self {
        Self { chip: Arc::clone(chip) }
    }

    /// What was done so far.
    pub fn statistics(&self) -> Statistics {
        let c = &self.chip.counters;
        Statistics {
            reads: c.reads.load(Ordering::Relaxed),
            writes: c.writes.load(Ordering::Relaxed),
            bytes_read: c.bytes_read.load(Ordering::Relaxed),
            bytes_written: c.bytes_written.load(Ordering::Relaxed),
            flushes: c.flushes.load(Ordering::Relaxed),
            dma_faults: c.faults.load(Ordering::Relaxed),
            media_errors: c.media_errors.load(Ordering::Relaxed),
        }
    }

    /// Tells the time, for admin commands that a rule delays: those that are due complete. Engines tell it too.
    pub fn advance(&self, now: Time) {
        self.chip.tell(now);
    }

    /// Looks how large a namespace's storage is by now, and says so to the driver if it grew. How many bytes there are;
    /// `None`: there is no such namespace.
    pub fn rescan(&self, nsid: u32) -> Option<u64> {
        let (_, view) = self.chip.view();
        let namespace = view.namespace(nsid)?;
        let bytes = namespace.capacity();
        if bytes >> namespace.shift > namespace.blocks {
            self.resize(nsid, bytes);
        }
        Some(bytes)
    }

    /// Changes the size of a namespace, within its medium, and says so to the driver. `false`: it cannot be.
    pub fn resize(&self, nsid: u32, bytes: u64) -> bool {
        self.edit(nsid, |slot| {
            let Some(old) = slot else { return false };
            let blocks = bytes >> old.shift;
            if blocks == 0 || bytes > old.capacity() {
                return false;
            }
            *slot = Some(Arc::new(Namespace { blocks, ..(**old).clone() }));
            true
        })
    }

    /// Adds a namespace, in the place of the one there is, and says so to the driver.
    pub fn add(&self, nsid: u32, namespace: NamespaceConfig) -> Result<(), ConfigError> {
        let namespace = Arc::new(Namespace::new(namespace)?);
        self.chip.has(namespace.way());
        let added = self.edit(nsid, |slot| {
            *slot = Some(namespace);
            true
        });
        if added { Ok(()) } else { Err(ConfigError::Namespaces) }
    }

    /// Removes a namespace, and says so to the driver. `false`: there is none.
    pub fn remove(&self, nsid: u32) -> bool {
        self.edit(nsid, |slot| slot.take().is_some())
    }

    fn edit(&self, nsid: u32, edit: impl FnOnce(&mut Option<Arc<Namespace>>) -> bool) -> bool {
        let mut control = self.chip.control.lock();
        let edited = self
            .chip
            .change(|world| world.namespaces.get_mut((nsid as usize).wrapping_sub(1)).is_some_and(edit));
        if edited {
            if self.chip.settle().is_err() {
                control.fail(&self.chip);
            }
            control.namespace_changed(&self.chip, nsid);
        }
        edited
    }

    /// Pulls the device out: all registers read as ones from now on, and nothing is done any more.
    pub fn vanish(&self) {
        let mut control = self.chip.control.lock();
        self.chip.gone.store(true, Ordering::Relaxed);
        control.freeze(&self.chip);
    }

    /// Takes power away and gives it back: the registers are as at first, all queues are gone, and a device that was
    /// pulled out is there again. What a [`WriteCache`](crate::WriteCache) loses is the caller's to say.
    pub fn power_cycle(&self) {
        let mut control = self.chip.control.lock();
        let cut = control.is_in_use();
        if control.reset(&self.chip).is_ok() {
            self.chip.gone.store(false, Ordering::Relaxed);
            self.chip.counters.power_cycles.fetch_add(1, Ordering::Relaxed);
            self.chip.counters.unsafe_shutdowns.fetch_add(cut.into(), Ordering::Relaxed);
        }
    }

    /// Says another thing in its SMART log from now on.
    pub fn set_health(&self, health: Health) {
        self.chip.control.lock().logs.health = health;
    }

    /// Raises CSTS.CFS: nothing is done until the controller is reset.
    pub fn raise_fatal(&self) {
        self.chip.trouble(Trouble::Fatal);
        self.chip.absorb();
    }

    /// Says by an asynchronous event that it has a persistent internal error; it goes on all the same.
    pub fn raise_internal_error(&self) {
        self.chip.control.lock().internal_error(&self.chip);
    }

    /// Posts a completion that belongs to no command, with any identifier, on the completion queue of submission
    /// queue `queue` (0: admin). `false`: there is no such queue, or it is full.
    pub fn forge(&self, queue: u16, cid: u16, status: Status) -> bool {
        self.chip.control.lock().forge(&self.chip, queue, cid, status)
    }

    /// The rules and lies of the faulty twin. `None`: this is not one.
    pub fn faults(&self) -> Option<&Faults> {
        self.chip.faults.as_ref()
    }
}
