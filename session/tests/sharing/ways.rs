//! Disks that two controllers share, and drives that say they are the same.

use nvme_policy::{Namespace, PciPlace};
use nvme_session::factory::{
    Catalogue, CatalogueConfig, DiskIdentity, Identifiers, NamespaceEntry, Refused, Subsystem,
};

use crate::rig::{A, B, BUSY, LIMITS, NODEV, entry, errno, part, place, ro, rw, table_a, table_b, whole};

/// A namespace that two controllers of one subsystem may share.
fn shared(ns: Namespace) -> NamespaceEntry {
    let subsystem = Subsystem { name: "nqn.one".into(), serial: "S".into(), model: "M".into() };
    let unique = Identifiers { nguid: [7; 16], ..Identifiers::default() };
    let controller = ns.controller + 1;
    entry(ns).on(DiskIdentity { subsystem, controller, shared: true, nsid: ns.nsid, unique })
}

fn by_another(lost: &str, had: &str) -> Refused {
    Refused::Shared { lost: lost.into(), had: had.into() }
}

#[test]
fn a_namespace_that_two_controllers_share_is_had_by_one_of_them() {
    for order in [[A, B], [B, A]] {
        // Whichever answers first at start, the first controller has it.
        let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
        let table = |ns| if ns == A { table_a() } else { table_b() };
        let refused: Vec<_> =
            order.into_iter().flat_map(|ns| c.set_namespace(shared(ns), table(ns))).collect();
        assert_eq!(refused, [by_another("SB:n1", "SA:n1")]);
        c.set_scanned();
        assert!(c.has(A) && !c.has(B));
        assert_eq!(errno(c.create(&rw("SB:n1"))), NODEV);
        let writer = c.create(&rw("SA:n1")).unwrap();
        // Afterwards whoever has it keeps it.
        assert_eq!(c.set_namespace(shared(B), table_b()), [by_another("SB:n1", "SA:n1")]);
        assert_eq!((errno(c.create(&ro("SB:n1"))), errno(c.create(&ro("data")))), (NODEV, NODEV));
        c.keep_namespaces(0, &[]);
        c.set_namespace(shared(B), table_b());
        assert_eq!(c.set_namespace(shared(A), table_a()), [by_another("SA:n1", "SB:n1")]);
        // What the writer had in flight may be on its way still.
        assert_eq!((errno(c.create(&ro("data"))), errno(c.create(&rw("SB:n1")))), (BUSY, BUSY));
        c.is_over(writer.session());
        assert!(c.create(&rw("data")).is_ok());
        c.end(writer.session());
    }
}

#[test]
fn what_is_not_proven_to_be_over_keeps_its_blocks_whatever_controller_has_them() {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    c.set_namespace(shared(A), table_a());
    c.set_scanned();
    let (home, reader) = (c.create(&rw("home")).unwrap(), c.create(&ro("root")).unwrap());
    c.keep_namespaces(0, &[]);
    c.set_namespace(shared(B), vec![part(B, 1, 1, "root", 100, 100), part(B, 2, 2, "home", 200, 100)]);
    c.end_unproven(home.session());
    c.end_unproven(reader.session());
    assert_eq!(c.sessions(), 0);
    assert_eq!((errno(c.create(&ro("home"))), errno(c.create(&ro("SB:n1")))), (BUSY, BUSY));
    // A reader is in nobody's way who reads.
    assert_eq!(errno(c.create(&rw("root"))), BUSY);
    assert!(c.create(&ro("root")).is_ok());
}

#[test]
fn namespaces_of_one_number_that_are_not_shared_are_two_disks() {
    let odds: [fn(&mut DiskIdentity); 8] = [
        |disk_identity| disk_identity.shared = false,
        |disk_identity| disk_identity.subsystem.name = "nqn.other".into(),
        |disk_identity| disk_identity.subsystem.name = String::new(),
        |disk_identity| disk_identity.subsystem.serial = "T".into(),
        |disk_identity| disk_identity.subsystem.model = "N".into(),
        |disk_identity| disk_identity.controller = A.controller + 1,
        |disk_identity| disk_identity.nsid = 2,
        |disk_identity| disk_identity.unique.nguid = [8; 16],
    ];
    for odd in odds {
        let mut disk_identity = shared(B).disk_identity().clone();
        odd(&mut disk_identity);
        let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
        assert_eq!(c.set_namespace(shared(A), table_a()), []);
        assert_eq!(c.set_namespace(entry(B).on(disk_identity), table_b()), []);
        c.set_scanned();
        assert!(c.create(&rw("SA:n1")).is_ok() && c.create(&rw("SB:n1")).is_ok());
    }
}

/// Two drives of one serial number, each in its place.
fn same(ns: Namespace) -> NamespaceEntry {
    let at = PciPlace::parse(if ns == A { "0000:01:00.0" } else { "0000:02:00.0" });
    let subsystem = Subsystem { name: "nqn.one".into(), serial: "SAME".into(), model: "M".into() };
    let disk_identity = DiskIdentity { subsystem, nsid: 1, ..DiskIdentity::default() };
    NamespaceEntry::new("SAME", whole(ns), LIMITS, false).on(disk_identity).at(at)
}

fn twins() -> Catalogue {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    assert_eq!(c.set_namespace(same(A), table_a()), []);
    assert_eq!(c.set_namespace(same(B), table_b()), []);
    c.set_scanned();
    c
}

#[test]
fn drives_of_one_serial_number_are_named_and_listed_by_their_places() {
    let mut c = twins();
    for (name, candidates) in [
        ("SAME:n1", ["pci:0000:01:00.0:n1", "pci:0000:02:00.0:n1"]),
        ("SAME:n1:1", ["pci:0000:01:00.0:n1:1", "pci:0000:02:00.0:n1:1"]),
    ] {
        let why = c.create(&ro(name)).unwrap_err();
        assert_eq!(why.to_string(), format!("{name} names 2 devices; say which: {}", candidates.join(", ")));
        for (at, ns) in candidates.iter().zip([A, B]) {
            let minted = c.create(&ro(at)).unwrap();
            assert_eq!((place(&minted).0, minted.device()), (ns, *at));
        }
    }
    // What only one of them has is named as ever.
    let home = c.create(&ro("SAME:n1:2")).unwrap();
    assert_eq!((place(&home).0, home.device()), (A, "pci:0000:01:00.0:n1:2"));
    let in_use = c.create(&rw("pci:0000:02:00.0:n1:1")).unwrap_err();
    assert_eq!(in_use.to_string(), "pci:0000:02:00.0:n1:1 is in use; it can be had read-only");
    assert_eq!(errno(c.create(&ro("pci:0000:03:00.0:n1"))), NODEV);
    // Alone again.
    c.remove_controller(1);
    assert_eq!(c.create(&ro("SAME:n1")).unwrap().device(), "SAME:n1");
}

#[test]
fn a_drive_without_a_serial_number_has_a_name_by_its_place() {
    for serial in ["", "partuuid:x", "pci:0000:02:00.0"] {
        let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
        let at = PciPlace::parse("0000:01:00.0");
        let entry = NamespaceEntry::new(serial, whole(A), LIMITS, false).at(at);
        assert_eq!(c.set_namespace(entry, table_a()), []);
        c.set_scanned();
        assert_eq!(c.create(&ro("root")).unwrap().device(), "pci:0000:01:00.0:n1:1", "{serial:?}");
        assert!(c.create(&ro("pci:0000:01:00.0:n1")).is_ok());
        assert_eq!(errno(c.create(&ro("pci:0000:02:00.0:n1"))), NODEV);
    }
}

#[test]
fn a_static_client_s_drive_is_not_taken_over_by_another_of_its_serial_number() {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    let policy = rw("SAME:n1");
    c.reserve(&policy).unwrap();
    c.set_namespace(same(A), table_a());
    c.set_scanned();
    let first = c.claim(&policy).unwrap();
    assert_eq!(place(&first).0, A);
    // The other comes, and the first one goes: its client waits, whatever has the name now.
    c.set_namespace(same(B), table_b());
    c.remove_controller(0);
    c.end(first.session());
    assert_eq!(errno(c.claim(&policy)), NODEV);
    assert_eq!(place(&c.create(&ro("SAME:n1")).unwrap()).0, B);
    c.set_namespace(same(A), table_a());
    assert_eq!(place(&c.claim(&policy).unwrap()).0, A);
    // By its place there is only one from the beginning.
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    let policy = rw("pci:0000:02:00.0:n1");
    c.reserve(&policy).unwrap();
    c.set_namespace(same(A), table_a());
    c.set_scanned();
    assert_eq!(errno(c.claim(&policy)), NODEV);
    c.set_namespace(same(B), table_b());
    assert_eq!(place(&c.claim(&policy).unwrap()).0, B);
}

#[test]
fn ways_to_a_shared_namespace_are_told_apart_by_their_places() {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    let way = |ns: Namespace| {
        let (entry, controller) = (same(ns), ns.controller + 1);
        let disk_identity = DiskIdentity { shared: true, controller, ..entry.disk_identity().clone() };
        entry.on(disk_identity)
    };
    c.set_namespace(way(A), table_a());
    let refused = c.set_namespace(way(B), table_b());
    assert_eq!(refused, [by_another("pci:0000:02:00.0:n1", "pci:0000:01:00.0:n1")]);
    c.set_scanned();
    let policy = rw("SAME:n1");
    c.reserve(&policy).unwrap();
    let session = c.claim(&policy).unwrap();
    assert_eq!((place(&session).0, session.device()), (A, "SAME:n1"));
    // A static client's disk comes back by the other way.
    c.remove_controller(0);
    c.end(session.session());
    assert_eq!(c.set_namespace(way(B), table_b()), []);
    assert_eq!(place(&c.claim(&policy).unwrap()).0, B);
}
