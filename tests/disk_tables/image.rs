//! Disks in memory. What is written here is written by the book of UEFI, not by way of the reader's own structures.

use nvme_core::disk::{PARTITIONS_MAX, READ_MAX, READS_MAX, ReadFailed, Scan, Step, Table};
use nvme_policy::{BlockSize, Extent, Namespace};

pub(crate) const BOTH: [BlockSize; 2] = [BlockSize::B512, BlockSize::B4096];
pub(crate) const NAMESPACE: Namespace = Namespace { controller: 0, nsid: 1 };

/// The type GUID of Linux file systems, as it is stored.
const LINUX: [u8; 16] =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

/// A disk, and which of its blocks cannot be read.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) size: BlockSize,
    pub(crate) bad: Vec<u64>,
}

impl Image {
    pub(crate) fn new(blocks: u64, size: BlockSize) -> Self {
        Self { bytes: vec![0; (blocks * size.bytes()) as usize], size, bad: Vec::new() }
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.bytes.len() as u64 / self.size.bytes()
    }

    pub(crate) fn at(&mut self, block: u64, offset: usize) -> &mut [u8] {
        &mut self.bytes[(block * self.size.bytes()) as usize + offset..]
    }

    pub(crate) fn put(&mut self, block: u64, offset: usize, bytes: &[u8]) {
        self.at(block, offset)[..bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn extent(&self) -> Extent {
        Extent::whole(NAMESPACE, self.blocks(), self.size).unwrap()
    }

    /// Scans it, and holds the scan to its promises whatever the disk says.
    pub(crate) fn scan(&self) -> Table {
        let disk = self.extent();
        let mut scan = Scan::new(&disk);
        for _ in 0..=READS_MAX {
            match scan.next() {
                Step::Read { block, blocks } => {
                    let blocks = u64::from(blocks);
                    assert!(blocks > 0 && blocks * self.size.bytes() <= READ_MAX);
                    assert!(
                        block < disk.blocks() && blocks <= disk.blocks() - block,
                        "read outside the disk"
                    );
                    let range = block as usize..(block + blocks) as usize;
                    let failed = self.bad.iter().any(|&bad| range.contains(&(bad as usize)));
                    let bytes = &self.bytes[range.start << self.size.shift()..range.end << self.size.shift()];
                    scan.supply(if failed { Err(ReadFailed) } else { Ok(bytes) });
                }
                Step::Done(table) => {
                    check(&table, &disk);
                    return table;
                }
            }
        }
        panic!("more reads than {READS_MAX}");
    }
}

/// What holds for every table.
pub(crate) fn check(table: &Table, disk: &Extent) {
    let partitions = &table.partitions;
    assert!(partitions.len() <= PARTITIONS_MAX);
    assert!(partitions.is_sorted_by(|a, b| a.number < b.number) && partitions.iter().all(|p| p.number > 0));
    for (i, p) in partitions.iter().enumerate() {
        let end = p.extent.first().checked_add(p.extent.blocks()).unwrap();
        assert!(end <= disk.blocks() && p.extent.namespace() == disk.namespace());
        assert!(p.extent.first() > 0 || p.read_only.is_some(), "the first block can be written");
        assert!(partitions[i + 1..].iter().all(|other| !p.extent.overlaps(&other.extent)));
        assert!(!p.label.as_str().chars().any(char::is_control));
    }
    for warning in &table.warnings {
        assert!(!warning.to_string().chars().any(char::is_control));
    }
}

/// An entry of a GPT.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: [u8; 16],
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) name: Vec<u16>,
    pub(crate) attributes: u64,
}

impl Entry {
    pub(crate) fn new(id: u8, first: u64, last: u64, name: &str) -> Self {
        Self { id: [id; 16], first, last, name: name.encode_utf16().collect(), attributes: 0 }
    }
}

/// A GPT to be written: every field may be made wrong before its checksums are made right.
#[derive(Clone)]
pub(crate) struct Gpt {
    pub(crate) entries: Vec<Option<Entry>>,
    pub(crate) entry_size: u32,
    /// What the header says; the array has as many entries as `entries`.
    pub(crate) entry_count: u32,
    pub(crate) revision: u32,
    pub(crate) header_size: u32,
    pub(crate) my_lba: u64,
    pub(crate) alternate: u64,
    pub(crate) first_usable: u64,
    pub(crate) last_usable: u64,
    /// Where the header says the array is.
    pub(crate) array: u64,
    /// Where header and array are written.
    pub(crate) header_at: u64,
    pub(crate) array_at: u64,
}

impl Gpt {
    /// A primary table that is sound, in the usual places.
    pub(crate) fn primary(image: &Image, entries: Vec<Option<Entry>>, entry_size: u32) -> Self {
        let blocks = (entries.len() as u64 * u64::from(entry_size)).div_ceil(image.size.bytes());
        let last = image.blocks() - 1;
        Self {
            entry_size,
            entry_count: entries.len() as u32,
            entries,
            revision: 0x0001_0000,
            header_size: 92,
            my_lba: 1,
            alternate: last,
            first_usable: 2 + blocks,
            last_usable: last - 1 - blocks,
            array: 2,
            header_at: 1,
            array_at: 2,
        }
    }

    /// The backup of this primary table.
    pub(crate) fn backup(&self) -> Self {
        let array = self.last_usable + 1;
        let (my_lba, header_at) = (self.alternate, self.alternate);
        Self { my_lba, alternate: 1, array, header_at, array_at: array, ..self.clone() }
    }

    /// Writes header and array, with the right checksums.
    pub(crate) fn write(&self, image: &mut Image) {
        let mut array = vec![0; self.entries.len() * self.entry_size as usize];
        for (raw, entry) in array.chunks_mut(self.entry_size.max(1) as usize).zip(&self.entries) {
            let Some(entry) = entry else { continue };
            raw[..16].copy_from_slice(&LINUX);
            raw[16..32].copy_from_slice(&entry.id);
            raw[32..40].copy_from_slice(&entry.first.to_le_bytes());
            raw[40..48].copy_from_slice(&entry.last.to_le_bytes());
            raw[48..56].copy_from_slice(&entry.attributes.to_le_bytes());
            for (unit, value) in raw[56..128].chunks_mut(2).zip(&entry.name) {
                unit.copy_from_slice(&value.to_le_bytes());
            }
        }
        image.put(self.array_at, 0, &array);
        let mut header = Vec::from(*b"EFI PART");
        for word in [self.revision, self.header_size, 0, 0] {
            header.extend(word.to_le_bytes());
        }
        for word in [self.my_lba, self.alternate, self.first_usable, self.last_usable] {
            header.extend(word.to_le_bytes());
        }
        header.extend([0xd1; 16]);
        header.extend(self.array.to_le_bytes());
        for word in [self.entry_count, self.entry_size, crc32(&array)] {
            header.extend(word.to_le_bytes());
        }
        image.put(self.header_at, 0, &header);
        let size = (self.header_size as usize).min(image.size.bytes() as usize);
        let sum = crc32(&image.at(self.header_at, 0)[..size]);
        image.put(self.header_at, 16, &sum.to_le_bytes());
    }
}

/// Bit by bit, as the polynomial says.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// Writes a record of an MBR or of an extended partition: signature, and entries of (kind, first, blocks).
pub(crate) fn record(image: &mut Image, block: u64, disk: u32, entries: &[(u8, u32, u32)]) {
    image.put(block, 440, &disk.to_le_bytes());
    for (i, (kind, first, blocks)) in entries.iter().enumerate() {
        let mut raw = [0; 16];
        raw[4] = *kind;
        raw[8..12].copy_from_slice(&first.to_le_bytes());
        raw[12..].copy_from_slice(&blocks.to_le_bytes());
        image.put(block, 446 + 16 * i, &raw);
    }
    image.put(block, 510, &[0x55, 0xaa]);
}

pub(crate) fn protective(image: &mut Image) {
    let blocks = u32::try_from(image.blocks() - 1).unwrap();
    record(image, 0, 0, &[(0xee, 1, blocks)]);
}

/// A disk of 200 blocks with a sound GPT of three partitions: 1 and 2, and 5 behind a gap in the numbers.
pub(crate) fn sample(size: BlockSize) -> (Image, Gpt) {
    let mut image = Image::new(200, size);
    let entries = vec![
        Some(Entry::new(1, 50, 59, "root")),
        Some(Entry::new(2, 60, 60, "größe 😀")),
        None,
        None,
        Some(Entry::new(5, 100, 150, "")),
        None,
        None,
        None,
    ];
    protective(&mut image);
    let gpt = Gpt::primary(&image, entries, 128);
    gpt.write(&mut image);
    gpt.backup().write(&mut image);
    (image, gpt)
}
