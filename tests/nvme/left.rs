use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use nvme_core::nvme::{Controller, ControllerEvent, Left, QueuePair};
use nvme_platform::{
    Bus, Device, DeviceError, DmaError, DmaPool, DmaSpace, DriverMemory, Iova, PAGE, QueueDoorbells,
    Registers, Window,
};
use nvme_session::operation::Outcome;
use nvme_soft::faulty::{Action, Queue, Rule, When};
use nvme_soft::wire::Status;
use nvme_soft::{NamespaceConfig, SoftDevice};

use crate::rig::{GUEST, Rig, config, medium, options, pattern};

/// Controller Configuration.
const CC: u32 = 0x14;
const DELETE_SQ: u8 = 0x00;
const DELETE_CQ: u8 = 0x04;

/// What is seen of a device from outside.
#[derive(Default)]
struct Seen {
    /// Writes to CC.
    configured: AtomicU32,
    /// The memory that is left to others.
    memory: Mutex<Option<(Window, Iova)>>,
}

/// A controller that outlives its driver: it comes out where that is dropped.
struct Passed {
    device: Option<SoftDevice>,
    to: Sender<SoftDevice>,
    seen: Arc<Seen>,
}

impl Passed {
    fn device(&mut self) -> &mut SoftDevice {
        self.device.as_mut().unwrap()
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        let _ = self.to.send(self.device.take().unwrap());
    }
}

impl Device for Passed {
    fn registers(&mut self) -> &mut dyn Registers {
        self
    }
    fn dma(&mut self) -> &mut dyn DmaSpace {
        self.device().dma()
    }
    fn pool(&mut self) -> &mut dyn DmaPool {
        self
    }
    fn bus(&mut self) -> &mut dyn Bus {
        self.device().bus()
    }
    fn doorbells(&mut self, queue: u16, stride: u32) -> Result<Box<dyn QueueDoorbells>, DeviceError> {
        self.device().doorbells(queue, stride)
    }
}

impl Registers for Passed {
    fn read32(&self, offset: u32) -> u32 {
        self.device.as_ref().unwrap().read32(offset)
    }
    fn write32(&mut self, offset: u32, value: u32) {
        self.seen.configured.fetch_add(u32::from(offset == CC), Ordering::Relaxed);
        self.device().registers().write32(offset, value);
    }
}

impl DmaPool for Passed {
    fn allocate(&mut self, pages: usize) -> Result<DriverMemory, DmaError> {
        self.device().pool().allocate(pages)
    }
    fn allocate_to_leave(&mut self, pages: usize) -> Result<DriverMemory, DmaError> {
        let memory = self.allocate(pages)?;
        *self.seen.memory.lock().unwrap() = Some((memory.window().clone(), memory.iova()));
        Ok(memory)
    }
    fn recycle(&mut self, memory: DriverMemory) {
        self.device().pool().recycle(memory);
    }
}

/// One driver after the other, over one controller.
struct Line {
    rig: Rig,
    to: Sender<SoftDevice>,
    from: Receiver<SoftDevice>,
    seen: Arc<Seen>,
}

impl Line {
    fn new() -> Self {
        let (to, from) = channel();
        let seen = Arc::<Seen>::default();
        let passed = |device| -> Box<dyn Device> {
            Box::new(Passed { device: Some(device), to: to.clone(), seen: Arc::clone(&seen) })
        };
        let rig = Rig::ready(Rig::over(config(512), options(), passed));
        Self { rig, to, from, seen }
    }

    fn configured(&self) -> u32 {
        self.seen.configured.load(Ordering::Relaxed)
    }

    fn leave(&self) -> Left {
        let (at, left) = self.rig.controller.leave().expect("nothing is under way");
        assert_eq!(at, self.seen.memory.lock().unwrap().as_ref().unwrap().1);
        left
    }

    /// The next driver takes the controller as the one before left it.
    fn next(&mut self, left: Left) {
        let other = Controller::new(Box::new(SoftDevice::new(config(512)).unwrap()), 0, options());
        drop(mem::replace(&mut self.rig.controller, other));
        let device = Some(self.from.recv().unwrap());
        let passed = Passed { device, to: self.to.clone(), seen: Arc::clone(&self.seen) };
        self.rig.controller = Controller::new(Box::new(passed), 0, options());
        let (window, at) = self.seen.memory.lock().unwrap().clone().unwrap();
        self.rig.controller.go_on(left, DriverMemory::from_pool(window, at));
    }

    fn is_ready(&mut self) {
        let event = self.rig.event();
        assert!(matches!(event, ControllerEvent::Ready), "{event:?}");
    }

    /// A pair that works: what is written there is read back.
    fn works(&mut self, seed: u64) -> QueuePair {
        let mut pair = self.rig.pair(16);
        self.rig.client.write(GUEST, &pattern(seed, 4096));
        let write = self.rig.write(8, &[(GUEST, 4096)]);
        assert_eq!(self.rig.run(&mut pair, write).1, Outcome::Done);
        let read = self.rig.read(8, &[(GUEST + 8192, 4096)]);
        assert_eq!(self.rig.run(&mut pair, read).1, Outcome::Done);
        assert_eq!(self.rig.client.read(GUEST + 8192, 4096), pattern(seed, 4096));
        pair
    }
}

#[test]
fn a_controller_that_was_left_goes_on_without_a_reset_however_often() {
    let mut line = Line::new();
    let mut pairs = vec![line.works(1), line.works(2)];
    let (configured, free) = (line.configured(), line.rig.controller.pairs_free());
    // Often enough for both admin queues to go round, and for the phase to turn.
    for seed in 3..30 {
        let left = line.leave();
        let ids: Vec<u16> = pairs.iter().map(QueuePair::id).collect();
        assert_eq!((left.live.clone(), left.events.is_empty()), (ids, false));
        line.next(left);
        line.is_ready();
        pairs = vec![line.works(seed), line.works(seed + 100)];
        assert_eq!(line.rig.controller.pairs_free(), free, "that is granted once");
    }
    assert_eq!(line.configured(), configured, "CC was not written");
    assert_eq!(line.rig.handle.statistics().dma_faults, 0);
}

#[test]
fn what_it_tells_meanwhile_is_heard() {
    let mut line = Line::new();
    let left = line.leave();
    let there = left.events.len();
    line.rig.handle.add(2, NamespaceConfig::new(medium(1 << 20))).unwrap();
    line.next(left);
    line.is_ready();
    assert_eq!(line.rig.controller.namespaces().len(), 2);
    // That was told before it asked; and it tells the next time, too.
    while line.rig.event_within(std::time::Duration::from_secs(1)).is_some() {}
    assert_eq!(line.leave().events.len(), there);
    line.rig.handle.add(3, NamespaceConfig::new(medium(1 << 20))).unwrap();
    assert!(matches!(line.rig.event(), ControllerEvent::NamespacesChanged));
    assert_eq!(line.rig.controller.namespaces().len(), 3);
}

#[test]
fn one_that_is_not_as_it_was_left_is_reset() {
    type Meddle = fn(&mut Line, &mut Left);
    let meddled: [(&str, Meddle); 6] = [
        ("its queues cannot be deleted", |line, _| {
            let rule = |op| Rule::new(Queue::Admin, op, When::First(1), Action::Fail(Status::INVALID_FIELD));
            line.rig.handle.faults().unwrap().inject(rule(DELETE_SQ));
        }),
        ("the second step fails", |line, _| {
            let rule = |op| Rule::new(Queue::Admin, op, When::First(1), Action::Fail(Status::INVALID_FIELD));
            line.rig.handle.faults().unwrap().inject(rule(DELETE_CQ));
        }),
        ("it does not answer", |line, _| {
            line.rig.handle.faults().unwrap().inject(Rule::new(
                Queue::Admin,
                DELETE_SQ,
                When::First(1),
                Action::Hang,
            ));
        }),
        ("its admin queue is elsewhere", |line, _| {
            let mut memory = line.seen.memory.lock().unwrap();
            let (_, at) = memory.as_mut().unwrap();
            at.0 += PAGE as u64;
        }),
        ("a pair is said to be there and is not", |_, left| left.live.push(left.pairs)),
        ("what is said cannot be", |_, left| left.head = 16),
    ];
    for (what, meddle) in meddled {
        let mut line = Line::new();
        drop(line.works(1));
        let (configured, mut left) = (line.configured(), line.leave());
        let memory = line.seen.memory.lock().unwrap().clone().unwrap();
        meddle(&mut line, &mut left);
        let start = line.rig.now;
        line.next(left);
        // The memory itself is where it was.
        *line.seen.memory.lock().unwrap() = Some(memory);
        line.is_ready();
        assert!(line.configured() > configured, "{what}: it is reset");
        assert!((line.rig.now - start).as_secs() < 4, "{what}: soon");
        drop(line.works(2));
        let configured = line.configured();
        let left = line.leave();
        line.next(left);
        line.is_ready();
        assert_eq!(line.configured(), configured, "{what}: and the next one need not");
    }
}

#[test]
fn a_controller_that_is_being_asked_something_is_not_left() {
    let mut line = Line::new();
    let pair = line.rig.pair(16);
    line.rig.controller.ask_smart();
    assert!(line.rig.controller.leave().is_none());
    assert!(matches!(line.rig.event(), ControllerEvent::Smart(_)));
    line.leave();
    line.rig.controller.delete_pair(pair.id()).unwrap();
    assert!(line.rig.controller.leave().is_none());
    assert!(matches!(line.rig.event(), ControllerEvent::PairDeleted { .. }));
    assert!(line.leave().live.is_empty());
    line.rig.controller.reset();
    assert!(line.rig.controller.leave().is_none());
    assert!(matches!(line.rig.event(), ControllerEvent::Reset { .. }));
    line.leave();
}
