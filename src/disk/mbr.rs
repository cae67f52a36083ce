//! The master boot record, and the chains of extended boot records.
//!
//! Neither has a checksum or a specification of its own; the layout is that of UEFI 2.10, 5.2.1 (Legacy MBR). What is an entry,
//! and which number it has, is what Linux makes of them (6.1, `block/partitions/msdos.c`). Places are in blocks of the disk,
//! whatever their size.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use nvme_policy::{Extent, Label, PartitionId};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::Partition;
use super::entries::{Entries, Entry};
use super::warning::{Broken, Odd, Warning};

/// How many extended boot records are read of a disk: one for each logical partition, and again as many without one.
pub(super) const CHAIN_MAX: usize = 512;
/// The number of the first logical partition.
const FIRST_LOGICAL: u32 = 5;
/// The highest number of a partition: identifiers have two digits for it, and Linux has 255 partitions.
const NUMBER_MAX: u32 = 0xff;
/// How many records without a partition may follow each other.
const EMPTY_MAX: usize = 100;

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
    /// Whatever its type, be it 0.
    fn is_empty(&self) -> bool {
        self.blocks.get() == 0
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

    /// The block behind.
    fn end(&self) -> u64 {
        self.first + self.blocks
    }

    fn contains(&self, other: &Self) -> bool {
        self.first <= other.first && other.end() <= self.end()
    }
}

/// What the first block of a disk is.
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is made")]
pub(super) enum First {
    /// No table, as far as can be told; perhaps the boot sector of a file system.
    NoTable,
    /// It says that there is a GPT.
    Protective {
        warnings: Vec<Warning>,
        /// It may be the boot sector of a file system all the same.
        doubtful: bool,
    },
    /// A master boot record, and perhaps chains of logical partitions.
    Mbr(Mbr),
}

/// Reads the first block.
pub(super) fn first_block(block: &[u8], disk: &Extent) -> First {
    let Some(record) = RawRecord::parse(block) else {
        return First::NoTable;
    };
    // A boot sector has the same signature, and code or text in place of the entries. A protective entry is one whatever
    // its boot indicator (UEFI 2.10, table 5.4); whether there is a GPT is seen in the next block.
    let doubtful = record.entries.iter().any(|entry| entry.boot & 0x7f != 0);
    let protective = || record.entries.iter().filter(|entry| entry.is_protective());
    if protective().next().is_some() {
        let mut warnings = Vec::new();
        if !protective().any(|entry| entry.first.get() == 1) {
            warnings.push(Warning::ProtectiveStart);
        }
        let other = |entry: &RawEntry| entry.kind != 0 && !entry.is_empty() && !entry.is_protective();
        if record.entries.iter().any(other) {
            warnings.push(Warning::Hybrid);
        }
        return First::Protective { warnings, doubtful };
    }
    let empty = record.entries.iter().all(RawEntry::is_empty);
    if doubtful || (empty && is_boot_sector(block)) {
        return First::NoTable;
    }
    First::Mbr(Mbr::new(record, disk))
}

/// Whether it is the boot sector of FAT, exFAT or NTFS. (One of FAT may hold a table as well.)
fn is_boot_sector(block: &[u8]) -> bool {
    let at = |from: usize, to: usize| block.get(from..to).unwrap_or_default();
    // Reserved blocks, number of tables, and the descriptor of the medium (Microsoft's FAT specification 1.03, BPB).
    let fat = at(14, 16) != [0, 0] && at(16, 17) != [0] && matches!(at(21, 22), [0xf0 | 0xf8..]);
    fat || matches!(at(3, 11), b"NTFS    " | b"EXFAT   ")
}

/// A master boot record with its chains of extended boot records, as far as they were read. Each of these holds a logical
/// partition and the place of the next; there may be none of either, and there is room for more.
pub(super) struct Mbr {
    disk: Extent,
    id: u32,
    entries: Entries,
    warnings: Vec<Warning>,
    /// Extended partitions whose chains were not begun.
    extended: VecDeque<Run>,
    /// The chain that is read.
    chain: Option<Chain>,
    /// All records that were read or tried, of all chains, and the first block. They say where partitions are.
    records: Vec<u64>,
    /// Of the next logical partition.
    number: u32,
}

#[derive(Clone, Copy)]
struct Chain {
    extended: Run,
    /// What the record is to lie in, as the one before says. Its first block is read next.
    record: Run,
    /// How many records had no partition, since the last one that had one.
    empty: usize,
}

impl Mbr {
    fn new(record: &RawRecord, disk: &Extent) -> Self {
        let mut mbr = Self {
            disk: *disk,
            id: record.disk.get(),
            entries: Entries::new(disk),
            warnings: Vec::new(),
            extended: VecDeque::new(),
            chain: None,
            records: Vec::from([0]),
            number: FIRST_LOGICAL,
        };
        for (number, entry) in (1..).zip(&record.entries).filter(|(_, entry)| !entry.is_empty()) {
            let run = Run::of(entry, 0);
            if !entry.is_extended() {
                // Of block 0 more is said than that it is not usable.
                mbr.add(number, run, (0, u64::MAX));
                continue;
            }
            if run.end() > disk.blocks() {
                mbr.warnings.push(Warning::Entry(number, Odd::Outside));
            }
            mbr.extended.push_back(run);
        }
        mbr.next_chain();
        mbr
    }

    fn add(&mut self, number: u32, run: Run, usable: (u64, u64)) {
        // It is 255 at most.
        let id = PartitionId::Mbr { disk: self.id, number: number as u8 };
        let (run, label) = ((run.first, run.end() - 1), Ok(Label::default()));
        self.entries.add(Entry { number, run, usable, id, label, read_only: false });
    }

    /// The block to read next; `None` when all was read.
    pub(super) fn next(&self) -> Option<u64> {
        self.chain.map(|chain| chain.record.first)
    }

    /// Takes what [`Mbr::next`] asked for.
    pub(super) fn supply(&mut self, block: Option<&[u8]>) {
        let Some(chain) = self.chain.take() else { return };
        let read = block.ok_or(Broken::Unreadable);
        let link = read.and_then(|block| RawRecord::parse(block).ok_or(Broken::Signature));
        match link.and_then(|record| self.record(chain, record)) {
            Ok(Some(next)) => self.chain = self.begin(next),
            Ok(None) => {}
            Err(why) => self.warnings.push(Warning::Logical(why)),
        }
        if self.chain.is_none() {
            self.next_chain();
        }
    }

    fn next_chain(&mut self) {
        while self.chain.is_none()
            && let Some(extended) = self.extended.pop_front()
        {
            self.chain = self.begin(Chain { extended, record: extended, empty: 0 });
        }
    }

    /// The chain, if its next record can be read.
    fn begin(&mut self, chain: Chain) -> Option<Chain> {
        let first = chain.record.first;
        let broken = match () {
            () if first >= self.disk.blocks() => Broken::Link,
            () if self.records.contains(&first) => Broken::Loop,
            () if self.records.len() > CHAIN_MAX || chain.empty >= EMPTY_MAX => Broken::TooLong,
            () => {
                self.records.push(first);
                return Some(chain);
            }
        };
        self.warnings.push(Warning::Logical(broken));
        None
    }

    /// Takes the partitions of a record, and finds the next one.
    fn record(&mut self, chain: Chain, record: &RawRecord) -> Result<Option<Chain>, Broken> {
        let Chain { extended, record: here, mut empty } = chain;
        empty += 1;
        let used = || record.entries.iter().enumerate().filter(|(_, entry)| !entry.is_empty());
        for (slot, entry) in used().filter(|(_, entry)| !entry.is_extended()) {
            // A partition is counted from its record, the next record from the extended partition.
            let run = Run::of(entry, here.first);
            // Slots 3 and 4 hold partitions of OS/2, or garbage.
            let believed =
                u64::from(entry.first.get()) + run.blocks <= here.blocks && extended.contains(&run);
            if slot >= 2 && !believed {
                continue;
            }
            if self.number > NUMBER_MAX {
                return Err(Broken::TooLong);
            }
            self.add(self.number, run, (extended.first, extended.end() - 1));
            self.number += 1;
            empty = 0;
        }
        let link = used().find(|(_, entry)| entry.is_extended());
        let link = link.map(|(_, entry)| Run::of(entry, extended.first));
        Ok(link.map(|record| Chain { extended, record, empty }))
    }

    /// What is served, and what an operator should know.
    pub(super) fn finish(self) -> (Vec<Partition>, Vec<Warning>) {
        let records: Vec<_> = self.records.iter().map(|&record| (record, record)).collect();
        let (partitions, odd) = self.entries.serve(&records);
        let mut warnings = self.warnings;
        warnings.extend(odd);
        (partitions, warnings)
    }
}
