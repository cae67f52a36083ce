//! A session whose memory holds its worker up is said, and goes on with a worker of its own.

use std::cell::Cell;
use std::time::Duration;

use nvme_core::server::control::{Config, Event, MemoryChange};
use nvme_core::server::message::About;
use nvme_core::server::worker::Split;
use nvme_mem::heap;
use nvme_platform::{Clock, Time};
use nvme_soft::faulty::{Action, Queue, When};
use nvme_soft::{Config as Soft, SoftHandle};

use crate::client::{Client, FLUSH, IN, OK, OUT, pattern, region};
use crate::rig::{MS, Rig, config, soft};

const WORDS: &[&str] = &["device=d0:n1"];

/// Each look at it is so much later than the last; each time that it is asked it says so much of what happened since.
struct Steps {
    now: Cell<Time>,
    step: Duration,
    lost: Cell<Duration>,
    loses: Duration,
    faults: Cell<u64>,
    brings: u64,
}

impl Steps {
    fn new(rig: &Rig, step: Duration, loses: Duration, brings: u64) -> Self {
        let (now, lost, faults) = (Cell::new(rig.now), Cell::default(), Cell::default());
        Self { now, step, lost, loses, faults, brings }
    }
}

impl Clock for Steps {
    fn now(&self) -> Time {
        self.now.set(self.now.get() + self.step);
        self.now.get()
    }

    fn preempted(&self) -> Duration {
        self.lost.set(self.lost.get() + self.loses);
        self.faults.set(self.faults.get() + self.brings);
        self.lost.get()
    }

    fn faults(&self) -> u64 {
        self.faults.get()
    }
}

fn reads(rig: &mut Rig, client: &mut Client, slots: std::ops::Range<u16>) {
    slots.for_each(|slot| client.ask(0, slot, IN, 0, Client::place(slot), 4096));
    rig.kick(client, 0);
}

#[test]
fn a_turn_that_memory_made_long_is_said_and_one_that_anything_else_did_is_not() {
    for (step, loses, brings, said) in [
        (2 * MS, Duration::ZERO, 1, true),
        (2 * MS, Duration::ZERO, 0, false),
        (2 * MS, 2 * MS, 1, false),
        (MS / 4, Duration::ZERO, 1, false),
    ] {
        for others in [false, true] {
            let mut rig = Rig::new(1);
            let mut client = rig.client(&["device=d0:n1", "read-only"]);
            let mut other = rig.client(&["device=d0:n1", "read-only"]);
            reads(&mut rig, &mut client, 0..1);
            if others {
                reads(&mut rig, &mut other, 0..1);
            }
            let clock = Steps::new(&rig, step, loses, brings);
            // Each has its turn.
            for _ in 0..4 {
                rig.workers[0].pass(clock.now.get(), &clock);
            }
            let all: Vec<_> = std::iter::from_fn(|| rig.workers[0].take_overrun()).collect();
            assert_eq!(all.iter().any(|(key, _)| *key == client.key), said, "{step:?} {brings} {all:?}");
            assert_eq!(all.iter().any(|(key, _)| *key == other.key), said && others);
        }
    }
}

#[test]
fn a_look_at_a_queue_without_work_is_said_once_passes_take_too_long() {
    let mut rig = Rig::new(1);
    let client = rig.client(WORDS);
    let clock = Steps::new(&rig, 2 * MS, Duration::ZERO, 1);
    for (pass, said) in [(0, None), (1, Some(client.key))] {
        rig.kick(&client, 0);
        rig.workers[0].pass(rig.now, &clock);
        assert_eq!(rig.workers[0].take_overrun().map(|(key, _)| key), said, "{pass}");
        rig.workers[0].took(rig.now, rig.now + 2 * MS);
    }
}

/// Each read takes two milliseconds, and memory has to be brought for it.
struct Slow {
    reads: SoftHandle,
    before: u64,
    since: Time,
}

impl Clock for Slow {
    fn now(&self) -> Time {
        self.since + 2 * MS * u32::try_from(self.faults()).unwrap()
    }

    fn faults(&self) -> u64 {
        self.reads.statistics().reads - self.before
    }
}

#[test]
fn long_turns_beside_a_queue_without_work_are_said_however_many_passes_lie_between_them() {
    let mut rig = Rig::new(1);
    let words = ["device=d0:n1", "read-only"];
    let (mut client, other) = (rig.client(&words), rig.client(&words));
    for round in 0..8 {
        // The time that pays for a long turn, in passes that are short because nobody has work.
        for _ in 0..20_000 {
            let now = rig.now + MS / 5000;
            rig.now = now;
            rig.workers[0].pass(now, &|| now);
        }
        let handle = rig.handles[0].clone();
        let clock = Slow { before: handle.statistics().reads, reads: handle, since: rig.now };
        // Whichever of them comes first: the other is looked at, and has nothing to do.
        rig.kick(&other, 0);
        reads(&mut rig, &mut client, round..round + 1);
        rig.workers[0].pass(rig.now, &clock);
        rig.now = clock.now();
        assert_eq!(client.used(0).len(), 1, "round {round}");
        if let Some((key, _)) = rig.workers[0].take_overrun() {
            assert_eq!(key, client.key);
            assert!(round < 2, "said after {round} more");
            return;
        }
    }
    panic!("it is never said: {:?}", rig.workers[0].waits());
}

#[test]
fn looks_that_take_long_end_the_pass() {
    let mut rig = Rig::new(1);
    let words = ["device=d0:n1", "read-only"];
    let clients = [rig.client(&words), rig.client(&words)];
    // All is measured.
    rig.workers[0].took(rig.now, rig.now + 2 * MS);
    for client in &clients {
        rig.kick(client, 0);
    }
    let clock = Steps::new(&rig, 2 * MS, Duration::ZERO, 1);
    rig.workers[0].pass(rig.now, &clock);
    let took = clock.now.get() - rig.now;
    assert!(took <= 4 * MS, "{took:?}");
}

#[test]
fn who_shares_a_queue_pair_stays_where_it_is() {
    let device = Soft { queues: 2, faults: None, ..soft("d0") };
    let mut rig = Rig::with(Config { queues: 64, ..config() }, vec![device]);
    let words = ["device=d0:n1", "read-only"];
    let (one, two) = (rig.client(&words), rig.client(&words));
    assert!(rig.workers[0].split_off(one.key).is_none() && rig.workers[0].split_off(two.key).is_none());
    rig.end(&two);
    assert!(rig.workers[0].split_off(one.key).is_some());
}

/// A session of the rig gets a worker of its own.
fn part(rig: &mut Rig, client: &Client) {
    let Split { worker, pair: (pair, _) } = rig.workers[0].split_off(client.key).unwrap();
    rig.workers.push(worker);
    rig.apart = Some((About::Session(client.key), About::Pair(pair)));
}

#[test]
fn what_is_under_way_goes_on_with_a_worker_of_its_own() {
    // What a command reads is 5 ms late.
    for late in [false, true] {
        let mut rig = Rig::new(1);
        let mut client = rig.client(WORDS);
        rig.serves(&mut client, 0, 7);
        if late {
            rig.inject(Queue::Any, 2, When::Nth(3), Action::Delay(5 * MS));
        }
        reads(&mut rig, &mut client, 0..20);
        if late {
            let now = rig.now;
            rig.workers[0].pass(now, &|| now);
        }
        part(&mut rig, &client);
        rig.answered(&mut client, 0, (0..20).collect());
        (0..20).for_each(|slot| assert_eq!(client.status(0, slot), OK, "{slot}"));
    }
}

#[test]
fn all_that_is_asked_of_a_session_is_asked_of_its_own_worker() {
    let mut rig = Rig::new(1);
    let mut client = rig.client(WORDS);
    rig.start(&mut client).unwrap();
    rig.step();
    part(&mut rig, &client);
    rig.ask_writes(&mut client, 0, 0..8, 1);
    rig.check_writes(&mut client, 0, 0..8, 1);
    client.ask(1, 0, FLUSH, 0, 0, 0);
    rig.kick(&client, 1);
    rig.answered(&mut client, 1, vec![0]);
    // Memory comes, is used, and goes.
    let (claim, file) = region(1 << 32, 8192, 99);
    let window = heap(8192).unwrap();
    rig.change(&client, &MemoryChange::Add(claim, file), |_| Some(window.clone())).unwrap();
    client.ask(0, 0, IN, 0, 1 << 32, 4096);
    rig.kick(&client, 0);
    rig.answered(&mut client, 0, vec![0]);
    let mut read = vec![0; 4096];
    window.read(0, &mut read).unwrap();
    assert_eq!(read, pattern(1, 4096));
    rig.change(&client, &MemoryChange::Remove(claim.guest, claim.user, claim.len), |_| None).unwrap();
    // Queues stop and start.
    rig.control.stop_queue(client.key, 1).unwrap();
    rig.expect("the stop", |e| matches!(e, Event::QueueStopped(key, 1, _) if *key == client.key));
    client.reset_ring(1);
    rig.restart(&client, 1).unwrap();
    rig.step();
    client.ask(1, 0, OUT, 0, Client::place(0), 4096);
    rig.kick(&client, 1);
    rig.answered(&mut client, 1, vec![0]);
    // A reset takes its pair, and gives it back.
    rig.handles[0].raise_fatal();
    rig.pass_time(Duration::from_secs(3));
    rig.serves(&mut client, 0, 3);
    // It ends, and the next one has its pair, where the others are.
    rig.end(&client);
    assert!(rig.apart.is_none() && rig.workers.len() == 2);
    assert!(rig.workers[1].take_pairs().is_empty());
    let mut next = rig.client(WORDS);
    rig.serves(&mut next, 0, 4);
}
