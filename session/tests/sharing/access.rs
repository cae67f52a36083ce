//! Who may have a device beside whom: readers, writers, and how many.

use nvme_policy::{BlockSize, Extent};
use nvme_session::factory::{Catalogue, CatalogueConfig, Minted, NamespaceEntry};
use proptest::prelude::*;

use crate::rig::{
    A, AGAIN, B, BUSY, INVAL, LIMITS, NODEV, NOMEM, catalogue, entry, errno, part, place, ro, rw, table_a,
    whole,
};

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
