//! Blocks of which a part is being written.

use alloc::vec::Vec;
use core::ops::Range;

/// Blocks of which a part is being written: namespace and number.
#[derive(Debug)]
pub(super) struct Guarded(Vec<(u32, u64)>);

impl Guarded {
    /// None; with room for one for each chunk of bounce memory.
    pub(super) fn new(chunks: usize) -> Self {
        Self(Vec::with_capacity(chunks))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of these blocks of a namespace is among them.
    pub(super) fn has_any(&self, nsid: u32, blocks: Range<u64>) -> bool {
        self.0.iter().any(|(n, block)| *n == nsid && blocks.contains(block))
    }

    pub(super) fn add(&mut self, nsid: u32, block: u64) {
        self.0.push((nsid, block));
    }

    pub(super) fn remove(&mut self, nsid: u32, block: u64) {
        self.0.retain(|other| *other != (nsid, block));
    }
}
