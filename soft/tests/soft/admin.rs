//! Admin commands that are about no queue: log pages, events, Abort, and entries that are wrong.

use nvme_platform::{DmaRights, Registers};
use nvme_soft::Config;
use nvme_soft::wire::{Status, admin, nvm, reg};

use crate::driver::*;

fn log_page(id: u8, retain: bool, len: u32, offset: u64, at: u64) -> nvme_soft::wire::Sqe {
    let dwords = len / 4 - 1;
    let ten = u32::from(id) | u32::from(retain) << 15 | (dwords & 0xffff) << 16;
    entry(admin::GET_LOG_PAGE, u32::MAX, [at, 0], &[ten, dwords >> 16, offset as u32, (offset >> 32) as u32])
}

fn event() -> nvme_soft::wire::Sqe {
    entry(admin::ASYNC_EVENT, 0, [0; 2], &[])
}

fn abort(queue: u16, cid: u16) -> nvme_soft::wire::Sqe {
    entry(admin::ABORT, 0, [0; 2], &[u32::from(cid) << 16 | u32::from(queue)])
}

#[test]
fn unknown_opcodes_fused_commands_and_sgls_are_refused() {
    let mut rig = Rig::new(config());
    let (at, _) = rig.page();
    expect(&rig.admin(entry(0x80, 1, [at, 0], &[])), Status::INVALID_OPCODE);
    expect(&rig.admin(entry(0x11, 1, [at, 0], &[])), Status::INVALID_OPCODE);
    for flags in [1, 2, 0x40, 0x80, 0xc0] {
        let mut sqe = identify(1, 0, at);
        sqe.flags = flags;
        expect(&rig.admin(sqe), Status::INVALID_FIELD);
    }
}

#[test]
fn an_admin_command_that_faults_fails_and_is_counted() {
    let mut rig = Rig::new(config());
    let (at, window) = rig.client(1, DmaRights::Read);
    expect(&rig.admin(identify(1, 0, at)), Status::DATA_TRANSFER);
    expect(&rig.admin(identify(1, 0, 0x1000)), Status::DATA_TRANSFER);
    expect(&rig.admin(identify(1, 0, at + 2)), Status::PRP_OFFSET);
    assert!(bytes(&window, 0, 4096).iter().all(|b| *b == 0));
    assert_eq!(rig.handle.statistics().dma_faults, 2);
}

#[test]
fn errors_are_in_the_error_log_the_newest_first() {
    let mut rig = Rig::new(config());
    let (at, window) = rig.page();
    rig.admin(entry(0x80, 9, [0; 2], &[]));
    let last = rig.admin(identify(0x55, 8, at)).cid.get();
    rig.done(log_page(1, false, 128, 0, at));
    let log = bytes(&window, 0, 128);
    assert_eq!((log[0], log[64]), (2, 1));
    assert_eq!(u16::from_le_bytes([log[10], log[11]]), last);
    assert_eq!(u16::from_le_bytes([log[12], log[13]]) >> 1 & 0x7ff, Status::INVALID_FIELD.code());
    assert_eq!((log[24], log[64 + 24]), (8, 9));
}

#[test]
fn health_counts_commands() {
    let mut rig = Rig::new(config());
    let mut pair = rig.pair(1, 8);
    let (at, window) = rig.page();
    (0..3).for_each(|_| pair.done(read(0, 8, [at, 0])));
    pair.done(write(0, 8, [at, 0]));
    rig.done(log_page(2, false, 512, 0, at));
    let page = bytes(&window, 0, 512);
    assert_eq!((page[0], page[3], page[64], page[80]), (0, 100, 3, 1));
    assert_eq!((page[32], page[48], page[112]), (1, 1, 1));
}

#[test]
fn power_that_goes_while_it_is_in_use_is_an_unsafe_shutdown_and_its_health_is_what_it_is_told() {
    let mut rig = Rig::new(config());
    let health = nvme_soft::Health { critical: 2, temperature: 360, spare: 9, used: 101 };
    rig.handle.set_health(health);
    let (at, window) = rig.page();
    let page = |rig: &mut Rig| {
        rig.done(log_page(2, false, 512, 0, at));
        bytes(&window, 0, 512)
    };
    let first = page(&mut rig);
    assert_eq!((first[0], first[3], first[5], first[144]), (2, 9, 101, 0));
    assert_eq!(u16::from_le_bytes([first[1], first[2]]), 360);
    rig.handle.power_cycle();
    rig.enable();
    let second = page(&mut rig);
    assert_eq!((second[112], second[144]), (2, 1));
    rig.handle.power_cycle();
    rig.handle.power_cycle();
    rig.enable();
    assert_eq!(page(&mut rig)[144], 2, "the second time it was not in use");
}

#[test]
fn log_pages_have_an_offset_and_an_end() {
    let mut rig = Rig::new(config());
    let (at, window) = rig.page();
    rig.done(log_page(3, false, 8, 8, at));
    assert_eq!(&bytes(&window, 0, 3), &env!("CARGO_PKG_VERSION").as_bytes()[..3]);
    window.fill(0, 4096, 0xee).unwrap();
    rig.done(log_page(3, false, 4096, 256, at));
    assert_eq!((bytes(&window, 255, 2)), [0, 0xee]);
    for (id, offset, status) in [
        (3, 2, Status::INVALID_FIELD),
        (3, 516, Status::INVALID_FIELD),
        (3, 1 << 40, Status::INVALID_FIELD),
        (0x7f, 0, Status::LOG_PAGE),
        (0, 0, Status::LOG_PAGE),
    ] {
        expect(&rig.admin(log_page(id, false, 64, offset, at)), status);
    }
    let mut per_namespace = log_page(2, false, 512, 0, at);
    per_namespace.nsid = 1.into();
    expect(&rig.admin(per_namespace), Status::INVALID_FIELD);
}

#[test]
fn a_changed_namespace_completes_an_event_request_once_until_its_log_page_is_read() {
    let mut rig = Rig::new(config());
    let (at, window) = rig.page();
    let first = rig.admin_submit(event());
    let second = rig.admin_submit(event());
    assert!(rig.admin_pop().is_none());
    assert!(rig.handle.resize(1, 512 * 1000));
    let cqe = rig.admin_pop().unwrap();
    assert_eq!((cqe.cid.get(), cqe.result.get()), (first, 0x04_00_02));
    rig.handle.add(9, namespace(8)).unwrap();
    assert!(rig.admin_pop().is_none());
    // Retained: still silent.
    rig.done(log_page(4, true, 4096, 0, at));
    assert_eq!(bytes(&window, 0, 12), [1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    assert!(rig.admin_pop().is_none());
    rig.done(log_page(4, false, 4096, 0, at));
    let cqe = rig.admin_pop().unwrap();
    assert_eq!((cqe.cid.get(), cqe.result.get()), (second, 0x04_00_02));
    rig.done(log_page(4, false, 4096, 0, at));
    assert_eq!(bytes(&window, 0, 4), [0; 4]);
}

#[test]
fn a_driver_that_does_not_want_namespace_notices_gets_none() {
    let mut rig = Rig::new(config());
    rig.admin_submit(event());
    rig.done(entry(admin::SET_FEATURES, 0, [0; 2], &[0x0b, 0]));
    rig.handle.resize(1, 512);
    assert!(rig.admin_pop().is_none());
}

#[test]
fn more_than_four_event_requests_are_refused() {
    let mut rig = Rig::new(config());
    for _ in 0..4 {
        rig.admin_submit(event());
    }
    assert!(rig.admin_pop().is_none());
    expect(&rig.admin(event()), Status::EVENT_LIMIT);
}

#[test]
fn an_event_request_can_be_aborted() {
    let mut rig = Rig::new(config());
    let cid = rig.admin_submit(event());
    rig.admin_submit(abort(0, cid));
    let aborted = rig.admin_pop().unwrap();
    assert_eq!(aborted.cid.get(), cid);
    expect(&aborted, Status::ABORTED);
    assert_eq!(rig.admin_pop().unwrap().result.get(), 0);
}

#[test]
fn an_abort_of_what_is_not_there_says_so() {
    let mut rig = Rig::new(config());
    rig.pair(1, 4);
    for (queue, cid) in [(0, 77), (1, 1), (2, 1), (999, 1)] {
        assert_eq!(rig.done(abort(queue, cid)), 1);
    }
}

#[test]
fn a_doorbell_value_beyond_the_queue_is_an_error_event_and_nothing_else() {
    let mut rig = Rig::new(config());
    let mut pair = rig.pair(1, 4);
    let (at, _) = rig.page();
    let cid = rig.admin_submit(event());
    pair.doorbells.submission_tail(4);
    pair.doorbells.completion_head(u16::MAX);
    let cqe = rig.admin_pop().unwrap();
    assert_eq!((cqe.cid.get(), cqe.result.get()), (cid, 0x01_01_00));
    assert_eq!((pair.run(), pair.pop()), (None, None));
    pair.done(read(0, 1, [at, 0]));
    // By the register, and on the admin queue.
    rig.done(log_page(1, false, 64, 0, at));
    rig.admin_submit(event());
    rig.device.write32(reg::DOORBELLS, ADMIN);
    assert_eq!(rig.admin_pop().unwrap().result.get(), 0x01_01_00);
}

#[test]
fn a_doorbell_of_no_queue_is_an_error_event() {
    let mut rig = Rig::new(config());
    rig.admin_submit(event());
    rig.device.write32(reg::DOORBELLS + 8 * 5, 1);
    assert_eq!(rig.admin_pop().unwrap().result.get(), 0x01_00_00);
}

#[test]
fn admin_completions_wait_for_room() {
    let mut rig = Rig::new(config());
    let (at, _) = rig.page();
    // Seven fit: one entry stays empty.
    for _ in 0..7 {
        rig.admin.push(identify(1, 0, at));
    }
    rig.device.write32(reg::DOORBELLS, rig.admin.tail);
    for _ in 0..3 {
        rig.admin.push(identify(1, 0, at));
    }
    rig.device.write32(reg::DOORBELLS, rig.admin.tail);
    let mut seen = Vec::new();
    while let Some(cqe) = rig.admin.pop() {
        seen.push(cqe.cid.get());
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
    rig.device.write32(reg::DOORBELLS + 4, rig.admin.head);
    while let Some(cqe) = rig.admin.pop() {
        seen.push(cqe.cid.get());
    }
    assert_eq!(seen, (1..=10).collect::<Vec<u16>>());
}

#[test]
fn a_removed_namespace_fails_its_commands_and_a_resized_one_ends_where_it_says() {
    let mut rig = Rig::new(Config { namespaces: vec![namespace(64), namespace(64)], ..Config::default() });
    let mut pair = rig.pair(1, 8);
    let (at, _) = rig.page();
    pair.done(read(63, 1, [at, 0]));
    assert!(rig.handle.resize(1, 32 * 512) && !rig.handle.resize(1, 65 * 512) && !rig.handle.resize(1, 0));
    pair.refused(read(63, 1, [at, 0]), Status::LBA_RANGE);
    pair.done(read(31, 1, [at, 0]));
    rig.handle.remove(1);
    pair.refused(read(0, 1, [at, 0]), Status::INVALID_NAMESPACE);
    pair.done(entry(nvm::FLUSH, u32::MAX, [0; 2], &[]));
}
