//! Completions: an operation's way back.

use nvme_platform::{Window, trace, warn};
use nvme_session::memory::{DmaRange, Quiet};
use nvme_session::operation::{Operation, Outcome, Tag};

use super::pair::{Done, Issued, QueuePair, State};
use super::quiet;
use super::spec::command::{Completion, Status};

impl QueuePair {
    /// Takes up to `budget` operations that ended, then rings the completion queue's doorbell. Answers how many.
    pub fn poll(
        &mut self,
        budget: u32,
        windows: &mut dyn FnMut(Tag, &DmaRange) -> Option<Window>,
        each: &mut dyn FnMut(Done),
    ) -> u32 {
        let mut taken = 0;
        while taken < budget
            && let Some(done) = self.next_done(windows)
        {
            each(done);
            taken += 1;
        }
        self.finish_poll();
        taken
    }

    /// The short way of [`next_done`](Self::next_done): takes an operation that a good completion ends and that was not
    /// bounced. `None`: to be asked there, where the entry is loaded anew and checked by itself.
    #[inline(always)]
    pub fn next_usual(&mut self) -> Option<(Tag, Operation, Quiet)> {
        if !self.ended.is_empty() || self.state != State::Running {
            return None;
        }
        let completion = self.cq.peek()?;
        if completion.status.code() != Status::SUCCESS || !self.fits(&completion) {
            return None;
        }
        let issued = self.flight.take_if(completion.cid, |issued| issued.bounce.is_none())?;
        self.cq.advance();
        trace!(
            "pair {}: command {:#06x} status {:#06x}",
            self.config.id, completion.cid, completion.status.0
        );
        let Issued { operation, tag, .. } = issued;
        Some((tag, operation, quiet::completed()))
    }

    /// Whether an entry can be about this pair's queues.
    #[inline(always)]
    fn fits(&self, completion: &Completion) -> bool {
        completion.sqid == self.config.id && completion.sqhd < self.config.depth
    }

    /// The next operation that ended. `windows` finds client memory for data that was bounced.
    /// After the last one of a pass, [`finish_poll`](Self::finish_poll).
    pub fn next_done(&mut self, windows: &mut dyn FnMut(Tag, &DmaRange) -> Option<Window>) -> Option<Done> {
        if !self.ended.is_empty() || self.state != State::Running {
            return self.ended.pop();
        }
        // A controller that fills the queue with strays as fast as they are taken is not listened to for ever.
        for _ in 0..self.config.depth {
            let completion = self.cq.pop()?;
            if let Some(issued) = self.matching(&completion) {
                trace!(
                    "pair {}: command {:#06x} status {:#06x}",
                    self.config.id, completion.cid, completion.status.0
                );
                return Some(self.end(issued, completion.status, windows));
            }
        }
        None
    }

    /// The command that a completion is about. Nothing that the controller says here is believed: an entry that does
    /// not fit is counted and dropped.
    fn matching(&mut self, completion: &Completion) -> Option<Issued> {
        if completion.status.code() == Status::SQ_DELETED {
            // The queue is being deleted: its commands end, or are issued again, when that is proven.
            return None;
        }
        let issued = if self.fits(completion) { self.flight.take(completion.cid) } else { None };
        if issued.is_none() {
            self.stray(completion);
        }
        issued
    }

    #[cold]
    fn stray(&mut self, completion: &Completion) {
        self.counters.strays += 1;
        if self.counters.strays.is_power_of_two() {
            warn!(
                "controller {} pair {}: dropped {} completions without a command, the last one for {:#06x}",
                self.config.controller, self.config.id, self.counters.strays, completion.cid
            );
        }
    }

    fn end(
        &mut self,
        issued: Issued,
        status: Status,
        windows: &mut dyn FnMut(Tag, &DmaRange) -> Option<Window>,
    ) -> Done {
        let Issued { operation, tag, bounce, .. } = issued;
        let outcome = match bounce {
            None if status.ok() => Outcome::Done,
            None => self.failed(&operation, status),
            Some(chunk) => self.end_bounced(chunk, &operation, tag, status, windows),
        };
        Done { tag, operation, outcome, quiet: quiet::completed() }
    }

    /// Copies what a read brought, and lets go of the chunk.
    #[cold]
    fn end_bounced(
        &mut self,
        chunk: u16,
        operation: &Operation,
        tag: Tag,
        status: Status,
        windows: &mut dyn FnMut(Tag, &DmaRange) -> Option<Window>,
    ) -> Outcome {
        let mut outcome = if status.ok() { Outcome::Done } else { self.failed(operation, status) };
        if let (Operation::Read(transfer), Outcome::Done) = (operation, outcome)
            && self.bounce.scatter(chunk, transfer.memory(), &mut |range| windows(tag, range)).is_err()
        {
            outcome = Outcome::Failed;
        }
        self.bounce.put(chunk);
        outcome
    }

    #[cold]
    fn failed(&mut self, operation: &Operation, status: Status) -> Outcome {
        self.counters.errors += 1;
        if self.counters.errors.is_power_of_two() {
            let what = match operation {
                Operation::Read(_) => "read",
                Operation::Write { .. } => "write",
                Operation::Flush { .. } => "flush",
                Operation::Discard { .. } => "discard",
                Operation::WriteZeroes { .. } => "write-zeroes",
            };
            warn!(
                "controller {} pair {}: a {what} failed with status {:#06x} (error {})",
                self.config.controller, self.config.id, status.0, self.counters.errors
            );
        }
        if status.code() == Status::INVALID_OPCODE { Outcome::Unsupported } else { Outcome::Failed }
    }

    /// Rings the completion queue's doorbell, when anything was taken.
    #[inline]
    pub fn finish_poll(&mut self) {
        if self.state == State::Running
            && let Some(head) = self.cq.take_head()
        {
            self.doorbells.completion_head(head);
        }
    }
}
