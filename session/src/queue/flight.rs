//! Requests that were taken and not answered yet.

use crate::memory::Pinned;
use crate::operation::Outcome;

/// One request.
#[derive(Debug)]
struct Flight {
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

/// What became of a request when one of its operations ended.
pub(super) enum Ended {
    /// Others are under way, or the head is not in flight.
    NotYet,
    /// All went well, and a flush has to follow.
    Flush,
    /// It can be answered: the outcome, where its status goes, and how many bytes of data were written.
    Answer(Outcome, Pinned, u32),
}

/// The requests in flight, by head.
pub(super) struct Flights {
    by_head: alloc::boxed::Box<[Option<Flight>]>,
    count: u32,
}

impl Flights {
    pub(super) fn new(size: u16) -> Self {
        Self { by_head: (0..size).map(|_| None).collect(), count: 0 }
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

    /// A request of `parts` operations starts. The head is free.
    #[inline]
    pub(super) fn start(&mut self, head: u16, parts: u32, flush_after: bool, data: u32, status: Pinned) {
        if let Some(slot) = self.by_head.get_mut(usize::from(head)) {
            debug_assert!(slot.is_none(), "the head is free");
            *slot = Some(Flight { parts, outcome: Outcome::Done, flush_after, data, status });
            self.count += 1;
        }
    }

    /// One of its operations was divided, so there is one more.
    pub(super) fn divide(&mut self, head: u16) {
        if let Some(Some(flight)) = self.by_head.get_mut(usize::from(head)) {
            flight.parts = flight.parts.saturating_add(1);
        }
    }

    /// One of its operations ended.
    #[inline]
    pub(super) fn end(&mut self, head: u16, outcome: Outcome) -> Ended {
        let Some(slot) = self.by_head.get_mut(usize::from(head)) else { return Ended::NotYet };
        let Some(flight) = slot else { return Ended::NotYet };
        if outcome != Outcome::Done {
            flight.outcome = worse(flight.outcome, outcome);
        }
        if flight.parts > 1 {
            flight.parts -= 1;
            return Ended::NotYet;
        }
        if flight.flush_after && flight.outcome == Outcome::Done {
            flight.flush_after = false;
            return Ended::Flush;
        }
        match slot.take() {
            Some(Flight { outcome, status, data, .. }) => {
                self.count -= 1;
                Ended::Answer(outcome, status, data)
            }
            None => Ended::NotYet,
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
