use std::time::Duration;

use nvme_core::nvme::{
    AbortOutcome, ControllerEvent, Options, PairError, PciId, QueuePair, ResetReason, Submit,
};
use nvme_platform::Time;
use nvme_session::memory::QuietBy;
use nvme_session::operation::Outcome;
use nvme_soft::faulty::{Action, Queue, Rule, When};

use crate::rig::{GUEST, Rig, config, options, pattern};

/// A pair with writes in flight that hang.
fn hanging(rig: &mut Rig, commands: u16) -> QueuePair {
    let mut pair = rig.pair(16);
    rig.handle.faults().unwrap().inject(Rule::new(Queue::AnyIo, 0x01, When::Always, Action::Hang));
    for head in 0..commands {
        let at = GUEST + u64::from(head) * 4096;
        rig.client.write(at, &pattern(u64::from(head), 4096));
        let write = rig.write(u64::from(head) * 8, &[(at, 4096)]);
        rig.issue(&mut pair, write, head);
    }
    assert!(rig.pass(&mut pair).is_empty());
    pair
}

fn check_written(rig: &mut Rig, pair: &mut QueuePair, heads: impl Iterator<Item = u64>, written: bool) {
    for head in heads {
        let read = rig.read(head * 8, &[(GUEST + (2 << 20), 4096)]);
        assert_eq!(rig.run(pair, read).1, Outcome::Done);
        let is = rig.client.read(GUEST + (2 << 20), 4096) == pattern(head, 4096);
        assert_eq!(is, written, "write {head}");
    }
}

#[test]
fn each_late_command_is_named_and_named_again_when_nothing_came_of_it() {
    let mut rig = Rig::new(config(512), options());
    let mut pair = hanging(&mut rig, 3);
    assert_eq!(pair.expired(rig.now), None);
    let deadline = pair.next_deadline().unwrap();
    assert_eq!(deadline, rig.now + Duration::from_secs(1));
    let mut heads: Vec<u16> = core::iter::from_fn(|| pair.expired(deadline)).map(|e| e.tag.head()).collect();
    heads.sort_unstable();
    assert_eq!(heads, [0, 1, 2]);
    let again = deadline + Duration::from_secs(1);
    assert_eq!(
        (pair.expired(Time::from_nanos(again.as_nanos() - 1)), pair.next_deadline()),
        (None, Some(again))
    );
    assert_eq!(core::iter::from_fn(|| pair.expired(again)).count(), 3);
    assert_eq!(pair.in_flight(), 3, "a deadline proves nothing");
}

#[test]
fn an_abort_ends_in_the_commands_own_completion() {
    let mut rig = Rig::new(config(512), options());
    let mut pair = hanging(&mut rig, 1);
    let late = pair.expired(rig.now + Duration::from_secs(1)).unwrap();
    rig.controller.abort(pair.id(), late.cid);
    let ControllerEvent::Aborted { pair: id, cid, outcome: AbortOutcome::Aborted } = rig.event() else {
        panic!()
    };
    assert_eq!((id, cid), (pair.id(), late.cid));
    // It is issued again, once.
    assert!(rig.pass(&mut pair).is_empty() && rig.pass(&mut pair).is_empty());
    assert_eq!((pair.holds(late.cid), pair.in_flight()), (false, 1));
    let late = pair.expired(pair.next_deadline().unwrap()).unwrap();
    rig.controller.abort(pair.id(), late.cid);
    assert!(matches!(rig.event(), ControllerEvent::Aborted { outcome: AbortOutcome::Aborted, .. }));
    let ended = rig.pass(&mut pair);
    assert_eq!(
        (ended.len(), ended[0].outcome, ended[0].quiet.by()),
        (1, Outcome::Failed, QuietBy::Completed)
    );
    assert!(!pair.holds(late.cid));
}

/// A controller that answers no abort at all: each is told to be late, and when nothing can be asked any more, so is that.
#[test]
fn aborts_that_are_never_answered_do_not_keep_anything_from_its_end() {
    let mut rig = Rig::new(config(512), options());
    let pair = hanging(&mut rig, 1);
    rig.handle.faults().unwrap().inject(Rule::new(Queue::Admin, 0x08, When::Always, Action::Hang));
    for cid in 0..40 {
        let start = rig.now;
        rig.controller.abort(pair.id(), cid);
        let event = rig.event();
        assert!(
            matches!(event, ControllerEvent::Aborted { cid: c, outcome: AbortOutcome::Unanswered, .. } if c == cid)
        );
        assert!(rig.now - start <= Duration::from_secs(3), "{cid}");
    }
    assert!(rig.controller.create_pair(8, 1).is_ok());
    let event = rig.event();
    assert!(matches!(event, ControllerEvent::ResetNeeded(ResetReason::AdminTimeout { .. })), "{event:?}");
    rig.controller.reset();
    assert!(matches!(rig.event(), ControllerEvent::PairFailed { token: 1, why: PairError::Reset }));
    assert!(matches!(rig.event(), ControllerEvent::Reset { .. }));
}

#[test]
fn an_abort_without_an_answer_ends_in_time_and_needs_no_reset() {
    let mut rig = Rig::new(config(512), options());
    let pair = hanging(&mut rig, 1);
    rig.handle.faults().unwrap().inject(Rule::new(Queue::Admin, 0x08, When::Always, Action::Hang));
    let start = rig.now;
    rig.controller.abort(pair.id(), 0);
    assert!(matches!(rig.event(), ControllerEvent::Aborted { outcome: AbortOutcome::Unanswered, .. }));
    assert!(rig.now - start <= Duration::from_secs(3));
    assert!(rig.event_within(Duration::from_secs(60)).is_none());
    assert!(rig.controller.is_ready());
}

#[test]
fn many_aborts_are_answered_each_once() {
    let mut rig = Rig::new(config(512), options());
    let pair = hanging(&mut rig, 10);
    let cids: Vec<u16> = pair.commands().map(|c| c.cid).collect();
    cids.iter().for_each(|cid| rig.controller.abort(pair.id(), *cid));
    let mut said: Vec<u16> = (0..10)
        .map(|_| match rig.event() {
            ControllerEvent::Aborted { cid, .. } => cid,
            other => panic!("{other:?}"),
        })
        .collect();
    said.sort_unstable();
    let mut cids = cids;
    cids.sort_unstable();
    assert_eq!(said, cids);
}

#[test]
fn deleting_the_queue_proves_it_quiet_and_the_others_are_issued_again() {
    let mut rig = Rig::new(config(512), options());
    let mut pair = hanging(&mut rig, 6);
    rig.controller.delete_pair(pair.id()).unwrap();
    let ControllerEvent::PairDeleted { id, quiet } = rig.event() else { panic!() };
    assert_eq!((id, quiet.by(), pair.is_covered(&quiet)), (pair.id(), QuietBy::QueueDeleted, true));
    assert!(
        rig.pass(&mut pair).is_empty(),
        "commands that were aborted by the deletion are kept for the restart"
    );
    rig.handle.faults().unwrap().clear();
    rig.controller.recreate_pair(&mut pair).unwrap();
    let ControllerEvent::PairRecreated { doorbells, .. } = rig.event() else { panic!() };
    // Not before the doorbells are there.
    let read = rig.read(0, &[(GUEST, 512)]);
    assert!(matches!(rig.submit(&mut pair, read, 99), Submit::Full(_)));
    pair.restart(quiet, doorbells, &mut |tag| tag.head() == 2).unwrap();
    let mut ended = rig.pass(&mut pair);
    ended.extend(rig.pass(&mut pair));
    ended.sort_by_key(|done| done.tag().head());
    let got: Vec<_> = ended.iter().map(|done| (done.tag().head(), done.outcome, done.quiet.by())).collect();
    let done = |head| (head, Outcome::Done, QuietBy::Completed);
    assert_eq!(
        got,
        [done(0), done(1), (2, Outcome::Failed, QuietBy::QueueDeleted), done(3), done(4), done(5)]
    );
    check_written(&mut rig, &mut pair, [0, 1, 3, 4, 5].into_iter(), true);
    check_written(&mut rig, &mut pair, [2].into_iter(), false);
}

#[test]
fn a_proof_covers_no_later_queue() {
    let mut rig = Rig::new(config(512), options());
    let mut pair = hanging(&mut rig, 1);
    let mut other = rig.pair(4);
    rig.controller.delete_pair(pair.id()).unwrap();
    let ControllerEvent::PairDeleted { quiet, .. } = rig.event() else { panic!() };
    assert!(other.fail_all(quiet).is_err(), "another pair");
    rig.controller.recreate_pair(&mut pair).unwrap();
    let ControllerEvent::PairRecreated { doorbells, .. } = rig.event() else { panic!() };
    let Err(doorbells) = other.restart(quiet, doorbells, &mut |_| false) else { panic!("another pair") };
    pair.restart(quiet, doorbells, &mut |_| false).unwrap();
    assert!(pair.fail_all(quiet).is_err(), "the queues are newer than the proof");
    assert_eq!(pair.in_flight(), 1);
}

#[test]
fn a_deletion_that_fails_or_hangs_needs_a_reset_which_proves_all_quiet() {
    let status = nvme_soft::wire::Status::INVALID_FIELD;
    for action in [Action::Hang, Action::Fail(status)] {
        let mut rig = Rig::new(config(512), options());
        let mut pair = hanging(&mut rig, 4);
        let mut idle = rig.pair(8);
        rig.handle.faults().unwrap().inject(Rule::new(Queue::Admin, 0x00, When::Always, action));
        rig.controller.delete_pair(pair.id()).unwrap();
        let ControllerEvent::ResetNeeded(ResetReason::DeleteFailed { id }) = rig.event() else { panic!() };
        assert_eq!(id, pair.id());
        assert!(rig.event_within(Duration::from_secs(60)).is_none(), "said once");
        rig.handle.faults().unwrap().clear();
        rig.controller.reset();
        let (mut reset, mut deleted) = (None, None);
        for _ in 0..2 {
            match rig.event() {
                ControllerEvent::Reset { quiet } => reset = Some(quiet),
                ControllerEvent::PairDeleted { id, quiet } => deleted = Some((id, quiet)),
                other => panic!("{other:?}"),
            }
        }
        let quiet = reset.unwrap();
        assert_eq!(deleted.unwrap().0, pair.id());
        assert!(pair.is_covered(&quiet) && idle.is_covered(&quiet));
        for pair in [&mut pair, &mut idle] {
            rig.controller.recreate_pair(pair).unwrap();
            let ControllerEvent::PairRecreated { doorbells, .. } = rig.event() else { panic!() };
            pair.restart(quiet, doorbells, &mut |_| false).unwrap();
        }
        assert_eq!(rig.pass(&mut pair).len(), 4);
        check_written(&mut rig, &mut idle, 0..4, true);
    }
}

#[test]
fn a_bounced_write_is_issued_again_with_its_data() {
    let mut rig = Rig::new(config(512), nvme_core::nvme::Options { nosgl: true, ..options() });
    let mut pair = rig.pair(8);
    rig.handle.faults().unwrap().inject(Rule::new(Queue::AnyIo, 0x01, When::Always, Action::Hang));
    rig.client.write(GUEST + 1, &pattern(9, 8192));
    let write = rig.write(0, &[(GUEST + 1, 8192)]);
    rig.issue(&mut pair, write, 0);
    assert!(rig.pass(&mut pair).is_empty());
    rig.handle.faults().unwrap().clear();
    rig.controller.reset();
    let ControllerEvent::Reset { quiet } = rig.event() else { panic!() };
    rig.controller.recreate_pair(&mut pair).unwrap();
    let ControllerEvent::PairRecreated { doorbells, .. } = rig.event() else { panic!() };
    pair.restart(quiet, doorbells, &mut |_| false).unwrap();
    assert_eq!(rig.pass(&mut pair).len(), 1);
    let read = rig.read(0, &[(GUEST + (1 << 20), 8192)]);
    rig.run(&mut pair, read);
    assert!(rig.client.read(GUEST + (1 << 20), 8192) == pattern(9, 8192));
}

#[test]
fn a_reset_ends_what_was_asked_for_each_once() {
    let mut rig = Rig::new(config(512), options());
    let faults = rig.handle.faults().unwrap();
    for opcode in [0x05, 0x08] {
        faults.inject(Rule::new(Queue::Admin, opcode, When::Always, Action::Hang));
    }
    rig.controller.create_pair(8, 3).unwrap();
    rig.controller.abort(9, 9);
    assert!(rig.controller.poll(rig.now).is_none());
    rig.handle.faults().unwrap().clear();
    rig.controller.reset();
    let (mut failed, mut aborted, mut reset) = (0, 0, 0);
    while let Some(event) = rig.event_within(Duration::from_secs(60)) {
        match event {
            ControllerEvent::PairFailed { token: 3, why: PairError::Reset } => failed += 1,
            ControllerEvent::Aborted { pair: 9, cid: 9, outcome: AbortOutcome::Unanswered } => aborted += 1,
            ControllerEvent::Reset { .. } => reset += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((failed, aborted, reset), (1, 1, 1));
    assert_eq!(rig.controller.pairs_free(), 63, "and its identifier is free");
}

#[test]
fn a_device_that_does_not_stop_is_cut_off_and_that_is_the_proof() {
    let mut rig = Rig::new(config(512), options());
    let mut pair = hanging(&mut rig, 2);
    rig.handle.faults().unwrap().stick_ready(Some(true));
    rig.controller.reset();
    let ControllerEvent::Failed { quiet: None, .. } = rig.event() else { panic!() };
    let quiet = rig.controller.cut_off().unwrap();
    pair.fail_all(quiet).unwrap();
    let ended = rig.pass(&mut pair);
    assert_eq!(ended.len(), 2);
    assert!(ended.iter().all(|d| d.outcome == Outcome::Failed && d.quiet.by() == QuietBy::CutOff));
    for one in ended {
        rig.complete(one);
    }
    assert_eq!(rig.client.desk.bytes_held(), 0);
    rig.controller.retire_pair(Box::new(pair)).unwrap();
}

#[test]
fn a_pair_is_retired_only_when_it_is_quiet_and_empty() {
    let mut rig = Rig::new(config(512), options());
    let pair = hanging(&mut rig, 1);
    let Err(mut pair) = rig.controller.retire_pair(Box::new(pair)) else { panic!("it is live") };
    rig.controller.delete_pair(pair.id()).unwrap();
    let ControllerEvent::PairDeleted { quiet, .. } = rig.event() else { panic!() };
    pair = rig.controller.retire_pair(pair).unwrap_err();
    pair.fail_all(quiet).unwrap();
    pair = rig.controller.retire_pair(pair).unwrap_err();
    assert_eq!(rig.pass(&mut pair).len(), 1);
    let free = rig.controller.pairs_free();
    rig.controller.retire_pair(pair).unwrap();
    assert_eq!(rig.controller.pairs_free(), free + 1);
}

#[test]
fn a_queue_that_is_refused_costs_nothing() {
    let status = nvme_soft::wire::Status::INVALID_FIELD;
    for opcode in [0x05, 0x01] {
        let mut rig = Rig::new(config(512), options());
        let rule = Rule::new(Queue::Admin, opcode, When::First(1), Action::Fail(status));
        rig.handle.faults().unwrap().inject(rule);
        rig.controller.create_pair(8, 4).unwrap();
        assert!(matches!(rig.event(), ControllerEvent::PairFailed { token: 4, why: PairError::Refused(_) }));
        assert_eq!(rig.controller.pairs_free(), 63);
        rig.pair(8);
    }
}

#[test]
fn a_controller_on_a_bus_is_looked_at_though_nothing_happens_and_software_is_not() {
    let mut rig = Rig::new(config(512), options());
    rig.controller.poll(rig.now);
    assert_eq!(rig.controller.next_deadline(), None);
    let pci = Some(PciId { vendor: 0x1b36, device: 0x10 });
    for fatal in [false, true] {
        let mut rig = Rig::new(config(512), Options { pci, ..options() });
        assert!(rig.controller.poll(rig.now).is_none());
        let look = rig.controller.next_deadline().unwrap();
        assert_eq!(look, rig.now + Duration::from_secs(1));
        match fatal {
            true => rig.handle.raise_fatal(),
            false => rig.handle.vanish(),
        }
        match rig.controller.poll(look) {
            Some(ControllerEvent::ResetNeeded(ResetReason::Fatal)) if fatal => {}
            Some(ControllerEvent::Gone) if !fatal => {}
            other => panic!("{other:?}"),
        }
    }
}
