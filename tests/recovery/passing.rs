//! What a controller cannot do for the moment: nobody loses anything by it.

use std::sync::Arc;
use std::time::Duration;

use nvme_core::server::control::{ControllerState, Event};
use nvme_mem::Window;
use nvme_session::factory::CreateError;
use nvme_soft::faulty::{Action, Queue, When};
use nvme_soft::wire::{Status, admin, nvm};
use nvme_soft::{MemoryMedium, NamespaceConfig};

use crate::client::{Client, FLUSH, IOERR, OK, OUT};
use crate::rescans::{CONTROLLER, EUI64, NAMESPACE, partitioned, partitions, says};
use crate::rig::{Rig, SECOND, config, medium, policy, soft};

/// Sanitize In Progress, Command Interrupted, Transient Transport Error, Namespace Not Ready, Internal Path Error.
const PASSING: [u16; 5] = [0x1d, 0x21, 0x22, 0x82, 0x300];
const DO_NOT_RETRY: u16 = 1 << 14;

fn fail(status: u16) -> Action {
    Action::Fail(Status(status))
}

/// A disk with a partition, not polled yet, of which so many reads fail.
fn failing(when: When, status: u16) -> Rig {
    let mut device = soft("d0");
    device.namespaces = vec![NamespaceConfig::new(partitioned())];
    let rig = Rig::raw(config(), vec![device]);
    rig.inject(Queue::AnyIo, nvm::READ, when, fail(status));
    rig
}

fn scanned(rig: &mut Rig) {
    rig.expect("the scan", |e| matches!(e, Event::Scanned));
}

#[test]
fn a_table_that_cannot_be_read_for_the_moment_is_read_before_anybody_is_served() {
    for status in PASSING {
        for times in [1, 5] {
            let mut rig = failing(When::First(times), status);
            let start = rig.now;
            scanned(&mut rig);
            assert_eq!(partitions(&rig, 1), 1, "{status:#x}, {times} times");
            assert!(rig.now - start < 2 * SECOND);
        }
    }
}

#[test]
fn a_read_of_a_table_that_would_fail_again_is_not_repeated() {
    let mut rig = failing(When::First(1), 0x82 | DO_NOT_RETRY);
    scanned(&mut rig);
    assert_eq!((partitions(&rig, 1), rig.faults(0).fired()), (0, 1));
}

#[test]
fn a_disk_that_is_not_ready_for_long_keeps_nobody_waiting_and_has_its_partitions_in_the_end() {
    let mut device = soft("d0");
    device.namespaces = vec![NamespaceConfig::new(partitioned()), NamespaceConfig::new(medium())];
    let mut rig = Rig::raw(config(), vec![device, soft("d1")]);
    rig.inject(Queue::AnyIo, nvm::READ, When::First(100), fail(0x82));
    let client = policy(&["device=d0:n1:1"]);
    rig.control.catalogue_mut().reserve(&client).unwrap();
    let start = rig.now;
    scanned(&mut rig);
    assert!(rig.now - start < 10 * SECOND, "the others are served");
    assert!(matches!(rig.create(&["device=d0:n1:1", "read-only"]), Err(CreateError::NoDevice(_))));
    let mut other = rig.client(&["device=d1:n1"]);
    rig.serves(&mut other, 0, 1);
    rig.until("the partition", |rig| partitions(rig, 1) == 1);
    assert!(rig.control.catalogue_mut().claim(&client).is_ok(), "its static client is served");
    rig.serves(&mut other, 0, 2);
}

#[test]
fn a_list_of_namespaces_that_fails_takes_no_session_its_disk() {
    for status in [0x82, 0x06 | DO_NOT_RETRY] {
        let mut rig = Rig::new(1);
        let mut client = rig.client(&["device=d0:n1"]);
        // All the tries of one look, and what comes after the first.
        rig.inject(Queue::Admin, admin::IDENTIFY, When::First(6), fail(status));
        rig.handles[0].add(2, NamespaceConfig::new(medium())).unwrap();
        rig.pass_time(SECOND / 4);
        rig.serves(&mut client, 0, 1);
        rig.until("the new namespace", |rig| rig.control.catalogue().devices().count() == 2);
        assert!(!rig.lost(&client));
        rig.serves(&mut client, 0, 2);
    }
}

/// CRDT1 to CRDT3 in Identify Controller: 3 s, 10 s; commands have 5.
fn patient() -> Rig {
    let mut rig = Rig::raw(config(), vec![soft("d0")]);
    says(&rig, 0, CONTROLLER, 128, &[30, 0, 100, 0]);
    scanned(&mut rig);
    rig
}

/// Command Interrupted, to be issued again after 3 s.
const IN_A_WHILE: u16 = 0x21 | 1 << 11;

#[test]
fn a_guest_s_requests_that_fail_for_the_moment_are_done_and_it_never_hears_of_it() {
    for status in [0x1d, 0x21, 0x22, 0x82, 0x300] {
        let mut rig = Rig::new(1);
        let mut client = rig.client(&["device=d0:n1"]);
        rig.inject(Queue::AnyIo, nvm::WRITE, When::First(5), fail(status));
        rig.inject(Queue::AnyIo, nvm::READ, When::First(5), fail(status));
        let start = rig.now;
        rig.serves(&mut client, 0, 1);
        assert_eq!(rig.faults(0).fired(), 10, "{status:#x}");
        assert!(rig.now - start < Duration::from_millis(100), "{status:#x}: at once");
        // For good it is an error.
        rig.inject(Queue::AnyIo, nvm::WRITE, When::Always, fail(status));
        client.ask(0, 0, OUT, 0, Client::place(0), 4096);
        assert_eq!(rig.status(&mut client, 0, 0), IOERR);
    }
}

#[test]
fn a_flush_that_failed_is_told_to_the_guest_unless_it_was_not_begun() {
    for (status, answer) in
        [(0x82, OK), (0x21, OK), (0x22, IOERR), (0x1d, IOERR), (0x300, IOERR), (0x06, IOERR)]
    {
        let mut rig = Rig::new(1);
        let mut client = rig.client(&["device=d0:n1"]);
        rig.ask_writes(&mut client, 0, 0..1, 1);
        rig.answered(&mut client, 0, vec![0]);
        rig.inject(Queue::AnyIo, nvm::FLUSH, When::First(1), fail(status));
        client.ask(0, 1, FLUSH, 0, 0, 0);
        assert_eq!(rig.status(&mut client, 0, 1), answer, "{status:#x}");
    }
}

#[test]
fn a_request_waits_as_long_as_the_controller_asks_for_and_no_longer_than_its_deadline() {
    let mut rig = patient();
    let mut client = rig.client(&["device=d0:n1"]);
    rig.inject(Queue::AnyIo, nvm::WRITE, When::First(1), fail(IN_A_WHILE));
    let start = rig.now;
    rig.serves(&mut client, 0, 1);
    assert!((3 * SECOND..3 * SECOND + SECOND / 2).contains(&(rig.now - start)), "{:?}", rig.now - start);
    // Twice three seconds are too long, and so are ten.
    for (status, least) in [(IN_A_WHILE, 3 * SECOND), (0x21 | 2 << 11, Duration::ZERO)] {
        rig.faults(0).clear();
        rig.inject(Queue::AnyIo, nvm::WRITE, When::Always, fail(status));
        let start = rig.now;
        client.ask(0, 0, OUT, 0, Client::place(0), 4096);
        assert_eq!(rig.status(&mut client, 0, 0), IOERR);
        assert!((least..least + SECOND / 2).contains(&(rig.now - start)), "{:?}", rig.now - start);
    }
    assert_eq!(rig.state(0), ControllerState::Serving);
}

/// The disk of a controller that may ask for a while, and a client of it with a write that waits.
fn waiting() -> (Rig, Window, Client) {
    let disk = nvme_mem::heap(8 << 20).unwrap();
    let mut device = soft("d0");
    device.namespaces = vec![NamespaceConfig::new(Arc::new(MemoryMedium::over(disk.clone())))];
    let mut rig = Rig::raw(config(), vec![device]);
    says(&rig, 0, CONTROLLER, 128, &[30, 0, 100, 0]);
    scanned(&mut rig);
    let mut client = rig.client(&["device=d0:n1"]);
    rig.inject(Queue::AnyIo, nvm::WRITE, When::First(1), fail(IN_A_WHILE));
    rig.ask_writes(&mut client, 0, 0..1, 1);
    rig.pass_time(SECOND);
    assert!(client.used(0).is_empty() && is_blank(&disk));
    (rig, disk, client)
}

fn is_blank(disk: &Window) -> bool {
    let mut bytes = vec![1; 8192];
    disk.read(0, &mut bytes).unwrap();
    bytes.iter().all(|b| *b == 0)
}

#[test]
fn nothing_is_issued_again_after_its_session_has_ended() {
    let (mut rig, disk, client) = waiting();
    let start = rig.now;
    rig.end(&client);
    assert!(rig.now - start < SECOND / 2, "it is not waited for");
    rig.pass_time(5 * SECOND);
    assert!(is_blank(&disk));
    // The same for the next client of a session, and what fails while the last one's queues stop.
    let mut next = rig.client(&["device=d0:n1"]);
    rig.faults(0).clear();
    rig.inject(Queue::AnyIo, nvm::WRITE, When::First(1), fail(IN_A_WHILE));
    rig.ask_writes(&mut next, 0, 0..1, 1);
    rig.control.clear(next.key);
    rig.expect("the end", |e| matches!(e, Event::Cleared(key) if *key == next.key));
    rig.pass_time(5 * SECOND);
    assert!(is_blank(&disk));
    rig.end(&next);
    let mut last = rig.client(&["device=d0:n1"]);
    rig.serves(&mut last, 0, 2);
}

/// A queue that its driver stops, as a machine that is paused does, ends what is in flight as it should.
#[test]
fn what_waits_is_done_before_its_queue_has_stopped() {
    let (mut rig, disk, client) = waiting();
    rig.control.stop_queue(client.key, 0).unwrap();
    rig.expect("the stop", |e| matches!(e, Event::QueueStopped(key, 0, 1) if *key == client.key));
    assert_eq!(client.status(0, 0), OK);
    assert!(!is_blank(&disk));
}

#[test]
fn nothing_is_issued_again_to_another_namespace_than_it_was_meant_for() {
    let (mut rig, disk, mut client) = waiting();
    let new = nvme_mem::heap(8 << 20).unwrap();
    says(&rig, 0, NAMESPACE, EUI64, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let medium = Arc::new(MemoryMedium::over(new.clone()));
    rig.handles[0].add(1, NamespaceConfig::new(medium)).unwrap();
    let start = rig.now;
    rig.answered(&mut client, 0, vec![0]);
    assert!(rig.lost(&client) && rig.now - start < SECOND);
    assert_eq!(client.status(0, 0), IOERR);
    rig.pass_time(5 * SECOND);
    assert!(is_blank(&disk) && is_blank(&new));
}

#[test]
fn what_waits_does_not_keep_a_session_s_other_requests_nor_its_memory_from_anything() {
    let mut rig = patient();
    let mut client = rig.client(&["device=d0:n1"]);
    rig.inject(Queue::AnyIo, nvm::WRITE, When::First(1), fail(IN_A_WHILE));
    rig.ask_writes(&mut client, 0, 0..1, 1);
    let start = rig.now;
    rig.ask_writes(&mut client, 0, 1..3, 1);
    rig.answered(&mut client, 0, vec![1, 2]);
    assert!(rig.now - start < SECOND / 2);
    rig.answered(&mut client, 0, vec![0]);
    assert!(rig.now - start >= 3 * SECOND);
    rig.check_writes(&mut client, 0, 0..3, 1);
    rig.end(&client);
}
