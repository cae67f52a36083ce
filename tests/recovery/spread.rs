//! Virtqueues of one session on several workers.

use std::time::Duration;

use nvme_core::server::control::{Config, Drained, Event, InForce, MemoryChange};
use nvme_core::server::message::{FromWorker, QueueKey, ToWorker};
use nvme_platform::Time;
use nvme_platform::fake::FakeNotify;
use nvme_soft::faulty::{Action, Queue, When};

use crate::client::{Client, GUEST, IN, LEN, OK, PENDING, SLOTS};
use crate::rig::{MS, Rig, SECOND, config, soft};

/// Two workers that share their work, and a session with so many queues.
fn shared(queues: usize) -> (Rig, Client) {
    let mut rig = Rig::with(Config { workers: 2, ..config() }, vec![soft("d0")]);
    rig.workers.iter_mut().for_each(|worker| worker.share_work());
    let mut client = rig.client(&["device=d0:n1"]);
    (1..queues).for_each(|_| rig.start(&mut client).unwrap());
    rig.step();
    (rig, client)
}

fn key(client: &Client, index: u16) -> QueueKey {
    QueueKey { session: client.key, index }
}

fn at(rig: &Rig, client: &Client, index: u16) -> Option<usize> {
    rig.control.session(client.key).unwrap().worker_of(index)
}

fn home(rig: &Rig, client: &Client) -> usize {
    rig.control.session(client.key).unwrap().worker()
}

/// Two queues of a session, the second of them on the other worker.
fn apart() -> (Rig, Client) {
    let (mut rig, client) = shared(2);
    let from = home(&rig, &client);
    rig.control.from_worker(from, FromWorker::Crowded(key(&client, 1)), rig.now);
    rig.step();
    assert_eq!((at(&rig, &client, 0), at(&rig, &client, 1)), (Some(from), Some(1 - from)));
    (rig, client)
}

/// As in [`apart`], but the message with which the second queue leaves its worker is held up: control waits for it.
fn leaving() -> (Rig, Client, Vec<FromWorker>) {
    let (mut rig, client) = shared(2);
    let from = home(&rig, &client);
    rig.control.from_worker(from, FromWorker::Crowded(key(&client, 1)), rig.now);
    let mut said = Vec::new();
    for _ in 0..10 {
        rig.control.poll(rig.now);
        while let Some((worker, message)) = rig.control.take_message() {
            rig.workers[worker].handle(message, rig.now);
        }
        let now = rig.now;
        rig.workers[from].pass(now, &|| now);
        said.extend(std::iter::from_fn(|| rig.workers[from].take_message()));
    }
    let gives = |m: &FromWorker| matches!(m, FromWorker::GivenBack(k, Some(_)) if *k == key(&client, 1));
    assert!(said.iter().any(gives), "it came back");
    (rig, client, said)
}

fn hear(rig: &mut Rig, client: &Client, said: Vec<FromWorker>) {
    let from = home(rig, client);
    said.into_iter().for_each(|message| rig.control.from_worker(from, message, rig.now));
}

#[test]
fn two_busy_queues_use_two_workers_and_gather_on_one_when_they_idle() {
    let (mut rig, mut client) = shared(3);
    let from = home(&rig, &client);
    let (mut answers, mut asked) = (0, 0);
    for round in 0..1500 {
        // The third has nothing to do.
        for queue in 0..2 {
            for slot in client.used(queue) {
                assert_eq!(client.status(queue, slot), OK);
                answers += 1;
                client.ask(queue, slot, IN, u64::from(slot) * 8, Client::place(slot), 512);
                asked += 1;
            }
            if round == 0 {
                for slot in 0..8 {
                    client.ask(queue, slot, IN, u64::from(slot) * 8, Client::place(slot), 512);
                    asked += 1;
                }
                rig.kick(&client, queue);
            }
        }
        // One pass of each, fifty microseconds long.
        rig.control.poll(rig.now);
        while let Some((worker, message)) = rig.control.take_message() {
            rig.workers[worker].handle(message, rig.now);
        }
        for worker in 0..2 {
            let now = rig.now;
            rig.workers[worker].pass(now, &|| now);
            while let Some(message) = rig.workers[worker].take_message() {
                rig.control.from_worker(worker, message, rig.now);
            }
        }
        rig.now = rig.now + Duration::from_micros(50);
    }
    let places: Vec<_> = (0..3).map(|queue| at(&rig, &client, queue)).collect();
    assert_eq!(places.iter().flatten().filter(|place| **place == from).count(), 2, "{places:?}");
    assert_eq!(at(&rig, &client, 2), Some(from), "who has nothing to do stays");
    rig.step();
    answers += (0..2).map(|queue| client.used(queue).len()).sum::<usize>();
    assert_eq!(answers, asked, "each is answered, and once");
    rig.pass_time(4 * SECOND);
    let places: Vec<_> = (0..3).map(|queue| at(&rig, &client, queue)).collect();
    assert_eq!(places, [Some(from); 3]);
    (0..3).for_each(|queue| rig.serves(&mut client, queue, 7 + queue as u64));
    rig.end(&client);
}

#[test]
fn one_queue_stays_and_so_do_two_where_the_other_worker_is_busy() {
    let (mut rig, one) = shared(1);
    let from = home(&rig, &one);
    rig.control.from_worker(from, FromWorker::Crowded(key(&one, 0)), rig.now);
    rig.step();
    assert_eq!(at(&rig, &one, 0), Some(from));
    let (mut rig, two) = shared(2);
    rig.control.from_worker(1 - from, FromWorker::Busy(true), rig.now);
    rig.control.from_worker(from, FromWorker::Crowded(key(&two, 1)), rig.now);
    rig.step();
    assert_eq!(at(&rig, &two, 1), Some(from));
    rig.control.from_worker(1 - from, FromWorker::Busy(false), rig.now);
    rig.control.from_worker(from, FromWorker::Crowded(key(&two, 1)), rig.now);
    rig.step();
    assert_eq!(at(&rig, &two, 1), Some(1 - from));
}

#[test]
fn who_others_need_the_time_of_goes_home_and_stays_a_while() {
    let (mut rig, client) = apart();
    let from = home(&rig, &client);
    rig.control.from_worker(1 - from, FromWorker::GoHome(key(&client, 1), true), rig.now);
    rig.step();
    assert_eq!(at(&rig, &client, 1), Some(from));
    let crowded = |rig: &mut Rig| {
        rig.control.from_worker(from, FromWorker::Crowded(key(&client, 1)), rig.now);
        rig.step();
        at(rig, &client, 1)
    };
    assert_eq!(crowded(&mut rig), Some(from));
    rig.pass_time(6 * SECOND);
    assert_eq!(crowded(&mut rig), Some(1 - from));
}

#[test]
fn pairs_are_left_for_sessions_that_come() {
    // One of them is for what control reads.
    for (queues, goes) in [(3, false), (4, true)] {
        let mut device = soft("d0");
        device.queues = queues;
        let mut rig = Rig::with(Config { workers: 2, ..config() }, vec![device]);
        let mut client = rig.client(&["device=d0:n1", "read-only"]);
        rig.start(&mut client).unwrap();
        rig.step();
        let from = home(&rig, &client);
        rig.control.from_worker(from, FromWorker::Crowded(key(&client, 1)), rig.now);
        rig.step();
        assert_eq!(at(&rig, &client, 1), Some(if goes { 1 - from } else { from }), "{queues}");
        let mut other = rig.client(&["device=d0:n1", "read-only"]);
        rig.inject(Queue::AnyIo, 0x02, When::First(1), Action::Delay(3 * SECOND));
        client.ask(0, 0, IN, 0, Client::place(0), 4096);
        rig.kick(&client, 0);
        rig.step();
        other.ask(0, 0, IN, 0, Client::place(0), 4096);
        assert_eq!(rig.status(&mut other, 0, 0), OK);
    }
}

#[test]
fn memory_is_gone_when_no_worker_has_anything_of_it_in_flight() {
    let (mut rig, mut client) = apart();
    rig.inject(Queue::AnyIo, 0x02, When::First(2), Action::Delay(2 * SECOND));
    for queue in 0..2 {
        client.ask(queue, 0, IN, 0, Client::place(0), 4096);
        rig.kick(&client, queue);
    }
    rig.step();
    let begun = rig.now;
    rig.inject(Queue::AnyIo, 0x02, When::First(1), Action::Delay(SECOND));
    rig.change(&client, &MemoryChange::Remove(GUEST, GUEST, LEN), |_| None).unwrap();
    assert!(rig.now - begun >= 2 * SECOND, "both were waited for: {:?}", rig.now - begun);
    assert!((0..2).all(|queue| client.status(queue, 0) == OK));
}

#[test]
fn what_is_said_of_a_session_is_done_when_all_its_workers_have_done_it() {
    let (mut rig, mut client) = apart();
    // The cache mode: nothing but the answer of both is the answer.
    let from = home(&rig, &client);
    assert_eq!(rig.control.write_config(client.key, 32, &[0]), Ok(InForce::Later));
    let messages: Vec<(usize, ToWorker)> = std::iter::from_fn(|| rig.control.take_message()).collect();
    let told = |worker| messages.iter().filter(|(w, _)| *w == worker).count();
    assert_eq!((told(0), told(1)), (1, 1));
    rig.control.from_worker(from, FromWorker::WriteBackSet(client.key), rig.now);
    assert!(rig.control.take_event().is_none());
    rig.control.from_worker(1 - from, FromWorker::WriteBackSet(client.key), rig.now);
    assert!(matches!(rig.control.take_event(), Some(Event::WriteBackSet(_))));
    messages.into_iter().for_each(|(worker, message)| rig.workers[worker].handle(message, rig.now));
    (0..2).for_each(|worker| while rig.workers[worker].take_message().is_some() {});

    // Draining: quiet is who has nothing in flight anywhere.
    rig.inject(Queue::AnyIo, 0x02, When::First(1), Action::Delay(4 * SECOND));
    client.ask(1, 0, IN, 0, Client::place(0), 4096);
    rig.kick(&client, 1);
    rig.step();
    assert_eq!(rig.control.drain(Drained::All), [client.key]);
    rig.pass_time(100 * MS);
    assert!(!rig.said(|e| matches!(e, Event::Held(_))));
    client.ask(0, 0, IN, 0, Client::place(1), 4096);
    rig.kick(&client, 0);
    rig.pass_time(5 * SECOND);
    assert!(rig.said(|e| matches!(e, Event::Held(_))));
    assert_eq!((client.status(0, 0), client.status(1, 0)), (PENDING, OK));
    assert!(rig.control.resume(Drained::All));
    rig.step();
    assert_eq!(client.status(0, 0), OK);
    (0..2).for_each(|queue| rig.serves(&mut client, queue, 3));
}

#[test]
fn a_reset_of_the_controller_and_its_loss_reach_both() {
    let (mut rig, mut client) = apart();
    rig.inject(Queue::AnyIo, 0x01, When::First(4), Action::Hang);
    rig.ask_writes(&mut client, 0, 0..2, 1);
    rig.ask_writes(&mut client, 1, 2..4, 1);
    rig.handles[0].raise_fatal();
    rig.answered(&mut client, 0, vec![0, 1]);
    rig.answered(&mut client, 1, vec![2, 3]);
    rig.check_writes(&mut client, 0, 0..4, 1);
    rig.control.remove_device(0);
    rig.until("the loss", |rig| rig.lost(&client));
    for queue in 0..2 {
        client.ask(queue, 0, IN, 0, Client::place(0), 4096);
        assert_ne!(rig.status(&mut client, queue, 0), OK);
    }
    rig.end(&client);
}

#[test]
fn a_session_that_ends_leaves_both_its_pairs_to_others() {
    let (mut rig, client) = apart();
    rig.end(&client);
    rig.until("the rescan", |rig| rig.create(&["device=d0:n1"]).map(|key| rig.control.end(key)).is_ok());
    rig.pass_time(SECOND);
    let homes: Vec<usize> = (0..2)
        .map(|_| {
            let mut client = rig.client(&["device=d0:n1", "read-only"]);
            client.ask(0, SLOTS - 1, IN, 0, Client::place(0), 4096);
            assert_eq!(rig.status(&mut client, 0, SLOTS - 1), OK);
            home(&rig, &client)
        })
        .collect();
    assert_ne!(homes[0], homes[1]);
}

#[test]
fn a_queue_with_something_that_takes_long_goes_on_where_it_is() {
    let (mut rig, mut client) = shared(2);
    let from = home(&rig, &client);
    rig.inject(Queue::AnyIo, 0x02, When::First(1), Action::Delay(4 * SECOND));
    client.ask(1, 0, IN, 0, Client::place(0), 4096);
    rig.kick(&client, 1);
    rig.step();
    rig.control.from_worker(from, FromWorker::Crowded(key(&client, 1)), rig.now);
    rig.step();
    client.ask(1, 1, IN, 0, Client::place(1), 4096);
    rig.kick(&client, 1);
    rig.step();
    assert_eq!(client.status(1, 1), PENDING, "nothing more is taken");
    rig.pass_time(20 * MS);
    assert_eq!((client.status(1, 0), client.status(1, 1)), (PENDING, OK));
    assert_eq!(at(&rig, &client, 1), Some(from));
    rig.pass_time(5 * SECOND);
    rig.serves(&mut client, 1, 9);
}

#[test]
fn what_is_said_while_a_queue_is_on_its_way_counts_where_it_arrives() {
    let (mut rig, mut client, said) = leaving();
    let from = home(&rig, &client);
    // A new way to tell its driver, and more memory.
    let notify = FakeNotify::new();
    let new = rig.control.set_notify(client.key, 1, Box::new(notify.clone()));
    assert_eq!(new, Ok(InForce::Later));
    let more = nvme_mem::heap(LEN as usize).unwrap();
    let (claim, file) = crate::client::region(GUEST + LEN, LEN, 99);
    rig.begin_change(&client, &MemoryChange::Add(claim, file), |_| Some(more.clone())).unwrap();
    for _ in 0..10 {
        rig.control.poll(rig.now);
        while let Some((worker, message)) = rig.control.take_message() {
            rig.workers[worker].handle(message, rig.now);
        }
    }
    hear(&mut rig, &client, said);
    rig.step();
    assert!(rig.said(|e| matches!(e, Event::NotifySet(_, 1))));
    assert!(rig.said(|e| matches!(e, Event::Done(_, Ok(())))));
    assert_eq!(at(&rig, &client, 1), Some(1 - from));
    let before = notify.times_used();
    client.ask(1, 0, IN, 8, GUEST + LEN, 4096);
    assert_eq!(rig.status(&mut client, 1, 0), OK);
    assert!(notify.times_used() > before, "its driver hears of that by the new way");
}

#[test]
fn a_queue_that_is_stopped_on_its_way_stops_once_where_it_was() {
    let (mut rig, mut client, said) = leaving();
    rig.control.stop_queue(client.key, 1).unwrap();
    hear(&mut rig, &client, said);
    rig.step();
    let stops = |e: &&Event| matches!(e, Event::QueueStopped(_, 1, 0));
    assert_eq!(rig.events.iter().filter(stops).count(), 1, "{:?}", rig.events);
    rig.restart(&client, 1).unwrap();
    rig.serves(&mut client, 1, 5);
    assert_eq!(rig.events.iter().filter(stops).count(), 1);

    // The same with requests behind it: the driver goes on behind these.
    let from = home(&rig, &client);
    rig.control.from_worker(from, FromWorker::Crowded(key(&client, 1)), rig.now);
    rig.step();
    assert_eq!(at(&rig, &client, 1), Some(1 - from));
    rig.control.stop_queue(client.key, 1).unwrap();
    let next = match rig.expect("the stop", |e| matches!(e, Event::QueueStopped(_, 1, n) if *n > 0)) {
        Event::QueueStopped(_, _, next) => next,
        _ => unreachable!(),
    };
    assert_eq!(next, client.spec(1).next_avail);
}

#[test]
fn a_session_that_ends_while_a_queue_is_on_its_way_ends() {
    let (mut rig, client, said) = leaving();
    rig.control.end(client.key);
    hear(&mut rig, &client, said);
    rig.expect("the end", |e| matches!(e, Event::Ended(_)));
    let (mut rig, client, said) = leaving();
    rig.control.remove_device(0);
    rig.control.poll(rig.now);
    hear(&mut rig, &client, said);
    rig.until("the loss", |rig| rig.lost(&client));
    rig.end(&client);
    assert!(rig.now > Time::default());
}
