//! Descriptor chains.

use super::{Broken, Ring};
use crate::memory::MemoryTable;
use alloc::vec::Vec;

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

impl Ring {
    /// Appends the buffers of the chain at `head` to `into`: at most the queue's size, and then [`INDIRECT_MAX`] more.
    /// Each descriptor is read once.
    #[inline]
    pub fn walk(
        &self,
        head: u16,
        indirect: bool,
        table: &MemoryTable,
        into: &mut Vec<Buffer>,
    ) -> Result<(), Broken> {
        let mut index = head;
        // A chain without a loop visits each descriptor once at most.
        for _ in 0..self.size() {
            if index >= self.size() {
                return Err(Broken::NextOutOfRange);
            }
            let words = self.descriptors().read_value(usize::from(index) * SIZE);
            let d = Descriptor::from_words(words.map_err(|_| Broken::NextOutOfRange)?);
            let flags = d.flags;
            if flags & INDIRECT != 0 {
                if !indirect {
                    return Err(Broken::IndirectNotNegotiated);
                }
                if flags & NEXT != 0 {
                    return Err(Broken::IndirectWithNext);
                }
                return walk_indirect(d.addr, d.len, table, into);
            }
            into.push(d.buffer());
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = d.next;
        }
        Err(Broken::Loop)
    }
}

#[inline]
fn walk_indirect(addr: u64, len: u32, table: &MemoryTable, into: &mut Vec<Buffer>) -> Result<(), Broken> {
    let count = len / SIZE as u32;
    if !len.is_multiple_of(SIZE as u32)
        || count == 0
        || count > INDIRECT_MAX
        || addr.checked_add(len.into()).is_none()
    {
        return Err(Broken::IndirectLength);
    }
    let mut index = 0;
    for _ in 0..count {
        if index >= count {
            return Err(Broken::NextOutOfRange);
        }
        let at = addr + u64::from(index) * SIZE as u64;
        let d = Descriptor::from_words(table.read_words(at).map_err(|_| Broken::IndirectNotRegistered)?);
        let flags = d.flags;
        if flags & INDIRECT != 0 {
            return Err(Broken::IndirectNested);
        }
        into.push(d.buffer());
        if flags & NEXT == 0 {
            return Ok(());
        }
        index = u32::from(d.next);
    }
    Err(Broken::Loop)
}
