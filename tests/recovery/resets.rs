//! Resets: who pays, how many there may be, and what follows when one does not finish.

use nvme_core::server::control::{ControllerState, Event};
use nvme_soft::faulty::{Action, Queue, When};

use crate::client::{Client, IOERR, OK, PENDING};
use crate::device::Knobs;
use crate::rig::{Rig, SECOND, config, soft};
use crate::timeouts::{enables, shared};

/// CSTS.CFS, which control sees at its next look.
fn fatal(rig: &mut Rig) {
    rig.handles[0].raise_fatal();
    rig.step();
}

fn settle(rig: &mut Rig, state: ControllerState) {
    rig.until("the state", |rig| rig.state(0) == state);
}

#[test]
fn a_fatal_status_costs_nobody_a_request() {
    let (mut rig, mut a, mut b) = shared();
    rig.inject(Queue::AnyIo, 0x01, When::First(40), Action::Hang);
    rig.ask_writes(&mut a, 0, 0..20, 1);
    rig.ask_writes(&mut b, 0, 0..20, 50);
    fatal(&mut rig);
    rig.answered(&mut a, 0, (0..20).collect());
    rig.answered(&mut b, 0, (0..20).collect());
    assert!((0..20).all(|slot| (a.status(0, slot), b.status(0, slot)) == (OK, OK)));
    rig.check_writes(&mut a, 0, 0..20, 1);
    rig.check_writes(&mut b, 0, 0..20, 50);
    assert_eq!(enables(&rig), 2);
    assert!(!rig.lost(&a) && !rig.lost(&b));
}

#[test]
fn an_error_of_the_bus_or_inside_of_the_controller_costs_a_reset_and_nobody_a_request() {
    for bus in [false, true] {
        let (mut rig, mut a, mut b) = shared();
        rig.inject(Queue::AnyIo, 0x01, When::First(20), Action::Hang);
        rig.ask_writes(&mut a, 0, 0..20, 1);
        rig.ask_writes(&mut b, 0, 0..20, 50);
        let fail = |rig: &mut Rig| match bus {
            true => rig.control.device_failed(0),
            false => rig.handles[0].raise_internal_error(),
        };
        fail(&mut rig);
        rig.control.poll(rig.now);
        // Said again before the reset: it is the same trouble.
        fail(&mut rig);
        rig.answered(&mut a, 0, (0..20).collect());
        rig.answered(&mut b, 0, (0..20).collect());
        assert!((0..20).all(|slot| (a.status(0, slot), b.status(0, slot)) == (OK, OK)));
        assert!(!rig.lost(&a) && !rig.lost(&b));
        assert_eq!(enables(&rig), 2, "bus: {bus}");
        // The host resets the link when the bus has an error, which may cost interrupts.
        assert_eq!(Knobs::count(&rig.knobs[0].function_resets), usize::from(bus));
        rig.serves(&mut a, 0, 3);
    }
}

#[test]
fn an_error_of_the_bus_while_a_reset_is_prepared_is_an_error_of_the_bus_all_the_same() {
    let (mut rig, mut a, _) = shared();
    rig.inject(Queue::AnyIo, 0x01, When::First(20), Action::Hang);
    rig.ask_writes(&mut a, 0, 0..20, 1);
    // Its status is seen before the host's word, and its pairs are still with the worker.
    rig.handles[0].raise_fatal();
    rig.control.poll(rig.now);
    rig.control.device_failed(0);
    let begin = rig.now;
    rig.answered(&mut a, 0, (0..20).collect());
    assert!((0..20).all(|slot| a.status(0, slot) == OK));
    assert_eq!((enables(&rig), Knobs::count(&rig.knobs[0].function_resets)), (2, 1));
    assert!(rig.now - begin >= 3 * SECOND, "the host has time for the link");
}

#[test]
fn a_function_that_somebody_else_reset_is_reset_once_more_and_the_requests_survive() {
    let (mut rig, mut a, mut b) = shared();
    rig.inject(Queue::AnyIo, 0x01, When::First(20), Action::Hang);
    rig.ask_writes(&mut a, 0, 0..20, 1);
    rig.ask_writes(&mut b, 0, 0..20, 50);
    rig.handles[0].power_cycle();
    rig.answered(&mut a, 0, (0..20).collect());
    rig.answered(&mut b, 0, (0..20).collect());
    assert!((0..20).all(|slot| (a.status(0, slot), b.status(0, slot)) == (OK, OK)));
    assert_eq!(Knobs::count(&rig.knobs[0].function_resets), 1);
    // A fatal status alone needs none.
    fatal(&mut rig);
    settle(&mut rig, ControllerState::Serving);
    rig.serves(&mut a, 0, 3);
    assert_eq!(Knobs::count(&rig.knobs[0].function_resets), 1);
}

#[test]
fn a_command_that_kills_the_controller_each_time_fails_after_two_resets() {
    let (mut rig, mut a, mut b) = shared();
    rig.inject(Queue::AnyIo, 0x01, When::Always, Action::Hang);
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.ask_writes(&mut b, 0, 0..1, 50);
    for reset in 0..3 {
        assert_eq!((a.status(0, 0), b.status(0, 0)), (PENDING, PENDING), "{reset}");
        fatal(&mut rig);
        settle(&mut rig, ControllerState::Serving);
        assert_eq!(enables(&rig), 2 + reset);
    }
    rig.answered(&mut a, 0, vec![0]);
    rig.answered(&mut b, 0, vec![0]);
    assert_eq!((a.status(0, 0), b.status(0, 0)), (IOERR, IOERR));
    rig.faults(0).clear();
    rig.serves(&mut a, 0, 5);
}

#[test]
fn a_controller_that_needs_resets_again_and_again_is_given_up() {
    let (mut rig, mut a, b) = shared();
    for _ in 0..6 {
        fatal(&mut rig);
        settle(&mut rig, ControllerState::Serving);
        rig.serves(&mut a, 0, 3);
    }
    fatal(&mut rig);
    settle(&mut rig, ControllerState::Lost);
    assert_eq!(enables(&rig), 7, "no reset more");
    assert!(rig.lost(&a) && rig.lost(&b));
    rig.ask_writes(&mut a, 0, 0..1, 1);
    assert_eq!(rig.status(&mut a, 0, 0), IOERR);
}

#[test]
fn resets_that_are_far_apart_are_forgiven() {
    let (mut rig, mut a, _) = shared();
    for seed in 0..10 {
        fatal(&mut rig);
        settle(&mut rig, ControllerState::Serving);
        rig.serves(&mut a, 0, seed);
        rig.pass_time(130 * SECOND);
    }
    assert_eq!(rig.state(0), ControllerState::Serving);
}

#[test]
fn a_reset_that_does_not_finish_leads_to_a_function_reset_and_the_requests_survive() {
    let (mut rig, mut a, mut b) = shared();
    rig.inject(Queue::AnyIo, 0x01, When::First(2), Action::Hang);
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.ask_writes(&mut b, 0, 0..1, 50);
    Knobs::set(&rig.knobs[0].reset_heals);
    rig.faults(0).stick_ready(Some(true));
    fatal(&mut rig);
    rig.answered(&mut a, 0, vec![0]);
    rig.answered(&mut b, 0, vec![0]);
    assert_eq!((a.status(0, 0), b.status(0, 0)), (OK, OK));
    assert_eq!(Knobs::count(&rig.knobs[0].function_resets), 1);
    rig.check_writes(&mut a, 0, 0..1, 1);
}

#[test]
fn a_controller_that_never_stops_is_cut_off() {
    let (mut rig, mut a, mut b) = shared();
    rig.inject(Queue::AnyIo, 0x01, When::First(2), Action::Hang);
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.ask_writes(&mut b, 0, 0..1, 50);
    rig.faults(0).stick_ready(Some(true));
    fatal(&mut rig);
    let start = rig.now;
    settle(&mut rig, ControllerState::Lost);
    assert!(rig.now - start < 60 * SECOND);
    rig.answered(&mut a, 0, vec![0]);
    rig.answered(&mut b, 0, vec![0]);
    assert_eq!((a.status(0, 0), b.status(0, 0)), (IOERR, IOERR));
    let counts = (Knobs::count(&rig.knobs[0].function_resets), Knobs::count(&rig.knobs[0].cut_offs));
    assert_eq!(counts, (1, 1));
    assert!(rig.lost(&a) && rig.lost(&b));
}

#[test]
fn a_reset_whose_first_questions_have_no_answer_loses_the_device_with_proof() {
    let (mut rig, mut a, _) = shared();
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Hang);
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.inject(Queue::Admin, 0x06, When::Always, Action::Hang);
    fatal(&mut rig);
    settle(&mut rig, ControllerState::Lost);
    rig.answered(&mut a, 0, vec![0]);
    assert_eq!(a.status(0, 0), IOERR);
    assert_eq!(Knobs::count(&rig.knobs[0].cut_offs), 0, "it was seen to stop");
    rig.end(&a);
}

#[test]
fn pairs_that_cannot_be_made_again_cost_their_sessions_and_no_others() {
    let mut device = soft("d0");
    device.namespaces.push(nvme_soft::NamespaceConfig::new(crate::rig::medium()));
    let mut rig = Rig::with(config(), vec![device]);
    let mut a = rig.client(&["device=d0:n1"]);
    let mut b = rig.client(&["device=d0:n2"]);
    rig.inject(Queue::AnyIo, 0x01, When::First(2), Action::Hang);
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.ask_writes(&mut b, 0, 0..1, 50);
    // The first Create I/O Completion Queue after the reset is refused.
    rig.inject(Queue::Admin, 0x05, When::First(1), Action::Fail(nvme_soft::wire::Status::QUEUE_ID));
    fatal(&mut rig);
    rig.answered(&mut a, 0, vec![0]);
    rig.answered(&mut b, 0, vec![0]);
    let (mut lost, mut kept): (Client, Client) = if rig.lost(&a) { (a, b) } else { (b, a) };
    assert!(rig.lost(&lost) && !rig.lost(&kept));
    assert_eq!((lost.status(0, 0), kept.status(0, 0)), (IOERR, OK));
    rig.serves(&mut kept, 0, 9);
    lost.ask(0, 1, crate::client::FLUSH, 0, 0, 0);
    assert_eq!(rig.status(&mut lost, 0, 1), IOERR);
    // Its pair goes with it.
    let pages = Knobs::count(&rig.knobs[0].pool);
    rig.end(&lost);
    rig.step();
    assert!(Knobs::count(&rig.knobs[0].pool) < pages, "its memory is free again");
    let device = if lost.key < kept.key { "device=d0:n1" } else { "device=d0:n2" };
    rig.until("the rescan", |rig| rig.said(|e| matches!(e, Event::CatalogueChanged)));
    let mut again = rig.client(&[device]);
    rig.serves(&mut again, 0, 11);
}

#[test]
fn a_client_that_comes_during_a_reset_is_served_afterwards() {
    let mut device = soft("d0");
    device.namespaces.push(nvme_soft::NamespaceConfig::new(crate::rig::medium()));
    let mut rig = Rig::with(config(), vec![device]);
    let mut a = rig.registered(&["device=d0:n1"]);
    let mut b = rig.registered(&["device=d0:n2"]);
    rig.faults(0).stick_ready(Some(true));
    fatal(&mut rig);
    assert_eq!(rig.state(0), ControllerState::Recovering);
    // No pair was made so far.
    rig.start(&mut a).unwrap();
    rig.start(&mut b).unwrap();
    rig.pass_time(SECOND / 2);
    rig.faults(0).stick_ready(None);
    rig.ask_writes(&mut a, 0, 0..1, 1);
    assert_eq!(rig.status(&mut a, 0, 0), OK);
    rig.serves(&mut b, 0, 4);
}

#[test]
fn a_pair_whose_creation_a_reset_ended_is_asked_for_again() {
    let mut rig = Rig::new(1);
    let mut a = rig.registered(&["device=d0:n1"]);
    rig.inject(Queue::Admin, 0x01, When::First(1), Action::Hang);
    rig.start(&mut a).unwrap();
    rig.step();
    fatal(&mut rig);
    rig.ask_writes(&mut a, 0, 0..1, 1);
    assert_eq!(rig.status(&mut a, 0, 0), OK);
    assert!(!rig.lost(&a));
}
