//! The regions of one session, and how far each is.

use alloc::collections::BinaryHeap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use nvme_platform::{Iova, Window};

use super::plan::{NewRegion, Plan};
use super::{Claim, File, FileId, RegistryConfig, RegistryError};
use crate::memory::{MemoryTable, Region, SLOTS_MAX};

#[derive(Debug)]
pub(super) enum State {
    /// Set aside; it is being mapped.
    Mapping,
    /// In the table.
    Live(Window, Iova),
    /// Not in the table any more; requests may still use it.
    Leaving(Window, Iova),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) slot: u16,
    pub(super) claim: Claim,
    pub(super) file: FileId,
    pub(super) writable: bool,
    pub(super) state: State,
}

impl Entry {
    pub(super) fn stays(&self) -> bool {
        !matches!(self.state, State::Leaving(..))
    }

    /// Whether it is that region, and stays.
    pub(super) fn is(&self, claim: &Claim, file: &File) -> bool {
        self.stays() && self.claim == *claim && self.file == file.id && self.writable == file.writable
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

/// The regions of one session.
#[derive(Debug)]
pub struct Registry {
    pub(super) config: RegistryConfig,
    pub(super) entries: Vec<Entry>,
    /// Bytes of the client's memory that are no regions, and count as they do.
    pub(super) reserved: u64,
    /// Counts what was changed: a plan fits what it was made for.
    pub(super) revision: u64,
}

impl Registry {
    /// Nothing is registered.
    pub fn new(config: RegistryConfig) -> Self {
        Self { config, entries: Vec::new(), reserved: 0, revision: 0 }
    }

    /// What may be registered.
    pub fn config(&self) -> &RegistryConfig {
        &self.config
    }

    /// Sets slots aside for what is new in a plan, and takes out of the table what goes; all of it, or nothing. The caller maps what is
    /// new, and says [`mapped`](Self::mapped) or [`abandon`](Self::abandon). `room` is that of [`plan`](Self::plan), which may be
    /// less by now.
    pub fn apply(&mut self, plan: &Plan, room: usize) -> Result<(), RegistryError> {
        if plan.revision != self.revision {
            return Err(RegistryError::Outdated);
        }
        self.has_room(plan.new.len(), room)?;
        for entry in self.entries.iter_mut().filter(|e| plan.removed.contains(&e.slot)) {
            // It was in the table when the plan was made, and nothing has changed.
            leave(entry)?;
        }
        let entry = |new: &NewRegion| {
            let NewRegion { slot, claim, file, writable, .. } = *new;
            Entry { slot, claim, file, writable, state: State::Mapping }
        };
        self.entries.extend(plan.new.iter().map(entry));
        self.revision += 1;
        Ok(())
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
        self.revision += 1;
        Ok(())
    }

    /// The region of that slot could not be mapped: it is forgotten.
    pub fn abandon(&mut self, slot: u16) {
        self.revision += 1;
        self.entries.retain(|e| e.slot != slot || !matches!(e.state, State::Mapping));
    }

    /// Takes the region of that slot out of the table again; the slot is to be drained.
    pub fn withdraw(&mut self, slot: u16) -> Result<(), RegistryError> {
        self.revision += 1;
        let entry = self.entries.iter_mut().find(|e| e.slot == slot).ok_or(RegistryError::NotRegistered)?;
        leave(entry)
    }

    /// Puts a region that was taken out of the table, and is not drained, back into it: the change that took it out came to nothing.
    pub fn restore(&mut self, slot: u16) -> Result<(), RegistryError> {
        self.revision += 1;
        let entry = self.entries.iter_mut().find(|e| e.slot == slot).ok_or(RegistryError::NotRegistered)?;
        match core::mem::replace(&mut entry.state, State::Mapping) {
            State::Leaving(window, iova) => entry.state = State::Live(window, iova),
            other => {
                entry.state = other;
                return Err(RegistryError::Busy);
            }
        }
        Ok(())
    }

    /// Takes everything out of the table: the slots, which are to be drained. What is being mapped is left alone.
    pub fn remove_all(&mut self) -> Vec<u16> {
        self.revision += 1;
        self.entries.iter_mut().filter(|e| e.stays()).filter_map(|e| leave(e).ok().map(|()| e.slot)).collect()
    }

    /// No queue holds anything of that slot any more, and none looks it up: the slot is free. `None` when it is not
    /// one that was removed.
    pub fn drained(&mut self, slot: u16) -> Option<Removed> {
        self.revision += 1;
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
        self.entries.iter().map(|e| e.claim.len).fold(self.reserved, u64::saturating_add)
    }

    /// The client has so many bytes of memory here that are no regions, in place of what it had before. They count as registered.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), RegistryError> {
        let asked = (self.bytes() - self.reserved).saturating_add(bytes);
        let allowed = self.config.memory_max;
        if bytes > 0 && asked > allowed {
            return Err(RegistryError::TooMuchMemory { asked, allowed });
        }
        self.reserved = bytes;
        Ok(())
    }

    /// How many bytes these are.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// How many bytes of that are in these slots.
    pub fn bytes_in(&self, slots: &[u16]) -> u64 {
        let in_them = self.entries.iter().filter(|e| slots.contains(&e.slot));
        in_them.map(|e| e.claim.len).fold(0, u64::saturating_add)
    }

    /// While the old are unmapped, the new are mapped already.
    pub(super) fn has_room(&self, new: usize, room: usize) -> Result<(), RegistryError> {
        let asked = self.entries.len().saturating_add(new);
        if new > 0 && asked > room {
            return Err(RegistryError::NoRoom { asked, allowed: room });
        }
        Ok(())
    }

    pub(super) fn free_slots(&self) -> impl Iterator<Item = u16> + use<> {
        let mut taken = [false; SLOTS_MAX];
        for entry in &self.entries {
            if let Some(t) = taken.get_mut(usize::from(entry.slot)) {
                *t = true;
            }
        }
        (0..).zip(taken).filter(|(_, taken)| !taken).map(|(slot, _)| slot)
    }
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

pub(super) fn count_files(files: Vec<FileId>) -> usize {
    let mut files = BinaryHeap::from(files).into_sorted_vec();
    files.dedup();
    files.len()
}
