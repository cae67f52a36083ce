//! The admin queue: what can be asked, and what is waiting for its answer. What fails for the moment is asked again here, so that
//! nobody else has to know.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::{DmaError, DmaPool, DriverMemory, Iova, PAGE, Registers, Time, Window, debug, warn};
use zerocopy::{FromBytes, IntoBytes};

use super::super::inflight::InFlight;
use super::super::left::Left;
use super::super::retry::{self, Delays};
use super::super::ring::{CompletionRing, SubmissionRing};
use super::super::spec::command::{Command, Completion, Status, admin, feature};
use super::super::spec::identify::cns;
use super::super::spec::log::page;
use super::super::spec::registers::DOORBELLS;
use super::anomaly::Anomaly;

/// Entries in each of the two admin queues.
pub(in super::super) const DEPTH: u16 = 16;
/// Most jobs that wait for a place.
const WAITING_MAX: usize = 4096;
/// All namespaces.
const ALL: u32 = 0xffff_ffff;

/// Submission and completion queue in memory that begins there.
pub(super) fn places(at: Iova) -> (Iova, Iova) {
    (at, Iova(at.0 + PAGE as u64))
}

/// One thing to ask of the controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Job {
    IdentifyController,
    IdentifyNvm,
    NumberOfQueues {
        pairs: u16,
    },
    WriteCacheOn,
    EventConfiguration {
        bits: u32,
    },
    HostBehavior,
    NamespaceList {
        after: u32,
    },
    IdentifyNamespace {
        nsid: u32,
    },
    Descriptors {
        nsid: u32,
    },
    AsyncEvent,
    Log {
        id: u8,
        asked: bool,
    },
    CreateCq {
        id: u16,
        depth: u16,
        vector: u16,
        at: Iova,
    },
    CreateSq {
        id: u16,
        depth: u16,
        at: Iova,
        medium: bool,
    },
    DeleteSq {
        id: u16,
    },
    DeleteCq {
        id: u16,
    },
    /// Of a pair that somebody else left.
    DeleteLeftSq {
        id: u16,
    },
    DeleteLeftCq {
        id: u16,
    },
    Abort {
        pair: u16,
        cid: u16,
    },
    DoorbellBuffers {
        doorbells: Iova,
        events: Iova,
    },
}

impl Job {
    /// Its command, whose data goes to the page at `data`.
    fn command(self, data: Iova) -> Command {
        let new = |opcode, cdw10: u32, cdw11: u32| Command {
            opcode,
            cdw10: cdw10.into(),
            cdw11: cdw11.into(),
            ..Command::default()
        };
        let with = |command: Command, nsid: u32, at: Iova| Command {
            nsid: nsid.into(),
            dptr: [at.0.into(), 0.into()],
            ..command
        };
        let queue = |id: u16, depth: u16| u32::from(depth - 1) << 16 | u32::from(id);
        match self {
            // Base 5.17.
            Self::IdentifyController => with(new(admin::IDENTIFY, cns::CONTROLLER, 0), 0, data),
            Self::IdentifyNvm => with(new(admin::IDENTIFY, cns::CONTROLLER_NVM, 0), 0, data),
            Self::NamespaceList { after } => {
                with(new(admin::IDENTIFY, cns::ACTIVE_NAMESPACES, 0), after, data)
            }
            Self::IdentifyNamespace { nsid } => with(new(admin::IDENTIFY, cns::NAMESPACE, 0), nsid, data),
            Self::Descriptors { nsid } => with(new(admin::IDENTIFY, cns::DESCRIPTORS, 0), nsid, data),
            // Base 5.27; numbers of queues are less one.
            Self::NumberOfQueues { pairs } => {
                let less = u32::from(pairs.saturating_sub(1));
                new(admin::SET_FEATURES, feature::NUMBER_OF_QUEUES, less << 16 | less)
            }
            Self::WriteCacheOn => new(admin::SET_FEATURES, feature::VOLATILE_WRITE_CACHE, 1),
            Self::EventConfiguration { bits } => {
                new(admin::SET_FEATURES, feature::ASYNC_EVENT_CONFIGURATION, bits)
            }
            Self::HostBehavior => with(new(admin::SET_FEATURES, feature::HOST_BEHAVIOR, 0), 0, data),
            // Base 5.2.
            Self::AsyncEvent => new(admin::ASYNC_EVENT, 0, 0),
            // Base 5.16: length in dwords less one; RAE is zero, so that reading it arms the event again.
            Self::Log { id, .. } => {
                let bytes: u32 = match id {
                    page::ERROR => 64,
                    page::CHANGED_NAMESPACES => 4096,
                    _ => 512,
                };
                with(new(admin::GET_LOG_PAGE, (bytes / 4 - 1) << 16 | u32::from(id), 0), ALL, data)
            }
            // Base 5.4 and 5.5: contiguous, with interrupts; the queue's two identifiers are the same.
            Self::CreateCq { id, depth, vector, at } => {
                with(new(admin::CREATE_CQ, queue(id, depth), u32::from(vector) << 16 | 0b11), 0, at)
            }
            Self::CreateSq { id, depth, at, medium } => {
                // QPRIO: 0 urgent, 2 medium.
                let flags = 0b01 | u32::from(medium) << 2;
                with(new(admin::CREATE_SQ, queue(id, depth), u32::from(id) << 16 | flags), 0, at)
            }
            // Base 5.6 and 5.7.
            Self::DeleteSq { id } | Self::DeleteLeftSq { id } => new(admin::DELETE_SQ, u32::from(id), 0),
            Self::DeleteCq { id } | Self::DeleteLeftCq { id } => new(admin::DELETE_CQ, u32::from(id), 0),
            // Base 5.1.
            Self::DoorbellBuffers { doorbells, events } => Command {
                dptr: [doorbells.0.into(), events.0.into()],
                // Base 5.8.
                ..new(admin::DOORBELL_BUFFER_CONFIG, 0, 0)
            },
            Self::Abort { pair, cid } => new(admin::ABORT, u32::from(cid) << 16 | u32::from(pair), 0),
        }
    }

    /// What the controller finds in its page; the rest is zero.
    fn data(self) -> &'static [u8] {
        match self {
            // Base 5.27.1.18: ACRE, the host heeds Command Retry Delays.
            Self::HostBehavior => &[1],
            _ => &[],
        }
    }

    /// Whether it is asked again when it fails for the moment. An abort is late by then, and of events there are others.
    fn may_be_repeated(self) -> bool {
        !matches!(self, Self::Abort { .. } | Self::AsyncEvent)
    }

    /// Whether the controller writes a page.
    fn brings_data(self) -> bool {
        matches!(
            self,
            Self::IdentifyController
                | Self::IdentifyNvm
                | Self::NamespaceList { .. }
                | Self::IdentifyNamespace { .. }
                | Self::Descriptors { .. }
                | Self::Log { .. }
        )
    }
}

/// The page that a controller was given for data: a copy, taken once, so that what is checked is what is used.
pub(super) struct Page(Vec<u8>);

impl Page {
    /// The structure at its start.
    pub(super) fn read<T: FromBytes + IntoBytes>(&self) -> T {
        const { assert!(size_of::<T>() <= PAGE) };
        let mut value = T::new_zeroed();
        value.as_mut_bytes().iter_mut().zip(&self.0).for_each(|(to, from)| *to = *from);
        value
    }

    /// A page that begins with these bytes.
    #[cfg(test)]
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

/// A job with its answer.
pub(super) struct Answer {
    pub(super) job: Job,
    pub(super) completion: Completion,
    pub(super) data: Page,
}

struct Asked {
    job: Job,
    opcode: u8,
    deadline: Option<Time>,
    /// Its deadline has passed, and that was told: an answer comes too late.
    late: bool,
    /// How often it failed.
    tries: u8,
}

/// What waits for its turn.
struct Waiting {
    job: Job,
    /// It failed before, so often; it is asked again not before, and has to be answered by then.
    failed: Option<Failed>,
}

#[derive(Clone, Copy)]
struct Failed {
    tries: u8,
    at: Time,
    deadline: Time,
}

/// How long answers may take.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) admin: Duration,
    pub(super) abort: Duration,
}

/// The admin submission and completion queue.
pub(super) struct AdminQueue {
    sq: SubmissionRing,
    cq: CompletionRing,
    /// A page for each of the two.
    queues: DriverMemory,
    /// A page for each command in flight.
    data: DriverMemory,
    flight: InFlight<Asked>,
    waiting: VecDeque<Waiting>,
    patience: Patience,
    /// What the controller may ask for before a command is repeated.
    delays: Delays,
    /// The distance of two doorbells.
    stride: u32,
    /// Most Aborts at a time (ACL).
    aborts_max: usize,
    strays: u64,
}

impl AdminQueue {
    pub(super) fn new(pool: &mut dyn DmaPool, patience: Patience, stride: u32) -> Result<Self, DmaError> {
        let queues = pool.allocate_to_leave(2)?;
        Self::over(queues, pool, patience, stride)
    }

    /// With memory for the two queues, of two pages.
    pub(super) fn over(
        queues: DriverMemory,
        pool: &mut dyn DmaPool,
        patience: Patience,
        stride: u32,
    ) -> Result<Self, DmaError> {
        let page = |at| queues.window().sub(at, PAGE).map_err(|_| DmaError::BadRange);
        let (sq, cq): (Window, Window) = (page(0)?, page(PAGE)?);
        let data = pool.allocate(usize::from(DEPTH - 1))?;
        Ok(Self {
            sq: SubmissionRing::new(sq, DEPTH),
            cq: CompletionRing::new(cq, DEPTH),
            queues,
            data,
            flight: InFlight::new(DEPTH - 1),
            waiting: VecDeque::new(),
            patience,
            delays: Delays::default(),
            stride,
            aborts_max: 1,
            strays: 0,
        })
    }

    /// Where the two queues are, for ASQ and ACQ.
    pub(super) fn places(&self) -> (Iova, Iova) {
        places(self.queues.iova())
    }

    /// Where its memory is, and how far both queues are: where nothing is under way but what is told unasked.
    pub(super) fn leave(&self) -> Option<(Iova, Left)> {
        let unasked = |asked: &Asked| asked.job == Job::AsyncEvent && !asked.late;
        if !self.waiting.is_empty() || !self.flight.iter().all(|(_, asked)| unasked(asked)) {
            return None;
        }
        let (tail, (head, phase)) = (self.sq.position()?, self.cq.position()?);
        let events = self.flight.iter().map(|(cid, _)| cid).collect();
        Some((self.queues.iova(), Left { tail, head, phase, events, ..Left::default() }))
    }

    /// Goes on where somebody left it. False: it cannot be so.
    pub(super) fn resume(&mut self, left: &Left) -> bool {
        self.sq.resume(left.tail);
        self.cq.resume(left.head, left.phase);
        let asked =
            |job: Job| Asked { job, opcode: admin::ASYNC_EVENT, deadline: None, late: false, tries: 0 };
        left.events.iter().all(|cid| self.flight.adopt(*cid, asked(Job::AsyncEvent)))
    }

    /// How many commands there are that are answered when there is something to be told.
    pub(super) fn events(&self) -> usize {
        let flying = self.flight.iter().filter(|(_, asked)| asked.job == Job::AsyncEvent).count();
        flying + self.waiting.iter().filter(|waits| waits.job == Job::AsyncEvent).count()
    }

    /// As the controller says: most Aborts at a time, of which some places stay free for everything else; and what it may ask for
    /// before a command is repeated.
    pub(super) fn tune(&mut self, aborts: usize, delays: Delays) {
        self.aborts_max = aborts.clamp(1, 4);
        self.delays = delays;
    }

    /// Gives memory back, but for that of the two queues, of which others may know. The controller was seen to be disabled.
    pub(super) fn retire(self, pool: &mut dyn DmaPool) {
        pool.recycle(self.data);
    }

    /// Forgets everything. The controller was seen to be disabled.
    pub(super) fn clear(&mut self) {
        self.sq.rewind();
        self.cq.rewind();
        self.flight = InFlight::new(DEPTH - 1);
        self.waiting.clear();
    }

    /// Gives all aborts up that were not answered, nor told to be late: pair and command.
    pub(super) fn take_aborts(&mut self) -> Vec<(u16, u16)> {
        let abort = |job: &Job| match job {
            Job::Abort { pair, cid } => Some((*pair, *cid)),
            _ => None,
        };
        let mut aborts: Vec<_> = self.waiting.iter().filter_map(|waits| abort(&waits.job)).collect();
        self.waiting.retain(|waits| abort(&waits.job).is_none());
        for (_, asked) in self.flight.iter_mut().filter(|(_, asked)| !asked.late) {
            let found = abort(&asked.job);
            asked.late = found.is_some();
            aborts.extend(found);
        }
        aborts
    }

    /// Asks for something, in its turn.
    pub(super) fn ask(&mut self, job: Job) -> Result<(), Anomaly> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(Anomaly::TooMuchAsked);
        }
        self.waiting.push_back(Waiting { job, failed: None });
        Ok(())
    }

    /// Whether this job was asked for and not answered yet.
    pub(super) fn has(&self, job: Job) -> bool {
        let mut asked = self.flight.iter().filter(|(_, asked)| !asked.late);
        self.waiting.iter().any(|waits| waits.job == job) || asked.any(|(_, asked)| asked.job == job)
    }

    /// Submits what waits, as far as there is room.
    pub(super) fn submit(&mut self, registers: &mut dyn Registers, now: Time) -> Result<(), Anomaly> {
        // One that came to nothing does not count: it would keep all others from being asked for ever.
        let asked = self.flight.iter().filter(|(_, a)| matches!(a.job, Job::Abort { .. }) && !a.late);
        let aborts = asked.count();
        let mut aborts_left = self.aborts_max.saturating_sub(aborts);
        let mut result = Ok(());
        for _ in 0..self.waiting.len() {
            let Some((slot, cid)) = self.flight.next() else { break };
            let Some(waits) = self.waiting.pop_front() else { break };
            let Waiting { job, failed } = waits;
            let is_abort = matches!(job, Job::Abort { .. });
            if is_abort && aborts_left == 0 || failed.is_some_and(|failed| now < failed.at) {
                self.waiting.push_back(waits);
                continue;
            }
            aborts_left -= usize::from(is_abort);
            let at = slot * PAGE;
            let mut command = job.command(Iova(self.data.iova().0 + at as u64));
            command.cid = cid.into();
            let deadline = match job {
                // It is answered when there is an event, if ever.
                Job::AsyncEvent => None,
                // What comes of that is a reset, so these have no longer than an abort.
                Job::Abort { .. } | Job::DeleteLeftSq { .. } | Job::DeleteLeftCq { .. } => {
                    Some(now + self.patience.abort)
                }
                _ => Some(failed.map_or(now + self.patience.admin, |failed| failed.deadline)),
            };
            // A controller that answers with less than it says shows us zeroes, never an older answer. The ring has an
            // entry for each slot of the table.
            let page = self.data.window();
            let cleared = page.fill(at, PAGE, 0).and_then(|()| page.write(at, job.data()));
            if cleared.and_then(|()| self.sq.push(&command)).is_err() {
                result = Err(Anomaly::NoPlace);
            }
            // It is kept, whatever became of it: its deadline finds it.
            let tries = failed.map_or(0, |failed| failed.tries);
            self.flight.put(Asked { job, opcode: command.opcode, deadline, late: false, tries });
        }
        if let Some(tail) = self.sq.take_tail() {
            registers.write32(DOORBELLS, tail.into());
        }
        result
    }

    /// Takes the next answer. What failed for the moment is no answer yet: it is asked once more.
    pub(super) fn pop(&mut self, now: Time) -> Result<Option<Answer>, Anomaly> {
        for _ in 0..DEPTH {
            let Some(completion) = self.cq.pop() else { return Ok(None) };
            let fits = completion.sqid == 0 && completion.sqhd < DEPTH;
            let slot = self.flight.slot(completion.cid);
            match if fits { self.flight.take(completion.cid) } else { None } {
                Some(asked) if asked.late => {}
                Some(asked) => {
                    if let Some(failed) = self.repeat(&asked, completion.status, now) {
                        self.waiting.push_back(Waiting { job: asked.job, failed: Some(failed) });
                        continue;
                    }
                    let data = self.page(asked.job, slot)?;
                    return Ok(Some(Answer { job: asked.job, completion, data }));
                }
                None => {
                    self.strays += 1;
                    if self.strays.is_power_of_two() {
                        warn!("dropped {} admin completions without a command", self.strays);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Whether a job that was answered so is to be asked again.
    fn repeat(&self, asked: &Asked, status: Status, now: Time) -> Option<Failed> {
        let deadline = asked.deadline.filter(|_| asked.job.may_be_repeated())?;
        let at = retry::again_later(status, asked.tries, self.delays, now, deadline)?;
        debug!("admin command {:#04x} failed with status {:#06x}: once more", asked.opcode, status.0);
        Some(Failed { tries: asked.tries + 1, at, deadline })
    }

    fn page(&self, job: Job, slot: usize) -> Result<Page, Anomaly> {
        let mut bytes = alloc::vec![0; if job.brings_data() { PAGE } else { 0 }];
        self.data.window().read(slot * PAGE, &mut bytes).map_err(|_| Anomaly::NoPage)?;
        Ok(Page(bytes))
    }

    /// Tells the controller how many answers were taken.
    pub(super) fn finish(&mut self, registers: &mut dyn Registers) {
        if let Some(head) = self.cq.take_head() {
            registers.write32(DOORBELLS + self.stride, head.into());
        }
    }

    /// A job whose deadline has passed. Its slot stays in use until the next [`clear`](Self::clear): the controller may
    /// still write there.
    pub(super) fn expired(&mut self, now: Time) -> Option<(Job, u8)> {
        let late = |asked: &&mut Asked| asked.deadline.is_some_and(|deadline| deadline <= now);
        if let Some(asked) = self.flight.iter_mut().map(|(_, asked)| asked).find(late) {
            asked.deadline = None;
            asked.late = true;
            return Some((asked.job, asked.opcode));
        }
        // All places are taken by what is never answered: what waits is not going to be asked.
        if self.flight.next().is_none() && self.flight.iter().all(|(_, asked)| asked.deadline.is_none()) {
            let Waiting { job, .. } = self.waiting.pop_front()?;
            return Some((job, job.command(Iova(0)).opcode));
        }
        None
    }

    /// The first deadline, or the time at which something is asked again.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let deadlines = self.flight.iter().filter_map(|(_, asked)| asked.deadline);
        deadlines.chain(self.waiting.iter().filter_map(|waits| waits.failed.map(|failed| failed.at))).min()
    }
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
