//! Several workers, and many sessions on few pairs.

use nvme_core::server::control::{Anomaly, Config, ControllerState, Event, MemoryChange};
use nvme_core::server::message::{FromWorker, PairId, StuckCommand};
use nvme_session::queue::QueueTag;
use nvme_soft::NamespaceConfig;
use nvme_soft::faulty::{Action, Queue, When};

use crate::client::{Client, GUEST, IN, LEN, OK, PENDING};
use crate::device::Knobs;
use crate::rig::{Rig, SECOND, config, medium, soft};

/// Two workers, so many namespaces.
fn spread(namespaces: usize, queues: u16) -> Rig {
    let mut device = soft("d0");
    device.queues = queues;
    (1..namespaces).for_each(|_| device.namespaces.push(NamespaceConfig::new(medium())));
    Rig::with(Config { workers: 2, ..config() }, vec![device])
}

fn name(nsid: usize) -> String {
    format!("device=d0:n{nsid}")
}

#[test]
fn sessions_spread_over_workers() {
    let mut rig = spread(6, 64);
    let mut clients: Vec<Client> = (1..=6).map(|n| rig.client(&[&name(n)])).collect();
    let on = |rig: &Rig, w| rig.control.sessions().filter(|(_, s)| s.worker() == w).count();
    assert_eq!((on(&rig, 0), on(&rig, 1)), (3, 3));
    for (seed, client) in clients.iter_mut().enumerate() {
        rig.serves(client, 0, seed as u64);
    }
    // Who comes later goes where others left.
    rig.end(&clients[0]);
    rig.end(&clients[2]);
    let worker = rig.control.session(clients[1].key).unwrap().worker();
    rig.until("the rescan", |rig| {
        rig.create(&["device=d0:n1", "read-only"]).map(|k| rig.control.end(k)).is_ok()
    });
    rig.pass_time(SECOND);
    let late = rig.client(&[&name(1)]);
    assert_ne!(rig.control.session(late.key).unwrap().worker(), worker);
}

#[test]
fn a_pair_whose_session_ended_is_the_next_one_s() {
    let mut rig = spread(3, 64);
    let (a, b) = (rig.client(&[&name(1)]), rig.client(&[&name(2), "read-only"]));
    let worker = |rig: &Rig, client: &Client| rig.control.session(client.key).unwrap().worker();
    let (stays, left) = (worker(&rig, &a), worker(&rig, &b));
    assert_ne!(stays, left);
    rig.end(&b);
    let mut c = rig.client(&[&name(3)]);
    assert_eq!(worker(&rig, &c), left, "there is one on that worker");
    rig.serves(&mut c, 0, 1);
}

#[test]
fn a_reset_waits_until_every_worker_has_handed_its_pairs_back() {
    let mut rig = spread(2, 64);
    let mut a = rig.client(&[&name(1)]);
    let mut b = rig.client(&[&name(2)]);
    let workers = [&a, &b].map(|c| rig.control.session(c.key).unwrap().worker());
    assert_ne!(workers[0], workers[1]);
    rig.inject(Queue::AnyIo, 0x01, When::First(6), Action::Hang);
    rig.ask_writes(&mut a, 0, 0..3, 1);
    rig.ask_writes(&mut b, 0, 0..3, 50);
    let configured = rig.knobs[0].configured.lock().unwrap().len();
    rig.handles[0].raise_fatal();
    // One of them hears nothing yet.
    for _ in 0..10 {
        rig.control.poll(rig.now);
        while let Some((worker, message)) = rig.control.take_message() {
            assert!(rig.delayed.len() < 100);
            if worker == workers[1] {
                rig.delayed.push((worker, message));
            } else {
                rig.workers[worker].handle(message, rig.now);
            }
        }
        let now = rig.now;
        rig.workers[workers[0]].pass(now, &|| now);
        while let Some(message) = rig.workers[workers[0]].take_message() {
            rig.control.from_worker(workers[0], message, rig.now);
        }
    }
    assert_eq!(rig.knobs[0].configured.lock().unwrap().len(), configured, "the controller was not touched");
    for (worker, message) in std::mem::take(&mut rig.delayed) {
        rig.workers[worker].handle(message, rig.now);
    }
    rig.answered(&mut a, 0, vec![0, 1, 2]);
    rig.answered(&mut b, 0, vec![0, 1, 2]);
    assert!((0..3).all(|slot| (a.status(0, slot), b.status(0, slot)) == (OK, OK)));
    rig.check_writes(&mut a, 0, 0..3, 1);
    rig.check_writes(&mut b, 0, 0..3, 50);
}

#[test]
fn a_session_s_memory_change_waits_for_its_own_worker_only() {
    let mut rig = spread(2, 64);
    let mut a = rig.client(&[&name(1)]);
    let mut b = rig.client(&[&name(2)]);
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Delay(3 * SECOND));
    rig.ask_writes(&mut b, 0, 0..1, 50);
    let start = rig.now;
    rig.change(&a, &MemoryChange::Remove(GUEST, GUEST, LEN), |_| None).unwrap();
    assert!(rig.now - start < SECOND && b.status(0, 0) == PENDING);
    assert_eq!(rig.status(&mut b, 0, 0), OK);
    assert_eq!(a.used(0), []);
}

/// Keeps every session's queue full for some passes; how many requests each had answered.
fn contend(rig: &mut Rig, clients: &mut [Client], passes: usize) -> Vec<u32> {
    for client in clients.iter_mut() {
        for slot in 0..60 {
            client.ask(0, slot, IN, u64::from(slot) * 8, Client::place(slot), 4096);
        }
        rig.kick(client, 0);
    }
    let mut served = vec![0; clients.len()];
    for _ in 0..passes {
        for worker in 0..rig.workers.len() {
            let now = rig.now;
            rig.workers[worker].pass(now, &|| now);
        }
        for (client, served) in clients.iter_mut().zip(&mut served) {
            for slot in client.used(0) {
                *served += 1;
                client.ask(0, slot, IN, u64::from(slot) * 8, Client::place(slot), 4096);
            }
        }
    }
    served
}

#[test]
fn two_hundred_and_fifty_six_sessions_share_sixty_four_pairs_fairly() {
    let mut rig = spread(1, 65);
    let mut clients: Vec<Client> = (0..256).map(|_| rig.client(&["device=d0:n1", "read-only"])).collect();
    rig.step();
    let served = contend(&mut rig, &mut clients, 200);
    let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
    assert!(*least > 0 && most <= &(least + least / 4 + 64), "{least} to {most}");
}

#[test]
fn six_sessions_on_one_pair_starve_nobody_wherever_they_stand() {
    let mut rig = spread(1, 2);
    let mut clients: Vec<Client> = (0..6).map(|_| rig.client(&["device=d0:n1", "read-only"])).collect();
    rig.step();
    let served = contend(&mut rig, &mut clients, 400);
    let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
    assert!(*least > 0 && most <= &(least + least / 10 + 128), "{served:?}");
}

/// Keeps all virtqueues of two sessions full for some passes; how many requests each session had answered.
fn contend_by_session(rig: &mut Rig, clients: &mut [Client; 2], passes: usize) -> [u32; 2] {
    let ask = |client: &mut Client, queue: usize, slot: u16| {
        client.ask(queue, slot, IN, u64::from(slot) * 8, Client::place(slot), 4096);
    };
    for client in clients.iter_mut() {
        for queue in 0..client.rings.len() {
            (0..60).for_each(|slot| ask(client, queue, slot));
            rig.kick(client, queue);
        }
    }
    let mut served = [0; 2];
    for _ in 0..passes {
        let now = rig.now;
        rig.workers[0].pass(now, &|| now);
        for (client, served) in clients.iter_mut().zip(&mut served) {
            for queue in 0..client.rings.len() {
                for slot in client.used(queue) {
                    *served += 1;
                    ask(client, queue, slot);
                }
            }
        }
    }
    served
}

#[test]
fn a_session_with_many_virtqueues_has_the_same_share_of_a_pair_as_one_with_a_single_one() {
    let mut device = soft("d0");
    device.queues = 2;
    let mut rig = Rig::with(Config { queues: 32, ..config() }, vec![device]);
    let mut clients = [0; 2].map(|_| rig.client(&["device=d0:n1", "read-only"]));
    (1..32).for_each(|_| rig.start(&mut clients[0]).unwrap());
    rig.step();
    let [many, one] = contend_by_session(&mut rig, &mut clients, 400);
    assert!(one > 2000 && many <= one + one / 10 + 128 && one <= many + many / 10 + 128, "{many} and {one}");
    // And none of the many was forgotten.
    assert!(clients[0].rings.iter().all(|ring| ring.notify.times_used() > 0));
}

#[test]
fn a_session_stops_and_ends_while_its_virtqueues_stand_in_line() {
    let mut device = soft("d0");
    device.queues = 2;
    let mut rig = Rig::with(Config { queues: 32, ..config() }, vec![device]);
    let mut clients = [0; 2].map(|_| rig.client(&["device=d0:n1", "read-only"]));
    (1..32).for_each(|_| rig.start(&mut clients[0]).unwrap());
    rig.step();
    contend_by_session(&mut rig, &mut clients, 3);
    let [mut many, one] = clients;
    rig.control.stop_queue(many.key, 5).unwrap();
    rig.end(&one);
    rig.until("the rest", |_| (0..32).all(|queue| many.used(queue).is_empty()));
    rig.restart(&many, 5).unwrap();
    rig.step();
    rig.kick(&many, 5);
    rig.until("an answer", |_| !many.used(5).is_empty());
}

#[test]
fn pairs_are_kept_for_reserved_devices() {
    let mut device = soft("d0");
    device.queues = 4;
    (1..6).for_each(|_| device.namespaces.push(NamespaceConfig::new(medium())));
    let mut rig = Rig::raw(config(), vec![device]);
    let wanted = ["device=d0:n5", "device=d0:n6"].map(|d| crate::rig::policy(&[d]));
    for policy in &wanted {
        rig.control.catalogue_mut().reserve(policy).unwrap();
    }
    rig.expect("the scan", |e| matches!(e, Event::Scanned));
    let before = Knobs::count(&rig.knobs[0].pool);
    let mut dynamic: Vec<Client> = (1..=3).map(|n| rig.client(&[&name(n)])).collect();
    let one = Knobs::count(&rig.knobs[0].pool) - before;
    // Three pairs, two of them kept: all dynamic clients are on the first.
    let key = rig.control.create(&wanted[0], true).unwrap();
    let mut fixed = Client::new(key);
    rig.control.set_features(key, crate::client::ALL).unwrap();
    let (claim, file) = crate::client::region(GUEST, LEN, key.0);
    rig.change(&fixed, &MemoryChange::Add(claim, file), |_| Some(fixed.memory.clone())).unwrap();
    rig.start(&mut fixed).unwrap();
    rig.step();
    assert_eq!(Knobs::count(&rig.knobs[0].pool) - before, 2 * one, "one of its own");
    rig.serves(&mut fixed, 0, 1);
    for client in &mut dynamic {
        rig.serves(client, 0, 2);
    }
    // The pair that it leaves is still not for others.
    rig.control.end(key);
    rig.expect("the end", |e| matches!(e, Event::Ended(k) if *k == key));
    let late = rig.client(&[&name(4)]);
    assert_eq!(Knobs::count(&rig.knobs[0].pool) - before, 2 * one);
    assert_eq!(rig.state(0), ControllerState::Serving);
    drop(late);
}

#[test]
fn workers_on_threads_of_their_own_survive_resets_under_load() {
    crate::threads::run();
}

#[test]
fn what_a_worker_cannot_have_said_is_counted_and_everybody_is_served() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1"]);
    let nowhere = PairId { controller: 9, queue: 1 };
    let unknown = PairId { controller: 0, queue: 77 };
    // One of these is the client's; none was asked for.
    let known = (1..=4).map(|queue| PairId { controller: 0, queue });
    for id in known.chain([nowhere, unknown]) {
        let command = StuckCommand { pair: id, cid: 1, token: QueueTag::default() };
        rig.control.from_worker(0, FromWorker::PairTaken(id, None), rig.now);
        rig.anomalies += 1;
        assert_eq!(rig.control.anomalies().count(), rig.anomalies);
        if id == nowhere || id == unknown {
            rig.control.from_worker(0, FromWorker::Expired(command), rig.now);
            rig.anomalies += 1;
            assert_eq!(rig.control.anomalies().last(), Some(Anomaly::NoPair(id)));
        }
        rig.step();
    }
    rig.control.device_failed(9);
    rig.anomalies += 1;
    assert_eq!(rig.control.anomalies().last(), Some(Anomaly::NoController(9)));
    assert_eq!(rig.state(0), ControllerState::Serving);
    rig.serves(&mut a, 0, 1);
    rig.end(&a);
}

#[test]
fn a_worker_knows_how_many_sessions_had_something_done_lately() {
    let mut device = soft("d0");
    device.namespaces.push(NamespaceConfig::new(medium()));
    let mut rig = Rig::with(Config { workers: 1, ..config() }, vec![device]);
    let (mut a, mut b) = (rig.client(&[&name(1)]), rig.client(&[&name(2)]));
    let lately = SECOND / 100;
    rig.pass_time(SECOND);
    let more_than = |rig: &Rig, count| rig.workers[0].has_served_more_than(count, rig.now, lately);
    assert!(!more_than(&rig, 0));
    rig.serves(&mut a, 0, 1);
    assert!(more_than(&rig, 0) && !more_than(&rig, 1));
    rig.serves(&mut b, 0, 2);
    assert!(more_than(&rig, 1) && !more_than(&rig, 2));
    rig.pass_time(lately * 2);
    assert!(!more_than(&rig, 0));
}
