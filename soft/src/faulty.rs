//! The faulty twin: the same controller, misbehaving by rule.
//!
//! With [`Config::faults`](crate::Config::faults), each command is held against the [`Rule`]s in order; the first
//! that matches and fires decides. [`Faults`] (from [`SoftHandle::faults`](crate::SoftHandle::faults)) changes the
//! rules at any time and from any thread, and tells the lies that are not about single commands.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use nvme_platform::Time;
use spin::Mutex;
use zerocopy::little_endian::U16;

use crate::wire::{Cqe, Sqe, Status};

/// Most commands that one queue holds up; further ones are dropped.
const HELD_MAX: usize = 4096;

/// Which queues a rule is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// All.
    Any,
    /// The admin queue.
    Admin,
    /// One I/O submission queue.
    Io(u16),
    /// All I/O submission queues.
    AnyIo,
}

/// Which of the commands that match a rule it fires for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Each.
    Always,
    /// The n-th, from 1.
    Nth(u64),
    /// The first n.
    First(u64),
    /// All after the first n.
    After(u64),
    /// So many of a thousand, by a generator with this seed: the same commands each time.
    Chance {
        /// Out of 1000.
        per_mille: u16,
        /// Any number.
        seed: u64,
    },
}

/// What happens to a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// It is fetched, and neither executed nor completed; an Abort finds it.
    Hang,
    /// It is executed; its completion is never posted.
    Drop,
    /// It is executed and completed so much later.
    Delay(Duration),
    /// The same; an Abort meanwhile answers that it aborted nothing, and then the command, which was executed, completes as one
    /// that was aborted. QEMU 11.1 does so.
    DelayDeaf(Duration),
    /// It is not executed, and completes with this status.
    Fail(Status),
    /// It is executed; its completion claims this status.
    Status(Status),
    /// Its completion names this command.
    CommandId(u16),
    /// Its completion names this submission queue.
    QueueId(u16),
    /// Its completion claims this submission queue head.
    Head(u16),
    /// Its completion has the wrong phase tag.
    Phase,
    /// Its completion is posted twice.
    Duplicate,
    /// Completions for these commands are posted before its own, which is lost when they fill the queue.
    Forge(Vec<u16>),
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// On which queues.
    pub queue: Queue,
    /// For which opcode; `None`: any.
    pub opcode: Option<u8>,
    /// For which of those.
    pub when: When,
    /// What happens.
    pub action: Action,
}

impl Rule {
    /// A rule for commands of one opcode.
    pub fn new(queue: Queue, opcode: u8, when: When, action: Action) -> Self {
        Self { queue, opcode: Some(opcode), when, action }
    }

    /// A rule for all commands.
    pub fn any(queue: Queue, when: When, action: Action) -> Self {
        Self { queue, opcode: None, when, action }
    }
}

/// Edits Identify data: CNS, namespace identifier, data.
pub type IdentifyLie = Box<dyn Fn(u8, u32, &mut [u8; 4096]) + Send>;

struct Armed {
    rule: Rule,
    seen: u64,
    random: u64,
}

impl Armed {
    fn new(rule: Rule) -> Self {
        let random = if let When::Chance { seed, .. } = rule.when { seed } else { 0 };
        Self { rule, seen: 0, random }
    }

    fn fires(&mut self, queue: u16, opcode: u8) -> bool {
        let about = match self.rule.queue {
            Queue::Any => true,
            Queue::Admin => queue == 0,
            Queue::AnyIo => queue != 0,
            Queue::Io(id) => queue == id && id != 0,
        };
        if !about || self.rule.opcode.is_some_and(|o| o != opcode) {
            return false;
        }
        self.seen += 1;
        match self.rule.when {
            When::Always => true,
            When::Nth(n) => self.seen == n,
            When::First(n) => self.seen <= n,
            When::After(n) => self.seen > n,
            When::Chance { per_mille, .. } => {
                // splitmix64
                self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = self.random;
                z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                (z ^ z >> 31) % 1000 < u64::from(per_mille)
            }
        }
    }
}

/// The strings of the faulty twin.
pub struct Faults {
    rules: Mutex<Vec<Armed>>,
    lies: Mutex<Vec<IdentifyLie>>,
    /// 0: as it is; 1: stuck at 0; 2: stuck at 1.
    ready: AtomicU8,
    /// Queues granted by Set Features, as it would be in dword 0 of the completion; all ones: the truth.
    granted: AtomicU32,
    fired: AtomicU64,
}

impl Faults {
    pub(crate) fn new(rules: Vec<Rule>) -> Self {
        Self {
            rules: Mutex::new(rules.into_iter().map(Armed::new).collect()),
            lies: Mutex::new(Vec::new()),
            ready: AtomicU8::new(0),
            granted: AtomicU32::new(u32::MAX),
            fired: AtomicU64::new(0),
        }
    }

    /// Adds a rule, behind those there are.
    pub fn inject(&self, rule: Rule) {
        self.rules.lock().push(Armed::new(rule));
    }

    /// Takes all rules and lies away. What hangs stays hanging.
    pub fn clear(&self) {
        self.rules.lock().clear();
        self.lies.lock().clear();
        self.stick_ready(None);
        self.grant_queues(None);
    }

    /// CSTS.RDY reads as this, whatever CC.EN says; `None`: as it is.
    pub fn stick_ready(&self, at: Option<bool>) {
        self.ready.store(at.map_or(0, |ready| 1 + u8::from(ready)), Ordering::Relaxed);
    }

    /// Edits all Identify data from now on: `lie(cns, nsid, data)`.
    pub fn lie_in_identify(&self, lie: IdentifyLie) {
        self.lies.lock().push(lie);
    }

    /// Claims to have granted so many submission and completion queues, 0's based (Set Features, Number of Queues).
    pub fn grant_queues(&self, granted: Option<(u16, u16)>) {
        let dword = granted.map_or(u32::MAX, |(sq, cq)| u32::from(sq) | u32::from(cq) << 16);
        self.granted.store(dword, Ordering::Relaxed);
    }

    /// How many commands a rule fired for.
    pub fn fired(&self) -> u64 {
        self.fired.load(Ordering::Relaxed)
    }

    pub(crate) fn ready(&self) -> Option<bool> {
        match self.ready.load(Ordering::Relaxed) {
            0 => None,
            at => Some(at == 2),
        }
    }

    pub(crate) fn granted(&self) -> Option<u32> {
        Some(self.granted.load(Ordering::Relaxed)).filter(|g| *g != u32::MAX)
    }

    pub(crate) fn lie(&self, cns: u8, nsid: u32, data: &mut [u8; 4096]) {
        for lie in self.lies.lock().iter() {
            lie(cns, nsid, data);
        }
    }

    pub(crate) fn decide(&self, queue: u16, opcode: u8) -> Option<Action> {
        let mut rules = self.rules.lock();
        let action = rules.iter_mut().find_map(|r| r.fires(queue, opcode).then(|| r.rule.action.clone()))?;
        self.fired.fetch_add(1, Ordering::Relaxed);
        Some(action)
    }
}

/// A command that a rule holds up.
pub(crate) struct Held {
    pub(crate) sqe: Sqe,
    /// When it goes on; `None`: never.
    pub(crate) due: Option<Time>,
    pub(crate) abort: Abort,
}

/// What an Abort does to a command that is held up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abort {
    /// Ends it.
    Ends,
    /// Nothing so far: there was none.
    Deaf,
    /// Nothing, but that it completes as if.
    Asked,
}

/// Holds a command up.
pub(crate) fn hold(held: &mut Vec<Held>, sqe: Sqe, due: Option<Time>, abort: Abort) {
    if held.len() < HELD_MAX {
        held.push(Held { sqe, due, abort });
    }
}

/// When the next command that is held up goes on.
pub(crate) fn next_due(held: &[Held]) -> Option<Time> {
    held.iter().filter_map(|h| h.due).min()
}

/// The first command that is to go on now, and what becomes of it.
pub(crate) fn take_due(held: &mut Vec<Held>, now: Time) -> Option<(Sqe, Option<Action>)> {
    let index = held.iter().position(|h| h.due.is_some_and(|due| due <= now))?;
    let Held { sqe, abort, .. } = held.remove(index);
    Some((sqe, (abort == Abort::Asked).then_some(Action::Status(Status::ABORTED))))
}

/// Which of these commands an Abort ends.
pub(crate) fn aborts(held: &mut [Held], cid: u16) -> Option<usize> {
    let index = held.iter().position(|h| h.sqe.cid.get() == cid)?;
    let found = held.get_mut(index)?;
    if found.abort == Abort::Ends {
        return Some(index);
    }
    found.abort = Abort::Asked;
    None
}

/// Spoils a completion.
pub(crate) fn spoil(action: &Action, cqe: &mut Cqe) {
    match action {
        Action::Status(status) => cqe.status = U16::new(status.0 << 1),
        Action::CommandId(cid) => cqe.cid = U16::new(*cid),
        Action::QueueId(id) => cqe.sq_id = U16::new(*id),
        Action::Head(head) => cqe.sq_head = U16::new(*head),
        Action::Phase => cqe.status = U16::new(cqe.status.get() ^ 1),
        _ => {}
    }
}
