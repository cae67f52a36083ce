//! What there is: namespaces and their partitions, and by which names they go.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use nvme_policy::{
    BlockSize, DeviceName, Extent, Identity, Label, Namespace, PartitionId, PartitionIdentity, PciPlace,
};

use super::DiskIdentity;
use crate::operation::Limits;

/// What kind of partition table a disk has; also when it is too broken to be used, or empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TableKind {
    /// None that is known here: the disk may hold a file system as it is, or nothing.
    #[default]
    None,
    /// A GUID partition table (behind a protective MBR).
    Gpt,
    /// A master boot record.
    Mbr,
}

/// Why a device can only be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// The namespace is write-protected.
    Namespace,
    /// The partition table marks the partition read-only.
    Attribute,
    /// The partition covers blocks that say where partitions are: its writer could move those of others.
    CoversTable,
}

/// A namespace, as its scan found it.
#[derive(Clone, Debug)]
pub struct NamespaceEntry {
    serial: String,
    place: Option<PciPlace>,
    extent: Extent,
    limits: Limits,
    read_only: bool,
    disk_identity: DiskIdentity,
    table: TableKind,
}

impl NamespaceEntry {
    /// `serial` is the controller's serial number without its padding; `extent` the whole namespace; `read_only` says
    /// that it is write-protected.
    pub fn new(serial: &str, extent: Extent, limits: Limits, read_only: bool) -> Self {
        Self {
            serial: serial.into(),
            place: None,
            extent,
            limits,
            read_only,
            disk_identity: DiskIdentity::default(),
            table: TableKind::None,
        }
    }

    /// The same, with the place of its controller, where it has one.
    #[must_use]
    pub fn at(self, place: Option<PciPlace>) -> Self {
        Self { place, ..self }
    }

    /// The same, with what tells it from others.
    #[must_use]
    pub fn on(self, disk_identity: DiskIdentity) -> Self {
        Self { disk_identity, ..self }
    }

    /// The same, with that kind of partition table.
    #[must_use]
    pub fn with_table(self, table: TableKind) -> Self {
        Self { table, ..self }
    }

    /// What kind of partition table it has.
    pub fn table(&self) -> TableKind {
        self.table
    }

    /// What tells it from others.
    pub fn disk_identity(&self) -> &DiskIdentity {
        &self.disk_identity
    }

    /// The controller's serial number.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Where its controller is.
    pub fn place(&self) -> Option<PciPlace> {
        self.place
    }

    /// Which namespace.
    pub fn namespace(&self) -> Namespace {
        self.extent.namespace()
    }

    /// All of it.
    pub fn extent(&self) -> &Extent {
        &self.extent
    }

    /// What its controller can do.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether it is write-protected.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// What it is known by.
    pub fn identity(&self) -> Identity<'_> {
        Identity { serial: &self.serial, place: self.place, nsid: self.namespace().nsid, partition: None }
    }

    /// Whether `SN:nNSID` names it: not where its serial number is none, or reads like another kind of name.
    fn has_number(&self) -> bool {
        let name = format!("{}", self.identity());
        DeviceName::parse(&name).is_ok_and(|name| name.matches(&Identity { place: None, ..self.identity() }))
    }
}

/// A partition, as a scan found it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionEntry {
    /// Its number in the table, 1 and up.
    pub number: u32,
    /// Its identifier.
    pub id: PartitionId,
    /// Its name; may be empty.
    pub label: Label,
    /// Where it is.
    pub extent: Extent,
    /// Why it can only be read, if so.
    pub read_only: Option<Protection>,
}

impl PartitionEntry {
    /// Whether it is that partition, whoever may write to it.
    pub(super) fn is(&self, other: &Self) -> bool {
        let all = |p: &Self| (p.number, p.id, p.extent);
        all(self) == all(other) && self.label == other.label
    }
}

/// A partition that can be had, and the names that are bound to it.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) partition: PartitionEntry,
    /// Whether its identifier belonged to another partition before it came up.
    pub(super) id_taken: bool,
    /// Likewise its label.
    pub(super) label_taken: bool,
}

/// One namespace and what can be had of it.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) entry: NamespaceEntry,
    /// What the last scan found, whatever is in use.
    pub(super) table: Vec<PartitionEntry>,
    /// What can be had.
    pub(super) parts: Vec<Bound>,
    /// A client may have rewritten the table: nothing is granted here until it was read again.
    pub(super) stale: bool,
}

/// One thing that can be had. Refers to a disk by its namespace, so it outlives no scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device<'a> {
    pub(super) disk: &'a Disk,
    pub(super) part: Option<&'a Bound>,
}

impl<'a> Device<'a> {
    pub(super) fn identity(&self) -> Identity<'a> {
        let partition = self.part.map(|b| PartitionIdentity {
            number: b.partition.number,
            id: b.partition.id,
            label: b.partition.label.as_str(),
        });
        Identity { partition, ..self.disk.entry.identity() }
    }

    /// Whether a name means this device. Identifiers and labels that were somebody else's before do not count.
    pub(super) fn answers_to(&self, name: &DeviceName) -> bool {
        let identity = self.identity();
        let (Some(bound), Some(partition)) = (self.part, identity.partition) else {
            return name.matches(&identity);
        };
        // A name is of one kind, so it matches twice unless what it matches is taken away. No name is an empty label.
        let label = if bound.label_taken { "" } else { partition.label };
        let id = if bound.id_taken { another(&partition.id) } else { partition.id };
        let partition = PartitionIdentity { id, label, ..partition };
        name.matches(&identity) && name.matches(&Identity { partition: Some(partition), ..identity })
    }

    pub(super) fn extent(&self) -> Extent {
        self.part.map_or(self.disk.entry.extent, |b| b.partition.extent)
    }

    /// Why it can only be read, if so.
    pub(super) fn read_only(&self) -> Option<Protection> {
        let namespace = self.disk.entry.read_only.then_some(Protection::Namespace);
        namespace.or_else(|| self.part.and_then(|b| b.partition.read_only))
    }

    /// A name for it: `SN:nNSID[:PART]`; by its controller's place where that is asked for, or the first is none.
    pub(super) fn name(&self, by_place: bool) -> String {
        let entry = &self.disk.entry;
        let part = self.part.map(|bound| bound.partition.number);
        match (entry.place.filter(|_| by_place || !entry.has_number()), part) {
            (None, _) => format!("{}", self.identity()),
            (Some(place), None) => format!("pci:{place}:n{}", entry.namespace().nsid),
            (Some(place), Some(number)) => format!("pci:{place}:n{}:{number}", entry.namespace().nsid),
        }
    }

    /// What GET_ID answers: `SN:nNSID`, cut, or the first 20 hexadecimal digits of the identifier.
    pub(super) fn id(&self) -> [u8; 20] {
        let text = match self.part.map(|b| b.partition.id) {
            None => format!("{}:n{}", self.disk.entry.serial, self.disk.entry.namespace().nsid),
            Some(PartitionId::Gpt(uuid)) => format!("{:x}", uuid.simple()),
            Some(PartitionId::Mbr { disk, number }) => format!("{disk:08x}{number:02x}"),
        };
        let mut id = [0; 20];
        for (to, from) in id.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        id
    }
}

/// An identifier that is not this one.
fn another(id: &PartitionId) -> PartitionId {
    match id {
        PartitionId::Gpt(_) => PartitionId::Mbr { disk: 0, number: 1 },
        PartitionId::Mbr { disk, number } => PartitionId::Mbr { disk: !disk, number: *number },
    }
}

/// Whether the two places have a block in common. Where the size of a block changed in between nobody can tell.
pub(super) fn overlap(a: &Extent, b: &Extent) -> bool {
    a.namespace() == b.namespace() && same_blocks(a, b)
}

/// The same of two places that may have different ways to them.
pub(super) fn same_blocks(a: &Extent, b: &Extent) -> bool {
    let size = |e: &Extent| -> BlockSize { e.block_size() };
    let begins_within = |a: &Extent, b: &Extent| a.first().wrapping_sub(b.first()) < b.blocks();
    size(a) != size(b) || begins_within(a, b) || begins_within(b, a)
}

impl Disk {
    pub(super) fn devices(&self) -> impl Iterator<Item = Device<'_>> {
        let whole = Device { disk: self, part: None };
        core::iter::once(whole).chain(self.parts.iter().map(|part| Device { disk: self, part: Some(part) }))
    }
}
