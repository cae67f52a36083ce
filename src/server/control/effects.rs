//! Carries out what the recovery of a controller wants. What is about the controller and its pairs, its unit does; here is
//! what sessions and the catalogue have to know of.

use alloc::vec::Vec;

use nvme_platform::Time;

use super::super::message::{PairId, SessionKey};
use super::Control;
use super::unit::{Effect, Fails, Fate, Input};
use crate::nvme::QueueQuiet;

impl Control {
    /// Something happened that the recovery of a controller has to know: does what follows from it.
    pub(super) fn recover(&mut self, controller: u16, input: Input, now: Time) {
        let mut next = Some(input);
        // An effect that cannot be carried out is the next input. It has an end: each of them spends a command that was reported
        // late, a pair that is here, or a step of the recovery.
        while let Some(input) = next.take() {
            let Some((unit, out)) = self.unit(controller) else { return };
            for effect in unit.recover(input, now, out) {
                self.more = true;
                next = self.carry_out(controller, effect).or(next);
            }
        }
    }

    fn carry_out(&mut self, controller: u16, effect: Effect) -> Option<Input> {
        let (unit, out) = self.unit(controller)?;
        match effect {
            Effect::Abort(command) => unit.abort(command),
            Effect::Ask(command) => return unit.ask(command, out),
            Effect::Take(queue) => return unit.take(queue, out),
            Effect::TakeAll => unit.take_all(out),
            Effect::Delete(queue) => return unit.delete(queue),
            Effect::Recreate(queue) => return unit.recreate(queue, out),
            Effect::Give(queue) => unit.give(queue, out),
            Effect::Reset => unit.reset(),
            Effect::Settle => unit.settle(),
            Effect::Restart(queue, fails) => {
                let id = PairId { controller, queue };
                // What was meant for a device that is another by now is not issued again.
                let another = self.sessions.values().any(|s| s.uses(id) && s.is_lost());
                let (unit, out) = self.unit(controller)?;
                let fate = unit.restart(queue, if another { Fails::All } else { fails }, out);
                self.pair_ended(id, fate);
            }
            Effect::Drop(queue) => {
                let fate = unit.drop_pair(queue, out);
                self.pair_ended(PairId { controller, queue }, fate);
            }
            Effect::End(queue) => {
                let fate = unit.end_pair(queue, out);
                self.pair_ended(PairId { controller, queue }, fate);
            }
            Effect::GiveUp(resets) => {
                nvme_platform::error!("controller {controller}: {resets} resets in short time; giving it up");
                self.lose_controller(controller);
            }
            Effect::Lose => self.lose_controller(controller),
            // It was said.
            Effect::Anomaly => {}
        }
        None
    }

    /// What becomes of the sessions of a pair that ended.
    fn pair_ended(&mut self, id: PairId, fate: Option<Fate>) {
        match fate {
            None => {}
            Some(Fate::Failed) => self.lose_sessions(|s| s.uses(id)),
            Some(Fate::Kept) => {
                let users: Vec<SessionKey> =
                    self.sessions.iter().filter(|(_, s)| s.uses(id)).map(|(key, _)| *key).collect();
                users.into_iter().for_each(|key| self.quarantine(key));
            }
        }
    }

    /// A controller is gone, or of no use any more: what it did before that is over, for which there may be proof.
    pub(super) fn device_lost(&mut self, controller: u16, quiet: Option<QueueQuiet>, now: Time) {
        let Some((unit, _)) = self.unit(controller) else { return };
        unit.proven(quiet);
        self.recover(controller, Input::Lost, now);
    }

    /// Everything on a controller ends.
    fn lose_controller(&mut self, controller: u16) {
        let Some((unit, out)) = self.unit(controller) else { return };
        unit.lose();
        // They follow when their workers hand them back.
        unit.take_all(out);
        for queue in unit.pairs_here() {
            self.carry_out(controller, Effect::End(queue));
        }
        self.lose_sessions(|s| s.controller() == controller);
        let Some((unit, _)) = self.unit(controller) else { return };
        unit.settle();
        let quiet = unit.is_quiet();
        let lost = self.sessions.values().filter(|s| s.controller() == controller);
        let over = lost.filter(|s| quiet || !s.has_pair()).map(|s| s.minted().session());
        over.collect::<Vec<_>>().into_iter().for_each(|session| self.catalogue.is_over(session));
        self.catalogue.remove_controller(controller);
        self.rescan_others(controller);
        self.check_scanned();
    }
}
