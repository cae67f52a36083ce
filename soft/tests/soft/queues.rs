//! Creating and deleting queues, and what their identifiers mean afterwards.

use nvme_platform::{Device, DmaRights, Registers, Time};
use nvme_soft::Config;
use nvme_soft::wire::{Sqe, Status, reg};

use crate::driver::*;

fn with(mut sqe: Sqe, dword: usize, value: u32) -> Sqe {
    sqe.cdw[dword - 10] = value.into();
    sqe
}

#[test]
fn a_completion_queue_is_checked_field_by_field() {
    let mut rig = Rig::new(Config { queues: 4, mqes: 15, vectors: 3, ..config() });
    let (at, _) = rig.page();
    let (read_only, _) = rig.client(1, DmaRights::Read);
    for (sqe, status) in [
        (create_cq(0, 4, at), Status::QUEUE_ID),
        (create_cq(5, 4, at), Status::QUEUE_ID),
        (create_cq(1, 1, at), Status::QUEUE_SIZE),
        (create_cq(1, 17, at), Status::QUEUE_SIZE),
        (with(create_cq(1, 4, at), 11, 2), Status::INVALID_FIELD),
        (with(create_cq(1, 4, at), 11, 3 << 16 | 3), Status::VECTOR),
        (create_cq(1, 4, at + 64), Status::PRP_OFFSET),
        (create_cq(1, 4, 0x1000), Status::DATA_TRANSFER),
        (create_cq(1, 4, read_only), Status::DATA_TRANSFER),
    ] {
        expect(&rig.admin(sqe), status);
    }
    rig.done(create_cq(1, 16, at));
    expect(&rig.admin(create_cq(1, 16, at)), Status::QUEUE_ID);
}

#[test]
fn a_submission_queue_is_checked_field_by_field() {
    let mut rig = Rig::new(Config { queues: 4, mqes: 15, ..config() });
    let (at, _) = rig.page();
    rig.done(create_cq(1, 4, at));
    for (sqe, status) in [
        (create_sq(0, 4, at, 1), Status::QUEUE_ID),
        (create_sq(5, 4, at, 1), Status::QUEUE_ID),
        (create_sq(1, 1, at, 1), Status::QUEUE_SIZE),
        (create_sq(1, 17, at, 1), Status::QUEUE_SIZE),
        (create_sq(1, 4, at, 0), Status::QUEUE_ID),
        (create_sq(1, 4, at, 5), Status::QUEUE_ID),
        (create_sq(1, 4, at, 2), Status::CQ_INVALID),
        (with(create_sq(1, 4, at, 1), 11, 1 << 16), Status::INVALID_FIELD),
        (create_sq(1, 4, at + 64, 1), Status::PRP_OFFSET),
        (create_sq(1, 4, 0x1000, 1), Status::DATA_TRANSFER),
    ] {
        expect(&rig.admin(sqe), status);
    }
    let (read_only, _) = rig.client(1, DmaRights::Read);
    rig.done(create_sq(1, 4, read_only, 1));
    expect(&rig.admin(create_sq(1, 4, at, 1)), Status::QUEUE_ID);
}

#[test]
fn queues_need_the_entry_sizes_in_cc() {
    let mut rig = Rig::off(config());
    rig.device.write32(reg::AQA, (ADMIN - 1) << 16 | (ADMIN - 1));
    rig.device.write64(reg::ASQ, rig.admin.sq.iova().0);
    rig.device.write64(reg::ACQ, rig.admin.cq.iova().0);
    rig.device.write32(reg::CC, 1);
    let (at, _) = rig.page();
    expect(&rig.admin(create_cq(1, 4, at)), Status::QUEUE_SIZE);
}

#[test]
fn a_completion_queue_in_use_is_not_deleted() {
    let mut rig = Rig::new(config());
    rig.pair(1, 4);
    expect(&rig.admin(delete_cq(1)), Status::QUEUE_DELETION);
    expect(&rig.admin(delete_cq(2)), Status::QUEUE_ID);
    expect(&rig.admin(delete_cq(0)), Status::QUEUE_ID);
    expect(&rig.admin(delete_sq(0)), Status::QUEUE_ID);
    rig.done(delete_sq(1));
    expect(&rig.admin(delete_sq(1)), Status::QUEUE_ID);
    rig.done(delete_cq(1));
    expect(&rig.admin(delete_cq(1)), Status::QUEUE_ID);
    expect(&rig.admin(delete_sq(9999)), Status::QUEUE_ID);
}

#[test]
fn doorbells_of_a_deleted_queue_do_nothing_to_its_successor() {
    let mut rig = Rig::new(config());
    let mut old = rig.pair(1, 8);
    let (at, _) = rig.page();
    old.done(read(0, 1, [at, 0]));
    rig.done(delete_sq(1));
    rig.done(delete_cq(1));
    let mut new = rig.pair(1, 8);
    old.doorbells.submission_tail(5);
    old.doorbells.completion_head(5);
    assert_eq!((old.run(), new.run(), new.pop()), (None, None, None));
    (0..20).for_each(|_| new.done(read(0, 1, [at, 0])));
    assert_eq!(rig.handle.statistics().reads, 21);
}

#[test]
fn doorbells_asked_for_early_are_those_of_the_next_queue_only() {
    let mut rig = Rig::new(config());
    let mut early = rig.device.doorbells(1, 4).unwrap();
    early.submission_tail(1);
    assert_eq!(early.run(8, Time::default()), None);
    let (at, _) = rig.page();
    let mut pair = rig.pair(1, 8);
    pair.doorbells = early;
    pair.done(read(0, 1, [at, 0]));
    rig.done(delete_sq(1));
    let sq = pair.ring.sq.iova().0;
    rig.done(create_sq(1, 8, sq, 1));
    pair.submit(read(0, 1, [at, 0]));
    assert_eq!((pair.run(), pair.pop()), (None, None));
}

#[test]
fn after_a_reset_old_doorbells_are_inert() {
    let mut rig = Rig::new(config());
    let mut pair = rig.pair(1, 8);
    let (at, _) = rig.page();
    pair.submit(read(0, 1, [at, 0]));
    rig.device.write32(reg::CC, 0);
    assert_eq!((pair.run(), pair.pop()), (None, None));
    rig.enable();
    let mut new = rig.pair(1, 8);
    pair.doorbells.submission_tail(3);
    assert_eq!((pair.run(), new.run(), new.pop()), (None, None, None));
    assert_eq!(rig.handle.statistics().reads, 0);
}

#[test]
fn a_full_completion_queue_stops_the_controller_until_there_is_room() {
    let mut rig = Rig::new(config());
    let (at, _) = rig.page();
    let ring = Ring::new(&mut rig.device, 16, 4);
    rig.done(create_cq(1, 4, ring.cq.iova().0));
    rig.done(create_sq(1, 16, ring.sq.iova().0, 1));
    let doorbells = rig.device.doorbells(1, 4).unwrap();
    let mut pair = Pair { ring, doorbells, now: Time::from_nanos(5) };
    (0..10).for_each(|_| {
        let _ = pair.submit(read(0, 1, [at, 0]));
    });
    assert_eq!(pair.run(), Some(pair.now));
    assert_eq!(rig.handle.statistics().reads, 3);
    assert_eq!(pair.run(), Some(pair.now));
    assert_eq!(rig.handle.statistics().reads, 3);
    let mut seen = Vec::new();
    for _ in 0..10 {
        seen.extend(pair.pop().map(|c| c.cid.get()));
        pair.run();
    }
    assert_eq!(seen, (1..=10).collect::<Vec<u16>>());
    assert_eq!(pair.run(), None);
}

#[test]
fn the_budget_bounds_a_batch_and_bytes_count_too() {
    let mut rig = Rig::new(config());
    let mut pair = rig.pair(1, 64);
    let (at, _) = rig.client(256, DmaRights::ReadWrite);
    (0..10).for_each(|_| {
        let _ = pair.submit(read(0, 8, [at, 0]));
    });
    assert_eq!(pair.doorbells.run(4, pair.now), Some(pair.now));
    assert_eq!(rig.handle.statistics().reads, 4);
    assert_eq!(pair.doorbells.run(6, pair.now), None);
    let list = rig.client(1, DmaRights::Read);
    (0..255u64)
        .for_each(|i| list.1.write_value(i as usize * 8, &(at + (i + 1) * 4096).to_le_bytes()).unwrap());
    (0..4).for_each(|_| {
        let _ = pair.submit(read(0, 2048, [at, list.0]));
    });
    assert_eq!(pair.doorbells.run(8, pair.now), Some(pair.now));
    assert_eq!(rig.handle.statistics().reads, 11);
}

#[test]
fn rings_wrap_around_and_the_phase_turns() {
    let mut rig = Rig::new(config());
    let mut pair = rig.pair(1, 3);
    let (at, _) = rig.page();
    (0..50).for_each(|_| pair.done(read(0, 1, [at, 0])));
    let mut pair = rig.pair(2, 1024);
    (0..3000).for_each(|_| pair.done(read(0, 1, [at, 0])));
}

#[test]
fn several_submission_queues_share_a_completion_queue() {
    let mut rig = Rig::new(config());
    let (at, _) = rig.page();
    let mut one = rig.pair(1, 8);
    let ring = Ring::new(&mut rig.device, 8, 8);
    rig.done(create_sq(2, 8, ring.sq.iova().0, 1));
    let mut two = Pair { ring, doorbells: rig.device.doorbells(2, 4).unwrap(), now: Time::default() };
    one.submit(read(0, 1, [at, 0]));
    two.submit(read(0, 1, [at, 0]));
    two.run();
    one.run();
    let ids = [one.pop().unwrap().sq_id.get(), one.pop().unwrap().sq_id.get()];
    assert_eq!(ids, [2, 1]);
    rig.done(delete_sq(1));
    expect(&rig.admin(delete_cq(1)), Status::QUEUE_DELETION);
}

#[test]
fn queue_memory_that_is_unmapped_is_fatal_when_used() {
    let mut rig = Rig::new(config());
    let (at, _) = rig.page();
    let mut pair = rig.pair(1, 4);
    pair.done(read(0, 1, [at, 0]));
    let sq = pair.ring.sq.iova().0;
    rig.unmap(sq, 1);
    pair.submit(read(0, 1, [at, 0]));
    assert_eq!((pair.run(), pair.pop()), (None, None));
    assert_eq!(rig.status() & FATAL, FATAL);
}
