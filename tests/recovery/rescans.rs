//! News that come while tables are being read, and namespaces that two controllers share.

use std::sync::Arc;

use nvme_core::server::control::{ControllerState, Event};
use nvme_session::factory::CreateError;
use nvme_soft::faulty::{Action, Queue, Rule, When};
use nvme_soft::{Config as Soft, MemoryMedium, NamespaceConfig};

use crate::client::IOERR;
use crate::rig::{Rig, SECOND, config, medium, soft};

/// What a controller says in Identify, and where.
pub(crate) const NAMESPACE: u8 = 0;
pub(crate) const CONTROLLER: u8 = 1;
const LIST: u8 = 2;
const DESCRIPTORS: u8 = 3;
pub(crate) const NMIC: usize = 30;
pub(crate) const EUI64: usize = 120;
pub(crate) const SERIAL: usize = 4;
pub(crate) const MODEL: usize = 24;
pub(crate) const CMIC: usize = 76;
pub(crate) const CNTLID: usize = 78;
pub(crate) const SUBNQN: usize = 768;

/// From now on it says that.
pub(crate) fn says(rig: &Rig, controller: usize, cns: u8, at: usize, bytes: &[u8]) {
    let bytes = bytes.to_vec();
    rig.faults(controller).lie_in_identify(Box::new(move |got, _, data| {
        if got == cns {
            data[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }));
}

/// Controllers of one subsystem, whose namespaces are shared; with these EUI-64, each eight times that byte. Not polled yet.
/// The serial number is the subsystem's; where that does not tell them apart their places do.
pub(crate) fn subsystem(devices: Vec<Soft>, unique: [u8; 2]) -> Rig {
    let rig = Rig::raw(config(), devices);
    for (controller, eui) in unique.into_iter().enumerate() {
        says(&rig, controller, NAMESPACE, NMIC, &[1]);
        says(&rig, controller, NAMESPACE, EUI64, &[eui; 8]);
        says(&rig, controller, CONTROLLER, SERIAL, b"one ");
        says(&rig, controller, CONTROLLER, SUBNQN, b"nqn.2014-08.org.example:one\0");
        says(&rig, controller, CONTROLLER, CMIC, &[2]);
        says(&rig, controller, CONTROLLER, CNTLID, &[controller as u8 + 1, 0]);
    }
    rig
}

/// Two of them, scanned.
fn two(unique: [u8; 2]) -> Rig {
    let mut rig = subsystem(vec![soft("d0"), soft("d1")], unique);
    rig.expect("the scan", |e| matches!(e, Event::Scanned));
    rig
}

const ONE: &str = "device=pci:0000:00:00.0:n1";
const OTHER: &str = "device=pci:0000:01:00.0:n1";

/// Its namespace is another from now on, or says something else about itself.
fn renew(rig: &Rig, controller: usize) {
    rig.handles[controller].add(1, NamespaceConfig::new(medium())).unwrap();
}

fn hold_up_reads(rig: &Rig, controller: usize, when: When) {
    rig.faults(controller).inject(Rule::new(Queue::AnyIo, 0x02, when, Action::Delay(2 * SECOND)));
}

/// A disk with one partition in an MBR.
pub(crate) fn partitioned() -> Arc<MemoryMedium> {
    let disk = nvme_mem::heap(8 << 20).unwrap();
    let entry = [0, 0, 0, 0, 0x83, 0, 0, 0, 64, 0, 0, 0, 64, 0, 0, 0];
    disk.write(440, &[1, 2, 3, 4]).unwrap();
    disk.write(446, &entry).unwrap();
    disk.write(510, &[0x55, 0xaa]).unwrap();
    Arc::new(MemoryMedium::over(disk))
}

pub(crate) fn partitions(rig: &Rig, nsid: u32) -> usize {
    let mut all = rig.control.catalogue().devices();
    all.find(|(entry, _)| entry.namespace().nsid == nsid).unwrap().1.count()
}

#[test]
fn what_was_read_for_a_scan_that_is_over_is_not_taken_for_another_disk_s() {
    let mut device = soft("d0");
    device.namespaces = vec![NamespaceConfig::new(partitioned()), NamespaceConfig::new(medium())];
    let mut rig = Rig::with(config(), vec![device]);
    assert_eq!((partitions(&rig, 1), partitions(&rig, 2)), (1, 0));
    // The first disk's table is being read again when it goes.
    hold_up_reads(&rig, 0, When::First(1));
    assert!(rig.handles[0].resize(2, 4 << 20));
    rig.step();
    says(&rig, 0, LIST, 0, &[2, 0, 0, 0, 0, 0, 0, 0]);
    assert!(rig.handles[0].resize(2, 5 << 20));
    rig.pass_time(5 * SECOND);
    assert_eq!(partitions(&rig, 2), 0);
}

#[test]
fn however_often_there_is_news_during_a_slow_read_the_table_is_read_in_the_end() {
    let mut device = soft("d0");
    device.namespaces = vec![NamespaceConfig::new(partitioned()), NamespaceConfig::new(medium())];
    let mut rig = Rig::with(config(), vec![device]);
    hold_up_reads(&rig, 0, When::First(1));
    for news in 1..100 {
        assert!(rig.handles[0].resize(2, news << 16));
        rig.step();
    }
    rig.pass_time(5 * SECOND);
    assert_eq!((partitions(&rig, 1), partitions(&rig, 2)), (1, 0));
}

#[test]
fn a_namespace_that_turns_out_to_be_another_s_is_lost_to_its_session() {
    let mut rig = two([9, 8]);
    let mut a = rig.client(&[ONE]);
    let b = rig.client(&[OTHER]);
    // It has no identifier any more that tells them apart, here nor in its list of descriptors.
    says(&rig, 1, NAMESPACE, EUI64, &[0; 8]);
    says(&rig, 1, DESCRIPTORS, 0, &[0; 4]);
    renew(&rig, 1);
    rig.pass_time(SECOND);
    assert!(rig.lost(&b) && !rig.lost(&a));
    assert!(matches!(rig.create(&[OTHER, "read-only"]), Err(CreateError::NoDevice(_))));
    rig.serves(&mut a, 0, 1);
}

#[test]
fn a_namespace_that_comes_to_be_shared_is_another() {
    let mut rig = Rig::new(1);
    let a = rig.client(&["device=d0:n1"]);
    says(&rig, 0, NAMESPACE, NMIC, &[1]);
    renew(&rig, 0);
    rig.pass_time(SECOND);
    assert!(!rig.lost(&a), "there is nobody to share it with");
    says(&rig, 0, CONTROLLER, CMIC, &[2]);
    hold_up_reads(&rig, 0, When::Always);
    // What a controller is it says after a reset.
    rig.handles[0].raise_fatal();
    rig.until("the loss", |rig| rig.lost(&a));
    assert_eq!(rig.state(0), ControllerState::Serving);
}

#[test]
fn a_namespace_that_is_the_other_s_no_more_can_be_had_however_long_a_scan_takes() {
    for slow in 0..2 {
        let mut rig = two([9, 9]);
        assert!(matches!(rig.create(&[OTHER]), Err(CreateError::NoDevice(_))));
        hold_up_reads(&rig, slow, When::First(1));
        says(&rig, 0, NAMESPACE, EUI64, &[5; 8]);
        renew(&rig, 0);
        rig.pass_time(10 * SECOND);
        let mut a = rig.client(&[ONE]);
        let mut b = rig.client(&[OTHER]);
        rig.serves(&mut a, 0, 1);
        rig.serves(&mut b, 0, 2);
    }
}

#[test]
fn a_shared_namespace_comes_back_by_a_controller_that_is_still_being_scanned() {
    let mut second = soft("d1");
    second.namespaces.push(NamespaceConfig::new(medium()));
    let mut rig = subsystem(vec![soft("d0"), second], [9, 9]);
    // Its first namespace is refused; the table of the second takes its time.
    hold_up_reads(&rig, 1, When::Nth(2));
    rig.pass_time(SECOND);
    assert_eq!((rig.state(0), rig.state(1)), (ControllerState::Serving, ControllerState::Scanning));
    let there = |rig: &Rig| {
        rig.control.catalogue().devices().map(|(entry, _)| entry.identity().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(there(&rig), ["one:n1"]);
    rig.handles[0].vanish();
    rig.until("the loss", |rig| rig.state(0) == ControllerState::Lost);
    assert_eq!((rig.state(1), there(&rig)), (ControllerState::Scanning, vec![]));
    rig.expect("the scan", |e| matches!(e, Event::Scanned));
    rig.pass_time(10 * SECOND);
    let mut a = rig.client(&["device=one:n1"]);
    rig.serves(&mut a, 0, 1);
}

#[test]
fn what_hung_on_the_way_to_an_old_namespace_is_not_issued_again_to_the_new_one() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1"]);
    rig.start(&mut a).unwrap();
    rig.inject(Queue::Admin, 0x08, When::Always, Action::Fail(nvme_soft::wire::Status::INTERNAL));
    rig.inject(Queue::AnyIo, 0x01, When::First(2), Action::Hang);
    // The older one costs the queue pair; the other is the innocent queue's.
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.pass_time(SECOND);
    rig.ask_writes(&mut a, 1, 1..2, 1);
    let new = nvme_mem::heap(8 << 20).unwrap();
    says(&rig, 0, NAMESPACE, EUI64, &[1, 2, 3, 4, 5, 6, 7, 8]);
    rig.handles[0].add(1, NamespaceConfig::new(Arc::new(MemoryMedium::over(new.clone())))).unwrap();
    rig.answered(&mut a, 0, vec![0]);
    rig.answered(&mut a, 1, vec![1]);
    assert!(rig.lost(&a));
    let mut bytes = vec![1; 8192];
    new.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|b| *b == 0), "something was written");
    assert_eq!((a.status(0, 0), a.status(1, 1)), (IOERR, IOERR));
}

#[test]
fn a_controller_that_comes_back_from_a_reset_as_another_gets_nothing_that_was_the_first_one_s() {
    for at in [SERIAL, MODEL] {
        let mut rig = Rig::new(2);
        let mut a = rig.client(&["device=d0:n1"]);
        let mut b = rig.client(&["device=d1:n1"]);
        rig.serves(&mut a, 0, 1);
        rig.faults(1).inject(Rule::new(Queue::AnyIo, 0x01, When::First(1), Action::Hang));
        rig.ask_writes(&mut b, 0, 0..1, 50);
        says(&rig, 1, CONTROLLER, at, b"d0 ");
        rig.handles[1].raise_fatal();
        rig.until("the loss", |rig| rig.state(1) == ControllerState::Lost);
        assert!(rig.lost(&b) && !rig.lost(&a));
        assert_eq!(rig.status(&mut b, 0, 0), IOERR);
        // Its names are still the other's alone.
        assert!(matches!(rig.create(&["device=d0:n1"]), Err(CreateError::InUse { .. })));
        rig.serves(&mut a, 0, 3);
    }
}

#[test]
fn a_controller_that_takes_its_time_at_start_keeps_the_others_waiting_for_a_minute_at_most() {
    // Each read ends, and none too late.
    let slow = Soft { namespaces: (0..40).map(|_| NamespaceConfig::new(medium())).collect(), ..soft("d0") };
    let mut rig = Rig::raw(config(), vec![slow, soft("d1")]);
    let begin = rig.now;
    hold_up_reads(&rig, 0, When::Always);
    rig.pass_time(2 * SECOND);
    assert!(matches!(rig.create(&["device=d1:n1"]), Err(CreateError::Scanning)));
    rig.expect("the scan", |e| matches!(e, Event::Scanned));
    assert!((55 * SECOND..62 * SECOND).contains(&(rig.now - begin)), "{:?}", rig.now - begin);
    assert_eq!(rig.state(0), ControllerState::Scanning);
    rig.faults(0).clear();
    let mut a = rig.client(&["device=d1:n1"]);
    rig.serves(&mut a, 0, 1);
    // What comes later can be had then.
    assert!(matches!(rig.create(&["device=d0:n40"]), Err(CreateError::NoDevice(_))));
    rig.until("the rest", |rig| rig.state(0) == ControllerState::Serving);
    let mut b = rig.client(&["device=d0:n40"]);
    rig.serves(&mut b, 0, 2);
    assert!(!rig.said(|e| matches!(e, Event::Scanned)), "once");
}
