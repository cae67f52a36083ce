//! Partition tables: what a disk says about its parts.
//!
//! A disk was written by clients, and is believed in nothing that is not checked. [`Scan`] is told the extent of a whole
//! namespace, asks for one small read after the other ([`Step::Read`]), and ends with a [`Table`]. It reads the MBR first;
//! a protective one leads to the GPT (primary, else backup), any other may lead to a chain of extended boot records.
//!
//! * `scan`: the state machine.
//! * `gpt`: a header, then its array of entries, checksums as they go by.
//! * `mbr`: the master boot record, and the chains of extended boot records.
//! * `entries`: which entries are served; one odd entry costs no other.
//! * `warning`: what was found wrong, as values.
//!
//! What is broken gives fewer partitions, and a [`Warning`]; never an error. The disk as a whole is served all the same.

mod entries;
mod gpt;
mod mbr;
mod scan;
mod warning;

use alloc::vec::Vec;

use nvme_policy::{Extent, Identity, Label, PartitionId, PartitionIdentity};

pub use nvme_session::factory::{Protection, TableKind as Kind};
pub use scan::{READS_MAX, ReadFailed, Scan, Step};
pub use warning::{Broken, GptCopy, Odd, Warning};

/// The longest read that is asked for, in bytes: one page, so that any controller can do it in one command.
pub const READ_MAX: u64 = 4096;

/// How many partitions of one disk are served, at most. The GPT may have more entries; those behind are left out, with a
/// warning.
pub const PARTITIONS_MAX: usize = 256;

/// What a disk says about its parts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    /// The kind of table; `Gpt` and `Mbr` also when it is too broken to be used.
    pub kind: Kind,
    /// The partitions, in the order of their numbers. No two overlap, and all lie inside the disk.
    pub partitions: Vec<Partition>,
    /// What was found wrong, in the order in which it was.
    pub warnings: Vec<Warning>,
}

/// A partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Its number, 1 and up, as Linux counts.
    pub number: u32,
    /// Its identifier. On a broken or hostile disk two partitions may have the same; then it names neither.
    pub id: PartitionId,
    /// Its label; empty on MBR disks, and when it cannot be shown.
    pub label: Label,
    /// Where it is.
    pub extent: Extent,
    /// Why it is served for reading only, if so.
    pub read_only: Option<Protection>,
}

impl Partition {
    /// What it is known by, on a controller of that serial number (padding trimmed).
    pub fn identity<'a>(&'a self, serial: &'a str) -> Identity<'a> {
        let partition = PartitionIdentity { number: self.number, id: self.id, label: self.label.as_str() };
        Identity { serial, place: None, nsid: self.extent.namespace().nsid, partition: Some(partition) }
    }
}
