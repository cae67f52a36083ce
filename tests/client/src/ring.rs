//! Where a client's ring lies.

use std::ops::Deref;

use nvme_testkit::Ring as Raw;

use crate::{Memory, Result};

/// A ring in the client's memory.
#[derive(Debug)]
pub struct Ring {
    /// Guest address of the descriptor table.
    pub desc: u64,
    /// Guest address of the available ring.
    pub avail: u64,
    /// Guest address of the used ring.
    pub used: u64,
    raw: Raw,
}

impl Ring {
    /// Lays out a ring of `size` entries in a region. `size` need not be a power of two.
    pub fn new(memory: &mut Memory, region: usize, size: u16) -> Result<Self> {
        let desc = memory.alloc_in(region, Raw::desc_len(size) as u64, 4096)?;
        let avail = memory.alloc_in(region, Raw::avail_len(size) as u64, 64)?;
        let used = memory.alloc_in(region, Raw::used_len(size) as u64, 4096)?;
        Self::at(memory, size, desc, avail, used)
    }

    /// A ring whose parts lie where the caller says.
    pub fn at(memory: &Memory, size: u16, desc: u64, avail: u64, used: u64) -> Result<Self> {
        let raw = Raw::over(
            size,
            memory.window(desc, Raw::desc_len(size) as u64)?,
            memory.window(avail, Raw::avail_len(size) as u64)?,
            memory.window(used, Raw::used_len(size) as u64)?,
        );
        Ok(Self { desc, avail, used, raw })
    }
}

impl Deref for Ring {
    type Target = Raw;

    #[inline]
    fn deref(&self) -> &Raw {
        &self.raw
    }
}
