//! The server core as a whole: one control, one worker, QEMU's controller, real time.

use std::time::{Duration, Instant};

use nvme_drv::nvme::Options;
use nvme_drv::server::control::{
    Config, Control, Event, MemoryChange, RecoveryTimes, RegionMemory, SessionError,
};
use nvme_drv::server::message::{QueueKey, SessionKey};
use nvme_drv::server::worker::Worker;
use nvme_platform::fake::FakeNotify;
use nvme_platform::{PAGE, Time};
use nvme_policy::Policy;
use nvme_session::factory::CreateError;
use nvme_session::queue::Direction;

use crate::client::{ALL, Client, DISCARD, FLUSH, GUEST, IN, IOERR, LEN, OK, OUT, ZEROES, region};
use crate::device::Watch;
use crate::machine::{Disk, Machine, Shape};
use crate::need::needs_qemu;
use crate::rig::pattern;

const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    machine: Machine,
    watch: Watch,
    control: Control,
    worker: Worker,
    events: Vec<Event>,
    start: Instant,
}

impl Server {
    /// Scanned.
    fn new(shape: &Shape) -> Self {
        let machine = Machine::new(shape);
        let device = machine.device(0);
        let watch = device.watch();
        let mut control = Control::new(Config {
            workers: 1,
            sessions_max: 16,
            memory_max: 1 << 32,
            trusted_only: false,
            queues: 8,
            direction: Direction::AsFlagged,
            nvme: Options::default(),
            recovery: RecoveryTimes::default(),
            drain: Duration::from_secs(30),
        });
        control.add_device("qtest", Box::new(device));
        let worker = Worker::new(Duration::ZERO);
        let mut server = Self { machine, watch, control, worker, events: Vec::new(), start: Instant::now() };
        server.expect("the scan", |event| matches!(event, Event::Scanned));
        server
    }

    fn now(&self) -> Time {
        Time::from_nanos(1 + self.start.elapsed().as_nanos() as u64)
    }

    fn step(&mut self) {
        let now = self.now();
        self.control.poll(now);
        while let Some((_, message)) = self.control.take_message() {
            self.worker.handle(message, now);
        }
        self.worker.pass(now);
        while let Some(message) = self.worker.take_message() {
            self.control.from_worker(0, message, now);
        }
        while let Some(event) = self.control.take_event() {
            self.events.push(event);
        }
    }

    fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < end, "{what} never comes; {:?}", self.events);
            self.step();
        }
    }

    /// Waits for an event and takes it.
    fn expect(&mut self, what: &str, which: impl Fn(&Event) -> bool) -> Event {
        let mut at = None;
        self.until(what, |server| {
            at = server.events.iter().position(&which);
            at.is_some()
        });
        self.events.remove(at.unwrap())
    }

    fn create(&mut self, words: &[&str]) -> Result<SessionKey, CreateError> {
        self.control.create(&Policy::from_words(words.iter().copied()).unwrap(), false)
    }

    /// A session with its memory, in that of the machine, and one queue.
    fn client(&mut self, words: &[&str]) -> Client {
        let key = self.create(words).unwrap();
        let memory = self.machine.memory.take(LEN as usize / PAGE).unwrap();
        let mut client = Client { key, memory, rings: Vec::new() };
        self.control.set_features(key, ALL).unwrap();
        let (claim, file) = region(GUEST, LEN, key.0);
        let window = client.memory.clone();
        let mut whole = |_| Some(RegionMemory { len: window.len(), pages: window.clone(), skip: 0 });
        self.control.change_memory(key, &MemoryChange::Add(claim, file), &mut whole).unwrap();
        self.done(&client).unwrap();
        let notify = FakeNotify::new();
        let spec = client.add_ring(notify.clone());
        self.control.start_queue(key, 0, spec, Box::new(notify)).unwrap();
        self.step();
        client
    }

    fn done(&mut self, client: &Client) -> Result<(), SessionError> {
        match self.expect("the end of it", |e| matches!(e, Event::Done(key, _) if *key == client.key)) {
            Event::Done(_, result) => result,
            _ => unreachable!(),
        }
    }

    fn kick(&mut self, client: &Client) {
        let now = self.now();
        let token = self.worker.token(QueueKey { session: client.key, index: 0 });
        self.worker.kick(token.expect("a queue"), now);
    }

    /// Waits for the answer to one request.
    fn status(&mut self, client: &mut Client, slot: u16) -> u8 {
        self.kick(client);
        self.until("an answer", |_| client.used(0).contains(&slot));
        client.status(0, slot)
    }
}

#[test]
fn clients_read_write_flush_discard_and_zero_through_sessions_on_somebody_elses_controller() {
    needs_qemu!();
    let mut server = Server::new(&Shape::default());
    let mut one = server.client(&["device=qtest 0:n1"]);
    let mut two = server.client(&["device=qtest 0:n2"]);
    assert!(matches!(server.create(&["device=qtest 0:n1"]), Err(CreateError::InUse { .. })));
    let reach = server.watch.domain.reservations();
    let at = Client::place(0);
    for (client, nsid) in [(&mut one, 1), (&mut two, 2)] {
        // More than the queue holds, many at once.
        for round in 0..5_u64 {
            for slot in 0..32 {
                let place = Client::place(slot);
                client.fill(place, &pattern(round * 64 + u64::from(slot), 4096));
                client.ask(0, slot, OUT, u64::from(slot) * 8, place, 4096);
            }
            server.kick(client);
            let mut left: Vec<u16> = (0..32).collect();
            server.until("all answers", |_| {
                let used = client.used(0);
                left.retain(|slot| !used.contains(slot));
                left.is_empty()
            });
            assert!((0..32).all(|slot| client.status(0, slot) == OK));
        }
        client.ask(0, 0, FLUSH, 0, 0, 0);
        assert_eq!(server.status(client, 0), OK);
        client.ask_range(0, 0, DISCARD, 8, 8);
        assert_eq!(server.status(client, 0), OK);
        client.ask_range(0, 0, ZEROES, 24, 16);
        assert_eq!(server.status(client, 0), OK);
        let mut want: Vec<u8> = (0..32).flat_map(|slot| pattern(256 + slot, 4096)).collect();
        want[4096..8192].fill(0);
        want[12288..20480].fill(0);
        assert!(server.machine.on_disk(nsid, 0, want.len()) == want);
        client.fill(at, &[0x77; 32 * 4096]);
        client.ask(0, 1, IN, 0, at, 32 * 4096);
        assert_eq!(server.status(client, 1), OK);
        assert!(client.bytes(at, want.len()) == want);
        // Over the end.
        client.ask(0, 2, IN, (8 << 20) / 512, at, 4096);
        assert_eq!(server.status(client, 2), IOERR);
    }
    server.control.end(one.key);
    server.expect("the end", |e| matches!(e, Event::Ended(key) if *key == one.key));
    assert!(server.watch.domain.reservations() < reach, "its memory is out of reach");
    let now = server.now();
    server.control.shut_down(now);
    server.expect("the shutdown", |e| matches!(e, Event::ShutDown));
    assert_eq!(server.machine.iommu.fault(), None);
}

#[test]
fn a_controller_that_is_unplugged_in_mid_io_costs_its_sessions_and_the_server_ends_in_order() {
    needs_qemu!();
    let mut server = Server::new(&Shape::of(Disk { slow: true, ..Disk::new(512) }));
    let mut client = server.client(&["device=qtest 0:n1"]);
    server.machine.throttle(8);
    for slot in 0..8 {
        client.ask(0, slot, OUT, u64::from(slot) * 8, Client::place(slot), 4096);
    }
    server.kick(&client);
    server.step();
    server.watch.port.power_off();
    server.expect("the loss", |e| matches!(e, Event::Lost(key) if *key == client.key));
    let mut left: Vec<u16> = (0..8).collect();
    server.until("all answers", |_| {
        let used = client.used(0);
        left.retain(|slot| !used.contains(slot));
        left.is_empty()
    });
    assert!((0..8).any(|slot| client.status(0, slot) == IOERR));
    let now = server.now();
    server.control.shut_down(now);
    server.expect("the shutdown", |e| matches!(e, Event::ShutDown));
    assert_eq!(server.machine.iommu.fault(), None);
}
