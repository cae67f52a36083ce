//! Data pointers: PRP entries, PRP lists and SGLs, and the map of bus addresses behind them.

use nvme_platform::{DmaRights, DmaSpace, Iova, Window};
use nvme_soft::wire::{Sqe, Status};
use nvme_soft::{Config, Medium, MemoryMedium, NamespaceConfig};
use proptest::prelude::*;
use std::sync::Arc;

use crate::driver::*;

/// A controller whose disk holds a pattern, a pair, and the disk.
fn rig(config: Config) -> (Rig, Pair, Window) {
    let medium = MemoryMedium::new(4 << 20).unwrap();
    let disk = medium.window().clone();
    pattern(&disk, 1);
    let namespaces = vec![NamespaceConfig::new(Arc::new(medium))];
    let mut rig = Rig::new(Config { namespaces, ..config });
    let pair = rig.pair(1, 8);
    (rig, pair, disk)
}

fn put(window: &Window, at: usize, value: u64) {
    window.write_value(at, &value.to_le_bytes()).unwrap();
}

/// An SGL descriptor as two words.
fn sgl(address: u64, len: u32, kind: u8) -> [u64; 2] {
    [address, u64::from(len) | u64::from(kind) << 56]
}

fn by_sgl(mut sqe: Sqe) -> Sqe {
    sqe.flags = 0x40;
    sqe
}

const SEGMENT: u8 = 0x20;
const LAST: u8 = 0x30;

#[test]
fn one_page_two_pages_and_an_offset_in_the_first() {
    let (mut rig, mut pair, disk) = rig(config());
    let (at, memory) = rig.client(4, DmaRights::ReadWrite);
    pair.done(read(3, 1, [at + 512, 0]));
    assert_eq!(bytes(&memory, 512, 512), bytes(&disk, 3 * 512, 512));
    assert_eq!((bytes(&memory, 0, 512), bytes(&memory, 1024, 512)), (vec![0; 512], vec![0; 512]));
    // Ends at the page's end: the second entry is not used.
    pair.done(read(8, 1, [at + 4096 - 512, 7]));
    // Two pages, the second before the first.
    pair.done(read(16, 8, [at + 3 * 4096 + 2048, at + 4096]));
    assert_eq!(bytes(&memory, 3 * 4096 + 2048, 2048), bytes(&disk, 16 * 512, 2048));
    assert_eq!(bytes(&memory, 4096, 2048), bytes(&disk, 20 * 512, 2048));
    // Neighbours.
    pair.done(write(100, 16, [at, at + 4096]));
    assert_eq!(bytes(&disk, 51200, 8192), bytes(&memory, 0, 8192));
}

#[test]
fn offsets_that_prps_may_not_have_are_refused() {
    let (mut rig, mut pair, _) = rig(config());
    let (at, memory) = rig.client(4, DmaRights::ReadWrite);
    pair.refused(read(0, 1, [at + 2, 0]), Status::PRP_OFFSET);
    pair.refused(read(0, 16, [at, at + 4096 + 512]), Status::PRP_OFFSET);
    pair.refused(read(0, 24, [at, at + 4]), Status::PRP_OFFSET);
    put(&memory, 0, at + 4096);
    put(&memory, 8, at + 8192 + 8);
    pair.refused(read(0, 24, [at + 4096, at]), Status::PRP_OFFSET);
}

#[test]
fn lists_go_on_in_their_last_entry() {
    let (mut rig, mut pair, disk) = rig(config());
    let (data, memory) = rig.client(256, DmaRights::ReadWrite);
    let (list, entries) = rig.client(3, DmaRights::Read);
    // 255 entries: 2 in the first page (and the pointer), the rest in the third.
    let page = |i: u64| data + (255 - i) * 4096;
    let start = 4096 - 24;
    (0..2).for_each(|i| put(&entries, start + i * 8, page(i as u64 + 1)));
    put(&entries, start + 16, list + 8192);
    (2..255).for_each(|i| put(&entries, 8192 + (i - 2) * 8, page(i as u64 + 1)));
    pair.done(read(0, 2048, [page(0), list + start as u64]));
    for i in 0..256 {
        assert_eq!(bytes(&memory, (255 - i) * 4096, 4096), bytes(&disk, i * 4096, 4096), "page {i}");
    }
    // A list that fits exactly has no pointer.
    let exact = 4096 - 16;
    (0..2).for_each(|i| put(&entries, exact + i * 8, page(i as u64)));
    pair.done(read(64, 24, [page(9), list + exact as u64]));
    assert_eq!(bytes(&memory, 254 * 4096, 4096), bytes(&disk, 64 * 512 + 8192, 4096));
}

#[test]
fn a_list_that_points_to_itself_ends() {
    let (mut rig, mut pair, _) = rig(config());
    let (data, _) = rig.client(1, DmaRights::ReadWrite);
    let (list, entries) = rig.client(1, DmaRights::Read);
    (0..512).for_each(|i| put(&entries, i * 8, if i == 511 { list } else { data }));
    // All pages are the same one: done, however often.
    pair.done(read(0, 2048, [data, list]));
    put(&entries, 4088, list + 4088);
    pair.refused(read(0, 2048, [data, list + 4088]), Status::PRP_OFFSET);
}

#[test]
fn what_is_not_mapped_faults_and_is_counted() {
    let (mut rig, mut pair, disk) = rig(config());
    let (at, memory) = rig.client(2, DmaRights::ReadWrite);
    let (read_only, kept) = rig.client(1, DmaRights::Read);
    let before = bytes(&disk, 0, 8192);
    for sqe in [
        read(0, 1, [0, 0]),
        read(0, 1, [memory.address() as u64, 0]),
        read(0, 1, [at - 512, 0]),
        read(0, 1, [at + 8192, 0]),
        read(0, 16, [at + 4096, at + 8192]),
        read(0, 24, [at, at + 8192]),
        read(0, 1, [u64::MAX - 3, 0]),
        read(0, 1, [read_only, 0]),
        by_sgl(read(0, 1, sgl(at + 8192 - 511, 512, 0))),
        by_sgl(read(0, 1, sgl(u64::MAX, 512, 0))),
        by_sgl(read(0, 1, sgl(0, 16, LAST))),
        write(0, 1, [0x1000, 0]),
    ] {
        pair.refused(sqe, Status::DATA_TRANSFER);
    }
    assert_eq!(rig.handle.statistics().dma_faults, 12);
    assert_eq!((bytes(&kept, 0, 4096), bytes(&disk, 0, 8192)), (vec![0; 4096], before));
    pair.done(write(9, 1, [read_only, 0]));
    rig.unmap(at, 2);
    pair.refused(read(0, 1, [at, 0]), Status::DATA_TRANSFER);
}

#[test]
fn a_transfer_runs_over_neighbouring_mappings_of_one_reservation_only() {
    let (mut rig, mut pair, disk) = rig(config());
    let at = rig.device.reserve(&nvme_mem::heap(3 * 4096).unwrap(), DmaRights::ReadWrite).unwrap();
    let parts: Vec<Window> = (0..2).map(|_| nvme_mem::heap(4096).unwrap()).collect();
    for (i, part) in parts.iter().enumerate() {
        rig.device.map(Iova(at.0 + i as u64 * 4096), part, DmaRights::ReadWrite).unwrap();
    }
    pair.done(by_sgl(read(0, 16, sgl(at.0, 8192, 0))));
    assert_eq!(bytes(&parts[1], 0, 4096), bytes(&disk, 4096, 4096));
    pair.refused(by_sgl(read(0, 24, sgl(at.0, 12288, 0))), Status::DATA_TRANSFER);
}

#[test]
fn memory_that_vanished_fails_the_command() {
    let (mut rig, mut pair, _) = rig(config());
    let (at, memory) = rig.page();
    pair.done(read(0, 1, [at, 0]));
    memory.owner().fail();
    pair.refused(read(0, 1, [at, 0]), Status::DATA_TRANSFER);
    pair.refused(write(0, 1, [at, 0]), Status::DATA_TRANSFER);
}

#[test]
fn sgl_segments_are_followed_and_blocks_may_lie_anywhere() {
    let (mut rig, mut pair, disk) = rig(config());
    let (at, memory) = rig.client(4, DmaRights::ReadWrite);
    let (list, entries) = rig.client(1, DmaRights::Read);
    let put_sgl = |index: usize, words: [u64; 2]| {
        put(&entries, index * 16, words[0]);
        put(&entries, index * 16 + 8, words[1]);
    };
    put_sgl(0, sgl(at + 1, 511, 0));
    put_sgl(1, sgl(at + 5000, 1, 0));
    put_sgl(2, sgl(list + 10 * 16, 48, LAST));
    put_sgl(10, sgl(at + 8193, 500, 0));
    put_sgl(11, sgl(0, 0, 0));
    put_sgl(12, sgl(at + 1, 12, 0));
    pair.done(by_sgl(read(0, 2, sgl(list, 48, SEGMENT))));
    assert_eq!(bytes(&memory, 1 + 12, 499), bytes(&disk, 12, 499));
    assert_eq!(bytes(&memory, 5000, 1), bytes(&disk, 511, 1));
    assert_eq!(bytes(&memory, 8193, 500), bytes(&disk, 512, 500));
    assert_eq!(bytes(&memory, 1, 12), bytes(&disk, 1012, 12));
}

#[test]
fn sgls_are_checked() {
    let (mut rig, mut pair, _) = rig(config());
    let (at, _) = rig.page();
    let (list, entries) = rig.client(1, DmaRights::Read);
    let put_sgl = |index: usize, words: [u64; 2]| {
        put(&entries, index * 16, words[0]);
        put(&entries, index * 16 + 8, words[1]);
    };
    pair.refused(by_sgl(read(0, 1, sgl(at, 511, 0))), Status::SGL_LENGTH);
    pair.refused(by_sgl(read(0, 1, sgl(at, 513, 0))), Status::SGL_LENGTH);
    pair.refused(by_sgl(read(0, 1, sgl(at, 512, 0x10))), Status::SGL_TYPE);
    pair.refused(by_sgl(read(0, 1, sgl(at, 512, 0x01))), Status::SGL_TYPE);
    pair.refused(by_sgl(read(0, 1, sgl(list, 0, LAST))), Status::SGL_SEGMENT);
    pair.refused(by_sgl(read(0, 1, sgl(list, 24, SEGMENT))), Status::SGL_SEGMENT);
    pair.refused(by_sgl(read(0, 1, sgl(list, u32::MAX - 15, LAST))), Status::SGL_COUNT);
    // Blocks that do not add up; a segment that ends in a block; a pointer in the middle and in the last segment.
    put_sgl(0, sgl(at, 256, 0));
    put_sgl(1, sgl(at, 128, 0));
    pair.refused(by_sgl(read(0, 1, sgl(list, 32, LAST))), Status::SGL_LENGTH);
    pair.refused(by_sgl(read(0, 1, sgl(list, 32, SEGMENT))), Status::SGL_SEGMENT);
    put_sgl(1, sgl(at, 512, 0));
    pair.refused(by_sgl(read(0, 1, sgl(list, 32, LAST))), Status::SGL_LENGTH);
    put_sgl(0, sgl(list, 16, LAST));
    pair.refused(by_sgl(read(0, 1, sgl(list, 32, LAST))), Status::SGL_SEGMENT);
    pair.refused(by_sgl(read(0, 1, sgl(list, 32, SEGMENT))), Status::SGL_SEGMENT);
    // Round and round.
    put_sgl(0, sgl(list, 16, SEGMENT));
    pair.refused(by_sgl(read(0, 1, sgl(list, 16, SEGMENT))), Status::SGL_COUNT);
    let mut three = read(0, 1, [at, 0]);
    three.flags = 0xc0;
    pair.refused(three, Status::INVALID_FIELD);
}

#[test]
fn without_sgl_support_they_are_an_invalid_field() {
    let (mut rig, mut pair, _) = rig(Config { sgl: false, ..config() });
    let (at, _) = rig.page();
    pair.refused(by_sgl(read(0, 1, sgl(at, 512, 0))), Status::INVALID_FIELD);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever pages a driver names, in whatever order, they get the disk's bytes in that order.
    #[test]
    fn any_list_of_pages_gets_the_disks_bytes(
        order in Just((0..40u64).collect::<Vec<_>>()).prop_shuffle(),
        blocks in 1u32..250,
        offset in (0u64..1024).prop_map(|o| o * 4),
        at in 0u64..500,
        list_offset in 0u64..512,
    ) {
        let (mut rig, mut pair, disk) = rig(config());
        let (data, memory) = rig.client(40, DmaRights::ReadWrite);
        let (list, entries) = rig.client(2, DmaRights::Read);
        let len = blocks as usize * 512;
        let first = len.min(4096 - offset as usize);
        let pages = (len - first).div_ceil(4096);
        prop_assume!(pages < 39);
        let start = list_offset as usize * 8;
        let mut slot = start;
        for i in 0..pages {
            if slot == 4088 && pages - i > 1 {
                put(&entries, slot, list + 4096);
                slot += 8;
            }
            put(&entries, slot, data + order[i + 1] * 4096);
            slot += 8;
        }
        let second = if pages == 1 { data + order[1] * 4096 } else { list + start as u64 };
        pair.done(read(at, blocks, [data + order[0] * 4096 + offset, second]));
        let mut got = bytes(&memory, (order[0] * 4096 + offset) as usize, first);
        for i in 0..pages {
            let part = (len - got.len()).min(4096);
            got.extend(bytes(&memory, (order[i + 1] * 4096) as usize, part));
        }
        prop_assert_eq!(got, bytes(&disk, at as usize * 512, len));
    }

    /// Whatever a driver writes into an entry, there is one completion, and memory that is not mapped stays as it is.
    #[test]
    fn any_entry_at_all_gets_one_completion(
        entries in prop::collection::vec(prop::array::uniform8(any::<u64>()), 1..7),
        opcode in prop::sample::select(vec![0u8, 1, 2, 8, 9, 0x7f]),
        near in any::<bool>(),
    ) {
        let (mut rig, mut pair, _) = rig(config());
        let (data, memory) = rig.client(2, DmaRights::ReadWrite);
        for words in &entries {
            put(&memory, 0, words[0]);
            let mut sqe: Sqe = zerocopy::transmute!(*words);
            sqe.opcode = opcode;
            if near {
                sqe.nsid = 1.into();
                sqe.flags &= 0xc0;
                sqe.data = [data + (words[3] & 0x1fff), data + (words[4] & 0x1fff)].map(Into::into);
                sqe.cdw[1] = 0.into();
                sqe.cdw[0] = (sqe.cdw[0].get() & 0x1fff).into();
                sqe.cdw[2] = (sqe.cdw[2].get() & 0x4000_003f).into();
            }
            pair.submit(sqe);
        }
        for _ in 0..entries.len() {
            pair.run();
            prop_assert!(pair.pop().is_some());
        }
        prop_assert!(pair.pop().is_none() && rig.status() == READY);
    }
}
