//! What the server itself copies out of guest memory and into it: descriptors, headers, names.

use super::{MemoryTable, NotMediated, Region};

impl Region {
    /// The 16 bytes at an offset as two words, each read once. `None` where they are not whole in here, or lie at an odd address.
    #[inline(always)]
    fn words(&self, offset: usize) -> Option<[u64; 2]> {
        self.window.entries(offset, 1).ok()?.get(0)
    }
}

impl MemoryTable {
    /// The 16 bytes at guest address `addr` as two words, each byte read once: a descriptor, a request's header. They
    /// may lie across regions.
    #[inline(never)]
    pub fn read_words(&self, addr: u64) -> Result<[u64; 2], NotMediated> {
        let (region, offset) = self.find(addr).ok_or(NotMediated::NotRegistered)?;
        region.words(offset).map_or_else(|| self.read_words_across(addr), Ok)
    }

    /// As [`read_words`](Self::read_words), probably from the region `near`.
    #[inline(always)]
    pub(crate) fn read_words_near(&self, near: &Region, addr: u64) -> Result<[u64; 2], NotMediated> {
        match near.offset(addr).and_then(|offset| near.words(offset)) {
            Some(words) => Ok(words),
            None => self.read_words(addr),
        }
    }

    /// Words across regions, or at an odd address.
    #[cold]
    fn read_words_across(&self, addr: u64) -> Result<[u64; 2], NotMediated> {
        let mut bytes = [0; 16];
        self.read(addr, &mut bytes)?;
        Ok(zerocopy::transmute!(bytes))
    }

    /// Copies guest memory out, each byte read once. It may lie across regions.
    pub fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), NotMediated> {
        let (mut addr, mut into) = (addr, into);
        while !into.is_empty() {
            let (region, offset) = self.find(addr).ok_or(NotMediated::NotRegistered)?;
            let now = (region.window.len() - offset).min(into.len());
            let (head, tail) = into.split_at_mut(now);
            region.window.read(offset, head).map_err(|_| NotMediated::NotRegistered)?;
            into = tail;
            addr = addr.checked_add(now as u64).ok_or(NotMediated::BadRange)?;
        }
        Ok(())
    }

    /// Copies into guest memory, which may lie across regions. All of it must be writable before any is written.
    pub fn write(&self, addr: u64, from: &[u8]) -> Result<(), NotMediated> {
        for dry in [true, false] {
            let (mut addr, mut from) = (addr, from);
            while !from.is_empty() {
                let (region, offset) = self.find(addr).ok_or(NotMediated::NotRegistered)?;
                if !region.writable {
                    return Err(NotMediated::NotWritable);
                }
                let now = (region.window.len() - offset).min(from.len());
                let (head, tail) = from.split_at(now);
                if !dry {
                    region.window.write(offset, head).map_err(|_| NotMediated::NotRegistered)?;
                }
                from = tail;
                addr = addr.checked_add(now as u64).ok_or(NotMediated::BadRange)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::memory::Region;
    use crate::memory::table::tests::region;

    #[test]
    fn copies_go_across_regions_or_not_at_all() {
        let read_only = Region { writable: false, ..region(2, 0x9000, 0x1000) };
        let t =
            MemoryTable::new(vec![region(0, 0x1000, 0x1000), region(5, 0x2000, 0x2000), read_only]).unwrap();
        let bytes: [u8; 16] = core::array::from_fn(|i| i as u8);
        t.write(0x1ff8, &bytes).unwrap();
        let words = |w: [u64; 2]| w.map(u64::to_ne_bytes).concat();
        assert_eq!(t.read_words(0x1ff8).map(words), Ok(bytes.to_vec()));
        assert!(t.write(0x3ff8, &bytes).is_err());
        assert_eq!(t.read_words(0x3ff0), Ok([0; 2]), "nothing of it was written");
        assert!(t.read_words(0x3ff8).is_err() && t.write(0x9000, &bytes).is_err());
        assert!(t.read_words(u64::MAX - 3).is_err());
    }
}
