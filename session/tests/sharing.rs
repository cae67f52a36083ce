//! Who may have what (DESIGN 2.2).
#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]

use nvme_policy::{BlockSize, DeviceName, DsMax, Extent, Label, Namespace, PartitionId, PciPlace, Policy};
use nvme_session::factory::{
    Catalogue, CatalogueConfig, CreateError, DiskIdentity, Identifiers, Minted, NamespaceEntry,
    PartitionEntry, Refused, Subsystem,
};
use nvme_session::operation::Limits;
use proptest::prelude::*;

const A: Namespace = Namespace { controller: 0, nsid: 1 };
const B: Namespace = Namespace { controller: 1, nsid: 1 };
const LIMITS: Limits = Limits {
    transfer_blocks: 256,
    discard_blocks: 8,
    write_zeroes_blocks: 8,
    volatile_cache: true,
    unmaps_to_zeroes: false,
};

fn whole(ns: Namespace) -> Extent {
    Extent::whole(ns, 1000, BlockSize::B512).unwrap()
}

fn entry(ns: Namespace) -> NamespaceEntry {
    NamespaceEntry::new(if ns == A { "SA" } else { "SB" }, whole(ns), LIMITS, false)
}

fn uuid(n: u8) -> String {
    format!("00000000-0000-0000-0000-0000000000{n:02x}")
}

fn part(ns: Namespace, number: u32, id: u8, label: &str, first: u64, blocks: u64) -> PartitionEntry {
    PartitionEntry {
        number,
        id: PartitionId::parse(&uuid(id)).unwrap(),
        label: Label::new(label).unwrap(),
        extent: whole(ns).part(first, blocks).unwrap(),
        read_only: None,
    }
}

fn table_a() -> Vec<PartitionEntry> {
    vec![part(A, 1, 1, "root", 100, 100), part(A, 2, 2, "home", 200, 100)]
}

fn table_b() -> Vec<PartitionEntry> {
    vec![part(B, 1, 11, "data", 100, 100)]
}

fn catalogue() -> Catalogue {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    assert_eq!(c.set_namespace(entry(A), table_a()), []);
    assert_eq!(c.set_namespace(entry(B), table_b()), []);
    c.set_scanned();
    c
}

fn rw(device: &str) -> Policy {
    Policy::from_words([&*format!("device={device}")]).unwrap()
}

fn ro(device: &str) -> Policy {
    Policy::from_words([&*format!("device={device}"), "read-only"]).unwrap()
}

fn place(m: &Minted) -> (Namespace, u64, u64) {
    let e = m.grant().extent();
    (e.namespace(), e.first(), e.blocks())
}

fn errno(r: Result<Minted, CreateError>) -> i32 {
    r.map(|m| m.device().to_string()).unwrap_err().errno().number()
}

const AGAIN: i32 = 11;
const NOMEM: i32 = 12;
const BUSY: i32 = 16;
const NODEV: i32 = 19;
const INVAL: i32 = 22;

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
fn any_number_of_readers_share_and_a_writer_is_alone() {
    let mut c = catalogue();
    let readers: Vec<_> = (0..5).map(|_| c.create(&ro("root")).unwrap()).collect();
    assert!(c.create(&ro("SA:n1")).is_ok(), "a reader of the whole is a reader");
    let refused = c.create(&rw("root")).unwrap_err();
    assert_eq!(refused.to_string(), "SA:n1:1 is in use; it can be had read-only");
    for r in readers {
        c.end(r.session());
    }
    assert_eq!(errno(c.create(&rw("root"))), BUSY);
}

#[test]
fn a_writer_of_the_whole_overlaps_its_partitions_and_nothing_else() {
    let mut c = catalogue();
    let w = c.create(&rw("SA:n1")).unwrap();
    for device in ["SA:n1", "root", "home"] {
        assert_eq!((errno(c.create(&ro(device))), errno(c.create(&rw(device)))), (BUSY, BUSY));
    }
    assert!(c.create(&rw("data")).is_ok());
    c.end(w.session());
    let mut c = catalogue();
    c.create(&rw("root")).unwrap();
    assert_eq!((errno(c.create(&ro("SA:n1"))), errno(c.create(&rw("SA:n1")))), (BUSY, BUSY));
    assert!(c.create(&rw("home")).is_ok(), "neighbours are no part of each other");
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
fn a_write_protected_namespace_is_had_read_only() {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    c.set_namespace(NamespaceEntry::new("SA", whole(A), LIMITS, true), table_a());
    c.set_scanned();
    assert_eq!((errno(c.create(&rw("root"))), errno(c.create(&rw("SA:n1")))), (INVAL, INVAL));
    assert!(c.create(&ro("root")).is_ok());
}

#[test]
fn sessions_are_limited_and_static_clients_have_their_room() {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 3 });
    c.set_namespace(entry(A), table_a());
    c.set_scanned();
    c.reserve(&ro("home")).unwrap();
    let one = c.create(&ro("root")).unwrap();
    c.create(&ro("root")).unwrap();
    assert_eq!(errno(c.create(&ro("root"))), NOMEM);
    assert!(c.claim(&ro("home")).is_ok());
    assert_eq!(errno(c.create(&ro("root"))), NOMEM);
    c.end(one.session());
    assert!(c.create(&ro("root")).is_ok());
}

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

#[test]
fn after_a_writer_of_the_whole_nothing_is_granted_before_the_table_was_read_again() {
    let mut c = catalogue();
    let w = c.create(&rw("SA:n1")).unwrap();
    assert_eq!(c.end(w.session()).rescan, Some(A));
    for device in ["SA:n1", "root", "home", "somewhere"] {
        assert_eq!(errno(c.create(&ro(device))), AGAIN, "{device}");
    }
    assert!(c.create(&rw("data")).is_ok(), "other disks are served");
    c.set_namespace(entry(A), vec![part(A, 1, 9, "new", 500, 10)]);
    assert_eq!(place(&c.create(&rw("new")).unwrap()), (A, 500, 10));
    assert_eq!(errno(c.create(&ro("root"))), NODEV);
}

#[test]
fn readers_and_writers_of_partitions_need_no_rescan() {
    let mut c = catalogue();
    for policy in [rw("root"), ro("SA:n1"), ro("home")] {
        let s = c.create(&policy).unwrap();
        assert_eq!(c.end(s.session()).rescan, None);
        assert_eq!(c.end(s.session()).rescan, None, "ending twice is nothing");
    }
    // A partition in which the table itself lies.
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    c.set_namespace(entry(A), vec![part(A, 1, 1, "evil", 0, 10), part(A, 2, 2, "end", 990, 10)]);
    c.set_scanned();
    for device in ["evil", "end"] {
        let s = c.create(&rw(device)).unwrap();
        assert_eq!(c.end(s.session()).rescan, Some(A));
        c.set_namespace(entry(A), vec![part(A, 1, 1, "evil", 0, 10), part(A, 2, 2, "end", 990, 10)]);
    }
}

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

/// The namespace has another size: the sessions that grow with it, and its table is read again.
fn resize(c: &mut Catalogue, blocks: u64, table: Vec<PartitionEntry>) -> Vec<(u64, u64)> {
    let now = Extent::whole(A, blocks, BlockSize::B512).unwrap();
    let grown = c.keep_namespaces(0, &[now]);
    assert_eq!(errno(c.create(&ro("SA:n1"))), AGAIN, "not before the table was read");
    c.set_namespace(NamespaceEntry::new("SA", now, LIMITS, false), table);
    grown.into_iter().map(|(session, grant)| (session.number(), grant.extent().blocks())).collect()
}

fn extent_of(c: &Catalogue, m: &Minted) -> u64 {
    let all = Extent::whole(A, 1 << 20, BlockSize::B512).unwrap();
    c.holders(&all).find(|h| h.session == Some(m.session())).unwrap().extent.blocks()
}

#[test]
fn whoever_has_a_whole_namespace_has_all_of_it_when_it_grew_and_partitions_stay_as_they_are() {
    let mut c = catalogue();
    c.reserve(&ro("SA:n1")).unwrap();
    c.reserve(&ro("root")).unwrap();
    let fixed = c.claim(&ro("SA:n1")).unwrap();
    let whole = c.create(&ro("SA:n1")).unwrap();
    let part = c.create(&ro("home")).unwrap();
    let want = [&fixed, &whole].map(|m| (m.session().number(), 2000));
    assert_eq!(resize(&mut c, 2000, table_a()), want);
    assert_eq!([&fixed, &whole, &part].map(|m| extent_of(&c, m)), [2000, 2000, 100]);
    assert_eq!(resize(&mut c, 2000, table_a()), [], "once");
    c.end(fixed.session());
    assert_eq!(place(&c.claim(&ro("SA:n1")).unwrap()).2, 2000);
    assert_eq!(place(&c.claim(&ro("root")).unwrap()).2, 100);
}

#[test]
fn a_writer_of_the_whole_is_alone_on_what_is_new_of_it() {
    let mut c = catalogue();
    let writer = c.create(&rw("SA:n1")).unwrap();
    let late = PartitionEntry {
        extent: Extent::whole(A, 2000, BlockSize::B512).unwrap().part(1500, 100).unwrap(),
        ..part(A, 3, 3, "late", 1, 1)
    };
    let table = || table_a().into_iter().chain([late.clone()]).collect::<Vec<_>>();
    assert_eq!(resize(&mut c, 2000, table()).len(), 1);
    assert_eq!(errno(c.create(&ro("late"))), BUSY);
    c.end(writer.session());
    c.set_namespace(
        NamespaceEntry::new("SA", Extent::whole(A, 2000, BlockSize::B512).unwrap(), LIMITS, false),
        table(),
    );
    assert_eq!(place(&c.create(&rw("late")).unwrap()), (A, 1500, 100));
}

#[test]
fn what_shrinks_takes_nothing_from_those_who_have_it_and_does_not_grow_over_what_others_kept() {
    let mut c = catalogue();
    let end = part(A, 3, 3, "end", 800, 100);
    c.set_namespace(entry(A), vec![end]);
    let writer = c.create(&rw("end")).unwrap();
    assert_eq!(resize(&mut c, 500, vec![]), []);
    assert_eq!(extent_of(&c, &writer), 100, "the controller refuses what is behind its end");
    // Room for somebody who has all that there is.
    let reader = c.create(&ro("SA:n1")).unwrap();
    assert_eq!(place(&reader).2, 500);
    // When it grows back, the writer's blocks are the writer's.
    assert_eq!(resize(&mut c, 1000, vec![]), []);
    assert_eq!(extent_of(&c, &reader), 500);
    c.end(writer.session());
    let all = resize(&mut c, 1000, vec![]);
    assert_eq!(all, [(reader.session().number(), 1000)]);
}

#[test]
fn a_writer_whose_partition_came_to_lie_at_the_end_leaves_a_table_to_be_read_again() {
    let mut c = catalogue();
    let writer = c.create(&rw("home")).unwrap();
    assert_eq!(resize(&mut c, 250, vec![]), []);
    assert_eq!(c.end(writer.session()).rescan, Some(A));
}

#[test]
fn blocks_of_another_size_are_others_for_everybody() {
    // With blocks of another size nobody can tell what overlaps, so everything does.
    let mut c = catalogue();
    c.create(&rw("home")).unwrap();
    let big_blocks = Extent::whole(A, 1000, BlockSize::B4096).unwrap();
    assert_eq!(c.keep_namespaces(0, &[big_blocks]).len(), 0);
    c.set_namespace(NamespaceEntry::new("SA", big_blocks, LIMITS, false), vec![]);
    assert_eq!(errno(c.create(&ro("SA:n1"))), BUSY);
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
        assert!(c.create(&rw("data")).is_ok());
        c.end(writer.session());
    }
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever asks for what in whatever order, and whatever tables are read in between: two sessions that share a block
    /// are both readers, nothing live moves, and nothing is granted where a table is stale.
    #[test]
    fn writers_are_alone_and_nothing_live_moves(steps in prop::collection::vec(
        (0_u8..12, 0_usize..8, any::<bool>(), 1_u64..9, 1_u64..5), 1..60)) {
        let names = ["SA:n1", "root", "home", "SA:n1:1", "SB:n1", "data", "SB:n1:1", "SA:n1:2"];
        let mut c = catalogue();
        c.reserve(&ro("SA:n1:1")).unwrap();
        let mut live: Vec<(Minted, bool)> = vec![];
        let mut stale = vec![];
        for (what, which, write, at, len) in steps {
            match what {
                0..=5 => {
                    let policy = if write { rw(names[which]) } else { ro(names[which]) };
                    if let Ok(m) = c.create(&policy) {
                        prop_assert!(!stale.contains(&m.grant().extent().namespace()));
                        for (other, writes) in &live {
                            let meet = other.grant().extent().overlaps(m.grant().extent());
                            prop_assert!(!meet || (!writes && !write), "{} {}", other.device(), m.device());
                        }
                        live.push((m, write));
                    }
                }
                6..=8 => if !live.is_empty() {
                    let (m, _) = live.swap_remove(which % live.len());
                    stale.extend(c.end(m.session()).rescan);
                },
                9 => {
                    // Always room for the partitions of the tables.
                    let ns = if write { A } else { B };
                    let blocks = 1000 + at * 100 * len;
                    let now = Extent::whole(ns, blocks, BlockSize::B512).unwrap();
                    for (session, grant) in c.keep_namespaces(ns.controller, &[now]) {
                        let (m, _) = live.iter_mut().find(|(m, _)| m.session() == session).unwrap();
                        prop_assert!(m.grant().extent().first() == 0 && m.grant().extent().blocks() < blocks);
                        m.grow(grant);
                    }
                    stale.push(ns);
                }
                _ => {
                    let ns = if write { A } else { B };
                    stale.retain(|s| *s != ns);
                    let one = part(ns, 1 + which as u32 % 3, which as u8, "root", at * 100, len * 10);
                    let two = part(ns, 5, 30, names[1 + which % 2], at * 100 + 50, 10);
                    c.set_namespace(entry(ns), vec![one, two]);
                }
            }
            for (m, writes) in &live {
                let holders: Vec<_> = c.holders(m.grant().extent()).collect();
                prop_assert!(holders.iter().any(|h| h.session == Some(m.session()) && h.extent == *m.grant().extent()));
                prop_assert!(!writes || holders.len() == 1);
            }
        }
    }
}

#[test]
fn a_policy_made_of_values_is_the_same_as_one_made_of_words() {
    let name = DeviceName::parse("root").unwrap();
    let policy = Policy::new(name, DsMax::default(), nvme_policy::Access::ReadOnly);
    let mut c = catalogue();
    c.reserve(&policy).unwrap();
    assert!(c.claim(&ro("root")).is_ok());
}
