//! Bounce memory of one queue pair: for data whose place in memory the controller cannot be told.
//!
//! A chunk is used by one command at a time. Before a read it is cleared, so that a controller that writes less than it
//! says shows nobody what another command left there.

use alloc::vec::Vec;

use nvme_platform::{DriverMemory, Iova, OutOfBounds, Window};
use nvme_session::memory::DmaRange;

use super::transfer::BOUNCE_CHUNK;

const CHUNK: usize = BOUNCE_CHUNK as usize;

/// The chunks.
#[derive(Debug)]
pub(super) struct Bounce {
    memory: DriverMemory,
    free: Vec<u16>,
}

impl Bounce {
    /// Divides `memory` into chunks.
    pub(super) fn new(memory: DriverMemory) -> Self {
        let chunks = u16::try_from(memory.window().len() / CHUNK).unwrap_or(u16::MAX);
        Self { memory, free: (0..chunks).collect() }
    }

    /// A chunk, if one is free.
    pub(super) fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// Takes a chunk back that the controller is done with.
    pub(super) fn put(&mut self, chunk: u16) {
        self.free.push(chunk);
    }

    /// Where the controller finds it.
    pub(super) fn at(&self, chunk: u16) -> Iova {
        Iova(self.memory.iova().0 + u64::from(chunk) * u64::from(BOUNCE_CHUNK))
    }

    /// Prepares a chunk for a read of `bytes` bytes.
    pub(super) fn clear(&self, chunk: u16, bytes: u32) -> Result<(), OutOfBounds> {
        self.memory.window().fill(usize::from(chunk) * CHUNK, bytes as usize, 0)
    }

    /// Copies all of `ranges` into a chunk, behind its first `skip` bytes.
    pub(super) fn gather(
        &self,
        chunk: u16,
        skip: u32,
        ranges: &[DmaRange],
        window: &mut dyn FnMut(&DmaRange) -> Option<Window>,
    ) -> Result<(), OutOfBounds> {
        let chunk = self.memory.window().sub(usize::from(chunk) * CHUNK, CHUNK)?;
        let mut at = skip as usize;
        for range in ranges {
            let len = range.len() as usize;
            window(range).ok_or(OutOfBounds)?.copy_to(0, &chunk, at, len)?;
            at += len;
        }
        Ok(())
    }

    /// Copies a chunk, but for its first `skip` bytes, to all of `ranges`.
    pub(super) fn scatter(
        &self,
        chunk: u16,
        skip: u32,
        ranges: &[DmaRange],
        window: &mut dyn FnMut(&DmaRange) -> Option<Window>,
    ) -> Result<(), OutOfBounds> {
        let chunk = self.memory.window().sub(usize::from(chunk) * CHUNK, CHUNK)?;
        let mut at = skip as usize;
        for range in ranges {
            let len = range.len() as usize;
            chunk.copy_to(at, &window(range).ok_or(OutOfBounds)?, 0, len)?;
            at += len;
        }
        Ok(())
    }

    /// The memory, for its pool.
    pub(super) fn into_memory(self) -> DriverMemory {
        self.memory
    }
}
