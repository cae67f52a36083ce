//! What a session asks of the driver: an operation is built from proofs, and carries them.

use core::mem;

use nvme_policy::{LbaRange, WritePermit};

use crate::memory::{DmaRange, Ranges, Segments, Spares};

/// Blocks on disk and as many bytes of memory: a transfer whose two sides agree.
#[derive(Debug)]
pub struct Transfer {
    place: LbaRange,
    memory: Ranges,
}

impl Transfer {
    /// Joins a place and memory. Hands both back when their byte counts disagree.
    #[inline(always)]
    pub fn new(place: LbaRange, memory: impl Into<Ranges>) -> Result<Self, (LbaRange, Ranges)> {
        let memory = memory.into();
        if memory.bytes() == place.bytes() { Ok(Self { place, memory }) } else { Err((place, memory)) }
    }

    /// Where on disk.
    #[inline]
    pub fn place(&self) -> &LbaRange {
        &self.place
    }

    /// Where in memory.
    #[inline(always)]
    pub fn memory(&self) -> &[DmaRange] {
        self.memory.as_slice()
    }

    /// Where in memory, when that is one range.
    #[inline(always)]
    pub fn one(&self) -> Option<&DmaRange> {
        match &self.memory {
            Ranges::One(range) => Some(range),
            Ranges::Many(_) => None,
        }
    }

    /// Its parts.
    #[inline(always)]
    pub fn into_parts(self) -> (LbaRange, Ranges) {
        (self.place, self.memory)
    }

    /// Divides it after `blocks` blocks. `spare` is empty storage for the second part; both come back when a
    /// side would be empty.
    pub fn split_at(
        self,
        blocks: u64,
        spare: Segments,
    ) -> Result<(Transfer, Transfer), (Transfer, Segments)> {
        let Self { place, memory } = self;
        let (place, rest) = match place.split_at(blocks) {
            Ok(both) => both,
            Err(place) => return Err((Self { place, memory }, spare)),
        };
        let (memory, behind) = memory.split_at(place.bytes(), spare);
        Ok((Self { place, memory }, Self { place: rest, memory: behind }))
    }
}

/// A part of one block, and as many bytes of memory.
#[derive(Debug)]
pub struct Part {
    place: LbaRange,
    skip: u32,
    memory: Ranges,
}

impl Part {
    /// Joins a block and memory for the bytes of it behind the first `skip`. Hands both back when it is not one block, or
    /// has not as many.
    pub fn new(place: LbaRange, skip: u32, memory: impl Into<Ranges>) -> Result<Self, (LbaRange, Ranges)> {
        let memory = memory.into();
        let (bytes, block) = (memory.bytes(), place.block_size().bytes());
        let fits = bytes > 0 && u64::from(skip).saturating_add(bytes) <= block;
        if fits && place.blocks() == 1 { Ok(Self { place, skip, memory }) } else { Err((place, memory)) }
    }

    /// The block.
    pub fn place(&self) -> &LbaRange {
        &self.place
    }

    /// How many bytes of the block are before the part.
    pub fn skip(&self) -> u32 {
        self.skip
    }

    /// Where in memory.
    pub fn memory(&self) -> &[DmaRange] {
        self.memory.as_slice()
    }

    /// Its memory, when the block is done with.
    pub fn into_memory(self) -> Ranges {
        self.memory
    }
}

/// One thing to do on disk. Whoever has it can do just that.
///
/// Which it is, is a byte in front: that is looked at, and written, for each request.
#[derive(Debug)]
#[repr(u8)]
pub enum Operation {
    /// Disk to memory.
    Read(Transfer),
    /// Memory to disk.
    Write {
        /// What goes where.
        transfer: Transfer,
        /// The right to change the disk.
        permit: WritePermit,
        /// Whether it must be durable when it completes (Force Unit Access).
        fua: bool,
    },
    /// Makes everything durable that completed before.
    Flush {
        /// The right to change the disk; names the namespace.
        permit: WritePermit,
    },
    /// Says that the contents of blocks do not matter any more (Dataset Management, deallocate).
    Discard {
        /// Which blocks.
        place: LbaRange,
        /// The right to change the disk.
        permit: WritePermit,
    },
    /// Makes blocks read as zeroes.
    WriteZeroes {
        /// Which blocks.
        place: LbaRange,
        /// The right to change the disk.
        permit: WritePermit,
        /// Whether it must be durable when it completes.
        fua: bool,
        /// Whether the storage behind them may be given back. Only where what was given back reads as zeroes.
        unmap: bool,
    },
    /// A part of a block to memory. The rest of it is shown to nobody.
    ReadPart(Part),
    /// Memory to a part of a block, the rest of which stays what it is, whatever else is done to that block meanwhile.
    WritePart {
        /// Whether it must be durable when it completes.
        fua: bool,
        /// The right to change the disk.
        permit: WritePermit,
        /// What goes where.
        part: Part,
    },
}

impl Operation {
    /// The blocks that it is about. A flush is about all of its namespace.
    pub fn place(&self) -> Option<&LbaRange> {
        match self {
            Self::Read(transfer) | Self::Write { transfer, .. } => Some(transfer.place()),
            Self::Discard { place, .. } | Self::WriteZeroes { place, .. } => Some(place),
            Self::ReadPart(part) | Self::WritePart { part, .. } => Some(part.place()),
            Self::Flush { .. } => None,
        }
    }

    /// The memory that it is about.
    pub fn memory(&self) -> &[DmaRange] {
        match self {
            Self::Read(transfer) | Self::Write { transfer, .. } => transfer.memory(),
            Self::ReadPart(part) | Self::WritePart { part, .. } => part.memory(),
            Self::Discard { .. } | Self::WriteZeroes { .. } | Self::Flush { .. } => &[],
        }
    }

    /// Whether it is a read or write of one range of memory.
    #[inline(always)]
    pub fn is_of_one(&self) -> bool {
        match self {
            Self::Read(transfer) | Self::Write { transfer, .. } => transfer.one().is_some(),
            _ => false,
        }
    }

    /// Its memory, when it is over: its other proofs are spent. `None` unless [that is one range](Self::is_of_one).
    #[inline(always)]
    pub fn into_one(self) -> Option<DmaRange> {
        match self {
            Self::Read(Transfer { memory: Ranges::One(range), .. }) => Some(range),
            Self::Write { transfer: Transfer { memory: Ranges::One(range), .. }, .. } => Some(range),
            other => {
                debug_assert!(false, "it is of another kind");
                // What is lost that way is not freed either, so nothing is moved for this.
                mem::forget(other);
                None
            }
        }
    }

    /// How many bytes of memory that is.
    pub fn bytes(&self) -> u64 {
        match self {
            // As many as on disk: that is what makes it a transfer.
            Self::Read(transfer) | Self::Write { transfer, .. } => transfer.place().bytes(),
            _ => self.memory().iter().map(|range| u64::from(range.len())).fold(0, u64::saturating_add),
        }
    }

    /// How many bytes it counts as where a session's bytes are bounded: those of its memory, and those that it sets to zero.
    pub fn burden(&self) -> u64 {
        match self {
            Self::WriteZeroes { place, .. } => place.bytes(),
            other => other.bytes(),
        }
    }

    /// Divides it after `blocks` blocks, when it is longer. A flush is never divided, nor is a part of a block.
    pub fn split_at(self, blocks: u64, spares: &mut Spares) -> (Self, Option<Self>) {
        let mut halve = |transfer: Transfer| match transfer.split_at(blocks, spares.take()) {
            Ok((head, rest)) => (head, Some(rest)),
            Err((whole, spare)) => {
                spares.give(spare);
                (whole, None)
            }
        };
        match self {
            Self::Read(transfer) => {
                let (head, rest) = halve(transfer);
                (Self::Read(head), rest.map(Self::Read))
            }
            Self::Write { transfer, permit, fua } => match halve(transfer) {
                (transfer, None) => (Self::Write { transfer, permit, fua }, None),
                (head, Some(rest)) => {
                    let (a, b) = permit.split();
                    let rest = Self::Write { transfer: rest, permit: b, fua };
                    (Self::Write { transfer: head, permit: a, fua }, Some(rest))
                }
            },
            Self::Discard { place, permit } => match place.split_at(blocks) {
                Err(place) => (Self::Discard { place, permit }, None),
                Ok((head, rest)) => {
                    let (a, b) = permit.split();
                    let rest = Self::Discard { place: rest, permit: b };
                    (Self::Discard { place: head, permit: a }, Some(rest))
                }
            },
            Self::WriteZeroes { place, permit, fua, unmap } => match place.split_at(blocks) {
                Err(place) => (Self::WriteZeroes { place, permit, fua, unmap }, None),
                Ok((head, rest)) => {
                    let (a, b) = permit.split();
                    let rest = Self::WriteZeroes { place: rest, permit: b, fua, unmap };
                    (Self::WriteZeroes { place: head, permit: a, fua, unmap }, Some(rest))
                }
            },
            whole @ (Self::Flush { .. } | Self::ReadPart(_) | Self::WritePart { .. }) => (whole, None),
        }
    }
}

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It failed.
    Failed,
    /// The device cannot do it.
    Unsupported,
}

/// What a device can do. What it cannot do is not offered to clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest transfer of one command, in blocks. Longer ones are split by the driver.
    pub transfer_blocks: u32,
    /// Most blocks one discard may cover before it is split; 0: no discard.
    pub discard_blocks: u32,
    /// How many blocks it gives back at a time: what a driver is told to keep discards to; 0: not said, so each by itself.
    pub discard_granularity: u32,
    /// Most blocks one write-zeroes may cover before it is split; 0: none.
    pub write_zeroes_blocks: u32,
    /// Whether the controller has a volatile write cache.
    pub volatile_cache: bool,
    /// Whether a write-zeroes may give the storage of its blocks back, and they read as zeroes then.
    pub unmaps_to_zeroes: bool,
}
