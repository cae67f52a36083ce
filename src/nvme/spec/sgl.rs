//! SGL descriptors (Base 4.1.2.1).

use core::mem::size_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Type 0h: data block; subtype 0h: address.
const DATA_BLOCK: u8 = 0x00;
/// Type 3h: last segment.
const LAST_SEGMENT: u8 = 0x30;

/// One descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Descriptor {
    /// Where.
    pub address: U64,
    /// How many bytes.
    pub length: U32,
    reserved: [u8; 3],
    /// Type in bits 7:4, subtype in 3:0.
    pub kind: u8,
}
const _: () = assert!(size_of::<Descriptor>() == 16);

impl Descriptor {
    /// A data block.
    #[inline]
    pub fn data(address: u64, length: u32) -> Self {
        Self { address: address.into(), length: length.into(), reserved: [0; 3], kind: DATA_BLOCK }
    }

    /// The list of descriptors at `address`, `length` bytes long, which is the last one.
    #[inline]
    pub fn last_segment(address: u64, length: u32) -> Self {
        Self { address: address.into(), length: length.into(), reserved: [0; 3], kind: LAST_SEGMENT }
    }

    /// As the two halves of a command's data pointer.
    #[inline]
    pub fn halves(self) -> [U64; 2] {
        let high = u64::from(self.length.get()) | u64::from(self.kind) << 56;
        [self.address, high.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_pointer_holds_the_descriptor_byte_by_byte() {
        let d = Descriptor::last_segment(0x1122_3344_5566_7788, 0xa0b0_c0d0);
        assert_eq!(d.halves().as_bytes(), d.as_bytes());
    }
}
