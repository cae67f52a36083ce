//! virtio-blk's numbers (virtio 1.2, 5.2).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Feature bits, as masks (virtio 1.2, 5.2.3 and 6; bit 30 is vhost-user's).
pub mod feature {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const SEG_MAX: u64 = 1 << 2;
    pub const GEOMETRY: u64 = 1 << 4;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const CONFIG_WCE: u64 = 1 << 11;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
    pub const LOG_ALL: u64 = 1 << 26;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    pub const IOMMU_PLATFORM: u64 = 1 << 33;
    pub const RING_PACKED: u64 = 1 << 34;
}

/// Request types (virtio 1.2, 5.2.6).
pub mod kind {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// Status bytes (virtio 1.2, 5.2.6).
pub mod status {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const OK: u8 = 0;
    pub const IOERR: u8 = 1;
    pub const UNSUPP: u8 = 2;
    /// None of them: what tests put there before the device writes.
    pub const UNSET: u8 = 0xee;
}

/// How a request ended (virtio 1.2, 5.2.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Done.
    Ok,
    /// A device or driver error.
    IoErr,
    /// A request that the device does not know.
    Unsupported,
    /// No status that the specification has; 0xff is what the client put there, so the device wrote none.
    Other(u8),
}

impl Status {
    /// From the status byte.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            status::OK => Status::Ok,
            status::IOERR => Status::IoErr,
            status::UNSUPP => Status::Unsupported,
            other => Status::Other(other),
        }
    }
}

/// A piece of the client's memory: guest address and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Guest address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
}

/// The request header (virtio 1.2, 5.2.6).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`kind`].
    pub kind: u32,
    /// Must be ignored by the device.
    pub reserved: u32,
    /// In units of 512 bytes.
    pub sector: u64,
}

const _: () = assert!(size_of::<Header>() == 16);

impl Header {
    /// A request of that kind at that sector.
    pub const fn new(kind: u32, sector: u64) -> Self {
        Self { kind, reserved: 0, sector }
    }
}

/// A segment of a discard or write-zeroes request (virtio 1.2, 5.2.6).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Range {
    /// First sector.
    pub sector: u64,
    /// Sectors.
    pub sectors: u32,
    /// Bit 0: may unmap (write zeroes only).
    pub flags: u32,
}

const _: () = assert!(size_of::<Range>() == 16);

/// The configuration space up to `write_zeroes_may_unmap` (virtio 1.2, 5.2.4). All fields little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlkConfig {
    /// Sectors of 512 bytes.
    pub capacity: u64,
    /// Largest segment in bytes.
    pub size_max: u32,
    /// Most segments in a request.
    pub seg_max: u32,
    /// Cylinders (16 bits), heads, sectors.
    pub geometry: [u8; 4],
    /// Bytes of a logical block.
    pub blk_size: u32,
    /// Logical blocks per physical one, as a power of two.
    pub physical_block_exp: u8,
    /// Offset of the first aligned logical block.
    pub alignment_offset: u8,
    /// Smallest good I/O size in blocks.
    pub min_io_size: u16,
    /// Best I/O size in blocks.
    pub opt_io_size: u32,
    /// 1: write-back.
    pub writeback: u8,
    /// Unused.
    pub unused0: u8,
    /// Queues.
    pub num_queues: u16,
    /// Most sectors of a discard segment.
    pub max_discard_sectors: u32,
    /// Most segments of a discard.
    pub max_discard_seg: u32,
    /// Alignment of discards in sectors.
    pub discard_sector_alignment: u32,
    /// Most sectors of a write-zeroes segment.
    pub max_write_zeroes_sectors: u32,
    /// Most segments of a write-zeroes.
    pub max_write_zeroes_seg: u32,
    /// 1: write-zeroes may unmap.
    pub write_zeroes_may_unmap: u8,
    /// Unused, the last four bytes beyond what the device has.
    pub unused1: [u8; 7],
}

const _: () = assert!(size_of::<BlkConfig>() == BlkConfig::LEN as usize + 4);

impl BlkConfig {
    /// Bytes of the configuration space.
    pub const LEN: u32 = 60;
    /// Where `writeback` is in the configuration space.
    pub const WRITEBACK: u32 = 32;

    /// From the first [`BlkConfig::LEN`] bytes of the configuration space; what is missing reads as zero.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut config = Self::default();
        for (to, from) in config.as_mut_bytes().iter_mut().zip(bytes) {
            *to = *from;
        }
        config
    }
}
