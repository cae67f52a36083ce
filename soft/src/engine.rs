//! Running I/O commands: a batch from one submission queue.

use core::sync::atomic::Ordering;

use nvme_platform::{Time, Window};
use zerocopy::little_endian::{U16, U32};

use crate::chip::Chip;
use crate::command::{Counts, Executor};
use crate::queue::{CompletionQueue, Inside, Poster, Seen, SubmissionQueue};
use crate::shared::{Shared, Trouble};
use crate::transfer::Dma;
use crate::wire::{Cqe, Sqe, Status};
use crate::world::Hits;

/// How many bytes count as one more command of the budget.
const BYTES_SHIFT: u32 = 17;

/// Runs up to `budget` commands of one queue, and says when there is more to do.
#[inline]
pub(crate) fn run(chip: &Chip, sq: &SubmissionQueue, budget: u32, now: Time) -> Option<Time> {
    // What is in memory is ordered by the load in the batch; here it only matters whether to go there.
    let plain = chip.plain.load(Ordering::Relaxed);
    if sq.tail.load(Ordering::Relaxed) == sq.head.load(Ordering::Relaxed) && plain {
        return None;
    }
    let Some(mut inside) = sq.gate.enter() else {
        return (!sq.gate.is_closed()).then_some(now);
    };
    let cq = &*sq.completions;
    // Another queue's engine may be posting.
    let Some(mut poster) = cq.poster.try_lock() else { return Some(now) };
    let Inside { seen, held, flight } = &mut *inside;
    let seen = look(chip, sq, seen)?;
    let Seen { view, entries, completions, hits, .. } = seen;
    let mut batch = Batch {
        sq,
        cq,
        entries,
        ring: completions,
        poster: &mut poster,
        head: sq.head.load(Ordering::Relaxed),
        posted: 0,
        budget,
        executor: Executor { dma: Dma { view, hits }, counts: Counts::default() },
    };
    let next = if plain { batch.run(now) } else { batch.run_slow(chip, view, flight, held, now) };
    let Batch { head, posted, executor, .. } = batch;
    sq.head.store(head, Ordering::Relaxed);
    chip.counters.add(&executor.counts);
    drop(poster);
    drop(inside);
    if posted > 0 {
        chip.interrupt(cq.vector);
    }
    if chip.faults.is_some() {
        chip.tell(now);
    }
    next
}

/// The world as it is now. `None`: nothing can run.
#[inline]
fn look<'i>(shared: &Shared, sq: &SubmissionQueue, seen: &'i mut Option<Seen>) -> Option<&'i mut Seen> {
    // Acquire: pairs with the change of the world; control moves it before it passes the gate that we are inside of.
    let generation = shared.generation.load(Ordering::Acquire);
    if seen.as_ref().is_none_or(|s| s.generation != generation) {
        *seen = look_again(shared, sq);
    }
    seen.as_mut()
}

#[cold]
fn look_again(shared: &Shared, sq: &SubmissionQueue) -> Option<Seen> {
    let (generation, view) = shared.view();
    if !view.mastering {
        return None;
    }
    let entries = view.ring(sq.at, sq.len(), false);
    let completions = view.ring(sq.completions.at, sq.completions.len(), true);
    let (Some(entries), Some(completions)) = (entries, completions) else {
        // The queue's memory is gone while there is work: nothing can be said but this.
        shared.counters.fault();
        shared.trouble(Trouble::Fatal);
        return None;
    };
    Some(Seen { generation, view, entries, completions, hits: Hits::default() })
}

/// One batch.
pub(crate) struct Batch<'a> {
    pub(crate) sq: &'a SubmissionQueue,
    pub(crate) cq: &'a CompletionQueue,
    entries: &'a Window,
    ring: &'a Window,
    poster: &'a mut Poster,
    head: u32,
    posted: u32,
    budget: u32,
    pub(crate) executor: Executor<'a>,
}

impl Batch<'_> {
    #[inline]
    fn run(&mut self, now: Time) -> Option<Time> {
        loop {
            if !self.pending() {
                return None;
            }
            if !self.go_on() {
                return Some(now);
            }
            let sqe = self.fetch()?;
            let status = self.executor.execute(&sqe);
            self.post(&self.completion(sqe.cid.get(), status));
        }
    }

    /// Whether there is a command. Acquire: pairs with the doorbell, so that the entry is seen.
    #[inline]
    pub(crate) fn pending(&self) -> bool {
        self.sq.tail.load(Ordering::Acquire) != self.head
    }

    /// Whether another command may be run: the budget lasts, nobody waits at the gate, and its completion fits.
    #[inline]
    pub(crate) fn go_on(&self) -> bool {
        let moved = self.executor.counts.bytes_read + self.executor.counts.bytes_written;
        u64::from(self.posted) + (moved >> BYTES_SHIFT) < u64::from(self.budget)
            && !self.sq.gate.asked()
            && self.room()
    }

    /// Whether a completion fits. Acquire: pairs with the head doorbell, so that the driver's reads of the entry
    /// come before our write.
    #[inline]
    pub(crate) fn room(&self) -> bool {
        self.poster.room(self.cq.size, self.cq.head.load(Ordering::Acquire))
    }

    /// The next entry. It is ours from here on: never read again.
    #[inline]
    pub(crate) fn fetch(&mut self) -> Option<Sqe> {
        let sqe = self.entries.read_value::<Sqe>(self.head as usize * size_of::<Sqe>()).ok()?;
        self.head = if self.head + 1 >= self.sq.size { 0 } else { self.head + 1 };
        Some(sqe)
    }

    #[inline]
    pub(crate) fn completion(&self, cid: u16, status: Status) -> Cqe {
        Cqe {
            result: U32::ZERO,
            reserved: U32::ZERO,
            sq_head: U16::new(self.head as u16),
            sq_id: U16::new(self.sq.id),
            cid: U16::new(cid),
            status: U16::new(status.0 << 1),
        }
    }

    /// Posts an entry for which there is room.
    #[inline]
    pub(crate) fn post(&mut self, cqe: &Cqe) {
        self.poster.post(self.ring, self.cq.size, cqe);
        self.posted += 1;
    }

    /// Uses up budget for a command that posts nothing.
    pub(crate) fn charge(&mut self) {
        self.budget = self.budget.saturating_sub(1);
    }
}
