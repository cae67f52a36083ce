//! Requests that were taken and not answered yet.

use core::fmt;
use core::num::NonZeroU32;

use nvme_platform::Time;

use super::request::{Tag, Take};
use super::tally::Stamp;
use crate::memory::Pinned;
use crate::operation::Outcome;

/// One request.
#[derive(Debug)]
struct Flight {
    /// Which use of the head.
    take: Take,
    status: Pinned,
    /// Bytes of data written to the chain when all went well.
    data: u32,
    stage: Stage,
    /// When it was taken, and what it asked for.
    stamp: Stamp,
}

// Little for each head: what is stored and looked at for each request.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Option<Flight>>() == 40);

/// How far a request is, in one word, so that the stage of most is seen by one look. Bits 15:0: operations that have not ended, at least
/// one; no more than a queue pair holds, and those that wait for it. Bits 17:16: the worst outcome of those that have. Bit 18: a flush follows
/// when all went well.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stage(NonZeroU32);

/// Of most requests: one operation, which answers it.
const LAST: Stage = Stage(NonZeroU32::MIN);

impl Stage {
    /// `parts` is at least one: a request of none would never be answered.
    fn new(parts: u16, outcome: Outcome, flush_after: bool) -> Self {
        let outcome = match outcome {
            Outcome::Done => 0,
            Outcome::Unsupported => 1,
            Outcome::Failed => 2,
        };
        let word = u32::from(parts) | outcome << 16 | u32::from(flush_after) << 18;
        NonZeroU32::new(word).map_or(LAST, Self)
    }

    fn parts(self) -> u16 {
        self.0.get() as u16
    }

    fn outcome(self) -> Outcome {
        match self.0.get() >> 16 & 3 {
            0 => Outcome::Done,
            1 => Outcome::Unsupported,
            _ => Outcome::Failed,
        }
    }

    fn flush_after(self) -> bool {
        self.0.get() >> 18 & 1 != 0
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} parts, {:?}, flush after: {}", self.parts(), self.outcome(), self.flush_after())
    }
}

/// What a request in flight comes to.
pub(super) struct Plan {
    /// Of how many operations it is.
    pub(super) parts: u16,
    /// Whether a flush follows when all went well.
    pub(super) flush_after: bool,
    /// Bytes of data written to the chain when all went well.
    pub(super) data: u32,
    /// When it was taken, and what it asks for.
    pub(super) stamp: Stamp,
}

/// What became of a request when one of its operations ended.
pub(super) enum Left {
    /// Others are under way.
    Others,
    /// All went well, and a flush has to follow.
    Flush,
    /// It can be answered: the outcome, where its status goes, how many bytes of data were written, and when it was taken.
    Answer(Outcome, Pinned, u32, Stamp),
    /// No such request is in flight.
    Stray,
}

/// What is known of a request that is not done by one operation at once, for those who ask why it took long.
#[derive(Clone, Copy, Default)]
pub(super) struct Course {
    /// Of which use of the head.
    take: Take,
    /// Bytes of its operations that have ended.
    pub(super) bytes: u64,
    /// When the last of its operations was submitted, if that was later than it was taken.
    pub(super) submitted: Option<Time>,
}

/// The requests in flight, by head.
pub(super) struct Flights {
    by_head: alloc::boxed::Box<[Option<Flight>]>,
    courses: alloc::boxed::Box<[Course]>,
    /// The next use of head 0: how many there were, and one, as a use has it.
    next: Take,
    /// How many of them have ended, and one.
    ended: u64,
    /// The last that has to have ended, with all before it, so that those that have are the first that were taken.
    latest: Take,
}

impl Flights {
    pub(super) fn new(size: u16) -> Self {
        let courses = alloc::vec![Course::default(); size.into()].into_boxed_slice();
        Self {
            by_head: (0..size).map(|_| None).collect(),
            courses,
            next: Take::new(0, 1),
            ended: 1,
            latest: Take::default(),
        }
    }

    /// How many requests there are.
    pub(super) fn count(&self) -> u32 {
        // Never more than there are heads.
        self.next.before().wrapping_sub(self.ended) as u32
    }

    /// Whether the head can be taken: it is not in flight. `None`: it is no descriptor of the queue.
    #[inline(always)]
    pub(super) fn is_free(&self, head: u16) -> Option<bool> {
        self.by_head.get(usize::from(head)).map(Option::is_none)
    }

    /// A request starts. The head is free. Answers which use of it this is.
    #[inline(always)]
    pub(super) fn start(&mut self, head: u16, plan: Plan, status: Pinned) -> Take {
        let take = self.next.of(head);
        if let Some(slot) = self.by_head.get_mut(usize::from(head)) {
            debug_assert!(slot.is_none(), "the head is free");
            let Plan { parts, flush_after, data, stamp } = plan;
            let stage = Stage::new(parts, Outcome::Done, flush_after);
            *slot = Some(Flight { take, status, data, stage, stamp });
            self.next.step();
        }
        take
    }

    /// This one has ended, and is answered.
    #[inline(always)]
    pub(super) fn is_answered(&mut self, take: Take) {
        self.latest = self.latest.max(take);
    }

    /// All that were taken are overtaken by one that is answered and never was in flight.
    pub(super) fn all_are_overtaken(&mut self) {
        self.latest = Take::new(0, self.next.before() - 1);
    }

    /// Whether those that were answered are the first that were taken: all up to the latest have ended, since as many have as there were.
    #[inline(always)]
    pub(super) fn are_in_order(&self) -> bool {
        self.ended > self.latest.before()
    }

    /// What is known of a request that is in flight, or was a moment ago.
    pub(super) fn course(&self, tag: Tag) -> Course {
        let course = self.courses.get(usize::from(tag.head())).copied().unwrap_or_default();
        if course.take == tag.take() { course } else { Course::default() }
    }

    fn course_mut(&mut self, tag: Tag) -> Option<&mut Course> {
        let course = self.courses.get_mut(usize::from(tag.head()))?;
        if course.take != tag.take() {
            *course = Course { take: tag.take(), ..Course::default() };
        }
        Some(course)
    }

    /// One of its operations, of so many bytes, has ended, and others have not.
    fn ended_of(&mut self, tag: Tag, bytes: u64) {
        if let Some(course) = self.course_mut(tag) {
            course.bytes = course.bytes.saturating_add(bytes);
        }
    }

    /// One of its operations was submitted, and it had not been taken just then.
    pub(super) fn submitted(&mut self, tag: Tag, now: Time) {
        let flight = self.by_head.get(usize::from(tag.head())).and_then(Option::as_ref);
        if flight.is_some_and(|flight| flight.take == tag.take() && flight.stamp.is_before(now))
            && let Some(course) = self.course_mut(tag)
        {
            course.submitted = Some(now);
        }
    }

    /// One of its operations was divided, so there is one more. False when there is no such request.
    pub(super) fn divide(&mut self, tag: Tag) -> bool {
        match self.by_head.get_mut(usize::from(tag.head())) {
            Some(Some(flight)) if flight.take == tag.take() => {
                let stage = flight.stage;
                let Some(parts) = stage.parts().checked_add(1) else { return false };
                flight.stage = Stage::new(parts, stage.outcome(), stage.flush_after());
                true
            }
            _ => false,
        }
    }

    /// Its last operation ended, and all went well, as it does with most: where its status goes, how many bytes of data were written, and when it was taken.
    /// `None`: anything else, for [`end`](Self::end).
    #[inline(always)]
    pub(super) fn end_well(&mut self, tag: Tag) -> Option<(Pinned, u32, Stamp)> {
        let slot = self.by_head.get_mut(usize::from(tag.head()))?;
        // Asked for by one comparison: where there is none, the stage's word is zero.
        if slot.as_ref().map_or(0, |flight| flight.stage.0.get()) != LAST.0.get() {
            return None;
        }
        if slot.as_ref().is_none_or(|flight| flight.take != tag.take()) {
            return None;
        }
        let Flight { status, data, stamp, .. } = slot.take()?;
        self.ended += 1;
        Some((status, data, stamp))
    }

    /// One of its operations ended, which was of so many bytes.
    pub(super) fn end(&mut self, tag: Tag, outcome: Outcome, bytes: u64) -> Left {
        let Some(slot) = self.by_head.get_mut(usize::from(tag.head())) else { return Left::Stray };
        let Some(Flight { take, stage, .. }) = slot else { return Left::Stray };
        if *take != tag.take() {
            return Left::Stray;
        }
        let (parts, outcome) = (stage.parts(), worse(stage.outcome(), outcome));
        if parts > 1 {
            *stage = Stage::new(parts - 1, outcome, stage.flush_after());
            self.ended_of(tag, bytes);
            return Left::Others;
        }
        if stage.flush_after() && outcome == Outcome::Done {
            *stage = LAST;
            self.ended_of(tag, bytes);
            return Left::Flush;
        }
        match slot.take() {
            Some(Flight { status, data, stamp, .. }) => {
                self.ended += 1;
                Left::Answer(outcome, status, data, stamp)
            }
            None => Left::Stray,
        }
    }
}

/// A failure outweighs what the device cannot do, and that outweighs success.
#[inline]
fn worse(a: Outcome, b: Outcome) -> Outcome {
    match (a, b) {
        (Outcome::Failed, _) | (_, Outcome::Failed) => Outcome::Failed,
        (Outcome::Unsupported, _) | (_, Outcome::Unsupported) => Outcome::Unsupported,
        (Outcome::Done, Outcome::Done) => Outcome::Done,
    }
}
