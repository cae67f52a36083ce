//! Whoever connects to a session's socket: let in one after the other.
//!
//! Who comes while another client is there waits, and what it sends meanwhile is looked at without being taken. Requests may lie there:
//! QEMU asks for features before it is its turn. Descriptors may not. One could be a copy of a session's capability, or of the other end
//! of a connection, which would then last as long as nobody reads it, with no client alive. So connections are taken from the
//! socket whatever state the session is in; a few wait here, and more than that are closed.

use nvme_linux::dispose::ClientFd;
use nvme_linux::events::Interest;
use nvme_linux::logger::{OPERATOR, REFUSAL};
use nvme_linux::socket::{self, Unread, unread};
use nvme_linux::vhost::Connection;
use nvme_platform::Time;
use rustix::io::Errno;

use std::os::fd::{AsFd, OwnedFd};

use super::{ACCEPT_PAUSE, ACCEPTS_PER_TURN, Server, Watched};
use crate::seat::{Conn, Over, Phase, Seat, Source, Waiter};

impl Server {
    /// Watches a client's listening socket.
    pub(super) fn watch_listener(&mut self, id: u32) {
        let token = self.next_token;
        let Some(Seat { source: Source::Listener(listener), name, .. }) = self.seats.get(&id) else {
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
            let Some(seat) = self.seats.get(&id) else { return };
            let Source::Listener(listener) = &seat.source else { return };
            // A static client's socket is ours; one that came with `create` shares its flags with the client.
            let accepted = match seat.cap {
                Some(_) => socket::accept(listener),
                None => self.acceptor.accept(listener),
            };
            match accepted {
                Ok(Some(socket)) => self.take_in(id, socket, time),
                Ok(None) => break,
                Err(Errno::TIMEDOUT) => {
                    log::warn!(target: REFUSAL, "{}: its socket does not let anybody in; it ends", seat.name);
                    return self.end(id, "its socket does not let anybody in");
                }
                Err(e @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)) => {
                    let name = seat.name.clone();
                    return self.pause_accepting(&name, e, time);
                }
                Err(e) => {
                    log::warn!(target: REFUSAL, "{}: accepting a connection: {e}; it ends", seat.name);
                    return self.end(id, "its listening socket failed");
                }
            }
        }
        self.admit(id, time);
    }

    fn take_in(&mut self, id: u32, socket: OwnedFd, time: Time) {
        let socket = ClientFd::new(socket);
        self.touch(id);
        let token = self.next_token;
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let over = seat.phase == Phase::Ending && seat.cap.is_none();
        if seat.barred || over {
            return;
        }
        // The one whose turn it is has a place of its own.
        let most = seat.share.waiting + usize::from(seat.conn.is_none());
        if seat.waiting.len() >= most {
            let name = &seat.name;
            log::warn!(target: REFUSAL, "{name}: a connection was closed: {most} wait already");
            return;
        }
        if self.epoll.add(&socket, token, Interest::ReadEdge).is_err() {
            return;
        }
        seat.waiting.push_back(Waiter { socket, token });
        self.token(Watched::Waiter(id));
        self.look_at_waiter(id, token, false);
        self.another_waits(id, token, time);
    }

    /// Somebody came while a client is there: that one yields, if it has begun nothing for its time; else the other is said to
    /// wait.
    fn another_waits(&mut self, id: u32, token: u64, time: Time) {
        let connected = |s: &Seat| s.conn.is_some() && s.waiting.iter().any(|w| w.token == token);
        if !self.seats.get(&id).is_some_and(connected) {
            return;
        }
        // What it has said meanwhile counts.
        self.serve(id, time);
        let Some(Seat { conn: Some(conn), name, .. }) = self.seats.get(&id) else { return };
        if conn.yields {
            return self.disconnect(id, &Over::Yielded);
        }
        let who = conn.peer.map_or_else(String::new, |p| format!(" ({p})"));
        log::info!(target: OPERATOR, "{name}: another client waits until this one{who} disconnects");
    }

    /// The time of a client is over: one that has stalled is cut, and so is one that has begun nothing while another
    /// waits. While nobody does, such a one may stay until somebody comes: a machine may get the device of its chardev later.
    pub(super) fn out_of_time(&mut self, id: u32) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let Some(conn) = seat.conn.as_mut().filter(|conn| conn.is_silent()) else {
            return self.disconnect(id, &Over::Stalled);
        };
        if !seat.waiting.is_empty() {
            return self.disconnect(id, &Over::Yielded);
        }
        conn.yields = true;
        conn.deadline = None;
    }

    /// Something came from a connection that waits.
    pub(super) fn look_at_waiter(&mut self, id: u32, token: u64, hangup: bool) {
        self.touch(id);
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let Some(at) = seat.waiting.iter().position(|w| w.token == token) else { return };
        let Some(waiter) = seat.waiting.get(at) else { return };
        let sent = if hangup { Unread::Gone } else { unread(&waiter.socket) };
        if sent == Unread::Bytes {
            return;
        }
        if sent == Unread::TooMuch {
            let who = socket::peer(&waiter.socket).map_or_else(String::new, |p| format!(" ({p})"));
            let name = &seat.name;
            log::warn!(target: REFUSAL, "{name}{who}: a connection was closed: it sent descriptors, or much, before its turn");
        }
        // There is no socket at which another could come.
        self.leave |= seat.last && matches!(seat.source, Source::Connection);
        if let Some(waiter) = seat.waiting.remove(at) {
            let _ = self.epoll.remove(&waiter.socket);
        }
        self.watched.remove(&token);
    }

    /// Lets the next one in, when there is nobody.
    pub(super) fn admit(&mut self, id: u32, time: Time) {
        if self.upgrades.frozen {
            return;
        }
        self.touch(id);
        loop {
            let free = |s: &&mut Seat| s.phase == Phase::Free && !s.barred;
            let Some(seat) = self.seats.get_mut(&id).filter(free) else { return };
            let Some(key) = seat.key else { return };
            let Some(Waiter { socket, token }) = seat.waiting.pop_front() else { return };
            let _ = self.epoll.remove(&socket);
            self.watched.remove(&token);
            let peer = socket::peer(&socket);
            let offered = self.control.session(key).map_or(0, |s| s.offered());
            let Ok(connection) = Connection::new(socket.into_owned(), offered, self.control.config().queues)
            else {
                continue;
            };
            let token = self.next_token;
            if self.epoll.add(connection.as_fd(), token, Interest::Read).is_err() {
                continue;
            }
            seat.conn = Some(Conn::new(connection, peer, token, true, time));
            seat.phase = Phase::Connected;
            let who = peer.map_or_else(String::new, |p| format!(" ({p})"));
            log::info!(target: OPERATOR, "{}{who}: connected", seat.name);
            self.token(Watched::Conn(id));
            self.serve(id, time);
            return;
        }
    }

    /// Lets nobody in for a moment: a listening socket that nobody can be accepted from stays readable.
    pub(super) fn pause_accepting(&mut self, what: &str, why: Errno, time: Time) {
        log::warn!(target: REFUSAL, "{what}: accepting a connection: {why}");
        self.paused_until.get_or_insert(time + ACCEPT_PAUSE);
        self.breathe();
        self.listen(Interest::Hangup);
    }

    /// Listens again.
    pub(super) fn resume_accepting(&mut self) {
        self.paused_until = None;
        self.breathe();
        self.listen(Interest::Read);
    }

    fn listen(&self, interest: Interest) {
        for (token, watched) in &self.watched {
            if let Watched::Listener(id) = watched
                && let Some(Seat { source: Source::Listener(listener), .. }) = self.seats.get(id)
            {
                let _ = self.epoll.modify(listener, *token, interest);
            }
        }
        self.listen_to_factories();
    }
}
