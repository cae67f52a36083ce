//! Whatever is on a disk, the scan ends, and what it says holds ([`check`] in `image`, at the end of each scan).

use nvme_policy::BlockSize;
use proptest::prelude::*;

use crate::image::*;

fn size() -> impl Strategy<Value = BlockSize> {
    prop::sample::select(BOTH.to_vec())
}

/// Places near which something may go wrong, and any others.
fn lba() -> impl Strategy<Value = u64> {
    prop_oneof![0..6u64, 45..65u64, 190..205u64, (u64::MAX - 3)..=u64::MAX, any::<u64>()]
}

fn maybe<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.15, value)
}

type Fields = (Option<u64>, Option<u64>, Option<u64>, Option<u64>, Option<u32>, Option<u32>, Option<u32>);

fn fields() -> impl Strategy<Value = Fields> {
    let count = prop_oneof![0..70u32, 8190..8195u32, any::<u32>()];
    let sizes = prop_oneof![Just(128), Just(256), Just(4096), 0..5000u32, any::<u32>()];
    (maybe(lba()), maybe(lba()), maybe(lba()), maybe(lba()), maybe(count), maybe(sizes), maybe(0..5000u32))
}

fn entries() -> impl Strategy<Value = Vec<Option<Entry>>> {
    let name = prop::collection::vec(any::<u16>(), 0..40);
    let entry = (0..4u8, lba(), lba(), name).prop_map(|(id, first, last, name)| Entry {
        id: [id; 16],
        first,
        last,
        name,
        attributes: 0,
    });
    prop::collection::vec(prop::option::of(entry), 0..6)
}

fn set(gpt: &mut Gpt, fields: Fields) {
    let (alternate, first, last, array, count, size, header) = fields;
    gpt.alternate = alternate.unwrap_or(gpt.alternate);
    gpt.first_usable = first.unwrap_or(gpt.first_usable);
    gpt.last_usable = last.unwrap_or(gpt.last_usable);
    gpt.array = array.unwrap_or(gpt.array);
    gpt.entry_count = count.unwrap_or(gpt.entry_count);
    gpt.header_size = header.unwrap_or(gpt.header_size);
    if let Some(size) = size {
        gpt.entry_size = size;
        gpt.entries.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// Fields and entries are made up, all checksums are right.
    #[test]
    fn checksummed_lies_never_make_a_partition_outside_the_disk(
        size in size(), ours in fields(), theirs in fields(), entries in entries(), blocks in 195..205u64, bad in lba()
    ) {
        let (mut image, gpt) = sample(size);
        for (mut copy, fields) in [(gpt.clone(), ours), (gpt.backup(), theirs)] {
            for (slot, entry) in copy.entries.iter_mut().zip(&entries) {
                slot.clone_from(entry);
            }
            set(&mut copy, fields);
            copy.write(&mut image);
        }
        image.bytes.resize((blocks as usize) << size.shift(), 0);
        image.bad = vec![bad.max(1)];
        image.scan();
    }

    #[test]
    fn arbitrary_bytes_never_panic_nor_make_a_partition_outside_the_disk(
        size in size(), head in prop::collection::vec(any::<u8>(), 0..2048), table in prop::bool::ANY, blocks in 1..20u64
    ) {
        let mut image = Image::new(blocks, size);
        let length = head.len().min(image.bytes.len());
        image.bytes[..length].copy_from_slice(&head[..length]);
        if table {
            image.put(0, 510, &[0x55, 0xaa]);
        }
        image.scan();
    }

    #[test]
    fn arbitrary_records_never_make_a_partition_outside_the_disk(
        records in prop::collection::vec((0..64u64, prop::collection::vec(
            (prop::sample::select(vec![0x05u8, 0x83, 0x0f, 0x00, 0xee]), prop_oneof![0..64u32, any::<u32>()],
             prop_oneof![1..64u32, any::<u32>()]), 1..5)), 1..20)
    ) {
        let mut image = Image::new(64, BlockSize::B512);
        for (block, entries) in &records {
            record(&mut image, *block, 1, entries);
        }
        // The first block matters most.
        record(&mut image, 0, 1, &records[0].1);
        image.scan();
    }
}
