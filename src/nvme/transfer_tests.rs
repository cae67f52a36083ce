use alloc::vec::Vec;

use nvme_mem::heap;
use proptest::prelude::*;

use super::*;

const AT: Iova = Iova(0x5000_0000_0000);

fn word(list: &Window, i: usize) -> u64 {
    list.read_value::<U64>(i * 8).unwrap().get()
}

/// Reads PRPs as a controller does, and says which bytes they name, in order, as (address, length).
fn read_prps(dptr: [U64; 2], bytes: u32, list: &Window) -> Vec<(u64, u32)> {
    let [first, second] = dptr.map(|e| e.get());
    assert_eq!(first % 4, 0, "PRP1 is a multiple of four");
    let now = (PAGE - (first & IN_PAGE) as u32).min(bytes);
    let mut out = alloc::vec![(first, now)];
    let mut left = bytes - now;
    let pages = left.div_ceil(PAGE) as usize;
    for i in 0..pages {
        let entry = if pages == 1 { second } else { word(list, i) };
        assert_eq!(entry & IN_PAGE, 0, "entry {i} is a page");
        assert!(pages == 1 || second == AT.0 && pages <= 512);
        out.push((entry, left.min(PAGE)));
        left -= left.min(PAGE);
    }
    out
}

fn read_sgl(dptr: [U64; 2], list: &Window) -> Vec<(u64, u32)> {
    let parse = |low: u64, high: u64| (low, high as u32, (high >> 56) as u8);
    match parse(dptr[0].get(), dptr[1].get()) {
        (addr, len, 0x00) => alloc::vec![(addr, len)],
        (addr, len, 0x30) => {
            assert!(addr == AT.0 && len % 16 == 0 && len <= PAGE && len > 16);
            let one = |i: usize| parse(word(list, 2 * i), word(list, 2 * i + 1));
            let all = (0..len as usize / 16).map(one);
            all.inspect(|(_, _, kind)| assert_eq!(*kind, 0)).map(|(a, l, _)| (a, l)).collect()
        }
        other => panic!("unknown descriptor {other:x?}"),
    }
}

/// Bytes as single addresses, joined where they adjoin, so that two ways of saying the same are equal.
fn joined(parts: impl IntoIterator<Item = (u64, u32)>) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (addr, len) in parts {
        match out.last_mut() {
            Some((start, all)) if *start + *all == addr => *all += u64::from(len),
            _ => out.push((addr, len.into())),
        }
    }
    out
}

fn cut(segments: &[(u64, u32)], bytes: u32) -> Vec<(u64, u64)> {
    let mut left = bytes;
    joined(segments.iter().filter_map(|(addr, len)| {
        let now = (*len).min(left);
        left -= now;
        (now > 0).then_some((*addr, now))
    }))
}

/// Plans and writes down commands until all bytes are gone; answers the ways that were used.
fn run(segments: &[(u64, u32)], block: u32, max: u32, sgl_support: SglSupport) -> Vec<How> {
    let pages = heap(3 * PAGE as usize).unwrap();
    pages.fill(0, pages.len(), 0xee).unwrap();
    let page = ListPage { memory: &pages, offset: PAGE as usize, at: AT };
    let view = pages.sub(PAGE as usize, PAGE as usize).unwrap();
    let mut rest = segments.to_vec();
    let mut ways = Vec::new();
    while !rest.is_empty() {
        let total: u64 = rest.iter().map(|(_, l)| u64::from(*l)).sum();
        let limit = total.min(max.into()) as u32;
        let plan = plan(rest.iter().copied(), limit, block, sgl_support);
        assert!(plan.bytes > 0 && plan.bytes <= limit && plan.bytes % block == 0, "{plan:?}");
        let want = cut(&rest, plan.bytes);
        match plan.how {
            How::Bounce => assert!(plan.bytes <= BOUNCE_CHUNK),
            How::Prp => {
                let dptr = prps(rest.iter().copied(), plan.bytes, &page).unwrap();
                assert_eq!(joined(read_prps(dptr, plan.bytes, &view)), want);
            }
            How::Sgl => {
                let got = read_sgl(sgl(rest.iter().copied(), plan.bytes, &page).unwrap(), &view);
                let mask = if sgl_support == SglSupport::Dword { 3 } else { 0 };
                assert!(got.iter().all(|(a, l)| (a | u64::from(*l)) & mask == 0));
                assert_eq!(joined(got), want);
            }
            How::Fill => panic!("it is for parts of blocks"),
        }
        ways.push(plan.how);
        let mut left = plan.bytes;
        rest = rest
            .into_iter()
            .filter_map(|(addr, len)| {
                let now = len.min(left);
                left -= now;
                (now < len).then(|| (addr + u64::from(now), len - now))
            })
            .collect();
    }
    for byte in (0..PAGE as usize).chain(2 * PAGE as usize..3 * PAGE as usize) {
        assert_eq!(pages.read_value::<u8>(byte), Ok(0xee), "a neighbour's page was written");
    }
    ways
}

/// Segments that make whole blocks: any address, some at page boundaries, some adjoining.
fn segments(block: u32) -> impl Strategy<Value = Vec<(u64, u32)>> {
    let one = (
        0_u64..64,
        prop_oneof![Just(0_u64), 0_u64..4096, (0_u64..1024).prop_map(|d| d * 4)],
        1_u32..20000,
        0..6,
    );
    prop::collection::vec(one, 1..40).prop_map(move |raw| {
        let mut out: Vec<(u64, u32)> = Vec::new();
        for (page, offset, len, shape) in raw {
            let len = match shape {
                0 => PAGE,
                1 => len.next_multiple_of(4),
                2 => PAGE - (offset as u32) % PAGE,
                3 => 64 * PAGE,
                _ => len,
            };
            let start = match out.last() {
                Some((addr, l)) if shape == 5 => addr + u64::from(*l),
                _ => 0x1_0000_0000 + page * 0x100_0000 + offset,
            };
            out.push((start, len));
        }
        let total: u32 = out.iter().map(|(_, l)| l).sum();
        if let Some((_, len)) = out.last_mut() {
            *len += total.next_multiple_of(block) - total;
        }
        out
    })
}

proptest! {
    #[test]
    fn every_byte_is_named_once_and_in_order(
        (block, list) in prop_oneof![Just(512_u32), Just(4096)].prop_flat_map(|b| (Just(b), segments(b))),
        max in prop_oneof![Just(TRANSFER_MAX), Just(128 << 10), Just(8192_u32)],
        support in prop_oneof![Just(SglSupport::None), Just(SglSupport::Dword), Just(SglSupport::Byte)],
    ) {
        let ways = run(&list, block, max, support);
        let said = |how| ways.contains(&how);
        match support {
            SglSupport::None => prop_assert!(!said(How::Sgl)),
            SglSupport::Byte => prop_assert!(!said(How::Bounce), "any list can be said, but for its length"),
            SglSupport::Dword => {
                let aligned = list.iter().all(|(a, l)| (a | u64::from(*l)) & 3 == 0);
                prop_assert!(!aligned || !said(How::Bounce));
            }
        }
    }

    #[test]
    fn whole_pages_need_one_command_and_no_copy(pages in prop::collection::vec(0_u64..1000, 1..250), off in 0_u64..8) {
        let list: Vec<_> = pages.iter().map(|p| (p * 4096, 4096)).collect();
        prop_assert_eq!(run(&list, 512, TRANSFER_MAX, SglSupport::None), [How::Prp]);
        // The first may begin inside its page, the last end there.
        let mut list = list;
        if list.len() > 1 {
            list[0] = (list[0].0 + off * 512, 4096 - off as u32 * 512);
            prop_assert_eq!(run(&list, 512, TRANSFER_MAX, SglSupport::None), [How::Prp]);
        }
    }
}

#[test]
fn one_segment_takes_the_shortest_way() {
    let way = |addr, len, support| run(&[(addr, len)], 512, TRANSFER_MAX, support);
    for support in [SglSupport::None, SglSupport::Dword, SglSupport::Byte] {
        assert_eq!(way(0x10_0200, 4096, support), [How::Prp]);
        assert_eq!(way(0x10_0000, 8192, support), [How::Prp]);
    }
    assert_eq!(way(0x10_0004, 1 << 20, SglSupport::None), [How::Prp]);
    assert_eq!(way(0x10_0004, 1 << 20, SglSupport::Dword), [How::Sgl]);
    assert_eq!(way(0x10_0001, 4096, SglSupport::Byte), [How::Sgl]);
    assert_eq!(way(0x10_0001, 4096, SglSupport::Dword), [How::Bounce]);
    assert_eq!(way(0x10_0001, 96 << 10, SglSupport::None), [How::Bounce, How::Bounce]);
}

#[test]
fn what_prps_cannot_say_is_split_at_block_boundaries() {
    // Two segments inside their pages: each is a command.
    assert_eq!(
        run(&[(0x1200, 1024), (0x5200, 1024)], 512, TRANSFER_MAX, SglSupport::None),
        [How::Prp, How::Prp]
    );
    // A block that lies across the break is copied; what is around it is not.
    let list = [(0x10_0100, 0x10000 - 0x100), (0x20_0400, 0x10000 + 0x100)];
    assert_eq!(run(&list, 512, TRANSFER_MAX, SglSupport::None), [How::Prp, How::Bounce, How::Prp]);
    assert_eq!(run(&list, 512, TRANSFER_MAX, SglSupport::Dword), [How::Sgl]);
}

#[test]
fn many_small_pieces_are_copied_together() {
    let list: Vec<_> = (0..64).map(|i| (0x1000 * i + 8, 1000)).chain([(0x10_0008, 512)]).collect();
    // All but the first block, which lies in one piece.
    assert_eq!(run(&list, 512, TRANSFER_MAX, SglSupport::None), [How::Prp, How::Bounce]);
}

#[test]
fn a_list_of_more_descriptors_than_a_page_holds_is_split() {
    let list: Vec<_> = (0..300).map(|i| (0x1000 * i + 16, 512)).collect();
    assert_eq!(run(&list, 512, TRANSFER_MAX, SglSupport::Dword), [How::Sgl, How::Sgl]);
}
