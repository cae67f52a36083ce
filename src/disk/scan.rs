//! The order in which a disk is read.

use core::fmt;

use nvme_policy::Extent;

use super::gpt::{self, Header, Reader};
use super::mbr::{self, CHAIN_MAX, First};
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
        header: Header,
        at: u64,
    },
    Chain(mbr::Chain),
    Done,
}

impl Scan {
    /// Of a whole namespace.
    pub fn new(disk: &Extent) -> Self {
        Self { disk: *disk, table: Table::default(), state: State::FirstBlock }
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
            State::Chain(chain) => Some((chain.next(), 1)),
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
            State::Compare { header, at } => self.compare(&header, at, data),
            State::Chain(chain) => self.chain(chain, data),
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
            First::Protective(warnings) => {
                self.table.kind = Kind::Gpt;
                self.table.warnings = warnings;
                // A disk of one block has no room for a header.
                if gpt::PRIMARY > self.last_block() {
                    self.warn(Warning::Gpt(GptCopy::Primary, Broken::Signature));
                    return State::Done;
                }
                State::Gpt {
                    reader: Reader::new(&self.disk, GptCopy::Primary, gpt::PRIMARY),
                    elsewhere: None,
                }
            }
            First::Mbr(partitions, chain) => {
                self.table.kind = Kind::Mbr;
                self.table.partitions = partitions;
                chain.map_or(State::Done, State::Chain)
            }
            First::Broken(why) => {
                self.table.kind = Kind::Mbr;
                self.warn(Warning::Mbr(why));
                State::Done
            }
        }
    }

    fn gpt(&mut self, mut reader: Reader, elsewhere: Option<u64>, data: Option<&[u8]>) -> State {
        // Before the array is taken from the reader.
        let alternate = reader.alternate();
        match data.map_or(Some(Err(Broken::Unreadable)), |data| reader.supply(data)) {
            None => State::Gpt { reader, elsewhere },
            Some(Ok(found)) => {
                self.table.partitions = found.partitions;
                self.table.warnings.extend(found.warnings);
                match reader.copy() {
                    GptCopy::Primary => self.find_backup(found.header),
                    GptCopy::Backup => {
                        self.warn(Warning::BackupServes);
                        State::Done
                    }
                }
            }
            Some(Err(why)) => {
                self.warn(Warning::Gpt(reader.copy(), why));
                match reader.copy() {
                    GptCopy::Primary => self.backup(self.last_block(), alternate),
                    GptCopy::Backup => elsewhere.map_or(State::Done, |at| self.backup(at, None)),
                }
            }
        }
    }

    /// The backup in block `at`, which serves in place of the primary.
    fn backup(&mut self, at: u64, elsewhere: Option<u64>) -> State {
        if at <= gpt::PRIMARY || at > self.last_block() {
            return State::Done;
        }
        let reader = Reader::new(&self.disk, GptCopy::Backup, at);
        let elsewhere = elsewhere.filter(|&other| other != at);
        State::Gpt { reader, elsewhere }
    }

    /// The backup of a primary that serves.
    fn find_backup(&mut self, header: Header) -> State {
        let at = header.alternate;
        if at > self.last_block() {
            self.warn(Warning::BackupOutside);
            return State::Done;
        }
        if at < self.last_block() {
            self.warn(Warning::BackupNotAtEnd);
        }
        State::Compare { header, at }
    }

    fn compare(&mut self, primary: &Header, at: u64, data: Option<&[u8]>) -> State {
        let backup = data
            .ok_or(Broken::Unreadable)
            .and_then(|data| Header::parse(data, at, GptCopy::Backup, &self.disk));
        match backup {
            Ok(backup) if backup.same_table(primary) => {}
            Ok(_) => self.warn(Warning::BackupDiffers),
            Err(why) => self.warn(Warning::Gpt(GptCopy::Backup, why)),
        }
        State::Done
    }

    fn chain(&mut self, mut chain: mbr::Chain, data: Option<&[u8]>) -> State {
        match data.map_or(Some(Err(Broken::Unreadable)), |data| chain.supply(data, &self.disk)) {
            None => return State::Chain(chain),
            Some(Ok(logical)) => self.table.partitions.extend(logical),
            Some(Err(why)) => self.warn(Warning::Logical(why)),
        }
        State::Done
    }
}
