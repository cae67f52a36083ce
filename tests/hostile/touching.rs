//! Memory that takes long to be reached: its own client waits, and nobody else, but for once.
//!
//! Whoever touches a page that is being punched waits until the whole hole is there, so the client decides how long.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvme_client::message::protocol;
use nvme_client::{Client, Inflight, Io, Memory, Options, Segment, kind, memfd};
use rustix::fs::{FallocateFlags, fallocate};

use crate::rig::{Rig, Setup, WAIT, attack, attack_on};

/// Bytes of the memory that is punched: enough for a hole to take its time.
const LEN: u64 = 512 << 20;
/// Where it is.
const FAR: u64 = 1 << 40;
const ROUNDS: usize = 6;
const APART: &str = "it is served by a thread of its own from now on";

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Fills and punches a file until it is told to stop. How long the holes took.
fn punch(file: &OwnedFd, stop: &AtomicBool, took: &Mutex<Vec<Duration>>) {
    while !stop.load(Ordering::Relaxed) {
        fallocate(file, FallocateFlags::KEEP_SIZE, 0, LEN).unwrap();
        let start = Instant::now();
        fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, LEN).unwrap();
        took.lock().unwrap().push(start.elapsed());
    }
}

/// A client that reads one block after the other: how long each took.
fn watch(session: OwnedFd, stop: &AtomicBool) -> Vec<Duration> {
    let mut client = Client::from_fd(session, &Options { wait: WAIT, ..Options::default() }).unwrap();
    let (mut block, mut took) = ([0; 4096], Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        client.read(0, &mut block).unwrap();
        took.push(start.elapsed());
    }
    took
}

/// Lets an attack go on until its session has a thread of its own, then for some holes more. Another client finds them no
/// longer in its way.
fn holds_up_itself_only(rig: &Rig, file: &OwnedFd, attack: impl FnOnce(&AtomicBool) + Send) {
    let (stop, holes) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let count = || holes.lock().unwrap().len();
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| punch(file, &stop, &holes));
        scope.spawn(|| attack(&stop));
        rig.says(APART);
        let first = count();
        let session = rig.create(&["device=partlabel:before", "read-only"]);
        let watching = scope.spawn(|| watch(session, &stop));
        let deadline = Instant::now() + 6 * WAIT;
        while count() < first + ROUNDS {
            assert!(Instant::now() < deadline, "{} holes", count() - first);
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        let mut took = watching.join().unwrap();
        let mut holes = holes.lock().unwrap().split_off(first);
        took.sort();
        holes.sort();
        let (hole, last) = (holes[holes.len() / 2], &took[took.len().saturating_sub(4)..]);
        eprintln!("a hole takes {hole:?}; {} reads, the longest {last:?}", took.len());
        // Who waited for each of them waited as often; other programs want this machine, too.
        let waits = took.iter().filter(|took| **took > hole / 2).count();
        assert!(waits <= 1, "{waits} reads waited for half of {hole:?}: {last:?}");
        assert_eq!(rig.said().iter().filter(|line| line.contains(APART)).count(), 1, "{:?}", rig.said());
    });
}

#[test]
fn memory_that_is_punched_while_it_is_read_into_holds_up_its_own_session_only() {
    attack(|rig| {
        let file = memfd(LEN, false).unwrap();
        let mut memory = Memory::flat(0, 1 << 20).unwrap();
        let index = memory.add_file(file.try_clone().unwrap());
        memory.add_region(index, 0, FAR, LEN).unwrap();
        let options = Options { queue_size: 64, scratch: 4096, wait: WAIT, ..Options::default() };
        let session = rig.create(&["device=partlabel:attack"]);
        let mut client = Client::with_memory(session, memory, &options).unwrap();
        holds_up_itself_only(rig, &file, |stop| {
            let queue = &mut client.queues[0];
            let mut at = 0;
            while !stop.load(Ordering::Relaxed) {
                while queue.poll().unwrap().is_some() {}
                while queue.in_flight() < 16 {
                    let segments = [Segment { addr: FAR + at, len: 1 << 20 }];
                    at = (at + (1 << 20)) % LEN;
                    let io = Io { kind: kind::IN, sector: 0, segments: &segments, to_device: false };
                    queue.submit(io, 0).unwrap();
                }
                queue.publish().unwrap();
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        // It is served on: what it changes, stops and starts is its own thread's.
        let deadline = Instant::now() + WAIT;
        while client.queues[0].in_flight() > 0 {
            client.queues[0].next(Duration::ZERO, deadline).unwrap();
        }
        let mut block = [1; 4096];
        client.write(8, &block).unwrap();
        client.stop_queue(0).unwrap();
        client.restart_queue(0).unwrap();
        client.read(8, &mut block).unwrap();
        assert_eq!(block, [1; 4096]);
        drop(client);
        // The next one has the device, its queue pair, and a worker's time.
        let mut next = Client::from_fd(rig.create(&["device=partlabel:attack"]), &options).unwrap();
        next.read(8, &mut block).unwrap();
        assert_eq!(block, [1; 4096]);
    });
}

#[test]
fn rings_that_are_punched_while_they_are_looked_at_hold_up_their_own_session_only() {
    attack(|rig| {
        let file = memfd(LEN, false).unwrap();
        let mut memory = Memory::new();
        let index = memory.add_file(file.try_clone().unwrap());
        memory.add_region(index, 0, 0, LEN).unwrap();
        let options = Options { queue_size: 64, scratch: 4096, wait: WAIT, ..Options::default() };
        let session = rig.create(&["device=partlabel:attack"]);
        let client = Client::with_memory(session, memory, &options).unwrap();
        // Nothing is ever offered, so an empty ring is as good as one of holes.
        holds_up_itself_only(rig, &file, |stop| {
            while !stop.load(Ordering::Relaxed) {
                client.queues[0].kick().unwrap();
                std::thread::sleep(Duration::from_micros(100));
            }
        });
    });
}

/// A client all of whose memory is in that file, what it keeps of what is in flight included.
fn keeper(rig: &Rig, file: &OwnedFd) -> Client {
    let options = Options { queue_size: 64, scratch: 4096, wait: WAIT, ..Options::default() };
    let options = Options { protocol: options.protocol | protocol::INFLIGHT_SHMFD, ..options };
    let mut memory = Memory::new();
    let index = memory.add_file(file.try_clone().unwrap());
    memory.add_region(index, 0, 0, LEN / 2).unwrap();
    let session = rig.create(&["device=partlabel:attack"]);
    let mut client = Client::negotiate(session, memory, &options).unwrap();
    client.register().unwrap();
    let rings = (1, 64);
    let made = client.front.get_inflight(rings, 24).unwrap().expect("memory for what is in flight");
    let inflight = Inflight { offset: LEN / 2, file: file.try_clone().unwrap(), ..made };
    client.front.set_inflight(&inflight).unwrap();
    client.add_queue(0).unwrap();
    client
}

#[test]
fn rings_that_start_and_begin_anew_in_memory_that_is_punched_hold_up_nobody_who_asks_for_a_session() {
    attack(|rig| {
        let file = memfd(LEN, false).unwrap();
        let (stop, holes) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let mut client = keeper(rig, &file);
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            let (stop, holes) = (&stop, &holes);
            scope.spawn(|| punch(&file, stop, holes));
            let starts = scope.spawn(move || {
                let mut starts = 0;
                while !stop.load(Ordering::Relaxed) {
                    client.stop_queue(0).unwrap();
                    // What is kept of it is nothing any more.
                    client.front.get_inflight((1, 64), 24).unwrap();
                    client.restart_queue(0).unwrap();
                    starts += 1;
                }
                starts
            });
            let mut took = Vec::new();
            let deadline = Instant::now() + 6 * WAIT;
            let count = || holes.lock().unwrap().len();
            while count() < 4 * ROUNDS {
                assert!(Instant::now() < deadline, "{} holes", count());
                let start = Instant::now();
                drop(rig.create(&["device=partlabel:before", "read-only"]));
                took.push(start.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, Ordering::Relaxed);
            let starts = starts.join().unwrap();
            let mut holes = holes.lock().unwrap().clone();
            took.sort();
            holes.sort();
            let (hole, last) = (holes[holes.len() / 2], &took[took.len().saturating_sub(8)..]);
            eprintln!(
                "{starts} starts, a hole takes {hole:?}; {} sessions, the longest {last:?}",
                took.len()
            );
            assert!(starts > 1, "{starts}");
            // Who waited for some of them waited as often; other programs want this machine, too.
            let waits = took.iter().filter(|took| **took > hole / 2).count();
            assert!(waits <= 2, "{waits} sessions waited for half of {hole:?}: {last:?}");
        });
    });
}

#[test]
fn sessions_whose_memory_holds_others_up_come_and_go_and_leave_nothing() {
    attack(|rig| {
        let file = memfd(LEN, false).unwrap();
        let (stop, holes) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| punch(&file, &stop, &holes));
            // More of them than there are threads.
            for round in 0..18 {
                let mut memory = Memory::flat(0, 1 << 20).unwrap();
                let index = memory.add_file(file.try_clone().unwrap());
                memory.add_region(index, 0, FAR, LEN).unwrap();
                let options = Options { scratch: 4096, wait: WAIT, ..Options::default() };
                let session = rig.create(&["device=partlabel:attack"]);
                let mut client = Client::with_memory(session, memory, &options).unwrap();
                let said = |rig: &Rig| rig.said().iter().filter(|line| line.contains(APART)).count();
                let (before, deadline) = (said(rig), Instant::now() + WAIT);
                let mut at = 0;
                while said(rig) == before {
                    assert!(Instant::now() < deadline, "round {round}: {:?}", rig.said());
                    let segments = [Segment { addr: FAR + at, len: 64 << 10 }];
                    at = (at + (64 << 10)) % LEN;
                    client
                        .run(Io { kind: kind::IN, sector: 0, segments: &segments, to_device: false })
                        .unwrap();
                }
            }
        });
    });
}

#[test]
fn reads_into_memory_that_nobody_touched_leave_others_their_turns() {
    const FRESH: u64 = 2 << 30;
    attack(|rig| {
        let mut memory = Memory::flat(0, 1 << 20).unwrap();
        let index = memory.add_file(memfd(FRESH, false).unwrap());
        memory.add_region(index, 0, FAR, FRESH).unwrap();
        let options = Options { queue_size: 64, scratch: 4096, wait: WAIT, ..Options::default() };
        let session = rig.create(&["device=partlabel:attack"]);
        let mut client = Client::with_memory(session, memory, &options).unwrap();
        let stop = AtomicBool::new(false);
        let session = rig.create(&["device=partlabel:before", "read-only"]);
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            let watching = scope.spawn(|| watch(session, &stop));
            let queue = &mut client.queues[0];
            let (mut at, deadline) = (0, Instant::now() + 3 * WAIT);
            while at < FRESH || queue.in_flight() > 0 {
                while at < FRESH && queue.in_flight() < 16 {
                    let segments = [Segment { addr: FAR + at, len: 1 << 20 }];
                    at += 1 << 20;
                    let io = Io { kind: kind::IN, sector: 0, segments: &segments, to_device: false };
                    queue.submit(io, 0).unwrap();
                }
                queue.publish().unwrap();
                assert_eq!(queue.next(Duration::ZERO, deadline).unwrap().status, nvme_client::Status::Ok);
            }
            stop.store(true, Ordering::Relaxed);
            let mut took = watching.join().unwrap();
            took.sort();
            let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
            eprintln!("{} reads, median {median:?}, longest {worst:?}", took.len());
            assert!(median < Duration::from_millis(1), "{median:?}");
        });
    });
}

/// A memory cgroup with a limit. Gone with this value.
struct Limit(std::path::PathBuf);

impl Limit {
    /// `None` where there are none, or they are not ours to make.
    fn new(bytes: u64) -> Option<Self> {
        let dir = |root: &str| std::path::Path::new(root).join(format!("nvme-test-{}", std::process::id()));
        for (root, file) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let limit = Self(dir(root));
            if std::fs::create_dir(&limit.0).is_ok()
                && std::fs::write(limit.0.join(file), bytes.to_string()).is_ok()
            {
                return Some(limit);
            }
        }
        None
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let deadline = Instant::now() + WAIT;
        while std::fs::remove_dir(&self.0).is_err() && self.0.is_dir() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_memory_limit_of_what_all_sessions_may_register_and_64_mib_is_enough() {
    const MIB: u64 = 1 << 20;
    const EACH: u64 = 48 * MIB;
    let Some(limit) = Limit::new(64 * MIB + 3 * EACH) else {
        eprintln!("skipped: no memory cgroup can be made here");
        return;
    };
    let procs = limit.0.join("cgroup.procs");
    let starter = format!("echo $$ > {} && exec \"$0\" \"$@\"", procs.display());
    let starter: &'static [&'static str] = vec!["sh", "-c", starter.leak()].leak();
    let arguments = ["--mem-max", "48M", "--sessions-max", "3"].map(String::from).to_vec();
    attack_on(Setup { arguments, starter, ..Setup::default() }, |rig| {
        let options = Options { scratch: 4096, wait: WAIT, ..Options::default() };
        let client = |len: u64| {
            let mut memory = Memory::flat(0, MIB).unwrap();
            let index = memory.add_file(memfd(len, false).unwrap());
            memory.add_region(index, 0, FAR, len).unwrap();
            Client::with_memory(rig.create(&["device=partlabel:before", "read-only"]), memory, &options)
        };
        assert!(client(EACH).is_err(), "one page more than a session may have");
        let mut clients: Vec<_> = (0..2).map(|_| client(EACH - MIB).unwrap()).collect();
        for client in &mut clients {
            for at in (0..EACH - MIB).step_by(MIB as usize) {
                let segments = [Segment { addr: FAR + at, len: MIB as u32 }];
                client.run(Io { kind: kind::IN, sector: 0, segments: &segments, to_device: false }).unwrap();
            }
        }
        let held = |client: &Client| rustix::fs::fstat(client.memory.file(1).unwrap().as_fd()).unwrap();
        for client in &clients {
            assert!(held(client).st_blocks as u64 * 512 >= EACH - MIB, "all of it was touched");
        }
    });
    drop(limit);
}
