//! The doorbells of a queue pair, and the engine that runs apart.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use nvme_platform::{QueueDoorbells, Time};

use crate::chip::Chip;
use crate::engine;
use crate::namespace::Namespace;
use crate::queue::{CompletionQueue, SubmissionQueue};
use crate::shared::{Slot, Trouble};
use crate::storage::Request;

/// One queue that was made under an identifier: the one there is, or the next. Never a later one.
struct Bound<Q> {
    /// Which one it is, counted from 1.
    which: u64,
    queue: Option<Arc<Q>>,
}

impl<Q> Bound<Q> {
    fn new(there: Option<&Arc<Q>>, made: u64) -> Self {
        Self { which: made + u64::from(there.is_none()), queue: there.cloned() }
    }

    fn bind(&mut self, there: Option<&Arc<Q>>, made: u64) {
        if made == self.which {
            self.queue = there.cloned();
        }
    }
}

/// The doorbells of one pair. They belong to the queues that exist when they are asked for, or are created next;
/// once these are deleted, nothing happens here any more.
pub(crate) struct PairDoorbells {
    chip: Arc<Chip>,
    id: u16,
    sq: Bound<SubmissionQueue>,
    cq: Bound<CompletionQueue>,
    /// The state of the queues when we last looked for ours.
    looked: u64,
    /// Whoever runs it may be held up by what it copies: that is done outside of the gate. What is to be begun then.
    apart: Option<Vec<Request>>,
}

impl PairDoorbells {
    pub(crate) fn new(chip: &Arc<Chip>, id: u16) -> Option<Self> {
        let looked = chip.queue_generation.load(Ordering::Acquire);
        let queues = chip.queues.lock();
        let Slot { sq, cq, sqs_made, cqs_made } = queues.get(usize::from(id)).filter(|_| id > 0)?;
        let (sq, cq) = (Bound::new(sq.as_ref(), *sqs_made), Bound::new(cq.as_ref(), *cqs_made));
        drop(queues);
        Some(Self { chip: Arc::clone(chip), id, sq, cq, looked, apart: None })
    }

    /// Looks for queues that did not exist yet.
    #[inline(always)]
    fn look(&mut self) {
        if self.sq.queue.is_none() || self.cq.queue.is_none() {
            self.look_again();
        }
    }

    #[cold]
    #[inline(never)]
    fn look_again(&mut self) {
        let generation = self.chip.queue_generation.load(Ordering::Acquire);
        if generation != self.looked {
            self.looked = generation;
            if let Some(slot) = self.chip.queues.lock().get(usize::from(self.id)) {
                self.sq.bind(slot.sq.as_ref(), slot.sqs_made);
                self.cq.bind(slot.cq.as_ref(), slot.cqs_made);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn refused(&self) {
        self.chip.trouble(Trouble::BadDoorbellValue);
        self.chip.absorb();
    }
}

impl QueueDoorbells for PairDoorbells {
    #[inline]
    fn submission_tail(&mut self, tail: u16) {
        self.look();
        if let Some(sq) = &self.sq.queue
            && !sq.gate.is_closed()
        {
            if sq.ring(u32::from(tail)) { self.chip.wake() } else { self.refused() }
        }
    }

    #[inline]
    fn completion_head(&mut self, head: u16) {
        self.look();
        if let Some(cq) = &self.cq.queue {
            if cq.ring(u32::from(head)) { self.chip.wake() } else { self.refused() }
        }
    }

    #[inline]
    fn run(&mut self, budget: u32, now: Time) -> Option<Time> {
        if self.chip.outside.wake.is_some() {
            return None;
        }
        if self.sq.queue.is_none() {
            self.look();
        }
        let Some(begun) = &mut self.apart else {
            return engine::run(&self.chip, self.sq.queue.as_ref()?, budget, now);
        };
        let again = engine::run_any(&self.chip, self.sq.queue.as_ref()?, budget, now, Some(begun));
        engine::begin(begun, now).or(again)
    }

    fn set_apart(&mut self, apart: bool) {
        // What was not begun yet has failed then; its session has nothing under way when it lets go of its pair.
        self.apart = apart.then(Vec::new);
    }

    fn runs_here(&self) -> bool {
        self.chip.outside.wake.is_none()
    }

    fn copies_here(&self) -> bool {
        let copies = |n: &Arc<Namespace>| n.storage.as_ref().is_none_or(|storage| storage.copies_in_begin());
        self.runs_here() && self.chip.view().1.namespaces.iter().flatten().any(copies)
    }

    fn waits_for_storage(&self) -> bool {
        self.chip.view().1.namespaces.iter().flatten().any(|n| n.storage.is_some())
    }
}

/// Runs the I/O commands of all queues, on a thread of the home's ([`Config::apart`](crate::Config::apart)).
pub struct Engine {
    chip: Arc<Chip>,
    queues: Vec<Arc<SubmissionQueue>>,
    looked: Option<u64>,
}

impl Engine {
    pub(crate) fn new(chip: &Arc<Chip>) -> Self {
        Self { chip: Arc::clone(chip), queues: Vec::new(), looked: None }
    }

    /// Runs up to `budget` commands of each queue, and says when there is more to do: `Some(now)`: at once;
    /// `None`: when it is woken.
    pub fn run(&mut self, budget: u32, now: Time) -> Option<Time> {
        self.look();
        let chip = &self.chip;
        self.queues.iter().filter_map(|sq| engine::run(chip, sq, budget, now)).min()
    }

    /// The same for one queue, by its number: commands of different queues may be carried out in any order.
    pub fn run_queue(&mut self, queue: u16, budget: u32, now: Time) -> Option<Time> {
        self.look();
        let sq = self.queues.iter().find(|sq| sq.id == queue)?;
        engine::run(&self.chip, sq, budget, now)
    }

    /// The queues that there are now.
    fn look(&mut self) {
        let generation = self.chip.queue_generation.load(Ordering::Acquire);
        if self.looked != Some(generation) {
            self.looked = Some(generation);
            self.queues.clear();
            self.queues.extend(self.chip.queues.lock().iter().filter_map(|s| s.sq.clone()));
        }
    }
}
