//! What control tells a worker.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use nvme_platform::Time;
use nvme_session::queue::QueueTag;

use super::super::message::{
    FromWorker, NewQueue, NewTable, PairId, QueueKey, SessionKey, StuckCommand, ToWorker,
};
use super::drains::{Drain, TABLE_STEP};
use super::{Pair, Queue, State, Worker};
use crate::nvme::QueuePair;

/// Turns of a pair before a command in it counts as stuck: enough for all that a queue can hold.
const LOOKS: usize = 16;

impl Worker {
    /// Takes a message of control.
    pub fn handle(&mut self, message: ToWorker, now: Time) {
        match message {
            ToWorker::AddPair(id, pair) => self.add_pair(id, pair),
            ToWorker::TakePair(id) => self.take_pair(id),
            ToWorker::AddQueue(new) => self.add_queue(new, now),
            ToWorker::StopQueue(key) => self.stop_queue(key),
            ToWorker::SetNotify(key, notify) => {
                if let Some((_, queue)) = self.queues.iter_mut().find(|(_, q)| q.key == key) {
                    // The new way may have missed what the old one was told.
                    notify.used();
                    queue.notify = notify;
                }
            }
            ToWorker::SetTable(new) => self.set_table(new),
            ToWorker::SetWriteBack(session, on) => {
                for (_, queue) in self.queues.iter_mut().filter(|(_, q)| q.key.session == session) {
                    queue.queue.set_write_back(on);
                }
            }
            ToWorker::SetGrant(session, grant) => {
                for (_, queue) in self.queues.iter_mut().filter(|(_, q)| q.key.session == session) {
                    queue.queue.set_grant(grant.clone());
                }
            }
            ToWorker::Break(session, why) => {
                for token in self.tokens_of(session) {
                    self.break_queue(token, why);
                }
            }
            ToWorker::Fail(session) => {
                for token in self.tokens_of(session) {
                    if let Some(queue) = self.queues.get_mut(token) {
                        queue.lost = true;
                        queue.last_work = now;
                    }
                    // Whatever it is doing: what it did not submit ends now.
                    self.activate(token);
                }
            }
            ToWorker::Quarantine(session) => self.quarantine(session),
            ToWorker::IsStuck(command) => {
                let stuck = self.is_stuck(command, now);
                self.outbox.push_back(FromWorker::Stuck(command, stuck));
            }
        }
    }

    /// Whether a command is in flight, after what the controller has completed.
    fn is_stuck(&mut self, command: StuckCommand, now: Time) -> bool {
        let Some(at) = self.pairs.iter().position(|p| p.id == command.pair) else { return false };
        let holds = |worker: &Self| worker.pairs.get(at).is_some_and(|p| p.pair.holds(command.cid));
        for _ in 0..LOOKS {
            if !holds(self) || !self.turn_pair(at, now).0 {
                break;
            }
        }
        holds(self)
    }

    fn add_pair(&mut self, id: PairId, pair: Box<QueuePair>) {
        self.pairs.push(Pair { id, pair, line: VecDeque::new() });
        // Its virtqueues may have slept meanwhile, with something to submit.
        let tokens: Vec<usize> =
            self.queues.iter().filter(|(_, q)| q.pair == id).map(|(token, _)| token).collect();
        for token in tokens {
            if let Some(queue) = self.queues.get_mut(token) {
                queue.away = false;
            }
            self.activate(token);
        }
    }

    fn take_pair(&mut self, id: PairId) {
        let at = self.pairs.iter().position(|p| p.id == id);
        let pair = at.map(|at| {
            let Pair { pair, line, .. } = self.pairs.swap_remove(at);
            for token in line {
                if let Some(queue) = self.queues.get_mut(token) {
                    queue.in_line = false;
                }
            }
            pair
        });
        self.outbox.push_back(FromWorker::PairTaken(id, pair));
    }

    fn add_queue(&mut self, new: NewQueue, now: Time) {
        let NewQueue { key, mut queue, pair, notify } = new;
        queue.ignore_kicks();
        let entry = self.queues.vacant_entry();
        let token = entry.key();
        self.lives = self.lives.wrapping_add(1);
        queue.enrol(QueueTag { token: token as u32, life: self.lives });
        entry.insert(Queue {
            key,
            queue,
            pair,
            notify,
            state: State::Serving,
            lost: false,
            away: false,
            in_line: false,
            active: true,
            news: false,
            last_work: now,
        });
        self.active.push(token);
    }

    fn stop_queue(&mut self, key: QueueKey) {
        let Some((token, queue)) = self.queues.iter_mut().find(|(_, q)| q.key == key) else {
            self.outbox.push_back(FromWorker::QueueStopped(key, 0));
            return;
        };
        if queue.state != State::Stopping {
            queue.state = State::Stopping;
            queue.queue.take_no_more();
            self.stopping += 1;
        }
        if !queue.active {
            queue.active = true;
            self.active.push(token);
        }
    }

    fn tokens_of(&self, session: SessionKey) -> Vec<usize> {
        self.queues.iter().filter(|(_, q)| q.key.session == session).map(|(token, _)| token).collect()
    }

    fn set_table(&mut self, new: NewTable) {
        let NewTable { session, table, generation, removed } = new;
        // As a rule the last change is over before the next begins.
        for at in 0..self.drains.len() {
            if self.drains.get(at).is_some_and(|d| d.session == session) {
                self.update_tables(at, usize::MAX);
            }
        }
        let of = self.queues.iter().filter(|(_, q)| q.key.session == session);
        let queues: Vec<_> = of.map(|(token, q)| (token, q.key)).collect();
        self.drains.push(Drain { session, generation, table, queues, updated: 0, removed });
        // A usual table is in force at once.
        self.update_tables(self.drains.len() - 1, TABLE_STEP);
    }

    fn quarantine(&mut self, session: SessionKey) {
        // What its queues hold is held for ever, so there is nothing to wait for.
        self.drains.retain(|drain| drain.session != session);
        for token in self.tokens_of(session) {
            let Some(queue) = self.queues.try_remove(token) else { continue };
            self.stopping -= usize::from(queue.state == State::Stopping);
            self.active.retain(|t| *t != token);
            self.leave_line(token);
            self.outbox.push_back(FromWorker::QueueStopped(queue.key, queue.queue.next_avail()));
            self.quarantined.push((session, queue.queue));
        }
    }
}
