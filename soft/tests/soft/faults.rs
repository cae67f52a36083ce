//! The faulty twin: each of its actions, on the admin queue and on I/O queues.

use std::time::Duration;

use nvme_platform::{Registers, Time};
use nvme_soft::faulty::{Action, Faults, Queue, Rule, When};
use nvme_soft::wire::{Status, admin, nvm, reg};
use nvme_soft::{Config, SoftHandle};

use crate::driver::*;

fn rig(rules: Vec<Rule>) -> (Rig, Pair, u64) {
    let mut rig = Rig::new(Config { faults: Some(rules), ..config() });
    let pair = rig.pair(1, 16);
    let (at, _) = rig.page();
    (rig, pair, at)
}

fn faults(handle: &SoftHandle) -> &Faults {
    handle.faults().unwrap()
}

fn reads(when: When, action: Action) -> Vec<Rule> {
    vec![Rule::new(Queue::Io(1), nvm::READ, when, action)]
}

fn abort(queue: u16, cid: u16) -> nvme_soft::wire::Sqe {
    entry(admin::ABORT, 0, [0; 2], &[u32::from(cid) << 16 | u32::from(queue)])
}

#[test]
fn an_ordinary_controller_has_no_strings() {
    assert!(Rig::new(config()).handle.faults().is_none());
}

#[test]
fn a_dropped_completion_belongs_to_a_command_that_was_executed() {
    let (rig, mut pair, at) = rig(reads(When::Nth(2), Action::Drop));
    pair.done(read(0, 1, [at, 0]));
    pair.submit(read(0, 1, [at, 0]));
    assert_eq!((pair.run(), pair.pop()), (None, None));
    assert_eq!((rig.handle.statistics().reads, faults(&rig.handle).fired()), (2, 1));
    pair.done(read(0, 1, [at, 0]));
}

#[test]
fn a_command_that_hangs_is_not_executed_and_can_be_aborted() {
    let (mut rig, mut pair, at) = rig(reads(When::First(1), Action::Hang));
    let cid = pair.submit(read(0, 1, [at, 0]));
    assert_eq!((pair.run(), pair.pop()), (None, None));
    assert_eq!(rig.handle.statistics().reads, 0);
    pair.done(write(0, 1, [at, 0]));
    assert_eq!(rig.done(abort(1, cid)), 0);
    let cqe = pair.pop().unwrap();
    assert_eq!((cqe.cid.get(), cqe.sq_id.get()), (cid, 1));
    expect(&cqe, Status::ABORTED);
    assert_eq!(rig.done(abort(1, cid)), 1);
    assert_eq!(pair.pop(), None);
}

#[test]
fn a_delayed_command_is_executed_when_its_time_has_come() {
    let (rig, mut pair, at) = rig(reads(When::First(1), Action::Delay(Duration::from_millis(5))));
    pair.now = Time::from_nanos(1000);
    let cid = pair.submit(read(0, 1, [at, 0]));
    let due = Time::from_nanos(5_001_000);
    assert_eq!((pair.run(), pair.pop()), (Some(due), None));
    pair.submit(read(0, 1, [at, 0]));
    pair.run();
    assert_ne!(pair.pop().unwrap().cid.get(), cid);
    pair.now = Time::from_nanos(5_000_999);
    assert_eq!((pair.run(), pair.pop()), (Some(due), None));
    assert_eq!(rig.handle.statistics().reads, 1);
    pair.now = due;
    assert_eq!(pair.run(), None);
    assert_eq!(pair.pop().unwrap().cid.get(), cid);
    assert_eq!(rig.handle.statistics().reads, 2);
}

#[test]
fn what_is_delayed_goes_with_its_queue() {
    let (mut rig, mut pair, at) = rig(reads(When::Always, Action::Delay(Duration::from_millis(5))));
    pair.submit(read(0, 1, [at, 0]));
    pair.run();
    rig.done(delete_sq(1));
    pair.now = Time::from_nanos(u64::MAX);
    assert_eq!((pair.run(), pair.pop()), (None, None));
    assert_eq!(rig.handle.statistics().reads, 0);
}

#[test]
fn a_failed_command_is_not_executed_and_a_lie_about_the_status_is() {
    let (rig, mut pair, at) = rig(vec![
        Rule::new(Queue::AnyIo, nvm::READ, When::First(1), Action::Fail(Status::INTERNAL)),
        Rule::new(Queue::AnyIo, nvm::READ, When::First(1), Action::Status(Status::READ_ERROR)),
    ]);
    pair.refused(read(0, 1, [at, 0]), Status::INTERNAL);
    assert_eq!(rig.handle.statistics().reads, 0);
    pair.refused(read(0, 1, [at, 0]), Status::READ_ERROR);
    assert_eq!(rig.handle.statistics().reads, 1);
    pair.done(read(0, 1, [at, 0]));
}

#[test]
fn completions_are_spoiled_field_by_field() {
    let (rig, mut pair, at) = rig(Vec::new());
    let mut spoiled = |action| {
        faults(&rig.handle).clear();
        faults(&rig.handle).inject(Rule::any(Queue::Any, When::Always, action));
        pair.submit(read(0, 1, [at, 0]));
        pair.run();
        pair.pop()
    };
    assert_eq!(spoiled(Action::CommandId(0xbeef)).unwrap().cid.get(), 0xbeef);
    assert_eq!(spoiled(Action::QueueId(9)).unwrap().sq_id.get(), 9);
    assert_eq!(spoiled(Action::Head(99)).unwrap().sq_head.get(), 99);
    assert_eq!(spoiled(Action::Phase), None);
}

#[test]
fn completions_are_doubled_and_forged() {
    let (rig, mut pair, at) = rig(vec![
        Rule::new(Queue::Io(1), nvm::READ, When::Always, Action::Duplicate),
        Rule::new(Queue::Io(1), nvm::WRITE, When::Always, Action::Forge(vec![7000, 7001])),
    ]);
    let cids = |pair: &mut Pair| {
        pair.run();
        std::iter::from_fn(|| pair.pop()).map(|c| c.cid.get()).collect::<Vec<_>>()
    };
    let cid = pair.submit(read(0, 1, [at, 0]));
    assert_eq!(cids(&mut pair), [cid, cid]);
    let cid = pair.submit(write(0, 1, [at, 0]));
    assert_eq!(cids(&mut pair), [7000, 7001, cid]);
    assert!(rig.handle.forge(1, 4242, Status::SUCCESS) && !rig.handle.forge(2, 1, Status::SUCCESS));
    assert_eq!(pair.pop().unwrap().cid.get(), 4242);
    // Never more than fit.
    (0..15).for_each(|_| {
        let _ = pair.submit(read(0, 1, [at, 0]));
    });
    assert_eq!(cids(&mut pair).len(), 15);
    while rig.handle.forge(1, 1, Status::SUCCESS) {}
    assert_eq!(std::iter::from_fn(|| pair.ring.pop()).count(), 15);
}

#[test]
fn the_admin_queue_misbehaves_likewise() {
    let (mut rig, _pair, at) = rig(vec![
        Rule::new(Queue::Admin, admin::ABORT, When::Always, Action::Hang),
        Rule::new(Queue::Admin, admin::DELETE_SQ, When::First(1), Action::Hang),
        Rule::new(Queue::Admin, admin::DELETE_SQ, When::First(1), Action::Drop),
        Rule::new(Queue::Admin, admin::IDENTIFY, When::Nth(1), Action::Fail(Status::INTERNAL)),
        Rule::new(Queue::Admin, admin::IDENTIFY, When::Nth(1), Action::Duplicate),
        Rule::new(Queue::Admin, admin::IDENTIFY, When::Nth(1), Action::Forge(vec![5])),
    ]);
    rig.admin_submit(abort(1, 1));
    rig.admin_submit(delete_sq(1));
    assert_eq!(rig.admin_pop(), None);
    // Hung: still there. Dropped: gone.
    rig.admin_submit(delete_sq(1));
    assert_eq!(rig.admin_pop(), None);
    expect(&rig.admin(delete_sq(1)), Status::QUEUE_ID);
    expect(&rig.admin(identify(1, 0, at)), Status::INTERNAL);
    let cid = rig.admin_submit(identify(1, 0, at));
    assert_eq!([rig.admin_pop().unwrap().cid.get(), rig.admin_pop().unwrap().cid.get()], [cid; 2]);
    rig.admin_submit(identify(1, 0, at));
    assert_eq!(rig.admin_pop().unwrap().cid.get(), 5);
    assert!(rig.handle.forge(0, 999, Status::SUCCESS));
}

#[test]
fn a_delayed_admin_command_completes_when_the_handle_or_an_engine_tells_the_time() {
    let delay = Action::Delay(Duration::from_nanos(100));
    let (mut rig, mut pair, at) = rig(vec![Rule::new(Queue::Admin, admin::IDENTIFY, When::Always, delay)]);
    rig.admin_submit(identify(1, 0, at));
    rig.handle.advance(Time::from_nanos(99));
    assert_eq!(rig.admin_pop(), None);
    rig.handle.advance(Time::from_nanos(100));
    expect(&rig.admin_pop().unwrap(), Status::SUCCESS);
    rig.admin_submit(identify(1, 0, at));
    assert_eq!(rig.admin_pop(), None);
    pair.now = Time::from_nanos(200);
    pair.run();
    expect(&rig.admin_pop().unwrap(), Status::SUCCESS);
}

#[test]
fn ready_sticks_either_way() {
    let (mut rig, ..) = rig(Vec::new());
    faults(&rig.handle).stick_ready(Some(true));
    rig.device.write32(reg::CC, 0);
    assert_eq!(rig.status(), READY);
    faults(&rig.handle).stick_ready(Some(false));
    rig.device.write32(reg::CC, ENABLE);
    assert_eq!(rig.status(), 0);
    faults(&rig.handle).stick_ready(None);
    assert_eq!(rig.status(), READY);
}

#[test]
fn identify_and_the_number_of_queues_lie() {
    let (mut rig, _pair, _) = rig(Vec::new());
    let (at, window) = rig.page();
    let lie = |cns: u8, nsid: u32, data: &mut [u8; 4096]| {
        if (cns, nsid) == (0, 1) {
            data[130] = 99;
        }
    };
    faults(&rig.handle).lie_in_identify(Box::new(lie));
    rig.done(identify(0, 1, at));
    assert_eq!(bytes(&window, 130, 1), [99]);
    rig.handle.power_cycle();
    rig.enable();
    faults(&rig.handle).grant_queues(Some((0xfff0, 3)));
    let set = entry(admin::SET_FEATURES, 0, [0; 2], &[7, 0x0001_0001]);
    assert_eq!(rig.done(set), 3 << 16 | 0xfff0);
}

#[test]
fn chance_is_the_same_each_time_and_about_what_it_says() {
    let run = || {
        let chance = When::Chance { per_mille: 250, seed: 42 };
        let (_rig, mut pair, at) = rig(reads(chance, Action::Fail(Status::INTERNAL)));
        (0..400).map(|_| pair.command(read(0, 1, [at, 0])).status.get() >> 1 != 0).collect::<Vec<_>>()
    };
    let (one, two) = (run(), run());
    assert_eq!(one, two);
    assert!((60..140).contains(&one.iter().filter(|f| **f).count()));
}
