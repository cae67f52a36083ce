//! I/O queue pairs: creating, deleting, and creating again.
//!
//! There is a record of each pair, wherever the pair itself is. Its windows keep the pair's memory alive
//! until the controller was proven to be done with it, even if the pair itself is dropped.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::{Device, DmaPool, Iova, PAGE, QueueDoorbells, Time, Window};
use nvme_platform::{debug, info, warn};

use super::super::doorbell_buffers::DoorbellBuffers;
use super::super::event::{ControllerEvent, PairError, ResetReason};
use super::super::options::Options;
use super::super::pair::{CommandCaps, Doorbells, PairConfig, PairMemory, QueuePair};
use super::super::quiet::{Generation, QueueQuiet};
use super::super::spec::command::Status;
use super::super::troubles::Troubles;
use super::admin::Job;
use super::anomaly::Anomaly;
use super::pair_memory::{allocate, chunks, pages, recycle};
use super::reads::SCAN_MAX;

/// Fewest and most entries of a queue: one can never be used.
const DEPTH_MIN: u16 = 2;
const DEPTH_MAX: u16 = 1024;
/// The identifier of the pair for the control role's own reads.
const READS_PAIR: u16 = 1;
/// Entries in its queues, and pages for what it reads.
const READS_DEPTH: u16 = 4;
const READS_PAGES: usize = SCAN_MAX as usize / PAGE;

/// For whom a pair is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// A worker.
    Client { token: u32 },
    /// The control role's own reads.
    Reads,
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
    /// It never came to be, and that was told; but the controller may still write to its memory.
    Abandoned,
}

/// What is kept of a pair.
struct Record {
    purpose: Purpose,
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

/// What a controller that is set up allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    /// How many pairs.
    pub(super) pairs: u16,
    /// Entries of the longest queue.
    pub(super) depth: u16,
    /// Interrupt vectors that queues may have, if there are so many.
    pub(super) vectors: u16,
    /// Whether submission queues are to be of medium priority.
    pub(super) medium: bool,
    /// The distance of two doorbells.
    pub(super) stride: u32,
    pub(super) caps: CommandCaps,
}

/// What comes of a step.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made once for each step, and taken apart at once")]
pub(super) enum Effect {
    /// To be asked of the controller.
    Ask(Job),
    /// To be told.
    Say(ControllerEvent),
    /// Only a reset helps.
    Stuck(ResetReason),
    /// The pair for the control role's own reads is there.
    ReadsMade(ReadsPair),
    /// It could not be made.
    ReadsNotMade,
    /// It is gone, and its memory free.
    ReadsDeleted,
}

/// The pair for the control role's own reads.
pub(super) struct ReadsPair {
    pub(super) config: PairConfig,
    pub(super) memory: PairMemory,
    pub(super) doorbells: Box<dyn QueueDoorbells>,
}

impl core::fmt::Debug for ReadsPair {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.config.fmt(f)
    }
}

/// All records.
pub(super) struct Pairs {
    index: u16,
    timeout: Duration,
    /// Most entries of a queue, whatever the controller grants.
    depth: u16,
    chunks: u16,
    records: BTreeMap<u16, Record>,
    granted: Granted,
    next_generation: Generation,
    /// Doorbells in memory, where they were asked for and the controller can.
    buffers: Option<DoorbellBuffers>,
    /// Commands may take as long as storage hangs that is behind it.
    stored: bool,
    /// What went wrong, of which its pairs tell.
    troubles: Arc<Troubles>,
}

impl Pairs {
    pub(super) fn new(index: u16, options: &Options) -> Self {
        let granted = Granted {
            pairs: 0,
            depth: DEPTH_MIN,
            vectors: 1,
            medium: false,
            stride: 4,
            caps: CommandCaps::default(),
        };
        let (timeout, chunks) = (options.io_timeout, options.bounce_chunks);
        Self {
            index,
            timeout,
            depth: options.depth_max.min(DEPTH_MAX),
            chunks,
            records: BTreeMap::new(),
            granted,
            next_generation: 1,
            buffers: None,
            stored: false,
            troubles: Arc::default(),
        }
    }

    /// What went wrong with the controller.
    pub(super) fn troubles(&self) -> &Troubles {
        &self.troubles
    }

    /// The controller is set up.
    pub(super) fn set_up(&mut self, granted: Granted) {
        self.granted = granted;
    }

    /// What the controller is to be told of doorbells in memory, for so many pairs.
    pub(super) fn buffer_doorbells(
        &mut self,
        pool: &mut dyn DmaPool,
        pairs: u16,
        stride: u32,
    ) -> Option<Job> {
        if self.buffers.is_none() {
            self.buffers = match DoorbellBuffers::new(pool, pairs, stride) {
                Ok(buffers) => buffers,
                Err(why) => {
                    warn!("controller {}: no memory for doorbells: {why}", self.index);
                    None
                }
            };
        }
        // There are no more pairs than before the reset, or their doorbells have no place.
        let buffers = self.buffers.as_ref().filter(|buffers| buffers.holds(pairs, stride));
        let Some(buffers) = buffers else {
            debug!("controller {}: {} pairs have no place in a page of doorbells", self.index, pairs);
            return None;
        };
        let (doorbells, events) = buffers.places();
        Some(Job::DoorbellBuffers { doorbells, events })
    }

    /// The controller took them, or did not.
    pub(super) fn doorbells_buffered(&mut self, status: Status) {
        if !status.ok() {
            warn!("controller {}: it takes no doorbells in memory: status {:#06x}", self.index, status.0);
        }
        if let Some(buffers) = &mut self.buffers {
            buffers.set(status.ok());
            if status.ok() {
                info!("controller {}: its doorbells are in memory", self.index);
            }
        }
    }

    /// Identifiers of the pairs that the controller has, where nothing is being done about any, and it can do without more than them.
    pub(super) fn leave(&self) -> Option<Vec<u16>> {
        let settled = |record: &Record| matches!(record.stage, Stage::Live | Stage::Quiet);
        if self.buffers.is_some() || !self.records.values().all(settled) {
            return None;
        }
        let live = self.records.iter().filter(|(_, record)| record.stage == Stage::Live);
        Some(live.map(|(id, _)| *id).collect())
    }

    /// Whether the control role's own reads have no pair of their own.
    pub(super) fn is_single(&self) -> bool {
        self.granted.pairs == 1
    }

    /// The first identifier for workers. The reads keep their own when there are at least two.
    fn first(&self) -> u16 {
        if self.granted.pairs > 1 { READS_PAIR + 1 } else { READS_PAIR }
    }

    /// Whether commands are never late, for there is storage behind the controller that can hang.
    pub(super) fn waits_for_storage(&self) -> bool {
        self.stored
    }

    /// How many pairs workers can still have.
    pub(super) fn free(&self) -> u16 {
        let first = self.first();
        let used = self.records.range(first..).count();
        let all = usize::from(self.granted.pairs) + 1 - usize::from(first);
        u16::try_from(all.saturating_sub(used)).unwrap_or(0)
    }

    /// Bytes of the driver's own memory that a pair of this depth takes.
    pub(super) fn bytes(&self, depth: u16) -> u64 {
        let pages = pages(self.allowed(depth), chunks(self.chunks));
        (pages.into_iter().sum::<usize>() * PAGE) as u64
    }

    /// The depth that the controller and the operator let a queue have.
    fn allowed(&self, depth: u16) -> u16 {
        depth.min(self.granted.depth.min(self.depth)).max(DEPTH_MIN)
    }

    /// The generation that the next pair gets.
    pub(super) fn next_generation(&self) -> Generation {
        self.next_generation
    }

    fn take_generation(&mut self) -> Generation {
        let generation = self.next_generation;
        self.next_generation += 1;
        generation
    }

    /// Begins a pair for a worker.
    pub(super) fn create(
        &mut self,
        device: &mut dyn Device,
        depth: u16,
        token: u32,
    ) -> Result<Job, PairError> {
        let mut ids = self.first()..=self.granted.pairs;
        let id = ids.find(|id| !self.records.contains_key(id)).ok_or(PairError::None)?;
        self.begin(device, id, depth, Purpose::Client { token })
    }

    /// Begins the pair for the control role's own reads.
    pub(super) fn create_for_reads(&mut self, device: &mut dyn Device) -> Result<Job, PairError> {
        if self.granted.pairs < READS_PAIR || self.records.contains_key(&READS_PAIR) {
            return Err(PairError::None);
        }
        self.begin(device, READS_PAIR, READS_DEPTH, Purpose::Reads)
    }

    fn begin(
        &mut self,
        device: &mut dyn Device,
        id: u16,
        depth: u16,
        purpose: Purpose,
    ) -> Result<Job, PairError> {
        let depth = self.allowed(depth);
        let bounce = if purpose == Purpose::Reads { READS_PAGES } else { chunks(self.chunks) };
        let memory = allocate(device.pool(), depth, bounce).map_err(PairError::Memory)?;
        let vectors = device.bus().vectors().min(self.granted.vectors);
        // Vector 0 is the control role's: the admin queue's, and that of its own reads. The others are shared in turn.
        let own = purpose == Purpose::Reads || vectors < 2;
        let vector = if own { 0 } else { 1 + (id - READS_PAIR) % (vectors - 1) };
        let config = PairConfig {
            controller: self.index,
            id,
            depth,
            vector,
            timeout: self.timeout,
            caps: self.granted.caps,
        };
        let record = Record {
            purpose,
            stage: Stage::Creating { again: false },
            config,
            generation: self.take_generation(),
            sq: memory.sq.iova(),
            cq: memory.cq.iova(),
            _keep: [&memory.sq, &memory.cq, &memory.lists, &memory.bounce].map(|m| m.window().clone()),
            memory: Some(memory),
        };
        let at = record.cq;
        self.records.insert(id, record);
        self.clear_doorbells(id);
        Ok(Job::CreateCq { id, depth, vector, at })
    }

    /// The controller has no such pair, and will begin it with zeroes.
    fn clear_doorbells(&self, id: u16) {
        if let Some(buffers) = &self.buffers {
            buffers.clear(id);
        }
    }

    fn record(&mut self, id: u16) -> Result<&mut Record, Anomaly> {
        self.records.get_mut(&id).ok_or(Anomaly::NoPair(id))
    }

    /// The completion queue was created, or not.
    pub(super) fn cq_created(
        &mut self,
        pool: &mut dyn DmaPool,
        id: u16,
        status: Status,
    ) -> Result<Effect, Anomaly> {
        let medium = self.granted.medium;
        let record = self.record(id)?;
        let Stage::Creating { again } = record.stage else { return Err(Anomaly::NotWaiting(id)) };
        if status.ok() {
            return Ok(Effect::Ask(Job::CreateSq { id, depth: record.config.depth, at: record.sq, medium }));
        }
        self.not_created(pool, id, again, PairError::Refused(status.0))
    }

    /// The submission queue was created, or not.
    pub(super) fn sq_created(
        &mut self,
        device: &mut dyn Device,
        id: u16,
        status: Status,
        now: Time,
    ) -> Result<Effect, Anomaly> {
        let (index, stride) = (self.index, self.granted.stride);
        let record = self.records.get_mut(&id).ok_or(Anomaly::NoPair(id))?;
        let Stage::Creating { again } = record.stage else { return Err(Anomaly::NotWaiting(id)) };
        if !status.ok() {
            record.stage = Stage::Undoing { again, status: status.0 };
            return Ok(Effect::Ask(Job::DeleteCq { id }));
        }
        record.stage = Stage::Live;
        let doorbells = match device.doorbells(id, stride) {
            Ok(doorbells) => {
                let doorbells = match &self.buffers {
                    Some(buffers) => buffers.around(id, doorbells),
                    None => doorbells,
                };
                let (caches, generation) = (device.caches(), record.generation);
                Doorbells { doorbells, caches, id, generation, made: now }
            }
            Err(e) => {
                // Nothing was submitted: deleting it is all there is to do.
                warn!("controller {index}: no doorbells for queue pair {id}: {e}");
                record.stage = Stage::Undoing { again, status: Status::INVALID_QUEUE };
                return Ok(Effect::Ask(Job::DeleteSq { id }));
            }
        };
        if doorbells.doorbells.waits_for_storage() {
            record.config.timeout = Duration::MAX;
        }
        debug!("controller {}: queue pair {} of {} entries", index, id, record.config.depth);
        let (config, stored) = (record.config, doorbells.doorbells.waits_for_storage());
        let made = match (record.memory.take(), record.purpose) {
            (Some(memory), Purpose::Client { token }) => Effect::Say(ControllerEvent::PairReady {
                token,
                pair: QueuePair::new(config, memory, doorbells, Arc::clone(&self.troubles)),
            }),
            (Some(memory), Purpose::Reads) => {
                Effect::ReadsMade(ReadsPair { config, memory, doorbells: doorbells.doorbells })
            }
            (None, _) => Effect::Say(ControllerEvent::PairRecreated { id, doorbells }),
        };
        self.stored = stored;
        Ok(made)
    }

    /// A pair could not be created, and the controller knows nothing of it.
    fn not_created(
        &mut self,
        pool: &mut dyn DmaPool,
        id: u16,
        again: bool,
        why: PairError,
    ) -> Result<Effect, Anomaly> {
        warn!("controller {}: queue pair {id}: {why}", self.index);
        let record = self.record(id)?;
        if again {
            record.stage = Stage::Quiet;
            return Ok(Effect::Say(ControllerEvent::PairLost { id, why }));
        }
        let purpose = record.purpose;
        self.forget(pool, id);
        Ok(match purpose {
            Purpose::Client { token } => Effect::Say(ControllerEvent::PairFailed { token, why }),
            Purpose::Reads => Effect::ReadsNotMade,
        })
    }

    /// Drops a record, and what memory is with it. Its queues are gone, or never were.
    fn forget(&mut self, pool: &mut dyn DmaPool, id: u16) {
        if let Some(memory) = self.records.remove(&id).and_then(|record| record.memory) {
            recycle(pool, memory);
        }
    }

    /// Begins to delete a pair's queues. An error when there is no such pair, or it is being worked on.
    pub(super) fn delete(&mut self, id: u16) -> Result<Job, PairError> {
        let record = self.records.get_mut(&id).filter(|r| r.stage == Stage::Live);
        record.ok_or(PairError::Busy)?.stage = Stage::DeletingSq;
        Ok(Job::DeleteSq { id })
    }

    /// Begins to delete the pair of the control role's own reads.
    pub(super) fn delete_reads(&mut self) -> Result<Job, Anomaly> {
        if !self.is_for_reads(READS_PAIR) {
            return Err(Anomaly::NoReadsPair);
        }
        self.delete(READS_PAIR).map_err(|_| Anomaly::NoReadsPair)
    }

    /// The submission queue was deleted, or not.
    pub(super) fn sq_deleted(&mut self, id: u16, status: Status) -> Result<Effect, Anomaly> {
        let index = self.index;
        let record = self.record(id)?;
        match record.stage {
            Stage::DeletingSq | Stage::Undoing { .. } if !status.ok() => {
                return Ok(Effect::Stuck(ResetReason::DeleteFailed { id }));
            }
            Stage::DeletingSq => {
                let quiet = QueueQuiet::deleted(index, id, record.generation);
                record.stage = Stage::DeletingCq { quiet };
            }
            Stage::Undoing { .. } => {}
            _ => return Err(Anomaly::NotWaiting(id)),
        }
        Ok(Effect::Ask(Job::DeleteCq { id }))
    }

    /// The completion queue was deleted, or not.
    pub(super) fn cq_deleted(
        &mut self,
        pool: &mut dyn DmaPool,
        id: u16,
        status: Status,
    ) -> Result<Effect, Anomaly> {
        let record = self.record(id)?;
        match record.stage {
            // The controller may still write there, so the memory is not given back.
            Stage::Undoing { .. } | Stage::DeletingCq { .. } if !status.ok() => {
                Ok(Effect::Stuck(ResetReason::DeleteFailed { id }))
            }
            Stage::Undoing { again, status } => self.not_created(pool, id, again, PairError::Refused(status)),
            Stage::DeletingCq { quiet } => {
                record.stage = Stage::Quiet;
                if record.purpose == Purpose::Reads {
                    self.forget(pool, id);
                    return Ok(Effect::ReadsDeleted);
                }
                Ok(Effect::Say(ControllerEvent::PairDeleted { id, quiet }))
            }
            _ => Err(Anomaly::NotWaiting(id)),
        }
    }

    /// Begins to create the queues of a pair again. The pair is in the control role's hands.
    pub(super) fn recreate(&mut self, pair: &mut QueuePair) -> Result<Job, PairError> {
        let id = pair.id();
        let ours = pair.controller() == self.index;
        let record = self.records.get(&id).filter(|r| ours && r.stage == Stage::Quiet);
        let record = record.ok_or(PairError::Busy)?;
        if pair.generation > record.generation || id > self.granted.pairs {
            return Err(PairError::None);
        }
        let (generation, caps) = (self.take_generation(), self.granted.caps);
        let record = self.records.get_mut(&id).ok_or(PairError::Busy)?;
        pair.rewind();
        pair.set_caps(caps);
        record.generation = generation;
        record.stage = Stage::Creating { again: true };
        let PairConfig { depth, vector, .. } = record.config;
        let at = record.cq;
        self.clear_doorbells(id);
        Ok(Job::CreateCq { id, depth, vector, at })
    }

    /// Takes a pair back for good, with nothing in flight; it comes back otherwise.
    pub(super) fn retire(
        &mut self,
        pool: &mut dyn DmaPool,
        pair: Box<QueuePair>,
    ) -> Result<(), Box<QueuePair>> {
        let id = pair.id();
        let ours = pair.controller() == self.index && pair.in_flight() == 0;
        match self.records.get(&id) {
            Some(record) if ours && record.stage == Stage::Quiet && pair.generation <= record.generation => {
                self.records.remove(&id);
                pair.into_memory().into_iter().for_each(|memory| pool.recycle(memory));
                Ok(())
            }
            _ => Err(pair),
        }
    }

    /// After CSTS.RDY = 0 (with the proof), or when all is lost: ends what is being done about pairs.
    pub(super) fn end(&mut self, pool: &mut dyn DmaPool, quiet: Option<QueueQuiet>) -> Vec<Effect> {
        let (mut effects, mut gone) = (Vec::new(), Vec::new());
        if let Some(buffers) = self.buffers.as_mut().filter(|_| quiet.is_some()) {
            buffers.forget();
        }
        let why = PairError::Reset;
        for (id, record) in &mut self.records {
            let id = *id;
            let after = if quiet.is_some() { Stage::Quiet } else { record.stage };
            let (effect, after) = match (record.stage, record.purpose) {
                (Stage::Creating { again: true } | Stage::Undoing { again: true, .. }, _) => {
                    let after = if quiet.is_some() { Stage::Quiet } else { Stage::Live };
                    (Some(ControllerEvent::PairLost { id, why }), after)
                }
                (_, Purpose::Reads) => {
                    gone.push(id);
                    (None, after)
                }
                (Stage::Creating { .. } | Stage::Undoing { .. }, Purpose::Client { token }) => {
                    gone.push(id);
                    (Some(ControllerEvent::PairFailed { token, why }), Stage::Abandoned)
                }
                (Stage::Abandoned, _) => {
                    gone.push(id);
                    (None, Stage::Abandoned)
                }
                (Stage::DeletingSq, _) => {
                    (quiet.map(|quiet| ControllerEvent::PairDeleted { id, quiet }), after)
                }
                (Stage::DeletingCq { quiet }, _) => {
                    (Some(ControllerEvent::PairDeleted { id, quiet }), Stage::Quiet)
                }
                (Stage::Live | Stage::Quiet, _) => (None, after),
            };
            record.stage = after;
            effects.extend(effect.map(Effect::Say));
        }
        // Without the proof, their memory stays where it is: the controller may still write there.
        for id in gone.into_iter().filter(|_| quiet.is_some()) {
            if self.is_for_reads(id) {
                effects.push(Effect::ReadsDeleted);
            }
            self.forget(pool, id);
        }
        effects
    }

    /// Whether this is the pair of the control role's own reads.
    pub(super) fn is_for_reads(&self, id: u16) -> bool {
        self.records.get(&id).is_some_and(|record| record.purpose == Purpose::Reads)
    }
}

#[cfg(test)]
#[path = "pairs_tests.rs"]
mod tests;
