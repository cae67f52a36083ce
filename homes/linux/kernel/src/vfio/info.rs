//! Answers with capabilities: a chain of (identifier, version, next) headers in one buffer.

use vfio_bindings::bindings::vfio;

/// Most entries of a list in a capability that are looked at.
const LIST_MAX: usize = 4096;

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_ne_bytes(word.try_into().ok()?))
}

/// The capabilities of an answer: identifier and bytes after the header. A chain that goes back ends there.
struct Chain<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl<'a> Iterator for Chain<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.next;
        if at == 0 {
            return None;
        }
        let head = u32_at(self.bytes, at)?;
        let next = u32_at(self.bytes, at.checked_add(4)?)? as usize;
        let body = self.bytes.get(at.checked_add(8)?..)?;
        self.next = if next > at { next } else { 0 };
        Some(((head & 0xffff) as u16, body))
    }
}

/// The 64-bit pairs of a capability: their number, a reserved word, then the pairs.
fn pairs(body: &[u8]) -> impl Iterator<Item = (u64, u64)> + '_ {
    let count = u32_at(body, 0).map_or(0, |count| (count as usize).min(LIST_MAX));
    (0..count).map_while(move |i| Some((u64_at(body, 8 + 16 * i)?, u64_at(body, 16 + 16 * i)?)))
}

/// What VFIO_IOMMU_GET_INFO says of a type 1 IOMMU.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct IommuInfo {
    /// Page sizes, as a mask; 0 when it does not say.
    pub(super) page_sizes: u64,
    /// Bus addresses that can be used, first and last; `None` when it does not say.
    pub(super) ranges: Option<Vec<(u64, u64)>>,
}

/// Bytes of the answer without capabilities.
pub(super) const IOMMU_INFO: usize = size_of::<vfio::vfio_iommu_type1_info>();
const _: () = assert!(IOMMU_INFO == 24);

impl IommuInfo {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let flags = u32_at(bytes, 4).unwrap_or(0);
        let sizes = u64_at(bytes, 8).filter(|_| flags & vfio::VFIO_IOMMU_INFO_PGSIZES != 0);
        let first = u32_at(bytes, 16).filter(|_| flags & vfio::VFIO_IOMMU_INFO_CAPS != 0);
        let mut chain = Chain { bytes, next: first.unwrap_or(0) as usize };
        let ranges = chain.find(|(id, _)| u32::from(*id) == vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE);
        Self { page_sizes: sizes.unwrap_or(0), ranges: ranges.map(|(_, body)| pairs(body).collect()) }
    }
}

/// What VFIO_DEVICE_GET_REGION_INFO says of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RegionInfo {
    /// Bytes.
    pub(super) size: u64,
    /// Where it lies in the device's descriptor.
    pub(super) offset: u64,
    /// How many bytes from its beginning can be mapped.
    pub(super) mappable: u64,
}

/// Bytes of the answer without capabilities.
pub(super) const REGION_INFO: usize = size_of::<vfio::vfio_region_info>();
const _: () = assert!(REGION_INFO == 32);

impl RegionInfo {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let flags = u32_at(bytes, 4)?;
        let (size, offset) = (u64_at(bytes, 16)?, u64_at(bytes, 24)?);
        let first = u32_at(bytes, 12).filter(|_| flags & vfio::VFIO_REGION_INFO_FLAG_CAPS != 0);
        let mut chain = Chain { bytes, next: first.unwrap_or(0) as usize };
        let sparse = chain.find(|(id, _)| u32::from(*id) == vfio::VFIO_REGION_INFO_CAP_SPARSE_MMAP);
        let mappable = match sparse {
            _ if flags & vfio::VFIO_REGION_INFO_FLAG_MMAP == 0 => 0,
            None => size,
            Some((_, body)) => pairs(body).find(|(at, _)| *at == 0).map_or(0, |(_, len)| len.min(size)),
        };
        Some(Self { size, offset, mappable })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    fn long(value: u64) -> [u32; 2] {
        [value as u32, (value >> 32) as u32]
    }

    /// An IOMMU's answer with one capability of another kind before the ranges.
    fn iommu(ranges: &[(u64, u64)], next_of_last: u32) -> Vec<u8> {
        let mut all = vec![0, 3, 0x4020_1000, 0, 24, 0];
        all.extend([3 | 1 << 16, 36, 77]);
        all.extend([1 | 1 << 16, next_of_last, ranges.len() as u32, 0]);
        all.extend(ranges.iter().flat_map(|(a, b)| [long(*a), long(*b)]).flatten());
        words(&all)
    }

    #[test]
    fn ranges_are_found_behind_other_capabilities() {
        let ranges = [(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)];
        let info = IommuInfo::parse(&iommu(&ranges, 0));
        assert_eq!(info, IommuInfo { page_sizes: 0x4020_1000, ranges: Some(ranges.to_vec()) });
    }

    #[test]
    fn a_chain_that_goes_back_or_outside_ends() {
        for next in [24, 36, 8, 0xffff_fff0, u32::MAX] {
            // The last capability is of a kind that nobody looks for.
            let mut bytes = iommu(&[(0, 1)], next);
            bytes[36] = 9;
            assert_eq!(IommuInfo::parse(&bytes).ranges, None, "{next:#x}");
        }
    }

    #[test]
    fn a_list_longer_than_the_answer_is_cut() {
        let mut bytes = iommu(&[(0, 1), (2, 3)], 0);
        bytes[44..48].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(IommuInfo::parse(&bytes).ranges, Some(vec![(0, 1), (2, 3)]));
        bytes.truncate(bytes.len() - 1);
        assert_eq!(IommuInfo::parse(&bytes).ranges, Some(vec![(0, 1)]));
    }

    #[test]
    fn without_its_flag_a_capability_is_no_capability() {
        let mut bytes = iommu(&[(0, 1)], 0);
        bytes[4] = 0;
        assert_eq!(IommuInfo::parse(&bytes), IommuInfo::default());
    }

    #[test]
    fn a_region_is_mapped_where_the_kernel_lets_us() {
        let plain = |flags: u32| {
            let mut all = vec![32, flags, 0, 0];
            all.extend(long(0x4000));
            all.extend(long(0x1000_0000_0000));
            all
        };
        let parse = |all: &[u32]| RegionInfo::parse(&words(all)).unwrap();
        let region = |mappable| RegionInfo { size: 0x4000, offset: 0x1000_0000_0000, mappable };
        assert_eq!(parse(&plain(7)), region(0x4000));
        assert_eq!(parse(&plain(3)), region(0));
        let mut sparse = plain(15);
        sparse[3] = 32;
        sparse.extend([1 | 1 << 16, 0, 2, 0]);
        sparse.extend([long(0x3000), long(0x1000), long(0), long(0x2000)].concat());
        assert_eq!(parse(&sparse), region(0x2000));
        assert_eq!(RegionInfo::parse(&[0; 31]), None);
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_parsing_ends(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = bytes;
            for flags in [0xff, 0] {
                if let Some(byte) = bytes.get_mut(4) {
                    *byte = flags;
                }
                let info = IommuInfo::parse(&bytes);
                prop_assert!(info.ranges.unwrap_or_default().len() <= bytes.len() / 16);
                if let Some(region) = RegionInfo::parse(&bytes) {
                    prop_assert!(region.mappable <= region.size);
                }
            }
        }
    }
}
