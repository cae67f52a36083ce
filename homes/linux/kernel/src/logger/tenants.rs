//! On whose behalf a line is written: one tenant's lines are a share of all, so that its flood hides nobody else's.

use std::cell::Cell;
use std::collections::BTreeMap;

use nvme_platform::Time;

use super::limit::RateLimit;

/// Refusals of one tenant in a second: fewer than half of all.
pub const TENANT_BURST: u32 = 4;
/// Other lines about one tenant in a second.
pub const TENANT_BURST_OTHER: u32 = 20;
/// Tenants that are remembered: as many factories as there can be, and those that have just gone.
const REMEMBERED: usize = 128;

thread_local! {
    static TENANT: Cell<u64> = const { Cell::new(0) };
}

/// From here on this thread's lines are about that tenant, by the number of its factory; 0: about nobody in particular.
pub fn speak_of(tenant: u64) {
    TENANT.set(tenant);
}

#[derive(Debug)]
struct Share {
    refusals: RateLimit,
    others: RateLimit,
    last: Time,
}

/// What each tenant may still say.
#[derive(Debug, Default)]
pub(super) struct Tenants(BTreeMap<u64, Share>);

impl Tenants {
    /// Whether a line of this thread may be written, as far as its tenant goes; and of which tenant how many were not.
    pub(super) fn allow(&mut self, refusal: bool, now: Time) -> (bool, Option<(u64, u64)>) {
        let tenant = TENANT.get();
        if tenant == 0 {
            return (true, None);
        }
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&tenant) {
            // Factories come and go; who said something long ago begins anew.
            let oldest = self.0.iter().min_by_key(|(_, share)| share.last).map(|(tenant, _)| *tenant);
            oldest.and_then(|tenant| self.0.remove(&tenant));
        }
        let share = self.0.entry(tenant).or_insert_with(|| Share {
            refusals: RateLimit::new(TENANT_BURST),
            others: RateLimit::new(TENANT_BURST_OTHER),
            last: now,
        });
        share.last = now;
        let (allowed, missed) = if refusal { share.refusals.allow(now) } else { share.others.allow(now) };
        (allowed, (missed > 0).then_some((tenant, missed)))
    }

    /// Of which tenants how many lines were not written, since this was last said.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let missed = |share: &mut Share| share.refusals.rest().saturating_add(share.others.rest());
        self.0
            .iter_mut()
            .map(move |(tenant, share)| (*tenant, missed(share)))
            .filter(|(_, missed)| *missed > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_a_share_of_its_own_and_others_have_theirs() {
        let at = |millis: u64| Time::from_nanos(millis * 1_000_000);
        let mut tenants = Tenants::default();
        let mut passed = |tenant, refusal, millis| {
            speak_of(tenant);
            (0..100).filter(|_| tenants.allow(refusal, at(millis)).0).count()
        };
        assert_eq!([passed(1, true, 5000), passed(1, false, 5001), passed(1, true, 5999)], [4, 20, 0]);
        assert_eq!([passed(2, true, 5000), passed(0, true, 5000)], [4, 100]);
        // Factories without end are remembered up to a bound.
        for tenant in 3..1000 {
            assert_eq!(passed(tenant, true, 6000), 4);
        }
        speak_of(2);
        let (allowed, missed) = tenants.allow(true, at(7000));
        assert!(allowed && missed.is_none(), "it was forgotten: {missed:?}");
        assert!(tenants.0.len() <= REMEMBERED);
        speak_of(999);
        assert_eq!(tenants.allow(true, at(7000)), (true, Some((999, 96))));
        speak_of(0);
    }
}
