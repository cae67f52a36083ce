//! A model of the kernel and of L4Re's basic services, for tests on the host. It is stricter than the real ones: a slot that is
//! used after it was given back, a capability of a client's that is called, an attachment that outlives its capability are panics.
//!
//! * [`Model`]: implements the traits of [`kernel`](crate::kernel) for the one task that is under test. Clones are the same model.
//! * [`Task`]: another task, whose part the test plays: it holds capabilities, calls, and dies.
//! * `objects`: gates, interrupts and slots. `ipc`: messages wait in the order in which they came. `dataspaces`: windows on the
//!   heap. [`bus`]: the virtual bus and its DMA spaces, a model of their own.
//! * [`Counting`]: an allocator that counts, for tests of what must not allocate.
//!
//! There is one thread, and time passes only when the test says so, but for a tick at each look at the clock.

pub mod bus;
mod dataspaces;
mod heap;
mod ipc;
mod objects;
mod task;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::{Owner, Time};
use spin::{Mutex, MutexGuard};

pub use dataspaces::{Attached, Kind};
pub use heap::Counting;
pub use ipc::{Answer, CallId, Said};
pub use objects::TaskCap;
pub use task::Task;

use crate::kernel::{Cap, Label};
use dataspaces::Dataspace;
use ipc::Call;
use objects::{Gate, Irq, Slot};

/// An object, by number. No number is used twice.
type Id = u64;
/// In a slot that was emptied.
const NOTHING: Id = 0;

enum Object {
    Gate(Gate),
    Irq(Irq),
    Dataspace(Dataspace),
    /// Anything else: a capability that is none of those that are wanted.
    Other,
}

/// What is ready to be received.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    Call(CallId),
    Irq(Id),
}

struct World {
    now: u64,
    tick: u64,
    next: u64,
    objects: BTreeMap<Id, Object>,
    /// The slots of the task under test.
    slots: BTreeMap<usize, Slot>,
    names: BTreeMap<String, Cap>,
    /// Dataspaces that it was started with, or made: these may be called.
    own: Vec<Id>,
    tasks: BTreeMap<Id, BTreeMap<u64, Slot>>,
    /// Which of the slots came from which task: what it gave goes with it.
    given: BTreeMap<usize, Id>,
    calls: BTreeMap<u64, Call>,
    ready: VecDeque<Ready>,
    /// Who waits for an answer to the last message.
    caller: Option<CallId>,
    /// Whether the last answer reached its caller.
    delivered: bool,
    unanswered: u64,
    deletion: Option<Id>,
    /// The last receive found nothing, and waits until then.
    asleep: Option<Option<Time>>,
    attached: Vec<(Id, usize, Weak<Owner>)>,
    /// Whether what was attached vanished, and nobody asked yet.
    vanished: bool,
    /// Whether there is memory in reserve.
    reserve: bool,
    /// How many objects may still be made.
    quota: usize,
    /// How many times a dataspace may still be attached.
    attach_quota: usize,
}

/// The kernel, for the task under test. Clones are the same.
#[derive(Clone)]
pub struct Model(Arc<Mutex<World>>);

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

impl Model {
    /// Nothing but a clock.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(World {
            now: 1_000_000_000,
            tick: 100,
            next: 0x1000,
            objects: BTreeMap::new(),
            slots: BTreeMap::new(),
            names: BTreeMap::new(),
            own: Vec::new(),
            tasks: BTreeMap::new(),
            given: BTreeMap::new(),
            calls: BTreeMap::new(),
            ready: VecDeque::new(),
            caller: None,
            delivered: true,
            unanswered: 0,
            deletion: None,
            asleep: None,
            attached: Vec::new(),
            vanished: false,
            reserve: true,
            quota: usize::MAX,
            attach_quota: usize::MAX,
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock()
    }

    /// Another task.
    pub fn task(&self) -> Task {
        let mut world = self.world();
        let id = world.number();
        world.tasks.insert(id, BTreeMap::new());
        Task::new(self.clone(), id)
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let mut world = self.world();
        world.now = (Time::from_nanos(world.now) + by).as_nanos();
    }

    /// How much time a look at the clock takes.
    pub fn set_tick(&self, tick: Duration) {
        self.world().tick = (Time::default() + tick).as_nanos();
    }

    /// The time, without a tick.
    pub fn time(&self) -> Time {
        Time::from_nanos(self.world().now)
    }

    /// Whether the task under test waits in a receive, and until when; not if something came meanwhile.
    pub fn asleep(&self) -> Option<Option<Time>> {
        let world = self.world();
        world.asleep.filter(|_| !world.anything_ready())
    }

    /// How often it took another message without having answered the last.
    pub fn unanswered(&self) -> u64 {
        self.world().unanswered
    }

    /// How many slots the task under test has.
    pub fn slots(&self) -> usize {
        self.world().slots.len()
    }

    /// How many attachments there are.
    pub fn attachments(&self) -> usize {
        let mut world = self.world();
        world.attached.retain(|(.., owner)| owner.strong_count() > 0);
        world.attached.len()
    }

    /// From now on it may make only so many objects more.
    pub fn set_quota(&self, objects: usize) {
        self.world().quota = objects;
    }

    /// Whether there is memory in reserve from now on.
    pub fn set_reserve(&self, there: bool) {
        self.world().reserve = there;
    }

    /// From now on it may attach only so often more.
    pub fn refuse_attach_after(&self, times: usize) {
        self.world().attach_quota = times;
    }

    /// Raises an interrupt of the task under test, as a device does.
    pub fn raise(&self, irq: Cap) {
        let mut world = self.world();
        let id = world.slot(irq).object;
        world.raise(id);
    }

    /// Gives the task under test a name for a capability of a task's.
    pub(crate) fn name(&self, name: &str, object: Id, writable: bool) {
        let mut world = self.world();
        let cap = world.install(object, writable);
        world.names.insert(name.to_string(), cap);
    }
}

impl World {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn make(&mut self, object: Object) -> Id {
        let id = self.number();
        self.objects.insert(id, object);
        id
    }

    fn install(&mut self, object: Id, writable: bool) -> Cap {
        let cap = Cap((self.number() as usize) << 12);
        self.slots.insert(cap.0, Slot { object, writable, special: true });
        cap
    }

    /// What is in a slot. It must be one that is in use.
    fn slot(&self, cap: Cap) -> &Slot {
        match self.slots.get(&cap.0) {
            Some(slot) => slot,
            None => panic!("slot {:#x} is not in use", cap.0),
        }
    }

    fn object(&self, cap: Cap) -> Option<(Id, &Object)> {
        let id = self.slot(cap).object;
        self.objects.get(&id).map(|object| (id, object))
    }

    fn label_of(&self, id: Id) -> Option<Label> {
        match self.objects.get(&id) {
            Some(Object::Gate(gate)) => gate.label,
            Some(Object::Irq(irq)) => irq.label,
            _ => None,
        }
    }
}
