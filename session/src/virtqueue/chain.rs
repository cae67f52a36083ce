//! Descriptor chains.

use alloc::vec::Vec;

use nvme_platform::Entries;

use super::{Broken, Ring};
use crate::memory::{MemoryTable, Near, Region};

/// A descriptor (virtio 1.2, 2.7.5, `struct virtq_desc`), in our own byte order: the address; then length, flags and next in one word.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Descriptor {
    addr: u64,
    rest: u64,
}

/// Its length on the wire in bytes.
const SIZE: usize = 16;

impl Descriptor {
    /// From its two little-endian words.
    #[inline(always)]
    fn from_words([addr, rest]: [u64; 2]) -> Self {
        Self { addr: u64::from_le(addr), rest: u64::from_le(rest) }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.rest as u32
    }

    #[inline(always)]
    fn flags(&self) -> u16 {
        (self.rest >> 32) as u16
    }

    #[inline(always)]
    fn next(&self) -> u16 {
        (self.rest >> 48) as u16
    }

    /// Its length and flags, to be compared at once.
    #[inline(always)]
    fn shape(&self) -> u64 {
        self.rest << 16
    }

    /// Whether it is a buffer behind which the chain goes on.
    #[inline(always)]
    fn is_data(&self) -> bool {
        self.flags() & (NEXT | INDIRECT) == NEXT
    }

    #[inline(always)]
    fn buffer(&self) -> Buffer {
        Buffer { addr: self.addr, len: self.len(), write: self.flags() & WRITE != 0 }
    }
}

/// A descriptor in three parts: address, length, and flags with next, in our own byte order. So each is looked at without taking a word apart.
#[derive(Clone, Copy)]
struct Parts {
    addr: u64,
    len: u32,
    link: u32,
}

impl Parts {
    #[inline(always)]
    fn from_le((addr, [len, link]): (u64, [u32; 2])) -> Self {
        Self { addr: u64::from_le(addr), len: u32::from_le(len), link: u32::from_le(link) }
    }
}

impl From<Parts> for Descriptor {
    fn from(parts: Parts) -> Self {
        Self { addr: parts.addr, rest: u64::from(parts.len) | u64::from(parts.link) << 32 }
    }
}

/// Flags and next, as [`Parts`] have them.
#[inline(always)]
const fn link(flags: u16, next: u16) -> u32 {
    flags as u32 | (next as u32) << 16
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
struct Walk<'a> {
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
    /// What was read before.
    read: &'a [Descriptor],
}

/// Whether an indirect table may come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nesting {
    Allowed,
    NotNegotiated,
    Inside,
}

/// The chain of three that most reads and writes are.
#[derive(Clone, Copy)]
pub(crate) struct Three<'a> {
    /// Address of the header: 16 bytes, not for the device to write.
    pub(crate) header: u64,
    /// The data.
    pub(crate) data: Buffer,
    /// Address of the status: one byte for the device to write.
    pub(crate) status: u64,
    /// The region of the indirect table, or of the header: as a rule header and status lie there.
    pub(crate) near: &'a Region,
}

/// Descriptors of a chain that were read already, in the chain's order. They are not read again.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Read {
    list: [Descriptor; 4],
    count: usize,
}

impl Read {
    /// What was read of a chain that may be one of three: the ring's own descriptor, and what follows in its table. Where that is the ring,
    /// the first of those is the ring's own.
    #[cold]
    pub(crate) fn new(first: Descriptor, behind: &[Descriptor]) -> Self {
        let mut read = Self::default();
        let own = (first.flags() & INDIRECT != 0 || behind.is_empty()).then_some(first);
        for (to, from) in read.list.iter_mut().zip(own.iter().chain(behind)) {
            *to = *from;
            read.count += 1;
        }
        read
    }
}

/// How many descriptors the fast way knows, and what the first and the last of them are.
const THREE: u32 = 3;
const HEADER_SHAPE: u64 = shape(16, NEXT);
const STATUS_SHAPE: u64 = shape(1, WRITE);

/// Length and flags of a descriptor's second word, `next` left out.
#[inline(always)]
const fn shape(len: u32, flags: u16) -> u64 {
    (len as u64 | (flags as u64) << 32) << 16
}

/// What a descriptor looks like that names a table of three, where that was negotiated; else what none looks like: the low bits of a
/// shape are zero.
pub(crate) const fn indirect_shape(negotiated: bool) -> u64 {
    if negotiated { shape(THREE * SIZE as u32, INDIRECT) } else { u64::MAX }
}

impl Ring {
    /// Reads the chain at `head`, if it is one of three. `indirect` is [`indirect_shape`]. If not, `left` is given what was read of it, for [`Read::new`]. It should be cold:
    /// then nothing is kept for it where all is well.
    #[inline(always)]
    pub(crate) fn three<'a>(
        &self,
        head: u16,
        indirect: u64,
        memory: &mut Near<'a>,
        left: impl FnOnce(Option<Descriptor>, &[Descriptor]),
    ) -> Option<Three<'a>> {
        let ring = self.descriptors();
        let Some(first) = ring.get(head.into()).map(Descriptor::from_words) else {
            left(None, &[]);
            return None;
        };
        // The table's region, or the header's, which is as good.
        let Some((near, offset)) = memory.find(first.addr) else {
            left(Some(first), &[]);
            return None;
        };
        if first.shape() == indirect {
            let table = near.window.entries(offset, THREE).unwrap_or(Entries::EMPTY);
            return table_of_three(table, near, |behind| left(Some(first), behind));
        }
        let one = first;
        if one.shape() != HEADER_SHAPE || u32::from(self.size()) < THREE {
            left(Some(first), &[]);
            return None;
        }
        let Some(two) = ring.get(one.next().into()).map(Descriptor::from_words) else {
            left(Some(first), &[one]);
            return None;
        };
        if !two.is_data() {
            left(Some(first), &[one, two]);
            return None;
        }
        let Some(three) = ring.get(two.next().into()).map(Descriptor::from_words) else {
            left(Some(first), &[one, two]);
            return None;
        };
        if three.shape() != STATUS_SHAPE {
            left(Some(first), &[one, two, three]);
            return None;
        }
        Some(Three { header: one.addr, data: two.buffer(), status: three.addr, near })
    }

    /// Appends the buffers of the chain at `head` to `into`: at most the queue's size, and then [`INDIRECT_MAX`] more.
    /// Each descriptor is read once; those in `read` were.
    #[cold]
    pub(crate) fn walk(
        &self,
        head: u16,
        indirect: bool,
        memory: &MemoryTable,
        read: &Read,
        into: &mut Vec<Buffer>,
    ) -> Result<(), Broken> {
        let count = u32::from(self.size());
        let mut walk = Walk {
            memory,
            entries: self.descriptors(),
            at: 0,
            count,
            left: count,
            index: head.into(),
            nesting: if indirect { Nesting::Allowed } else { Nesting::NotNegotiated },
            read: read.list.get(..read.count).unwrap_or_default(),
        };
        while !walk.straight(into)? {
            let d = walk.step()?;
            into.push(d.buffer());
            if d.flags() & NEXT == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// Reads a table of three, one behind the other, as drivers make them. Any other order is for the walk, as any other chain is: then `left`
/// is given what was read.
#[inline(always)]
fn table_of_three<'a>(
    table: Entries<'_>,
    near: &'a Region,
    left: impl FnOnce(&[Descriptor]),
) -> Option<Three<'a>> {
    let read = |index| table.get_parts(index).map(Parts::from_le);
    let Some(one) = read(0) else {
        left(&[]);
        return None;
    };
    if one.len != 16 || one.link != link(NEXT, 1) {
        left(&[one.into()]);
        return None;
    }
    let Some(two) = read(1) else {
        left(&[one.into()]);
        return None;
    };
    if two.link & !u32::from(WRITE) != link(NEXT, 2) {
        left(&[one.into(), two.into()]);
        return None;
    }
    let Some(three) = read(2) else {
        left(&[one.into(), two.into()]);
        return None;
    };
    if three.len != 1 || three.link as u16 != WRITE {
        left(&[one.into(), two.into(), three.into()]);
        return None;
    }
    let data = Buffer { addr: two.addr, len: two.len, write: two.link & u32::from(WRITE) != 0 };
    Some(Three { header: one.addr, data, status: three.addr, near })
}

impl Walk<'_> {
    /// The next descriptor of a buffer.
    fn step(&mut self) -> Result<Descriptor, Broken> {
        let mut d = self.next()?;
        if d.flags() & INDIRECT != 0 {
            self.enter(&d)?;
            d = self.next()?;
        }
        if d.flags() & INDIRECT != 0 {
            return Err(Broken::IndirectNested);
        }
        self.index = d.next().into();
        Ok(d)
    }

    /// The next descriptor: one that was read before, or from its table.
    fn next(&mut self) -> Result<Descriptor, Broken> {
        self.left = self.left.checked_sub(1).ok_or(Broken::Loop)?;
        if self.index >= self.count {
            return Err(Broken::NextOutOfRange);
        }
        if let Some((d, rest)) = self.read.split_first() {
            self.read = rest;
            return Ok(*d);
        }
        match self.entries.get(self.index) {
            Some(words) => Ok(Descriptor::from_words(words)),
            None => self.read_across(),
        }
    }

    /// What [`step`](Self::step) does, again and again, inside an indirect table that is whole in its region: nothing else is as long as a
    /// chain may be. Whether the chain has ended; otherwise the next descriptor is one that was not read yet.
    #[inline(never)]
    fn straight(&mut self, into: &mut Vec<Buffer>) -> Result<bool, Broken> {
        if self.nesting != Nesting::Inside || !self.read.is_empty() {
            return Ok(false);
        }
        let Self { entries, count, mut left, mut index, .. } = *self;
        // In the order in which a step asks: whatever is wrong is found by the next one.
        while left > 0
            && index < count
            && let Some(words) = entries.get(index)
        {
            let d = Descriptor::from_words(words);
            if d.flags() & INDIRECT != 0 {
                return Err(Broken::IndirectNested);
            }
            into.push(d.buffer());
            if d.flags() & NEXT == 0 {
                return Ok(true);
            }
            left -= 1;
            index = d.next().into();
        }
        (self.left, self.index) = (left, index);
        Ok(false)
    }

    /// Reads from a table that lies across regions.
    fn read_across(&self) -> Result<Descriptor, Broken> {
        if self.nesting != Nesting::Inside {
            return Err(Broken::MemoryGone);
        }
        // `enter` saw to it that the table's end does not wrap.
        let at = self.at + u64::from(self.index) * SIZE as u64;
        let words = self.memory.read_words(at).map_err(|_| Broken::IndirectNotRegistered)?;
        Ok(Descriptor::from_words(words))
    }

    /// Goes on in the indirect table that a descriptor of the ring names.
    fn enter(&mut self, d: &Descriptor) -> Result<(), Broken> {
        match self.nesting {
            Nesting::Allowed => {}
            Nesting::Inside => return Err(Broken::IndirectNested),
            Nesting::NotNegotiated => return Err(Broken::IndirectNotNegotiated),
        }
        if d.flags() & NEXT != 0 {
            return Err(Broken::IndirectWithNext);
        }
        let count = d.len() / SIZE as u32;
        let wraps = d.addr.checked_add(d.len().into()).is_none();
        if !d.len().is_multiple_of(SIZE as u32) || count == 0 || count > INDIRECT_MAX || wraps {
            return Err(Broken::IndirectLength);
        }
        let (region, offset) = self.memory.find(d.addr).ok_or(Broken::IndirectNotRegistered)?;
        // Empty where the table is not whole in this region, or not aligned: `read_across` reads it then.
        self.entries = region.window.entries(offset, count).unwrap_or(Entries::EMPTY);
        (self.at, self.count, self.left, self.index) = (d.addr, count, count, 0);
        self.nesting = Nesting::Inside;
        Ok(())
    }
}
