//! The corpus of broken tables. A copy of a GPT that is wrong in any way is not used; its sound twin is.

use nvme_core::disk::{Broken, GptCopy, Kind, Table, Warning};
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
    let array = [Broken::ArrayChecksum, Broken::Outside(2), Broken::Overlap(1, 2)];
    match backup.filter(|why| !array.contains(why)) {
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

#[test]
fn an_alternate_among_the_partitions_is_refused() {
    for alternate in [0, 2, 100] {
        costs_a_copy(|gpt| gpt.alternate = alternate, Broken::AlternateLba);
    }
}

#[test]
fn impossible_usable_ranges_are_refused() {
    costs_a_copy(|gpt| gpt.first_usable = 0, Broken::UsableRange);
    costs_a_copy(|gpt| gpt.first_usable = 1, Broken::UsableRange);
    costs_a_copy(|gpt| gpt.first_usable = gpt.last_usable + 1, Broken::UsableRange);
    costs_a_copy(|gpt| gpt.last_usable = 200, Broken::UsableRange);
    costs_a_copy(|gpt| gpt.last_usable = u64::MAX, Broken::UsableRange);
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
fn arrays_at_impossible_places_are_refused() {
    for array in [0, 1, 50, 196, 199, 200, u64::MAX, u64::MAX - 1] {
        costs_a_copy(|gpt| gpt.array = array, Broken::ArrayPlace);
    }
    // Long enough to reach into the usable blocks, or into the backup header.
    costs_a_copy(|gpt| gpt.entry_count = 4096, Broken::ArrayPlace);
}

#[test]
fn an_array_may_touch_the_usable_blocks_but_not_share_one() {
    for size in BOTH {
        let (sound, gpt) = sample(size);
        let mut image = sound.clone();
        let shared = Gpt { first_usable: gpt.first_usable - 1, ..gpt.clone() };
        shared.write(&mut image);
        backup_serves(&image.scan(), Broken::ArrayPlace);
        let mut image = sound;
        Gpt { last_usable: gpt.last_usable + 1, ..gpt.backup() }.write(&mut image);
        primary_serves(&image.scan(), Some(Broken::ArrayPlace));
    }
}

#[test]
fn a_wrong_count_that_fits_is_caught_by_the_checksum() {
    costs_a_copy(|gpt| gpt.entry_count -= 1, Broken::ArrayChecksum);
}

#[test]
fn partitions_outside_the_usable_blocks_are_refused() {
    let outside = |change: fn(&mut Entry, &Gpt)| {
        costs_a_copy(
            |gpt| {
                let sound = gpt.clone();
                change(gpt.entries[1].as_mut().unwrap(), &sound);
            },
            Broken::Outside(2),
        );
    };
    outside(|entry, _| entry.first = 0);
    outside(|entry, gpt| (entry.first, entry.last) = (gpt.first_usable - 1, 49));
    outside(|entry, gpt| (entry.first, entry.last) = (190, gpt.last_usable + 1));
    outside(|entry, _| (entry.first, entry.last) = (199, 200));
    outside(|entry, _| (entry.first, entry.last) = (70, 69));
    outside(|entry, _| (entry.first, entry.last) = (u64::MAX, 3));
    outside(|entry, _| (entry.first, entry.last) = (0, u64::MAX));
    outside(|entry, _| entry.last = u64::MAX);
}

#[test]
fn overlapping_partitions_are_refused() {
    for (first, last) in [(59, 61), (50, 59), (52, 52), (40, 160), (40, 50)] {
        let wrong = |gpt: &mut Gpt| {
            let entry = gpt.entries[1].as_mut().unwrap();
            (entry.first, entry.last) = (first, last);
        };
        costs_a_copy(wrong, Broken::Overlap(1, 2));
    }
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
        none_serves(&image.scan(), Broken::UsableRange, Broken::Signature);
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

/// Kind, first block, number of blocks.
type Slot = (u8, u32, u32);

fn mbr(primary: &[Slot], records: &[(u64, &[Slot])]) -> Table {
    let mut image = Image::new(1000, BlockSize::B512);
    record(&mut image, 0, 7, primary);
    for (block, entries) in records {
        record(&mut image, *block, 0, entries);
    }
    image.scan()
}

#[test]
fn a_broken_mbr_has_no_partitions() {
    for (entries, why) in [
        (&[(0x83, 0, 10)][..], Broken::Outside(1)),
        (&[(0x83, 10, 10), (0x83, 999, 2)], Broken::Outside(2)),
        (&[(0x83, 1000, 1)], Broken::Outside(1)),
        (&[(0x83, u32::MAX, u32::MAX)], Broken::Outside(1)),
        (&[(0x83, 10, 10), (0x83, 19, 1)], Broken::Overlap(1, 2)),
        (&[(0x83, 100, 10), (0x83, 10, 91)], Broken::Overlap(1, 2)),
        (&[(0x05, 100, 10), (0x83, 109, 10)], Broken::Overlap(1, 2)),
        (&[(0x05, 100, 10), (0x0f, 200, 10)], Broken::TwoExtended),
    ] {
        let table = mbr(entries, &[]);
        assert_eq!((table.kind, table.partitions.len()), (Kind::Mbr, 0));
        assert_eq!(table.warnings, [Warning::Mbr(why)], "{entries:?}");
    }
}

#[test]
fn a_broken_chain_costs_the_logical_partitions_only() {
    let primary = &[(0x83, 10, 10), (0x05, 100, 800)];
    for (records, why) in [
        // No record at all; a chain that loops, at once or later; a link to the MBR, and out of the extended partition.
        (&[][..], Broken::Signature),
        (&[(100, &[(0x83, 1, 10), (0x05, 0, 100)][..])], Broken::Loop),
        (&[(100, &[(0x83, 1, 10), (0x05, 50, 100)]), (150, &[(0x83, 1, 10), (0x05, 0, 100)])], Broken::Loop),
        (&[(100, &[(0x83, 1, 10), (0x05, u32::MAX - 99, 100)])], Broken::Outside(6)),
        (&[(100, &[(0x83, 1, 10), (0x05, 800, 100)])], Broken::Outside(6)),
        // A partition that reaches out, and one that is its own record.
        (&[(100, &[(0x83, 1, 800)])], Broken::Outside(5)),
        (&[(100, &[(0x83, u32::MAX, u32::MAX)])], Broken::Outside(5)),
        (&[(100, &[(0x83, 0, 10)])], Broken::Outside(5)),
        // One that covers the next record, and could rewrite it.
        (&[(100, &[(0x83, 1, 60), (0x05, 50, 100)]), (150, &[(0x83, 60, 10)])], Broken::Outside(5)),
        // Two that overlap, two in one record, two links.
        (&[(100, &[(0x83, 60, 60), (0x05, 50, 100)]), (150, &[(0x83, 1, 20)])], Broken::Overlap(5, 6)),
        (&[(100, &[(0x83, 1, 10), (0x83, 20, 10)])], Broken::Record),
        (&[(100, &[(0x05, 50, 10), (0x05, 60, 10)])], Broken::Record),
    ] {
        let table = mbr(primary, records);
        assert_eq!(table.partitions.iter().map(|p| p.number).collect::<Vec<_>>(), [1], "{records:?}");
        assert_eq!(table.warnings, [Warning::Logical(why)], "{records:?}");
    }
}

#[test]
fn entries_without_a_kind_or_without_blocks_are_empty() {
    let table =
        mbr(&[(0x83, u32::MAX, 0), (0, 10, 10), (0x05, 100, 800)], &[(100, &[(0x83, 0, 0), (0x05, 50, 0)])]);
    assert_eq!((table.kind, table.partitions.len(), table.warnings.len()), (Kind::Mbr, 0, 0));
}

#[test]
fn a_disk_too_small_for_a_backup_has_none() {
    for (blocks, size) in [(1, BlockSize::B512), (2, BlockSize::B512), (2, BlockSize::B4096)] {
        let mut image = Image::new(blocks, size);
        record(&mut image, 0, 0, &[(0xee, 1, 1)]);
        assert_eq!(image.scan().warnings, [Warning::Gpt(GptCopy::Primary, Broken::Signature)]);
    }
}

#[test]
fn a_chain_of_many_records_ends() {
    let chain = |length: u32| {
        let mut image = Image::new(1000, BlockSize::B512);
        record(&mut image, 0, 7, &[(0x05, 100, 800)]);
        for i in 0..length {
            let link = if i + 1 < length { (0x05, 2 * (i + 1), 2) } else { (0, 0, 0) };
            record(&mut image, 100 + 2 * u64::from(i), 0, &[(0x83, 1, 1), link]);
        }
        image.scan()
    };
    assert_eq!((chain(128).partitions.len(), chain(128).warnings.len()), (128, 0));
    assert_eq!(chain(128).partitions[127].id.to_string(), "00000007-84");
    assert_eq!(
        (chain(129).partitions.len(), &chain(129).warnings[..]),
        (0, &[Warning::Logical(Broken::TooLong)][..])
    );
}
