//! One virtqueue of one session, as a worker owns it: descriptor chains become [`Operation`]s, outcomes become used
//! entries.
//!
//! * `config`: what control decided.
//! * `take`: a chain is taken from the ring, in a fast way as far as it is a read or write as most are, else in a slow way.
//!   `slow`: what the one leaves to the other.
//! * `decide`: what both ways ask about a read or write: kind, rights, direction, place; and how one begins.
//! * `end`: how requests end, and are answered.
//! * `parts`: those of them that begin or end inside of a block.
//! * `other`: requests that are neither.
//! * `request`: a [`Request`] on its way, and [`Ended`] on its way back.
//! * `counting`: what it did, counted (`counts`: as control reads it, `tally`: its own side). `laggards`: requests that took long.
//! * `flight`: which requests are under way, of how many operations each.
//! * `keep`: what is in flight is kept for whoever serves the queue next.
//!
//! What ends the queue and what fails one request: the *structure* of the ring ([`Broken`]) ends the queue. A request
//! whose status byte can be written is answered, whatever else is wrong with it: `IOERR` for a header, a buffer, a
//! direction, a length or a place that is not right, `UNSUPP` for a type, a flag or a feature that is not served. A
//! request without a status byte (the last descriptor is empty, not writable, or outside the registered memory)
//! could never be answered: its driver would wait for ever, so it counts as broken structure.
//!
//! A request may become several operations: a discard of several segments, a transfer that begins or ends inside of a block, or
//! one that the driver divided ([`BlkQueue::divided`]). Its used entry is written when the last has ended, with the worst outcome.

mod config;
mod counting;
mod counts;
mod decide;
mod end;
#[cfg(feature = "fake")]
#[cfg_attr(not(test), expect(clippy::expect_used, reason = "for tests: a misuse is to end them"))]
pub mod fake;
mod fault;
mod flight;
mod keep;
mod laggards;
mod other;
mod parts;
mod request;
mod slow;
mod take;
mod tally;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::mem;

use nvme_platform::{Window, debug};
use nvme_policy::Grant;

pub use config::{Direction, QueueConfig};
pub use counts::{Asked, BUCKETS, Counted, CountedKind, Counts, KINDS};
pub use end::Completing;
pub use fault::{FAULTS, Fault};
use flight::Flights;
pub use laggards::{LONG, Laggard, Laggards, REMEMBERED};
use request::Here;
pub use request::{Ended, EndedOne, Onward, QueueTag, Request, Tag};
pub use slow::Slow;
use slow::Why;
use tally::Tally;

use crate::blk::features;
pub use crate::memory::Spares;
use crate::memory::{Account, DmaRange, MemoryTable, Near, Windows};
pub use crate::virtqueue::{AddressSpace, Broken, RingAddresses, RingError};
use crate::virtqueue::{Keeping, Ring, indirect_shape};

/// What a queue has to do next.
#[derive(Debug)]
pub enum Next {
    /// Do this, then [`complete`](BlkQueue::complete) it.
    Request(Request),
    /// A request was answered at once; ask again.
    Again,
    /// Nothing is available.
    Idle,
    /// The queue serves nothing until it is set up again. What is in flight is still completed.
    Broken(Broken),
}

/// One virtqueue of a session.
pub struct BlkQueue {
    /// What its requests say whose they are.
    tag: QueueTag,
    ring: Ring,
    account: Account,
    table: Arc<MemoryTable>,
    flights: Flights,
    /// How far the request was taken with which the slow way goes on.
    stopped: Why,
    /// Descriptors and ranges that the slow way went through since it was asked last.
    walked: u32,
    /// Requests in flight that are to be submitted before anything new.
    ready: VecDeque<Request>,
    /// Where what is in flight is kept for whoever serves the queue next.
    journal: Keeping,
    /// Heads that were in flight when the last one who served the queue died.
    again: VecDeque<u16>,
    /// What came back though this queue does not wait for it.
    strays: u64,
    tally: Tally,
    /// What it did, for control to read.
    counts: Arc<Counts>,
    /// Where its requests are remembered that took long, and as whose.
    laggards: Option<(Arc<Laggards>, u64, u16)>,
    state: State,
    /// Its client has left.
    left: bool,
    broken: Option<Broken>,
    /// Its memory was touched.
    is_touched: bool,
    indirect: bool,
    /// The same, as the fast way asks for it.
    indirect_shape: u64,
    /// What follows from the features and the cache mode: changes must be durable when they complete.
    durable: bool,
    config: QueueConfig,
}

/// Whether new requests are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// Not yet: first those that were in flight before.
    Again,
    /// No more: only those that were in flight before.
    Last,
    /// Not now, and afterwards so.
    Held(Then),
    Stopped,
}

/// What a queue does that is held, afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Running,
    Again,
    Last,
}

/// A virtqueue of which new requests are taken, by the fast way. Having it tells you that it runs and that nothing old comes first; as long
/// as you have it nobody can change that.
pub struct Taking<'q, 't> {
    queue: &'q mut BlkQueue,
    near: Near<'t>,
}

impl Taking<'_, '_> {
    /// Gives the next request to `then`, when it is a read or write as most are. Anything else is for
    /// [`next_slow`](BlkQueue::next_slow), at once. They are two so that what most requests are stays in registers.
    #[inline(always)]
    pub fn next<R>(&mut self, then: impl Onward<Answer = R>) -> Result<R, Slow> {
        self.queue.take_fast(&mut self.near, then)
    }
}

impl BlkQueue {
    /// Sets a queue up, and [touches](Self::touch) its memory at once. Its rings must lie in `table`.
    pub fn new(config: QueueConfig, table: Arc<MemoryTable>) -> Result<Self, RingError> {
        let mut queue = Self::prepared(config, table)?;
        queue.touch();
        Ok(queue)
    }

    /// Sets a queue up without touching its memory: to be [touched](Self::touch) before anything else is asked of it.
    pub fn prepared(config: QueueConfig, table: Arc<MemoryTable>) -> Result<Self, RingError> {
        let has = |bit| config.features & bit != 0;
        let event_idx = has(features::EVENT_IDX);
        let ring = Ring::new(&config.rings, config.size, config.next_avail, event_idx, &table)?;
        debug!(
            "ring of {} entries starts at {}, features {:#x}",
            config.size, config.next_avail, config.features
        );
        let tag = QueueTag::default();
        Ok(Self {
            tag,
            ring,
            account: Account::new(&table, tag.life()),
            table,
            flights: Flights::new(config.size),
            stopped: Why::Idle,
            walked: 0,
            ready: VecDeque::new(),
            journal: Keeping::Nothing,
            again: VecDeque::new(),
            strays: 0,
            tally: Tally::default(),
            counts: Arc::default(),
            laggards: None,
            state: State::Running,
            left: false,
            broken: None,
            is_touched: false,
            indirect: has(features::INDIRECT_DESC),
            indirect_shape: indirect_shape(has(features::INDIRECT_DESC)),
            durable: !config.write_back || !has(features::FLUSH),
            config,
        })
    }

    /// From now on its requests say that they are this queue's. To be called before the first is taken.
    pub fn enrol(&mut self, tag: QueueTag) {
        debug_assert!(self.flights.count() == 0, "what is in flight would not be known any more");
        self.tag = tag;
        self.account.set_number(tag.life());
    }

    /// The next thing to do. What was put back or divided comes first, even in a queue that is broken or stopped.
    pub fn next(&mut self, spares: &mut Spares) -> Next {
        match self.taking(|mut taking| taking.next(Here)).flatten() {
            Ok(request) => Next::Request(request),
            Err(slow) => self.next_slow(slow, spares),
        }
    }

    /// The fast way of [`next`](Self::next), for any number of them, when nothing old comes first: otherwise that is for
    /// [`next_slow`](Self::next_slow), at once.
    #[inline(always)]
    pub fn taking<R>(&mut self, take: impl FnOnce(Taking<'_, '_>) -> R) -> Result<R, Slow> {
        if !self.ready.is_empty() || self.broken.is_some() || self.state != State::Running {
            return Err(self.stop(Why::Old));
        }
        // It stays the queue's: whoever has the queue changes neither.
        let table = Arc::clone(&self.table);
        let Some(near) = Near::new(&table) else { return Err(self.stop(Why::Fail(Broken::RingsGone))) };
        Ok(take(Taking { queue: self, near }))
    }

    /// Goes on where [`taking`](Self::taking) or [`Taking::next`] stopped.
    #[inline]
    pub fn next_slow(&mut self, _: Slow, spares: &mut Spares) -> Next {
        if matches!(self.stopped, Why::Idle) {
            return Next::Idle;
        }
        self.take_slow(spares)
    }

    /// How many descriptors and ranges the slow way went through since this was asked last, whatever came of it: what a
    /// request costs beyond what each does.
    #[inline]
    pub fn take_walked(&mut self) -> u32 {
        mem::take(&mut self.walked)
    }

    #[cold]
    fn next_old(&mut self, spares: &mut Spares) -> Next {
        match (self.ready.pop_front(), self.broken, self.state) {
            (Some(request), ..) => Next::Request(request),
            (None, Some(why), _) => Next::Broken(why),
            (None, None, State::Again | State::Last) => self.next_again(spares),
            (None, None, _) => Next::Idle,
        }
    }

    /// The next one that was in flight before. It is taken as if it was new: nothing of it was kept but its head.
    fn next_again(&mut self, spares: &mut Spares) -> Next {
        let Some(head) = self.again.pop_front() else {
            self.state = if self.state == State::Last { State::Stopped } else { State::Running };
            return Next::Again;
        };
        match self.take_again(head) {
            Ok(request) => Next::Request(request),
            Err(_) => self.take_slow(spares),
        }
    }

    #[cold]
    fn fail(&mut self, why: Broken) -> Next {
        debug!("ring broken at {}, {} requests in flight", self.ring.next_avail(), self.flights.count());
        self.broken = Some(why);
        Next::Broken(why)
    }

    /// Takes back a request that was not submitted; [`next`](Self::next) offers it again, before anything else.
    pub fn put_back(&mut self, request: Request) {
        if request.tag().queue() == self.tag { self.ready.push_front(request) } else { self.stray() }
    }

    /// Takes what remains of a request of which a part was submitted. Both parts have to be completed.
    pub fn divided(&mut self, rest: Request) {
        if rest.tag().queue() == self.tag && self.flights.divide(rest.tag()) {
            self.ready.push_front(rest);
        } else {
            self.stray();
        }
    }

    /// Ends the queue for a reason that the home found (its memory vanished). What is in flight is still completed.
    pub fn break_off(&mut self, why: Broken) {
        self.broken.get_or_insert(why);
    }

    /// Takes no new requests from now on (GET_VRING_BASE, reset). What is in flight goes on; it is over when
    /// [`in_flight`](Self::in_flight) is 0.
    pub fn take_no_more(&mut self) {
        self.state = State::Stopped;
    }

    /// The same, but first does what was in flight when the last one who served the queue died: its driver was told of none of it, and may
    /// go on elsewhere (GET_VRING_BASE). It is over when nothing [is left of that](Self::has_old) either.
    pub fn take_old_only(&mut self) {
        self.state = match self.state {
            State::Again | State::Last => State::Last,
            State::Held(Then::Again | Then::Last) => State::Held(Then::Last),
            State::Running | State::Held(Then::Running) | State::Stopped => State::Stopped,
        };
    }

    /// Whether something was in flight before that is to be done yet.
    pub fn has_old(&self) -> bool {
        let old = matches!(self.state, State::Again | State::Last | State::Held(Then::Again | Then::Last));
        old && self.broken.is_none()
    }

    /// Its client has left. What fails from now on, as what is not worth another try does, is not answered where it is kept what is in
    /// flight: whoever serves the ring next does it again.
    pub fn leave(&mut self) {
        self.left = true;
        if matches!(self.state, State::Last | State::Held(Then::Last)) {
            self.state = State::Stopped;
        }
    }

    /// Takes no new requests while it is held: those of its driver wait in its ring. What is in flight goes on. When it is not held
    /// any more it is to be looked at, since its driver need not kick again.
    pub fn hold(&mut self, on: bool) {
        self.state = match (self.state, on) {
            (State::Running, true) => State::Held(Then::Running),
            (State::Again, true) => State::Held(Then::Again),
            (State::Last, true) => State::Held(Then::Last),
            (State::Held(Then::Running), false) => State::Running,
            (State::Held(Then::Again), false) => State::Again,
            (State::Held(Then::Last), false) => State::Last,
            (as_it_is, _) => as_it_is,
        };
    }

    /// Whether there is anything to be taken, or to be said.
    pub fn has_work(&mut self) -> bool {
        !self.ready.is_empty()
            || self.broken.is_some()
            || matches!(self.state, State::Again | State::Last)
            || (self.state == State::Running && self.ring.has_next())
    }

    /// How many requests its driver offers, as far as was seen.
    #[inline]
    pub fn offered(&mut self) -> u16 {
        self.ring.offered()
    }

    /// Publishes the used entries. True: the driver wants to be told.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.broken.is_some() {
            return false;
        }
        if matches!(self.journal, Keeping::Entries(_)) {
            self.publish_entries()
        } else {
            self.publish_in_order()
        }
    }

    /// Asks for kicks. True: there is something to do already, nobody will kick for it.
    pub fn listen(&mut self) -> bool {
        if !self.ready.is_empty() {
            return true;
        }
        // Of a queue that is broken nothing is taken again.
        let again = || matches!(self.state, State::Again | State::Last);
        self.broken.is_none() && (again() || self.state == State::Running && self.ring.listen())
    }

    /// Needs no kicks for now, because it is polled.
    pub fn ignore_kicks(&mut self) {
        if self.broken.is_none() {
            self.ring.ignore_kicks();
        }
    }

    /// How many requests are not answered yet.
    pub fn in_flight(&self) -> u32 {
        self.flights.count()
    }

    /// From now on, memory is looked up in `table`, the rings too. On an error the queue is broken.
    pub fn set_table(&mut self, table: Arc<MemoryTable>) -> Result<(), RingError> {
        self.account.set_table(&table);
        self.table = table;
        let resolved = self.ring.resolve(&self.config.rings, &self.table);
        if resolved.is_err() {
            self.broken.get_or_insert(Broken::RingsGone);
        }
        resolved
    }

    /// Whether anything in flight lies in the region of that slot.
    pub fn holds(&self, slot: u16) -> bool {
        self.account.holds(slot)
    }

    /// Bytes of client memory in flight, status bytes included.
    pub fn bytes_held(&self) -> u64 {
        self.account.bytes()
    }

    /// Changes the cache mode; true: write-back. Holds for requests that are taken from now on.
    pub fn set_write_back(&mut self, on: bool) {
        self.config.write_back = on;
        self.durable = !on || self.config.features & features::FLUSH == 0;
    }

    /// The session holds this from now on. What is in flight was confined by what it held before.
    pub fn set_grant(&mut self, grant: Grant) {
        self.config.grant = grant;
    }

    /// The available entry that will be taken next.
    pub fn next_avail(&self) -> u16 {
        self.ring.next_avail()
    }

    /// Why it serves nothing any more, if so.
    pub fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// How it was set up.
    pub fn config(&self) -> &QueueConfig {
        &self.config
    }
}

impl Windows for BlkQueue {
    fn window(&self, range: &DmaRange) -> Option<Window> {
        self.account.window(range)
    }
}
