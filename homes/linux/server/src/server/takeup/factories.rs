//! Factories that a server left that was killed.
//!
//! Makers come before what they made, and all of them before sessions. One that does not go on ends with all below it: whatever names it finds
//! nobody of that number among those that did.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use nvme_audit as audit;
use nvme_audit::Record;
use nvme_handover as handover;
use nvme_handover::KeptFactory;
use nvme_linux::factory::Caller;
use nvme_linux::keep::Shelf;
use nvme_linux::logger::OPERATOR;
use nvme_platform::Time;
use nvme_policy::Errno;
use nvme_session::factory::FactoryId;

use super::super::waiting::refused;
use super::super::{CLOSED, Server, Watched};
use crate::keep::{Kept, Leavings, State, has_hung_up};
use crate::upgrade::Given;

/// A factory that was left: its document, with what it names, and where it lies.
pub(in super::super) struct LeftFactory {
    pub(super) name: String,
    state: State,
    pub(super) document: KeptFactory,
    given: Given,
    pub(super) shelf: Shelf,
}

impl Server {
    /// Whether what a factory holds is still to be scanned.
    pub(super) fn is_late(&self, factory: &handover::Factory) -> bool {
        let mut devices = factory.holdings.iter().filter_map(|held| held.device.as_ref());
        devices.any(|device| self.is_awaited(&device.serial))
    }

    /// Takes up the operator's factories, which are here by their words; those are returned for which it is too early. `known`, `late`: the
    /// numbers of those that go on, and of those.
    pub(super) fn take_up_fixed(
        &mut self,
        fixed: Vec<handover::Factory>,
        known: &mut BTreeSet<u64>,
        late: &mut BTreeSet<u64>,
        time: Time,
    ) -> Vec<handover::Factory> {
        let mut later = Vec::new();
        for factory in fixed {
            let number = factory.number;
            if self.is_late(&factory) {
                late.insert(number);
                later.push(factory);
                continue;
            }
            match self.adopt_factory(factory, &mut Given::from(Vec::new()), time) {
                Ok(()) => drop(known.insert(number)),
                Err(why) => log::warn!(target: OPERATOR, "factory {number}: what is below it ends: {why}"),
            }
        }
        later
    }

    /// What was kept of callers' factories, makers before what they made. The place of each that lives is claimed.
    pub(super) fn read_factories(&mut self, left: Vec<Leavings>) -> Vec<LeftFactory> {
        let mut factories: Vec<LeftFactory> = Vec::new();
        for leavings in left {
            let name = leavings.name.clone();
            match leavings.factory() {
                Ok((document, given, shelf)) => {
                    let (slot, number) = (document.slot, document.factory.number);
                    let state = self.keep.as_mut().and_then(|keep| keep.board.take_again(slot, number));
                    match state {
                        None | Some(State::Gone) => self.let_go(name),
                        Some(state) => factories.push(LeftFactory { name, state, document, given, shelf }),
                    }
                }
                Err(why) => {
                    log::warn!(target: OPERATOR, "{name}: it ends with all below it: {why}");
                    self.let_go(name);
                }
            }
        }
        // No number is used twice, so that of a maker is lower.
        factories.sort_by_key(|left| left.document.factory.number);
        factories
    }

    /// Factories go on, or end; those are returned for which it is too early. `known`, `late`: as above.
    pub(super) fn take_up_factories(
        &mut self,
        left: Vec<LeftFactory>,
        known: &mut BTreeSet<u64>,
        late: &mut BTreeSet<u64>,
        time: Time,
    ) -> Vec<LeftFactory> {
        let mut later: Vec<LeftFactory> = Vec::new();
        for left in left {
            let factory = &left.document.factory;
            if late.contains(&factory.parent) || self.is_late(factory) {
                late.insert(factory.number);
                later.push(left);
                continue;
            }
            let LeftFactory { name, state, document: KeptFactory { slot, factory }, given, shelf } = left;
            let number = factory.number;
            let kept = Kept { shelf, slot, name };
            // The operator's are here already.
            let adopted = if factory.capability.is_some() || self.factory_of(number).is_ok() {
                Err("it is another's here".to_owned())
            } else if !known.contains(&factory.parent) {
                Err(format!("factory {} has not gone on", factory.parent))
            } else {
                self.take_up_factory(factory, given, time)
            };
            match adopted {
                Ok(id) => {
                    if let Some(post) = self.posts.get_mut(&id) {
                        post.kept = Some(kept);
                    }
                    match self.is_held_still(id, state) {
                        Ok(()) => drop(known.insert(number)),
                        Err(why) => self.take_back(id, &why),
                    }
                }
                Err(why) => self.factory_not_taken_up(number, kept, why, time),
            }
        }
        later
    }

    /// One of them goes on.
    fn take_up_factory(
        &mut self,
        factory: handover::Factory,
        mut given: Given,
        time: Time,
    ) -> Result<FactoryId, String> {
        let number = factory.number;
        let adopted = self.adopt_factory(factory, &mut given, time);
        let known = self.factory_of(number);
        if adopted.is_err()
            && let Ok(id) = known
        {
            self.control.end_factory(id);
        }
        adopted.and(known)
    }

    /// Whether somebody has its capability, and who was about to be answered is.
    fn is_held_still(&mut self, id: FactoryId, state: State) -> Result<(), String> {
        let Some(post) = self.posts.get(&id) else { return Err("it has no place".into()) };
        if post.lifetime.as_ref().is_none_or(|lifetime| has_hung_up(lifetime.as_fd())) {
            return Err(CLOSED.into());
        }
        let Some(token) = post.connection else { return Ok(()) };
        let Some(Watched::Caller(caller, ..)) = self.watched.get_mut(&token) else {
            return Err(CLOSED.into());
        };
        let caller: &mut Caller = caller;
        if has_hung_up(caller.as_fd()) {
            return Err(CLOSED.into());
        }
        match state {
            State::Asks => {
                let refusal = refused(Errno::Again, "the server was killed; ask again");
                caller.reply(Err(&refusal)).map_err(|why| why.to_string())
            }
            State::Says => Err("its caller was being heard or answered, and nobody knows which".into()),
            State::Told | State::Gone => Ok(()),
        }
    }

    /// One of them does not go on.
    fn factory_not_taken_up(&mut self, number: u64, kept: Kept, why: String, time: Time) {
        log::warn!(target: OPERATOR, "{}: it ends with all below it: {why}", kept.name);
        let record = Record { factory: Some(number), ..Record::of(audit::Event::End) };
        self.note(Record { why: Some(why), ..record }, time);
        if let Some(keep) = &mut self.keep {
            keep.forget(&kept);
        }
        kept.dispose();
    }
}
