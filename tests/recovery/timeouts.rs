//! A command that never ends: what is done about it, and who pays.

use nvme_core::server::control::{ControllerState, Event};
use nvme_soft::faulty::{Action, Queue, Rule, When};

use crate::client::{Client, FLUSH, IOERR, OK, PENDING};
use crate::rig::{IO, Rig, config, soft};

/// One I/O pair for two sessions on two namespaces (the scan has the other).
pub(crate) fn shared() -> (Rig, Client, Client) {
    let mut device = soft("d0");
    device.queues = 2;
    device.namespaces.push(nvme_soft::NamespaceConfig::new(crate::rig::medium()));
    let mut rig = Rig::with(config(), vec![device]);
    let a = rig.client(&["device=d0:n1"]);
    let b = rig.client(&["device=d0:n2"]);
    (rig, a, b)
}

/// Writes hang: the first `n`.
fn hang(rig: &Rig, n: u64) {
    rig.inject(Queue::AnyIo, 0x01, When::First(n), Action::Hang);
}

#[test]
fn a_session_serves_and_its_end_leaves_nothing() {
    let mut rig = Rig::new(1);
    let mut client = rig.client(&["device=d0:n1"]);
    rig.serves(&mut client, 0, 1);
    assert_eq!(rig.knobs[0].reach(), (1, 4 << 20));
    rig.end(&client);
    assert_eq!(rig.knobs[0].reach(), (0, 0));
}

#[test]
fn an_abort_that_helps_costs_nobody_a_request() {
    let (mut rig, mut a, mut b) = shared();
    hang(&rig, 1);
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.ask_writes(&mut a, 0, 1..3, 1);
    rig.ask_writes(&mut b, 0, 0..3, 50);
    rig.answered(&mut b, 0, vec![0, 1, 2]);
    let start = rig.now;
    assert_eq!(rig.status(&mut a, 0, 0), OK);
    assert!(rig.now - start <= IO + crate::rig::SECOND, "{:?}", rig.now - start);
    assert_eq!((a.status(0, 1), a.status(0, 2)), (OK, OK));
    rig.check_writes(&mut a, 0, 0..3, 1);
    rig.check_writes(&mut b, 0, 0..3, 50);
    rig.until("rest", |rig| rig.state(0) == ControllerState::Serving);
    assert!(rig.events.iter().all(|e| !matches!(e, Event::Lost(_))));
    rig.serves(&mut a, 0, 7);
}

#[test]
fn many_late_commands_are_aborted_without_waiting_for_each() {
    // What is late twice has failed.
    for (times, status) in [(1, OK), (2, IOERR)] {
        let (mut rig, mut a, mut b) = shared();
        hang(&rig, 40 * u64::from(times));
        let start = rig.now;
        rig.ask_writes(&mut a, 0, 0..40, 1);
        rig.answered(&mut a, 0, (0..40).collect());
        assert!((0..40).all(|slot| a.status(0, slot) == status));
        let most = times * (IO + crate::rig::SECOND);
        assert!(rig.now - start <= most, "{:?}", rig.now - start);
        rig.serves(&mut b, 0, 3);
    }
}

/// QEMU 11.1: Abort answers that it aborted nothing, the command ends as it would, and says that it was aborted.
#[test]
fn a_late_command_that_was_done_and_says_that_it_was_aborted_costs_nobody_a_request() {
    let late = Action::DelayDeaf(IO + crate::rig::SECOND);
    let (mut rig, mut a, mut b) = shared();
    rig.inject(Queue::AnyIo, 0x01, When::First(3), late.clone());
    rig.inject(Queue::AnyIo, 0x02, When::First(1), late.clone());
    let start = rig.now;
    rig.ask_writes(&mut a, 0, 0..4, 1);
    rig.ask_writes(&mut b, 0, 0..3, 50);
    rig.answered(&mut b, 0, vec![0, 1, 2]);
    rig.answered(&mut a, 0, vec![0, 1, 2, 3]);
    assert!((0..4).all(|slot| a.status(0, slot) == OK));
    assert!(rig.now - start <= IO + 2 * crate::rig::SECOND, "{:?}", rig.now - start);
    // The first read is late as well.
    rig.check_writes(&mut a, 0, 0..4, 1);
    rig.check_writes(&mut b, 0, 0..3, 50);
    assert_eq!(enables(&rig), 1, "no reset");
    // A flush that says so may have been begun, and have failed.
    rig.inject(Queue::AnyIo, 0x00, When::First(1), late);
    a.ask(0, 9, FLUSH, 0, 0, 0);
    assert_eq!(rig.status(&mut a, 0, 9), IOERR);
    rig.serves(&mut a, 0, 7);
}

#[test]
fn when_the_abort_does_not_help_the_queue_is_deleted_and_only_the_guilty_pay() {
    let (mut rig, mut a, mut b) = shared();
    rig.inject(Queue::Admin, 0x08, When::Always, Action::Fail(nvme_soft::wire::Status::INTERNAL));
    hang(&rig, 1);
    rig.ask_writes(&mut a, 0, 0..1, 1);
    // Of the other session, three hang as well, but younger ones.
    rig.pass_time(IO / 2);
    rig.faults(0).inject(Rule::new(Queue::AnyIo, 0x01, When::First(3), Action::Hang));
    rig.ask_writes(&mut b, 0, 0..3, 50);
    assert_eq!(rig.status(&mut a, 0, 0), IOERR);
    rig.answered(&mut b, 0, vec![0, 1, 2]);
    assert!((0..3).all(|slot| b.status(0, slot) == OK));
    rig.check_writes(&mut b, 0, 0..3, 50);
    rig.serves(&mut a, 0, 9);
    assert_eq!(enables(&rig), 1, "no reset");
}

/// How often CC.EN was set.
pub(crate) fn enables(rig: &Rig) -> usize {
    rig.knobs[0].configured.lock().unwrap().iter().filter(|cc| **cc & 1 == 1 && **cc >> 14 & 3 == 0).count()
}

#[test]
fn a_queue_that_cannot_be_deleted_costs_a_reset_and_the_others_go_on() {
    let (mut rig, mut a, mut b) = shared();
    rig.inject(Queue::Admin, 0x08, When::Always, Action::Hang);
    rig.inject(Queue::Admin, 0x00, When::Always, Action::Hang);
    hang(&rig, 4);
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.pass_time(IO / 2);
    rig.ask_writes(&mut b, 0, 0..3, 50);
    assert!((0..3).all(|slot| b.status(0, slot) == PENDING));
    assert_eq!(rig.status(&mut a, 0, 0), IOERR);
    rig.answered(&mut b, 0, vec![0, 1, 2]);
    assert!((0..3).all(|slot| b.status(0, slot) == OK));
    rig.check_writes(&mut b, 0, 0..3, 50);
    assert_eq!(enables(&rig), 2, "one reset");
    rig.faults(0).clear();
    rig.serves(&mut a, 0, 9);
}
