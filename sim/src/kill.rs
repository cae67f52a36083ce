//! The server is killed, at any moment, and another is started: with what a service manager kept, or with nothing.
//!
//! With a store each session is taken up where it was, and its rings go on from their journals; a client that was saying something loses its connection. Without, all
//! sessions end; a client that keeps what is in flight goes on when there is a session again. What the dead one had asked of storage may land later: nobody is served
//! there before it has.

use nvme_core::server::control::{Control, Drained};
use nvme_handover as handover;
use nvme_handover::{Document, KeptFactory, KeptSession, State};

use crate::build::config;
use crate::drains::Held;
use crate::handed::Files;
use crate::judge::Judge;
use crate::seat::Phase;
use crate::world::{CONTROLLERS, World};

/// What is kept of a seat's session.
type Kept = (usize, handover::Session, Files);

impl World {
    /// Kills the server. The next one has begun.
    pub(crate) fn kill(&mut self) -> bool {
        let busy = !self.before.is_empty() || self.down || self.has_two_of_a_number();
        if busy || !self.scanned || self.is_unproven() {
            return false;
        }
        self.frozen = None;
        let kept = self.setup.store.then(|| self.kept());
        self.dies();
        let began = self.begin();
        self.land_or_wait(kept.is_some());
        self.taking_up = true;
        self.settle();
        if began.is_none() || !self.scanned {
            self.find(Judge::Life, || "another server does not begin".into());
            return true;
        }
        match kept {
            Some((state, sessions)) => self.takes_up(&state, sessions),
            None => self.nothing_is_kept(),
        }
        self.taking_up = false;
        self.control_awake = true;
        self.after_control();
        true
    }

    /// What a service manager has of the server: a document for each session, and for each factory.
    fn kept(&mut self) -> (State, Vec<Kept>) {
        let mut sessions = Vec::new();
        for at in 0..self.seats.len() {
            let seat = &self.seats[at];
            // What had ended stays ended.
            let lives = matches!(seat.phase, Phase::Free | Phase::Connected | Phase::Clearing) && !seat.lost;
            let quiet = seat.conn.as_ref().is_none_or(|conn| conn.is_quiet()) && seat.hangs_up.is_none();
            if !lives || !quiet && !seat.place.listens {
                continue;
            }
            if !quiet {
                // Nobody knows what was done of what it said.
                self.loses_connection(at);
            }
            let mut files = Files::default();
            let Some(session) = self.session_state(at, &mut files) else { continue };
            let session = KeptSession { slot: at as u32, session };
            let read = session.write().ok().and_then(|bytes| KeptSession::read(&bytes, files.count()).ok());
            if read.as_ref() != Some(&session) {
                self.find(Judge::Itself, || format!("what is kept of seat {at} is not read as written"));
            }
            sessions.push((at, session.session, files));
        }
        let catalogue = self.control.catalogue();
        let factories = catalogue.factories().filter(|factory| !factory.is_ended());
        let factories = factories.map(|f| handover::factory(&self.control, f, &[])).collect::<Vec<_>>();
        for factory in &factories {
            let kept = KeptFactory { slot: 0, factory: factory.clone() };
            let read = kept.write().ok().and_then(|bytes| KeptFactory::read(&bytes, 0).ok());
            if read != Some(kept) {
                self.find(Judge::Itself, || "what is kept of a factory is not read as written".into());
            }
        }
        let state = State {
            next_session: catalogue.next_session(),
            next_factory: catalogue.next_factory(),
            factories,
            drained: handover::drained(&self.control),
            ..State::default()
        };
        (state, sessions)
    }

    /// A client's connection is gone with its server.
    fn loses_connection(&mut self, at: usize) {
        let stays = self.seats[at].hangs_up.take().unwrap_or(true) && self.stays(at);
        self.seats[at].conn = None;
        if stays {
            self.waits_for_server(at);
        } else {
            let gone = self.seats[at].driver.take();
            self.seats[at].left.extend(gone);
        }
        self.seats[at].phase = Phase::Free;
    }

    /// All that the process had is gone, but for what is with storage.
    fn dies(&mut self) {
        self.before =
            self.storages.drain(..).enumerate().filter(|(_, storage)| storage.is_waiting()).collect();
        self.control = Control::new(config(&self.setup));
        self.hands.clear();
        let machines = std::mem::take(&mut self.machines);
        self.troubled = machines.iter().map(|machine| machine.troubled).collect();
        drop(machines);
        self.hangs.clear();
        self.court().begin(CONTROLLERS);
        for seat in &mut self.seats {
            seat.made = None;
            seat.conn.iter_mut().for_each(|conn| conn.inflight = None);
            // What a process had that died without a word nobody holds.
            for driver in seat.driver.iter_mut().chain(&mut seat.left) {
                driver.count_own();
                driver.is_left();
            }
        }
    }

    /// What a dead server had asked of storage lands later, if somebody waits for it; or the next one does not begin before it has.
    fn land_or_wait(&mut self, waits: bool) {
        for (disk, storage) in std::mem::take(&mut self.before) {
            storage.freeze(false);
            if waits {
                let controller = Self::controller_of(disk);
                self.control.set_unsettled(controller as u16, true);
                self.court().unsettled.insert(controller);
                self.before.push((disk, storage));
                continue;
            }
            while storage.answer_one(0) {}
        }
    }

    /// Something of a dead server's lands.
    pub(crate) fn lands(&mut self, at: usize, which: u8) -> bool {
        let Some((disk, storage)) = self.before.get(at).cloned() else { return false };
        storage.answer_one(which.into());
        if !storage.is_waiting() {
            self.before.remove(at);
            let controller = Self::controller_of(disk);
            if !self.before.iter().any(|(disk, _)| Self::controller_of(*disk) == controller) {
                self.court().unsettled.remove(&controller);
                self.control.set_unsettled(controller as u16, false);
                self.control_awake = true;
                self.goes_on_settled();
                self.after_control();
            }
        }
        true
    }

    /// Clients go on whose sessions wait for nothing of the server before.
    fn goes_on_settled(&mut self) {
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            let (Some(key), Some(conn)) = (seat.key, &mut seat.conn) else { continue };
            if !conn.taking_up || self.control.is_unsettled(key) {
                continue;
            }
            conn.taking_up = false;
            self.unpause(at);
        }
    }

    fn takes_up(&mut self, state: &State, sessions: Vec<Kept>) {
        for at in 0..self.seats.len() {
            if !sessions.iter().any(|(of, ..)| *of == at) {
                self.ends_with_its_server(at, false);
            }
            // Whoever had left before the server died is no more.
            self.left_nothing(at, false);
            self.is_let_go_of(at);
        }
        if let Err(why) = self.take_over(state) {
            self.is_not_taken_up(&why);
            self.nothing_is_drained();
        }
        let mut all: Vec<usize> = Vec::new();
        for (at, session, files) in sessions {
            match self.adopt(session, &files, true) {
                Ok(()) => all.push(at),
                Err(why) => self.ends_untaken(at, &why),
            }
        }
        for at in all {
            for last in [false, false, true] {
                self.after_control();
                self.settle();
                match self.take_up(at) {
                    Ok(true) => break,
                    Ok(false) if last => self.ends_untaken(at, "its memory is not mapped in time"),
                    Ok(false) => {}
                    Err(why) => self.ends_untaken(at, &why),
                }
            }
        }
        for seat in &mut self.seats {
            seat.conn.iter_mut().for_each(|conn| conn.taking_up = true);
        }
        self.has_taken_over();
        self.goes_on_settled();
    }

    fn nothing_is_drained(&mut self) {
        self.drained.clear();
        self.control.resume(Drained::All);
        for seat in &mut self.seats {
            seat.held = Held::No;
        }
        self.court().held.clear();
    }

    fn is_not_taken_up(&self, why: &str) {
        if !self.machines.iter().any(|machine| machine.troubled) {
            self.find(Judge::Life, || format!("what was kept is not taken up: {why}"));
        }
    }

    /// A session does not go on.
    fn ends_untaken(&mut self, at: usize, why: &str) {
        self.is_not_taken_up(why);
        let there = self.seats[at].key.is_some_and(|key| self.control.session(key).is_some());
        if there {
            self.end(at);
        } else {
            self.ends_with_its_server(at, false);
        }
    }

    fn nothing_is_kept(&mut self) {
        for at in 0..self.seats.len() {
            let stays = self.seats[at].place.listens;
            self.ends_with_its_server(at, stays);
        }
        self.factories.iter_mut().for_each(|factory| factory.ended = true);
        self.drained.clear();
    }

    /// A session is no more, since its server is not. `stays`: its client may go on when there is one again.
    fn ends_with_its_server(&mut self, at: usize, stays: bool) {
        let hangs_up = self.seats[at].hangs_up.take();
        let waits = self.seats[at].driver.as_ref().is_some_and(|driver| driver.waits);
        let stays = stays && hangs_up != Some(false) && (waits || self.stays(at));
        let seat = &mut self.seats[at];
        seat.conn = None;
        if !stays {
            let gone = seat.driver.take();
            seat.left.extend(gone);
        } else if !waits {
            self.waits_for_server(at);
        }
        let seat = &mut self.seats[at];
        let key = seat.key.take();
        (seat.phase, seat.device, seat.factory, seat.lost) = (Phase::Empty, None, None, false);
        seat.held = Held::No;
        if let Some(key) = key {
            self.court().held.remove(&key.0);
            self.court().end(key.0, false);
        }
        self.left_nothing(at, false);
        self.is_let_go_of(at);
    }
}
