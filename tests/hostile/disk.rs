//! Disk images: every byte has a known value, and a GPT divides them among clients.

use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, partition_types};

/// Bytes of an image.
pub(crate) const SIZE: u64 = 6 << 20;
/// Bytes of a partition. The first starts at this offset, the others follow without a gap.
pub(crate) const PART: u64 = 1 << 20;
/// Sectors of a partition.
pub(crate) const SECTORS: u64 = PART / 512;
/// The partitions' labels. Nobody uses the first and the third: they are what lies around `attack`.
pub(crate) const LABELS: [&str; 4] = ["before", "attack", "after", "bystander"];

/// Where a partition starts, in bytes.
pub(crate) fn start(label: &str) -> u64 {
    (LABELS.iter().position(|l| *l == label).unwrap() as u64 + 1) * PART
}

/// `len` bytes as they are at `offset` of a new disk (both multiples of 8, outside the partition table).
pub(crate) fn pattern(offset: u64, len: usize) -> Vec<u8> {
    let word = |i: u64| (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).to_le_bytes();
    (offset / 8..offset / 8 + len as u64 / 8).flat_map(word).collect()
}

/// A directory in memory where that can be.
pub(crate) fn memory_dir() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap()
}

/// The bytes of a disk with that block size, divided as [`LABELS`] says.
pub(crate) fn image(block: u64) -> Vec<u8> {
    image_of(block, LABELS)
}

/// The same, where the partitions have these labels.
pub(crate) fn image_of(block: u64, labels: [&str; 4]) -> Vec<u8> {
    let bytes = pattern(0, SIZE as usize);
    let size = if block == 512 { LogicalBlockSize::Lb512 } else { LogicalBlockSize::Lb4096 };
    let mut device = Cursor::new(bytes);
    ProtectiveMBR::with_lb_size((SIZE / block - 1) as u32).overwrite_lba0(&mut device).unwrap();
    let config = GptConfig::new().writable(true).logical_block_size(size);
    let mut disk = config.create_from_device(device, None).unwrap();
    for (number, label) in (1..).zip(labels) {
        let first = u64::from(number) * PART / block;
        disk.add_partition_at(label, number, first, PART / block, partition_types::LINUX_FS, 0).unwrap();
    }
    disk.write().unwrap().into_inner()
}

/// An image in a file.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    file: File,
    before: Vec<u8>,
}

impl Disk {
    /// Puts these bytes into a file.
    pub(crate) fn new(dir: &Path, bytes: Vec<u8>) -> Self {
        let path = dir.join("disk");
        fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        Self { path, file, before: bytes }
    }

    /// Bytes as they are now.
    pub(crate) fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    /// Holds everything but these partitions to what it was at first.
    pub(crate) fn check_but(&self, labels: &[&str]) {
        let now = self.bytes(0, self.before.len());
        for (at, (now, before)) in now.chunks(4096).zip(self.before.chunks(4096)).enumerate() {
            let at = at as u64 * 4096;
            let written = labels.iter().any(|l| (start(l)..start(l) + PART).contains(&at));
            assert!(written || now == before, "the disk changed at {at:#x}");
        }
    }
}
