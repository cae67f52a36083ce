//! Queues: their memory, their doorbells, and who posts to them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nvme_platform::Table;
use spin::Mutex;

use crate::faulty::Held;
use crate::flight::Flight;
use crate::gate::Gate;
use crate::map::Hits;
use crate::wire::{Cqe, Sqe};
use crate::world::View;

/// An I/O completion queue. It may serve several submission queues; whoever posts holds its lock for a batch.
pub(crate) struct CompletionQueue {
    pub(crate) id: u16,
    pub(crate) size: u32,
    pub(crate) at: u64,
    /// The interrupt vector, if interrupts are enabled.
    pub(crate) vector: Option<u16>,
    /// The head doorbell.
    pub(crate) head: AtomicU32,
    pub(crate) poster: Mutex<Poster>,
}

impl CompletionQueue {
    pub(crate) fn new(id: u16, size: u32, at: u64, vector: Option<u16>) -> Self {
        Self { id, size, at, vector, head: AtomicU32::new(0), poster: Mutex::new(Poster::default()) }
    }

    /// Writes the head doorbell. `false`: there is no such entry.
    #[inline]
    pub(crate) fn ring(&self, head: u32) -> bool {
        let good = head < self.size;
        if good {
            // Release: the driver's reads of the entries come before our next writes there.
            self.head.store(head, Ordering::Release);
        }
        good
    }
}

/// The controller's end of a completion queue.
pub(crate) struct Poster {
    tail: u32,
    phase: bool,
}

impl Default for Poster {
    fn default() -> Self {
        Self { tail: 0, phase: true }
    }
}

impl Poster {
    pub(crate) fn tail(&self) -> u32 {
        self.tail
    }

    /// Whether an entry fits.
    #[inline]
    pub(crate) fn room(&self, size: u32, head: u32) -> bool {
        let next = if self.tail + 1 >= size { 0 } else { self.tail + 1 };
        next != head
    }

    /// How many entries fit.
    #[inline]
    pub(crate) fn free(&self, size: u32, head: u32) -> u32 {
        let used = if self.tail >= head { self.tail - head } else { size - head + self.tail };
        // A full queue could not be told from an empty one.
        (size - 1).saturating_sub(used)
    }

    /// Posts an entry; `cqe.status` comes without its phase tag, or with one that flips it. There must be room.
    #[inline]
    pub(crate) fn post(&mut self, ring: &Table<[u64; 2]>, size: u32, cqe: &Cqe) {
        let first = u64::from(cqe.result.get()) | u64::from(cqe.reserved.get()) << 32;
        let last = u64::from(cqe.sq_head.get())
            | u64::from(cqe.sq_id.get()) << 16
            | u64::from(cqe.cid.get()) << 32
            | u64::from(cqe.status.get()) << 48;
        self.post_words(ring, size, [first, last]);
    }

    /// The same for an entry that is words already.
    #[inline(always)]
    pub(crate) fn post_words(&mut self, ring: &Table<[u64; 2]>, size: u32, [first, last]: [u64; 2]) {
        // The ring was resolved for `size` entries, so this does not fail. Whoever acquires the phase tag sees the rest,
        // and the data of the command.
        let _ = ring.store_entry(self.tail, [first, last ^ u64::from(self.phase) << 48]);
        self.tail += 1;
        if self.tail >= size {
            self.tail = 0;
            self.phase = !self.phase;
        }
    }
}

/// An I/O submission queue.
pub(crate) struct SubmissionQueue {
    pub(crate) id: u16,
    pub(crate) size: u32,
    pub(crate) at: u64,
    pub(crate) completions: Arc<CompletionQueue>,
    /// The tail doorbell.
    pub(crate) tail: AtomicU32,
    /// How far commands were fetched. Written inside the gate only.
    pub(crate) head: AtomicU32,
    /// Whether some take their time. Written inside the gate only.
    pub(crate) waits: AtomicBool,
    pub(crate) gate: Gate<Inside>,
}

/// What the engine keeps between batches.
#[derive(Default)]
pub(crate) struct Inside {
    pub(crate) seen: Option<Seen>,
    /// Commands that a rule holds up.
    pub(crate) held: Vec<Held>,
    /// Commands whose storage takes its time.
    pub(crate) flight: Flight,
}

/// The world as the engine saw it last.
pub(crate) struct Seen {
    pub(crate) generation: u64,
    pub(crate) view: Arc<View>,
    pub(crate) entries: Table<[u64; 8]>,
    pub(crate) completions: Table<[u64; 2]>,
    /// Where mappings were found.
    pub(crate) hits: Hits,
}

impl SubmissionQueue {
    pub(crate) fn new(id: u16, size: u32, at: u64, completions: Arc<CompletionQueue>) -> Self {
        let (tail, head, waits) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
        Self { id, size, at, completions, tail, head, waits, gate: Gate::new(Inside::default()) }
    }

    /// Length of its memory in bytes.
    pub(crate) fn len(&self) -> usize {
        self.size as usize * size_of::<Sqe>()
    }

    /// Writes the tail doorbell. `false`: there is no such entry.
    #[inline]
    pub(crate) fn ring(&self, tail: u32) -> bool {
        let good = tail < self.size;
        if good {
            // Release: pairs with the engine's load, so that it sees the entries.
            self.tail.store(tail, Ordering::Release);
        }
        good
    }
}
