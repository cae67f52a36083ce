//! The control role's own reads: partition tables. One at a time, into memory of the driver's own.
//!
//! A queue pair is kept for them when the controller grants at least two; from a single one they borrow it while no
//! worker has it.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use nvme_platform::{OutOfBounds, QueueDoorbells, Time};
use nvme_policy::LbaRange;

use super::super::encode::read_blocks;
use super::super::event::ScanError;
use super::super::pair::{PairConfig, PairMemory};
use super::super::retry;
use super::super::ring::{CompletionRing, SubmissionRing};
use super::super::spec::command::Status;
use super::super::transfer::{ListPage, prps};
use super::pairs::ReadsPair;

/// Longest read, in bytes. Tables are read by the [page](crate::disk::READ_MAX); a controller has as much memory for that all the time.
pub const SCAN_MAX: u32 = 16 << 10;

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
    /// Bytes that the present command reads.
    asked: u32,
    deadline: Time,
    /// How often the present command failed for the moment.
    tries: u8,
    /// When it is issued again; `None`: it is in flight.
    again: Option<Time>,
}

impl Reading {
    fn new(place: LbaRange, token: u32, now: Time) -> Self {
        let bytes = Vec::with_capacity(place.bytes() as usize);
        Self { place, token, bytes, asked: 0, deadline: now, tries: 0, again: None }
    }
}

/// A read that ended.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Ended {
    pub(super) token: u32,
    pub(super) result: Result<Vec<u8>, ScanError>,
}

/// What one step came to.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Nothing to do before [`Reads::next_deadline`], or until there is an interrupt.
    Wait,
    /// There is more to do at once.
    On,
    /// A pair is needed. Ends in [`Reads::made`] or [`Reads::not_made`].
    Make,
    /// The pair is to be deleted. Ends in [`Reads::deleted`].
    Delete,
    /// A read ended.
    Ended(Ended),
}

/// Where the pair is.
enum Place {
    /// Nowhere: it is made when there is something to read.
    None,
    Making,
    Here(Pair),
    /// On its way out. Its memory is the controller's until that is done.
    Deleting(Pair),
}

/// Reads that wait, and the one that is going on.
pub(super) struct Reads {
    waiting: VecDeque<(LbaRange, u32)>,
    reading: Option<Reading>,
    pair: Place,
    /// A command did not end: the pair's memory is used again only after its queue was deleted.
    overdue: bool,
    /// When a software controller wants to be run again.
    again: Option<Time>,
}

impl Reads {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), reading: None, pair: Place::None, overdue: false, again: None }
    }

    /// Reads blocks, in their turn.
    pub(super) fn ask(&mut self, range: LbaRange, token: u32) -> Result<(), ScanError> {
        if range.bytes() > u64::from(SCAN_MAX) || self.waiting.len() >= WAITING_MAX {
            return Err(ScanError::BadRange);
        }
        self.waiting.push_back((range, token));
        Ok(())
    }

    /// The pair that was needed.
    pub(super) fn made(&mut self, pair: ReadsPair) {
        let ReadsPair { config, memory, doorbells } = pair;
        let sq = SubmissionRing::new(memory.sq.window().clone(), config.depth);
        let cq = CompletionRing::new(memory.cq.window().clone(), config.depth);
        self.pair = Place::Here(Pair { config, sq, cq, doorbells, memory, cid: 0 });
    }

    /// There is no pair: what waits has to do without.
    pub(super) fn not_made(&mut self) -> Vec<Ended> {
        self.pair = Place::None;
        self.end_waiting(ScanError::NoPair)
    }

    /// The pair's queues are gone: its memory, which is the controller's no more.
    pub(super) fn deleted(&mut self) -> Option<PairMemory> {
        self.overdue = false;
        match core::mem::replace(&mut self.pair, Place::None) {
            Place::Here(pair) | Place::Deleting(pair) => Some(pair.memory),
            Place::None | Place::Making => None,
        }
    }

    /// Ends all reads: the controller stops.
    pub(super) fn end(&mut self) -> Vec<Ended> {
        self.again = None;
        let reading = self.reading.take();
        let mut all: Vec<Ended> = reading
            .map(|reading| Ended { token: reading.token, result: Err(ScanError::NotReady) })
            .into_iter()
            .collect();
        all.extend(self.end_waiting(ScanError::NotReady));
        all
    }

    fn end_waiting(&mut self, why: ScanError) -> Vec<Ended> {
        self.waiting.drain(..).map(|(_, token)| Ended { token, result: Err(why) }).collect()
    }

    /// The namespaces are others now: a read that would be issued again is not, where its own is not `there` any more. One that is in
    /// flight is about the old one, and ends by itself.
    pub(super) fn namespaces_changed(&mut self, there: impl Fn(&LbaRange) -> bool) -> Option<Ended> {
        let waits = |reading: &mut Reading| reading.again.is_some() && !there(&reading.place);
        let Reading { token, .. } = self.reading.take_if(waits)?;
        Some(Ended { token, result: Err(ScanError::NotReady) })
    }

    /// When [`step`](Self::step) wants to be called though nothing happens.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let deadline = self.reading.as_ref().map(|reading| reading.again.unwrap_or(reading.deadline));
        [deadline, self.again].into_iter().flatten().min()
    }

    /// Goes on. `single`: the pair is the only one, so it is given back when nothing is left to be read.
    pub(super) fn step(&mut self, single: bool, now: Time) -> Step {
        self.again = None;
        match &mut self.pair {
            Place::Making | Place::Deleting(_) => Step::Wait,
            Place::None if self.waiting.is_empty() => Step::Wait,
            Place::None => {
                self.pair = Place::Making;
                Step::Make
            }
            Place::Here(_) if self.overdue => self.delete(),
            Place::Here(pair) => {
                if let Some(reading) = &mut self.reading {
                    if let Some(at) = reading.again {
                        return match pair.issue_again(reading, at, now) {
                            Ok(true) => Step::On,
                            Ok(false) => Step::Wait,
                            Err(OutOfBounds) => self.ended(Err(ScanError::BadRange)),
                        };
                    }
                    self.again = pair.doorbells.run(1, now);
                    return match pair.go_on(reading, now) {
                        Going::Wait => Step::Wait,
                        Going::On => Step::On,
                        Going::Ended(result) => self.ended(result),
                    };
                }
                if let Some((place, token)) = self.waiting.pop_front() {
                    let reading = self.reading.insert(Reading::new(place, token, now));
                    return match pair.issue_next(reading, now) {
                        Ok(()) => Step::On,
                        Err(OutOfBounds) => self.ended(Err(ScanError::BadRange)),
                    };
                }
                // The only pair is for workers.
                if single { self.delete() } else { Step::Wait }
            }
        }
    }

    fn ended(&mut self, result: Result<Vec<u8>, ScanError>) -> Step {
        self.again = None;
        self.overdue = result == Err(ScanError::TimedOut);
        match self.reading.take() {
            Some(Reading { token, .. }) => Step::Ended(Ended { token, result }),
            None => Step::On,
        }
    }

    fn delete(&mut self) -> Step {
        self.pair = match core::mem::replace(&mut self.pair, Place::None) {
            Place::Here(pair) => Place::Deleting(pair),
            other => other,
        };
        Step::Delete
    }
}

/// How a reading goes.
enum Going {
    Wait,
    /// The next part of it was issued.
    On,
    Ended(Result<Vec<u8>, ScanError>),
}

impl Pair {
    /// Goes on with a reading whose command is in flight.
    fn go_on(&mut self, reading: &mut Reading, now: Time) -> Going {
        match self.ended() {
            Some(status) if status.ok() => {
                let start = reading.bytes.len();
                reading.bytes.resize(start + reading.asked as usize, 0);
                let into = reading.bytes.get_mut(start..).unwrap_or_default();
                if self.memory.bounce.window().read(0, into).is_err() {
                    Going::Ended(Err(ScanError::BadRange))
                } else if reading.bytes.len() as u64 >= reading.place.bytes() {
                    Going::Ended(Ok(core::mem::take(&mut reading.bytes)))
                } else if self.issue_next(reading, now).is_err() {
                    Going::Ended(Err(ScanError::BadRange))
                } else {
                    Going::On
                }
            }
            Some(status) => {
                let delays = self.config.caps.delays;
                match retry::again_later(status, reading.tries, delays, now, reading.deadline) {
                    Some(at) => {
                        reading.tries += 1;
                        reading.again = Some(at);
                        Going::On
                    }
                    None => Going::Ended(Err(ScanError::Failed(status.0))),
                }
            }
            None if now >= reading.deadline => Going::Ended(Err(ScanError::TimedOut)),
            None => Going::Wait,
        }
    }

    /// Issues the next command of a reading.
    fn issue_next(&mut self, reading: &mut Reading, now: Time) -> Result<(), OutOfBounds> {
        reading.deadline = now + self.config.timeout;
        reading.tries = 0;
        self.issue(reading)
    }

    /// Issues a command of a reading once more, when its time has come.
    fn issue_again(&mut self, reading: &mut Reading, at: Time, now: Time) -> Result<bool, OutOfBounds> {
        if now < at {
            return Ok(false);
        }
        reading.again = None;
        self.issue(reading).map(|()| true)
    }

    fn issue(&mut self, reading: &mut Reading) -> Result<(), OutOfBounds> {
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

#[cfg(test)]
#[path = "reads_tests.rs"]
mod tests;
