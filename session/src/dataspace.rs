//! The control side of a session's memory: what is registered, and what may be.
//!
//! A *dataspace* is one memory file; a region is a part of one that the client wants to be reached at a guest address.
//! Registering takes two steps, because mapping takes time: [`Registry::begin`] checks a claim and sets a slot
//! aside, [`Registry::mapped`] makes the region part of the next [`table`](Registry::table), or
//! [`Registry::abandon`] gives up. Removing takes two as well: [`Registry::remove`] takes the region out of the table,
//! and [`Registry::drained`], when no queue holds anything of it any more, hands back what is to be unmapped.
//! [`Registry::replace`] does both for a whole table at once.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use nvme_platform::{Iova, Window};
use nvme_policy::DsMax;

use crate::memory::{MemoryTable, REGIONS_MAX, Region, SLOTS_MAX};

/// The identity of a memory file: device and inode, or whatever tells one dataspace from another in this home.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(
    /// The device, or the kind of object.
    pub u64,
    /// The inode, or the object.
    pub u64,
);

/// What the home found out about a memory file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File {
    /// Which file it is.
    pub id: FileId,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it can be written to.
    pub writable: bool,
    /// Whether it is memory and nothing else (tmpfs, memfd, hugetlbfs): no page fault waits for somebody.
    pub memory: bool,
    /// Whether it is one of the trusted dataspaces.
    pub trusted: bool,
}

/// A region as the client describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Guest-physical address.
    pub guest: u64,
    /// Address in the client's own process; where there is no such thing, the same as `guest`.
    pub user: u64,
    /// Length in bytes.
    pub len: u64,
    /// Where it starts in the file, in bytes.
    pub offset: u64,
}

/// Why memory is not registered, or not removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegistryError {
    /// It has no byte.
    Empty,
    /// Its end wraps.
    Wraps,
    /// It reaches over the end of its file.
    OutsideFile,
    /// It overlaps another region, in the guest's or in the client's addresses; or it is registered already.
    Overlaps,
    /// There are [`REGIONS_MAX`] regions already (or as many as that which are still being removed).
    TooManyRegions,
    /// The home has no room for one more.
    NoRoom,
    /// It would be one dataspace more than `ds-max`.
    TooManyDataspaces,
    /// It would be more memory than a session may register.
    TooMuchMemory,
    /// Its file is none of the trusted dataspaces.
    NotTrusted,
    /// Its file is not memory.
    NotMemory,
    /// No such region is registered.
    NotRegistered,
    /// The region, or another, is being mapped.
    Busy,
    /// What was mapped is not what was claimed.
    BadMapping,
}

impl RegistryError {
    /// The error number that goes with it, positive.
    pub fn errno(self) -> i32 {
        match self {
            Self::TooManyRegions | Self::NoRoom | Self::TooManyDataspaces | Self::TooMuchMemory => 12,
            Self::Busy => 16,
            Self::Empty
            | Self::Wraps
            | Self::OutsideFile
            | Self::Overlaps
            | Self::NotTrusted
            | Self::NotMemory
            | Self::NotRegistered
            | Self::BadMapping => 22,
        }
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the region is empty",
            Self::Wraps => "the region's end wraps",
            Self::OutsideFile => "the region reaches over the end of its file",
            Self::Overlaps => "the region overlaps another",
            Self::TooManyRegions => "too many regions (512 at most)",
            Self::NoRoom => {
                "the session has its share of the regions that the server can map (see vm.max_map_count)"
            }
            Self::TooManyDataspaces => "too many dataspaces; raise ds-max",
            Self::TooMuchMemory => "too much memory; raise --mem-max",
            Self::NotTrusted => "the dataspace is none of the trusted ones (--register-ds)",
            Self::NotMemory => "the file is not memory (tmpfs, memfd or hugetlbfs) and not trusted",
            Self::NotRegistered => "no such region is registered",
            Self::Busy => "a region is still being mapped",
            Self::BadMapping => "the mapping is not what was claimed",
        })
    }
}

impl core::error::Error for RegistryError {}

/// What a session may register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegistryConfig {
    /// How many dataspaces.
    pub ds_max: DsMax,
    /// How many bytes in all.
    pub memory_max: u64,
    /// Whether only trusted ones.
    pub trusted_only: bool,
}

#[derive(Debug)]
enum State {
    /// Set aside; it is being mapped.
    Mapping,
    /// In the table.
    Live(Window, Iova),
    /// Not in the table any more; requests may still use it.
    Leaving(Window, Iova),
}

#[derive(Debug)]
struct Entry {
    slot: u16,
    claim: Claim,
    file: FileId,
    writable: bool,
    state: State,
}

impl Entry {
    fn stays(&self) -> bool {
        !matches!(self.state, State::Leaving(..))
    }
}

/// What is to be unmapped. The window is the last one of the registry's.
#[derive(Debug)]
pub struct Removed {
    /// Its slot, which is free now.
    pub slot: u16,
    /// Our view.
    pub window: Window,
    /// The controller's view, `window.len()` bytes.
    pub iova: Iova,
}

/// What turns the registered regions into the wanted ones.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// To map: the slot, and which of the wanted regions it is.
    pub map: Vec<(u16, usize)>,
    /// Out of the table now; to be unmapped when drained.
    pub removed: Vec<u16>,
}

/// The regions of one session.
#[derive(Debug)]
pub struct Registry {
    config: RegistryConfig,
    entries: Vec<Entry>,
    room: usize,
}

impl Registry {
    /// Nothing is registered.
    pub fn new(config: RegistryConfig) -> Self {
        Self { config, entries: Vec::new(), room: usize::MAX }
    }

    /// How many regions there may be from now on, those that are leaving included, if that is fewer than there are slots.
    pub fn set_room(&mut self, regions: usize) {
        self.room = regions;
    }

    /// Checks a claim and sets a slot aside for it. The caller maps it and says [`mapped`](Self::mapped), or
    /// [`abandon`](Self::abandon).
    pub fn begin(&mut self, claim: Claim, file: File) -> Result<u16, RegistryError> {
        self.check(&claim, &file)?;
        let staying = self.entries.iter().filter(|e| e.stays());
        if staying.clone().any(|e| overlap(&e.claim, &claim)) {
            return Err(RegistryError::Overlaps);
        }
        if staying.clone().count() >= REGIONS_MAX {
            return Err(RegistryError::TooManyRegions);
        }
        if self.entries.len() >= self.room {
            return Err(RegistryError::NoRoom);
        }
        let files = count_files(staying.map(|e| e.file).chain([file.id]).collect());
        if files > usize::from(self.config.ds_max.get()) {
            return Err(RegistryError::TooManyDataspaces);
        }
        // What is leaving counts until it is gone, or else a client that adds and removes could hold any amount.
        if self.bytes().saturating_add(claim.len) > self.config.memory_max {
            return Err(RegistryError::TooMuchMemory);
        }
        let slot = self.free_slots().next().ok_or(RegistryError::TooManyRegions)?;
        self.entries.push(entry(slot, claim, &file));
        Ok(slot)
    }

    /// The region of that slot is mapped: `window` is our view, `iova` the controller's. It is in the next table.
    pub fn mapped(&mut self, slot: u16, window: Window, iova: Iova) -> Result<(), RegistryError> {
        let entry = self.entries.iter_mut().find(|e| e.slot == slot).ok_or(RegistryError::NotRegistered)?;
        if !matches!(entry.state, State::Mapping) {
            return Err(RegistryError::Busy);
        }
        if window.len() as u64 != entry.claim.len || iova.0.checked_add(entry.claim.len).is_none() {
            return Err(RegistryError::BadMapping);
        }
        entry.state = State::Live(window, iova);
        Ok(())
    }

    /// The region of that slot could not be mapped: it is forgotten.
    pub fn abandon(&mut self, slot: u16) {
        self.entries.retain(|e| e.slot != slot || !matches!(e.state, State::Mapping));
    }

    /// Takes a region out of the table: exactly as it was registered, its file offset aside. Answers the slot,
    /// which is to be drained.
    pub fn remove(&mut self, guest: u64, user: u64, len: u64) -> Result<u16, RegistryError> {
        let same =
            |e: &&mut Entry| e.stays() && (e.claim.guest, e.claim.user, e.claim.len) == (guest, user, len);
        let entry = self.entries.iter_mut().find(same).ok_or(RegistryError::NotRegistered)?;
        leave(entry)?;
        Ok(entry.slot)
    }

    /// Takes the region of that slot out of the table again; the slot is to be drained.
    pub fn withdraw(&mut self, slot: u16) -> Result<(), RegistryError> {
        let entry = self.entries.iter_mut().find(|e| e.slot == slot).ok_or(RegistryError::NotRegistered)?;
        leave(entry)
    }

    /// Takes everything out of the table: the slots, which are to be drained. What is being mapped is left alone.
    pub fn remove_all(&mut self) -> Vec<u16> {
        self.entries.iter_mut().filter(|e| e.stays()).filter_map(|e| leave(e).ok().map(|()| e.slot)).collect()
    }

    /// Makes the wanted regions the only ones: what is unchanged keeps its slot and its mapping. All of it happens, or
    /// nothing. The table is the wanted one when everything in the plan is mapped. Until what was removed is drained, the
    /// old and the new are mapped, so twice the memory budget at most.
    pub fn replace(&mut self, wanted: &[(Claim, File)]) -> Result<Plan, RegistryError> {
        if self.entries.iter().any(|e| matches!(e.state, State::Mapping)) {
            return Err(RegistryError::Busy);
        }
        if wanted.len() > REGIONS_MAX {
            return Err(RegistryError::TooManyRegions);
        }
        for (claim, file) in wanted {
            self.check(claim, file)?;
        }
        for start in [|c: &Claim| c.guest, |c: &Claim| c.user] {
            let mut sorted: Vec<_> = wanted.iter().map(|(c, _)| (start(c), c.len)).collect();
            sorted.sort_unstable();
            if !sorted.is_sorted_by(|a, b| a.0 + a.1 <= b.0) {
                return Err(RegistryError::Overlaps);
            }
        }
        if count_files(wanted.iter().map(|(_, f)| f.id).collect()) > usize::from(self.config.ds_max.get()) {
            return Err(RegistryError::TooManyDataspaces);
        }
        let same = |e: &Entry, (claim, file): &(Claim, File)| {
            e.stays() && e.claim == *claim && e.file == file.id && e.writable == file.writable
        };
        // What this very call removes does not count: a client may replace all it has.
        let leaving = self.entries.iter().filter(|e| !e.stays()).map(|e| e.claim.len);
        let bytes = leaving.chain(wanted.iter().map(|(c, _)| c.len)).fold(0, u64::saturating_add);
        if bytes > self.config.memory_max {
            return Err(RegistryError::TooMuchMemory);
        }
        let new: Vec<usize> = (0..wanted.len())
            .filter(|i| wanted.get(*i).is_some_and(|w| !self.entries.iter().any(|e| same(e, w))))
            .collect();
        // While the old are unmapped, the new are mapped already.
        if !new.is_empty() && self.entries.len().saturating_add(new.len()) > self.room {
            return Err(RegistryError::NoRoom);
        }
        let slots: Vec<u16> = self.free_slots().take(new.len()).collect();
        if slots.len() < new.len() {
            return Err(RegistryError::TooManyRegions);
        }
        let mut plan = Plan::default();
        for entry in &mut self.entries {
            if entry.stays() && !wanted.iter().any(|w| same(entry, w)) {
                leave(entry)?;
                plan.removed.push(entry.slot);
            }
        }
        for (slot, index) in slots.into_iter().zip(new) {
            if let Some((claim, file)) = wanted.get(index) {
                self.entries.push(entry(slot, *claim, file));
                plan.map.push((slot, index));
            }
        }
        Ok(plan)
    }

    /// No queue holds anything of that slot any more, and none looks it up: the slot is free. `None` when it is not
    /// one that was removed.
    pub fn drained(&mut self, slot: u16) -> Option<Removed> {
        let index = self.entries.iter().position(|e| e.slot == slot && !e.stays())?;
        match self.entries.swap_remove(index).state {
            State::Leaving(window, iova) => Some(Removed { slot, window, iova }),
            State::Mapping | State::Live(..) => None,
        }
    }

    /// How many regions there are, those that are being mapped or leaving included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the memory of a region in the table vanished.
    pub fn any_failed(&self) -> bool {
        self.entries.iter().any(|e| matches!(&e.state, State::Live(window, _) if window.failed()))
    }

    /// The table of what is registered and mapped now.
    pub fn table(&self) -> Arc<MemoryTable> {
        let regions = self.entries.iter().filter_map(|e| match &e.state {
            State::Live(window, iova) => Some(Region {
                guest: e.claim.guest,
                user: e.claim.user,
                len: e.claim.len,
                slot: e.slot,
                window: window.clone(),
                iova: *iova,
                writable: e.writable,
            }),
            State::Mapping | State::Leaving(..) => None,
        });
        // All that a table refuses was refused before; if not, an empty table is the safe one.
        let table = MemoryTable::new(regions.collect());
        debug_assert!(table.is_ok(), "claims were checked");
        Arc::new(table.unwrap_or_default())
    }

    /// Whether nothing is registered, nor still leaving.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many regions are registered.
    pub fn regions(&self) -> usize {
        self.entries.iter().filter(|e| e.stays()).count()
    }

    /// How many dataspaces they lie in.
    pub fn dataspaces(&self) -> usize {
        count_files(self.entries.iter().filter(|e| e.stays()).map(|e| e.file).collect())
    }

    /// How many bytes are registered or still leaving.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|e| e.claim.len).fold(0, u64::saturating_add)
    }

    /// What does not depend on other regions.
    fn check(&self, claim: &Claim, file: &File) -> Result<(), RegistryError> {
        let Claim { guest, user, len, offset } = *claim;
        if len == 0 {
            return Err(RegistryError::Empty);
        }
        if [guest, user, offset].iter().any(|start| start.checked_add(len).is_none())
            || usize::try_from(len).is_err()
        {
            return Err(RegistryError::Wraps);
        }
        if offset + len > file.size {
            return Err(RegistryError::OutsideFile);
        }
        if self.config.trusted_only && !file.trusted {
            return Err(RegistryError::NotTrusted);
        }
        if !file.memory && !file.trusted {
            return Err(RegistryError::NotMemory);
        }
        Ok(())
    }

    fn free_slots(&self) -> impl Iterator<Item = u16> + use<> {
        let mut taken = [false; SLOTS_MAX];
        for entry in &self.entries {
            if let Some(t) = taken.get_mut(usize::from(entry.slot)) {
                *t = true;
            }
        }
        (0..).zip(taken).filter(|(_, taken)| !taken).map(|(slot, _)| slot)
    }
}

fn entry(slot: u16, claim: Claim, file: &File) -> Entry {
    Entry { slot, claim, file: file.id, writable: file.writable, state: State::Mapping }
}

fn leave(entry: &mut Entry) -> Result<(), RegistryError> {
    match &entry.state {
        State::Live(window, iova) => {
            entry.state = State::Leaving(window.clone(), *iova);
            Ok(())
        }
        State::Mapping => Err(RegistryError::Busy),
        State::Leaving(..) => Err(RegistryError::NotRegistered),
    }
}

/// Both were checked not to wrap.
fn overlap(a: &Claim, b: &Claim) -> bool {
    let meet = |x: u64, y: u64| x < y + b.len && y < x + a.len;
    meet(a.guest, b.guest) || meet(a.user, b.user)
}

fn count_files(mut files: Vec<FileId>) -> usize {
    files.sort_unstable();
    files.dedup();
    files.len()
}
