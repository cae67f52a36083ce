//! Sessions with limits: what is taken from their virtqueues is counted, and who has used up what it may do waits.

use alloc::sync::Arc;

use nvme_platform::Time;

use super::super::message::SessionKey;
use super::Worker;
use super::earlier;
use super::roster::{Activity, Duty};
use super::turns::Turn;

impl Worker {
    /// Takes from a virtqueue of a session with limits, as many requests as they allow. How many units that came to.
    #[cold]
    #[inline(never)]
    pub(super) fn take_limited(
        &mut self,
        token: usize,
        pair: Option<usize>,
        turn: &Turn,
        now: Time,
        its_turn: bool,
    ) -> u32 {
        let mut units = 0;
        loop {
            let left = turn.allows(u32::MAX).saturating_sub(units);
            let Some((queue, served)) = self.roster.with_session(token) else { break };
            if left == 0 {
                break;
            }
            let limits = Arc::clone(&served.limits);
            if !queue.virtqueue.has_work() {
                if !self.roster.has_more(token) {
                    limits.give_back(now);
                }
                break;
            }
            let allowed = match limits.may(now) {
                Ok(allowed) => allowed,
                Err(until) => {
                    queue.hold(served, now);
                    self.held.push((until, token));
                    self.held_until = earlier(self.held_until, Some(until));
                    break;
                }
            };
            let requests = if allowed.singly { 1 } else { allowed.requests };
            let most = u32::try_from(requests).unwrap_or(u32::MAX).min(left);
            queue.piece = limits.piece();
            queue.virtqueue.goes_on(now);
            let taken = self.take_counted(token, pair, &Turn::of(most), now, its_turn);
            let Some(queue) = self.roster.get_mut(token) else { break };
            units += taken;
            if taken == 0 || queue.duty != Duty::Serve || queue.activity == Activity::InLine {
                break;
            }
        }
        units
    }

    /// Takes what a virtqueue of such a session has begun that stops, or is broken: all of it, and its session pays for it. Whoever stops its
    /// virtqueues in the middle of long requests has no more by that. How many units that came to.
    #[cold]
    #[inline(never)]
    pub(super) fn take_begun(
        &mut self,
        token: usize,
        pair: Option<usize>,
        turn: &Turn,
        now: Time,
        its_turn: bool,
    ) -> u32 {
        if let Some(queue) = self.roster.get_mut(token) {
            queue.piece = u64::MAX;
        }
        self.take_counted(token, pair, turn, now, its_turn)
    }

    /// Takes from a virtqueue, and counts it for what its session may do.
    fn take_counted(
        &mut self,
        token: usize,
        pair: Option<usize>,
        turn: &Turn,
        now: Time,
        its_turn: bool,
    ) -> u32 {
        let Some((queue, served)) = self.roster.with_session(token) else { return 0 };
        let limits = Arc::clone(&served.limits);
        let before = (queue.virtqueue.next_avail(), queue.virtqueue.bytes_begun());
        let taken = self.take_some(token, pair, turn, now, its_turn);
        if let Some(queue) = self.roster.get_mut(token) {
            let after = (queue.virtqueue.next_avail(), queue.virtqueue.bytes_begun());
            limits.take(after.0.wrapping_sub(before.0).into(), after.1.wrapping_sub(before.1), now);
        }
        taken
    }

    /// Whose time has come has turns again.
    pub(super) fn release_held(&mut self, now: Time) {
        let (roster, mut next) = (&mut self.roster, None);
        self.held.retain(|(until, token)| {
            if *until > now {
                next = earlier(next, Some(*until));
                return true;
            }
            roster.release(*token, now);
            false
        });
        self.held_until = next;
    }

    /// A virtqueue waits no more for what its session may do.
    pub(super) fn release(&mut self, token: usize, now: Time) {
        self.held.retain(|(_, held)| *held != token);
        self.roster.release(token, now);
    }

    /// A session's limits have changed.
    pub(super) fn limits_changed(&mut self, session: SessionKey, now: Time) {
        self.roster.look_at_limits(session);
        for token in self.roster.tokens_of(session) {
            self.release(token, now);
        }
    }
}
