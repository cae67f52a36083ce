//! Drives that say of themselves what others say, too.

use nvme_core::server::control::{ControllerState, Event};
use nvme_session::factory::CreateError;
use nvme_soft::NamespaceConfig;
use nvme_soft::faulty::{Action, Queue, When};

use crate::device::Knobs;
use crate::rescans::{
    CMIC, CNTLID, CONTROLLER, EUI64, MODEL, NAMESPACE, NMIC, SERIAL, SUBNQN, says, subsystem,
};
use crate::rig::{Rig, SECOND, config, medium, soft};

const FIRST: &str = "device=pci:0000:00:00.0:n1";
const SECOND_ONE: &str = "device=pci:0000:01:00.0:n1";

fn scanned(mut rig: Rig) -> Rig {
    rig.expect("the scan", |e| matches!(e, Event::Scanned));
    rig
}

/// Both are written to, and neither stands in for the other.
fn are_two(mut rig: Rig, what: &str) {
    let mut a = rig.client(&[FIRST]);
    let mut b = rig.client(&[SECOND_ONE]);
    rig.serves(&mut a, 0, 1);
    rig.serves(&mut b, 0, 2);
    rig.check_writes(&mut a, 0, 0..2, 1);
    rig.handles[0].vanish();
    rig.until("the loss", |rig| rig.state(0) == ControllerState::Lost);
    assert!(rig.lost(&a), "{what}");
    rig.pass_time(5 * SECOND);
    assert!(matches!(rig.create(&[FIRST]), Err(CreateError::NoDevice(_))), "{what}");
    rig.serves(&mut b, 0, 3);
}

#[test]
fn drives_that_share_one_subsystem_s_name_and_differ_in_anything_else_are_two() {
    for (what, cns, at, bytes) in [
        ("serial number", CONTROLLER, SERIAL, &b"two "[..]),
        ("model number", CONTROLLER, MODEL, b"other "),
        ("number of the controller", CONTROLLER, CNTLID, &[1, 0]),
        ("a subsystem of one controller", CONTROLLER, CMIC, &[0]),
        ("a namespace of one controller", NAMESPACE, NMIC, &[0]),
        ("EUI-64", NAMESPACE, EUI64, &[8; 8]),
        ("NGUID", NAMESPACE, 104, &[8; 16]),
    ] {
        let rig = subsystem(vec![soft("d0"), soft("d1")], [9, 9]);
        says(&rig, 0, NAMESPACE, 104, &[7; 16]);
        says(&rig, 1, cns, at, bytes);
        are_two(scanned(rig), what);
    }
}

#[test]
fn a_uuid_that_only_the_descriptors_have_tells_drives_apart() {
    for (uuids, two) in [([[1; 16], [2; 16]], true), ([[1; 16], [1; 16]], false)] {
        let devices = uuids.map(|uuid| {
            let mut device = soft("d");
            device.namespaces = vec![NamespaceConfig { uuid: Some(uuid), ..NamespaceConfig::new(medium()) }];
            device
        });
        let mut rig = scanned(subsystem(devices.into(), [0, 0]));
        if two {
            are_two(rig, "UUID");
        } else {
            assert!(rig.client(&["device=one:n1"]).rings.len() == 1);
            assert!(matches!(rig.create(&[SECOND_ONE, "read-only"]), Err(CreateError::NoDevice(_))));
        }
    }
}

/// As ten families of drives have it: the name of the subsystem, and no more, is the same.
#[test]
fn drives_of_one_kind_with_one_name_of_their_subsystem_are_two() {
    let rig = Rig::raw(config(), vec![soft("TWINA"), soft("TWINB")]);
    for controller in 0..2 {
        says(&rig, controller, CONTROLLER, SUBNQN, b"nqn.2014-08.org.example:all-of-this-kind\0");
        says(&rig, controller, NAMESPACE, NMIC, &[1]);
        says(&rig, controller, NAMESPACE, EUI64, &[0; 8]);
    }
    let mut rig = scanned(rig);
    let (mut a, mut b) = (rig.client(&["device=TWINA:n1"]), rig.client(&["device=TWINB:n1"]));
    rig.serves(&mut a, 0, 1);
    rig.serves(&mut b, 0, 2);
}

#[test]
fn drives_of_one_serial_number_are_refused_by_it_and_had_by_their_places() {
    let mut rig = scanned(Rig::raw(config(), vec![soft("SAME"), soft("SAME")]));
    let why = rig.create(&["device=SAME:n1"]).unwrap_err();
    assert_eq!(
        why.to_string(),
        "SAME:n1 names 2 devices; say which: pci:0000:00:00.0:n1, pci:0000:01:00.0:n1"
    );
    are_two(rig, "one serial number");
}

/// A write that is in flight on the first way may land as long as nothing proves the first controller quiet.
#[test]
fn what_may_still_be_written_by_one_way_is_not_given_out_by_the_other() {
    for provable in [true, false] {
        let mut rig = scanned(subsystem(vec![soft("d0"), soft("d1")], [9, 9]));
        let mut a = rig.client(&["device=one:n1"]);
        rig.start(&mut a).unwrap();
        rig.inject(Queue::AnyIo, 0x01, When::Always, Action::Hang);
        rig.ask_writes(&mut a, 0, 0..1, 1);
        rig.pass_time(SECOND);
        if !provable {
            Knobs::set(&rig.knobs[0].cut_off_fails);
        }
        rig.faults(0).stick_ready(Some(true));
        rig.handles[0].raise_fatal();
        rig.until("the loss", |rig| rig.state(0) == ControllerState::Lost);
        rig.pass_time(10 * SECOND);
        assert_eq!(rig.control.session(a.key).is_none(), !provable, "it is closed where its memory is kept");
        let second = rig.create(&["device=one:n1"]);
        assert_eq!(second.is_ok(), provable, "{second:?}");
        if !provable {
            assert!(matches!(second, Err(CreateError::InUse { .. })), "{second:?}");
        }
    }
}
