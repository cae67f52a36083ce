//! Sessions come, and go.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use nvme_core::server::message::SessionKey;
use nvme_l4re::kernel::{Cap, HandOut, L4Error};
use nvme_platform::Time;
use nvme_policy::{Ceiling, Errno, Policy, SessionRequest};
use nvme_session::factory::{CreateError, FactoryId, SessionId};

use super::Server;
use super::calls::{Fresh, Outcome};
use super::memory::CAPS_EACH;
use super::patience::PATIENCE;
use crate::label::{Number, SLOTS, Source};
use crate::message::{code, hand_out, number, refusal};
use crate::output::Level;
use crate::page::{PAGE_SIZE, Page};
use crate::session::{Run, Session};
use crate::{Kernel, Output};

/// Capability slots that a session may need: its page, gate and interrupts, and for each dataspace the client's capabilities and the
/// DMA space's. They are set aside for it when it is created, so that no client takes another's.
fn slots(policy: &Policy) -> usize {
    5 + (CAPS_EACH + 1) * usize::from(policy.ds_max().get())
}

/// Why there is no session.
enum NotCreated {
    /// The core refused it.
    Control(CreateError),
    /// There are too few capability slots.
    Slots,
}

impl NotCreated {
    fn errno(&self) -> Errno {
        match self {
            Self::Control(why) => why.errno(),
            Self::Slots => Errno::NoMemory,
        }
    }
}

impl fmt::Display for NotCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control(why) => why.fmt(f),
            Self::Slots => {
                f.write_str("there are too few capability slots for so many dataspaces; lower ds-max")
            }
        }
    }
}

impl<K: Kernel, O: Output> Server<K, O> {
    /// A session for a dynamic client, through a factory.
    pub(super) fn create(
        &mut self,
        at: FactoryId,
        asked: &SessionRequest,
        since: Time,
        now: Time,
    ) -> Outcome {
        // Whoever asks may know of a client's end before we were told.
        self.check_gates();
        let refused = match self.control_creates(at, asked) {
            Ok(key) => match self.mint(key, at) {
                Ok((gate, session)) => {
                    let reply = hand_out(number(0), gate, HandOut::Rwsd);
                    return Outcome::Minted(reply, Fresh::Session(session));
                }
                Err(why) => {
                    self.control.end(key);
                    self.control_at = Some(Time::default());
                    let name = self.post_name(at).to_string();
                    let line = format_args!("{name}: create refused: no room for the session: {why}");
                    self.refuse_at(at, now, line);
                    return Outcome::Reply(refusal(why));
                }
            },
            Err(why) => why,
        };
        let wait = match &refused {
            // A table is read again.
            NotCreated::Control(CreateError::Scanning) => self.control.scanned(),
            // Whoever gave a session up and asks for its device again need not know how long it drains.
            NotCreated::Control(CreateError::InUse { .. }) => self.leaves_the_way(at, asked),
            NotCreated::Control(CreateError::UsedUp { above, .. }) => self.leaves_below(*above),
            NotCreated::Control(CreateError::NoDevice(_)) => at == FactoryId::SERVER && self.anybody_leaves(),
            NotCreated::Control(CreateError::NoRoom { .. }) | NotCreated::Slots => self.anybody_leaves(),
            NotCreated::Control(_) => false,
        };
        if wait && now - since < PATIENCE {
            return Outcome::Wait;
        }
        let name = self.post_name(at).to_string();
        self.refuse_at(at, now, format_args!("{name}: create refused: {refused}"));
        Outcome::Reply(refusal(code(refused.errno())))
    }

    /// Whether a session that has a part of the device is about to end.
    fn leaves_the_way(&self, at: FactoryId, asked: &SessionRequest) -> bool {
        let others = self.control.catalogue().in_the_way(at, asked.device());
        let leaves = |other: &SessionId| {
            let key = Some(SessionKey(other.number()));
            self.sessions.iter().any(|(_, session)| session.ending && session.key == key)
        };
        others.iter().any(leaves)
    }

    fn control_creates(&mut self, at: FactoryId, asked: &SessionRequest) -> Result<SessionKey, NotCreated> {
        let factory = self.control.catalogue().factory(at);
        let ceiling = factory.map_or(Ceiling::SERVER, |factory| *factory.ceiling());
        // What is more than the factory holds is refused by the same words there.
        let room = ceiling.admit(asked).map_or(true, |policy| self.has_slots(slots(&policy)));
        if !room {
            return Err(NotCreated::Slots);
        }
        self.control.create_at(at, asked).map_err(NotCreated::Control)
    }

    /// Whether so many capability slots more are there for clients.
    pub(super) fn has_slots(&self, more: usize) -> bool {
        let taken = self.sessions.iter().map(|(_, s)| slots(&s.policy)).fold(0, usize::saturating_add);
        taken.saturating_add(self.post_slots()).saturating_add(more) <= self.slots_max
    }

    fn mint(&mut self, key: SessionKey, at: FactoryId) -> Result<(Cap, Number), L4Error> {
        let minted = self.control.session(key).map(|session| session.minted().policy().clone());
        let policy = minted.ok_or(L4Error::NOENT)?;
        let slot = self.new_session(None, policy.clone(), at)?;
        self.take_device(slot, key);
        self.show_device(slot);
        let Some(session) = self.sessions.get(slot) else { return Err(L4Error::NOMEM) };
        self.lines.say(
            Level::Info,
            format_args!(
                "{}: {}, {}, ds-max {}",
                session.name,
                policy.device(),
                policy.access(),
                policy.ds_max().get()
            ),
        );
        Ok((session.gate, session.number))
    }

    /// The objects of a session: for a static client with its name and the gate that it was given, or with a gate of ours.
    pub(super) fn new_session(
        &mut self,
        fixed: Option<(String, Cap)>,
        policy: Policy,
        factory: FactoryId,
    ) -> Result<usize, L4Error> {
        let slot = self.sessions.vacant_key();
        if slot >= SLOTS {
            return Err(L4Error::NOMEM);
        }
        self.serial = self.serial.wrapping_add(1);
        let session = Number::new(slot, self.serial);
        if !self.kernel.has_reserve() {
            return Err(L4Error::NOMEM);
        }
        let page_cap = self.kernel.allocate(PAGE_SIZE)?;
        let window = match self.kernel.attach(page_cap, 0, PAGE_SIZE, true) {
            Ok(window) => window,
            Err(why) => {
                self.kernel.release(page_cap);
                return Err(why);
            }
        };
        let page = Page::new(window);
        let kick = self.kernel.irq(Source::Kick(session).label());
        let is_fixed = fixed.is_some();
        let made = kick.and_then(|kick| match fixed {
            Some((name, gate)) => Ok((format!("client {name}"), gate, kick)),
            None => match self.kernel.gate(Source::Gate(session).label()) {
                Ok(gate) => Ok((String::new(), gate, kick)),
                Err(why) => {
                    self.kernel.delete(kick);
                    Err(why)
                }
            },
        });
        let (name, gate, kick) = match made {
            Ok(made) => made,
            Err(why) => {
                drop(page);
                self.kernel.release(page_cap);
                return Err(why);
            }
        };
        Ok(self.sessions.insert(Session {
            number: session,
            name,
            policy,
            factory,
            fixed: is_fixed,
            served: !is_fixed,
            key: None,
            lost: false,
            ending: false,
            gate,
            kick,
            irq: None,
            page_cap,
            page,
            status: 0,
            told: 0,
            queue: None,
            run: Run::Idle,
            token: None,
            write_back: None,
            memory: Vec::new(),
            change: None,
            stale: false,
            epoch: 0,
        }))
    }

    /// Control's session for the one at `slot`.
    fn take_device(&mut self, slot: usize, key: SessionKey) {
        let through = match self.sessions.get(slot).map(|session| session.factory) {
            None | Some(FactoryId::SERVER) => String::new(),
            Some(at) => format!(" of {}", self.post_name(at)),
        };
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if !session.fixed {
            session.name = format!("session {}{through}", key.0);
        }
        session.key = Some(key);
        session.lost = false;
    }

    /// Serves static clients whose device is there; `first`: says of the others that it is not.
    pub(super) fn start_clients(&mut self, first: bool) {
        let absent = self.sessions.iter().filter(|(_, s)| s.fixed && s.key.is_none());
        let absent: Vec<usize> = absent.map(|(slot, _)| slot).collect();
        for slot in absent {
            let Some(session) = self.sessions.get(slot) else { continue };
            let (policy, was_served) = (session.policy.clone(), session.served);
            match self.control.create(&policy, true) {
                Ok(key) => {
                    self.take_device(slot, key);
                    if was_served {
                        self.restore(slot);
                        self.device_is_back(slot);
                    } else {
                        self.show_device(slot);
                        self.serve_client(slot);
                    }
                }
                Err(why) if first => {
                    let name = &session.name;
                    let line = format_args!("{name}: {why}; it is served when that changes");
                    self.lines.say(Level::Warn, line);
                }
                Err(_) => {}
            }
        }
    }

    /// From now on calls of a static client arrive. Until then they wait.
    fn serve_client(&mut self, slot: usize) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Session { name, gate, number, policy, .. } = session;
        match self.kernel.serve(*gate, Source::Gate(*number).label()) {
            Ok(()) => {
                session.served = true;
                let line = format_args!("{name}: {}, {}", policy.device(), policy.access());
                self.lines.say(Level::Info, line);
            }
            Err(why) => {
                let line = format_args!("{name}: its gate cannot be served: {why}; give it as :svr()");
                self.lines.say(Level::Error, line);
            }
        }
    }

    /// Ends the sessions of dynamic clients that have none of their capability any more, and takes back factories likewise.
    pub(super) fn check_gates(&mut self) {
        self.check_posts();
        let gone = |s: &Session| !s.fixed && !s.ending && !self.kernel.valid(s.gate);
        let gone: Vec<usize> = self.sessions.iter().filter(|(_, s)| gone(s)).map(|(slot, _)| slot).collect();
        for slot in gone {
            self.end(slot);
        }
    }

    /// The client of a session is gone: what it left goes, and its device is free then.
    pub(super) fn end(&mut self, slot: usize) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        session.ending = true;
        session.token = None;
        self.stirred = true;
        let line = format_args!("{}: its client is gone", session.name);
        self.lines.say(Level::Info, line);
        self.tell_stat(slot);
        let Some(session) = self.sessions.get_mut(slot) else { return };
        self.kernel.delete(session.kick);
        self.kernel.delete(session.gate);
        if let Some(irq) = session.irq.take() {
            self.kernel.release(irq);
        }
        match session.key {
            Some(key) => {
                self.control.end(key);
                self.control_at = Some(Time::default());
            }
            None => self.remove(slot),
        }
    }

    /// Nothing is left of a session that ended.
    pub(super) fn remove(&mut self, slot: usize) {
        self.modes.retain(|s| *s != slot);
        self.restoring.retain(|s| *s != slot);
        let Some(session) = self.sessions.try_remove(slot) else { return };
        let changing = session.change.into_iter().flat_map(|change| change.new);
        let dataspaces = session.memory.into_iter().chain(changing);
        self.leaving.extend(dataspaces.map(|ds| (ds.cap, ds.owners)));
        drop(session.page);
        self.kernel.release(session.page_cap);
        self.sweep();
    }

    /// Gives back capabilities to dataspaces of which nothing is attached any more.
    pub(super) fn sweep(&mut self) {
        let mut at = 0;
        while let Some((cap, owners)) = self.leaving.get(at) {
            if owners.iter().any(|owner| owner.strong_count() > 0) {
                at += 1;
                continue;
            }
            let cap = *cap;
            self.leaving.swap_remove(at);
            let new = |s: &Session| s.change.as_ref().is_some_and(|c| c.new.iter().any(|ds| ds.cap == cap));
            let used = |s: &Session| s.memory.iter().any(|ds| ds.cap == cap) || new(s);
            if !self.leaving.iter().any(|(c, _)| *c == cap) && !self.sessions.iter().any(|(_, s)| used(s)) {
                self.kernel.release(cap);
            }
        }
    }
}
