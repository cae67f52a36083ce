//! Partitions that are had read-only: their table marks them so, or they cover that table. What else a table says of a namespace.
#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]

use nvme_policy::{BlockSize, Extent, Label, Namespace, PartitionId, Policy};
use nvme_session::factory::{
    Catalogue, CatalogueConfig, CreateError, Minted, NamespaceEntry, PartitionEntry, Protection, TableKind,
};
use nvme_session::operation::Limits;

const A: Namespace = Namespace { controller: 0, nsid: 1 };
const ACCES: i32 = 13;
const BUSY: i32 = 16;
const NODEV: i32 = 19;

fn whole() -> Extent {
    Extent::whole(A, 1000, BlockSize::B512).unwrap()
}

fn entry() -> NamespaceEntry {
    let limits = Limits {
        transfer_blocks: 256,
        discard_blocks: 8,
        discard_granularity: 0,
        write_zeroes_blocks: 8,
        volatile_cache: true,
        unmaps_to_zeroes: false,
    };
    NamespaceEntry::new("SA", whole(), limits, false)
}

fn uuid(n: u8) -> String {
    format!("00000000-0000-0000-0000-0000000000{n:02x}")
}

fn part(number: u32, id: u8, label: &str, first: u64, blocks: u64) -> PartitionEntry {
    PartitionEntry {
        number,
        id: PartitionId::parse(&uuid(id)).unwrap(),
        label: Label::new(label).unwrap(),
        extent: whole().part(first, blocks).unwrap(),
        read_only: None,
    }
}

fn table() -> Vec<PartitionEntry> {
    vec![part(1, 1, "root", 100, 100), part(2, 2, "home", 200, 100)]
}

fn catalogue(table: Vec<PartitionEntry>) -> Catalogue {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    assert_eq!(c.set_namespace(entry(), table), []);
    c.set_scanned();
    c
}

fn rw(device: &str) -> Policy {
    Policy::from_words([&*format!("device={device}")]).unwrap()
}

fn ro(device: &str) -> Policy {
    Policy::from_words([&*format!("device={device}"), "read-only"]).unwrap()
}

fn place(m: &Minted) -> (u64, u64) {
    let e = m.grant().extent();
    (e.first(), e.blocks())
}

fn errno(r: Result<Minted, CreateError>) -> i32 {
    r.map(|m| m.device().to_string()).unwrap_err().errno().number()
}

/// `table`, its first partition read-only.
fn protected(why: Option<Protection>) -> Vec<PartitionEntry> {
    let mut table = table();
    table[0].read_only = why;
    table
}

#[test]
fn a_partition_that_its_table_marks_read_only_is_minted_read_only() {
    let mut c = catalogue(table());
    c.set_namespace(entry(), protected(Some(Protection::Attribute)));
    for name in ["SA:n1:1", "root", &uuid(1)] {
        let refused = c.create(&rw(name)).unwrap_err();
        let said = "SA:n1:1 is marked read-only in its partition table; add read-only";
        assert_eq!((refused.errno().number(), &*refused.to_string()), (ACCES, said));
        let reader = c.create(&ro(name)).unwrap();
        assert!(reader.grant().write_permit().is_err());
        c.end(reader.session());
    }
    assert!(c.create(&rw("home")).is_ok(), "the other one is as it was");
}

#[test]
fn a_partition_that_covers_its_table_is_minted_read_only() {
    let mut c = catalogue(table());
    let mut table = table();
    let first = PartitionEntry { read_only: Some(Protection::CoversTable), ..part(3, 3, "iso", 0, 50) };
    table.push(first);
    c.set_namespace(entry(), table);
    let refused = c.create(&rw("iso")).unwrap_err();
    let said = "SA:n1:3 covers its disk's partition table; add read-only";
    assert_eq!((refused.errno().number(), &*refused.to_string()), (ACCES, said));
    assert_eq!(place(&c.create(&ro("iso")).unwrap()), (0, 50));
    assert_eq!(errno(c.create(&rw("SA:n1"))), BUSY);
}

#[test]
fn a_static_client_of_a_read_only_partition_is_told_its_own_option() {
    let mut c = catalogue(table());
    c.set_namespace(entry(), protected(Some(Protection::Attribute)));
    let refused = c.reserve(&rw("root")).unwrap_err();
    let said = "SA:n1:1 is marked read-only in its partition table; add --readonly";
    assert_eq!((refused.errno().number(), &*refused.to_string()), (ACCES, said));
    assert!(c.reserve(&ro("root")).is_ok());
    // As at start, when the table is read after the reservation.
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    let id = c.reserve(&rw("root")).unwrap();
    c.set_namespace(entry(), protected(Some(Protection::Attribute)));
    c.set_scanned();
    assert_eq!(c.is_present(id).unwrap_err().to_string(), said);
    assert_eq!(c.claim(&rw("root")).unwrap_err().to_string(), said);
    // Nothing is held for it.
    assert!(c.create(&ro("root")).is_ok());
}

#[test]
fn a_partition_becomes_read_only_for_whoever_comes_next() {
    let mut c = catalogue(table());
    c.reserve(&rw("home")).unwrap();
    let writer = c.create(&rw("root")).unwrap();
    let mut table = protected(Some(Protection::Attribute));
    table[1].read_only = Some(Protection::Attribute);
    assert_eq!(c.set_namespace(entry(), table), [], "they are the same partitions");
    assert!(writer.grant().write_permit().is_ok());
    assert_eq!(errno(c.claim(&rw("home"))), ACCES);
    c.end(writer.session());
    assert_eq!(errno(c.create(&rw("root"))), ACCES);
    // And back; its names stay its own.
    let twin = part(9, 1, "root", 500, 10);
    c.set_namespace(entry(), [vec![twin], self::table()].concat());
    assert_eq!(place(&c.create(&rw("root")).unwrap()), (100, 100));
    assert!(c.claim(&rw("home")).is_ok());
}

#[test]
fn a_partition_as_large_as_its_namespace_is_another_device() {
    // mkfs.vfat --mbr=y
    let all = PartitionEntry { read_only: Some(Protection::CoversTable), ..part(1, 1, "all", 0, 1000) };
    let mut c = catalogue(table());
    c.set_namespace(entry(), vec![all.clone()]);
    let reader = c.create(&ro("all")).unwrap();
    assert_eq!((reader.device(), &reader.id()), ("SA:n1:1", b"00000000000000000000"));
    assert_eq!(errno(c.create(&rw("SA:n1"))), BUSY);
    c.end(reader.session());
    // Whoever has the whole namespace does not hold its partition: that goes when the table says so.
    let writer = c.create(&rw("SA:n1")).unwrap();
    assert_eq!(writer.device(), "SA:n1");
    assert_eq!(c.end(writer.session()).rescan, Some(A));
    c.set_namespace(entry(), table());
    assert_eq!(errno(c.create(&ro("all"))), NODEV);
    // And a static client of the one is not served the other.
    let mut c = catalogue(table());
    c.set_namespace(entry(), vec![all]);
    c.reserve(&ro("all")).unwrap();
    c.set_namespace(entry(), table());
    assert_eq!(c.claim(&ro("all")).unwrap().device(), "SA:n1:1", "what is bound stays");
}

#[test]
fn a_namespace_says_which_table_it_has_though_it_be_empty() {
    let mut c = catalogue(table());
    for kind in [TableKind::Gpt, TableKind::Mbr, TableKind::None] {
        c.set_namespace(entry().with_table(kind), vec![]);
        assert_eq!(c.devices().next().unwrap().0.table(), kind);
    }
}
