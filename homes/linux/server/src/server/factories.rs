//! Attenuated factories: their two descriptors, or the listening socket of their holder; and how they are taken back.
//!
//! A factory lives as long as somebody holds its lifetime and, in the connected form, its connection. When either has no copy left, it
//! and everything below it end: nothing more is minted from that moment, callers are cut off, sessions are ended. Those of the command
//! line are the server's own: they have no lifetime that anybody holds.

use std::io;
use std::os::fd::OwnedFd;

use nvme_audit as audit;
use nvme_audit::Record;
use nvme_linux::dispose::ClientFd;
use nvme_linux::events::Interest;
use nvme_linux::factory::{Caller, Listing};
use nvme_linux::logger::{OPERATOR, REFUSAL};
use nvme_linux::socket::{self, Cookie, Kind, Peer};
use nvme_platform::Time;
use nvme_policy::Shown;
use nvme_session::factory::{CreateError, FactoryId};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use super::listing::listing;
use super::{ACCEPTS_PER_TURN, Server, Watched};
use crate::capability::Capability;
use crate::hints::Told;
use crate::keep::Kept;

/// What the server has of an attenuated factory.
pub(super) struct Post {
    pub(super) name: String,
    /// The capability of the command line that it is had at.
    pub(super) cap: Option<String>,
    /// The factory right below the server's own that it is, or is below.
    pub(super) tenant: u64,
    /// Somebody waits for a place among its callers.
    pub(super) crowded: bool,
    /// Our end of its lifetime; none where it is the operator's.
    pub(super) lifetime: Option<ClientFd>,
    /// Names of devices that were not there so far.
    absent: Vec<String>,
    /// Where its callers come from, in the listening form.
    pub(super) listener: Option<ClientFd>,
    /// Its one caller, in the connected form.
    pub(super) connection: Option<u64>,
    /// Where it is kept in case that the server is killed.
    pub(super) kept: Option<Kept>,
    /// Why it ends, and what is written down when it has.
    why: Option<String>,
    record: Option<Record>,
}

impl Post {
    pub(super) fn new(name: String, tenant: u64) -> Self {
        Self {
            name,
            cap: None,
            tenant,
            crowded: false,
            lifetime: None,
            absent: Vec::new(),
            listener: None,
            connection: None,
            kept: None,
            why: None,
            record: None,
        }
    }
}

impl Server {
    /// Makes the capability of a factory: its connection and its lifetime, or for a listening socket its lifetime alone.
    pub(super) fn post(
        &mut self,
        id: FactoryId,
        owner: Option<Peer>,
        listener: Option<OwnedFd>,
        time: Time,
    ) -> io::Result<Vec<OwnedFd>> {
        if self.posts.len() >= self.budget.factories {
            let room = self.budget.factories;
            return Err(io::Error::other(format!("RLIMIT_NOFILE has room for {room}; raise its hard limit")));
        }
        let name = self.factory_name(id);
        let (ours, theirs) = socket::pair(Kind::Stream)?;
        let mut capabilities = vec![theirs];
        let token = self.next_token;
        self.epoll.add(&ours, token, Interest::Read)?;
        self.token(Watched::FactoryLifetime(id));
        let mut post = Post::new(name, self.control.catalogue().top_of(id).number());
        post.lifetime = Some(ours.into());
        let token = self.next_token;
        match listener {
            Some(listener) => {
                self.epoll.add(&listener, token, Interest::Read)?;
                self.token(Watched::FactoryListener(id));
                post.listener = Some(listener.into());
            }
            None => {
                let (ours, theirs) = socket::pair(Kind::SeqPacket)?;
                let caller = Caller::new(ours)?;
                self.epoll.add(&caller, token, Interest::Read)?;
                self.token(Watched::Caller(caller, id, time));
                post.connection = Some(token);
                capabilities.insert(0, theirs);
            }
        }
        for capability in &capabilities {
            self.capabilities.insert(Cookie::of(capability)?, Capability::Factory(id));
        }
        let who = owner.map_or_else(String::new, |p| format!(" for {p}"));
        log::info!(target: OPERATOR, "{}{who}: {}", post.name, self.held_by(id));
        self.posts.insert(id, post);
        Ok(capabilities)
    }

    /// A factory of the command line, with its socket. Nobody holds it but the server.
    pub(super) fn post_at_start(&mut self, cap: String, id: FactoryId, socket: OwnedFd) -> io::Result<()> {
        let token = self.next_token;
        self.epoll.add(&socket, token, Interest::Read)?;
        self.token(Watched::FactoryListener(id));
        let name = self.factory_name(id);
        let mut post = Post::new(name, id.number());
        (post.cap, post.listener) = (Some(cap), Some(socket.into()));
        self.posts.insert(id, post);
        Ok(())
    }

    /// Says what the factories of the command line hold: all of it once the scan is over, and afterwards what came.
    pub(super) fn look_at_factories(&mut self, first: bool) {
        let catalogue = self.control.catalogue();
        for (id, post) in self.posts.iter_mut().filter(|(_, post)| post.lifetime.is_none()) {
            let Some(factory) = catalogue.factory(*id) else { continue };
            let absent: Vec<(String, CreateError)> =
                factory.unbound().map(|(name, why)| (name.to_string(), why)).collect();
            let is_absent = |device: &String| absent.iter().any(|(name, _)| name == device);
            for device in post.absent.iter().filter(|device| !is_absent(device)) {
                log::info!(target: OPERATOR, "{}: {device} is there, and can be had", post.name);
            }
            if first {
                for (_, why) in &absent {
                    log::warn!("{}: {}; it can be had when that changes", post.name, Told(why));
                }
            }
            post.absent = absent.into_iter().map(|(name, _)| name).collect();
        }
        if first {
            for (id, post) in self.posts.iter().filter(|(_, post)| post.lifetime.is_none()) {
                log::info!(target: OPERATOR, "{}: {}", post.name, self.held_by(*id));
            }
        }
    }

    /// Whose patience its sessions share: those of one factory right below the server's own are a group, and the server's own is the first.
    pub(super) fn group_of(&self, at: FactoryId) -> u64 {
        match self.control.catalogue().top_of(at) {
            FactoryId::SERVER => 0,
            // Seats are counted from the other end.
            top => u64::MAX - top.number(),
        }
    }

    pub(super) fn factory_name(&self, id: FactoryId) -> String {
        let tag = self.control.catalogue().factory(id).and_then(|f| f.tag().cloned());
        // In quotes, and a quote in it escaped: what its holder says of itself cannot pass for what the server says.
        let tag = tag.map_or_else(String::new, |tag| format!(" {}", Shown::new(tag.as_str().as_bytes())));
        format!("factory {}{tag}", id.number())
    }

    /// What it holds, in a line.
    fn held_by(&self, id: FactoryId) -> String {
        let Some(factory) = self.control.catalogue().factory(id) else { return String::new() };
        let devices: Vec<String> = factory
            .devices()
            .map(|d| format!("{}{}", d.name, if d.extent.is_none() { " (not there)" } else { "" }))
            .collect();
        format!("{}, {}", devices.join(", "), factory.ceiling().access())
    }

    /// How a factory is called in lines about its callers.
    pub(super) fn post_name(&self, id: FactoryId) -> &str {
        self.posts.get(&id).map_or("svr", |post| &post.name)
    }

    /// Takes who has connected to a factory's own socket.
    pub(super) fn accept_factory_caller(&mut self, id: FactoryId, time: Time) {
        for _ in 0..ACCEPTS_PER_TURN {
            let fixed = self.posts.get(&id).is_some_and(|post| post.lifetime.is_none());
            if fixed && !self.place_at_factory(id, time) {
                return self.crowd(id);
            }
            let Some(Post { listener: Some(listener), name, .. }) = self.posts.get(&id) else { return };
            // A holder's socket shares its flags with its holder.
            let accepted = if fixed { socket::accept(listener) } else { self.acceptor.accept(listener) };
            let socket = match accepted {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(e @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)) => {
                    let name = name.clone();
                    return self.pause_accepting(&name, e, time);
                }
                Err(e) => {
                    log::warn!(target: REFUSAL, "{name}: accepting a connection: {e}; it ends");
                    return self.take_back(id, "its listening socket failed");
                }
            };
            if !fixed && !self.place_at_factory(id, time) {
                // One that waits in the backlog could hold descriptors that keep the factory alive.
                log::warn!(target: REFUSAL, "{}: a caller was refused: {} are there already", self.post_name(id), self.budget.callers_each);
                continue;
            }
            self.take_factory_caller(id, socket, time);
        }
    }

    /// Its holder's socket listens no more: nobody can come by it, and what it minted goes on.
    pub(super) fn stop_listening_factory(&mut self, id: FactoryId, token: u64) {
        self.watched.remove(&token);
        let Some(post) = self.posts.get_mut(&id) else { return };
        if let Some(listener) = post.listener.take() {
            let _ = self.epoll.remove(&listener);
            log::warn!(target: REFUSAL, "{}: its socket was shut down", post.name);
            self.touch_factory(id);
        }
    }

    /// The factory whose connected form that caller is.
    pub(super) fn connected_factory(&self, token: u64) -> Option<FactoryId> {
        self.posts.iter().find(|(_, post)| post.connection == Some(token)).map(|(id, _)| *id)
    }

    /// Takes a factory back, with everything below it.
    pub(super) fn take_back(&mut self, id: FactoryId, why: &str) {
        let catalogue = self.control.catalogue();
        let below = |at: FactoryId| catalogue.is_below(at, id);
        if catalogue.factory(id).is_none_or(|f| f.is_ended()) {
            return;
        }
        let ending: Vec<FactoryId> = self.posts.keys().copied().filter(|at| below(*at)).collect();
        let callers: Vec<u64> = self
            .watched
            .iter()
            .filter(|(_, w)| matches!(w, Watched::Caller(_, at, _) if *at != FactoryId::SERVER && below(*at)))
            .map(|(token, _)| *token)
            .collect();
        let sessions = self.control.sessions();
        let minted =
            sessions.filter(|(_, s)| !s.is_static() && below(s.minted().factory())).map(|(key, _)| key);
        let seats: Vec<u32> = minted.filter_map(|key| self.by_session.get(&key).copied()).collect();
        let name = self.posts.get(&id).map_or_else(String::new, |post| post.name.clone());
        log::info!(target: OPERATOR, "{name}: taken back; {} sessions end", seats.len());
        // From here on nothing is minted there. What is below it ends with it.
        self.factories_will_be_gone(&ending);
        for at in ending {
            let record = self.of_factory(audit::Event::End, at);
            if let Some(post) = self.posts.get_mut(&at) {
                post.record.get_or_insert(record);
                post.why.get_or_insert_with(|| {
                    if at == id { why.to_owned() } else { format!("{name} was taken back") }
                });
            }
        }
        self.control.end_factory(id);
        for token in callers {
            self.waiting.retain(|w| w.caller != token);
            self.close(token);
        }
        let name = &name;
        seats.into_iter().for_each(|seat| self.end(seat, &format!("{name} was taken back")));

        self.breathe();
    }

    /// Nothing is left of it.
    pub(super) fn factory_ended(&mut self, id: FactoryId, time: Time) {
        let Some(mut post) = self.posts.remove(&id) else { return };
        self.unkeep_post(&mut post);
        // Its holder hears of it now, not when the service manager has let go of what it kept.
        if let Some(lifetime) = &post.lifetime {
            let _ = self.epoll.remove(lifetime);
            let _ = shutdown(lifetime, Shutdown::Both);
        }
        if let Some(listener) = &post.listener {
            let _ = self.epoll.remove(listener);
        }
        self.watched.retain(
            |_, w| !matches!(w, Watched::FactoryLifetime(i) | Watched::FactoryListener(i) if *i == id),
        );
        self.capabilities.retain(|_, whose| *whose != Capability::Factory(id));
        log::info!(target: OPERATOR, "{}: ended", post.name);
        if let Some(audit) = &mut self.audit {
            audit.forget(id.number(), time);
        }
        let record = post
            .record
            .unwrap_or_else(|| Record { factory: Some(id.number()), ..Record::of(audit::Event::End) });
        self.note(Record { why: post.why, ..record }, time);
    }

    /// What a factory holds, and what was minted through it.
    pub(super) fn list(&self, id: FactoryId) -> Listing {
        listing(&self.control, id, &self.trusted)
    }
}
