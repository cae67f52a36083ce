//! One controller's view of its DMA domain.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::sync::Arc;
use alloc::vec::Vec;

use nvme_platform::{DmaError, DmaRights, DmaSpace, Iova, PAGE, Window};
use spin::Mutex;

use super::chunks::{ChunkId, Chunks};
use crate::attachment::place;
use crate::bus::{DmaSpaces, DriverDataspaces};

/// The bus addresses that a controller has reserved. Two sessions that registered the same memory have the same ones.
pub(crate) struct Space<P> {
    /// Shared with the other controllers of the domain. `None`: the device is cut off.
    chunks: Option<Arc<Mutex<Chunks<P>>>>,
    /// Address and length, and the chunk for each that has reserved them.
    reserved: BTreeMap<(u64, u64), Vec<ChunkId>>,
}

impl<P: DmaSpaces + DriverDataspaces> Space<P> {
    pub(crate) fn new(chunks: Arc<Mutex<Chunks<P>>>) -> Self {
        Self { chunks: Some(chunks), reserved: BTreeMap::new() }
    }

    fn chunks(&self) -> Result<&Mutex<Chunks<P>>, DmaError> {
        self.chunks.as_deref().ok_or(DmaError::Gone)
    }

    /// Takes back all that this controller has reserved, for good.
    pub(crate) fn cut_off(&mut self) -> Result<(), DmaError> {
        let Some(chunks) = &self.chunks else { return Ok(()) };
        while let Some(mut entry) = self.reserved.first_entry() {
            match entry.get().last() {
                Some(id) => {
                    chunks.lock().give(*id)?;
                    entry.get_mut().pop();
                }
                None => drop(entry.remove()),
            }
        }
        self.chunks = None;
        Ok(())
    }
}

impl<P: DmaSpaces + DriverDataspaces + Send + Sync> DmaSpace for Space<P> {
    fn reserve(&mut self, memory: &Window, _: DmaRights) -> Result<Iova, DmaError> {
        let len = memory.len() as u64;
        let part = place(memory).ok_or(DmaError::BadRange)?;
        if !len.is_multiple_of(PAGE as u64) || !part.offset.is_multiple_of(PAGE as u64) {
            return Err(DmaError::BadRange);
        }
        let (id, at) = self.chunks()?.lock().take(part, len)?;
        self.reserved.entry((at, len)).or_default().push(id);
        Ok(Iova(at))
    }

    fn map(&mut self, at: Iova, memory: &Window, _: DmaRights) -> Result<(), DmaError> {
        self.chunks()?;
        // It was mapped when it was reserved.
        let end = at.0.checked_add(memory.len() as u64).ok_or(DmaError::BadRange)?;
        let holds = |(start, len): &(u64, u64)| *start <= at.0 && end <= start + len;
        if self.reserved.keys().any(holds) { Ok(()) } else { Err(DmaError::BadRange) }
    }

    fn unmap(&mut self, at: Iova, len: u64) -> Result<(), DmaError> {
        let mut chunks = self.chunks()?.lock();
        let ids = self.reserved.get(&(at.0, len)).ok_or(DmaError::BadRange)?;
        // What vanished goes first: without an IOMMU another dataspace may be at its address by now.
        let index = ids.iter().position(|id| !chunks.is_mapped(*id)).unwrap_or(ids.len().saturating_sub(1));
        chunks.give(*ids.get(index).ok_or(DmaError::BadRange)?)?;
        drop(chunks);
        if let Entry::Occupied(mut entry) = self.reserved.entry((at.0, len)) {
            entry.get_mut().remove(index);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
        Ok(())
    }
}
