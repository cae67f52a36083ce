//! The control thread: one loop over everything that can happen.
//!
//! * `callers`: the factory; `door`: who connects to a session's socket; `waiting`: calls that wait. `ready`: what is said when all is there. `admin`: the operator. `sessions`: clients and what control says
//!   of them. `exchange`: what workers and lanes say, and workers are told. `watchdog`: whether all go round.

mod admin;
mod callers;
mod door;
mod exchange;
mod factories;
mod listing;
mod ready;
mod sessions;
mod waiting;
mod watchdog;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use nvme_core::server::control::Control;
use nvme_core::server::message::SessionKey;
use nvme_linux::events::{Doorbell, Epoll, Events, Interest, Signals, now};
use nvme_linux::factory::Caller;
use nvme_linux::logger::{Notifier, OPERATOR, REFUSAL};
use nvme_linux::memory::{Failures, Trusted};
use nvme_linux::socket::{self, Acceptor, Cookie};
use nvme_platform::Time;
use nvme_policy::{Errno, Policy};
use nvme_session::factory::FactoryId;

use self::factories::Post;
use self::waiting::{Waiting, refused};
use self::watchdog::Watchdog;
use crate::budget::Budget;
use crate::devices::{AllInterrupts, Served};
use crate::inventory::{self, Introspection};
use crate::regions::Found;
use crate::seat::{Conn, STALL_MAX, Seat, Source, Waiter};
use crate::worker::{self, ROOM_STEP, WorkerLost};

/// Connections to the factory, and to introspection, at a time. Who comes later waits in the backlog.
const CALLERS_MAX: usize = 64;
/// Connections that are accepted before it is others' turn.
const ACCEPTS_PER_TURN: usize = 16;
/// How long nobody is let in after that failed. The reason, no room, goes on for a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long a connection to the factory may be silent while there is no place for others.
const CALLER_IDLE: Duration = Duration::from_millis(250);

/// What a descriptor in the epoll set is.
enum Watched {
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

/// Of what one of the server's own sockets, whose other end somebody has, is the capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Capability {
    /// Of the session at that seat.
    Session(u32),
    /// Of a factory: its connection, or its lifetime.
    Factory(FactoryId),
}

/// Why the server ends other than by being told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    #[error("waiting for events: {0}")]
    Epoll(#[from] io::Error),
    #[error(transparent)]
    Worker(#[from] WorkerLost),
}

/// A static client as main found it.
pub(crate) struct StaticClient {
    pub(crate) cap: String,
    pub(crate) policy: Policy,
    /// It listens, or is the client's connection already.
    pub(crate) socket: OwnedFd,
    pub(crate) connected: bool,
    /// The server ends when its client goes.
    pub(crate) last: bool,
}

/// What main has prepared.
pub(crate) struct Parts {
    pub(crate) control: Control,
    pub(crate) workers: Vec<worker::Handle>,
    pub(crate) bell: Arc<Doorbell>,
    pub(crate) epoll: Epoll,
    pub(crate) signals: Signals,
    pub(crate) failures: &'static Failures,
    pub(crate) interrupts: Arc<AllInterrupts>,
    /// The images, by controller.
    pub(crate) images: Vec<Option<Served>>,
    pub(crate) acceptor: Acceptor,
    pub(crate) svr: Option<OwnedFd>,
    pub(crate) ctl: Option<OwnedFd>,
    pub(crate) admin: Option<OwnedFd>,
    pub(crate) clients: Vec<StaticClient>,
    pub(crate) trusted: Trusted,
    pub(crate) budget: Budget,
    /// The service manager, to be told when the scan is over, and when the server stops.
    pub(crate) notifier: Notifier,
    /// Which sockets there are, and where.
    pub(crate) sockets: Vec<String>,
}

/// The server.
pub(crate) struct Server {
    pub(crate) control: Control,
    workers: Vec<worker::Handle>,
    bell: Arc<Doorbell>,
    epoll: Epoll,
    signals: Signals,
    failures: &'static Failures,
    interrupts: Arc<AllInterrupts>,
    images: Vec<Option<Served>>,
    /// Controllers whose pin interrupted: it is masked until their admin queues were looked at.
    pins: Vec<u16>,
    acceptor: Acceptor,
    svr: Option<OwnedFd>,
    ctl: Option<OwnedFd>,
    admin: Option<OwnedFd>,
    pub(crate) trusted: Arc<Trusted>,
    /// What lanes found.
    found: (Sender<Found>, Receiver<Found>),
    watched: BTreeMap<u64, Watched>,
    next_token: u64,
    pub(crate) seats: BTreeMap<u32, Seat>,
    next_seat: u32,
    by_session: BTreeMap<SessionKey, u32>,
    /// The other ends of what the server minted.
    capabilities: BTreeMap<Cookie, Capability>,
    /// The attenuated factories.
    posts: BTreeMap<FactoryId, Post>,
    waiting: VecDeque<Waiting>,
    budget: Budget,
    /// When to listen again, after descriptors or memory ran out.
    paused_until: Option<Time>,
    /// Whether no callers are taken any more.
    closed: bool,
    notifier: Notifier,
    watchdog: Watchdog,
    /// What is said when the scan is over: where clients find the sockets.
    sockets: Vec<String>,
    /// The client that the server was started for is gone.
    leave: bool,
    stop: bool,
    down: bool,
}

impl Server {
    pub(crate) fn new(parts: Parts) -> Result<Self, Fatal> {
        let mut server = Self {
            control: parts.control,
            workers: parts.workers,
            bell: parts.bell,
            epoll: parts.epoll,
            signals: parts.signals,
            failures: parts.failures,
            interrupts: parts.interrupts,
            images: parts.images,
            pins: Vec::new(),
            acceptor: parts.acceptor,
            svr: parts.svr,
            ctl: parts.ctl,
            admin: parts.admin,
            trusted: Arc::new(parts.trusted),
            found: channel(),
            watched: BTreeMap::new(),
            next_token: 0,
            seats: BTreeMap::new(),
            next_seat: 0,
            by_session: BTreeMap::new(),
            capabilities: BTreeMap::new(),
            posts: BTreeMap::new(),
            waiting: VecDeque::new(),
            budget: parts.budget,
            paused_until: None,
            closed: false,
            watchdog: Watchdog::new(&parts.notifier),
            notifier: parts.notifier,
            sockets: parts.sockets,
            leave: false,
            stop: false,
            down: false,
        };
        let token = server.token(Watched::Bell);
        server.epoll.add(&*server.bell, token, Interest::ReadEdge)?;
        let token = server.token(Watched::Signals);
        server.epoll.add(&server.signals, token, Interest::Read)?;
        let token = server.token(Watched::MemoryFailures);
        server.epoll.add(server.failures, token, Interest::Read)?;
        server.watch_controllers()?;
        if server.svr.is_some() {
            let token = server.token(Watched::Svr);
            if let Some(svr) = &server.svr {
                server.epoll.add(svr, token, Interest::Read)?;
            }
        }
        if server.ctl.is_some() {
            let token = server.token(Watched::Ctl);
            if let Some(ctl) = &server.ctl {
                server.epoll.add(ctl, token, Interest::Read)?;
            }
        }
        if server.admin.is_some() {
            let token = server.token(Watched::Admin);
            if let Some(admin) = &server.admin {
                server.epoll.add(admin, token, Interest::Read)?;
            }
        }
        for client in parts.clients {
            server.add_static(client);
        }
        Ok(server)
    }

    fn watch_controllers(&mut self) -> Result<(), Fatal> {
        let all = Arc::clone(&self.interrupts);
        for (controller, interrupts) in (0..).zip(all.iter()) {
            let Some(interrupts) = interrupts else { continue };
            if let Some(event) = interrupts.vector(0) {
                let token = self.token(Watched::Interrupt(controller));
                self.epoll.add(event, token, Interest::ReadEdge)?;
            }
            if let Some(event) = interrupts.request() {
                let token = self.token(Watched::Request(controller));
                self.epoll.add(event, token, Interest::ReadEdge)?;
            }
            if let Some(event) = interrupts.error() {
                let token = self.token(Watched::BusError(controller));
                self.epoll.add(event, token, Interest::ReadEdge)?;
            }
        }
        Ok(())
    }

    /// Lets pins interrupt again; one that still has a reason does so at once.
    fn unmask_pins(&mut self) {
        for controller in self.pins.drain(..) {
            if let Some(Some(interrupts)) = self.interrupts.get(usize::from(controller)) {
                interrupts.unmask();
            }
        }
    }

    fn token(&mut self, what: Watched) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.watched.insert(token, what);
        token
    }

    fn add_static(&mut self, client: StaticClient) {
        let id = self.next_seat;
        self.next_seat += 1;
        let StaticClient { cap, policy, socket, connected, last } = client;
        let name = format!("client {cap}");
        // Each is a group of its own; the factory's sessions are the first.
        let group = 1 + u64::from(id);
        let (source, waits) =
            if connected { (Source::Connection, Some(socket)) } else { (Source::Listener(socket), None) };
        let mut seat = Seat::new(name, group, policy, source, self.budget.fixed);
        (seat.cap, seat.last) = (Some(cap), last);
        if let Some(socket) = waits {
            // As if it had connected to a socket of ours: it waits until the disk is there.
            let token = self.next_token;
            if let Err(e) = self.epoll.add(&socket, token, Interest::ReadEdge) {
                log::error!("{}: {e}", seat.name);
            }
            self.token(Watched::Waiter(id));
            seat.waiting.push_back(Waiter { socket, token });
        }
        self.seats.insert(id, seat);
        self.watch_listener(id);
    }

    /// Serves until the server is told to stop and everything has ended.
    pub(crate) fn run(mut self) -> Result<(), Fatal> {
        let mut events = Events::new(64);
        loop {
            let time = now();
            if self.bell.take() {
                self.hear_workers(time)?;
                self.hear_lanes(time);
                self.lose_images();
            }
            if self.leave {
                self.stop(time);
            }
            self.control.poll(time);
            self.tell_workers()?;
            while let Some(event) = self.control.take_event() {
                self.control_event(event, time);
            }
            self.tell_workers()?;
            self.unmask_pins();
            self.expire(time);
            if self.down {
                for (index, worker) in self.workers.iter().enumerate() {
                    let longest = worker.longest_wait().as_micros();
                    let unseen = worker.longest_unseen().as_micros();
                    log::info!(target: OPERATOR, "worker {index}: no kick waited longer than {longest} µs, nor was unseen for longer than {unseen} µs and a round");
                }
                return Ok(());
            }
            if self.leave && !self.stop || !self.bell.arm() {
                continue;
            }
            if self.watchdog.feeds(time, self.workers.iter().map(worker::Handle::pulse)) {
                self.notifier.alive();
            }
            let behind = self.workers.iter().any(worker::Handle::is_behind).then(|| time + ROOM_STEP);
            let timeout = self.deadline().into_iter().chain(behind).min().map(|at| at - time);
            let waited = self.epoll.wait(&mut events, timeout);
            self.bell.disarm();
            waited?;
            let time = now();
            for event in events.iter() {
                self.event(event.token, event.hangup, time);
            }
        }
    }

    fn deadline(&self) -> Option<Time> {
        let conns = self.seats.values().filter_map(|s| s.conn.as_ref()?.deadline);
        let lanes = self.seats.values().filter_map(|c| c.conn.as_ref()?.patience());
        let waiting = self.waiting.iter().map(|w| w.until);
        let crowded = self.callers() >= CALLERS_MAX;
        let idle = self.watched.values().filter_map(|w| match w {
            Watched::Caller(_, FactoryId::SERVER, heard) if crowded => Some(*heard + CALLER_IDLE),
            Watched::CtlPeer(_, until) => Some(*until),
            _ => None,
        });
        let own = [self.paused_until, self.control.next_deadline(), self.watchdog.deadline()];
        conns.chain(lanes).chain(waiting).chain(idle).chain(own.into_iter().flatten()).min()
    }

    fn event(&mut self, token: u64, hangup: bool, time: Time) {
        match self.watched.get_mut(&token) {
            None | Some(Watched::Bell) => {}
            Some(Watched::Signals) => {
                if self.signals.take().is_some() {
                    self.stop(time);
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
            Some(Watched::Caller(..)) if hangup && self.waiting.iter().any(|w| w.caller == token) => {
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
                self.take_back(id);
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
            Some(Watched::Operator(_)) => self.serve_operator(token),
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
                self.forget(token);
                self.end(id);
            }
        }
    }

    /// Closes what a token stands for, where it is the token that holds it. A factory ends with its connection.
    fn forget(&mut self, token: u64) {
        let factory = self.connected_factory(token);
        self.close(token);
        if let Some(id) = factory {
            self.take_back(id);
        }
        self.breathe();
    }

    fn close(&mut self, token: u64) {
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
            _ => {}
        }
    }

    fn stop(&mut self, time: Time) {
        if self.stop {
            return;
        }
        self.stop = true;
        log::info!(target: OPERATOR, "stopping: sessions drain");
        self.notifier.stopping();
        if let Some(svr) = self.svr.take() {
            let _ = self.epoll.remove(&svr);
        }
        for waiting in core::mem::take(&mut self.waiting) {
            self.answer(waiting.caller, Err(refused(Errno::Again, "the server is stopping")));
        }
        let factories: Vec<FactoryId> = self.posts.keys().copied().collect();
        for id in factories {
            self.take_back(id);
        }
        let ids: Vec<u32> = self.seats.keys().copied().collect();
        for id in ids {
            self.end(id);
        }
        self.control.shut_down(time);
    }

    fn accept_ctl(&mut self, time: Time) {
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.has_place() {
                break;
            }
            let Some(ctl) = &self.ctl else { return };
            let socket = match socket::accept(ctl) {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(e) => return self.pause_accepting("ctl", e, time),
            };
            let mut peer =
                Introspection::new(socket, &inventory::of(&self.control, &self.seats, &self.trusted));
            if peer.send() {
                continue;
            }
            let token = self.next_token;
            if self.epoll.add(&peer, token, Interest::ReadWrite).is_ok() {
                self.token(Watched::CtlPeer(peer, time + STALL_MAX));
            }
        }
        self.breathe();
    }

    /// Whose time is over.
    fn expire(&mut self, time: Time) {
        let stalled: Vec<u32> = self
            .seats
            .iter()
            .filter(|(_, s)| s.conn.as_ref().and_then(|c| c.deadline).is_some_and(|d| time >= d))
            .map(|(id, _)| *id)
            .collect();
        for id in stalled {
            self.out_of_time(id);
        }
        let passed = |s: &Seat| s.conn.as_ref().and_then(Conn::patience).is_some_and(|until| time >= until);
        let slow: Vec<u32> = self.seats.iter().filter(|(_, s)| passed(s)).map(|(id, _)| *id).collect();
        for id in slow {
            self.lend(id, time, |seat, _| seat.out_of_patience());
            self.serve(id, time);
        }
        self.expire_waiting(time);
        if self.paused_until.is_some_and(|until| time >= until) {
            self.resume_accepting();
        }
        let crowded = self.callers() >= CALLERS_MAX;
        let mut over = Vec::new();
        for (token, watched) in &mut self.watched {
            match watched {
                // A silent caller keeps its place as long as nobody else may want it.
                Watched::Caller(_, FactoryId::SERVER, heard) if crowded && time >= *heard + CALLER_IDLE => {
                    if !self.waiting.iter().any(|w| w.caller == *token) {
                        over.push(*token);
                    } else {
                        *heard = time;
                    }
                }
                Watched::CtlPeer(_, until) if time >= *until => over.push(*token),
                _ => {}
            }
        }
        for token in over {
            self.forget(token);
        }
    }
}
