//! Tables as programs write them, with the odd ones that they make when they are asked to, and as no program writes them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use nvme_policy::BlockSize;

use crate::image::*;
use crate::oracle::program;

const B512: BlockSize = BlockSize::B512;
const B4096: BlockSize = BlockSize::B4096;

/// Every program that makes tables here, or the guest that reads them, and its package.
const PROGRAMS: [(&str, &str); 11] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("mkfs.ext4", "e2fsprogs"),
    ("sfdisk", "fdisk"),
    ("fdisk", "fdisk"),
    ("sgdisk", "gdisk"),
    ("parted", "parted"),
    ("xorriso", "xorriso"),
    ("genimage", "genimage"),
    ("mkfs.vfat", "dosfstools"),
    ("mpartition", "mtools"),
];

/// Something is missing: said, and an end of the test unless it must run.
pub(crate) fn skipped(what: &str) {
    let required = ["CI", "NVME_DRV_REQUIRE_VM"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!required, "missing: {what}");
    let _ = writeln!(std::io::stderr(), "skipped: missing: {what}");
}

/// A command of the shell, in a folder where `disk` is a new file of 32 MiB; the image is what `disk` is afterwards. `a` and `b` are
/// files of 1 and 2 MiB.
fn made(size: BlockSize, script: &str) -> Image {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("files")).unwrap();
    for (name, length) in [("files/a", 1 << 20), ("files/b", 2 << 20)] {
        std::fs::write(at(name), vec![b'x'; length]).unwrap();
    }
    std::fs::File::create(at("disk")).unwrap().set_len(32 << 20).unwrap();
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(folder.path()).env("MTOOLS_SKIP_CHECK", "1");
    let path = std::env::var("PATH").unwrap_or_default();
    let output =
        command.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(Stdio::null()).output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{script}: {}{}", said(&output.stdout), said(&output.stderr));
    let mut bytes = std::fs::read(at("disk")).unwrap();
    bytes.resize(bytes.len().next_multiple_of(size.bytes() as usize), 0);
    Image { bytes, size, bad: Vec::new() }
}

fn genimage(kind: &str, more: &str) -> String {
    // A type of its own has a partition of an MBR only.
    let types = if kind == "gpt" { ["", ""] } else { ["partition-type = 0x83", "partition-type = 0xc"] };
    let [a, b] = types;
    format!(
        "mkdir root; cat > cfg <<END\nimage disk {{ hdimage {{ partition-table-type = {kind}\n{more} }}\n\
         partition a {{ image = \"a\"\n {a} }}\n partition b {{ image = \"b\"\n {b} }} }}\nEND\n\
         genimage --config cfg --inputpath files --rootpath root --outputpath . --tmppath tmp >log 2>&1 || {{ cat log; exit 1; }}\n\
         truncate -s 32M disk"
    )
}

/// A record's block, and its entries: kind, first block, number of blocks.
type Record<'a> = (u64, &'a [(u8, u32, u32)]);

/// An MBR and extended boot records, by hand.
fn records(size: BlockSize, records: &[Record<'_>]) -> Image {
    let mut image = Image::new((8 << 20) / size.bytes(), size);
    for (block, entries) in records {
        record(&mut image, *block, 0x0bad_cafe, entries);
    }
    image
}

/// A GPT of these entries (first, last), which need not be sound.
fn gpt(size: BlockSize, entries: &[(u64, u64)], change: impl FnOnce(&mut Gpt)) -> Image {
    let mut image = Image::new((8 << 20) / size.bytes(), size);
    protective(&mut image);
    let entry = |(i, &(first, last)): (usize, &(u64, u64))| Some(Entry::new(i as u8 + 1, first, last, "x"));
    let mut all: Vec<_> = entries.iter().enumerate().map(entry).collect();
    all.resize(128, None);
    let mut gpt = Gpt::primary(&image, all, 128);
    gpt.backup().write(&mut image);
    change(&mut gpt);
    gpt.write(&mut image);
    image
}

const LOGICAL: &str = "printf 'label: dos\\n1: start=2048,size=2048\\n2: start=8192,size=40960,type=5\\n\
    5: start=10240,size=2048\\n6: start=14336,size=2048\\n7: start=20480,size=2048\\n' | sfdisk -q disk";

/// All tables, by name; `None` when a program is missing.
pub(crate) fn cases() -> Option<Vec<(String, Image)>> {
    let missing: Vec<_> =
        PROGRAMS.iter().filter(|(name, package)| program(name, package).is_none()).map(|p| p.1).collect();
    if !missing.is_empty() {
        skipped(&missing.join(" "));
        return None;
    }
    let mut cases: Vec<(String, Image)> = Vec::new();
    for (name, script) in [
        (
            "sfdisk_gpt",
            "printf 'label: gpt\\n1: start=2048,size=4096\\n9: start=40000,size=7\\n' | sfdisk -q disk"
                .into(),
        ),
        (
            "sfdisk_dos",
            "printf 'label: dos\\n2: start=2048,size=4096\\n4: start=40000,size=7\\n' | sfdisk -q disk"
                .into(),
        ),
        ("sfdisk_logical", LOGICAL.into()),
        ("sfdisk_logical_type_0", format!("{LOGICAL}; sfdisk -q --part-type disk 5 0")),
        ("sfdisk_logical_type_0_later", format!("{LOGICAL}; sfdisk -q --part-type disk 6 0")),
        ("sfdisk_primary_type_0", format!("{LOGICAL}; sfdisk -q --part-type disk 1 0")),
        ("sfdisk_logical_deleted", format!("{LOGICAL}; sfdisk -q --delete disk 5")),
        ("sfdisk_logical_deleted_later", format!("{LOGICAL}; sfdisk -q --delete disk 6")),
        ("sgdisk_gpt", "sgdisk -n 1:2048:6143 -n 7:8192:8192 -n 3:34:40 disk".into()),
        ("sgdisk_large", "sgdisk --resize-table=1000 -n 200:4096:4200 -n 1:0:+1M disk".into()),
        ("sgdisk_hybrid", "sgdisk -n 1:2048:+1M -n 2:0:+1M -n 3:0:+1M -h 1:3 disk".into()),
        ("sgdisk_hybrid_ee_last", "sgdisk -n 1:2048:+1M -n 2:0:+1M -n 3:0:+1M -h 1:2:EE disk".into()),
        ("sgdisk_to_mbr", "sgdisk -n 1:2048:+1M -n 2:0:+1M -n 3:0:+1M -m 1:3 disk".into()),
        ("sgdisk_read_only", "sgdisk -n 1:2048:+1M -A 1:set:60 -n 2:0:+1M disk".into()),
        ("sgdisk_cut", "sgdisk -n 1:2048:+1M -n 2:0:+1M disk; truncate -s 40M disk".into()),
        ("parted_gpt", "parted -s disk mklabel gpt mkpart a 1MiB 3MiB mkpart b 5MiB 6MiB".into()),
        (
            "parted_dos",
            "parted -s disk mklabel msdos mkpart primary 1MiB 3MiB mkpart extended 5MiB 20MiB \
            mkpart logical 6MiB 7MiB mkpart logical 10MiB 11MiB"
                .into(),
        ),
        (
            "parted_dos_lba",
            "parted -s disk mklabel msdos mkpart extended 5MiB 20MiB set 1 lba on mkpart logical 6MiB 7MiB \
            mkpart logical 9MiB 11MiB unit s mkpart logical 14400 16000 rm 5"
                .into(),
        ),
        (
            "xorriso_append",
            "xorriso -as mkisofs -quiet -o disk -append_partition 2 0xef files/a files".into(),
        ),
        (
            "xorriso_append_gpt",
            "xorriso -as mkisofs -quiet -o disk -appended_part_as_gpt -append_partition 2 0xef files/a \
            -append_partition 3 0x83 files/b files"
                .into(),
        ),
        (
            "xorriso_offset",
            "xorriso -as mkisofs -quiet -o disk -partition_offset 16 -append_partition 2 0xef files/a files"
                .into(),
        ),
        ("genimage_mbr", genimage("mbr", "")),
        ("genimage_gpt", genimage("gpt", "")),
        ("genimage_gpt_no_backup", genimage("gpt", "gpt-no-backup = true\n")),
        ("genimage_hybrid", genimage("hybrid", "")),
        ("vfat_mbr", "rm disk; mkfs.vfat -C --mbr=y disk 16000".into()),
        ("vfat", "rm disk; mkfs.vfat -C disk 16000".into()),
        (
            "mtools",
            "printf 'drive z: file=\"disk\" partition=1\\n' > rc; export MTOOLSRC=rc; mpartition -I z:; \
            mpartition -c -b 64 -l 20000 z:"
                .into(),
        ),
    ] {
        cases.push((name.into(), made(B512, &script)));
    }
    let fdisk = |script: &str| {
        format!(
            "printf '{script}' | fdisk -b 4096 --wipe=never --wipe-partitions=never disk >log 2>&1 || {{ cat log; exit 1; }}"
        )
    };
    cases
        .push(("fdisk_gpt".into(), made(B4096, &fdisk("g\\nn\\n1\\n256\\n+100\\nn\\n9\\n512\\n512\\nw\\n"))));
    let logical = "o\\nn\\np\\n1\\n256\\n+99\\nn\\ne\\n2\\n1024\\n4096\\nn\\nl\\n1280\\n1300\\nn\\nl\\n2048\\n2100\\nn\\nl\\n3000\\n3001\\nw\\n";
    cases.push(("fdisk_logical".into(), made(B4096, &fdisk(logical))));
    let again = format!("{}; {}", fdisk(logical), fdisk("t\\n5\\n0\\nw\\n"));
    cases.push(("fdisk_logical_type_0".into(), made(B4096, &again)));
    cases.extend(by_hand());
    Some(cases)
}

fn by_hand() -> Vec<(String, Image)> {
    let mut cases = Vec::new();
    let mut add = |name: &str, image: Image| cases.push((name.to_string(), image));
    for size in BOTH {
        let mbr = |all: &[Record<'_>]| records(size, all);
        add("mbr_from_0", mbr(&[(0, &[(0x83, 0, 100), (0xef, 100, 50), (0x83, 200, 7)])]));
        add("mbr_isohybrid", mbr(&[(0, &[(0x17, 0, 900), (0xef, 40, 10), (0x83, 900, 100)])]));
        add("mbr_overlap", mbr(&[(0, &[(0x83, 10, 10), (0x83, 19, 5), (0x83, 30, 5)])]));
        add("mbr_over_the_end", mbr(&[(0, &[(0x83, 10, 10), (0x83, 1000, 1 << 30), (0x83, 1 << 30, 5)])]));
        add(
            "ebr_link_first",
            mbr(&[(0, &[(0x05, 100, 800)]), (100, &[(0x05, 50, 20), (0x83, 1, 10)]), (150, &[(0x83, 1, 5)])]),
        );
        add(
            "ebr_four",
            mbr(&[
                (0, &[(0x83, 10, 5), (0x0f, 100, 800)]),
                (100, &[(0x83, 1, 10), (0x05, 50, 10), (0x83, 20, 10), (0x83, 30, 10)]),
                (150, &[(0x83, 1, 5), (0x83, 6, 2), (0x83, 8, 2), (0x83, 9, 5)]),
            ]),
        );
        add(
            "ebr_garbage",
            mbr(&[
                (0, &[(0x05, 100, 800)]),
                (100, &[(0x83, 1, 10), (0x05, 50, 10), (0x83, 790, 11), (0x83, 1 << 31, 1 << 31)]),
                (150, &[(0, 0, 0), (0, 3, 0), (0x83, 1, 10), (0x83, 1, 9)]),
            ]),
        );
        add(
            "ebr_empty",
            mbr(&[
                (0, &[(0x05, 100, 800)]),
                (100, &[(0, 0, 0), (0x05, 50, 10)]),
                (150, &[(0, 1, 5), (0x05, 70, 10)]),
                (170, &[(0x83, 1, 5), (0x05, 0, 0)]),
            ]),
        );
        add(
            "ebr_out",
            mbr(&[
                (0, &[(0x83, 10, 5), (0x05, 100, 100)]),
                (100, &[(0x83, 1, 5), (0x05, 400, 10)]),
                (500, &[(0x83, 1, 5), (0x05, 1 << 30, 9)]),
            ]),
        );
        add(
            "ebr_long",
            mbr(&[
                (0, &[(0x05, 100, 100)]),
                (100, &[(0x83, 50, 100), (0x05, 20, 9)]),
                (120, &[(0x83, 1, 5)]),
            ]),
        );
        add(
            "two_extended",
            mbr(&[
                (0, &[(0x05, 300, 100), (0x83, 10, 10), (0x0f, 100, 100), (0x85, 500, 100)]),
                (300, &[(0x83, 1, 10), (0x05, 20, 20)]),
                (320, &[(0x83, 1, 10)]),
                (100, &[(0x83, 1, 9)]),
            ]),
        );
        add("ebr_boot_flags", {
            let mut image = mbr(&[
                (0, &[(0x05, 100, 800)]),
                (100, &[(0x83, 1, 10), (0x05, 50, 20)]),
                (150, &[(0x83, 1, 5)]),
            ]);
            image.put(100, 446, &[0x33]);
            image
        });
        add("mbr_bad_boot_flag", {
            let mut image = mbr(&[(0, &[(0x83, 100, 800)])]);
            image.put(0, 462, &[0x33]);
            image
        });
        add("gpt_boot_flag", {
            let mut image = gpt(size, &[(50, 59), (60, 60)], |_| ());
            image.put(0, 446, &[0x33]);
            image
        });
        add("gpt_two_ee", {
            let mut image = gpt(size, &[(50, 59), (60, 60)], |_| ());
            record(&mut image, 0, 0, &[(0xee, 60, 140), (0xee, 1, 49)]);
            image
        });
        add(
            "gpt_unusable",
            gpt(size, &[(20, 25), (100, 109), (400, 409)], |g| (g.first_usable, g.last_usable) = (50, 150)),
        );
        add("gpt_over_table", gpt(size, &[(0, 0), (3, 4), (100, 109)], |_| ()));
        add("gpt_overlap", gpt(size, &[(50, 59), (59, 60), (100, 109)], |_| ()));
        add("gpt_outside", gpt(size, &[(50, 59), (100, 1 << 30), (200, 209)], |_| ()));
        add("gpt_alternate_1", gpt(size, &[(50, 59), (100, 109)], |g| g.alternate = 1));
    }
    cases
}

/// So that nothing is forgotten that a tool needs.
#[test]
fn every_program_that_makes_tables_here_is_a_package_of_ci() {
    let packages =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/packages")).unwrap();
    for (_, package) in PROGRAMS {
        let listed = packages.lines().any(|line| line.split_whitespace().next() == Some(package));
        assert!(listed, "{package}");
    }
}
