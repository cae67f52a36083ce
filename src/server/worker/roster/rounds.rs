//! Rounds: whose turn it is, by group and by session, and what each owes for those that it had.

use nvme_platform::Time;

use super::super::shares::{self, FREE, Share, following, since};
use super::Roster;

/// What came of the debts while nobody without one has work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Forgiven {
    /// Nobody owes anything.
    None,
    /// One more may have a turn.
    Now,
    /// Others may come back soon, and have the time until then.
    Later,
}

/// See [`Roster::forgive_groups`]. `back`: what the visits of the round brought, and is taken back.
#[inline(never)]
fn forgive(
    mut shares: impl FnMut(&mut dyn FnMut(&mut Share)),
    back: i64,
    patient: bool,
    now: Time,
    waits_since: &mut Option<Time>,
) -> Forgiven {
    let (mut least, mut others) = (i64::MAX, false);
    shares(&mut |share| match share.debt() {
        Some(debt) => least = least.min(debt),
        None => others = true,
    });
    if least == i64::MAX {
        return Forgiven::None;
    }
    if patient && others && least > FREE {
        shares(&mut |share| share.unvisit(back));
        *waits_since = Some(now);
        return Forgiven::Later;
    }
    shares(&mut |share| share.forgive(least));
    Forgiven::Now
}

impl Roster {
    /// How many groups have a turn in a round.
    pub(in super::super) fn groups(&self) -> usize {
        self.round.len()
    }

    /// The session that alone has polled virtqueues, if one does. It owes nothing then.
    #[inline]
    pub(in super::super) fn alone(&mut self) -> Option<usize> {
        let [group] = self.round[..] else { return None };
        let group = self.groups.get_mut(group)?;
        let [session] = group.turns[..] else { return None };
        group.share = Share::default();
        self.sessions.get_mut(session)?.share = Share::default();
        Some(session)
    }

    /// Visits the next group: its place, and whether it may have a turn. While those who owe wait for others, a visit
    /// brings them nothing.
    pub(in super::super) fn next_group(&mut self, waits: bool) -> Option<(usize, bool)> {
        let place = following(&self.round, &mut self.next)?;
        Some((place, self.groups.get_mut(place)?.share.visit(shares::GROUP, waits)))
    }

    /// How many sessions of a group have a turn in a round of it.
    pub(in super::super) fn sessions(&self, group: usize) -> usize {
        self.groups.get(group).map_or(0, |group| group.turns.len())
    }

    /// Visits the next session of a group, likewise.
    pub(in super::super) fn next_session(&mut self, group: usize, waits: bool) -> Option<(usize, bool)> {
        let place = self.groups.get_mut(group)?.next()?;
        Some((place, self.sessions.get_mut(place)?.share.visit(shares::SESSION, waits)))
    }

    /// A session pays for a turn, and its group with it. Whether each of them may go on.
    pub(in super::super) fn pay(&mut self, session: usize, cost: i64) -> (bool, bool) {
        let Some(served) = self.sessions.get_mut(session) else { return (false, false) };
        let Some(group) = self.groups.get_mut(served.group) else { return (false, false) };
        served.share.pay(cost);
        group.share.pay(cost);
        (served.share.may(), group.share.may())
    }

    /// A session has nothing to do for now, and keeps no time for later.
    pub(in super::super) fn forfeit(&mut self, session: usize) {
        if let Some(served) = self.sessions.get_mut(session) {
            served.share.forfeit();
        }
    }

    /// No session of a group has anything to do for now, and the group keeps no time for later.
    pub(in super::super) fn forfeit_group(&mut self, group: usize) {
        if let Some(group) = self.groups.get_mut(group) {
            group.share.forfeit();
        }
    }

    /// No group without a debt has work, after a round in which those who owed waited or did not: forgives them as much as
    /// lets one more have a turn. If that is more than [`FREE`], and a group that owes nothing is there, they wait for it.
    pub(in super::super) fn forgive_groups(&mut self, waited: bool, patient: bool, now: Time) -> Forgiven {
        let groups = &mut self.groups;
        let shares = |each: &mut dyn FnMut(&mut Share)| {
            let places = self.round.iter();
            places.for_each(|place| groups.get_mut(*place).into_iter().for_each(|g| each(&mut g.share)));
        };
        let back = if waited { 0 } else { shares::GROUP };
        forgive(shares, back, patient, now, &mut self.waits_since)
    }

    /// The same among the sessions of a group.
    pub(in super::super) fn forgive_sessions(
        &mut self,
        group: usize,
        waited: bool,
        patient: bool,
        now: Time,
    ) -> Forgiven {
        let Some(group) = self.groups.get_mut(group) else { return Forgiven::None };
        let (sessions, turns) = (&mut self.sessions, &group.turns);
        let shares = |each: &mut dyn FnMut(&mut Share)| {
            turns
                .iter()
                .for_each(|place| sessions.get_mut(*place).into_iter().for_each(|s| each(&mut s.share)));
        };
        let back = if waited { 0 } else { shares::SESSION };
        forgive(shares, back, patient, now, &mut group.waits_since)
    }

    /// Groups that owe waited until now: that pays for as much. Whether any did.
    pub(in super::super) fn groups_waited(&mut self, now: Time) -> bool {
        let Some(begin) = self.waits_since.take() else { return false };
        for place in &self.round {
            if let Some(group) = self.groups.get_mut(*place) {
                group.share.forgive(since(begin, now));
            }
        }
        true
    }

    /// The same for the sessions of a group.
    pub(in super::super) fn sessions_waited(&mut self, group: usize, now: Time) -> bool {
        let Some(group) = self.groups.get_mut(group) else { return false };
        let Some(begin) = group.waits_since.take() else { return false };
        for place in &group.turns {
            if let Some(served) = self.sessions.get_mut(*place) {
                served.share.forgive(since(begin, now));
            }
        }
        true
    }

    /// Whether others have work as well as the sessions of this one's group, or had a moment ago: another group, or another
    /// session of it.
    pub(in super::super) fn is_shared(&self, session: usize) -> bool {
        let group = self.sessions.get(session).and_then(|served| self.groups.get(served.group));
        self.round.len() > 1 || group.is_some_and(|group| group.turns.len() > 1)
    }
}
