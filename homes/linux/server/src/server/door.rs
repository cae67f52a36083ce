//! Whoever connects to a session's socket: let in one after the other.
//!
//! Who comes while another client is there waits, and what it sends meanwhile is looked at without being taken. Requests may lie there:
//! QEMU asks for features before it is its turn. Descriptors may not. One could be a copy of a session's capability, or of the other end
//! of a connection, which would then last as long as nobody reads it, with no client alive. So connections are taken from the
//! socket whatever state the session is in; a few wait here, and more than that are closed.

use nvme_linux::events::Interest;
use nvme_linux::logger::{OPERATOR, REFUSAL};
use nvme_linux::socket::{self, Unread, unread};
use nvme_linux::vhost::Connection;
use nvme_platform::Time;
use rustix::io::Errno;

use std::os::fd::{AsFd, OwnedFd};

use super::{ACCEPTS_PER_TURN, REST, Server, Watched};
use crate::client::{Client, Conn, Over, Phase, Source, Waiter};

impl Server {
    /// Watches a client's listening socket.
    pub(super) fn watch_listener(&mut self, id: u32) {
        let token = self.next_token;
        let Some(Client { source: Source::Listener(listener), name, .. }) = self.clients.get(&id) else {
            return;
        };
        if let Err(e) = self.epoll.add(listener, token, Interest::Read) {
            log::error!("{name}: listening: {e}");
        }
        self.token(Watched::Listener(id));
    }

    /// Takes who has connected.
    pub(super) fn accept_client(&mut self, id: u32, time: Time) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(client) = self.clients.get(&id) else { return };
            let Source::Listener(listener) = &client.source else { return };
            // A static client's socket is ours; one that came with `create` shares its flags with the client.
            let accepted = match client.cap {
                Some(_) => socket::accept(listener),
                None => self.acceptor.accept(listener),
            };
            match accepted {
                Ok(Some(socket)) => self.take_in(id, socket, time),
                Ok(None) => break,
                Err(Errno::TIMEDOUT) => {
                    log::warn!(target: REFUSAL, "{}: its socket does not let anybody in; it ends", client.name);
                    return self.end(id);
                }
                Err(e @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)) => {
                    let name = client.name.clone();
                    return self.rest(&name, e, time);
                }
                Err(e) => {
                    log::warn!(target: REFUSAL, "{}: accepting a connection: {e}; it ends", client.name);
                    return self.end(id);
                }
            }
        }
        self.admit(id, time);
    }

    fn take_in(&mut self, id: u32, socket: OwnedFd, time: Time) {
        let token = self.next_token;
        let Some(client) = self.clients.get_mut(&id) else { return };
        let over = client.phase == Phase::Ending && client.cap.is_none();
        if client.barred || over {
            return;
        }
        // The one whose turn it is has a place of its own.
        let most = client.share.waiting + usize::from(client.conn.is_none());
        if client.waiting.len() >= most {
            let name = &client.name;
            log::warn!(target: REFUSAL, "{name}: a connection was closed: {most} wait already");
            return;
        }
        if self.epoll.add(&socket, token, Interest::ReadEdge).is_err() {
            return;
        }
        client.waiting.push_back(Waiter { socket, token });
        self.token(Watched::Waiter(id));
        self.look_at_waiter(id, token, false);
        self.another_waits(id, token, time);
    }

    /// Somebody came while a client is there: that one yields, if it has begun nothing for its time; else the other is said to
    /// wait.
    fn another_waits(&mut self, id: u32, token: u64, time: Time) {
        let connected = |c: &Client| c.conn.is_some() && c.waiting.iter().any(|w| w.token == token);
        if !self.clients.get(&id).is_some_and(connected) {
            return;
        }
        // What it has said meanwhile counts.
        self.serve(id, time);
        let Some(Client { conn: Some(conn), name, .. }) = self.clients.get(&id) else { return };
        if conn.yields {
            return self.disconnect(id, &Over::Yielded);
        }
        let who = conn.peer.map_or_else(String::new, |p| format!(" ({p})"));
        log::info!(target: OPERATOR, "{name}: another client waits until this one{who} disconnects");
    }

    /// The time of a client is over: one that has stalled is cut, and so is one that has begun nothing while another
    /// waits. While nobody does, such a one may stay until somebody comes: a machine may get the device of its chardev later.
    pub(super) fn out_of_time(&mut self, id: u32) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some(conn) = client.conn.as_mut().filter(|conn| conn.is_silent()) else {
            return self.disconnect(id, &Over::Stalled);
        };
        if !client.waiting.is_empty() {
            return self.disconnect(id, &Over::Yielded);
        }
        conn.yields = true;
        conn.deadline = None;
    }

    /// Something came from a connection that waits.
    pub(super) fn look_at_waiter(&mut self, id: u32, token: u64, hangup: bool) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some(at) = client.waiting.iter().position(|w| w.token == token) else { return };
        let Some(waiter) = client.waiting.get(at) else { return };
        let sent = if hangup { Unread::Gone } else { unread(&waiter.socket) };
        if sent == Unread::Bytes {
            return;
        }
        if sent == Unread::TooMuch {
            let who = socket::peer(&waiter.socket).map_or_else(String::new, |p| format!(" ({p})"));
            let name = &client.name;
            log::warn!(target: REFUSAL, "{name}{who}: a connection was closed: it sent descriptors, or much, before its turn");
        }
        if let Some(waiter) = client.waiting.remove(at) {
            let _ = self.epoll.remove(&waiter.socket);
        }
        self.watched.remove(&token);
    }

    /// Lets the next one in, when there is nobody.
    pub(super) fn admit(&mut self, id: u32, time: Time) {
        loop {
            let free = |c: &&mut Client| c.phase == Phase::Free && !c.barred;
            let Some(client) = self.clients.get_mut(&id).filter(free) else { return };
            let Some(key) = client.key else { return };
            let Some(Waiter { socket, token }) = client.waiting.pop_front() else { return };
            let _ = self.epoll.remove(&socket);
            self.watched.remove(&token);
            let peer = socket::peer(&socket);
            let offered = self.control.session(key).map_or(0, |s| s.offered());
            let Ok(connection) = Connection::new(socket, offered) else { continue };
            let token = self.next_token;
            if self.epoll.add(connection.as_fd(), token, Interest::Read).is_err() {
                continue;
            }
            client.conn = Some(Conn::new(connection, peer, token, true, time));
            client.phase = Phase::Connected;
            let who = peer.map_or_else(String::new, |p| format!(" ({p})"));
            log::info!(target: OPERATOR, "{}{who}: connected", client.name);
            self.token(Watched::Conn(id));
            self.serve(id, time);
            return;
        }
    }

    /// Lets nobody in for a moment: a listening socket that nobody can be accepted from stays readable.
    pub(super) fn rest(&mut self, what: &str, why: Errno, time: Time) {
        log::warn!(target: REFUSAL, "{what}: accepting a connection: {why}");
        self.rest.get_or_insert(time + REST);
        self.breathe();
        self.listen(Interest::Hangup);
    }

    /// Listens again.
    pub(super) fn rested(&mut self) {
        self.rest = None;
        self.breathe();
        self.listen(Interest::Read);
    }

    fn listen(&self, interest: Interest) {
        for (token, watched) in &self.watched {
            if let Watched::Listener(id) = watched
                && let Some(Client { source: Source::Listener(listener), .. }) = self.clients.get(id)
            {
                let _ = self.epoll.modify(listener, *token, interest);
            }
        }
    }
}
