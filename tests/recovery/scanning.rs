//! Namespaces that come, change and go; and the shutdown.

use nvme_core::server::control::{ControllerState, Event};
use nvme_session::factory::CreateError;
use nvme_soft::NamespaceConfig;
use nvme_soft::faulty::{Action, Queue, When};

use crate::client::Client;
use crate::client::{FLUSH, IN, IOERR, OK, OUT};
use crate::rescans::subsystem;
use crate::rig::{Rig, SECOND, medium, soft};

fn sectors(rig: &Rig, nsid: u32) -> Option<u64> {
    let mut all = rig.control.catalogue().devices();
    all.find(|(entry, _)| entry.namespace().nsid == nsid).map(|(entry, _)| entry.extent().blocks())
}

#[test]
fn a_namespace_that_appears_can_be_had_and_one_that_goes_is_lost_to_its_session_alone() {
    let mut rig = Rig::new(2);
    let mut a = rig.client(&["device=d0:n1"]);
    let mut other = rig.client(&["device=d1:n1"]);
    rig.handles[0].add(5, NamespaceConfig::new(medium())).unwrap();
    rig.until("the namespace", |rig| sectors(rig, 5).is_some());
    let mut b = rig.client(&["device=d0:n5"]);
    rig.serves(&mut b, 0, 2);
    assert!(rig.handles[0].remove(5));
    rig.until("the loss", |rig| rig.lost(&b));
    assert!(!rig.lost(&a) && !rig.lost(&other) && sectors(&rig, 5).is_none());
    b.ask(0, 7, FLUSH, 0, 0, 0);
    assert_eq!(rig.status(&mut b, 0, 7), IOERR);
    assert!(matches!(rig.create(&["device=d0:n5"]), Err(CreateError::NoDevice(_))));
    rig.serves(&mut a, 0, 3);
    rig.serves(&mut other, 0, 4);
    rig.end(&b);
    // It comes back, to somebody else.
    rig.handles[0].add(5, NamespaceConfig::new(medium())).unwrap();
    rig.until("the namespace", |rig| sectors(rig, 5).is_some());
    let mut c = rig.client(&["device=d0:n5"]);
    rig.serves(&mut c, 0, 5);
}

fn capacity(rig: &Rig, client: &Client) -> u64 {
    let mut bytes = [0; 8];
    rig.control.session(client.key).unwrap().read_config(0, &mut bytes);
    u64::from_le_bytes(bytes)
}

fn told(rig: &mut Rig, client: &Client) {
    rig.expect("the news", |e| matches!(e, Event::ConfigChanged(key) if *key == client.key));
}

/// One controller whose namespace has so many MiB of the eight that its medium has.
fn small(mib: u64) -> Rig {
    let mut rig = Rig::new(1);
    assert!(rig.handles[0].resize(1, mib << 20));
    grown(&mut rig, mib);
    rig
}

/// Waits until the namespace is known to have so many MiB, and can be had.
fn grown(rig: &mut Rig, mib: u64) {
    rig.until("the new size", |rig| sectors(rig, 1) == Some(mib << 11));
    rig.step();
}

#[test]
fn a_namespace_that_grows_is_told_to_its_client_who_has_all_of_it_from_then_on() {
    let mut rig = small(4);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.start(&mut a).unwrap();
    assert_eq!(capacity(&rig, &a), 4 << 11);
    for queue in 0..2 {
        a.ask(queue, 9, OUT, 4 << 11, Client::place(9), 4096);
        assert_eq!(rig.status(&mut a, queue, 9), IOERR, "behind the end");
    }
    // In mid-I/O.
    rig.inject(Queue::AnyIo, 0x01, When::First(2), Action::Delay(2 * SECOND));
    rig.ask_writes(&mut a, 0, 0..4, 1);
    assert!(rig.handles[0].resize(1, 8 << 20));
    told(&mut rig, &a);
    assert_eq!(capacity(&rig, &a), 8 << 11);
    rig.answered(&mut a, 0, vec![0, 1, 2, 3]);
    assert!((0..4).all(|slot| a.status(0, slot) == OK));
    // The queues that ran have it, and one that starts later.
    rig.start(&mut a).unwrap();
    for queue in 0..3 {
        a.ask(queue, 9, OUT, (8 << 11) - 8, Client::place(9), 4096);
        assert_eq!(rig.status(&mut a, queue, 9), OK);
        a.ask(queue, 9, IN, 8 << 11, Client::place(9), 512);
        assert_eq!(rig.status(&mut a, queue, 9), IOERR, "behind the new end");
    }
    assert!(!rig.lost(&a) && !rig.said(|e| matches!(e, Event::ConfigChanged(_))), "told once");
    rig.check_writes(&mut a, 0, 0..4, 1);
    grown(&mut rig, 8);
    assert!(matches!(rig.create(&["device=d0:n1", "read-only"]), Err(CreateError::InUse { .. })));
}

#[test]
fn a_queue_that_waits_for_its_pair_grows_with_its_namespace() {
    let mut rig = small(4);
    let mut a = rig.registered(&["device=d0:n1"]);
    rig.inject(Queue::Admin, 0x05, When::First(1), Action::Delay(5 * SECOND));
    rig.start(&mut a).unwrap();
    rig.step();
    assert!(rig.handles[0].resize(1, 8 << 20));
    told(&mut rig, &a);
    a.ask(0, 9, IN, (8 << 11) - 8, Client::place(9), 4096);
    assert_eq!(rig.status(&mut a, 0, 9), OK);
}

#[test]
fn a_namespace_that_grew_during_a_reset_is_told_after_it() {
    let mut rig = small(4);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.faults(0).stick_ready(Some(false));
    rig.handles[0].raise_fatal();
    rig.pass_time(SECOND / 10);
    assert!(rig.handles[0].resize(1, 8 << 20));
    rig.faults(0).stick_ready(None);
    told(&mut rig, &a);
    a.ask(0, 9, IN, (8 << 11) - 8, Client::place(9), 4096);
    assert_eq!(rig.status(&mut a, 0, 9), OK);
    rig.serves(&mut a, 0, 3);
}

#[test]
fn nothing_is_granted_on_a_namespace_that_changed_before_its_table_is_read_again() {
    let mut rig = small(4);
    let a = rig.client(&["device=d0:n1", "read-only"]);
    rig.inject(Queue::AnyIo, 0x02, When::First(1), Action::Delay(2 * SECOND));
    assert!(rig.handles[0].resize(1, 8 << 20));
    told(&mut rig, &a);
    assert!(matches!(rig.create(&["device=d0:n1", "read-only"]), Err(CreateError::Scanning)));
    rig.pass_time(3 * SECOND);
    let b = rig.client(&["device=d0:n1", "read-only"]);
    assert_eq!((capacity(&rig, &a), capacity(&rig, &b)), (8 << 11, 8 << 11));
}

#[test]
fn another_namespace_of_the_same_number_is_another_device() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.serves(&mut a, 0, 1);
    // EUI-64, the same again and then another; the size is the same.
    rig.handles[0].add(1, NamespaceConfig::new(medium())).unwrap();
    rig.pass_time(SECOND);
    assert!(!rig.lost(&a));
    lie(&rig, 0, 0, 120, vec![1, 2, 3, 4, 5, 6, 7, 8]);
    rig.handles[0].add(1, NamespaceConfig::new(medium())).unwrap();
    told(&mut rig, &a);
    assert!(rig.lost(&a));
    rig.end(&a);
    rig.pass_time(SECOND);
    let mut b = rig.client(&["device=d0:n1"]);
    rig.serves(&mut b, 0, 2);
}

fn lie(rig: &Rig, controller: usize, cns: u8, at: usize, bytes: Vec<u8>) {
    rig.faults(controller).lie_in_identify(Box::new(move |got, _, data| {
        if got == cns {
            data[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }));
}

#[test]
fn a_shared_namespace_has_one_writer_and_comes_back_by_the_other_way() {
    let mut rig = subsystem(vec![soft("d0"), soft("d1")], [9, 9]);
    rig.expect("the scan", |e| matches!(e, Event::Scanned));
    let mut a = rig.client(&["device=one:n1"]);
    rig.serves(&mut a, 0, 1);
    let no_second = |rig: &mut Rig| {
        assert!(matches!(rig.create(&["device=one:n1"]), Err(CreateError::InUse { .. })));
        assert!(matches!(rig.create(&["device=pci:0000:01:00.0:n1"]), Err(CreateError::NoDevice(_))));
    };
    no_second(&mut rig);
    // News of the second controller changes nothing.
    rig.handles[1].resize(1, 4 << 20);
    rig.pass_time(SECOND);
    no_second(&mut rig);
    rig.handles[0].vanish();
    rig.until("the loss", |rig| rig.state(0) == ControllerState::Lost);
    rig.pass_time(SECOND);
    let mut b = rig.client(&["device=one:n1"]);
    rig.serves(&mut b, 0, 2);
}

#[test]
fn a_device_that_is_lost_has_no_sectors_any_more_and_its_client_is_told() {
    let mut rig = Rig::new(1);
    let a = rig.client(&["device=d0:n1"]);
    rig.handles[0].vanish();
    told(&mut rig, &a);
    assert!(rig.lost(&a));
    assert_eq!(capacity(&rig, &a), 0);
}

#[test]
fn a_namespace_that_shrinks_keeps_its_session_s_extent() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1"]);
    let extent = *rig.control.session(a.key).unwrap().minted().grant().extent();
    assert!(rig.handles[0].resize(1, 4 << 20));
    rig.until("the new size", |rig| sectors(rig, 1) == Some(4 << 11));
    assert_eq!(*rig.control.session(a.key).unwrap().minted().grant().extent(), extent);
    assert!(!rig.lost(&a));
    rig.serves(&mut a, 0, 1);
    a.ask(0, 9, IN, 5 << 11, Client::place(9), 4096);
    assert_eq!(rig.status(&mut a, 0, 9), IOERR, "behind the end");
    rig.end(&a);
    rig.pass_time(SECOND);
    let a = rig.client(&["device=d0:n1"]);
    assert_eq!(rig.control.session(a.key).unwrap().minted().grant().extent().blocks(), 4 << 11);
}

#[test]
fn nothing_is_granted_where_a_writer_was_before_its_table_is_read_again() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.serves(&mut a, 0, 1);
    rig.inject(Queue::AnyIo, 0x02, When::First(1), Action::Delay(2 * SECOND));
    rig.end(&a);
    assert!(matches!(rig.create(&["device=d0:n1"]), Err(CreateError::Scanning)));
    rig.pass_time(SECOND);
    assert!(matches!(rig.create(&["device=d0:n1", "read-only"]), Err(CreateError::Scanning)));
    rig.pass_time(2 * SECOND);
    rig.client(&["device=d0:n1"]);
}

#[test]
fn a_reset_in_the_middle_of_a_scan_is_survived() {
    let mut rig = Rig::new(1);
    let a = rig.client(&["device=d0:n1"]);
    rig.inject(Queue::AnyIo, 0x02, When::First(1), Action::Hang);
    rig.end(&a);
    rig.step();
    rig.handles[0].raise_fatal();
    rig.pass_time(SECOND);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.serves(&mut a, 0, 1);
}

/// Whether CC.SHN was set to a normal shutdown.
fn shutdowns(rig: &Rig, controller: usize) -> usize {
    rig.knobs[controller].configured.lock().unwrap().iter().filter(|cc| **cc >> 14 & 3 == 1).count()
}

#[test]
fn a_shutdown_drains_tells_the_controllers_and_ends() {
    let mut rig = Rig::new(2);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Delay(2 * SECOND));
    rig.ask_writes(&mut a, 0, 0..2, 1);
    rig.control.shut_down(rig.now);
    rig.pass_time(SECOND);
    assert_eq!(shutdowns(&rig, 0), 0, "not before everything is answered");
    rig.expect("the shutdown", |e| matches!(e, Event::ShutDown));
    assert_eq!((a.status(0, 0), a.status(0, 1)), (OK, OK));
    assert!(rig.said(|e| matches!(e, Event::ShutDown)) || rig.control.sessions().count() == 0);
    assert_eq!((shutdowns(&rig, 0), shutdowns(&rig, 1)), (1, 1));
    assert_eq!((rig.state(0), rig.state(1)), (ControllerState::Down, ControllerState::Down));
}

#[test]
fn a_shutdown_does_not_wait_for_ever_for_a_session_that_does_not_drain() {
    let mut rig = Rig::new(2);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Hang);
    rig.inject(Queue::Admin, 0x08, When::Always, Action::Hang);
    rig.inject(Queue::Admin, 0x00, When::Always, Action::Hang);
    rig.inject(Queue::Admin, 0x06, When::Always, Action::Delay(9 * SECOND));
    rig.ask_writes(&mut a, 0, 0..1, 1);
    let start = rig.now;
    rig.control.shut_down(rig.now);
    rig.expect("the shutdown", |e| matches!(e, Event::ShutDown));
    assert!(rig.now - start <= 41 * SECOND, "{:?}", rig.now - start);
    assert_eq!(shutdowns(&rig, 1), 1);
}

#[test]
fn a_shutdown_with_a_lost_controller_ends() {
    let mut rig = Rig::new(2);
    let a = rig.client(&["device=d0:n1"]);
    rig.handles[0].vanish();
    rig.until("the loss", |rig| rig.lost(&a));
    rig.control.shut_down(rig.now);
    rig.expect("the shutdown", |e| matches!(e, Event::ShutDown));
    assert_eq!(shutdowns(&rig, 1), 1);
}

#[test]
fn a_shutdown_before_the_scan_is_over_ends() {
    for polls in 0..30 {
        let devices = vec![crate::rig::soft("d0"), crate::rig::soft("d1")];
        let mut rig = Rig::raw(crate::rig::config(), devices);
        rig.faults(0).stick_ready(Some(false));
        for _ in 0..polls {
            rig.control.poll(rig.now);
            rig.now = rig.now + SECOND / 20;
        }
        rig.control.shut_down(rig.now);
        rig.expect("the shutdown", |e| matches!(e, Event::ShutDown));
    }
}
