//! What a descriptor in the epoll set stands for, what is done when something happens there, and how it is let go.

use nvme_linux::factory::Caller;
use nvme_linux::logger::REFUSAL;
use nvme_platform::Time;
use nvme_session::factory::FactoryId;

use super::{CLOSED, Server};
use crate::fatal::Fatal;
use crate::inventory::Introspection;
use crate::scrape::Scraper;

/// What a descriptor in the epoll set is.
pub(super) enum Watched {
    Bell,
    Signals,
    MemoryFailures,
    /// A controller's admin queue has news; or, with a pin, any of its queues.
    Interrupt(u16),
    /// The host wants a controller back.
    Request(u16),
    /// The bus reports an error of a controller.
    BusError(u16),
    Svr,
    Caller(Caller, FactoryId, Time),
    Ctl,
    Admin,
    Operator(Caller),
    Metrics,
    Upgrade,
    /// The next server.
    Successor,
    /// The server before, which has handed over.
    Predecessor,
    /// Something that a server before had begun.
    Gate,
    /// Who comes for metrics, and until when it may take.
    Scraper(Scraper, Time),
    CtlPeer(Introspection, Time),
    /// The connection of whoever has that seat.
    Conn(u32),
    /// The listening socket of that seat.
    Listener(u32),
    /// A connection to it that waits.
    Waiter(u32),
    /// Our end of the capability of the session at that seat.
    Lifetime(u32),
    /// Our end of the lifetime of that factory.
    FactoryLifetime(FactoryId),
    /// The socket that callers of that factory come by.
    FactoryListener(FactoryId),
}

impl Server {
    pub(super) fn token(&mut self, what: Watched) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.watched.insert(token, what);
        token
    }

    pub(super) fn event(&mut self, token: u64, hangup: bool, time: Time) -> Result<(), Fatal> {
        let left = hangup && self.is_held(token);
        match self.watched.get_mut(&token) {
            None | Some(Watched::Bell) => {}
            Some(Watched::Signals) => {
                if self.signals.take().is_some() {
                    self.hear_predecessor();
                    if !self.upgrades.unknown {
                        self.stop(time);
                    }
                }
            }
            Some(Watched::MemoryFailures) => self.memory_failed(),
            Some(Watched::Interrupt(controller)) => {
                // The control role looks at its admin queue in the next turn; workers are woken by the same event.
                let controller = *controller;
                if !self.pins.contains(&controller) {
                    self.pins.push(controller);
                }
            }
            Some(Watched::Request(controller)) => {
                let controller = *controller;
                self.control.remove_device(controller);
            }
            Some(Watched::BusError(controller)) => {
                let controller = *controller;
                self.control.device_failed(controller);
            }
            Some(Watched::Svr) => self.accept_caller(time),
            Some(Watched::Caller(..)) if left => {
                self.caller_left(token);
            }
            // Nothing is to be sent there, as to a session's.
            Some(Watched::FactoryLifetime(id)) => {
                let id = *id;
                if !hangup {
                    log::warn!(target: REFUSAL, "{}: something was sent to its lifetime; it ends", self.post_name(id));
                }
                // Its descriptor stays until the factory has ended; there is nothing to hear from it any more.
                self.watched.remove(&token);
                let why = if hangup { CLOSED } else { "something was sent to its lifetime" };
                self.take_back(id, why);
            }
            Some(Watched::FactoryListener(id)) if hangup => {
                let id = *id;
                self.stop_listening_factory(id, token);
            }
            Some(Watched::FactoryListener(id)) => {
                let id = *id;
                self.accept_factory_caller(id, time);
            }
            Some(Watched::Caller(..)) => self.serve_caller(token, time),
            Some(Watched::Ctl) => self.accept_ctl(time),
            Some(Watched::Admin) => self.accept_admin(time),
            Some(Watched::Operator(_)) => self.serve_operator(token, time),
            Some(Watched::Upgrade) => self.accept_successor(time)?,
            Some(Watched::Successor) => self.serve_successor(time)?,
            Some(Watched::Predecessor) => self.hear_predecessor(),
            Some(Watched::Gate) => self.gate_opened(time),
            Some(Watched::Metrics) => self.accept_scraper(time),
            Some(Watched::Scraper(..)) => self.serve_scraper(token),
            Some(Watched::CtlPeer(peer, _)) => {
                if hangup || peer.send() {
                    self.forget(token);
                }
            }
            Some(Watched::Conn(id)) => {
                let id = *id;
                self.serve(id, time);
                if hangup {
                    self.hung_up(id);
                }
            }
            // Whoever else has a listening socket can shut it down: it is readable for ever then.
            Some(Watched::Listener(id)) if hangup => {
                let id = *id;
                self.stop_listening(id, token);
            }
            Some(Watched::Listener(id)) => {
                let id = *id;
                self.accept_client(id, time);
            }
            Some(Watched::Waiter(id)) => {
                let id = *id;
                self.look_at_waiter(id, token, hangup);
            }
            // Nothing is to be sent there: what is could be a copy of the other end, which would keep it open.
            Some(Watched::Lifetime(id)) => {
                let id = *id;
                if let Some(seat) = self.seats.get(&id).filter(|_| !hangup) {
                    log::warn!(target: REFUSAL, "{}: something was sent to its lifetime; it ends", seat.name);
                }
                let why = if hangup { CLOSED } else { "something was sent to its lifetime" };
                self.forget(token);
                self.end(id, why);
            }
        }
        Ok(())
    }

    /// Closes what a token stands for, where it is the token that holds it. A factory ends with its connection.
    pub(super) fn forget(&mut self, token: u64) {
        let factory = self.connected_factory(token);
        self.close(token);
        if let Some(id) = factory {
            self.take_back(id, CLOSED);
        }
        self.breathe();
    }

    pub(super) fn close(&mut self, token: u64) {
        match self.watched.remove(&token) {
            Some(Watched::Caller(caller, ..)) => {
                let _ = self.epoll.remove(&caller);
            }
            Some(Watched::CtlPeer(peer, _)) => {
                let _ = self.epoll.remove(&peer);
            }
            Some(Watched::Operator(operator)) => {
                let _ = self.epoll.remove(&operator);
            }
            Some(Watched::Scraper(scraper, _)) => {
                let _ = self.epoll.remove(&scraper);
            }
            _ => {}
        }
    }
}
