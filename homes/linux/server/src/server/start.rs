//! What main has prepared, and how the server begins with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::channel;

use nvme_audit as audit;
use nvme_audit::Record;
use nvme_core::server::control::Control;
use nvme_linux::events::{Doorbell, Epoll, Interest, Signals, now};
use nvme_linux::logger::Notifier;
use nvme_linux::memory::{Failures, Trusted};
use nvme_linux::socket::Acceptor;
use nvme_linux::storage::LettingGo;
use nvme_policy::Policy;
use nvme_session::factory::FactoryId;

use super::Server;
use super::handover::{Began, Upgrades};
use super::watchdog::Watchdog;
use super::watched::Watched;
use crate::audit::Audit;
use crate::budget::Budget;
use crate::devices::{AllInterrupts, Served};
use crate::fatal::Fatal;
use crate::keep::Keep;
use crate::seat::{Seat, Source, Waiter};
use crate::worker;

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

/// A factory that the command line asks for.
pub(crate) struct StaticFactory {
    pub(crate) cap: String,
    pub(crate) id: FactoryId,
    pub(crate) socket: OwnedFd,
}

/// What main has prepared.
pub(crate) struct Parts {
    pub(crate) control: Control,
    pub(crate) workers: Vec<worker::Handle>,
    /// Says that rings have let go of the images, if there are any.
    pub(crate) letting_go: Option<LettingGo>,
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
    pub(crate) audit: Option<Audit>,
    pub(crate) metrics: Option<OwnedFd>,
    pub(crate) clients: Vec<StaticClient>,
    pub(crate) factories: Vec<StaticFactory>,
    pub(crate) trusted: Trusted,
    pub(crate) budget: Budget,
    /// What the next server has to be started with.
    pub(crate) began: Began,
    /// What is kept in case that the server is killed.
    pub(crate) keep: Option<Keep>,
    /// The service manager, to be told when the scan is over, and when the server stops.
    pub(crate) notifier: Notifier,
    /// Which sockets there are, and where.
    pub(crate) sockets: Vec<String>,
}

impl Server {
    pub(crate) fn new(parts: Parts) -> Result<Self, Fatal> {
        let mut server = Self {
            control: parts.control,
            workers: parts.workers,
            letting_go: parts.letting_go,
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
            audit: parts.audit,
            unrecorded: Vec::new(),
            keep: parts.keep,
            unkept: Vec::new(),
            taking_up: BTreeSet::new(),
            late: None,
            draining: Vec::new(),
            rescans: Vec::new(),
            looked: nvme_platform::Time::default(),
            lost: Vec::new(),
            metrics: parts.metrics,
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
            upgrades: Upgrades::new(parts.began),
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
        if server.upgrades.began.listener.is_some() {
            let token = server.token(Watched::Upgrade);
            if let Some(listener) = &server.upgrades.began.listener {
                server.epoll.add(listener, token, Interest::Read)?;
            }
        }
        if server.metrics.is_some() {
            let token = server.token(Watched::Metrics);
            if let Some(metrics) = &server.metrics {
                server.epoll.add(metrics, token, Interest::Read)?;
            }
        }
        for client in parts.clients {
            server.add_static(client);
        }
        for StaticFactory { cap, id, socket } in parts.factories {
            server.post_at_start(cap, id, socket)?;
        }
        Ok(server)
    }

    /// It begins with nothing but what it was started with.
    pub(crate) fn begin(&mut self) {
        let (version, time) = (concat!("nvme-drv ", env!("CARGO_PKG_VERSION")).to_owned(), now());
        self.note(Record { why: Some(version), ..Record::of(audit::Event::Start) }, time);
        let factories: Vec<FactoryId> = self.posts.keys().copied().collect();
        factories.into_iter().for_each(|id| self.note_factory(id, time));
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

    fn add_static(&mut self, client: StaticClient) {
        let id = self.next_seat;
        self.next_seat += 1;
        let StaticClient { cap, policy, socket, connected, last } = client;
        let name = format!("client {cap}");
        // Each is a group of its own; the factory's sessions are the first.
        let group = 1 + u64::from(id);
        let (source, waits) = if connected {
            (Source::Connection, Some(socket))
        } else {
            (Source::Listener(socket.into()), None)
        };
        let mut seat = Seat::new(name, group, policy, source, self.budget.fixed);
        (seat.cap, seat.last) = (Some(cap), last);
        if let Some(socket) = waits {
            // As if it had connected to a socket of ours: it waits until the disk is there.
            let token = self.next_token;
            if let Err(e) = self.epoll.add(&socket, token, Interest::ReadEdge) {
                log::error!("{}: {e}", seat.name);
            }
            self.token(Watched::Waiter(id));
            seat.waiting.push_back(Waiter { socket: socket.into(), token });
        }
        self.seats.insert(id, seat);
        self.watch_listener(id);
    }
}
