//! One virtqueue of one session, as a worker owns it: descriptor chains become [`Operation`]s, outcomes become used
//! entries.
//!
//! * `config`: what control decided.
//! * `take`: a chain is taken from the ring, in a fast way as far as it is a read or write as most are, else in a slow way.
//!   `slow`: what the one leaves to the other.
//! * `decide`: what both ways ask about a read or write: kind, rights, direction, place; and how one begins.
//! * `parts`: those of them that begin or end inside of a block.
//! * `other`: requests that are neither.
//! * `request`: a [`Request`] on its way, and [`Ended`] on its way back.
//! * `flight`: which requests are under way, of how many operations each.
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
mod decide;
#[cfg(feature = "fake")]
pub mod fake;
mod flight;
mod other;
mod parts;
mod request;
mod slow;
mod take;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::mem;

use nvme_platform::{Window, debug, warn};
use nvme_policy::Grant;

pub use config::{Direction, QueueConfig};
use flight::{Flights, Left};
pub use request::{Ended, QueueTag, Request, Tag};
pub use slow::Slow;
use slow::Why;

use crate::blk::features;
use crate::blk::request::Status;
pub use crate::memory::Spares;
use crate::memory::{Account, DmaRange, Lists, MemoryTable, Pinned, Quiet, Ranges, Windows};
use crate::operation::{Operation, Outcome, Part};
use crate::virtqueue::Ring;
pub use crate::virtqueue::{AddressSpace, Broken, RingAddresses, RingError};

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
    /// What came back though this queue does not wait for it.
    strays: u64,
    state: State,
    broken: Option<Broken>,
    indirect: bool,
    /// What follows from the features and the cache mode: changes must be durable when they complete.
    durable: bool,
    config: QueueConfig,
}

/// Whether new requests are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Stopped,
}

impl BlkQueue {
    /// Sets a queue up. Its rings must lie in `table`.
    pub fn new(config: QueueConfig, table: Arc<MemoryTable>) -> Result<Self, RingError> {
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
            strays: 0,
            state: State::Running,
            broken: None,
            indirect: has(features::INDIRECT_DESC),
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
        match self.next_fast() {
            Ok(request) => Next::Request(request),
            Err(slow) => self.next_slow(slow, spares),
        }
    }

    /// The fast way of [`next`](Self::next): a read or write as most are. Anything else is for
    /// [`next_slow`](Self::next_slow), at once. They are two so that what most requests are stays in registers.
    #[inline(always)]
    pub fn next_fast(&mut self) -> Result<Request, Slow> {
        if !self.ready.is_empty() || self.broken.is_some() || self.state == State::Stopped {
            return Err(self.stop(Why::Old));
        }
        self.take_fast()
    }

    /// Goes on where [`next_fast`](Self::next_fast) stopped.
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
    fn next_old(&mut self) -> Next {
        match (self.ready.pop_front(), self.broken) {
            (Some(request), _) => Next::Request(request),
            (None, Some(why)) => Next::Broken(why),
            (None, None) => Next::Idle,
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

    /// Takes back what has ended. When it was the request's last part, the request is answered, or its follow-up is
    /// returned, to be submitted (or [`put_back`](Self::put_back)). What this queue does not wait for is counted and
    /// dropped: another queue's, or an earlier request's with the same head.
    #[inline(always)]
    pub fn complete(&mut self, ended: Ended, spares: &mut Spares) -> Option<Request> {
        let Ended { request, outcome, quiet } = ended;
        let (tag, operation) = request.into_parts();
        match operation {
            Operation::Read(transfer) | Operation::Write { transfer, .. } => {
                let (_, memory) = transfer.into_parts();
                self.release(memory, &quiet, &mut spares.lists);
            }
            // Only what is used of them is moved: the operation itself stays where it is.
            Operation::ReadPart(part) | Operation::WritePart { part, .. } => {
                self.release_part(part, &quiet, &mut spares.lists);
            }
            Operation::Flush { .. } | Operation::Discard { .. } | Operation::WriteZeroes { .. } => {}
        }
        if tag.queue() != self.tag {
            self.stray();
            return None;
        }
        match self.flights.end(tag, outcome) {
            Left::Others => None,
            Left::Answer(outcome, status, data) => {
                let data = if outcome == Outcome::Done { data } else { 0 };
                self.answer(tag.head(), status, outcome.into(), data);
                None
            }
            Left::Flush => self.flush_after(tag),
            Left::Stray => {
                self.stray();
                None
            }
        }
    }

    #[cold]
    fn flush_after(&mut self, tag: Tag) -> Option<Request> {
        match self.config.grant.write_permit() {
            Ok(permit) => Some(Request::new(tag, Operation::Flush { permit })),
            // A discard had a permit, so this is never reached; failing is what is left.
            Err(_) => {
                if let Left::Answer(_, status, _) = self.flights.end(tag, Outcome::Failed) {
                    self.answer(tag.head(), status, Status::IoErr, 0);
                }
                None
            }
        }
    }

    #[cold]
    fn stray(&mut self) {
        self.strays = self.strays.saturating_add(1);
        if self.strays.is_power_of_two() {
            warn!(
                "virtqueue {} ({}): dropped {} answers that it did not wait for",
                self.tag.token(),
                self.tag.life(),
                self.strays
            );
        }
    }

    /// How often something came back that this queue did not wait for, or memory that is another queue's.
    pub fn strays(&self) -> u64 {
        self.strays.saturating_add(self.account.refused())
    }

    /// Ends whatever [`next`](Self::next) would still have offered of requests in flight: it was never submitted, and
    /// fails. For a queue whose device is gone or whose session ends.
    pub fn cancel(&mut self, spares: &mut Spares) {
        while let Some(request) = self.ready.pop_front() {
            // A failed request has no follow-up.
            self.complete(request.end(Outcome::Failed, Quiet::never_submitted()), spares);
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

    /// Publishes the used entries. True: the driver wants to be told.
    #[inline]
    pub fn publish(&mut self) -> bool {
        self.broken.is_none() && self.ring.publish()
    }

    /// Asks for kicks. True: there is something to do already, nobody will kick for it.
    pub fn listen(&mut self) -> bool {
        if !self.ready.is_empty() {
            return true;
        }
        self.broken.is_none() && self.state == State::Running && self.ring.listen()
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

    #[inline(always)]
    fn answer(&mut self, head: u16, at: Pinned, status: Status, data: u32) {
        self.account.write_pinned(at, status as u8);
        if self.broken.is_none() {
            // `data` left room for the status byte.
            self.ring.give(head, data.saturating_add(1));
        }
    }

    #[cold]
    #[inline(never)]
    fn release_part(&mut self, part: Part, quiet: &Quiet, lists: &mut Lists) {
        self.release(part.into_memory(), quiet, lists);
    }

    #[inline(always)]
    fn release(&mut self, memory: Ranges, quiet: &Quiet, lists: &mut Lists) {
        match memory {
            // One of another queue's is counted there and held for ever: nothing proves more about it.
            Ranges::One(range) => drop(self.account.release(range, quiet)),
            Ranges::Many(mut memory) => {
                while let Some(range) = memory.pop() {
                    drop(self.account.release(range, quiet));
                }
                lists.give(memory);
            }
        }
    }
}

impl Windows for BlkQueue {
    fn window(&self, range: &DmaRange) -> Option<Window> {
        self.account.window(range)
    }
}
