//! Authority divided: factories that hold a part of what there is, what is minted through them, and how it is taken back.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use nvme_policy::{
    Access, Ceiling, DeviceName, Extent, FactoryRequest, Grant, Identity, PartitionIdentity, Policy, Refusal,
    SessionRequest, Shown, Tag, Why,
};

use super::super::device::{Bound, Device, Disk};
use super::super::error::CreateError;
use super::home::Home;
use super::tree::{FACTORIES_MAX, FACTORY_DEPTH_MAX, Factory, FactoryId, Holding};
use super::{Catalogue, Minted, SessionId};

/// A device that a factory holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldDevice {
    /// The name that it has now, or the one that it was asked for by while it is not there.
    pub name: String,
    /// Where it is; `None` while it is not there.
    pub extent: Option<Extent>,
    /// What may be done there at most.
    pub access: Access,
}

/// One factory, as it may be shown to whoever holds it.
#[derive(Clone, Copy, Debug)]
pub struct FactoryView<'a> {
    catalogue: &'a Catalogue,
    factory: &'a Factory,
}

impl<'a> FactoryView<'a> {
    /// Which one it is.
    pub fn id(&self) -> FactoryId {
        self.factory.id
    }

    /// Which one made it.
    pub fn parent(&self) -> FactoryId {
        self.factory.parent
    }

    /// What it may give at most.
    pub fn ceiling(&self) -> &'a Ceiling {
        &self.factory.ceiling
    }

    /// What listings call it.
    pub fn tag(&self) -> Option<&'a Tag> {
        self.factory.tag.as_ref()
    }

    /// Whether it was taken back, and goes when everything below it has gone.
    pub fn is_ended(&self) -> bool {
        self.factory.ended
    }

    /// What it holds, in the order in which it was asked for.
    pub fn devices(&self) -> impl Iterator<Item = HeldDevice> + use<'a> {
        let Self { catalogue, factory } = *self;
        factory.holdings.iter().map(move |holding| {
            let device = catalogue.device_held(holding);
            let asked = || alloc::format!("{}", holding.name);
            HeldDevice {
                name: device.map_or_else(asked, |d| catalogue.disks.own_name(&d)),
                extent: device.map(|d| d.extent()),
                access: holding.access,
            }
        })
    }

    /// What it was never bound to, and why not. Only a factory that was made at the start has such.
    pub fn unbound(&self) -> impl Iterator<Item = (&'a DeviceName, CreateError)> + use<'a> {
        let Self { catalogue, factory } = *self;
        factory.holdings.iter().filter(|holding| holding.home.is_none()).filter_map(|holding| {
            let why = catalogue.resolve_at(factory.parent, &holding.name).err()?;
            Some((&holding.name, why))
        })
    }

    /// How many sessions there are below it.
    pub fn sessions(&self) -> usize {
        self.catalogue.sessions_below(self.factory.id)
    }
}

impl Catalogue {
    /// Mints a session for whoever asks a factory for one: at most what the factory holds.
    pub fn create_at(&mut self, factory: FactoryId, asked: &SessionRequest) -> Result<Minted, CreateError> {
        if !self.scanned {
            return Err(CreateError::Scanning);
        }
        let policy = self.ceiling(factory)?.admit(asked).map_err(refused)?;
        self.has_room(factory)?;
        let (device, held) = self.resolve_at(factory, policy.device())?;
        let (extent, whole) = (device.extent(), device.part.is_none());
        self.may(&device, policy.access(), None)?;
        let Some(grant) = held.narrow(extent, policy.access()) else {
            return Err(refused(Refusal { word: None, why: Why::FactoryReadOnly }));
        };
        let minted = self.draw_up(&device, grant, policy, factory, false)?;
        self.enter(&minted, whole, None);
        Ok(minted)
    }

    /// Makes a factory that holds a part of what another one holds.
    pub fn delegate(&mut self, parent: FactoryId, asked: &FactoryRequest) -> Result<FactoryId, CreateError> {
        if !self.scanned {
            return Err(CreateError::Scanning);
        }
        self.make(parent, asked, false)
    }

    /// Makes a factory for the operator. A device that is not there, or not scanned yet, is bound when it first appears; see
    /// [`FactoryView::devices`].
    pub fn delegate_at_start(&mut self, asked: &FactoryRequest) -> Result<FactoryId, CreateError> {
        self.make(FactoryId::SERVER, asked, true)
    }

    fn make(
        &mut self,
        parent: FactoryId,
        asked: &FactoryRequest,
        may_wait: bool,
    ) -> Result<FactoryId, CreateError> {
        let ceiling = self.ceiling(parent)?.below(asked).map_err(refused)?;
        let depth = self.tree.get(parent).map_or(0, |f| f.depth) + 1;
        if depth > FACTORY_DEPTH_MAX {
            return Err(CreateError::TooDeep { allowed: FACTORY_DEPTH_MAX });
        }
        if self.tree.len() >= FACTORIES_MAX {
            return Err(CreateError::NoRoomForFactory { allowed: FACTORIES_MAX });
        }
        for above in self.tree.upwards(parent) {
            let below =
                self.tree.iter().filter(|f| f.id != above.id && self.tree.is_below(f.id, above.id)).count();
            if below as u64 >= above.ceiling.factories() {
                return Err(used_up("factories", above.id, parent, above.ceiling.factories()));
            }
        }
        let mut holdings: Vec<Holding> = Vec::new();
        for name in asked.devices() {
            let holding = match self.resolve_at(parent, name) {
                Ok((device, held)) => bound(name, &device, &held, ceiling.access()),
                Err(CreateError::NoDevice(_) | CreateError::Scanning) if may_wait => {
                    Holding::absent(name.clone(), ceiling.access())
                }
                Err(why) => return Err(why),
            };
            let same = |h: &Holding| {
                h.grant.is_some() && extent_of(h) == extent_of(&holding) && h.is_whole() == holding.is_whole()
            };
            if holdings.iter().any(same) {
                let word = Shown::new(alloc::format!("{name}").as_bytes());
                return Err(refused(Refusal { word: Some(word), why: Why::Repeated }));
            }
            holdings.push(holding);
        }
        Ok(self.tree.add(parent, ceiling, asked.tag().cloned(), holdings))
    }

    /// Takes a factory back: nothing more is minted through it, or through what it made. The sessions that are to be ended. It is
    /// gone when they have ended: [`take_ended_factories`](Self::take_ended_factories).
    pub fn end_factory(&mut self, id: FactoryId) -> Vec<SessionId> {
        if id == FactoryId::SERVER {
            return Vec::new();
        }
        self.tree.end(id);
        let below = |factory: FactoryId| self.tree.is_below(factory, id);
        self.live.iter().filter(|l| below(l.factory)).map(|l| l.id).collect()
    }

    /// The factories that were taken back and of which nothing is left any more; parents after children. Each is named once.
    pub fn take_ended_factories(&mut self) -> Vec<FactoryId> {
        let live = &self.live;
        self.tree.take_ended(|id| live.iter().any(|l| l.factory == id))
    }

    /// The factories but the server's own, makers before what they made.
    pub fn factories(&self) -> impl Iterator<Item = FactoryView<'_>> {
        self.tree.iter().map(|factory| FactoryView { catalogue: self, factory })
    }

    /// One of them.
    pub fn factory(&self, id: FactoryId) -> Option<FactoryView<'_>> {
        self.tree.get(id).map(|factory| FactoryView { catalogue: self, factory })
    }

    /// The sessions that have a part of what that name means there.
    pub fn in_the_way(&self, at: FactoryId, name: &DeviceName) -> Vec<SessionId> {
        let Ok((device, _)) = self.resolve_at(at, name) else { return Vec::new() };
        self.holders(&device.extent()).filter_map(|holder| holder.session).collect()
    }

    /// Whether a factory is `above`, or stands below it.
    pub fn is_below(&self, id: FactoryId, above: FactoryId) -> bool {
        self.tree.is_below(id, above)
    }

    /// The factory right below the server's own through which it is held: whose time, and whose share of room, it is.
    pub fn top_of(&self, id: FactoryId) -> FactoryId {
        self.tree.top(id)
    }

    /// What that factory may give at most, and all those above it, from itself upwards.
    pub fn ceilings(&self, id: FactoryId) -> impl Iterator<Item = (FactoryId, &Ceiling)> {
        self.tree.upwards(id).map(|f| (f.id, &f.ceiling))
    }

    pub(super) fn ceiling(&self, id: FactoryId) -> Result<Ceiling, CreateError> {
        if id == FactoryId::SERVER {
            return Ok(Ceiling::SERVER);
        }
        self.tree.get(id).filter(|f| !f.ended).map(|f| f.ceiling).ok_or(CreateError::FactoryEnded)
    }

    fn sessions_below(&self, id: FactoryId) -> usize {
        self.live.iter().filter(|l| l.reservation.is_none() && self.tree.is_below(l.factory, id)).count()
    }

    /// How many sessions each factory has below it, but those of static clients. The server's own: those that it minted itself.
    fn counted(&self) -> BTreeMap<FactoryId, u64> {
        let mut counted = BTreeMap::new();
        for live in self.live.iter().filter(|l| l.reservation.is_none()) {
            let own = Some(live.factory).filter(|factory| *factory == FactoryId::SERVER);
            for above in self.tree.upwards(live.factory).map(|f| f.id).chain(own) {
                *counted.entry(above).or_default() += 1;
            }
        }
        counted
    }

    /// Whether there is room for one that was minted already, by another server: what is kept for others is not taken from who has it.
    pub(super) fn has_room_again(&self, factory: FactoryId) -> Result<(), CreateError> {
        self.is_allowed(factory, &self.counted())?;
        let allowed = self.config.sessions_max;
        let dynamic = self.live.iter().filter(|l| l.reservation.is_none()).count();
        let is_room = dynamic < allowed.saturating_sub(self.reserved.len());
        if is_room { Ok(()) } else { Err(CreateError::NoRoom { allowed }) }
    }

    /// Whether each factory above allows one session more.
    fn is_allowed(&self, factory: FactoryId, counted: &BTreeMap<FactoryId, u64>) -> Result<(), CreateError> {
        for above in self.tree.upwards(factory) {
            let Some(allowed) = above.ceiling.sessions() else { continue };
            if counted.get(&above.id).copied().unwrap_or(0) >= allowed {
                return Err(used_up("sessions", above.id, factory, allowed));
            }
        }
        Ok(())
    }

    /// Whether one session more may be minted there: neither over what a factory above it allows, nor out of the share that is kept for
    /// each other one right below the server's own, and for the server's own. Its own share a factory has as long as there is room at all,
    /// though others had taken more before it was made.
    pub(super) fn has_room(&self, factory: FactoryId) -> Result<(), CreateError> {
        let counted = self.counted();
        self.is_allowed(factory, &counted)?;
        let used = |at: FactoryId| counted.get(&at).copied().unwrap_or(0);
        let room = self.config.sessions_max.saturating_sub(self.reserved.len()) as u64;
        let mut tops: Vec<(FactoryId, u64)> = alloc::vec![(FactoryId::SERVER, u64::MAX)];
        let made = self.tree.iter().filter(|f| f.parent == FactoryId::SERVER && !f.ended);
        tops.extend(made.map(|f| (f.id, f.ceiling.sessions().unwrap_or(u64::MAX))));
        let share = room / (2 * tops.len() as u64);
        let own = self.tree.top(factory);
        let kept = tops.iter().filter(|(top, _)| *top != own);
        let kept = kept.map(|(top, most)| share.min(*most).saturating_sub(used(*top)));
        let kept = if used(own) < share { 0 } else { kept.sum() };
        let tops = self.tree.iter().filter(|f| f.parent == FactoryId::SERVER).map(|f| used(f.id));
        let taken = tops.sum::<u64>() + used(FactoryId::SERVER);
        if taken + kept >= room {
            Err(CreateError::NoRoom { allowed: self.config.sessions_max })
        } else {
            Ok(())
        }
    }

    /// The one device of that name among what a factory holds, and what it is held by.
    fn resolve_at(&self, id: FactoryId, name: &DeviceName) -> Result<(Device<'_>, Grant), CreateError> {
        let Some(factory) = self.tree.get(id) else {
            let device = self.resolve(name)?;
            return Ok((device, server_grant(device.disk)));
        };
        let mut found: Vec<(Device<'_>, Grant)> = Vec::new();
        for holding in &factory.holdings {
            let (Some(own), Some(grant)) = (self.device_held(holding), &holding.grant) else { continue };
            let devices = holding.is_whole().then(|| own.disk.devices()).into_iter().flatten();
            let parts = devices.filter(|d| d.part.is_some());
            for device in core::iter::once(own).chain(parts) {
                let asked_for = device.part.is_some() == own.part.is_some() && holding.name == *name;
                let known = found
                    .iter()
                    .any(|(d, _)| d.extent() == device.extent() && d.part.is_some() == device.part.is_some());
                if (asked_for || device.answers_to(name)) && !known {
                    found.push((device, grant.clone()));
                }
            }
        }
        if found.len() > 1 {
            let candidates = found.iter().map(|(d, _)| self.disks.own_name(d)).collect();
            return Err(CreateError::Ambiguous { name: Box::new(name.clone()), candidates });
        }
        match found.pop() {
            Some((device, _)) if device.disk.stale => Err(CreateError::Scanning),
            Some(found) => Ok(found),
            None => Err(self.not_had(factory, name)),
        }
    }

    /// Why nothing that a factory holds has that name. Of what it does not hold, nothing is said.
    fn not_had(&self, factory: &Factory, name: &DeviceName) -> CreateError {
        let stale = |h: &Holding| self.device_held(h).is_some_and(|d| d.disk.stale);
        if factory.holdings.iter().any(stale) {
            return CreateError::Scanning;
        }
        let absent = |h: &&Holding| h.grant.is_none();
        if factory.holdings.iter().filter(absent).any(|h| h.name == *name || was_called(h, name)) {
            return CreateError::NoDevice(Box::new(name.clone()));
        }
        CreateError::NotHeld
    }

    /// What a factory holds there, while it is there.
    fn device_held<'a>(&'a self, holding: &'a Holding) -> Option<Device<'a>> {
        let disk = self.disks.get(holding.grant.as_ref()?.extent().namespace())?;
        Some(Device { disk, part: holding.part.as_ref() })
    }

    /// Finds again what factories hold: it may be gone, or back, by another controller or with another size.
    pub(super) fn bind_holdings(&mut self) {
        for index in 0..self.tree.len() {
            let count = self.tree.at(index).map_or(0, |f| f.holdings.len());
            for at in 0..count {
                let Some(factory) = self.tree.at(index) else { continue };
                let Some(holding) = factory.holdings.get(at) else { continue };
                let parent = factory.parent;
                let found = match &holding.home {
                    Some(home) => self.found_again(parent, holding, home),
                    // It is the operator's, and appears for the first time.
                    None if self.scanned => self
                        .resolve_at(parent, &holding.name)
                        .ok()
                        .map(|(device, held)| bound(&holding.name, &device, &held, holding.access)),
                    None => None,
                };
                let Some(holding) = self.tree.at_mut(index).and_then(|f| f.holdings.get_mut(at)) else {
                    continue;
                };
                match found {
                    Some(found) => *holding = found,
                    None => holding.grant = None,
                }
            }
        }
    }

    /// A holding where its device is now, within what its maker holds now.
    fn found_again(&self, parent: FactoryId, holding: &Holding, home: &Home) -> Option<Holding> {
        let disk = self.disks.iter().find(|d| home.is_on(&d.entry))?;
        let whole = *disk.entry.extent();
        let extent = match home.part {
            None => whole,
            Some(_) if holding.block_size != Some(whole.block_size()) => return None,
            Some((first, blocks)) => whole.part(first, blocks)?,
        };
        let grant = self.holds(parent, disk, &extent, holding.access)?;
        let part = holding.part.as_ref().map(|part| {
            let mut part = part.clone();
            part.partition.extent = extent;
            // Who may write there may have become fewer, and never more.
            let now = disk.table.iter().find(|p| p.extent == extent).and_then(|p| p.read_only);
            part.partition.read_only = part.partition.read_only.or(now);
            part
        });
        let Holding { name, access, home, block_size, .. } = holding;
        Some(Holding {
            name: name.clone(),
            access: *access,
            home: home.clone(),
            block_size: *block_size,
            part,
            grant: Some(grant),
        })
    }

    /// What a factory holds of a place, for that access.
    pub(super) fn holds(&self, id: FactoryId, disk: &Disk, extent: &Extent, access: Access) -> Option<Grant> {
        match self.tree.get(id) {
            None => server_grant(disk).narrow(*extent, access),
            Some(factory) => factory.holdings.iter().find_map(|h| h.grant.as_ref()?.narrow(*extent, access)),
        }
    }

    /// What a session is told of itself.
    pub(super) fn draw_up(
        &self,
        device: &Device<'_>,
        grant: Grant,
        policy: Policy,
        factory: FactoryId,
        fixed: bool,
    ) -> Result<Minted, CreateError> {
        // The table may say so only since it was reserved.
        self.writable(device, grant.access(), fixed)?;
        Ok(Minted {
            session: SessionId(self.next),
            grant,
            policy,
            factory,
            limits: *device.disk.entry.limits(),
            id: device.id(),
            device: self.disks.own_name(device),
            disk_identity: device.disk.entry.disk_identity().clone(),
        })
    }
}

/// What the server itself holds of a disk: all of it.
#[expect(clippy::disallowed_methods, reason = "the server's own factory holds whatever there is")]
pub(super) fn server_grant(disk: &Disk) -> Grant {
    Grant::new(*disk.entry.extent(), Access::ReadWrite)
}

fn extent_of(holding: &Holding) -> Option<Extent> {
    holding.grant.as_ref().map(|grant| *grant.extent())
}

/// A holding of what a name was resolved to. What can only be read then is held for reading.
fn bound(name: &DeviceName, device: &Device<'_>, held: &Grant, access: Access) -> Holding {
    let extent = device.extent();
    let access = if device.read_only().is_some() { Access::ReadOnly } else { access };
    let grant = held.narrow(extent, access).or_else(|| held.narrow(extent, Access::ReadOnly));
    Holding {
        name: name.clone(),
        access: grant.as_ref().map_or(access, Grant::access),
        home: Some(Home::of(device)),
        block_size: Some(extent.block_size()),
        part: device.part.map(|part| Bound { id_taken: false, label_taken: false, ..part.clone() }),
        grant,
    }
}

/// Whether a device that is not there any more went by that name.
fn was_called(holding: &Holding, name: &DeviceName) -> bool {
    let Some(home) = &holding.home else { return false };
    let partition = holding.part.as_ref().map(|part| PartitionIdentity {
        number: part.partition.number,
        id: part.partition.id,
        label: part.partition.label.as_str(),
    });
    name.matches(&Identity { serial: &home.serial, place: home.place, nsid: home.nsid, partition })
}

/// What `above` allows is there already; whoever holds another factory is not told how much that is.
fn used_up(what: &'static str, above: FactoryId, asked: FactoryId, allowed: u64) -> CreateError {
    CreateError::UsedUp { what, above, allowed: Some(allowed).filter(|_| above == asked) }
}

fn refused(refusal: Refusal) -> CreateError {
    CreateError::Words(Box::new(refusal))
}
