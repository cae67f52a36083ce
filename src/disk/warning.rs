//! What was found wrong with a disk.

use core::fmt;

use nvme_policy::NoLabel;

/// One of the two copies of a GPT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GptCopy {
    /// At the start of the disk.
    Primary,
    /// At its end.
    Backup,
}

/// What makes a table, or a copy of it, unusable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// A block could not be read.
    Unreadable,
    /// The signature is missing.
    Signature,
    /// The header is of an unknown revision.
    Revision,
    /// The header's size is out of range.
    HeaderSize,
    /// The header's checksum is wrong.
    HeaderChecksum,
    /// The header says that it is somewhere else (MyLBA).
    MyLba,
    /// The size of an entry is not 128 × 2ⁿ bytes, or too much.
    EntrySize,
    /// There are no entries, or too many.
    EntryCount,
    /// The array of entries lies outside the disk, or covers its own header.
    ArrayPlace,
    /// The checksum of the array of entries is wrong.
    ArrayChecksum,
    /// The chain of extended boot records comes back to one of them.
    Loop,
    /// The chain of extended boot records is too long.
    TooLong,
    /// A record of the chain would lie outside the disk.
    Link,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "a block cannot be read",
            Self::Signature => "no signature",
            Self::Revision => "unknown revision",
            Self::HeaderSize => "header size out of range",
            Self::HeaderChecksum => "wrong checksum of the header",
            Self::MyLba => "the header belongs to another place",
            Self::EntrySize => "impossible size of an entry",
            Self::EntryCount => "no entries, or too many",
            Self::ArrayPlace => "the entries would be at an impossible place",
            Self::ArrayChecksum => "wrong checksum of the entries",
            Self::Loop => "the chain of extended boot records loops",
            Self::TooLong => "the chain of extended boot records is too long",
            Self::Link => "the chain of extended boot records leaves the disk",
        })
    }
}

impl core::error::Error for Broken {}

/// What is odd about one entry of a table. The others are served all the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Odd {
    /// It is not inside the disk, or ends before it begins: it is not served.
    Outside,
    /// It has a block in common with that other one: neither is served.
    Overlaps(u32),
    /// It lies inside the disk, but not among the blocks that the table says are for partitions: it is served.
    NotUsable,
    /// It covers blocks that say where partitions are: it is served for reading only.
    CoversTable,
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outside => "is not inside the disk; it is not served",
            Self::Overlaps(other) => {
                return write!(f, "overlaps partition {other}; it can be had with the whole disk only");
            }
            Self::NotUsable => "lies outside the usable blocks; it is served",
            Self::CoversTable => "covers the partition table; it is served read-only",
        })
    }
}

/// What an operator should know about a disk. Prints as one line, without the name of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warning {
    /// The first block cannot be read; no partitions.
    FirstBlock,
    /// A copy of the GPT is unusable. If both are, there are no partitions.
    Gpt(GptCopy, Broken),
    /// The backup GPT serves, because the primary is unusable.
    BackupServes,
    /// The primary GPT serves; its backup is in order, but is of another table.
    BackupDiffers,
    /// The primary GPT serves; its backup would be behind the end of the disk, which has become shorter.
    BackupOutside,
    /// The primary GPT serves; its backup is not in the last block, perhaps because the disk has grown.
    BackupNotAtEnd,
    /// The primary GPT serves; the place that it names for its backup is none.
    NoBackup,
    /// The range of usable blocks that the GPT says is empty, or not inside the disk.
    UsableRange,
    /// The protective MBR's partition does not start at block 1.
    ProtectiveStart,
    /// The protective MBR has other partitions too; they are not served.
    Hybrid,
    /// There are more partitions than are served.
    TooMany,
    /// Partitions have labels that cannot be shown; they are served without.
    Labels {
        /// How many.
        count: u32,
        /// The first of them.
        first: u32,
        /// What is wrong with that one.
        why: NoLabel,
    },
    /// Those two partitions have the same identifier; it names neither.
    SameId(u32, u32),
    /// A chain of logical partitions is broken; those before the break are served.
    Logical(Broken),
    /// That partition is odd.
    Entry(u32, Odd),
    /// So many more partitions are odd, which are not named.
    MoreEntries(u32),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstBlock => f.write_str("the first block cannot be read; its partitions are not served"),
            Self::Gpt(GptCopy::Primary, why) => write!(f, "primary GPT unusable: {why}"),
            Self::Gpt(GptCopy::Backup, why) => write!(f, "backup GPT unusable: {why}"),
            Self::BackupServes => f.write_str("the backup GPT is used; repair the primary"),
            Self::BackupDiffers => f.write_str("the backup GPT differs from the primary, which is used"),
            Self::BackupOutside => f.write_str("the backup GPT would be behind the end of the disk"),
            Self::BackupNotAtEnd => f.write_str("the backup GPT is not at the end of the disk"),
            Self::NoBackup => f.write_str("the primary GPT names no place where a backup can be"),
            Self::UsableRange => f.write_str("the GPT's range of usable blocks is impossible"),
            Self::ProtectiveStart => f.write_str("the protective MBR does not start at block 1"),
            Self::Hybrid => {
                f.write_str("the partitions of the hybrid MBR are not served, those of the GPT are")
            }
            Self::TooMany => {
                write!(f, "more than {} partitions; those behind are not served", super::PARTITIONS_MAX)
            }
            Self::Labels { count: 1, first, why } => {
                write!(f, "partition {first} is served without its label: {why}")
            }
            Self::Labels { count, first, why } => {
                write!(f, "{count} partitions, {first} the first, are served without their labels: {why}")
            }
            Self::SameId(a, b) => {
                write!(f, "partitions {a} and {b} have the same UUID; name them by number")
            }
            Self::Logical(why) => write!(f, "logical partitions from there on are not served: {why}"),
            Self::Entry(number, odd) => write!(f, "partition {number} {odd}"),
            Self::MoreEntries(count) => write!(f, "{count} more partitions are as odd"),
        }
    }
}
