//! The control thread: one loop over everything that can happen.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nvme_drv::server::control::{Control, Event};
use nvme_drv::server::message::{SessionKey, ToWorker};
use nvme_linux::events::{Doorbell, Epoll, Events, Interest, Signals, now};
use nvme_linux::factory::{Caller, Refusal, Request};
use nvme_linux::logger::{Notifier, OPERATOR, REFUSAL};
use nvme_linux::memory::Failures;
use nvme_linux::socket::{self, Kind, Peer};
use nvme_linux::vhost::Connection;
use nvme_platform::Time;
use nvme_policy::Policy;
use nvme_session::factory::CreateError;
use nvme_session::virtqueue::Broken;

use crate::client::{Client, Conn, Lent, Over, Phase, STALL_MAX, Source};
use crate::inventory::Introspection;
use crate::regions::Trusted;
use crate::worker::{self, Message, WorkerLost};

/// How long a call waits for the scan to end (DESIGN 2.2).
const SCAN_WAIT: Duration = Duration::from_secs(30);
/// Connections to the factory, and to introspection, at a time. Who comes later waits in the backlog.
const CALLERS_MAX: usize = 64;
/// How long a connection to the factory may be idle while others wait for its place.
const CALLER_IDLE: Duration = Duration::from_secs(10);

/// What a descriptor in the epoll set is.
enum Watched {
    Bell,
    Signals,
    MemoryFailures,
    Svr,
    Caller(Caller, Time),
    Ctl,
    CtlPeer(Introspection, Time),
    /// The connection of that client.
    Conn(u32),
    /// The listening socket of that client.
    Listener(u32),
    /// Our end of that client's session capability.
    Lifetime(u32),
}

/// A call of `create` that waits for the scan.
struct Waiting {
    caller: u64,
    request: Request,
    policy: Policy,
    until: Time,
}

/// `create` and `0`, which the factory's format has checked.
const CREATE_WORDS: usize = 2;

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
    pub(crate) listener: OwnedFd,
}

/// What main has prepared.
pub(crate) struct Parts {
    pub(crate) control: Control,
    pub(crate) workers: Vec<worker::Handle>,
    pub(crate) bell: Arc<Doorbell>,
    pub(crate) epoll: Epoll,
    pub(crate) signals: Signals,
    pub(crate) failures: &'static Failures,
    pub(crate) svr: Option<OwnedFd>,
    pub(crate) ctl: Option<OwnedFd>,
    pub(crate) clients: Vec<StaticClient>,
    pub(crate) trusted: Trusted,
    /// The service manager, to be told when the scan is over, and when the server stops.
    pub(crate) notifier: Notifier,
}

/// The server.
pub(crate) struct Server {
    pub(crate) control: Control,
    workers: Vec<worker::Handle>,
    bell: Arc<Doorbell>,
    epoll: Epoll,
    signals: Signals,
    failures: &'static Failures,
    svr: Option<OwnedFd>,
    ctl: Option<OwnedFd>,
    pub(crate) trusted: Trusted,
    watched: BTreeMap<u64, Watched>,
    next_token: u64,
    pub(crate) clients: BTreeMap<u32, Client>,
    next_client: u32,
    by_session: BTreeMap<SessionKey, u32>,
    waiting: VecDeque<Waiting>,
    notifier: Notifier,
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
            svr: parts.svr,
            ctl: parts.ctl,
            trusted: parts.trusted,
            watched: BTreeMap::new(),
            next_token: 0,
            clients: BTreeMap::new(),
            next_client: 0,
            by_session: BTreeMap::new(),
            waiting: VecDeque::new(),
            notifier: parts.notifier,
            stop: false,
            down: false,
        };
        let token = server.token(Watched::Bell);
        server.epoll.add(&*server.bell, token, Interest::ReadEdge)?;
        let token = server.token(Watched::Signals);
        server.epoll.add(&server.signals, token, Interest::Read)?;
        let token = server.token(Watched::MemoryFailures);
        server.epoll.add(server.failures, token, Interest::Read)?;
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
        for client in parts.clients {
            server.add_static(client);
        }
        Ok(server)
    }

    fn token(&mut self, what: Watched) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.watched.insert(token, what);
        token
    }

    fn add_static(&mut self, client: StaticClient) {
        let id = self.next_client;
        self.next_client += 1;
        let StaticClient { cap, policy, listener } = client;
        self.clients.insert(
            id,
            Client {
                name: format!("client {cap}"),
                policy,
                key: None,
                source: Source::Listener(listener),
                lifetime: None,
                cap: Some(cap),
                conn: None,
                phase: Phase::Absent,
                owner: None,
            },
        );
    }

    /// Serves until the server is told to stop and everything has ended.
    pub(crate) fn run(mut self) -> Result<(), Fatal> {
        let mut events = Events::new(64);
        loop {
            let time = now();
            if self.bell.take() {
                self.hear_workers(time)?;
            }
            self.control.poll(time);
            self.tell_workers()?;
            while let Some(event) = self.control.take_event() {
                self.control_event(event, time);
            }
            self.tell_workers()?;
            self.expire(time);
            if self.down {
                return Ok(());
            }
            if !self.bell.arm() {
                continue;
            }
            let timeout = self.deadline().map(|at| at - time);
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
        let conns = self.clients.values().filter_map(|c| c.conn.as_ref()?.deadline);
        let waiting = self.waiting.iter().map(|w| w.until);
        let idle = self.watched.values().filter_map(|w| match w {
            Watched::Caller(_, until) | Watched::CtlPeer(_, until) => Some(*until),
            _ => None,
        });
        conns.chain(waiting).chain(idle).chain(self.control.next_deadline()).min()
    }

    fn hear_workers(&mut self, time: Time) -> Result<(), Fatal> {
        for index in 0..self.workers.len() {
            while let Some(worker) = self.workers.get(index)
                && let Some(news) = worker.receive()?
            {
                self.control.from_worker(index, news, time);
            }
        }
        Ok(())
    }

    fn tell_workers(&mut self) -> Result<(), Fatal> {
        while let Some((worker, message)) = self.control.take_message() {
            let message = match message {
                ToWorker::AddQueue(new) => {
                    let client = self.by_session.get(&new.key.session).and_then(|id| self.clients.get(id));
                    match client.and_then(|c| c.kick(new.key.index)) {
                        Some(kick) => Message::Queue(new, kick),
                        // Its connection is gone already; it will be stopped without having been kicked.
                        None => Message::Core(ToWorker::AddQueue(new)),
                    }
                }
                other => Message::Core(other),
            };
            if let Some(worker) = self.workers.get(worker) {
                worker.send(message)?;
            }
        }
        Ok(())
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
            Some(Watched::Svr) => self.accept_caller(time),
            Some(Watched::Caller(..)) => self.serve_caller(token, time),
            Some(Watched::Ctl) => self.accept_ctl(time),
            Some(Watched::CtlPeer(peer, _)) => {
                if hangup || peer.send() {
                    self.forget(token);
                }
            }
            Some(Watched::Conn(id)) => {
                let id = *id;
                self.serve(id, time);
            }
            Some(Watched::Listener(id)) => {
                let id = *id;
                self.accept_client(id, time);
            }
            Some(Watched::Lifetime(id)) => {
                let id = *id;
                if hangup {
                    self.forget(token);
                    self.end(id);
                }
            }
        }
    }

    /// Closes what a token stands for, where it is the token that holds it.
    fn forget(&mut self, token: u64) {
        match self.watched.remove(&token) {
            Some(Watched::Caller(caller, _)) => {
                let _ = self.epoll.remove(&caller);
            }
            Some(Watched::CtlPeer(peer, _)) => {
                let _ = self.epoll.remove(&peer);
            }
            _ => {}
        }
        self.breathe();
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
            self.answer(waiting.caller, Err(refused(errno::EAGAIN, "the server is stopping")));
        }
        let ids: Vec<u32> = self.clients.keys().copied().collect();
        for id in ids {
            self.end(id);
        }
        self.control.shut_down(time);
    }

    // ---- the factory ----

    fn callers(&self) -> usize {
        self.watched.values().filter(|w| matches!(w, Watched::Caller(..) | Watched::CtlPeer(..))).count()
    }

    /// Listens to newcomers only while there is room for them.
    fn breathe(&mut self) {
        let room = self.callers() < CALLERS_MAX;
        let interest = if room { Interest::Read } else { Interest::Hangup };
        let listeners: Vec<(u64, bool)> = self
            .watched
            .iter()
            .filter_map(|(token, w)| match w {
                Watched::Svr => Some((*token, true)),
                Watched::Ctl => Some((*token, false)),
                _ => None,
            })
            .collect();
        for (token, svr) in listeners {
            let fd = if svr { &self.svr } else { &self.ctl };
            if let Some(fd) = fd {
                let _ = self.epoll.modify(fd, token, interest);
            }
        }
    }

    fn accept_caller(&mut self, time: Time) {
        while self.callers() < CALLERS_MAX {
            let Some(svr) = &self.svr else { return };
            let socket = match socket::accept(svr) {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(e) => {
                    log::warn!("svr: accepting a connection: {e}");
                    return;
                }
            };
            let Ok(caller) = Caller::new(socket) else { continue };
            let token = self.next_token;
            if self.epoll.add(&caller, token, Interest::Read).is_ok() {
                self.token(Watched::Caller(caller, time + CALLER_IDLE));
                self.serve_caller(token, time);
            }
        }
        self.breathe();
    }

    fn serve_caller(&mut self, token: u64, time: Time) {
        // A call that waits for the scan is answered before the next is read.
        if self.waiting.iter().any(|w| w.caller == token) {
            return;
        }
        let Some(Watched::Caller(caller, idle)) = self.watched.get_mut(&token) else { return };
        *idle = time + CALLER_IDLE;
        let peer = caller.peer();
        match caller.receive() {
            Ok(None) => {}
            Ok(Some(Err(refusal))) => self.refuse(token, peer, refusal),
            Ok(Some(Ok(request))) => match Policy::from_words(request.words().skip(CREATE_WORDS)) {
                Ok(policy) => self.create(token, peer, request, policy, time),
                Err(refusal) => {
                    let refusal = refused(errno::EINVAL, &refusal.to_string());
                    self.refuse(token, peer, refusal);
                }
            },
            Err(_) => self.forget(token),
        }
    }

    fn refuse(&mut self, token: u64, peer: Option<Peer>, refusal: Refusal) {
        let who = peer.map_or_else(String::new, |p| format!(" ({p})"));
        log::warn!(target: REFUSAL, "svr{who}: create refused: {}", refusal.message);
        self.answer(token, Err(refusal));
    }

    fn answer(&mut self, token: u64, reply: Result<(OwnedFd, &str), Refusal>) {
        let Some(Watched::Caller(caller, _)) = self.watched.get_mut(&token) else { return };
        let sent = match &reply {
            Ok((fd, message)) => caller.reply(Ok((fd.as_fd(), message))),
            Err(refusal) => caller.reply(Err(refusal)),
        };
        if sent.is_err() {
            self.forget(token);
        }
    }

    fn create(&mut self, token: u64, peer: Option<Peer>, mut request: Request, policy: Policy, time: Time) {
        match self.control.create(&policy, false) {
            Ok(key) => match self.mint(key, policy, peer, request.take_listener(), time) {
                Ok(fd) => self.answer(token, Ok((fd, ""))),
                Err(e) => {
                    self.control.end(key);
                    let refusal = refused(errno::ENOMEM, &format!("no room for the session: {e}"));
                    self.refuse(token, peer, refusal);
                }
            },
            Err(CreateError::Scanning) if !self.stop => {
                self.waiting.push_back(Waiting { caller: token, request, policy, until: time + SCAN_WAIT });
            }
            Err(why) => self.refuse(token, peer, refused(why.errno(), &why.to_string())),
        }
    }

    /// Makes the session capability.
    fn mint(
        &mut self,
        key: SessionKey,
        policy: Policy,
        owner: Option<Peer>,
        listener: Option<OwnedFd>,
        time: Time,
    ) -> io::Result<OwnedFd> {
        let (ours, theirs) = socket::pair(Kind::Stream)?;
        let id = self.next_client;
        let name = format!("session {}", key.0);
        let device = policy.device().to_string();
        let mut client = Client {
            name,
            policy,
            key: Some(key),
            source: Source::Connection,
            lifetime: None,
            cap: None,
            conn: None,
            phase: Phase::Free,
            owner,
        };
        if let Some(listener) = listener {
            let token = self.next_token;
            self.epoll.add(&ours, token, Interest::Hangup)?;
            self.token(Watched::Lifetime(id));
            let token = self.next_token;
            self.epoll.add(&listener, token, Interest::Read)?;
            self.token(Watched::Listener(id));
            client.source = Source::Listener(listener);
            client.lifetime = Some(ours);
        } else {
            let token = self.next_token;
            let offered = self.control.session(key).map_or(0, |s| s.offered());
            let connection = Connection::new(ours, offered)?;
            self.epoll.add(connection.as_fd(), token, Interest::Read)?;
            self.token(Watched::Conn(id));
            client.conn = Some(Conn::new(connection, owner, token, false, time));
            client.phase = Phase::Connected;
        }
        let who = owner.map_or_else(String::new, |p| format!(" for {p}"));
        let access = client.policy.access();
        log::info!(target: OPERATOR, "{}{who}: {device}, {access}, ds-max {}", client.name, client.policy.ds_max().get());
        self.next_client += 1;
        self.by_session.insert(key, id);
        self.clients.insert(id, client);
        Ok(theirs)
    }

    // ---- clients ----

    fn accept_client(&mut self, id: u32, time: Time) {
        let Some(client) = self.clients.get_mut(&id).filter(|c| c.phase == Phase::Free) else {
            self.listen(id, false);
            return;
        };
        let (Source::Listener(listener), Some(key)) = (&client.source, client.key) else { return };
        let socket = match socket::accept(listener) {
            Ok(Some(socket)) => socket,
            Ok(None) => return,
            Err(e) => {
                log::warn!("{}: accepting a connection: {e}", client.name);
                return;
            }
        };
        let peer = socket::peer(&socket);
        let offered = self.control.session(key).map_or(0, |s| s.offered());
        let Ok(connection) = Connection::new(socket, offered) else { return };
        let token = self.next_token;
        if self.epoll.add(connection.as_fd(), token, Interest::Read).is_err() {
            return;
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.conn = Some(Conn::new(connection, peer, token, true, time));
            client.phase = Phase::Connected;
            let who = peer.map_or_else(String::new, |p| format!(" ({p})"));
            log::info!(target: OPERATOR, "{}{who}: connected", client.name);
        }
        self.token(Watched::Conn(id));
        self.listen(id, false);
        self.serve(id, time);
    }

    /// Whether the next client of a session is let in.
    fn listen(&mut self, id: u32, on: bool) {
        let token = self.watched.iter().find(|(_, w)| matches!(w, Watched::Listener(l) if *l == id));
        let Some(token) = token.map(|(token, _)| *token) else { return };
        if let Some(Client { source: Source::Listener(listener), .. }) = self.clients.get(&id) {
            let interest = if on { Interest::Read } else { Interest::Hangup };
            let _ = self.epoll.modify(listener, token, interest);
        }
    }

    fn lend<T>(&mut self, id: u32, now: Time, work: impl FnOnce(&mut Client, &mut Lent<'_>) -> T) -> Option<T> {
        let client = self.clients.get_mut(&id)?;
        let mut lent = Lent { control: &mut self.control, workers: &self.workers, trusted: &self.trusted, now };
        Some(work(client, &mut lent))
    }

    fn serve(&mut self, id: u32, time: Time) {
        let result = self.lend(id, time, |client, lent| client.serve(lent));
        match result {
            Some(Ok(())) => self.watch_conn(id),
            Some(Err(over)) => self.disconnect(id, &over),
            None => {}
        }
    }

    fn watch_conn(&mut self, id: u32) {
        let Some(conn) = self.clients.get(&id).and_then(|c| c.conn.as_ref()) else { return };
        let wants = conn.connection.interest();
        let interest = match (wants.read, wants.write) {
            (_, true) => Interest::ReadWrite,
            (true, false) => Interest::Read,
            // While a request of its own is worked on, all that counts is that it may go away.
            (false, false) => Interest::Hangup,
        };
        let _ = self.epoll.modify(conn.connection.as_fd(), conn.token, interest);
    }

    fn disconnect(&mut self, id: u32, over: &Over) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some(conn) = client.conn.take() else { return };
        let who = conn.peer.map_or_else(String::new, |p| format!(" ({p})"));
        if over.is_ordinary() {
            log::info!(target: OPERATOR, "{}{who}: disconnected", client.name);
        } else {
            log::warn!(target: REFUSAL, "{}{who}: disconnected: {over}", client.name);
        }
        let _ = self.epoll.remove(conn.connection.as_fd());
        self.watched.remove(&conn.token);
        let over_with_it = matches!(client.source, Source::Connection);
        if client.phase == Phase::Connected {
            if over_with_it {
                self.end(id);
            } else if let Some(key) = client.key {
                client.phase = Phase::Clearing;
                self.control.clear(key);
            }
        }
    }

    /// Ends a session, or a static client.
    fn end(&mut self, id: u32) {
        let Some(client) = self.clients.get_mut(&id).filter(|c| c.phase != Phase::Ending) else { return };
        client.phase = Phase::Ending;
        self.disconnect(id, &Over::Ended);
        let Some(client) = self.clients.get_mut(&id) else { return };
        match client.key {
            Some(key) => self.control.end(key),
            None => self.remove_client(id),
        }
    }

    fn remove_client(&mut self, id: u32) {
        let Some(client) = self.clients.remove(&id) else { return };
        if let Source::Listener(listener) = &client.source {
            let _ = self.epoll.remove(listener);
        }
        if let Some(lifetime) = &client.lifetime {
            let _ = self.epoll.remove(lifetime);
        }
        self.watched.retain(|_, w| {
            !matches!(w, Watched::Conn(i) | Watched::Listener(i) | Watched::Lifetime(i) if *i == id)
        });
    }

    // ---- news of control ----

    fn control_event(&mut self, event: Event, time: Time) {
        match event {
            Event::Scanned => {
                self.start_static(true);
                for waiting in core::mem::take(&mut self.waiting) {
                    let Waiting { caller, request, policy, .. } = waiting;
                    let peer = match self.watched.get(&caller) {
                        Some(Watched::Caller(c, _)) => c.peer(),
                        _ => None,
                    };
                    self.create(caller, peer, request, policy, time);
                    self.serve_caller(caller, time);
                }
                self.notifier.ready();
            }
            Event::CatalogueChanged => {
                if self.control.scanned() {
                    self.start_static(false);
                    self.retry_waiting(time);
                }
            }
            Event::Done(key, result) => {
                self.with_session(key, time, |client, _| client.memory_done(result));
            }
            Event::QueueStopped(key, index, next) => {
                self.with_session(key, time, |client, lent| client.stopped(index, Some(next), lent));
            }
            Event::QueueBroken(key, index, why) => {
                self.with_session(key, time, |client, _| {
                    let peer = client.conn.as_ref().and_then(|c| c.peer);
                    let who = peer.map_or_else(String::new, |p| format!(" ({p})"));
                    log::warn!(target: REFUSAL, "{}{who}: queue {index} is broken: {why}", client.name);
                });
            }
            Event::ConfigChanged(key) => self.with_session(key, time, |client, _| {
                if let Some(conn) = &mut client.conn {
                    conn.connection.config_changed();
                }
            }),
            Event::Lost(key) => self.with_session(key, time, |client, _| {
                log::error!("{}: its device is lost; its requests fail", client.name);
                if let Some(conn) = &mut client.conn {
                    conn.connection.config_changed();
                }
            }),
            Event::Cleared(key) => {
                let Some(id) = self.by_session.get(&key).copied() else { return };
                if let Some(client) = self.clients.get_mut(&id).filter(|c| c.phase == Phase::Clearing) {
                    client.phase = Phase::Free;
                    self.listen(id, true);
                }
            }
            Event::Ended(key) => {
                let Some(id) = self.by_session.remove(&key) else { return };
                let Some(client) = self.clients.get_mut(&id) else { return };
                log::info!(target: OPERATOR, "{}: ended", client.name);
                if client.cap.is_some() && !self.stop {
                    // A static client outlives the session that lost its device.
                    client.key = None;
                    client.phase = Phase::Absent;
                } else {
                    self.remove_client(id);
                }
                // The device may be what somebody waits for.
                self.retry_waiting(time);
            }
            Event::ShutDown => self.down = true,
        }
    }

    fn with_session(&mut self, key: SessionKey, time: Time, work: impl FnOnce(&mut Client, &mut Lent<'_>)) {
        let Some(id) = self.by_session.get(&key).copied() else { return };
        self.lend(id, time, work);
        if self.clients.get(&id).is_some_and(|c| c.conn.is_some()) {
            self.serve(id, time);
        }
    }

    fn retry_waiting(&mut self, time: Time) {
        for waiting in core::mem::take(&mut self.waiting) {
            let Waiting { caller, request, policy, until } = waiting;
            let peer = match self.watched.get(&caller) {
                Some(Watched::Caller(c, _)) => c.peer(),
                _ => continue,
            };
            self.create(caller, peer, request, policy, time);
            if let Some(again) = self.waiting.iter_mut().find(|w| w.caller == caller) {
                again.until = until;
            } else {
                self.serve_caller(caller, time);
            }
        }
    }

    /// Starts static clients whose device is there.
    fn start_static(&mut self, first: bool) {
        let absent: Vec<u32> =
            self.clients.iter().filter(|(_, c)| c.phase == Phase::Absent).map(|(id, _)| *id).collect();
        for id in absent {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            match self.control.create(&client.policy, true) {
                Ok(key) => {
                    client.key = Some(key);
                    client.phase = Phase::Free;
                    self.by_session.insert(key, id);
                    let device = client.policy.device();
                    log::info!(target: OPERATOR, "{}: {device}, {}, session {}", client.name, client.policy.access(), key.0);
                    let known = self.watched.values().any(|w| matches!(w, Watched::Listener(l) if *l == id));
                    if known {
                        self.listen(id, true);
                        continue;
                    }
                    let token = self.next_token;
                    if let Source::Listener(listener) = &client.source
                        && let Err(e) = self.epoll.add(listener, token, Interest::Read)
                    {
                        log::error!("{}: listening: {e}", client.name);
                    }
                    self.token(Watched::Listener(id));
                }
                Err(why) if first => {
                    log::warn!("{}: {why}; it is served when that changes", client.name);
                }
                Err(_) => {}
            }
        }
    }

    /// Memory under a client vanished: its queues end.
    fn memory_failed(&mut self) {
        self.failures.take();
        let failed: Vec<SessionKey> = self
            .control
            .sessions()
            .filter(|(_, s)| s.registry().table().regions().iter().any(|r| r.window.failed()))
            .map(|(key, _)| key)
            .collect();
        for key in failed {
            self.control.break_session(key, Broken::MemoryGone);
        }
    }

    // ---- introspection and time ----

    fn accept_ctl(&mut self, time: Time) {
        while self.callers() < CALLERS_MAX {
            let Some(ctl) = &self.ctl else { return };
            let Ok(Some(socket)) = socket::accept(ctl) else { return };
            let mut peer = Introspection::new(socket, &crate::inventory::of(self));
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
            .clients
            .iter()
            .filter(|(_, c)| c.conn.as_ref().and_then(|c| c.deadline).is_some_and(|d| time >= d))
            .map(|(id, _)| *id)
            .collect();
        for id in stalled {
            self.disconnect(id, &Over::Stalled);
        }
        while let Some(at) = self.waiting.iter().position(|w| time >= w.until) {
            if let Some(waiting) = self.waiting.remove(at) {
                let refusal = refused(errno::EAGAIN, "the devices are still being scanned; try again");
                self.answer(waiting.caller, Err(refusal));
            }
        }
        let crowded = self.callers() >= CALLERS_MAX;
        let mut over = Vec::new();
        for (token, watched) in &mut self.watched {
            match watched {
                // An idle caller keeps its place until somebody else wants it.
                Watched::Caller(_, until) if time >= *until => {
                    if crowded && !self.waiting.iter().any(|w| w.caller == *token) {
                        over.push(*token);
                    } else {
                        *until = time + CALLER_IDLE;
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

fn refused(errno: i32, message: &str) -> Refusal {
    Refusal { errno, message: message.into() }
}

/// The error numbers that the server itself answers with (they are the same on every Linux).
mod errno {
    pub(super) const EAGAIN: i32 = 11;
    pub(super) const ENOMEM: i32 = 12;
    pub(super) const EINVAL: i32 = 22;
}
