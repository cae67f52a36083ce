//! One batch of commands of a queue, where each may be of any kind.

use core::sync::atomic::Ordering;

use nvme_platform::Table;
use zerocopy::little_endian::{U16, U32};
use zerocopy::transmute;

use crate::command::Executor;
use crate::queue::{CompletionQueue, Poster, SubmissionQueue};
use crate::wire::{Cqe, Sqe, Status};

/// How many bytes count as one more command of the budget.
pub(crate) const BYTES_SHIFT: u32 = 17;

/// One batch.
pub(crate) struct Batch<'a> {
    pub(crate) sq: &'a SubmissionQueue,
    pub(crate) cq: &'a CompletionQueue,
    pub(crate) entries: &'a Table<[u64; 8]>,
    pub(crate) ring: &'a Table<[u64; 2]>,
    pub(crate) poster: &'a mut Poster,
    pub(crate) head: u32,
    pub(crate) posted: u32,
    pub(crate) budget: u32,
    pub(crate) executor: Executor<'a>,
}

impl Batch<'_> {
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
        let words = self.entries.read(self.head).ok()?;
        self.head = if self.head + 1 >= self.sq.size { 0 } else { self.head + 1 };
        Some(transmute!(words))
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
