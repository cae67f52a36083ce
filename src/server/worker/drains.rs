//! Changes of memory: a bounded part of each in every pass.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::super::message::{FromWorker, QueueKey, SessionKey};
use super::Worker;
use super::roster::Roster;
use nvme_session::memory::MemoryTable;
use nvme_session::queue::BlkQueue;
use nvme_session::virtqueue::Broken;

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

impl Worker {
    /// Takes the next steps of changes of memory.
    pub(super) fn turn_drains(&mut self) -> bool {
        let mut worked = false;
        for at in 0..self.drains.len() {
            worked |= self.update_tables(at, TABLE_STEP);
        }
        let (queues, kept, outbox) = (&self.roster, &self.quarantined, &mut self.outbox);
        self.drains.retain_mut(|drain| {
            if drain.updated < drain.queues.len() {
                return true;
            }
            let before = drain.removed.len();
            let done = drain.is_over(queues, kept);
            if done {
                outbox.push_back(FromWorker::TableSet(drain.session, drain.generation));
            }
            worked |= done || drain.removed.len() < before;
            !done
        });
        worked
    }

    /// Gives some of a session's queues their new table. Whether there were any left.
    pub(super) fn update_tables(&mut self, at: usize, step: usize) -> bool {
        let Some(drain) = self.drains.get_mut(at) else { return false };
        let count = (step / drain.table.regions().len().max(1)).max(1);
        let some: Vec<(usize, QueueKey)> =
            drain.queues.iter().skip(drain.updated).take(count).copied().collect();
        drain.updated += some.len();
        let table = Arc::clone(&drain.table);
        for (token, key) in &some {
            let queue = self.roster.get_mut(*token).filter(|q| q.key == *key);
            if let Some(Err(_)) = queue.map(|q| q.virtqueue.set_table(Arc::clone(&table))) {
                self.break_queue(*token, Broken::RingsGone);
            }
        }
        !some.is_empty()
    }
}

impl Drain {
    /// Whether no queue holds anything of what is gone. A slot that nobody holds is not asked for again: with the new
    /// table nobody can come to hold it.
    fn is_over(&mut self, queues: &Roster, kept: &[(SessionKey, Box<BlkQueue>)]) -> bool {
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
