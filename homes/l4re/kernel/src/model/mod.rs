//! A model of the kernel and of L4Re's basic services, for tests on the host. It is stricter than the real ones: a slot that is
//! used after it was given back, a capability of a client's that is called, an attachment that outlives its capability are panics.
//!
//! * [`Model`]: implements the traits of [`kernel`](crate::kernel) for the one task that is under test. Clones are the same model.
//! * [`Task`]: another task, whose part the test plays: it holds capabilities, calls, and dies.
//! * `world`: what there is. `objects`: gates, interrupts and slots. `ipc`: messages wait in the order in which they came. `dataspaces`: windows on the
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
mod world;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::Time;
use spin::Mutex;

pub use dataspaces::Attached;
pub use heap::Counting;
pub use task::Task;
pub use world::{Answer, CallId, Kind, Model, Said, TaskCap};

use crate::kernel::Cap;
use world::{Id, World};

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
            kept: BTreeMap::new(),
            kept_max: 511,
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

    /// How many callers are kept.
    pub fn kept(&self) -> usize {
        self.world().kept.len()
    }

    /// From now on it may keep so many callers at a time; none: a kernel that does not know how.
    pub fn set_kept_max(&self, callers: usize) {
        self.world().kept_max = callers;
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
