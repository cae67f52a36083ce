use std::time::Duration;

use nvme_core::nvme::{ControllerEvent, Options, QueuePair};
use nvme_platform::Time;
use nvme_session::memory::QuietBy;
use nvme_session::operation::{Operation, Outcome};
use nvme_session::queue::Ended;
use nvme_soft::faulty::{Action, Queue, Rule, When};
use nvme_soft::wire::{Status, nvm};

use crate::rig::{GUEST, Rig, config, options, pattern};

/// Sanitize In Progress, Command Interrupted, Transient Transport Error, Namespace Not Ready, Internal Path Error; and what is not
/// about the moment, and does not say "do not retry" either: Internal Error, Unrecovered Read Error.
const PASSING: [u16; 7] = [0x1d, 0x21, 0x22, 0x82, 0x300, 0x06, 0x281];
const DO_NOT_RETRY: u16 = 1 << 14;
/// CRDT1 to CRDT3 in Identify Controller.
const CRDT: usize = 128;

/// A controller that may ask for 100 ms, 700 ms or 5 s; commands have a second.
fn rig() -> Rig {
    let mut rig = Rig::raw(config(512), Options { nosgl: true, ..options() });
    rig.handle.faults().unwrap().lie_in_identify(Box::new(|cns, _, data| {
        if cns == 1 {
            data[CRDT..CRDT + 6].copy_from_slice(&[1, 0, 7, 0, 50, 0]);
        }
    }));
    assert!(matches!(rig.event(), ControllerEvent::Ready));
    rig
}

fn fail(rig: &Rig, when: When, status: u16) {
    rig.handle.faults().unwrap().inject(Rule::any(Queue::AnyIo, when, Action::Fail(Status(status))));
}

/// After the status asked for this one of the times.
fn delayed(which: u16) -> u16 {
    0x21 | which << 11
}

/// The next that ended, with time going from deadline to deadline.
fn wait(rig: &mut Rig, pair: &mut QueuePair) -> Ended {
    for _ in 0..100 {
        // What is issued again at once is executed in the next pass.
        for _ in 0..8 {
            let mut ended = rig.pass(pair);
            if let Some(one) = ended.pop() {
                assert!(ended.is_empty());
                return one;
            }
        }
        rig.now = rig.now.max(pair.next_deadline().expect("a deadline"));
    }
    panic!("it does not end")
}

fn ended(rig: &mut Rig, pair: &mut QueuePair) -> Outcome {
    let ended = wait(rig, pair);
    assert_eq!(ended.quiet.by(), QuietBy::Completed);
    rig.complete(ended)
}

type Ask = fn(&mut Rig) -> Operation;

/// Everything that is asked of a disk, but Flush.
const ALL: [(&str, Ask); 4] = [
    ("read", |rig| rig.read(8, &[(GUEST, 4096)])),
    ("write", |rig| rig.write(8, &[(GUEST, 4096)])),
    ("discard", |rig| rig.discard(8, 4096)),
    ("write-zeroes", |rig| rig.zeroes(8, 4096)),
];

#[test]
fn what_fails_for_the_moment_is_issued_again_five_times() {
    for status in PASSING {
        for (what, ask) in ALL {
            for (times, outcome) in [(1, Outcome::Done), (5, Outcome::Done), (6, Outcome::Failed)] {
                let mut rig = rig();
                let mut pair = rig.pair(16);
                fail(&rig, When::First(times), status);
                let operation = ask(&mut rig);
                rig.issue(&mut pair, operation, 3);
                let before = rig.now;
                assert_eq!(ended(&mut rig, &mut pair), outcome, "{what} {status:#x} {times} times");
                assert_eq!(rig.now, before, "at once");
                let counters = pair.counters();
                assert_eq!((counters.issued, counters.repeated), (6.min(times + 1), times.min(5)));
                assert_eq!((counters.errors, pair.in_flight()), (u64::from(outcome == Outcome::Failed), 0));
            }
        }
    }
}

#[test]
fn what_would_fail_again_is_not_issued_again() {
    for (what, ask) in ALL {
        let mut rig = rig();
        let mut pair = rig.pair(16);
        fail(&rig, When::First(1), 0x21 | DO_NOT_RETRY);
        let operation = ask(&mut rig);
        rig.issue(&mut pair, operation, 3);
        assert_eq!(ended(&mut rig, &mut pair), Outcome::Failed, "{what}");
        assert_eq!(pair.counters().issued, 1);
    }
}

/// A flush that failed, and then succeeds, would say that something is durable that is lost.
#[test]
fn a_flush_is_issued_again_only_where_it_was_not_begun() {
    for status in PASSING {
        let mut rig = rig();
        let mut pair = rig.pair(16);
        fail(&rig, When::First(1), status);
        let flush = rig.flush();
        rig.issue(&mut pair, flush, 3);
        let not_begun = [0x21, 0x82].contains(&status);
        let (outcome, issued) = if not_begun { (Outcome::Done, 2) } else { (Outcome::Failed, 1) };
        assert_eq!(ended(&mut rig, &mut pair), outcome, "{status:#x}");
        assert_eq!(pair.counters().issued, issued, "{status:#x}");
    }
}

#[test]
fn the_time_that_the_controller_asks_for_is_heeded_and_others_go_on_meanwhile() {
    for (which, ms) in [(1, 100), (2, 700)] {
        let mut rig = rig();
        let mut pair = rig.pair(16);
        fail(&rig, When::First(1), delayed(which));
        let (start, write) = (rig.now, rig.write(8, &[(GUEST, 4096)]));
        rig.issue(&mut pair, write, 1);
        assert!(rig.pass(&mut pair).is_empty());
        let at = start + Duration::from_millis(ms);
        assert_eq!(pair.next_deadline(), Some(at));
        let read = rig.read(0, &[(GUEST, 512)]);
        rig.issue(&mut pair, read, 2);
        let other = wait(&mut rig, &mut pair);
        assert_eq!(other.tag().head(), 2);
        assert_eq!(rig.complete(other), Outcome::Done);
        rig.now = Time::from_nanos(at.as_nanos() - 1);
        assert!(!pair.issue_due(rig.now) && pair.expired(rig.now).is_none());
        assert!(rig.pass(&mut pair).is_empty());
        assert_eq!((pair.counters().issued, pair.in_flight()), (2, 1));
        rig.now = at;
        assert_eq!(ended(&mut rig, &mut pair), Outcome::Done);
        assert_eq!(pair.counters().issued, 3);
    }
}

#[test]
fn no_time_that_the_controller_asks_for_makes_a_request_last_longer_than_its_deadline() {
    let mut rig = rig();
    let mut pair = rig.pair(16);
    // Five seconds of one; then 700 ms twice.
    fail(&rig, When::First(1), delayed(3));
    let (start, read) = (rig.now, rig.read(0, &[(GUEST, 512)]));
    rig.issue(&mut pair, read, 1);
    assert_eq!((ended(&mut rig, &mut pair), rig.now), (Outcome::Failed, start), "it is known at once");
    rig.handle.faults().unwrap().clear();
    fail(&rig, When::Always, delayed(2));
    let read = rig.read(0, &[(GUEST, 512)]);
    rig.issue(&mut pair, read, 2);
    assert!(rig.pass(&mut pair).is_empty());
    rig.now = start + Duration::from_millis(700);
    assert_eq!(ended(&mut rig, &mut pair), Outcome::Failed);
    assert!(rig.now < start + options().io_timeout);
    // It is late on its second try as it would have been on its first.
    rig.handle.faults().unwrap().clear();
    fail(&rig, When::First(1), delayed(1));
    rig.handle.faults().unwrap().inject(Rule::any(Queue::AnyIo, When::Always, Action::Hang));
    let (start, read) = (rig.now, rig.read(0, &[(GUEST, 512)]));
    rig.issue(&mut pair, read, 3);
    assert!(rig.pass(&mut pair).is_empty());
    rig.now = start + Duration::from_millis(100);
    assert!(rig.pass(&mut pair).is_empty());
    assert_eq!(pair.expired(rig.now), None);
    let deadline = start + options().io_timeout;
    assert_eq!(pair.next_deadline(), Some(deadline));
    let late = pair.expired(deadline).unwrap();
    assert_eq!(late.tag.head(), 3);
    // What ends after that is over, whatever else it says than that it was aborted.
    rig.now = deadline;
    assert!(rig.handle.forge(pair.id(), late.cid, Status(0x21)));
    assert_eq!(ended(&mut rig, &mut pair), Outcome::Failed);
}

/// A command whose deadline has passed, and that the controller ends so.
fn late(rig: &mut Rig, pair: &mut QueuePair, status: u16) {
    let deadline = pair.next_deadline().expect("a deadline");
    rig.now = deadline;
    let late = pair.expired(deadline).expect("it is late");
    assert!(rig.handle.forge(pair.id(), late.cid, Status(status)));
}

#[test]
fn what_was_late_and_aborted_is_issued_again_once() {
    for (what, ask) in ALL {
        for (times, outcome) in [(1, Outcome::Done), (2, Outcome::Failed)] {
            let mut rig = rig();
            let mut pair = rig.pair(16);
            rig.handle.faults().unwrap().inject(Rule::any(Queue::AnyIo, When::First(times), Action::Hang));
            let operation = ask(&mut rig);
            rig.issue(&mut pair, operation, 3);
            for _ in 0..times {
                assert!(rig.pass(&mut pair).is_empty(), "{what}");
                late(&mut rig, &mut pair, 0x07);
            }
            let start = rig.now;
            assert_eq!((ended(&mut rig, &mut pair), rig.now), (outcome, start), "{what} {times} times");
            let counters = pair.counters();
            assert_eq!((counters.issued, counters.repeated, pair.in_flight()), (2, 1, 0));
        }
    }
}

#[test]
fn what_was_late_and_ends_otherwise_or_may_not_be_done_again_has_failed() {
    let cases: [(Ask, u16); 3] = [
        (|rig| rig.write(8, &[(GUEST, 4096)]), 0x07 | DO_NOT_RETRY),
        (|rig| rig.write(8, &[(GUEST, 4096)]), 0x06),
        // Whether it was begun, this does not say.
        (|rig| rig.flush(), 0x07),
    ];
    for (ask, status) in cases {
        let mut rig = rig();
        let mut pair = rig.pair(16);
        rig.handle.faults().unwrap().inject(Rule::any(Queue::AnyIo, When::First(1), Action::Hang));
        let operation = ask(&mut rig);
        rig.issue(&mut pair, operation, 3);
        assert!(rig.pass(&mut pair).is_empty());
        late(&mut rig, &mut pair, status);
        assert_eq!(ended(&mut rig, &mut pair), Outcome::Failed, "{status:#x}");
        assert_eq!(pair.counters().issued, 1);
    }
}

#[test]
fn what_was_late_has_its_tries_and_its_data_when_it_is_issued_again() {
    let mut rig = rig();
    let mut pair = rig.pair(16);
    let faults = rig.handle.faults().unwrap();
    faults.inject(Rule::any(Queue::AnyIo, When::First(1), Action::Hang));
    faults.inject(Rule::any(Queue::AnyIo, When::First(4), Action::Fail(Status(0x21))));
    let data = pattern(9, 512);
    rig.client.write(GUEST + 1, &data);
    let write = rig.write(8, &[(GUEST + 1, 512)]);
    rig.issue(&mut pair, write, 1);
    assert!(rig.pass(&mut pair).is_empty());
    rig.client.write(GUEST + 1, &pattern(10, 512));
    late(&mut rig, &mut pair, 0x07);
    assert_eq!(ended(&mut rig, &mut pair), Outcome::Done);
    assert_eq!(pair.counters().issued, 6);
    let read = rig.read(8, &[(GUEST + 8193, 512)]);
    rig.issue(&mut pair, read, 2);
    assert_eq!(ended(&mut rig, &mut pair), Outcome::Done);
    assert!(rig.client.read(GUEST + 8193, 512) == data);
}

#[test]
fn data_that_goes_through_bounce_memory_is_right_on_every_try() {
    for which in [0, 1] {
        let mut rig = rig();
        let mut pair = rig.pair(16);
        let data = pattern(9, 512);
        rig.client.write(GUEST + 1, &data);
        fail(&rig, When::First(2), delayed(which));
        let write = rig.write(8, &[(GUEST + 1, 512)]);
        rig.issue(&mut pair, write, 1);
        assert!(rig.pass(&mut pair).is_empty());
        // The client may change it meanwhile: what was taken first is written.
        rig.client.write(GUEST + 1, &pattern(10, 512));
        assert_eq!(ended(&mut rig, &mut pair), Outcome::Done);
        rig.handle.faults().unwrap().clear();
        fail(&rig, When::First(2), delayed(which));
        let read = rig.read(8, &[(GUEST + 8193, 512)]);
        rig.issue(&mut pair, read, 2);
        assert_eq!(ended(&mut rig, &mut pair), Outcome::Done);
        assert!(rig.client.read(GUEST + 8193, 512) == data, "{which}");
        let counters = pair.counters();
        assert_eq!((counters.bounced, counters.issued, counters.repeated), (2, 6, 4));
        // Their chunks are free again, however often they were tried.
        for head in 0..options().bounce_chunks {
            let read = rig.read(8, &[(GUEST + 1, 512)]);
            rig.issue(&mut pair, read, head);
        }
        assert_eq!(rig.pass(&mut pair).len(), usize::from(options().bounce_chunks));
    }
}

#[test]
fn nothing_that_the_controller_says_ends_a_command_that_it_does_not_have() {
    let mut rig = rig();
    let mut pair = rig.pair(16);
    fail(&rig, When::First(1), delayed(1));
    rig.client.write(GUEST, &pattern(1, 4096));
    let write = rig.write(8, &[(GUEST, 4096)]);
    rig.issue(&mut pair, write, 1);
    assert!(rig.pass(&mut pair).is_empty());
    // Whatever identifier it has now, and had before.
    for cid in 0..0x400 {
        assert!(rig.handle.forge(pair.id(), cid, Status::SUCCESS));
        assert!(rig.pass(&mut pair).is_empty(), "{cid:#x}");
    }
    assert_eq!((pair.counters().strays, pair.in_flight()), (0x400, 1));
    rig.now = pair.next_deadline().unwrap();
    assert_eq!(ended(&mut rig, &mut pair), Outcome::Done);
    let read = rig.read(8, &[(GUEST + 8192, 4096)]);
    assert_eq!(rig.run(&mut pair, read), (1, Outcome::Done));
    assert!(rig.client.read(GUEST + 8192, 4096) == pattern(1, 4096));
}

#[test]
fn a_pair_that_is_full_of_what_waits_has_room_for_all_of_it() {
    let mut rig = rig();
    let mut pair = rig.pair(8);
    fail(&rig, When::First(7), delayed(1));
    for head in 0..7 {
        let read = rig.read(u64::from(head) * 8, &[(GUEST + u64::from(head) * 4096, 4096)]);
        rig.issue(&mut pair, read, head);
    }
    assert!(rig.pass(&mut pair).is_empty());
    let read = rig.read(0, &[(GUEST, 512)]);
    assert!(matches!(rig.submit(&mut pair, read, 7), nvme_core::nvme::Submit::Full(_)));
    rig.now = pair.next_deadline().unwrap();
    assert_eq!(rig.pass(&mut pair).len(), 7);
}

#[test]
fn what_nobody_wants_any_more_is_not_issued_again() {
    let mut rig = rig();
    let mut pair = rig.pair(16);
    fail(&rig, When::First(2), delayed(1));
    for head in 0..2 {
        let write = rig.write(8, &[(GUEST, 4096)]);
        rig.issue(&mut pair, write, head);
    }
    assert!(rig.pass(&mut pair).is_empty());
    pair.give_up(&rig.client);
    assert_eq!((rig.pass(&mut pair).len(), pair.in_flight()), (0, 2), "they are wanted");
    rig.client.wants = false;
    pair.give_up(&rig.client);
    let both = rig.pass(&mut pair);
    assert_eq!(both.len(), 2);
    for one in both {
        assert_eq!((one.quiet.by(), rig.complete(one)), (QuietBy::Completed, Outcome::Failed));
    }
    assert_eq!((pair.counters().issued, pair.next_deadline()), (2, None));
    // Nor what fails after that.
    fail(&rig, When::First(1), 0x82);
    let read = rig.read(8, &[(GUEST, 4096)]);
    rig.issue(&mut pair, read, 3);
    assert_eq!(ended(&mut rig, &mut pair), Outcome::Failed);
    assert_eq!(pair.counters().issued, 3);
}

#[test]
fn what_waits_when_the_controller_is_reset_is_issued_on_its_new_queues_and_once() {
    for fails in [false, true] {
        let mut rig = rig();
        let mut pair = rig.pair(16);
        fail(&rig, When::First(1), delayed(2));
        rig.client.write(GUEST, &pattern(4, 4096));
        let write = rig.write(8, &[(GUEST, 4096)]);
        rig.issue(&mut pair, write, 1);
        assert!(rig.pass(&mut pair).is_empty());
        rig.controller.reset();
        let ControllerEvent::Reset { quiet } = rig.event() else { panic!() };
        rig.controller.recreate_pair(&mut pair).unwrap();
        let ControllerEvent::PairRecreated { doorbells, .. } = rig.event() else { panic!() };
        assert!(pair.restart(quiet, doorbells, &mut |_| fails).is_ok());
        let outcome = if fails { Outcome::Failed } else { Outcome::Done };
        let one = wait(&mut rig, &mut pair);
        assert_eq!(rig.complete(one), outcome);
        rig.now = rig.now + Duration::from_secs(2);
        assert!(!pair.issue_due(rig.now) && pair.expired(rig.now).is_none());
        assert!(rig.pass(&mut pair).is_empty());
        assert_eq!(pair.counters().issued, if fails { 1 } else { 2 });
    }
}

#[test]
fn an_operation_that_is_unknown_without_saying_never_is_unsupported_in_the_end() {
    let mut rig = rig();
    let mut pair = rig.pair(16);
    rig.handle.faults().unwrap().inject(Rule::new(
        Queue::AnyIo,
        nvm::WRITE_ZEROES,
        When::Always,
        Action::Fail(Status(0x01)),
    ));
    let zeroes = rig.zeroes(0, 4096);
    rig.issue(&mut pair, zeroes, 1);
    assert_eq!(ended(&mut rig, &mut pair), Outcome::Unsupported);
    assert_eq!(pair.counters().issued, 6);
}
