//! Two disks with partitions, and what is asked of their catalogue.

use nvme_policy::{BlockSize, Extent, Label, Namespace, PartitionId, Policy};
use nvme_session::factory::{
    Catalogue, CatalogueConfig, CreateError, Minted, NamespaceEntry, PartitionEntry,
};
use nvme_session::operation::Limits;

pub(crate) const A: Namespace = Namespace { controller: 0, nsid: 1 };
pub(crate) const B: Namespace = Namespace { controller: 1, nsid: 1 };
pub(crate) const LIMITS: Limits = Limits {
    transfer_blocks: 256,
    discard_blocks: 8,
    discard_granularity: 0,
    write_zeroes_blocks: 8,
    volatile_cache: true,
    unmaps_to_zeroes: false,
};

pub(crate) fn whole(ns: Namespace) -> Extent {
    Extent::whole(ns, 1000, BlockSize::B512).unwrap()
}

pub(crate) fn entry(ns: Namespace) -> NamespaceEntry {
    NamespaceEntry::new(if ns == A { "SA" } else { "SB" }, whole(ns), LIMITS, false)
}

pub(crate) fn uuid(n: u8) -> String {
    format!("00000000-0000-0000-0000-0000000000{n:02x}")
}

pub(crate) fn part(
    ns: Namespace,
    number: u32,
    id: u8,
    label: &str,
    first: u64,
    blocks: u64,
) -> PartitionEntry {
    PartitionEntry {
        number,
        id: PartitionId::parse(&uuid(id)).unwrap(),
        label: Label::new(label).unwrap(),
        extent: whole(ns).part(first, blocks).unwrap(),
        read_only: None,
    }
}

pub(crate) fn table_a() -> Vec<PartitionEntry> {
    vec![part(A, 1, 1, "root", 100, 100), part(A, 2, 2, "home", 200, 100)]
}

pub(crate) fn table_b() -> Vec<PartitionEntry> {
    vec![part(B, 1, 11, "data", 100, 100)]
}

pub(crate) fn catalogue() -> Catalogue {
    let mut c = Catalogue::new(CatalogueConfig { sessions_max: 16 });
    assert_eq!(c.set_namespace(entry(A), table_a()), []);
    assert_eq!(c.set_namespace(entry(B), table_b()), []);
    c.set_scanned();
    c
}

pub(crate) fn rw(device: &str) -> Policy {
    Policy::from_words([&*format!("device={device}")]).unwrap()
}

pub(crate) fn ro(device: &str) -> Policy {
    Policy::from_words([&*format!("device={device}"), "read-only"]).unwrap()
}

pub(crate) fn place(m: &Minted) -> (Namespace, u64, u64) {
    let e = m.grant().extent();
    (e.namespace(), e.first(), e.blocks())
}

pub(crate) fn errno(r: Result<Minted, CreateError>) -> i32 {
    r.map(|m| m.device().to_string()).unwrap_err().errno().number()
}

pub(crate) const AGAIN: i32 = 11;
pub(crate) const NOMEM: i32 = 12;
pub(crate) const BUSY: i32 = 16;
pub(crate) const NODEV: i32 = 19;
pub(crate) const INVAL: i32 = 22;
