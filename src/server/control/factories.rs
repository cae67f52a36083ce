//! Factories: sessions minted through them, factories made by them, and how one is taken back.

use nvme_platform::debug;
use nvme_policy::{FactoryRequest, SessionRequest};
use nvme_session::dataspace::{Plan, RegistryError};
use nvme_session::factory::{CreateError, FactoryId};

use super::super::message::SessionKey;
use super::session::Session;
use super::{Control, Event, SessionError};

impl Control {
    /// Mints a session for a client of that factory.
    pub fn create_at(
        &mut self,
        factory: FactoryId,
        asked: &SessionRequest,
    ) -> Result<SessionKey, CreateError> {
        let minted = self.catalogue.create_at(factory, asked)?;
        Ok(self.enter(minted, false))
    }

    /// Makes a factory that holds a part of what that one holds.
    pub fn delegate(&mut self, factory: FactoryId, asked: &FactoryRequest) -> Result<FactoryId, CreateError> {
        let made = self.catalogue.delegate(factory, asked)?;
        debug!("factory {}: made by factory {}", made.number(), factory.number());
        Ok(made)
    }

    /// Takes a factory back: nothing more is minted through it, and everything that was ends, sessions and factories. Ends in
    /// [`Event::FactoryEnded`], for what is below it first.
    pub fn end_factory(&mut self, id: FactoryId) {
        debug!("factory {}: is taken back", id.number());
        for session in self.catalogue.end_factory(id) {
            self.end(SessionKey(session.number()));
        }
        self.factories_ended();
    }

    /// Says which factories have gone.
    pub(super) fn factories_ended(&mut self) {
        for id in self.catalogue.take_ended_factories() {
            debug!("factory {}: has ended", id.number());
            self.pools.remove(&id);
            self.events.push_back(Event::FactoryEnded(id));
        }
    }

    /// Whether a change of a session's memory leaves what the factories above it allow to all their sessions together. As in a session's
    /// own bound, what this very change takes away does not count, and what is leaving otherwise does.
    pub(super) fn memory_allowed(&self, key: SessionKey, plan: &Plan) -> Result<(), SessionError> {
        let session = self.sessions.get(&key).ok_or(SessionError::Ended)?;
        let new = plan.new_regions().iter().map(|r| r.claim.len).fold(0, u64::saturating_add);
        if new == 0 {
            return Ok(());
        }
        self.within_factories(session, new, session.registry.bytes_in(plan.removed()))
    }

    /// The session has so many bytes of its client's memory that are no regions, in place of what it had before. They count with them.
    pub fn reserve_memory(&mut self, key: SessionKey, bytes: u64) -> Result<(), SessionError> {
        let session = self.sessions.get(&key).ok_or(SessionError::Ended)?;
        self.within_factories(session, bytes, session.registry.reserved())?;
        self.live(key)?.registry.reserve(bytes).map_err(SessionError::Memory)
    }

    /// Whether the factories above a session allow it so many bytes more, and so many less.
    fn within_factories(&self, session: &Session, new: u64, goes: u64) -> Result<(), SessionError> {
        for (id, ceiling) in self.catalogue.ceilings(session.minted().factory()) {
            let Some(allowed) = ceiling.memory().map(u64::from) else { continue };
            let below = self.sessions.values().filter(|s| self.catalogue.is_below(s.minted().factory(), id));
            let held = below.map(|s| s.registry.bytes()).fold(0, u64::saturating_add);
            let asked = held.saturating_add(new).saturating_sub(goes);
            if asked > allowed {
                return Err(SessionError::Memory(RegistryError::TooMuchMemory { asked, allowed }));
            }
        }
        Ok(())
    }
}
