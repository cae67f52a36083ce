//! The oracle for numbers and places: Linux itself. One Debian kernel in QEMU attaches every table as a loop device, at 512 or 4096
//! bytes a block, and says which partitions it made of it. Tables are made by the programs that people use, and by hand where no
//! program makes the odd ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nvme_core::disk::{Odd, Table, Warning};
use nvme_policy::BlockSize;

use crate::image::*;
use crate::machine::archive::{self, Archive};
use crate::machine::console::Machine;
use crate::tools;

/// Number → first sector, number of sectors, both of 512 bytes.
type Said = BTreeMap<u32, (u64, u64)>;

/// Prints `NAME:NUMBER START SIZE` of each partition of each file; `NAME` ends in the size of a block.
const LOOK: &str = "failed=0; for f in /mnt/*.512 /mnt/*.4096; do \
    /usr/bin/losetup -P -b ${f##*.} /dev/loop0 $f || { failed=1; continue; }; \
    for p in /sys/block/loop0/loop0p*; do [ -e $p ] && \
    echo \"@ ${f##*/} $(cat $p/partition) $(cat $p/start) $(cat $p/size)\"; done; /usr/bin/losetup -d /dev/loop0; \
    while [ -e /sys/block/loop0/loop/backing_file ]; do sleep 0.01; done; done; [ $failed = 0 ]";

fn said_by_linux(folder: &Path) -> Result<BTreeMap<String, Said>, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (version, vmlinux) = archive::kernel(dir.path())?;
    let mut archive = Archive::default();
    archive.shell("i=0; while [ ! -e /dev/vda ] && [ $i -lt 500 ]; do sleep 0.02; i=$((i+1)); done")?;
    archive.modules(&version, &["virtio_pci", "virtio_blk", "ext4", "loop"])?;
    archive.program("losetup")?;
    let initramfs = dir.path().join("initramfs");
    std::fs::write(&initramfs, archive.finish()).map_err(|e| e.to_string())?;
    let files = dir.path().join("files");
    let made = Command::new("/sbin/mkfs.ext4")
        .args(["-q", "-F", "-O", "^has_journal", "-d"])
        .args([folder, &files])
        .arg("1G")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("mkfs.ext4: {e}"))?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", "q35", "-m", "512M", "-device", "virtio-blk-pci,drive=files", "-drive"]);
    command.arg(format!("if=none,id=files,format=raw,file={}", files.display()));
    let mut machine = Machine::launch("tables", command, (&vmlinux, &initramfs), "", Stdio::null(), None);
    machine.run("mount -t ext4 /dev/vda /mnt");
    let (status, lines) = machine.attempt(LOOK, Duration::from_secs(240));
    assert_eq!(status, 0, "{lines}");
    machine.power_off();
    let mut said: BTreeMap<String, Said> = BTreeMap::new();
    for line in lines.lines().filter_map(|line| line.strip_prefix("@ ")) {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, number, start, size] = words[..] else { panic!("{line}") };
        let place = (start.parse().unwrap(), size.parse().unwrap());
        said.entry(name.to_string()).or_default().insert(number.parse().unwrap(), place);
    }
    Ok(said)
}

/// The numbers of extended partitions, which Linux shows (a few sectors of them) and nobody is served.
fn extended(image: &Image) -> Vec<u32> {
    let kind = |n: u32| image.bytes[446 + 16 * (n as usize - 1) + 4];
    (1..=4).filter(|&n| matches!(kind(n), 0x05 | 0x0f | 0x85)).collect()
}

/// All that is served is where Linux has it under that number. What Linux has beside that is named in a warning: it overlaps
/// another partition, or the disk ends before it does.
#[track_caller]
fn agree(name: &str, image: &Image, table: &Table, linux: &Said) {
    let sectors = image.size.bytes() / 512;
    for p in &table.partitions {
        let ours = (p.extent.first() * sectors, p.extent.blocks() * sectors);
        assert_eq!(linux.get(&p.number), Some(&ours), "{name}: partition {}: {table:?}", p.number);
    }
    for number in linux.keys().filter(|n| !extended(image).contains(n)) {
        let served = table.partitions.iter().any(|p| p.number == *number);
        let named =
            |w: &Warning| matches!(w, Warning::Entry(n, Odd::Overlaps(_) | Odd::Outside) if n == number);
        let named = table.warnings.iter().any(named);
        assert!(served != named, "{name}: partition {number} of {linux:?}: {table:?}");
    }
}

#[test]
fn partitions_have_the_numbers_and_places_that_linux_gives_them() {
    let Some(cases) = tools::cases() else { return };
    let folder = tempfile::tempdir().unwrap();
    let place =
        |name: &str, size: BlockSize| -> PathBuf { folder.path().join(format!("{name}.{}", size.bytes())) };
    for (name, image) in &cases {
        write_sparse(&place(name, image.size), &image.bytes);
    }
    let linux = match said_by_linux(folder.path()) {
        Ok(linux) => linux,
        Err(missing) => return tools::skipped(&missing),
    };
    for (name, image) in &cases {
        let nothing = Said::new();
        let linux = linux.get(&format!("{name}.{}", image.size.bytes())).unwrap_or(&nothing);
        eprintln!("{name}: {linux:?}");
        agree(name, image, &image.scan(), linux);
    }
    // An oracle that says nothing would agree with anything.
    let partitions: usize = linux.values().map(BTreeMap::len).sum();
    assert!(linux.len() * 10 >= cases.len() * 8 && partitions > 2 * linux.len(), "{linux:?}");
}

fn write_sparse(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (at, piece) in (0..).step_by(4096).zip(bytes.chunks(4096)) {
        if piece.iter().any(|&byte| byte != 0) {
            file.write_all_at(piece, at).unwrap();
        }
    }
}
