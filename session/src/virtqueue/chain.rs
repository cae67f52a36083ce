//! Descriptor chains.

use alloc::vec::Vec;

use nvme_platform::Entries;

use super::{Broken, Ring};
use crate::memory::{MemoryTable, Region};

/// A descriptor (virtio 1.2, 2.7.5, `struct virtq_desc`), in our own byte order.
#[derive(Clone, Copy)]
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// Its length on the wire in bytes.
const SIZE: usize = 16;

impl Descriptor {
    /// From its two little-endian words: the address; then length, flags and next.
    #[inline]
    fn from_words([addr, rest]: [u64; 2]) -> Self {
        let (addr, rest) = (u64::from_le(addr), u64::from_le(rest));
        Self { addr, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 }
    }

    #[inline]
    fn buffer(&self) -> Buffer {
        Buffer { addr: self.addr, len: self.len, write: self.flags & WRITE != 0 }
    }
}

/// The chain goes on at `next`.
const NEXT: u16 = 1;
/// The device writes the buffer.
const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
const INDIRECT: u16 = 4;

/// Most descriptors in an indirect table. Drivers may go beyond the queue's size here (Linux does).
pub const INDIRECT_MAX: u32 = 1024;

/// One buffer of a chain, as the driver describes it. Nothing about it is checked yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Guest-physical address.
    pub addr: u64,
    /// Length in bytes; 0 is possible.
    pub len: u32,
    /// Whether it is flagged as written by the device.
    pub write: bool,
}

/// A walk along one chain: each descriptor is read once, from the queue's own table, then from one indirect table.
pub(crate) struct Walk<'a> {
    memory: &'a MemoryTable,
    /// The table that the walk is in, unless it lies across regions.
    entries: Entries<'a>,
    /// The indirect table's address, for that case.
    at: u64,
    /// Descriptors in the table.
    count: u32,
    /// How many more there may be: a chain without a loop visits each descriptor of a table once at most.
    left: u32,
    index: u32,
    nesting: Nesting,
    /// Where the indirect table lies; as a rule the request's other small parts lie there too.
    near: Option<&'a Region>,
}

/// Whether an indirect table may come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nesting {
    Allowed,
    NotNegotiated,
    Inside,
}

impl Ring {
    /// A walk along the chain at `head`: at most the queue's size, and then [`INDIRECT_MAX`] more.
    #[inline(always)]
    pub(crate) fn walk<'a>(&'a self, head: u16, indirect: bool, memory: &'a MemoryTable) -> Walk<'a> {
        let count = u32::from(self.size());
        Walk {
            memory,
            entries: self.descriptors(),
            at: 0,
            count,
            left: count,
            index: head.into(),
            nesting: if indirect { Nesting::Allowed } else { Nesting::NotNegotiated },
            near: None,
        }
    }
}

impl<'a> Walk<'a> {
    /// The region of the indirect table, if there was one.
    #[inline]
    pub(crate) fn near(&self) -> Option<&'a Region> {
        self.near
    }

    /// The chain of three that reads and writes are as a rule; any other chain is appended to `into`.
    #[inline(always)]
    pub(crate) fn three(&mut self, into: &mut Vec<Buffer>) -> Result<Option<[Buffer; 3]>, Broken> {
        let (first, more) = self.head()?;
        if !more {
            return self.others(&[first], false, into);
        }
        let (second, more) = self.step()?;
        if !more {
            return self.others(&[first, second], false, into);
        }
        let (third, more) = self.step()?;
        if more {
            return self.others(&[first, second, third], true, into);
        }
        Ok(Some([first, second, third]))
    }

    /// Keeps what was walked already, and goes on to the end.
    #[cold]
    fn others<T>(
        &mut self,
        walked: &[Buffer],
        more: bool,
        into: &mut Vec<Buffer>,
    ) -> Result<Option<T>, Broken> {
        into.extend_from_slice(walked);
        let mut more = more;
        while more {
            let (buffer, next) = self.step()?;
            into.push(buffer);
            more = next;
        }
        Ok(None)
    }

    /// The first buffer: as [`step`](Self::step), expecting an indirect table.
    #[inline(always)]
    fn head(&mut self) -> Result<(Buffer, bool), Broken> {
        let d = self.read()?;
        if d.flags & INDIRECT != 0 {
            self.enter(&d)?;
            return self.step();
        }
        self.index = d.next.into();
        Ok((d.buffer(), d.flags & NEXT != 0))
    }

    /// The next buffer, and whether more follow.
    #[inline(always)]
    fn step(&mut self) -> Result<(Buffer, bool), Broken> {
        let mut d = self.read()?;
        if d.flags & INDIRECT != 0 {
            d = self.late(&d)?;
        }
        self.index = d.next.into();
        Ok((d.buffer(), d.flags & NEXT != 0))
    }

    /// An indirect table behind other descriptors.
    #[cold]
    fn late(&mut self, d: &Descriptor) -> Result<Descriptor, Broken> {
        self.enter(d)?;
        let d = self.read()?;
        if d.flags & INDIRECT != 0 { Err(Broken::IndirectNested) } else { Ok(d) }
    }

    #[inline(always)]
    fn read(&mut self) -> Result<Descriptor, Broken> {
        self.left = self.left.checked_sub(1).ok_or(Broken::Loop)?;
        match self.entries.get(self.index) {
            Some(words) => Ok(Descriptor::from_words(words)),
            None => self.read_across(),
        }
    }

    /// Reads from a table that lies across regions, or finds that the table has no such descriptor.
    #[cold]
    fn read_across(&self) -> Result<Descriptor, Broken> {
        if self.index >= self.count {
            return Err(Broken::NextOutOfRange);
        }
        if self.nesting != Nesting::Inside {
            return Err(Broken::MemoryGone);
        }
        // `enter` saw to it that the table's end does not wrap.
        let at = self.at + u64::from(self.index) * SIZE as u64;
        let words = self.memory.read_words(at).map_err(|_| Broken::IndirectNotRegistered)?;
        Ok(Descriptor::from_words(words))
    }

    /// Goes on in the indirect table that a descriptor of the ring names.
    #[inline(always)]
    fn enter(&mut self, d: &Descriptor) -> Result<(), Broken> {
        let count = d.len / SIZE as u32;
        if self.nesting != Nesting::Allowed || d.flags & NEXT != 0 {
            return Err(self.not_entered(d));
        }
        let wraps = d.addr.checked_add(d.len.into()).is_none();
        if !d.len.is_multiple_of(SIZE as u32) || count == 0 || count > INDIRECT_MAX || wraps {
            return Err(Broken::IndirectLength);
        }
        let region = self.memory.find(d.addr).ok_or(Broken::IndirectNotRegistered)?;
        // Empty where the table is not whole in this region, or not aligned: `read_across` reads it then.
        self.entries =
            region.window.entries((d.addr - region.guest) as usize, count).unwrap_or(Entries::EMPTY);
        self.near = Some(region);
        (self.at, self.count, self.left, self.index) = (d.addr, count, count, 0);
        self.nesting = Nesting::Inside;
        Ok(())
    }

    #[cold]
    fn not_entered(&self, d: &Descriptor) -> Broken {
        match self.nesting {
            Nesting::Inside => Broken::IndirectNested,
            Nesting::NotNegotiated => Broken::IndirectNotNegotiated,
            Nesting::Allowed => {
                debug_assert!(d.flags & NEXT != 0, "nothing else is wrong");
                Broken::IndirectWithNext
            }
        }
    }
}
