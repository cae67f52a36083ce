//! The driver's own memory: taken from L4Re in slabs, which are mapped once and kept.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use nvme_platform::{DmaError, DmaPool, DriverMemory, Iova, PAGE, Window};
use spin::Mutex;

use super::chunks::Chunks;
use crate::attachment::place;
use crate::bus::{DmaSpaces, DriverDataspaces};

/// Pages of a slab: what takes more has a dataspace of its own.
const SLAB: usize = 32;

/// A dataspace of our own, of which parts are given out.
struct Slab {
    window: Window,
    at: u64,
    /// How many of its pages are given out.
    used: usize,
}

/// See the [module](self).
pub(crate) struct Pool<P> {
    platform: P,
    chunks: Arc<Mutex<Chunks<P>>>,
    /// Those of which something is left.
    slabs: Vec<Slab>,
    /// Recycled memory, by its length in pages.
    spare: BTreeMap<usize, Vec<DriverMemory>>,
    cut_off: bool,
}

impl<P: DmaSpaces + DriverDataspaces> Pool<P> {
    pub(crate) fn new(platform: P, chunks: Arc<Mutex<Chunks<P>>>) -> Self {
        Self { platform, chunks, slabs: Vec::new(), spare: BTreeMap::new(), cut_off: false }
    }

    /// Nothing more comes from here. What was given out stays mapped: the device cannot master the bus, and no one else
    /// gets these pages.
    pub(crate) fn cut_off(&mut self) {
        self.cut_off = true;
    }

    /// New memory of `pages` pages, and where the controller reaches it.
    fn slab(&self, pages: usize) -> Result<(Window, u64), DmaError> {
        let len = pages.checked_mul(PAGE).ok_or(DmaError::BadRange)?;
        let window = self.platform.memory(len).map_err(|_| DmaError::NoMemory)?;
        let part = place(&window).ok_or(DmaError::BadRange)?;
        // It is never given back: slabs are kept.
        let (_, at) = self.chunks.lock().take(part, len as u64)?;
        Ok((window, at))
    }
}

impl<P: DmaSpaces + DriverDataspaces + Send + Sync> DmaPool for Pool<P> {
    #[cfg_attr(not(test), expect(clippy::indexing_slicing, reason = "where it is was looked up just before"))]
    fn allocate(&mut self, pages: usize) -> Result<DriverMemory, DmaError> {
        if self.cut_off {
            return Err(DmaError::Gone);
        }
        if pages == 0 {
            return Err(DmaError::BadRange);
        }
        if let Some(memory) = self.spare.get_mut(&pages).and_then(Vec::pop) {
            memory.window().fill(0, pages * PAGE, 0).map_err(|_| DmaError::BadRange)?;
            return Ok(memory);
        }
        if pages > SLAB {
            let (window, at) = self.slab(pages)?;
            #[expect(clippy::disallowed_methods, reason = "the pool of this home")]
            return Ok(DriverMemory::from_pool(window, Iova(at)));
        }
        let place = match self.slabs.iter().position(|slab| SLAB - slab.used >= pages) {
            Some(place) => place,
            None => {
                self.slabs.try_reserve(1).map_err(|_| DmaError::NoMemory)?;
                let (window, at) = self.slab(SLAB)?;
                self.slabs.push(Slab { window, at, used: 0 });
                self.slabs.len() - 1
            }
        };
        let slab = &mut self.slabs[place];
        let offset = slab.used * PAGE;
        let part = slab.window.sub(offset, pages * PAGE).map_err(|_| DmaError::BadRange)?;
        #[expect(clippy::disallowed_methods, reason = "the pool of this home")]
        let memory = DriverMemory::from_pool(part, Iova(slab.at + offset as u64));
        slab.used += pages;
        if slab.used == SLAB {
            self.slabs.swap_remove(place);
        }
        Ok(memory)
    }

    fn recycle(&mut self, memory: DriverMemory) {
        self.spare.entry(memory.window().len() / PAGE).or_default().push(memory);
    }
}
