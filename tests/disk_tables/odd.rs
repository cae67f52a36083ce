//! One odd entry costs that entry: what is inside the disk and overlaps nothing is served, whatever the others are. MBR entries are
//! what Linux makes of them, numbers included.

use nvme_core::disk::{Broken, Kind, Odd, Protection, Table, Warning};
use nvme_policy::BlockSize;
use proptest::prelude::*;

use crate::image::*;

/// Number, first block, number of blocks.
fn places(table: &Table) -> Vec<(u32, u64, u64)> {
    table.partitions.iter().map(|p| (p.number, p.extent.first(), p.extent.blocks())).collect()
}

fn read_only(table: &Table) -> Vec<(u32, Protection)> {
    table.partitions.iter().filter_map(|p| Some((p.number, p.read_only?))).collect()
}

/// A disk with a sound GPT of these entries (first and last block).
fn gpt(size: BlockSize, entries: &[(u64, u64)]) -> (Image, Gpt) {
    let mut image = Image::new(200, size);
    protective(&mut image);
    let entry = |(i, &(first, last)): (usize, &(u64, u64))| Some(Entry::new(i as u8 + 1, first, last, "x"));
    let mut entries: Vec<_> = entries.iter().enumerate().map(entry).collect();
    entries.resize(8, None);
    let gpt = Gpt::primary(&image, entries, 128);
    gpt.write(&mut image);
    gpt.backup().write(&mut image);
    (image, gpt)
}

#[test]
fn an_entry_that_is_not_inside_the_disk_costs_itself() {
    for size in BOTH {
        for (first, last) in [(199, 200), (70, 69), (u64::MAX, 3), (5, u64::MAX), (0, u64::MAX), (200, 200)] {
            let (image, _) = gpt(size, &[(150, 159), (first, last), (160, 160)]);
            let table = image.scan();
            let cut = if first <= last && first < 150 { vec![] } else { vec![(1, 150, 10), (3, 160, 1)] };
            assert_eq!(places(&table), cut, "{first} {last}");
            assert!(table.warnings.contains(&Warning::Entry(2, Odd::Outside)), "{:?}", table.warnings);
        }
    }
}

#[test]
fn an_entry_outside_the_usable_blocks_is_served() {
    for size in BOTH {
        let (mut image, mut gpt) = gpt(size, &[(20, 29), (100, 109), (170, 179)]);
        (gpt.first_usable, gpt.last_usable) = (50, 150);
        gpt.write(&mut image);
        Gpt { array: 197, array_at: 197, ..gpt.backup() }.write(&mut image);
        let table = image.scan();
        assert_eq!(places(&table), [(1, 20, 10), (2, 100, 10), (3, 170, 10)]);
        assert_eq!(table.warnings, [1, 3].map(|n| Warning::Entry(n, Odd::NotUsable)));
        assert_eq!(read_only(&table), []);
        let said = table.warnings[0].to_string();
        assert_eq!(said, "partition 1 lies outside the usable blocks; it is served");
    }
}

#[test]
fn entries_that_overlap_are_served_to_nobody_and_the_others_are() {
    for size in BOTH {
        for (first, last) in [(59, 61), (50, 59), (52, 52), (40, 99), (40, 50)] {
            let (image, _) = gpt(size, &[(50, 59), (first, last), (100, 109), (39, 39)]);
            let table = image.scan();
            assert_eq!(places(&table), [(3, 100, 10), (4, 39, 1)]);
            let want = [Warning::Entry(1, Odd::Overlaps(2)), Warning::Entry(2, Odd::Overlaps(1))];
            assert_eq!(table.warnings, want);
            let said = want[0].to_string();
            assert_eq!(said, "partition 1 overlaps partition 2; it can be had with the whole disk only");
        }
        // A large one over three, and one that is cut by the end of the disk.
        let (image, _) = gpt(size, &[(50, 59), (70, 79), (180, 189), (60, 300), (90, 90), (20, 29)]);
        assert_eq!(places(&image.scan()), [(1, 50, 10), (6, 20, 10)]);
    }
}

#[test]
fn an_entry_over_the_table_is_served_for_reading_only() {
    for size in BOTH {
        let (_, sound) = gpt(size, &[]);
        // The MBR, the header, the array, the backup's array, its header.
        for (first, last) in [(0, 0), (1, 1), (2, 20), (198, 198), (150, sound.last_usable + 1), (199, 199)] {
            let (image, _) = gpt(size, &[(50, 59), (first, last)]);
            let table = image.scan();
            assert_eq!(read_only(&table), [(2, Protection::CoversTable)], "{first} {last}");
            assert_eq!(table.warnings, [Warning::Entry(2, Odd::CoversTable)]);
            assert_eq!(places(&table).len(), 2);
        }
    }
}

#[test]
fn no_client_can_write_where_a_backup_is_looked_for() {
    // As genimage makes them with gpt-no-backup: the last partition ends with the disk, and no backup is named.
    let (mut image, gpt) = gpt(BlockSize::B512, &[(50, 59), (100, 199)]);
    Gpt { alternate: 1, ..gpt.clone() }.write(&mut image);
    image.put(199, 0, &[0; 512]);
    let table = image.scan();
    assert_eq!(table.warnings, [Warning::NoBackup, Warning::Entry(2, Odd::CoversTable)]);
    assert_eq!(read_only(&table), [(2, Protection::CoversTable)]);
    // When the backup serves, the place of the primary's entries is not known: nothing before the usable blocks is written.
    let mut image = Image::new(200, BlockSize::B512);
    protective(&mut image);
    let mut entries = gpt.entries.clone();
    entries[1] = Some(Entry::new(2, 10, 20, ""));
    Gpt { first_usable: 40, entries, ..gpt }.backup().write(&mut image);
    assert_eq!(read_only(&image.scan()), [(2, Protection::CoversTable)]);
}

#[test]
fn of_very_many_odd_entries_some_are_named_and_all_are_counted() {
    let mut image = Image::new(2000, BlockSize::B512);
    protective(&mut image);
    let entries = (0..200).map(|i| Some(Entry::new(i as u8, 500, 501, ""))).collect();
    let gpt = Gpt::primary(&image, entries, 128);
    gpt.write(&mut image);
    gpt.backup().write(&mut image);
    let table = image.scan();
    assert_eq!((table.partitions.len(), table.warnings.len()), (0, 33));
    assert_eq!(table.warnings[32], Warning::MoreEntries(168));
}

/// Kind, first block, number of blocks.
type Slot = (u8, u32, u32);
/// Records by their blocks.
type Records<'a> = &'a [(u64, &'a [Slot])];
/// Number, first block, number of blocks.
type Places<'a> = &'a [(u32, u64, u64)];

fn mbr(primary: &[Slot], records: Records<'_>) -> Table {
    let mut image = Image::new(1000, BlockSize::B512);
    record(&mut image, 0, 7, primary);
    for (block, entries) in records {
        record(&mut image, *block, 0, entries);
    }
    image.scan()
}

#[test]
fn an_odd_entry_of_an_mbr_costs_itself() {
    let cases: &[(&[Slot], Places<'_>, &[Warning])] = &[
        (&[(0x83, 10, 10), (0x83, 999, 2)], &[(1, 10, 10)], &[Warning::Entry(2, Odd::Outside)]),
        (&[(0x83, 1000, 1), (0x83, 10, 10)], &[(2, 10, 10)], &[Warning::Entry(1, Odd::Outside)]),
        (&[(0x83, u32::MAX, u32::MAX)], &[], &[Warning::Entry(1, Odd::Outside)]),
        (
            &[(0x83, 10, 10), (0x83, 19, 1), (0x83, 30, 5)],
            &[(3, 30, 5)],
            &[Warning::Entry(1, Odd::Overlaps(2)), Warning::Entry(2, Odd::Overlaps(1))],
        ),
        // isohybrid: all of the image, and a boot partition inside.
        (
            &[(0x17, 0, 900), (0xef, 40, 10), (0x83, 900, 100)],
            &[(3, 900, 100)],
            &[Warning::Entry(1, Odd::Overlaps(2)), Warning::Entry(2, Odd::Overlaps(1))],
        ),
        // An extended partition that begins where a primary one is, without any records.
        (&[(0x05, 100, 10), (0x83, 105, 10)], &[(2, 105, 10)], &[Warning::Logical(Broken::Signature)]),
    ];
    for (entries, want, warnings) in cases {
        let table = mbr(entries, &[]);
        assert_eq!((table.kind, &places(&table)[..]), (Kind::Mbr, *want), "{entries:?}");
        assert_eq!(table.warnings, *warnings, "{entries:?}");
    }
}

#[test]
fn an_entry_from_the_first_block_is_served_for_reading_only() {
    // xorriso's -append_partition, and mkfs.vfat --mbr=y.
    for entries in [&[(0x83, 0, 100), (0xef, 100, 50)][..], &[(0x06, 0, 1000)]] {
        let table = mbr(entries, &[]);
        assert_eq!(places(&table).len(), entries.len());
        assert_eq!(read_only(&table), [(1, Protection::CoversTable)]);
        assert_eq!(table.warnings, [Warning::Entry(1, Odd::CoversTable)]);
    }
}

#[test]
fn an_entry_without_blocks_is_empty_and_one_without_a_kind_is_not() {
    let table = mbr(
        &[(0x83, u32::MAX, 0), (0, 10, 10), (0x05, 100, 800)],
        &[(100, &[(0, 1, 10), (0x05, 50, 1)]), (150, &[(0x83, 1, 10), (0x05, 70, 0)])],
    );
    assert_eq!(places(&table), [(2, 10, 10), (5, 101, 10), (6, 151, 10)]);
    assert_eq!(table.warnings, []);
}

#[test]
fn all_four_slots_of_a_record_are_read_as_linux_does() {
    let extended = &[(0x05, 100, 800)];
    let cases: &[(Records<'_>, Places<'_>)] = &[
        // A link before the partition (DR-DOS); several partitions (OS/2); several links, of which the first counts.
        (
            &[(100, &[(0x05, 50, 20), (0x83, 1, 10)][..]), (150, &[(0x83, 1, 5)])],
            &[(5, 101, 10), (6, 151, 5)][..],
        ),
        (&[(100, &[(0x83, 1, 10), (0x83, 20, 10)])], &[(5, 101, 10), (6, 120, 10)]),
        (
            &[
                (100, &[(0x83, 1, 10), (0x05, 50, 10), (0x83, 20, 10), (0x83, 30, 10)]),
                (150, &[(0x83, 1, 5)]),
            ],
            &[(5, 101, 10), (6, 120, 10), (7, 130, 10), (8, 151, 5)],
        ),
        (
            &[(100, &[(0x05, 50, 10), (0x05, 60, 10)]), (150, &[(0x83, 1, 5)]), (160, &[(0x83, 1, 5)])],
            &[(5, 151, 5)],
        ),
        // Slots 3 and 4 have to lie in what the record was said to be in, or are taken for garbage.
        (
            &[(100, &[(0x83, 1, 10), (0x05, 50, 10)]), (150, &[(0, 0, 0), (0, 0, 0), (0x83, 1, 10)])],
            &[(5, 101, 10)],
        ),
        (&[(100, &[(0x83, 1, 10), (0, 0, 0), (0x83, 790, 11), (0x83, 11, 5)])], &[(5, 101, 10), (6, 111, 5)]),
    ];
    for (records, want) in cases {
        assert_eq!(places(&mbr(extended, records)), *want, "{records:?}");
    }
}

#[test]
fn several_extended_partitions_are_read_one_after_the_other() {
    let table = mbr(
        &[(0x05, 300, 100), (0x83, 10, 10), (0x0f, 100, 100), (0x85, 500, 100)],
        &[(300, &[(0x83, 1, 10), (0x05, 20, 20)]), (320, &[(0x83, 1, 10)]), (100, &[(0x83, 1, 9)])],
    );
    assert_eq!(places(&table), [(2, 10, 10), (5, 301, 10), (6, 321, 10), (7, 101, 9)]);
    assert_eq!(table.warnings, [Warning::Logical(Broken::Signature)]);
}

#[test]
fn a_broken_chain_costs_what_is_behind_the_break() {
    let primary = &[(0x83, 10, 10), (0x05, 100, 800)];
    let cases: &[(Records<'_>, Places<'_>, Broken)] = &[
        // No record at all; a chain that loops, at once, later, or to the MBR; a link out of the disk.
        (&[][..], &[][..], Broken::Signature),
        (&[(100, &[(0x83, 1, 10), (0x05, 0, 100)][..])], &[(5, 101, 10)], Broken::Loop),
        (
            &[(100, &[(0x83, 1, 10), (0x05, 50, 100)]), (150, &[(0x83, 1, 10), (0x05, 0, 100)])],
            &[(5, 101, 10), (6, 151, 10)],
            Broken::Loop,
        ),
        (&[(100, &[(0x83, 1, 10), (0x05, u32::MAX - 99, 100)])], &[(5, 101, 10)], Broken::Link),
        (&[(100, &[(0x83, 1, 10), (0x05, 900, 100)])], &[(5, 101, 10)], Broken::Link),
        (&[(100, &[(0x83, 1, 10), (0x05, 50, 100)])], &[(5, 101, 10)], Broken::Signature),
    ];
    for (records, logical, why) in cases {
        let table = mbr(primary, records);
        let want: Vec<_> = [(1, 10, 10)].iter().chain(*logical).copied().collect();
        assert_eq!(places(&table), want, "{records:?}");
        assert_eq!(table.warnings, [Warning::Logical(*why)], "{records:?}");
    }
}

#[test]
fn an_odd_logical_partition_keeps_its_number_and_costs_itself() {
    let primary = &[(0x83, 10, 10), (0x05, 100, 800)];
    let cases: &[(Records<'_>, Places<'_>, &[Warning])] = &[
        // Over the end of the extended partition; over the end of the disk; over another one.
        (
            &[(100, &[(0x83, 1, 850), (0x05, 50, 9)]), (150, &[(0, 0, 0)])],
            &[(1, 10, 10), (5, 101, 850)],
            &[Warning::Entry(5, Odd::CoversTable)],
        ),
        (
            &[(100, &[(0x83, 810, 50), (0x05, 50, 9)]), (150, &[(0x83, 1, 5)])],
            &[(1, 10, 10), (5, 910, 50), (6, 151, 5)],
            &[Warning::Entry(5, Odd::NotUsable)],
        ),
        (
            &[(100, &[(0x83, u32::MAX, u32::MAX), (0x05, 50, 9)]), (150, &[(0x83, 1, 5)])],
            &[(1, 10, 10), (6, 151, 5)],
            &[Warning::Entry(5, Odd::Outside)],
        ),
        (
            &[
                (100, &[(0x83, 60, 60), (0x05, 50, 9)]),
                (150, &[(0x83, 1, 20), (0x05, 200, 9)]),
                (300, &[(0x83, 1, 9)]),
            ],
            &[(1, 10, 10), (7, 301, 9)],
            &[Warning::Entry(5, Odd::Overlaps(6)), Warning::Entry(6, Odd::Overlaps(5))],
        ),
        // One that is its own record, and one over the next record: whoever could write there could move the others.
        (&[(100, &[(0x83, 0, 10)])], &[(1, 10, 10), (5, 100, 10)], &[Warning::Entry(5, Odd::CoversTable)]),
    ];
    for (records, want, warnings) in cases {
        let table = mbr(primary, records);
        assert_eq!((&places(&table)[..], &table.warnings[..]), (*want, *warnings), "{records:?}");
        let covering = warnings.iter().filter(|w| matches!(w, Warning::Entry(_, Odd::CoversTable)));
        assert_eq!(read_only(&table).len(), covering.count());
    }
    // Where the next record is missing: whoever has the place could put one there.
    let table = mbr(primary, &[(100, &[(0x83, 1, 100), (0x05, 50, 9)])]);
    assert_eq!(read_only(&table), [(5, Protection::CoversTable)]);
}

#[test]
fn a_chain_of_many_records_ends() {
    let chain = |length: u32, each: Slot| {
        let mut image = Image::new(2000, BlockSize::B512);
        record(&mut image, 0, 7, &[(0x05, 100, 1800)]);
        for i in 0..length {
            let link = if i + 1 < length { (0x05, 2 * (i + 1), 2) } else { (0, 0, 0) };
            record(&mut image, 100 + 2 * u64::from(i), 0, &[each, link]);
        }
        image.scan()
    };
    let data = (0x83, 1, 1);
    assert_eq!((chain(251, data).partitions.len(), chain(251, data).warnings.len()), (251, 0));
    assert_eq!(chain(251, data).partitions[250].id.to_string(), "00000007-ff");
    let table = chain(252, data);
    assert_eq!(
        (table.partitions.len(), &table.warnings[..]),
        (251, &[Warning::Logical(Broken::TooLong)][..])
    );
    // Linux gives up after a hundred records without a partition.
    assert_eq!(chain(100, (0, 0, 0)).warnings, []);
    assert_eq!(chain(101, (0, 0, 0)).warnings, [Warning::Logical(Broken::TooLong)]);
}

#[test]
fn attribute_bit_60_makes_a_partition_read_only() {
    for size in BOTH {
        let (mut image, mut gpt) = sample(size);
        for (entry, attributes) in [(0, 1 << 60), (1, !(1 << 60)), (4, u64::MAX)] {
            gpt.entries[entry].as_mut().unwrap().attributes = attributes;
        }
        gpt.write(&mut image);
        gpt.backup().write(&mut image);
        for broken in [false, true] {
            if broken {
                image.put(1, 0, &[0; 92]);
            }
            let table = image.scan();
            assert_eq!(read_only(&table), [(1, Protection::Attribute), (5, Protection::Attribute)]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// What is served is what a reader of the entries alone says: inside, and apart from all others. `Image::scan` holds the
    /// table to it that no two share a block and none leaves the disk.
    #[test]
    fn of_any_entries_those_are_served_that_are_inside_and_overlap_nothing(
        size in prop::sample::select(BOTH.to_vec()),
        entries in prop::collection::vec((0..210u64, 0..30i64), 0..8)
    ) {
        let entries: Vec<_> = entries
            .into_iter()
            .map(|(first, more)| (first, first.saturating_add_signed(if more > 25 { -1 } else { more })))
            .collect();
        let table = gpt(size, &entries).0.scan();
        let apart = |i: usize, (first, last): (u64, u64)| {
            let other = |(j, &(from, to)): (usize, &(u64, u64))| {
                i == j || from > to || last < from || to < first
            };
            entries.iter().enumerate().all(other)
        };
        let want: Vec<_> = (0..entries.len())
            .filter(|&i| entries[i].0 <= entries[i].1 && entries[i].1 < 200 && apart(i, entries[i]))
            .map(|i| (i as u32 + 1, entries[i].0, entries[i].1 - entries[i].0 + 1))
            .collect();
        prop_assert_eq!(places(&table), want);
        // Each of the others is named.
        for number in 1..=entries.len() as u32 {
            let named = |w: &Warning| matches!(w, Warning::Entry(n, Odd::Outside | Odd::Overlaps(_)) if *n == number);
            let served = table.partitions.iter().any(|p| p.number == number);
            prop_assert_eq!(table.warnings.iter().any(named), !served);
        }
    }
}
