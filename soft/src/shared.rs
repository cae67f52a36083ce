//! What the device, its doorbells, engines and handles share.
//!
//! Locks, in the order in which they are taken: `control`; a queue's gate; a completion queue's poster; then either of
//! `queues` and `world`, which are held for moments only. An engine inside a gate never takes `control`.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use spin::Mutex;

use crate::command::Counts;
use crate::config::Interrupts;
use crate::faulty::Faults;
use crate::gate::Stuck;
use crate::map::Map;
use crate::namespace::{Namespace, Way};
use crate::queue::{CompletionQueue, SubmissionQueue};
use crate::space::Space;
use crate::storage::Told;
use crate::world::View;

pub(crate) struct Shared {
    /// Moves with each change of the world.
    pub(crate) generation: AtomicU64,
    pub(crate) world: Mutex<World>,
    pub(crate) queues: Mutex<Vec<Slot>>,
    /// Moves with each queue that is made or deleted.
    pub(crate) queue_generation: AtomicU64,
    pub(crate) counters: Counters,
    pub(crate) faults: Option<Faults>,
    /// How commands are done: a [`Way`].
    way: AtomicU8,
    /// Who is told of what came back when nobody runs its queue.
    pub(crate) control: Weak<dyn Told>,
    pub(crate) outside: Outside,
    /// The home's clock, as far as anybody has told.
    pub(crate) now: AtomicU64,
    /// The device is gone.
    pub(crate) gone: AtomicBool,
    /// INTMS and INTMC: vectors 0 to 31 that are held back, and those of them that wait.
    masked: AtomicU32,
    waiting: AtomicU32,
    /// [`Trouble`] that control has not seen yet.
    troubles: AtomicU32,
}

/// What the home gave to be called.
pub(crate) struct Outside {
    pub(crate) interrupts: Option<Box<dyn Interrupts>>,
    /// Wakes the engine that runs apart, if there is one.
    pub(crate) wake: Option<Box<dyn Fn() + Send + Sync>>,
    /// What control does while it waits for an engine.
    pub(crate) pause: fn(),
}

/// What an engine or a doorbell has to tell control.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The controller cannot go on.
    Fatal = 1,
    /// A doorbell of a queue that does not exist.
    BadDoorbell = 2,
    /// A doorbell value beyond the queue.
    BadDoorbellValue = 4,
}

/// What changes, and what engines know it by.
pub(crate) struct World {
    pub(crate) space: Space,
    pub(crate) namespaces: Vec<Option<Arc<Namespace>>>,
    pub(crate) mastering: bool,
    pub(crate) write_back: bool,
    /// What does not change.
    pub(crate) fixed: Fixed,
    /// Made when somebody looks, dropped when something changes.
    pub(crate) view: Option<Arc<View>>,
}

/// What a controller's engines know of its configuration.
#[derive(Clone, Copy)]
pub(crate) struct Fixed {
    pub(crate) transfer_max: usize,
    pub(crate) sgl: bool,
    pub(crate) dataset_management: bool,
    pub(crate) write_zeroes: bool,
}

/// The queues of one identifier, and how many were made under it.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) sq: Option<Arc<SubmissionQueue>>,
    pub(crate) cq: Option<Arc<CompletionQueue>>,
    pub(crate) sqs_made: u64,
    pub(crate) cqs_made: u64,
}

/// Counts of everything, updated once per batch.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) media_errors: AtomicU64,
    pub(crate) power_cycles: AtomicU64,
    pub(crate) unsafe_shutdowns: AtomicU64,
}

impl Counters {
    #[inline]
    pub(crate) fn add(&self, counts: &Counts) {
        for (to, from) in [
            (&self.reads, counts.reads),
            (&self.writes, counts.writes),
            (&self.bytes_read, counts.bytes_read),
            (&self.bytes_written, counts.bytes_written),
            (&self.flushes, counts.flushes),
            (&self.faults, counts.faults),
            (&self.media_errors, counts.media_errors),
        ] {
            if from > 0 {
                to.fetch_add(from, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(crate) fn new(
        world: World,
        queues: u16,
        faults: Option<Faults>,
        outside: Outside,
        control: Weak<dyn Told>,
    ) -> Self {
        let ways = world.namespaces.iter().flatten().map(|n| n.way());
        let way = if faults.is_some() { Way::Any } else { ways.max().unwrap_or(Way::AtOnce) };
        Self {
            generation: AtomicU64::new(0),
            world: Mutex::new(world),
            queues: Mutex::new((0..=queues).map(|_| Slot::default()).collect()),
            queue_generation: AtomicU64::new(0),
            counters: Counters::default(),
            faults,
            way: AtomicU8::new(way as u8),
            control,
            outside,
            now: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            masked: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            troubles: AtomicU32::new(0),
        }
    }

    /// How commands are done.
    #[inline]
    pub(crate) fn way(&self) -> Way {
        // What is in memory is ordered by the load in the batch; here it only matters which way to go.
        match self.way.load(Ordering::Relaxed) {
            0 => Way::AtOnce,
            1 => Way::MostAtOnce,
            _ => Way::Any,
        }
    }

    /// A namespace came.
    pub(crate) fn has(&self, way: Way) {
        self.way.fetch_max(way as u8, Ordering::Relaxed);
    }

    /// The world as it is, with its generation.
    pub(crate) fn view(&self) -> (u64, Arc<View>) {
        let mut world = self.world.lock();
        // Changes are made under the same lock, so the two belong together.
        let generation = self.generation.load(Ordering::Relaxed);
        let view = match &world.view {
            Some(view) => Arc::clone(view),
            None => Arc::new(world.look()),
        };
        world.view = Some(Arc::clone(&view));
        (generation, view)
    }

    /// Changes the world. Engines see it with their next batch; see [`settle`](Shared::settle).
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut World) -> R) -> R {
        let mut world = self.world.lock();
        let result = change(&mut world);
        let old = world.view.take();
        // Release: pairs with the engines' load.
        self.generation.fetch_add(1, Ordering::Release);
        // What unmaps memory, if it is the last to keep it, does so when nobody waits for the lock.
        drop(world);
        drop(old);
        result
    }

    /// Waits until no engine uses an older world than the present one, and takes older ones away, so that they keep
    /// no memory.
    pub(crate) fn settle(&self) -> Result<(), Stuck> {
        let queues: Vec<_> = self.queues.lock().iter().filter_map(|s| s.sq.clone()).collect();
        queues.iter().try_for_each(|sq| {
            sq.gate.pass(self.outside.pause)?.seen = None;
            Ok(())
        })
    }

    /// Whether no request of any queue is under way. Engines see by now that the device may do no DMA, and begin nothing.
    pub(crate) fn quiet(&self) -> bool {
        let queues: Vec<_> = self.queues.lock().iter().filter_map(|s| s.sq.clone()).collect();
        let quiet = |sq: &Arc<SubmissionQueue>| {
            sq.gate.pass(self.outside.pause).is_ok_and(|mut inside| inside.flight.settle())
        };
        // All of them, each time: whoever is asked once takes what came back, and tells control of the rest.
        queues.iter().map(quiet).filter(|quiet| !quiet).count() == 0
    }

    /// Fires an interrupt, if there are any and it is not masked.
    #[inline]
    pub(crate) fn interrupt(&self, vector: Option<u16>) {
        let (Some(vector), Some(interrupts)) = (vector, &self.outside.interrupts) else { return };
        let bit = 1u32.checked_shl(u32::from(vector)).unwrap_or(0);
        if self.masked.load(Ordering::Acquire) & bit != 0 {
            self.waiting.fetch_or(bit, Ordering::AcqRel);
            // Unmasked meanwhile: whoever takes the bit fires.
            if self.masked.load(Ordering::Acquire) & bit != 0
                || self.waiting.fetch_and(!bit, Ordering::AcqRel) & bit == 0
            {
                return;
            }
        }
        interrupts.raise(vector);
    }

    pub(crate) fn masked(&self) -> u32 {
        self.masked.load(Ordering::Relaxed)
    }

    pub(crate) fn mask(&self, vectors: u32) {
        self.masked.fetch_or(vectors, Ordering::AcqRel);
    }

    pub(crate) fn unmask(&self, vectors: u32) {
        self.masked.fetch_and(!vectors, Ordering::AcqRel);
        let mut fire = self.waiting.fetch_and(!vectors, Ordering::AcqRel) & vectors;
        while fire != 0 {
            if let Some(interrupts) = &self.outside.interrupts {
                interrupts.raise(fire.trailing_zeros() as u16);
            }
            fire &= fire - 1;
        }
    }

    /// Tells control something, when it looks next.
    pub(crate) fn trouble(&self, trouble: Trouble) {
        self.troubles.fetch_or(trouble as u32, Ordering::AcqRel);
    }

    /// What control has not been told yet.
    pub(crate) fn take_troubles(&self) -> u32 {
        if self.troubles.load(Ordering::Relaxed) == 0 { 0 } else { self.troubles.swap(0, Ordering::AcqRel) }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Wakes the engine that runs apart.
    #[inline]
    pub(crate) fn wake(&self) {
        if let Some(wake) = &self.outside.wake {
            wake();
        }
    }
}

impl World {
    fn look(&self) -> View {
        let Fixed { transfer_max, sgl, dataset_management, write_zeroes } = self.fixed;
        let mapped = self.space.mappings().filter(|_| self.mastering);
        View {
            map: Map::new(mapped.cloned()),
            namespaces: self.namespaces.clone(),
            mastering: self.mastering,
            write_back: self.write_back,
            transfer_max,
            sgl,
            dataset_management,
            write_zeroes,
        }
    }
}
