//! The admin queue: what can be asked, and what is waiting for its answer.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use nvme_platform::{DmaError, DmaPool, DriverMemory, Iova, PAGE, Time, Window, warn};

use super::inflight::InFlight;
use super::ring::{CompletionRing, SubmissionRing};
use super::spec::command::{Command, Completion, admin, feature};
use super::spec::identify::cns;
use super::spec::log::page;

/// Entries in each of the two admin queues.
pub(super) const DEPTH: u16 = 16;
/// Most jobs that wait for a place.
const WAITING_MAX: usize = 4096;
/// All namespaces.
const ALL: u32 = 0xffff_ffff;

/// One thing to ask of the controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Job {
    IdentifyController,
    IdentifyNvm,
    NumberOfQueues { pairs: u16 },
    WriteCacheOn,
    EventConfiguration { bits: u32 },
    NamespaceList { after: u32 },
    IdentifyNamespace { nsid: u32 },
    Descriptors { nsid: u32 },
    AsyncEvent,
    Log { id: u8, asked: bool },
    CreateCq { id: u16, depth: u16, vector: u16, at: Iova },
    CreateSq { id: u16, depth: u16, at: Iova },
    DeleteSq { id: u16 },
    DeleteCq { id: u16 },
    Abort { pair: u16, cid: u16 },
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
            Self::CreateSq { id, depth, at } => {
                with(new(admin::CREATE_SQ, queue(id, depth), u32::from(id) << 16 | 0b01), 0, at)
            }
            // Base 5.6 and 5.7.
            Self::DeleteSq { id } => new(admin::DELETE_SQ, u32::from(id), 0),
            Self::DeleteCq { id } => new(admin::DELETE_CQ, u32::from(id), 0),
            // Base 5.1.
            Self::Abort { pair, cid } => new(admin::ABORT, u32::from(cid) << 16 | u32::from(pair), 0),
        }
    }
}

/// A job with its answer.
pub(super) struct Answer {
    pub(super) job: Job,
    pub(super) completion: Completion,
    /// The page that the controller was given for data.
    pub(super) data: Window,
}

struct Asked {
    job: Job,
    opcode: u8,
    deadline: Option<Time>,
}

/// How long answers may take.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) admin: core::time::Duration,
    pub(super) abort: core::time::Duration,
}

/// The admin submission and completion queue.
pub(super) struct AdminQueue {
    sq: SubmissionRing,
    cq: CompletionRing,
    sq_memory: DriverMemory,
    cq_memory: DriverMemory,
    /// A page for each command in flight.
    data: DriverMemory,
    flight: InFlight<Asked>,
    waiting: VecDeque<Job>,
    patience: Patience,
    /// Most Aborts at a time (ACL).
    pub(super) aborts_max: usize,
    strays: u64,
}

impl AdminQueue {
    pub(super) fn new(pool: &mut dyn DmaPool, patience: Patience) -> Result<Self, DmaError> {
        let sq_memory = pool.allocate(1)?;
        let cq_memory = pool.allocate(1)?;
        let data = pool.allocate(usize::from(DEPTH - 1))?;
        Ok(Self {
            sq: SubmissionRing::new(sq_memory.window().clone(), DEPTH),
            cq: CompletionRing::new(cq_memory.window().clone(), DEPTH),
            sq_memory,
            cq_memory,
            data,
            flight: InFlight::new(DEPTH - 1),
            waiting: VecDeque::new(),
            patience,
            aborts_max: 1,
            strays: 0,
        })
    }

    /// Where the two queues are, for ASQ and ACQ.
    pub(super) fn places(&self) -> (Iova, Iova) {
        (self.sq_memory.iova(), self.cq_memory.iova())
    }

    /// Forgets everything. The controller was seen to be disabled.
    pub(super) fn clear(&mut self) {
        self.sq.rewind();
        self.cq.rewind();
        self.flight = InFlight::new(DEPTH - 1);
        self.waiting.clear();
    }

    /// The aborts that were not answered: pair and command.
    pub(super) fn aborts(&self) -> Vec<(u16, u16)> {
        let all = self.waiting.iter().chain(self.flight.iter().map(|(_, asked)| &asked.job));
        let abort = |job: &Job| match job {
            Job::Abort { pair, cid } => Some((*pair, *cid)),
            _ => None,
        };
        all.filter_map(abort).collect()
    }

    /// Asks for something, in its turn. False when too much is waiting.
    pub(super) fn ask(&mut self, job: Job) -> bool {
        if self.waiting.len() >= WAITING_MAX {
            return false;
        }
        self.waiting.push_back(job);
        true
    }

    /// Whether this job was asked for and not answered yet.
    pub(super) fn has(&self, which: impl Fn(&Job) -> bool) -> bool {
        self.waiting.iter().any(&which) || self.flight.iter().any(|(_, asked)| which(&asked.job))
    }

    /// Submits what waits, as far as there is room. Answers the tail to ring.
    pub(super) fn pump(&mut self, now: Time) -> Option<u16> {
        let aborts = self.flight.iter().filter(|(_, a)| matches!(a.job, Job::Abort { .. })).count();
        let mut aborts_left = self.aborts_max.saturating_sub(aborts);
        for _ in 0..self.waiting.len() {
            let Some(slot) = self.flight.next_slot() else { break };
            let Some(job) = self.waiting.pop_front() else { break };
            if let Job::Abort { .. } = job {
                if aborts_left == 0 {
                    self.waiting.push_back(job);
                    continue;
                }
                aborts_left -= 1;
            }
            let at = slot * PAGE;
            // A controller that answers with less than it says shows us zeroes, never an older answer.
            let _ = self.data.window().fill(at, PAGE, 0);
            let mut command = job.command(Iova(self.data.iova().0 + at as u64));
            let deadline = match job {
                // It is answered when there is an event, if ever.
                Job::AsyncEvent => None,
                Job::Abort { .. } => Some(now + self.patience.abort),
                _ => Some(now + self.patience.admin),
            };
            if let Ok(cid) = self.flight.insert(Asked { job, opcode: command.opcode, deadline }) {
                command.cid = cid.into();
                // The ring has an entry for each slot of the table.
                let _ = self.sq.push(&command);
            }
        }
        self.sq.take_tail()
    }

    /// Takes the next answer.
    pub(super) fn pop(&mut self) -> Option<Answer> {
        for _ in 0..DEPTH {
            let completion = self.cq.pop()?;
            let fits = completion.sqid == 0 && completion.sqhd < DEPTH;
            let slot = self.flight.slot(completion.cid);
            let asked = if fits { self.flight.take(completion.cid) } else { None };
            if let Some(asked) = asked
                && let Ok(data) = self.data.window().sub(slot * PAGE, PAGE)
            {
                return Some(Answer { job: asked.job, completion, data });
            }
            self.strays += 1;
            if self.strays.is_power_of_two() {
                warn!("dropped {} admin completions without a command", self.strays);
            }
        }
        None
    }

    /// The head to ring.
    pub(super) fn head(&mut self) -> Option<u16> {
        self.cq.take_head()
    }

    /// A job whose deadline has passed. Its slot stays in use until the next [`clear`](Self::clear): the controller may
    /// still write there.
    pub(super) fn expired(&mut self, now: Time) -> Option<(Job, u8)> {
        let late = |asked: &&mut Asked| asked.deadline.is_some_and(|deadline| deadline <= now);
        let asked = self.flight.iter_mut().map(|(_, asked)| asked).find(late)?;
        asked.deadline = None;
        Some((asked.job, asked.opcode))
    }

    /// The first deadline.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.flight.iter().filter_map(|(_, asked)| asked.deadline).min()
    }
}
