//! Virtqueues that go to another worker: nothing more is taken from them, and when nothing is in flight they are handed back.

use core::time::Duration;

use nvme_platform::Time;

use super::super::message::{FromWorker, QueueKey, Returned};
use super::Worker;
use super::balance::Did;
use super::roster::Duty;

/// How long one may have something in flight. What takes longer is not waited for: its driver has more to ask.
const PATIENCE: Duration = Duration::from_millis(5);

/// A virtqueue that goes, as long as it is there.
pub(super) struct Leaving {
    token: usize,
    key: QueueKey,
    until: Time,
}

impl Worker {
    /// There are other workers, and control is to hear what of this one's they could do.
    pub fn share_work(&mut self) {
        self.balance.turn_on();
    }

    /// Control wants a virtqueue for another worker.
    pub(super) fn give_back(&mut self, key: QueueKey, now: Time) {
        let token = self.roster.token(key);
        let queue = token.and_then(|token| self.roster.get_mut(token)).filter(|q| q.duty == Duty::Serve);
        let (Some(token), Some(queue), false) = (token, queue, self.apart) else {
            return self.outbox.push_back(FromWorker::GivenBack(key, None));
        };
        queue.virtqueue.hold(true);
        // What it has begun is done now, whatever the limits are.
        self.release(token, now);
        self.leaving.push(Leaving { token, key, until: now + PATIENCE });
    }

    /// Hands back what has nothing in flight. Whether there was any.
    pub(super) fn finish_leaving(&mut self, now: Time) -> bool {
        let before = self.leaving.len();
        let mut leaving = core::mem::take(&mut self.leaving);
        leaving.retain(|leaving| !self.has_left(leaving, now));
        let left = leaving.len() < before;
        leaving.append(&mut self.leaving);
        self.leaving = leaving;
        left
    }

    /// Whether nothing is to be waited for any more.
    fn has_left(&mut self, Leaving { token, key, until }: &Leaving, now: Time) -> bool {
        let held = self.roster.is_held(key.session);
        let queue = self.roster.get_mut(*token).filter(|q| q.key == *key && q.duty == Duty::Serve);
        let Some(queue) = queue else {
            self.outbox.push_back(FromWorker::GivenBack(*key, None));
            return true;
        };
        if queue.virtqueue.in_flight() > 0 {
            if now >= *until {
                self.stay(*token, *key, held);
            }
            return now >= *until;
        }
        if queue.virtqueue.publish() {
            queue.virtqueue.counts().notified();
            queue.notify.used();
        }
        queue.virtqueue.settle(now);
        queue.virtqueue.hold(false);
        self.leave_line(*token);
        self.release(*token, now);
        let returned = self.roster.remove(*token);
        let returned = returned.map(|queue| Returned { queue: queue.virtqueue, notify: queue.notify });
        self.outbox.push_back(FromWorker::GivenBack(*key, returned));
        true
    }

    /// It goes on here.
    fn stay(&mut self, token: usize, key: QueueKey, held: bool) {
        if let Some(queue) = self.roster.get_mut(token) {
            queue.virtqueue.hold(held);
            // Its driver may have asked meanwhile.
            self.roster.wake(token);
        }
        self.outbox.push_back(FromWorker::GivenBack(key, None));
    }

    /// None of a session's virtqueues goes any more: the session gets a thread of its own.
    pub(super) fn none_leaves(&mut self, tokens: &[usize]) {
        let of = self.leaving.extract_if(.., |leaving| tokens.contains(&leaving.token));
        for Leaving { token, key, .. } in of.collect::<alloc::vec::Vec<_>>() {
            let held = self.roster.is_held(key.session);
            self.stay(token, key, held);
        }
    }

    /// Says what is to be said of how much there is to do.
    pub(super) fn look_at_balance(&mut self, now: Time) {
        if self.balance.is_due(now) {
            let did = |queue: &mut super::roster::Queue| Did {
                key: queue.key,
                abroad: queue.abroad,
                units: core::mem::take(&mut queue.units),
            };
            let did: alloc::vec::Vec<Did> = self.roster.all_mut().map(did).collect();
            self.balance.look(now, &did, &mut self.outbox);
        }
    }
}
