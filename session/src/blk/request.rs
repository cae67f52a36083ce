//! Requests on the wire (virtio 1.2, 5.2.6).

use core::mem::size_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::RANGES_MAX;
use crate::operation::Outcome;

/// The first 16 bytes of a request (`struct virtio_blk_req`), in our own byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The type, see [`Kind`].
    pub kind: u32,
    /// First 512-byte sector, for transfers.
    pub sector: u64,
}

impl Header {
    /// From its two little-endian words: the type and 32 reserved bits, in which drivers may put anything (an I/O
    /// priority, of old); the sector.
    #[inline]
    pub fn from_words([kind, sector]: [u64; 2]) -> Self {
        Self { kind: u64::from_le(kind) as u32, sector: u64::from_le(sector) }
    }
}

/// The header's length in bytes.
pub const HEADER: usize = 16;

/// One segment of a discard or write-zeroes request (`struct virtio_blk_discard_write_zeroes`).
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Range {
    /// First 512-byte sector.
    pub sector: U64,
    /// Number of 512-byte sectors.
    pub sectors: U32,
    /// See [`UNMAP`].
    pub flags: U32,
}

const _: () = assert!(size_of::<Range>() == RANGE);
/// A segment's length in bytes.
pub const RANGE: usize = 16;
/// All segments that one request may have.
pub const RANGES: usize = RANGE * RANGES_MAX as usize;

/// A flag of write-zeroes: the device may deallocate. Must be zero in a discard; other flags always
/// (virtio 1.2, 5.2.6.2).
pub const UNMAP: u32 = 1;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Read.
    In,
    /// Write.
    Out,
    /// Make durable what was written.
    Flush,
    /// 20 bytes of name.
    GetId,
    /// Contents do not matter any more.
    Discard,
    /// Read as zeroes from now on.
    WriteZeroes,
}

impl Kind {
    /// From the wire; `None` for a type that is not served.
    #[inline]
    pub fn from_wire(value: u32) -> Option<Self> {
        Some(match value {
            0 => Self::In,
            1 => Self::Out,
            4 => Self::Flush,
            8 => Self::GetId,
            11 => Self::Discard,
            13 => Self::WriteZeroes,
            _ => return None,
        })
    }
}

/// The byte that ends a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed, or refused.
    IoErr = 1,
    /// Not served.
    Unsupported = 2,
}

impl From<Outcome> for Status {
    #[inline]
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::Ok,
            Outcome::Failed => Self::IoErr,
            Outcome::Unsupported => Self::Unsupported,
        }
    }
}
