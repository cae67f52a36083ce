//! What a change of a session's memory comes to: the rule book, in one place. Nothing here changes anything.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;

use nvme_policy::Dataspaces;

use super::plan::{MemoryChange, NewRegion, Plan};
use super::registry::{Entry, Registry, State, count_files};
use super::{Claim, File, FileId, RegistryConfig, RegistryError};
use crate::memory::REGIONS_MAX;

impl RegistryConfig {
    /// Whether memory of that kind may be registered at all. For a home that must know before it looks at a dataspace any further;
    /// [`Registry::plan`] asks the same.
    pub fn admits(&self, memory: bool, trusted: Dataspaces) -> Result<(), RegistryError> {
        let is_trusted = trusted != Dataspaces::NONE;
        if self.trusted_only && !is_trusted {
            return Err(RegistryError::NotTrusted);
        }
        if !self.dataspaces.admits_any(trusted) {
            return Err(RegistryError::NotNamed);
        }
        if !memory && !is_trusted {
            return Err(RegistryError::NotMemory);
        }
        Ok(())
    }
}

impl Registry {
    /// What a change comes to, or which rule it breaks. `room`: how many regions there may be, those that are leaving included, if that
    /// is fewer than there are slots.
    ///
    /// Until what a whole table takes away is drained, the old and the new are mapped, so twice the memory budget at most.
    pub fn plan(&self, change: &MemoryChange, room: usize) -> Result<Plan, RegistryError> {
        match change {
            MemoryChange::Add(claim, file) => {
                if let Some(entry) = self.entries.iter().find(|e| e.is(claim, file)) {
                    self.check(claim, file)?;
                    return match entry.state {
                        State::Mapping => Err(RegistryError::Busy),
                        _ => self.with(Vec::new(), &[], room),
                    };
                }
                let staying = self.entries.iter().filter(|e| e.stays()).map(|e| (e.claim, e.file));
                let table: Vec<_> = staying.chain([(*claim, file.id)]).collect();
                bounded(table.len())?;
                self.check(claim, file)?;
                self.judge(&table)?;
                self.with(Vec::new(), &[(0, *claim, *file)], room)
            }
            MemoryChange::Remove(guest, user, len) => {
                let key = (*guest, *user, *len);
                let same = |e: &&Entry| e.stays() && (e.claim.guest, e.claim.user, e.claim.len) == key;
                let entry = self.entries.iter().find(same).ok_or(RegistryError::NotRegistered)?;
                if matches!(entry.state, State::Mapping) {
                    return Err(RegistryError::Busy);
                }
                self.with(alloc::vec![entry.slot], &[], room)
            }
            MemoryChange::Replace(wanted) => self.replace(wanted, room),
        }
    }

    fn replace(&self, wanted: &[(Claim, File)], room: usize) -> Result<Plan, RegistryError> {
        if self.entries.iter().any(|e| matches!(e.state, State::Mapping)) {
            return Err(RegistryError::Busy);
        }
        bounded(wanted.len())?;
        for (claim, file) in wanted {
            self.check(claim, file)?;
        }
        let table: Vec<_> = wanted.iter().map(|(claim, file)| (*claim, file.id)).collect();
        self.judge(&table)?;
        let goes = |e: &&Entry| e.stays() && !wanted.iter().any(|(claim, file)| e.is(claim, file));
        let removed = self.entries.iter().filter(goes).map(|e| e.slot).collect();
        let comes =
            |(_, (claim, file)): &(usize, &(Claim, File))| !self.entries.iter().any(|e| e.is(claim, file));
        let new: Vec<_> =
            wanted.iter().enumerate().filter(comes).map(|(i, (claim, file))| (i, *claim, *file)).collect();
        self.with(removed, &new, room)
    }

    /// The plan, when there are room and slots for what is new.
    fn with(
        &self,
        removed: Vec<u16>,
        new: &[(usize, Claim, File)],
        room: usize,
    ) -> Result<Plan, RegistryError> {
        self.has_room(new.len(), room)?;
        let slots: Vec<u16> = self.free_slots().take(new.len()).collect();
        if slots.len() < new.len() {
            return Err(RegistryError::TooManyRegions);
        }
        let region = |(slot, (index, claim, file)): (u16, &(usize, Claim, File))| NewRegion {
            slot,
            index: *index,
            claim: *claim,
            file: file.id,
            writable: file.writable,
        };
        let new = slots.into_iter().zip(new).map(region).collect();
        Ok(Plan { revision: self.revision, new, removed })
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
        self.config.admits(file.memory, file.trusted)
    }

    /// What the regions of a whole table have to keep together; each was checked by itself.
    fn judge(&self, table: &[(Claim, FileId)]) -> Result<(), RegistryError> {
        for start in [|c: &Claim| c.guest, |c: &Claim| c.user] {
            let sorted: BinaryHeap<_> = table.iter().map(|(c, _)| (start(c), c.len)).collect();
            let sorted = sorted.into_sorted_vec();
            if !sorted.is_sorted_by(|a, b| a.0 + a.1 <= b.0) {
                return Err(RegistryError::Overlaps);
            }
        }
        let asked = count_files(table.iter().map(|(_, file)| *file).collect());
        let allowed = usize::from(self.config.ds_max.get());
        if asked > allowed {
            return Err(RegistryError::TooManyDataspaces { asked, allowed });
        }
        // What is leaving counts until it is gone, or else a client that adds and removes could hold any amount. What
        // this very change removes does not: a client may replace all it has.
        let leaving = self.entries.iter().filter(|e| !e.stays()).map(|e| e.claim.len);
        let asked = leaving.chain(table.iter().map(|(c, _)| c.len)).fold(self.reserved, u64::saturating_add);
        let allowed = self.config.memory_max;
        if asked > allowed {
            return Err(RegistryError::TooMuchMemory { asked, allowed });
        }
        Ok(())
    }
}

/// Before anything else: how much there is to look at.
fn bounded(regions: usize) -> Result<(), RegistryError> {
    if regions > REGIONS_MAX { Err(RegistryError::TooManyRegions) } else { Ok(()) }
}
