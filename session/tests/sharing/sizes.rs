//! Namespaces that grow, shrink or change their blocks.

use nvme_policy::{BlockSize, Extent};
use nvme_session::factory::{Catalogue, Minted, NamespaceEntry, PartitionEntry};

use crate::rig::{A, AGAIN, BUSY, LIMITS, catalogue, entry, errno, part, place, ro, rw, table_a};

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
