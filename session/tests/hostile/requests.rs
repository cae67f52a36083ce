//! Requests that no honest driver makes. Each is answered in its status; nothing stays held, and the queue goes on.

use std::sync::Arc;

use nvme_policy::{Access, BlockSize, Extent, Grant};
use nvme_session::blk::{RANGE_SECTORS_MAX, RANGES_MAX, SEG_MAX, features};
use nvme_session::memory::MemoryTable;
use nvme_session::operation::{Operation, Outcome};
use nvme_session::queue::{Direction, QueueTag};

use crate::driver::*;

/// The request is refused with that status, and the queue serves the next one.
pub(crate) fn refused(mut d: Driver, kind: u32, sector: u64, data: &[(u64, u32, u16)], status: u8) {
    d.request(0, kind, sector, data);
    d.refused(0, status);
    if d.queue.config().grant.extent().block_size() == BlockSize::B512 {
        d.serves();
    }
}

pub(crate) fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

pub(crate) fn with_ranges(ranges: &[Vec<u8>]) -> (Driver, u32) {
    let d = Driver::new();
    let bytes = ranges.concat();
    d.put(DATA, &bytes);
    (d, bytes.len() as u32)
}

#[test]
fn an_address_that_wraps_is_refused() {
    for (addr, len) in
        [(u64::MAX, 512), (u64::MAX - 511, 512), (u64::MAX - 100, 512), (u64::MAX - 0x1000, 512)]
    {
        refused(Driver::new(), IN, 0, &[(addr, len, WRITE)], IOERR);
        refused(Driver::new(), OUT, 0, &[(addr, len, 0)], IOERR);
    }
}

#[test]
fn a_buffer_over_a_gap_or_outside_is_refused_and_what_came_before_it_is_released() {
    for addr in [0, RAM - 512, DATA_END - 256, DATA_END, ROM + ROM_LEN] {
        refused(Driver::new(), IN, 0, &[(DATA, 512, WRITE), (addr, 512, WRITE)], IOERR);
    }
}

#[test]
fn a_buffer_over_two_adjoining_regions_is_served_in_two_ranges() {
    let mut d = Driver::new();
    d.request(0, IN, 0, &[(DATA - 100, 512, WRITE)]);
    let op = d.taken();
    assert_eq!(ranges(&op), [(iova(0).0 + DATA - RAM - 100, 100), (iova(1).0, 412)]);
    d.complete(op, Outcome::Done);
    assert_eq!(d.queue.bytes_held(), 0);
}

#[test]
fn a_request_of_segments_times_regions_is_refused() {
    // 512-byte regions, one beside the other.
    let small = |i: u16| region(3 + i, ROM + ROM_LEN + 0x1_0000 + 512 * u64::from(i), 512, true);
    let driver = || {
        let mut d = Driver::with(|c| {
            let whole = Extent::whole(c.grant.extent().namespace(), 1 << 20, BlockSize::B512).unwrap();
            c.grant = Grant::new(whole, Access::ReadWrite);
        });
        let table = regions().into_iter().chain((0..256).map(small)).collect();
        d.table = Arc::new(MemoryTable::new(table).unwrap());
        d.queue.set_table(d.table.clone()).unwrap();
        d
    };
    let at = small(0).guest;
    let buffer = (at, 512 * 256, WRITE);
    refused(driver(), IN, 0, &[buffer; 9], IOERR);
    // At the bound it is served.
    let mut d = driver();
    d.request(0, IN, 0, &[buffer; 8]);
    let op = d.taken();
    assert_eq!(ranges(&op).len(), 2048);
    d.complete(op, Outcome::Done);
    assert_eq!((d.status(0), d.queue.bytes_held()), (OK, 0));
}

#[test]
fn a_request_that_is_refused_costs_what_its_descriptors_do_wherever_the_reason_is() {
    // Pages, one beside the other; the last may not be written to, and behind it is nothing.
    const PAGES: u16 = 480;
    let page = |i: u16| region(3 + i, ROM + ROM_LEN + 0x1_0000 + (u64::from(i) << 12), 4096, i + 1 < PAGES);
    let (first, len) = (page(0).guest, u32::from(PAGES) << 12);
    let all = (first, len - 4096, WRITE);
    // Eight segments, each over all pages: too many ranges; and three, whose last byte is the one that may not be had.
    for (count, last) in
        [(8, all), (3, (first, len, WRITE)), (3, (first + 4096, len, WRITE)), (3, (u64::MAX, 1, WRITE))]
    {
        let mut d = Driver::with(|c| {
            let whole = Extent::whole(c.grant.extent().namespace(), 1 << 20, BlockSize::B512).unwrap();
            c.grant = Grant::new(whole, Access::ReadWrite);
        });
        let table = regions().into_iter().chain((0..PAGES).map(page)).collect();
        d.table = Arc::new(MemoryTable::new(table).unwrap());
        d.queue.set_table(d.table.clone()).unwrap();
        d.queue.take_walked();
        let mut chain = vec![all; count - 1];
        chain.push(last);
        d.request(0, IN, 0, &chain);
        d.refused(0, IOERR);
        let (walked, descriptors) = (d.queue.take_walked(), chain.len() as u32 + 2);
        assert!(walked <= 2 * descriptors, "{walked} for {descriptors} descriptors, the last {last:x?}");
    }
}

#[test]
fn a_region_without_the_right_to_be_written_is_only_read() {
    for direction in [Direction::AsFlagged, Direction::ByRequest] {
        let driver = || Driver::with(|c| c.direction = direction);
        refused(driver(), IN, 0, &[(ROM, 512, WRITE)], IOERR);
        refused(driver(), GET_ID, 0, &[(ROM, 20, WRITE)], IOERR);
        let mut d = driver();
        d.request(0, OUT, 0, &[(ROM, 512, 0)]);
        let op = d.taken();
        assert_eq!(ranges(&op), [(iova(2).0, 512)]);
        d.complete(op, Outcome::Done);
    }
}

#[test]
fn a_buffer_of_the_wrong_direction_is_refused() {
    refused(Driver::new(), IN, 0, &[(DATA, 512, 0)], IOERR);
    refused(Driver::new(), OUT, 0, &[(DATA, 512, WRITE)], IOERR);
    refused(Driver::new(), IN, 0, &[(DATA, 512, WRITE), (DATA + 512, 512, 0)], IOERR);
    refused(Driver::new(), GET_ID, 0, &[(DATA, 20, 0)], IOERR);
    let (d, len) = with_ranges(&[range(0, 8, 0)]);
    refused(d, DISCARD, 0, &[(DATA, len, WRITE)], IOERR);
}

#[test]
fn by_request_the_flags_of_a_payload_say_nothing() {
    for flags in [0, WRITE] {
        let mut d = Driver::with(|c| c.direction = Direction::ByRequest);
        d.request(0, IN, 0, &[(DATA, 512, flags)]);
        let op = d.taken();
        assert!(matches!(op.operation(), Operation::Read(_)));
        d.complete(op, Outcome::Done);
        d.request(0, OUT, 0, &[(DATA, 512, flags)]);
        let op = d.taken();
        assert!(matches!(op.operation(), Operation::Write { .. }));
        d.complete(op, Outcome::Done);
    }
}

#[test]
fn a_header_may_be_split_over_descriptors_and_share_one_with_data() {
    // 5 + 0 + 11 bytes, the last followed by data in the same buffer; the status byte follows data as well.
    let mut d = Driver::new();
    let (one, two) = (HEAD, HEAD + 0x100);
    d.header(DATA - 0x4000, OUT, 7);
    let header = d.get(DATA - 0x4000, 16);
    d.put(one, &header[..5]);
    d.put(two, &header[5..]);
    d.set_desc(0, desc(one, 5, NEXT, 1));
    d.set_desc(1, desc(DATA, 0, NEXT, 2));
    d.set_desc(2, desc(two, 11 + 512, NEXT, 3));
    d.set_desc(3, desc(HEAD + 16, 1, WRITE, 0));
    d.offer(0);
    let op = d.taken();
    assert_eq!((place(&op), ranges(&op)), ((107, 1), vec![(iova(0).0 + two + 11 - RAM, 512)]));
    d.complete(op, Outcome::Done);
    assert_eq!((d.status(0), d.used()), (OK, vec![(0, 1)]));

    d.header(HEAD, IN, 3);
    d.set_desc(0, desc(HEAD, 16, NEXT, 1));
    d.set_desc(1, desc(DATA, 513, WRITE, 0));
    d.offer(0);
    let op = d.taken();
    assert_eq!((place(&op), ranges(&op)), ((103, 1), vec![(iova(1).0, 512)]));
    d.complete(op, Outcome::Done);
    assert_eq!((d.get(DATA + 512, 1), d.used()), (vec![OK], vec![(0, 513)]));
}

#[test]
fn a_header_that_is_short_writable_or_outside_is_refused() {
    let ask = |addr: u64, len: u32, flags: u16| {
        let mut d = Driver::new();
        d.header(HEAD, IN, 0);
        d.put(HEAD + 16, &[UNSET]);
        d.set_desc(0, desc(addr, len, flags | NEXT, 1));
        d.set_desc(1, desc(HEAD + 16, 1, WRITE, 0));
        d.offer(0);
        d.refused(0, IOERR);
        d.serves();
    };
    ask(HEAD, 15, 0);
    ask(HEAD, 0, 0);
    ask(HEAD, 16, WRITE);
    ask(DATA_END, 16, 0);
    ask(DATA_END - 8, 16, 0);
    ask(u64::MAX - 7, 16, 0);
    ask(u64::MAX - 7, 8, 0);
    ask(0, 16, 0);
}

#[test]
fn a_chain_of_nothing_but_a_status_byte_is_refused() {
    let mut d = Driver::new();
    d.put(HEAD + 16, &[UNSET]);
    d.set_desc(0, desc(HEAD + 16, 1, WRITE, 0));
    d.offer(0);
    d.refused(0, IOERR);
}

#[test]
fn a_sector_whose_byte_address_wraps_is_refused() {
    for sector in [u64::MAX, 1 << 55, (1 << 55) + 1, u64::MAX / 512, u64::MAX - 100] {
        refused(Driver::new(), IN, sector, &[(DATA, 512, WRITE)], IOERR);
        refused(Driver::new(), OUT, sector, &[(DATA, 512, 0)], IOERR);
    }
}

#[test]
fn a_transfer_at_over_or_across_the_partition_s_end_is_refused() {
    for (sector, bytes) in [(64, 512), (65, 512), (63, 1024), (0, 65 * 512), (1, 64 * 512)] {
        refused(Driver::new(), IN, sector, &[(DATA, bytes, WRITE)], IOERR);
        refused(Driver::new(), OUT, sector, &[(DATA, bytes, 0)], IOERR);
    }
    let mut d = Driver::new();
    d.request(0, IN, 63, &[(DATA, 512, WRITE)]);
    let op = d.taken();
    assert_eq!(place(&op), (163, 1), "the last sector is there");
    d.complete(op, Outcome::Done);
}

#[test]
fn a_transfer_of_no_bytes_or_no_whole_sectors_is_refused() {
    refused(Driver::new(), IN, 0, &[], IOERR);
    refused(Driver::new(), OUT, 0, &[(DATA, 0, 0)], IOERR);
    refused(Driver::new(), IN, 0, &[(DATA, 511, WRITE)], IOERR);
    refused(Driver::new(), OUT, 0, &[(DATA, 512, 0), (DATA, 1, 0)], IOERR);
}

#[test]
fn a_read_only_session_refuses_changes_whatever_was_acknowledged() {
    for features in [ALL, ALL | features::RO, 0, !features::EVENT_IDX] {
        for direction in [Direction::AsFlagged, Direction::ByRequest] {
            let read_only = || {
                Driver::with(|c| {
                    c.grant = grant(Access::ReadOnly, BlockSize::B512);
                    c.features = features;
                    c.direction = direction;
                })
            };
            refused(read_only(), OUT, 0, &[(DATA, 512, 0)], IOERR);
            refused(read_only(), DISCARD, 0, &[(DATA, 16, 0)], IOERR);
            refused(read_only(), WRITE_ZEROES, 0, &[(DATA, 16, 0)], IOERR);
            // A flush has nothing to do, and does not reach the controller.
            refused(read_only(), FLUSH, 0, &[], OK);
        }
    }
}

#[test]
fn requests_for_features_that_were_not_negotiated_are_not_served() {
    for (kind, bit) in [(DISCARD, features::DISCARD), (WRITE_ZEROES, features::WRITE_ZEROES)] {
        refused(Driver::with(|c| c.features &= !bit), kind, 0, &[(DATA, 16, 0)], UNSUPP);
    }
    let none = |c: &mut nvme_session::queue::QueueConfig| {
        c.limits.discard_blocks = 0;
        c.limits.write_zeroes_blocks = 0;
    };
    refused(Driver::with(none), DISCARD, 0, &[(DATA, 16, 0)], UNSUPP);
    refused(Driver::with(none), WRITE_ZEROES, 0, &[(DATA, 16, 0)], UNSUPP);
}

#[test]
fn unknown_types_are_not_served() {
    for kind in [2, 3, 5, 7, 9, 10, 12, 14, 15, 17, 0x8000_0000, u32::MAX] {
        refused(Driver::new(), kind, 0, &[(DATA, 512, WRITE)], UNSUPP);
        refused(Driver::new(), kind, 0, &[], UNSUPP);
    }
}

#[test]
fn one_segment_too_many_is_refused() {
    // By way of an indirect table; the queue itself is too short for that.
    let ask = |n: u32| {
        let mut d = Driver::with(|c| {
            c.grant = {
                let whole = nvme_policy::Extent::whole(
                    nvme_policy::Namespace { controller: 0, nsid: 1 },
                    1 << 20,
                    BlockSize::B512,
                );
                nvme_policy::Grant::new(whole.unwrap(), Access::ReadWrite)
            }
        });
        d.header(HEAD, IN, 0);
        d.put(HEAD + 16, &[UNSET]);
        d.set_indirect(0, desc(HEAD, 16, NEXT, 1));
        for i in 1..=n as u16 {
            d.set_indirect(i, desc(DATA + u64::from(i) * 512, 512, NEXT | WRITE, i + 1));
        }
        d.set_indirect(n as u16 + 1, desc(HEAD + 16, 1, WRITE, 0));
        d.set_desc(0, desc(TABLE, 16 * (n + 2), INDIRECT, 0));
        d.offer(0);
        d
    };
    ask(SEG_MAX + 1).refused(0, IOERR);
    let mut d = ask(SEG_MAX);
    let op = d.taken();
    assert_eq!(ranges(&op).len(), SEG_MAX as usize);
    d.complete(op, Outcome::Done);
    assert_eq!(d.queue.bytes_held(), 0);
}

#[test]
fn a_transfer_longer_than_a_used_length_can_tell_is_refused() {
    let mut d = Driver::with(|c| {
        let whole = nvme_policy::Extent::whole(
            nvme_policy::Namespace { controller: 0, nsid: 1 },
            1 << 40,
            BlockSize::B512,
        );
        c.grant = nvme_policy::Grant::new(whole.unwrap(), Access::ReadWrite);
    });
    d.request(0, IN, 0, &[(DATA, 0x8000_0000, WRITE), (DATA, 0x8000_0000, WRITE)]);
    d.refused(0, IOERR);
}

#[test]
fn get_id_answers_twenty_bytes_and_no_more() {
    for (len, wrote) in [(20, 20), (512, 20), (7, 7)] {
        let mut d = Driver::new();
        d.put(DATA, &[0xaa; 32]);
        d.request(0, GET_ID, 0, &[(DATA, len, WRITE)]);
        assert!(matches!(d.next(), nvme_session::queue::Next::Again));
        assert_eq!((d.status(0), d.used()), (OK, vec![(0, wrote + 1)]));
        let got = d.get(DATA, 32);
        assert_eq!(got[..wrote as usize], b"0123456789abcdefghij"[..wrote as usize]);
        assert!(got[wrote as usize..].iter().all(|b| *b == 0xaa));
    }
    refused(Driver::new(), GET_ID, 0, &[], IOERR);
    // Over two regions.
    let mut d = Driver::new();
    d.request(0, GET_ID, 0, &[(DATA - 3, 20, WRITE)]);
    assert!(matches!(d.next(), nvme_session::queue::Next::Again));
    assert_eq!(d.get(DATA - 3, 20), b"0123456789abcdefghij");
}

#[test]
fn discards_of_several_segments_are_one_request() {
    let all: Vec<_> = (0..4).map(|i| range(16 * i, 8, 0)).collect();
    let (mut d, len) = with_ranges(&all);
    // Split where no segment ends.
    d.request(0, DISCARD, u64::MAX, &[(DATA, 10, 0), (DATA + 10, len - 10, 0)]);
    let ops: Vec<_> = (0..4).map(|_| d.taken()).collect();
    assert_eq!(ops.iter().map(place).collect::<Vec<_>>(), [(100, 8), (116, 8), (132, 8), (148, 8)]);
    for (i, op) in ops.into_iter().enumerate() {
        assert_eq!(d.used(), [], "not before the last");
        let outcome = if i == 2 { Outcome::Failed } else { Outcome::Done };
        assert!(d.complete(op, outcome).is_none());
    }
    assert_eq!((d.status(0), d.used()), (IOERR, vec![(0, 1)]));
}

#[test]
fn one_bad_segment_refuses_the_whole_discard() {
    for kind in [DISCARD, WRITE_ZEROES] {
        for bad in [
            range(64, 1, 0),
            range(63, 2, 0),
            range(u64::MAX, 1, 0),
            range(1 << 55, 8, 0),
            range(0, 0, 0),
            range(0, u32::MAX, 0),
            range(0, RANGE_SECTORS_MAX + 8, 0),
        ] {
            let (d, len) = with_ranges(&[range(0, 8, 0), bad]);
            refused(d, kind, 0, &[(DATA, len, 0)], IOERR);
        }
    }
}

#[test]
fn flags_that_a_discard_must_not_have_are_not_served() {
    for (kind, flags, status) in [
        (DISCARD, 1, UNSUPP),
        (DISCARD, 2, UNSUPP),
        (WRITE_ZEROES, 2, UNSUPP),
        (WRITE_ZEROES, 0x8000_0001, UNSUPP),
    ] {
        let (d, len) = with_ranges(&[range(0, 8, 0), range(8, 8, flags)]);
        refused(d, kind, 0, &[(DATA, len, 0)], status);
    }
    // To be allowed to unmap is not to be told to.
    let (mut d, len) = with_ranges(&[range(0, 8, 1)]);
    d.request(0, WRITE_ZEROES, 0, &[(DATA, len, 0)]);
    let op = d.taken();
    assert!(matches!(op.operation(), Operation::WriteZeroes { .. }));
    d.complete(op, Outcome::Done);
}

#[test]
fn a_discard_of_no_too_many_or_broken_segments_is_refused() {
    let most = RANGES_MAX as usize;
    for bytes in [0, 1, 15, 17, 16 * most + 1, 16 * most + 16, 0x1000] {
        let (d, _) = with_ranges(&vec![range(0, 1, 0); 2 * most]);
        refused(d, DISCARD, 0, &[(DATA, bytes as u32, 0)], IOERR);
    }
    let (mut d, len) = with_ranges(&vec![range(0, 1, 0); most]);
    d.request(0, DISCARD, 0, &[(DATA, len, 0)]);
    for _ in 0..most {
        let op = d.taken();
        d.complete(op, Outcome::Done);
    }
    assert_eq!((d.status(0), d.used()), (OK, vec![(0, 1)]));
}

#[test]
fn the_worst_outcome_is_answered_and_a_failed_read_claims_no_data() {
    for (outcome, status) in [(Outcome::Failed, IOERR), (Outcome::Unsupported, UNSUPP)] {
        let mut d = Driver::new();
        d.request(0, IN, 0, &[(DATA, 1024, WRITE)]);
        let op = d.taken();
        let (a, b) = op.split_at(1, &mut d.spares);
        d.queue.divided(b.unwrap());
        let b = d.taken();
        assert_eq!((a.tag(), place(&a), place(&b)), (b.tag(), (100, 1), (101, 1)));
        d.complete(b, outcome);
        assert_eq!(d.used(), []);
        d.complete(a, Outcome::Done);
        assert_eq!((d.status(0), d.used()), (status, vec![(0, 1)]));
        assert_eq!((d.queue.bytes_held(), d.queue.in_flight()), (0, 0));
    }
}

#[test]
fn what_was_put_back_is_offered_again_in_order_and_can_be_cancelled() {
    let mut d = Driver::new();
    d.request(0, IN, 0, &[(DATA, 512, WRITE)]);
    d.request(4, IN, 1, &[(DATA, 512, WRITE)]);
    let first = d.taken();
    d.queue.put_back(first);
    assert!(d.queue.listen(), "there is something to do");
    let (a, b) = (d.taken(), d.taken());
    assert_eq!((a.tag().head(), b.tag().head()), (0, 4));
    d.queue.put_back(b);
    d.queue.put_back(a);
    assert!(d.queue.listen(), "nothing waits in the ring, and there is something to do");
    d.queue.cancel(&mut d.spares);
    assert_eq!((d.status(0), d.status(4)), (IOERR, IOERR));
    assert_eq!(d.used(), [(0, 1), (4, 1)]);
    assert_eq!((d.queue.bytes_held(), d.queue.in_flight()), (0, 0));
}

#[test]
fn an_answer_to_an_earlier_use_of_a_head_is_not_taken_for_the_present_one() {
    let mut d = Driver::new();
    d.request(0, IN, 0, &[(DATA, 1024, WRITE)]);
    // The queue is not told of the second part, so the first one answers the request.
    let (a, b) = d.taken().split_at(1, &mut d.spares);
    d.complete(a, Outcome::Done);
    assert_eq!(d.used(), [(0, 1025)]);
    d.request(0, IN, 8, &[(DATA + 0x1000, 512, WRITE)]);
    let present = d.taken();
    let b = b.unwrap();
    assert_eq!(b.tag().head(), present.tag().head());
    assert!(d.complete(b, Outcome::Failed).is_none());
    assert_eq!((d.status(0), d.used(), d.queue.in_flight(), d.queue.strays()), (UNSET, vec![], 1, 1));
    d.complete(present, Outcome::Done);
    assert_eq!((d.status(0), d.used()), (OK, vec![(0, 513)]));
    assert_eq!((d.queue.bytes_held(), d.queue.in_flight(), d.queue.strays()), (0, 0, 1));
}

#[test]
fn what_a_former_virtqueue_at_the_same_place_took_is_refused_and_its_memory_is_not_counted() {
    let (mut former, mut d) = (Driver::new(), Driver::new());
    former.queue.enrol(QueueTag::new(3, 1));
    d.queue.enrol(QueueTag::new(3, 2));
    for driver in [&mut former, &mut d] {
        driver.request(0, OUT, 0, &[(DATA, 512, 0)]);
        driver.request(4, OUT, 0, &[(DATA - 256, 512, 0)]);
        driver.request(8, FLUSH, 0, &[]);
    }
    let old: Vec<_> = (0..3).map(|_| former.taken()).collect();
    let new: Vec<_> = (0..3).map(|_| d.taken()).collect();
    let held = d.queue.bytes_held();
    for request in old {
        assert!(d.complete(request, Outcome::Done).is_none());
    }
    // Three requests, and the three ranges of two of them.
    assert_eq!((d.used(), d.queue.in_flight(), d.queue.bytes_held(), d.queue.strays()), (vec![], 3, held, 6));
    for request in new {
        d.complete(request, Outcome::Done);
    }
    assert_eq!((d.used().len(), d.queue.bytes_held(), d.queue.strays()), (3, 0, 6));
    assert_eq!((former.queue.in_flight(), former.queue.bytes_held()), (3, held), "kept for ever");
}

#[test]
fn a_queue_offers_nothing_that_another_one_took() {
    let (mut other, mut d) = (Driver::new(), Driver::new());
    d.queue.enrol(QueueTag::new(0, 9));
    other.request(0, IN, 0, &[(DATA, 1024, WRITE)]);
    let (a, b) = other.taken().split_at(1, &mut other.spares);
    d.queue.put_back(a);
    d.queue.divided(b.unwrap());
    assert!(matches!(d.next(), nvme_session::queue::Next::Idle));
    assert_eq!(d.queue.strays(), 2);
    d.serves();
}
