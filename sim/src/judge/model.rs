//! The model judge: what each sector of a disk may be read as.
//!
//! Every write has a number of its own, with which its sectors are filled. For each sector there are *candidates*: writes of which it may hold the
//! last word. A write is one from its beginning; when it has ended well, those that had ended before it began are none any more. One that failed may have
//! been done or not. A read must see a candidate of some moment between its beginning and its end; what it saw, it pins: others that had ended before
//! it began are none any more.
//!
//! What was superseded and not made durable may come back when power is lost.

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;
/// Nothing has been written: zeroes.
pub(crate) const ZERO: u64 = 0;
/// Numbers from here on are partition tables.
pub(crate) const TABLE: u64 = 1 << 40;
const NEVER: u64 = u64::MAX;
/// Superseded writes of one sector that are kept; more make it a sector of which nothing is known.
const PAST_MAX: usize = 96;

#[derive(Clone, Copy, Debug)]
struct Write {
    id: u64,
    begun: u64,
    /// When it ended, well or not.
    ended: u64,
    /// When it was known to be superseded.
    gone: u64,
    /// Power was lost under it: that it ends well says nothing of what is there.
    weak: bool,
}

#[derive(Default, Debug)]
struct Sector {
    /// Empty: zeroes, from the beginning.
    writes: Vec<Write>,
    /// Nothing is known of it.
    any: bool,
}

impl Sector {
    fn begin_of_time(&mut self) {
        if self.writes.is_empty() {
            self.writes.push(Write { id: ZERO, begun: 0, ended: 0, gone: NEVER, weak: false });
        }
    }
}

/// A disk as it may be.
pub(crate) struct Disk {
    sectors: Vec<Sector>,
    /// What is superseded may come back when power is lost.
    pub(crate) volatile: bool,
    /// When the reads that are under way began.
    pub(crate) reads: Vec<u64>,
    /// When power was lost last.
    power: u64,
}

/// What a sector full of a write's number looks like.
pub(crate) fn fill(id: u64, sector: &mut [u8]) {
    if id >= TABLE {
        return crate::tables::write(id - TABLE, sector);
    }
    for (i, word) in sector.chunks_exact_mut(8).enumerate() {
        let value = if id == ZERO { 0 } else { id << 8 | i as u64 };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// The number that a sector is full of. `None`: it is a mixture.
pub(crate) fn number(sector: &[u8]) -> Option<u64> {
    if sector.get(510..512) == Some(&[0x55, 0xaa]) {
        return crate::tables::which(sector).map(|table| TABLE + table);
    }
    let word = |i: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&sector[i * 8..i * 8 + 8]);
        u64::from_le_bytes(bytes)
    };
    let first = word(0);
    let step = u64::from(first != 0);
    (first & 0xff == 0 && (1..SECTOR / 8).all(|i| word(i) == first + step * i as u64)).then_some(first >> 8)
}

impl Disk {
    pub(crate) fn new(sectors: usize, volatile: bool) -> Self {
        Self {
            sectors: (0..sectors).map(|_| Sector::default()).collect(),
            volatile,
            reads: Vec::new(),
            power: 0,
        }
    }

    pub(crate) fn sectors(&self) -> u64 {
        self.sectors.len() as u64
    }

    fn at(&mut self, sector: u64) -> Option<&mut Sector> {
        let sector = self.sectors.get_mut(usize::try_from(sector).ok()?)?;
        sector.begin_of_time();
        Some(sector)
    }

    /// As it was before the server saw it.
    pub(crate) fn put(&mut self, sector: u64, id: u64) {
        if let Some(sector) = self.at(sector) {
            sector.writes = vec![Write { id, begun: 0, ended: 0, gone: NEVER, weak: false }];
        }
    }

    /// Nobody knows what is there from now on.
    pub(crate) fn is_lost(&mut self, sector: u64) {
        if let Some(sector) = self.at(sector) {
            sector.any = true;
        }
    }

    /// A write of that number begins.
    pub(crate) fn begin(&mut self, sector: u64, id: u64, now: u64) {
        if let Some(sector) = self.at(sector) {
            sector.writes.push(Write { id, begun: now, ended: NEVER, gone: NEVER, weak: false });
        }
    }

    /// The one that began then has ended: well, or who knows. `durable`: what it supersedes is gone for good.
    pub(crate) fn end(&mut self, sector: u64, begun: u64, now: u64, well: bool, durable: bool) {
        let (volatile, oldest) = (self.volatile, self.oldest_read(now));
        let Some(sector) = self.at(sector) else { return };
        let Some(own) = sector.writes.iter_mut().find(|w| w.begun == begun && w.ended == NEVER) else {
            return;
        };
        own.ended = now;
        if !well || own.weak {
            return;
        }
        for write in sector.writes.iter_mut().filter(|w| w.ended < begun && w.gone == NEVER) {
            write.gone = now;
        }
        let keeps = |w: &Write| w.gone >= oldest || volatile && !(durable && w.ended < begun);
        sector.writes.retain(|w| w.gone == NEVER || keeps(w));
        if sector.writes.len() > PAST_MAX {
            sector.any = true;
            sector.writes.clear();
            sector.begin_of_time();
        }
    }

    fn oldest_read(&self, now: u64) -> u64 {
        self.reads.iter().copied().min().unwrap_or(now)
    }

    /// A flush that began then has ended well.
    pub(crate) fn flushed(&mut self, sectors: std::ops::Range<u64>, begun: u64, now: u64) {
        let oldest = self.oldest_read(now);
        for at in sectors {
            let Some(sector) = self.sectors.get_mut(at as usize).filter(|s| s.writes.len() > 1) else {
                continue;
            };
            sector.writes.retain(|w| w.gone == NEVER || w.gone >= begun || w.gone >= oldest);
        }
    }

    /// Power was lost: what was superseded and not durable may be there again.
    pub(crate) fn power_lost(&mut self, now: u64) {
        self.power = now;
        for sector in self.sectors.iter_mut().filter(|s| s.writes.len() > 1) {
            for write in &mut sector.writes {
                write.gone = NEVER;
                write.weak |= write.ended == NEVER;
            }
        }
    }

    /// Whether what a read from then to now saw there can be, and pins it.
    pub(crate) fn saw(&mut self, sector: u64, id: Option<u64>, begun: u64, now: u64) -> Result<(), String> {
        let (volatile, before) = (self.volatile, begun <= self.power);
        let Some(known) = self.at(sector).filter(|s| !s.any) else { return Ok(()) };
        let can = |w: &&Write| Some(w.id) == id && w.begun <= now && w.gone >= begun;
        if !known.writes.iter().any(|w| can(&w)) {
            let all: Vec<(u64, u64, u64, u64)> =
                known.writes.iter().map(|w| (w.id, w.begun, w.ended, w.gone)).collect();
            return Err(format!(
                "sector {sector} was read as {id:?} between {begun} and {now}; it may be (number, begun, ended, gone) {all:?}"
            ));
        }
        if before {
            // What it saw may be lost since.
            return Ok(());
        }
        for write in
            known.writes.iter_mut().filter(|w| Some(w.id) != id && w.ended < begun && w.gone == NEVER)
        {
            write.gone = now;
        }
        if !volatile {
            // Other reads that are under way may still see them.
            let oldest = self.reads.iter().copied().min().unwrap_or(now);
            if let Some(known) = self.sectors.get_mut(sector as usize) {
                known.writes.retain(|w| w.gone >= oldest);
            }
        }
        Ok(())
    }

    /// What the sector may hold now.
    pub(crate) fn candidates(&self, sector: u64) -> Vec<u64> {
        match self.sectors.get(sector as usize) {
            Some(s) if !s.writes.is_empty() => {
                s.writes.iter().filter(|w| w.gone == NEVER).map(|w| w.id).collect()
            }
            _ => vec![ZERO],
        }
    }

    /// Whether anything may be there.
    pub(crate) fn is_unknown(&self, sector: u64) -> bool {
        self.sectors.get(sector as usize).is_some_and(|s| s.any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_says_its_number_and_a_mixture_none() {
        let (mut a, mut b) = ([0; SECTOR], [0; SECTOR]);
        fill(77, &mut a);
        fill(78, &mut b);
        assert_eq!((number(&a), number(&b), number(&[0; SECTOR])), (Some(77), Some(78), Some(ZERO)));
        a[256..].copy_from_slice(&b[256..]);
        assert_eq!(number(&a), None);
    }

    #[test]
    fn a_read_sees_what_was_in_flight_or_last_acknowledged_and_nothing_before() {
        let mut disk = Disk::new(4, false);
        disk.begin(1, 10, 5);
        assert!(disk.saw(1, Some(ZERO), 6, 7).is_ok() && disk.saw(1, Some(10), 6, 7).is_ok());
        assert!(disk.saw(1, Some(ZERO), 8, 9).is_err(), "it was seen already");
        disk.end(1, 5, 10, true, false);
        disk.begin(1, 11, 11);
        disk.end(1, 11, 12, false, false);
        assert!(disk.saw(1, Some(10), 13, 14).is_ok(), "one that failed may not have been done");
        assert!(disk.saw(1, Some(11), 15, 16).is_err(), "and is not done later");
    }

    #[test]
    fn what_was_not_flushed_may_come_back_and_what_was_may_not() {
        for flush in [false, true] {
            let mut disk = Disk::new(1, true);
            disk.begin(0, 10, 1);
            disk.end(0, 1, 2, true, false);
            if flush {
                disk.flushed(0..1, 3, 4);
            }
            assert!(disk.saw(0, Some(ZERO), 5, 6).is_err());
            disk.power_lost(7);
            assert_eq!(disk.saw(0, Some(ZERO), 8, 9).is_ok(), !flush);
        }
    }
}
