//! A worker's time is shared by group and by session, whatever their requests cost: in simulated time, in which a command takes
//! a microsecond, and each of its bytes an eighth of a nanosecond.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use nvme_core::server::control::{Config, Event, MemoryChange};
use nvme_core::server::message::SessionKey;
use nvme_core::server::worker::Worker;
use nvme_platform::{Clock, Time};
use nvme_policy::{FactoryRequest, SessionRequest, Trusted};
use nvme_session::dataspace::{Claim, File, FileId};
use nvme_session::factory::FactoryId;
use nvme_soft::{Config as Soft, MemoryMedium, NamespaceConfig, SoftHandle};

use crate::client::{Client, FLUSH, IN, IOERR, OK, region};
use crate::rig::{MS, Rig, config, policy, soft};

/// What a command takes.
const COMMAND: Duration = Duration::from_micros(1);
/// Where regions of their own begin.
const FAR: u64 = 1 << 32;

/// Two queue pairs: one for the scan and one for all sessions.
fn one_pair() -> Soft {
    Soft { queues: 2, faults: None, ..soft("d0") }
}

/// The same with a disk of so many bytes, most of which nobody touches.
fn one_pair_of(bytes: usize) -> Soft {
    let disk = Arc::new(MemoryMedium::new(bytes).unwrap());
    Soft { namespaces: vec![NamespaceConfig::new(disk)], ..one_pair() }
}

fn rig(device: Soft) -> Rig {
    Rig::with(Config { queues: 64, ..config() }, vec![device])
}

/// What the controller did so far, as time.
fn spent(handle: &SoftHandle) -> Duration {
    let all = handle.statistics();
    COMMAND * (all.reads + all.writes) as u32 + Duration::from_nanos((all.bytes_read + all.bytes_written) / 8)
}

/// A client that always has so many requests on each of its queues.
struct Load {
    client: Client,
    /// Bytes of each request.
    len: u32,
    at: u64,
    depth: u16,
    done: u64,
}

impl Load {
    fn new(client: Client, at: u64, len: u32, depth: u16) -> Self {
        Self { client, len, at, depth, done: 0 }
    }

    /// Of 4 KiB, on queues that are full.
    fn small(client: Client) -> Self {
        Self::new(client, Client::place(0), 4096, 60)
    }

    fn ask(&mut self, queue: usize, slot: u16) {
        self.client.ask(queue, slot, IN, 0, self.at, self.len);
    }

    fn start(&mut self, rig: &mut Rig) {
        for queue in 0..self.client.rings.len() {
            (0..self.depth).for_each(|slot| self.ask(queue, slot));
            rig.kick(&self.client, queue);
        }
    }

    fn refill(&mut self) {
        for queue in 0..self.client.rings.len() {
            for slot in self.client.used(queue) {
                self.done += 1;
                self.ask(queue, slot);
            }
        }
    }

    /// What its requests took.
    fn time(&self) -> Duration {
        COMMAND * self.done as u32 + Duration::from_nanos(self.done * u64::from(self.len) / 8)
    }
}

/// Passes until so much time has gone by. How much did.
fn contend(rig: &mut Rig, loads: &mut [Load], time: Duration) -> Duration {
    loads.iter_mut().for_each(|load| load.start(rig));
    let (start, before) = (rig.now, spent(&rig.handles[0]));
    let handle = rig.handles[0].clone();
    let clock = || start + (spent(&handle) - before);
    for _ in 0..1_000_000 {
        rig.now = clock();
        if rig.now - start >= time {
            break;
        }
        rig.workers[0].pass(rig.now, &clock);
        loads.iter_mut().for_each(Load::refill);
    }
    rig.now - start
}

fn many_queues(rig: &mut Rig, words: &[&str], queues: usize) -> Client {
    let mut client = rig.client(words);
    (1..queues).for_each(|_| rig.start(&mut client).unwrap());
    client
}

/// Whether so much of the whole is about a half.
fn is_half(part: Duration, all: Duration) -> bool {
    part * 20 >= all * 9 && part * 20 <= all * 11
}

#[test]
fn sixty_four_queues_have_the_same_share_as_one() {
    let mut rig = rig(one_pair());
    let many = many_queues(&mut rig, &["device=d0:n1", "read-only"], 64);
    let one = rig.client(&["device=d0:n1", "read-only"]);
    rig.step();
    let mut loads = [Load::small(many), Load::small(one)];
    let all = contend(&mut rig, &mut loads, 50 * MS);
    assert!(is_half(loads[1].time(), all), "{:?} of {all:?}", loads[1].time());
}

#[test]
fn what_messages_take_is_paid_for_by_the_session_that_they_are_about() {
    let mut rig = rig(one_pair());
    let words = ["device=d0:n1", "read-only"];
    let (talks, other) = (rig.client(&words), rig.client(&words));
    rig.step();
    let talker = talks.key;
    let mut loads = [Load::small(talks), Load::small(other)];
    loads.iter_mut().for_each(|load| load.start(&mut rig));
    let (start, handle) = (rig.now, rig.handles[0].clone());
    let (before, talked) = (spent(&handle), Cell::new(Duration::ZERO));
    let clock = || start + (spent(&handle) - before) + talked.get();
    while clock() - start < 50 * MS {
        let began = clock();
        talked.set(talked.get() + MS / 40);
        rig.workers[0].heard(talker, began, clock(), &clock);
        rig.workers[0].pass(clock(), &clock);
        loads.iter_mut().for_each(Load::refill);
    }
    let (all, talked) = (clock() - start, talked.get());
    assert!(talked * 20 > all, "{talked:?} of {all:?} is too little to be seen");
    assert!(is_half(loads[1].time(), all), "{:?} of {all:?}", loads[1].time());
    assert!(is_half(loads[0].time() + talked, all), "{:?} and {talked:?} of {all:?}", loads[0].time());
}

#[test]
fn of_very_many_queues_without_work_some_are_let_sleep_in_a_pass() {
    let mut rig = rig(one_pair());
    let clients: Vec<_> =
        (0..12).map(|_| many_queues(&mut rig, &["device=d0:n1", "read-only"], 64)).collect();
    rig.step();
    for client in &clients {
        (0..64).for_each(|queue| rig.kick(client, queue));
    }
    // Who wants to be kicked says so in its used ring.
    let asleep = || {
        let wants =
            |client: &Client, queue: usize| client.memory.load16(0x8000 * queue + 0x2000).unwrap() == 0;
        clients.iter().map(|client| (0..64).filter(|queue| wants(client, *queue)).count()).sum::<usize>()
    };
    let pass = |rig: &mut Rig, time: Duration| {
        rig.now = rig.now + time;
        let now = rig.now;
        rig.workers[0].pass(now, &|| now);
    };
    (0..12).for_each(|_| pass(&mut rig, Duration::ZERO));
    assert_eq!(asleep(), 0, "all of them have turns");
    pass(&mut rig, 10 * MS);
    assert!((512..576).contains(&asleep()), "{}", asleep());
    pass(&mut rig, 2 * MS);
    assert_eq!(asleep(), 768);
}

/// A client with a region of so many bytes apart.
fn with_region(rig: &mut Rig, words: &[&str], len: u64) -> Client {
    let client = rig.client(words);
    let (claim, file) = region(FAR, len, 1000);
    let window = nvme_mem::heap(len as usize).unwrap();
    rig.change(&client, &MemoryChange::Add(claim, file), |_| Some(window.clone())).unwrap();
    client
}

#[test]
fn a_request_of_256_mib_holds_up_no_request_of_4_kib() {
    const LARGE: u32 = 256 << 20;
    let mut rig = rig(one_pair_of(LARGE as usize));
    let large = with_region(&mut rig, &["device=d0:n1", "read-only"], LARGE.into());
    let small = rig.client(&["device=d0:n1", "read-only"]);
    rig.step();
    let mut loads = [Load::new(large, FAR, LARGE, 32), Load::small(small)];
    let all = contend(&mut rig, &mut loads, 10 * MS);
    assert_eq!(loads[0].done, 0, "it takes longer than that");
    assert!(is_half(loads[1].time(), all), "{:?} of {all:?}", loads[1].time());
    // What came of it is known at the end.
    let mut slots = vec![0];
    for _ in 0..1_000_000 {
        rig.workers[0].pass(rig.now, &|| rig.now);
        slots.retain(|slot| !loads[0].client.used(0).contains(slot));
        if slots.is_empty() {
            break;
        }
    }
    assert_eq!(loads[0].client.status(0, 0), OK);
}

/// A request of many buffers over all of 480 regions of a page each: more than it may have.
fn ask_for_too_much(client: &mut Client, queue: usize) {
    client.ask_chain(queue, IN, 0, &[(FAR, 480 * 4096); BUFFERS]);
}

const BUFFERS: usize = 240;

#[test]
fn requests_that_are_refused_are_paid_for() {
    const QUEUES: usize = 32;
    let mut rig = rig(one_pair_of(512 << 20));
    let mut odd = many_queues(&mut rig, &["device=d0:n1", "read-only"], QUEUES);
    for page in 0..480 {
        let at = FAR + page * 4096;
        let claim = Claim { guest: at, user: at, len: 4096, offset: page * 4096 };
        let file = File {
            id: FileId(1, 2000),
            size: 480 * 4096,
            writable: true,
            memory: true,
            trusted: nvme_policy::Dataspaces::NONE,
        };
        let window = nvme_mem::heap(4096).unwrap();
        rig.change(&odd, &MemoryChange::Add(claim, file), |_| Some(window.clone())).unwrap();
    }
    // As many requests as two turns of others give it time for.
    let good = many_queues(&mut rig, &["device=d0:n1", "read-only"], 4);
    rig.step();
    let mut load = Load::small(good);
    load.start(&mut rig);
    for queue in 0..QUEUES {
        ask_for_too_much(&mut odd, queue);
        rig.kick(&odd, queue);
    }
    let mut refused = 0;
    for _ in 0..2000 {
        // The time stands still: what counts is how much was gone through.
        let now = rig.now;
        rig.workers[0].pass(now, &|| now);
        load.refill();
        for queue in 0..QUEUES {
            if !odd.used(queue).is_empty() {
                refused += 1;
                assert_eq!(odd.status(queue, 0), IOERR);
                ask_for_too_much(&mut odd, queue);
            }
        }
    }
    // Each descriptor is gone through twice at most, and sixteen are as much as a request.
    let each = BUFFERS as u64 / 16;
    assert!(refused > 100 && load.done > each * refused, "{} beside {refused} that were refused", load.done);
}

/// A session of a static client's.
fn static_client(rig: &mut Rig, words: &[&str]) -> SessionKey {
    let client = policy(words);
    rig.control.catalogue_mut().reserve(&client).unwrap();
    rig.control.create(&client, true).unwrap()
}

#[test]
fn a_group_of_sixty_four_sessions_has_the_same_share_as_a_group_of_one() {
    let mut rig = rig(one_pair());
    let key = static_client(&mut rig, &["device=d0:n1", "read-only"]);
    let one = rig.client_of(key);
    let mut loads: Vec<_> =
        (0..64).map(|_| Load::small(rig.client(&["device=d0:n1", "read-only"]))).collect();
    loads.push(Load::small(one));
    rig.step();
    let all = contend(&mut rig, &mut loads, 100 * MS);
    let one = loads.pop().unwrap();
    assert!(is_half(one.time(), all), "{:?} of {all:?}", one.time());
    let done: Vec<u64> = loads.iter().map(|load| load.done).collect();
    let (least, most) = (done.iter().min().unwrap(), done.iter().max().unwrap());
    assert!(*least > 0 && most - least <= least / 4 + 64, "and in it all have the same: {done:?}");
}

/// A factory at another, and a session of it.
fn delegate(rig: &mut Rig, at: FactoryId, words: &[&str]) -> FactoryId {
    let asked = FactoryRequest::from_words(words.iter().copied(), &Trusted::NONE).unwrap();
    rig.control.delegate(at, &asked).unwrap()
}

fn minted(rig: &mut Rig, at: FactoryId) -> Load {
    let asked = SessionRequest::from_words(["device=d0:n1", "read-only"], &Trusted::NONE).unwrap();
    let key = rig.control.create_at(at, &asked).unwrap();
    Load::small(rig.client_of(key))
}

#[test]
fn factories_have_the_same_share_whatever_they_and_those_below_them_minted() {
    let mut rig = rig(one_pair());
    let tenant = |rig: &mut Rig, at| delegate(rig, at, &["device=d0:n1", "read-only", "factories=1"]);
    let many = tenant(&mut rig, FactoryId::SERVER);
    let below = delegate(&mut rig, many, &["device=d0:n1", "read-only"]);
    let few = tenant(&mut rig, FactoryId::SERVER);
    let mut loads: Vec<_> =
        (0..64).map(|at| minted(&mut rig, if at % 2 == 0 { many } else { below })).collect();
    loads.push(minted(&mut rig, few));
    // One of the server's own factory's, which is a group as well.
    loads.push(minted(&mut rig, FactoryId::SERVER));
    rig.step();
    let all = contend(&mut rig, &mut loads, 100 * MS);
    for one in loads.split_off(64) {
        let part = one.time();
        assert!(part * 60 >= all * 17 && part * 60 <= all * 23, "about a third: {part:?} of {all:?}");
    }
    let done: Vec<u64> = loads.iter().map(|load| load.done).collect();
    let (least, most) = (done.iter().min().unwrap(), done.iter().max().unwrap());
    assert!(*least > 0 && most - least <= least / 4 + 64, "wherever they were minted: {done:?}");
}

#[test]
fn who_is_held_back_has_turns_again_soon_and_at_once_when_nobody_else_has_work() {
    for others in [false, true] {
        let mut rig = rig(one_pair());
        let mut slow = rig.client(&["device=d0:n1", "read-only"]);
        let mut other = Load::small(rig.client(&["device=d0:n1", "read-only"]));
        rig.step();
        let handle = rig.handles[0].clone();
        let (start, before, lost) = (rig.now, spent(&handle), Cell::new(Duration::ZERO));
        let clock = || -> Time { start + (spent(&handle) - before) + lost.get() };
        slow.ask(0, 0, IN, 0, Client::place(0), 4096);
        rig.kick(&slow, 0);
        // The turn takes a second: memory that is not there, say.
        rig.workers[0].pass(rig.now, &|| {
            lost.set(Duration::from_secs(1));
            clock()
        });
        assert_eq!(slow.used(0), [0]);
        rig.now = clock();
        if others {
            other.start(&mut rig);
        }
        slow.ask(0, 1, IN, 0, Client::place(0), 4096);
        rig.kick(&slow, 0);
        let (asked, mut passes) = (rig.now, 0);
        while slow.used(0).is_empty() {
            rig.now = clock();
            rig.workers[0].pass(rig.now, &clock);
            other.refill();
            passes += 1;
            assert!(rig.now - asked < 10 * MS, "it is not served");
        }
        assert_eq!(passes == 1, !others, "{passes} passes beside others: {others}");
        assert!(!others || other.time() > MS, "others have what it owes: {:?}", other.time());
        let longest = rig.workers[0].waits().longest;
        assert!(longest < 10 * MS && (longest > MS) == others, "{longest:?}");
    }
}

#[test]
fn a_pass_ends_though_many_groups_have_work_without_end() {
    let mut rig = rig(one_pair());
    let keys: Vec<_> = (0..40).map(|_| static_client(&mut rig, &["device=d0:n1", "read-only"])).collect();
    let mut loads: Vec<_> = keys.into_iter().map(|key| Load::small(rig.client_of(key))).collect();
    rig.step();
    loads.iter_mut().for_each(|load| load.start(&mut rig));
    let handle = rig.handles[0].clone();
    let (start, before) = (rig.now, spent(&handle));
    let clock = || start + (spent(&handle) - before);
    let mut longest = Duration::ZERO;
    while rig.now - start < 20 * MS {
        let begin = clock();
        rig.workers[0].pass(begin, &clock);
        rig.now = clock();
        longest = longest.max(rig.now - begin);
        loads.iter_mut().for_each(Load::refill);
    }
    assert!(longest <= Duration::from_micros(250), "{longest:?}");
    let done: Vec<u64> = loads.iter().map(|load| load.done).collect();
    let (least, most) = (done.iter().min().unwrap(), done.iter().max().unwrap());
    assert!(*least > 0 && most - least <= least / 4 + 64, "{done:?}");
}

/// A worker that waits for others, as one does that polls.
fn patient(devices: Vec<Soft>) -> Rig {
    let mut rig = Rig::raw(Config { queues: 64, ..config() }, devices);
    rig.workers = vec![Worker::new(Duration::from_micros(32))];
    rig.expect("the scan", |e| matches!(e, Event::Scanned));
    rig
}

#[test]
fn one_request_at_a_time_has_half_beside_long_turns_though_it_takes_time_to_ask_for_the_next() {
    /// What one request of the other takes, which nobody can interrupt.
    const LONG: Duration = Duration::from_micros(60);
    /// What the client takes from an answer to the next request.
    const THINK: Duration = Duration::from_micros(8);
    let mut rig = patient(vec![one_pair(), Soft { serial: "d1".into(), ..one_pair() }]);
    let mut slow = rig.client(&["device=d1:n1"]);
    let mut quick = rig.client(&["device=d0:n1", "read-only"]);
    rig.step();
    let handles = rig.handles.clone();
    let (start, before) = (rig.now, spent(&handles[0]));
    let flushes = handles[1].statistics().flushes;
    let idle = Cell::new(Duration::ZERO);
    let clock = || -> Time {
        let long = LONG * (handles[1].statistics().flushes - flushes) as u32;
        start + (spent(&handles[0]) - before) + long + idle.get()
    };
    let mut ask_at = Some(start);
    let mut done = 0;
    for slot in 0..32 {
        slow.ask(0, slot, FLUSH, 0, 0, 0);
    }
    rig.kick(&slow, 0);
    while rig.now - start < 20 * MS {
        if ask_at.is_some_and(|at| at <= rig.now) {
            ask_at = None;
            quick.ask(0, 0, IN, 0, Client::place(0), 4096);
            rig.kick(&quick, 0);
        }
        let begin = clock();
        rig.workers[0].pass(begin, &clock);
        if clock() == begin {
            idle.set(idle.get() + Duration::from_nanos(500));
        }
        rig.now = clock();
        if !quick.used(0).is_empty() {
            done += 1;
            ask_at = Some(rig.now + THINK);
        }
        for slot in slow.used(0) {
            slow.ask(0, slot, FLUSH, 0, 0, 0);
        }
    }
    // Alone it would have had 20 ms of requests of 9.5 µs each.
    let (alone, long) = (20_000_000 / 9_500, handles[1].statistics().flushes - flushes);
    assert!(done * 5 >= alone * 2, "{done} of {alone} requests, beside {long}");
    assert!(LONG * long as u32 >= 5 * MS, "the other has something, too: {long}");
}

#[test]
fn commands_are_short_while_others_have_work() {
    const LEN: u32 = 1 << 20;
    let mut rig = rig(one_pair());
    let mut large = with_region(&mut rig, &["device=d0:n1", "read-only"], LEN.into());
    let mut small = Load::small(rig.client(&["device=d0:n1", "read-only"]));
    rig.step();
    let mut commands = |rig: &mut Rig, small: Option<&mut Load>| {
        let (reads, mut small) = (rig.handles[0].statistics().reads, small);
        let others = small.as_ref().map_or(0, |small| small.done);
        large.ask(0, 0, IN, 0, FAR, LEN);
        rig.kick(&large, 0);
        for _ in 0..100_000 {
            rig.workers[0].pass(rig.now, &|| rig.now);
            if let Some(small) = &mut small {
                small.refill();
            }
            if !large.used(0).is_empty() {
                break;
            }
        }
        assert_eq!(large.status(0, 0), OK);
        // Those whose answers were not taken yet are in flight, on one queue.
        let others = small.map_or(0, |small| small.done) - others;
        rig.handles[0].statistics().reads - reads - others
    };
    assert_eq!(commands(&mut rig, None), 8, "128 KiB each");
    small.start(&mut rig);
    let beside = commands(&mut rig, Some(&mut small));
    assert!((120..=190).contains(&beside), "8 KiB each: {beside}");
}

/// A clock that says for how long the host had other programs run.
struct Interrupted<'a> {
    now: &'a dyn Fn() -> Time,
    preempted: &'a Cell<Duration>,
}

impl Clock for Interrupted<'_> {
    fn now(&self) -> Time {
        (self.now)()
    }

    fn preempted(&self) -> Duration {
        self.preempted.get()
    }
}

#[test]
fn nobody_pays_for_the_time_in_which_the_host_ran_something_else() {
    let mut rig = rig(one_pair());
    let mut loads = [
        Load::small(rig.client(&["device=d0:n1", "read-only"])),
        Load::small(rig.client(&["device=d0:n1", "read-only"])),
    ];
    rig.step();
    loads.iter_mut().for_each(|load| load.start(&mut rig));
    let (handle, start) = (rig.handles[0].clone(), rig.now);
    let (before, lost, done) = (spent(&handle), Cell::new(Duration::ZERO), Cell::new(0));
    let now = || {
        let reads = handle.statistics().reads;
        // Each third turn is interrupted for a millisecond: always the same one's, or not, as it happens.
        if reads >= done.get() + 24 {
            done.set(reads);
            lost.set(lost.get() + MS);
        }
        start + (spent(&handle) - before) + lost.get()
    };
    let clock = Interrupted { now: &now, preempted: &lost };
    while spent(&handle) - before < 20 * MS {
        rig.now = now();
        rig.workers[0].pass(rig.now, &clock);
        loads.iter_mut().for_each(Load::refill);
    }
    assert!(lost.get() > 100 * MS, "{:?}", lost.get());
    let all = loads[0].time() + loads[1].time();
    assert!(is_half(loads[0].time(), all), "{:?} of {all:?}", loads[0].time());
}
