//! Storage that is memory: what is copied at once, and what becomes a request all the same.

use std::sync::Arc;

use nvme_platform::DmaRights;
use nvme_soft::wire::{Status, nvm};
use nvme_soft::{Config, Job, Missing, NamespaceConfig, Storage};

use crate::driver::*;
use crate::stored::{SIZE, Slow, completed, status};

fn resident() -> (Rig, Arc<Slow>, Arc<Missing>) {
    let missing = Arc::new(Missing::default());
    let slow = Slow::new(Some(Arc::clone(&missing)));
    let namespace = NamespaceConfig::stored(Arc::clone(&slow) as Arc<dyn Storage>);
    (Rig::new(Config { namespaces: vec![namespace], ..Config::default() }), slow, missing)
}

#[test]
fn reads_and_writes_of_memory_are_copied_and_ask_nobody() {
    let (mut rig, slow, _) = resident();
    let mut pair = rig.pair(1, 8);
    let (at, memory) = rig.client(2, DmaRights::ReadWrite);
    let one = pair.submit(read(8, 8, [at, 0]));
    let two = pair.submit(read(64, 16, [at, at + 4096]));
    assert_eq!(completed(&mut pair), [one, two]);
    assert_eq!(bytes(&memory, 0, 8192), bytes(&slow.disk, 64 * 512, 8192));
    pattern(&memory, 7);
    let three = pair.submit(write(0, 16, [at, at + 4096]));
    assert_eq!(completed(&mut pair), [three]);
    assert_eq!(bytes(&slow.disk, 0, 8192), bytes(&memory, 0, 8192));
    assert!(slow.jobs().is_empty());
    let s = rig.handle.statistics();
    assert_eq!((s.reads, s.bytes_read, s.writes, s.bytes_written), (2, 4096 + 8192, 1, 8192));
}

#[test]
fn a_copy_counts_for_nothing_while_a_page_is_missing() {
    let (mut rig, slow, missing) = resident();
    let mut pair = rig.pair(1, 8);
    let (at, memory) = rig.page();
    assert_eq!(missing.put(), 0);
    for (sqe, job) in [
        (read(8, 8, [at, 0]), Job::Read { offset: 4096, len: 4096 }),
        (write(8, 8, [at, 0]), Job::Write { offset: 4096, len: 4096 }),
    ] {
        let id = pair.submit(sqe);
        assert!(completed(&mut pair).is_empty());
        assert_eq!(slow.jobs(), [job]);
        slow.serve(0);
        assert_eq!(completed(&mut pair), [id]);
    }
    let s = rig.handle.statistics();
    assert_eq!((s.reads, s.writes), (1, 1));
    missing.put_back(1);
    let id = pair.submit(read(16, 8, [at, 0]));
    assert_eq!(completed(&mut pair), [id]);
    assert_eq!(bytes(&memory, 0, 4096), bytes(&slow.disk, 8192, 4096));
    assert!(slow.jobs().is_empty());
}

#[test]
fn what_is_no_copy_is_a_request_and_what_came_before_and_after_it_does_not_wait() {
    let (mut rig, slow, _) = resident();
    let mut pair = rig.pair(1, 16);
    let (at, memory) = rig.page();
    let before = pair.submit(read(0, 8, [at, 0]));
    let forced = pair.submit(fua(write(8, 8, [at, 0])));
    let flush = pair.submit(entry(nvm::FLUSH, 1, [0; 2], &[]));
    let after = pair.submit(entry(nvm::WRITE_ZEROES, 1, [0; 2], &[64, 0, 7]));
    assert_eq!(completed(&mut pair), [before]);
    let zero = Job::Zero { offset: 64 * 512, len: 4096, unmap: false };
    assert_eq!(slow.jobs(), [Job::Write { offset: 4096, len: 4096 }, Job::Flush, zero]);
    // The tail has not moved: what came back is found all the same.
    slow.serve(1);
    assert_eq!(completed(&mut pair), [flush]);
    slow.serve(1);
    assert_eq!(completed(&mut pair), [after]);
    slow.serve(0);
    assert!(completed(&mut pair).is_empty());
    assert_eq!(slow.jobs(), [Job::Flush]);
    slow.serve(0);
    assert_eq!(completed(&mut pair), [forced]);
    assert_eq!(bytes(&slow.disk, 4096, 4096), bytes(&memory, 0, 4096));
    let id = pair.submit(read(0, 8, [at, 0]));
    assert_eq!((completed(&mut pair), slow.jobs()), (vec![id], vec![]));
}

#[test]
fn what_cannot_be_done_fails_as_it_does_elsewhere() {
    let (mut rig, slow, _) = resident();
    let mut pair = rig.pair(1, 8);
    let (at, _) = rig.page();
    let (read_only, _) = rig.client(1, DmaRights::Read);
    for (sqe, expected) in [
        (read(SIZE / 512, 1, [at, 0]), Status::LBA_RANGE),
        (read(0, 8, [at + 1, 0]), Status::PRP_OFFSET),
        (read(0, 8, [read_only, 0]), Status::DATA_TRANSFER),
        (entry(0x7f, 1, [0; 2], &[]), Status::INVALID_OPCODE),
    ] {
        pair.submit(sqe);
        assert_eq!(status(&mut pair), expected.code());
    }
    assert!(slow.jobs().is_empty());
}
