//! Bus addresses: what is free of the ranges that the IOMMU has.

use std::collections::BTreeMap;

use nvme_platform::PAGE;

const PAGE_BYTES: u64 = PAGE as u64;

/// What an IOMMU that does not say its ranges has, for x86: 39 bits without the window of interrupts.
pub(super) const USUAL: [(u64, u64); 2] = [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 39) - 1)];

/// Free bus addresses, in whole pages. Address 0 is never among them: it stands for "none" in too many places.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct FreeRanges {
    /// First address → address after the last.
    free: BTreeMap<u64, u64>,
}

impl FreeRanges {
    /// All of the ranges (first and last address). They may overlap, be upside down, or begin anywhere in a page.
    pub(super) fn new(ranges: &[(u64, u64)]) -> Self {
        let mut sorted: Vec<(u64, u64)> = ranges
            .iter()
            .filter_map(|(first, last)| {
                let start = first.checked_next_multiple_of(PAGE_BYTES)?.max(PAGE_BYTES);
                let end = last.saturating_add(1) & !(PAGE_BYTES - 1);
                (start < end).then_some((start, end))
            })
            .collect();
        sorted.sort_unstable();
        let mut free: BTreeMap<u64, u64> = BTreeMap::new();
        for (start, end) in sorted {
            match free.last_entry() {
                Some(mut last) if start <= *last.get() => {
                    let end = end.max(*last.get());
                    last.insert(end);
                }
                _ => {
                    free.insert(start, end);
                }
            }
        }
        Self { free }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes `len` bytes, a multiple of the page, that begin as far after a multiple of `align`, a power of two, as
    /// `like` does. The lowest that fit.
    pub(super) fn take(&mut self, len: u64, align: u64, like: u64) -> Option<u64> {
        if len == 0 || !len.is_multiple_of(PAGE_BYTES) || !align.is_power_of_two() || align < PAGE_BYTES {
            return None;
        }
        let phase = like & (align - 1) & !(PAGE_BYTES - 1);
        let (start, end, at) = self.free.iter().find_map(|(&start, &end)| {
            let at = start.saturating_sub(phase).checked_next_multiple_of(align)?.checked_add(phase)?;
            (at.checked_add(len)? <= end).then_some((start, end, at))
        })?;
        self.free.remove(&start);
        if start < at {
            self.free.insert(start, at);
        }
        if at + len < end {
            self.free.insert(at + len, end);
        }
        Some(at)
    }

    /// The ranges: first address, and bytes.
    pub(super) fn each(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.free.iter().map(|(start, end)| (*start, end - start))
    }

    /// Takes these addresses, if all of them are free, and whole pages.
    pub(super) fn remove(&mut self, at: u64, len: u64) -> bool {
        let whole = len > 0 && at.is_multiple_of(PAGE_BYTES) && len.is_multiple_of(PAGE_BYTES);
        let Some(end) = at.checked_add(len).filter(|_| whole) else { return false };
        let around = self.free.range(..=at).next_back().map(|(start, ends)| (*start, *ends));
        let Some((start, ends)) = around.filter(|(_, ends)| end <= *ends) else { return false };
        self.free.remove(&start);
        if start < at {
            self.free.insert(start, at);
        }
        if end < ends {
            self.free.insert(end, ends);
        }
        true
    }

    /// Gives back what [`take`](Self::take) or [`remove`](Self::remove) took.
    pub(super) fn give(&mut self, at: u64, len: u64) {
        let (mut start, mut end) = (at, at.saturating_add(len));
        if let Some((&before, &ends)) = self.free.range(..start).next_back()
            && ends >= start
        {
            (start, end) = (before, end.max(ends));
        }
        if let Some(ends) = self.free.remove(&end) {
            end = ends;
        }
        self.free.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_window_of_interrupts_is_left_out() {
        let mut ranges = FreeRanges::new(&USUAL);
        assert_eq!(ranges.take(0xfec0_0000, 2 * MIB, 0), Some(2 * MIB));
        assert_eq!(ranges.take(2 * MIB, 2 * MIB, 0), Some(0xff00_0000), "the last two MiB end in the window");
        assert_eq!(ranges.take(MIB, PAGE_BYTES, 0), Some(PAGE_BYTES));
        assert_eq!(ranges.take(1 << 39, PAGE_BYTES, 0), None);
    }

    #[test]
    fn a_range_begins_in_its_large_page_where_its_memory_does() {
        let mut ranges = FreeRanges::new(&USUAL);
        // As the second region of an ordinary machine: 768 KiB into its file.
        assert_eq!(ranges.take(3 << 30, 1 << 30, 0x7f12_400c_0000), Some(0x000c_0000));
        let mut ranges = FreeRanges::new(&USUAL);
        assert_eq!(ranges.take(4 * MIB, 2 * MIB, 0x7f12_401f_f000), Some(0x001f_f000));
        assert_eq!(ranges.take(4 * MIB, 2 * MIB, 0x7f12_401f_f000), Some(0x005f_f000));
        assert_eq!(ranges.take(4 * MIB, 2 * MIB, 0), Some(0x00a0_0000));
        // Address 0 is nobody's.
        assert_eq!(FreeRanges::new(&USUAL).take(2 * MIB, 2 * MIB, 0), Some(2 * MIB));
        assert_eq!(FreeRanges::new(&[(0, 3 * MIB)]).take(2 * MIB, 2 * MIB, 1 << 20), Some(MIB));
        assert_eq!(FreeRanges::new(&[(0, 3 * MIB - 1)]).take(2 * MIB, 2 * MIB, MIB + 4096), None);
    }

    #[test]
    fn odd_ranges_are_made_whole_pages() {
        let ranges = FreeRanges::new(&[(9, 8191), (5, 1), (0x3001, 0x5fff), (0x5000, 0x6fff), (7, 7)]);
        assert_eq!(ranges, FreeRanges::new(&[(4096, 8191), (0x4000, 0x6fff)]));
        assert!(FreeRanges::new(&[(0, 4095), (u64::MAX, 0)]).is_empty());
        assert!(!FreeRanges::new(&[(0, u64::MAX)]).is_empty());
    }

    #[test]
    fn what_is_given_back_joins_its_neighbours() {
        let all = FreeRanges::new(&[(0, 16 * MIB - 1)]);
        let mut ranges = all.clone();
        let taken: Vec<u64> = (0..5).map(|_| ranges.take(2 * MIB, 2 * MIB, 0).unwrap()).collect();
        for i in [1, 3, 2, 0, 4] {
            ranges.give(taken[i], 2 * MIB);
        }
        assert_eq!(ranges, all);
    }

    #[test]
    fn addresses_are_taken_out_once_and_only_where_all_are_free() {
        let all = FreeRanges::new(&[(0, 4 * MIB - 1), (8 * MIB, 9 * MIB - 1)]);
        let mut ranges = all.clone();
        for (at, len) in [
            (0, PAGE_BYTES),
            (3 * MIB, 2 * MIB),
            (5 * MIB, PAGE_BYTES),
            (MIB, 0),
            (MIB, !(PAGE_BYTES - 1)),
            (MIB, 9),
            (MIB + 1, PAGE_BYTES),
        ] {
            assert!(!ranges.remove(at, len), "{at:#x} {len:#x}");
        }
        assert!(
            ranges.remove(MIB, MIB) && !ranges.remove(MIB, PAGE_BYTES) && ranges.remove(2 * MIB, 2 * MIB)
        );
        assert!(ranges.remove(8 * MIB, MIB));
        assert_eq!(ranges.each().collect::<Vec<_>>(), [(PAGE_BYTES, MIB - PAGE_BYTES)]);
        assert_eq!(ranges.take(MIB, PAGE_BYTES, 0), None);
        for (at, len) in [(8 * MIB, MIB), (MIB, MIB), (2 * MIB, 2 * MIB)] {
            ranges.give(at, len);
        }
        assert_eq!(ranges, all);
    }

    #[test]
    fn lengths_that_are_no_pages_are_refused() {
        let mut ranges = FreeRanges::new(&USUAL);
        for (len, align) in
            [(0, PAGE_BYTES), (1, PAGE_BYTES), (PAGE_BYTES, 3), (!(PAGE_BYTES - 1), PAGE_BYTES)]
        {
            assert_eq!(ranges.take(len, align, 0), None);
            assert_eq!(ranges.take(len, align, u64::MAX), None);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_given_twice_or_outside(steps in proptest::collection::vec((1u64..600, 0u32..3, any::<u64>(), any::<bool>()), 1..80)) {
            let ranges = [(0u64, 3 * MIB - 1), (4 * MIB, 9 * MIB - 1)];
            let all = FreeRanges::new(&ranges);
            let mut free = all.clone();
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (pages, shift, like, give) in steps {
                if give && !held.is_empty() {
                    let (at, len) = held.swap_remove(pages as usize % held.len());
                    free.give(at, len);
                } else if let Some(at) = free.take(pages * PAGE_BYTES, PAGE_BYTES << (shift * 4), like) {
                    let len = pages * PAGE_BYTES;
                    prop_assert!(at > 0 && (at ^ like) & ((PAGE_BYTES << (shift * 4)) - 1) & !(PAGE_BYTES - 1) == 0);
                    prop_assert!(ranges.iter().any(|(a, b)| *a <= at && at + len - 1 <= *b));
                    prop_assert!(held.iter().all(|(a, l)| at + len <= *a || a + l <= at));
                    held.push((at, len));
                }
            }
            for (at, len) in held {
                free.give(at, len);
            }
            prop_assert_eq!(free, all);
        }
    }
}
