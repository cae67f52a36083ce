//! What a virtqueue does is counted, and requests that took long are remembered.

use alloc::sync::Arc;

use nvme_platform::Time;

use super::BlkQueue;
use super::counts::Counts;
use super::laggards::{Laggard, Laggards};
use super::request::Tag;
use super::tally::{Long, Stamp};
use crate::operation::Outcome;

impl BlkQueue {
    /// From now on what it does is counted there.
    pub fn set_counts(&mut self, counts: Arc<Counts>) {
        self.tally.resume(&counts);
        self.counts = counts;
    }

    /// From now on requests that take long are remembered there, as those of virtqueue `queue` of a session.
    pub fn set_laggards(&mut self, laggards: Arc<Laggards>, session: u64, queue: u16) {
        self.laggards = Some((laggards, session, queue));
    }

    /// A limit held it back for so many nanoseconds, until now.
    pub fn was_held(&mut self, nanos: u64) {
        self.counts.held(nanos);
        self.tally.was_held(nanos);
    }

    /// Something is taken from it at this time, though limits bound it.
    pub fn goes_on(&mut self, now: Time) {
        self.tally.goes_on(now);
    }

    /// A part of a request was submitted at this time.
    pub fn submitted(&mut self, tag: Tag, now: Time) {
        if tag.queue() == self.tag {
            self.flights.submitted(tag, now);
        }
    }

    /// Where what it does is counted.
    #[inline]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Requests are taken at that time from now on.
    #[inline]
    pub fn set_time(&mut self, now: Time) {
        self.tally.set_time(now);
    }

    /// What was taken and answered shows from now on. `now`: the driver knows of all that was published.
    #[inline]
    pub fn settle(&mut self, now: Time) {
        self.tally.settle(now, &self.counts);
        if self.tally.has_long() {
            self.settle_long(now);
        }
        self.show();
    }

    /// What was taken shows from now on.
    #[inline]
    pub fn show(&self) {
        self.tally.show(self.flights.count(), &self.counts);
    }

    /// Bytes that were ever offered to the driver, and not put back; a write-zeroes counts as what it sets. What is counted from one look to the
    /// next is what was begun between them.
    pub fn bytes_begun(&self) -> u64 {
        let waits = self.ready.iter().map(|request| request.operation().burden()).fold(0, u64::wrapping_add);
        self.tally.bytes().wrapping_sub(waits)
    }

    /// A request has ended that does not belong to the run of those before: it is the first of another one, or took long.
    #[cold]
    #[inline(never)]
    pub(super) fn ended_otherwise(
        &mut self,
        tag: Tag,
        stamp: Stamp,
        outcome: Outcome,
        bytes: u64,
        now: Time,
    ) {
        let course = self.flights.course(tag);
        let bytes = course.bytes.saturating_add(bytes);
        if !self.tally.is_long(stamp, now) {
            return self.tally.begins(stamp, bytes, now, &self.counts);
        }
        let submitted = course.submitted.unwrap_or(stamp.taken());
        let long = Long { stamp, many: 1, bytes, outcome, submitted, completed: Some(now), counted: false };
        if let Err(long) = self.tally.took_long(long) {
            self.took_long(long, now);
        }
    }

    /// The drivers of requests that took long know of them.
    #[cold]
    #[inline(never)]
    fn settle_long(&mut self, now: Time) {
        while let Some(long) = self.tally.take_long() {
            self.took_long(long, now);
        }
    }

    fn took_long(&self, long: Long, used: Time) {
        let Long { stamp, many, bytes, outcome, submitted, completed, counted } = long;
        let taken = stamp.taken();
        if !counted {
            self.counts.count(stamp.asked(), many, used.as_nanos().saturating_sub(taken.as_nanos()));
        }
        let Some((laggards, session, queue)) = &self.laggards else { return };
        laggards.remember(&Laggard {
            session: *session,
            queue: *queue,
            asked: stamp.asked(),
            outcome,
            bytes,
            together: u32::try_from(many).unwrap_or(u32::MAX),
            held: self.tally.held_before(stamp),
            taken,
            submitted,
            completed: completed.unwrap_or(used),
            used,
        });
    }
}
