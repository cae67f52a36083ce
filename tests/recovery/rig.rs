//! Control and workers, stepped by hand in simulated time, over faulty software controllers.

use std::sync::Arc;
use std::time::Duration;

use nvme_core::nvme::Options;
use nvme_core::server::control::{
    Config, Control, ControllerState, Event, MemoryChange, RecoveryTimes, RegionMemory, SessionError,
};
use nvme_core::server::message::{About, QueueKey, SessionKey, ToWorker};
use nvme_core::server::worker::Worker;
use nvme_mem::Window;
use nvme_platform::Time;
use nvme_platform::fake::FakeNotify;
use nvme_policy::{PciPlace, Policy};
use nvme_session::Transport;
use nvme_session::blk::features;
use nvme_session::dataspace::{Claim, File};
use nvme_session::factory::CreateError;
use nvme_session::queue::Direction;
use nvme_soft::faulty::{Action, Faults, Queue, Rule, When};
use nvme_soft::{Config as Soft, MemoryMedium, NamespaceConfig, SoftDevice, SoftHandle};

use crate::client::{ALL, Client, GUEST, IN, LEN, OK, OUT, pattern, region};
use crate::device::{Knobs, TestDevice};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// How long an I/O command may take here.
pub(crate) const IO: Duration = Duration::from_secs(5);
const DISK: usize = 8 << 20;

pub(crate) struct Rig {
    pub(crate) control: Control,
    pub(crate) workers: Vec<Worker>,
    pub(crate) handles: Vec<SoftHandle>,
    pub(crate) knobs: Vec<Arc<Knobs>>,
    pub(crate) now: Time,
    /// What was said and not looked for yet.
    pub(crate) events: Vec<Event>,
    /// Passes that workers made.
    pub(crate) passes: u64,
    /// Messages that a test holds up.
    pub(crate) delayed: Vec<(usize, ToWorker)>,
    /// How many things that cannot happen a test made happen.
    pub(crate) anomalies: u64,
    /// A session, and its pair, that have the worker behind control's own.
    pub(crate) apart: Option<(About, About)>,
    /// How many workers control knows.
    worker_count: usize,
}

pub(crate) fn config() -> Config {
    Config {
        workers: 1,
        sessions_max: 512,
        memory_max: 1 << 32,
        trusted_only: false,
        queues: 8,
        transport: Transport { direction: Direction::AsFlagged, features: features::OPTIONAL },
        nvme: Options { io_timeout: IO, ..Options::default() },
        recovery: RecoveryTimes::default(),
        drain: Duration::from_secs(30),
    }
}

pub(crate) fn soft(serial: &str) -> Soft {
    Soft {
        serial: serial.into(),
        namespaces: vec![NamespaceConfig::new(medium())],
        faults: Some(Vec::new()),
        ..Soft::default()
    }
}

pub(crate) fn medium() -> Arc<MemoryMedium> {
    Arc::new(MemoryMedium::new(DISK).unwrap())
}

/// Where the controllers of a rig are.
fn place(index: usize) -> Option<PciPlace> {
    PciPlace::parse(&format!("0000:{index:02x}:00.0"))
}

pub(crate) fn policy(words: &[&str]) -> Policy {
    Policy::from_words(words.iter().copied()).unwrap()
}

impl Rig {
    /// Not polled yet.
    pub(crate) fn raw(config: Config, devices: Vec<Soft>) -> Self {
        let worker_count = config.workers;
        let mut rig = Self {
            workers: (0..config.workers).map(|_| Worker::new(Duration::ZERO)).collect(),
            delayed: Vec::new(),
            control: Control::new(config),
            handles: Vec::new(),
            knobs: Vec::new(),
            now: Time::from_nanos(1_000_000_000),
            events: Vec::new(),
            passes: 0,
            anomalies: 0,
            apart: None,
            worker_count,
        };
        for (index, device) in devices.into_iter().enumerate() {
            let soft = SoftDevice::new(device).unwrap();
            let knobs = Arc::new(Knobs::default());
            rig.handles.push(soft.handle());
            rig.knobs.push(Arc::clone(&knobs));
            let device = Box::new(TestDevice { soft, knobs });
            rig.control.add_pci_device(&format!("device {index}"), device, None, place(index));
        }
        rig
    }

    /// Scanned.
    pub(crate) fn with(config: Config, devices: Vec<Soft>) -> Self {
        let mut rig = Self::raw(config, devices);
        rig.expect("the scan", |e| matches!(e, Event::Scanned));
        rig
    }

    /// One worker, so many controllers `d0`, `d1`, ….
    pub(crate) fn new(controllers: usize) -> Self {
        Self::with(config(), (0..controllers).map(|i| soft(&format!("d{i}"))).collect())
    }

    pub(crate) fn faults(&self, controller: usize) -> &Faults {
        self.handles[controller].faults().unwrap()
    }

    pub(crate) fn inject(&self, queue: Queue, opcode: u8, when: When, action: Action) {
        self.faults(0).inject(Rule::new(queue, opcode, when, action));
    }

    pub(crate) fn state(&self, controller: usize) -> ControllerState {
        self.control.controllers().nth(controller).unwrap().2
    }

    fn deliver(&mut self) -> bool {
        let mut any = false;
        while let Some((worker, message)) = self.control.take_message() {
            any = true;
            let apart = self.apart.filter(|(session, pair)| [*session, *pair].contains(&message.about()));
            if let (Some(_), ToWorker::Release(_)) = (apart, &message) {
                self.apart = None;
                for (id, pair) in self.workers[1].take_pairs() {
                    self.workers[0].handle(ToWorker::AddPair(id, pair), self.now);
                }
            }
            let worker = if self.apart.is_some() && apart.is_some() { 1 } else { worker };
            self.workers[worker].handle(message, self.now);
        }
        any
    }

    /// What a worker has to say goes to control.
    fn hear(&mut self, worker: usize) -> bool {
        let mut any = false;
        while let Some(message) = self.workers[worker].take_message() {
            any = true;
            // In the name of the one that it is apart of.
            let worker = if self.workers.len() > self.worker_count { 0 } else { worker };
            self.control.from_worker(worker, message, self.now);
        }
        any
    }

    /// Everything that can be done now; answers when there is more to do.
    pub(crate) fn step(&mut self) -> Option<Time> {
        for handle in &self.handles {
            handle.advance(self.now);
        }
        for _ in 0..20_000 {
            self.control.poll(self.now);
            let mut busy = self.deliver();
            let mut wake = None;
            let now = self.now;
            for worker in 0..self.workers.len() {
                let pass = self.workers[worker].pass(self.now, &|| now);
                self.passes += 1;
                busy |= self.hear(worker);
                busy |= pass.worked || !self.workers[worker].sleep();
                wake = earlier(wake, pass.wake);
            }
            while let Some(event) = self.control.take_event() {
                self.events.push(event);
                busy = true;
            }
            let next = earlier(wake, self.control.next_deadline());
            if !busy && next.is_none_or(|next| next > self.now) {
                return next;
            }
        }
        panic!("there is always something to do at {:?}", self.now);
    }

    /// Goes on, with time, until something is so.
    pub(crate) fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let end = self.now + Duration::from_secs(3000);
        loop {
            let next = self.step();
            if so(self) {
                return;
            }
            // Nothing of a worker's or of control's lasts longer than this without being looked at.
            let most = self.now + SECOND;
            self.now = next.map_or(most, |next| next.min(most)).max(self.now + Duration::from_micros(1));
            assert!(self.now < end, "{what} never comes; {:?}", self.events);
        }
    }

    /// Goes on for some time.
    pub(crate) fn pass_time(&mut self, time: Duration) {
        let end = self.now + time;
        self.until("an end", |rig| rig.now >= end);
    }

    /// Waits for an event and takes it, and what came before it.
    pub(crate) fn expect(&mut self, what: &str, mut which: impl FnMut(&Event) -> bool) -> Event {
        let mut at = 0;
        self.until(what, |rig| match rig.events.iter().position(&mut which) {
            Some(found) => {
                at = found;
                true
            }
            None => false,
        });
        self.events.remove(at)
    }

    /// Whether such an event came.
    pub(crate) fn said(&self, which: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(which)
    }

    pub(crate) fn lost(&self, client: &Client) -> bool {
        self.said(|e| matches!(e, Event::Lost(key) if *key == client.key))
    }

    pub(crate) fn create(&mut self, words: &[&str]) -> Result<SessionKey, CreateError> {
        self.control.create(&policy(words), false)
    }

    /// A session with its memory registered, and no queue.
    pub(crate) fn registered(&mut self, words: &[&str]) -> Client {
        let key = self.create(words).unwrap();
        self.registered_of(key)
    }

    /// The same of a session that is there.
    fn registered_of(&mut self, key: SessionKey) -> Client {
        let offered = self.control.session(key).unwrap().offered();
        self.control.set_features(key, ALL & offered).unwrap();
        self.with_memory(key)
    }

    /// A session whose driver has acknowledged what it wants, with its memory registered.
    pub(crate) fn with_memory(&mut self, key: SessionKey) -> Client {
        let client = Client::new(key);
        let (claim, file) = region(GUEST, LEN, key.0);
        self.change(&client, &MemoryChange::Add(claim, file), |_| Some(client.memory.clone())).unwrap();
        client
    }

    /// Changes a session's memory and waits for the end of it.
    pub(crate) fn change(
        &mut self,
        client: &Client,
        change: &MemoryChange,
        memory: impl FnMut(usize) -> Option<Window>,
    ) -> Result<(), SessionError> {
        self.begin_change(client, change, memory)?;
        match self.expect("the change", |e| matches!(e, Event::Done(key, _) if *key == client.key)) {
            Event::Done(_, result) => result,
            _ => unreachable!(),
        }
    }

    pub(crate) fn begin_change(
        &mut self,
        client: &Client,
        change: &MemoryChange,
        mut memory: impl FnMut(usize) -> Option<Window>,
    ) -> Result<(), SessionError> {
        let plan = self.control.plan_memory(client.key, change)?;
        let whole = |pages: Window| RegionMemory { len: pages.len(), pages, skip: 0 };
        let memory = plan.new_regions().iter().filter_map(|new| memory(new.index).map(whole));
        self.control.change_memory(&plan, memory.collect())
    }

    pub(crate) fn replace(
        &mut self,
        client: &Client,
        wanted: Vec<((Claim, File), Window)>,
    ) -> Result<(), SessionError> {
        let (regions, windows): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
        self.change(client, &MemoryChange::Replace(regions), |i| windows.get(i).cloned())
    }

    /// Starts one more queue of a session.
    pub(crate) fn start(&mut self, client: &mut Client) -> Result<(), SessionError> {
        let notify = FakeNotify::new();
        let spec = client.add_ring(notify.clone());
        let index = client.rings.len() as u16 - 1;
        self.control.start_queue(client.key, index, spec, Box::new(notify))
    }

    /// Starts a queue whose rings are there.
    pub(crate) fn restart(&mut self, client: &Client, queue: usize) -> Result<(), SessionError> {
        let notify = Box::new(client.rings[queue].notify.clone());
        self.control.start_queue(client.key, queue as u16, client.spec(queue), notify)
    }

    /// A session with one queue.
    pub(crate) fn client(&mut self, words: &[&str]) -> Client {
        let key = self.create(words).unwrap();
        self.client_of(key)
    }

    /// The same of a session that is there.
    pub(crate) fn client_of(&mut self, key: SessionKey) -> Client {
        let mut client = self.registered_of(key);
        self.start(&mut client).unwrap();
        self.step();
        client
    }

    pub(crate) fn kick(&mut self, client: &Client, queue: usize) {
        let key = QueueKey { session: client.key, index: queue as u16 };
        let session = self.control.session(client.key);
        let worker = session.map_or(0, |s| s.worker_of(key.index).unwrap_or_else(|| s.worker()));
        let worker =
            if self.apart.is_some_and(|(a, _)| a == About::Session(client.key)) { 1 } else { worker };
        if let Some(token) = self.workers[worker].token(key) {
            self.workers[worker].kick(token, self.now);
        }
    }

    /// Asks for so many writes of 4 KiB, each another pattern, one after the other from `sector` on.
    pub(crate) fn ask_writes(
        &mut self,
        client: &mut Client,
        queue: usize,
        slots: std::ops::Range<u16>,
        seed: u64,
    ) {
        for slot in slots {
            client.fill(Client::place(slot), &pattern(seed + u64::from(slot), 4096));
            client.ask(queue, slot, OUT, u64::from(slot) * 8, Client::place(slot), 4096);
        }
        self.kick(client, queue);
        self.step();
    }

    /// Waits until these are answered.
    pub(crate) fn answered(&mut self, client: &mut Client, queue: usize, mut slots: Vec<u16>) {
        self.until("an answer", |_| {
            let used = client.used(queue);
            slots.retain(|slot| !used.contains(slot));
            slots.is_empty()
        });
    }

    /// Waits for the answer to one request and tells its status.
    pub(crate) fn status(&mut self, client: &mut Client, queue: usize, slot: u16) -> u8 {
        self.kick(client, queue);
        self.answered(client, queue, vec![slot]);
        client.status(queue, slot)
    }

    /// Reads back what `ask_writes` wrote. Uses the last slot.
    pub(crate) fn check_writes(
        &mut self,
        client: &mut Client,
        queue: usize,
        slots: std::ops::Range<u16>,
        seed: u64,
    ) {
        for slot in slots {
            let at = Client::place(crate::client::SLOTS);
            client.fill(at, &[0x77; 4096]);
            client.ask(queue, crate::client::SLOTS - 1, IN, u64::from(slot) * 8, at, 4096);
            assert_eq!(self.status(client, queue, crate::client::SLOTS - 1), OK);
            assert!(client.bytes(at, 4096) == pattern(seed + u64::from(slot), 4096), "write {slot}");
        }
    }

    /// A write and a read of it, right.
    pub(crate) fn serves(&mut self, client: &mut Client, queue: usize, seed: u64) {
        self.ask_writes(client, queue, 0..2, seed);
        self.answered(client, queue, vec![0, 1]);
        assert_eq!((client.status(queue, 0), client.status(queue, 1)), (OK, OK));
        self.check_writes(client, queue, 0..2, seed);
    }

    /// Ends a session, and what is left of it.
    pub(crate) fn end(&mut self, client: &Client) {
        self.control.end(client.key);
        self.expect("the end", |e| matches!(e, Event::Ended(key) if *key == client.key));
        assert!(self.control.session(client.key).is_none());
    }
}

impl Drop for Rig {
    /// Whatever a test did, nothing happened that cannot.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let anomalies = self.control.anomalies();
            assert_eq!(anomalies.count(), self.anomalies, "{:?}", anomalies.last());
            assert!(self.control.controllers().all(|(_, controller, _)| controller.anomalies() == 0));
        }
    }
}

fn earlier(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
