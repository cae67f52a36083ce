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

impl Server {
    /// Takes up the factories: the operator's, which are here by their words, and those of callers. The numbers of those that go on.
    pub(super) fn take_up_factories(
        &mut self,
        fixed: Vec<handover::Factory>,
        left: Vec<Leavings>,
        time: Time,
    ) -> BTreeSet<u64> {
        let mut known = BTreeSet::from([FactoryId::SERVER.number()]);
        for factory in fixed {
            let number = factory.number;
            match self.adopt_factory(factory, &mut Given::from(Vec::new()), time) {
                Ok(()) => drop(known.insert(number)),
                Err(why) => log::warn!(target: OPERATOR, "factory {number}: what is below it ends: {why}"),
            }
        }
        let mut kept: Vec<(String, (KeptFactory, Given, Shelf))> = Vec::new();
        for leavings in left {
            let name = leavings.name.clone();
            match leavings.factory() {
                Ok(factory) => kept.push((name, factory)),
                Err(why) => {
                    log::warn!(target: OPERATOR, "{name}: it ends with all below it: {why}");
                    self.let_go(name);
                }
            }
        }
        // No number is used twice, so that of a maker is lower.
        kept.sort_by_key(|(_, (document, ..))| document.factory.number);
        for (name, (document, given, shelf)) in kept {
            let KeptFactory { slot, factory } = document;
            let number = factory.number;
            let state = self.keep.as_mut().and_then(|keep| keep.board.take_again(slot, number));
            let kept = Kept { shelf, slot, name };
            let adopted = match state {
                None | Some(State::Gone) => Err(None),
                // The operator's are here already.
                Some(_) if factory.capability.is_some() || self.factory_of(number).is_ok() => {
                    Err(Some("it is another's here".to_owned()))
                }
                Some(_) if !known.contains(&factory.parent) => {
                    Err(Some(format!("factory {} has not gone on", factory.parent)))
                }
                Some(state) => self.take_up_factory(factory, given, time).map(|id| (id, state)).map_err(Some),
            };
            match adopted {
                Ok((id, state)) => {
                    if let Some(post) = self.posts.get_mut(&id) {
                        post.kept = Some(kept);
                    }
                    match self.is_held_still(id, state) {
                        Ok(()) => drop(known.insert(number)),
                        Err(why) => self.take_back(id, &why),
                    }
                }
                Err(why) => self.factory_not_taken_up(number, kept, state.is_none(), why, time),
            }
        }
        known
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

    /// One of them does not go on. `others`: its place is another's.
    fn factory_not_taken_up(
        &mut self,
        number: u64,
        kept: Kept,
        others: bool,
        why: Option<String>,
        time: Time,
    ) {
        if let Some(why) = why {
            log::warn!(target: OPERATOR, "{}: it ends with all below it: {why}", kept.name);
            let record = Record { factory: Some(number), ..Record::of(audit::Event::End) };
            self.note(Record { why: Some(why), ..record }, time);
        }
        match &mut self.keep {
            Some(keep) if !others => keep.forget(&kept),
            _ => self.let_go(kept.name.clone()),
        }
        kept.dispose();
    }
}
