//! How requests end: memory is released with the proof that it is quiet, and the request is answered when the last of its operations has
//! ended.

use nvme_platform::{Time, warn};

use super::flight::Left;
use super::{BlkQueue, Ended, EndedOne, QueueTag, Request, Tag};
use crate::blk::request::Status;
use crate::memory::{DmaRange, Lists, Pinned, Quiet, Ranges, Spares};
use crate::operation::{Operation, Outcome, Part};

/// A virtqueue whose requests end, by the fast way.
pub struct Completing<'q> {
    queue: &'q mut BlkQueue,
    /// Its own.
    tag: QueueTag,
}

impl Completing<'_> {
    /// Whose requests they are.
    #[inline(always)]
    pub fn tag(&self) -> QueueTag {
        self.tag
    }

    /// As [`BlkQueue::complete_at`], for what was done to one range of memory: that has nothing to follow it.
    #[inline(always)]
    pub fn one(&mut self, ended: EndedOne, now: Time) {
        let Self { queue, tag: own } = self;
        if ended.tag.queue() != *own {
            return self.foreign(ended);
        }
        let EndedOne { tag, range, quiet } = ended;
        let bytes = range.len();
        queue.release_one(range, &quiet);
        let Some((status, data, stamp)) = queue.flights.end_well(tag) else {
            return queue.part_of_one_ended(tag, bytes, now);
        };
        if !queue.tally.joins(stamp) {
            queue.ended_otherwise(tag, stamp, Outcome::Done, bytes.into(), now);
        }
        queue.keep_after(tag);
        queue.answer(tag.head(), status, Status::Ok, data);
    }

    /// The same for another virtqueue's, which was in this one's place before.
    #[cold]
    #[inline(never)]
    pub fn foreign(&mut self, ended: EndedOne) {
        self.queue.release_one(ended.range, &ended.quiet);
        self.queue.stray();
    }
}

impl BlkQueue {
    /// Takes back what has ended. When it was the request's last part, the request is answered, or its follow-up is
    /// returned, to be submitted (or [`put_back`](Self::put_back)). What this queue does not wait for is counted and
    /// dropped: another queue's, or an earlier request's with the same head.
    pub fn complete(&mut self, ended: Ended, spares: &mut Spares) -> Option<Request> {
        self.complete_at(ended, Time::default(), spares)
    }

    /// The same, at a time: that of the pass, which counts where the driver is told with the next one.
    #[inline(always)]
    pub fn complete_at(&mut self, ended: Ended, now: Time, spares: &mut Spares) -> Option<Request> {
        let Ended { request, outcome, quiet } = ended;
        let (tag, operation) = request.into_parts();
        let bytes = match &operation {
            Operation::Discard { place, .. } => place.bytes(),
            other => other.burden(),
        };
        match operation {
            Operation::Read(transfer) | Operation::Write { transfer, .. } => {
                let (_, memory) = transfer.into_parts();
                self.release(memory, &quiet, &mut spares.lists);
            }
            // Only what is used of them is moved: the operation itself stays where it is.
            Operation::ReadPart(part) | Operation::WritePart { part, .. } => {
                self.release_part(part, &quiet, &mut spares.lists);
            }
            Operation::Flush { .. } | Operation::Discard { .. } | Operation::WriteZeroes { .. } => {}
        }
        self.part_ended(tag, outcome, bytes, now)
    }

    /// The fast way of [`complete`](Self::complete), for any number of requests that were done.
    #[inline(always)]
    pub fn completing(&mut self) -> Completing<'_> {
        Completing { tag: self.tag, queue: self }
    }

    #[cold]
    #[inline(never)]
    fn part_of_one_ended(&mut self, tag: Tag, bytes: u32, now: Time) {
        if let Some(next) = self.part_ended(tag, Outcome::Done, bytes.into(), now) {
            debug_assert!(false, "a transfer is followed by nothing");
            self.put_back(next);
        }
    }

    /// One of a request's operations has ended, which was of so many bytes, and its memory was released.
    fn part_ended(&mut self, tag: Tag, outcome: Outcome, bytes: u64, now: Time) -> Option<Request> {
        if tag.queue() != self.tag {
            self.stray();
            return None;
        }
        match self.flights.end(tag, outcome, bytes) {
            Left::Others => None,
            Left::Answer(Outcome::Failed, status, ..) if self.left && self.keeps() => {
                // Others may be answered before it.
                self.keep_order(1);
                self.account.unpin(status);
                None
            }
            Left::Answer(outcome, status, data, stamp) => {
                if !self.tally.joins(stamp) {
                    self.ended_otherwise(tag, stamp, outcome, bytes, now);
                }
                let data = if outcome == Outcome::Done {
                    data
                } else {
                    self.counts.refused(stamp.asked(), outcome == Outcome::Unsupported);
                    0
                };
                self.keep_after(tag);
                self.answer(tag.head(), status, outcome.into(), data);
                None
            }
            Left::Flush => self.flush_after(tag),
            Left::Stray => {
                self.stray();
                None
            }
        }
    }

    #[cold]
    fn flush_after(&mut self, tag: Tag) -> Option<Request> {
        match self.config.grant.write_permit() {
            Ok(permit) => Some(Request::new(tag, Operation::Flush { permit })),
            // A discard had a permit, so this is never reached; failing is what is left.
            Err(_) => {
                if let Left::Answer(_, status, _, stamp) = self.flights.end(tag, Outcome::Failed, 0) {
                    self.counts.refused(stamp.asked(), false);
                    self.keep_after(tag);
                    self.answer(tag.head(), status, Status::IoErr, 0);
                }
                None
            }
        }
    }

    #[cold]
    pub(super) fn stray(&mut self) {
        self.strays = self.strays.saturating_add(1);
        if self.strays.is_power_of_two() {
            warn!(
                "virtqueue {} ({}): dropped {} answers that it did not wait for",
                self.tag.token(),
                self.tag.life(),
                self.strays
            );
        }
    }

    /// How often something came back that this queue did not wait for, or memory that is another queue's.
    pub fn strays(&self) -> u64 {
        self.strays.saturating_add(self.account.refused())
    }

    /// Ends whatever [`next`](Self::next) would still have offered of requests in flight: it was never submitted, and
    /// fails. For a queue whose device is gone or whose session ends.
    pub fn cancel(&mut self, spares: &mut Spares) {
        while let Some(request) = self.ready.pop_front() {
            // A failed request has no follow-up.
            self.complete(request.end(Outcome::Failed, Quiet::never_submitted()), spares);
        }
    }

    #[inline(always)]
    pub(super) fn answer(&mut self, head: u16, at: Pinned, status: Status, data: u32) {
        self.account.write_pinned(at, status as u8);
        if self.broken.is_none() {
            // `data` left room for the status byte: it is less than `u32::MAX`, see `Flow`.
            self.ring.give(head, data.wrapping_add(1));
        }
    }

    #[cold]
    #[inline(never)]
    fn release_part(&mut self, part: Part, quiet: &Quiet, lists: &mut Lists) {
        self.release(part.into_memory(), quiet, lists);
    }

    #[inline(always)]
    fn release_one(&mut self, range: DmaRange, quiet: &Quiet) {
        // One of another queue's is counted there and held for ever: nothing proves more about it.
        drop(self.account.release(range, quiet));
    }

    #[inline(always)]
    pub(super) fn release(&mut self, memory: Ranges, quiet: &Quiet, lists: &mut Lists) {
        match memory {
            Ranges::One(range) => self.release_one(range, quiet),
            Ranges::Many(mut memory) => {
                self.account.release_all(&mut memory, quiet);
                lists.give(memory);
            }
        }
    }
}
