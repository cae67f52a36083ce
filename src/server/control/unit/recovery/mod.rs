//! The recovery of one controller, as a pure machine: [`Recovery::on`] takes what happened and says what is to be done.
//!
//! A command does not end, or the controller is in trouble. One step after the other, each with a deadline:
//!
//! 1. *Abort* the command and give it some time to end.
//! 2. Take its queue pair back from the worker and *delete* its queues: all its commands are quiet then. Those of the
//!    virtqueue whose command was late fail; the others are issued again on the queues' successors.
//! 3. Take all pairs back and *reset* the controller. Again only the guilty fail, unless resets come too often.
//! 4. *Cut* the device *off*. Everything fails, and its sessions are lost.
//! 5. When not even that can be proven: *quarantine*. Memory and pairs are kept for ever, the sessions are closed.
//!
//! One command at a time. What is reported late meanwhile waits, and is looked at again when the recovery is over: by then most
//! of it has ended, or was issued again under another identifier.
//!
//! The machine knows pairs by their numbers only. The pairs themselves, and the proofs that they are quiet, are the
//! unit's (`pairs`); what the machine needs to know of them comes with the input. So it can neither lose a pair nor
//! restart one without proof.
//!
//! `terms`: steps, inputs and effects. `tests`: the table of all transitions.

mod terms;

use alloc::collections::BTreeMap;
use core::time::Duration;

use nvme_platform::Time;
use nvme_session::queue::QueueTag;

pub(super) use self::terms::Step;
pub(in super::super) use self::terms::{Effect, Effects, Fails, Input};
use super::super::super::message::StuckCommand;

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
    /// How long a client waits for storage that hangs to let go of what it wants back, before its session is closed.
    pub quiet: Duration,
}

impl Default for RecoveryTimes {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(2),
            window: Duration::from_secs(120),
            quiet: Duration::from_secs(20),
        }
    }
}

/// The recovery of one controller.
#[derive(Clone)]
pub(in super::super) struct Recovery {
    times: RecoveryTimes,
    step: Step,
    /// Commands that were reported late while something else was going on, by pair and identifier: no more than the
    /// pairs can hold, for each is there once.
    late: BTreeMap<(u16, u16), StuckCommand>,
    /// The virtqueue (with its pair) whose commands fail when that restarts.
    guilty: Option<(u16, QueueTag)>,
    /// The resets within the window: when they began.
    resets: heapless::Vec<Time, { RESETS_MAX + 1 }>,
}

impl Recovery {
    pub(super) fn new(times: RecoveryTimes) -> Self {
        Self { times, step: Step::Idle, late: BTreeMap::new(), guilty: None, resets: heapless::Vec::new() }
    }

    pub(super) fn step(&self) -> Step {
        self.step
    }

    /// When it wants to hear [`Input::Tick`].
    pub(super) fn deadline(&self) -> Option<Time> {
        match self.step {
            Step::Grace(_, until) => Some(until),
            _ => None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.step == Step::Idle
    }

    /// Whether the controller takes no commands for now, but will.
    pub(super) fn is_settling(&self) -> bool {
        !matches!(self.step, Step::Idle | Step::Lost)
    }

    /// Something happened: what is to be done now?
    pub(in super::super) fn on(&mut self, input: Input, now: Time) -> Effects {
        match input {
            Input::Tick => self.tick(now),
            Input::Late(command) => self.reported(command),
            Input::Aborted { queue, cid } => self.aborted(queue, cid, now),
            Input::Stuck(command, stuck) => self.stuck(command, stuck),
            Input::Back { queue, away } => self.back(queue, away, now),
            Input::Left { queue, away } => self.left(queue, away, now),
            Input::Made(queue) => self.made(queue),
            Input::Deleted(queue) => self.deleted(queue),
            Input::Recreated { queue, next } => self.recreated(queue, next),
            Input::NotRecreated { queue, next } => self.not_recreated(queue, next),
            Input::ResetNeeded { away } => self.reset_needed(away, now),
            Input::Reset { next } => self.reset_done(next),
            Input::Lost => self.lost(Effect::Lose),
        }
    }

    fn go(&mut self, step: Step, effect: Effect) -> Effects {
        self.step = step;
        Effects::one(effect)
    }

    /// Nothing is the matter any more: goes on with the next command that was reported late.
    fn recovered(&mut self) -> Effects {
        self.guilty = None;
        self.step = Step::Idle;
        match self.late.pop_first() {
            Some((_, command)) => self.go(Step::Looking(command), Effect::Ask(command)),
            None => Effects::NONE,
        }
    }

    fn reported(&mut self, command: StuckCommand) -> Effects {
        match self.step {
            Step::Idle => return self.go(Step::Aborting(command), Effect::Abort(command)),
            Step::Lost => {}
            _ => {
                self.late.insert((command.pair.queue, command.cid), command);
            }
        }
        Effects::NONE
    }

    /// Only the command's own completion counts: is it there?
    fn aborted(&mut self, queue: u16, cid: u16, now: Time) -> Effects {
        match self.step {
            Step::Aborting(command) if (command.pair.queue, command.cid) == (queue, cid) => {
                let until = now + self.times.grace;
                self.go(Step::Asking(command, Some(until)), Effect::Ask(command))
            }
            // The controller took longer than the driver waits, which was heard already; or something worse came before.
            _ => Effects::NONE,
        }
    }

    /// Times of grace that are over.
    fn tick(&mut self, now: Time) -> Effects {
        match self.step {
            Step::Grace(command, until) if now >= until => {
                self.go(Step::Asking(command, None), Effect::Ask(command))
            }
            _ => Effects::NONE,
        }
    }

    fn stuck(&mut self, command: StuckCommand, stuck: bool) -> Effects {
        match self.step {
            Step::Asking(asked, _) | Step::Looking(asked) if asked == command && !stuck => self.recovered(),
            Step::Looking(asked) if asked == command => {
                self.go(Step::Aborting(command), Effect::Abort(command))
            }
            Step::Asking(asked, Some(until)) if asked == command => {
                self.step = Step::Grace(command, until);
                Effects::NONE
            }
            Step::Asking(asked, None) if asked == command => {
                self.go(Step::Taking(command), Effect::Take(command.pair.queue))
            }
            // A question that is not asked any more.
            _ => Effects::NONE,
        }
    }

    fn back(&mut self, queue: u16, away: u16, now: Time) -> Effects {
        match self.step {
            Step::Taking(command) if command.pair.queue == queue => {
                self.guilty = Some((queue, command.token));
                self.go(Step::Deleting(command), Effect::Delete(queue))
            }
            Step::Gathering => self.gather(away, now),
            // Nobody waits for it any more: it goes with the others.
            Step::Lost => Effects::one(Effect::End(queue)),
            // It stays here, and has its turn with the others.
            Step::Resetting | Step::Reviving(_) => Effects::one(Effect::Anomaly),
            _ => Effects::two(Effect::Anomaly, Effect::Give(queue)),
        }
    }

    fn left(&mut self, queue: u16, away: u16, now: Time) -> Effects {
        match self.step {
            Step::Taking(command) | Step::Deleting(command) if command.pair.queue == queue => {
                self.recovered()
            }
            Step::Gathering => self.gather(away, now),
            // It stays here until its queues exist, or not.
            Step::Recreating(StuckCommand { pair, .. }) if pair.queue == queue => {
                Effects::one(Effect::Anomaly)
            }
            Step::Reviving(reviving) if reviving == queue => Effects::one(Effect::Anomaly),
            _ => Effects::NONE,
        }
    }

    /// A new pair does not go to its worker when a reset is about to take its queues away.
    fn made(&mut self, queue: u16) -> Effects {
        match self.step {
            Step::Gathering | Step::Resetting => Effects::NONE,
            Step::Lost => Effects::one(Effect::End(queue)),
            _ => Effects::one(Effect::Give(queue)),
        }
    }

    fn deleted(&mut self, queue: u16) -> Effects {
        match self.step {
            Step::Deleting(command) if command.pair.queue == queue => {
                self.go(Step::Recreating(command), Effect::Recreate(queue))
            }
            // The reset did it, or the loss.
            Step::Gathering | Step::Resetting | Step::Lost => Effects::NONE,
            _ => Effects::one(Effect::Anomaly),
        }
    }

    /// Issue its commands again, but for those of the guilty.
    fn recreated(&mut self, queue: u16, next: Option<u16>) -> Effects {
        match self.step {
            Step::Recreating(command) if command.pair.queue == queue => {
                let restart = Effect::Restart(queue, Fails::Of(command.token));
                Effects::before(restart, self.recovered())
            }
            Step::Reviving(reviving) if reviving == queue => {
                let fails = match self.guilty {
                    _ if self.resets.len() > RESETS_WITH_MERCY => Fails::All,
                    Some((pair, token)) if pair == queue => Fails::Of(token),
                    _ => Fails::None,
                };
                Effects::before(Effect::Restart(queue, fails), self.revive(next))
            }
            Step::Lost => Effects::NONE,
            _ => Effects::one(Effect::Anomaly),
        }
    }

    fn not_recreated(&mut self, queue: u16, next: Option<u16>) -> Effects {
        match self.step {
            Step::Recreating(command) if command.pair.queue == queue => {
                Effects::before(Effect::Drop(queue), self.recovered())
            }
            Step::Reviving(reviving) if reviving == queue => {
                Effects::before(Effect::Drop(queue), self.revive(next))
            }
            // It is tried again after the reset, or never.
            Step::Gathering | Step::Resetting | Step::Lost => Effects::NONE,
            _ => Effects::one(Effect::Anomaly),
        }
    }

    /// Take all pairs back.
    fn reset_needed(&mut self, away: u16, now: Time) -> Effects {
        match self.step {
            // It is the same trouble.
            Step::Gathering | Step::Resetting | Step::Lost => return Effects::NONE,
            Step::Aborting(c) | Step::Grace(c, _) | Step::Asking(c, _) | Step::Taking(c) => {
                self.guilty = Some((c.pair.queue, c.token));
            }
            // The guilty are known, or nobody is.
            Step::Deleting(_) | Step::Recreating(_) | Step::Reviving(_) => {}
            Step::Idle | Step::Looking(_) => {}
        }
        if away > 0 {
            return self.go(Step::Gathering, Effect::TakeAll);
        }
        self.gather(away, now)
    }

    /// Resets the controller once all pairs are here.
    fn gather(&mut self, away: u16, now: Time) -> Effects {
        if away > 0 {
            return Effects::NONE;
        }
        let window = self.times.window;
        self.resets.retain(|then| now - *then < window);
        // One that has no room was one too many already.
        let _ = self.resets.push(now);
        match self.resets.len() {
            count if count > RESETS_MAX => self.lost(Effect::GiveUp(count)),
            _ => self.go(Step::Resetting, Effect::Reset),
        }
    }

    fn reset_done(&mut self, next: Option<u16>) -> Effects {
        match self.step {
            Step::Resetting => self.revive(next),
            Step::Lost => Effects::NONE,
            _ => Effects::one(Effect::Anomaly),
        }
    }

    /// After a reset: brings back one pair after the other.
    fn revive(&mut self, next: Option<u16>) -> Effects {
        if let Some(queue) = next {
            return self.go(Step::Reviving(queue), Effect::Recreate(queue));
        }
        // All of them failed, or were issued again.
        self.late.clear();
        self.guilty = None;
        self.go(Step::Idle, Effect::Settle)
    }

    fn lost(&mut self, effect: Effect) -> Effects {
        if self.step == Step::Lost {
            return Effects::NONE;
        }
        self.late.clear();
        self.guilty = None;
        self.go(Step::Lost, effect)
    }
}

#[cfg(test)]
mod tests;
