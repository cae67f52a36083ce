//! What a controller cannot do for the moment: nobody loses anything by it.

use nvme_core::server::control::Event;
use nvme_session::factory::CreateError;
use nvme_soft::NamespaceConfig;
use nvme_soft::faulty::{Action, Queue, When};
use nvme_soft::wire::{Status, admin, nvm};

use crate::rescans::{partitioned, partitions};
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
