//! A change of memory on its way through a session's queues.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::super::message::{QueueKey, SessionKey};
use super::roster::Roster;
use nvme_session::memory::MemoryTable;
use nvme_session::queue::BlkQueue;

/// Regions that are looked at for a change of table in one pass, so that others are served meanwhile.
pub(super) const TABLE_STEP: usize = 4096;

/// A session's memory on its way from one table to the next: first its queues are given the new one, then what is gone is
/// waited for.
pub(super) struct Drain {
    pub(super) session: SessionKey,
    pub(super) generation: u64,
    pub(super) table: Arc<MemoryTable>,
    /// The queues that were there; later ones have the new table from the start.
    pub(super) queues: Vec<(usize, QueueKey)>,
    /// How many of them have the new table.
    pub(super) updated: usize,
    /// Slots that may still be held.
    pub(super) removed: Vec<u16>,
}

impl Drain {
    /// Whether no queue holds anything of what is gone. A slot that nobody holds is not asked for again: with the new
    /// table nobody can come to hold it.
    pub(super) fn is_over(&mut self, queues: &Roster, kept: &[(SessionKey, Box<BlkQueue>)]) -> bool {
        let slots = (TABLE_STEP / self.queues.len().max(1)).max(1);
        for _ in 0..slots {
            let Some(&slot) = self.removed.last() else { return true };
            let served = self.queues.iter().filter_map(|(token, key)| {
                queues.get(*token).filter(|q| q.key == *key).map(|q| &q.virtqueue)
            });
            let kept = kept.iter().filter(|(session, _)| *session == self.session).map(|(_, queue)| queue);
            if served.chain(kept).any(|queue| queue.holds(slot)) {
                return false;
            }
            self.removed.pop();
        }
        self.removed.is_empty()
    }
}
