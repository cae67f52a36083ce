//! A split virtqueue's three parts as they lie in memory (virtio 1.2, 2.7), without any rule of what may be written.

use nvme_mem::{OutOfBounds, Window};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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

/// A part of a chain: guest address, bytes, and [`desc_flag::WRITE`] where the device writes.
pub type Chained = (u64, u32, u16);

type Result<T> = core::result::Result<T, OutOfBounds>;

/// The three parts of a split virtqueue. Every index is taken modulo nothing: what is written is what was asked for.
#[derive(Clone, Debug)]
pub struct Ring {
    /// Entries.
    pub size: u16,
    desc_window: Window,
    avail_window: Window,
    used_window: Window,
}

impl Ring {
    /// Bytes of a descriptor table.
    pub const fn desc_len(size: u16) -> usize {
        16 * size as usize
    }

    /// Bytes of an available ring.
    pub const fn avail_len(size: u16) -> usize {
        6 + 2 * size as usize
    }

    /// Bytes of a used ring.
    pub const fn used_len(size: u16) -> usize {
        6 + 8 * size as usize
    }

    /// Over three windows, each of at least its part's bytes. `size` need not be a power of two.
    pub fn over(size: u16, desc: Window, avail: Window, used: Window) -> Self {
        Self { size, desc_window: desc, avail_window: avail, used_window: used }
    }

    /// In one window, whose parts begin at these offsets.
    pub fn within(memory: &Window, size: u16, [desc, avail, used]: [usize; 3]) -> Result<Self> {
        let desc = memory.sub(desc, Self::desc_len(size))?;
        let avail = memory.sub(avail, Self::avail_len(size))?;
        Ok(Self::over(size, desc, avail, memory.sub(used, Self::used_len(size))?))
    }

    /// Writes a chain into the descriptors from `head` on.
    pub fn chain(&self, head: u16, parts: &[Chained]) -> Result<()> {
        let mut parts = parts.iter().peekable();
        for index in head.. {
            let Some((addr, len, flags)) = parts.next().copied() else { break };
            let (flags, next) = match parts.peek() {
                Some(_) => (flags | desc_flag::NEXT, index.wrapping_add(1)),
                None => (flags, 0),
            };
            self.set_desc(index, Desc { addr, len, flags, next })?;
        }
        Ok(())
    }

    /// Makes a chain available: the next after `avail`, which moves on.
    pub fn offer(&self, avail: &mut u16, head: u16) -> Result<()> {
        self.set_avail(*avail, head)?;
        *avail = avail.wrapping_add(1);
        self.set_avail_index(*avail)
    }

    /// Takes the next used entry after `used`, which moves on: head and bytes written.
    pub fn take_used(&self, used: &mut u16) -> Result<Option<(u32, u32)>> {
        if self.used_index()? == *used {
            return Ok(None);
        }
        let entry = self.used(*used)?;
        *used = used.wrapping_add(1);
        Ok(Some(entry))
    }

    /// Clears the available and the used ring (the device must not be using them).
    pub fn clear(&self) -> Result<()> {
        self.avail_window.fill(0, self.avail_window.len(), 0)?;
        self.used_window.fill(0, self.used_window.len(), 0)
    }

    /// Writes a descriptor.
    #[inline]
    pub fn set_desc(&self, index: u16, desc: Desc) -> Result<()> {
        self.desc_window.write_value(usize::from(index) * 16, &desc)
    }

    /// Reads a descriptor.
    pub fn desc(&self, index: u16) -> Result<Desc> {
        self.desc_window.read_value(usize::from(index) * 16)
    }

    /// Writes an entry of the available ring; `position` is taken modulo the size, as drivers do.
    #[inline]
    pub fn set_avail(&self, position: u16, head: u16) -> Result<()> {
        let slot = usize::from(position % self.size);
        self.avail_window.write(4 + slot * 2, &head.to_le_bytes())
    }

    /// Publishes the available index (release).
    #[inline]
    pub fn set_avail_index(&self, index: u16) -> Result<()> {
        self.avail_window.store16(2, index)
    }

    /// What the available index is.
    pub fn avail_index(&self) -> Result<u16> {
        self.avail_window.load16(2)
    }

    /// Sets the available ring's flags (1: no interrupt, please).
    #[inline]
    pub fn set_avail_flags(&self, flags: u16) -> Result<()> {
        self.avail_window.store16(0, flags)
    }

    /// Sets `used_event`: interrupt when the used index passes this one.
    #[inline]
    pub fn set_used_event(&self, index: u16) -> Result<()> {
        self.avail_window.store16(4 + usize::from(self.size) * 2, index)
    }

    /// The used index (acquire).
    #[inline]
    pub fn used_index(&self) -> Result<u16> {
        self.used_window.load16(2)
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
        self.used_window.load16(0)
    }

    /// `avail_event`: the device wants a kick when the available index passes this one.
    #[inline]
    pub fn avail_event(&self) -> Result<u16> {
        self.used_window.load16(4 + usize::from(self.size) * 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_that_is_offered_is_what_a_device_reads_and_what_is_used_comes_back() {
        let memory = nvme_mem::heap(0x1000).unwrap();
        let ring = Ring::within(&memory, 4, [0, 0x400, 0x800]).unwrap();
        ring.chain(1, &[(0x10, 16, 0), (0x20, 512, desc_flag::WRITE)]).unwrap();
        let (first, last) = (ring.desc(1).unwrap(), ring.desc(2).unwrap());
        assert_eq!(first, Desc { addr: 0x10, len: 16, flags: desc_flag::NEXT, next: 2 });
        assert_eq!(last, Desc { addr: 0x20, len: 512, flags: desc_flag::WRITE, next: 0 });
        let (mut avail, mut used) = (u16::MAX, u16::MAX);
        ring.offer(&mut avail, 1).unwrap();
        assert_eq!((avail, ring.avail_index().unwrap(), memory.load16(0x404 + 2 * 3).unwrap()), (0, 0, 1));
        memory.store16(0x802, u16::MAX).unwrap();
        assert_eq!(ring.take_used(&mut used), Ok(None));
        memory.write(0x804 + 8 * 3, &[1, 0, 0, 0, 1, 2, 0, 0]).unwrap();
        memory.store16(0x802, 0).unwrap();
        assert_eq!((ring.take_used(&mut used), used), (Ok(Some((1, 0x201))), 0));
    }
}
