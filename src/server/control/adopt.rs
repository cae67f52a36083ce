//! Sessions that another server minted go on here.

use nvme_platform::debug;
use nvme_policy::{Policy, Rate};
use nvme_session::factory::{CreateError, FactoryId, Placed};

use super::super::message::SessionKey;
use super::{Control, SessionError};

/// A session that another server minted.
#[derive(Clone, Copy, Debug)]
pub struct Adopted<'a> {
    /// Its number.
    pub number: u64,
    /// What it may do.
    pub policy: &'a Policy,
    /// Which factory minted it.
    pub factory: FactoryId,
    /// Where it is.
    pub at: &'a Placed,
    /// It is a static client's.
    pub is_static: bool,
    /// How much it may do a second: the operator may have changed that.
    pub rate: Rate,
}

impl Control {
    /// Goes on with a session that another server minted. Its client's memory is registered, and its queues are started, as at first.
    pub fn adopt(&mut self, adopted: &Adopted<'_>) -> Result<SessionKey, CreateError> {
        let Adopted { number, policy, factory, at, is_static, rate } = *adopted;
        let minted = self.catalogue.adopt(number, policy, factory, at, is_static)?;
        let key = self.enter(minted, is_static);
        if let Some(session) = self.sessions.get(&key) {
            session.limits.set_rate(rate);
        }
        debug!("session {}: goes on", key.0);
        Ok(key)
    }

    /// Goes on from what another server counted of a virtqueue of such a session. False: these are no counts.
    pub fn adopt_counts(&mut self, key: SessionKey, index: u16, words: &[u64]) -> bool {
        self.sessions.get_mut(&key).is_some_and(|session| session.counts(index).go_on_from(words))
    }

    /// What the driver of such a session acknowledged, and the cache mode that it chose. Refused once queues run, and when a feature is not
    /// offered here.
    pub fn adopt_features(
        &mut self,
        key: SessionKey,
        features: u64,
        write_back: bool,
    ) -> Result<(), SessionError> {
        self.set_features(key, features)?;
        self.live(key)?.set_write_back(write_back);
        Ok(())
    }
}
