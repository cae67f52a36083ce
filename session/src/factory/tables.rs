//! What a new partition table may change.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use nvme_policy::{Extent, Namespace};

use super::device::{Bound, Device, Disk, NamespaceEntry, PartitionEntry, overlap};

/// What of a new table was not believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The partition overlaps one that is in use, or has its number.
    InTheWay(PartitionEntry),
    /// The partition's identifier is another's already.
    IdTaken(PartitionEntry),
    /// The partition's label is another's already.
    LabelTaken(PartitionEntry),
    /// One namespace by two controllers.
    Shared {
        /// The name by which it cannot be had.
        lost: String,
        /// The one by which it can.
        had: String,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (partition, why) = match self {
            Self::Shared { lost, had } => {
                return write!(f, "{lost} is {had} by another controller; it can be had as {had} only");
            }
            Self::InTheWay(p) => (p, "it overlaps one that is in use, or has its number; it cannot be had"),
            Self::IdTaken(p) => (p, "its identifier is another's; it goes by its number"),
            Self::LabelTaken(p) => (p, "its label is another's; it goes by its number or identifier"),
        };
        write!(f, "partition {} ({}, \"{}\"): {why}", partition.number, partition.id, partition.label)
    }
}

/// What two controllers of one subsystem call one namespace: its serial number is the subsystem's, so by their places where that is
/// all that tells them apart.
fn name_apart(a: &NamespaceEntry, b: &NamespaceEntry) -> (String, String) {
    let name = |entry: &NamespaceEntry, other: &NamespaceEntry| match entry.place() {
        Some(place) if entry.serial() == other.serial() => {
            format!("pci:{place}:n{}", entry.namespace().nsid)
        }
        _ => entry.identity().to_string(),
    };
    (name(a, b), name(b, a))
}

/// All disks.
#[derive(Debug, Default)]
pub(super) struct Disks(Vec<Disk>);

impl Disks {
    /// A name that is this device's own: by its controller's place where another of its number has that serial number, too.
    pub(super) fn own_name(&self, device: &Device<'_>) -> String {
        let entry = &device.disk.entry;
        let alike = |d: &&Disk| {
            d.entry.serial() == entry.serial() && d.entry.namespace().nsid == entry.namespace().nsid
        };
        device.name(self.0.iter().filter(alike).count() > 1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Disk> {
        self.0.iter()
    }

    pub(super) fn get(&self, namespace: Namespace) -> Option<&Disk> {
        self.0.iter().find(|d| d.entry.namespace() == namespace)
    }

    pub(super) fn get_mut(&mut self, namespace: Namespace) -> Option<&mut Disk> {
        self.0.iter_mut().find(|d| d.entry.namespace() == namespace)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(Namespace) -> bool) {
        self.0.retain(|d| keep(d.entry.namespace()));
    }

    /// A scan's result. `held`: of partitions. `first_come`: from now on names belong to whoever had them first.
    pub(super) fn scanned(
        &mut self,
        entry: NamespaceEntry,
        table: Vec<PartitionEntry>,
        held: &[Extent],
        first_come: bool,
    ) -> Vec<Refused> {
        let namespace = entry.namespace();
        let mut refused = Vec::new();
        let twin =
            |d: &&Disk| d.entry.namespace() != namespace && d.entry.disk_identity().is(entry.disk_identity());
        while let Some(other) = self.0.iter().find(twin) {
            // While nobody has anything yet, the order of the controllers counts, not that of their answers.
            let stays = first_come || other.entry.namespace() < namespace;
            let (lost, had) = if stays { (&entry, &other.entry) } else { (&other.entry, &entry) };
            let gone = lost.namespace();
            let (lost, had) = name_apart(lost, had);
            refused.push(Refused::Shared { lost, had });
            self.0.retain(|d| d.entry.namespace() != gone);
            if stays {
                return refused;
            }
        }
        match self.get_mut(namespace) {
            Some(disk) => {
                disk.entry = entry;
                disk.table = table;
                disk.stale = false;
            }
            None => {
                // In an order that does not depend on which scan ended first.
                let at = self.0.partition_point(|d| d.entry.namespace() < namespace);
                self.0.insert(at, Disk { entry, table, parts: Vec::new(), stale: false });
            }
        }
        refused.extend(self.refresh(namespace, held, first_come));
        refused
    }

    /// Makes what can be had of a namespace from its table, and from what is held there.
    pub(super) fn refresh(
        &mut self,
        namespace: Namespace,
        held: &[Extent],
        first_come: bool,
    ) -> Vec<Refused> {
        let mut refused = Vec::new();
        let Some(disk) = self.get(namespace) else { return refused };
        let whole = *disk.entry.extent();
        let is_held = |b: &&Bound| held.contains(&b.partition.extent);
        let mut parts: Vec<Bound> = disk.parts.iter().filter(is_held).cloned().collect();
        // Of what is held, who may write to it next is all that may change.
        for bound in &mut parts {
            if let Some(now) = disk.table.iter().find(|p| p.is(&bound.partition)) {
                bound.partition.read_only = now.read_only;
            }
        }
        let in_use = parts.len();
        // What is as it was keeps its names; it goes before what is new.
        let known = |p: &PartitionEntry| disk.parts.iter().find(|b| b.partition.is(p));
        let (old, new): (Vec<_>, Vec<_>) = disk.table.iter().partition(|p| known(p).is_some());
        for partition in old.into_iter().chain(new) {
            if parts.iter().any(|b| b.partition.is(partition)) {
                continue;
            }
            let before = parts.get(..in_use).unwrap_or_default();
            let in_the_way = |b: &Bound| {
                b.partition.number == partition.number || overlap(&b.partition.extent, &partition.extent)
            };
            let inside = whole.part(partition.extent.first(), partition.extent.blocks());
            if before.iter().any(in_the_way) || inside != Some(partition.extent) {
                refused.push(Refused::InTheWay(partition.clone()));
                continue;
            }
            let bound = match known(partition) {
                Some(bound) => Bound { partition: partition.clone(), ..bound.clone() },
                None if first_come => {
                    // All that came up before: on other disks, and what stays on this one.
                    let others = self.0.iter().filter(|d| d.entry.namespace() != namespace);
                    let others = others.flat_map(|d| &d.parts);
                    let here = parts.iter().filter(|b| known(&b.partition).is_some());
                    let mut earlier = others.chain(here);
                    let label = &partition.label;
                    let label_taken = !label.is_empty()
                        && earlier.clone().any(|b| !b.label_taken && b.partition.label == *label);
                    let id_taken = earlier.any(|b| !b.id_taken && b.partition.id == partition.id);
                    Bound { partition: partition.clone(), id_taken, label_taken }
                }
                None => Bound { partition: partition.clone(), id_taken: false, label_taken: false },
            };
            if bound.id_taken {
                refused.push(Refused::IdTaken(partition.clone()));
            }
            if bound.label_taken {
                refused.push(Refused::LabelTaken(partition.clone()));
            }
            parts.push(bound);
        }
        let mut in_order: Vec<Bound> = Vec::with_capacity(parts.len());
        for bound in parts {
            let at = in_order.partition_point(|b| b.partition.number < bound.partition.number);
            in_order.insert(at, bound);
        }
        if let Some(disk) = self.get_mut(namespace) {
            disk.parts = in_order;
        }
        refused
    }
}
