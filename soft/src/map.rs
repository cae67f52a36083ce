//! Memory that the controller may reach, by bus address, as an immutable snapshot.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use nvme_platform::{Table, Window};

use crate::wire::Cqe;

/// Memory that the controller may reach.
#[derive(Clone)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) window: Window,
    pub(crate) writable: bool,
}

/// How many requests under way reach a mapping. Shared by all maps that have it; apart from it, so that finding a mapping
/// costs no more.
pub(crate) type Uses = Arc<AtomicU32>;

impl Mapping {
    /// The offset of `iova` in the window.
    #[inline]
    pub(crate) fn offset(&self, iova: u64) -> Option<usize> {
        let offset = iova.wrapping_sub(self.start);
        (offset < self.window.len() as u64).then_some(offset as usize)
    }
}

/// Where mappings were found, by a few bits of the address. A wrong one costs a search.
pub(crate) struct Hits([u16; Self::COUNT]);

impl Hits {
    const COUNT: usize = 512;
    /// Small regions are this far apart, guard included.
    const SHIFT: u32 = 17;

    #[cfg_attr(not(test), expect(clippy::indexing_slicing, reason = "a remainder by how many there are"))]
    #[inline]
    fn place(&mut self, iova: u64) -> &mut u16 {
        let Self(places) = self;
        &mut places[(iova >> Self::SHIFT) as usize % Self::COUNT]
    }
}

impl Default for Hits {
    fn default() -> Self {
        Self([0; Self::COUNT])
    }
}

/// A mapping that a request under way reaches. It has that one alone: a request that hangs keeps nobody else's memory.
pub(crate) struct Reached {
    pub(crate) window: Window,
    uses: Uses,
}

impl Reached {
    /// The request has ended.
    pub(crate) fn release(self) {
        let Self { window, uses } = self;
        drop(window);
        // Release: whoever sees it unused also sees what was written there.
        uses.fetch_sub(1, Ordering::Release);
    }
}

/// All mappings. A clone is the same state of them.
#[derive(Clone)]
pub(crate) struct Map {
    /// By address; no two overlap.
    mappings: Arc<[Mapping]>,
    /// Of each mapping, in the same order.
    uses: Arc<[Uses]>,
}

impl Map {
    /// Of mappings in the order of their addresses.
    pub(crate) fn new(mapped: impl Iterator<Item = (Mapping, Uses)>) -> Self {
        let (mappings, uses): (Vec<_>, Vec<_>) = mapped.unzip();
        Self { mappings: mappings.into(), uses: uses.into() }
    }

    /// A request reaches the mapping in that place: until it has ended nobody takes it away.
    pub(crate) fn reach(&self, place: u32) -> Option<Reached> {
        let (mapping, uses) = (self.mappings.get(place as usize)?, self.uses.get(place as usize)?);
        uses.fetch_add(1, Ordering::Relaxed);
        Some(Reached { window: mapping.window.clone(), uses: Arc::clone(uses) })
    }

    /// The mapping at a bus address, and the offset in it. `hits` remembers where it was.
    #[inline(always)]
    pub(crate) fn find(&self, iova: u64, hits: &mut Hits) -> Option<(&Mapping, usize)> {
        let hit = hits.place(iova);
        if let Some(mapping) = self.mappings.get(usize::from(*hit))
            && let Some(offset) = mapping.offset(iova)
        {
            return Some((mapping, offset));
        }
        self.search(iova, hit)
    }

    /// The place of one of its own mappings.
    pub(crate) fn place_of(&self, mapping: &Mapping) -> u32 {
        let offset = core::ptr::from_ref(mapping).addr().wrapping_sub(self.mappings.as_ptr().addr());
        u32::try_from(offset / size_of::<Mapping>()).unwrap_or(u32::MAX)
    }

    #[inline(never)]
    fn search(&self, iova: u64, hit: &mut u16) -> Option<(&Mapping, usize)> {
        let index = self.mappings.partition_point(|m| m.start <= iova).checked_sub(1)?;
        let mapping = self.mappings.get(index)?;
        let offset = mapping.offset(iova)?;
        *hit = u16::try_from(index).unwrap_or(0);
        Some((mapping, offset))
    }

    /// A queue's memory, which must lie in one mapping.
    pub(crate) fn ring(&self, iova: u64, len: usize, write: bool) -> Option<Window> {
        let (mapping, offset) = self.search(iova, &mut 0)?;
        if write && !mapping.writable {
            return None;
        }
        mapping.window.sub(offset, len).ok()
    }

    /// The memory of a completion queue of so many entries.
    pub(crate) fn entries(&self, iova: u64, count: u32) -> Option<Table<[u64; 2]>> {
        let window = self.ring(iova, count as usize * size_of::<Cqe>(), true)?;
        Table::new(&window, 0, count).ok()
    }
}
