//! What a session asks of the driver: an operation is built from proofs, and carries them.

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
        mut spare: Segments,
    ) -> Result<(Transfer, Transfer), (Transfer, Segments)> {
        let Self { place, memory } = self;
        let (place, rest) = match place.split_at(blocks) {
            Ok(both) => both,
            Err(place) => return Err((Self { place, memory }, spare)),
        };
        let mut left = place.bytes();
        let mut memory = match memory {
            Ranges::Many(memory) => memory,
            Ranges::One(range) => match range.split_at(left as u32) {
                Ok((a, b)) => {
                    spare.push(b);
                    let (head, rest) = (Self { place, memory: Ranges::One(a) }, rest);
                    return Ok((head, Self { place: rest, memory: Ranges::Many(spare) }));
                }
                // It is as long as both places together, so it can be divided.
                Err(range) => [range].into(),
            },
        };
        let mut whole = 0;
        while let Some(s) = memory.get(whole)
            && u64::from(s.len()) <= left
        {
            left -= u64::from(s.len());
            whole += 1;
        }
        let mut tail = memory.drain(whole..);
        let mut head = None;
        if left > 0
            && let Some(s) = tail.next()
        {
            // `left` is less than this segment's length, so it fits and neither side is empty.
            match s.split_at(left as u32) {
                Ok((a, b)) => {
                    head = Some(a);
                    spare.push(b);
                }
                Err(s) => spare.push(s),
            }
        }
        spare.extend(tail);
        memory.extend(head);
        Ok((Self { place, memory: Ranges::Many(memory) }, Self { place: rest, memory: Ranges::Many(spare) }))
    }
}

/// One thing to do on disk. Whoever has it can do just that.
#[derive(Debug)]
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
}

impl Operation {
    /// Divides it after `blocks` blocks, when it is longer. A flush is never divided.
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
            flush @ Self::Flush { .. } => (flush, None),
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
    /// Most blocks one write-zeroes may cover before it is split; 0: none.
    pub write_zeroes_blocks: u32,
    /// Whether the controller has a volatile write cache.
    pub volatile_cache: bool,
    /// Whether a write-zeroes may give the storage of its blocks back, and they read as zeroes then.
    pub unmaps_to_zeroes: bool,
}
