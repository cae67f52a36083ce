//! What a change of a session's memory comes to: the rule book, in one place. Nothing here changes anything.

use alloc::vec::Vec;

use super::registry::{Entry, Registry, State};
use super::{Claim, File, FileId, RegistryConfig, RegistryError};
use crate::memory::REGIONS_MAX;

/// What a client wants to be changed.
#[derive(Clone, Debug)]
pub enum MemoryChange {
    /// One region more.
    Add(Claim, File),
    /// One region less, exactly as it was registered, its file offset aside: guest address, client address and length.
    Remove(u64, u64, u64),
    /// The whole table, as a difference: what is unchanged keeps its slot and its mapping.
    Replace(Vec<(Claim, File)>),
}

/// A region that a change brings. The home maps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewRegion {
    /// Its slot, once the plan is applied.
    pub slot: u16,
    /// Which of the wanted regions it is (0 for a single one).
    pub index: usize,
    /// What it is.
    pub claim: Claim,
    /// Which file it lies in.
    pub file: FileId,
    /// Whether it may be written to.
    pub writable: bool,
}

/// What turns the registered regions into the wanted ones. Having one tells you that every rule was asked and none
/// is broken, for what was registered when it was made; a [`Registry`] changes by nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub(super) revision: u64,
    pub(super) new: Vec<NewRegion>,
    pub(super) removed: Vec<u16>,
}

impl Plan {
    /// To be mapped, in the order in which they were asked for.
    pub fn new_regions(&self) -> &[NewRegion] {
        &self.new
    }

    /// The slots that go out of the table; to be unmapped when drained.
    pub fn removed(&self) -> &[u16] {
        &self.removed
    }
}

impl RegistryConfig {
    /// Whether memory of that kind may be registered at all. For a home that must know before it looks at a dataspace any further;
    /// [`Registry::plan`] asks the same.
    pub fn admits(&self, memory: bool, trusted: bool) -> Result<(), RegistryError> {
        if self.trusted_only && !trusted {
            return Err(RegistryError::NotTrusted);
        }
        if !memory && !trusted {
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
        let same = |e: &Entry, (claim, file): &(Claim, File)| {
            e.stays() && e.claim == *claim && e.file == file.id && e.writable == file.writable
        };
        let goes = |e: &&Entry| e.stays() && !wanted.iter().any(|w| same(e, w));
        let removed = self.entries.iter().filter(goes).map(|e| e.slot).collect();
        let comes = |(_, w): &(usize, &(Claim, File))| !self.entries.iter().any(|e| same(e, w));
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

    /// While the old are unmapped, the new are mapped already.
    pub(super) fn has_room(&self, new: usize, room: usize) -> Result<(), RegistryError> {
        let asked = self.entries.len().saturating_add(new);
        if new > 0 && asked > room {
            return Err(RegistryError::NoRoom { asked, allowed: room });
        }
        Ok(())
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
            let mut sorted: Vec<_> = table.iter().map(|(c, _)| (start(c), c.len)).collect();
            sorted.sort_unstable();
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
        let asked = leaving.chain(table.iter().map(|(c, _)| c.len)).fold(0, u64::saturating_add);
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

pub(super) fn count_files(mut files: Vec<FileId>) -> usize {
    files.sort_unstable();
    files.dedup();
    files.len()
}
