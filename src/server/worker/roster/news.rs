//! Used rings with entries that were not published, and drivers that are to be told.

use nvme_platform::{Clock, Time};

use super::super::shares::{OVERRUN, since};
use super::{Activity, Roster};

impl Roster {
    /// Its used ring has entries to be published.
    #[inline]
    pub(in super::super) fn has_news(&mut self, token: usize) {
        if let Some(queue) = self.queues.get_mut(token)
            && !core::mem::replace(&mut queue.news, true)
        {
            self.news.push(token);
        }
    }

    /// A request of it has ended.
    #[inline(never)]
    pub(in super::super) fn has_ended(&mut self, token: usize) {
        self.has_news(token);
        if self.queues.get(token).is_some_and(|q| q.activity == Activity::Asleep) {
            self.wake(token);
        }
    }

    /// Publishes what there is, and tells drivers.
    pub(in super::super) fn publish(&mut self, now: Time) {
        for token in self.news.drain(..) {
            if let Some(queue) = self.queues.get_mut(token) {
                queue.news = false;
                queue.last_work = now;
                if queue.virtqueue.publish() {
                    queue.virtqueue.counts().notified();
                    queue.notify.used();
                }
                self.told.push(token);
            }
        }
    }

    /// What was published in a turn is counted by the clock behind it.
    #[inline]
    pub(in super::super) fn settle(&mut self, now: Time) {
        for token in self.told.drain(..) {
            if let Some(queue) = self.queues.get_mut(token) {
                queue.virtqueue.settle(now);
            }
        }
    }

    /// As [`publish`](Self::publish), outside of a turn: each session pays for what telling its driver takes. One with which that took
    /// long has not paid yet: when it began and ended.
    pub(in super::super) fn publish_on_account(
        &mut self,
        time: &mut Time,
        clock: &dyn Clock,
    ) -> Option<(usize, Time, Time)> {
        let mut long = None;
        for at in 0..self.news.len() {
            let Some(queue) = self.news.get(at).and_then(|token| self.queues.get_mut(*token)) else {
                continue;
            };
            queue.news = false;
            queue.last_work = *time;
            if queue.virtqueue.publish() {
                queue.virtqueue.counts().notified();
                queue.notify.used();
                let (session, then) = (queue.session, *time);
                *time = clock.now();
                if since(then, *time) > OVERRUN {
                    long = Some((session, then, *time));
                } else {
                    self.pay(session, since(then, *time));
                }
            }
            if let Some(queue) = self.news.get(at).and_then(|token| self.queues.get_mut(*token)) {
                queue.virtqueue.settle(*time);
            }
        }
        self.news.clear();
        long
    }
}
