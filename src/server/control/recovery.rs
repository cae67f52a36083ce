//! A command does not end, or a controller is in trouble. One step after the other, each with a deadline:
//!
//! 1. *Abort* the command and give it some time to end (`late`).
//! 2. Take its queue pair back from the worker and *delete* its queues: all its commands are quiet then. Those of the
//!    virtqueue whose command was late fail; the others are issued again on the queues' successors.
//! 3. Take all pairs back and *reset* the controller. Again only the guilty fail, unless resets come too often.
//! 4. *Cut* the device *off*. Everything fails, and its sessions are lost.
//! 5. When not even that can be proven: *quarantine*. Memory and pairs are kept for ever, the sessions are closed.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::Time;
use nvme_session::operation::Tag;

use super::super::message::{PairId, StuckCommand, ToWorker};
use super::Control;
use crate::nvme::{QueuePair, QueueQuiet};

/// Resets within [`RecoveryTimes::window`] after which commands are not issued again but fail: one of them may be
/// what kills the controller.
const RESETS_WITH_MERCY: usize = 2;
/// Resets within the window after which the controller is given up.
const RESETS_MAX: usize = 6;

/// How long the steps of a recovery may take that are the server's own; the driver has deadlines for the rest.
#[derive(Clone, Copy, Debug)]
pub struct RecoveryTimes {
    /// From the answer to an abort until the command must have ended.
    pub grace: Duration,
    /// In what time resets are counted.
    pub window: Duration,
}

impl Default for RecoveryTimes {
    fn default() -> Self {
        Self { grace: Duration::from_secs(2), window: Duration::from_secs(120) }
    }
}

/// A pair that was handed back.
pub(super) type Taken = (PairId, Box<QueuePair>);

pub(super) enum Step {
    Idle,
    /// Abort was sent.
    Aborting(StuckCommand),
    /// Abort was answered, and the command is still there. It has until then.
    Grace(StuckCommand, Time),
    /// The worker was asked whether the command is still there; if so, it has until then, or nothing is left but to
    /// take the pair back.
    Asking(StuckCommand, Option<Time>),
    /// The worker was asked whether a command that was reported late meanwhile is still there.
    Looking(StuckCommand),
    /// The worker was asked for the pair.
    Taking(StuckCommand),
    /// The queues are being deleted.
    Deleting(StuckCommand, Taken),
    /// The queues are being created again.
    Recreating(StuckCommand, Taken, QueueQuiet),
    /// All pairs are being taken back for a reset.
    Gathering {
        missing: Vec<PairId>,
        have: Vec<Taken>,
    },
    /// The reset is under way.
    Resetting(Vec<Taken>),
    /// After a reset, the first of these is being created again.
    Reviving(Vec<Taken>, QueueQuiet),
    /// The device is lost.
    Lost,
}

/// The recovery of one controller.
pub(super) struct Recovery {
    pub(super) step: Step,
    /// Commands that were reported late while something else was going on, with their virtqueues' tokens.
    pub(super) late: BTreeMap<(PairId, u16), u32>,
    /// The virtqueue (pair and token) whose commands fail when its pair restarts.
    guilty: Option<(PairId, u32)>,
    resets: Vec<Time>,
}

impl Recovery {
    fn new() -> Self {
        Self { step: Step::Idle, late: BTreeMap::new(), guilty: None, resets: Vec::new() }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match &self.step {
            Step::Grace(_, until) => Some(*until),
            _ => None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.step, Step::Idle)
    }

    /// Whether the controller takes no commands for now, but will.
    pub(super) fn is_passing(&self) -> bool {
        !matches!(self.step, Step::Idle | Step::Lost)
    }
}

impl Control {
    pub(super) fn recovery(&mut self, controller: u16) -> &mut Recovery {
        self.recoveries.entry(controller).or_insert_with(Recovery::new)
    }

    /// Takes the step out, to be put back changed.
    pub(super) fn step(&mut self, controller: u16) -> Step {
        core::mem::replace(&mut self.recovery(controller).step, Step::Idle)
    }

    /// Sends a message to the worker that has a pair. False when there is no such pair.
    pub(super) fn tell_pair(&mut self, pair: PairId, message: ToWorker) -> bool {
        let Some(worker) = self.pairs.get(&pair).map(|p| p.worker) else { return false };
        self.tell(worker, message);
        true
    }

    /// An abort did not help.
    pub(super) fn take_pair_back(&mut self, command: StuckCommand) {
        let controller = command.pair.controller;
        nvme_platform::warn!(
            "controller {controller}: the abort did not help; deleting queue pair {}",
            command.pair.queue
        );
        self.recovery(controller).step = Step::Taking(command);
        self.tell_pair(command.pair, ToWorker::TakePair(command.pair));
    }

    /// A pair came back from its worker.
    pub(super) fn recovery_took(&mut self, id: PairId, pair: Option<Box<QueuePair>>, now: Time) {
        let controller = id.controller;
        let Some(pair) = pair else { return self.recovery_has_none(id, now) };
        match self.step(controller) {
            Step::Taking(command) if command.pair == id => {
                self.recovery(controller).guilty = Some((id, command.token));
                self.recovery(controller).step = Step::Deleting(command, (id, pair));
                let unit = self.units.get_mut(usize::from(controller));
                let asked = unit.map(|unit| unit.controller_mut().delete_pair(id.queue));
                if !matches!(asked, Some(Ok(()))) {
                    self.reset_needed(controller, now);
                }
            }
            // It was made while the others were on their way back.
            Step::Resetting(mut have) => {
                have.push((id, pair));
                self.recovery(controller).step = Step::Resetting(have);
            }
            Step::Gathering { mut missing, mut have } => {
                missing.retain(|m| *m != id);
                have.push((id, pair));
                self.recovery(controller).step = Step::Gathering { missing, have };
                self.try_reset(controller, now);
            }
            // Nobody waits for it any more (the device was lost meanwhile): it goes with the others.
            Step::Lost => {
                self.end_pair(id, pair);
                self.recovery(controller).step = Step::Lost;
            }
            other => {
                self.recovery(controller).step = other;
                self.give_back((id, pair));
            }
        }
    }

    /// A worker has no such pair: nobody has, so nothing is to be waited for.
    fn recovery_has_none(&mut self, id: PairId, now: Time) {
        let controller = id.controller;
        match self.step(controller) {
            Step::Taking(command) if command.pair == id => self.recovered(controller),
            Step::Gathering { mut missing, have } => {
                missing.retain(|m| *m != id);
                self.recovery(controller).step = Step::Gathering { missing, have };
                self.try_reset(controller, now);
            }
            other => self.recovery(controller).step = other,
        }
    }

    /// A pair was made though a recovery is going on: then it does not go to its worker yet. Comes back otherwise.
    pub(super) fn recovery_keeps(&mut self, id: PairId, pair: Box<QueuePair>) -> Option<Box<QueuePair>> {
        match &mut self.recovery(id.controller).step {
            Step::Gathering { have, .. } | Step::Resetting(have) => {
                have.push((id, pair));
                None
            }
            // The last is the one that is being created again.
            Step::Reviving(rest, _) => {
                rest.insert(0, (id, pair));
                None
            }
            Step::Lost => {
                self.end_pair(id, pair);
                None
            }
            _ => Some(pair),
        }
    }

    pub(super) fn give_back(&mut self, (id, pair): Taken) {
        if let Some(worker) = self.pairs.get(&id).map(|p| p.worker) {
            self.tell(worker, ToWorker::AddPair(id, pair));
        }
    }

    /// The queues of a pair are deleted: make new ones.
    pub(super) fn pair_deleted(&mut self, controller: u16, queue: u16, quiet: QueueQuiet) {
        match self.step(controller) {
            Step::Deleting(command, mut taken) if taken.0.queue == queue => {
                let again = self.recreate(&mut taken);
                self.recovery(controller).step = Step::Recreating(command, taken, quiet);
                if !again {
                    self.pair_lost(controller, queue);
                }
            }
            other => self.recovery(controller).step = other,
        }
    }

    /// Asks for the queues of a pair once more; false when that cannot even be asked.
    fn recreate(&mut self, (id, pair): &mut Taken) -> bool {
        let unit = self.units.get_mut(usize::from(id.controller));
        let asked = unit.map(|unit| unit.controller_mut().recreate_pair(pair));
        if let Some(Err(why)) = asked {
            nvme_platform::error!("controller {}: queue pair {}: {why}", id.controller, id.queue);
        }
        matches!(asked, Some(Ok(())))
    }

    /// Whether some of what a pair holds was meant for a device that is another by now: then nothing of it is issued again.
    fn is_for_another(&self, pair: PairId) -> bool {
        self.sessions.values().any(|s| s.uses(pair) && s.is_lost())
    }

    /// The queues of a pair exist again: issue its commands again, but for those of the guilty.
    pub(super) fn pair_recreated(&mut self, controller: u16, queue: u16, doorbells: crate::nvme::Doorbells) {
        match self.step(controller) {
            Step::Recreating(command, (id, mut pair), quiet) if id.queue == queue => {
                self.recovery(controller).guilty = None;
                let mercy = !self.is_for_another(id);
                match pair.restart(quiet, doorbells, &mut |tag| !mercy || tag.queue == command.token) {
                    Ok(()) => self.give_back((id, pair)),
                    Err(_) => self.drop_pair(id, pair, quiet),
                }
                self.recovered(controller);
            }
            Step::Reviving(mut rest, quiet) if rest.last().is_some_and(|(id, _)| id.queue == queue) => {
                if let Some((id, mut pair)) = rest.pop() {
                    let recovery = self.recovery(controller);
                    let mercy = recovery.resets.len() <= RESETS_WITH_MERCY;
                    let guilty = recovery.guilty;
                    let mercy = mercy && !self.is_for_another(id);
                    let fails = &mut |tag: Tag| !mercy || guilty == Some((id, tag.queue));
                    match pair.restart(quiet, doorbells, fails) {
                        Ok(()) => self.give_back((id, pair)),
                        Err(_) => self.drop_pair(id, pair, quiet),
                    }
                }
                self.revive(controller, rest, quiet);
            }
            other => self.recovery(controller).step = other,
        }
    }

    /// The queues of a pair cannot be made again: its commands fail, and its sessions are lost.
    pub(super) fn pair_lost(&mut self, controller: u16, queue: u16) {
        match self.step(controller) {
            Step::Recreating(_, (id, pair), quiet) if id.queue == queue => {
                self.recovery(controller).guilty = None;
                self.drop_pair(id, pair, quiet);
                self.recovered(controller);
            }
            Step::Reviving(mut rest, quiet) if rest.last().is_some_and(|(id, _)| id.queue == queue) => {
                if let Some((id, pair)) = rest.pop() {
                    self.drop_pair(id, pair, quiet);
                }
                self.revive(controller, rest, quiet);
            }
            other => self.recovery(controller).step = other,
        }
    }

    fn drop_pair(&mut self, id: PairId, mut pair: Box<QueuePair>, quiet: QueueQuiet) {
        if let Some(state) = self.pairs.get_mut(&id) {
            state.serving = false;
        }
        if pair.fail_all(quiet).is_err() {
            self.keep_for_ever((id, pair));
            return;
        }
        // Back to its worker, which hands the failed requests to their drivers.
        self.give_back((id, pair));
        self.lose_sessions(|s| s.uses(id));
    }

    /// Only a reset helps: take all pairs back.
    pub(super) fn reset_needed(&mut self, controller: u16, now: Time) {
        let mut have = Vec::new();
        match self.step(controller) {
            Step::Deleting(_, taken) | Step::Recreating(_, taken, _) => have.push(taken),
            Step::Reviving(taken, _) | Step::Gathering { have: taken, .. } | Step::Resetting(taken) => {
                have = taken
            }
            Step::Lost => {
                self.recovery(controller).step = Step::Lost;
                return;
            }
            Step::Aborting(c) | Step::Grace(c, _) | Step::Asking(c, _) | Step::Taking(c) => {
                self.recovery(controller).guilty = Some((c.pair, c.token));
            }
            Step::Idle | Step::Looking(_) => {}
        }
        let missing = self.pairs_away(controller, &have);
        for id in &missing {
            self.tell_pair(*id, ToWorker::TakePair(*id));
        }
        self.recovery(controller).step = Step::Gathering { missing, have };
        self.try_reset(controller, now);
    }

    fn try_reset(&mut self, controller: u16, now: Time) {
        match self.step(controller) {
            Step::Gathering { missing, have } if missing.is_empty() => {
                let window = self.config.recovery.window;
                let recovery = self.recovery(controller);
                recovery.resets.retain(|then| now - *then < window);
                recovery.resets.push(now);
                let count = recovery.resets.len();
                recovery.step = Step::Resetting(have);
                if count > RESETS_MAX {
                    nvme_platform::error!(
                        "controller {controller}: {count} resets in short time; giving it up"
                    );
                    self.device_lost(controller, None);
                } else if let Some(unit) = self.units.get_mut(usize::from(controller)) {
                    nvme_platform::warn!("controller {controller}: resetting it");
                    unit.controller_mut().reset();
                }
            }
            other => self.recovery(controller).step = other,
        }
    }

    /// The reset finished: bring back one pair after the other.
    pub(super) fn reset_done(&mut self, controller: u16, quiet: QueueQuiet) {
        match self.step(controller) {
            Step::Resetting(have) => self.revive(controller, have, quiet),
            other => self.recovery(controller).step = other,
        }
    }

    fn revive(&mut self, controller: u16, mut rest: Vec<Taken>, quiet: QueueQuiet) {
        while let Some(taken) = rest.last_mut() {
            if self.recreate(taken) {
                self.recovery(controller).step = Step::Reviving(rest, quiet);
                return;
            }
            if let Some((id, pair)) = rest.pop() {
                self.drop_pair(id, pair, quiet);
            }
        }
        let recovery = self.recovery(controller);
        recovery.guilty = None;
        // All of them failed, or were issued again.
        recovery.late.clear();
        self.retire_held(controller);
        self.recovered(controller);
    }

    /// The pairs of a controller that are with their workers, and not on their way to be retired.
    fn pairs_away(&self, controller: u16, have: &[Taken]) -> Vec<PairId> {
        let held = |id: &PairId| have.iter().any(|(h, _)| h == id);
        let away = self.pairs.iter().filter(|(id, p)| id.controller == controller && p.retiring.is_none());
        away.map(|(id, _)| *id).filter(|id| !held(id)).collect()
    }

    /// The controller is gone, or of no use any more. Everything on it ends.
    pub(super) fn device_lost(&mut self, controller: u16, quiet: Option<QueueQuiet>) {
        let Some(unit) = self.units.get_mut(usize::from(controller)) else { return };
        let quiet = quiet.or_else(|| unit.controller_mut().cut_off().ok());
        unit.lose(quiet);
        let have = match self.step(controller) {
            Step::Deleting(_, taken) | Step::Recreating(_, taken, _) => alloc::vec![taken],
            Step::Reviving(taken, _) | Step::Gathering { have: taken, .. } | Step::Resetting(taken) => taken,
            Step::Lost
            | Step::Idle
            | Step::Aborting(_)
            | Step::Grace(..)
            | Step::Asking(..)
            | Step::Looking(_)
            | Step::Taking(_) => Vec::new(),
        };
        let away = self.pairs_away(controller, &have);
        for (_, state) in self.pairs.iter_mut().filter(|(id, _)| id.controller == controller) {
            state.serving = false;
        }
        let recovery = self.recovery(controller);
        recovery.step = Step::Lost;
        recovery.late.clear();
        for (id, pair) in have {
            self.end_pair(id, pair);
        }
        // The others follow when their workers hand them back (`recovery_took`).
        for id in away {
            self.tell_pair(id, ToWorker::TakePair(id));
        }
        self.lose_sessions(|s| s.controller() == controller);
        self.retire_held(controller);
        self.catalogue.remove_controller(controller);
        self.rescan_others(usize::from(controller));
        self.check_scanned();
    }

    /// Ends a pair of a lost device: with proof its commands fail; without, it is kept for ever.
    fn end_pair(&mut self, id: PairId, mut pair: Box<QueuePair>) {
        if let Some(state) = self.pairs.get_mut(&id) {
            state.serving = false;
        }
        let quiet = self.units.get(usize::from(id.controller)).and_then(super::Unit::quiet);
        if quiet.is_some_and(|quiet| pair.fail_all(quiet).is_ok()) {
            self.give_back((id, pair));
        } else {
            self.keep_for_ever((id, pair));
        }
    }

    /// Nothing proves the pair quiet: it is kept, with what is in flight, and its sessions are closed.
    fn keep_for_ever(&mut self, taken: Taken) {
        let id = taken.0;
        self.quarantined.push(taken);
        self.pairs.remove(&id);
        let users: Vec<_> = self.sessions.iter().filter(|(_, s)| s.uses(id)).map(|(key, _)| *key).collect();
        for key in users {
            self.quarantine(key);
        }
    }
}
