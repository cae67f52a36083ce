//! An I/O queue pair: the data path's end at the controller. It belongs to one worker.
//!
//! [`submit`](QueuePair::submit) turns an operation into a command and keeps it, with its proofs, until
//! [`next_done`](QueuePair::next_done) (in `complete`) hands it back with a [`Quiet`]. What to do when a command never
//! ends is in `recovery`.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use nvme_platform::{DriverMemory, Iova, OutOfBounds, PAGE, QueueDoorbells, Time, trace};
use nvme_session::memory::{Quiet, Spares, Windows};
use nvme_session::operation::{Operation, Outcome, Tag, Transfer};

use super::bounce::Bounce;
use super::encode::{Limited, Memory, command, data, is_longer, split, usual};
use super::inflight::InFlight;
use super::info::SglSupport;
use super::quiet::{self, Generation};
use super::retry::Delays;
use super::ring::{CompletionRing, SubmissionRing};
use super::spec::command::Command;
use super::transfer::{How, ListPage, plan};

/// What a pair has to know about its controller.
#[derive(Clone, Copy, Debug)]
pub(super) struct PairConfig {
    pub(super) controller: u16,
    pub(super) id: u16,
    /// Entries in each of the two queues.
    pub(super) depth: u16,
    /// The interrupt vector.
    pub(super) vector: u16,
    pub(super) timeout: Duration,
    pub(super) caps: CommandCaps,
}

/// What commands the controller takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct CommandCaps {
    /// Longest transfer in bytes: whole pages, at least one.
    pub(super) transfer: u32,
    pub(super) sgl: SglSupport,
    /// Most bytes and blocks in one discard; 0: none.
    pub(super) discard: Limited,
    /// Most bytes and blocks in one write-zeroes; 0: none.
    pub(super) zeroes: Limited,
    /// How long it may ask to be left alone before a command is repeated.
    pub(super) delays: Delays,
}

/// The driver memory of a pair.
#[derive(Debug)]
pub(super) struct PairMemory {
    pub(super) sq: DriverMemory,
    pub(super) cq: DriverMemory,
    /// One page for each entry: PRP lists, SGLs, DSM ranges.
    pub(super) lists: DriverMemory,
    pub(super) bounce: DriverMemory,
}

/// The doorbells of a pair that was created again, for [`QueuePair::restart`].
pub struct Doorbells {
    pub(super) doorbells: Box<dyn QueueDoorbells>,
    pub(super) id: u16,
    pub(super) generation: Generation,
    /// When they were made.
    pub(super) made: Time,
}

impl fmt::Debug for Doorbells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Doorbells({})", self.id)
    }
}

/// What became of a submission.
#[derive(Debug)]
pub enum Submit {
    /// It is in the submission queue.
    Issued,
    /// A part of it is; this is what remains to be submitted.
    Part(Operation),
    /// No room: to be submitted again after completions.
    Full(Operation),
    /// It can never be done.
    Refused(Done),
}

/// An operation that has ended.
#[derive(Debug)]
pub struct Done {
    /// As given to `submit`.
    pub tag: Tag,
    /// The operation, with its proofs.
    pub operation: Operation,
    /// How it ended.
    pub outcome: Outcome,
    /// Proof that its memory is not used any more.
    pub quiet: Quiet,
}

/// A command that is late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expired {
    /// Its identifier.
    pub cid: u16,
    /// Which request.
    pub tag: Tag,
}

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Commands issued.
    pub issued: u64,
    /// Commands completed with an error.
    pub errors: u64,
    /// Commands whose data was bounced.
    pub bounced: u64,
    /// Completions that belong to no command in flight: stale, repeated or made up. Dropped.
    pub strays: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Running,
    /// Its queues do not exist (yet, or any more).
    Stopped,
}

/// A command in flight.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) operation: Operation,
    pub(super) tag: Tag,
    pub(super) deadline: Time,
    pub(super) how: How,
    pub(super) bounce: Option<u16>,
}

/// One submission queue, its completion queue, and what is in flight.
pub struct QueuePair {
    pub(super) config: PairConfig,
    pub(super) generation: Generation,
    pub(super) state: State,
    pub(super) sq: SubmissionRing,
    pub(super) cq: CompletionRing,
    pub(super) doorbells: Box<dyn QueueDoorbells>,
    pub(super) flight: InFlight<Issued>,
    pub(super) bounce: Bounce,
    memory: [DriverMemory; 3],
    /// Ended without a completion; handed out first.
    pub(super) ended: Vec<Done>,
    /// No command's deadline is before this.
    pub(super) earliest: Time,
    pub(super) counters: Counters,
}

impl QueuePair {
    /// A pair whose queues the controller knows.
    pub(super) fn new(config: PairConfig, memory: PairMemory, start: Doorbells) -> Self {
        let PairMemory { sq, cq, lists, bounce } = memory;
        Self {
            config,
            generation: start.generation,
            state: State::Running,
            sq: SubmissionRing::new(sq.window().clone(), config.depth),
            cq: CompletionRing::new(cq.window().clone(), config.depth),
            doorbells: start.doorbells,
            // One less than the queue's entries: a full queue could not be told from an empty one (Base 3.3.1.4), and
            // the completion queue, of the same depth, can never overflow.
            flight: InFlight::new(config.depth - 1),
            bounce: Bounce::new(bounce),
            memory: [sq, cq, lists],
            ended: Vec::new(),
            earliest: Time::from_nanos(u64::MAX),
            counters: Counters::default(),
        }
    }

    /// The identifier of both queues, 1 and up.
    pub fn id(&self) -> u16 {
        self.config.id
    }

    /// The controller's index.
    pub fn controller(&self) -> u16 {
        self.config.controller
    }

    /// The interrupt vector of its completion queue.
    pub fn vector(&self) -> u16 {
        self.config.vector
    }

    /// How many commands can be in flight.
    pub fn capacity(&self) -> u16 {
        self.config.depth - 1
    }

    /// Operations that were submitted and not handed back yet.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        (self.flight.len() + self.ended.len()) as u32
    }

    /// Whether this command is still in flight.
    pub fn holds(&self, cid: u16) -> bool {
        self.flight.get(cid).is_some()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Issues an operation, or as much of it as one command can do. The controller sees it after
    /// [`ring`](Self::ring). `windows` is the queue that the operation came from: data that neither PRPs nor SGLs can
    /// describe is copied through it.
    pub fn submit<W: Windows + ?Sized>(
        &mut self,
        operation: Operation,
        tag: Tag,
        now: Time,
        windows: &W,
        spares: &mut Spares,
    ) -> Submit {
        match self.submit_usual(operation, tag, now) {
            Ok(()) => Submit::Issued,
            Err(operation) => self.submit_any(operation, tag, now, windows, spares),
        }
    }

    /// The short way of [`submit`](Self::submit): a read or write of one range of memory that the two PRP entries of a
    /// command can name. Hands back any other operation, or one for which there is no room.
    #[inline(always)]
    pub fn submit_usual(&mut self, operation: Operation, tag: Tag, now: Time) -> Result<(), Operation> {
        let usual = usual(&operation, self.config.controller, self.config.caps.transfer);
        let (Some(mut sqe), Some((_, cid)), State::Running) = (usual, self.flight.next(), self.state) else {
            return Err(operation);
        };
        sqe.cid = cid.into();
        if self.sq.push(&sqe).is_err() {
            return Err(operation);
        }
        self.keep(&sqe, cid, operation, How::Prp, tag, now);
        Ok(())
    }

    /// Issues an operation of any shape.
    #[inline(never)]
    fn submit_any<W: Windows + ?Sized>(
        &mut self,
        operation: Operation,
        tag: Tag,
        now: Time,
        windows: &W,
        spares: &mut Spares,
    ) -> Submit {
        let Some((slot, cid)) = self.flight.next().filter(|_| self.state == State::Running) else {
            return Submit::Full(operation);
        };
        let Some((how, blocks)) = self.first_part(&operation) else {
            return refused(operation, tag, Outcome::Failed);
        };
        if how == How::Bounce || is_longer(&operation, blocks) {
            return self.submit_part(operation, (how, blocks), (slot, cid), tag, now, windows, spares);
        }
        let Ok(mut sqe) = self.encode(slot, &operation, how, None) else {
            return refused(operation, tag, Outcome::Failed);
        };
        sqe.cid = cid.into();
        if self.sq.push(&sqe).is_err() {
            return refused(operation, tag, Outcome::Failed);
        }
        self.keep(&sqe, cid, operation, how, tag, now);
        Submit::Issued
    }

    /// Keeps an operation whose command was written whole.
    #[inline(always)]
    fn keep(&mut self, sqe: &Command, cid: u16, operation: Operation, how: How, tag: Tag, now: Time) {
        let deadline = now + self.config.timeout;
        self.earliest = self.earliest.min(deadline);
        self.counters.issued += 1;
        self.flight.put(cid, Issued { operation, tag, deadline, how, bounce: None });
        trace!("pair {}: command {:#06x} opcode {:#04x}", self.config.id, cid, sqe.opcode);
    }

    /// Issues the first part of an operation, or one that goes through bounce memory.
    #[cold]
    #[expect(clippy::too_many_arguments, reason = "what submit knows by then")]
    fn submit_part<W: Windows + ?Sized>(
        &mut self,
        operation: Operation,
        (how, blocks): (How, u64),
        (slot, cid): (usize, u16),
        tag: Tag,
        now: Time,
        windows: &W,
        spares: &mut Spares,
    ) -> Submit {
        if blocks == 0 {
            return refused(operation, tag, Outcome::Unsupported);
        }
        let mut bounce = None;
        if how == How::Bounce {
            bounce = self.bounce.take();
            if bounce.is_none() {
                return Submit::Full(operation);
            }
        }
        let (operation, rest) = split(operation, blocks, spares);
        let filled = bounce.is_none_or(|chunk| self.fill_bounce(chunk, &operation, windows).is_ok());
        let sqe = self.encode(slot, &operation, how, bounce).ok().filter(|_| filled);
        let pushed = sqe.is_some_and(|mut sqe| {
            sqe.cid = cid.into();
            self.sq.push(&sqe).is_ok()
        });
        if pushed {
            let deadline = now + self.config.timeout;
            self.earliest = self.earliest.min(deadline);
            self.counters.issued += 1;
            self.flight.put(cid, Issued { operation, tag, deadline, how, bounce });
            return match rest {
                None => Submit::Issued,
                Some(rest) => Submit::Part(rest),
            };
        }
        // Only when the client's memory cannot be copied from.
        self.release_bounce(bounce);
        match rest {
            None => refused(operation, tag, Outcome::Failed),
            Some(rest) => {
                let quiet = quiet::never_submitted();
                self.ended.push(Done { tag, operation, outcome: Outcome::Failed, quiet });
                Submit::Part(rest)
            }
        }
    }

    /// How the next command for this operation goes, and how many blocks it covers: 0 when the controller cannot do
    /// it at all. `None` when the operation is not for this controller, or its permit for another namespace.
    #[inline]
    fn first_part(&self, operation: &Operation) -> Option<(How, u64)> {
        let caps = &self.config.caps;
        let ours = |c: u16| c == self.config.controller;
        let (place, permit, blocks) = match operation {
            Operation::Read(transfer) => {
                return self.part_of(transfer).filter(|_| ours(transfer.place().namespace().controller));
            }
            Operation::Write { transfer, permit, .. } => {
                let namespace = transfer.place().namespace();
                return self
                    .part_of(transfer)
                    .filter(|_| ours(namespace.controller) && permit.namespace() == namespace);
            }
            Operation::Flush { permit } => {
                return ours(permit.namespace().controller).then_some((How::Prp, 1));
            }
            Operation::Discard { place, permit } => (place, permit, caps.discard.blocks(place)),
            Operation::WriteZeroes { place, permit, .. } => (place, permit, caps.zeroes.blocks(place)),
        };
        let fits = ours(place.namespace().controller) && permit.namespace() == place.namespace();
        fits.then_some((How::Prp, blocks))
    }

    #[inline(always)]
    fn part_of(&self, transfer: &Transfer) -> Option<(How, u64)> {
        let place = transfer.place();
        let shift = place.block_size().shift();
        let limit = place.bytes().min(u64::from(self.config.caps.transfer)) as u32;
        let plan = plan(data(transfer), limit, 1 << shift, self.config.caps.sgl);
        Some((plan.how, u64::from(plan.bytes >> shift)))
    }

    /// The command for an operation in this slot, without its identifier.
    #[inline]
    pub(super) fn encode(
        &self,
        slot: usize,
        operation: &Operation,
        how: How,
        bounce: Option<u16>,
    ) -> Result<Command, OutOfBounds> {
        let [_, _, lists] = &self.memory;
        let offset = slot * PAGE;
        let list = ListPage { memory: lists.window(), offset, at: Iova(lists.iova().0 + offset as u64) };
        command(operation, how, &Memory { list, bounce: bounce.map(|chunk| self.bounce.at(chunk)) })
    }

    fn fill_bounce<W: Windows + ?Sized>(
        &mut self,
        chunk: u16,
        operation: &Operation,
        windows: &W,
    ) -> Result<(), OutOfBounds> {
        self.counters.bounced += 1;
        match operation {
            Operation::Read(transfer) => self.bounce.clear(chunk, transfer.place().bytes() as u32),
            Operation::Write { transfer, .. } => {
                self.bounce.gather(chunk, transfer.memory(), &mut |range| windows.window(range))
            }
            _ => Ok(()),
        }
    }

    /// Rings the submission queue's doorbell, when there is anything new.
    #[inline]
    pub fn ring(&mut self) {
        if self.state == State::Running
            && let Some(tail) = self.sq.take_tail()
        {
            self.doorbells.submission_tail(tail);
        }
    }

    /// Whether commands are executed in [`run`](Self::run), on the caller's own time.
    #[inline]
    pub fn runs_here(&self) -> bool {
        self.doorbells.runs_here()
    }

    /// Lets a software controller execute up to `budget` commands; see [`QueueDoorbells::run`].
    #[inline]
    pub fn run(&mut self, budget: u32, now: Time) -> Option<Time> {
        if self.state == State::Running { self.doorbells.run(budget, now) } else { None }
    }

    pub(super) fn release_bounce(&mut self, chunk: Option<u16>) {
        if let Some(chunk) = chunk {
            self.bounce.put(chunk);
        }
    }

    pub(super) fn set_doorbells(&mut self, doorbells: Box<dyn QueueDoorbells>) {
        self.doorbells = doorbells;
    }

    /// Its memory, for the pool.
    pub(super) fn into_memory(self) -> [DriverMemory; 4] {
        let [sq, cq, lists] = self.memory;
        [sq, cq, lists, self.bounce.into_memory()]
    }
}

#[cold]
fn refused(operation: Operation, tag: Tag, outcome: Outcome) -> Submit {
    Submit::Refused(Done { tag, operation, outcome, quiet: quiet::never_submitted() })
}

impl fmt::Debug for QueuePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuePair")
            .field("controller", &self.config.controller)
            .field("id", &self.config.id)
            .field("in_flight", &self.in_flight())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
