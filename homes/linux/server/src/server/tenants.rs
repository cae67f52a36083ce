//! What the tenants share, in shares: lines of the log, and places for callers. A tenant is whoever holds a factory right below the server's
//! own; what is made below that is its, too.

use std::os::fd::OwnedFd;

use nvme_core::server::control::Event;
use nvme_core::server::message::SessionKey;
use nvme_linux::events::Interest;
use nvme_linux::factory::Caller;
use nvme_linux::logger::{REFUSAL, speak_of};
use nvme_platform::Time;
use nvme_session::factory::FactoryId;

use super::{CALLER_IDLE, Server, Watched};

impl Server {
    /// Says who a token is, for the lines that come of it.
    pub(super) fn speak_of_token(&self, token: u64) {
        let tenant = match self.watched.get(&token) {
            Some(Watched::Caller(_, at, _) | Watched::FactoryLifetime(at) | Watched::FactoryListener(at)) => {
                self.tenant_of(*at)
            }
            Some(
                Watched::Conn(seat)
                | Watched::Listener(seat)
                | Watched::Waiter(seat)
                | Watched::Lifetime(seat),
            ) => self.tenant_at(*seat),
            _ => 0,
        };
        speak_of(tenant);
    }

    /// The same, of what control has to say.
    pub(super) fn speak_of_event(&self, event: &Event) {
        speak_of(match event {
            Event::Ended(key) | Event::Cleared(key) | Event::Lost(key) | Event::Hangs(key) => {
                self.tenant_with(*key)
            }
            Event::QueueBroken(key, ..) | Event::Done(key, _) => self.tenant_with(*key),
            Event::FactoryEnded(id) => self.posts.get(id).map_or(0, |post| post.tenant),
            _ => 0,
        });
    }

    /// The tenant that a factory is of; 0 for the server's own.
    pub(super) fn tenant_of(&self, at: FactoryId) -> u64 {
        self.posts.get(&at).map_or(0, |post| post.tenant)
    }

    /// The tenant whose session is at that seat.
    pub(super) fn tenant_at(&self, seat: u32) -> u64 {
        self.seats.get(&seat).map_or(0, |seat| seat.tenant)
    }

    fn tenant_with(&self, key: SessionKey) -> u64 {
        self.by_session.get(&key).map_or(0, |seat| self.tenant_at(*seat))
    }

    /// The callers of a factory's own socket: their tokens, and when each was heard last.
    fn callers_of(&self, id: FactoryId) -> impl Iterator<Item = (u64, Time)> {
        self.watched.iter().filter_map(move |(token, watched)| match watched {
            Watched::Caller(_, at, heard) if *at == id => Some((*token, *heard)),
            _ => None,
        })
    }

    /// Makes a place for one more caller of a factory's own socket, if there is none: whoever was silent for longest yields. Says
    /// whether there is one.
    pub(super) fn place_at_factory(&mut self, id: FactoryId, time: Time) -> bool {
        let most = self.budget.callers_each;
        if self.callers_of(id).count() < most {
            return true;
        }
        let silent = |(token, heard): &(u64, Time)| {
            time >= *heard + CALLER_IDLE && !self.waiting.iter().any(|w| w.caller == *token)
        };
        let Some((token, _)) = self.callers_of(id).filter(silent).min_by_key(|(_, heard)| *heard) else {
            return false;
        };
        self.close(token);
        true
    }

    /// Somebody came to a factory's socket.
    pub(super) fn take_factory_caller(&mut self, id: FactoryId, socket: OwnedFd, time: Time) {
        let Ok(caller) = Caller::new(socket) else { return };
        let token = self.next_token;
        if self.epoll.add(&caller, token, Interest::Read).is_ok() {
            self.token(Watched::Caller(caller, id, time));
            self.serve_caller(token, time);
        }
    }

    /// There is no place for whoever wants in at a factory of the operator's: it waits.
    pub(super) fn crowd(&mut self, id: FactoryId) {
        let Some(post) = self.posts.get_mut(&id) else { return };
        if !core::mem::replace(&mut post.crowded, true) {
            log::warn!(target: REFUSAL, "{}: callers wait: {} are there", post.name, self.budget.callers_each);
        }
        self.listen_to_factories();
    }

    /// Listens at factories' sockets where there is room.
    pub(super) fn listen_to_factories(&self) {
        for (token, watched) in &self.watched {
            let Watched::FactoryListener(id) = watched else { continue };
            let Some(post) = self.posts.get(id) else { continue };
            let Some(listener) = &post.listener else { continue };
            let closed = post.crowded || self.paused_until.is_some();
            let _ =
                self.epoll.modify(listener, *token, if closed { Interest::Hangup } else { Interest::Read });
        }
    }

    /// When a silent caller has to yield to somebody who waits.
    pub(super) fn factory_deadlines(&self) -> impl Iterator<Item = Time> {
        let crowded = self.posts.iter().filter(|(_, post)| post.crowded).map(|(id, _)| *id);
        crowded.flat_map(|id| self.callers_of(id).map(|(_, heard)| heard + CALLER_IDLE))
    }

    /// Silent callers yield where others wait.
    pub(super) fn expire_factory_callers(&mut self, time: Time) {
        let crowded: Vec<FactoryId> =
            self.posts.iter().filter(|(_, post)| post.crowded).map(|(id, _)| *id).collect();
        for id in crowded {
            if self.place_at_factory(id, time) {
                if let Some(post) = self.posts.get_mut(&id) {
                    post.crowded = false;
                }
                self.listen_to_factories();
                continue;
            }
            // All of them wait themselves, or have just asked: they are looked at again when their time is over.
            for watched in self.watched.values_mut() {
                match watched {
                    Watched::Caller(_, at, heard) if *at == id && time >= *heard + CALLER_IDLE => {
                        *heard = time
                    }
                    _ => {}
                }
            }
        }
    }
}
