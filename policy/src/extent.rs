//! Places on disk: what a session was given, and the proof that a command stays inside it.

use core::fmt;

/// The unit of virtio-blk, in bytes, whatever the disk's own block size is.
pub const SECTOR: u64 = 512;

/// A namespace of one of the server's controllers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Namespace {
    /// Which controller, in the order in which the server got them.
    pub controller: u16,
    /// The namespace identifier, 1 and up.
    pub nsid: u32,
}

/// The size of a logical block: 512 or 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSize(u8);

impl BlockSize {
    /// 512 bytes.
    pub const B512: Self = Self(9);
    /// 4096 bytes.
    pub const B4096: Self = Self(12);

    /// From a size in bytes; only 512 and 4096 are served.
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            512 => Some(Self::B512),
            4096 => Some(Self::B4096),
            _ => None,
        }
    }

    /// In bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// The base-2 logarithm of the size in bytes.
    #[inline]
    pub const fn shift(self) -> u32 {
        self.0 as u32
    }
}

/// A namespace and the size of its blocks, in one word: what goes along with each place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Unit(u64);

impl Unit {
    const fn new(namespace: Namespace, size: BlockSize) -> Self {
        Self(namespace.nsid as u64 | (namespace.controller as u64) << 32 | (size.0 as u64) << 48)
    }

    #[inline(always)]
    const fn namespace(self) -> Namespace {
        Namespace { controller: (self.0 >> 32) as u16, nsid: self.0 as u32 }
    }

    #[inline(always)]
    const fn size(self) -> BlockSize {
        BlockSize((self.0 >> 48) as u8)
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.namespace(), self.size())
    }
}

/// Blocks of a namespace that belong together: a whole namespace or one partition. Never empty, never wraps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    unit: Unit,
    first: u64,
    blocks: u64,
    /// What follows from these: its length in bytes and in sectors, and the size of a block less one, in bytes.
    bytes: u64,
    sectors: u64,
    in_block: u64,
}

/// Why a request does not become a place on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotConfined {
    /// It touches no block.
    Empty,
    /// It reaches outside the extent (or its address wraps).
    Outside,
    /// It does not start and end at a block boundary.
    Misaligned,
}

impl fmt::Display for NotConfined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "no block",
            Self::Outside => "outside the device",
            Self::Misaligned => "not at a block boundary",
        })
    }
}

impl core::error::Error for NotConfined {}

impl Extent {
    /// A whole namespace of `blocks` blocks. `None` when it is empty, or too long to be counted in bytes.
    pub fn whole(namespace: Namespace, blocks: u64, size: BlockSize) -> Option<Self> {
        let countable = blocks > 0 && blocks <= u64::MAX >> size.shift();
        countable.then(|| Self {
            unit: Unit::new(namespace, size),
            first: 0,
            blocks,
            bytes: blocks << size.shift(),
            sectors: (blocks << size.shift()) / SECTOR,
            in_block: size.bytes() - 1,
        })
    }

    /// The part of `blocks` blocks from block `first` of this extent on. `None` unless it lies inside.
    pub fn part(&self, first: u64, blocks: u64) -> Option<Self> {
        let inside = blocks > 0 && first < self.blocks && blocks <= self.blocks - first;
        inside.then(|| {
            let bytes = blocks << self.block_size().shift();
            Self { first: self.first + first, blocks, bytes, sectors: bytes / SECTOR, ..*self }
        })
    }

    /// The namespace it lies in.
    pub fn namespace(&self) -> Namespace {
        self.unit.namespace()
    }

    /// Its first block, counted from the start of the namespace.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Its length in blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The size of its blocks.
    #[inline]
    pub fn block_size(&self) -> BlockSize {
        self.unit.size()
    }

    /// Whether the two have a block in common.
    pub fn overlaps(&self, other: &Extent) -> bool {
        self.namespace() == other.namespace()
            && self.first < other.first + other.blocks
            && other.first < self.first + self.blocks
    }

    /// Whether all of the other lies in it, counted in the same blocks.
    pub fn contains(&self, other: &Extent) -> bool {
        self.unit == other.unit
            && self.first <= other.first
            && other.first - self.first <= self.blocks
            && other.blocks <= self.blocks - (other.first - self.first)
    }

    /// Confines a request of `bytes` bytes at 512-byte sector `sector` of this extent. This is the one place
    /// where an [`LbaRange`] is made.
    #[inline(always)]
    pub fn confine(&self, sector: u64, bytes: u64) -> Result<LbaRange, NotConfined> {
        if bytes == 0 {
            return Err(NotConfined::Empty);
        }
        // Below the extent's length, so its address in bytes does not wrap.
        if sector >= self.sectors {
            return Err(NotConfined::Outside);
        }
        let start = sector * SECTOR;
        if bytes > self.bytes - start {
            return Err(NotConfined::Outside);
        }
        if (start | bytes) & self.in_block != 0 {
            return Err(NotConfined::Misaligned);
        }
        let shift = self.block_size().shift();
        Ok(LbaRange { unit: self.unit, first: self.first + (start >> shift), bytes })
    }

    /// As [`confine`](Self::confine), for a request that is whole sectors and may be parts of blocks: the blocks around it,
    /// which are inside the extent as it is, since that is whole blocks.
    pub fn cover(&self, sector: u64, bytes: u64) -> Result<Cover, NotConfined> {
        let start = sector.checked_mul(SECTOR).ok_or(NotConfined::Outside)?;
        let end = start.checked_add(bytes).ok_or(NotConfined::Outside)?;
        if bytes == 0 {
            return Err(NotConfined::Empty);
        }
        if !bytes.is_multiple_of(SECTOR) {
            return Err(NotConfined::Misaligned);
        }
        let block = self.block_size().bytes();
        let skip = start % block;
        let end = end.checked_next_multiple_of(block).ok_or(NotConfined::Outside)?;
        let place = self.confine((start - skip) / SECTOR, end - (start - skip))?;
        Ok(Cover { place, skip: skip as u32 })
    }
}

/// The whole blocks around a request that may begin and end inside of blocks.
#[derive(PartialEq, Eq, Debug)]
pub struct Cover {
    /// The blocks. The request touches each of them.
    pub place: LbaRange,
    /// How many bytes of the first are before the request.
    pub skip: u32,
}

/// Proof of place. Having this value tells you that its blocks are whole, at least one, and inside the extent that confined them, and so in what
/// the session was given. It does not tell you that the disk is still that large: the controller sees to that.
///
/// Only [`Extent::confine`] makes it. Neither copied nor kept: one command uses it up.
#[derive(PartialEq, Eq, Debug)]
pub struct LbaRange {
    unit: Unit,
    first: u64,
    /// Whole blocks.
    bytes: u64,
}

impl LbaRange {
    /// The namespace.
    #[inline(always)]
    pub fn namespace(&self) -> Namespace {
        self.unit.namespace()
    }

    /// The first block, counted from the start of the namespace.
    #[inline]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The number of blocks; at least 1.
    #[inline]
    pub fn blocks(&self) -> u64 {
        self.bytes >> self.unit.size().shift()
    }

    /// The number of bytes.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The size of a block.
    #[inline]
    pub fn block_size(&self) -> BlockSize {
        self.unit.size()
    }

    /// Divides it after `blocks` blocks; hands it back when a side would be empty.
    pub fn split_at(self, blocks: u64) -> Result<(LbaRange, LbaRange), LbaRange> {
        if blocks == 0 || blocks >= self.blocks() {
            return Err(self);
        }
        let Self { unit, first, bytes: all } = self;
        // Less than all, so it does not wrap.
        let bytes = blocks << unit.size().shift();
        Ok((Self { unit, first, bytes }, Self { unit, first: first + blocks, bytes: all - bytes }))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NS: Namespace = Namespace { controller: 0, nsid: 1 };

    fn part(first: u64, blocks: u64, size: BlockSize) -> Extent {
        Extent::whole(NS, 1 << 20, size).unwrap().part(first, blocks).unwrap()
    }

    #[test]
    fn a_request_at_over_and_across_the_end_is_refused() {
        let e = part(100, 8, BlockSize::B512);
        assert!(e.confine(7, 512).is_ok());
        assert_eq!(e.confine(8, 512), Err(NotConfined::Outside));
        assert_eq!(e.confine(7, 1024), Err(NotConfined::Outside));
        assert_eq!(e.confine(0, 8 * 512 + 512), Err(NotConfined::Outside));
        assert_eq!(e.confine(0, 0), Err(NotConfined::Empty));
    }

    #[test]
    fn a_sector_whose_byte_address_wraps_is_refused() {
        let e = part(0, 8, BlockSize::B512);
        assert_eq!(e.confine(1 << 55, 512), Err(NotConfined::Outside));
        assert_eq!(e.confine(u64::MAX, u64::MAX), Err(NotConfined::Outside));
        assert_eq!(e.confine(1, u64::MAX), Err(NotConfined::Outside));
    }

    #[test]
    fn large_blocks_are_addressed_whole() {
        let e = part(10, 2, BlockSize::B4096);
        assert_eq!(e.confine(1, 4096), Err(NotConfined::Misaligned));
        assert_eq!(e.confine(0, 512), Err(NotConfined::Misaligned));
        let r = e.confine(8, 4096).unwrap();
        assert_eq!((r.first(), r.blocks(), r.bytes()), (11, 1, 4096));
    }

    #[test]
    fn parts_of_blocks_are_covered_by_whole_ones_of_the_extent() {
        let e = part(10, 2, BlockSize::B4096);
        let cover =
            |sector, bytes| e.cover(sector, bytes).map(|c| (c.place.first(), c.place.blocks(), c.skip));
        assert_eq!(cover(0, 512), Ok((10, 1, 0)));
        assert_eq!(cover(15, 512), Ok((11, 1, 7 * 512)));
        assert_eq!(cover(7, 1024), Ok((10, 2, 7 * 512)));
        assert_eq!(cover(0, 8192), Ok((10, 2, 0)));
        for (sector, bytes) in
            [(16, 512), (15, 1024), (0, 8192 + 512), (1 << 55, 512), (u64::MAX, 512), (1, u64::MAX - 511)]
        {
            assert_eq!(cover(sector, bytes), Err(NotConfined::Outside), "{sector} {bytes}");
        }
        assert_eq!(cover(0, 0), Err(NotConfined::Empty));
        assert_eq!(
            (cover(0, 511), cover(1, 4095)),
            (Err(NotConfined::Misaligned), Err(NotConfined::Misaligned))
        );
    }

    #[test]
    fn a_part_never_reaches_outside_its_whole() {
        let e = part(100, 8, BlockSize::B512);
        assert!(e.part(8, 1).is_none() && e.part(0, 9).is_none() && e.part(1, u64::MAX).is_none());
        assert!(e.part(0, 0).is_none() && e.part(7, 1).is_some());
        assert!(Extent::whole(NS, u64::MAX, BlockSize::B512).is_none());
    }

    #[test]
    fn neighbours_do_not_overlap() {
        let (a, b, c) =
            (part(0, 8, BlockSize::B512), part(8, 8, BlockSize::B512), part(7, 2, BlockSize::B512));
        assert!(!a.overlaps(&b) && !b.overlaps(&a) && a.overlaps(&c) && c.overlaps(&b) && a.overlaps(&a));
    }

    #[test]
    fn a_split_keeps_every_block_once() {
        let r = part(100, 8, BlockSize::B512).confine(0, 4096).unwrap();
        let r = r.split_at(0).unwrap_err().split_at(8).unwrap_err();
        let (a, b) = r.split_at(3).unwrap();
        assert_eq!((a.first(), a.blocks(), b.first(), b.blocks()), (100, 3, 103, 5));
    }
    fn block_size() -> impl Strategy<Value = BlockSize> {
        prop_oneof![Just(BlockSize::B512), Just(BlockSize::B4096)]
    }

    /// Small numbers, numbers near the powers of two at which something wraps, and any others.
    fn number() -> impl Strategy<Value = u64> {
        let edge = (0..=64u32, -3..=3i64)
            .prop_map(|(shift, off)| 1u64.checked_shl(shift).unwrap_or(0).wrapping_add_signed(off));
        prop_oneof![0..=64u64, edge, any::<u64>()]
    }

    /// A whole namespace, and perhaps a part of it.
    fn extent() -> impl Strategy<Value = Extent> {
        (number(), block_size(), number(), number()).prop_filter_map(
            "no extent",
            |(blocks, size, first, count)| {
                let whole = Extent::whole(NS, blocks, size)?;
                Some(whole.part(first % blocks, count).unwrap_or(whole))
            },
        )
    }

    /// Computed wide enough that nothing wraps.
    fn bytes_of(first: u64, blocks: u64, size: BlockSize) -> core::ops::Range<u128> {
        let at = |block: u128| block << size.shift();
        at(first.into())..at(u128::from(first) + u128::from(blocks))
    }

    proptest! {
        #[test]
        fn what_is_confined_is_what_was_asked_and_lies_inside(e in extent(), sector in number(), bytes in number()) {
            let outer = bytes_of(e.first(), e.blocks(), e.block_size());
            let start = outer.start + u128::from(sector) * u128::from(SECTOR);
            let asked = start..start + u128::from(bytes);
            let aligned = (asked.start | asked.end) % u128::from(e.block_size().bytes()) == 0;
            let inside = asked.end <= outer.end;
            match e.confine(sector, bytes) {
                Ok(range) => {
                    prop_assert_eq!(bytes_of(range.first(), range.blocks(), range.block_size()), asked);
                    prop_assert!(inside && range.blocks() > 0 && range.bytes() == bytes);
                }
                Err(NotConfined::Empty) => prop_assert_eq!(bytes, 0),
                Err(NotConfined::Outside) => prop_assert!(!inside || start >= outer.end),
                Err(NotConfined::Misaligned) => prop_assert!(!aligned),
            }
        }

        #[test]
        fn a_request_inside_is_never_refused(e in extent(), at in any::<u64>(), count in any::<u64>()) {
            let first = at % e.blocks();
            let blocks = 1 + count % (e.blocks() - first);
            let shift = e.block_size().shift();
            let range = e.confine((first << shift) / SECTOR, blocks << shift);
            prop_assert_eq!(range.map(|r| (r.first(), r.blocks())), Ok((e.first() + first, blocks)));
        }

        #[test]
        fn parts_of_parts_stay_inside(e in extent(), first in number(), blocks in number(), again in number()) {
            if let Some(part) = e.part(first, blocks) {
                prop_assert_eq!((part.first(), part.blocks()), (e.first() + first, blocks));
                let (inner, outer) = (bytes_of(part.first(), blocks, e.block_size()), bytes_of(e.first(), e.blocks(), e.block_size()));
                prop_assert!(outer.start <= inner.start && inner.end <= outer.end && part.overlaps(&e) && e.overlaps(&part));
                if let Some(part) = part.part(again, 1) {
                    prop_assert!(again < blocks && part.overlaps(&e));
                }
            } else {
                prop_assert!(blocks == 0 || u128::from(first) + u128::from(blocks) > u128::from(e.blocks()));
            }
        }

        #[test]
        fn overlap_is_a_block_in_common(a in (0..20u64, 1..20u64), b in (0..20u64, 1..20u64)) {
            let whole = Extent::whole(NS, 40, BlockSize::B512).unwrap();
            let other = Extent::whole(Namespace { nsid: 2, ..NS }, 40, BlockSize::B512).unwrap();
            let common = (a.0..a.0 + a.1).any(|block| (b.0..b.0 + b.1).contains(&block));
            let (x, y) = (whole.part(a.0, a.1).unwrap(), whole.part(b.0, b.1).unwrap());
            prop_assert_eq!((x.overlaps(&y), y.overlaps(&x)), (common, common));
            prop_assert!(!x.overlaps(&other.part(b.0, b.1).unwrap()));
        }

        #[test]
        fn pieces_join_to_the_whole(e in extent(), cut in number()) {
            let (first, blocks) = (e.first(), e.blocks());
            let Ok(range) = e.confine(0, e.bytes()) else { return Err(TestCaseError::fail("whole extent refused")) };
            match range.split_at(cut) {
                Ok((a, b)) => {
                    prop_assert_eq!((a.first(), a.blocks(), b.first()), (first, cut, first + cut));
                    prop_assert!(b.blocks() > 0 && a.blocks() + b.blocks() == blocks);
                }
                Err(range) => {
                    prop_assert_eq!((range.first(), range.blocks()), (first, blocks));
                    prop_assert!(cut == 0 || cut >= blocks);
                }
            }
        }
    }
}
