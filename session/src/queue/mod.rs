//! One virtqueue of one session, as a worker owns it: descriptor chains become [`Operation`]s, outcomes become used
//! entries.
//!
//! * `config`: what control decided.
//! * `request`: a chain is parsed, confined and mediated.
//! * `flight`: which requests are under way, of how many operations each.
//!
//! What ends the queue and what fails one request: the *structure* of the ring ([`Broken`]) ends the queue. A request
//! whose status byte can be written is answered, whatever else is wrong with it: `IOERR` for a header, a buffer, a
//! direction, a length or a place that is not right, `UNSUPP` for a type, a flag or a feature that is not served. A
//! request without a status byte (the last descriptor is empty, not writable, or outside the registered memory)
//! could never be answered: its driver would wait for ever, so it counts as broken structure.
//!
//! A request may become several operations: a discard of several segments, or a transfer that the driver divided
//! ([`BlkQueue::rest`]). Its used entry is written when the last has ended, with the worst outcome.

mod config;
mod flight;
mod request;

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use nvme_platform::{Window, debug};
use nvme_policy::Grant;

pub use config::{Direction, QueueConfig};
use flight::{Ended, Flights};
use request::Rest;
pub use request::Unusual;

use crate::blk::features;
use crate::blk::request::Status;
pub use crate::memory::Spares;
use crate::memory::{DmaRange, Held, Lists, MemoryTable, Pinned, Quiet, Ranges, Windows};
use crate::operation::{Operation, Outcome};
use crate::virtqueue::Ring;
pub use crate::virtqueue::{AddressSpace, Broken, RingAddresses, RingError};

/// What a queue has to do next.
#[derive(Debug)]
pub enum Next {
    /// Do this for the request of that head, then [`complete`](BlkQueue::complete) it.
    Operation(u16, Operation),
    /// A request was answered at once; ask again.
    Again,
    /// Nothing is available.
    Idle,
    /// The queue serves nothing until it is set up again. What is in flight is still completed.
    Broken(Broken),
}

/// One virtqueue of a session.
pub struct BlkQueue {
    ring: Ring,
    held: Held,
    table: Arc<MemoryTable>,
    flights: Flights,
    /// Operations of requests in flight that are to be submitted before anything new.
    ready: VecDeque<(u16, Operation)>,
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
        Ok(Self {
            ring,
            held: Held::new(&table),
            table,
            flights: Flights::new(config.size),
            ready: VecDeque::new(),
            state: State::Running,
            broken: None,
            indirect: has(features::INDIRECT_DESC),
            durable: !config.write_back || !has(features::FLUSH),
            config,
        })
    }

    /// The next thing to do. What was put back or divided comes first, even in a queue that is broken or stopped.
    pub fn next(&mut self, spares: &mut Spares) -> Next {
        match self.next_usual() {
            Ok((head, operation)) => Next::Operation(head, operation),
            Err(unusual) => self.next_rest(unusual, spares),
        }
    }

    /// The short way of [`next`](Self::next): a read or write as most are. Anything else is for
    /// [`next_rest`](Self::next_rest), at once. They are two so that the usual operation stays in registers.
    #[inline(always)]
    pub fn next_usual(&mut self) -> Result<(u16, Operation), Unusual> {
        if !self.ready.is_empty() || self.broken.is_some() || self.state == State::Stopped {
            return Err(Unusual(Rest::Old));
        }
        self.take().map_err(Unusual)
    }

    /// Goes on where [`next_usual`](Self::next_usual) stopped.
    #[inline]
    pub fn next_rest(&mut self, unusual: Unusual, spares: &mut Spares) -> Next {
        let Unusual(rest) = unusual;
        if matches!(rest, Rest::Idle) {
            return Next::Idle;
        }
        self.take_rest(rest, spares)
    }

    #[cold]
    fn next_old(&mut self) -> Next {
        match (self.ready.pop_front(), self.broken) {
            (Some((head, operation)), _) => Next::Operation(head, operation),
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

    /// Takes back an operation that was not submitted; [`next`](Self::next) offers it again, before anything else.
    pub fn put_back(&mut self, head: u16, operation: Operation) {
        self.ready.push_front((head, operation));
    }

    /// Takes what remains of an operation of which a part was submitted. Both parts have to be completed.
    pub fn rest(&mut self, head: u16, operation: Operation) {
        self.flights.divide(head);
        self.ready.push_front((head, operation));
    }

    /// Ends an operation. When it was the request's last, the request is answered, or its follow-up is returned, to be
    /// submitted (or [`put_back`](Self::put_back)) for the same head.
    #[inline(always)]
    pub fn complete(
        &mut self,
        head: u16,
        operation: Operation,
        outcome: Outcome,
        quiet: Quiet,
        spares: &mut Spares,
    ) -> Option<Operation> {
        match operation {
            Operation::Read(transfer) | Operation::Write { transfer, .. } => {
                let (_, memory) = transfer.into_parts();
                self.release(memory, &quiet, &mut spares.lists);
            }
            Operation::Flush { .. } | Operation::Discard { .. } | Operation::WriteZeroes { .. } => {}
        }
        match self.flights.end(head, outcome) {
            Ended::NotYet => None,
            Ended::Answer(outcome, status, data) => {
                let data = if outcome == Outcome::Done { data } else { 0 };
                self.answer(head, status, outcome.into(), data);
                None
            }
            Ended::Flush => self.flush_after(head),
        }
    }

    #[cold]
    fn flush_after(&mut self, head: u16) -> Option<Operation> {
        match self.config.grant.write_permit() {
            Ok(permit) => Some(Operation::Flush { permit }),
            // A discard had a permit, so this is never reached; failing is what is left.
            Err(_) => {
                if let Ended::Answer(_, status, _) = self.flights.end(head, Outcome::Failed) {
                    self.answer(head, status, Status::IoErr, 0);
                }
                None
            }
        }
    }

    /// Ends whatever [`next`](Self::next) would still have offered of requests in flight: it was never submitted, and
    /// fails. For a queue whose device is gone or whose session ends.
    pub fn cancel(&mut self, spares: &mut Spares) {
        while let Some((head, operation)) = self.ready.pop_front() {
            // A failed request has no follow-up.
            self.complete(head, operation, Outcome::Failed, Quiet::never_submitted(), spares);
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
        self.held.set_table(&table);
        self.table = table;
        let resolved = self.ring.resolve(&self.config.rings, &self.table);
        if resolved.is_err() {
            self.broken.get_or_insert(Broken::RingsGone);
        }
        resolved
    }

    /// Whether anything in flight lies in the region of that slot.
    pub fn holds(&self, slot: u16) -> bool {
        self.held.holds(slot)
    }

    /// Bytes of client memory in flight, status bytes included.
    pub fn bytes_held(&self) -> u64 {
        self.held.bytes()
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
        self.held.write_pinned(at, status as u8);
        if self.broken.is_none() {
            // `data` left room for the status byte.
            self.ring.give(head, data.saturating_add(1));
        }
    }

    #[inline(always)]
    fn release(&mut self, memory: Ranges, quiet: &Quiet, lists: &mut Lists) {
        match memory {
            Ranges::One(range) => self.held.release(range, quiet),
            Ranges::Many(mut memory) => {
                while let Some(range) = memory.pop() {
                    self.held.release(range, quiet);
                }
                lists.give(memory);
            }
        }
    }
}

impl Windows for BlkQueue {
    fn window(&self, range: &DmaRange) -> Option<Window> {
        self.held.window(range)
    }
}
