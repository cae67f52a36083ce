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
    /// Where a search begins: entry `k` is the last region that starts at or before the first address of bucket `k`.
    buckets: Box<[u16]>,
    /// The first guest address of all, and the base-2 logarithm of the size of a bucket.
    base: u64,
    shift: u32,
}

/// Buckets for each region, so that a search takes no step as a rule. A client can lay its regions out to prevent that;
/// then it takes nine.
const BUCKETS: u64 = 16;

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
        let starts: Box<[u64]> = regions.iter().map(|r| r.guest).collect();
        let base = starts.first().copied().unwrap_or_default();
        let last = regions.last().map_or(base, |r| r.guest + (r.len - 1));
        let most = BUCKETS * starts.len() as u64;
        let shift = (0..u64::BITS).find(|s| (last - base) >> s < most).unwrap_or_default();
        // One more than there are, for the end of the last.
        let count = if starts.is_empty() { 0 } else { ((last - base) >> shift) + 2 };
        let first = |k: u64| base.saturating_add(k.saturating_mul(1 << shift));
        // `base` itself is at or before each of them; at most REGIONS_MAX.
        let before = |k| starts.partition_point(|s| *s <= first(k)).saturating_sub(1) as u16;
        let buckets = (0..count).map(before).collect();
        Ok(Self { starts, regions: regions.into(), buckets, base, shift })
    }

    /// All regions, by guest address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region that holds guest address `addr`, if there is one.
    #[inline(always)]
    pub(crate) fn find(&self, addr: u64) -> Option<&Region> {
        // An address before the first region wraps to one behind the last, and is in no bucket.
        let bucket = (addr.wrapping_sub(self.base) >> self.shift) as usize;
        let low = self.buckets.get(bucket)?;
        let high = self.buckets.get(bucket.wrapping_add(1))?;
        let (mut low, mut high) = (usize::from(*low), usize::from(*high));
        // The last start at or before `addr` is one of these; as a rule there is one.
        while low < high {
            let middle = (low + high).div_ceil(2);
            if self.starts.get(middle).is_some_and(|s| *s <= addr) { low = middle } else { high = middle - 1 }
        }
        // A subtraction that wraps is larger than any length.
        self.regions.get(low).filter(|r| addr.wrapping_sub(r.guest) < r.len)
    }

    /// As [`find`](Self::find), for an address that is probably in the region `near`.
    #[inline(always)]
    pub(crate) fn find_near<'a>(&'a self, near: Option<&'a Region>, addr: u64) -> Option<&'a Region> {
        match near {
            Some(region) if addr.wrapping_sub(region.guest) < region.len => near,
            _ => self.find(addr),
        }
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
        let r = self.find(addr)?;
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
        Region {
            guest,
            user: guest.wrapping_add(0x7f00_0000_0000),
            len: len as u64,
            slot,
            window,
            iova,
            writable: true,
        }
    }

    #[test]
    fn an_address_is_found_in_its_region_and_nowhere_else() {
        let t = MemoryTable::new(vec![region(1, 0x9000, 0x1000), region(0, 0x1000, 0x2000)]).unwrap();
        let slot = |addr| t.find(addr).map(|r| r.slot);
        assert_eq!([0xfff, 0x1000, 0x2fff, 0x3000].map(slot), [None, Some(0), Some(0), None]);
        assert_eq!([0x9fff, 0xa000, u64::MAX, 0].map(slot), [Some(1), None, None, None]);
        assert!(
            MemoryTable::default().find(0).is_none() && MemoryTable::new(vec![]).unwrap().find(0).is_none()
        );
    }

    #[test]
    fn addresses_are_found_however_regions_are_laid_out() {
        // Spread evenly, crowded at one end of a huge span, at the very end of the address space, and doubling.
        let even = |i: u64| i * 0x2_0000;
        let crowd = |i: u64| if i == 0 { 0 } else { (1 << 62) + i * 32 };
        let end = |i: u64| u64::MAX - 0x1000 - (i + 1) * 0x1_0000;
        let doubling = |i: u64| (1 << (i % 62)) + (i / 62) * 16;
        for layout in [&even as &dyn Fn(u64) -> u64, &crowd, &end, &doubling] {
            let shape = |i: u64| Region { user: i << 12, ..region(i as u16, layout(i), 16) };
            let mut regions: Vec<Region> = vec![];
            for r in (0..REGIONS_MAX as u64).map(shape) {
                if regions.iter().all(|o| o.guest.abs_diff(r.guest) >= 16) {
                    regions.push(r);
                }
            }
            assert!(regions.len() > 200);
            let t = MemoryTable::new(regions.clone()).unwrap();
            for r in &regions {
                for at in [r.guest, r.guest + 15] {
                    assert_eq!(t.find(at).map(|f| f.slot), Some(r.slot));
                }
                for at in [r.guest.wrapping_sub(1), r.guest + 16] {
                    let holder = regions.iter().find(|o| o.guest <= at && at - o.guest < 16).map(|o| o.slot);
                    assert_eq!(t.find(at).map(|f| f.slot), holder);
                }
            }
        }
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
