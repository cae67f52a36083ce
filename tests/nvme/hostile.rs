use nvme_core::nvme::Submit;
use nvme_session::memory::QuietBy;
use nvme_session::operation::Outcome;
use nvme_soft::faulty::{Action, Queue, Rule, When};
use nvme_soft::wire::Status;

use crate::rig::{GUEST, Rig, config, options, pattern};

fn with(rule: Rule) -> Rig {
    let rig = Rig::new(config(512), options());
    rig.handle.faults().unwrap().inject(rule);
    rig
}

#[test]
fn a_full_pair_hands_the_operation_back() {
    let mut rig = Rig::new(config(512), options());
    let mut pair = rig.pair(4);
    for head in 0..3 {
        let read = rig.read(0, &[(GUEST, 512)]);
        rig.issue(&mut pair, read, head);
    }
    let read = rig.read(0, &[(GUEST, 512)]);
    let Submit::Full(read) = rig.submit(&mut pair, read, 3) else { panic!() };
    assert_eq!(rig.pass(&mut pair).len(), 3);
    assert!(matches!(rig.submit_again(&mut pair, read), Submit::Issued));
    assert_eq!(rig.pass(&mut pair).len(), 1);
}

#[test]
fn bounce_memory_that_is_used_up_hands_the_operation_back() {
    let mut rig = Rig::new(config(512), nvme_core::nvme::Options { nosgl: true, ..options() });
    let mut pair = rig.pair(32);
    let mut issued = 0;
    loop {
        let read = rig.read(0, &[(GUEST + 1, 512)]);
        match rig.submit(&mut pair, read, issued) {
            Submit::Issued => issued += 1,
            Submit::Full(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(u32::from(issued), u32::from(options().bounce_chunks));
    assert_eq!(rig.pass(&mut pair).len(), usize::from(issued));
    let read = rig.read(0, &[(GUEST + 1, 512)]);
    rig.issue(&mut pair, read, 0);
}

#[test]
fn a_completion_that_is_posted_twice_ends_one_command_once() {
    let mut rig = with(Rule::any(Queue::AnyIo, When::Always, Action::Duplicate));
    let mut pair = rig.pair(16);
    let mut ended = 0;
    for round in 0..50_u64 {
        let at = GUEST + round * 4096;
        rig.client.write(at, &pattern(round, 4096));
        let write = rig.write(round * 8, &[(at, 4096)]);
        rig.issue(&mut pair, write, round as u16);
        for done in rig.pass(&mut pair) {
            assert_eq!((done.tag().head(), done.outcome), (round as u16, Outcome::Done));
            ended += 1;
        }
    }
    assert_eq!((ended, pair.in_flight()), (50, 0));
    assert!(pair.counters().strays >= 40, "{:?}", pair.counters());
}

#[test]
fn forged_completions_are_dropped_and_counted() {
    let mut rig = Rig::new(config(512), options());
    let mut pair = rig.pair(16);
    for cid in [0, 1, 15, 16, 0x7fff, 0xffff] {
        assert!(rig.handle.forge(pair.id(), cid, Status::SUCCESS));
    }
    assert!(rig.pass(&mut pair).is_empty(), "nothing is in flight");
    assert_eq!(pair.counters().strays, 6);
    rig.handle.faults().unwrap().inject(Rule::any(
        Queue::AnyIo,
        When::Always,
        Action::Forge(vec![0xffff, 0x8000, 0x4000, 0xfff0]),
    ));
    let read = rig.read(0, &[(GUEST, 4096)]);
    rig.issue(&mut pair, read, 1);
    let ended = rig.pass(&mut pair);
    assert_eq!((ended.len(), ended[0].quiet.by()), (1, QuietBy::Completed));
}

#[test]
fn a_completion_of_another_queue_or_with_an_impossible_head_ends_nothing() {
    for action in
        [Action::QueueId(9), Action::QueueId(0), Action::Head(16), Action::Head(0xffff), Action::Phase]
    {
        let mut rig = with(Rule::any(Queue::AnyIo, When::Always, action.clone()));
        let mut pair = rig.pair(16);
        let read = rig.read(0, &[(GUEST, 4096)]);
        rig.issue(&mut pair, read, 1);
        assert!(rig.pass(&mut pair).is_empty(), "{action:?}");
        assert_eq!(pair.in_flight(), 1, "its deadline will find it");
    }
}

#[test]
fn a_controller_that_stops_in_the_middle_of_a_lap_is_not_waited_for() {
    let mut rig = with(Rule::any(Queue::AnyIo, When::Always, Action::Hang));
    let mut pair = rig.pair(4);
    for head in 0..3 {
        let read = rig.read(0, &[(GUEST, 512)]);
        rig.issue(&mut pair, read, head);
    }
    for _ in 0..10 {
        assert!(rig.pass(&mut pair).is_empty());
    }
    assert_eq!(pair.in_flight(), 3);
}

#[test]
fn errors_of_the_controller_become_outcomes() {
    let cases = [
        (Action::Fail(Status::INVALID_FIELD), Outcome::Failed),
        (Action::Fail(Status::INVALID_OPCODE), Outcome::Unsupported),
        (Action::Status(Status::INVALID_FIELD), Outcome::Failed),
    ];
    for (action, want) in cases {
        let mut rig = with(Rule::any(Queue::AnyIo, When::Always, action));
        let mut pair = rig.pair(4);
        let write = rig.write(0, &[(GUEST, 4096)]);
        assert_eq!(rig.run(&mut pair, write).1, want);
        assert_eq!(pair.counters().errors, 1);
    }
}

#[test]
fn a_read_that_failed_shows_nothing_through_bounce_memory() {
    let mut rig =
        Rig::new(config(512), nvme_core::nvme::Options { nosgl: true, bounce_chunks: 1, ..options() });
    let mut pair = rig.pair(4);
    // Somebody's data goes through the only chunk.
    rig.client.write(GUEST + 1, &pattern(3, 4096));
    let write = rig.write(0, &[(GUEST + 1, 4096)]);
    assert_eq!(rig.run(&mut pair, write).1, Outcome::Done);
    // Then a read that the controller says it did, and did not.
    let rule = Rule::new(Queue::AnyIo, 0x02, When::First(1), Action::Fail(Status::SUCCESS));
    rig.handle.faults().unwrap().inject(rule);
    rig.client.write(GUEST + 9001, &[0x77; 4096]);
    let read = rig.read(0, &[(GUEST + 9001, 4096)]);
    assert_eq!(rig.run(&mut pair, read).1, Outcome::Done);
    assert!(rig.client.read(GUEST + 9001, 4096).iter().all(|b| *b == 0), "not what went through before");
    // And one that failed.
    rig.handle.faults().unwrap().inject(Rule::new(
        Queue::AnyIo,
        0x02,
        When::Always,
        Action::Status(Status::INVALID_FIELD),
    ));
    rig.client.write(GUEST + 9001, &[0x77; 4096]);
    let read = rig.read(0, &[(GUEST + 9001, 4096)]);
    assert_eq!(rig.run(&mut pair, read).1, Outcome::Failed);
    assert_eq!(rig.client.read(GUEST + 9001, 4096), [0x77; 4096]);
}
