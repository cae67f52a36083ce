//! Tables in a window: rings and queues, whose place is checked once, when they are set up.
#![expect(unsafe_code, reason = "reads and writes entries whose place was checked when their table was made")]

use alloc::alloc::{Layout, handle_alloc_error};
use core::marker::PhantomData;
use core::mem::{align_of, size_of};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{Entries, OutOfBounds, Window, heap};

/// A table of `T`s in a window, at least one. Its place, length and alignment were checked when it was made, so an access checks its index
/// alone. Others may write it all the time.
pub struct Table<T> {
    base: NonNull<T>,
    /// So many `T`s are inside of the window.
    count: u32,
    /// The last index: one less.
    last: u32,
    window: Window,
    items: PhantomData<T>,
}

// SAFETY: M3, M4: no access of one thread through a table assumes that another has none; the window is `Send` and `Sync` itself.
unsafe impl<T> Send for Table<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Table<T> {}

impl<T: FromBytes + IntoBytes + Immutable> Table<T> {
    /// The table of `count` items at `offset`. Refused when it is not inside of the window, is empty, or is not aligned as `T` is.
    pub fn new(window: &Window, offset: usize, count: u32) -> Result<Self, OutOfBounds> {
        let last = count.checked_sub(1).ok_or(OutOfBounds)?;
        let len = size_of::<T>().checked_mul(count as usize).ok_or(OutOfBounds)?;
        let base = window.at(offset, len)?.cast::<T>();
        if !base.is_aligned() {
            return Err(OutOfBounds);
        }
        Ok(Self { base, count, last, window: window.clone(), items: PhantomData })
    }

    /// A table of one item that nobody else sees, and whose memory counts as vanished: what is left where a table was.
    pub fn gone() -> Self {
        const LEN: usize = 4096;
        const { assert!(size_of::<T>() <= LEN && align_of::<T>() <= LEN) };
        let window = heap(LEN).unwrap_or_else(|| handle_alloc_error(Layout::new::<[u8; LEN]>()));
        window.owner().fail();
        let base = window.at(0, size_of::<T>()).map_or(NonNull::dangling(), NonNull::cast);
        Self { base, count: 1, last: 0, window, items: PhantomData }
    }

    /// Whether the memory behind the table vanished ([`Owner::fail`](crate::Owner::fail)).
    #[inline(always)]
    pub fn failed(&self) -> bool {
        self.window.failed()
    }

    /// Where item `index` is.
    #[inline(always)]
    fn at(&self, index: u32) -> Result<NonNull<T>, OutOfBounds> {
        if index >= self.count {
            return Err(OutOfBounds);
        }
        // SAFETY: M2: `new` checked `count` items, and `index` is below that.
        Ok(unsafe { self.base.add(index as usize) })
    }

    /// Where the item is that `index` comes to in a ring of a power of two of them.
    #[inline(always)]
    fn around(&self, index: u32) -> NonNull<T> {
        // SAFETY: M2: `new` checked all items up to `last`, and no bit is left in the index that `last` has not: so it is not above it.
        unsafe { self.base.add((index & self.last) as usize) }
    }

    /// Writes item `index`.
    #[inline(always)]
    pub fn write(&self, index: u32, item: T) -> Result<(), OutOfBounds> {
        let at = self.at(index)?;
        if !self.window.owner().is_spent() {
            // SAFETY: M1, M2, and aligned. M4: others may read meanwhile.
            unsafe { at.write(item) };
        }
        Ok(())
    }

    /// Writes the item that `index` comes to in a ring of a power of two of them.
    #[inline(always)]
    pub fn write_around(&self, index: u32, item: T) {
        if self.window.owner().is_spent() {
            return;
        }
        // SAFETY: M1, M2, and aligned. M4: others may read meanwhile.
        unsafe { self.around(index).write(item) };
    }
}

impl Table<u16> {
    /// Loads the little-endian word that `index` comes to in a ring of a power of two of them.
    #[inline(always)]
    pub fn load_around(&self, index: u32) -> u16 {
        let at = self.around(index).cast::<AtomicU16>();
        // SAFETY: M1, M2, and aligned. M3, M4: a reference to an atomic excludes no other writer.
        let word = unsafe { at.as_ref() }.load(Ordering::Acquire);
        self.window.was_read(at.cast(), 2);
        u16::from_le(word)
    }

    /// Stores the little-endian word that `index` comes to in a ring of a power of two of them; what we wrote before is visible to whoever
    /// acquires it.
    #[inline(always)]
    pub fn store_around(&self, index: u32, word: u16) {
        if self.window.owner().is_spent() {
            return;
        }
        let at = self.around(index).cast::<AtomicU16>();
        // SAFETY: M1, M2, and aligned. M3, M4: a reference to an atomic excludes no other writer.
        unsafe { at.as_ref() }.store(word.to_le(), Ordering::Release);
    }
}

impl Table<[u32; 2]> {
    /// Loads the first word of the item that `index` comes to in a ring of a power of two of them.
    #[inline(always)]
    pub fn load_first_around(&self, index: u32) -> u32 {
        let at = self.around(index).cast::<AtomicU32>();
        // SAFETY: M1, M2, and aligned. M3, M4: a reference to an atomic excludes no other writer.
        u32::from_le(unsafe { at.as_ref() }.load(Ordering::Relaxed))
    }
}

impl<const N: usize> Table<[u64; N]> {
    /// Reads some words of item `index`, each once. Refused when it has no such words.
    #[inline(always)]
    pub fn read_words<const M: usize>(&self, index: u32, which: [usize; M]) -> Result<[u64; M], OutOfBounds> {
        let at = self.at(index)?.cast::<u64>();
        if which.iter().any(|word| *word >= N) {
            return Err(OutOfBounds);
        }
        Ok(which.map(|word| {
            // SAFETY: M2: an item has `N` words, and this is one of them.
            let at = unsafe { at.add(word) };
            // SAFETY: M1, M2, and aligned. M4: any word will do, and it is read once.
            unsafe { at.read_volatile() }
        }))
    }

    /// Reads item `index`, each of its words once.
    #[inline(always)]
    pub fn read(&self, index: u32) -> Result<[u64; N], OutOfBounds> {
        let at = self.at(index)?.cast::<u64>();
        Ok(core::array::from_fn(|word| {
            // SAFETY: M2: an item has so many words.
            let at = unsafe { at.add(word) };
            // SAFETY: M1, M2, and aligned. M4: any word will do, and it is read once.
            unsafe { at.read_volatile() }
        }))
    }
}

impl Table<[u64; 2]> {
    /// All of it, as entries.
    #[inline(always)]
    pub fn entries(&self) -> Entries<'_> {
        // In bounds and aligned: that is what was checked when the table was made.
        Entries::checked(self.base.cast(), self.count, &self.window)
    }

    #[inline(always)]
    fn halves(&self, index: u32) -> Result<[&AtomicU64; 2], OutOfBounds> {
        let first = self.at(index)?.cast::<AtomicU64>();
        // SAFETY: M2: an item has two words.
        let second = unsafe { first.add(1) };
        // SAFETY: M1, M2, and aligned. M3, M4: a reference to an atomic excludes no other writer.
        let first = unsafe { first.as_ref() };
        // SAFETY: as for the first.
        let second = unsafe { second.as_ref() };
        Ok([first, second])
    }

    /// Loads an entry whose writer writes its second half last: what came before that is visible afterwards.
    #[inline(always)]
    pub fn load_entry(&self, index: u32) -> Result<[u64; 2], OutOfBounds> {
        let [first, second] = self.halves(index)?;
        let last = u64::from_le(second.load(Ordering::Acquire));
        Ok([u64::from_le(first.load(Ordering::Relaxed)), last])
    }

    /// Stores an entry, its second half last: who acquires that sees what we wrote before.
    #[inline(always)]
    pub fn store_entry(&self, index: u32, [one, two]: [u64; 2]) -> Result<(), OutOfBounds> {
        let [first, second] = self.halves(index)?;
        if !self.window.owner().is_spent() {
            first.store(one.to_le(), Ordering::Relaxed);
        }
        if !self.window.owner().is_spent() {
            second.store(two.to_le(), Ordering::Release);
        }
        Ok(())
    }

    /// Stores the entry that `index` comes to in a ring of a power of two of them, its first half last: who finds that, if the process ends
    /// between the two, finds the other as well.
    #[inline(always)]
    pub fn store_backwards_around(&self, index: u32, [one, two]: [u64; 2]) {
        let first = self.around(index).cast::<AtomicU64>();
        // SAFETY: M2: an item has two words.
        let second = unsafe { first.add(1) };
        if !self.window.owner().is_spent() {
            // SAFETY: M1, M2, and aligned. M3, M4: a reference to an atomic excludes no other writer.
            unsafe { second.as_ref() }.store(two.to_le(), Ordering::Relaxed);
        }
        if !self.window.owner().is_spent() {
            // SAFETY: as for the second.
            unsafe { first.as_ref() }.store(one.to_le(), Ordering::Release);
        }
    }

    /// For each pair of an index and a word: stores one of the four words of 16 bits that are the first half of the entry that the index comes
    /// to in a ring of a power of two of them. What we wrote before is visible to whoever acquires it.
    #[inline(always)]
    pub fn store_quarters_around<const QUARTER: usize>(&self, words: impl Iterator<Item = (u32, u16)>) {
        const { assert!(QUARTER < 4) };
        // The place of the table is looked up once, not again after each store.
        let (base, last) = (self.base, self.last);
        for (index, word) in words {
            if self.window.owner().is_spent() {
                continue;
            }
            // SAFETY: M2: as `around`.
            let at = unsafe { base.add((index & last) as usize) }.cast::<AtomicU16>();
            // SAFETY: M2: half an item is four of these.
            let at = unsafe { at.add(QUARTER) };
            // SAFETY: M1, M2, and aligned. M3, M4: a reference to an atomic excludes no other writer.
            unsafe { at.as_ref() }.store(word.to_le(), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lies_inside_its_window_and_is_aligned_or_there_is_none() {
        let w = heap(64).unwrap();
        assert!(Table::<[u64; 2]>::new(&w, 16, 3).is_ok() && Table::<[u64; 2]>::new(&w, 16, 4).is_err());
        assert!(Table::<[u64; 2]>::new(&w, 4, 1).is_err() && Table::<u16>::new(&w, 1, 1).is_err());
        assert!(Table::<u16>::new(&w, 0, 0).is_err() && Table::<u16>::new(&w, 64, 1).is_err());
        assert!(Table::<[u64; 8]>::new(&w, 0, u32::MAX).is_err());
        assert!(Table::<[u64; 8]>::new(&w, usize::MAX - 7, 1).is_err());
    }

    #[test]
    fn an_index_behind_the_last_item_is_refused() {
        let w = heap(128).unwrap();
        let table = Table::<[u64; 2]>::new(&w, 16, 3).unwrap();
        table.write(2, [5, 6]).unwrap();
        assert_eq!((table.read(2), table.load_entry(2)), (Ok([5, 6]), Ok([5, 6])));
        table.store_entry(0, [7, 8]).unwrap();
        assert_eq!(w.load_entry(16), Ok([7, 8]));
        for at in [3, u32::MAX] {
            assert!(table.write(at, [1; 2]).is_err() && table.store_entry(at, [1; 2]).is_err());
            assert!(table.read(at).is_err() && table.load_entry(at).is_err());
        }
        assert_eq!((table.read_words(0, [1]), table.read_words(2, [1, 0])), (Ok([8]), Ok([6, 5])));
        assert!(table.read_words(0, [2]).is_err() && table.read_words(3, [0]).is_err());
        assert_eq!((w.load_entry(0), w.load_entry(64)), (Ok([0; 2]), Ok([0; 2])));
        let entries = table.entries();
        assert_eq!([0, 1, 2, 3].map(|i| entries.get(i)), [Some([7, 8]), Some([0; 2]), Some([5, 6]), None]);
    }

    #[test]
    fn a_ring_goes_around_and_never_beyond() {
        let w = heap(64).unwrap();
        let ring = Table::<[u32; 2]>::new(&w, 4, 4).unwrap();
        ring.write_around(6, [1, 2]);
        assert_eq!((w.load32(4 + 16), w.load32(4 + 20)), (Ok(1), Ok(2)));
        let heads = Table::<u16>::new(&w, 20, 8).unwrap();
        assert_eq!((heads.load_around(u32::MAX - 7), heads.load_around(2)), (1, 2));
        // Not a power of two: some items are never reached, and nothing else is.
        let odd = Table::<u16>::new(&w, 0, 3).unwrap();
        for at in 0..64 {
            odd.write_around(at, 9);
        }
        assert_eq!([0, 2, 4, 6].map(|at| w.load16(at)), [Ok(9), Ok(0), Ok(9), Ok(0)]);
    }

    #[test]
    fn parts_of_entries_go_around_as_well() {
        let w = heap(64).unwrap();
        let table = Table::<[u64; 2]>::new(&w, 16, 2).unwrap();
        table.store_backwards_around(3, [1, 2]);
        table.store_quarters_around::<3>([(5, 0xabcd)].into_iter());
        assert_eq!((table.read(0), table.read(1)), (Ok([0; 2]), Ok([0xabcd << 48 | 1, 2])));
        table.store_quarters_around::<0>([(0, 5), (1, 0), (2, 0)].into_iter());
        assert_eq!((w.load_entry(0), w.load_entry(32)), (Ok([0; 2]), Ok([0xabcd << 48, 2])));
        assert_eq!(w.load_entry(48), Ok([0; 2]));
        Table::<u16>::new(&w, 48, 4).unwrap().store_around(6, 9);
        assert_eq!(Table::<[u32; 2]>::new(&w, 48, 2).unwrap().load_first_around(2), 0);
        assert_eq!((w.load16(52), w.load_entry(0)), (Ok(9), Ok([0; 2])));
    }

    #[test]
    fn what_is_left_of_a_table_counts_as_vanished() {
        let gone = Table::<[u64; 8]>::gone();
        assert!(gone.failed() && gone.read(0) == Ok([0; 8]) && gone.read(1).is_err());
    }
}
