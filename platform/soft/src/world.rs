//! What engines see: mappings and namespaces, as an immutable snapshot.

use alloc::sync::Arc;
use alloc::vec::Vec;

use nvme_platform::Window;

use crate::namespace::Namespace;

/// Memory that the controller may reach.
#[derive(Clone)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) window: Window,
    pub(crate) writable: bool,
}

impl Mapping {
    /// The offset of `iova` in the window.
    #[inline]
    fn offset(&self, iova: u64) -> Option<usize> {
        let offset = iova.wrapping_sub(self.start);
        (offset < self.window.len() as u64).then_some(offset as usize)
    }
}

/// One state of the world.
pub(crate) struct View {
    /// By address; no two overlap.
    pub(crate) mappings: Vec<Mapping>,
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
    /// The mapping at a bus address, and the offset in it. `hit` remembers the last one.
    #[inline]
    pub(crate) fn find(&self, iova: u64, hit: &mut usize) -> Option<(&Mapping, usize)> {
        if let Some(mapping) = self.mappings.get(*hit)
            && let Some(offset) = mapping.offset(iova)
        {
            return Some((mapping, offset));
        }
        let index = self.mappings.partition_point(|m| m.start <= iova).checked_sub(1)?;
        let mapping = self.mappings.get(index)?;
        let offset = mapping.offset(iova)?;
        *hit = index;
        Some((mapping, offset))
    }

    /// A queue's memory, which must lie in one mapping.
    pub(crate) fn ring(&self, iova: u64, len: usize, write: bool) -> Option<Window> {
        let (mapping, offset) = self.find(iova, &mut 0)?;
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
