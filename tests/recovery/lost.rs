//! Devices that are lost, with and without proof.

use std::sync::Arc;

use nvme_core::server::control::{ControllerState, Drained, Event, MemoryChange, SessionError};
use nvme_platform::fake::FakeNotify;
use nvme_session::factory::CreateError;
use nvme_soft::faulty::{Action, Queue, When};

use crate::client::{Client, FLUSH, GUEST, IOERR, LEN, PENDING, region};
use crate::device::Knobs;
use crate::rig::{Rig, SECOND, config, soft};

/// Two controllers, a client with two queues on the first, and one on the second; a write hangs on the first.
fn two() -> (Rig, Client, Client) {
    let mut rig = Rig::new(2);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.start(&mut a).unwrap();
    let b = rig.client(&["device=d1:n1"]);
    rig.inject(Queue::AnyIo, 0x01, When::Always, Action::Hang);
    rig.ask_writes(&mut a, 0, 0..3, 1);
    (rig, a, b)
}

fn vanish(rig: &mut Rig) {
    rig.handles[0].vanish();
    rig.until("the loss", |rig| rig.state(0) == ControllerState::Lost);
}

/// Nobody but the test holds the client's memory.
fn is_released(client: &Client) -> bool {
    Arc::strong_count(client.memory.owner()) == 1
}

#[test]
fn everything_on_a_device_that_is_pulled_out_fails_and_others_go_on() {
    let (mut rig, mut a, mut b) = two();
    vanish(&mut rig);
    rig.answered(&mut a, 0, vec![0, 1, 2]);
    assert!((0..3).all(|slot| a.status(0, slot) == IOERR));
    assert!(rig.lost(&a) && !rig.lost(&b));
    assert_eq!(rig.events.iter().filter(|e| matches!(e, Event::Lost(_))).count(), 1);
    // What comes later fails at once, on the queue that was used and on the one that slept.
    for queue in 0..2 {
        a.ask(queue, 5, FLUSH, 0, 0, 0);
        let start = rig.now;
        assert_eq!(rig.status(&mut a, queue, 5), IOERR);
        assert_eq!(rig.now, start);
    }
    rig.serves(&mut b, 0, 3);
    assert!(matches!(rig.create(&["device=d0:n1"]), Err(CreateError::NoDevice(_))));
    let spec = a.add_ring(FakeNotify::new());
    let refused = rig.control.start_queue(a.key, 2, spec, Box::new(FakeNotify::new()));
    assert_eq!(refused, Err(SessionError::DeviceLost));
    rig.end(&a);
    rig.step();
    assert!(is_released(&a));
    assert_eq!(Knobs::count(&rig.knobs[0].cut_offs), 1);
    rig.serves(&mut b, 0, 4);
}

#[test]
fn a_pulled_out_device_gives_its_pairs_memory_back() {
    let (mut rig, a, _b) = two();
    vanish(&mut rig);
    let before = Knobs::count(&rig.knobs[0].pool);
    rig.end(&a);
    rig.step();
    assert!(before - Knobs::count(&rig.knobs[0].pool) > 255, "list pages at least");
}

#[test]
fn memory_of_a_device_that_cannot_be_cut_off_is_kept_for_ever() {
    let (mut rig, mut a, mut b) = two();
    Knobs::set(&rig.knobs[0].cut_off_fails);
    rig.faults(0).stick_ready(Some(true));
    rig.handles[0].raise_fatal();
    rig.expect("the end", |e| matches!(e, Event::Ended(key) if *key == a.key));
    assert_eq!(rig.state(0), ControllerState::Lost);
    assert!(rig.control.session(a.key).is_none() && !is_released(&a));
    assert_eq!((rig.knobs[0].reach().0, Knobs::count(&rig.knobs[0].unmaps)), (1, 0));
    assert_eq!(a.used(0), [], "nothing is answered that may still be written to");
    rig.serves(&mut b, 0, 3);
    rig.end(&b);
}

#[test]
fn a_removal_that_waits_for_a_device_nobody_can_stop_is_never_acknowledged_as_done() {
    let (mut rig, a, _b) = two();
    rig.begin_change(&a, &MemoryChange::Remove(GUEST, GUEST, LEN), |_| None).unwrap();
    rig.pass_time(SECOND);
    assert!(!rig.said(|e| matches!(e, Event::Done(..))), "a command is in flight there");
    Knobs::set(&rig.knobs[0].cut_off_fails);
    rig.faults(0).stick_ready(Some(true));
    rig.handles[0].raise_fatal();
    rig.expect("the end", |e| matches!(e, Event::Ended(key) if *key == a.key));
    assert!(!rig.said(|e| matches!(e, Event::Done(_, Ok(())))));
    assert!(rig.said(|e| matches!(e, Event::Done(_, Err(SessionError::DeviceLost)))));
    assert!(!is_released(&a));
    assert_eq!(Knobs::count(&rig.knobs[0].unmaps), 0);
}

#[test]
fn a_removal_ends_when_the_device_is_cut_off() {
    let (mut rig, a, _b) = two();
    rig.begin_change(&a, &MemoryChange::Remove(GUEST, GUEST, LEN), |_| None).unwrap();
    rig.pass_time(SECOND);
    vanish(&mut rig);
    let done = rig.expect("the change", |e| matches!(e, Event::Done(..)));
    assert!(matches!(done, Event::Done(_, Ok(()))));
    assert_eq!(rig.knobs[0].reach(), (0, 0));
    rig.end(&a);
    assert!(is_released(&a));
}

#[test]
fn a_mapping_that_is_under_way_ends_when_the_device_is_lost() {
    let (mut rig, a, mut b) = two();
    let (claim, file) = region(1 << 40, 192 << 20, 99);
    // Nothing looks at the content, so the pages never exist.
    let more = nvme_mem::heap(194 << 20).unwrap();
    let big = more.sub(more.address().next_multiple_of(2 << 20) - more.address(), 192 << 20).unwrap();
    drop(more);
    rig.begin_change(&a, &MemoryChange::Add(claim, file), |_| Some(big.clone())).unwrap();
    rig.control.poll(rig.now);
    rig.control.poll(rig.now);
    assert_eq!(rig.knobs[0].reach(), (2, LEN + (128 << 20)), "two steps so far");
    rig.handles[0].vanish();
    rig.until("the change", |rig| rig.said(|e| matches!(e, Event::Done(..))));
    vanish(&mut rig);
    rig.end(&a);
    drop(rig.events.drain(..));
    assert_eq!((rig.knobs[0].reach(), Arc::strong_count(big.owner())), ((0, 0), 1));
    rig.serves(&mut b, 0, 2);
}

#[test]
fn a_queue_that_is_stopping_stops_when_the_device_is_lost() {
    let (mut rig, mut a, _b) = two();
    // More than the pair has room for, so that some were taken and not submitted.
    for queue in 0..2 {
        rig.ask_writes(&mut a, queue, 4..60, 1);
    }
    rig.control.stop_queue(a.key, 0).unwrap();
    rig.pass_time(SECOND);
    assert!(!rig.said(|e| matches!(e, Event::QueueStopped(..))));
    vanish(&mut rig);
    rig.expect("the stop", |e| matches!(e, Event::QueueStopped(key, 0, 59) if *key == a.key));
    rig.end(&a);
}

#[test]
fn queues_that_their_home_had_stopped_go_on_and_fail_what_they_are_asked_when_the_device_is_lost_meanwhile() {
    for stopped in [&[1][..], &[0, 1]] {
        let (mut rig, mut a, mut b) = two();
        for queue in stopped {
            rig.control.stop_queue(a.key, *queue as u16).unwrap();
        }
        rig.pass_time(SECOND);
        vanish(&mut rig);
        rig.answered(&mut a, 0, vec![0, 1, 2]);
        for queue in stopped {
            assert!(
                rig.said(|e| matches!(e, Event::QueueStopped(_, index, _) if usize::from(*index) == *queue))
            );
            // Its client may not start any.
            assert_eq!(rig.restart(&a, *queue), Err(SessionError::DeviceLost));
            let notify = Box::new(a.rings[*queue].notify.clone());
            rig.control.resume_queue(a.key, *queue as u16, a.spec(*queue), notify).unwrap();
        }
        for queue in 0..2 {
            a.ask(queue, 5, FLUSH, 0, 0, 0);
            let start = rig.now;
            assert_eq!(rig.status(&mut a, queue, 5), IOERR);
            assert_eq!(rig.now, start);
        }
        rig.serves(&mut b, 0, 3);
        rig.end(&a);
        rig.step();
        assert!(is_released(&a));
    }
}

#[test]
fn who_is_drained_when_its_device_is_lost_is_answered_and_waits_for_nobody_to_resume_it() {
    for drained in [Drained::All, Drained::Controller(0)] {
        let mut rig = Rig::new(2);
        let mut a = rig.client(&["device=d0:n1"]);
        rig.control.drain(drained);
        rig.expect("that it is quiet", |e| matches!(e, Event::Held(key) if *key == a.key));
        a.ask(0, 0, FLUSH, 0, 0, 0);
        rig.kick(&a, 0);
        rig.pass_time(SECOND);
        assert_eq!(a.status(0, 0), PENDING);
        vanish(&mut rig);
        rig.answered(&mut a, 0, vec![0]);
        assert_eq!(a.status(0, 0), IOERR);
        a.ask(0, 1, FLUSH, 0, 0, 0);
        assert_eq!(rig.status(&mut a, 0, 1), IOERR);
        rig.end(&a);
        assert!(is_released(&a));
    }
}

#[test]
fn a_queue_that_waits_for_a_pair_fails_its_requests_when_the_device_is_lost() {
    let mut rig = Rig::new(2);
    let mut a = rig.registered(&["device=d0:n1"]);
    let mut b = rig.client(&["device=d1:n1"]);
    rig.inject(Queue::Admin, 0x05, When::Always, Action::Hang);
    rig.start(&mut a).unwrap();
    rig.step();
    vanish(&mut rig);
    a.ask(0, 0, FLUSH, 0, 0, 0);
    assert_eq!(rig.status(&mut a, 0, 0), IOERR);
    rig.serves(&mut b, 0, 1);
    rig.end(&a);
}

#[test]
fn a_device_that_is_pulled_out_during_a_reset_is_lost_and_all_is_answered() {
    let (mut rig, mut a, mut b) = two();
    rig.faults(0).stick_ready(Some(true));
    rig.handles[0].raise_fatal();
    rig.pass_time(SECOND / 10);
    assert_eq!(rig.state(0), ControllerState::Recovering);
    vanish(&mut rig);
    rig.answered(&mut a, 0, vec![0, 1, 2]);
    assert!((0..3).all(|slot| a.status(0, slot) == IOERR));
    rig.serves(&mut b, 0, 1);
    rig.end(&a);
}

#[test]
fn a_device_that_is_pulled_out_at_any_moment_of_a_recovery_hangs_nobody() {
    for moment in 0..60 {
        let (mut rig, mut a, mut b) = two();
        rig.inject(Queue::Admin, 0x08, When::Always, Action::Hang);
        if moment % 2 == 0 {
            rig.inject(Queue::Admin, 0x00, When::Always, Action::Hang);
        }
        rig.pass_time(SECOND * moment / 2);
        vanish(&mut rig);
        rig.answered(&mut a, 0, vec![0, 1, 2]);
        rig.serves(&mut b, 0, 1);
        rig.end(&a);
        assert!(is_released(&a), "{moment}");
    }
}

#[test]
fn controllers_that_are_gone_or_stuck_at_start_hold_up_nobody() {
    for trouble in 0..4 {
        let devices = (0..2).map(|i| soft(&format!("d{i}"))).collect();
        let mut rig = Rig::raw(config(), devices);
        match trouble {
            0 => rig.handles[0].vanish(),
            1 => rig.faults(0).stick_ready(Some(true)),
            2 => rig.faults(0).stick_ready(Some(false)),
            _ => rig.handles[0].raise_fatal(),
        }
        rig.expect("the scan", |e| matches!(e, Event::Scanned));
        let mut b = rig.client(&["device=d1:n1"]);
        rig.serves(&mut b, 0, 1);
        assert_eq!(rig.state(0), ControllerState::Lost, "{trouble}");
        assert!(matches!(rig.create(&["device=d0:n1"]), Err(CreateError::NoDevice(_))));
    }
}
