use std::time::{Duration, Instant};

use nvme_core::nvme::spec::command::admin;
use nvme_core::nvme::{AbortOutcome, ControllerEvent, Options, QueuePair, Submit};
use nvme_session::memory::QuietBy;
use nvme_session::operation::Outcome;

use crate::machine::{Disk, Shape};
use crate::need::needs_qemu;
use crate::rig::{GUEST, Rig, pattern};

#[test]
fn queues_wrap_many_times_and_each_command_ends_once() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::default(), Options::default());
    // Depths that no batch divides, and the shortest that there is.
    for depth in [2, 3, 7, 64] {
        let mut pair = rig.pair(depth);
        let commands = depth - 1;
        for round in 0..24_u64 {
            for head in 0..commands {
                let at = GUEST + u64::from(head) * 4096;
                rig.client.write(at, &pattern(round * 100 + u64::from(head), 4096));
                let write = rig.write(1, u64::from(head) * 8, &[(at, 4096)], false);
                rig.issue(&mut pair, write, head);
            }
            let flush = rig.flush(1);
            assert!(matches!(rig.submit(&mut pair, flush, 99), Submit::Full(_)));
            let ended = rig.drain(&mut pair);
            assert!(ended.into_iter().eq((0..commands).map(|head| (head, Outcome::Done))));
        }
        for head in 0..u64::from(commands) {
            assert!(rig.machine.on_disk(1, head * 4096, 4096) == pattern(2300 + head, 4096));
        }
        assert_eq!(pair.counters().strays, 0);
    }
    rig.clean();
}

#[test]
fn doorbells_in_memory_lose_no_command_and_are_there_again_after_a_reset() {
    needs_qemu!();
    let mut rung = Vec::new();
    for doorbell_buffers in [false, true] {
        let mut rig = Rig::new(&Shape { doorbell_buffers, ..Shape::default() }, Options::default());
        assert_eq!(rig.watch.count(true, admin::DOORBELL_BUFFER_CONFIG), usize::from(doorbell_buffers));
        let before = rig.watch.rung();
        for depth in [2, 3, 64] {
            let mut pair = rig.pair(depth);
            for round in 0..40_u64 {
                for head in 0..depth - 1 {
                    let at = GUEST + u64::from(head) * 4096;
                    rig.client.write(at, &pattern(round * 100 + u64::from(head), 4096));
                    let write = rig.write(1, u64::from(head) * 8, &[(at, 4096)], false);
                    rig.issue(&mut pair, write, head);
                    pair.ring();
                }
                let ended = rig.drain(&mut pair);
                assert_eq!(
                    ended.iter().filter(|(_, outcome)| *outcome == Outcome::Done).count(),
                    usize::from(depth - 1)
                );
            }
            for head in 0..u64::from(depth - 1) {
                assert!(rig.machine.on_disk(1, head * 4096, 4096) == pattern(3900 + head, 4096));
            }
            // The same pair once more: by itself, and then after the controller was reset.
            for reset in [false, true] {
                let quiet = if reset {
                    rig.controller.reset();
                    let ControllerEvent::Reset { quiet } = rig.event() else { panic!() };
                    quiet
                } else {
                    rig.controller.delete_pair(pair.id()).unwrap();
                    let ControllerEvent::PairDeleted { quiet, .. } = rig.event() else { panic!() };
                    quiet
                };
                rig.controller.recreate_pair(&mut pair).unwrap();
                let ControllerEvent::PairRecreated { doorbells, .. } = rig.event() else { panic!() };
                pair.restart(quiet, doorbells, &mut |_| false).unwrap();
                for _ in 0..5 {
                    assert!(rig.bytes(&mut pair, 1, 0, 4096) == pattern(3900, 4096), "{reset}");
                }
            }
            rig.controller.delete_pair(pair.id()).unwrap();
            let ControllerEvent::PairDeleted { .. } = rig.event() else { panic!() };
            rig.controller.retire_pair(Box::new(pair)).unwrap();
        }
        rung.push(rig.watch.rung() - before);
        rig.clean();
    }
    assert!(rung[1] < rung[0], "registers were written {rung:?} times");
    println!("doorbell registers were written {rung:?} times");
}

#[test]
fn all_queue_pairs_that_were_granted_work_at_once_each_with_its_own_interrupt() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::default(), Options { bounce_chunks: 1, ..Options::default() });
    let free = rig.controller.pairs_free();
    assert_eq!(free, 63, "one of 64 is the scan's");
    let mut pairs: Vec<QueuePair> = (0..free).map(|_| rig.pair(8)).collect();
    assert_eq!(rig.controller.pairs_free(), 0);
    assert!(rig.watch.interrupted(0), "the admin queue's");
    for (pair, n) in pairs.iter_mut().zip(0_u16..) {
        let at = GUEST + u64::from(n) * 4096;
        rig.client.write(at, &pattern(n.into(), 4096));
        let write = rig.write(1, u64::from(n) * 8, &[(at, 4096)], false);
        rig.issue(pair, write, n);
        pair.ring();
    }
    for (pair, n) in pairs.iter_mut().zip(0_u16..) {
        // The interrupt alone says when to look.
        let end = Instant::now() + Duration::from_secs(20);
        while !rig.watch.interrupted(pair.vector()) {
            assert!(Instant::now() < end, "no interrupt for pair {}", pair.id());
        }
        let ended = rig.pass(pair);
        assert!(matches!(&ended[..], [done] if done.tag().head() == n && done.outcome == Outcome::Done));
        for one in ended {
            rig.complete(one);
        }
        assert_eq!(pair.vector(), pair.id());
        assert!(rig.machine.on_disk(1, u64::from(n) * 4096, 4096) == pattern(n.into(), 4096));
    }
    rig.clean();
}

#[test]
fn a_controller_with_few_queues_and_vectors_shares_them() {
    needs_qemu!();
    let shape = Shape { controllers: vec![",max_ioqpairs=4,msix_qsize=3"], ..Shape::default() };
    let mut rig = Rig::new(&shape, Options::default());
    assert_eq!((rig.controller.info().pairs, rig.controller.pairs_free()), (4, 3));
    let mut pairs: Vec<QueuePair> = (0..3).map(|_| rig.pair(16)).collect();
    assert!(pairs.iter().map(QueuePair::vector).eq([2, 1, 2]));
    for pair in &mut pairs {
        let write = rig.write(2, 0, &[(GUEST, 8192)], false);
        assert_eq!(rig.run(pair, write), (1, Outcome::Done));
    }
    rig.clean();
}

#[test]
fn a_pair_that_was_deleted_is_made_again_and_its_memory_goes_back_when_it_is_retired() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::default(), Options::default());
    let before = rig.watch.domain.reservations();
    let mut pair = rig.pair(16);
    for _ in 0..3 {
        let write = rig.write(1, 0, &[(GUEST, 4096)], false);
        assert_eq!(rig.run(&mut pair, write).1, Outcome::Done);
        rig.controller.delete_pair(pair.id()).unwrap();
        let ControllerEvent::PairDeleted { quiet, .. } = rig.event() else { panic!() };
        assert_eq!(quiet.by(), QuietBy::QueueDeleted);
        rig.controller.recreate_pair(&mut pair).unwrap();
        let ControllerEvent::PairRecreated { doorbells, .. } = rig.event() else { panic!() };
        pair.restart(quiet, doorbells, &mut |_| false).unwrap();
    }
    rig.controller.delete_pair(pair.id()).unwrap();
    let ControllerEvent::PairDeleted { quiet, .. } = rig.event() else { panic!() };
    pair.fail_all(quiet).unwrap();
    rig.controller.retire_pair(Box::new(pair)).unwrap();
    assert_eq!(rig.watch.domain.reservations(), before);
    assert_eq!((rig.watch.count(true, admin::DELETE_SQ), rig.watch.count(true, admin::DELETE_CQ)), (4, 4));
    rig.clean();
}

#[test]
fn a_queue_that_is_deleted_in_mid_io_is_made_again_and_goes_on_where_it_was() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::of(Disk { slow: true, ..Disk::new(512) }), Options::default());
    let mut pair = rig.slow_writes(6);
    assert!(pair.in_flight() == 6);
    rig.controller.delete_pair(pair.id()).unwrap();
    let ControllerEvent::PairDeleted { quiet, .. } = rig.event() else { panic!() };
    rig.machine.throttle(0);
    rig.controller.recreate_pair(&mut pair).unwrap();
    let ControllerEvent::PairRecreated { doorbells, .. } = rig.event() else { panic!() };
    pair.restart(quiet, doorbells, &mut |tag| tag.head() == 2).unwrap();
    let ended = rig.drain(&mut pair);
    let want = |head| (head, if head == 2 { Outcome::Failed } else { Outcome::Done });
    assert!(ended.into_iter().eq((0..6).map(want)));
    for head in [0, 1, 3, 4, 5] {
        assert!(rig.machine.on_disk(1, head * 4096, 4096) == pattern(head, 4096));
    }
    rig.clean();
}

#[test]
fn a_reset_in_mid_io_proves_all_quiet_and_commands_are_issued_again() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::of(Disk { slow: true, ..Disk::new(4096) }), Options::default());
    let mut idle = rig.pair(8);
    let mut pair = rig.slow_writes(8);
    rig.controller.reset();
    let ControllerEvent::Reset { quiet } = rig.event() else { panic!() };
    assert_eq!(quiet.by(), QuietBy::ResetFinished);
    rig.machine.throttle(0);
    for pair in [&mut idle, &mut pair] {
        rig.controller.recreate_pair(pair).unwrap();
        let ControllerEvent::PairRecreated { doorbells, .. } = rig.event() else { panic!() };
        pair.restart(quiet, doorbells, &mut |_| false).unwrap();
    }
    assert!(rig.drain(&mut pair).into_iter().eq((0..8).map(|head| (head, Outcome::Done))));
    for head in 0..8 {
        assert!(rig.machine.on_disk(1, head * 4096, 4096) == pattern(head, 4096));
    }
    assert!(rig.bytes(&mut idle, 1, 0, 4096) == pattern(0, 4096));
    rig.clean();
}

#[test]
fn an_abort_is_answered_and_the_command_ends_by_its_own_completion() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::of(Disk { slow: true, ..Disk::new(512) }), Options::default());
    let mut pair = rig.slow_writes(4);
    let cids: Vec<u16> = pair.commands().map(|c| c.cid).collect();
    for cid in cids {
        rig.controller.abort(pair.id(), cid);
        let ControllerEvent::Aborted { cid: said, outcome, .. } = rig.event() else { panic!() };
        assert_eq!(said, cid);
        // QEMU's model aborts nothing, and says so.
        assert_eq!(outcome, AbortOutcome::NotAborted);
    }
    rig.machine.throttle(0);
    assert!(rig.drain(&mut pair).into_iter().eq((0..4).map(|head| (head, Outcome::Done))));
    rig.clean();
}
