//! How much sessions may do a second.

use alloc::sync::Arc;

use nvme_policy::Rate;
use nvme_session::factory::Minted;

use super::super::limits::{Limits, Pool};
use super::super::message::{SessionKey, ToWorker};
use super::{Control, SessionError};

impl Control {
    /// What bounds a session that is being minted: its policy, and what its factories allow to all their sessions together.
    pub(super) fn limits_of(&mut self, minted: &Minted) -> Arc<Limits> {
        let (pools, catalogue) = (&mut self.pools, &self.catalogue);
        let bounded = catalogue.ceilings(minted.factory()).filter(|(_, ceiling)| ceiling.all() != Rate::NONE);
        let above = bounded.map(|(id, ceiling)| {
            Arc::clone(pools.entry(id).or_insert_with(|| Arc::new(Pool::new(ceiling.all()))))
        });
        Arc::new(Limits::new(minted.policy().rate(), above.collect()))
    }

    /// Bounds a session by this from now on, whatever it was minted with. What its factories allow to all their sessions together still holds.
    pub fn limit(&mut self, key: SessionKey, rate: Rate) -> Result<(), SessionError> {
        let session = self.live(key)?;
        session.limits.set_rate(rate);
        self.tell_workers(key, || ToWorker::Limit(key));
        Ok(())
    }
}
