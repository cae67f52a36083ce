//! One DMA domain: which chunks of which dataspaces its devices reach, and where.

use alloc::vec::Vec;

use nvme_platform::{DmaError, DmaRights};

use crate::attachment::Place;
use crate::bus::{DmaSpaces, DriverDataspaces};
use crate::chunk::chunk_size;
use crate::kernel::{Cap, L4Error};

/// A chunk, as its users know it: no number is used twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChunkId(u64);

/// A dataspace of which something is mapped.
struct Source {
    /// Our own capability: a client's slot may be empty or another's by now.
    dataspace: Cap,
    chunks: usize,
}

/// A chunk that is mapped.
struct Chunk {
    id: ChunkId,
    /// The source's capability.
    dataspace: Cap,
    offset: u64,
    len: u64,
    at: u64,
    users: usize,
    /// Whether the devices reach it.
    mapped: bool,
}

/// What is mapped in one DMA space.
pub(crate) struct Chunks<P> {
    platform: P,
    space: Cap,
    /// What was used last comes first: it is looked for again with the next chunk of the same.
    sources: Vec<Source>,
    chunks: Vec<Chunk>,
    next: u64,
}

impl<P: DmaSpaces + DriverDataspaces> Chunks<P> {
    pub(crate) fn new(platform: P, space: Cap) -> Self {
        Self { platform, space, sources: Vec::new(), chunks: Vec::new(), next: 0 }
    }

    /// Where the devices reach `len` bytes from a place on, one user more.
    #[cfg_attr(not(test), expect(clippy::indexing_slicing, reason = "where it is was looked up just before"))]
    pub(crate) fn take(&mut self, part: Place, len: u64) -> Result<(ChunkId, u64), DmaError> {
        let chunk = chunk_size(part.size);
        let offset = part.offset / chunk * chunk;
        let end = part.offset.checked_add(len).ok_or(DmaError::BadRange)?;
        if len == 0 || end > part.size || end > offset.saturating_add(chunk) {
            return Err(DmaError::BadRange);
        }
        let known = self.sources.iter().position(|s| self.platform.same(s.dataspace, part.dataspace));
        let source = known.map(|at| {
            self.sources[..=at].rotate_right(1);
            self.sources[0].dataspace
        });
        let same = |c: &Chunk| c.mapped && Some(c.dataspace) == source && c.offset == offset;
        let at = match self.chunks.iter().position(same) {
            Some(at) => at,
            None => {
                let len = chunk.min(part.size - offset);
                match self.map(source, part.dataspace, offset, len) {
                    // Its memory may have been another's, who deleted it and is still in the books.
                    Err(DmaError::BadRange) if self.forget_vanished() => {
                        self.map(source, part.dataspace, offset, len)?
                    }
                    mapped => mapped?,
                }
            }
        };
        let chunk = &mut self.chunks[at];
        if end > chunk.offset + chunk.len {
            return Err(DmaError::BadRange);
        }
        chunk.users += 1;
        Ok((chunk.id, chunk.at + (part.offset - offset)))
    }

    /// Maps a chunk, which has no user yet.
    fn map(&mut self, source: Option<Cap>, dataspace: Cap, offset: u64, len: u64) -> Result<usize, DmaError> {
        self.chunks.try_reserve(1).map_err(|_| DmaError::NoMemory)?;
        self.sources.try_reserve(1).map_err(|_| DmaError::NoMemory)?;
        let own = match source {
            Some(own) => own,
            None => {
                let own = self.platform.duplicate(dataspace).map_err(refused)?;
                self.sources.insert(0, Source { dataspace: own, chunks: 0 });
                own
            }
        };
        // Both directions: L4Re maps it once, whoever comes later and wants more. What a session may do with it, the session
        // itself holds.
        match self.platform.map(self.space, own, offset, len, DmaRights::ReadWrite) {
            Ok((at, mapped)) if mapped >= len => {
                self.next += 1;
                let id = ChunkId(self.next);
                self.chunks.push(Chunk { id, dataspace: own, offset, len, at, users: 0, mapped: true });
                self.count(own, |chunks| chunks + 1);
                Ok(self.chunks.len() - 1)
            }
            // It lies in pieces, and there is no IOMMU to put them together.
            Ok((at, mapped)) => {
                let _ = self.platform.unmap(self.space, at, mapped);
                self.count(own, |chunks| chunks);
                Err(DmaError::NoAddresses)
            }
            Err(why) => {
                self.count(own, |chunks| chunks);
                Err(refused(why))
            }
        }
    }

    /// Counts a source's chunks anew; without any, its capability is given back.
    #[cfg_attr(not(test), expect(clippy::indexing_slicing, reason = "where it is was looked up just before"))]
    fn count(&mut self, dataspace: Cap, change: impl Fn(usize) -> usize) {
        let Some(at) = self.sources.iter().position(|s| s.dataspace == dataspace) else { return };
        let source = &mut self.sources[at];
        source.chunks = change(source.chunks);
        if source.chunks == 0 {
            self.sources.remove(at);
            self.platform.release(dataspace);
        }
    }

    /// Takes chunks away whose dataspaces are gone, though they have users: those are told, and have nothing there any more.
    /// Whether there were any.
    fn forget_vanished(&mut self) -> bool {
        let mut any = false;
        for chunk in &mut self.chunks {
            if chunk.mapped && !self.platform.is_there(chunk.dataspace) {
                chunk.mapped = self.platform.unmap(self.space, chunk.at, chunk.len).is_err();
                any = true;
            }
        }
        any
    }

    /// Whether the devices reach a chunk.
    pub(crate) fn is_mapped(&self, id: ChunkId) -> bool {
        self.chunks.iter().any(|chunk| chunk.id == id && chunk.mapped)
    }

    /// One user less of a chunk. Without users, the devices reach it no more when this returns.
    #[cfg_attr(not(test), expect(clippy::indexing_slicing, reason = "where it is was looked up just before"))]
    pub(crate) fn give(&mut self, id: ChunkId) -> Result<(), DmaError> {
        let index = self.chunks.iter().position(|chunk| chunk.id == id).ok_or(DmaError::BadRange)?;
        let chunk = &mut self.chunks[index];
        if chunk.users > 1 {
            chunk.users -= 1;
            return Ok(());
        }
        if chunk.mapped {
            self.platform.unmap(self.space, chunk.at, chunk.len).map_err(|_| DmaError::BadRange)?;
        }
        let chunk = self.chunks.swap_remove(index);
        self.count(chunk.dataspace, |chunks| chunks - 1);
        Ok(())
    }
}

fn refused(why: L4Error) -> DmaError {
    match why {
        L4Error::NOMEM => DmaError::NoMemory,
        _ => DmaError::BadRange,
    }
}
