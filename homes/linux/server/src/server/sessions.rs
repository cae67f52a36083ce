//! The sessions' side: their clients come and go, and control says what became of what they asked.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::SystemTime;

use nvme_audit as audit;
use nvme_core::server::control::Event;
use nvme_core::server::message::SessionKey;
use nvme_linux::dispose;
use nvme_linux::events::{Interest, some_ended};
use nvme_linux::logger::{OPERATOR, REFUSAL, speak_of};
use nvme_linux::vhost::ConnectionError;
use nvme_platform::Time;
use nvme_session::virtqueue::Broken;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown};

use super::{CLOSED, Server, Watched};
use crate::capability::Capability;
use crate::hints::Told;
use crate::lent::Lent;
use crate::seat::{Order, Over, Phase, Seat, Source};

impl Server {
    pub(super) fn lend<T>(
        &mut self,
        id: u32,
        now: Time,
        work: impl FnOnce(&mut Seat, &mut Lent<'_>) -> T,
    ) -> Option<T> {
        self.touch(id);
        let seat = self.seats.get_mut(&id)?;
        let mut lent = Lent {
            control: &mut self.control,
            workers: &self.workers,
            trusted: &self.trusted,
            found: &self.found.0,
            seat: id,
            keeps: self.upgrades.keeps() || self.keep.is_some(),
            stores: self.keep.is_some(),
            capabilities: &self.capabilities,
            now,
        };
        let turn = self.keep.as_ref().and_then(|keep| keep.turn.as_ref());
        if let Some((turn, key)) = turn.zip(seat.key) {
            turn.say(key.0);
        }
        let done = work(seat, &mut lent);
        if let Some(turn) = turn {
            turn.say(0);
        }
        self.take_notes(id, now);
        Some(done)
    }

    pub(super) fn serve(&mut self, id: u32, time: Time) {
        // While everything stands still, or is not as it was, what clients ask for waits in their sockets.
        if self.upgrades.frozen || self.seats.get(&id).is_some_and(Seat::is_going_on) {
            return;
        }
        self.will_read(id);
        let lost = dispose::lost_here();
        let result = self.lend(id, time, |seat, lent| seat.serve(lent));
        match result {
            Some(Ok(())) => self.watch_conn(id),
            Some(Err(over)) => self.disconnect(id, &over),
            None => {}
        }
        if dispose::lost_here() > lost {
            self.bar(id);
        }
    }

    /// A client's files cannot be closed. Its session ends; a static client is let in no more.
    pub(super) fn bar(&mut self, id: u32) {
        let Some(seat) = self.seats.get_mut(&id).filter(|s| !s.barred) else { return };
        seat.barred = true;
        let fixed = seat.cap.is_some();
        let end = if fixed { "nobody is let in any more" } else { "it ends" };
        log::warn!(target: REFUSAL, "{}: it sent files that cannot be closed; {end}", seat.name);
        self.disconnect(id, &Over::Unclosable);
        if !fixed {
            self.end(id, &Over::Unclosable.to_string());
        }
        self.breathe();
    }

    /// Sessions whose notifications take so long that everybody waits for them end.
    pub(super) fn end_dear(&mut self) {
        if self.upgrades.frozen || !some_ended() {
            return;
        }
        let dear = |(id, seat): (&u32, &Seat)| Some((*id, seat.account.ended()?));
        for (id, took) in self.seats.iter().filter_map(dear).collect::<Vec<_>>() {
            let Some(seat) = self.seats.get(&id).filter(|seat| seat.conn.is_some()) else { continue };
            speak_of(self.tenant_at(id));
            let (name, device, over) = (&seat.name, &seat.device, Over::Dear(took));
            log::warn!(target: REFUSAL, "{name}: {device}: {over}; it ends");
            let fixed = seat.cap.is_some();
            self.disconnect(id, &over);
            if !fixed {
                self.end(id, &over.to_string());
            }
        }
        speak_of(0);
    }

    /// Serves a client after all stood still. Of one that has nothing to say nothing is read: its document tells all as before.
    pub(super) fn serve_again(&mut self, id: u32, time: Time) {
        if self.seats.get(&id).is_some_and(Seat::is_quiet) {
            self.watch_conn(id);
        } else {
            self.serve(id, time);
        }
    }

    pub(super) fn watch_conn(&mut self, id: u32) {
        let Some(conn) = self.seats.get(&id).and_then(|s| s.conn.as_ref()) else { return };
        let wants = conn.connection.interest();
        let interest = match (wants.read, wants.write) {
            // Nothing more is read from who does not read what it was told.
            (_, true) => Interest::Write,
            (true, false) => Interest::Read,
            // While a request of its own is worked on, all that counts is that it may go away.
            (false, false) => Interest::Hangup,
        };
        let _ = self.epoll.modify(conn.connection.as_fd(), conn.token, interest);
    }

    /// The client of a connection went away while a request of its own is worked on, so nothing is read.
    pub(super) fn hung_up(&mut self, id: u32) {
        let interest = self.seats.get(&id).and_then(|s| s.conn.as_ref()).map(|s| s.connection.interest());
        if interest.is_some_and(|i| !i.read) {
            self.disconnect(id, &Over::Connection(ConnectionError::Closed));
        }
    }

    /// A session's listening socket was shut down: the session ends.
    pub(super) fn stop_listening(&mut self, id: u32, token: u64) {
        self.watched.remove(&token);
        let Some(seat) = self.seats.get(&id) else { return };
        log::warn!(target: REFUSAL, "{}: its listening socket was shut down; it ends", seat.name);
        if let Source::Listener(listener) = &seat.source {
            let _ = self.epoll.remove(listener);
        }
        self.end(id, "its listening socket was shut down");
    }

    pub(super) fn disconnect(&mut self, id: u32, over: &Over) {
        self.will_read(id);
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let Some(conn) = seat.conn.take() else { return };
        self.leave |= seat.last;
        let who = conn.peer.map_or_else(String::new, |p| format!(" ({p})"));
        if over.is_ordinary() {
            log::info!(target: OPERATOR, "{}{who}: disconnected", seat.name);
        } else {
            log::warn!(target: REFUSAL, "{}{who}: disconnected: {over}", seat.name);
        }
        let _ = self.epoll.remove(conn.connection.as_fd());
        self.watched.remove(&conn.token);
        let lost = dispose::lost_here();
        conn.close();
        let lost = dispose::lost_here() > lost;
        let over_with_it = matches!(seat.source, Source::Connection);
        if seat.phase == Phase::Connected {
            if over_with_it {
                self.end(id, &over.to_string());
            } else if let Some(key) = seat.key {
                seat.phase = Phase::Clearing;
                self.control.clear(key);
                self.end_if_away(id);
            }
        }
        if lost {
            self.bar(id);
        }
    }

    /// A static client whose device is lost, and that nobody uses, ends, so that it can begin again with the device that
    /// comes back.
    fn end_if_away(&mut self, id: u32) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let lost = seat.key.and_then(|key| self.control.session(key)).is_some_and(|s| s.is_lost());
        if lost && seat.cap.is_some() && matches!(seat.phase, Phase::Free | Phase::Clearing) {
            seat.away = true;
            self.end(id, "its device is lost");
        }
    }

    /// Ends a session, or a static client.
    pub(super) fn end(&mut self, id: u32, why: &str) {
        let Some(seat) = self.seats.get_mut(&id).filter(|s| s.phase != Phase::Ending) else { return };
        seat.phase = Phase::Ending;
        seat.why = Some(why.to_owned());
        self.will_be_gone(id);
        self.disconnect(id, &Over::Ended);
        let Some(seat) = self.seats.get_mut(&id) else { return };
        match seat.key {
            Some(key) => self.control.end(key),
            None => self.remove_client(id),
        }
    }

    /// Whether a session is about to end, those included whose client has just gone.
    pub(super) fn someone_leaves(&mut self) -> bool {
        let sockets: Vec<(u32, BorrowedFd<'_>)> = self
            .seats
            .iter()
            .filter_map(|(id, seat)| match (&seat.lifetime, &seat.conn) {
                (Some(lifetime), _) => Some((*id, lifetime.as_fd())),
                (None, Some(conn)) if matches!(seat.source, Source::Connection) => {
                    Some((*id, conn.connection.as_fd()))
                }
                _ => None,
            })
            .collect();
        let fds = sockets.iter().map(|(_, socket)| PollFd::from_borrowed_fd(*socket, PollFlags::empty()));
        let mut fds: Vec<PollFd<'_>> = fds.collect();
        // One call for all of them: this is asked for each call that waits, whenever one ends.
        let _none = poll(&mut fds, Some(&Timespec::default()));
        let hung_up = |fd: &PollFd<'_>| fd.revents().intersects(PollFlags::HUP | PollFlags::ERR);
        let gone = sockets.iter().zip(&fds).filter(|(_, fd)| hung_up(fd)).map(|((id, _), _)| *id);
        let gone: Vec<u32> = gone.collect();
        for id in gone {
            self.end(id, CLOSED);
        }
        self.seats.values().any(|s| s.phase == Phase::Ending)
    }

    pub(super) fn remove_client(&mut self, id: u32) {
        self.unkeep(id);
        let Some(seat) = self.seats.remove(&id) else { return };
        if let Source::Listener(listener) = &seat.source {
            let _ = self.epoll.remove(listener);
        }
        // The other ends hear of it now, not when the service manager has let go of what it kept.
        if let Some(lifetime) = &seat.lifetime {
            let _ = self.epoll.remove(lifetime);
            let _ = shutdown(lifetime, Shutdown::Both);
        }
        for waiter in &seat.waiting {
            let _ = self.epoll.remove(&waiter.socket);
            let _ = shutdown(&waiter.socket, Shutdown::Both);
        }
        self.capabilities.retain(|_, whose| *whose != Capability::Session(id));
        self.watched.retain(
            |_, w| !matches!(w, Watched::Conn(i) | Watched::Listener(i) | Watched::Waiter(i) | Watched::Lifetime(i) if *i == id),
        );
    }

    pub(super) fn control_event(&mut self, event: Event, time: Time) {
        match event {
            // What was absent is looked for when all goes on.
            Event::Scanned | Event::CatalogueChanged if self.upgrades.frozen => {}
            Event::Scanned => {
                self.touch_factories();
                self.start_static(true, time);
                self.look_at_factories(true);
                self.say_ready();
                self.retry_waiting(time);
                self.notifier.ready();
            }
            Event::CatalogueChanged => {
                self.touch_factories();
                if self.control.scanned() {
                    self.start_static(false, time);
                    self.look_at_factories(false);
                    self.retry_waiting(time);
                }
            }
            Event::Done(key, result) => {
                self.with_session(key, time, |seat, _| seat.memory_done(result));
            }
            Event::QueueStopped(key, index, next) => {
                self.with_session(key, time, |seat, lent| seat.stopped(index, Some(next), lent));
            }
            Event::NotifySet(key, index) => {
                self.with_session(key, time, |seat, _| seat.worker_has(Order::Notify(index)));
            }
            Event::WriteBackSet(key) => {
                self.with_session(key, time, |seat, _| seat.worker_has(Order::WriteBack));
            }
            Event::QueueBroken(key, index, why) => {
                self.with_session(key, time, |seat, _| {
                    let peer = seat.conn.as_ref().and_then(|c| c.peer);
                    let who = peer.map_or_else(String::new, |p| format!(" ({p})"));
                    log::warn!(target: REFUSAL, "{}{who}: queue {index} is broken: {why}", seat.name);
                    seat.is_broken(index);
                });
            }
            Event::Lost(key) => {
                self.with_session(key, time, |seat, _| {
                    log::error!("{}: its device is lost; its requests fail", seat.name);
                });
                if let Some(id) = self.by_session.get(&key).copied() {
                    let record = self.of_session(audit::Event::DeviceLost, id);
                    self.note(record, time);
                }
                if let Some(id) = self.by_session.get(&key).copied() {
                    self.end_if_away(id);
                }
            }
            Event::ConfigChanged(key) => {
                self.with_session(key, time, |seat, _| {
                    if let Some(conn) = &mut seat.conn {
                        conn.connection.config_changed();
                    }
                });
            }
            // Whoever waits for it looks.
            Event::Held(_) => {}
            Event::Hangs(key) => {
                let seat = self.by_session.get(&key).and_then(|id| self.seats.get(id));
                // That a ring stops was the next server's wish, and not its client's: it waits on.
                let wanted = seat.is_some_and(|seat| !seat.stops_for_another());
                if let Some(id) = self.by_session.get(&key).copied().filter(|_| wanted) {
                    self.disconnect(id, &Over::Hangs);
                }
            }
            Event::Cleared(key) => {
                let Some(id) = self.by_session.get(&key).copied() else { return };
                // It may be cleared once more already: for a session that starts on a connection, and for the next client.
                if self.control.session(key).is_none_or(|session| session.is_leaving()) {
                    return;
                }
                if let Some(seat) = self.seats.get_mut(&id).filter(|s| s.phase == Phase::Clearing) {
                    if seat.is_cleared() {
                        self.free(id, time);
                    }
                } else {
                    self.with_session(key, time, |client, lent| client.cleared(lent));
                }
            }
            Event::Ended(key) => {
                let Some(id) = self.by_session.remove(&key) else { return };
                self.unkeep(id);
                let record = self.of_session(audit::Event::End, id);
                let why = self.seats.get_mut(&id).and_then(|seat| seat.why.take());
                self.note(audit::Record { why, ..record }, time);
                let Some(seat) = self.seats.get_mut(&id) else { return };
                log::info!(target: OPERATOR, "{}: ended", seat.name);
                // Whoever is still connected had the session that is no more.
                if let Some(conn) = seat.conn.take() {
                    let _ = self.epoll.remove(conn.connection.as_fd());
                    self.watched.remove(&conn.token);
                    conn.close();
                }
                if seat.cap.is_some() && !self.stop {
                    // A static client outlives the session that lost its device.
                    seat.key = None;
                    seat.phase = Phase::Absent;
                    if core::mem::take(&mut seat.away) {
                        // The device may be back already.
                        self.start_static(false, time);
                    }
                } else {
                    self.remove_client(id);
                }
                // The device may be what somebody waits for.
                self.retry_waiting(time);
            }
            Event::FactoryEnded(id) => self.factory_ended(id, time),
            Event::ShutDown => self.down = true,
        }
    }

    /// Nothing is left of a seat's last client.
    pub(super) fn free(&mut self, id: u32, time: Time) {
        let waits = |s: &&mut Seat| matches!(s.phase, Phase::Clearing | Phase::Unwritten);
        if let Some(seat) = self.seats.get_mut(&id).filter(waits) {
            seat.phase = Phase::Free;
            seat.account = seat.account.next();
            self.admit(id, time);
        }
    }

    pub(super) fn with_session(
        &mut self,
        key: SessionKey,
        time: Time,
        work: impl FnOnce(&mut Seat, &mut Lent<'_>),
    ) {
        let Some(id) = self.by_session.get(&key).copied() else { return };
        self.lend(id, time, work);
        if self.seats.get(&id).is_some_and(|s| s.conn.is_some()) {
            self.serve(id, time);
        }
    }

    /// Starts static clients whose device is there.
    pub(super) fn start_static(&mut self, first: bool, time: Time) {
        self.take_up_late(time);
        if self.is_held_for_late() {
            return;
        }
        let absent: Vec<u32> =
            self.seats.iter().filter(|(_, s)| s.phase == Phase::Absent).map(|(id, _)| *id).collect();
        // Of one that goes on later, nothing begins anew.
        let absent = absent.into_iter().filter(|id| {
            let client = self.seats.get(id).and_then(|seat| seat.cap.as_deref());
            !self.is_late_client(client)
        });
        for id in absent.collect::<Vec<u32>>() {
            let Some(seat) = self.seats.get_mut(&id) else { continue };
            match self.control.create(&seat.policy, true) {
                Ok(key) => {
                    (seat.key, seat.since) = (Some(key), SystemTime::now());
                    seat.phase = Phase::Unwritten;
                    let minted = self.control.session(key).map(|session| session.minted().device());
                    seat.device = minted.unwrap_or_default().to_owned();
                    self.by_session.insert(key, id);
                    let device = seat.policy.device();
                    log::info!(target: OPERATOR, "{}: {device}, {}, session {}", seat.name, seat.policy.access(), key.0);
                    // Nobody waits for it: one that is not kept begins anew in the next server.
                    if let Err(why) = self.keep_seat(id) {
                        self.not_kept(id, &why);
                    }
                    if self.note_static(id, key, time) {
                        self.free(id, time);
                    }
                }
                Err(why) if first => {
                    log::warn!("{}: {}; it is served when that changes", seat.name, Told(&why));
                }
                Err(_) => {}
            }
        }
    }

    /// Memory under a client vanished: its queues end.
    pub(super) fn memory_failed(&mut self) {
        self.failures.take();
        let failed: Vec<SessionKey> =
            self.control.sessions().filter(|(_, s)| s.registry().any_failed()).map(|(key, _)| key).collect();
        for key in failed {
            self.control.break_session(key, Broken::MemoryGone);
        }
    }
}
