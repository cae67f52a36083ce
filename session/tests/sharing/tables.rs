//! A partition table that was rewritten takes nothing from whoever has a partition.

use nvme_policy::{BlockSize, Extent};
use nvme_session::factory::{PartitionEntry, Refused};

use crate::rig::{A, B, INVAL, NODEV, catalogue, entry, errno, part, place, ro, rw, table_a, uuid};

#[test]
fn a_table_that_is_rewritten_cannot_move_another_client_s_partition() {
    let mut c = catalogue();
    c.reserve(&rw("home")).unwrap();
    let root = c.create(&rw("root")).unwrap();
    // Everything moved, by whatever means.
    let moved = vec![part(A, 1, 1, "root", 500, 100), part(A, 2, 2, "home", 700, 100)];
    let refused = c.set_namespace(entry(A), moved.clone());
    assert_eq!(refused, moved.iter().cloned().map(Refused::InTheWay).collect::<Vec<_>>());
    assert_eq!(place(&c.claim(&rw("home")).unwrap()), (A, 200, 100));
    // When the one that is not reserved ends, the new table counts for it.
    c.end(root.session());
    assert_eq!(place(&c.create(&rw("root")).unwrap()), (A, 500, 100));
}

#[test]
fn a_table_that_is_rewritten_cannot_slip_a_partition_under_another() {
    let mut c = catalogue();
    c.create(&rw("root")).unwrap();
    let shifted = part(A, 7, 7, "mine", 150, 100);
    let refused = c.set_namespace(entry(A), vec![shifted.clone()]);
    assert_eq!(refused, [Refused::InTheWay(shifted)]);
    assert_eq!(errno(c.create(&ro("mine"))), NODEV);
}

#[test]
fn a_table_that_is_rewritten_cannot_clone_another_s_name() {
    let mut c = catalogue();
    let w = c.create(&rw("SB:n1")).unwrap();
    c.end(w.session());
    let evil = part(B, 1, 1, "home", 300, 100);
    let refused = c.set_namespace(entry(B), vec![evil.clone()]);
    assert_eq!(refused, [Refused::IdTaken(evil.clone()), Refused::LabelTaken(evil)]);
    // Names mean what they meant; the clone can be had by its number.
    assert_eq!(place(&c.create(&ro("home")).unwrap()), (A, 200, 100));
    assert_eq!(place(&c.create(&ro(&uuid(1))).unwrap()), (A, 100, 100));
    assert_eq!(place(&c.create(&ro("SB:n1:1")).unwrap()), (B, 300, 100));
    // Not even when the table is read once more, or the original's disk is.
    c.set_namespace(entry(A), table_a());
    c.set_namespace(entry(B), vec![part(B, 1, 1, "home", 300, 100), part(B, 2, 2, "root", 400, 100)]);
    assert_eq!(place(&c.create(&ro("home")).unwrap()), (A, 200, 100));
    assert_eq!(place(&c.create(&ro(&uuid(2))).unwrap()), (A, 200, 100));
}

#[test]
fn a_clone_on_the_same_disk_does_not_make_a_name_ambiguous() {
    let mut c = catalogue();
    let mut table = table_a();
    table.insert(0, part(A, 9, 1, "root", 500, 10));
    assert_eq!(c.set_namespace(entry(A), table).len(), 2);
    assert_eq!(place(&c.create(&ro("root")).unwrap()), (A, 100, 100));
    assert_eq!(place(&c.create(&ro(&uuid(1))).unwrap()), (A, 100, 100));
}

#[test]
fn two_new_partitions_of_one_name_are_ambiguous() {
    let mut c = catalogue();
    c.set_namespace(entry(B), vec![part(B, 1, 21, "twin", 100, 10), part(B, 2, 22, "twin", 200, 10)]);
    assert_eq!(errno(c.create(&ro("twin"))), INVAL);
}

#[test]
fn a_partition_that_lies_outside_its_disk_does_not_come_up() {
    let mut c = catalogue();
    let far = PartitionEntry {
        extent: Extent::whole(A, 5000, BlockSize::B512).unwrap().part(990, 20).unwrap(),
        ..part(A, 3, 3, "far", 1, 1)
    };
    let foreign = PartitionEntry { number: 4, ..part(B, 4, 4, "foreign", 1, 1) };
    assert_eq!(c.set_namespace(entry(A), vec![far, foreign]).len(), 2);
    assert_eq!((errno(c.create(&ro("far"))), errno(c.create(&ro("foreign")))), (NODEV, NODEV));
}
