//! The map of bus addresses: reservations, and what is mapped in them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use nvme_platform::{DmaError, DmaRights, Iova, PAGE, Window};

use crate::map::{Mapping, Uses};

/// The first address given out. Not the address of anything else, so that a mix-up faults.
const FIRST: u64 = 0x51_0000_0000;
/// Where addresses end, and start again from [`FIRST`].
const END: u64 = 1 << 56;
/// What nobody gets, behind each reservation.
const GUARD: u64 = 16 * PAGE as u64;
/// Most mappings and most reservations.
const MAPPINGS_MAX: usize = 1 << 18;

#[derive(Default)]
pub(crate) struct Space {
    /// Start and length.
    reserved: BTreeMap<u64, u64>,
    mapped: BTreeMap<u64, (Mapping, Uses)>,
    /// Where to look next: an address comes back only after all others were given out.
    next: u64,
}

impl Space {
    pub(crate) fn reserve(&mut self, len: u64) -> Result<Iova, DmaError> {
        if len == 0 || !len.is_multiple_of(PAGE as u64) {
            return Err(DmaError::BadRange);
        }
        if self.reserved.len() >= MAPPINGS_MAX {
            return Err(DmaError::NoMemory);
        }
        let need = len.checked_add(GUARD).ok_or(DmaError::NoAddresses)?;
        let cursor = self.next.max(FIRST);
        let at = self
            .gap(cursor, END, need)
            .or_else(|| self.gap(FIRST, cursor, need))
            .ok_or(DmaError::NoAddresses)?;
        self.reserved.insert(at, len);
        self.next = at + need;
        Ok(Iova(at))
    }

    /// The first gap of `need` bytes between two addresses.
    fn gap(&self, from: u64, to: u64, need: u64) -> Option<u64> {
        let mut at = from;
        if let Some((start, len)) = self.reserved.range(..from).next_back() {
            at = at.max(start + len + GUARD);
        }
        for (start, len) in self.reserved.range(from..to) {
            if start.saturating_sub(at) >= need {
                break;
            }
            at = start + len + GUARD;
        }
        // A gap that ends behind `to` may run into a reservation there.
        let end = self.reserved.range(at..).next().map_or(END, |(start, _)| *start).min(to.max(at));
        (end.saturating_sub(at) >= need).then_some(at)
    }

    pub(crate) fn map(&mut self, at: Iova, memory: &Window, rights: DmaRights) -> Result<(), DmaError> {
        let len = memory.len() as u64;
        if len == 0 || !len.is_multiple_of(PAGE as u64) || !at.0.is_multiple_of(PAGE as u64) {
            return Err(DmaError::BadRange);
        }
        let end = at.0.checked_add(len).ok_or(DmaError::BadRange)?;
        let inside =
            self.reserved.range(..=at.0).next_back().is_some_and(|(start, size)| end <= start + size);
        let below = self.mapped.range(..end).next_back();
        if !inside || below.is_some_and(|(start, (m, _))| start + m.window.len() as u64 > at.0) {
            return Err(DmaError::BadRange);
        }
        if self.mapped.len() >= MAPPINGS_MAX {
            return Err(DmaError::NoMemory);
        }
        let writable = rights == DmaRights::ReadWrite;
        let mapping = Mapping { start: at.0, window: memory.clone(), writable };
        self.mapped.insert(at.0, (mapping, Uses::default()));
        Ok(())
    }

    /// Hands over what was mapped, to be dropped outside of any lock.
    pub(crate) fn unmap(&mut self, at: Iova, len: u64) -> Result<Vec<(Mapping, Uses)>, DmaError> {
        if self.reserved.get(&at.0) != Some(&len) {
            return Err(DmaError::BadRange);
        }
        self.reserved.remove(&at.0);
        Ok(self.mapped.extract_if(at.0..at.0 + len, |_, _| true).map(|(_, mapping)| mapping).collect())
    }

    pub(crate) fn mappings(&self) -> impl Iterator<Item = &(Mapping, Uses)> {
        self.mapped.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_are_apart_and_do_not_come_back_soon() {
        let mut space = Space::default();
        let ranges: Vec<_> =
            [4096u64, 8192, 1 << 30].map(|len| (space.reserve(len).unwrap().0, len)).to_vec();
        for pair in ranges.windows(2) {
            assert!(pair[1].0 >= pair[0].0 + pair[0].1 + GUARD);
        }
        space.unmap(Iova(ranges[1].0), 8192).unwrap();
        assert!(space.reserve(8192).unwrap().0 > ranges[2].0);
    }

    #[test]
    fn addresses_start_again_when_they_end_and_never_overlap() {
        let mut space = Space::default();
        let first = space.reserve(4096).unwrap();
        let kept = space.reserve(4096).unwrap();
        let most = END - FIRST - 2 * (4096 + GUARD) - GUARD;
        let big = space.reserve(most).unwrap();
        assert_eq!(space.reserve(4096), Err(DmaError::NoAddresses));
        space.unmap(first, 4096).unwrap();
        assert_eq!(space.reserve(8192), Err(DmaError::NoAddresses));
        assert_eq!(space.reserve(4096), Ok(first));
        assert!(kept != first && big.0 > kept.0);
    }

    #[test]
    fn only_reserved_whole_free_pages_can_be_mapped() {
        let mut space = Space::default();
        let page = nvme_mem::heap(PAGE).unwrap();
        let at = space.reserve(2 * PAGE as u64).unwrap();
        assert_eq!(space.map(Iova(at.0 - 4096), &page, DmaRights::Read), Err(DmaError::BadRange));
        assert_eq!(space.map(Iova(at.0 + 512), &page, DmaRights::Read), Err(DmaError::BadRange));
        assert_eq!(space.map(Iova(at.0 + 8192), &page, DmaRights::Read), Err(DmaError::BadRange));
        assert_eq!(space.map(at, &page.sub(0, 512).unwrap(), DmaRights::Read), Err(DmaError::BadRange));
        assert_eq!(space.map(Iova(at.0 + 4096), &page, DmaRights::Read), Ok(()));
        let two = nvme_mem::heap(2 * PAGE).unwrap();
        assert_eq!(space.map(at, &two, DmaRights::Read), Err(DmaError::BadRange));
        assert_eq!(space.map(at, &page, DmaRights::ReadWrite), Ok(()));
        assert_eq!(space.unmap(at, 4096).err(), Some(DmaError::BadRange));
        assert_eq!(space.unmap(at, 8192).map(|m| m.len()), Ok(2));
        assert_eq!((space.mappings().count(), space.unmap(at, 8192).err()), (0, Some(DmaError::BadRange)));
    }
}
