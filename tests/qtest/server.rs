//! The server core as a whole: one control, one worker, QEMU's controller, real time.

use std::time::{Duration, Instant};

use nvme_core::nvme::Options;
use nvme_core::server::control::{
    Config, Control, Event, MemoryChange, RecoveryTimes, RegionMemory, SessionError,
};
use nvme_core::server::message::{QueueKey, SessionKey};
use nvme_core::server::worker::Worker;
use nvme_platform::fake::FakeNotify;
use nvme_platform::{PAGE, Time};
use nvme_policy::{PciPlace, Policy};
use nvme_session::Transport;
use nvme_session::blk::features;
use nvme_session::factory::CreateError;
use nvme_session::queue::Direction;

use crate::client::{ALL, Client, GUEST, LEN, OUT, region};
use crate::device::Watch;
use crate::machine::{Machine, Shape};
use crate::rig::pattern;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) machine: Machine,
    pub(crate) watch: Watch,
    pub(crate) control: Control,
    worker: Worker,
    pub(crate) events: Vec<Event>,
    start: Instant,
}

impl Server {
    /// Over the first controller. Scanned.
    pub(crate) fn new(shape: &Shape, options: Options, grace: Duration) -> Self {
        Self::over(1, shape, options, grace)
    }

    /// Over so many controllers. Scanned.
    pub(crate) fn over(controllers: u8, shape: &Shape, options: Options, grace: Duration) -> Self {
        let machine = Machine::new(shape);
        let device = machine.device(0);
        let watch = device.watch();
        let mut control = Control::new(Config {
            workers: 1,
            sessions_max: 16,
            memory_max: 1 << 32,
            trusted_only: false,
            queues: 8,
            transport: Transport { direction: Direction::AsFlagged, features: features::OPTIONAL },
            nvme: options,
            recovery: RecoveryTimes { grace, ..RecoveryTimes::default() },
            drain: Duration::from_secs(30),
        });
        let place = |index: u8| PciPlace::parse(&format!("0000:{:02x}:00.0", index + 1));
        control.add_pci_device("qtest", Box::new(device), None, place(0));
        for index in 1..controllers {
            control.add_pci_device("another", Box::new(machine.device(index)), None, place(index));
        }
        let worker = Worker::new(Duration::ZERO);
        let mut server = Self { machine, watch, control, worker, events: Vec::new(), start: Instant::now() };
        server.expect("the scan", |event| matches!(event, Event::Scanned));
        server
    }

    pub(crate) fn now(&self) -> Time {
        Time::from_nanos(1 + self.start.elapsed().as_nanos() as u64)
    }

    pub(crate) fn step(&mut self) {
        let now = self.now();
        self.control.poll(now);
        while let Some((_, message)) = self.control.take_message() {
            self.worker.handle(message, now);
        }
        self.worker.pass(now, &|| now);
        while let Some(message) = self.worker.take_message() {
            self.control.from_worker(0, message, now);
        }
        while let Some(event) = self.control.take_event() {
            self.events.push(event);
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < end, "{what} never comes; {:?}", self.events);
            self.step();
        }
    }

    /// Waits for an event and takes it.
    pub(crate) fn expect(&mut self, what: &str, which: impl Fn(&Event) -> bool) -> Event {
        let mut at = None;
        self.until(what, |server| {
            at = server.events.iter().position(&which);
            at.is_some()
        });
        self.events.remove(at.unwrap())
    }

    pub(crate) fn create(&mut self, words: &[&str]) -> Result<SessionKey, CreateError> {
        self.control.create(&Policy::from_words(words.iter().copied()).unwrap(), false)
    }

    /// A session with its memory, in that of the machine, and one queue.
    pub(crate) fn client(&mut self, words: &[&str]) -> Client {
        let key = self.create(words).unwrap();
        let memory = self.machine.memory.take(LEN as usize / PAGE).unwrap();
        let mut client = Client { key, memory, rings: Vec::new() };
        let offered = self.control.session(key).unwrap().offered();
        self.control.set_features(key, ALL & offered).unwrap();
        let (claim, file) = region(GUEST, LEN, key.0);
        let window = client.memory.clone();
        let whole = RegionMemory { len: window.len(), pages: window.clone(), skip: 0 };
        let plan = self.control.plan_memory(key, &MemoryChange::Add(claim, file)).unwrap();
        self.control.change_memory(&plan, vec![whole]).unwrap();
        self.done(&client).unwrap();
        let notify = FakeNotify::new();
        let spec = client.add_ring(notify.clone());
        self.control.start_queue(key, 0, spec, Box::new(notify)).unwrap();
        // It waits for its queue pair.
        let queue = QueueKey { session: key, index: 0 };
        self.until("the queue", |server| server.worker.token(queue).is_some());
        client
    }

    pub(crate) fn done(&mut self, client: &Client) -> Result<(), SessionError> {
        match self.expect("the end of it", |e| matches!(e, Event::Done(key, _) if *key == client.key)) {
            Event::Done(_, result) => result,
            _ => unreachable!(),
        }
    }

    pub(crate) fn kick(&mut self, client: &Client) {
        let now = self.now();
        let token = self.worker.token(QueueKey { session: client.key, index: 0 });
        self.worker.kick(token.expect("a queue"), now);
    }

    /// Waits for the answer to one request.
    pub(crate) fn status(&mut self, client: &mut Client, slot: u16) -> u8 {
        self.kick(client);
        self.until("an answer", |_| client.used(0).contains(&slot));
        client.status(0, slot)
    }

    /// Asks for so many writes of 4 KiB, each another pattern, one after the other from sector 0 on.
    pub(crate) fn ask_writes(&mut self, client: &mut Client, count: u16, seed: u64) {
        for slot in 0..count {
            let place = Client::place(slot);
            client.fill(place, &pattern(seed + u64::from(slot), 4096));
            client.ask(0, slot, OUT, u64::from(slot) * 8, place, 4096);
        }
        self.kick(client);
        self.step();
    }

    /// Waits until so many slots are answered.
    pub(crate) fn answered(&mut self, client: &mut Client, count: u16) {
        let mut left: Vec<u16> = (0..count).collect();
        self.until("all answers", |_| {
            let used = client.used(0);
            left.retain(|slot| !used.contains(slot));
            left.is_empty()
        });
    }

    /// Shuts down, and looks for what was blocked.
    pub(crate) fn clean(mut self) {
        let now = self.now();
        self.control.shut_down(now);
        self.expect("the shutdown", |e| matches!(e, Event::ShutDown));
        assert_eq!(self.machine.iommu.fault(), None);
    }
}
