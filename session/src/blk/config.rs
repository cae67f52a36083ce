//! The configuration space (virtio 1.2, 5.2.4).

use core::mem::size_of;

use nvme_policy::Grant;
use nvme_policy::extent::SECTOR;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::{RANGE_SECTORS_MAX, RANGES_MAX, SEG_MAX};
use crate::operation::Limits;

/// Largest segment that is asked for, in bytes; the controller's own limit may be lower.
const SEGMENT_MAX: u64 = 4 << 20;

/// `struct virtio_blk_config` (virtio 1.2, 5.2.4), up to what write-zeroes needs.
#[derive(Clone, IntoBytes, Immutable)]
#[repr(C)]
struct Layout {
    capacity: U64,
    size_max: U32,
    seg_max: U32,
    geometry: [u8; 4],
    blk_size: U32,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: U16,
    opt_io_size: U32,
    writeback: u8,
    unused0: u8,
    num_queues: U16,
    max_discard_sectors: U32,
    max_discard_seg: U32,
    discard_sector_alignment: U32,
    max_write_zeroes_sectors: U32,
    max_write_zeroes_seg: U32,
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}

const _: () = assert!(size_of::<Layout>() == ConfigSpace::SIZE);

const _: () = assert!(core::mem::offset_of!(Layout, writeback) == ConfigSpace::WRITEBACK as usize);

/// A device's configuration space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; Self::SIZE],
}

impl ConfigSpace {
    /// Its length in bytes.
    pub const SIZE: usize = 60;
    /// Where `writeback` is, the one byte that a driver may write.
    pub const WRITEBACK: u32 = 32;

    /// For what a session was granted, with up to `queues` queues. The cache mode starts as write-back when
    /// there is a volatile write cache.
    pub fn new(grant: &Grant, limits: &Limits, queues: u16) -> Self {
        let extent = grant.extent();
        let block = extent.block_size().bytes();
        let sectors = extent.bytes() / SECTOR;
        let range = u32::try_from(sectors).unwrap_or(u32::MAX).min(RANGE_SECTORS_MAX);
        let size_max = (u64::from(limits.transfer_blocks) * block).clamp(block.max(4096), SEGMENT_MAX);
        let only = |on: bool, value: u32| U32::new(if on { value } else { 0 });
        // It is a hint of the device's: one that no discard could keep to is none.
        let granularity = (u64::from(limits.discard_granularity.max(1)) * block / SECTOR)
            .try_into()
            .ok()
            .filter(|sectors| *sectors <= range)
            .unwrap_or((block / SECTOR) as u32);
        let (discard, zeroes) = (limits.discard_blocks > 0, limits.write_zeroes_blocks > 0);
        let layout = Layout {
            capacity: U64::new(sectors),
            size_max: U32::new(size_max as u32),
            seg_max: U32::new(SEG_MAX),
            geometry: [0; 4],
            blk_size: U32::new(block as u32),
            physical_block_exp: 0,
            alignment_offset: 0,
            min_io_size: U16::new(1),
            opt_io_size: U32::new(0),
            writeback: u8::from(limits.volatile_cache),
            unused0: 0,
            num_queues: U16::new(queues.max(1)),
            max_discard_sectors: only(discard, range),
            max_discard_seg: only(discard, RANGES_MAX),
            discard_sector_alignment: only(discard, granularity),
            max_write_zeroes_sectors: only(zeroes, range),
            max_write_zeroes_seg: only(zeroes, RANGES_MAX),
            write_zeroes_may_unmap: u8::from(zeroes && limits.unmaps_to_zeroes),
            unused1: [0; 3],
        };
        let mut bytes = [0; Self::SIZE];
        bytes.copy_from_slice(layout.as_bytes());
        Self { bytes }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8; Self::SIZE] {
        &self.bytes
    }

    /// Reads at any offset; behind the end there are zeroes.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        into.fill(0);
        let from = usize::try_from(offset).ok().and_then(|o| self.bytes.get(o..)).unwrap_or_default();
        for (to, from) in into.iter_mut().zip(from) {
            *to = *from;
        }
    }

    /// The same with a capacity of nothing.
    #[must_use]
    pub fn empty(mut self) -> Self {
        let len = size_of::<U64>();
        self.bytes.iter_mut().take(len).for_each(|byte| *byte = 0);
        self
    }

    /// The same in that cache mode; true: write-back.
    #[must_use]
    pub fn with_write_back(mut self, on: bool) -> Self {
        if let Some(byte) = self.bytes.get_mut(Self::WRITEBACK as usize) {
            *byte = u8::from(on);
        }
        self
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]
mod tests {
    use alloc::vec;

    use nvme_policy::{Access, BlockSize, Extent, Namespace};

    use super::*;

    fn space() -> ConfigSpace {
        space_of(0)
    }

    fn space_of(discard_granularity: u32) -> ConfigSpace {
        let extent = Extent::whole(Namespace { controller: 0, nsid: 1 }, 1 << 30, BlockSize::B4096).unwrap();
        let limits = Limits {
            transfer_blocks: 32,
            discard_blocks: 8,
            discard_granularity,
            write_zeroes_blocks: 0,
            volatile_cache: true,
            unmaps_to_zeroes: false,
        };
        ConfigSpace::new(&Grant::new(extent, Access::ReadWrite), &limits, 256)
    }

    fn field<const N: usize>(s: &ConfigSpace, offset: u64) -> [u8; N] {
        let mut bytes = [0xff; N];
        s.read(offset, &mut bytes);
        bytes
    }

    #[test]
    fn fields_are_where_virtio_puts_them() {
        let s = space();
        assert_eq!(u64::from_le_bytes(field(&s, 0)), 8 << 30);
        let words = [8, 12, 20, 36, 40, 44, 48, 52].map(|o| u32::from_le_bytes(field(&s, o)));
        assert_eq!(words, [32 * 4096, 254, 4096, 1 << 22, 16, 8, 0, 0]);
        assert_eq!((field(&s, 32), u16::from_le_bytes(field(&s, 34))), ([1], 256));
    }

    #[test]
    fn discards_are_to_keep_to_what_the_device_gives_back_together() {
        // In sectors, of blocks of 4096; what no discard could keep to is not passed on.
        for (granularity, sectors) in
            [(0, 8), (1, 8), (16, 128), (1 << 19, 1 << 22), ((1 << 19) + 1, 8), (u32::MAX, 8)]
        {
            assert_eq!(u32::from_le_bytes(field(&space_of(granularity), 44)), sectors, "{granularity}");
        }
    }

    #[test]
    fn a_read_at_every_offset_and_length_is_bounded() {
        let s = space();
        let at_end = (0..300).chain([u64::from(u32::MAX), u64::MAX - 3, u64::MAX]);
        for offset in at_end {
            for len in 0..=300 {
                let mut into = vec![0xee; len];
                s.read(offset, &mut into);
                for (i, byte) in into.iter().enumerate() {
                    let at = offset.saturating_add(i as u64);
                    let expected =
                        usize::try_from(at).ok().and_then(|a| s.bytes.get(a)).copied().unwrap_or(0);
                    assert_eq!(*byte, expected);
                }
            }
        }
    }
}
