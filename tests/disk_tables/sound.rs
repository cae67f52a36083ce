//! What sound tables say.

use nvme_core::disk::{Kind, Warning};
use nvme_policy::{BlockSize, DeviceName, PartitionId};

use crate::image::*;

#[test]
fn a_disk_without_a_table_has_no_partitions_and_no_warnings() {
    for size in BOTH {
        for blocks in [1, 2, 3, 4, 100] {
            let table = Image::new(blocks, size).scan();
            assert_eq!((table.kind, table.partitions.len(), table.warnings.len()), (Kind::None, 0, 0));
        }
    }
}

#[test]
fn the_boot_sector_of_a_file_system_is_no_table() {
    let mut image = Image::new(100, BlockSize::B512);
    record(&mut image, 0, 0, &[(0x83, 1, 50)]);
    image.put(0, 446, b"Non-system disk");
    assert_eq!(image.scan().kind, Kind::None);
}

#[test]
fn a_file_system_without_a_table_is_none_and_an_empty_table_is_one() {
    let mut image = Image::new(100, BlockSize::B512);
    record(&mut image, 0, 7, &[]);
    assert_eq!(image.scan().kind, Kind::Mbr);
    let fat = |media: u8| [(14, 1), (16, 2), (21, media)];
    for (media, kind) in [(0xf8, Kind::None), (0xf0, Kind::None), (0xff, Kind::None), (0xf1, Kind::Mbr)] {
        let mut image = image.clone();
        for (at, byte) in fat(media) {
            image.put(0, at, &[byte]);
        }
        assert_eq!(image.scan().kind, kind, "{media:#x}");
        // mkfs.vfat --mbr=y: both.
        record(&mut image, 0, 7, &[(0x06, 0, 100)]);
        assert_eq!(image.scan().kind, Kind::Mbr);
    }
    for name in [b"NTFS    ", b"EXFAT   "] {
        let mut image = image.clone();
        image.put(0, 3, name);
        assert_eq!(image.scan(), nvme_core::disk::Table::default());
    }
}

#[test]
fn a_gpt_is_read_with_its_numbers_labels_and_places() {
    for size in BOTH {
        let (image, _) = sample(size);
        let table = image.scan();
        assert_eq!((table.kind, &table.warnings[..]), (Kind::Gpt, &[][..]));
        let said: Vec<_> = table
            .partitions
            .iter()
            .map(|p| (p.number, p.label.as_str(), p.extent.first(), p.extent.blocks()))
            .collect();
        assert_eq!(said, [(1, "root", 50, 10), (2, "größe 😀", 60, 1), (5, "", 100, 51)]);
        assert_eq!(table.partitions[0].id.to_string(), "01010101-0101-0101-0101-010101010101");
        assert_eq!(table.partitions[0].extent.block_size(), size);
    }
}

#[test]
fn identifiers_are_shown_as_linux_does() {
    let (mut image, mut gpt) = sample(BlockSize::B512);
    // Stored with its first three fields in little-endian order.
    gpt.entries[0].as_mut().unwrap().id =
        [0x75, 0x96, 0xe5, 0x88, 0xc8, 0x4d, 0x9a, 0x46, 0x98, 0xe4, 0xb7, 0xb0, 0x21, 0xdc, 0x7f, 0xbe];
    gpt.write(&mut image);
    gpt.backup().write(&mut image);
    let table = image.scan();
    assert_eq!(table.partitions[0].id.to_string(), "88e59675-4dc8-469a-98e4-b7b021dc7fbe");
    let name = DeviceName::parse("88E59675-4DC8-469A-98E4-B7B021DC7FBE").unwrap();
    let matching = table.partitions.iter().filter(|p| name.matches(&p.identity("1234")));
    assert_eq!(matching.map(|p| p.number).collect::<Vec<_>>(), [1]);
    assert!(DeviceName::parse("1234:n1:5").unwrap().matches(&table.partitions[2].identity("1234")));
    assert!(DeviceName::parse("root").unwrap().matches(&table.partitions[0].identity("1234")));
}

#[test]
fn large_entries_and_long_arrays_are_read() {
    for size in BOTH {
        for (entry_size, count) in
            [(128, 128), (256, 128), (4096, 3), (128, 1), (128, 8192), (4096, 256), (128, 33)]
        {
            let mut image = Image::new(4200, size);
            protective(&mut image);
            let mut entries = vec![None; count];
            entries[count - 1] = Some(Entry::new(7, 2060, 2070, "last"));
            let gpt = Gpt::primary(&image, entries, entry_size);
            gpt.write(&mut image);
            gpt.backup().write(&mut image);
            let table = image.scan();
            assert_eq!(table.warnings, [], "{entry_size} × {count}");
            assert_eq!(table.partitions[0].number as usize, count);
        }
    }
}

#[test]
fn a_header_may_be_as_long_as_its_block() {
    for size in BOTH {
        let (mut image, mut gpt) = sample(size);
        gpt.header_size = size.bytes() as u32;
        gpt.write(&mut image);
        gpt.backup().write(&mut image);
        let table = image.scan();
        assert_eq!((table.partitions.len(), table.warnings.len()), (3, 0));
    }
}

#[test]
fn a_gpt_is_seen_behind_any_boot_indicator() {
    for size in BOTH {
        let (mut image, _) = sample(size);
        image.put(0, 446, &[0x7f]);
        image.put(0, 478, &[0x41]);
        let table = image.scan();
        assert_eq!((table.partitions.len(), &table.warnings[..]), (3, &[][..]));
        // With the backup alone it is one, too; without either it is the boot sector of a file system.
        image.put(1, 0, &[0; 92]);
        assert_eq!(image.scan().partitions.len(), 3);
        image.put(199, 0, &[0; 92]);
        assert_eq!(image.scan(), nvme_core::disk::Table::default());
    }
}

#[test]
fn any_of_several_protective_entries_may_be_the_one_at_block_1() {
    let (mut image, _) = sample(BlockSize::B512);
    record(&mut image, 0, 0, &[(0xee, 60, 140), (0xee, 1, 49)]);
    let table = image.scan();
    assert_eq!((table.kind, table.partitions.len(), &table.warnings[..]), (Kind::Gpt, 3, &[][..]));
    record(&mut image, 0, 0, &[(0xee, 60, 140), (0xee, 2, 49)]);
    assert_eq!(image.scan().warnings, [Warning::ProtectiveStart]);
}

#[test]
fn labels_lose_the_white_space_at_their_end() {
    let (mut image, mut gpt) = sample(BlockSize::B512);
    for (entry, name) in [(0, " a b  "), (1, "tab\t \n"), (4, "   ")] {
        gpt.entries[entry].as_mut().unwrap().name = name.encode_utf16().collect();
    }
    gpt.write(&mut image);
    gpt.backup().write(&mut image);
    let table = image.scan();
    assert_eq!(table.warnings, []);
    let labels: Vec<_> = table.partitions.iter().map(|p| p.label.as_str()).collect();
    assert_eq!(labels, [" a b", "tab", ""]);
}

#[test]
fn a_hybrid_mbr_gives_way_to_the_gpt() {
    let (mut image, _) = sample(BlockSize::B512);
    record(&mut image, 0, 0, &[(0xee, 1, 49), (0x83, 50, 10)]);
    let table = image.scan();
    assert_eq!(
        (table.kind, table.partitions.len(), &table.warnings[..]),
        (Kind::Gpt, 3, &[Warning::Hybrid][..])
    );
}

#[test]
fn primary_and_logical_partitions_of_an_mbr_are_numbered_as_linux_does() {
    for size in BOTH {
        let mut image = Image::new(1000, size);
        record(&mut image, 0, 0x0bad_cafe, &[(0x83, 10, 90), (0, 0, 0), (0x05, 200, 700), (0x82, 100, 100)]);
        // The second record has no partition, and the chain goes back and forth.
        record(&mut image, 200, 0, &[(0x83, 8, 92), (0x05, 500, 100)]);
        record(&mut image, 700, 0, &[(0, 0, 0), (0x05, 100, 300)]);
        record(&mut image, 300, 0, &[(0x83, 1, 99)]);
        let table = image.scan();
        assert_eq!((table.kind, &table.warnings[..]), (Kind::Mbr, &[][..]));
        let said: Vec<_> = table
            .partitions
            .iter()
            .map(|p| (p.id.to_string(), p.extent.first(), p.extent.blocks()))
            .collect();
        let want = [
            ("0badcafe-01", 10, 90),
            ("0badcafe-04", 100, 100),
            ("0badcafe-05", 208, 92),
            ("0badcafe-06", 301, 99),
        ];
        assert_eq!(said, want.map(|(id, first, blocks)| (id.to_string(), first, blocks)));
        assert_eq!(table.partitions[2].number, 5);
        assert_eq!(table.partitions[2].id, PartitionId::Mbr { disk: 0x0bad_cafe, number: 5 });
    }
}

#[test]
fn a_scan_hands_out_its_table_once_and_then_rests() {
    use nvme_core::disk::{ReadFailed, Scan, Step, Table};
    let mut scan = Scan::new(&Image::new(8, BlockSize::B512).extent());
    let first = Step::Read { block: 0, blocks: 1 };
    assert_eq!((scan.next(), scan.next()), (first.clone(), first));
    scan.supply(Err(ReadFailed));
    let Step::Done(table) = scan.next() else { panic!("not done") };
    assert_eq!(table.warnings, [Warning::FirstBlock]);
    scan.supply(Ok(&[0; 512]));
    assert_eq!(scan.next(), Step::Done(Table::default()));
}

#[test]
fn bytes_of_another_length_are_a_failed_read() {
    use nvme_core::disk::{Scan, Step};
    for length in [0, 511, 513, 4096] {
        let mut scan = Scan::new(&Image::new(8, BlockSize::B512).extent());
        scan.supply(Ok(&vec![0; length]));
        assert!(matches!(scan.next(), Step::Done(table) if table.warnings == [Warning::FirstBlock]));
    }
}
