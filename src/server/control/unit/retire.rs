//! How a queue pair goes: it is taken back from its worker, its queues are deleted, its memory and its identifier are free
//! again.
//!
//! That is done with a pair that is of no use any more, and with one that the control role needs for itself. A recovery does
//! not wait for such a pair, nor does it bring it back.

use alloc::boxed::Box;

use super::super::super::message::ToWorker;
use super::super::anomaly::Anomaly;
use super::super::outbox::Outbox;
use super::pairs::{Here, Place};
use super::{Input, Unit};
use crate::nvme::{QueuePair, QueueQuiet};

impl Unit {
    /// Begins to retire a pair that nobody uses.
    pub(super) fn retire(&mut self, queue: u16, out: &mut Outbox) {
        let id = self.id(queue);
        let Some(pair) = self.pairs.get_mut(queue) else { return out.anomaly(Anomaly::NoPair(id)) };
        if pair.retiring {
            return;
        }
        pair.serving = false;
        pair.retiring = true;
        // What was asked for comes back anyway; what is here goes when the recovery is done with it (`give`, `settle`).
        if let Place::Worker = pair.place {
            pair.place = Place::Asked;
            out.tell(pair.worker, ToWorker::TakePair(id));
        }
    }

    /// The control role needs the controller's only pair for itself, if nobody uses it.
    pub(super) fn retire_idle(&mut self, out: &mut Outbox) {
        if self.is_settling() {
            return;
        }
        let idle = self.pairs.serving().find(|(_, p)| p.users() == 0).map(|(queue, _)| queue);
        if let Some(queue) = idle {
            self.retire(queue, out);
        }
    }

    /// A worker handed a pair back, as it was asked to, or does not have it.
    pub(in super::super) fn handed_back(
        &mut self,
        queue: u16,
        pair: Option<Box<QueuePair>>,
        out: &mut Outbox,
    ) -> Input {
        let id = self.id(queue);
        let retiring = match (self.pairs.get_mut(queue), pair) {
            (Some(known), Some(pair)) => {
                known.place = Place::Here(Here { pair, quiet: None, doorbells: None });
                known.retiring
            }
            (Some(known), None) => {
                out.anomaly(Anomaly::NotWithWorker(id));
                // Of a pair that it was not asked for, that says nothing.
                if let Place::Asked = known.place {
                    known.serving = false;
                    known.place = Place::Nowhere;
                }
                return self.left(queue);
            }
            (None, pair) => {
                out.anomaly(Anomaly::NoPair(id));
                if let Some(pair) = pair {
                    self.pairs.quarantine(pair);
                }
                return self.left(queue);
            }
        };
        if retiring {
            self.dismiss(queue);
            return self.left(queue);
        }
        Input::Back { queue, away: self.pairs.away() }
    }

    fn left(&self, queue: u16) -> Input {
        Input::Left { queue, away: self.pairs.away() }
    }

    /// The queues of a pair are gone.
    pub(in super::super) fn was_deleted(&mut self, queue: u16, quiet: QueueQuiet) -> Input {
        let Some(pair) = self.pairs.get_mut(queue) else { return Input::Deleted(queue) };
        let retiring = pair.retiring;
        if let Place::Here(here) = &mut pair.place {
            here.quiet = Some(quiet);
            if retiring {
                self.release(queue);
                return self.left(queue);
            }
        }
        Input::Deleted(queue)
    }

    /// A pair that is to go is here: its queues are deleted, unless they are gone already.
    pub(super) fn dismiss(&mut self, queue: u16) {
        if !self.release(queue) {
            // If they cannot even be asked to go, a reset will take them, or the pair is kept.
            let _ = self.controller.delete_pair(queue);
        }
    }

    /// Gives the memory and the identifier of a pair back whose queues are gone. False: they are not.
    fn release(&mut self, queue: u16) -> bool {
        let Some(Here { pair, quiet, doorbells }) = self.pairs.take_here(queue) else { return false };
        match self.controller.retire_pair(pair) {
            Ok(()) => {
                self.pairs.remove(queue);
                true
            }
            Err(pair) => {
                if let Some(known) = self.pairs.get_mut(queue) {
                    known.place = Place::Here(Here { pair, quiet, doorbells });
                }
                false
            }
        }
    }

    /// After a reset or a cut-off all queues are gone: those that wait for that go.
    pub(in super::super) fn settle(&mut self) {
        for queue in self.pairs.retiring_here() {
            self.release(queue);
        }
    }
}
