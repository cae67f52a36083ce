//! The order in which a disk is read.

use core::fmt;

use nvme_policy::Extent;

use super::entries::{Entries, Run};
use super::gpt::{self, Found, Header, Reader};
use super::mbr::{self, CHAIN_MAX, First, Mbr};
use super::warning::{Broken, GptCopy, Warning};
use super::{Kind, Table};

/// How many reads a scan takes, at most: the first block, and three times a header and a mebibyte of entries (primary GPT,
/// backup at the end, backup where the primary says it is). Chains of extended boot records are shorter.
pub const READS_MAX: usize = 1 + 3 * (1 + 256);
const _: () = assert!(CHAIN_MAX < READS_MAX);

/// A read failed; which way does not matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadFailed;

impl fmt::Display for ReadFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a read of the partition table failed")
    }
}

impl core::error::Error for ReadFailed {}

/// What a scan wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Read these blocks, and hand their bytes to [`Scan::supply`].
    Read {
        /// The first, counted from the start of the extent. Inside it, as are all.
        block: u64,
        /// How many; at least 1, and [`READ_MAX`](super::READ_MAX) bytes at most.
        blocks: u32,
    },
    /// It is done.
    Done(Table),
}

/// Reads a disk's partition table.
///
/// Call [`Scan::next`]; as long as it says [`Step::Read`], read that and call [`Scan::supply`]. It says [`Step::Done`]
/// after [`READS_MAX`] reads at the latest.
pub struct Scan {
    disk: Extent,
    table: Table,
    state: State,
    /// The first block may be no table at all: it is none unless a GPT is there.
    doubtful: bool,
}

enum State {
    FirstBlock,
    /// One copy of a GPT. `elsewhere`: where else a backup may be, if the one at the end is unusable.
    Gpt {
        reader: Reader,
        elsewhere: Option<u64>,
    },
    /// The primary GPT serves; the header of its backup, in block `at`, is compared.
    Compare {
        found: Found,
        at: u64,
    },
    Mbr(Mbr),
    Done,
}

impl Scan {
    /// Of a whole namespace.
    pub fn new(disk: &Extent) -> Self {
        Self { disk: *disk, table: Table::default(), state: State::FirstBlock, doubtful: false }
    }

    /// What is wanted now; the same again until it was supplied. The table is handed out once.
    #[expect(clippy::should_implement_trait, reason = "each step waits for its data")]
    pub fn next(&mut self) -> Step {
        match self.wanted() {
            // One page of blocks at most.
            Some((block, blocks)) => Step::Read { block, blocks: blocks as u32 },
            None => Step::Done(core::mem::take(&mut self.table)),
        }
    }

    fn wanted(&self) -> Option<(u64, u64)> {
        match &self.state {
            State::FirstBlock => Some((0, 1)),
            State::Gpt { reader, .. } => Some(reader.next()),
            State::Compare { at, .. } => Some((*at, 1)),
            State::Mbr(mbr) => mbr.next().map(|block| (block, 1)),
            State::Done => None,
        }
    }

    /// Takes the bytes of the blocks that were asked for, or that they could not be read. Bytes of another length count
    /// as a failure.
    pub fn supply(&mut self, data: Result<&[u8], ReadFailed>) {
        let Some((_, blocks)) = self.wanted() else {
            return;
        };
        let length = blocks << self.disk.block_size().shift();
        let data = data.ok().filter(|data| data.len() as u64 == length);
        self.state = match core::mem::replace(&mut self.state, State::Done) {
            State::FirstBlock => self.first_block(data),
            State::Gpt { reader, elsewhere } => self.gpt(reader, elsewhere, data),
            State::Compare { found, at } => self.compare(found, at, data),
            State::Mbr(mut mbr) => {
                mbr.supply(data);
                self.mbr(mbr)
            }
            State::Done => State::Done,
        };
    }

    fn warn(&mut self, warning: Warning) {
        self.table.warnings.push(warning);
    }

    fn last_block(&self) -> u64 {
        self.disk.blocks() - 1
    }

    fn first_block(&mut self, data: Option<&[u8]>) -> State {
        let Some(data) = data else {
            self.warn(Warning::FirstBlock);
            return State::Done;
        };
        match mbr::first_block(data, &self.disk) {
            First::NoTable => State::Done,
            First::Protective { warnings, doubtful } => {
                self.table.kind = Kind::Gpt;
                self.table.warnings = warnings;
                self.doubtful = doubtful;
                // A disk of one block has no room for a header.
                if gpt::PRIMARY > self.last_block() {
                    self.warn(Warning::Gpt(GptCopy::Primary, Broken::Signature));
                    return self.no_gpt();
                }
                State::Gpt {
                    reader: Reader::new(&self.disk, GptCopy::Primary, gpt::PRIMARY),
                    elsewhere: None,
                }
            }
            First::Mbr(mbr) => {
                self.table.kind = Kind::Mbr;
                self.mbr(mbr)
            }
        }
    }

    fn mbr(&mut self, mbr: Mbr) -> State {
        if mbr.next().is_some() {
            return State::Mbr(mbr);
        }
        let (partitions, warnings) = mbr.finish();
        self.table.partitions = partitions;
        self.table.warnings.extend(warnings);
        State::Done
    }

    fn gpt(&mut self, mut reader: Reader, elsewhere: Option<u64>, data: Option<&[u8]>) -> State {
        // Before the array is taken from the reader.
        let alternate = reader.alternate();
        match data.map_or(Some(Err(Broken::Unreadable)), |data| reader.supply(data)) {
            None => State::Gpt { reader, elsewhere },
            Some(Ok(found)) => {
                if !found.header.has_usable(&self.disk) {
                    self.warn(Warning::UsableRange);
                }
                match reader.copy() {
                    GptCopy::Primary => self.find_backup(found),
                    GptCopy::Backup => {
                        self.warn(Warning::BackupServes);
                        // Where the primary's entries would be is not known for sure. They are not among its usable blocks.
                        let (header, (first, last)) = (&found.header, found.header.usable());
                        let at = reader.at();
                        let table = [
                            (0, first.saturating_sub(1)),
                            (last.saturating_add(1), u64::MAX),
                            header.array(&self.disk),
                            (at, at),
                        ];
                        self.serve(found.entries, &table)
                    }
                }
            }
            Some(Err(why)) => {
                self.warn(Warning::Gpt(reader.copy(), why));
                if why != Broken::Signature {
                    self.doubtful = false;
                }
                match reader.copy() {
                    GptCopy::Primary => self.backup(self.last_block(), alternate),
                    GptCopy::Backup => match elsewhere {
                        Some(at) => self.backup(at, None),
                        None => self.no_gpt(),
                    },
                }
            }
        }
    }

    /// Serves these entries of a GPT whose place is in those blocks, beside the usual ones.
    fn serve(&mut self, entries: Entries, table: &[Run]) -> State {
        let last = self.last_block();
        // A backup is looked for in the last block.
        let mut all = alloc::vec![(0, gpt::PRIMARY), (last, last)];
        all.extend(table);
        let (partitions, warnings) = entries.serve(&all);
        self.table.partitions = partitions;
        self.table.warnings.extend(warnings);
        State::Done
    }

    /// No copy is usable.
    fn no_gpt(&mut self) -> State {
        if self.doubtful {
            self.table = Table::default();
        }
        State::Done
    }

    /// The backup in block `at`, which serves in place of the primary.
    fn backup(&mut self, at: u64, elsewhere: Option<u64>) -> State {
        if at <= gpt::PRIMARY || at > self.last_block() {
            return self.no_gpt();
        }
        let reader = Reader::new(&self.disk, GptCopy::Backup, at);
        let elsewhere = elsewhere.filter(|&other| other != at);
        State::Gpt { reader, elsewhere }
    }

    /// The backup of a primary that serves.
    fn find_backup(&mut self, found: Found) -> State {
        let at = found.header.alternate;
        let array = found.header.array(&self.disk);
        if at > self.last_block() {
            self.warn(Warning::BackupOutside);
            return self.serve(found.entries, &[array]);
        }
        if at <= gpt::PRIMARY || at <= found.header.usable().1 {
            self.warn(Warning::NoBackup);
            return self.serve(found.entries, &[array]);
        }
        if at < self.last_block() {
            self.warn(Warning::BackupNotAtEnd);
        }
        State::Compare { found, at }
    }

    fn compare(&mut self, found: Found, at: u64, data: Option<&[u8]>) -> State {
        let Found { header: primary, entries } = found;
        let read = data.ok_or(Broken::Unreadable);
        let backup = read.and_then(|data| Header::parse(data, at, &self.disk));
        let mut table = alloc::vec![primary.array(&self.disk), (at, at)];
        match backup {
            Ok(backup) => {
                table.push(backup.array(&self.disk));
                if !backup.same_table(&primary) {
                    self.warn(Warning::BackupDiffers);
                }
            }
            Err(why) => {
                if why == Broken::Unreadable {
                    // Where its entries are is not known.
                    table.push((primary.usable().1.saturating_add(1), u64::MAX));
                }
                self.warn(Warning::Gpt(GptCopy::Backup, why));
            }
        }
        self.serve(entries, &table)
    }
}
