//! A split virtqueue's three parts as they lie in memory (virtio 1.2, 2.7), without any rule of what may be written.

use nvme_mem::Window;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Memory, Result};

/// A descriptor (virtio 1.2, 2.7.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Desc {
    /// Guest address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// [`desc_flag`].
    pub flags: u16,
    /// The next one, with [`desc_flag::NEXT`].
    pub next: u16,
}

const _: () = assert!(size_of::<Desc>() == 16);

/// Flags of a descriptor.
pub mod desc_flag {
    /// The chain goes on.
    pub const NEXT: u16 = 1;
    /// The device writes here.
    pub const WRITE: u16 = 2;
    /// A table of descriptors.
    pub const INDIRECT: u16 = 4;
}

/// The three parts of a split virtqueue. Every index is taken modulo nothing: what is written is what was asked for.
#[derive(Debug)]
pub struct Ring {
    /// Entries.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub desc: u64,
    /// Guest address of the available ring.
    pub avail: u64,
    /// Guest address of the used ring.
    pub used: u64,
    desc_window: Window,
    avail_window: Window,
    used_window: Window,
}

impl Ring {
    /// Lays out a ring of `size` entries in a region. `size` need not be a power of two.
    pub fn new(memory: &mut Memory, region: usize, size: u16) -> Result<Self> {
        let entries = u64::from(size);
        let desc = memory.alloc_in(region, entries * 16, 4096)?;
        let avail = memory.alloc_in(region, 6 + entries * 2, 64)?;
        let used = memory.alloc_in(region, 6 + entries * 8, 4096)?;
        Self::at(memory, size, desc, avail, used)
    }

    /// A ring whose parts lie where the caller says.
    pub fn at(memory: &Memory, size: u16, desc: u64, avail: u64, used: u64) -> Result<Self> {
        let entries = u64::from(size);
        Ok(Self {
            size,
            desc,
            avail,
            used,
            desc_window: memory.window(desc, entries * 16)?,
            avail_window: memory.window(avail, 6 + entries * 2)?,
            used_window: memory.window(used, 6 + entries * 8)?,
        })
    }

    /// Clears the available and the used ring (the device must not be using them).
    pub fn clear(&self) -> Result<()> {
        self.avail_window.fill(0, self.avail_window.len(), 0)?;
        Ok(self.used_window.fill(0, self.used_window.len(), 0)?)
    }

    /// Writes a descriptor.
    #[inline]
    pub fn set_desc(&self, index: u16, desc: Desc) -> Result<()> {
        Ok(self.desc_window.write_value(usize::from(index) * 16, &desc)?)
    }

    /// Reads a descriptor.
    pub fn desc(&self, index: u16) -> Result<Desc> {
        Ok(self.desc_window.read_value(usize::from(index) * 16)?)
    }

    /// Writes an entry of the available ring; `position` is taken modulo the size, as drivers do.
    #[inline]
    pub fn set_avail(&self, position: u16, head: u16) -> Result<()> {
        let slot = usize::from(position % self.size);
        Ok(self.avail_window.write(4 + slot * 2, &head.to_le_bytes())?)
    }

    /// Publishes the available index (release).
    #[inline]
    pub fn set_avail_index(&self, index: u16) -> Result<()> {
        Ok(self.avail_window.store16(2, index)?)
    }

    /// What the available index is.
    pub fn avail_index(&self) -> Result<u16> {
        Ok(self.avail_window.load16(2)?)
    }

    /// Sets the available ring's flags (1: no interrupt, please).
    #[inline]
    pub fn set_avail_flags(&self, flags: u16) -> Result<()> {
        Ok(self.avail_window.store16(0, flags)?)
    }

    /// Sets `used_event`: interrupt when the used index passes this one.
    #[inline]
    pub fn set_used_event(&self, index: u16) -> Result<()> {
        Ok(self.avail_window.store16(4 + usize::from(self.size) * 2, index)?)
    }

    /// The used index (acquire).
    #[inline]
    pub fn used_index(&self) -> Result<u16> {
        Ok(self.used_window.load16(2)?)
    }

    /// An entry of the used ring: head and bytes written. `position` is taken modulo the size.
    #[inline]
    pub fn used(&self, position: u16) -> Result<(u32, u32)> {
        let slot = usize::from(position % self.size);
        let [id, len]: [u32; 2] = self.used_window.read_value(4 + slot * 8)?;
        Ok((u32::from_le(id), u32::from_le(len)))
    }

    /// The used ring's flags (1: no kick needed).
    #[inline]
    pub fn used_flags(&self) -> Result<u16> {
        Ok(self.used_window.load16(0)?)
    }

    /// `avail_event`: the device wants a kick when the available index passes this one.
    #[inline]
    pub fn avail_event(&self) -> Result<u16> {
        Ok(self.used_window.load16(4 + usize::from(self.size) * 8)?)
    }
}
