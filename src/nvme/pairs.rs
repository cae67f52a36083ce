//! I/O queue pairs: creating, deleting, and creating again.
//!
//! The controller keeps a record of each pair, wherever the pair itself is. Its windows keep the pair's memory alive
//! until the controller was proven to be done with it, even if the pair itself is dropped.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use nvme_platform::{DmaError, DmaPool, DriverMemory, Iova, PAGE, Time, Window, debug, warn};

use super::admin::Job;
use super::controller::{Controller, State};
use super::event::{Event, PairError, ResetReason};
use super::pair::{Doorbells, PairConfig, PairMemory, QueuePair};
use super::quiet::{Generation, QueueQuiet};
use super::scan::SCAN_PAIR;
use super::spec::command::{CQE_BYTES, SQE_SHIFT, Status};
use super::transfer::BOUNCE_CHUNK;

/// Fewest and most entries of a queue: one can never be used.
const DEPTH_MIN: u16 = 2;
const DEPTH_MAX: u16 = 1024;

/// For whom a pair is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum For {
    /// A worker.
    Client { token: u32 },
    /// The control role's own reads.
    Scan,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Its completion queue, then its submission queue is being created; for the first time, or again.
    Creating { again: bool },
    /// Creating its submission queue failed with this status; its completion queue is being deleted.
    Undoing { again: bool, status: u16 },
    /// The controller knows it.
    Live,
    /// Its submission queue is being deleted.
    DeletingSq,
    /// Its submission queue is gone; its completion queue is being deleted.
    DeletingCq { quiet: QueueQuiet },
    /// The controller does not know it any more.
    Quiet,
}

/// What the controller keeps of a pair.
pub(super) struct Record {
    who: For,
    stage: Stage,
    config: PairConfig,
    generation: Generation,
    sq: Iova,
    cq: Iova,
    /// Until the pair itself is made.
    memory: Option<PairMemory>,
    /// Held for as long as the controller may write there.
    _keep: [Window; 4],
}

/// All records.
pub(super) struct Pairs {
    records: BTreeMap<u16, Record>,
    /// How many pairs the controller granted.
    pub(super) granted: u16,
}

impl Pairs {
    pub(super) fn new() -> Self {
        Self { records: BTreeMap::new(), granted: 0 }
    }

    pub(super) fn has(&self, id: u16) -> bool {
        self.records.contains_key(&id)
    }

    /// The first identifier for workers. The scan keeps its own when there are at least two.
    fn first(&self) -> u16 {
        if self.granted > 1 { SCAN_PAIR + 1 } else { SCAN_PAIR }
    }
}

/// Pages of a pair of this depth: its queues, lists, and bounce memory.
fn pages(depth: u16, chunks: u16) -> [usize; 4] {
    let depth = usize::from(depth);
    [
        (depth << SQE_SHIFT).div_ceil(PAGE),
        (depth * CQE_BYTES).div_ceil(PAGE),
        depth.saturating_sub(1),
        usize::from(chunks.max(1)) * (BOUNCE_CHUNK as usize / PAGE),
    ]
}

/// Memory for a pair of this depth; all or nothing.
fn allocate(pool: &mut dyn DmaPool, depth: u16, chunks: u16) -> Result<PairMemory, DmaError> {
    let pages = pages(depth, chunks);
    let mut got: Vec<DriverMemory> = Vec::with_capacity(pages.len());
    for (done, count) in pages.into_iter().enumerate() {
        match pool.allocate(count) {
            Ok(memory) => got.push(memory),
            Err(why) => {
                got.into_iter().for_each(|memory| pool.recycle(memory));
                // What is missing is said for all of it, not for the part that was one too many.
                let rest = pages.iter().skip(done + 1).fold(0_u64, |sum, pages| sum + (*pages * PAGE) as u64);
                return Err(match why {
                    DmaError::LockLimit { need, allowed } => {
                        DmaError::LockLimit { need: need.saturating_add(rest), allowed }
                    }
                    other => other,
                });
            }
        }
    }
    let mut got = got.into_iter();
    match (got.next(), got.next(), got.next(), got.next()) {
        (Some(sq), Some(cq), Some(lists), Some(bounce)) => Ok(PairMemory { sq, cq, lists, bounce }),
        _ => Err(DmaError::NoMemory),
    }
}

impl Controller {
    /// How many pairs [`create_pair`](Self::create_pair) can still make.
    pub fn pairs_free(&self) -> u16 {
        if self.state != State::Running {
            return 0;
        }
        let first = self.pairs.first();
        let used = self.pairs.records.range(first..).count();
        let all = usize::from(self.pairs.granted) + 1 - usize::from(first);
        u16::try_from(all.saturating_sub(used)).unwrap_or(0)
    }

    /// Creates an I/O queue pair with `depth` entries (made to fit the controller, 2 to 1024). Ends in
    /// [`Event::PairReady`] or [`Event::PairFailed`] with this token, or at once in an error.
    pub fn create_pair(&mut self, depth: u16, token: u32) -> Result<(), PairError> {
        if self.state != State::Running {
            return Err(PairError::NotReady);
        }
        let ids = self.pairs.first()..=self.pairs.granted;
        let id = ids.into_iter().find(|id| !self.pairs.has(*id)).ok_or(PairError::None)?;
        self.begin_pair(id, depth, self.options.bounce_chunks, For::Client { token })
    }

    /// Bytes of the driver's own memory that a pair of this depth takes.
    pub fn pair_bytes(&self, depth: u16) -> u64 {
        let pages = pages(self.allowed(depth), self.options.bounce_chunks);
        (pages.into_iter().sum::<usize>() * PAGE) as u64
    }

    /// The depth that the controller lets a queue have.
    fn allowed(&self, depth: u16) -> u16 {
        depth.min(self.cap.mqes().saturating_add(1).min(DEPTH_MAX)).max(DEPTH_MIN)
    }

    pub(super) fn begin_pair(&mut self, id: u16, depth: u16, chunks: u16, who: For) -> Result<(), PairError> {
        let depth = self.allowed(depth);
        let memory = allocate(self.device.pool(), depth, chunks).map_err(PairError::Memory)?;
        let vectors = self.device.bus().vectors();
        // Vector 0 is the control role's: the admin queue's, and that of its own reads. The others are shared in turn.
        let own = who == For::Scan || vectors < 2;
        let vector = if own { 0 } else { 1 + (id - SCAN_PAIR) % (vectors - 1) };
        let config = PairConfig {
            controller: self.index,
            id,
            depth,
            vector,
            timeout: self.options.io_timeout,
            caps: self.caps,
        };
        let record = Record {
            who,
            stage: Stage::Creating { again: false },
            config,
            generation: self.take_generation(),
            sq: memory.sq.iova(),
            cq: memory.cq.iova(),
            _keep: [&memory.sq, &memory.cq, &memory.lists, &memory.bounce].map(|m| m.window().clone()),
            memory: Some(memory),
        };
        let at = record.cq;
        self.pairs.records.insert(id, record);
        self.ask(Job::CreateCq { id, depth, vector, at });
        Ok(())
    }

    fn take_generation(&mut self) -> Generation {
        let generation = self.next_generation;
        self.next_generation += 1;
        generation
    }

    pub(super) fn cq_created(&mut self, id: u16, status: Status) {
        let Some(record) = self.pairs.records.get_mut(&id) else { return };
        let Stage::Creating { again } = record.stage else { return };
        if status.ok() {
            let job = Job::CreateSq { id, depth: record.config.depth, at: record.sq };
            self.ask(job);
        } else {
            self.not_created(id, again, PairError::Refused(status.0));
        }
    }

    pub(super) fn sq_created(&mut self, id: u16, status: Status, now: Time) {
        let Some(record) = self.pairs.records.get_mut(&id) else { return };
        let Stage::Creating { again } = record.stage else { return };
        if !status.ok() {
            record.stage = Stage::Undoing { again, status: status.0 };
            return self.ask(Job::DeleteCq { id });
        }
        record.stage = Stage::Live;
        let stride = 4_u32 << self.cap.dstrd();
        let doorbells = match self.device.doorbells(id, stride) {
            Ok(doorbells) => Doorbells { doorbells, id, generation: record.generation, made: now },
            Err(e) => {
                // Nothing was submitted: deleting it is all there is to do.
                warn!("controller {}: no doorbells for queue pair {id}: {e}", self.index);
                record.stage = Stage::Undoing { again, status: Status::INVALID_QUEUE };
                return self.ask(Job::DeleteSq { id });
            }
        };
        debug!("controller {}: queue pair {} of {} entries", self.index, id, record.config.depth);
        match (record.memory.take(), record.who) {
            (Some(memory), For::Client { token }) => {
                let pair = QueuePair::new(record.config, memory, doorbells);
                self.events.push_back(Event::PairReady { token, pair });
            }
            (Some(memory), For::Scan) => self.scan.take_pair(record.config, memory, doorbells.doorbells),
            (None, _) => self.events.push_back(Event::PairRecreated { id, doorbells }),
        }
    }

    /// A pair could not be created, and the controller knows nothing of it.
    fn not_created(&mut self, id: u16, again: bool, why: PairError) {
        warn!("controller {}: queue pair {id}: {why}", self.index);
        let Some(record) = self.pairs.records.get_mut(&id) else { return };
        record.stage = Stage::Quiet;
        if again {
            self.events.push_back(Event::PairLost { id, why });
            return;
        }
        let who = record.who;
        if let Some(memory) = self.pairs.records.remove(&id).and_then(|record| record.memory) {
            self.recycle([memory.sq, memory.cq, memory.lists, memory.bounce]);
        }
        match who {
            For::Client { token } => self.events.push_back(Event::PairFailed { token, why }),
            For::Scan => self.end_scans_without_pair(),
        }
    }

    fn recycle(&mut self, memory: [DriverMemory; 4]) {
        memory.into_iter().for_each(|memory| self.device.pool().recycle(memory));
    }

    /// Deletes a pair's queues, with the pair in the control role's hands. Ends in [`Event::PairDeleted`], or in
    /// [`Event::ResetNeeded`] and then, after the reset, in [`Event::PairDeleted`]. An error when there is no such pair,
    /// or it is being worked on.
    pub fn delete_pair(&mut self, id: u16) -> Result<(), PairError> {
        let record = self.pairs.records.get_mut(&id).filter(|r| r.stage == Stage::Live);
        let record = record.ok_or(PairError::Busy)?;
        record.stage = Stage::DeletingSq;
        if self.state == State::Running {
            self.ask(Job::DeleteSq { id });
        }
        Ok(())
    }

    pub(super) fn sq_deleted(&mut self, id: u16, status: Status) {
        let (index, reason) = (self.index, ResetReason::DeleteFailed { id });
        let Some(record) = self.pairs.records.get_mut(&id) else { return };
        if !status.ok() {
            return self.stuck(reason);
        }
        if record.stage == Stage::DeletingSq {
            record.stage = Stage::DeletingCq { quiet: QueueQuiet::deleted(index, id, record.generation) };
        }
        self.ask(Job::DeleteCq { id });
    }

    pub(super) fn cq_deleted(&mut self, id: u16, status: Status) {
        let Some(record) = self.pairs.records.get_mut(&id) else { return };
        if !status.ok() {
            // The controller may still write there, so the memory is not given back.
            return self.stuck(ResetReason::DeleteFailed { id });
        }
        match record.stage {
            Stage::Undoing { again, status } => self.not_created(id, again, PairError::Refused(status)),
            Stage::DeletingCq { quiet } => {
                record.stage = Stage::Quiet;
                self.deleted(id, quiet);
            }
            _ => {}
        }
    }

    /// A pair that was to be deleted is.
    fn deleted(&mut self, id: u16, quiet: QueueQuiet) {
        match self.pairs.records.get(&id).map(|record| record.who) {
            Some(For::Client { .. }) => self.events.push_back(Event::PairDeleted { id, quiet }),
            Some(For::Scan) => self.drop_scan_pair(id),
            None => {}
        }
    }

    /// Gives the scan's memory back. Its queues are gone.
    pub(super) fn drop_scan_pair(&mut self, id: u16) {
        let record = self.pairs.records.remove(&id);
        // One that was still being created is given up as well.
        let made = self.scan.give_up_pair();
        let memory = record.and_then(|r| r.memory).or(made);
        if let Some(memory) = memory {
            self.recycle([memory.sq, memory.cq, memory.lists, memory.bounce]);
        }
    }

    /// Creates the queues of a pair again, after [`Event::PairDeleted`] or [`Event::Reset`], with the same identifier and
    /// memory. The pair must be in the control role's hands. Ends in [`Event::PairRecreated`], whose doorbells are for
    /// [`QueuePair::restart`], or in [`Event::PairLost`]; or at once in an error.
    pub fn recreate_pair(&mut self, pair: &mut QueuePair) -> Result<(), PairError> {
        if self.state != State::Running {
            return Err(PairError::NotReady);
        }
        let id = pair.id();
        let ours = pair.controller() == self.index;
        let record = self.pairs.records.get(&id).filter(|r| ours && r.stage == Stage::Quiet);
        let record = record.ok_or(PairError::Busy)?;
        if pair.generation > record.generation || id > self.pairs.granted {
            return Err(PairError::None);
        }
        let generation = self.take_generation();
        let Some(record) = self.pairs.records.get_mut(&id) else { return Err(PairError::Busy) };
        pair.rewind();
        pair.config.caps = self.caps;
        record.generation = generation;
        record.stage = Stage::Creating { again: true };
        let PairConfig { depth, vector, .. } = record.config;
        let at = record.cq;
        self.ask(Job::CreateCq { id, depth, vector, at });
        Ok(())
    }

    /// Takes back a pair that is not needed any more: after [`Event::PairDeleted`], [`Event::Reset`] or a cut-off, with
    /// nothing in flight ([`QueuePair::fail_all`], and all of its operations taken). Its identifier and memory are
    /// free again. Otherwise it comes back.
    pub fn retire_pair(&mut self, pair: Box<QueuePair>) -> Result<(), Box<QueuePair>> {
        let id = pair.id();
        let ours = pair.controller() == self.index && pair.in_flight() == 0;
        match self.pairs.records.get(&id) {
            Some(record) if ours && record.stage == Stage::Quiet && pair.generation <= record.generation => {
                self.pairs.records.remove(&id);
                self.recycle(pair.into_memory());
                Ok(())
            }
            _ => Err(pair),
        }
    }

    /// After CSTS.RDY = 0 (with the proof), or when all is lost: ends what is being done about pairs.
    pub(super) fn end_pairs(&mut self, quiet: Option<QueueQuiet>) {
        let mut gone = Vec::new();
        for (id, record) in &mut self.pairs.records {
            let stage = record.stage;
            if quiet.is_some() {
                record.stage = Stage::Quiet;
            }
            let why = PairError::Reset;
            match (stage, record.who) {
                (Stage::Creating { again: true } | Stage::Undoing { again: true, .. }, _) => {
                    record.stage = if quiet.is_some() { Stage::Quiet } else { Stage::Live };
                    self.events.push_back(Event::PairLost { id: *id, why });
                }
                (Stage::Creating { .. } | Stage::Undoing { .. }, For::Client { token }) => {
                    self.events.push_back(Event::PairFailed { token, why });
                    gone.push(*id);
                }
                (Stage::DeletingSq | Stage::DeletingCq { .. }, For::Client { .. }) => {
                    let proof = match stage {
                        Stage::DeletingCq { quiet } => Some(quiet),
                        _ => quiet,
                    };
                    if let Some(quiet) = proof {
                        self.events.push_back(Event::PairDeleted { id: *id, quiet });
                    }
                }
                (_, For::Scan) => gone.push(*id),
                _ => {}
            }
        }
        // Without the proof, their memory stays where it is: the controller may still write there.
        for id in gone.into_iter().filter(|_| quiet.is_some()) {
            match self.pairs.records.get(&id).map(|record| record.who) {
                Some(For::Scan) => self.drop_scan_pair(id),
                _ => {
                    if let Some(memory) = self.pairs.records.remove(&id).and_then(|record| record.memory) {
                        self.recycle([memory.sq, memory.cq, memory.lists, memory.bounce]);
                    }
                }
            }
        }
    }

    pub(super) fn is_scan_pair(&self, id: u16) -> bool {
        self.pairs.records.get(&id).is_some_and(|record| record.who == For::Scan)
    }
}
