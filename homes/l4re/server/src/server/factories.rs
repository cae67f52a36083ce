//! Attenuated factories: gates through which a part of what there is can be had, and how they are taken back.
//!
//! Whoever has the right S to such a gate mints; whoever has D deletes it, and that is how a factory is taken back: nothing more is minted
//! from that moment, and everything that was minted through it ends, the factories made by it too. The server deletes their gates.
//! A gate that nobody has any more is gone as well, except one of `--factory`, which the server was given: that one ends by deletion only.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use nvme_l4re::kernel::{Cap, HandOut, L4Error};
use nvme_platform::Time;
use nvme_policy::{Dataspaces, FactoryRequest, Shown, Tag, Trusted};
use nvme_session::factory::{CreateError, FactoryId};
use slab::Slab;

use super::Server;
use super::calls::{Fresh, Outcome};
use super::patience::PATIENCE;
use crate::label::{Number, Source};
use crate::message::{code, hand_out, number, refusal};
use crate::output::{Budget, Level};
use crate::{Kernel, Output, StartError};

/// A factory, as those know it who have its gate.
pub(super) struct Post {
    number: Number,
    pub(super) id: FactoryId,
    /// For the log: `factory 3` or `factory t1`.
    pub(super) name: String,
    gate: Cap,
    /// Whether the gate is served; one that was given is not before the scan is over.
    served: bool,
    /// It was taken back, and what was minted through it goes.
    ending: bool,
    /// The lines that its callers and their sessions may cause, and those of what it made: where it stands right below the server's own.
    budget: Budget,
}

impl<K: Kernel, O: Output> Server<K, O> {
    /// A factory of the command line, on the gate that it was given.
    pub(super) fn fixed_factory(&mut self, cap: &str, asked: &FactoryRequest) -> Result<(), StartError> {
        let name: String = cap.into();
        let Some(gate) = self.kernel.named(cap) else { return Err(StartError::NoFactory(name)) };
        let id = self.control.catalogue_mut().delegate_at_start(asked);
        let id = id.map_err(|why| StartError::NotMade(name, why))?;
        self.add_post(id, format!("factory {cap}"), Some(gate));
        Ok(())
    }

    fn add_post(&mut self, id: FactoryId, name: String, given: Option<Cap>) -> Option<(Number, Cap)> {
        self.serial = self.serial.wrapping_add(1);
        let number = Number::new(self.posts.vacant_key(), self.serial);
        let gate = given.or_else(|| self.kernel.gate(Source::Post(number).label()).ok())?;
        self.posts.insert(Post {
            number,
            id,
            name,
            gate,
            served: given.is_none(),
            ending: false,
            budget: Budget::default(),
        });
        Some((number, gate))
    }

    /// Which factory a gate of ours stands for, as long as it was not taken back.
    pub(super) fn factory_of(&self, post: Number) -> Option<FactoryId> {
        let found = self.posts.get(post.slot());
        found.filter(|post_found| post_found.number == post && !post_found.ending).map(|found| found.id)
    }

    /// Whether it is the gate of a factory that we made.
    pub(super) fn is_post(&self, cap: Cap) -> bool {
        self.posts.iter().any(|(_, post)| !post.ending && self.kernel.same(post.gate, cap))
    }

    /// How a factory is called in lines about its callers.
    pub(super) fn post_name(&self, at: FactoryId) -> &str {
        self.posts.iter().find(|(_, post)| post.id == at).map_or("svr", |(_, post)| &post.name)
    }

    /// Says that a caller of a factory, or a session that was minted through it, was refused something. No tenant's callers can keep
    /// lines about another's back, nor have more lines by making factories.
    pub(super) fn refuse_at(&mut self, at: FactoryId, now: Time, line: core::fmt::Arguments<'_>) {
        let tenant = self.control.catalogue().top_of(at);
        let post = self.posts.iter_mut().find(|(_, post)| post.id == tenant);
        match post {
            Some((_, post)) => self.lines.refuse_of(&mut post.budget, now, line),
            None => self.lines.refuse(now, line),
        }
    }

    /// The trusted dataspaces that can be named there.
    pub(super) fn trusted_at(&self, at: FactoryId) -> Trusted<'_, String> {
        let factory = self.control.catalogue().factory(at);
        let held = factory.map_or(Dataspaces::ALL, |factory| factory.ceiling().dataspaces());
        Trusted { names: &self.trusted_names, held }
    }

    /// A factory for a client of one.
    pub(super) fn delegate(
        &mut self,
        at: FactoryId,
        asked: &FactoryRequest,
        since: Time,
        now: Time,
    ) -> Outcome {
        // Whoever asks may know of an end before we were told.
        self.check_gates();
        let refused = match self.control.delegate(at, asked) {
            Ok(id) => {
                let room = self.has_slots(1) && self.kernel.has_reserve();
                let shown = |tag: &Tag| format!(" {}", Shown::new(tag.as_str().as_bytes()));
                let tag = asked.tag().map_or_else(String::new, shown);
                let name = format!("factory {}{tag}", id.number());
                let made = if room { self.add_post(id, name, None) } else { None };
                let Some((post, gate)) = made else {
                    self.control.end_factory(id);
                    self.control_at = Some(Time::default());
                    let name = self.post_name(at).to_string();
                    self.refuse_at(at, now, format_args!("{name}: create refused: no room for a factory"));
                    return Outcome::Reply(refusal(L4Error::NOMEM));
                };
                self.tell_post(id);
                return Outcome::Minted(hand_out(number(0), gate, HandOut::Rwsd), Fresh::Factory(post));
            }
            Err(why) => why,
        };
        let wait = match &refused {
            CreateError::Scanning => self.control.scanned(),
            CreateError::NoDevice(_) => at == FactoryId::SERVER && self.anybody_leaves(),
            CreateError::UsedUp { above, .. } => self.leaves_below(*above),
            CreateError::NoRoomForFactory { .. } => self.anybody_leaves(),
            _ => false,
        };
        if wait && now - since < PATIENCE {
            return Outcome::Wait;
        }
        let name = self.post_name(at).to_string();
        self.refuse_at(at, now, format_args!("{name}: create refused: {refused}"));
        Outcome::Reply(refusal(code(refused.errno())))
    }

    /// Whether something goes, so that there is more soon.
    pub(super) fn anybody_leaves(&self) -> bool {
        self.sessions.iter().any(|(_, s)| s.ending) || self.posts.iter().any(|(_, post)| post.ending)
    }

    /// The same of what came of a factory. Of others' ends a caller is not to learn by how long it waits.
    pub(super) fn leaves_below(&self, above: FactoryId) -> bool {
        let below = |at: FactoryId| self.control.catalogue().is_below(at, above);
        self.sessions.iter().any(|(_, s)| s.ending && below(s.factory))
            || self.posts.iter().any(|(_, post)| post.ending && below(post.id))
    }

    /// Says what a factory holds.
    fn tell_post(&mut self, id: FactoryId) {
        let Some(factory) = self.control.catalogue().factory(id) else { return };
        let devices: Vec<String> = factory
            .devices()
            .map(|d| format!("{}{}", d.name, if d.extent.is_none() { " (not there)" } else { "" }))
            .collect();
        let access = factory.ceiling().access();
        let (name, devices) = (self.post_name(id).to_string(), devices.join(", "));
        self.lines.say(Level::Info, format_args!("{name}: {devices}, {access}"));
    }

    /// From now on calls of the factories of the command line arrive. Until then they wait.
    pub(super) fn serve_fixed_factories(&mut self) {
        let waiting = self.posts.iter().filter(|(_, post)| !post.served && !post.ending);
        let waiting: Vec<usize> = waiting.map(|(at, _)| at).collect();
        for at in waiting {
            let Some(post) = self.posts.get_mut(at) else { continue };
            post.served = true;
            let Post { id, name, gate, number, .. } = post;
            let id = *id;
            if let Err(why) = self.kernel.serve(*gate, Source::Post(*number).label()) {
                let line = format_args!("{name}: it cannot be served: {why}; give it as :svr()");
                self.lines.say(Level::Error, line);
                continue;
            }
            let name = name.clone();
            let factory = self.control.catalogue().factory(id);
            for (_, why) in factory.into_iter().flat_map(|factory| factory.unbound()) {
                let line = format_args!("{name}: {why}; it can be had when that changes");
                self.lines.say(Level::Warn, line);
            }
            self.tell_post(id);
        }
    }

    /// Takes back the factories whose gates were deleted, or are had by nobody any more.
    pub(super) fn check_posts(&mut self) {
        let gone = |post: &Post| !post.ending && !self.kernel.valid(post.gate);
        let gone: Vec<usize> = self.posts.iter().filter(|(_, p)| gone(p)).map(|(at, _)| at).collect();
        for at in gone {
            self.take_back(at);
        }
    }

    /// A new factory's capability did not reach whoever asked for it, so nobody's end would ever be reported.
    pub(super) fn nobody_has_post(&mut self, post: Number) {
        if self.factory_of(post).is_some() {
            self.take_back(post.slot());
        }
    }

    /// Takes a factory back, with everything below it.
    fn take_back(&mut self, at: usize) {
        let Some(Post { id, name, .. }) = self.posts.get(at).filter(|post| !post.ending) else { return };
        let (id, name) = (*id, name.clone());
        let catalogue = self.control.catalogue();
        let below = |factory: FactoryId| factory != FactoryId::SERVER && catalogue.is_below(factory, id);
        let sessions = self.sessions.iter().filter(|(_, s)| !s.ending && below(s.factory));
        let sessions: Vec<usize> = sessions.map(|(slot, _)| slot).collect();
        let posts = self.posts.iter().filter(|(_, post)| !post.ending && below(post.id));
        let posts: Vec<usize> = posts.map(|(at, _)| at).collect();
        let line = format_args!("{name}: taken back; {} sessions end", sessions.len());
        self.lines.say(Level::Info, line);
        // From here on nothing is minted there.
        self.control.end_factory(id);
        for at in posts {
            let Some(post) = self.posts.get_mut(at) else { continue };
            post.ending = true;
            self.kernel.delete(post.gate);
        }
        for slot in sessions {
            self.end(slot);
        }
        self.stirred = true;
        self.control_at = Some(Time::default());
    }

    /// Nothing is left of it.
    pub(super) fn factory_ended(&mut self, id: FactoryId) {
        let found = self.posts.iter().find(|(_, post)| post.id == id).map(|(at, _)| at);
        if let Some(post) = found.and_then(|at| self.posts.try_remove(at)) {
            self.lines.say(Level::Info, format_args!("{}: ended", post.name));
        }
    }

    /// Capability slots that factories have.
    pub(super) fn post_slots(&self) -> usize {
        self.posts.len()
    }
}

/// All of them.
pub(super) type Posts = Slab<Post>;
