//! An operator upgrades the server: everything stands still, the next server builds all of it anew from the document, and goes on; or refuses, and this one goes
//! on as if nothing had been. What the core's part in this is is the core's own; what the Linux home does besides is done as there.

use std::time::Duration;

use nvme_core::server::control::{Control, ControllerState};
use nvme_core::server::message::Old;
use nvme_handover as handover;
use nvme_handover::{Document, State};
use nvme_platform::Time;

use crate::build::config;
use crate::drains::Held;
use crate::handed::Files;
use crate::judge::Judge;
use crate::judge::court::Bus;
use crate::messages::Message;
use crate::seat::{Conn, Device, Phase, Stage};
use crate::world::{CONTROLLERS, Hand, Machine, World};

/// How long what is in flight may take to end.
const DRAINS: Duration = Duration::from_secs(5);

/// Everything is to stand still.
#[derive(Clone, Copy)]
pub(crate) struct Frozen {
    /// Or goes on then.
    pub(crate) until: Time,
    /// What becomes of it.
    how: u8,
}

/// A server that stands still, while the next one is built.
struct Aside {
    control: Control,
    hands: Vec<Hand>,
    machines: Vec<Machine>,
    storages: Vec<std::sync::Arc<crate::storage::Slow>>,
    buses: Vec<Bus>,
    seats: Vec<(Option<Conn>, Option<Device>, bool)>,
}

impl World {
    /// The next server asks for everything.
    pub(crate) fn upgrade(&mut self, how: u8) -> bool {
        let busy = self.frozen.is_some() || !self.before.is_empty() || self.down;
        if busy || !self.scanned || self.is_unproven() || self.has_two_of_a_number() {
            return false;
        }
        self.frozen = Some(Frozen { until: self.now + DRAINS, how });
        self.stand_still();
        true
    }

    /// Whether a device is gone, and nothing proves it quiet: that is hardware, of which the Linux home hands nothing over, nor is anything of it kept. (Its
    /// images never go, only the namespaces that they are in.) Sessions of it that had no memory with it have ended: a Flush, for one, may be under way still.
    pub(crate) fn is_unproven(&self) -> bool {
        let court = self.court();
        let with = |at: usize| court.in_flight(at) > 0 && !court.buses[at].off;
        let lost = |state| state == ControllerState::Lost;
        court.keeps_any()
            || self.control.controllers().enumerate().any(|(at, (.., state))| lost(state) && with(at))
    }

    /// What is drained is told by its controller's serial number, which two of one subsystem share: images have their own.
    pub(crate) fn has_two_of_a_number(&self) -> bool {
        self.setup.shared && !self.drained.is_empty()
    }

    /// Has everything stand still, and hands over once it does.
    pub(crate) fn stand_still(&mut self) {
        let Some(Frozen { until, how }) = self.frozen else { return };
        if self.control.sessions().any(|(_, session)| session.is_lost()) || self.is_unproven() {
            return self.go_on();
        }
        if self.rests() {
            self.pause();
            if self.rests() && self.stands_still() {
                return self.hand_over(how);
            }
        }
        if self.now >= until {
            self.go_on();
        }
    }

    /// Whether nothing is under way that changes what this server has.
    fn rests(&self) -> bool {
        let settled = |phase| matches!(phase, Phase::Empty | Phase::Free | Phase::Connected);
        let seats =
            self.seats.iter().all(|s| settled(s.phase) && s.conn.as_ref().is_none_or(|conn| conn.rests()));
        seats && !self.control.catalogue().factories().any(|factory| factory.is_ended())
    }

    fn stands_still(&self) -> bool {
        let conns = self.seats.iter().filter_map(|seat| seat.conn.as_ref());
        conns.flat_map(|conn| conn.rings.values()).all(|ring| ring.stage == Stage::Stopped)
    }

    fn pause(&mut self) {
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            let (Some(key), Some(conn)) = (seat.key, &mut seat.conn) else { continue };
            let runs: Vec<u16> =
                conn.rings.iter().filter(|(_, r)| r.stage == Stage::Running).map(|(i, _)| *i).collect();
            for (index, ring) in &mut conn.rings {
                ring.paused |= std::mem::take(&mut ring.resumes) || runs.contains(index);
            }
            for index in runs {
                self.stop(at, key, index, Old::Left);
            }
        }
        self.after_control();
    }

    /// Whether rings of a seat stop, and its client wants nothing of that: they are to go on.
    pub(crate) fn stops_for_another(&self, at: usize) -> bool {
        let conn = self.seats[at].conn.as_ref().filter(|conn| conn.pending.is_none());
        let Some(conn) = conn else { return false };
        let mut stopping = conn.rings.values().filter(|ring| ring.stage == Stage::Stopping).peekable();
        stopping.peek().is_some() && stopping.all(|ring| ring.paused || ring.resumes)
    }

    /// This server goes on, or the next one begins to.
    pub(crate) fn go_on(&mut self) {
        self.frozen = None;
        self.control_awake = true;
        for at in 0..self.seats.len() {
            self.unpause(at);
            if let Some(stays) = self.seats[at].hangs_up.take() {
                self.disconnect(at, stays);
            }
        }
        self.after_control();
    }

    /// Starts again what was stopped to go on elsewhere.
    pub(crate) fn unpause(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        let (Some(key), Some(conn)) = (seat.key, &mut seat.conn) else { return };
        let paused: Vec<u16> = conn.rings.iter().filter(|(_, r)| r.paused).map(|(i, _)| *i).collect();
        for index in paused {
            if let Some(ring) = self.ring(at, index) {
                ring.paused = false;
                ring.resumes = ring.stage == Stage::Stopping;
            }
            self.start_again(at, key, index);
        }
    }

    /// All that the server has, as bytes, and what goes with them. `None`: a session's device is gone.
    fn state(&self) -> Option<(Vec<u8>, Files)> {
        let mut files = Files::default();
        let mut sessions = Vec::new();
        for at in (0..self.seats.len()).filter(|at| self.seats[*at].key.is_some()) {
            sessions.push(self.session_state(at, &mut files)?);
        }
        let catalogue = self.control.catalogue();
        let state = State {
            next_session: catalogue.next_session(),
            next_factory: catalogue.next_factory(),
            factories: catalogue.factories().map(|f| handover::factory(&self.control, f, &[])).collect(),
            sessions,
            drained: handover::drained(&self.control),
            ..State::default()
        };
        Some((state.write().ok()?, files))
    }

    fn hand_over(&mut self, how: u8) {
        self.frozen = None;
        let Some((bytes, files)) = self.state() else { return self.go_on() };
        for at in 0..CONTROLLERS {
            let court = self.court();
            let (off, mut flights) = (court.buses[at].off, court.flights(at));
            drop(court);
            // A scan reads what nobody has.
            flights.retain(|(_, _, opcode, colour)| colour.is_some() || *opcode != 2);
            if !off && !flights.is_empty() {
                self.find(Judge::Colour, || format!("all stands still, and controller {at} has {flights:?}"));
            }
        }
        let before = self.put_aside();
        let built = self.build(&bytes, &files);
        if let Err(why) = &built
            && !before.machines.iter().any(|machine| machine.troubled)
        {
            self.find(Judge::Life, || format!("the next server refuses: {why}"));
        }
        if built.is_err() || how % 4 == 3 {
            self.put_back(before);
        } else {
            self.let_go(before);
            self.has_taken_over();
        }
        self.go_on();
    }

    /// This server stands aside, and another has begun.
    fn put_aside(&mut self) -> Aside {
        let seats = self.seats.iter_mut().map(|s| (s.conn.as_mut().map(Conn::server_side), s.device, s.lost));
        let seats = seats.collect();
        self.troubled = self.machines.iter().map(|machine| machine.troubled).collect();
        self.hangs = self.storages.iter().map(|storage| storage.is_frozen()).collect();
        Aside {
            control: std::mem::replace(&mut self.control, Control::new(config(&self.setup))),
            hands: std::mem::take(&mut self.hands),
            machines: std::mem::take(&mut self.machines),
            storages: std::mem::take(&mut self.storages),
            buses: std::mem::take(&mut self.court().buses),
            seats,
        }
    }

    /// The next server, with all that it is given. An error: why it refuses.
    fn build(&mut self, bytes: &[u8], files: &Files) -> Result<(), String> {
        self.begin().ok_or("there is no such server")?;
        self.settle();
        if !self.scanned {
            return Err("its controllers are not scanned in time".into());
        }
        let state = State::read(bytes, files.count()).map_err(|why| why.to_string())?;
        self.take_over(&state)?;
        for session in state.sessions {
            let number = session.number;
            self.adopt(session, files, false).map_err(|why| format!("session {number}: {why}"))?;
        }
        for _ in 0..3 {
            self.after_control();
            self.settle();
            let all = (0..self.seats.len()).try_fold(true, |all, at| Ok(self.take_up(at)? && all));
            match all {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(why) => return Err(why),
            }
        }
        Err("clients' memory is not mapped in time".into())
    }

    /// Builds anew what a document says, but for its sessions.
    pub(crate) fn take_over(&mut self, state: &State) -> Result<(), String> {
        for drained in &state.drained {
            let drained = handover::drained_of(&self.control, drained, |_| None);
            self.control.drain(drained.ok_or("what is drained there is not here")?);
        }
        for factory in &state.factories {
            handover::adopt_factory(&mut self.control, factory, &[]).map_err(|why| why.to_string())?;
        }
        self.control.catalogue_mut().begin_at(state.next_session);
        self.control.catalogue_mut().begin_factories_at(state.next_factory);
        self.control_awake = true;
        Ok(())
    }

    /// The server that stood aside goes on.
    fn put_back(&mut self, before: Aside) {
        let Aside { control, hands, machines, storages, buses, seats } = before;
        // What was built goes, while its buses are there.
        for (seat, (conn, device, lost)) in self.seats.iter_mut().zip(seats) {
            (seat.device, seat.lost) = (device, lost);
            if let (Some(own), Some(before)) = (&mut seat.conn, conn) {
                own.put_back(before);
            }
        }
        let built = std::mem::replace(&mut self.control, control);
        let built = (
            built,
            std::mem::replace(&mut self.hands, hands),
            std::mem::replace(&mut self.machines, machines),
        );
        drop((built, std::mem::replace(&mut self.storages, storages)));
        self.court().buses = buses;
        self.scanned = true;
        self.hands.iter_mut().for_each(|hand| hand.awake = true);
        // Time has gone on.
        for machine in &self.machines {
            machine.handle.advance(self.now);
        }
        (0..CONTROLLERS).for_each(|at| self.court().scan(at));
        self.storage_answered();
    }

    /// The server that stood aside ends.
    fn let_go(&mut self, before: Aside) {
        let Aside { control, hands, machines, storages, buses, seats } = before;
        let own = std::mem::replace(&mut self.court().buses, buses);
        if storages.iter().any(|storage| storage.writes()) {
            self.find(Judge::Colour, || "it was handed over, and a write is with storage still".into());
        }
        drop((control, hands, machines, storages, seats));
        self.court().buses = own;
    }

    /// What its clients, its operators and its judges know is so in the next one.
    pub(crate) fn has_taken_over(&mut self) {
        for at in 0..self.seats.len() {
            if self.seats[at].conn.as_ref().is_some_and(|c| matches!(c.waiting, Some(Message::GetInflight))) {
                // It was sent, and its client has not looked yet.
                self.has_journal(at);
            }
            self.seats[at].made = None;
            self.seats[at].limited_at.clear();
            self.begin_meters(at);
            let Some(key) = self.seats[at].key else { continue };
            if self.seats[at].held != Held::No && self.control.is_unsettled(key) {
                // What the server before had begun there is to end first.
                self.seats[at].held = Held::Finishes;
                self.court().held.remove(&key.0);
            } else if self.seats[at].held == Held::Finishes {
                (0..3).for_each(|queue| {
                    self.reap(at, queue);
                });
                self.seats[at].held = Held::Quiet;
                self.court().hold(key.0);
            }
            let held = self.seats[at].held != Held::No;
            let says = self.control.session(key).is_some_and(|session| session.is_held());
            if held != says && !self.control.is_unsettled(key) {
                self.find(Judge::Life, || {
                    format!("seat {at} is held: {held}, and in the next server: {says}")
                });
            }
        }
        for factory in self.factories.iter_mut().filter(|factory| !factory.ended) {
            match self.control.catalogue().factory_numbered(factory.id.number()) {
                Some(id) => factory.id = id,
                None => {
                    let what = format!("factory {} has not gone on", factory.number);
                    self.books.open().find(Judge::Life, || what);
                }
            }
        }
    }
}

impl Conn {
    /// The server's side of it, which stands aside; the client's stays.
    fn server_side(&mut self) -> Self {
        let mut own = Self::new(nvme_linux::vhost::Machine::new(0), Default::default());
        (own.todo, own.waiting, own.rest) =
            (std::mem::take(&mut self.todo), self.waiting.take(), self.rest.take());
        std::mem::replace(self, own)
    }

    fn put_back(&mut self, mut before: Self) {
        (before.todo, before.waiting, before.rest) =
            (std::mem::take(&mut self.todo), self.waiting.take(), self.rest.take());
        *self = before;
    }
}
