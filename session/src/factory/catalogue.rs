//! Who has what.

mod adopt;
mod delegate;
mod home;
mod news;
mod tree;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use nvme_policy::{Access, DeviceName, Extent, Grant, Namespace, Policy};

pub use adopt::{AdoptedFactory, Placed, PlacedHolding, PlacedPartition};
pub use delegate::{FactoryView, HeldDevice};
pub use tree::{FACTORIES_MAX, FACTORY_DEPTH_MAX, FactoryId};

use super::device::{Device, NamespaceEntry, PartitionEntry, overlap, same_blocks};
use super::error::CreateError;
use super::identity::DiskIdentity;
use super::tables::{Disks, Refused};
use crate::operation::Limits;
use home::Home;
use tree::Tree;

/// A session, by number. No number is used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(u64);

impl SessionId {
    /// The number.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// A static client's reservation, in the order in which they were made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReservationId(usize);

/// What the operator chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CatalogueConfig {
    /// Most sessions at a time. Room for static clients is set aside.
    pub sessions_max: usize,
}

/// A session that was minted.
#[derive(Clone, Debug)]
pub struct Minted {
    session: SessionId,
    grant: Grant,
    policy: Policy,
    factory: FactoryId,
    limits: Limits,
    id: [u8; 20],
    device: String,
    disk_identity: DiskIdentity,
}

impl Minted {
    /// Which session it is.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// What it holds.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// What it may do, its place on disk aside.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Which factory minted it.
    pub fn factory(&self) -> FactoryId {
        self.factory
    }

    /// What its device can do.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What GET_ID answers.
    pub fn id(&self) -> [u8; 20] {
        self.id
    }

    /// Its device as `SN:nNSID` or `SN:nNSID:PART`; where another drive has that serial number, by its controller's place.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What tells its namespace from others.
    pub fn disk_identity(&self) -> &DiskIdentity {
        &self.disk_identity
    }

    /// It holds more from now on: what [`Catalogue::keep_namespaces`] answered for it.
    pub fn grow(&mut self, grant: Grant) {
        self.grant = grant;
    }
}

/// What is to be done after a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// The namespace whose table is to be read again ([`Catalogue::set_namespace`]): nothing is granted there before.
    pub rescan: Option<Namespace>,
}

/// Who has a part of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The session; `None` for a reservation without a client.
    pub session: Option<SessionId>,
    /// The static client's reservation.
    pub reservation: Option<ReservationId>,
    /// What it has.
    pub extent: Extent,
    /// How.
    pub access: Access,
}

#[derive(Debug)]
struct Live {
    id: SessionId,
    extent: Extent,
    access: Access,
    reservation: Option<ReservationId>,
    factory: FactoryId,
    /// Whether it has a whole namespace, and not a partition of it.
    whole: bool,
    /// Whether it can write what a scan reads.
    rewrites: bool,
    /// What tells its namespace from others.
    disk: DiskIdentity,
    /// Its device is lost, and nothing of it is on the way there any more.
    over: bool,
}

impl Live {
    fn holder(&self) -> Holder {
        let (session, reservation) = (Some(self.id), self.reservation);
        Holder { session, reservation, extent: self.extent, access: self.access }
    }
}

#[derive(Debug)]
struct Reserved {
    policy: Policy,
    /// Its device, once it was there. Stays bound while the device is there.
    extent: Option<Extent>,
    /// What it was bound to first. Nothing else is bound to it any more, whatever takes the name meanwhile.
    home: Option<Home>,
}

impl Reserved {
    /// Whether its device is a whole namespace, and not a partition of it.
    fn is_whole(&self) -> bool {
        self.home.as_ref().is_some_and(|home| home.part.is_none())
    }
}

/// What there is, and who has it.
#[derive(Debug)]
pub struct Catalogue {
    config: CatalogueConfig,
    disks: Disks,
    live: Vec<Live>,
    /// What ended, and nothing proves quiet.
    kept: Vec<Live>,
    reserved: Vec<Reserved>,
    tree: Tree,
    scanned: bool,
    next: u64,
}

impl Catalogue {
    /// An empty one, as before the first scan.
    pub fn new(config: CatalogueConfig) -> Self {
        Self {
            config,
            disks: Disks::default(),
            live: Vec::new(),
            kept: Vec::new(),
            reserved: Vec::new(),
            tree: Tree::default(),
            scanned: false,
            next: 1,
        }
    }

    /// A scan's result: a namespace and its partitions. What is in use stays as it is. Says what was not believed.
    pub fn set_namespace(&mut self, namespace: NamespaceEntry, table: Vec<PartitionEntry>) -> Vec<Refused> {
        let held = self.held();
        let scanned = namespace.namespace();
        let refused = self.disks.scanned(namespace, table, &held, self.scanned);
        // Partitions that are held stay; a whole namespace whose size changed is another device.
        for index in 0..self.reserved.len() {
            let here = |r: &&Reserved| r.extent.is_some_and(|e| e.namespace() == scanned);
            let is_live = self.live.iter().any(|l| l.reservation == Some(ReservationId(index)));
            let bound = self.reserved.get(index).filter(here);
            let place = bound.and_then(|r| Some((r.extent?, r.is_whole())));
            if place.is_some_and(|(e, whole)| !is_live && self.device_at(&e, whole).is_none())
                && let Some(reserved) = self.reserved.get_mut(index)
            {
                reserved.extent = None;
            }
        }
        self.bind();
        refused
    }

    /// The scan at start is over: requests are answered, and names belong to whoever has them now.
    pub fn set_scanned(&mut self) {
        self.scanned = true;
        self.bind();
    }

    /// Mints a session for a client of the server's own factory, by a policy that was admitted already.
    pub fn create(&mut self, policy: &Policy) -> Result<Minted, CreateError> {
        if !self.scanned {
            return Err(CreateError::Scanning);
        }
        self.has_room(FactoryId::SERVER)?;
        let device = self.resolve(policy.device())?;
        self.may(&device, policy.access(), None)?;
        let (extent, whole) = (device.extent(), device.part.is_none());
        self.mint(extent, whole, policy, None)
    }

    /// Reserves a static client's device before any dynamic client is served. One that is absent, or not scanned yet, is
    /// reserved when it appears; see [`is_present`](Self::is_present). Refused when the device is ambiguous,
    /// write-protected, or in the way of an earlier reservation.
    pub fn reserve(&mut self, policy: &Policy) -> Result<ReservationId, CreateError> {
        let (mut extent, mut home) = (None, None);
        if self.scanned {
            match self.resolve(policy.device()) {
                Ok(device) => {
                    let next = ReservationId(self.reserved.len());
                    self.may(&device, policy.access(), Some(next))?;
                    (extent, home) = (Some(device.extent()), Some(Home::of(&device)));
                }
                Err(CreateError::NoDevice(_) | CreateError::Scanning) => {}
                Err(why) => return Err(why),
            }
        }
        self.reserved.push(Reserved { policy: policy.clone(), extent, home });
        Ok(ReservationId(self.reserved.len() - 1))
    }

    /// Whether a reservation has its device, or why not.
    pub fn is_present(&self, id: ReservationId) -> Result<(), CreateError> {
        let reserved = self.reserved.get(id.0).ok_or(CreateError::NotReserved)?;
        if reserved.extent.is_some() {
            return Ok(());
        }
        if !self.scanned {
            return Err(CreateError::Scanning);
        }
        let device = self.device_of(reserved)?;
        self.may(&device, reserved.policy.access(), Some(id))
    }

    /// Mints the session of a static client that has a reservation by this very policy; one at a time.
    pub fn claim(&mut self, policy: &Policy) -> Result<Minted, CreateError> {
        let mut refused = CreateError::NotReserved;
        for (index, reserved) in self.reserved.iter().enumerate() {
            if reserved.policy != *policy {
                continue;
            }
            let id = ReservationId(index);
            match (self.live.iter().find(|l| l.reservation == Some(id)), reserved.extent) {
                (Some(live), _) => {
                    let device = self.device_at(&live.extent, live.whole);
                    let device = device.map(|d| self.disks.own_name(&d)).unwrap_or_default();
                    refused = CreateError::InUse { device, readable: false };
                }
                (None, Some(extent)) => {
                    return self.mint(extent, reserved.is_whole(), policy, Some(id));
                }
                // It has no device, so there is something to say.
                (None, None) => refused = self.is_present(id).err().unwrap_or(CreateError::Scanning),
            }
        }
        Err(refused)
    }

    /// The device of a session is lost, and nothing of it is on the way there any more: where another controller has the same
    /// disk, it can be had there.
    pub fn is_over(&mut self, id: SessionId) {
        if let Some(live) = self.live.iter_mut().find(|live| live.id == id) {
            live.over = true;
            self.bind();
        }
    }

    /// A session ends, and nothing proves that what was in flight is over: nobody else is given those blocks, whatever controller has them.
    pub fn end_unproven(&mut self, id: SessionId) -> Ended {
        if let Some(index) = self.live.iter().position(|live| live.id == id) {
            let live = self.live.swap_remove(index);
            self.kept.push(Live { reservation: None, ..live });
        }
        Ended { rescan: None }
    }

    /// A session has ended, with everything that was in flight.
    pub fn end(&mut self, id: SessionId) -> Ended {
        let Some(index) = self.live.iter().position(|l| l.id == id) else { return Ended { rescan: None } };
        let live = self.live.swap_remove(index);
        let namespace = live.extent.namespace();
        let mut ended = Ended { rescan: None };
        if live.rewrites
            && let Some(disk) = self.disks.get_mut(namespace)
        {
            disk.stale = true;
            ended.rescan = Some(namespace);
        }
        // What it held may be something else by now.
        if let Some(id) = live.reservation
            && self.device_at(&live.extent, live.whole).is_none()
            && let Some(reserved) = self.reserved.get_mut(id.0)
        {
            reserved.extent = None;
        }
        let held = self.held();
        self.disks.refresh(namespace, &held, self.scanned);
        self.bind();
        ended
    }

    /// Whether there is such a namespace.
    pub fn has(&self, namespace: Namespace) -> bool {
        self.disks.get(namespace).is_some()
    }

    /// What tells that namespace from others, as its last scan found it; `None` when there is none.
    pub fn disk_identity(&self, namespace: Namespace) -> Option<&DiskIdentity> {
        self.disks.get(namespace).map(|d| d.entry.disk_identity())
    }

    /// The namespaces, each with the partitions that can be had.
    pub fn devices(&self) -> impl Iterator<Item = (&NamespaceEntry, impl Iterator<Item = &PartitionEntry>)> {
        self.disks.iter().map(|d| (&d.entry, d.parts.iter().map(|b| &b.partition)))
    }

    /// Whoever holds or has reserved something that overlaps `extent`.
    pub fn holders(&self, extent: &Extent) -> impl Iterator<Item = Holder> {
        let disk = self.disk_identity(extent.namespace());
        let elsewhere = move |live: &&Live| {
            !live.over && disk.is_some_and(|disk| live.disk.is(disk)) && same_blocks(&live.extent, extent)
        };
        let elsewhere = self.live.iter().chain(&self.kept).filter(elsewhere).map(Live::holder);
        self.claims().filter(move |h| overlap(&h.extent, extent)).chain(elsewhere)
    }

    /// How many devices of a controller are reserved for static clients that are not there.
    pub fn reserved_on(&self, controller: u16) -> usize {
        let absent = |h: &Holder| h.session.is_none() && h.extent.namespace().controller == controller;
        self.claims().filter(absent).count()
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.live.len()
    }

    /// Live sessions, and reservations that have a device.
    fn claims(&self) -> impl Iterator<Item = Holder> {
        let live = self.live.iter().chain(&self.kept).map(Live::holder);
        let reserved = self.reserved.iter().enumerate().filter_map(|(i, r)| {
            let reservation = Some(ReservationId(i));
            let extent = r.extent?;
            let is_live = self.live.iter().any(|l| l.reservation == reservation);
            (!is_live).then(|| Holder { session: None, reservation, extent, access: r.policy.access() })
        });
        live.chain(reserved)
    }

    /// The partitions that live sessions and static clients have.
    fn held(&self) -> Vec<Extent> {
        let live = self.live.iter().filter(|l| !l.whole).map(|l| l.extent);
        let reserved = self.reserved.iter().filter(|r| !r.is_whole()).filter_map(|r| r.extent);
        live.chain(reserved).collect()
    }

    /// The one device of that name.
    fn resolve(&self, name: &DeviceName) -> Result<Device<'_>, CreateError> {
        let mut found = self.disks.iter().flat_map(|d| d.devices()).filter(|d| d.answers_to(name));
        match (found.next(), found.next()) {
            (Some(device), None) if device.disk.stale => Err(CreateError::Scanning),
            (Some(device), None) => Ok(device),
            (None, _) if self.disks.iter().any(|d| d.stale) => Err(CreateError::Scanning),
            (None, _) => Err(CreateError::NoDevice(Box::new(name.clone()))),
            (Some(first), Some(second)) => {
                let all = [first, second].into_iter().chain(found);
                let candidates = all.map(|d| self.disks.own_name(&d)).collect();
                Err(CreateError::Ambiguous { name: Box::new(name.clone()), candidates })
            }
        }
    }

    /// The blocks that a name means.
    pub fn find(&self, name: &DeviceName) -> Result<Extent, CreateError> {
        self.resolve(name).map(|device| device.extent())
    }

    /// The one device of a reservation: by its name at first, and then what had the name at first.
    fn device_of(&self, reserved: &Reserved) -> Result<Device<'_>, CreateError> {
        let name = reserved.policy.device();
        let Some(home) = &reserved.home else { return self.resolve(name) };
        let mut devices = self.disks.iter().flat_map(|d| d.devices());
        // It has its name still, though another may have taken it meanwhile.
        match devices.find(|d| home.is(d) && name.matches(&d.identity())) {
            Some(device) if device.disk.stale => Err(CreateError::Scanning),
            Some(device) => Ok(device),
            None if self.disks.iter().any(|d| d.stale) => Err(CreateError::Scanning),
            None => Err(CreateError::NoDevice(Box::new(name.clone()))),
        }
    }

    /// Whether nobody is in the way, `own` reservation aside.
    fn may(
        &self,
        device: &Device<'_>,
        access: Access,
        own: Option<ReservationId>,
    ) -> Result<(), CreateError> {
        if device.disk.stale {
            return Err(CreateError::Scanning);
        }
        self.writable(device, access, own.is_some())?;
        let extent = device.extent();
        let mut others = self.holders(&extent).filter(|h| own.is_none() || h.reservation != own).peekable();
        if others.peek().is_none() {
            return Ok(());
        }
        let readable = others.all(|h| h.access == Access::ReadOnly);
        match access {
            Access::ReadOnly if readable => Ok(()),
            _ => {
                let readable = readable && access == Access::ReadWrite;
                Err(CreateError::InUse { device: self.disks.own_name(device), readable })
            }
        }
    }

    fn writable(&self, device: &Device<'_>, access: Access, fixed: bool) -> Result<(), CreateError> {
        match device.read_only().filter(|_| access == Access::ReadWrite) {
            Some(why) => Err(CreateError::ReadOnly { device: self.disks.own_name(device), why, fixed }),
            None => Ok(()),
        }
    }

    /// Gives devices to reservations that have none, in their order.
    fn bind(&mut self) {
        if !self.scanned {
            return;
        }
        for index in 0..self.reserved.len() {
            let id = ReservationId(index);
            let Some(reserved) = self.reserved.get(index).filter(|r| r.extent.is_none()) else { continue };
            let found = self.device_of(reserved).and_then(|d| {
                self.may(&d, reserved.policy.access(), Some(id)).map(|()| (d.extent(), Home::of(&d)))
            });
            if let (Ok((extent, home)), Some(reserved)) = (found, self.reserved.get_mut(index)) {
                reserved.extent = Some(extent);
                reserved.home.get_or_insert(home);
            }
        }
        self.bind_holdings();
    }

    /// The device of that place. (A partition may be as large as its namespace.)
    fn device_at(&self, extent: &Extent, whole: bool) -> Option<Device<'_>> {
        let mut devices = self.disks.get(extent.namespace())?.devices();
        devices.find(|d| d.extent() == *extent && d.part.is_none() == whole)
    }

    fn mint(
        &mut self,
        extent: Extent,
        whole: bool,
        policy: &Policy,
        reservation: Option<ReservationId>,
    ) -> Result<Minted, CreateError> {
        let found = self.device_at(&extent, whole).filter(|d| !d.disk.stale);
        let Some(device) = found else { return Err(CreateError::Scanning) };
        let grant = delegate::server_grant(device.disk).narrow(extent, policy.access());
        let Some(grant) = grant else { return Err(CreateError::Scanning) };
        let fixed = reservation.is_some();
        let minted = self.draw_up(&device, grant, policy.clone(), FactoryId::SERVER, fixed)?;
        self.enter(&minted, whole, reservation);
        Ok(minted)
    }

    /// What was drawn up is there from now on.
    fn enter(&mut self, minted: &Minted, whole: bool, reservation: Option<ReservationId>) {
        let (extent, access) = (*minted.grant.extent(), minted.grant.access());
        let disk = self.disks.get(extent.namespace());
        let reaches = disk.is_none_or(|d| reaches_table(&extent, d.entry.extent()));
        let rewrites = access == Access::ReadWrite && reaches;
        self.next += 1;
        let (id, factory, disk) = (minted.session, minted.factory, minted.disk_identity.clone());
        self.live.push(Live { id, extent, access, reservation, factory, whole, rewrites, disk, over: false });
    }
}

/// Whether a partition table may lie in it: they are at both ends of a namespace.
fn reaches_table(extent: &Extent, whole: &Extent) -> bool {
    extent.first() == 0 || extent.first() + extent.blocks() >= whole.blocks()
}
