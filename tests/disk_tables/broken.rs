//! The corpus of broken tables. A copy of a GPT that is not what UEFI 2.10, 5.3.2 asks is not used; its sound twin is. One odd
//! entry costs no other: `odd`.

use nvme_core::disk::{Broken, GptCopy, Kind, Odd, Table, Warning};
use nvme_policy::{BlockSize, NoLabel};

use crate::image::*;

/// Both copies are made wrong in the same way, then only the primary, then only the backup.
#[track_caller]
fn costs_a_copy(wrong: impl Fn(&mut Gpt), why: Broken) {
    for size in BOTH {
        let (sound, gpt) = sample(size);
        let (mut primary, mut backup) = (gpt.clone(), gpt.backup());
        wrong(&mut primary);
        wrong(&mut backup);
        let with = |copies: &[&Gpt]| {
            let mut image = sound.clone();
            copies.iter().for_each(|copy| copy.write(&mut image));
            image.scan()
        };
        none_serves(&with(&[&primary, &backup]), why, why);
        backup_serves(&with(&[&primary]), why);
        primary_serves(&with(&[&backup]), Some(why));
    }
}

#[track_caller]
fn none_serves(table: &Table, primary: Broken, backup: Broken) {
    assert_eq!((table.kind, table.partitions.len()), (Kind::Gpt, 0));
    let warnings = [Warning::Gpt(GptCopy::Primary, primary), Warning::Gpt(GptCopy::Backup, backup)];
    assert!(table.warnings.starts_with(&warnings), "{:?}", table.warnings);
}

#[track_caller]
fn backup_serves(table: &Table, why: Broken) {
    assert_eq!(table.warnings, [Warning::Gpt(GptCopy::Primary, why), Warning::BackupServes]);
    assert_eq!(table.partitions, sample(table.partitions[0].extent.block_size()).0.scan().partitions);
}

#[track_caller]
fn primary_serves(table: &Table, backup: Option<Broken>) {
    // Of a backup that is not needed only the header is read.
    match backup.filter(|&why| why != Broken::ArrayChecksum) {
        Some(why) => assert_eq!(table.warnings, [Warning::Gpt(GptCopy::Backup, why)]),
        None => assert!(table.warnings.is_empty() || table.warnings == [Warning::BackupDiffers]),
    }
    assert_eq!(table.partitions, sample(table.partitions[0].extent.block_size()).0.scan().partitions);
}

#[test]
fn an_unknown_revision_is_refused() {
    costs_a_copy(|gpt| gpt.revision = 0x0002_0000, Broken::Revision);
    costs_a_copy(|gpt| gpt.revision = 0, Broken::Revision);
}

#[test]
fn a_header_too_short_or_longer_than_its_block_is_refused() {
    for header_size in [0, 12, 91, 4097, u32::MAX] {
        costs_a_copy(|gpt| gpt.header_size = header_size, Broken::HeaderSize);
    }
}

#[test]
fn a_header_that_belongs_elsewhere_is_refused() {
    for my_lba in [0, 2, 198, u64::MAX] {
        costs_a_copy(|gpt| gpt.my_lba = my_lba, Broken::MyLba);
    }
}

/// The primary copy is made so, and serves all the same.
#[track_caller]
fn costs_a_warning(odd: impl Fn(&mut Gpt), warnings: &[Warning]) {
    for size in BOTH {
        let (mut image, mut gpt) = sample(size);
        let sound = image.scan();
        let backup = gpt.backup();
        odd(&mut gpt);
        gpt.write(&mut image);
        Gpt { first_usable: gpt.first_usable, last_usable: gpt.last_usable, ..backup }.write(&mut image);
        let table = image.scan();
        assert_eq!((&table.partitions, &table.warnings[..]), (&sound.partitions, warnings));
    }
}

#[test]
fn a_primary_serves_wherever_it_says_that_its_backup_is() {
    for alternate in [0, 1, 2, 100] {
        costs_a_warning(|gpt| gpt.alternate = alternate, &[Warning::NoBackup]);
    }
    costs_a_warning(|gpt| gpt.alternate = 200, &[Warning::BackupOutside]);
    costs_a_warning(|gpt| gpt.alternate = u64::MAX, &[Warning::BackupOutside]);
}

#[test]
fn a_backup_serves_wherever_it_says_that_its_primary_is() {
    for alternate in [0, 2, 100, 199, u64::MAX] {
        let (mut image, gpt) = sample(BlockSize::B512);
        image.put(1, 0, &[0; 92]);
        Gpt { alternate, ..gpt.backup() }.write(&mut image);
        backup_serves(&image.scan(), Broken::Signature);
    }
}

#[test]
fn a_backup_is_not_looked_for_among_the_partitions() {
    // Whoever has the partition could put a table there.
    let (mut image, gpt) = sample(BlockSize::B512);
    let forged = Gpt { my_lba: 120, header_at: 120, array: 121, array_at: 121, ..gpt.backup() };
    forged.write(&mut image);
    let primary = Gpt { alternate: 120, entry_count: 7, ..gpt };
    primary.write(&mut image);
    image.put(199, 0, &[0; 92]);
    none_serves(&image.scan(), Broken::ArrayChecksum, Broken::Signature);
}

#[test]
fn an_impossible_usable_range_is_a_warning() {
    costs_a_warning(|gpt| gpt.first_usable = 0, &[Warning::UsableRange]);
    costs_a_warning(|gpt| gpt.first_usable = 1, &[Warning::UsableRange]);
    costs_a_warning(|gpt| gpt.last_usable = 200, &[Warning::UsableRange, Warning::NoBackup]);
    costs_a_warning(|gpt| gpt.last_usable = u64::MAX, &[Warning::UsableRange, Warning::NoBackup]);
}

#[test]
fn impossible_entry_sizes_are_refused() {
    for entry_size in [0, 1, 64, 127, 129, 192, 384, 8192, 1 << 31, u32::MAX] {
        costs_a_copy(
            |gpt| {
                gpt.entries.clear();
                gpt.entry_size = entry_size;
            },
            Broken::EntrySize,
        );
    }
}

#[test]
fn no_entries_and_huge_counts_are_refused() {
    for count in [0, 8193, 1 << 25, 1 << 31, u32::MAX] {
        costs_a_copy(|gpt| gpt.entry_count = count, Broken::EntryCount);
    }
}

#[test]
fn arrays_outside_the_disk_or_over_their_header_are_refused() {
    for array in [0, 1, 199, 200, u64::MAX, u64::MAX - 1] {
        let wrong = |gpt: &mut Gpt| {
            // So long that it reaches the header or the end from each of these.
            gpt.entry_count *= 8;
            gpt.array = array;
        };
        costs_a_copy(wrong, Broken::ArrayPlace);
    }
}

#[test]
fn a_wrong_count_that_fits_is_caught_by_the_checksum() {
    costs_a_copy(|gpt| gpt.entry_count -= 1, Broken::ArrayChecksum);
}

/// Every bit of a header but those behind its end, and every bit of the entries.
#[test]
fn a_flipped_bit_never_goes_unnoticed() {
    let (sound, gpt) = sample(BlockSize::B512);
    let expected = sound.scan().partitions;
    for (block, length) in [(1, 92), (2, 512), (gpt.array + 1, 512)] {
        for bit in 0..length * 8 {
            let mut image = sound.clone();
            image.at(block, bit / 8)[0] ^= 1 << (bit % 8);
            let table = image.scan();
            assert!(matches!(table.warnings[..], [Warning::Gpt(GptCopy::Primary, _), Warning::BackupServes]));
            assert_eq!(table.partitions, expected);
        }
    }
    for bit in 0..92 * 8 {
        let mut image = sound.clone();
        image.at(199, bit / 8)[0] ^= 1 << (bit % 8);
        let table = image.scan();
        assert!(matches!(table.warnings[..], [Warning::Gpt(GptCopy::Backup, _)]), "{bit}");
        assert_eq!(table.partitions, expected);
    }
}

#[test]
fn wiped_and_unreadable_copies_are_told_apart() {
    for size in BOTH {
        let (sound, gpt) = sample(size);
        let mut image = sound.clone();
        image.put(1, 0, &[0; 92]);
        backup_serves(&image.scan(), Broken::Signature);
        let mut image = sound.clone();
        image.bad = vec![1];
        backup_serves(&image.scan(), Broken::Unreadable);
        let mut image = sound.clone();
        image.bad = vec![gpt.array];
        backup_serves(&image.scan(), Broken::Unreadable);
        let mut image = sound.clone();
        image.bad = vec![199];
        primary_serves(&image.scan(), Some(Broken::Unreadable));
        let mut image = sound.clone();
        image.bad = vec![1, 199];
        none_serves(&image.scan(), Broken::Unreadable, Broken::Unreadable);
        let mut image = sound.clone();
        image.put(1, 0, &[0; 92]);
        image.put(199, 16, &[0; 4]);
        none_serves(&image.scan(), Broken::Signature, Broken::HeaderChecksum);
        // The backup is looked for in one place once, though primary header and last block both name it.
        image.put(1, 0, &sound.bytes[size.bytes() as usize..][..92]);
        image.put(2, 0, &[0xff]);
        let table = image.scan();
        assert_eq!(table.warnings.len(), 2);
        none_serves(&table, Broken::ArrayChecksum, Broken::HeaderChecksum);
        let mut image = sound;
        image.bad = vec![0];
        let table = image.scan();
        assert_eq!((table.kind, &table.warnings[..]), (Kind::None, &[Warning::FirstBlock][..]));
    }
}

#[test]
fn a_gpt_behind_no_protective_mbr_is_stale() {
    let (mut image, _) = sample(BlockSize::B512);
    image.put(0, 0, &[0; 512]);
    assert_eq!(image.scan(), Table::default());
    record(&mut image, 0, 1, &[(0x83, 60, 10)]);
    let table = image.scan();
    assert_eq!((table.kind, table.partitions.len()), (Kind::Mbr, 1));
}

#[test]
fn a_disk_that_became_shorter_loses_what_it_lost() {
    for size in BOTH {
        let (sound, gpt) = sample(size);
        let mut image = sound.clone();
        image.bytes.truncate((gpt.last_usable as usize + 1) << size.shift());
        let table = image.scan();
        assert_eq!((table.partitions.len(), &table.warnings[..]), (3, &[Warning::BackupOutside][..]));
        image.bytes.truncate((gpt.last_usable as usize) << size.shift());
        let table = image.scan();
        let want = [Warning::UsableRange, Warning::BackupOutside];
        assert_eq!((table.partitions.len(), &table.warnings[..]), (3, &want[..]));
        // What is not whole any more is not served.
        image.bytes.truncate(110 << size.shift());
        let table = image.scan();
        let want = [want[0], want[1], Warning::Entry(5, Odd::Outside)];
        assert_eq!((table.partitions.len(), &table.warnings[..]), (2, &want[..]));
        for blocks in 1..4 {
            image.bytes.truncate(blocks << size.shift());
            assert!(image.scan().partitions.is_empty());
        }
    }
}

#[test]
fn a_disk_that_has_grown_keeps_its_partitions() {
    for size in BOTH {
        let (mut image, _) = sample(size);
        let longer = Image::new(300, size).bytes.len();
        image.bytes.resize(longer, 0);
        let table = image.scan();
        assert_eq!((table.partitions.len(), &table.warnings[..]), (3, &[Warning::BackupNotAtEnd][..]));
        // The primary's header still says where the backup is when its array is gone.
        image.put(2, 0, &[0xff; 100]);
        let table = image.scan();
        let want = [
            Warning::Gpt(GptCopy::Primary, Broken::ArrayChecksum),
            Warning::Gpt(GptCopy::Backup, Broken::Signature),
            Warning::BackupServes,
        ];
        assert_eq!((table.partitions.len(), &table.warnings[..]), (3, &want[..]));
    }
}

#[test]
fn a_backup_of_another_table_is_noticed() {
    let (mut image, gpt) = sample(BlockSize::B512);
    let mut other = gpt.backup();
    other.entries[0] = None;
    other.write(&mut image);
    let table = image.scan();
    assert_eq!((table.partitions.len(), &table.warnings[..]), (3, &[Warning::BackupDiffers][..]));
}

#[test]
fn labels_that_cannot_be_shown_are_dropped() {
    let (mut image, mut gpt) = sample(BlockSize::B512);
    gpt.entries[0].as_mut().unwrap().name = vec![0xd800, 0x61];
    gpt.entries[1].as_mut().unwrap().name = "a\u{1b}[2J".encode_utf16().collect();
    gpt.write(&mut image);
    gpt.backup().write(&mut image);
    let table = image.scan();
    assert_eq!(table.warnings, [Warning::Labels { count: 2, first: 1, why: NoLabel::Surrogate }]);
    assert!(table.partitions.len() == 3 && table.partitions.iter().all(|p| p.label.is_empty()));
}

#[test]
fn partitions_with_one_identifier_are_served_and_warned_about() {
    let (mut image, mut gpt) = sample(BlockSize::B512);
    gpt.entries[4].as_mut().unwrap().id = [1; 16];
    gpt.write(&mut image);
    gpt.backup().write(&mut image);
    let table = image.scan();
    assert_eq!((table.partitions.len(), &table.warnings[..]), (3, &[Warning::SameId(1, 5)][..]));
}

#[test]
fn more_partitions_than_are_served_are_left_out() {
    let mut image = Image::new(2000, BlockSize::B512);
    protective(&mut image);
    let entries =
        (0..300).map(|i| Some(Entry { id: [i as u8; 16], ..Entry::new(0, 500 + i, 500 + i, "") })).collect();
    let gpt = Gpt::primary(&image, entries, 128);
    gpt.write(&mut image);
    gpt.backup().write(&mut image);
    let table = image.scan();
    assert_eq!((table.partitions.len(), &table.warnings[..]), (256, &[Warning::TooMany][..]));
}

#[test]
fn a_disk_too_small_for_a_backup_has_none() {
    for (blocks, size) in [(1, BlockSize::B512), (2, BlockSize::B512), (2, BlockSize::B4096)] {
        let mut image = Image::new(blocks, size);
        record(&mut image, 0, 0, &[(0xee, 1, 1)]);
        assert_eq!(image.scan().warnings, [Warning::Gpt(GptCopy::Primary, Broken::Signature)]);
    }
}
