//! This server takes up what one left that was killed.
//!
//! It is an upgrade whose old half is dead, so nobody says no: each session goes on by itself, or ends by itself, with a line. What the dead
//! one had begun may still land, in an image or in a client's memory, until its gates have hung up: sessions of such an image wait for that, and
//! others do not. `factories`: those of callers. `late`: what waits for a controller that is not scanned.

mod factories;
mod late;

use std::collections::BTreeSet;
use std::time::Duration;

use nvme_core::server::control::Event;
use nvme_core::server::message::SessionKey;
use nvme_handover as handover;
use nvme_handover::{Crash, KeptSession};
use nvme_linux::dispose::dispose;
use nvme_linux::events::{Interest, now};
use nvme_linux::keep::Shelf;
use nvme_linux::logger::{OPERATOR, SERVER};
use nvme_platform::Time;
use nvme_session::factory::FactoryId;
use rustix::net::{Shutdown, shutdown};

pub(super) use self::late::Late;
use super::{Server, Watched};
use crate::fatal::Fatal;
use crate::keep::{Found, Kept, Leavings, State};
use crate::seat::{Over, Seat};
use crate::upgrade::Given;

/// A session that was left: its document, with what it names, and where it lies.
pub(super) struct LeftSession {
    name: String,
    state: State,
    document: KeptSession,
    given: Given,
    shelf: Shelf,
}

/// How many crashes are enough to end whose turn it was, and in how many seconds.
const ENOUGH: usize = 3;
const A_WHILE: u64 = 60;
/// How long controllers may take to be scanned until sessions are taken up without.
const SCANS: Duration = Duration::from_secs(60);
/// How long it is waited for those that are held up, before the others' sessions go on.
const HELD_UP: Duration = Duration::from_millis(100);

impl Server {
    /// Takes up what was left.
    pub(crate) fn take_up(&mut self, found: Found) -> Result<(), Fatal> {
        let start = now();
        let Found { fixed, factories, sessions, next_session, next_factory, drained, .. } = found;
        self.upgrades.frozen = true;
        let factories = self.read_factories(factories);
        // A factory's sessions may be on other devices than the one that is held up, and what is drained stays so: then all wait for all.
        self.scan_what_can_be(start, |server| {
            let mut all = fixed.iter().chain(factories.iter().map(|left| &left.document.factory));
            let serials = drained.iter().filter_map(|drained| drained.serial.as_deref());
            all.any(|factory| server.is_late(factory))
                || serials.into_iter().any(|serial| server.is_awaited(serial))
        })?;
        self.wait_for_gates();
        for drained in drained {
            match self.drained_of_state(&drained) {
                Some(drained) => drop(self.control.drain(drained)),
                None => log::warn!(target: OPERATOR, "what was drained is not here any more: {drained:?}"),
            }
        }
        let time = now();
        self.begin();
        let mut known = BTreeSet::from([FactoryId::SERVER.number()]);
        let mut late = BTreeSet::new();
        let late_fixed = self.take_up_fixed(fixed, &mut known, &mut late, time);
        let count = sessions.len();
        let sessions: Vec<LeftSession> =
            sessions.into_iter().filter_map(|leavings| self.read_session(leavings)).collect();
        if let Some(keep) = &mut self.keep {
            // What nobody has claimed by now has ended.
            keep.board.settle();
        }
        self.control.catalogue_mut().begin_at(next_session);
        self.control.catalogue_mut().begin_factories_at(next_factory);
        let factories = self.take_up_factories(factories, &mut known, &mut late, time);
        self.count_crashes(&sessions);
        let sessions = self.take_up_sessions(sessions, &late, &known, time);
        let late = sessions.len();
        self.wait_with(Late { known, fixed: late_fixed, factories, sessions });
        self.touch_factories();
        // The next one has to wait for this one's gates, too, before anything can land.
        self.keep_changes();
        log::warn!(
            target: SERVER,
            "the server before was killed: {} of {count} sessions go on after {} ms",
            self.taking_up.len() + late,
            (time - start).as_millis()
        );
        self.upgrades.frozen = false;
        self.control_event(Event::Scanned, time);
        self.take_up_more(time);
        Ok(())
    }

    /// Waits until all controllers are scanned, but for those whose storage may be held up by what the server before began there.
    /// Not without these either, while all wait `together`.
    fn scan_what_can_be(&mut self, start: Time, together: impl Fn(&Self) -> bool) -> Result<(), Fatal> {
        let own = self.own_events()?;
        self.settle_images(true);
        while !self.control.scanned() && now() < start + SCANS {
            self.turn_still(&own, start + SCANS)?;
            self.settle_images(true);
            if now() >= start + HELD_UP && !together(self) {
                self.control.serve_without_unsettled();
            }
        }
        let time = now();
        while let Some(event) = self.control.take_event() {
            self.control_event(event, time);
        }
        Ok(())
    }

    /// Forgets the gates that have opened, and lets the sessions of their images go on. `hold`: those of images whose have not are held. Those
    /// for which that is another than before.
    fn settle_images(&mut self, hold: bool) -> Vec<(String, bool)> {
        let Some(keep) = &mut self.keep else { return Vec::new() };
        for gate in keep.before.extract_if(.., |gate| gate.is_open()) {
            let _ = self.epoll.remove(&gate.end);
            keep.stale = true;
        }
        let mut changed = Vec::new();
        for (at, served) in (0..).zip(&self.images) {
            let Some(served) = served else { continue };
            let serial = served.stored.image().serial();
            let quiet = keep.is_quiet(serial);
            if (quiet || hold) && self.control.set_unsettled(at, !quiet) {
                changed.push((serial.to_owned(), quiet));
            }
        }
        changed
    }

    /// Sessions of images wait where something of a server before may still land.
    fn wait_for_gates(&mut self) {
        self.settle_images(true);
        let Some(keep) = &self.keep else { return };
        let serials = self.images.iter().flatten().map(|served| served.stored.image().serial());
        for serial in serials.filter(|serial| !keep.is_quiet(serial)) {
            log::warn!(target: OPERATOR, "{serial}: what the server before began there has not ended; its sessions wait");
        }
        self.watch_gates();
    }

    /// Hears of each gate that opens.
    pub(super) fn watch_gates(&mut self) {
        for at in 0..self.keep.as_ref().map_or(0, |keep| keep.before.len()) {
            let token = self.next_token;
            let Some(gate) = self.keep.as_ref().and_then(|keep| keep.before.get(at)) else { return };
            if let Err(why) = self.epoll.add(&gate.end, token, Interest::Hangup) {
                log::error!("what the server before began cannot be watched: {why}");
            }
            self.token(Watched::Gate);
        }
    }

    /// Whether a session waits for something that a server before had begun.
    pub(super) fn waits_for_the_dead(&self) -> bool {
        let mut keys = self.taking_up.iter().filter_map(|id| self.seats.get(id)?.key);
        self.late.is_some() || keys.any(|key| self.control.is_unsettled(key))
    }

    /// Something that a server before had begun has ended.
    pub(super) fn gate_opened(&mut self, time: Time) {
        for (serial, _) in self.settle_images(false).into_iter().filter(|(_, quiet)| *quiet) {
            log::info!(target: OPERATOR, "{serial}: nothing of the server before is under way any more");
        }
        self.take_up_more(time);
    }

    /// What was kept of a session. Its place is claimed, if it lives.
    fn read_session(&mut self, leavings: Leavings) -> Option<LeftSession> {
        let name = leavings.name.clone();
        match leavings.session() {
            Ok((document, given, shelf)) => {
                let (slot, number) = (document.slot, document.session.number);
                let state = self.keep.as_mut().and_then(|keep| keep.board.take_again(slot, number));
                match state {
                    None | Some(State::Gone) => self.let_go(name),
                    Some(state) => return Some(LeftSession { name, state, document, given, shelf }),
                }
            }
            Err(why) => {
                log::warn!(target: OPERATOR, "{name}: it ends: {why}");
                self.let_go(name);
            }
        }
        None
    }

    fn let_go(&self, name: String) {
        if let Some(keep) = &self.keep {
            keep.keeper.let_go(name);
        }
    }

    /// The factory right below the server's own that a session was minted through; 0: none.
    fn top_of(&self, session: &handover::Session) -> u64 {
        self.factory_of(session.factory).map_or(0, |id| self.control.catalogue().top_of(id).number())
    }

    /// Remembers in whose turns servers crashed within a minute.
    fn count_crashes(&mut self, kept: &[LeftSession]) {
        let crashed = self.keep.as_mut().map(|keep| core::mem::take(&mut keep.crashed)).unwrap_or_default();
        let mut crashes = Vec::new();
        let at = now().as_nanos() / 1_000_000_000;
        for number in crashed {
            let found = kept.iter().map(|left| &left.document.session).find(|s| s.number == number);
            let Some(session) = found else { continue };
            log::warn!(target: SERVER, "the server before crashed in the turn of session {number}");
            let (client, factory) = (session.client.clone(), self.top_of(session));
            crashes.push(Crash { session: number, client, factory, at });
        }
        let Some(keep) = &mut self.keep else { return };
        keep.crashes.extend(crashes);
        keep.crashes.retain(|crash| crash.at + A_WHILE >= at && crash.at <= at);
    }

    /// Whether the server has crashed in a session's turns, or in those of all that its top factory minted, as often as is enough.
    fn is_poison(&self, session: &handover::Session) -> bool {
        let Some(keep) = &self.keep else { return false };
        let top = self.top_of(session);
        let own = |crash: &&Crash| {
            crash.session == session.number
                || crash.client.is_some() && crash.client == session.client
                || crash.factory != 0 && crash.factory == top
        };
        keep.crashes.iter().filter(own).count() >= ENOUGH
    }

    /// Sessions go on, or end; those are returned for which it is too early. `late`: factories for which it is.
    fn take_up_sessions(
        &mut self,
        left: Vec<LeftSession>,
        late: &BTreeSet<u64>,
        known: &BTreeSet<u64>,
        time: Time,
    ) -> Vec<LeftSession> {
        let mut later = Vec::new();
        for left in left {
            let session = &left.document.session;
            if late.contains(&session.factory) || self.is_awaited(&session.device.serial) {
                later.push(left);
            } else if let Some(id) = self.take_up_session(left, known, time) {
                self.taking_up.insert(id);
            }
        }
        later
    }

    /// A session goes on, or ends. Its seat.
    fn take_up_session(&mut self, left: LeftSession, known: &BTreeSet<u64>, time: Time) -> Option<u32> {
        let LeftSession { name, state, document, mut given, shelf } = left;
        let ended = |why: &str| log::warn!(target: OPERATOR, "{name}: it ends: {why}");
        let KeptSession { slot, mut session } = document;
        let number = session.number;
        if self.is_poison(&session) {
            log::error!(
                "{name}: it ends: servers crashed {ENOUGH} times within a minute in its turn, or in turns of its factory's"
            );
            let barred = |seat: &&mut Seat| seat.cap.is_some() && seat.cap == session.client;
            if let Some(seat) = self.seats.values_mut().find(barred) {
                log::error!("{}: nobody is let in until the server is restarted", seat.name);
                seat.barred = true;
            }
            if let Some(keep) = &mut self.keep {
                keep.forget(&Kept { shelf, slot, name });
            }
            return None;
        }
        if state == State::Says
            && let Some(connection) = session.connection.take()
        {
            log::warn!(target: OPERATOR, "{name}: its client was saying something; that connection is closed");
            if let Ok(socket) = given.take(connection.socket) {
                let _ = shutdown(&socket, Shutdown::Both);
                dispose([socket]);
            }
        } else if state == State::Says {
            // One of those that waited may have been let in, and heard.
            for socket in core::mem::take(&mut session.waiting).into_iter().flat_map(|file| given.take(file))
            {
                let _ = shutdown(&socket, Shutdown::Both);
                dispose([socket]);
            }
        }
        let result = if known.contains(&session.factory) {
            self.adopt(session, &mut given, true, time)
        } else {
            Err(format!("factory {} has not gone on", session.factory))
        };
        let key = SessionKey(number);
        let kept = Kept { shelf, slot, name: name.clone() };
        match result {
            Ok(id) => {
                if let Some(seat) = self.seats.get_mut(&id) {
                    seat.kept = Some(kept);
                }
                Some(id)
            }
            Err(why) => {
                ended(&why);
                if let Some(keep) = &mut self.keep {
                    keep.forget(&kept);
                }
                match self.by_session.get(&key).copied() {
                    Some(id) => self.end(id, &why),
                    None if self.control.session(key).is_some() => self.control.end(key),
                    None => {}
                }
                None
            }
        }
    }

    /// Does what is still to be done of what clients had asked for, and lets those go on that have all of it.
    pub(super) fn take_up_more(&mut self, time: Time) {
        self.take_up_late(time);
        for id in core::mem::take(&mut self.taking_up) {
            let Some(seat) = self.seats.get(&id) else { continue };
            let name = seat.name.clone();
            let settled = seat.key.is_none_or(|key| !self.control.is_unsettled(key));
            match self.lend(id, time, |seat, lent| seat.take_up(lent)) {
                Some(Ok(true)) if settled => {
                    self.lend(id, time, |seat, lent| {
                        seat.is_taken_up();
                        seat.unpause(lent);
                    });
                    log::info!(target: OPERATOR, "{name}: goes on");
                    self.serve_again(id, time);
                    self.admit(id, time);
                }
                Some(Ok(_)) => drop(self.taking_up.insert(id)),
                Some(Err(why)) => {
                    if let Some(seat) = self.seats.get_mut(&id) {
                        seat.is_taken_up();
                    }
                    self.disconnect(id, &Over::NotTakenUp(why));
                }
                None => {}
            }
        }
    }
}
