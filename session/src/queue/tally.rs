//! A virtqueue's own side of its counts: requests of one kind that were taken and told together are one [`Run`], and are counted when the
//! next clock is read.

use nvme_platform::Time;

use super::counts::{Asked, Counts, KINDS};
use super::laggards::LONG;
use crate::operation::Outcome;

/// The bits of a stamp that are the kind. Those above are nanoseconds.
const KIND: u64 = 7;
const SLOTS: usize = KIND as usize + 1;
/// Most requests that took long and are told to a driver together, as far as they are counted by the clock behind that.
const LONG_MAX: usize = 16;
/// By how much less, in nanoseconds, than [`LONG`] a request has taken that may have taken as long when its driver is told.
const TELLING: u64 = LONG / 4;
const _: () = assert!(KINDS <= SLOTS);

/// When a request was taken, to eight nanoseconds, and what it asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp(u64);

impl Stamp {
    /// Of no request.
    const NONE: Self = Self(u64::MAX);
}

impl Stamp {
    /// When it was taken.
    pub(super) fn taken(self) -> Time {
        Time::from_nanos(self.0 & !KIND)
    }

    /// Whether it was taken earlier than in the pass of that time.
    pub(super) fn is_before(self, now: Time) -> bool {
        self.0 & !KIND < now.as_nanos() & !KIND
    }

    /// What it asked for.
    pub(super) fn asked(self) -> Asked {
        Asked::ALL.get((self.0 & KIND) as usize).copied().unwrap_or(Asked::Other)
    }
}

/// Requests of one kind that were taken together and have ended, and are not counted yet.
#[derive(Clone, Copy, Debug)]
struct Run {
    stamp: Stamp,
    many: u64,
    /// Of the first of them.
    bytes: u64,
    /// When that had ended.
    ended: Time,
}

impl Run {
    const NONE: Self = Self { stamp: Stamp::NONE, many: 0, bytes: 0, ended: Time::from_nanos(0) };
}

/// Requests that took long: one, or a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Long {
    pub(super) stamp: Stamp,
    /// How many.
    pub(super) many: u64,
    /// Of the first of them.
    pub(super) bytes: u64,
    pub(super) outcome: Outcome,
    pub(super) submitted: Time,
    /// When that was seen. `None`: when the driver was told, as far as is known.
    pub(super) completed: Option<Time>,
    /// Whether they are among the counts.
    pub(super) counted: bool,
}

/// A virtqueue's own side of it.
#[derive(Debug)]
pub(super) struct Tally {
    /// What the next requests are stamped with.
    now: u64,
    /// By the kind in their stamps.
    runs: [Run; SLOTS],
    /// Which of these are not empty.
    open: u8,
    /// Bytes of reads and of writes that were taken.
    bytes: [u64; 2],
    /// Bytes that were to be set to zero.
    zeroed: u64,
    /// For how long the queue was held back, and the time of the pass that took something then.
    held: (u64, u64),
    /// Requests that took long, and whose driver does not know of them yet.
    long: heapless::Vec<Long, LONG_MAX>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            now: 0,
            runs: [Run::NONE; SLOTS],
            open: 0,
            bytes: [0; 2],
            zeroed: 0,
            held: (0, 0),
            long: heapless::Vec::new(),
        }
    }
}

impl Tally {
    /// Requests are taken now.
    #[inline]
    pub(super) fn set_time(&mut self, now: Time) {
        self.now = now.as_nanos() & !KIND;
    }

    /// The stamp of a request that is taken.
    #[inline(always)]
    pub(super) fn stamp(&self, asked: Asked) -> Stamp {
        Stamp(self.now | asked as u64)
    }

    /// A read or write of so many bytes is taken.
    #[inline(always)]
    pub(super) fn began(&mut self, asked: Asked, bytes: u64) {
        if let Some(sum) = self.bytes.get_mut(usize::from(asked != Asked::Read)) {
            *sum = sum.wrapping_add(bytes);
        }
    }

    /// A write-zeroes of so many bytes is taken.
    pub(super) fn zeroes(&mut self, bytes: u64) {
        self.zeroed = self.zeroed.wrapping_add(bytes);
    }

    /// Bytes of all that was taken.
    pub(super) fn bytes(&self) -> u64 {
        let [read, written] = self.bytes;
        read.wrapping_add(written).wrapping_add(self.zeroed)
    }

    /// A request has ended. Whether it belongs to the run of its kind: one that does not is for [`begins`](Self::begins), or took long.
    #[inline(always)]
    pub(super) fn joins(&mut self, stamp: Stamp) -> bool {
        match self.runs.get_mut((stamp.0 & KIND) as usize) {
            Some(run) if run.stamp == stamp => {
                run.many += 1;
                true
            }
            _ => false,
        }
    }

    /// Whether a request that ends now took so long that it is remembered. Such ones are never a run, so that each of them is asked about.
    pub(super) fn is_long(&self, stamp: Stamp, now: Time) -> bool {
        let took = now.as_nanos().saturating_sub(stamp.taken().as_nanos());
        took.saturating_add(self.held_before(stamp)) >= LONG - TELLING
    }

    /// For how long the queue was held back right before that one was taken.
    pub(super) fn held_before(&self, stamp: Stamp) -> u64 {
        let (nanos, then) = self.held;
        if then == stamp.taken().as_nanos() { nanos } else { 0 }
    }

    /// The queue was held back for so long. What is taken next waited for it.
    pub(super) fn was_held(&mut self, nanos: u64) {
        self.held = (nanos, u64::MAX);
    }

    /// Something is taken at this time, after the queue was held back, if it was.
    pub(super) fn goes_on(&mut self, now: Time) {
        if let (_, then @ u64::MAX) = &mut self.held {
            *then = now.as_nanos() & !KIND;
        }
    }

    /// A request took long. It comes back when there is no room for it.
    pub(super) fn took_long(&mut self, long: Long) -> Result<(), Long> {
        self.long.push(long)
    }

    /// The next of those that took long, when their driver knows of them.
    pub(super) fn take_long(&mut self) -> Option<Long> {
        self.long.pop()
    }

    /// Whether there are any.
    #[inline(always)]
    pub(super) fn has_long(&self) -> bool {
        !self.long.is_empty()
    }

    /// The first of a run: the one before is counted.
    pub(super) fn begins(&mut self, stamp: Stamp, bytes: u64, now: Time, counts: &Counts) {
        let kind = (stamp.0 & KIND) as usize;
        self.open |= 1 << kind;
        if let Some(run) = self.runs.get_mut(kind) {
            let before = core::mem::replace(run, Run { stamp, many: 1, bytes, ended: now });
            self.count(before, now, counts);
        }
    }

    #[inline]
    fn count(&mut self, run: Run, now: Time, counts: &Counts) {
        if run.many > 0 {
            let nanos = now.as_nanos().saturating_sub(run.stamp.0 & !KIND);
            counts.count(run.stamp.asked(), run.many, nanos);
            if nanos >= LONG {
                self.run_was_long(run);
            }
        }
    }

    /// A run began to be long after it had ended, when its driver was told. It is one entry: more is not known of it.
    #[cold]
    #[inline(never)]
    fn run_was_long(&mut self, run: Run) {
        let Run { stamp, many, bytes, ended } = run;
        let (submitted, outcome) = (stamp.taken(), Outcome::Done);
        // In the pass that took it: a controller that runs on the worker did it there, and what that took is the drive's.
        let completed = stamp.is_before(ended).then_some(ended);
        // Where there is no room for it, others are told of as well.
        let _ = self.long.push(Long { stamp, many, bytes, outcome, submitted, completed, counted: true });
    }

    /// A request is answered as soon as it is taken.
    pub(super) fn at_once(asked: Asked, counts: &Counts) {
        counts.count(asked, 1, 0);
    }

    /// The driver knows of what has ended, and it is that late.
    #[inline]
    pub(super) fn settle(&mut self, now: Time, counts: &Counts) {
        while self.open != 0 {
            let kind = self.open.trailing_zeros() as usize;
            self.open &= self.open - 1;
            if let Some(run) = self.runs.get_mut(kind) {
                let run = core::mem::replace(run, Run::NONE);
                self.count(run, now, counts);
            }
        }
    }

    /// Shows what was taken, and that so many are in flight.
    #[inline]
    pub(super) fn show(&self, in_flight: u32, counts: &Counts) {
        let in_flight = in_flight.into();
        let [read, written] = self.bytes;
        counts.read.set(read);
        counts.written.set(written);
        counts.in_flight.set(in_flight);
        if in_flight > counts.depth_most.get() {
            counts.depth_most.set(in_flight);
        }
    }

    /// Goes on from what was counted.
    pub(super) fn resume(&mut self, counts: &Counts) {
        self.bytes = [counts.read.get(), counts.written.get()];
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    fn ended(tally: &mut Tally, stamp: Stamp, now: Time, counts: &Counts) {
        if !tally.joins(stamp) {
            tally.begins(stamp, 512, now, counts);
        }
    }

    #[test]
    fn what_took_long_is_no_run_and_time_that_it_was_held_back_is_part_of_it() {
        let mut tally = Tally::default();
        tally.set_time(at(8_000));
        let stamp = tally.stamp(Asked::Read);
        assert!(!tally.is_long(stamp, at(8_000 + LONG / 2)) && tally.is_long(stamp, at(8_000 + LONG)));
        tally.was_held(LONG / 2);
        assert_eq!(tally.held_before(stamp), 0, "it was taken before");
        tally.set_time(at(80_000));
        tally.goes_on(at(80_000));
        tally.goes_on(at(90_000));
        let stamp = tally.stamp(Asked::Write);
        assert_eq!(tally.held_before(stamp), LONG / 2);
        assert!(tally.is_long(stamp, at(80_000 + LONG / 2)));
    }

    #[test]
    fn requests_are_counted_by_kind_and_by_the_time_from_taken_to_told() {
        let (mut tally, counts) = (Tally::default(), Counts::default());
        tally.set_time(at(8_000));
        let (read, write) = (tally.stamp(Asked::Read), tally.stamp(Asked::Write));
        tally.set_time(at(16_000));
        let later = tally.stamp(Asked::Read);
        for stamp in [read, write, read, write, later] {
            ended(&mut tally, stamp, at(16_000), &counts);
        }
        tally.settle(at(24_000), &counts);
        // The first reads were counted when the other one ended, by the clock of its pass.
        let counted = counts.read();
        let filled = |asked| -> Vec<(usize, u64)> {
            let all = counted.of(asked).latency.into_iter().enumerate();
            all.filter(|(_, many)| *many > 0).collect()
        };
        assert_eq!(filled(Asked::Read), [(12, 3)], "8 µs lie between 2¹² and 2¹³ ns");
        assert_eq!(filled(Asked::Write), [(13, 2)]);
        assert_eq!(counted.of(Asked::Read).time, 3 * 8_000);
        assert_eq!(counted.of(Asked::Write).time, 2 * 16_000);
        assert_eq!((counted.requests(), counted.of(Asked::Flush).requests()), (5, 0));
        // Nothing is counted twice.
        tally.settle(at(99_000), &counts);
        assert_eq!(counts.read(), counted);
    }

    #[test]
    fn a_clock_that_goes_back_and_one_that_stands_still_count_as_no_time() {
        let (mut tally, counts) = (Tally::default(), Counts::default());
        tally.set_time(at(8_000));
        let stamp = tally.stamp(Asked::Flush);
        ended(&mut tally, stamp, at(0), &counts);
        tally.settle(at(0), &counts);
        assert_eq!((counts.read().of(Asked::Flush).latency[0], counts.read().of(Asked::Flush).time), (1, 0));
    }

    #[test]
    fn what_queues_did_adds_up_and_a_queue_that_starts_again_goes_on() {
        let (mut tally, counts) = (Tally::default(), Counts::default());
        tally.began(Asked::Read, 4096);
        tally.began(Asked::Write, 512);
        tally.show(3, &counts);
        tally.show(1, &counts);
        let mut again = Tally::default();
        again.resume(&counts);
        again.began(Asked::Read, 1);
        again.show(0, &counts);
        let mut sum = counts.read();
        sum.add(&counts.read());
        assert_eq!((sum.read_bytes, sum.written_bytes, sum.in_flight, sum.depth_most), (8194, 1024, 0, 3));
    }
}
