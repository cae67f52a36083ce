//! The admin queue, as control has it while the controller is enabled.

use alloc::vec::Vec;

use nvme_platform::Table;
use zerocopy::little_endian::U16;

use crate::faulty::Held;
use crate::queue::Poster;
use crate::wire::{Cqe, Sqe, Status};

/// The two rings, where they stand, and what was fetched and is not answered.
pub(crate) struct AdminQueue {
    pub(crate) sq_size: u32,
    pub(crate) cq_size: u32,
    pub(crate) sq_at: u64,
    pub(crate) cq_at: u64,
    pub(crate) head: u32,
    pub(crate) tail: u32,
    pub(crate) cq_head: u32,
    pub(crate) poster: Poster,
    pub(crate) held: Vec<Held>,
    /// Commands that wait for the end of others.
    pub(crate) waiting: Vec<Sqe>,
}

impl AdminQueue {
    /// Posts an entry if there is room.
    pub(crate) fn post(&mut self, ring: &Table<[u64; 2]>, posted: &mut u32, cqe: &Cqe) {
        if self.poster.room(self.cq_size, self.cq_head) {
            self.poster.post(ring, self.cq_size, cqe);
            *posted += 1;
        }
    }

    pub(crate) fn room_for_two(&self) -> bool {
        let used = (self.poster.tail() + self.cq_size - self.cq_head) % self.cq_size;
        used + 2 < self.cq_size
    }
}

/// A completion without a result.
pub(crate) fn completion(head: u32, cid: u16, status: Status) -> Cqe {
    Cqe {
        sq_head: U16::new(head as u16),
        cid: U16::new(cid),
        status: U16::new(status.0 << 1),
        ..Cqe::default()
    }
}
