//! Devices that go and come back.

use alloc::string::String;

use nvme_policy::PciPlace;

use super::super::device::{Device, NamespaceEntry};
use super::super::identity::DiskIdentity;
use super::Placed;

/// What tells a device that went and came back from another of its name. (The controller may have another index.)
#[derive(Clone, Debug)]
pub(super) struct Home {
    pub(super) serial: String,
    /// Where its controller was.
    pub(super) place: Option<PciPlace>,
    disk_identity: DiskIdentity,
    pub(super) nsid: u32,
    /// A partition's first block and blocks; `None` for a whole namespace.
    pub(super) part: Option<(u64, u64)>,
}

impl Home {
    /// Where another server had bound it.
    pub(super) fn of_placed(at: Placed) -> Self {
        let Placed { serial, place, disk_identity, nsid, first, blocks, partition, .. } = at;
        Self { serial, place, disk_identity, nsid, part: partition.map(|_| (first, blocks)) }
    }

    /// What tells its namespace from others.
    pub(super) fn disk_identity(&self) -> &DiskIdentity {
        &self.disk_identity
    }

    pub(super) fn of(device: &Device<'_>) -> Self {
        let extent = device.extent();
        Self {
            serial: device.disk.entry.serial().into(),
            place: device.disk.entry.place(),
            disk_identity: device.disk.entry.disk_identity().clone(),
            nsid: extent.namespace().nsid,
            part: device.part.map(|_| (extent.first(), extent.blocks())),
        }
    }

    pub(super) fn is(&self, device: &Device<'_>) -> bool {
        let extent = device.extent();
        self.is_on(&device.disk.entry) && self.part == device.part.map(|_| (extent.first(), extent.blocks()))
    }

    /// Whether the namespace is the one that it is, or is on.
    pub(super) fn is_on(&self, entry: &NamespaceEntry) -> bool {
        // What is shared may come back by another way; nothing else does. Two drives may have one serial number.
        let way = self.disk_identity.shared || self.place == entry.place();
        way && self.disk_identity.may_be(entry.disk_identity())
            && self.serial == entry.serial()
            && self.nsid == entry.namespace().nsid
    }
}
