//! Proof that the controller is done with memory. This module is the only place that calls `Quiet::seen`.
//!
//! A command is quiet when its own completion was seen, or when its whole queue pair is: the submission queue was
//! deleted, a controller reset was seen to finish, or the device was cut off. The latter three are statements about
//! *generations*: each time a pair is created it gets a higher number, and what was proven covers the generations
//! that existed then, never a pair that was created later.

use nvme_platform::CutOff;
use nvme_session::memory::{Quiet, QuietBy};

/// Which creation of a queue pair: unique and rising within one controller.
pub(super) type Generation = u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Covers {
    /// The queues of one identifier up to a generation: an earlier one was quiet before its successor was created.
    Pair { id: u16, last: Generation },
    /// All that were created before this generation.
    Before(Generation),
}

/// Proof that queues are over. Having this value tells you that the controller does no more DMA for the commands of one queue pair, or of all
/// that existed when it was made. It tells you nothing of a pair that was created later, under whatever identifier.
///
/// A fact of the past, so it may be kept and shown several times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueQuiet {
    controller: u16,
    by: QuietBy,
    covers: Covers,
}

impl QueueQuiet {
    /// The controller said that it deleted the submission queue of this generation (NVM Express Base 2.0, 5.7: the
    /// completion is posted when no command of that queue is being worked on any more).
    pub(super) fn deleted(controller: u16, id: u16, last: Generation) -> Self {
        Self { controller, by: QuietBy::QueueDeleted, covers: Covers::Pair { id, last } }
    }

    /// A reset was seen to finish: CSTS.RDY was read as zero after CC.EN was cleared (3.7.2). `next` is the
    /// generation that the next pair would get.
    pub(super) fn reset(controller: u16, next: Generation) -> Self {
        Self { controller, by: QuietBy::ResetFinished, covers: Covers::Before(next) }
    }

    /// The home cut the device off.
    pub(super) fn cut_off(controller: u16, next: Generation, _: CutOff) -> Self {
        Self { controller, by: QuietBy::CutOff, covers: Covers::Before(next) }
    }

    /// What was seen.
    pub fn by(&self) -> QuietBy {
        self.by
    }

    /// Whether the pair of that generation is quiet.
    pub(super) fn covers(&self, controller: u16, id: u16, generation: Generation) -> bool {
        self.controller == controller
            && match self.covers {
                Covers::Pair { id: own, last } => own == id && generation <= last,
                Covers::Before(next) => generation < next,
            }
    }

    /// The proof for the pair of that generation; `None` when it is not covered.
    pub(super) fn pair(&self, controller: u16, id: u16, generation: Generation) -> Option<PairQuiet> {
        self.covers(controller, id, generation).then_some(PairQuiet(self.by))
    }
}

/// Proof for all commands of one pair, of the generation that it was made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct PairQuiet(QuietBy);

impl PairQuiet {
    /// For one of them.
    #[expect(clippy::disallowed_methods, reason = "this is the module that sees it")]
    pub(super) fn command(&self) -> Quiet {
        Quiet::seen(self.0)
    }
}

/// The command's completion was taken from the completion queue.
#[expect(clippy::disallowed_methods, reason = "this is the module that sees it")]
#[inline]
pub(super) fn completed() -> Quiet {
    Quiet::seen(QuietBy::Completed)
}

/// The command was never written to a submission queue.
#[expect(clippy::disallowed_methods, reason = "this is the module that sees it")]
#[inline]
pub(super) fn never_submitted() -> Quiet {
    Quiet::seen(QuietBy::NeverSubmitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_queue_says_nothing_about_its_successor_or_neighbour() {
        let quiet = QueueQuiet::deleted(0, 2, 7);
        assert!(quiet.pair(0, 2, 7).is_some() && quiet.pair(0, 2, 3).is_some());
        assert!(
            quiet.pair(0, 2, 8).is_none() && quiet.pair(0, 3, 7).is_none() && quiet.pair(1, 2, 7).is_none()
        );
    }

    #[test]
    fn a_reset_covers_what_was_there_and_no_other_controller() {
        let quiet = QueueQuiet::reset(3, 8);
        assert!(quiet.pair(3, 1, 7).is_some() && quiet.pair(3, 9, 0).is_some());
        assert!(quiet.pair(3, 1, 8).is_none() && quiet.pair(4, 1, 7).is_none());
    }
}
