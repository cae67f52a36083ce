//! The control role's own reads: partition tables. One at a time, into memory of the driver's own.
//!
//! A queue pair is kept for them when the controller grants at least two; from a single one they borrow it while no
//! worker has it.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use nvme_platform::{OutOfBounds, QueueDoorbells, Time};
use nvme_policy::LbaRange;

use super::controller::{Controller, State};
use super::encode::read_blocks;
use super::event::{Event, ScanError};
use super::pair::{PairConfig, PairMemory};
use super::pairs::For;
use super::ring::{CompletionRing, SubmissionRing};
use super::spec::command::Status;
use super::transfer::{BOUNCE_CHUNK, ListPage, prps};

/// Longest read, in bytes.
pub const SCAN_MAX: u32 = BOUNCE_CHUNK;

/// Its identifier.
pub(super) const SCAN_PAIR: u16 = 1;
/// Entries in its queues.
const DEPTH: u16 = 4;
/// Most reads that wait.
const WAITING_MAX: usize = 64;

struct Pair {
    config: PairConfig,
    sq: SubmissionRing,
    cq: CompletionRing,
    doorbells: Box<dyn QueueDoorbells>,
    memory: PairMemory,
    /// The last command identifier given. It counts up, so that a late completion is not taken for another's.
    cid: u16,
}

struct Reading {
    place: LbaRange,
    token: u32,
    bytes: Vec<u8>,
    /// Bytes that the command in flight reads; 0: none is.
    asked: u32,
    deadline: Time,
}

/// Reads that wait, and the one that is going on.
pub(super) struct Scan {
    waiting: VecDeque<(LbaRange, u32)>,
    reading: Option<Reading>,
    pair: Option<Pair>,
    /// The pair is being created or deleted.
    changing: bool,
    /// When a software controller wants to be run again.
    again: Option<Time>,
}

impl Scan {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), reading: None, pair: None, changing: false, again: None }
    }

    pub(super) fn take_pair(
        &mut self,
        config: PairConfig,
        memory: PairMemory,
        doorbells: Box<dyn QueueDoorbells>,
    ) {
        self.changing = false;
        let sq = SubmissionRing::new(memory.sq.window().clone(), config.depth);
        let cq = CompletionRing::new(memory.cq.window().clone(), config.depth);
        self.pair = Some(Pair { config, sq, cq, doorbells, memory, cid: 0 });
    }

    pub(super) fn give_up_pair(&mut self) -> Option<PairMemory> {
        self.changing = false;
        self.pair.take().map(|pair| pair.memory)
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let deadline = self.reading.as_ref().map(|reading| reading.deadline);
        [deadline, self.again].into_iter().flatten().min()
    }
}

impl Pair {
    /// Issues the next command of a reading.
    fn issue(
        &mut self,
        reading: &mut Reading,
        timeout: core::time::Duration,
        now: Time,
    ) -> Result<(), OutOfBounds> {
        let done = reading.bytes.len() as u64;
        let bytes =
            (reading.place.bytes() - done).min(u64::from(self.config.caps.transfer.min(SCAN_MAX))) as u32;
        let shift = reading.place.block_size().shift();
        let memory = &self.memory;
        memory.bounce.window().fill(0, bytes as usize, 0)?;
        let list = ListPage { memory: memory.lists.window(), offset: 0, at: memory.lists.iova() };
        let dptr = prps(core::iter::once((memory.bounce.iova().0, bytes)), bytes, &list)?;
        self.cid = self.cid.wrapping_add(1);
        let first = reading.place.first() + (done >> shift);
        let mut command = read_blocks(reading.place.namespace().nsid, first, bytes >> shift, dptr);
        command.cid = self.cid.into();
        self.sq.push(&command)?;
        if let Some(tail) = self.sq.take_tail() {
            self.doorbells.submission_tail(tail);
        }
        reading.asked = bytes;
        reading.deadline = now + timeout;
        Ok(())
    }

    /// The status of the command in flight, if it has ended.
    fn ended(&mut self) -> Option<Status> {
        let mut status = None;
        for _ in 0..self.config.depth {
            let Some(completion) = self.cq.pop() else { break };
            if completion.cid == self.cid && completion.sqid == self.config.id {
                status = Some(completion.status);
            }
        }
        if let Some(head) = self.cq.take_head() {
            self.doorbells.completion_head(head);
        }
        status
    }
}

impl Controller {
    /// Reads blocks for the control role, at most [`SCAN_MAX`] bytes. Ends in [`Event::ScanRead`] with this token.
    pub fn scan_read(&mut self, range: LbaRange, token: u32) {
        let fits = range.namespace().controller == self.index && range.bytes() <= u64::from(SCAN_MAX);
        let why = if !fits || self.scan.waiting.len() >= WAITING_MAX {
            ScanError::BadRange
        } else if self.state != State::Running {
            ScanError::NotReady
        } else {
            return self.scan.waiting.push_back((range, token));
        };
        self.events.push_back(Event::ScanRead { token, result: Err(why) });
    }

    /// Goes on with reading. True when anything happened.
    pub(super) fn advance_scan(&mut self, now: Time) -> bool {
        self.scan.again = None;
        if self.state != State::Running {
            return false;
        }
        if self.scan.changing {
            return false;
        }
        if self.scan.reading.is_some() { self.go_on_reading(now) } else { self.next_reading(now) }
    }

    fn next_reading(&mut self, now: Time) -> bool {
        if self.scan.waiting.is_empty() {
            // The only pair is for workers.
            if self.scan.pair.is_some() && self.pairs.granted == 1 {
                self.delete_scan_pair();
                return true;
            }
            return false;
        }
        if self.scan.pair.is_none() {
            if self.pairs.has(SCAN_PAIR) || self.begin_pair(SCAN_PAIR, DEPTH, 1, For::Scan).is_err() {
                self.end_scans_without_pair();
            } else {
                self.scan.changing = true;
            }
            return true;
        }
        if let Some((place, token)) = self.scan.waiting.pop_front() {
            let bytes = Vec::with_capacity(place.bytes() as usize);
            self.scan.reading = Some(Reading { place, token, bytes, asked: 0, deadline: now });
            self.read_more(now);
        }
        true
    }

    fn read_more(&mut self, now: Time) {
        let timeout = self.options.io_timeout;
        if let (Some(pair), Some(reading)) = (&mut self.scan.pair, &mut self.scan.reading)
            && pair.issue(reading, timeout, now).is_err()
        {
            self.end_reading(Err(ScanError::BadRange));
        }
    }

    fn go_on_reading(&mut self, now: Time) -> bool {
        let (Some(pair), Some(reading)) = (&mut self.scan.pair, &mut self.scan.reading) else { return false };
        self.scan.again = pair.doorbells.run(1, now);
        match pair.ended() {
            Some(status) if status.ok() => {
                let start = reading.bytes.len();
                reading.bytes.resize(start + reading.asked as usize, 0);
                let into = reading.bytes.get_mut(start..).unwrap_or_default();
                if pair.memory.bounce.window().read(0, into).is_err() {
                    self.end_reading(Err(ScanError::BadRange));
                } else if reading.bytes.len() as u64 >= reading.place.bytes() {
                    let bytes = core::mem::take(&mut reading.bytes);
                    self.end_reading(Ok(bytes));
                } else {
                    self.read_more(now);
                }
                true
            }
            Some(status) => {
                self.end_reading(Err(ScanError::Failed(status.0)));
                true
            }
            None if now >= reading.deadline => {
                // Its memory is used again only after its queue was deleted.
                self.end_reading(Err(ScanError::TimedOut));
                self.delete_scan_pair();
                true
            }
            None => false,
        }
    }

    fn end_reading(&mut self, result: Result<Vec<u8>, ScanError>) {
        self.scan.again = None;
        if let Some(Reading { token, .. }) = self.scan.reading.take() {
            self.events.push_back(Event::ScanRead { token, result });
        }
    }

    fn delete_scan_pair(&mut self) {
        self.scan.changing = self.delete_pair(SCAN_PAIR).is_ok();
    }

    fn end_waiting(&mut self, why: ScanError) {
        while let Some((_, token)) = self.scan.waiting.pop_front() {
            self.events.push_back(Event::ScanRead { token, result: Err(why) });
        }
    }

    pub(super) fn end_scans_without_pair(&mut self) {
        self.scan.changing = false;
        self.end_waiting(ScanError::NoPair);
    }

    /// Ends all reads: the controller stops.
    pub(super) fn end_scans(&mut self) {
        self.end_reading(Err(ScanError::NotReady));
        self.end_waiting(ScanError::NotReady);
    }
}
