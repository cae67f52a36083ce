//! The smallest home: one thread, a software controller, one client, one read. Its numbered steps are those of `doc/recipes.md`.

use std::sync::Arc;
use std::time::Duration;

use nvme_core::nvme::Options;
use nvme_core::server::control::{
    Config, Control, Event, MemoryChange, QueueSpec, RecoveryTimes, RegionMemory,
};
use nvme_core::server::message::QueueKey;
use nvme_core::server::worker::Worker;
use nvme_platform::Time;
use nvme_platform::fake::FakeNotify;
use nvme_policy::Policy;
use nvme_session::Transport;
use nvme_session::blk::features;
use nvme_session::dataspace::{Claim, File, FileId};
use nvme_session::queue::{AddressSpace, Direction, RingAddresses};
use nvme_soft::{Config as Soft, Medium, MemoryMedium, NamespaceConfig, SoftDevice};
use nvme_testkit::{Header, Ring, desc_flag::WRITE, kind, status};
use zerocopy::IntoBytes;

const MEMORY: usize = 0x1_0000;
const DESC: usize = 0;
const AVAIL: usize = 0x1000;
const USED: usize = 0x2000;

struct Home {
    control: Control,
    worker: Worker,
    now: Time,
}

impl Home {
    /// Carries messages, and lets both roles work, until control says this. Time goes on by itself here.
    fn until(&mut self, what: impl Fn(&Event) -> bool) {
        for _ in 0..100_000 {
            if self.turn().is_some_and(|event| what(&event)) {
                return;
            }
        }
        panic!("it never comes");
    }

    fn turn(&mut self) -> Option<Event> {
        self.now = self.now + Duration::from_micros(50);
        let now = self.now;
        self.control.poll(now);
        while let Some((_, message)) = self.control.take_message() {
            self.worker.handle(message, now);
        }
        while self.worker.pass(now, &|| now).worked {}
        // Here a home sleeps until the earliest deadline, a kick or an interrupt.
        self.worker.sleep();
        while let Some(message) = self.worker.take_message() {
            self.control.from_worker(0, message, now);
        }
        self.control.take_event()
    }
}

#[test]
fn a_home_of_one_thread_serves_a_read() {
    // 1. Views of client memory. A home maps a file of the client's; here it is memory of our own.
    let memory = nvme_mem::heap(MEMORY).unwrap();

    // 2. A controller.
    let medium = Arc::new(MemoryMedium::new(1 << 20).unwrap());
    medium.window().fill(8 * 512, 512, 7).unwrap();
    let namespaces = vec![NamespaceConfig::new(medium)];
    let device = SoftDevice::new(Soft { serial: "tiny".into(), namespaces, ..Soft::default() }).unwrap();

    // 3. Control, with what this home is like, and a worker.
    let mut home = Home {
        control: Control::new(Config {
            workers: 1,
            sessions_max: 4,
            memory_max: 1 << 30,
            trusted_only: false,
            queues: 1,
            transport: Transport { direction: Direction::AsFlagged, features: 0 },
            nvme: Options::default(),
            recovery: RecoveryTimes::default(),
            drain: Duration::from_secs(30),
        }),
        worker: Worker::new(Duration::ZERO),
        now: Time::from_nanos(1_000_000_000),
    };
    home.control.add_device("tiny", Box::new(device));

    // 4. Messages, time and turns: `Home::turn`.
    home.until(|event| matches!(event, Event::Scanned));

    // 5. What the transport asks: a session, its features, its memory, a virtqueue.
    let policy = Policy::from_words(["device=tiny:n1"]).unwrap();
    let key = home.control.create(&policy, false).unwrap();
    home.control.set_features(key, features::VERSION_1).unwrap();
    let len = MEMORY as u64;
    let claim = Claim { guest: 0, user: 0, len, offset: 0 };
    let file = File {
        id: FileId(1, 1),
        size: len,
        writable: true,
        memory: true,
        trusted: nvme_policy::Dataspaces::NONE,
    };
    let plan = home.control.plan_memory(key, &MemoryChange::Add(claim, file)).unwrap();
    let view = |_| RegionMemory { pages: memory.clone(), skip: 0, len: MEMORY };
    home.control.change_memory(&plan, plan.new_regions().iter().map(view).collect()).unwrap();
    home.until(|event| matches!(event, Event::Done(_, Ok(()))));
    let [desc, avail, used] = [DESC, AVAIL, USED].map(|at| at as u64);
    let rings = RingAddresses { desc, avail, used, space: AddressSpace::Guest };
    let notify = FakeNotify::new();
    let spec = QueueSpec { size: 16, rings, next_avail: 0, journal: None };
    home.control.start_queue(key, 0, spec, Box::new(notify.clone())).unwrap();

    // What the client's driver does.
    let ring = Ring::within(&memory, 16, [DESC, AVAIL, USED]).unwrap();
    memory.write(0x3000, Header::new(kind::IN, 8).as_bytes()).unwrap();
    memory.write(0x3010, &[status::UNSET]).unwrap();
    ring.chain(0, &[(0x3000, 16, 0), (0x4000, 512, WRITE), (0x3010, 1, WRITE)]).unwrap();
    ring.offer(&mut 0, 0).unwrap();
    let mut next = 0;
    let answered = (0..1000).any(|_| {
        home.turn();
        if let Some(token) = home.worker.token(QueueKey { session: key, index: 0 }) {
            home.worker.kick(token, home.now);
        }
        ring.take_used(&mut next).unwrap() == Some((0, 513))
    });
    let mut bytes = [0; 512];
    memory.read(0x4000, &mut bytes).unwrap();
    let mut byte = [0];
    memory.read(0x3010, &mut byte).unwrap();
    assert!(answered && byte == [status::OK] && bytes == [7; 512]);

    // The client goes, then the home.
    home.control.end(key);
    home.until(|event| matches!(event, Event::Ended(ended) if *ended == key));
    home.control.shut_down(home.now);
    home.until(|event| matches!(event, Event::ShutDown));
    assert_eq!(home.control.anomalies().count(), 0);
}
