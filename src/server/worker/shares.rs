//! Whose turn it is, by what the turns before cost: deficit round robin over groups, and in each group over its sessions.
//!
//! Groups are visited one after the other, and in each its sessions. With a visit comes some time ([`GROUP`], [`SESSION`]),
//! and what a turn cost is paid afterwards, because nobody knows it before: who went beyond is in debt, and is passed over
//! until the visits have paid for it. Who has nothing to do keeps no time for later, and keeps its debt. So whoever has
//! something to do has the same share of the worker's time as others have, whatever a turn of it costs, and whatever it asks
//! for: first as a group, then as a session in it.
//!
//! While nobody else has work a debt is forgiven, so that no time is wasted, but not at once where somebody else is *there*, that is,
//! had work a moment ago: a driver with one request at a time is gone for as long as it takes to ask for the next one, and would
//! find a long turn of somebody else's before each. So who owes more than a short turn's time ([`FREE`]) pays with the worker's idle
//! time first.

use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::Time;

use super::super::message::GroupKey;

/// What a visit brings a group, in nanoseconds.
pub(super) const GROUP: i64 = 20_000;
/// What a visit brings a session, in nanoseconds: less than most turns take, so that the next one comes soon.
pub(super) const SESSION: i64 = 4_000;
/// A debt that is forgiven at once while nobody has work: about what a turn takes, and so what others may find in their way anyhow.
pub(super) const FREE: i64 = 8_000;
/// A turn that took longer, in nanoseconds, and in which memory had to be brought, is one too many: five passes.
pub(super) const OVERRUN: i64 = 1_000_000;
/// The most that is owed. A turn that took longer met with something that is not the session's doing, as a rule: somebody
/// stopped the machine.
pub(super) const DEBT_MAX: i64 = 4_000_000;

/// The time that a session, or a group of them, may use, or that it owes: nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Share {
    left: i64,
}

impl Share {
    /// It is visited. Whether it may have a turn. Who owes and waits for others is brought nothing.
    pub(super) fn visit(&mut self, time: i64, waits: bool) -> bool {
        if self.left >= 0 || !waits {
            self.left = (self.left + time).min(time);
        }
        self.may()
    }

    /// Whether it may have a turn, or go on with one.
    pub(super) fn may(&self) -> bool {
        self.left > 0
    }

    /// Pays for a turn.
    pub(super) fn pay(&mut self, cost: i64) {
        self.left = self.left.saturating_sub(cost).max(-DEBT_MAX);
    }

    /// It was visited, and that is taken back: it is to wait for others.
    pub(super) fn unvisit(&mut self, time: i64) {
        if self.left < 0 {
            self.left -= time;
        }
    }

    /// It has nothing to do, and keeps nothing.
    pub(super) fn forfeit(&mut self) {
        self.left = self.left.min(0);
    }

    /// What it owes, if it owes anything.
    pub(super) fn debt(&self) -> Option<i64> {
        (self.left < 0).then_some(-self.left)
    }

    /// So much of what it owes is paid for, or forgiven.
    pub(super) fn forgive(&mut self, time: i64) {
        self.left = self.left.max(self.left.saturating_add(time).min(0));
    }
}

/// The sessions of one top-level factory, or one static client's, as far as this worker serves them.
pub(super) struct Group {
    pub(super) key: GroupKey,
    pub(super) share: Share,
    /// How many sessions it has here.
    pub(super) sessions: usize,
    /// The places of those that have polled virtqueues.
    pub(super) turns: Vec<usize>,
    /// Which of these is visited next.
    next: usize,
    /// Since when those of them that owe wait for others of them.
    pub(super) waits_since: Option<Time>,
    /// When one of its sessions was last let out of a line, counted.
    pub(super) let_in: u64,
}

impl Group {
    pub(super) fn new(key: GroupKey) -> Self {
        Self {
            key,
            share: Share::default(),
            sessions: 0,
            turns: Vec::new(),
            next: 0,
            waits_since: None,
            let_in: 0,
        }
    }

    /// The session to be visited next. Others come first then.
    pub(super) fn next(&mut self) -> Option<usize> {
        following(&self.turns, &mut self.next)
    }
}

/// The next of a list that is gone round, wherever it was changed meanwhile.
pub(super) fn following(list: &[usize], next: &mut usize) -> Option<usize> {
    if *next >= list.len() {
        *next = 0;
    }
    let found = list.get(*next).copied();
    *next += 1;
    found
}

/// How much later the second is, as turns are paid with it.
#[inline]
pub(super) fn since(earlier: Time, later: Time) -> i64 {
    i64::try_from(later.as_nanos().saturating_sub(earlier.as_nanos())).unwrap_or(i64::MAX)
}

/// A length of time as turns are paid with it.
pub(super) fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_cost_more_is_followed_by_none_until_it_is_paid_for() {
        let mut share = Share::default();
        assert!(share.visit(SESSION, false));
        share.pay(3 * SESSION + 1);
        assert_eq!((share.may(), share.debt()), (false, Some(2 * SESSION + 1)));
        assert!(
            !share.visit(SESSION, false) && !share.visit(SESSION, false) && share.visit(SESSION, false),
            "three visits pay for it"
        );
        assert_eq!(share.left, SESSION - 1);
    }

    #[test]
    fn while_others_are_waited_for_visits_pay_for_nothing() {
        let mut share = Share::default();
        share.pay(2 * SESSION);
        assert!((0..10).all(|_| !share.visit(SESSION, true)));
        assert_eq!(share.debt(), Some(2 * SESSION));
        share.visit(SESSION, false);
        share.unvisit(SESSION);
        assert_eq!(share.debt(), Some(2 * SESSION));
        share.forgive(2 * SESSION);
        assert!(share.visit(SESSION, true), "it owes nothing any more");
        share.unvisit(SESSION);
        assert!(share.may(), "who owes nothing does not wait");
    }

    #[test]
    fn who_has_nothing_to_do_keeps_no_time_and_what_it_owes() {
        let mut share = Share::default();
        for _ in 0..5 {
            share.visit(SESSION, false);
        }
        assert_eq!(share.left, SESSION);
        share.forfeit();
        assert_eq!(share.left, 0);
        share.pay(7);
        share.forfeit();
        assert_eq!(share.debt(), Some(7));
        share.forgive(3);
        assert_eq!(share.debt(), Some(4));
        share.forgive(9);
        assert_eq!((share.left, share.may()), (0, false));
        share.visit(SESSION, false);
        share.forgive(9);
        assert_eq!(share.left, SESSION, "who owes nothing is forgiven nothing");
    }

    #[test]
    fn nothing_makes_a_debt_that_outlasts_the_most() {
        let mut share = Share::default();
        share.pay(i64::MAX);
        share.pay(i64::MAX);
        assert_eq!(share.debt(), Some(DEBT_MAX));
    }

    #[test]
    fn a_list_is_gone_round_however_it_changes() {
        let mut next = 0;
        assert_eq!([(); 3].map(|()| following(&[4, 5], &mut next)), [Some(4), Some(5), Some(4)]);
        assert_eq!(following(&[4], &mut next), Some(4));
        assert_eq!(following(&[], &mut next), None);
    }
}
