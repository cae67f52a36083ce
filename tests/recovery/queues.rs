//! Virtqueues: started, stopped, broken, cleared, ended, whatever else is going on.

use std::time::Duration;

use nvme_core::server::control::{ControllerState, Drained, Event, MemoryChange, QueueSpec, SessionError};
use nvme_mem::{Window, heap};
use nvme_platform::DmaError;
use nvme_platform::fake::FakeNotify;
use nvme_session::blk::features;
use nvme_session::virtqueue::{Broken, RingError, journal_len};
use nvme_soft::NamespaceConfig;
use nvme_soft::faulty::{Action, Queue, When};

use crate::client::{ALL, Client, GUEST, IN, IOERR, LEN, OK, PENDING, SIZE};
use crate::device::Knobs;
use crate::rig::{MS, Rig, SECOND, config, medium, soft};

/// Where the used ring of a client's first queue is: its flags, and behind them its index.
const USED: usize = 0x2000;

fn stopped(rig: &mut Rig, client: &Client, queue: u16) -> u16 {
    let key = client.key;
    match rig.expect("the stop", |e| matches!(e, Event::QueueStopped(k, q, _) if *k == key && *q == queue)) {
        Event::QueueStopped(_, _, next) => next,
        _ => unreachable!(),
    }
}

#[test]
fn a_queue_stops_after_what_is_in_flight_and_starts_again_where_it_was() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.inject(Queue::AnyIo, 0x01, When::First(2), Action::Delay(2 * SECOND));
    rig.ask_writes(&mut a, 0, 0..3, 1);
    rig.control.stop_queue(a.key, 0).unwrap();
    rig.pass_time(SECOND);
    assert!(!rig.said(|e| matches!(e, Event::QueueStopped(..))));
    assert_eq!(stopped(&mut rig, &a, 0), 3);
    assert_eq!(a.used(0).len(), 3, "all are answered by then");
    // What the driver makes available meanwhile waits.
    rig.ask_writes(&mut a, 0, 3..5, 1);
    rig.pass_time(SECOND);
    assert_eq!((a.status(0, 3), a.used(0).len()), (PENDING, 0));
    rig.restart(&a, 0).unwrap();
    rig.answered(&mut a, 0, vec![3, 4]);
    rig.check_writes(&mut a, 0, 0..5, 1);
    assert_eq!(rig.restart(&a, 0), Err(SessionError::Queue), "it runs");
    assert_eq!(rig.control.stop_queue(a.key, 3), Err(SessionError::Queue));
}

#[test]
fn features_cannot_change_under_a_running_queue_nor_be_ones_that_were_not_offered() {
    let mut rig = Rig::new(1);
    let a = rig.client(&["device=d0:n1"]);
    assert_eq!(rig.control.set_features(a.key, ALL), Err(SessionError::Queue));
    rig.control.stop_queue(a.key, 0).unwrap();
    stopped(&mut rig, &a, 0);
    assert_eq!(rig.control.set_features(a.key, ALL | 1 << 50), Err(SessionError::Queue));
    rig.control.set_features(a.key, features::VERSION_1).unwrap();
}

#[test]
fn a_queue_that_a_session_may_not_have_is_refused() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1"]);
    let spec = a.add_ring(nvme_platform::fake::FakeNotify::new());
    let notify = Box::new(nvme_platform::fake::FakeNotify::new());
    assert_eq!(rig.control.start_queue(a.key, 8, spec, notify), Err(SessionError::Queue));
}

#[test]
fn the_next_client_of_a_session_finds_nothing_of_the_last() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.serves(&mut a, 0, 1);
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Delay(SECOND));
    rig.ask_writes(&mut a, 0, 3..4, 1);
    rig.control.clear(a.key);
    rig.expect("the clearing", |e| matches!(e, Event::Cleared(key) if *key == a.key));
    assert_eq!(rig.knobs[0].reach(), (0, 0));
    let session = rig.control.session(a.key).unwrap();
    assert_eq!((session.running(), session.features(), session.registry().is_empty()), (0, 0, true));
    // It comes with the same address and its own memory.
    let mut next = Client::new(a.key);
    rig.control.set_features(a.key, ALL).unwrap();
    let (claim, file) = crate::client::region(crate::client::GUEST, crate::client::LEN, 9);
    let add = nvme_core::server::control::MemoryChange::Add(claim, file);
    rig.change(&next, &add, |_| Some(next.memory.clone())).unwrap();
    rig.start(&mut next).unwrap();
    rig.serves(&mut next, 0, 2);
}

#[test]
fn a_session_without_memory_ends_when_its_worker_has_given_its_queues_back_and_not_before() {
    let mut rig = Rig::new(1);
    let a = rig.client(&["device=d0:n1"]);
    // Nothing of memory is left to be waited for.
    rig.change(&a, &MemoryChange::Remove(GUEST, GUEST, LEN), |_| None).unwrap();
    rig.control.end(a.key);
    for _ in 0..10 {
        rig.control.poll(rig.now);
        while let Some(event) = rig.control.take_event() {
            assert!(!matches!(event, Event::Ended(_)), "its worker has not been told yet");
        }
    }
    rig.expect("the end", |e| matches!(e, Event::Ended(key) if *key == a.key));
    let mut next = rig.client(&["device=d0:n1"]);
    rig.serves(&mut next, 0, 1);
}

#[test]
fn a_session_ends_with_requests_in_flight_during_a_recovery_and_before_it_has_a_pair() {
    for moment in 0..40_u32 {
        let mut device = soft("d0");
        device.namespaces.push(NamespaceConfig::new(medium()));
        device.queues = 2;
        let mut rig = Rig::with(config(), vec![device]);
        let mut a = rig.registered(&["device=d0:n1"]);
        let mut b = rig.registered(&["device=d0:n2"]);
        if moment % 3 == 0 {
            rig.inject(Queue::Admin, 0x05, When::First(1), Action::Delay(3 * SECOND));
        }
        rig.start(&mut a).unwrap();
        rig.start(&mut b).unwrap();
        rig.inject(Queue::Admin, 0x08, When::Always, Action::Hang);
        if moment % 2 == 0 {
            rig.inject(Queue::Admin, 0x00, When::Always, Action::Hang);
        }
        if moment % 3 != 0 {
            rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Hang);
        }
        rig.ask_writes(&mut a, 0, 0..1, 1);
        rig.pass_time(SECOND * moment / 2);
        rig.control.end(a.key);
        rig.ask_writes(&mut b, 0, 0..2, 50);
        rig.expect("the end", |e| matches!(e, Event::Ended(key) if *key == a.key));
        rig.answered(&mut b, 0, vec![0, 1]);
        assert_eq!((b.status(0, 0), b.status(0, 1)), (OK, OK), "{moment}");
        assert_eq!(rig.knobs[0].reach().0, 1, "{moment}");
        rig.until("rest", |rig| rig.state(0) == ControllerState::Serving);
        rig.check_writes(&mut b, 0, 0..2, 50);
        rig.end(&b);
    }
}

#[test]
fn a_broken_ring_stops_its_queue_is_told_once_and_costs_no_processor_time() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.start(&mut a).unwrap();
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Delay(SECOND));
    rig.ask_writes(&mut a, 0, 0..1, 1);
    a.break_ring(0);
    rig.kick(&a, 0);
    rig.step();
    let passes = rig.passes;
    rig.pass_time(SECOND / 2);
    assert!(rig.passes - passes < 20, "{}", rig.passes - passes);
    assert_eq!(rig.events.iter().filter(|e| matches!(e, Event::QueueBroken(_, 0, _))).count(), 1);
    assert_eq!((a.rings[0].notify.times_broken(), a.rings[1].notify.times_broken()), (1, 0));
    rig.pass_time(SECOND);
    assert_eq!(a.used(0), [], "nothing is used in a broken ring");
    rig.serves(&mut a, 1, 2);
    // Set up again, it serves.
    rig.control.stop_queue(a.key, 0).unwrap();
    stopped(&mut rig, &a, 0);
    a.reset_ring(0);
    rig.restart(&a, 0).unwrap();
    rig.serves(&mut a, 0, 3);
}

#[test]
fn a_pair_that_is_full_of_commands_that_hang_costs_no_processor_time() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1"]);
    for _ in 1..6 {
        rig.start(&mut a).unwrap();
    }
    rig.inject(Queue::AnyIo, 0x01, When::First(255), Action::Delay(2 * SECOND));
    for queue in 0..6 {
        rig.ask_writes(&mut a, queue, 0..60, 1);
    }
    let passes = rig.passes;
    rig.pass_time(SECOND);
    assert!(rig.passes - passes < 50, "{}", rig.passes - passes);
    for queue in 0..6 {
        rig.answered(&mut a, queue, (0..60).collect());
        assert!((0..60).all(|slot| a.status(queue, slot) == OK));
    }
}

#[test]
fn queues_that_sleep_while_their_pair_is_away_wake_when_it_is_back() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.start(&mut a).unwrap();
    rig.inject(Queue::Admin, 0x08, When::Always, Action::Hang);
    rig.inject(Queue::Admin, 0x00, When::First(1), Action::Hang);
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Hang);
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.until("the pair is away", |rig| rig.now.as_nanos() > 13_000_000_000);
    assert_eq!(rig.state(0), ControllerState::Recovering);
    a.fill(Client::place(1), &[5; 4096]);
    a.ask(1, 1, crate::client::OUT, 0, Client::place(1), 4096);
    let passes = rig.passes;
    rig.kick(&a, 1);
    rig.pass_time(100 * MS);
    assert_eq!(a.status(1, 1), PENDING);
    assert!(rig.passes - passes < 200);
    rig.answered(&mut a, 1, vec![1]);
    assert_eq!((a.status(0, 0), a.status(1, 1)), (IOERR, OK));
}

#[test]
fn sessions_share_the_only_pair_of_a_controller_with_the_scan() {
    let mut device = soft("d0");
    device.queues = 1;
    device.namespaces.push(NamespaceConfig::new(medium()));
    let mut rig = Rig::with(config(), vec![device]);
    let mut a = rig.client(&["device=d0:n1"]);
    let mut b = rig.client(&["device=d0:n2"]);
    rig.serves(&mut a, 0, 1);
    rig.serves(&mut b, 0, 2);
    // A whole-namespace writer's end: its table is read as soon as nobody has the pair.
    rig.end(&a);
    rig.pass_time(SECOND);
    assert!(matches!(rig.create(&["device=d0:n1"]), Err(nvme_session::factory::CreateError::Scanning)));
    rig.serves(&mut b, 0, 3);
    rig.end(&b);
    rig.pass_time(SECOND);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.serves(&mut a, 0, 4);
}

#[test]
fn a_queue_that_starts_while_the_only_pair_reads_tables_is_served_afterwards() {
    let mut device = soft("d0");
    device.queues = 1;
    device.namespaces.push(NamespaceConfig::new(medium()));
    let mut rig = Rig::with(config(), vec![device]);
    let a = rig.registered(&["device=d0:n1"]);
    let mut b = rig.registered(&["device=d0:n2"]);
    rig.inject(Queue::AnyIo, 0x02, When::First(1), Action::Delay(SECOND));
    rig.control.end(a.key);
    rig.pass_time(SECOND / 10);
    rig.start(&mut b).unwrap();
    rig.serves(&mut b, 0, 1);
}

#[test]
fn a_queue_pair_without_memory_says_how_much_is_needed_and_starts_with_that() {
    let mut rig = Rig::new(1);
    let mut a = rig.registered(&["device=d0:n1"]);
    let limit = |rig: &Rig, bytes| *rig.knobs[0].pool_limit.lock().unwrap() = Some(bytes);
    let now = Knobs::count(&rig.knobs[0].pool) as u64 * 4096;
    // The first of its parts would still fit, the others would not.
    limit(&rig, now + 20 * 4096);
    let refused = rig.start(&mut a);
    let Err(SessionError::Dma(DmaError::LockLimit { need, .. })) = refused else { panic!("{refused:?}") };
    assert_eq!(Knobs::count(&rig.knobs[0].pool) as u64 * 4096, now);
    limit(&rig, need - 4096);
    let still = rig.restart(&a, 0);
    let allowed = need - 4096;
    assert_eq!(still, Err(SessionError::Dma(DmaError::LockLimit { need, allowed })));
    limit(&rig, need);
    rig.restart(&a, 0).unwrap();
    rig.serves(&mut a, 0, 1);
}

#[test]
fn a_pair_that_is_made_while_others_come_back_from_a_reset_serves() {
    let mut device = soft("d0");
    (1..3).for_each(|_| device.namespaces.push(NamespaceConfig::new(medium())));
    let mut rig = Rig::with(config(), vec![device]);
    let mut a = rig.client(&["device=d0:n1"]);
    let mut b = rig.client(&["device=d0:n2"]);
    let mut c = rig.registered(&["device=d0:n3"]);
    // The reset is over, and neither pair is back.
    rig.inject(Queue::Admin, 0x05, When::First(1), Action::Delay(Duration::from_millis(50)));
    rig.handles[0].raise_fatal();
    rig.until("the end of the reset", |rig| {
        rig.control.controllers().next().is_some_and(|(_, c, _)| c.is_ready())
            && crate::timeouts::enables(rig) == 2
    });
    assert_eq!(rig.state(0), ControllerState::Recovering);
    rig.start(&mut c).unwrap();
    for (seed, client) in [&mut a, &mut b, &mut c].into_iter().enumerate() {
        rig.serves(client, 0, seed as u64);
    }
    assert!(![&a, &b, &c].into_iter().any(|client| rig.lost(client)));
}

#[test]
fn sessions_for_which_a_controller_makes_no_pair_do_not_hope_for_each_others_without_an_end() {
    for sessions in 2..5 {
        let mut rig = Rig::new(1);
        rig.inject(Queue::Admin, 0x05, When::Always, Action::Fail(nvme_soft::wire::Status::QUEUE_ID));
        let mut clients: Vec<_> =
            (0..sessions).map(|_| rig.registered(&["device=d0:n1", "read-only"])).collect();
        clients.iter_mut().for_each(|client| rig.start(client).unwrap());
        rig.until("the end of their hope", |rig| clients.iter().all(|client| rig.lost(client)));
    }
}

#[test]
fn a_pair_that_nobody_uses_and_that_cannot_be_made_again_is_free_for_the_next_session() {
    let mut device = soft("d0");
    device.queues = 1;
    let mut rig = Rig::with(config(), vec![device]);
    // Nobody wrote, so no table is read again, which takes an idle pair.
    let read = |rig: &mut Rig, client: &mut Client| {
        client.ask(0, 0, IN, 0, Client::place(0), 4096);
        assert_eq!(rig.status(client, 0, 0), OK);
    };
    let mut a = rig.client(&["device=d0:n1", "read-only"]);
    read(&mut rig, &mut a);
    rig.end(&a);
    rig.inject(Queue::Admin, 0x05, When::First(1), Action::Fail(nvme_soft::wire::Status::QUEUE_ID));
    rig.handles[0].raise_fatal();
    rig.until("the end of the reset", |rig| {
        crate::timeouts::enables(rig) == 2 && rig.state(0) == ControllerState::Serving
    });
    let mut b = rig.client(&["device=d0:n1", "read-only"]);
    read(&mut rig, &mut b);
}

#[test]
fn rings_and_journals_are_touched_by_their_worker_and_not_by_control() {
    let mut rig = Rig::new(1);
    let a = rig.client(&["device=d0:n1"]);
    rig.control.stop_queue(a.key, 0).unwrap();
    rig.expect("the stop", |e| matches!(e, Event::QueueStopped(..)));
    // What whoever takes the ring writes: that kicks are wanted, and that the journal is in use.
    a.memory.store16(USED, 1).unwrap();
    let journal = heap(journal_len(SIZE)).unwrap();
    let spec = QueueSpec { journal: Some(journal.clone()), ..a.spec(0) };
    rig.control.start_queue(a.key, 0, spec, Box::new(a.rings[0].notify.clone())).unwrap();
    let touched = |journal: &Window| (a.memory.load16(USED).unwrap() == 0, journal.load16(8).unwrap() == 1);
    assert_eq!(touched(&journal), (false, false));
    rig.until("it is taken", |_| touched(&journal) == (true, true));
    // What has no room for a journal is refused at once, as rings are that lie nowhere.
    rig.control.stop_queue(a.key, 0).unwrap();
    rig.expect("the stop", |e| matches!(e, Event::QueueStopped(..)));
    let short = QueueSpec { journal: Some(heap(64).unwrap()), ..a.spec(0) };
    let refused = rig.control.start_queue(a.key, 0, short, Box::new(a.rings[0].notify.clone()));
    assert_eq!(refused, Err(SessionError::Ring(RingError::Journal)));
}

#[test]
fn where_a_ring_goes_on_is_in_its_journal_also_if_it_stops_before_its_worker_has_it() {
    for (first, drained) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut rig = Rig::new(1);
        let mut a = rig.registered(&["device=d0:n1"]);
        let journal = heap(journal_len(SIZE)).unwrap();
        // Five were taken and answered.
        journal.write_value(8, &[1_u16, SIZE, 0, 5]).unwrap();
        let spec = QueueSpec { journal: Some(journal), ..a.add_ring(FakeNotify::new()) };
        a.memory.store16(USED + 2, 5).unwrap();
        if drained {
            rig.control.drain(Drained::All);
        }
        rig.control.start_queue(a.key, 0, spec, Box::new(a.rings[0].notify.clone())).unwrap();
        if first {
            rig.control.finish_queue(a.key, 0).unwrap();
        } else {
            rig.control.stop_queue(a.key, 0).unwrap();
        }
        let stopped = rig.expect("the stop", |e| matches!(e, Event::QueueStopped(..)));
        assert!(matches!(stopped, Event::QueueStopped(key, 0, 5) if key == a.key), "{stopped:?}");
    }
}

#[test]
fn a_journal_of_another_ring_breaks_the_ring() {
    let mut rig = Rig::new(1);
    let mut a = rig.registered(&["device=d0:n1"]);
    let journal = heap(journal_len(SIZE)).unwrap();
    journal.write_value(8, &[1_u16, SIZE / 2, 0, 0]).unwrap();
    let spec = QueueSpec { journal: Some(journal), ..a.add_ring(FakeNotify::new()) };
    rig.control.start_queue(a.key, 0, spec, Box::new(a.rings[0].notify.clone())).unwrap();
    rig.expect("that it broke", |e| matches!(e, Event::QueueBroken(_, 0, Broken::Journal)));
}
