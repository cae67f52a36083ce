//! A seat: one session as the Linux home sees it, where its clients come from, and the one that is connected.
//!
//! A request of the client's that takes time (memory, stopping a ring) is *pending*: the connection reads nothing
//! more until control says that it is done. So a client waits for itself alone.
//!
//! * `calls`: what it asks for. `answers`: what is answered later. `kept`: the files of its memory. `carried`: it goes on in another server.

mod answers;
mod calls;
mod carried;
mod held_up;
mod kept;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nvme_core::server::control::MemoryPlan;
use nvme_core::server::message::SessionKey;
use nvme_linux::dispose::{self, ClientFd};
use nvme_linux::events::Account;
use nvme_linux::lanes::Lane;
use nvme_linux::logger::REFUSAL;
use nvme_linux::socket::Peer;
use nvme_linux::vhost::{Connection, ConnectionError, Incoming, Reply, Request, Token};
use nvme_platform::Time;
use nvme_policy::Policy;
use nvme_session::factory::FactoryId;

use self::carried::GoingOn;
pub(crate) use self::carried::{peer, peer_of};
use self::held_up::HeldUp;
use self::kept::Files;
use crate::audit::Note;
use crate::budget::Share;
use crate::inflight::{Inflight, Made, Own};
use crate::keep::Kept;
use crate::lent::Lent;
use crate::regions::Wanted;
use crate::rings::{Ring, Stage};

/// How long a client may stall in mid-message or mid-handshake; and say nothing at all after it connected, before it yields to
/// whoever else connects.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(10);
/// How long a client's memory files may take to be sealed and mapped: they are its own, and so is what makes them slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Requests that one client gets served before it is the others' turn: one that never stops talking holds nobody up.
const REQUESTS_PER_TURN: usize = 32;

/// Where a session's clients come from.
pub(crate) enum Source {
    /// The one connection that the session was minted with. The session ends with it.
    Connection,
    /// A listening socket: one client after the other.
    Listener(ClientFd),
}

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// A static client whose device is absent.
    Absent,
    /// A static client whose grant is being written into the audit trail.
    Unwritten,
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
    /// A lane looks at memory files, until then; its order's number.
    Looking(Token, u64, Time, Wanted),
    /// A lane maps what is new of a plan, until then.
    Mapping(Token, u64, Time, Box<MemoryPlan>),
    /// A lane maps where what is in flight is kept, until then; for so many rings of so many entries.
    Inflight(Token, u64, Time, (u16, u16)),
    /// A lane opens the journal of a ring that is to start, until then; its number and its kick.
    Opening(Token, u64, Time, u16, Arc<ClientFd>),
    /// A lane forgets what was in flight on rings that begin anew, until then; and what comes after that.
    Forgetting(Token, u64, Time, Anew),
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
    /// A worker is to be told.
    Told(Token, Order),
}

/// What lets a client's rings begin anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Anew {
    /// The device was reset.
    Reset,
    /// Another session starts on the connection.
    Start,
    /// The client asks where to keep what is in flight: for so many rings of so many entries.
    Inflight(u16, u16),
}

/// What a worker is told on a client's behalf. The client is answered once the worker has taken it, so one that floods waits
/// for itself, and the worker has one such message at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Another kick for a ring that runs.
    Kick(u16),
    /// Another way to tell a ring's driver.
    Notify(u16),
    /// The cache mode.
    WriteBack,
}

/// A connected client.
pub(crate) struct Conn {
    pub(crate) connection: Connection,
    pub(crate) peer: Option<Peer>,
    rings: BTreeMap<u16, Ring>,
    /// Where it keeps what is in flight.
    inflight: Option<Inflight>,
    /// Where the server does, of rings of which it does not.
    own: Own,
    pending: Option<Pending>,
    /// The files of its memory, where they are kept.
    files: Option<Files>,
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
    pub(crate) socket: ClientFd,
    pub(crate) token: u64,
}

/// The place of one client after the other in a session; a static client has one before it has a session.
pub(crate) struct Seat {
    /// For the log: `session 3` or `client cl1`.
    pub(crate) name: String,
    /// Which factory minted it.
    pub(crate) factory: FactoryId,
    /// Its device by the canonical name, once it has one.
    pub(crate) device: String,
    pub(crate) policy: Policy,
    pub(crate) key: Option<SessionKey>,
    /// Since when it has that.
    pub(crate) since: SystemTime,
    pub(crate) source: Source,
    /// Where what may take long is done for it.
    pub(crate) lane: Arc<Lane>,
    /// What the server made for its clients to keep in it what is in flight.
    made: Option<Made>,
    /// Orders to the lane, and how many of them it has not answered yet.
    orders: u64,
    at_lane: u32,
    /// Whether nothing is left of the last client but what the lane has.
    cleared: bool,
    /// Why the connection is to end, once its turn is over.
    over: Option<Over>,
    /// What its notifications cost.
    pub(crate) account: Arc<Account>,
    /// For how long its memory held its worker up, where it has no thread of its own.
    pub(crate) held_up: HeldUp,
    /// Who connected and waits for its turn.
    pub(crate) waiting: VecDeque<Waiter>,
    /// Our end of the session capability, where that is not the connection itself.
    pub(crate) lifetime: Option<ClientFd>,
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
    /// Whether the server ends when its client goes.
    pub(crate) last: bool,
    /// Why it ends.
    pub(crate) why: Option<String>,
    /// What is to be written down of what its client did.
    pub(crate) notes: Vec<Note>,
    /// What is being registered.
    registering: Vec<Note>,
    /// The tenant whose session it is, by its factory; 0 for nobody's.
    pub(crate) tenant: u64,
    /// How it goes on in this server, if another began it.
    going_on: Option<GoingOn>,
    /// Where it is kept in case that the server is killed.
    pub(crate) kept: Option<Kept>,
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
    #[error("it wants more of its memory, and what it wanted before is not done with")]
    Slow,
    #[error("its memory is busy: it takes more than {PATIENCE:?} to forget what was in flight")]
    Forgetful,
    #[error("storage that hangs does not let go of what it wants back")]
    Hangs,
    #[error("to tell it something takes {} µs of a processor, so many wait for its eventfd", .0.as_micros())]
    Dear(Duration),
    #[error("{0}")]
    NotTakenUp(String),
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
            inflight: None,
            own: Own::default(),
            pending: None,
            files: None,
            deadline,
            token,
            accepted,
            yields: false,
        }
    }
}

impl Conn {
    /// Its rings begin anew: nothing of what they had is to be done any more.
    fn forget_rings(&mut self) {
        for (index, ring) in core::mem::take(&mut self.rings) {
            if let Some(size) = ring.size {
                self.own.forget(index, size);
            }
        }
    }

    /// Until when its lane may take its time.
    pub(crate) fn patience(&self) -> Option<Time> {
        match &self.pending {
            Some(
                Pending::Looking(_, _, until, _)
                | Pending::Mapping(_, _, until, _)
                | Pending::Inflight(_, _, until, _)
                | Pending::Opening(_, _, until, ..)
                | Pending::Forgetting(_, _, until, _),
            ) => Some(*until),
            _ => None,
        }
    }

    /// Ends the connection. What of it may take its time is closed by others.
    pub(crate) fn close(self) {
        self.connection.close();
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    /// Whether it came to a session's socket, and has begun nothing.
    pub(crate) fn is_silent(&self) -> bool {
        let machine = self.connection.machine();
        self.accepted && !machine.wants_deadline() && machine.stage() == nvme_linux::vhost::Stage::Untouched
    }
}

impl Seat {
    /// One that nobody has taken yet.
    pub(crate) fn new(name: String, group: u64, policy: Policy, source: Source, share: Share) -> Self {
        Self {
            account: Account::of_group(&name, group),
            held_up: HeldUp::default(),
            lane: Lane::new(group),
            name,
            factory: FactoryId::SERVER,
            device: String::new(),
            policy,
            key: None,
            since: SystemTime::now(),
            source,
            made: None,
            orders: 0,
            at_lane: 0,
            cleared: false,
            over: None,
            waiting: VecDeque::new(),
            lifetime: None,
            cap: None,
            conn: None,
            phase: Phase::Absent,
            owner: None,
            share,
            barred: false,
            away: false,
            last: false,
            why: None,
            notes: Vec::new(),
            registering: Vec::new(),
            tenant: 0,
            going_on: None,
            kept: None,
        }
    }

    fn refuse(&self, what: &str, why: &dyn core::fmt::Display) {
        let peer = self.conn.as_ref().and_then(|c| c.peer);
        let peer = peer.map_or_else(String::new, |p| format!(" ({p})"));
        log::warn!(target: REFUSAL, "{}{peer}: {what} refused: {why}", self.name);
    }

    /// Does what the client asks, as far as it has asked.
    pub(crate) fn serve(&mut self, lent: &mut Lent<'_>) -> Result<(), Over> {
        let lost = dispose::lost_here();
        // What is left in the socket is told again by the next wait.
        for _ in 0..REQUESTS_PER_TURN {
            if let Some(over) = self.over.take() {
                return Err(over);
            }
            let Some(conn) = &mut self.conn else { return Ok(()) };
            let incoming = conn.connection.poll()?;
            // Whoever has it now: it may have been passed on.
            conn.peer = conn.connection.sender().or(conn.peer);
            match incoming {
                Some(Incoming::Request(request)) => self.request(request, lent),
                Some(Incoming::Refused(refusal)) => self.refuse("a message was", &refusal),
                None => break,
            }
            if let Some(over) = self.over.take() {
                return Err(over);
            }
            if dispose::lost_here() > lost {
                return Err(Over::Unclosable);
            }
        }
        let Some(conn) = &mut self.conn else { return Ok(()) };
        let machine = conn.connection.machine();
        let kept = conn.files.as_ref().map_or(0, Files::count);
        let used = kept + conn.rings.values().map(Ring::eventfds).sum::<usize>();
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
        if token == Token::NOBODY {
            return self.went_on(&reply);
        }
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
}
