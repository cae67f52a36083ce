//! Parts of blocks of 4096 bytes: read and written without any harm to the rest of them.

use std::sync::Arc;

use nvme_core::nvme::{ControllerEvent, QueuePair, Submit};
use nvme_session::memory::{Quiet, QuietBy};
use nvme_session::operation::{Operation, Outcome};
use nvme_session::queue::Request;
use nvme_soft::faulty::{Action, Queue, Rule, When};
use nvme_soft::wire::{Status, nvm};
use nvme_soft::{Config, MemoryMedium, NamespaceConfig, WriteCache};

use crate::rig::{GUEST, REGION, Rig, config, options, pattern};

const BLOCK: usize = 4096;
/// Where a test looks at a block.
const LOOK: u64 = GUEST + (3 << 20);

/// A disk whose first eight blocks are of some pattern.
fn rig() -> (Rig, QueuePair) {
    let mut rig = Rig::new(config(4096), options());
    let mut pair = rig.pair(16);
    for block in 0..8 {
        rig.client.write(LOOK, &pattern(100 + block, BLOCK));
        let write = rig.write(block * 8, &[(LOOK, BLOCK as u32)]);
        assert_eq!(rig.run(&mut pair, write), (1, Outcome::Done));
    }
    (rig, pair)
}

fn block(rig: &mut Rig, pair: &mut QueuePair, block: u64) -> Vec<u8> {
    rig.client.write(LOOK, &[0x55; BLOCK]);
    let read = rig.read(block * 8, &[(LOOK, BLOCK as u32)]);
    assert_eq!(rig.run(pair, read).1, Outcome::Done);
    rig.client.read(LOOK, BLOCK)
}

/// A block as it was, with this at some place.
fn with(block: u64, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut all = pattern(100 + block, BLOCK);
    all[at..at + bytes.len()].copy_from_slice(bytes);
    all
}

fn inject(rig: &Rig, opcode: u8, when: When, action: Action) {
    rig.handle.faults().unwrap().inject(Rule::new(Queue::AnyIo, opcode, when, action));
}

/// Passes until nothing is in flight: how each ended, by head.
fn settle(rig: &mut Rig, pair: &mut QueuePair) -> Vec<(u16, Outcome)> {
    let mut all = vec![];
    for _ in 0..100 {
        for ended in rig.pass(pair) {
            let head = ended.tag().head();
            all.push((head, rig.complete(ended)));
        }
        if pair.in_flight() == 0 {
            return all;
        }
    }
    panic!("it does not end; {all:?}")
}

/// It cannot be submitted now.
fn waits(rig: &mut Rig, pair: &mut QueuePair, operation: Operation, head: u16) -> Request {
    match rig.submit(pair, operation, head) {
        Submit::Full(request) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_part_is_read_and_nothing_else_of_its_block_is_shown() {
    let (mut rig, mut pair) = rig();
    for (sector, bytes) in [(0, 512), (7, 512), (9, 1024), (16, 3584), (25, 3584)] {
        // In pieces, at addresses that no controller can be told, over two regions.
        let at = GUEST + REGION - 701;
        rig.client.write(at - 64, &vec![0x77; bytes + 128]);
        let cut = 301;
        let read = rig.read_part(sector, &[(at, cut), (at + u64::from(cut), bytes as u32 - cut)]);
        assert_eq!(rig.run(&mut pair, read), (1, Outcome::Done));
        let (first, skip) = (sector / 8, (sector % 8) as usize * 512);
        assert!(
            rig.client.read(at, bytes) == pattern(100 + first, BLOCK)[skip..skip + bytes],
            "{sector} {bytes}"
        );
        let around = [rig.client.read(at - 64, 64), rig.client.read(at + bytes as u64, 64)].concat();
        assert!(around.iter().all(|b| *b == 0x77));
    }
    assert_eq!(rig.client.desk.bytes_held(), 0);
}

#[test]
fn a_part_is_written_and_the_rest_of_its_block_stays() {
    let (mut rig, mut pair) = rig();
    for (seed, (sector, bytes)) in
        (1..).zip([(0_u64, 512_usize), (15, 512), (17, 1024), (25, 3584), (32, 3584)])
    {
        let data = pattern(seed, bytes);
        rig.client.write(GUEST + 3, &data);
        let write = rig.write_part(sector, false, &[(GUEST + 3, 99), (GUEST + 3 + 99, bytes as u32 - 99)]);
        assert_eq!(rig.run(&mut pair, write), (1, Outcome::Done));
        let want = with(sector / 8, (sector % 8) as usize * 512, &data);
        assert!(block(&mut rig, &mut pair, sector / 8) == want, "{sector} {bytes}");
    }
    for other in 5..8 {
        assert!(block(&mut rig, &mut pair, other) == pattern(100 + other, BLOCK));
    }
}

#[test]
fn two_parts_of_one_block_are_written_one_after_the_other_and_others_meanwhile() {
    let (mut rig, mut pair) = rig();
    rig.client.write(GUEST, &pattern(1, BLOCK));
    let first = rig.write_part(0, false, &[(GUEST, 512)]);
    rig.issue(&mut pair, first, 0);
    let same = rig.write_part(7, false, &[(GUEST + 512, 512)]);
    let same = waits(&mut rig, &mut pair, same, 1);
    let other = rig.write_part(8, false, &[(GUEST + 1024, 512)]);
    rig.issue(&mut pair, other, 2);
    let read = rig.read_part(1, &[(GUEST + 8192, 512)]);
    rig.issue(&mut pair, read, 3);
    let mut ended = settle(&mut rig, &mut pair);
    ended.sort_unstable_by_key(|(head, _)| *head);
    assert_eq!(ended, [(0, Outcome::Done), (2, Outcome::Done), (3, Outcome::Done)]);
    assert!(matches!(rig.submit_again(&mut pair, same), Submit::Issued));
    assert_eq!(settle(&mut rig, &mut pair), [(1, Outcome::Done)]);
    let data = pattern(1, BLOCK);
    let mut want = with(0, 0, &data[..512]);
    want[3584..].copy_from_slice(&data[512..1024]);
    assert!(block(&mut rig, &mut pair, 0) == want);
    assert!(block(&mut rig, &mut pair, 1) == with(1, 0, &data[1024..1536]));
}

type Ask = fn(&mut Rig, u64, u32) -> Operation;

/// Whatever else changes blocks.
const CHANGES: [(&str, Ask); 3] = [
    ("write", |rig, sector, bytes| rig.write(sector, &[(GUEST + (1 << 20), bytes)])),
    ("discard", |rig, sector, bytes| rig.discard(sector, bytes.into())),
    ("write-zeroes", |rig, sector, bytes| rig.zeroes(sector, bytes.into())),
];

#[test]
fn what_changes_a_block_of_which_a_part_is_being_written_waits_and_so_does_the_part() {
    for (what, ask) in CHANGES {
        let (mut rig, mut pair) = rig();
        // A part is being written: all that reaches its block waits, wherever it begins and ends.
        let part = rig.write_part(17, false, &[(GUEST, 512)]);
        rig.issue(&mut pair, part, 0);
        for (sector, blocks) in [(16, 1), (8, 2), (16, 2), (0, 6)] {
            let change = ask(&mut rig, sector, blocks * 4096);
            let waiting = waits(&mut rig, &mut pair, change, 1);
            let ended = waiting.end(Outcome::Failed, Quiet::seen(QuietBy::NeverSubmitted));
            rig.complete(ended);
        }
        for (head, (sector, blocks)) in (2..).zip([(8, 1), (24, 3)]) {
            let change = ask(&mut rig, sector, blocks * 4096);
            rig.issue(&mut pair, change, head);
        }
        assert_eq!(settle(&mut rig, &mut pair).len(), 3, "{what}");
        let change = ask(&mut rig, 16, 4096);
        rig.issue(&mut pair, change, 4);
        // It is under way: no part of its block is written before it has ended.
        let part = rig.write_part(17, false, &[(GUEST, 512)]);
        let part = waits(&mut rig, &mut pair, part, 5);
        let beside = rig.write_part(9, false, &[(GUEST, 512)]);
        rig.issue(&mut pair, beside, 6);
        assert_eq!(settle(&mut rig, &mut pair).len(), 2, "{what}");
        assert!(matches!(rig.submit_again(&mut pair, part), Submit::Issued));
        assert_eq!(settle(&mut rig, &mut pair), [(5, Outcome::Done)]);
    }
}

#[test]
fn as_many_parts_are_under_way_as_there_are_chunks_and_the_others_wait() {
    let (mut rig, mut pair) = rig();
    let chunks = options().bounce_chunks;
    for head in 0..chunks {
        let part = rig.write_part(u64::from(head) * 8, false, &[(GUEST, 512)]);
        rig.issue(&mut pair, part, head);
    }
    let one_more = rig.write_part(56, false, &[(GUEST, 512)]);
    let one_more = waits(&mut rig, &mut pair, one_more, 9);
    // What needs none goes on, the usual way or not.
    let read = rig.read(40, &[(GUEST, 4096)]);
    rig.issue(&mut pair, read, 10);
    assert_eq!(settle(&mut rig, &mut pair).len(), usize::from(chunks) + 1);
    assert!(matches!(rig.submit_again(&mut pair, one_more), Submit::Issued));
    settle(&mut rig, &mut pair);
    assert_eq!(rig.client.desk.bytes_held(), 0);
}

#[test]
fn force_unit_access_is_kept() {
    for fua in [false, true] {
        let cache = Arc::new(WriteCache::new(MemoryMedium::new(8 << 20).unwrap()).unwrap());
        let namespace = NamespaceConfig::new(cache.clone()).block_size(4096);
        let mut rig = Rig::new(Config { namespaces: vec![namespace], ..config(4096) }, options());
        let mut pair = rig.pair(16);
        let part = rig.write_part(9, fua, &[(GUEST, 512)]);
        assert_eq!(rig.run(&mut pair, part), (1, Outcome::Done));
        assert_eq!(cache.dirty() == 0, fua, "what is not durable yet");
    }
}

#[test]
fn what_fails_on_the_way_changes_nothing_and_what_fails_for_the_moment_is_done() {
    for (opcode, status, times, outcome) in [
        // A block that cannot be read, or written.
        (nvm::READ, 0x4281, 1, Outcome::Failed),
        (nvm::WRITE, 0x4280, 1, Outcome::Failed),
        (nvm::READ, 0x21, 3, Outcome::Done),
        (nvm::WRITE, 0x82, 5, Outcome::Done),
    ] {
        let (mut rig, mut pair) = rig();
        let data = pattern(1, 512);
        rig.client.write(GUEST + 1, &data);
        inject(&rig, opcode, When::First(times), Action::Fail(Status(status)));
        let part = rig.write_part(9, false, &[(GUEST + 1, 512)]);
        rig.issue(&mut pair, part, 1);
        assert_eq!(settle(&mut rig, &mut pair), [(1, outcome)]);
        rig.handle.faults().unwrap().clear();
        let want = if outcome == Outcome::Done { with(1, 512, &data) } else { pattern(101, BLOCK) };
        assert!(block(&mut rig, &mut pair, 1) == want, "{status:#x}");
        // Nothing waits for it any more, and its chunk is free.
        for round in 0..2 * u64::from(options().bounce_chunks) {
            let part = rig.write_part(8 + round % 8, false, &[(GUEST + 1, 512)]);
            assert_eq!(rig.run(&mut pair, part), (1, Outcome::Done));
        }
        let whole = rig.write(8, &[(GUEST, 4096)]);
        assert_eq!(rig.run(&mut pair, whole), (1, Outcome::Done));
    }
}

#[test]
fn a_part_that_nobody_wants_any_more_is_not_written() {
    let (mut rig, mut pair) = rig();
    let part = rig.write_part(9, false, &[(GUEST, 512)]);
    rig.issue(&mut pair, part, 1);
    rig.client.wants = false;
    assert_eq!(settle(&mut rig, &mut pair), [(1, Outcome::Failed)]);
    assert!(block(&mut rig, &mut pair, 1) == pattern(101, BLOCK));
    let whole = rig.write(8, &[(GUEST, 4096)]);
    assert_eq!(rig.run(&mut pair, whole), (1, Outcome::Done), "nothing is in its way");
}

/// In either of the two steps.
#[test]
fn a_part_that_hangs_is_done_after_a_reset_or_has_failed_and_the_block_is_whole() {
    for opcode in [nvm::READ, nvm::WRITE] {
        for fails in [false, true] {
            let (mut rig, mut pair) = rig();
            let data = pattern(1, 512);
            rig.client.write(GUEST + 1, &data);
            inject(&rig, opcode, When::First(1), Action::Hang);
            let part = rig.write_part(9, false, &[(GUEST + 1, 512)]);
            rig.issue(&mut pair, part, 1);
            for _ in 0..4 {
                assert!(rig.pass(&mut pair).is_empty());
            }
            // What waits for it goes on waiting, on the new queues too.
            let waiting = rig.write(8, &[(GUEST, 4096)]);
            let waiting = waits(&mut rig, &mut pair, waiting, 2);
            rig.controller.reset();
            let ControllerEvent::Reset { quiet } = rig.event() else { panic!() };
            rig.controller.recreate_pair(&mut pair).unwrap();
            let ControllerEvent::PairRecreated { doorbells, .. } = rig.event() else { panic!() };
            assert!(pair.restart(quiet, doorbells, &mut |_| fails).is_ok());
            let waiting = match rig.submit_again(&mut pair, waiting) {
                Submit::Full(request) if !fails => request,
                Submit::Issued if fails => {
                    assert_eq!(settle(&mut rig, &mut pair).len(), 2);
                    continue;
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(settle(&mut rig, &mut pair), [(1, Outcome::Done)]);
            assert!(block(&mut rig, &mut pair, 1) == with(1, 512, &data), "{opcode:#x}");
            assert!(matches!(rig.submit_again(&mut pair, waiting), Submit::Issued));
            settle(&mut rig, &mut pair);
        }
    }
}

#[test]
fn a_part_that_was_late_and_aborted_is_written_again_from_what_was_taken() {
    for opcode in [nvm::READ, nvm::WRITE] {
        let (mut rig, mut pair) = rig();
        let data = pattern(1, 512);
        rig.client.write(GUEST + 1, &data);
        inject(&rig, opcode, When::First(1), Action::Hang);
        let part = rig.write_part(9, false, &[(GUEST + 1, 512)]);
        rig.issue(&mut pair, part, 1);
        for _ in 0..4 {
            assert!(rig.pass(&mut pair).is_empty());
        }
        let deadline = pair.next_deadline().unwrap();
        rig.now = deadline;
        let late = pair.expired(deadline).unwrap();
        assert!(rig.handle.forge(pair.id(), late.cid, Status(0x07)));
        assert_eq!(settle(&mut rig, &mut pair), [(1, Outcome::Done)]);
        assert!(block(&mut rig, &mut pair, 1) == with(1, 512, &data), "{opcode:#x}");
    }
}

#[test]
fn bounce_memory_shows_nobody_the_block_of_another() {
    let (mut rig, mut pair) = rig();
    // Every chunk has seen blocks of one client.
    for head in 0..options().bounce_chunks {
        let part = rig.write_part(u64::from(head) * 8, false, &[(GUEST, 512)]);
        rig.issue(&mut pair, part, head);
    }
    settle(&mut rig, &mut pair);
    // A controller says that it read, and did not.
    inject(&rig, nvm::READ, When::Always, Action::Fail(Status::SUCCESS));
    for head in 0..options().bounce_chunks {
        rig.client.write(GUEST + 8192, &[0x77; 3584]);
        let read = rig.read_part(u64::from(head) * 8 + 1, &[(GUEST + 8192, 3584)]);
        assert_eq!(rig.run(&mut pair, read), (1, Outcome::Done));
        assert!(rig.client.read(GUEST + 8192, 3584).iter().all(|b| *b == 0));
    }
}
