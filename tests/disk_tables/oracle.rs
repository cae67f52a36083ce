//! Others that read and write partition tables. They are shown sound tables only: the `gpt` crate panics on some of the
//! others.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, partition_types};
use nvme_core::disk::{Kind, Table};
use nvme_policy::BlockSize;
use proptest::prelude::*;

use crate::image::*;

/// What a table says, in a form that all agree on: number → (identifier, label, first block, number of blocks).
type Said = BTreeMap<u32, (String, String, u64, u64)>;

fn ours(table: &Table) -> Said {
    let said = |p: &nvme_core::disk::Partition| {
        (p.id.to_string(), p.label.as_str().to_string(), p.extent.first(), p.extent.blocks())
    };
    table.partitions.iter().map(|p| (p.number, said(p))).collect()
}

fn config(size: BlockSize) -> GptConfig {
    let size = if size == BlockSize::B512 { LogicalBlockSize::Lb512 } else { LogicalBlockSize::Lb4096 };
    GptConfig::new().writable(true).logical_block_size(size)
}

fn theirs(image: &Image) -> Said {
    let disk = config(image.size).writable(false).open_from_device(Cursor::new(image.bytes.clone())).unwrap();
    let used = disk.partitions().iter().filter(|(_, p)| p.is_used());
    used.map(|(number, p)| {
        // It keeps the white space at the end, which libblkid strips.
        let name = p.name.trim_end().to_string();
        (*number, (p.part_guid.to_string(), name, p.first_lba, p.last_lba - p.first_lba + 1))
    })
    .collect()
}

/// Partitions that do not overlap, as gap before and length of each, with names; some numbers are left out.
fn layout() -> impl Strategy<Value = Vec<(Option<u64>, u64, String)>> {
    prop::collection::vec((prop::option::of(0..5u64), 1..9u64, "[a-zA-Z0-9 _äß€-]{0,20}"), 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn the_gpt_crate_reads_in_our_images_what_we_do(
        layout in layout(), size in prop::sample::select(BOTH.to_vec()), damaged in any::<bool>()
    ) {
        let mut image = Image::new(500, size);
        protective(&mut image);
        let mut next = 40;
        let entries = layout.iter().enumerate().map(|(i, (gap, length, name))| {
            let first = next + (*gap)?;
            next = first + length;
            Some(Entry::new(i as u8 + 1, first, next - 1, name))
        }).collect();
        let gpt = Gpt::primary(&image, entries, 128);
        gpt.write(&mut image);
        gpt.backup().write(&mut image);
        if damaged {
            image.put(1, 16, &[0xff; 4]);
        }
        let table = image.scan();
        prop_assert_eq!(table.warnings.len(), if damaged { 2 } else { 0 });
        prop_assert_eq!(ours(&table), theirs(&image));
    }

    #[test]
    fn we_read_in_images_of_the_gpt_crate_what_it_does(
        layout in layout(), size in prop::sample::select(BOTH.to_vec())
    ) {
        let image = Image::new(500, size);
        let mut device = Cursor::new(image.bytes);
        ProtectiveMBR::with_lb_size(499).overwrite_lba0(&mut device).unwrap();
        let mut disk = config(size).create_from_device(device, None).unwrap();
        let mut next = 40;
        for (number, (gap, length, name)) in (1..).zip(&layout) {
            let Some(gap) = gap else { continue };
            disk.add_partition_at(name, number, next + gap, *length, partition_types::LINUX_FS, 0).unwrap();
            next += gap + length;
        }
        let image = Image { bytes: disk.write().unwrap().into_inner(), size, bad: Vec::new() };
        let table = image.scan();
        prop_assert_eq!((table.kind, table.warnings.len()), (Kind::Gpt, 0));
        prop_assert_eq!(ours(&table), theirs(&image));
        prop_assert_eq!(table.partitions.len(), layout.iter().filter(|(gap, ..)| gap.is_some()).count());
    }
}

/// A program, where it usually is; none, and a line that says so, if it is not installed.
pub(crate) fn program(name: &str, package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        // Not by way of the test harness, which would swallow it.
        let _ = writeln!(std::io::stderr(), "skipped: {name} is not installed (apt-get install {package})");
    }
    found
}

/// Has a program write a table to a new disk of 32 MiB.
fn written_by(size: BlockSize, program: &Path, words: &[&str], script: &str) -> Image {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk");
    std::fs::write(&file, vec![0; 32 << 20]).unwrap();
    let mut child = Command::new(program)
        .args(words)
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read it is not of interest here, but its status is.
    let _ = child.stdin.take().unwrap().write_all(script.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Image { bytes: std::fs::read(&file).unwrap(), size, bad: Vec::new() }
}

const ID: &str = "88e59675-4dc8-469a-98e4-b7b021dc7fbe";
const OTHER: &str = "0c3e2f0e-5a3b-4c5d-8f6a-1b2c3d4e5f60";

fn want(partitions: &[(u32, &str, &str, u64, u64)]) -> Said {
    let said = |&(number, id, label, first, blocks): &(u32, &str, &str, u64, u64)| {
        (number, (id.to_string(), label.to_string(), first, blocks))
    };
    partitions.iter().map(said).collect()
}

#[test]
fn tables_of_sgdisk_are_read() {
    let Some(sgdisk) = program("sgdisk", "gdisk") else { return };
    let uuids = [format!("--partition-guid=1:{ID}"), format!("--partition-guid=7:{OTHER}")];
    let words = [
        "--new=1:2048:6143",
        "--change-name=1:root",
        &uuids[0],
        "--new=7:8192:8192",
        "--change-name=7:größe",
        &uuids[1],
    ];
    let mut image = written_by(BlockSize::B512, &sgdisk, &words, "");
    let want = want(&[(1, ID, "root", 2048, 4096), (7, OTHER, "größe", 8192, 1)]);
    let table = image.scan();
    assert_eq!((ours(&table), table.warnings.len()), (want.clone(), 0));
    image.put(1, 0, &[0; 512]);
    assert_eq!(ours(&image.scan()), want);
    let large = written_by(
        BlockSize::B512,
        &sgdisk,
        &["--resize-table=1000", "--new=900:4096:4200", "--partition-guid=900:R"],
        "",
    );
    let table = large.scan();
    assert_eq!((table.partitions.len(), table.partitions[0].number, table.warnings.len()), (1, 900, 0));
}

#[test]
fn tables_of_sfdisk_are_read() {
    let Some(sfdisk) = program("sfdisk", "fdisk") else { return };
    let script = format!(
        "label: gpt\n1: start=2048, size=4096, uuid={ID}, name=\"root\"\n3: start=10240, size=2048, uuid={OTHER}, name=\"a b\"\n"
    );
    let table = written_by(BlockSize::B512, &sfdisk, &["--quiet"], &script).scan();
    let gpt = want(&[(1, ID, "root", 2048, 4096), (3, OTHER, "a b", 10240, 2048)]);
    assert_eq!((ours(&table), table.warnings.len()), (gpt, 0));

    let script = "label: dos\nlabel-id: 0x0badcafe\n\
        1: start=2048, size=2048, type=83\n2: start=8192, size=40960, type=5\n\
        5: start=10240, size=2048, type=83\n6: start=20480, size=4096, type=82\n";
    let table = written_by(BlockSize::B512, &sfdisk, &["--quiet"], script).scan();
    let mbr = want(&[
        (1, "0badcafe-01", "", 2048, 2048),
        (5, "0badcafe-05", "", 10240, 2048),
        (6, "0badcafe-06", "", 20480, 4096),
    ]);
    assert_eq!((table.kind, ours(&table), table.warnings.len()), (Kind::Mbr, mbr, 0));
}

#[test]
fn tables_of_fdisk_on_large_blocks_are_read() {
    let Some(fdisk) = program("fdisk", "fdisk") else { return };
    let words = ["--sector-size=4096", "--wipe=never", "--wipe-partitions=never"];
    let script =
        format!("g\nn\n1\n256\n+100\nn\n9\n512\n512\nx\nu\n1\n{ID}\nn\n1\nroot\nu\n9\n{OTHER}\nr\nw\n");
    let table = written_by(BlockSize::B4096, &fdisk, &words, &script).scan();
    let blocks = table.partitions.first().map_or(0, |p| p.extent.blocks());
    assert!(blocks == 100 || blocks == 101, "{table:?}");
    let gpt = want(&[(1, ID, "root", 256, blocks), (9, OTHER, "", 512, 1)]);
    assert_eq!((ours(&table), table.warnings.len()), (gpt, 0));

    let script = "o\nn\np\n1\n256\n+99\nn\ne\n2\n1024\n4096\nn\nl\n1280\n1300\nn\nl\n2048\n2100\nx\ni\n0x0badcafe\nr\nw\n";
    let table = written_by(BlockSize::B4096, &fdisk, &words, script).scan();
    let mbr = want(&[
        (1, "0badcafe-01", "", 256, table.partitions[0].extent.blocks()),
        (5, "0badcafe-05", "", 1280, 21),
        (6, "0badcafe-06", "", 2048, 53),
    ]);
    assert_eq!((table.kind, ours(&table), table.warnings.len()), (Kind::Mbr, mbr, 0));
}
