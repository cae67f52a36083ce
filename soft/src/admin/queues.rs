//! Creating and deleting I/O queues (5.3 to 5.6).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use nvme_platform::PAGE;

use crate::admin::Answer;
use crate::control::Control;
use crate::gate::Stuck;
use crate::queue::{CompletionQueue, SubmissionQueue};
use crate::shared::Shared;
use crate::wire::{Cqe, Sqe, Status};
use crate::world::View;

/// Physically Contiguous, in dword 11.
const CONTIGUOUS: u32 = 1;
/// Interrupts Enabled, in dword 11 of Create I/O Completion Queue.
const INTERRUPTS: u32 = 2;

impl Control {
    /// What both kinds of Create have in common: identifier, size and address.
    fn new_queue(&self, sqe: &Sqe, granted: u16) -> Result<(u16, u32), Status> {
        let (id, size) = (sqe.dword(10) as u16, (sqe.dword(10) >> 16) + 1);
        if id == 0 || id > granted {
            return Err(Status::QUEUE_ID);
        }
        if size < 2 || size > u32::from(self.nature.mqes) + 1 {
            return Err(Status::QUEUE_SIZE);
        }
        Ok((id, size))
    }

    /// CAP.CQR is set: a queue is one piece, at the start of a page.
    fn queue_memory(view: &View, sqe: &Sqe, len: usize, write: bool) -> Result<u64, Status> {
        if sqe.dword(11) & CONTIGUOUS == 0 {
            return Err(Status::INVALID_FIELD);
        }
        let at = sqe.data[0].get();
        if !at.is_multiple_of(PAGE as u64) {
            return Err(Status::PRP_OFFSET);
        }
        view.map.ring(at, len, write).map(|_| at).ok_or(Status::DATA_TRANSFER)
    }

    pub(super) fn create_completion_queue(
        &mut self,
        shared: &Shared,
        view: &View,
        sqe: &Sqe,
    ) -> Result<Answer, Status> {
        let (id, size) = self.new_queue(sqe, self.features.completion_queues)?;
        if self.cc.cq_entry() != 4 {
            return Err(Status::QUEUE_SIZE);
        }
        let mut queues = shared.queues.lock();
        let slot = queues.get_mut(usize::from(id)).filter(|s| s.cq.is_none()).ok_or(Status::QUEUE_ID)?;
        let vector = (sqe.dword(11) >> 16) as u16;
        if vector >= self.nature.vectors {
            return Err(Status::VECTOR);
        }
        let at = Self::queue_memory(view, sqe, size as usize * size_of::<Cqe>(), true)?;
        let vector = (sqe.dword(11) & INTERRUPTS != 0).then_some(vector);
        slot.cq = Some(Arc::new(CompletionQueue::new(id, size, at, vector)));
        slot.cqs_made += 1;
        shared.queue_generation.fetch_add(1, Ordering::Release);
        Ok(Answer::Done(0))
    }

    pub(super) fn create_submission_queue(
        &mut self,
        shared: &Shared,
        view: &View,
        sqe: &Sqe,
    ) -> Result<Answer, Status> {
        let (id, size) = self.new_queue(sqe, self.features.submission_queues)?;
        if self.cc.sq_entry() != 6 {
            return Err(Status::QUEUE_SIZE);
        }
        let mut queues = shared.queues.lock();
        if queues.get(usize::from(id)).is_none_or(|s| s.sq.is_some()) {
            return Err(Status::QUEUE_ID);
        }
        let completions = (sqe.dword(11) >> 16) as u16;
        if completions == 0 || completions > self.features.completion_queues {
            return Err(Status::QUEUE_ID);
        }
        let cq = queues.get(usize::from(completions)).and_then(|s| s.cq.clone()).ok_or(Status::CQ_INVALID)?;
        let at = Self::queue_memory(view, sqe, size as usize * size_of::<Sqe>(), false)?;
        if let Some(slot) = queues.get_mut(usize::from(id)) {
            slot.sq = Some(Arc::new(SubmissionQueue::new(id, size, at, cq)));
            slot.sqs_made += 1;
        }
        shared.queue_generation.fetch_add(1, Ordering::Release);
        Ok(Answer::Done(0))
    }

    /// When this completes, and that is when the last of its commands has ended, no engine touches the queue or the memory of its commands.
    pub(super) fn delete_submission_queue(&mut self, shared: &Shared, sqe: &Sqe) -> Result<Answer, Status> {
        let id = sqe.dword(10) as u16;
        let sq = {
            let queues = shared.queues.lock();
            queues.get(usize::from(id)).and_then(|s| s.sq.clone()).ok_or(Status::QUEUE_ID)?
        };
        if !end(shared, &sq).map_err(|_| Status::INTERNAL)? {
            return Ok(Answer::Again);
        }
        if let Some(slot) = shared.queues.lock().get_mut(usize::from(id)) {
            slot.sq = None;
        }
        shared.queue_generation.fetch_add(1, Ordering::Release);
        Ok(Answer::Done(0))
    }

    /// No submission queue posts there any more, so no engine is near it.
    pub(super) fn delete_completion_queue(&mut self, shared: &Shared, sqe: &Sqe) -> Result<Answer, Status> {
        let id = sqe.dword(10) as u16;
        let mut queues = shared.queues.lock();
        if queues.get(usize::from(id)).is_none_or(|s| s.cq.is_none()) {
            return Err(Status::QUEUE_ID);
        }
        if queues.iter().filter_map(|s| s.sq.as_ref()).any(|sq| sq.completions.id == id) {
            return Err(Status::QUEUE_DELETION);
        }
        if let Some(slot) = queues.get_mut(usize::from(id)) {
            slot.cq = None;
        }
        shared.queue_generation.fetch_add(1, Ordering::Release);
        Ok(Answer::Done(0))
    }

    /// Ends all I/O queues. False: some of their commands are under way, and all of the queues are still there.
    pub(crate) fn close_queues(&mut self, shared: &Shared) -> Result<bool, Stuck> {
        // All are closed before the first is waited for, so that the wait is for one command, not for one each.
        self.freeze(shared);
        let queues: alloc::vec::Vec<_> = shared.queues.lock().iter().filter_map(|s| s.sq.clone()).collect();
        let mut quiet = true;
        for sq in &queues {
            quiet &= end(shared, sq)?;
        }
        if !quiet {
            return Ok(false);
        }
        for slot in shared.queues.lock().iter_mut() {
            (slot.sq, slot.cq) = (None, None);
        }
        shared.queue_generation.fetch_add(1, Ordering::Release);
        Ok(true)
    }
}

/// Closes a queue's gate, waits for its engine, and takes from it what it kept. False: some of its commands are under way.
fn end(shared: &Shared, sq: &SubmissionQueue) -> Result<bool, Stuck> {
    sq.gate.close();
    let mut inside = sq.gate.pass(shared.outside.pause)?;
    inside.seen = None;
    inside.held.clear();
    Ok(inside.flight.settle())
}
