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
    /// How far each region and those that adjoin it reach, likewise.
    reach: Box<[Reach]>,
    /// For each bucket of addresses: the one region that can hold them, or [`CROWDED`].
    buckets: Box<[u16]>,
    /// The first guest address of all, and the base-2 logarithm of the size of a bucket.
    base: u64,
    shift: u32,
}

/// The first address behind a region and all that adjoin it, one behind the other.
#[derive(Clone, Copy, Debug)]
struct Reach {
    any: u64,
    /// As far as they may be written to; the region's own beginning where it may not.
    writable: u64,
}

/// Of regions in the order of their guest addresses, which do not wrap.
fn reach(regions: &[Region]) -> Box<[Reach]> {
    let mut reach: Vec<Reach> = Vec::with_capacity(regions.len());
    let mut next: Option<(u64, Reach)> = None;
    for r in regions.iter().rev() {
        let end = r.guest + r.len;
        let behind = next.filter(|(guest, _)| *guest == end).map(|(_, behind)| behind);
        let any = behind.map_or(end, |behind| behind.any);
        let writable = if r.writable { behind.map_or(end, |behind| behind.writable) } else { r.guest };
        let this = Reach { any, writable };
        reach.push(this);
        next = Some((r.guest, this));
    }
    reach.reverse();
    reach.into()
}

/// Buckets for each region, so that one look finds it as a rule. A client can lay its regions out to prevent that; then a search takes
/// nine steps.
const BUCKETS: u64 = 16;

/// No region's place: several are in this bucket.
const CROWDED: u16 = u16::MAX;
const _: () = assert!(REGIONS_MAX < CROWDED as usize);

impl Region {
    /// The offset of a guest address, when it lies in here: then it is below the window's length, which is the region's.
    #[inline(always)]
    pub(crate) fn offset(&self, addr: u64) -> Option<usize> {
        // A subtraction that wraps is larger than any length.
        let offset = addr.wrapping_sub(self.guest);
        (offset < self.window.len() as u64).then_some(offset as usize)
    }
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
        let starts: Box<[u64]> = regions.iter().map(|r| r.guest).collect();
        let base = starts.first().copied().unwrap_or_default();
        let last = regions.last().map_or(base, |r| r.guest + (r.len - 1));
        let most = BUCKETS * starts.len() as u64;
        let shift = (0..u64::BITS).find(|s| (last - base) >> s < most).unwrap_or_default();
        let count = if starts.is_empty() { 0 } else { ((last - base) >> shift) + 1 };
        let first = |k: u64| base + (k << shift);
        // `base` itself is at or before each of them; at most REGIONS_MAX.
        let before = |addr| starts.partition_point(|s| *s <= addr).saturating_sub(1) as u16;
        let only = |k| {
            let low = before(first(k));
            if before(first(k) + ((1_u64 << shift) - 1).min(u64::MAX - first(k))) == low {
                low
            } else {
                CROWDED
            }
        };
        let buckets = (0..count).map(only).collect();
        Ok(Self { starts, reach: reach(&regions), regions: regions.into(), buckets, base, shift })
    }

    /// All regions, by guest address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region that holds guest address `addr`, if there is one, and the offset in it: it is below the window's length, which is the
    /// region's.
    #[inline(always)]
    pub(crate) fn find(&self, addr: u64) -> Option<(&Region, usize)> {
        // An address before the first region wraps to one behind the last, and is in no bucket.
        let bucket = addr.wrapping_sub(self.base) >> self.shift;
        let low = self.buckets.get(bucket as usize)?;
        let region = match self.regions.get(usize::from(*low)) {
            Some(region) => region,
            None => self.search(addr)?,
        };
        region.offset(addr).map(|offset| (region, offset))
    }

    /// In how many regions guest memory of `len` bytes at `addr` lies, without going through them: as many ranges as it comes to. `None`: it
    /// is empty or wraps, a byte of it is in no region, or, where it is to be written to, in one that may not be.
    pub(crate) fn span(&self, addr: u64, len: u32, write: bool) -> Option<usize> {
        let last = addr.checked_add(u64::from(len).checked_sub(1)?)?;
        let before = |addr| self.starts.partition_point(|s| *s <= addr);
        let first = before(addr).checked_sub(1)?;
        let reach = self.reach.get(first)?;
        let end = if write { reach.writable } else { reach.any };
        // What begins there reaches so far without a gap, so what is asked for does.
        (last < end).then(|| before(last) - first)
    }

    /// The only region that can hold an address, where several are in its bucket.
    #[cold]
    #[inline(never)]
    fn search(&self, addr: u64) -> Option<&Region> {
        let before = self.starts.partition_point(|s| *s <= addr).checked_sub(1)?;
        self.regions.get(before)
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
        let (r, offset) = self.find(addr)?;
        r.window.sub(offset, len).ok().map(|w| (w, r.writable))
    }
}

/// A table, and the region in which something was found last: what is looked for next lies there too, as a rule.
pub(crate) struct Near<'t> {
    pub(crate) table: &'t MemoryTable,
    region: &'t Region,
}

impl<'t> Near<'t> {
    /// Nothing was found yet. `None`: there are no regions.
    #[inline(always)]
    pub(crate) fn new(table: &'t MemoryTable) -> Option<Self> {
        Some(Self { table, region: table.regions.first()? })
    }

    /// As [`MemoryTable::find`].
    #[inline(always)]
    pub(crate) fn find(&mut self, addr: u64) -> Option<(&'t Region, usize)> {
        // The second time it is there.
        loop {
            if let Some(offset) = self.region.offset(addr) {
                return Some((self.region, offset));
            }
            self.region = self.elsewhere(addr)?;
        }
    }

    /// The region that holds an address.
    #[inline(never)]
    fn elsewhere(&self, addr: u64) -> Option<&'t Region> {
        self.table.find(addr).map(|(region, _)| region)
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
        let slot = |addr| t.find(addr).map(|(r, _)| r.slot);
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
                    assert_eq!(t.find(at).map(|(f, _)| f.slot), Some(r.slot));
                }
                for at in [r.guest.wrapping_sub(1), r.guest + 16] {
                    let holder = regions.iter().find(|o| o.guest <= at && at - o.guest < 16).map(|o| o.slot);
                    assert_eq!(t.find(at).map(|(f, _)| f.slot), holder);
                }
            }
        }
    }

    #[test]
    fn an_address_is_found_wherever_the_one_before_was() {
        let regions = [0_u16, 2, 3, 7].map(|i| region(i, u64::from(i) << 12, 4096));
        let t = MemoryTable::new(regions.into()).unwrap();
        let mut near = Near::new(&t).unwrap();
        for addr in [0x3fff, 0x2000, 0x2fff, 0x1000, 0x7000, 0, u64::MAX, 0x8000, 0xfff, 0x7fff, 0x6fff] {
            let found = |found: Option<(&Region, usize)>| found.map(|(region, offset)| (region.slot, offset));
            assert_eq!(found(near.find(addr)), found(t.find(addr)), "{addr:#x}");
        }
        assert!(Near::new(&MemoryTable::default()).is_none());
    }

    #[test]
    fn regions_are_counted_without_going_through_them() {
        let regions = |n: u16| (0..n).map(|i| region(i, u64::from(i) << 12, 4096)).collect();
        let t = MemoryTable::new(regions(480)).unwrap();
        let span = |addr, len| t.span(addr, len, true);
        assert_eq!([span(0, 1), span(4095, 1), span(4095, 2)], [Some(1), Some(1), Some(2)]);
        assert_eq!(
            [span(0, 480 << 12), span(0, 4096), span(10 << 12, 4 << 12)],
            [Some(480), Some(1), Some(4)]
        );
        assert_eq!([span(u64::MAX, 7), span(480 << 12, 1), span(0, (480 << 12) + 1), span(0, 0)], [None; 4]);
        assert_eq!(MemoryTable::default().span(0, 4096, false), None);
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
