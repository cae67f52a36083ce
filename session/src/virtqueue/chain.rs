//! Descriptor chains.

use alloc::vec::Vec;
use core::mem::size_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, transmute};

use super::{Broken, Ring};
use crate::memory::{Held, MemoryTable};

/// A descriptor (virtio 1.2, 2.7.5, `struct virtq_desc`).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Descriptor {
    addr: U64,
    len: U32,
    flags: U16,
    next: U16,
}

const _: () = assert!(size_of::<Descriptor>() == 16);
const SIZE: u32 = 16;

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

impl Descriptor {
    #[inline]
    fn buffer(&self) -> Buffer {
        Buffer { addr: self.addr.get(), len: self.len.get(), write: self.flags.get() & WRITE != 0 }
    }
}

impl Ring {
    /// Appends the buffers of the chain at `head` to `into`: at most the queue's size, and then [`INDIRECT_MAX`] more.
    /// Each descriptor is read once.
    #[inline]
    pub fn walk(
        &self,
        head: u16,
        indirect: bool,
        held: &mut Held,
        table: &MemoryTable,
        into: &mut Vec<Buffer>,
    ) -> Result<(), Broken> {
        let mut index = head;
        // A chain without a loop visits each descriptor once at most.
        for _ in 0..self.size() {
            if index >= self.size() {
                return Err(Broken::NextOutOfRange);
            }
            let at = usize::from(index) * size_of::<Descriptor>();
            let d: Descriptor = self.descriptors().read_value(at).map_err(|_| Broken::NextOutOfRange)?;
            let flags = d.flags.get();
            if flags & INDIRECT != 0 {
                if !indirect {
                    return Err(Broken::IndirectNotNegotiated);
                }
                if flags & NEXT != 0 {
                    return Err(Broken::IndirectWithNext);
                }
                return walk_indirect(d.addr.get(), d.len.get(), held, table, into);
            }
            into.push(d.buffer());
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = d.next.get();
        }
        Err(Broken::Loop)
    }
}

#[inline]
fn walk_indirect(
    addr: u64,
    len: u32,
    held: &mut Held,
    table: &MemoryTable,
    into: &mut Vec<Buffer>,
) -> Result<(), Broken> {
    let count = len / SIZE;
    if !len.is_multiple_of(SIZE)
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
        let at = addr + u64::from(index * SIZE);
        let bytes = held.read16(table, at).map_err(|_| Broken::IndirectNotRegistered)?;
        let d: Descriptor = transmute!(bytes);
        let flags = d.flags.get();
        if flags & INDIRECT != 0 {
            return Err(Broken::IndirectNested);
        }
        into.push(d.buffer());
        if flags & NEXT == 0 {
            return Ok(());
        }
        index = u32::from(d.next.get());
    }
    Err(Broken::Loop)
}
