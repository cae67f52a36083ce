//! The master boot record, and the chain of extended boot records.
//!
//! Neither has a checksum or a specification of its own; the layout is that of UEFI 2.10, 5.2.1 (Legacy MBR), the chain
//! and the numbers of its partitions are what Linux makes of them. Places are in blocks of the disk, whatever their size.

use alloc::vec::Vec;

use nvme_policy::{Extent, Label, PartitionId};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::warning::{Broken, Warning};
use super::{Partition, overlap};

/// How many extended boot records a chain may have.
pub(super) const CHAIN_MAX: usize = 128;
/// The number of the first logical partition.
const FIRST_LOGICAL: u32 = 5;

/// UEFI 2.10, table 5.1, Legacy MBR; an extended boot record has the same layout.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRecord {
    _boot_code: [u8; 440],
    disk: U32,
    _unknown: U16,
    entries: [RawEntry; 4],
    signature: U16,
}
const _: () = assert!(size_of::<RawRecord>() == 512);

/// UEFI 2.10, table 5.2, Legacy MBR Partition Record.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    boot: u8,
    _first_chs: [u8; 3],
    kind: u8,
    _last_chs: [u8; 3],
    first: U32,
    blocks: U32,
}
const _: () = assert!(size_of::<RawEntry>() == 16);

impl RawRecord {
    fn parse(block: &[u8]) -> Option<&Self> {
        let (record, _) = Self::ref_from_prefix(block).ok()?;
        (record.signature.get() == 0xaa55).then_some(record)
    }
}

impl RawEntry {
    fn is_empty(&self) -> bool {
        self.kind == 0 || self.blocks.get() == 0
    }

    fn is_protective(&self) -> bool {
        self.kind == 0xee
    }

    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// A run of blocks; never empty.
#[derive(Clone, Copy)]
struct Run {
    first: u64,
    blocks: u64,
}

impl Run {
    /// Of an entry whose place counts from `base`. Neither sum can wrap: bases are places on a disk of 32-bit addresses.
    fn of(entry: &RawEntry, base: u64) -> Self {
        Self { first: base + u64::from(entry.first.get()), blocks: entry.blocks.get().into() }
    }

    fn last(&self) -> u64 {
        self.first + (self.blocks - 1)
    }

    fn contains(&self, block: u64) -> bool {
        (self.first..=self.last()).contains(&block)
    }

    fn partition(&self, number: u32, id: u32, disk: &Extent) -> Option<Partition> {
        let id = PartitionId::Mbr { disk: id, number: u8::try_from(number).ok()? };
        let extent = disk.part(self.first, self.blocks)?;
        Some(Partition { number, id, label: Label::default(), extent })
    }
}

/// What the first block of a disk is.
pub(super) enum First {
    /// No table, as far as can be told; perhaps the boot sector of a file system.
    NoTable,
    /// It says that there is a GPT.
    Protective(Vec<Warning>),
    /// A master boot record with these primary partitions, and perhaps a chain of logical ones.
    Mbr(Vec<Partition>, Option<Chain>),
    /// A master boot record that cannot be used.
    Broken(Broken),
}

/// Reads the first block.
pub(super) fn first_block(block: &[u8], disk: &Extent) -> First {
    let Some(record) = RawRecord::parse(block) else {
        return First::NoTable;
    };
    // A boot sector has the same signature, and code or text in place of the entries.
    if record.entries.iter().any(|entry| entry.boot & 0x7f != 0) {
        return First::NoTable;
    }
    if let Some(protective) = record.entries.iter().find(|entry| entry.is_protective()) {
        let mut warnings = Vec::new();
        if protective.first.get() != 1 {
            warnings.push(Warning::ProtectiveStart);
        }
        if record.entries.iter().any(|entry| !entry.is_empty() && !entry.is_protective()) {
            warnings.push(Warning::Hybrid);
        }
        return First::Protective(warnings);
    }
    match primary(record, disk) {
        Ok((partitions, chain)) => First::Mbr(partitions, chain),
        Err(why) => First::Broken(why),
    }
}

fn primary(record: &RawRecord, disk: &Extent) -> Result<(Vec<Partition>, Option<Chain>), Broken> {
    let id = record.disk.get();
    let (mut partitions, mut runs, mut chain) = (Vec::new(), Vec::new(), None);
    for (number, entry) in (1..).zip(&record.entries).filter(|(_, entry)| !entry.is_empty()) {
        let run = Run::of(entry, 0);
        // Block 0 is the record itself.
        let partition = run.partition(number, id, disk).filter(|_| run.first > 0);
        let partition = partition.ok_or(Broken::Outside(number))?;
        runs.push((run.first, run.last(), number));
        if !entry.is_extended() {
            partitions.push(partition);
        } else if chain.replace(Chain::new(run, id)).is_some() {
            return Err(Broken::TwoExtended);
        }
    }
    match overlap(&mut runs) {
        Some((a, b)) => Err(Broken::Overlap(a.min(b), a.max(b))),
        None => Ok((partitions, chain)),
    }
}

/// The chain of extended boot records, as far as it was read. Each holds one logical partition and the place of the next.
pub(super) struct Chain {
    /// The extended partition; all records and all logical partitions lie inside.
    extended: Run,
    id: u32,
    /// The records; the last one is to be read next.
    records: Vec<u64>,
    logical: Vec<Run>,
}

impl Chain {
    fn new(extended: Run, id: u32) -> Self {
        Self { extended, id, records: Vec::from([extended.first]), logical: Vec::new() }
    }

    /// The block to read next.
    pub(super) fn next(&self) -> u64 {
        self.records.last().copied().unwrap_or(self.extended.first)
    }

    /// Takes what [`Chain::next`] asked for. `Some` ends it.
    pub(super) fn supply(&mut self, block: &[u8], disk: &Extent) -> Option<Result<Vec<Partition>, Broken>> {
        match self.record(block) {
            Ok(false) => None,
            Ok(true) => Some(self.finish(disk)),
            Err(why) => Some(Err(why)),
        }
    }

    /// Whether this was the last record.
    fn record(&mut self, block: &[u8]) -> Result<bool, Broken> {
        let record = RawRecord::parse(block).ok_or(Broken::Signature)?;
        let here = self.next();
        let (mut data, mut link) = (None, None);
        // The other two entries are unused.
        for entry in record.entries.iter().take(2).filter(|entry| !entry.is_empty()) {
            // A partition is counted from its record, the next record from the extended partition.
            let (slot, base) = match entry.is_extended() {
                true => (&mut link, self.extended.first),
                false => (&mut data, here),
            };
            if slot.replace(Run::of(entry, base)).is_some() {
                return Err(Broken::Record);
            }
        }
        if let Some(run) = data {
            if !self.extended.contains(run.last()) {
                return Err(Broken::Outside(self.next_number()));
            }
            self.logical.push(run);
        }
        let Some(next) = link.map(|run| run.first) else {
            return Ok(true);
        };
        if !self.extended.contains(next) {
            return Err(Broken::Outside(self.next_number()));
        }
        if self.records.contains(&next) {
            return Err(Broken::Loop);
        }
        if self.records.len() == CHAIN_MAX {
            return Err(Broken::TooLong);
        }
        self.records.push(next);
        Ok(false)
    }

    /// The number of the next logical partition. A record without one does not count.
    fn next_number(&self) -> u32 {
        // CHAIN_MAX at most.
        FIRST_LOGICAL + self.logical.len() as u32
    }

    fn finish(&self, disk: &Extent) -> Result<Vec<Partition>, Broken> {
        let numbered = || (FIRST_LOGICAL..).zip(&self.logical);
        let mut runs: Vec<_> = numbered().map(|(number, run)| (run.first, run.last(), number)).collect();
        // A client that may write to a partition must not be able to rewrite the chain.
        runs.extend(self.records.iter().map(|&record| (record, record, 0)));
        match overlap(&mut runs) {
            Some((0, number) | (number, 0)) => Err(Broken::Outside(number)),
            Some((a, b)) => Err(Broken::Overlap(a.min(b), a.max(b))),
            None => numbered()
                .map(|(number, run)| run.partition(number, self.id, disk).ok_or(Broken::Outside(number)))
                .collect(),
        }
    }
}
