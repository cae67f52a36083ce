//! Sessions that another server minted, and that go on in this one.
//!
//! A session goes on with just what it had: its number, its policy, its place. The place is found by what tells its disk from others and
//! by its blocks, never by a name again: a table that a client rewrote meanwhile moves nobody. It is minted by the same rules as at first,
//! from what the factory holds, and refused where somebody is in the way.

mod factories;

use alloc::boxed::Box;
use alloc::string::String;

use nvme_policy::{Access, BlockSize, Extent, Label, PartitionId, PciPlace, Policy};

pub use self::factories::{AdoptedFactory, PlacedHolding};
use super::super::DiskIdentity;
use super::super::device::{Bound, Device, Disk, PartitionEntry, Protection};
use super::super::error::CreateError;
use super::home::Home;
use super::{Catalogue, FactoryId, Minted, ReservationId, SessionId, delegate};

/// Where a device is, whatever it is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The serial number of its controller.
    pub serial: String,
    /// Where its controller is, where it has a place.
    pub place: Option<PciPlace>,
    /// What tells its namespace from others.
    pub disk_identity: DiskIdentity,
    /// The namespace's number.
    pub nsid: u32,
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// Its first block.
    pub first: u64,
    /// How many it has.
    pub blocks: u64,
    /// The partition that it is; `None`: a whole namespace.
    pub partition: Option<PlacedPartition>,
}

/// A partition, as it was when it was bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlacedPartition {
    /// Its number in the table.
    pub number: u32,
    /// Its identifier.
    pub id: PartitionId,
    /// Its name; may be empty.
    pub label: Label,
    /// Whether its identifier belonged to another partition before.
    pub id_taken: bool,
    /// Likewise its label.
    pub label_taken: bool,
}

impl PlacedPartition {
    fn of(bound: &Bound) -> Self {
        Self {
            number: bound.partition.number,
            id: bound.partition.id,
            label: bound.partition.label.clone(),
            id_taken: bound.id_taken,
            label_taken: bound.label_taken,
        }
    }
}

impl Placed {
    fn of(device: &Device<'_>) -> Self {
        let (entry, extent) = (&device.disk.entry, device.extent());
        Self {
            serial: entry.serial().into(),
            place: entry.place(),
            disk_identity: entry.disk_identity().clone(),
            nsid: entry.namespace().nsid,
            block_size: extent.block_size(),
            first: extent.first(),
            blocks: extent.blocks(),
            partition: device.part.map(PlacedPartition::of),
        }
    }

    fn is_on(&self, disk: &Disk) -> bool {
        let entry = &disk.entry;
        (entry.serial(), entry.place(), entry.namespace().nsid)
            == (self.serial.as_str(), self.place, self.nsid)
            && entry.extent().block_size() == self.block_size
            && entry.disk_identity().may_be(&self.disk_identity)
    }

    /// The blocks, on that disk.
    fn extent(&self, disk: &Disk) -> Option<Extent> {
        let whole = disk.entry.extent();
        match self.partition {
            None => Some(*whole).filter(|e| (e.first(), e.blocks()) == (self.first, self.blocks)),
            Some(_) => whole.part(self.first, self.blocks),
        }
    }
}

impl Catalogue {
    /// The number of the next session.
    pub fn next_session(&self) -> u64 {
        self.next
    }

    /// The numbers below this one were used by another server.
    pub fn begin_at(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// Where a session is. `None`: its device is gone, or there is no such session.
    pub fn placed(&self, session: SessionId) -> Option<Placed> {
        let live = self.live.iter().find(|live| live.id == session)?;
        self.device_at(&live.extent, live.whole).map(|device| Placed::of(&device))
    }

    /// Goes on with a session that another server minted, under its number. `fixed`: it is a static client's, which has a reservation by this
    /// very policy.
    pub fn adopt(
        &mut self,
        number: u64,
        policy: &Policy,
        factory: FactoryId,
        at: &Placed,
        fixed: bool,
    ) -> Result<Minted, CreateError> {
        if !self.scanned {
            return Err(CreateError::Scanning);
        }
        let reservation = if fixed { Some(self.reservation_of(policy)?) } else { None };
        if !fixed {
            self.has_room_again(factory)?;
        }
        if !self.ceiling(factory)?.holds(policy) {
            return Err(CreateError::NotHeld);
        }
        let absent = || CreateError::NoDevice(Box::new(policy.device().clone()));
        let disk = self.disks.iter().find(|disk| at.is_on(disk)).ok_or_else(absent)?;
        let namespace = disk.entry.namespace();
        let extent = at.extent(disk).ok_or_else(absent)?;
        let grant = match self.tree.get(factory) {
            None if factory == FactoryId::SERVER => {
                delegate::server_grant(disk).narrow(extent, policy.access())
            }
            None => None,
            Some(_) => self.holds(factory, disk, &extent, policy.access()),
        };
        let grant = grant.ok_or(CreateError::NotHeld)?;
        let device = Device { disk, part: None };
        let read_only = disk.entry.read_only().then_some(Protection::Namespace);
        if let Some(why) = read_only.filter(|_| policy.access() == Access::ReadWrite) {
            return Err(CreateError::ReadOnly { device: self.disks.own_name(&device), why, fixed });
        }
        let used = number == 0 || self.live.iter().any(|live| live.id.number() == number);
        let in_the_way = self.holders(&extent).any(|holder| {
            let reads = |access| access == Access::ReadOnly;
            (reservation.is_none() || holder.reservation != reservation)
                && !(reads(holder.access) && reads(policy.access()))
        });
        if used || in_the_way {
            let device = self.disks.own_name(&device);
            return Err(CreateError::InUse { device, readable: false });
        }
        if let Some(part) = &at.partition {
            self.hold(extent, part);
        }
        let whole = at.partition.is_none();
        let Some(device) = self.device_at(&extent, whole) else { return Err(absent()) };
        let home = Home::of(&device);
        let minted = Minted {
            session: SessionId(number),
            grant,
            policy: policy.clone(),
            factory,
            limits: *device.disk.entry.limits(),
            id: device.id(),
            device: self.disks.own_name(&device),
            disk_identity: device.disk.entry.disk_identity().clone(),
        };
        if let Some(reserved) = reservation.and_then(|id| self.reserved.get_mut(id.0)) {
            (reserved.extent, reserved.home) = (Some(extent), Some(home));
        }
        let next = self.next.max(number.saturating_add(1));
        self.enter(&minted, whole, reservation);
        self.next = next;
        let held = self.held();
        self.disks.refresh(namespace, &held, self.scanned);
        Ok(minted)
    }

    /// The reservation by that policy that nobody has claimed.
    fn reservation_of(&self, policy: &Policy) -> Result<ReservationId, CreateError> {
        let free = |id: &ReservationId| !self.live.iter().any(|live| live.reservation == Some(*id));
        let ids = (0..self.reserved.len()).map(ReservationId).filter(free);
        let same = |id: &ReservationId| self.reserved.get(id.0).is_some_and(|r| r.policy == *policy);
        ids.into_iter().find(same).ok_or(CreateError::NotReserved)
    }

    /// A partition is there as it was when it was bound, whatever the table says by now.
    fn hold(&mut self, extent: Extent, part: &PlacedPartition) {
        let Some(disk) = self.disks.get_mut(extent.namespace()) else { return };
        let partition = PartitionEntry {
            number: part.number,
            id: part.id,
            label: part.label.clone(),
            extent,
            read_only: None,
        };
        let known = disk.parts.iter().position(|b| b.partition.is(&partition));
        let (id_taken, label_taken) = (part.id_taken, part.label_taken);
        let read_only = known.and_then(|at| disk.parts.get(at)).and_then(|b| b.partition.read_only);
        let bound = Bound { partition: PartitionEntry { read_only, ..partition }, id_taken, label_taken };
        let other = |b: &Bound| b.partition.number != part.number && !b.partition.extent.overlaps(&extent);
        disk.parts.retain(other);
        disk.parts.push(bound);
        disk.parts.sort_by_key(|b| b.partition.number);
    }
}
