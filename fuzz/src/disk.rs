//! What is on a disk.

use nvme_core::disk::{PARTITIONS_MAX, READ_MAX, READS_MAX, ReadFailed, Scan, Step, Table};
use nvme_policy::{BlockSize, Extent, Namespace};

/// Blocks of 4096 bytes.
const LARGE: u8 = 1;
/// Checksums are made right before the scan, so that everything behind them is reached.
const MEND: u8 = 2;
/// The second block cannot be read.
const BAD: u8 = 4;

/// A byte of flags, and then the disk, which the last block may end early.
pub fn gpt(data: &[u8]) {
    let Some((&flags, image)) = data.split_first() else { return };
    let size = if flags & LARGE == 0 { BlockSize::B512 } else { BlockSize::B4096 };
    let block = size.bytes() as usize;
    let mut image = image.to_vec();
    image.resize(image.len().div_ceil(block).max(1) * block, 0);
    if flags & MEND != 0 {
        mend(&mut image, block, 1);
        let last = image.len() / block - 1;
        mend(&mut image, block, last);
    }
    let namespace = Namespace { controller: 0, nsid: 1 };
    let Some(disk) = Extent::whole(namespace, (image.len() / block) as u64, size) else { return };
    let bad = (flags & BAD != 0).then_some(1);
    check(&scan(&image, &disk, bad), &disk);
}

fn scan(image: &[u8], disk: &Extent, bad: Option<u64>) -> Table {
    let mut scan = Scan::new(disk);
    for _ in 0..=READS_MAX {
        match scan.next() {
            Step::Done(table) => return table,
            Step::Read { block, blocks } => {
                let shift = disk.block_size().shift();
                assert!(blocks > 0 && u64::from(blocks) << shift <= READ_MAX);
                let (from, to) = ((block << shift) as usize, ((block + u64::from(blocks)) << shift) as usize);
                scan.supply(if bad == Some(block) { Err(ReadFailed) } else { Ok(&image[from..to]) });
            }
        }
    }
    panic!("the scan does not end");
}

fn check(table: &Table, disk: &Extent) {
    assert!(table.partitions.len() <= PARTITIONS_MAX);
    for (i, partition) in table.partitions.iter().enumerate() {
        let extent = &partition.extent;
        assert!(extent.first() > 0 || partition.read_only.is_some());
        assert!(extent.blocks() <= disk.blocks() - extent.first());
        assert!(
            table.partitions[i + 1..]
                .iter()
                .all(|p| !p.extent.overlaps(extent) && p.number > partition.number)
        );
        assert!(!partition.label.as_str().chars().any(char::is_control));
    }
}

/// Makes the checksums of the header in block `at` right, as far as there is one.
fn mend(image: &mut [u8], block: usize, at: usize) {
    let length = image.len();
    let Some(header) = image.get(at * block..(at + 1) * block) else { return };
    let word = |offset: usize| {
        u32::from_le_bytes(header[offset..offset + 4].try_into().unwrap_or_default()) as usize
    };
    let array = (word(72) as u64 | (word(76) as u64) << 32).saturating_mul(block as u64);
    let (array, bytes) = (usize::try_from(array).unwrap_or(length), word(80).saturating_mul(word(84)));
    let sum = crc32(image.get(array..array.saturating_add(bytes)).unwrap_or_default());
    let header = &mut image[at * block..(at + 1) * block];
    header[88..92].copy_from_slice(&sum.to_le_bytes());
    header[16..20].fill(0);
    let size = u32::from_le_bytes(header[12..16].try_into().unwrap_or_default()) as usize;
    let sum = crc32(header.get(..size).unwrap_or_default());
    header[16..20].copy_from_slice(&sum.to_le_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}
