//! GUID partition tables that disks begin with, some of them odd or broken, as plain numbers (UEFI 2.10, 5.3).

/// How many there are; 0 is none.
pub(crate) const KINDS: u8 = 8;
/// Entries of an array, and bytes of each.
const ENTRIES: usize = 16;
const ENTRY: usize = 128;
/// The attribute that says: to be read only.
const MARKED: u64 = 1 << 60;
/// Numbers of what a table's sectors hold, in the books of what was written.
pub(crate) const NUMBERS: u64 = 1 << 41;

/// An entry, in blocks: the first and the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) number: usize,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) marked: bool,
    pub(crate) label: &'static str,
    /// The first digits of its identifier.
    pub(crate) id: u32,
}

/// A disk's table, and where its parts are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) blocks: u64,
    /// Blocks of an array.
    pub(crate) array: u64,
    /// What can be made out of it: nothing, if both copies are broken.
    pub(crate) entries: Vec<Entry>,
    /// The sectors that are not zeroes.
    pub(crate) sectors: Vec<(u64, [u8; 512])>,
}

/// An identifier as its disk has it, of its first digits.
fn identifier(id: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&id.to_le_bytes());
    (bytes[7], bytes[8]) = (0x40, 0x80);
    bytes
}

/// The identifier as words have it.
pub(crate) fn shown(id: u32) -> String {
    format!("{id:08x}-0000-4000-8000-000000000000")
}

/// CRC-32 of IEEE 802.3.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

/// What a kind of table has, on a disk of so many blocks of which these are to be used.
fn entries(kind: u8, blocks: u64, (from, to): (u64, u64)) -> Vec<Entry> {
    let quarter = (to + 1 - from) / 4;
    let part = |n: u64| (from + n * quarter, from + (n + 1) * quarter - 1);
    let base = match kind {
        5 => 1,
        6 => 2,
        7 | 8 => 4,
        kind => kind,
    };
    let all: &[(usize, (u64, u64), bool, &'static str)] = match base {
        1 => &[
            (1, part(0), false, "root"),
            (2, part(1), false, "data"),
            (3, part(2), false, "data"),
            // As the identifier of the first.
            (4, part(3), false, "00000101-0000-4000-8000-000000000000"),
        ],
        2 => &[
            (1, part(0), false, "d0:n1:2"),
            (2, part(1), true, "marked"),
            (4, part(3), false, "data"),
            (9, part(2), false, "last"),
        ],
        // Over the table, from the first block, over the last one; two that overlap.
        3 => &[
            (1, (1, part(0).1), false, "table"),
            (2, part(1), false, "root"),
            (5, part(2), false, "one"),
            (6, (part(2).1, part(3).1), false, "two"),
            (8, (0, 0), false, "first"),
            (10, (blocks - 1, blocks - 1), false, "tail"),
        ],
        // Over the end, behind it, and with its end before its beginning; out of their order.
        _ => &[
            (1, part(2), false, "root"),
            (2, (part(3).0, blocks + 10), false, "over"),
            (3, part(1), true, "marked"),
            (4, (part(0).1, part(0).0), false, "back"),
            (6, part(0), false, "low"),
            (7, (blocks, blocks + 5), false, "behind"),
        ],
    };
    let entry = |&(number, (first, last), marked, label): &(usize, (u64, u64), bool, &'static str)| Entry {
        number,
        first,
        last,
        marked,
        label,
        id: u32::from(base) << 8 | number as u32,
    };
    all.iter().map(entry).collect()
}

/// A table for a disk of so many blocks, whose size is a power of two.
pub(crate) fn table(kind: u8, blocks: u64, shift: u32) -> Table {
    let block = 1_usize << shift;
    let array = ((ENTRIES * ENTRY).div_ceil(block)) as u64;
    let (from, to) = (2 + array, blocks - 2 - array);
    let entries = entries(kind, blocks, (from, to));
    let mut disk = vec![0; block * blocks as usize];
    let mut list = vec![0; ENTRIES * ENTRY];
    for entry in &entries {
        let at = &mut list[(entry.number - 1) * ENTRY..entry.number * ENTRY];
        at[..16].copy_from_slice(&identifier(0xffff_0000));
        at[16..32].copy_from_slice(&identifier(entry.id));
        at[32..40].copy_from_slice(&entry.first.to_le_bytes());
        at[40..48].copy_from_slice(&entry.last.to_le_bytes());
        at[48..56].copy_from_slice(&(if entry.marked { MARKED } else { 0 }).to_le_bytes());
        for (i, unit) in entry.label.encode_utf16().enumerate() {
            at[56 + 2 * i..58 + 2 * i].copy_from_slice(&unit.to_le_bytes());
        }
    }
    let header = |own: u64, other: u64, place: u64| {
        let mut bytes = [0; 92];
        bytes[..8].copy_from_slice(b"EFI PART");
        bytes[8..12].copy_from_slice(&0x1_0000_u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&92_u32.to_le_bytes());
        for (at, number) in [(24, own), (32, other), (40, from), (48, to), (72, place)] {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes[56..72].copy_from_slice(&identifier(0xd15c_0000 | u32::from(kind)));
        for (at, number) in [(80, ENTRIES as u32), (84, ENTRY as u32), (88, checksum(&list))] {
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let sum = checksum(&bytes);
        bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        bytes
    };
    let last = blocks - 1;
    disk[446 + 4] = 0xee;
    disk[446 + 8..446 + 12].copy_from_slice(&1_u32.to_le_bytes());
    disk[446 + 12..446 + 16].copy_from_slice(&(last as u32).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (own, other, place) in [(1, last, 2), (last, 1, last - array)] {
        let at = own as usize * block;
        disk[at..at + 92].copy_from_slice(&header(own, other, place));
        let at = place as usize * block;
        disk[at..at + list.len()].copy_from_slice(&list);
    }
    // A header whose checksum is wrong, an array whose checksum is wrong, a backup that is none.
    match kind {
        5 => disk[block + 16] ^= 1,
        6 => disk[2 * block + ENTRIES * ENTRY - 1] ^= 1,
        7 => disk[last as usize * block] ^= 1,
        8 => {
            disk[block + 16] ^= 1;
            disk[last as usize * block + 16] ^= 1;
        }
        _ => {}
    }
    let sectors = (0..).zip(disk.chunks_exact(512)).filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
    let sectors = sectors.map(|(at, bytes)| (at, std::array::from_fn(|i| bytes[i]))).collect();
    let entries = if kind == 8 { Vec::new() } else { entries };
    Table { blocks, array, entries, sectors }
}

impl Table {
    /// Whether there is one.
    pub(crate) fn is_there(&self) -> bool {
        self.blocks > 0
    }

    /// The blocks that it is read from: at the beginning and at the end.
    pub(crate) fn places(&self) -> [std::ops::Range<u64>; 2] {
        let behind = 2 + self.array;
        [0..behind, self.blocks.saturating_sub(behind - 1)..self.blocks]
    }

    /// The number of what the table has in a sector, if that is what is read there.
    pub(crate) fn number(&self, sector: u64, bytes: &[u8]) -> Option<u64> {
        let at = self.sectors.binary_search_by_key(&sector, |(at, _)| *at).ok()?;
        (self.sectors[at].1[..] == *bytes).then_some(NUMBERS + sector)
    }
}
