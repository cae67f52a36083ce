//! By which names a device is had, and what is said of those that name none or several.

use nvme_policy::{DeviceName, DsMax, PartitionId, Policy};
use nvme_session::factory::{Catalogue, CatalogueConfig, PartitionEntry};

use crate::rig::{
    A, AGAIN, B, INVAL, NODEV, catalogue, entry, errno, part, place, ro, rw, table_a, uuid, whole,
};

#[test]
fn every_kind_of_name_finds_its_device() {
    for (name, place_of) in [
        ("SA:n1", (A, 0, 1000)),
        ("SA:n1:2", (A, 200, 100)),
        (&uuid(1), (A, 100, 100)),
        (&format!("partuuid:{}", uuid(11)), (B, 100, 100)),
        ("home", (A, 200, 100)),
        ("partlabel:data", (B, 100, 100)),
    ] {
        let mut c = catalogue();
        assert_eq!(place(&c.create(&rw(name)).unwrap()), place_of, "{name}");
    }
}

#[test]
fn get_id_answers_the_name_of_a_namespace_or_the_digits_of_a_partition() {
    let mut c = catalogue();
    assert_eq!(&c.create(&ro("SA:n1")).unwrap().id(), b"SA:n1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(&c.create(&ro("root")).unwrap().id(), b"00000000000000000000");
    let id = PartitionId::parse("88E59675-4DC8-469A-98E4-B7B021DC7FBE").unwrap();
    let p = PartitionEntry { id, ..part(A, 1, 1, "root", 100, 100) };
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 1 });
    c.set_namespace(entry(A), vec![p]);
    c.set_scanned();
    assert_eq!(&c.create(&ro("root")).unwrap().id(), b"88e596754dc8469a98e4");
}

#[test]
fn what_is_not_there_is_said_and_requests_wait_for_the_scan() {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    assert_eq!(errno(c.create(&rw("root"))), AGAIN);
    c.set_namespace(entry(A), table_a());
    assert_eq!(errno(c.create(&rw("root"))), AGAIN, "another disk may have one of that name");
    c.set_scanned();
    assert_eq!(errno(c.create(&rw("nothing"))), NODEV);
    assert!(c.create(&rw("root")).is_ok());
}

#[test]
fn a_name_of_several_devices_is_refused_with_the_candidates() {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    c.set_namespace(entry(B), vec![part(B, 7, 11, "root", 100, 100)]);
    c.set_namespace(entry(A), table_a());
    c.set_scanned();
    let refused = c.create(&ro("root")).unwrap_err();
    assert_eq!(refused.errno().number(), INVAL);
    assert_eq!(refused.to_string(), "partlabel:root names 2 devices; say which: SA:n1:1, SB:n1:7");
    assert!(c.create(&ro("SB:n1:7")).is_ok() && c.create(&ro(&uuid(11))).is_ok());
    assert_eq!(c.reserve(&ro("root")).unwrap_err().errno().number(), INVAL);
}

#[test]
fn the_catalogue_shows_what_there_is_and_who_has_it() {
    let mut c = catalogue();
    let s = c.create(&rw("root")).unwrap();
    let shown: Vec<_> = c.devices().map(|(n, parts)| (n.identity().to_string(), parts.count())).collect();
    assert_eq!(shown, [("SA:n1".to_string(), 2), ("SB:n1".to_string(), 1)]);
    let holders: Vec<_> = c.holders(&whole(A)).map(|h| h.session).collect();
    assert_eq!(holders, [Some(s.session())]);
    assert_eq!(c.holders(&whole(B)).count(), 0);
}

#[test]
fn a_policy_made_of_values_is_the_same_as_one_made_of_words() {
    let name = DeviceName::parse("root").unwrap();
    let policy = Policy::new(name, DsMax::default(), nvme_policy::Access::ReadOnly);
    let mut c = catalogue();
    c.reserve(&policy).unwrap();
    assert!(c.claim(&ro("root")).is_ok());
}
