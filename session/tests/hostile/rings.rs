//! Rings and chains that no honest driver writes. In each case nothing is mediated, and the queue says why.

use crate::driver::*;
use nvme_platform::Iova;
use nvme_session::memory::{MemoryTable, Region};
use nvme_session::operation::Outcome;
use nvme_session::queue::{AddressSpace, BlkQueue, Broken, Direction, Next, RingAddresses, RingError};
use nvme_session::virtqueue::INDIRECT_MAX;
use std::sync::Arc;

#[test]
fn an_honest_driver_is_served() {
    let mut d = Driver::new();
    for _ in 0..40 {
        d.serves();
    }
    assert!(matches!(d.next(), Next::Idle));
}

#[test]
fn a_chain_that_loops_is_refused() {
    let mut d = Driver::new();
    for i in 0..4 {
        d.set_desc(i, desc(DATA, 512, NEXT, (i + 1) % 4));
    }
    d.offer(0);
    d.breaks(Broken::Loop);
}

#[test]
fn a_chain_of_empty_descriptors_that_loops_is_refused() {
    let mut d = Driver::new();
    d.set_desc(3, desc(DATA, 0, NEXT, 3));
    d.offer(3);
    d.breaks(Broken::Loop);
}

#[test]
fn an_indirect_table_that_loops_is_refused() {
    let mut d = Driver::new();
    d.set_desc(0, desc(TABLE, 64, INDIRECT, 0));
    for i in 0..4 {
        d.set_indirect(i, desc(DATA, 0, NEXT, (i + 1) % 4));
    }
    d.offer(0);
    d.breaks(Broken::Loop);
}

#[test]
fn a_next_out_of_range_is_refused() {
    for next in [SIZE, SIZE + 1, 0x8000, u16::MAX] {
        let mut d = Driver::new();
        d.set_desc(0, desc(HEAD, 16, NEXT, next));
        d.offer(0);
        d.breaks(Broken::NextOutOfRange);
    }
    let mut d = Driver::new();
    d.set_desc(0, desc(TABLE, 32, INDIRECT, 0));
    d.set_indirect(0, desc(HEAD, 16, NEXT, 2));
    d.offer(0);
    d.breaks(Broken::NextOutOfRange);
}

#[test]
fn a_nested_indirect_table_is_refused() {
    for flags in [INDIRECT, INDIRECT | NEXT, INDIRECT | WRITE] {
        let mut d = Driver::new();
        d.set_desc(0, desc(TABLE, 32, INDIRECT, 0));
        d.set_indirect(0, desc(HEAD, 16, NEXT, 1));
        d.set_indirect(1, desc(TABLE, 32, flags, 0));
        d.offer(0);
        d.breaks(Broken::IndirectNested);
    }
}

#[test]
fn an_indirect_descriptor_with_a_next_is_refused() {
    let mut d = Driver::new();
    d.set_desc(0, desc(TABLE, 32, INDIRECT | NEXT, 1));
    d.offer(0);
    d.breaks(Broken::IndirectWithNext);
}

#[test]
fn an_indirect_table_of_a_bad_length_is_refused() {
    for len in [0, 1, 15, 17, 16 * INDIRECT_MAX + 16, 0x8000_0000, u32::MAX, u32::MAX - 15] {
        let mut d = Driver::new();
        d.set_desc(0, desc(TABLE, len, INDIRECT, 0));
        d.offer(0);
        d.breaks(Broken::IndirectLength);
    }
}

#[test]
fn an_indirect_table_outside_the_memory_is_refused() {
    for addr in [0, RAM - 16, DATA_END - 8, DATA_END, ROM + ROM_LEN, u64::MAX - 64] {
        let mut d = Driver::new();
        d.set_desc(0, desc(addr, 32, INDIRECT, 0));
        d.offer(0);
        d.breaks(Broken::IndirectNotRegistered);
    }
    let mut d = Driver::new();
    d.set_desc(0, desc(u64::MAX - 15, 32, INDIRECT, 0));
    d.offer(0);
    d.breaks(Broken::IndirectLength);
}

#[test]
fn an_indirect_table_that_was_not_negotiated_is_refused() {
    let mut d = Driver::with(|c| c.features &= !nvme_session::blk::features::INDIRECT_DESC);
    d.set_desc(0, desc(TABLE, 48, INDIRECT, 0));
    d.offer(0);
    d.breaks(Broken::IndirectNotNegotiated);
}

#[test]
fn an_indirect_table_may_be_longer_than_the_queue_and_lie_across_regions() {
    let mut d = Driver::new();
    let table = DATA - 24;
    let at = HEAD;
    d.header(at, IN, 0);
    let n = 40_u16;
    let put = |i: u16, bytes: (u64, u32, u16, u16)| {
        let (addr, len, flags, next) = bytes;
        let mut b = vec![];
        b.extend(addr.to_le_bytes());
        b.extend(len.to_le_bytes());
        b.extend(flags.to_le_bytes());
        b.extend(next.to_le_bytes());
        d.put(table + 16 * u64::from(i), &b);
    };
    put(0, (at, 16, NEXT, 1));
    for i in 1..=n {
        put(i, (DATA + 0x1000 + u64::from(i) * 512, 512, NEXT | WRITE, i + 1));
    }
    put(n + 1, (at + 16, 1, WRITE, 0));
    d.set_desc(5, desc(table, 16 * (u32::from(n) + 2), INDIRECT, 0));
    d.offer(5);
    let op = d.taken();
    let head = op.tag().head();
    assert_eq!((head, ranges(&op).len()), (5, usize::from(n)));
    d.complete(op, Outcome::Done);
    assert_eq!(d.used(), [(5, u32::from(n) * 512 + 1)]);
}

#[test]
fn direct_descriptors_may_be_followed_by_an_indirect_one() {
    let mut d = Driver::new();
    d.header(HEAD, IN, 0);
    d.set_desc(0, desc(HEAD, 16, NEXT, 1));
    d.set_desc(1, desc(TABLE, 32, INDIRECT, 0));
    d.set_indirect(0, desc(DATA, 512, NEXT | WRITE, 1));
    d.set_indirect(1, desc(HEAD + 16, 1, WRITE, 0));
    d.offer(0);
    let op = d.taken();
    assert_eq!(ranges(&op), [(iova(1).0, 512)]);
    d.complete(op, Outcome::Done);
}

#[test]
fn an_available_index_that_jumps_is_refused() {
    for jump in [SIZE + 1, 0x7fff, 0x8000, u16::MAX] {
        let mut d = Driver::new();
        d.set_avail(jump);
        d.breaks(Broken::AvailableJump);
        assert!(!d.queue.listen(), "nobody asks a broken ring");
    }
}

#[test]
fn an_available_index_that_jumps_while_nobody_looks_wakes_the_queue() {
    let mut d = Driver::new();
    d.set_avail(SIZE + 1);
    assert!(d.queue.listen());
    d.breaks(Broken::AvailableJump);
}

#[test]
fn a_head_out_of_range_is_refused() {
    for head in [SIZE, 0x8000, u16::MAX] {
        let mut d = Driver::new();
        d.offer(head);
        d.breaks(Broken::HeadOutOfRange);
    }
}

#[test]
fn a_head_that_is_still_in_flight_is_refused_and_the_first_use_of_it_ends_well() {
    let mut d = Driver::new();
    d.request(0, IN, 0, &[(DATA, 512, WRITE)]);
    d.offer(0);
    let op = d.taken();
    assert!(matches!(d.next(), Next::Broken(Broken::HeadInFlight)));
    assert!(d.complete(op, Outcome::Done).is_none());
    assert_eq!((d.queue.in_flight(), d.queue.bytes_held()), (0, 0));
    assert_eq!(d.used(), [], "a broken ring is not written to");
}

#[test]
fn a_status_byte_that_is_missing_read_only_or_empty_breaks_the_queue() {
    let at = HEAD + 16;
    // Empty, not writable by its flag, in read-only memory, outside, and at the end of the address space.
    for status in [
        (at, 0, WRITE),
        (at, 1, 0),
        (ROM, 1, WRITE),
        (DATA_END, 1, WRITE),
        (0, 1, WRITE),
        (u64::MAX, 1, WRITE),
        (u64::MAX, 2, WRITE),
        (DATA_END - 1, 2, WRITE),
    ] {
        let mut d = Driver::new();
        d.header(HEAD, IN, 0);
        d.set_desc(0, desc(HEAD, 16, NEXT, 1));
        d.set_desc(1, desc(DATA, 512, NEXT | WRITE, 2));
        d.set_desc(2, desc(status.0, status.1, status.2, 0));
        d.offer(0);
        d.breaks(Broken::NoStatus);
    }
    let mut d = Driver::new();
    d.header(HEAD, FLUSH, 0);
    d.set_desc(0, desc(HEAD, 16, 0, 0));
    d.offer(0);
    d.breaks(Broken::NoStatus);
}

#[test]
fn a_ring_inside_a_data_buffer_breaks_only_that_ring() {
    let mut d = Driver::new();
    // A read whose data goes over the available ring.
    d.request(0, IN, 0, &[(AVAIL, 512, WRITE)]);
    let op = d.taken();
    assert_eq!(ranges(&op), [(iova(0).0 + 0x1000, 512)]);
    d.put(AVAIL, &[0x77; 512]);
    d.complete(op, Outcome::Done);
    assert_eq!(d.queue.bytes_held(), 0);
    d.queue.publish();
    assert!(matches!(d.next(), Next::Broken(Broken::AvailableJump)));
}

#[test]
fn sizes_that_no_ring_has_are_refused() {
    let table = Arc::new(MemoryTable::new(regions()).unwrap());
    for size in [0, 3, 15, 17, 1000, 1025, 2048, 0x8000, u16::MAX] {
        let config = nvme_session::queue::QueueConfig { size, ..config() };
        assert_eq!(BlkQueue::new(config, table.clone()).err(), Some(RingError::BadSize));
    }
    // One entry is a ring too.
    assert!(BlkQueue::new(nvme_session::queue::QueueConfig { size: 1, ..config() }, table).is_ok());
}

#[test]
fn rings_that_are_misaligned_outside_or_read_only_are_refused() {
    let table = Arc::new(MemoryTable::new(regions()).unwrap());
    let ask = |change: &dyn Fn(&mut RingAddresses)| {
        let mut config = config();
        config.rings = RingAddresses { desc: DESC, avail: AVAIL, used: USED, space: AddressSpace::Guest };
        change(&mut config.rings);
        BlkQueue::new(config, table.clone()).err()
    };
    assert_eq!(ask(&|_| ()), None);
    for at in [1, 8, 15] {
        assert_eq!(ask(&|r| r.desc += at), Some(RingError::Misaligned));
    }
    assert_eq!(ask(&|r| r.avail += 1), Some(RingError::Misaligned));
    assert_eq!(ask(&|r| r.used += 2), Some(RingError::Misaligned));
    // The last byte of the event field counts.
    let (n, end) = (u64::from(SIZE), DATA_END);
    assert_eq!(ask(&|r| r.desc = end - 16 * n), None);
    assert_eq!(ask(&|r| r.desc = end - 16 * n + 16), Some(RingError::NotRegistered));
    assert_eq!(ask(&|r| r.avail = end - (6 + 2 * n)), None);
    assert_eq!(ask(&|r| r.avail = end - (4 + 2 * n)), Some(RingError::NotRegistered));
    assert_eq!(ask(&|r| r.used = end - (8 + 8 * n)), None);
    assert_eq!(ask(&|r| r.used = end - (4 + 8 * n)), Some(RingError::NotRegistered));
    assert_eq!(ask(&|r| r.used = ROM), Some(RingError::NotWritable));
    assert_eq!(ask(&|r| r.desc = 0), Some(RingError::NotRegistered));
    assert_eq!(ask(&|r| r.used = u64::MAX - 3), Some(RingError::NotRegistered));
    // The two kinds of address are not mixed up.
    assert_eq!(ask(&|r| r.space = AddressSpace::Client), Some(RingError::NotRegistered));
    assert_eq!(
        ask(&|r| *r = RingAddresses { space: AddressSpace::Guest, ..rings() }),
        Some(RingError::NotRegistered)
    );
}

#[test]
fn a_ring_at_an_odd_place_of_our_own_memory_is_refused() {
    // Guest and client addresses are aligned, what they are mapped to is not.
    let whole = region(0, RAM, 0x1_0000, true);
    let window = whole.window.sub(1, 0x8000).unwrap();
    let odd = Region { len: 0x8000, window, ..whole };
    let table = Arc::new(MemoryTable::new(vec![odd]).unwrap());
    assert_eq!(BlkQueue::new(config(), table).err(), Some(RingError::Misaligned));
}

#[test]
fn a_ring_whose_memory_is_unregistered_stops_and_what_is_in_flight_is_kept() {
    let mut d = Driver::new();
    d.request(0, IN, 0, &[(DATA, 512, WRITE)]);
    let op = d.taken();
    let without = regions().split_off(1);
    assert_eq!(
        d.queue.set_table(Arc::new(MemoryTable::new(without).unwrap())),
        Err(RingError::NotRegistered)
    );
    assert!(matches!(d.next(), Next::Broken(Broken::RingsGone)));
    assert!(d.queue.holds(0), "the status byte is in flight");
    d.complete(op, Outcome::Done);
    assert!(!d.queue.holds(0) && !d.queue.holds(1));
}

#[test]
fn a_ring_that_is_gone_keeps_no_memory_mapped() {
    let mut d = Driver::new();
    let owner = Arc::downgrade(d.table.regions()[0].window.owner());
    d.table = Arc::default();
    assert_eq!(d.queue.set_table(Arc::default()), Err(RingError::NotRegistered));
    assert_eq!(owner.strong_count(), 0);
    assert!(!d.queue.publish() && !d.queue.listen());
    d.queue.ignore_kicks();
    assert!(matches!(d.next(), Next::Broken(Broken::RingsGone)));
}

#[test]
fn memory_that_vanished_stops_the_queue() {
    let mut d = Driver::new();
    d.request(0, IN, 0, &[(DATA, 512, WRITE)]);
    d.table.regions()[0].window.owner().fail();
    d.breaks(Broken::MemoryGone);
}

#[test]
fn indices_wrap_around() {
    let mut d = Driver::with(|c| c.next_avail = u16::MAX - 2);
    d.set_avail(d.avail);
    for _ in 0..8 {
        d.serves();
    }
    assert_eq!(d.queue.next_avail(), 5);
}

#[test]
fn a_queue_that_is_set_up_again_goes_on_where_it_was() {
    let mut d = Driver::new();
    for _ in 0..5 {
        d.serves();
    }
    d.queue.take_no_more();
    d.request(0, IN, 0, &[(DATA, 512, WRITE)]);
    assert!(matches!(d.next(), Next::Idle) && d.queue.in_flight() == 0);
    let again = nvme_session::queue::QueueConfig { next_avail: d.queue.next_avail(), ..config() };
    d.queue = BlkQueue::new(again, d.table.clone()).unwrap();
    let op = d.taken();
    d.complete(op, Outcome::Done);
    assert_eq!(d.used(), [(0, 513)]);
}

#[test]
fn a_used_index_that_the_driver_made_up_hurts_only_the_driver() {
    let d = Driver::new();
    let (window, offset) = d.at(USED);
    window.store16(offset + 2, 0xfff7).unwrap();
    let mut d = Driver { queue: BlkQueue::new(config(), d.table.clone()).unwrap(), seen_used: 0xfff7, ..d };
    for _ in 0..20 {
        d.serves();
    }
}

#[test]
fn ranges_are_never_guest_addresses() {
    let mut d = Driver::with(|c| c.direction = Direction::ByRequest);
    d.request(0, OUT, 0, &[(DATA + 3, 512, 0)]);
    let op = d.taken();
    assert_eq!(ranges(&op), [(Iova(iova(1).0 + 3).0, 512)]);
    d.complete(op, Outcome::Done);
}
