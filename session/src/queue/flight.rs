//! Requests that were taken and not answered yet.

use super::request::{Tag, Take};
use crate::memory::Pinned;
use crate::operation::Outcome;

/// One request.
#[derive(Debug)]
struct Flight {
    /// Which use of the head.
    take: Take,
    /// Operations that have not ended. At 0 the request is answered.
    parts: u32,
    /// The worst outcome of those that have.
    outcome: Outcome,
    /// Whether a flush follows when all went well.
    flush_after: bool,
    /// Bytes of data written to the chain when all went well.
    data: u32,
    status: Pinned,
}

/// What a request in flight comes to.
pub(super) struct Plan {
    /// Of how many operations it is.
    pub(super) parts: u32,
    /// Whether a flush follows when all went well.
    pub(super) flush_after: bool,
    /// Bytes of data written to the chain when all went well.
    pub(super) data: u32,
}

/// What became of a request when one of its operations ended.
pub(super) enum Left {
    /// Others are under way.
    Others,
    /// All went well, and a flush has to follow.
    Flush,
    /// It can be answered: the outcome, where its status goes, and how many bytes of data were written.
    Answer(Outcome, Pinned, u32),
    /// No such request is in flight.
    Stray,
}

/// The requests in flight, by head.
pub(super) struct Flights {
    by_head: alloc::boxed::Box<[Option<Flight>]>,
    count: u32,
    /// How many there were.
    before: u64,
}

impl Flights {
    pub(super) fn new(size: u16) -> Self {
        Self { by_head: (0..size).map(|_| None).collect(), count: 0, before: 0 }
    }

    /// How many requests there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Whether the head can be taken: it is a descriptor of the queue, and not in flight.
    #[inline]
    pub(super) fn is_free(&self, head: u16) -> bool {
        matches!(self.by_head.get(usize::from(head)), Some(None))
    }

    /// A request starts. The head is free. Answers which use of it this is.
    #[inline(always)]
    pub(super) fn start(&mut self, head: u16, plan: Plan, status: Pinned) -> Take {
        let take = Take::new(head, self.before);
        if let Some(slot) = self.by_head.get_mut(usize::from(head)) {
            debug_assert!(slot.is_none(), "the head is free");
            let Plan { parts, flush_after, data } = plan;
            *slot = Some(Flight { take, parts, outcome: Outcome::Done, flush_after, data, status });
            self.count += 1;
            self.before += 1;
        }
        take
    }

    /// One of its operations was divided, so there is one more. False when there is no such request.
    pub(super) fn divide(&mut self, tag: Tag) -> bool {
        match self.by_head.get_mut(usize::from(tag.head())) {
            Some(Some(flight)) if flight.take == tag.take() => {
                flight.parts = flight.parts.saturating_add(1);
                true
            }
            _ => false,
        }
    }

    /// One of its operations ended.
    #[inline(always)]
    pub(super) fn end(&mut self, tag: Tag, outcome: Outcome) -> Left {
        let Some(slot) = self.by_head.get_mut(usize::from(tag.head())) else { return Left::Stray };
        let Some(flight) = slot else { return Left::Stray };
        if flight.take != tag.take() {
            return Left::Stray;
        }
        if outcome != Outcome::Done {
            flight.outcome = worse(flight.outcome, outcome);
        }
        if flight.parts > 1 {
            flight.parts -= 1;
            return Left::Others;
        }
        if flight.flush_after && flight.outcome == Outcome::Done {
            flight.flush_after = false;
            return Left::Flush;
        }
        match slot.take() {
            Some(Flight { outcome, status, data, .. }) => {
                self.count -= 1;
                Left::Answer(outcome, status, data)
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
