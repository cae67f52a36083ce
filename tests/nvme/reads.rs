use std::time::Duration;

use nvme_core::nvme::{ControllerEvent, SCAN_MAX, ScanError};
use nvme_platform::Window;
use nvme_policy::LbaRange;
use nvme_soft::faulty::{Action, Queue, Rule, When};
use nvme_soft::{Config, Medium, NamespaceConfig};

use crate::rig::{Rig, config, medium, options, pattern};

fn with_disk(config: Config) -> (Rig, Window) {
    let disk = medium(1 << 20);
    disk.window().write(0, &pattern(5, 1 << 20)).unwrap();
    let window = disk.window().clone();
    let config = Config { namespaces: vec![NamespaceConfig::new(disk)], ..config };
    (Rig::new(config, options()), window)
}

fn range(rig: &Rig, sector: u64, bytes: u64) -> LbaRange {
    rig.extent().confine(sector, bytes).unwrap()
}

fn read(rig: &mut Rig, sector: u64, bytes: u64) -> Result<Vec<u8>, ScanError> {
    let range = range(rig, sector, bytes);
    rig.controller.scan_read(range, 11);
    match rig.event() {
        ControllerEvent::ScanRead { token: 11, result } => result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_control_role_reads_bytes_without_taking_a_pair_from_workers() {
    for mdts in [1, 8] {
        let (mut rig, _) = with_disk(Config { mdts, ..config(512) });
        let free = rig.controller.pairs_free();
        for (sector, bytes) in [(0, 512_u64), (1, 16384), (100, SCAN_MAX.into()), (2047, 512)] {
            let got = read(&mut rig, sector, bytes).unwrap();
            assert!(got == pattern(5, 1 << 20)[sector as usize * 512..][..bytes as usize]);
        }
        assert_eq!(rig.controller.pairs_free(), free);
        assert_eq!(rig.pair(8).id(), 2);
    }
}

#[test]
fn a_single_pair_is_borrowed_while_no_worker_has_it() {
    let (mut rig, _) = with_disk(Config { queues: 1, ..config(512) });
    assert_eq!(rig.controller.pairs_free(), 1);
    assert!(read(&mut rig, 0, 4096).is_ok());
    assert!(rig.event_within(Duration::from_secs(1)).is_none());
    assert_eq!(rig.controller.pairs_free(), 1, "given back");
    let pair = rig.pair(8);
    assert_eq!((pair.id(), rig.controller.pairs_free()), (1, 0));
    assert_eq!(read(&mut rig, 0, 4096), Err(ScanError::NoPair));
}

#[test]
fn reads_that_wait_are_done_in_order() {
    let (mut rig, _) = with_disk(config(512));
    for token in 0..10 {
        let range = range(&rig, u64::from(token), 512);
        rig.controller.scan_read(range, token);
    }
    for want in 0..10 {
        let ControllerEvent::ScanRead { token, result: Ok(bytes) } = rig.event() else { panic!() };
        assert_eq!(token, want);
        assert!(bytes == pattern(5, 1 << 20)[want as usize * 512..][..512]);
    }
}

#[test]
fn a_read_that_hangs_ends_in_time_and_the_next_one_works() {
    let (mut rig, _) = with_disk(config(512));
    rig.handle.faults().unwrap().inject(Rule::any(Queue::AnyIo, When::First(1), Action::Hang));
    let start = rig.now;
    assert_eq!(read(&mut rig, 0, 4096), Err(ScanError::TimedOut));
    assert!(rig.now - start <= Duration::from_secs(2));
    assert!(read(&mut rig, 0, 4096).is_ok());
}

#[test]
fn a_read_that_is_too_long_or_fails_says_so() {
    let (mut rig, _) = with_disk(config(512));
    assert_eq!(read(&mut rig, 0, u64::from(SCAN_MAX) + 512), Err(ScanError::BadRange));
    let status = nvme_soft::wire::Status::INVALID_FIELD;
    rig.handle.faults().unwrap().inject(Rule::any(Queue::AnyIo, When::First(1), Action::Fail(status)));
    assert!(matches!(read(&mut rig, 0, 512), Err(ScanError::Failed(_))));
    assert!(read(&mut rig, 0, 512).is_ok());
}

#[test]
fn a_reset_ends_reads_and_they_work_again_afterwards() {
    let (mut rig, _) = with_disk(config(512));
    assert!(read(&mut rig, 0, 512).is_ok());
    rig.handle.faults().unwrap().inject(Rule::any(Queue::AnyIo, When::First(1), Action::Hang));
    let range = range(&rig, 0, 512);
    rig.controller.scan_read(range, 1);
    assert!(rig.controller.poll(rig.now).is_none());
    rig.controller.reset();
    assert!(matches!(rig.event(), ControllerEvent::ScanRead { token: 1, result: Err(ScanError::NotReady) }));
    assert!(matches!(rig.event(), ControllerEvent::Reset { .. }));
    assert!(read(&mut rig, 0, 512).is_ok());
}

/// CRDT1 to CRDT3 in Identify Controller.
const CRDT: usize = 128;

/// A controller that may ask for 100 ms, 700 ms or 5 s.
fn patient() -> Rig {
    let mut rig = Rig::raw(config(512), options());
    rig.handle.faults().unwrap().lie_in_identify(Box::new(|cns, _, data| {
        if cns == 1 {
            data[CRDT..CRDT + 6].copy_from_slice(&[1, 0, 7, 0, 50, 0]);
        }
    }));
    assert!(matches!(rig.event(), ControllerEvent::Ready));
    rig
}

#[test]
fn a_read_that_is_to_be_tried_later_is_after_the_time_that_the_controller_asks_for() {
    for (crd, least) in [(1, 100), (2, 700)] {
        let mut rig = patient();
        let status = nvme_soft::wire::Status(0x21 | crd << 11);
        rig.handle.faults().unwrap().inject(Rule::any(Queue::AnyIo, When::First(1), Action::Fail(status)));
        let start = rig.now;
        assert!(read(&mut rig, 0, 4096).is_ok(), "{crd}");
        let took = rig.now - start;
        assert!(took >= Duration::from_millis(least) && took < Duration::from_millis(least + 50), "{took:?}");
    }
}

#[test]
fn a_time_behind_the_deadline_of_a_read_ends_it_and_it_is_looked_at_later() {
    let mut rig = patient();
    let status = nvme_soft::wire::Status(0x21 | 3 << 11);
    rig.handle.faults().unwrap().inject(Rule::any(Queue::AnyIo, When::First(1), Action::Fail(status)));
    let start = rig.now;
    assert_eq!(read(&mut rig, 0, 4096), Err(ScanError::Failed(status.0)));
    assert!(rig.now - start < Duration::from_secs(1), "it is known at once");
    assert!(matches!(rig.event_within(Duration::from_secs(2)), Some(ControllerEvent::NamespacesChanged)));
    assert!(read(&mut rig, 0, 4096).is_ok());
}
