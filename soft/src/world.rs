//! What engines see: mappings and namespaces, as an immutable snapshot.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;

use nvme_platform::Window;

use crate::namespace::Namespace;

/// Memory that the controller may reach.
#[derive(Clone)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) window: Window,
    pub(crate) writable: bool,
}

/// How many requests under way reach a mapping. Shared by all views that have it; apart from it, so that finding a mapping
/// costs no more.
pub(crate) type Uses = Arc<AtomicU32>;

impl Mapping {
    /// The offset of `iova` in the window.
    #[inline]
    fn offset(&self, iova: u64) -> Option<usize> {
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

/// One state of the world.
pub(crate) struct View {
    /// By address; no two overlap.
    pub(crate) mappings: Vec<Mapping>,
    /// Of each mapping, in the same order.
    pub(crate) uses: Vec<Uses>,
    /// By namespace identifier, less one.
    pub(crate) namespaces: Vec<Option<Arc<Namespace>>>,
    /// Whether the device may do DMA at all.
    pub(crate) mastering: bool,
    /// Whether completed writes may be volatile.
    pub(crate) write_back: bool,
    /// Longest transfer in bytes.
    pub(crate) transfer_max: usize,
    pub(crate) sgl: bool,
    pub(crate) dataset_management: bool,
    pub(crate) write_zeroes: bool,
}

impl View {
    /// The mapping at a bus address, and the offset in it. `hits` remembers where it was.
    #[inline]
    pub(crate) fn find(&self, iova: u64, hits: &mut Hits) -> Option<(&Mapping, usize)> {
        let hit = hits.place(iova);
        if let Some(mapping) = self.mappings.get(usize::from(*hit))
            && let Some(offset) = mapping.offset(iova)
        {
            return Some((mapping, offset));
        }
        self.search(iova, hit)
    }

    /// The place of one of the view's own mappings.
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

    #[inline]
    pub(crate) fn namespace(&self, nsid: u32) -> Option<&Namespace> {
        self.namespaces.get((nsid as usize).wrapping_sub(1))?.as_deref()
    }
}
