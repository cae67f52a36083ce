//! What there is: objects, who holds them, and the messages on their way.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use nvme_platform::{Owner, Time, Window};
use spin::{Mutex, MutexGuard};

use crate::kernel::{Cap, Label};

/// An object, by number. No number is used twice.
pub(super) type Id = u64;
/// In a slot that was emptied.
pub(super) const NOTHING: Id = 0;

pub(super) enum Object {
    Gate(Gate),
    Irq(Irq),
    Dataspace(Dataspace),
    /// Anything else: a capability that is none of those that are wanted.
    Other,
}

/// What is ready to be received.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    Call(CallId),
    Irq(Id),
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) tick: u64,
    pub(super) next: u64,
    pub(super) objects: BTreeMap<Id, Object>,
    /// The slots of the task under test.
    pub(super) slots: BTreeMap<usize, Slot>,
    pub(super) names: BTreeMap<String, Cap>,
    /// Dataspaces that it was started with, or made: these may be called.
    pub(super) own: Vec<Id>,
    pub(super) tasks: BTreeMap<Id, BTreeMap<u64, Slot>>,
    /// Which of the slots came from which task: what it gave goes with it.
    pub(super) given: BTreeMap<usize, Id>,
    pub(super) calls: BTreeMap<u64, Call>,
    pub(super) ready: VecDeque<Ready>,
    /// Who waits for an answer to the last message.
    pub(super) caller: Option<CallId>,
    /// Callers that are kept, by number, and how many there may be at a time.
    pub(super) kept: BTreeMap<usize, CallId>,
    pub(super) kept_max: usize,
    /// Whether the last answer reached its caller.
    pub(super) delivered: bool,
    pub(super) unanswered: u64,
    pub(super) deletion: Option<Id>,
    /// The last receive found nothing, and waits until then.
    pub(super) asleep: Option<Option<Time>>,
    pub(super) attached: Vec<(Id, usize, Weak<Owner>)>,
    /// Whether what was attached vanished, and nobody asked yet.
    pub(super) vanished: bool,
    /// Whether there is memory in reserve.
    pub(super) reserve: bool,
    /// How many objects may still be made.
    pub(super) quota: usize,
    /// How many times a dataspace may still be attached.
    pub(super) attach_quota: usize,
}

/// The kernel, for the task under test. Clones are the same.
#[derive(Clone)]
pub struct Model(pub(super) Arc<Mutex<World>>);

/// A capability of a task that the test plays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TaskCap(pub(super) u64);

/// A capability in a task's table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) object: Id,
    pub(super) writable: bool,
    pub(super) special: bool,
    pub(super) deletable: bool,
}

pub(super) struct Gate {
    /// Under which it reports to the task under test.
    pub(super) label: Option<Label>,
    /// Whether that task made it: it goes when nobody else has it any more, once it was sent.
    pub(super) own: bool,
    pub(super) sent: bool,
}

pub(super) struct Irq {
    /// Under which it reports to the task under test; another's has none.
    pub(super) label: Option<Label>,
    /// How often it was raised.
    pub(super) raised: u64,
}

/// A call, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallId(pub(super) u64);

/// What a task says in a call.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// The protocol in the tag.
    pub protocol: i64,
    /// The words; what is more than a message holds is cut.
    pub words: Vec<u64>,
    /// A capability of the task's, and whether it is sent with the right to write.
    pub cap: Option<(TaskCap, bool)>,
}

/// What a call was answered with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// An answer.
    Reply {
        /// The label of its tag.
        label: i64,
        /// Its words.
        words: Vec<u64>,
        /// The capability that came with it.
        cap: Option<TaskCap>,
    },
    /// There was none, and there will be none.
    None,
    /// The object is gone.
    Gone,
}

pub(super) struct Call {
    pub(super) from: Id,
    pub(super) to: Id,
    pub(super) special: bool,
    pub(super) said: Said,
    pub(super) answer: Option<Answer>,
}

impl Call {
    pub(super) fn is_waiting(&self) -> bool {
        self.answer.is_none()
    }
}

/// What a dataspace is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Memory of L4Re's own server.
    Memory,
    /// Likewise, that nobody may write.
    ReadOnly,
    /// Some task answers for it, which may do so late or never.
    Foreign,
    /// As io's vbus: it answers what it is with `-L4_ENOSYS`, and can be attached.
    Bus,
}

pub(super) struct Dataspace {
    pub(super) kind: Kind,
    pub(super) memory: Window,
}

impl Model {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock()
    }
}

impl World {
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn make(&mut self, object: Object) -> Id {
        let id = self.number();
        self.objects.insert(id, object);
        id
    }

    pub(super) fn install(&mut self, object: Id, writable: bool) -> Cap {
        let cap = Cap((self.number() as usize) << 12);
        self.slots.insert(cap.0, Slot { object, writable, special: true, deletable: true });
        cap
    }

    /// What is in a slot. It must be one that is in use.
    pub(super) fn slot(&self, cap: Cap) -> &Slot {
        match self.slots.get(&cap.0) {
            Some(slot) => slot,
            None => panic!("slot {:#x} is not in use", cap.0),
        }
    }

    pub(super) fn object(&self, cap: Cap) -> Option<(Id, &Object)> {
        let id = self.slot(cap).object;
        self.objects.get(&id).map(|object| (id, object))
    }

    pub(super) fn label_of(&self, id: Id) -> Option<Label> {
        match self.objects.get(&id) {
            Some(Object::Gate(gate)) => gate.label,
            Some(Object::Irq(irq)) => irq.label,
            _ => None,
        }
    }
}
