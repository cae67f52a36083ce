//! What control tells a worker.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use nvme_platform::Time;
use nvme_session::queue::BlkQueue;

use super::super::message::{
    FromWorker, NewTable, Old, PairId, QueueKey, SessionKey, StuckCommand, ToWorker,
};
use super::drains::{Drain, TABLE_STEP};
use super::roster::Duty;
use super::{Pair, Worker};
use crate::nvme::QueuePair;

/// Turns of a pair before a command in it counts as stuck: enough for all that a queue can hold.
const LOOKS: usize = 16;

impl Worker {
    /// Takes a message of control.
    pub fn handle(&mut self, message: ToWorker, now: Time) {
        match message {
            ToWorker::AddPair(id, pair) => self.add_pair(id, pair),
            ToWorker::TakePair(id) => self.take_pair(id),
            ToWorker::AddQueue(new) => self.roster.add(new, now),
            ToWorker::StopQueue(key, old) => self.stop_queue(key, old, now),
            ToWorker::GiveBack(key) => self.give_back(key, now),
            ToWorker::SetNotify(key, notify) => {
                let token = self.roster.token(key);
                if let Some(queue) = token.and_then(|token| self.roster.get_mut(token)) {
                    // The new way may have missed what the old one was told.
                    notify.used();
                    queue.notify = notify;
                }
                self.outbox.push_back(FromWorker::NotifySet(key));
            }
            ToWorker::SetTable(new) => self.set_table(new),
            ToWorker::SetWriteBack(session, on) => {
                self.each_of(session, |queue| queue.set_write_back(on));
                self.outbox.push_back(FromWorker::WriteBackSet(session));
            }
            ToWorker::SetGrant(session, grant) => {
                self.each_of(session, |queue| queue.set_grant(grant.clone()));
            }
            ToWorker::Limit(session) => self.limits_changed(session, now),
            ToWorker::Break(session, why) => {
                for token in self.roster.tokens_of(session) {
                    self.break_queue(token, why);
                }
            }
            ToWorker::Fail(session) => self.fail(session, now),
            ToWorker::Hold(session, on) => self.hold(session, on),
            ToWorker::Withdraw(session) => {
                self.roster.withdraw(session);
                self.each_of(session, BlkQueue::leave);
                self.give_up();
            }
            // Of use to a home that gave the session a thread of its own.
            ToWorker::Release(_) => {}
            ToWorker::Quarantine(session) => self.quarantine(session),
            ToWorker::IsStuck(command) => {
                let stuck = self.is_stuck(command, now);
                self.outbox.push_back(FromWorker::Stuck(command, stuck));
            }
        }
    }

    /// Takes nothing more from a session's virtqueues, or goes on with them.
    fn hold(&mut self, session: SessionKey, on: bool) {
        self.roster.set_held(session, on);
        self.each_of(session, |queue| queue.hold(on));
        // Whoever asked is answered, also when it does not want to know any more.
        for _ in self.holding.extract_if(.., |key| *key == session) {
            self.outbox.push_back(FromWorker::Held(session));
        }
        if on {
            self.holding.push(session);
            return;
        }
        // Their drivers may have asked meanwhile, and were told to kick no more.
        for token in self.roster.tokens_of(session) {
            self.roster.wake(token);
        }
    }

    /// Ends what waits to be issued again for those that want nothing any more.
    fn give_up(&mut self) {
        for pair in &mut self.pairs {
            pair.queues.give_up(&self.roster);
        }
    }

    /// Whether a command is in flight, after what the controller has completed.
    fn is_stuck(&mut self, command: StuckCommand, now: Time) -> bool {
        let Some(at) = self.pairs.iter().position(|p| p.id == command.pair) else { return false };
        let holds = |worker: &Self| worker.pairs.get(at).is_some_and(|p| p.queues.holds(command.cid));
        for _ in 0..LOOKS {
            if !holds(self) || !self.turn_pair(at, now).0 {
                break;
            }
        }
        holds(self)
    }

    fn each_of(&mut self, session: SessionKey, mut each: impl FnMut(&mut BlkQueue)) {
        for token in self.roster.tokens_of(session) {
            if let Some(queue) = self.roster.get_mut(token) {
                each(&mut queue.virtqueue);
            }
        }
    }

    fn add_pair(&mut self, id: PairId, queues: Box<QueuePair>) {
        self.pairs.push(Pair { id, queues, line: VecDeque::new() });
        // Its virtqueues may have slept meanwhile, with something to submit.
        for token in self.roster.tokens_on(id) {
            self.roster.wake(token);
        }
    }

    fn take_pair(&mut self, id: PairId) {
        let at = self.pairs.iter().position(|p| p.id == id);
        let pair = at.map(|at| {
            let Pair { queues, line, .. } = self.pairs.swap_remove(at);
            for session in line {
                while let Some(token) = self.roster.next_waiting(session) {
                    self.roster.wake(token);
                }
            }
            queues
        });
        self.outbox.push_back(FromWorker::PairTaken(id, pair));
    }

    fn stop_queue(&mut self, key: QueueKey, old: Old, now: Time) {
        let token = self.roster.token(key);
        let Some((token, queue)) = token.and_then(|token| Some((token, self.roster.get_mut(token)?))) else {
            self.outbox.push_back(FromWorker::QueueStopped(key, 0));
            return;
        };
        if queue.duty != Duty::Stop {
            queue.duty = Duty::Stop;
            match old {
                Old::First => queue.virtqueue.take_old_only(),
                Old::Left => queue.virtqueue.take_no_more(),
            }
            self.stopping.push(token);
            if queue.virtqueue.has_old() {
                self.roster.wake(token);
            }
            // What it has begun is done now, whatever the limits are.
            self.release(token, now);
        }
    }

    /// The session's device is lost: whatever its virtqueues are doing, what they did not submit ends now.
    fn fail(&mut self, session: SessionKey, now: Time) {
        self.roster.lose(session);
        // There is nothing to wait for.
        self.roster.set_held(session, false);
        self.each_of(session, |queue| queue.hold(false));
        for token in self.roster.tokens_of(session) {
            self.leave_line(token);
            if let Some(queue) = self.roster.get_mut(token) {
                queue.last_work = now;
            }
            self.roster.wake(token);
        }
        self.give_up();
    }

    fn set_table(&mut self, new: NewTable) {
        let NewTable { session, table, generation, removed } = new;
        // As a rule the last change is over before the next begins.
        for at in 0..self.drains.len() {
            if self.drains.get(at).is_some_and(|d| d.session == session) {
                self.update_tables(at, usize::MAX);
            }
        }
        let tokens = self.roster.tokens_of(session);
        let key = |token| self.roster.get(token).map(|queue| (token, queue.key));
        let queues: Vec<_> = tokens.into_iter().filter_map(key).collect();
        self.drains.push(Drain { session, generation, table, queues, updated: 0, removed });
        // A usual table is in force at once.
        self.update_tables(self.drains.len() - 1, TABLE_STEP);
    }

    fn quarantine(&mut self, session: SessionKey) {
        // What its queues hold is held for ever, so there is nothing to wait for.
        self.drains.retain(|drain| drain.session != session);
        for token in self.roster.tokens_of(session) {
            self.leave_line(token);
            self.stopping.retain(|t| *t != token);
            let Some(queue) = self.roster.remove(token) else { continue };
            self.outbox.push_back(FromWorker::QueueStopped(queue.key, queue.virtqueue.next_avail()));
            self.quarantined.push((session, queue.virtqueue));
        }
    }
}
