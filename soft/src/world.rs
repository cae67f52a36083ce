//! What engines see: mappings and namespaces, as an immutable snapshot.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::map::Map;
use crate::namespace::Namespace;

/// One state of the world.
pub(crate) struct View {
    /// The memory that it may reach.
    pub(crate) map: Map,
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
    #[inline]
    pub(crate) fn namespace(&self, nsid: u32) -> Option<&Namespace> {
        self.namespaces.get((nsid as usize).wrapping_sub(1))?.as_deref()
    }
}
