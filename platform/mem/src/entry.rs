//! Entries of 16 bytes, two words each: descriptors and completions.
#![expect(unsafe_code, reason = "reads and writes entries of shared memory as pairs of atomics")]

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::{OutOfBounds, Window};

/// Length of an entry in bytes.
const ENTRY: usize = 16;

/// A table of entries in a window: checked once, when it is made. It may be written by others all the time.
#[derive(Clone, Copy)]
pub struct Entries<'w> {
    base: NonNull<u64>,
    count: u32,
    window: PhantomData<&'w Window>,
    /// Whose they are.
    #[cfg(debug_assertions)]
    reader: Option<&'w Window>,
}

impl Entries<'_> {
    /// A table without entries.
    pub const EMPTY: Self = Self {
        base: NonNull::dangling(),
        count: 0,
        window: PhantomData,
        #[cfg(debug_assertions)]
        reader: None,
    };

    /// The table of `count` entries from `base` on. For tables that were checked before.
    #[inline(always)]
    #[cfg_attr(
        not(debug_assertions),
        expect(unused_variables, reason = "only builds that assert look at it")
    )]
    pub(crate) fn checked(base: NonNull<u64>, count: u32, window: &Window) -> Entries<'_> {
        Entries {
            base,
            count,
            window: PhantomData,
            #[cfg(debug_assertions)]
            reader: Some(window),
        }
    }

    /// As [`get`](Self::get), the second word as two halves.
    #[inline(always)]
    pub fn get_parts(&self, index: u32) -> Option<(u64, [u32; 2])> {
        if index >= self.count {
            return None;
        }
        // SAFETY: M2: `count` entries from `base` on were checked, and `index` is below `count`. M1: the window is borrowed.
        let at = unsafe { self.base.add(2 * index as usize) };
        // SAFETY: M1, M2; `base` is a multiple of eight. M4: any words are an entry, and each is read once.
        let first = unsafe { at.read_volatile() };
        // SAFETY: M2: the entry's second word.
        let at = unsafe { at.add(1) }.cast::<u32>();
        // SAFETY: as for the first.
        let second = unsafe { at.read_volatile() };
        // SAFETY: M2: the second half of that word.
        let at = unsafe { at.add(1) };
        // SAFETY: as for the first.
        let third = unsafe { at.read_volatile() };
        #[cfg(debug_assertions)]
        if let Some(window) = self.reader {
            // SAFETY: M2: the entry's first word, again.
            window.was_read(unsafe { at.sub(3) }.cast(), ENTRY);
        }
        Some((first, [second, third]))
    }

    /// Entry `index` as two words, each read once; `None` behind the end.
    #[inline(always)]
    pub fn get(&self, index: u32) -> Option<[u64; 2]> {
        if index >= self.count {
            return None;
        }
        // SAFETY: M2: `count` entries from `base` on were checked, and `index` is below `count`. M1: the window is borrowed.
        let at = unsafe { self.base.add(2 * index as usize) };
        // SAFETY: M1, M2; `base` is a multiple of eight. M4: any two words are an entry, and each is read once.
        let first = unsafe { at.read_volatile() };
        // SAFETY: M2: the entry's second word.
        let at = unsafe { at.add(1) };
        // SAFETY: as for the first.
        let second = unsafe { at.read_volatile() };
        #[cfg(debug_assertions)]
        if let Some(window) = self.reader {
            // SAFETY: M2: the entry's first word, again.
            window.was_read(unsafe { at.sub(1) }.cast(), ENTRY);
        }
        Some([first, second])
    }
}

impl Window {
    /// The table of `count` entries at `offset`, whose address must be a multiple of eight.
    #[inline(always)]
    pub fn entries(&self, offset: usize, count: u32) -> Result<Entries<'_>, OutOfBounds> {
        let base = self.at_known(offset, ENTRY * count as usize)?.cast::<u64>();
        if base.is_aligned() { Ok(Entries::checked(base, count, self)) } else { Err(OutOfBounds) }
    }

    #[inline(always)]
    fn halves(&self, offset: usize) -> Result<[&AtomicU64; 2], OutOfBounds> {
        let first = self.at(offset, ENTRY)?.cast::<AtomicU64>();
        if !first.is_aligned() {
            return Err(OutOfBounds);
        }
        // SAFETY: M2: the entry's 16 bytes were checked.
        let second = unsafe { first.add(1) };
        // SAFETY: M1, M2, and aligned. M3, M4: a reference to an atomic excludes no other writer.
        let first = unsafe { first.as_ref() };
        // SAFETY: as for the first.
        let second = unsafe { second.as_ref() };
        Ok([first, second])
    }

    /// Loads an entry whose writer writes its second half last: what came before that is visible afterwards.
    #[inline(always)]
    pub fn load_entry(&self, offset: usize) -> Result<[u64; 2], OutOfBounds> {
        let [first, second] = self.halves(offset)?;
        let last = u64::from_le(second.load(Ordering::Acquire));
        Ok([u64::from_le(first.load(Ordering::Relaxed)), last])
    }

    /// Stores an entry, its second half last: who acquires that sees what we wrote before.
    #[inline(always)]
    pub fn store_entry(&self, offset: usize, entry: [u64; 2]) -> Result<(), OutOfBounds> {
        let [first, second] = self.halves(offset)?;
        first.store(entry[0].to_le(), Ordering::Relaxed);
        second.store(entry[1].to_le(), Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap;

    #[test]
    fn a_table_ends_where_its_window_does() {
        let w = heap(64).unwrap();
        for i in 0..8 {
            w.write_value(i * 8, &(i as u64)).unwrap();
        }
        let table = w.entries(16, 3).unwrap();
        let got: [_; 4] = core::array::from_fn(|i| table.get(i as u32));
        assert_eq!(got, [Some([2, 3]), Some([4, 5]), Some([6, 7]), None]);
        assert!(table.get(u32::MAX).is_none() && Entries::EMPTY.get(0).is_none());
        w.write_value(40, &0x7000_0003_0000_0002_u64.to_le()).unwrap();
        let [two, three] = [2, 0x7000_0003].map(u32::to_le);
        assert_eq!(table.get_parts(1), Some((4, [two, three])));
        assert!(
            table.get_parts(3).is_none()
                && table.get_parts(u32::MAX).is_none()
                && Entries::EMPTY.get_parts(0).is_none()
        );
        assert!(w.entries(16, 4).is_err() && w.entries(4, 1).is_err() && w.entries(0, u32::MAX).is_err());
        assert!(w.entries(64, 0).is_ok_and(|t| t.get(0).is_none()));
    }

    #[test]
    fn an_entry_is_stored_whole_or_not_at_all() {
        let w = heap(64).unwrap();
        w.store_entry(48, [7, 9]).unwrap();
        assert_eq!((w.load_entry(48), w.load32(56)), (Ok([7, 9]), Ok(9)));
        for at in [4, 56, 64, usize::MAX - 7] {
            assert!(w.store_entry(at, [1, 1]).is_err() && w.load_entry(at).is_err());
        }
        assert_eq!(w.load_entry(48), Ok([7, 9]));
    }
}
