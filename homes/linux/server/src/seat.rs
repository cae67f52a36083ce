//! A seat: one session as the Linux home sees it, where its clients come from, and the one that is connected.
//!
//! A request of the client's that takes time (memory, stopping a ring) is *pending*: the connection reads nothing
//! more until control says that it is done. So a client waits for itself alone.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nvme_core::server::control::SessionError;
use nvme_core::server::message::SessionKey;
use nvme_linux::dispose::{self, dispose};
use nvme_linux::events::Account;
use nvme_linux::logger::{OPERATOR, REFUSAL};
use nvme_linux::socket::{self, Peer};
use nvme_linux::vhost::{Call, Connection, ConnectionError, Incoming, Reply, Request, Token};
use nvme_platform::Time;
use nvme_policy::Policy;

use crate::budget::Share;
use crate::hints::Told;
use crate::lent::Lent;
use crate::regions;
use crate::rings::{Ring, Stage};

/// How long a client may stall in mid-message or mid-handshake; and say nothing at all after it connected, before it yields to
/// whoever else connects.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(10);
/// What a machine whose memory is private looks like from here.
const NO_MEMORY: &str =
    "the client has registered no memory; a QEMU needs memory that is shared (memory-backend-memfd,share=on)";
/// Requests that one client gets served before it is the others' turn: one that never stops talking holds nobody up.
const REQUESTS_PER_TURN: usize = 32;

/// Where a session's clients come from.
pub(crate) enum Source {
    /// The one connection that the session was minted with. The session ends with it.
    Connection,
    /// A listening socket: one client after the other.
    Listener(OwnedFd),
}

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// A static client whose device is absent.
    Absent,
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
enum Pending {
    /// Memory is being registered or unregistered.
    Memory(Token),
    /// A ring stops; the reply is its base.
    Base(Token, u16),
    /// A ring stops because it was disabled.
    Disable(Token, u16),
    /// All rings stop.
    Reset(Token),
    /// What the session before left is cleared away.
    Start(Token),
}

/// A connected client.
pub(crate) struct Conn {
    pub(crate) connection: Connection,
    pub(crate) peer: Option<Peer>,
    rings: BTreeMap<u16, Ring>,
    pending: Option<Pending>,
    /// By when it must have come on.
    pub(crate) deadline: Option<Time>,
    pub(crate) token: u64,
    pub(crate) accepted: bool,
    /// It has begun nothing for so long that the next one who connects takes its place. Until then it may wait: a machine may
    /// get the device of its chardev later.
    pub(crate) yields: bool,
}

/// A connection that waits for its turn.
pub(crate) struct Waiter {
    pub(crate) socket: OwnedFd,
    pub(crate) token: u64,
}

/// The place of one client after the other in a session; a static client has one before it has a session.
pub(crate) struct Seat {
    /// For the log: `session 3` or `client cl1`.
    pub(crate) name: String,
    pub(crate) policy: Policy,
    pub(crate) key: Option<SessionKey>,
    pub(crate) source: Source,
    /// What its notifications cost.
    pub(crate) account: std::sync::Arc<Account>,
    /// Who connected and waits for its turn.
    pub(crate) waiting: VecDeque<Waiter>,
    /// Our end of the session capability, where that is not the connection itself.
    pub(crate) lifetime: Option<OwnedFd>,
    pub(crate) cap: Option<String>,
    pub(crate) conn: Option<Conn>,
    pub(crate) phase: Phase,
    /// Who asked for it.
    pub(crate) owner: Option<Peer>,
    /// Its descriptors.
    pub(crate) share: Share,
    /// Whether its clients made the server lose descriptors: nobody is let in any more.
    pub(crate) barred: bool,
    /// Whether it ends because its device is lost: it is served again when the device is back.
    pub(crate) away: bool,
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Over {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("it stalled in mid-message or mid-handshake")]
    Stalled,
    #[error("it has said nothing, and another client waits")]
    Yielded,
    #[error("its rings and an unfinished message have more descriptors than a session may")]
    Descriptors,
    #[error("it sent more files that cannot be closed than the server waits for")]
    Unclosable,
    #[error("the session has ended")]
    Ended,
}

impl Over {
    /// Whether it is how clients go when all is well.
    pub(crate) fn is_ordinary(&self) -> bool {
        matches!(self, Self::Connection(ConnectionError::Closed) | Self::Ended)
    }
}

impl Conn {
    pub(crate) fn new(
        connection: Connection,
        peer: Option<Peer>,
        token: u64,
        accepted: bool,
        now: Time,
    ) -> Self {
        // Whoever connects to a session's socket holds it against others, so it has to come on from the start.
        let deadline = accepted.then(|| now + STALL_MAX);
        Self {
            connection,
            peer,
            rings: BTreeMap::new(),
            pending: None,
            deadline,
            token,
            accepted,
            yields: false,
        }
    }
}

impl Conn {
    /// Whether it came to a session's socket, and has begun nothing.
    pub(crate) fn is_silent(&self) -> bool {
        let machine = self.connection.machine();
        self.accepted && !machine.wants_deadline() && machine.stage() == nvme_linux::vhost::Stage::Untouched
    }
}

impl Seat {
    fn refuse(&self, what: &str, why: &dyn core::fmt::Display) {
        let peer = self.conn.as_ref().and_then(|c| c.peer);
        let peer = peer.map_or_else(String::new, |p| format!(" ({p})"));
        log::warn!(target: REFUSAL, "{}{peer}: {what} refused: {why}", self.name);
    }

    /// Does what the client asks, as far as it has asked.
    pub(crate) fn serve(&mut self, lent: &mut Lent<'_>) -> Result<(), Over> {
        let lost = dispose::lost();
        // What is left in the socket is told again by the next wait.
        for _ in 0..REQUESTS_PER_TURN {
            let Some(conn) = &mut self.conn else { return Ok(()) };
            match conn.connection.poll()? {
                Some(Incoming::Request(request)) => self.request(request, lent),
                Some(Incoming::Refused(refusal)) => self.refuse("a message was", &refusal),
                None => break,
            }
            if dispose::lost() > lost {
                return Err(Over::Unclosable);
            }
        }
        let Some(conn) = &mut self.conn else { return Ok(()) };
        let machine = conn.connection.machine();
        let used: usize = conn.rings.values().map(Ring::eventfds).sum();
        if used + machine.descriptors() > self.share.eventfds {
            return Err(Over::Descriptors);
        }
        let wants = machine.wants_deadline();
        let silent = conn.is_silent();
        conn.yields &= silent;
        if wants || silent && !conn.yields {
            conn.deadline.get_or_insert(lent.now + STALL_MAX);
        } else {
            conn.deadline = None;
        }
        Ok(())
    }

    fn reply(&mut self, token: Token, reply: Reply) {
        if let Some(conn) = &mut self.conn {
            // It fails only for a request that is not outstanding.
            let _ = conn.connection.reply(token, reply);
        }
    }

    fn request(&mut self, request: Request, lent: &mut Lent<'_>) {
        let Request { token, call } = request;
        let Some(key) = self.key else {
            self.reply(token, Reply::Failed);
            return;
        };
        if let Some(reply) = self.call(key, token, call, lent) {
            self.reply(token, reply);
        }
    }

    fn ring(&mut self, index: u16) -> Option<&mut Ring> {
        let conn = self.conn.as_mut()?;
        let enabled = conn.connection.machine().rings_start_enabled();
        Some(conn.rings.entry(index).or_insert_with(|| Ring { enabled, ..Ring::default() }))
    }

    /// Whether there is room for one more eventfd of a ring, in place of what `had` says the ring has.
    fn has_room(&self, index: u16, event: Option<&OwnedFd>, had: impl Fn(&Ring) -> bool) -> bool {
        let Some(rings) = self.conn.as_ref().map(|c| &c.rings).filter(|_| event.is_some()) else {
            return true;
        };
        let used: usize = rings.values().map(Ring::eventfds).sum();
        if used < self.share.eventfds || rings.get(&index).is_some_and(had) {
            return true;
        }
        self.refuse("an eventfd", &"the session has as many descriptors as it may (see RLIMIT_NOFILE)");
        false
    }

    /// The ring, unless it is running: what describes it must not change then.
    fn still_ring(&mut self, index: u16) -> Option<&mut Ring> {
        if self.ring(index)?.stage != Stage::Stopped {
            self.refuse("changing a ring", &"it is running");
            return None;
        }
        self.ring(index)
    }

    /// `None`: the reply comes later.
    fn call(&mut self, key: SessionKey, token: Token, call: Call, lent: &mut Lent<'_>) -> Option<Reply> {
        let done = |ok: bool| Some(if ok { Reply::Done } else { Reply::Failed });
        match call {
            Call::SetFeatures(bits) => {
                let same = lent.control.session(key).is_some_and(|s| s.features() == bits);
                if same {
                    return Some(Reply::Done);
                }
                let result = lent.control.set_features(key, bits);
                self.checked("features", result)
            }
            Call::SetMemTable(files) => {
                let result = regions::set_table(lent, key, files);
                self.memory(token, "memory", result)
            }
            Call::AddRegion(file) => {
                let result = regions::add(lent, key, file);
                self.memory(token, "memory", result)
            }
            Call::RemoveRegion(region) => {
                let result = regions::remove(lent, key, region);
                self.memory(token, "removing memory", result)
            }
            Call::SetRingSize { ring, size } => {
                done(self.still_ring(ring).map(|r| r.size = Some(size)).is_some())
            }
            Call::SetRingAddresses { ring, desc, avail, used } => {
                done(self.still_ring(ring).map(|r| r.addresses = Some((desc, avail, used))).is_some())
            }
            Call::SetRingBase { ring, base } => done(self.still_ring(ring).map(|r| r.base = base).is_some()),
            Call::GetRingBase { ring } => {
                let stage = self.ring(ring)?.stage;
                if stage == Stage::Stopped {
                    let known = self.ring(ring)?;
                    known.kick = None;
                    return Some(Reply::RingBase(known.base));
                }
                self.pend(Pending::Base(token, ring));
                self.stop(key, ring, lent);
                None
            }
            Call::SetKick { ring, event } => {
                let Some(event) = event else {
                    self.refuse("a ring without a kick", &"polling for it for ever would cost a core");
                    return Some(Reply::Failed);
                };
                if let Err(e) = regions::check_kick(&event) {
                    self.refuse("a kick", &e);
                    dispose([event]);
                    return Some(Reply::Failed);
                }
                if !self.has_room(ring, Some(&event), |r| r.kick.is_some()) {
                    return Some(Reply::Failed);
                }
                let event = std::sync::Arc::new(event);
                let known = self.ring(ring)?;
                known.kick = Some(std::sync::Arc::clone(&event));
                if known.stage == Stage::Running {
                    regions::send_kick(lent, key, ring, event);
                    return Some(Reply::Done);
                }
                self.start(key, ring, lent)
            }
            Call::SetCall { ring, event } => {
                if !self.has_room(ring, event.as_ref(), |r| r.call.is_some()) {
                    dispose(event);
                    return Some(Reply::Failed);
                }
                let account = std::sync::Arc::clone(&self.account);
                let known = self.ring(ring)?;
                if let Err(e) = known.set_call(event, &account) {
                    self.refuse("a call", &e);
                    return Some(Reply::Failed);
                }
                self.renotify(key, ring, lent)
            }
            Call::SetError { ring, event } => {
                if !self.has_room(ring, event.as_ref(), |r| r.error.is_some()) {
                    dispose(event);
                    return Some(Reply::Failed);
                }
                let account = std::sync::Arc::clone(&self.account);
                let known = self.ring(ring)?;
                if let Err(e) = known.set_error(event, &account) {
                    self.refuse("an error descriptor", &e);
                    return Some(Reply::Failed);
                }
                self.renotify(key, ring, lent)
            }
            Call::EnableRing { ring, on } => {
                let known = self.ring(ring)?;
                known.enabled = on;
                if on {
                    return self.start(key, ring, lent);
                }
                if known.stage == Stage::Stopped {
                    return Some(Reply::Done);
                }
                self.pend(Pending::Disable(token, ring));
                self.stop(key, ring, lent);
                None
            }
            Call::GetConfig { offset, len } => {
                let session = lent.control.session(key)?;
                let mut bytes = vec![0; len as usize];
                session.read_config(offset, &mut bytes);
                Some(Reply::Config(bytes))
            }
            Call::SetConfig { offset, data } => {
                let result = lent.control.write_config(key, offset, &data);
                self.checked("writing the configuration", result)
            }
            Call::ResetDevice => {
                self.pend(Pending::Reset(token));
                for ring in lent.control.running_queues(key) {
                    self.stop(key, ring, lent);
                }
                self.settle_reset(lent);
                None
            }
            Call::StartSession => {
                log::info!(target: OPERATOR, "{}: another session starts on its connection", self.name);
                self.pend(Pending::Start(token));
                lent.control.clear(key);
                None
            }
            Call::SetBackendChannel(channel) => {
                match socket::channel(channel, |cookie| lent.capabilities.contains_key(&cookie)) {
                    Ok(channel) => self.conn.as_mut()?.connection.set_channel(channel),
                    Err(why) => {
                        self.refuse("a channel for the server's requests", &why);
                        return Some(Reply::Failed);
                    }
                }
                Some(Reply::Done)
            }
        }
    }

    fn checked(&self, what: &str, result: Result<(), SessionError>) -> Option<Reply> {
        match result {
            Ok(()) => Some(Reply::Done),
            Err(why) => {
                self.refuse(what, &Told(&why));
                Some(Reply::Failed)
            }
        }
    }

    fn memory(&mut self, token: Token, what: &str, result: Result<(), regions::Refused>) -> Option<Reply> {
        match result {
            Ok(()) => {
                self.pend(Pending::Memory(token));
                None
            }
            Err(why) => {
                self.refuse(what, &why);
                Some(Reply::Failed)
            }
        }
    }

    fn pend(&mut self, pending: Pending) {
        if let Some(conn) = &mut self.conn {
            conn.pending = Some(pending);
        }
    }

    fn start(&mut self, key: SessionKey, index: u16, lent: &mut Lent<'_>) -> Option<Reply> {
        let ring = self.ring(index)?;
        let Some((spec, kick)) = ring.spec(ring.enabled) else { return Some(Reply::Done) };
        let notify = ring.notify();
        match lent.control.start_queue(key, index, spec, notify) {
            Ok(()) => {
                if let Some(ring) = self.ring(index) {
                    ring.stage = Stage::Running;
                    ring.kick = Some(kick);
                }
                Some(Reply::Done)
            }
            Err(why) => {
                let what = format!("starting ring {index}");
                if lent.control.session(key).is_some_and(|s| s.registry().is_empty()) {
                    self.refuse(&what, &NO_MEMORY);
                } else {
                    self.refuse(&what, &Told(&why));
                }
                Some(Reply::Failed)
            }
        }
    }

    fn stop(&mut self, key: SessionKey, index: u16, lent: &mut Lent<'_>) {
        if let Some(ring) = self.ring(index) {
            ring.stage = Stage::Stopping;
        }
        if let Err(why) = lent.control.stop_queue(key, index) {
            // It does not run as control sees it: it is stopped.
            log::debug!("{}: stopping ring {index}: {why}", self.name);
            self.stopped(index, None, lent);
        }
    }

    fn renotify(&mut self, key: SessionKey, index: u16, lent: &mut Lent<'_>) -> Option<Reply> {
        let ring = self.ring(index)?;
        if ring.stage == Stage::Running {
            let notify = ring.notify();
            let result = lent.control.set_notify(key, index, notify);
            return self.checked("a notification", result);
        }
        Some(Reply::Done)
    }

    /// The kick of a ring that control hands to a worker.
    pub(crate) fn kick(&self, index: u16) -> Option<std::sync::Arc<OwnedFd>> {
        self.conn.as_ref()?.rings.get(&index)?.kick.clone()
    }

    /// Memory is registered, or not.
    pub(crate) fn memory_done(&mut self, result: Result<(), SessionError>) {
        let Some(conn) = &mut self.conn else { return };
        match conn.pending.take() {
            Some(Pending::Memory(token)) => {
                let reply = self.checked("memory", result);
                self.reply(token, reply.unwrap_or(Reply::Failed));
            }
            other => conn.pending = other,
        }
    }

    /// A ring has stopped.
    pub(crate) fn stopped(&mut self, index: u16, next: Option<u16>, lent: &mut Lent<'_>) {
        let Some(ring) = self.ring(index) else { return };
        ring.stage = Stage::Stopped;
        if let Some(next) = next {
            ring.base = next;
        }
        let base = ring.base;
        let Some(conn) = &mut self.conn else { return };
        match conn.pending.take() {
            Some(Pending::Base(token, ring)) if ring == index => {
                if let Some(ring) = self.ring(index) {
                    ring.kick = None;
                }
                self.reply(token, Reply::RingBase(base));
            }
            Some(Pending::Disable(token, ring)) if ring == index => self.reply(token, Reply::Done),
            other => conn.pending = other,
        }
        self.settle_reset(lent);
    }

    /// What the session before left on this connection is cleared away, as between two clients.
    pub(crate) fn cleared(&mut self) {
        let Some(conn) = &mut self.conn else { return };
        match conn.pending.take() {
            Some(Pending::Start(token)) => {
                conn.rings.clear();
                self.reply(token, Reply::Done);
            }
            other => conn.pending = other,
        }
    }

    /// Answers a reset once no ring runs any more.
    fn settle_reset(&mut self, lent: &mut Lent<'_>) {
        let Some(conn) = &mut self.conn else { return };
        let Some(Pending::Reset(token)) = conn.pending else { return };
        if conn.rings.values().any(|r| r.stage != Stage::Stopped) {
            return;
        }
        conn.pending = None;
        conn.rings.clear();
        if let Some(key) = self.key {
            let _ = lent.control.set_features(key, 0);
        }
        self.reply(token, Reply::Done);
    }
}
