//! Commands that are late: each is aborted, and given some time to end. Only when that does not help, more is taken away
//! than the command (`recovery`).
//!
//! One at a time for each controller. What is reported meanwhile waits, and is looked at again when the recovery is over:
//! by then most of it has ended, or was issued again under another identifier.

use alloc::vec::Vec;

use nvme_platform::Time;

use super::super::message::{StuckCommand, ToWorker};
use super::Control;
use super::recovery::Step;

impl Control {
    /// A worker reports a command whose deadline has passed.
    pub(super) fn expired(&mut self, command: StuckCommand) {
        let controller = command.pair.controller;
        if !self.pairs.contains_key(&command.pair) {
            return;
        }
        let recovery = self.recovery(controller);
        match recovery.step {
            Step::Idle => self.begin_abort(command),
            Step::Lost => {}
            // No more than the pairs can hold, for each is there once.
            _ => {
                recovery.late.insert((command.pair, command.cid), command.token);
            }
        }
    }

    fn begin_abort(&mut self, command: StuckCommand) {
        let controller = command.pair.controller;
        nvme_platform::warn!(
            "controller {controller}: command {:#06x} on queue pair {} is late; aborting it",
            command.cid,
            command.pair.queue
        );
        let Some(unit) = self.units.get_mut(usize::from(controller)) else { return };
        unit.controller_mut().abort(command.pair.queue, command.cid);
        self.recovery(controller).step = Step::Aborting(command);
        self.more = true;
    }

    /// The abort ended, one way or the other. Only the command's own completion counts: is it there?
    pub(super) fn aborted(&mut self, controller: u16, pair: u16, cid: u16, now: Time) {
        let until = now + self.config.recovery.grace;
        match self.step(controller) {
            Step::Aborting(command) if command.pair.queue == pair && command.cid == cid => {
                self.ask(command, Some(until));
            }
            other => self.recovery(controller).step = other,
        }
    }

    /// Asks the worker whether a command is still in flight, with a time of grace or without.
    fn ask(&mut self, command: StuckCommand, grace: Option<Time>) {
        let controller = command.pair.controller;
        self.recovery(controller).step = Step::Asking(command, grace);
        if !self.tell_pair(command.pair, ToWorker::IsStuck(command)) {
            self.recovered(controller);
        }
    }

    /// Times of grace that are over.
    pub(super) fn poll_late(&mut self, now: Time) {
        let mut due = Vec::new();
        for recovery in self.recoveries.values() {
            if let Step::Grace(command, until) = recovery.step
                && now >= until
            {
                due.push(command);
            }
        }
        for command in due {
            self.ask(command, None);
        }
    }

    /// The worker says whether the command is still in flight.
    pub(super) fn stuck(&mut self, command: StuckCommand, stuck: bool) {
        let controller = command.pair.controller;
        match self.step(controller) {
            Step::Asking(asked, _) | Step::Looking(asked) if asked == command && !stuck => {
                self.recovered(controller);
            }
            Step::Looking(asked) if asked == command => self.begin_abort(command),
            Step::Asking(asked, Some(until)) if asked == command => {
                self.recovery(controller).step = Step::Grace(command, until);
            }
            Step::Asking(asked, None) if asked == command => self.take_pair_back(command),
            other => self.recovery(controller).step = other,
        }
    }

    /// Nothing is the matter any more: goes on with the next command that was reported late, and with sessions that
    /// wait for a queue pair.
    pub(super) fn recovered(&mut self, controller: u16) {
        let recovery = self.recovery(controller);
        recovery.step = Step::Idle;
        self.more = true;
        while let Some(((pair, cid), token)) = self.recovery(controller).late.pop_first() {
            let command = StuckCommand { pair, cid, token };
            if self.tell_pair(pair, ToWorker::IsStuck(command)) {
                self.recovery(controller).step = Step::Looking(command);
                return;
            }
        }
    }
}
