//! Static clients: their device is reserved, there or not.

use nvme_policy::Namespace;
use nvme_session::factory::{Catalogue, CatalogueConfig, NamespaceEntry};

use crate::rig::{
    A, AGAIN, B, BUSY, INVAL, LIMITS, NODEV, catalogue, entry, errno, part, place, ro, rw, table_a, table_b,
    whole,
};

#[test]
fn a_static_client_s_device_is_reserved_before_it_connects_and_between_clients() {
    // Both before and after the scan.
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    let early = c.reserve(&rw("root")).unwrap();
    assert_eq!(c.is_present(early).unwrap_err().errno().number(), AGAIN);
    c.set_namespace(entry(A), table_a());
    c.set_scanned();
    assert_eq!(c.is_present(early), Ok(()));
    for _ in 0..3 {
        assert_eq!((errno(c.create(&ro("root"))), errno(c.create(&ro("SA:n1")))), (BUSY, BUSY));
        let s = c.claim(&rw("root")).unwrap();
        assert_eq!(errno(c.claim(&rw("root"))), BUSY, "one client at a time");
        c.end(s.session());
    }
    assert_eq!(c.reserve(&rw("SA:n1")).unwrap_err().errno().number(), BUSY);
    assert_eq!(errno(c.claim(&rw("home"))), INVAL, "nobody reserved that");
    assert_eq!(errno(c.claim(&ro("root"))), INVAL, "nor that");
}

#[test]
fn two_static_clients_may_read_the_same_device() {
    let mut c = catalogue();
    c.reserve(&ro("root")).unwrap();
    c.reserve(&ro("root")).unwrap();
    assert!(c.claim(&ro("root")).is_ok() && c.claim(&ro("root")).is_ok());
    assert_eq!(errno(c.claim(&ro("root"))), BUSY);
    assert!(c.create(&ro("root")).is_ok());
}

#[test]
fn an_absent_static_device_is_served_when_it_appears() {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    c.set_namespace(entry(A), table_a());
    c.set_scanned();
    let id = c.reserve(&rw("data")).unwrap();
    assert_eq!(c.is_present(id).unwrap_err().errno().number(), NODEV);
    assert_eq!(errno(c.claim(&rw("data"))), NODEV);
    c.set_namespace(entry(B), table_b());
    assert_eq!(c.is_present(id), Ok(()));
    assert_eq!(errno(c.create(&ro("data"))), BUSY, "it was reserved all the time");
    let s = c.claim(&rw("data")).unwrap();
    // And when it goes and comes again.
    c.remove_controller(1);
    assert_eq!(c.is_present(id).unwrap_err().errno().number(), NODEV);
    c.end(s.session());
    c.set_namespace(entry(B), table_b());
    assert!(c.claim(&rw("data")).is_ok());
}

#[test]
fn a_static_client_s_name_does_not_move_to_a_clone_while_its_device_is_away() {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    let id = c.reserve(&rw("data")).unwrap();
    c.set_namespace(entry(A), table_a());
    c.set_namespace(entry(B), table_b());
    c.set_scanned();
    assert_eq!(c.is_present(id), Ok(()));
    c.remove_controller(1);
    // Another disk's table says the same of itself, in the same place and elsewhere.
    let clones = [vec![part(A, 1, 11, "data", 100, 100)], vec![part(A, 1, 11, "data", 300, 100)]];
    for clone in clones {
        c.set_namespace(entry(A), clone);
        assert_eq!(c.is_present(id).unwrap_err().errno().number(), NODEV);
        assert_eq!(errno(c.claim(&rw("data"))), NODEV);
    }
    // Its own controller comes back, in another slot, but the partition is another; then as it was.
    let back = Namespace { controller: 2, nsid: 1 };
    let table = |first| vec![part(back, 1, 11, "data", first, 100)];
    let entry = NamespaceEntry::new("SB", whole(back), LIMITS, false);
    c.set_namespace(entry.clone(), table(200));
    assert_eq!(errno(c.claim(&rw("data"))), NODEV);
    c.set_namespace(entry, table(100));
    assert_eq!(place(&c.claim(&rw("data")).unwrap()), (back, 100, 100));
}
