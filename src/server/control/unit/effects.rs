//! What the recovery wants of the controller and of its pairs. What concerns sessions is `Control`'s (`control/effects.rs`).

use nvme_platform::Time;
use nvme_session::queue::Tag;

use super::super::super::message::{StuckCommand, ToWorker};
use super::super::anomaly::Anomaly;
use super::super::outbox::Outbox;
use super::pairs::{Here, Place};
use super::{Effects, Fails, Input, Unit};
use crate::nvme::{Doorbells, QueueQuiet};

/// What became of a pair that ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Fate {
    /// Its commands fail; its worker hands that out.
    Failed,
    /// Nothing proves it quiet: it is kept for ever, with what is in flight.
    Kept,
}

impl Unit {
    /// Something happened: what is to be done now?
    pub(in super::super) fn recover(&mut self, input: Input, now: Time, out: &mut Outbox) -> Effects {
        let step = self.recovery.step();
        let effects = self.recovery.on(input, now);
        if effects.has_anomaly() {
            out.anomaly(Anomaly::Recovery(self.index(), step.word(), input.word()));
        }
        effects
    }

    /// The controller needs a reset.
    pub(in super::super) fn reset_needed(&self) -> Input {
        Input::ResetNeeded { away: self.pairs.away() }
    }

    /// A reset finished: all pairs that are here are quiet.
    pub(in super::super) fn was_reset(&mut self, quiet: QueueQuiet) -> Input {
        self.pairs.all_quiet(quiet);
        Input::Reset { next: self.next_but(None) }
    }

    /// The queues of a pair exist again.
    pub(in super::super) fn was_recreated(&mut self, queue: u16, doorbells: Doorbells) -> Input {
        if let Some(here) = self.pairs.here_mut(queue) {
            here.doorbells = Some(doorbells);
        }
        Input::Recreated { queue, next: self.next_but(Some(queue)) }
    }

    /// The queues of a pair cannot be made again.
    pub(in super::super) fn not_recreated(&self, queue: u16) -> Input {
        Input::NotRecreated { queue, next: self.next_but(Some(queue)) }
    }

    /// Of the pairs that are here, the next one, but for this one.
    fn next_but(&self, queue: Option<u16>) -> Option<u16> {
        self.pairs.here().rfind(|here| Some(*here) != queue)
    }

    /// The pairs that are here, but for those on their way out.
    pub(in super::super) fn pairs_here(&self) -> alloc::vec::Vec<u16> {
        self.pairs.here().collect()
    }

    pub(in super::super) fn abort(&mut self, command: StuckCommand) {
        let StuckCommand { pair, cid, .. } = command;
        nvme_platform::warn!(
            "controller {}: command {:#06x} on queue pair {} is late; aborting it",
            pair.controller,
            cid,
            pair.queue
        );
        self.controller.abort(pair.queue, cid);
    }

    /// Is the command still in flight? Of a pair that is none any more, it is not.
    pub(in super::super) fn ask(&mut self, command: StuckCommand, out: &mut Outbox) -> Option<Input> {
        let Some(pair) = self.pairs.get(command.pair.queue) else {
            return Some(Input::Stuck(command, false));
        };
        out.tell(pair.worker, ToWorker::IsStuck(command));
        None
    }

    /// An abort did not help.
    pub(in super::super) fn take(&mut self, queue: u16, out: &mut Outbox) -> Option<Input> {
        let id = self.id(queue);
        let away = self.pairs.away();
        nvme_platform::warn!(
            "controller {}: the abort did not help; deleting queue pair {queue}",
            id.controller
        );
        match self.pairs.get_mut(queue) {
            Some(pair) if matches!(pair.place, Place::Worker) => {
                pair.place = Place::Asked;
                out.tell(pair.worker, ToWorker::TakePair(id));
                None
            }
            // On its way out: it comes.
            Some(pair) if matches!(pair.place, Place::Asked) => None,
            _ => Some(Input::Left { queue, away }),
        }
    }

    pub(in super::super) fn take_all(&mut self, out: &mut Outbox) {
        for (queue, worker) in self.pairs.ask_for_all() {
            out.tell(worker, ToWorker::TakePair(self.id(queue)));
        }
    }

    pub(in super::super) fn delete(&mut self, queue: u16) -> Option<Input> {
        match self.controller.delete_pair(queue) {
            Ok(()) => None,
            Err(_) => Some(self.reset_needed()),
        }
    }

    pub(in super::super) fn recreate(&mut self, queue: u16, out: &mut Outbox) -> Option<Input> {
        let id = self.id(queue);
        let Some(here) = self.pairs.here_mut(queue) else {
            out.anomaly(Anomaly::Misplaced(id));
            return Some(self.not_recreated(queue));
        };
        here.doorbells = None;
        let Err(why) = self.controller.recreate_pair(&mut here.pair) else { return None };
        nvme_platform::error!("controller {}: queue pair {queue}: {why}", id.controller);
        Some(self.not_recreated(queue))
    }

    /// The pair goes on. Something else becomes of it when it cannot.
    pub(in super::super) fn restart(&mut self, queue: u16, fails: Fails, out: &mut Outbox) -> Option<Fate> {
        let id = self.id(queue);
        let Some(here) = self.pairs.here_mut(queue) else {
            out.anomaly(Anomaly::Misplaced(id));
            return None;
        };
        let fail = &mut |tag: Tag| match fails {
            Fails::None => false,
            Fails::Of(token) => tag.queue() == token,
            Fails::All => true,
        };
        let restarted = match (here.quiet, here.doorbells.take()) {
            (Some(quiet), Some(doorbells)) => here.pair.restart(quiet, doorbells, fail).is_ok(),
            _ => false,
        };
        if !restarted {
            return self.drop_pair(queue, out);
        }
        self.give(queue, out);
        None
    }

    /// The commands of a pair whose queues were quiet and cannot be made again fail.
    pub(in super::super) fn drop_pair(&mut self, queue: u16, out: &mut Outbox) -> Option<Fate> {
        let quiet = self.pairs.here_mut(queue).and_then(|here| here.quiet);
        self.fail_pair(queue, quiet, out)
    }

    /// The pair of a lost device ends.
    pub(in super::super) fn end_pair(&mut self, queue: u16, out: &mut Outbox) -> Option<Fate> {
        self.fail_pair(queue, self.quiet, out)
    }

    fn fail_pair(&mut self, queue: u16, quiet: Option<QueueQuiet>, out: &mut Outbox) -> Option<Fate> {
        let id = self.id(queue);
        let Some(Here { mut pair, .. }) = self.pairs.take_here(queue) else {
            out.anomaly(Anomaly::Misplaced(id));
            return None;
        };
        if quiet.is_none_or(|quiet| pair.fail_all(quiet).is_err()) {
            self.pairs.quarantine(pair);
            return Some(Fate::Kept);
        }
        if let Some(known) = self.pairs.get_mut(queue) {
            known.serving = false;
            // Nobody leaves one that nobody uses, and its number is needed.
            known.retiring |= known.users() == 0;
            known.place = Place::Here(Here { pair, quiet, doorbells: None });
        }
        // Its worker hands the failed requests to their drivers.
        self.give(queue, out);
        Some(Fate::Failed)
    }

    /// A pair that is here goes to its worker, or out.
    pub(in super::super) fn give(&mut self, queue: u16, out: &mut Outbox) {
        let id = self.id(queue);
        match (self.pairs.here_mut(queue).is_some(), self.pairs.get(queue)) {
            (true, Some(pair)) if pair.retiring => self.dismiss(queue),
            (true, Some(pair)) => {
                let worker = pair.worker;
                if let Some(here) = self.pairs.take_here(queue) {
                    out.tell(worker, ToWorker::AddPair(id, here.pair));
                }
            }
            _ => out.anomaly(Anomaly::Misplaced(id)),
        }
    }

    pub(in super::super) fn reset(&mut self) {
        nvme_platform::warn!("controller {}: resetting it", self.index());
        self.controller.reset();
    }
}
