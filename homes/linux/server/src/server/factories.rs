//! Attenuated factories: their two descriptors, or the listening socket of their holder; and how they are taken back.
//!
//! A factory lives as long as somebody holds its lifetime and, in the connected form, its connection. When either has no copy left, it
//! and everything below it end: nothing more is minted from that moment, callers are cut off, sessions are ended.

use std::io;
use std::os::fd::OwnedFd;

use nvme_linux::events::Interest;
use nvme_linux::factory::{Caller, Listing};
use nvme_linux::logger::{OPERATOR, REFUSAL};
use nvme_linux::socket::{self, Cookie, Kind, Peer};
use nvme_platform::Time;
use nvme_session::factory::FactoryId;
use rustix::io::Errno;

use super::listing::listing;
use super::{ACCEPTS_PER_TURN, Capability, Server, Watched};

/// Callers of one listening factory at a time. Whoever comes beyond that is told by the end of the connection: one that waits in the
/// backlog could hold descriptors that keep the factory alive.
const CALLERS_EACH: usize = 8;

/// What the server has of an attenuated factory.
pub(super) struct Post {
    name: String,
    /// Our end of its lifetime.
    lifetime: OwnedFd,
    /// Where its callers come from, in the listening form.
    listener: Option<OwnedFd>,
    /// Its one caller, in the connected form.
    connection: Option<u64>,
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
        let name = self.factory_name(id);
        let (ours, theirs) = socket::pair(Kind::Stream)?;
        let mut capabilities = vec![theirs];
        let token = self.next_token;
        self.epoll.add(&ours, token, Interest::Read)?;
        self.token(Watched::FactoryLifetime(id));
        let mut post = Post { name, lifetime: ours, listener: None, connection: None };
        let token = self.next_token;
        match listener {
            Some(listener) => {
                self.epoll.add(&listener, token, Interest::Read)?;
                self.token(Watched::FactoryListener(id));
                post.listener = Some(listener);
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

    /// Whose patience its sessions share: those of one factory right below the server's own are a group, and the server's own is the first.
    pub(super) fn group_of(&self, at: FactoryId) -> u64 {
        match self.control.catalogue().top_of(at) {
            FactoryId::SERVER => 0,
            // Seats are counted from the other end.
            top => u64::MAX - top.number(),
        }
    }

    fn factory_name(&self, id: FactoryId) -> String {
        let tag = self.control.catalogue().factory(id).and_then(|f| f.tag().cloned());
        let tag = tag.map_or_else(String::new, |tag| format!(" \"{tag}\""));
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
            let Some(Post { listener: Some(listener), name, .. }) = self.posts.get(&id) else { return };
            // It shares its flags with its holder.
            let socket = match self.acceptor.accept(listener) {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(e @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)) => {
                    let name = name.clone();
                    return self.pause_accepting(&name, e, time);
                }
                Err(e) => {
                    log::warn!(target: REFUSAL, "{name}: accepting a connection: {e}; it ends");
                    return self.take_back(id);
                }
            };
            let callers =
                self.watched.values().filter(|w| matches!(w, Watched::Caller(_, at, _) if *at == id));
            if callers.count() >= CALLERS_EACH {
                log::warn!(target: REFUSAL, "{name}: a caller was refused: {CALLERS_EACH} are there already");
                continue;
            }
            let Ok(caller) = Caller::new(socket) else { continue };
            let token = self.next_token;
            if self.epoll.add(&caller, token, Interest::Read).is_ok() {
                self.token(Watched::Caller(caller, id, time));
                self.serve_caller(token, time);
            }
        }
    }

    /// Its holder's socket listens no more: nobody can come by it, and what it minted goes on.
    pub(super) fn stop_listening_factory(&mut self, id: FactoryId, token: u64) {
        self.watched.remove(&token);
        let Some(post) = self.posts.get_mut(&id) else { return };
        if let Some(listener) = post.listener.take() {
            let _ = self.epoll.remove(&listener);
            log::warn!(target: REFUSAL, "{}: its socket was shut down", post.name);
        }
    }

    /// The factory whose connected form that caller is.
    pub(super) fn connected_factory(&self, token: u64) -> Option<FactoryId> {
        self.posts.iter().find(|(_, post)| post.connection == Some(token)).map(|(id, _)| *id)
    }

    /// Takes a factory back, with everything below it.
    pub(super) fn take_back(&mut self, id: FactoryId) {
        let catalogue = self.control.catalogue();
        let below = |at: FactoryId| catalogue.is_below(at, id);
        if catalogue.factory(id).is_none_or(|f| f.is_ended()) {
            return;
        }
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
        // From here on nothing is minted there.
        self.control.end_factory(id);
        for token in callers {
            self.waiting.retain(|w| w.caller != token);
            self.close(token);
        }
        seats.into_iter().for_each(|seat| self.end(seat));
        self.breathe();
    }

    /// Nothing is left of it.
    pub(super) fn factory_ended(&mut self, id: FactoryId) {
        let Some(post) = self.posts.remove(&id) else { return };
        let _ = self.epoll.remove(&post.lifetime);
        if let Some(listener) = &post.listener {
            let _ = self.epoll.remove(listener);
        }
        self.watched.retain(
            |_, w| !matches!(w, Watched::FactoryLifetime(i) | Watched::FactoryListener(i) if *i == id),
        );
        self.capabilities.retain(|_, whose| *whose != Capability::Factory(id));
        log::info!(target: OPERATOR, "{}: ended", post.name);
    }

    /// What a factory holds, and what was minted through it.
    pub(super) fn list(&self, id: FactoryId) -> Listing {
        listing(&self.control, id, &self.trusted)
    }
}
