//! A seat: where the clients of a session connect, as a home has it. The real vhost-user machine is fed by bytes; what it hears is done as the Linux
//! home does it.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;

use nvme_core::server::control::Event;
use nvme_core::server::message::SessionKey;
use nvme_linux::vhost::{Incoming, Machine, Region, Reply, Request, Token};
use nvme_mem::Window;

use crate::drains::Held;
use crate::driver::{Driver, QUEUES};
use crate::handed::Change;
use crate::inflight::{Inflight, Made};
use crate::judge::Judge;
use crate::judge::court::{Arena, Holding};
use crate::judge::rate::Meter;
use crate::messages::Message;
use crate::setup::Place;
use crate::world::World;

/// How far a seat is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// It has no session.
    Empty,
    /// Waits for a client.
    Free,
    /// A client is connected.
    Connected,
    /// What the last client left is being cleared away.
    Clearing,
    /// The session is ending.
    Ending,
}

/// What a connection waits for.
#[derive(Debug)]
pub(crate) enum Pending {
    Memory(Token),
    Base(Token, u16),
    Disable(Token, u16),
    Reset(Token),
    Start(Token),
    Notify(Token, u16),
    WriteBack(Token),
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stage {
    #[default]
    Stopped,
    Running,
    Stopping,
}

#[derive(Default)]
pub(crate) struct Ring {
    pub(crate) size: Option<u16>,
    pub(crate) addresses: Option<(u64, u64, u64)>,
    pub(crate) base: u16,
    pub(crate) kick: bool,
    pub(crate) enabled: bool,
    pub(crate) stage: Stage,
    /// It was stopped to go on in another server; or here, if that does not take over.
    pub(crate) paused: bool,
    /// It goes on as soon as it has stopped.
    pub(crate) resumes: bool,
    /// It ran in a server that was killed: what is in flight is what the journal says.
    pub(crate) killed: bool,
    /// It broke.
    pub(crate) broken: bool,
}

/// A connected client: the server's side of it, and what it means to say.
pub(crate) struct Conn {
    pub(crate) machine: Machine,
    pub(crate) rings: BTreeMap<u16, Ring>,
    pub(crate) pending: Option<Pending>,
    /// What the client has still to say.
    pub(crate) todo: VecDeque<Message>,
    /// What it waits to be answered.
    pub(crate) waiting: Option<Message>,
    /// Where it keeps what is in flight.
    pub(crate) inflight: Option<Inflight>,
    /// Where the server does, for rings of which the client does not.
    pub(crate) own: BTreeMap<u16, Window>,
    /// Its memory, each region with its file; and what becomes of it once control has changed it.
    pub(crate) regions: Vec<(Region, usize)>,
    pub(crate) change: Option<Change>,
    /// What its client has not said yet of a message: the bytes, and the files that came with the first of them.
    pub(crate) rest: Option<(Vec<u8>, Vec<usize>)>,
    /// Where its client kept what is in flight, in another server: rings and entries, offset, file.
    pub(crate) goes_on: Option<((u16, u16), u64, usize)>,
    /// Its memory was refused, that another server had.
    pub(crate) refused: bool,
    /// It is not served before nothing of the server before is under way.
    pub(crate) taking_up: bool,
}

impl Conn {
    pub(crate) fn new(machine: Machine, todo: VecDeque<Message>) -> Self {
        Self {
            machine,
            rings: BTreeMap::new(),
            pending: None,
            todo,
            waiting: None,
            inflight: None,
            own: BTreeMap::new(),
            regions: Vec::new(),
            change: None,
            rest: None,
            goes_on: None,
            refused: false,
            taking_up: false,
        }
    }
}

/// What a session has, as the sim knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    pub(crate) controller: usize,
    pub(crate) holding: Holding,
    /// Sectors of a block.
    pub(crate) block: u64,
}

pub(crate) struct Seat {
    pub(crate) place: Place,
    pub(crate) key: Option<SessionKey>,
    pub(crate) phase: Phase,
    pub(crate) conn: Option<Conn>,
    pub(crate) driver: Option<Driver>,
    /// Drivers that are no more, whose memory the server may still have.
    pub(crate) left: Vec<Driver>,
    pub(crate) device: Option<Device>,
    /// What its last session had.
    pub(crate) last: Option<Device>,
    pub(crate) lost: bool,
    /// Tells its clients' files apart.
    pub(crate) clients: u64,
    /// Which factory minted its session, by its place among those that were made.
    pub(crate) factory: Option<u64>,
    /// How much its session may do.
    pub(crate) meter: Meter,
    /// Which message of each worker's has to be taken until that counts.
    pub(crate) limited_at: Vec<u64>,
    /// Whether it waits.
    pub(crate) held: Held,
    /// What the server made for its clients to keep in it what is in flight.
    pub(crate) made: Option<Made>,
    /// Its client has hung up while everything stood still; whether its machine stays.
    pub(crate) hangs_up: Option<bool>,
}

impl Seat {
    pub(crate) fn new(place: Place) -> Self {
        Self {
            place,
            key: None,
            phase: Phase::Empty,
            conn: None,
            driver: None,
            left: Vec::new(),
            device: None,
            last: None,
            lost: false,
            clients: 0,
            factory: None,
            meter: Meter::default(),
            limited_at: Vec::new(),
            held: Held::No,
            made: None,
            hangs_up: None,
        }
    }

    /// Whether its client has said all that it had to say, and is answered.
    pub(crate) fn has_been_heard(&self) -> bool {
        self.conn.as_ref().is_none_or(|c| c.waiting.is_none() && c.todo.is_empty())
    }

    /// Whether its client waits for a ring to stop of which somebody who is no more had something. What is drained does nothing, and where the ring is at its end is said once
    /// that is done: who goes on elsewhere leaves nothing behind.
    pub(crate) fn stops_with_what_was_left(&self) -> bool {
        let waiting = self.conn.as_ref().and_then(|conn| conn.waiting);
        let (Some(Message::GetBase(queue)), Some(driver)) = (waiting, &self.driver) else { return false };
        let queue = driver.queues.get(usize::from(queue));
        queue.is_some_and(|queue| queue.slots.iter().flatten().any(|asked| asked.left))
    }

    /// Whether all that its driver asked for on queues that run is answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.driver.as_ref().is_none_or(|driver| {
            let mut runs = driver.queues.iter().filter(|q| q.running && !q.broken);
            runs.all(|q| q.slots.iter().all(Option::is_none))
        })
    }

    /// All that is under way may fail from now on.
    pub(crate) fn excuse(&mut self) {
        let drivers = self.driver.iter_mut();
        for asked in drivers.flat_map(|d| &mut d.queues).flat_map(|q| q.slots.iter_mut().flatten()) {
            asked.may_fail = true;
        }
    }
}

impl World {
    /// A client connects.
    pub(crate) fn connect(&mut self, at: usize) -> bool {
        let Some(seat) = self.seats.get_mut(at) else { return false };
        let (Phase::Free, Some(key), None) = (seat.phase, seat.key, self.frozen) else { return false };
        let Some(offered) = self.control.session(key).map(|s| s.offered()) else { return false };
        seat.clients += 1;
        let todo = match &mut seat.driver {
            Some(driver) => Self::boot_again(driver, seat.clients).into(),
            None => {
                let Some(driver) = Driver::new(seat.place.queues) else { return false };
                seat.place.hostile = self.setup.seats[at].hostile;
                seat.driver = Some(driver);
                Message::boot(seat.place.queues, seat.place.inflight)
            }
        };
        seat.phase = Phase::Connected;
        seat.conn = Some(Conn::new(Machine::new(offered).with_queues(QUEUES), todo));
        true
    }

    /// A client is gone, whatever it was doing; or its connection is, and its machine `stays`.
    pub(crate) fn disconnect(&mut self, at: usize, stays: bool) {
        let seat = &mut self.seats[at];
        let (Phase::Connected, Some(key)) = (seat.phase, seat.key) else { return };
        if self.frozen.is_some() {
            // Nobody looks.
            seat.hangs_up = Some(stays);
            return;
        }
        seat.conn = None;
        if stays {
            self.waits_for_server(at);
        } else {
            let gone = seat.driver.take();
            seat.left.extend(gone);
        }
        let seat = &mut self.seats[at];
        self.control_awake = true;
        if seat.place.listens {
            seat.phase = Phase::Clearing;
            self.control.clear(key);
        } else {
            seat.phase = Phase::Ending;
            self.control.end(key);
        }
        self.after_control();
    }

    /// Bytes of a client's for its connection, with so many descriptors; then what they ask for is done. `file`: which of its regions the
    /// descriptors are.
    pub(crate) fn feed(&mut self, at: usize, parts: &[&[u8]], files: usize, file: &[usize]) {
        let mut first = files;
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                let files: Vec<OwnedFd> =
                    (0..std::mem::take(&mut first)).filter_map(|_| self.null.try_clone().ok()).collect();
                let Some(conn) = &mut self.seats[at].conn else { return };
                let wanted = conn.machine.wanted().min(rest.len());
                if wanted == 0 {
                    return;
                }
                let (now, later) = rest.split_at(wanted);
                if conn.machine.feed(now, files).is_err() {
                    return self.hung_up(at, "bytes");
                }
                rest = later;
                self.hear_client(at, file);
            }
        }
    }

    /// The server ends a connection.
    fn hung_up(&mut self, at: usize, why: &str) {
        let seat = &self.seats[at];
        let troubled = seat.device.is_some_and(|d| self.machines[d.controller].troubled);
        if !seat.place.hostile && !seat.lost && !troubled {
            let waiting = seat.conn.as_ref().and_then(|c| c.waiting);
            self.find(Judge::Life, || {
                format!("the honest client of seat {at} was hung up on for {why} ({waiting:?})")
            });
        }
        self.disconnect(at, self.stays(at));
    }

    fn hear_client(&mut self, at: usize, file: &[usize]) {
        loop {
            let Some(conn) = &mut self.seats[at].conn else { return };
            match conn.machine.next() {
                Ok(Some(Incoming::Request(Request { token, call }))) => {
                    if let Some(reply) = self.call(at, token, call, file) {
                        self.reply(at, token, reply);
                    }
                }
                Ok(Some(Incoming::Refused(_))) => {}
                Ok(None) => break,
                Err(_) => return self.hung_up(at, "a message"),
            }
        }
        self.control_awake = true;
        self.after_control();
    }

    pub(crate) fn reply(&mut self, at: usize, token: Token, reply: Reply) {
        let Some(conn) = &mut self.seats[at].conn else { return };
        let _ = conn.machine.reply(token, reply);
        // What the machine cannot say ends the connection.
        if conn.machine.next().is_err() {
            self.hung_up(at, "an answer that cannot be given");
        }
    }

    /// What control says to a home.
    pub(crate) fn home(&mut self, event: Event) {
        let of = |key: SessionKey| self.seats.iter().position(|s| s.key == Some(key));
        match event {
            Event::Done(key, result) => {
                let Some(at) = of(key) else { return };
                if let Some(Pending::Memory(token)) =
                    self.take_pending(at, |p| matches!(p, Pending::Memory(_)))
                {
                    if result.is_ok() {
                        self.reaches_no_more(at, key);
                    }
                    if let Some(conn) = &mut self.seats[at].conn {
                        conn.changed(result.is_ok());
                        conn.refused |= token == Token::NOBODY && result.is_err();
                    }
                    self.reply(at, token, if result.is_ok() { Reply::Done } else { Reply::Failed });
                }
            }
            Event::QueueStopped(key, index, next) => {
                if let Some(at) = of(key) {
                    self.stopped(at, index, Some(next));
                }
            }
            Event::NotifySet(key, index) => {
                let Some(at) = of(key) else { return };
                let is = |p: &Pending| matches!(p, Pending::Notify(_, ring) if *ring == index);
                if let Some(Pending::Notify(token, _)) = self.take_pending(at, is) {
                    self.reply(at, token, Reply::Done);
                }
            }
            Event::WriteBackSet(key) => {
                let Some(at) = of(key) else { return };
                if let Some(Pending::WriteBack(token)) =
                    self.take_pending(at, |p| matches!(p, Pending::WriteBack(_)))
                {
                    self.reply(at, token, Reply::Done);
                }
            }
            Event::QueueBroken(key, index, why) => {
                let Some(at) = of(key) else { return };
                self.queue_broken(at, index, why);
            }
            Event::Lost(key) => {
                let Some(at) = of(key) else { return };
                self.seats[at].lost = true;
                self.court().lose(key.0);
                self.is_held_no_more(at, key);
                self.seats[at].excuse();
                let troubled = self.seats[at].device.is_some_and(|d| self.machines[d.controller].troubled);
                if !troubled {
                    self.find(Judge::Life, || {
                        format!("seat {at} lost its device, and nothing was wrong with it")
                    });
                }
            }
            Event::ConfigChanged(key) => self.granted(key),
            Event::Hangs(key) => {
                if let Some(at) = of(key).filter(|at| !self.stops_for_another(*at)) {
                    self.disconnect(at, self.stays(at));
                }
            }
            Event::Cleared(key) => {
                let Some(at) = of(key) else { return };
                if self.control.session(key).is_none_or(|s| s.is_leaving()) {
                    return;
                }
                if self.seats[at].phase == Phase::Clearing {
                    self.seats[at].phase = Phase::Free;
                    self.is_let_go_of(at);
                    self.left_nothing(at, false);
                } else if let Some(Pending::Start(token)) =
                    self.take_pending(at, |p| matches!(p, Pending::Start(_)))
                {
                    if let Some(conn) = &mut self.seats[at].conn {
                        conn.forget_rings();
                        conn.regions.clear();
                        if let Some(mut inflight) = conn.inflight.take() {
                            inflight.forget();
                        }
                    }
                    self.reply(at, token, Reply::Done);
                }
            }
            Event::Ended(key) => self.ended(key),
            Event::FactoryEnded(id) => self.factory_ended(id),
            Event::Held(key) => self.is_quiet(key),
            Event::CatalogueChanged | Event::Scanned | Event::ShutDown => {}
        }
    }

    /// Of a session's memory no more is mapped than it may register: what is leaving is gone when a change is said to be done.
    fn reaches_no_more(&self, at: usize, key: SessionKey) {
        let most = self.setup.besides.memory_max();
        let mapped = self.court().mapped_of(key.0);
        if mapped > most && !self.seats[at].place.hostile && !self.keeps {
            self.find(Judge::Life, || format!("{mapped} bytes of seat {at} are mapped, and {most} may be"));
        }
    }

    fn ended(&mut self, key: SessionKey) {
        let Some(at) = self.seats.iter().position(|s| s.key == Some(key)) else { return };
        // What cannot be proven quiet is kept for ever, with its memory.
        let kept = self.keeps && self.seats[at].lost;
        self.court().end(key.0, kept);
        self.is_held_no_more(at, key);
        let seat = &mut self.seats[at];
        seat.conn = None;
        seat.left.extend(seat.driver.take());
        seat.phase = Phase::Empty;
        (seat.key, seat.device, seat.factory) = (None, None, None);
        let lost = std::mem::take(&mut seat.lost);
        self.left_nothing(at, lost);
    }

    /// The server says that it has nothing of a seat's last clients any more.
    pub(crate) fn left_nothing(&mut self, at: usize, lost: bool) {
        for driver in std::mem::take(&mut self.seats[at].left) {
            // What cannot be proven quiet is kept for ever, and touched no more by anybody but the device.
            let kept = self.keeps && lost;
            let excused = kept || !self.before.is_empty();
            if let Some(region) = driver.held().filter(|_| !excused) {
                self.find(Judge::Life, || {
                    format!("region {region} of seat {at} is held, and its client is cleared away")
                });
            }
            let made = self.seats[at].made.as_ref().map(|made| made.window.clone());
            if !excused && driver.journal.as_ref().is_some_and(|journal| journal.is_held(made.as_ref())) {
                self.find(Judge::Life, || {
                    format!(
                        "what seat {at} keeps of what is in flight is held, and its client is cleared away"
                    )
                });
            }
            if !excused {
                let mut court = self.court();
                for memory in &driver.memory {
                    court.set_memory(&memory.window, Arena::Out);
                }
                drop(court);
            }
            for asked in driver.queues.iter().flat_map(|q| q.slots.iter().flatten()) {
                self.over(at, asked, false);
            }
            // That device may still end what it was asked.
            let mut court = self.court();
            for memory in driver.memory.iter().filter(|_| !kept) {
                court.drop_memory(&memory.window);
            }
        }
    }
}
