//! An I/O queue pair: the data path's end at the controller. It belongs to one worker.
//!
//! [`submit`](QueuePair::submit) turns a request into a command and keeps it, with its proofs, until
//! [`next_ended`](QueuePair::next_ended) (in `complete`) hands it back with a [`Quiet`](nvme_session::memory::Quiet). What
//! to do when a command never ends is in `recovery`.
//!
//! Both have a fast way, for what most requests are, and a slow one for all. Whether a request may be done, and by which
//! command, is `encode::decide`; how a command begins and ends is [`begin`](QueuePair::begin), [`keep`](QueuePair::keep)
//! and `ended`: each is one function, inlined into both ways.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use nvme_platform::{Caches, DriverMemory, Iova, OutOfBounds, PAGE, QueueDoorbells, Time, trace};
use nvme_session::memory::{Spares, Windows};
use nvme_session::operation::{Operation, Outcome, Transfer};
use nvme_session::queue::{Ended, Request, Tag};

use super::bounce::Bounce;
use super::caches;
use super::encode::{Limited, Memory, Verb, command, data, decide, is_longer};
use super::guarded::Guarded;
use super::inflight::InFlight;
use super::info::SglSupport;
use super::issued::{Issued, Pasts, Standing};
use super::mishap::{Mishap, Mishaps};
use super::quiet::{self, Generation};
use super::retry::Delays;
use super::ring::{CompletionRing, SubmissionRing};
use super::spec::command::Command;
use super::transfer::{BOUNCE_CHUNK, How, ListPage, plan};
use super::troubles::Troubles;

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

/// Longest transfer of one command, and most bytes that one sets to zero, where data is copied on the caller's own time: a
/// command is not interrupted, and others wait for its end.
pub const HERE_MAX: u32 = 128 << 10;
/// The same while others want that time as well.
pub const HERE_SHARED: u32 = 8 << 10;

impl CommandCaps {
    /// For a pair whose commands should be no longer than so many bytes.
    fn within(mut self, bytes: u32) -> Self {
        self.transfer = self.transfer.min(bytes);
        self.zeroes.bytes = self.zeroes.bytes.min(bytes.into());
        self
    }
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
    pub(super) caches: Option<Arc<dyn Caches>>,
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
    Part(Request),
    /// No room: to be submitted again after completions.
    Full(Request),
    /// It can never be done.
    Refused(Ended),
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
    /// Commands completed with an error, for good.
    pub errors: u64,
    /// Commands that failed for the moment, and were issued again or are going to be.
    pub repeated: u64,
    /// Commands whose data was bounced.
    pub bounced: u64,
    /// Completions that belong to no command in flight: stale, repeated or made up. Dropped.
    pub strays: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Running,
    /// The same, and parts of blocks are being written: nothing is submitted by the fast way, which looks at no blocks.
    Guarded,
    /// Its queues do not exist (yet, or any more).
    Stopped,
}

/// One submission queue, its completion queue, and what is in flight.
pub struct QueuePair {
    pub(super) config: PairConfig,
    /// What the controller takes, however long a command had better be.
    caps: CommandCaps,
    /// The longest that a command should be; none where data is not copied on the caller's time.
    longest: Option<u32>,
    /// Whether commands are executed on the caller's time.
    here: bool,
    /// Whether the caller has nobody else to serve.
    apart: bool,
    pub(super) generation: Generation,
    pub(super) state: State,
    pub(super) sq: SubmissionRing,
    pub(super) cq: CompletionRing,
    pub(super) doorbells: Box<dyn QueueDoorbells>,
    /// With these nothing goes the fast way, which looks at no memory.
    pub(super) caches: Option<Arc<dyn Caches>>,
    pub(super) flight: InFlight<Issued>,
    pub(super) bounce: Bounce,
    memory: [DriverMemory; 3],
    /// Ended without a completion; handed out first.
    pub(super) ended: Vec<Ended>,
    /// Of the commands in flight that failed before.
    pub(super) pasts: Pasts,
    /// Blocks of which a part is being written.
    pub(super) guarded: Guarded,
    /// No command's deadline is before this, nor the time when one is issued again.
    pub(super) earliest: Time,
    pub(super) counters: Counters,
    /// Its controller's.
    pub(super) troubles: Arc<Troubles>,
    /// What failed, to be told.
    pub(super) mishaps: Mishaps,
}

impl QueuePair {
    /// A pair whose queues the controller knows.
    pub(super) fn new(
        config: PairConfig,
        memory: PairMemory,
        start: Doorbells,
        troubles: Arc<Troubles>,
    ) -> Self {
        let caps = config.caps;
        let PairMemory { sq, cq, lists, bounce } = memory;
        let mut pair = Self {
            config,
            caps,
            longest: None,
            here: start.doorbells.runs_here(),
            apart: false,
            generation: start.generation,
            state: State::Running,
            sq: SubmissionRing::new(sq.window().clone(), config.depth),
            cq: CompletionRing::new(cq.window().clone(), config.depth),
            doorbells: start.doorbells,
            caches: start.caches,
            // One less than the queue's entries: a full queue could not be told from an empty one (Base 3.3.1.4), and
            // the completion queue, of the same depth, can never overflow.
            flight: InFlight::new(config.depth - 1),
            guarded: Guarded::new(bounce.window().len() / BOUNCE_CHUNK as usize),
            bounce: Bounce::new(bounce),
            memory: [sq, cq, lists],
            ended: Vec::new(),
            pasts: Pasts::new(config.depth - 1),
            earliest: Time::from_nanos(u64::MAX),
            counters: Counters::default(),
            troubles,
            mishaps: Mishaps::default(),
        };
        pair.state = pair.running();
        pair.set_caps(caps);
        pair
    }

    /// What the controller takes, from now on.
    pub(super) fn set_caps(&mut self, caps: CommandCaps) {
        self.caps = caps;
        self.longest = self.doorbells.copies_here().then_some(HERE_MAX);
        self.config.caps = self.longest.map_or(caps, |bytes| caps.within(bytes));
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

    /// Requests that were submitted and not handed back yet.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        (self.flight.len() + self.ended.len()) as u32
    }

    /// Whether this command is still in flight.
    pub fn holds(&self, cid: u16) -> bool {
        self.flight.get(cid).is_some()
    }

    /// A request that failed and was not told of yet: one in a while.
    pub fn take_mishap(&mut self, now: Time) -> Option<Mishap> {
        self.mishaps.take(now)
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Issues a request, or as much of it as one command can do. The controller sees it after
    /// [`ring`](Self::ring). `windows` is the queue that the request came from: data that neither PRPs nor SGLs can
    /// describe is copied through it.
    pub fn submit<W: Windows + ?Sized>(
        &mut self,
        request: Request,
        now: Time,
        windows: &W,
        spares: &mut Spares,
    ) -> Submit {
        let mut back = None;
        self.issuing(now).submit(request, &mut back);
        match back {
            None => Submit::Issued,
            Some(request) => self.submit_slow(request, now, windows, spares),
        }
    }

    /// Issues a request of any form.
    #[inline(never)]
    pub fn submit_slow<W: Windows + ?Sized>(
        &mut self,
        request: Request,
        now: Time,
        windows: &W,
        spares: &mut Spares,
    ) -> Submit {
        let Some((slot, cid)) = self.next_command() else { return Submit::Full(request) };
        let Some(verb) = decide(request.operation(), self.config.controller) else {
            return refused(request, Outcome::Failed);
        };
        let (how, blocks) = self.first_part(request.operation());
        if blocks == 0 {
            return refused(request, Outcome::Unsupported);
        }
        if self.is_in_the_way(request.operation(), blocks) {
            return Submit::Full(request);
        }
        let mut bounce = None;
        if matches!(how, How::Bounce | How::Fill) {
            bounce = self.bounce.take();
            if bounce.is_none() {
                return Submit::Full(request);
            }
        }
        let (request, rest) = if is_longer(request.operation(), blocks) {
            request.split_at(blocks, spares)
        } else {
            (request, None)
        };
        let filled = bounce.is_none_or(|chunk| self.fill_bounce(chunk, request.operation(), windows).is_ok());
        let sqe = self.encode(slot, request.operation(), verb, how, bounce).ok().filter(|_| filled);
        if sqe.is_some_and(|sqe| self.begin(cid, sqe)) {
            self.guard(request.operation());
            if let (Some(caches), None) = (&self.caches, bounce) {
                caches::before(&**caches, request.operation(), windows);
            }
            self.keep(request, how, bounce, now);
            return rest.map_or(Submit::Issued, Submit::Part);
        }
        // Only when the client's memory cannot be copied from.
        self.release_bounce(bounce);
        let ended = request.end(Outcome::Failed, quiet::never_submitted());
        match rest {
            None => Submit::Refused(ended),
            Some(rest) => {
                self.ended.push(ended);
                Submit::Part(rest)
            }
        }
    }

    /// The slot and the identifier of the next command, when one can be issued.
    fn next_command(&mut self) -> Option<(usize, u16)> {
        if self.state == State::Stopped { None } else { self.flight.next() }
    }

    /// Begins the next command: writes it. False when it could not be written.
    #[inline(always)]
    fn begin(&mut self, cid: u16, mut sqe: Command) -> bool {
        sqe.cid = cid.into();
        trace!("pair {}: command {:#06x} opcode {:#04x}", self.config.id, cid, sqe.opcode);
        self.sq.push(&sqe).is_ok()
    }

    /// Keeps the request of the command that was begun, until it ends.
    #[inline(always)]
    fn keep(&mut self, request: Request, how: How, bounce: Option<u16>, now: Time) {
        let deadline = now + self.config.timeout;
        self.earliest = self.earliest.min(deadline);
        self.counters.issued += 1;
        self.flight.put(Issued { request, deadline, how, standing: Standing::first(bounce) });
    }

    /// How the next command for this operation goes, and how many blocks it covers: 0 when the controller cannot do
    /// it at all.
    #[inline]
    fn first_part(&self, operation: &Operation) -> (How, u64) {
        let caps = &self.config.caps;
        match operation {
            Operation::Read(transfer) | Operation::Write { transfer, .. } => self.part_of(transfer),
            Operation::Flush { .. } => (How::Prp, 1),
            Operation::Discard { place, .. } => (How::Prp, caps.discard.blocks(place)),
            Operation::WriteZeroes { place, .. } => (How::Prp, caps.zeroes.blocks(place)),
            Operation::ReadPart(_) => (How::Bounce, 1),
            Operation::WritePart { .. } => (How::Fill, 1),
        }
    }

    #[inline(always)]
    fn part_of(&self, transfer: &Transfer) -> (How, u64) {
        let place = transfer.place();
        let shift = place.block_size().shift();
        let limit = place.bytes().min(u64::from(self.config.caps.transfer)) as u32;
        let plan = plan(data(transfer), limit, 1 << shift, self.config.caps.sgl);
        (plan.how, u64::from(plan.bytes >> shift))
    }

    /// The command for an operation in this slot, without its identifier.
    #[inline]
    pub(super) fn encode(
        &self,
        slot: usize,
        operation: &Operation,
        verb: Verb,
        how: How,
        bounce: Option<u16>,
    ) -> Result<Command, OutOfBounds> {
        let [_, _, lists] = &self.memory;
        let offset = slot * PAGE;
        let list = ListPage { memory: lists.window(), offset, at: Iova(lists.iova().0 + offset as u64) };
        command(operation, verb, how, &Memory { list, bounce: bounce.map(|chunk| self.bounce.at(chunk)) })
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
                self.bounce.gather(chunk, 0, transfer.memory(), &mut |range| windows.window(range))
            }
            Operation::ReadPart(part) | Operation::WritePart { part, .. } => {
                self.bounce.clear(chunk, part.place().bytes() as u32)
            }
            Operation::Flush { .. } | Operation::Discard { .. } | Operation::WriteZeroes { .. } => Ok(()),
        }
    }

    /// Rings the submission queue's doorbell, when there is anything new.
    #[inline]
    pub fn ring(&mut self) {
        if self.state != State::Stopped
            && let Some(tail) = self.sq.take_tail()
        {
            self.doorbells.submission_tail(tail);
        }
    }

    /// Whether commands are executed in [`run`](Self::run), on the caller's own time.
    #[inline]
    pub fn runs_here(&self) -> bool {
        self.here
    }

    /// How many bytes of a command are copied on the caller's own time, at most; none where they are not.
    #[inline]
    pub fn longest(&self) -> Option<u32> {
        self.longest
    }

    /// Whether others want the caller's time as well: then commands are short where data is copied on it ([`HERE_SHARED`],
    /// else [`HERE_MAX`]).
    #[inline]
    pub fn share(&mut self, shared: bool) {
        let bytes = if shared { HERE_SHARED } else { HERE_MAX };
        if self.longest.is_some_and(|longest| longest != bytes) {
            self.longest = Some(bytes);
            self.config.caps = self.caps.within(bytes);
        }
    }

    /// Lets a software controller execute up to `budget` commands; see [`QueueDoorbells::run`].
    #[inline]
    pub fn run(&mut self, budget: u32, now: Time) -> Option<Time> {
        if self.state == State::Stopped { None } else { self.doorbells.run(budget, now) }
    }

    pub(super) fn release_bounce(&mut self, chunk: Option<u16>) {
        if let Some(chunk) = chunk {
            self.bounce.put(chunk);
        }
    }

    pub(super) fn set_doorbells(&mut self, doorbells: Box<dyn QueueDoorbells>) {
        self.here = doorbells.runs_here();
        self.doorbells = doorbells;
        self.doorbells.set_apart(self.apart);
    }

    /// Whether its session has a thread of its own, which the session's memory may hold up for long.
    pub fn set_apart(&mut self, apart: bool) {
        self.apart = apart;
        self.doorbells.set_apart(apart);
    }

    /// Its memory, for the pool.
    pub(super) fn into_memory(self) -> [DriverMemory; 4] {
        let [sq, cq, lists] = self.memory;
        [sq, cq, lists, self.bounce.into_memory()]
    }
}

#[cold]
fn refused(request: Request, outcome: Outcome) -> Submit {
    Submit::Refused(request.end(outcome, quiet::never_submitted()))
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
