//! Which virtqueues have turns, and in what order within their session's; the rest wait for something.

use nvme_platform::Time;

use super::super::shares::since;
use super::{Activity, Duty, Queue, Roster, Served};

impl Roster {
    /// Gives a virtqueue turns that waited for its limits.
    pub(in super::super) fn release(&mut self, token: usize, now: Time) {
        let Some(queue) = self.queues.get_mut(token).filter(|q| q.activity == Activity::Held) else { return };
        let nanos = u64::try_from(since(queue.held_since, now)).unwrap_or(0);
        queue.virtqueue.was_held(nanos);
        // For as long as it was held it did not idle.
        queue.last_work = now;
        self.wake(token);
    }

    /// Gives a virtqueue turns, whatever it waited for.
    pub(in super::super) fn wake(&mut self, token: usize) {
        if let Some(queue) = self.queues.get_mut(token).filter(|queue| queue.activity != Activity::Polled) {
            queue.virtqueue.ignore_kicks();
            self.rouse(token);
        }
    }

    /// The same without a word in its ring, which is in its client's memory: that is for its turn.
    pub(in super::super) fn rouse(&mut self, token: usize) {
        let Some(queue) = self.queues.get_mut(token).filter(|queue| queue.activity != Activity::Polled)
        else {
            return;
        };
        queue.activity = Activity::Polled;
        if let Some(served) = self.sessions.get_mut(queue.session) {
            if served.polled.is_empty()
                && let Some(group) = self.groups.get_mut(served.group)
            {
                if group.turns.is_empty() {
                    self.round.push(served.group);
                }
                // After a turn in which it came to wait for its pair it is still there.
                if !group.turns.contains(&queue.session) {
                    group.turns.push(queue.session);
                }
            }
            served.polled.push(token);
        }
    }

    /// How many virtqueues have a turn in this turn of their session.
    pub(in super::super) fn polled(&self, session: usize) -> usize {
        self.sessions.get(session).map_or(0, |served| served.polled.len())
    }

    /// The only virtqueue that has a turn in this turn of its session, where nothing is to be asked or done but whether it has work.
    #[inline]
    pub(in super::super) fn only(&self, session: usize) -> Option<usize> {
        let served = self.sessions.get(session)?;
        let [only] = served.polled[..] else { return None };
        (!served.changed && !served.limited && !served.lost).then_some(only)
    }

    /// The virtqueue whose turn it is, `at` turns after the session's first.
    pub(in super::super) fn polled_at(&self, session: usize, at: usize) -> Option<usize> {
        let served = self.sessions.get(session)?;
        let (at, count) = (served.first + at, served.polled.len());
        served.polled.get(if at < count { at } else { at.checked_rem(count)? }).copied()
    }

    /// A session had its turn, and another virtqueue is first next time: the one behind those that were served until the
    /// turn was spent, else the second.
    pub(in super::super) fn end_turn(&mut self, session: usize, served_until: usize) {
        let Some(served) = self.sessions.get_mut(session) else { return };
        served.first += served_until;
        if served.first >= served.polled.len() {
            served.first = served.first.checked_rem(served.polled.len()).unwrap_or(0);
        }
        if core::mem::take(&mut served.changed) {
            let queues = &self.queues;
            served.polled.retain(|token| queues.get(*token).is_some_and(|q| q.activity == Activity::Polled));
            served.first = 0;
            self.emptied |= served.polled.is_empty();
        }
    }

    /// Who has no polled virtqueue any more has no turns.
    pub(in super::super) fn end_turns(&mut self) {
        if !core::mem::take(&mut self.emptied) {
            return;
        }
        let (sessions, groups) = (&self.sessions, &mut self.groups);
        self.round.retain(|place| {
            let Some(group) = groups.get_mut(*place) else { return false };
            group.turns.retain(|place| sessions.get(*place).is_some_and(|s| !s.polled.is_empty()));
            !group.turns.is_empty()
        });
    }

    /// Whether more than one virtqueue is polled.
    pub(in super::super) fn is_crowded(&self) -> bool {
        let groups = self.round.iter().filter_map(|place| self.groups.get(*place));
        let sessions = groups.flat_map(|group| &group.turns).filter_map(|place| self.sessions.get(*place));
        sessions.map(|served| served.polled.len()).sum::<usize>() > 1
    }

    /// Lets virtqueues without work ask for kicks, those of which `which` says so. True when none is polled any more.
    pub(in super::super) fn let_sleep(&mut self, which: impl Fn(&Queue) -> bool) -> bool {
        self.sleeps_next = 0;
        self.let_some_sleep(usize::MAX, which)
    }

    /// The same of sessions that have about so many together, the ones next time that come after these.
    pub(in super::super) fn let_some_sleep(&mut self, most: usize, which: impl Fn(&Queue) -> bool) -> bool {
        let (groups, sessions, queues) = (&self.groups, &mut self.sessions, &mut self.queues);
        let groups = self.round.iter().filter_map(|place| groups.get(*place));
        // Those that are asleep then have no place among them any more.
        let (mut left, mut stay) = (most, core::mem::take(&mut self.sleeps_next));
        for place in groups.flat_map(|group| &group.turns).skip(stay) {
            if left == 0 {
                self.sleeps_next = stay;
                break;
            }
            let Some(served) = sessions.get_mut(*place) else { continue };
            left = left.saturating_sub(served.polled.len().max(1));
            served.polled.retain(|token| {
                let Some(queue) = queues.get_mut(*token) else { return false };
                let idle = match queue.duty {
                    Duty::Serve | Duty::Stop => which(queue),
                    Duty::Broken => true,
                };
                // True from `listen` means that something came before the driver could know that we want kicks.
                if !idle || queue.virtqueue.listen() {
                    return true;
                }
                queue.activity = Activity::Asleep;
                false
            });
            stay += usize::from(!served.polled.is_empty());
        }
        self.emptied = true;
        self.end_turns();
        self.round.is_empty()
    }
}

impl Queue {
    /// Its pair is not here.
    #[cold]
    pub(in super::super) fn go_away(&mut self, served: &mut Served) {
        self.activity = Activity::Away;
        served.changed = true;
    }

    /// Waits until its session may do more.
    pub(in super::super) fn hold(&mut self, served: &mut Served, now: Time) {
        self.activity = Activity::Held;
        self.held_since = now;
        served.changed = true;
    }
}
