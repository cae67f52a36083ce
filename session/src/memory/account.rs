//! Mediation, and the account of what is in flight.

use alloc::vec::Vec;

use nvme_platform::{Iova, Window};

use super::slot::Slot;
use super::{DmaRange, MemoryTable, Quiet, Region, SLOTS_MAX, Segments};
use crate::virtqueue::Buffer;

/// What a request does to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// The device reads it (disk writes).
    Read,
    /// The device writes it (disk reads).
    Write,
}

/// Why memory is not the client's to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotMediated {
    /// It is empty, or its end wraps.
    BadRange,
    /// A byte of it lies in no registered region.
    NotRegistered,
    /// A byte of it lies in a region that may not be written to.
    NotWritable,
}

/// One byte of client memory that the server itself writes later: a request's status. Like a [`DmaRange`] it
/// keeps its region; unlike one it is not for the controller.
#[derive(Debug)]
pub struct Pinned {
    offset: usize,
    slot: u16,
}

/// Bits of a range's mark that are its slot; those above are its account's number.
const SLOT_BITS: u32 = SLOTS_MAX.trailing_zeros();
const _: () = assert!(SLOTS_MAX == 1 << SLOT_BITS);

/// One virtqueue's account of client memory: how many bytes of each region are in flight. A region whose count is
/// not zero stays mapped, even when the table no longer has it.
///
/// A range goes back to the account that made it. The account's number is in the range's mark above the slot, so in any
/// other account the mark names a slot that cannot be: the range is refused there, and counted.
#[derive(Debug, Default)]
pub struct Account {
    slots: Vec<Slot>,
    /// Where the controller finds each of them.
    iovas: Vec<u64>,
    /// Its number, where a mark has it.
    number: u32,
    refused: u64,
}

/// The one place where a [`DmaRange`] is made. So many bytes at the offset lie in the region, at least 1, and it has the right that is
/// needed; the mark and the slot are the region's.
#[inline(always)]
fn prove(region: &Region, mark: u32, slot: &mut Slot, offset: usize, bytes: u32) -> DmaRange {
    slot.hold(bytes);
    DmaRange::mediated(Iova(region.iova.0 + offset as u64), bytes, mark)
}

impl Account {
    /// Nothing is held. Of the number, 22 bits tell this account from others.
    pub fn new(table: &MemoryTable, number: u32) -> Self {
        let mut account = Self::default();
        account.set_number(number);
        account.set_table(table);
        account
    }

    /// Has another number from now on. What is in flight is refused when it comes back, so nothing should be.
    pub(crate) fn set_number(&mut self, number: u32) {
        self.number = number << SLOT_BITS;
    }

    /// How many ranges were refused: another account's.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The slot of a range of this account. A mark of another one is beyond all slots.
    #[inline(always)]
    fn slot_of(&self, range: &DmaRange) -> usize {
        (range.mark() ^ self.number) as usize
    }

    /// From now on, lookups go to `table`; what is in flight stays.
    pub fn set_table(&mut self, table: &MemoryTable) {
        for slot in &mut self.slots {
            slot.list(false);
        }
        for region in table.regions() {
            let index = usize::from(region.slot);
            debug_assert!(index < SLOTS_MAX, "the table checked it");
            if index >= self.slots.len() {
                self.slots.resize_with(index + 1, || Slot::NONE);
                self.iovas.resize(index + 1, 0);
            }
            if let Some((slot, iova)) = self.slots.get_mut(index).zip(self.iovas.get_mut(index)) {
                slot.list(true);
                // A table changes in a region or two, as a rule. A slot that is used again was let go of before.
                if !slot.window.as_ref().is_some_and(|window| window.is(&region.window)) {
                    *iova = region.iova.0;
                    slot.window = Some(region.window.clone());
                }
            }
        }
        for slot in &mut self.slots {
            slot.forget_unless_needed();
        }
    }

    /// Whether anything in flight lies in this region.
    pub fn holds(&self, slot: u16) -> bool {
        self.slots.get(usize::from(slot)).is_some_and(|s| s.held() != 0)
    }

    /// Bytes in flight in all regions.
    pub fn bytes(&self) -> u64 {
        self.slots.iter().map(Slot::held).fold(0, u64::saturating_add)
    }

    /// The region that holds the first of these bytes, when it has the right that is needed; and the offset.
    #[inline(always)]
    fn allowed(table: &MemoryTable, addr: u64, need: Rights) -> Result<(&Region, usize), NotMediated> {
        let (region, offset) = table.find(addr).ok_or(NotMediated::NotRegistered)?;
        if need == Rights::Write && !region.writable {
            return Err(NotMediated::NotWritable);
        }
        Ok((region, offset))
    }

    /// What a region's ranges are marked with, and where they are counted.
    #[inline(always)]
    fn counted(&mut self, region: &Region) -> Result<(u32, &mut Slot), NotMediated> {
        let slot = self.slots.get_mut(usize::from(region.slot)).ok_or(NotMediated::NotRegistered)?;
        Ok((self.number | u32::from(region.slot), slot))
    }

    /// A range of so many bytes at the offset, at least 1: they lie in the region, and it has the right that is needed.
    #[inline(always)]
    fn prove(&mut self, region: &Region, offset: usize, bytes: u32) -> Result<DmaRange, NotMediated> {
        let (mark, slot) = self.counted(region)?;
        Ok(prove(region, mark, slot, offset, bytes))
    }

    /// Checks guest memory of `len` bytes at `addr` against `table` and appends the ranges to `into`: one for each
    /// region it touches, two as a rule at most. On an error, ranges may have been appended; the caller releases them.
    pub fn mediate(
        &mut self,
        table: &MemoryTable,
        addr: u64,
        len: u32,
        need: Rights,
        into: &mut Segments,
    ) -> Result<(), NotMediated> {
        self.mediate_anew(table, addr, len, need, into).map(|_| ())
    }

    /// As [`mediate`](Self::mediate), for all buffers of a request but those of no bytes. What lies in the region of the one before is found
    /// there.
    pub(crate) fn mediate_all(
        &mut self,
        table: &MemoryTable,
        buffers: &[Buffer],
        need: Rights,
        into: &mut Segments,
    ) -> Result<(), NotMediated> {
        let mut rest = buffers;
        while let Some((&Buffer { addr, len, .. }, behind)) = rest.split_first() {
            rest = behind;
            if len == 0 {
                continue;
            }
            let region = self.mediate_anew(table, addr, len, need, into)?;
            let (mark, slot) = self.counted(region)?;
            // Those that follow in the same region, which has the right that is needed.
            while let Some((&Buffer { addr, len, .. }, behind)) = rest.split_first()
                && let Some(offset) = region.offset(addr)
                && len != 0
                && len as usize <= region.window.len() - offset
            {
                into.push(prove(region, mark, slot, offset, len));
                rest = behind;
            }
        }
        Ok(())
    }

    /// As [`mediate`](Self::mediate). The region of the last range.
    #[inline(never)]
    fn mediate_anew<'t>(
        &mut self,
        table: &'t MemoryTable,
        addr: u64,
        len: u32,
        need: Rights,
        into: &mut Segments,
    ) -> Result<&'t Region, NotMediated> {
        if len == 0 || addr.checked_add(u64::from(len)).is_none() {
            return Err(NotMediated::BadRange);
        }
        let (mut addr, mut left) = (addr, len);
        loop {
            let (region, offset) = Self::allowed(table, addr, need)?;
            // The region's end is behind `addr`, so what is left of it is at least 1.
            let now = (region.window.len() - offset).min(left as usize) as u32;
            into.push(self.prove(region, offset, now)?);
            // Only behind the last one could the address wrap.
            addr = addr.wrapping_add(u64::from(now));
            left -= now;
            if left == 0 {
                return Ok(region);
            }
        }
    }

    /// As [`mediate`](Self::mediate), for memory in one region: `None`, and nothing held, when it lies in several.
    #[inline(always)]
    pub fn mediate_one(
        &mut self,
        table: &MemoryTable,
        addr: u64,
        len: u32,
        need: Rights,
    ) -> Result<Option<DmaRange>, NotMediated> {
        match self.mediate_whole(table, addr, len, need) {
            Some(range) => Ok(Some(range)),
            None => Self::why_not_whole(table, addr, len, need).map(|()| None),
        }
    }

    /// The same without a reason, and what most requests are mediated by: [`why_not_whole`](Self::why_not_whole) knows it.
    #[inline(always)]
    pub fn mediate_whole(
        &mut self,
        table: &MemoryTable,
        addr: u64,
        len: u32,
        need: Rights,
    ) -> Option<DmaRange> {
        let (region, offset) = Self::allowed(table, addr, need).ok()?;
        // What lies in one region does not wrap.
        if len == 0 || len as usize > region.window.len() - offset {
            return None;
        }
        self.prove(region, offset, len).ok()
    }

    /// Why memory is not one range: it is none of the client's, or, if that is no error, it lies in several regions.
    #[cold]
    pub(crate) fn why_not_whole(
        table: &MemoryTable,
        addr: u64,
        len: u32,
        need: Rights,
    ) -> Result<(), NotMediated> {
        if len == 0 || addr.checked_add(u64::from(len)).is_none() {
            return Err(NotMediated::BadRange);
        }
        Self::allowed(table, addr, need).map(|_| ())
    }

    /// Takes a range back that the controller was proven to be done with. Another account's comes back, and is counted.
    #[inline(always)]
    pub fn release(&mut self, range: DmaRange, _proof: &Quiet) -> Result<(), DmaRange> {
        let at = self.slot_of(&range);
        let Some(slot) = self.slots.get_mut(at) else { return Err(self.refuse(range)) };
        slot.give_back(range.len());
        Ok(())
    }

    /// Takes back all of them. Another account's are counted, and held there for ever: nothing proves more about them.
    pub(crate) fn release_all(&mut self, ranges: &mut Segments, _proof: &Quiet) {
        for run in ranges.chunk_by(|one, next| one.mark() == next.mark()) {
            let Some(at) = run.first().map(|range| self.slot_of(range)) else { continue };
            match self.slots.get_mut(at) {
                Some(slot) => slot.give_back_all(run.iter().map(|range| i64::from(range.len())).sum()),
                None => self.refused = self.refused.saturating_add(run.len() as u64),
            }
        }
        ranges.clear();
    }

    #[cold]
    fn refuse(&mut self, range: DmaRange) -> DmaRange {
        self.refused = self.refused.saturating_add(1);
        range
    }

    /// Our own view of a range of this account that is in flight, for bounce copies.
    pub fn window(&self, range: &DmaRange) -> Option<Window> {
        let at = self.slot_of(range);
        let (slot, iova) = self.slots.get(at).zip(self.iovas.get(at))?;
        let offset = range.iova().0.checked_sub(*iova)?;
        slot.window.as_ref()?.sub(usize::try_from(offset).ok()?, usize::try_from(range.len()).ok()?).ok()
    }

    /// Keeps the byte at guest address `addr` for a later [`write_pinned`](Self::write_pinned).
    #[inline(never)]
    pub fn pin(&mut self, table: &MemoryTable, addr: u64) -> Result<Pinned, NotMediated> {
        let (region, offset) = table.find(addr).ok_or(NotMediated::NotRegistered)?;
        self.pin_in(region, offset)
    }

    /// As [`pin`](Self::pin), probably in the region `near`.
    #[inline(always)]
    pub(crate) fn pin_near(
        &mut self,
        table: &MemoryTable,
        near: &Region,
        addr: u64,
    ) -> Result<Pinned, NotMediated> {
        match near.offset(addr) {
            Some(offset) => self.pin_in(near, offset),
            None => self.pin(table, addr),
        }
    }

    /// The byte at an offset that is in the region.
    #[inline(always)]
    fn pin_in(&mut self, region: &Region, offset: usize) -> Result<Pinned, NotMediated> {
        if !region.writable {
            return Err(NotMediated::NotWritable);
        }
        let slot = self.slots.get_mut(usize::from(region.slot)).ok_or(NotMediated::NotRegistered)?;
        slot.hold(1);
        Ok(Pinned { offset, slot: region.slot })
    }

    /// Lets go of the byte, which stays as it is.
    pub fn unpin(&mut self, pinned: Pinned) {
        if let Some(slot) = self.slots.get_mut(usize::from(pinned.slot)) {
            slot.give_back(1);
        }
    }

    /// Writes the byte, and lets go of it.
    #[inline]
    pub fn write_pinned(&mut self, pinned: Pinned, byte: u8) {
        if let Some(slot) = self.slots.get_mut(usize::from(pinned.slot)) {
            if let Some(window) = &slot.window {
                // `pin` found the byte inside this region, and a window never shrinks.
                let _ = window.write(pinned.offset, &[byte]);
            }
            slot.give_back(1);
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::memory::QuietBy;
    use crate::memory::table::tests::region;

    fn quiet() -> Quiet {
        Quiet::seen(QuietBy::Completed)
    }

    fn slot(range: &DmaRange) -> u16 {
        (range.mark() & (SLOTS_MAX as u32 - 1)) as u16
    }

    fn table() -> MemoryTable {
        let read_only = Region { writable: false, ..region(2, 0x9000, 0x1000) };
        MemoryTable::new(vec![region(0, 0x1000, 0x1000), region(5, 0x2000, 0x2000), read_only]).unwrap()
    }

    #[test]
    fn a_buffer_over_two_adjoining_regions_becomes_two_ranges() {
        let (t, mut into) = (table(), Segments::new());
        let mut h = Account::new(&t, 7);
        h.mediate(&t, 0x1800, 0x1000, Rights::Write, &mut into).unwrap();
        let got: Vec<_> = into.iter().map(|r| (r.iova().0 & 0xffff, r.len(), slot(r))).collect();
        assert_eq!(got, [(0x800, 0x800, 0), (0, 0x800, 5)]);
        assert_eq!((h.holds(0), h.holds(5), h.holds(2), h.bytes()), (true, true, false, 0x1000));
        for r in into.drain(..) {
            h.release(r, &quiet()).unwrap();
        }
        assert_eq!(h.bytes(), 0);
    }

    #[test]
    fn gaps_wraps_and_missing_rights_are_refused() {
        let (t, mut into) = (table(), Segments::new());
        let mut h = Account::new(&t, 7);
        let mut ask = |addr, len, need| h.mediate(&t, addr, len, need, &mut into).err();
        assert_eq!(ask(0x3800, 0x1000, Rights::Read), Some(NotMediated::NotRegistered));
        assert_eq!(ask(0xfff, 2, Rights::Read), Some(NotMediated::NotRegistered));
        assert_eq!(ask(u64::MAX, 2, Rights::Read), Some(NotMediated::BadRange));
        assert_eq!(ask(u64::MAX - 0x1000, u32::MAX, Rights::Read), Some(NotMediated::BadRange));
        assert_eq!(ask(0x1000, 0, Rights::Read), Some(NotMediated::BadRange));
        assert_eq!(ask(0x9000, 16, Rights::Write), Some(NotMediated::NotWritable));
        assert_eq!(ask(0x9000, 16, Rights::Read), None);
        assert_eq!(h.pin(&t, 0x9000).err(), Some(NotMediated::NotWritable));
    }

    #[test]
    fn a_removed_region_is_kept_until_its_last_byte_is_released() {
        let (t, mut into) = (table(), Segments::new());
        let mut h = Account::new(&t, 7);
        h.mediate(&t, 0x1000, 0x800, Rights::Read, &mut into).unwrap();
        let status = h.pin(&t, 0x1fff).unwrap();
        h.set_table(&MemoryTable::default());
        let range = into.pop().unwrap();
        assert!(h.window(&range).is_some() && h.holds(0) && !h.holds(5));
        h.release(range, &quiet()).unwrap();
        assert!(h.holds(0), "the status byte is still to be written");
        h.write_pinned(status, 7);
        let mut byte = [0];
        t.regions()[0].window.read(0xfff, &mut byte).unwrap();
        assert_eq!((byte, h.holds(0)), ([7], false));
        assert!(h.slots[0].window.is_none());
    }

    #[test]
    fn what_is_given_back_twice_comes_to_nothing_whether_its_region_is_listed_or_not() {
        for listed in [true, false] {
            let mut slot = Slot { window: nvme_mem::heap(16), ..Slot::NONE };
            slot.list(true);
            slot.hold(16);
            slot.list(listed);
            assert_eq!(slot.held(), 16);
            slot.give_back(8);
            assert_eq!((slot.held(), slot.window.is_some()), (8, true));
            slot.give_back(16);
            assert_eq!((slot.held(), slot.window.is_some()), (0, listed));
            slot.give_back(1);
            assert_eq!((slot.held(), slot.window.is_some()), (0, listed));
        }
    }

    #[test]
    fn memory_in_one_region_is_one_range_and_any_other_holds_nothing() {
        let t = table();
        let mut h = Account::new(&t, 7);
        let one = h.mediate_one(&t, 0x1800, 0x800, Rights::Write).unwrap().unwrap();
        assert_eq!((one.iova().0 & 0xffff, one.len(), slot(&one), h.bytes()), (0x800, 0x800, 0, 0x800));
        h.release(one, &quiet()).unwrap();
        assert_eq!(h.mediate_one(&t, 0x1800, 0x801, Rights::Write), Ok(None));
        let mut ask = |addr, len| h.mediate_one(&t, addr, len, Rights::Write).err();
        assert_eq!(ask(0x9000, 16), Some(NotMediated::NotWritable));
        assert_eq!(ask(0xfff, 2), Some(NotMediated::NotRegistered));
        assert_eq!([ask(0x1000, 0), ask(u64::MAX, 2)], [Some(NotMediated::BadRange); 2]);
        assert_eq!(h.bytes(), 0);
    }

    #[test]
    fn another_accounts_range_is_refused_and_counted_whatever_its_slot_is() {
        let last = SLOTS_MAX as u16 - 1;
        let t = MemoryTable::new(vec![region(0, 0x1000, 0x1000), region(last, 0x9000, 0x1000)]).unwrap();
        let (mut ours, mut theirs) = (Account::new(&t, 6), Account::new(&t, 7));
        for (round, addr) in [(1, 0x1000), (2, 0x9000)] {
            let mine = ours.mediate_one(&t, addr, 64, Rights::Read).unwrap().unwrap();
            let range = theirs.mediate_one(&t, addr, 64, Rights::Read).unwrap().unwrap();
            assert!(ours.window(&range).is_none() && theirs.window(&range).is_some());
            let range = ours.release(range, &quiet()).unwrap_err();
            assert_eq!((ours.bytes(), ours.refused(), theirs.bytes()), (64, round, 64));
            theirs.release(range, &quiet()).unwrap();
            ours.release(mine, &quiet()).unwrap();
            assert_eq!((ours.bytes(), theirs.bytes(), theirs.refused()), (0, 0, 0));
        }
        // A part of a range has its account's mark too.
        let range = ours.mediate_one(&t, 0x1000, 64, Rights::Read).unwrap().unwrap();
        let (a, b) = range.split_at(16).unwrap();
        assert!(theirs.release(b, &quiet()).is_err() && ours.release(a, &quiet()).is_ok());
    }

    #[test]
    fn of_ranges_that_come_back_together_another_accounts_are_counted_one_by_one() {
        let t = table();
        let (mut ours, mut theirs) = (Account::new(&t, 6), Account::new(&t, 7));
        let mut all = Segments::new();
        for (addr, own) in [(0x1000, true), (0x1100, true), (0x1200, false), (0x2000, false), (0x2100, true)]
        {
            let by = if own { &mut ours } else { &mut theirs };
            by.mediate(&t, addr, 64, Rights::Read, &mut all).unwrap();
        }
        ours.release_all(&mut all, &quiet());
        assert_eq!((ours.bytes(), ours.refused(), theirs.bytes(), theirs.refused()), (0, 2, 128, 0));
    }

    proptest! {
        /// The buffers of a request, looked up together: the same ranges as one by one, and refused if one of them is.
        #[test]
        fn buffers_that_are_mediated_together_come_to_the_same_ranges(
            shape in prop::collection::vec((0_u64..2, 1_usize..4, any::<bool>()), 1..12),
            asks in prop::collection::vec((0_u64..0x18, 0_u64..4, 1_u32..0x1800, any::<bool>()), 1..12),
            write in any::<bool>(),
        ) {
            let mut next = 0;
            let regions = shape.iter().enumerate().map(|(i, (gap, pages, writable))| {
                let guest = next + gap * 0x1000;
                next = guest + *pages as u64 * 0x1000;
                Region { writable: *writable, ..region(i as u16, guest, pages * 0x1000) }
            });
            let t = MemoryTable::new(regions.collect()).unwrap();
            let need = if write { Rights::Write } else { Rights::Read };
            // Half of them go on where the one before ended.
            let mut end = 0;
            let buffers: Vec<Buffer> = asks.iter().map(|(page, offset, len, goes_on)| {
                let addr = if *goes_on { end } else { page * 0x1000 + offset * 0x400 };
                end = addr + u64::from(*len);
                Buffer { addr, len: *len, write }
            }).collect();
            let (mut one, mut all) = (Account::new(&t, 7), Account::new(&t, 7));
            let (mut singly, mut together) = (Segments::new(), Segments::new());
            let refused = buffers.iter().any(|b| one.mediate(&t, b.addr, b.len, need, &mut singly).is_err());
            let done = all.mediate_all(&t, &buffers, need, &mut together);
            prop_assert_eq!(done.is_err(), refused);
            if !refused {
                prop_assert_eq!(&together, &singly);
                prop_assert_eq!(all.bytes(), one.bytes());
            }
            all.release_all(&mut together, &quiet());
            prop_assert_eq!((all.bytes(), all.refused()), (0, 0));
        }

        /// Regions with gaps between, guest and bus addresses unrelated: what is mediated is exactly the bytes
        /// asked for, each inside a region that has the right, and what is released leaves nothing held.
        #[test]
        fn a_range_lies_inside_a_region_with_the_right(
            shape in prop::collection::vec((0_u64..3, 1_usize..4, any::<bool>()), 1..24),
            asks in prop::collection::vec((0_u64..0x60, 0_u64..0x1000, 0_u32..0x5000, any::<bool>()), 1..40),
        ) {
            let mut next = 0;
            let regions = shape.iter().enumerate().map(|(i, (gap, pages, writable))| {
                let guest = next + gap * 0x1000;
                next = guest + *pages as u64 * 0x1000;
                Region { writable: *writable, ..region(i as u16, guest, pages * 0x1000) }
            });
            let t = MemoryTable::new(regions.collect()).unwrap();
            let (mut h, mut all, mut bytes) = (Account::new(&t, 7), Segments::new(), 0);
            for (page, offset, len, write) in asks {
                let (addr, before) = (page * 0x1000 + offset, all.len());
                let need = if write { Rights::Write } else { Rights::Read };
                // The oracle goes page by page.
                let home = |a: u64| t.regions().iter().find(|r| r.guest <= a && a < r.guest + r.len);
                let allowed = len > 0 && (addr..addr + u64::from(len)).step_by(0x1000)
                    .chain([addr + u64::from(len) - 1])
                    .all(|a| home(a).is_some_and(|r| r.writable || !write));
                let got = h.mediate(&t, addr, len, need, &mut all);
                prop_assert_eq!(got.is_ok(), allowed);
                // What is known beforehand, without going through regions, is the same.
                prop_assert_eq!(t.span(addr, len, write), allowed.then_some(all.len() - before));
                if got.is_err() {
                    for r in all.drain(before..) {
                        h.release(r, &quiet()).unwrap();
                    }
                    continue;
                }
                bytes += u64::from(len);
                let mut at = addr;
                for r in &all[before..] {
                    let region = home(at).unwrap();
                    prop_assert_eq!(r.iova().0, region.iova.0 + (at - region.guest));
                    prop_assert!(at + u64::from(r.len()) <= region.guest + region.len && slot(r) == region.slot);
                    at += u64::from(r.len());
                }
                prop_assert_eq!(at, addr + u64::from(len));
            }
            prop_assert_eq!(h.bytes(), bytes);
            for r in all.drain(..) {
                h.release(r, &quiet()).unwrap();
            }
            prop_assert_eq!(h.bytes(), 0);
        }
    }
}
