//! One immutable state of a session's registered memory.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use nvme_platform::{Iova, Window};

use super::{REGIONS_MAX, SLOTS_MAX};

/// A registered region: guest memory that the server mapped for itself and for the controller.
#[derive(Clone, Debug)]
pub struct Region {
    /// Guest-physical address, as descriptors name it.
    pub guest: u64,
    /// Address in the client's own process, as ring addresses name it (vhost-user). Where there is no such thing,
    /// the same as `guest`.
    pub user: u64,
    /// Length in bytes; at least 1.
    pub len: u64,
    /// Which of the session's regions this is, below [`SLOTS_MAX`]; it stays the same from table to table.
    pub slot: u16,
    /// Our view of it, `len` bytes.
    pub window: Window,
    /// The controller's view of it, contiguous.
    pub iova: Iova,
    /// Whether the client may have it written to.
    pub writable: bool,
}

/// Why regions do not make a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// More than [`REGIONS_MAX`] regions.
    TooMany,
    /// A region is empty, wraps, or is not as long as its window.
    BadRegion,
    /// Two regions overlap in the guest's or in the client's addresses.
    Overlap,
    /// A slot is out of range, or used twice.
    BadSlot,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooMany => "too many regions",
            Self::BadRegion => "a region is empty, wraps, or is not what its window is",
            Self::Overlap => "two regions overlap",
            Self::BadSlot => "a slot is out of range or used twice",
        })
    }
}

impl core::error::Error for TableError {}

/// The regions of one moment, found by guest address or by client address. Immutable; a change makes a new one.
#[derive(Debug, Default)]
pub struct MemoryTable {
    /// The guest addresses alone, in order: what the search touches.
    starts: Box<[u64]>,
    /// In the order of `starts`.
    regions: Box<[Region]>,
}

impl MemoryTable {
    /// A table of these regions, given in any order.
    pub fn new(mut regions: Vec<Region>) -> Result<Self, TableError> {
        if regions.len() > REGIONS_MAX {
            return Err(TableError::TooMany);
        }
        let mut slots = [false; SLOTS_MAX];
        for r in &regions {
            let wraps = |start: u64| start.checked_add(r.len).is_none();
            let wrong = r.len == 0 || usize::try_from(r.len) != Ok(r.window.len());
            if wrong || wraps(r.guest) || wraps(r.user) || wraps(r.iova.0) {
                return Err(TableError::BadRegion);
            }
            match slots.get_mut(usize::from(r.slot)) {
                Some(taken) if !*taken => *taken = true,
                _ => return Err(TableError::BadSlot),
            }
        }
        regions.sort_unstable_by_key(|r| r.user);
        if regions.is_sorted_by(|a, b| a.user + a.len <= b.user) {
            regions.sort_unstable_by_key(|r| r.guest);
        } else {
            return Err(TableError::Overlap);
        }
        if !regions.is_sorted_by(|a, b| a.guest + a.len <= b.guest) {
            return Err(TableError::Overlap);
        }
        Ok(Self { starts: regions.iter().map(|r| r.guest).collect(), regions: regions.into() })
    }

    /// All regions, by guest address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region at an index that [`find`](Self::find) gave, when it holds guest address `addr`.
    #[inline]
    pub(super) fn at(&self, index: usize, addr: u64) -> Option<&Region> {
        // A subtraction that wraps is larger than any length.
        self.regions.get(index).filter(|r| addr.wrapping_sub(r.guest) < r.len)
    }

    /// Where the region is that holds guest address `addr`, if there is one.
    #[inline]
    pub(super) fn find(&self, addr: u64) -> Option<usize> {
        let index = self.starts.partition_point(|s| *s <= addr).checked_sub(1)?;
        self.at(index, addr).map(|_| index)
    }

    /// The window of `len` bytes at an address in the client's own process, and whether it may be written. `None`
    /// unless one region holds all of them.
    pub fn user_window(&self, addr: u64, len: usize) -> Option<(Window, bool)> {
        // A few regions, and only when a ring is set up.
        let r = self.regions.iter().find(|r| addr.wrapping_sub(r.user) < r.len)?;
        r.window.sub(usize::try_from(addr - r.user).ok()?, len).ok().map(|w| (w, r.writable))
    }

    /// As [`user_window`](Self::user_window), for a guest address.
    pub fn guest_window(&self, addr: u64, len: usize) -> Option<(Window, bool)> {
        let r = self.regions.get(self.find(addr)?)?;
        r.window.sub(usize::try_from(addr - r.guest).ok()?, len).ok().map(|w| (w, r.writable))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use alloc::vec;

    use nvme_mem::heap;

    use super::*;

    pub(crate) fn region(slot: u16, guest: u64, len: usize) -> Region {
        let window = heap(len).unwrap();
        let iova = Iova(0xab_0000_0000 + (u64::from(slot) << 24));
        Region { guest, user: guest + 0x7f00_0000_0000, len: len as u64, slot, window, iova, writable: true }
    }

    #[test]
    fn an_address_is_found_in_its_region_and_nowhere_else() {
        let t = MemoryTable::new(vec![region(1, 0x9000, 0x1000), region(0, 0x1000, 0x2000)]).unwrap();
        assert_eq!(
            (t.find(0xfff), t.find(0x1000), t.find(0x2fff), t.find(0x3000)),
            (None, Some(0), Some(0), None)
        );
        assert_eq!(
            (t.find(0x9fff), t.find(0xa000), t.find(u64::MAX), t.find(0)),
            (Some(1), None, None, None)
        );
    }

    #[test]
    fn a_window_over_the_end_of_a_region_is_refused() {
        let t = MemoryTable::new(vec![region(0, 0x1000, 0x1000)]).unwrap();
        let user = 0x7f00_0000_1000;
        assert!(t.user_window(user, 0x1000).is_some() && t.user_window(user + 1, 0x1000).is_none());
        assert!(t.user_window(0x1000, 1).is_none() && t.guest_window(0x1000, 0x1000).is_some());
        assert!(t.guest_window(0x1fff, 2).is_none() && t.guest_window(0x1000, usize::MAX).is_none());
    }

    #[test]
    fn overlaps_wraps_and_bad_slots_make_no_table() {
        let table = |regions| MemoryTable::new(regions).err();
        assert_eq!(table(vec![region(0, 0, 4096), region(1, 4095, 4096)]), Some(TableError::Overlap));
        let same_user = Region { user: 0x7f00_0000_0000, ..region(1, 8192, 4096) };
        assert_eq!(table(vec![region(0, 0, 4096), same_user]), Some(TableError::Overlap));
        assert_eq!(table(vec![region(7, 0, 4096), region(7, 4096, 4096)]), Some(TableError::BadSlot));
        assert_eq!(table(vec![region(SLOTS_MAX as u16, 0, 4096)]), Some(TableError::BadSlot));
        let wraps = Region { guest: u64::MAX - 4095, ..region(0, 0, 4096) };
        assert_eq!(table(vec![wraps]), Some(TableError::BadRegion));
        assert_eq!(table(vec![Region { len: 8192, ..region(0, 0, 4096) }]), Some(TableError::BadRegion));
        let many = (0..=REGIONS_MAX as u16).map(|i| region(i, u64::from(i) << 12, 16)).collect();
        assert_eq!(table(many), Some(TableError::TooMany));
    }
}
