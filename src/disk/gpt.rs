//! One copy of a GUID partition table: a header, then its array of entries.

use crc::{CRC_32_ISO_HDLC, Crc, Digest};
use nvme_policy::{Extent, Label, PartitionId};
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::READ_MAX;
use super::entries::{Entries, Entry, Run};
use super::warning::{Broken, GptCopy};

/// The longest array of entries, in bytes: 64 times what is usual.
const ARRAY_MAX: u64 = 1 << 20;
/// The largest entry. It divides [`READ_MAX`], and so never lies in two reads.
const ENTRY_MAX: u64 = 4096;

/// Bit 60 of the attributes is "read-only" for the types that define it (UEFI 2.10, 5.3.3, leaves bits 48 to 63 to the types;
/// Microsoft's basic data and the Discoverable Partitions Specification agree on it). It is believed whatever the type.
const READ_ONLY: u64 = 1 << 60;

/// The block of the primary header (UEFI 2.10, 5.3.2).
pub(super) const PRIMARY: u64 = 1;

static CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// UEFI 2.10, table 5.5, GPT Header.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 8],
    revision: U32,
    header_size: U32,
    header_crc: U32,
    _reserved: U32,
    my_lba: U64,
    alternate_lba: U64,
    first_usable: U64,
    last_usable: U64,
    disk: [u8; 16],
    array: U64,
    entry_count: U32,
    entry_size: U32,
    array_crc: U32,
}
const _: () = assert!(size_of::<RawHeader>() == 92);

/// UEFI 2.10, table 5.6, GPT Partition Entry.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    kind: [u8; 16],
    id: [u8; 16],
    first: U64,
    last: U64,
    attributes: U64,
    name: [U16; 36],
}
const _: () = assert!(size_of::<RawEntry>() == 128);

/// A header that was checked as UEFI 2.10, 5.3.2 asks, but for the checksum of the array, which lies inside the disk and is
/// of bounded length. What it says of usable blocks and of its other copy may be anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// Where the other copy's header is; outside the disk, if that became shorter.
    pub(super) alternate: u64,
    first_usable: u64,
    last_usable: u64,
    disk: [u8; 16],
    array: u64,
    entry_size: u64,
    entry_count: u64,
    array_crc: u32,
}

impl Header {
    /// Reads the header that lies in block `at`.
    pub(super) fn parse(block: &[u8], at: u64, disk: &Extent) -> Result<Self, Broken> {
        let (raw, _) = RawHeader::ref_from_prefix(block).map_err(|_| Broken::HeaderSize)?;
        if raw.signature != *b"EFI PART" {
            return Err(Broken::Signature);
        }
        if raw.revision.get() >> 16 != 1 {
            return Err(Broken::Revision);
        }
        let size = usize::try_from(raw.header_size.get()).map_err(|_| Broken::HeaderSize)?;
        if size < size_of::<RawHeader>() {
            return Err(Broken::HeaderSize);
        }
        if header_crc(block.get(..size).ok_or(Broken::HeaderSize)?) != raw.header_crc.get() {
            return Err(Broken::HeaderChecksum);
        }
        let header = Self {
            alternate: raw.alternate_lba.get(),
            first_usable: raw.first_usable.get(),
            last_usable: raw.last_usable.get(),
            disk: raw.disk,
            array: raw.array.get(),
            entry_size: raw.entry_size.get().into(),
            entry_count: raw.entry_count.get().into(),
            array_crc: raw.array_crc.get(),
        };
        if raw.my_lba.get() != at {
            return Err(Broken::MyLba);
        }
        header.check_array(at, disk)?;
        Ok(header)
    }

    fn check_array(&self, at: u64, disk: &Extent) -> Result<(), Broken> {
        if self.entry_size < 128 || self.entry_size > ENTRY_MAX || !self.entry_size.is_power_of_two() {
            return Err(Broken::EntrySize);
        }
        if self.entry_count == 0 || self.array_bytes() > ARRAY_MAX {
            return Err(Broken::EntryCount);
        }
        let blocks = self.array_bytes().div_ceil(disk.block_size().bytes());
        let end = self.array.checked_add(blocks).ok_or(Broken::ArrayPlace)?;
        let apart = self.array > PRIMARY && !(self.array..end).contains(&at);
        if apart && end <= disk.blocks() { Ok(()) } else { Err(Broken::ArrayPlace) }
    }

    /// The blocks in which partitions lie, as it says.
    pub(super) fn usable(&self) -> Run {
        (self.first_usable, self.last_usable)
    }

    /// Whether that is a range inside the disk.
    pub(super) fn has_usable(&self, disk: &Extent) -> bool {
        PRIMARY < self.first_usable
            && self.first_usable <= self.last_usable
            && self.last_usable < disk.blocks()
    }

    /// The blocks of the array.
    pub(super) fn array(&self, disk: &Extent) -> Run {
        // At least one; it was checked.
        let blocks = self.array_bytes().div_ceil(disk.block_size().bytes());
        (self.array, self.array + (blocks - 1))
    }

    fn array_bytes(&self) -> u64 {
        // Two factors of 32 bits each.
        self.entry_count * self.entry_size
    }

    /// Whether both are headers of one and the same table.
    pub(super) fn same_table(&self, other: &Self) -> bool {
        let table =
            |h: &Self| (h.first_usable, h.last_usable, h.disk, h.entry_size, h.entry_count, h.array_crc);
        table(self) == table(other)
    }
}

/// The checksum of a header, its own field taken as zero. `header` is long enough to have that field.
fn header_crc(header: &[u8]) -> u32 {
    let mut digest = CRC32.digest();
    digest.update(header.get(..16).unwrap_or_default());
    digest.update(&[0; 4]);
    digest.update(header.get(20..).unwrap_or_default());
    digest.finalize()
}

/// What a copy says, once all its checksums were found right.
pub(super) struct Found {
    pub(super) header: Header,
    pub(super) entries: Entries,
}

/// Reads one copy.
pub(super) struct Reader {
    disk: Extent,
    copy: GptCopy,
    at: u64,
    array: Option<Array>,
}

impl Reader {
    /// Of the copy whose header is in block `at`.
    pub(super) fn new(disk: &Extent, copy: GptCopy, at: u64) -> Self {
        Self { disk: *disk, copy, at, array: None }
    }

    pub(super) fn copy(&self) -> GptCopy {
        self.copy
    }

    /// The block of the header.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Where the header says that the other copy is, once it was read. Not where clients write: one of them could put a
    /// table there.
    pub(super) fn alternate(&self) -> Option<u64> {
        let header = &self.array.as_ref()?.header;
        (header.alternate > header.last_usable).then_some(header.alternate)
    }

    /// What to read next: block and number of blocks.
    pub(super) fn next(&self) -> (u64, u64) {
        match &self.array {
            None => (self.at, 1),
            Some(array) => {
                let block = self.disk.block_size().bytes();
                let length = (array.header.array_bytes() - array.read).min(READ_MAX);
                // Reads but the last are READ_MAX long, a multiple of the block size.
                (array.header.array + array.read / block, length.div_ceil(block))
            }
        }
    }

    /// Takes what [`Reader::next`] asked for. `Some` ends it.
    pub(super) fn supply(&mut self, data: &[u8]) -> Option<Result<Found, Broken>> {
        match &mut self.array {
            None => match Header::parse(data, self.at, &self.disk) {
                Ok(header) => {
                    self.array = Some(Array::new(header, &self.disk));
                    None
                }
                Err(why) => Some(Err(why)),
            },
            Some(array) => {
                array.add(data);
                if array.read < array.header.array_bytes() {
                    return None;
                }
                self.array.take().map(Array::finish)
            }
        }
    }
}

/// The array of entries, as far as it was read.
struct Array {
    header: Header,
    /// In bytes.
    read: u64,
    digest: Digest<'static, u32>,
    entries: Entries,
}

impl Array {
    fn new(header: Header, disk: &Extent) -> Self {
        Self { header, read: 0, digest: CRC32.digest(), entries: Entries::new(disk) }
    }

    /// Adds the next bytes; those behind the end of the array do not count.
    fn add(&mut self, data: &[u8]) {
        let left = self.header.array_bytes() - self.read;
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
        let data = data.get(..length).unwrap_or_default();
        self.digest.update(data);
        let entry_size = self.header.entry_size;
        let mut number = self.read / entry_size;
        self.read += data.len() as u64;
        for entry in data.chunks_exact(entry_size as usize) {
            number += 1;
            if let Ok((raw, _)) = RawEntry::ref_from_prefix(entry)
                && raw.kind != [0; 16]
            {
                self.entries.add(Entry {
                    // The array is a mebibyte at most.
                    number: number as u32,
                    run: (raw.first.get(), raw.last.get()),
                    usable: self.header.usable(),
                    id: PartitionId::Gpt(Uuid::from_bytes_le(raw.id)),
                    label: Label::from_utf16(raw.name.iter().map(|unit| unit.get())),
                    read_only: raw.attributes.get() & READ_ONLY != 0,
                });
            }
        }
    }

    fn finish(self) -> Result<Found, Broken> {
        let Self { header, digest, entries, .. } = self;
        if digest.finalize() != header.array_crc {
            return Err(Broken::ArrayChecksum);
        }
        Ok(Found { header, entries })
    }
}
