#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]

use core::time::Duration;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU16, Ordering};

use nvme_platform::fake::FakeIommu;
use nvme_platform::{DmaPool, PAGE, Window};
use nvme_policy::{BlockSize, Extent, Namespace};

use super::super::super::pair::CommandCaps;
use super::super::super::spec::command::Command;
use super::*;

const NOW: Time = Time::from_nanos(1);
const TIMEOUT: Duration = Duration::from_secs(3);
const ID: u16 = 1;

/// The doorbells of a controller that the test plays.
#[derive(Clone, Default)]
struct Rung(Arc<AtomicU16>);

impl QueueDoorbells for Rung {
    fn submission_tail(&mut self, tail: u16) {
        self.0.store(tail, Ordering::Relaxed);
    }
    fn completion_head(&mut self, _: u16) {}
}

/// The controller's side of a pair.
struct Played {
    sq: Window,
    cq: Window,
    data: Window,
    rung: Rung,
    posted: u16,
}

impl Played {
    /// The last command that was submitted.
    fn command(&self) -> Command {
        let tail = self.rung.0.load(Ordering::Relaxed);
        self.sq.read_value(usize::from((tail + 3) % 4) * 64).unwrap()
    }

    fn post(&mut self, cid: u16, status: u16) {
        let (slot, phase) = (usize::from(self.posted % 4), u32::from((self.posted / 4).is_multiple_of(2)));
        self.cq.store32(slot * 16 + 8, u32::from(ID) << 16).unwrap();
        self.cq.store32(slot * 16 + 12, u32::from(cid) | phase << 16 | u32::from(status) << 17).unwrap();
        self.posted += 1;
    }

    fn answer(&mut self, status: u16) {
        self.post(self.command().cid.get(), status);
    }
}

fn pair() -> (ReadsPair, Played) {
    let mut pool = FakeIommu::new().pool();
    let mut pages = |count| pool.allocate(count).unwrap();
    let memory = PairMemory { sq: pages(1), cq: pages(1), lists: pages(3), bounce: pages(16) };
    let rung = Rung::default();
    let caps = CommandCaps { transfer: 2 * PAGE as u32, ..CommandCaps::default() };
    let config = PairConfig { controller: 0, id: ID, depth: 4, vector: 0, timeout: TIMEOUT, caps };
    let (sq, cq) = (memory.sq.window().clone(), memory.cq.window().clone());
    let played = Played { sq, cq, data: memory.bounce.window().clone(), rung: rung.clone(), posted: 0 };
    (ReadsPair { config, memory, doorbells: Box::new(rung) }, played)
}

fn blocks(first: u64, bytes: u64) -> LbaRange {
    let namespace = Namespace { controller: 0, nsid: 1 };
    Extent::whole(namespace, 1 << 20, BlockSize::B512).unwrap().confine(first, bytes).unwrap()
}

/// With its pair made, and one read asked for.
fn reading(bytes: u64) -> (Reads, Played) {
    let mut reads = Reads::new();
    reads.ask(blocks(8, bytes), 1).unwrap();
    assert_eq!(reads.step(false, NOW), Step::Make);
    assert_eq!(reads.step(false, NOW), Step::Wait);
    let (pair, played) = pair();
    reads.made(pair);
    assert_eq!(reads.step(false, NOW), Step::On);
    (reads, played)
}

fn ended(result: Result<Vec<u8>, ScanError>) -> Step {
    Step::Ended(Ended { token: 1, result })
}

#[test]
fn a_long_read_is_several_commands() {
    let (mut reads, mut played) = reading(3 * PAGE as u64);
    let command = played.command();
    assert_eq!((command.cdw10.get(), command.cdw12.get()), (8, 15));
    played.data.fill(0, PAGE, 7).unwrap();
    assert_eq!(reads.step(false, NOW), Step::Wait);
    played.answer(0);
    assert_eq!(reads.step(false, NOW), Step::On);
    assert_eq!((played.command().cdw10.get(), played.command().cdw12.get()), (24, 7));
    played.answer(0);
    let mut bytes = alloc::vec![0; 3 * PAGE];
    bytes[..PAGE].fill(7);
    assert_eq!(reads.step(false, NOW), ended(Ok(bytes)), "what was not brought is zero");
    assert_eq!((reads.step(false, NOW), reads.next_deadline()), (Step::Wait, None));
}

#[test]
fn a_completion_of_another_command_is_not_believed() {
    let (mut reads, mut played) = reading(512);
    let cid = played.command().cid.get();
    played.post(cid.wrapping_add(1), 0);
    assert_eq!(reads.step(false, NOW), Step::Wait);
    played.post(cid, 0);
    assert!(matches!(reads.step(false, NOW), Step::Ended(Ended { result: Ok(_), .. })));
}

#[test]
fn a_read_that_is_late_ends_and_its_memory_is_not_used_again() {
    let (mut reads, mut played) = reading(512);
    let deadline = NOW + TIMEOUT;
    assert_eq!(reads.next_deadline(), Some(deadline));
    reads.ask(blocks(0, 512), 2).unwrap();
    assert_eq!(reads.step(false, deadline), ended(Err(ScanError::TimedOut)));
    assert_eq!(reads.step(false, deadline), Step::Delete);
    played.answer(0);
    assert_eq!(reads.step(false, deadline), Step::Wait, "its queue is being deleted");
    assert!(reads.deleted().is_some() && reads.deleted().is_none());
    assert_eq!(reads.step(false, deadline), Step::Make);
}

#[test]
fn a_single_pair_is_given_back_when_nothing_is_left_to_be_read() {
    let (mut reads, mut played) = reading(512);
    played.answer(0);
    assert!(matches!(reads.step(true, NOW), Step::Ended(_)));
    assert_eq!(reads.step(true, NOW), Step::Delete);
}

#[test]
fn all_reads_end_when_the_controller_stops_or_there_is_no_pair() {
    let (mut reads, _played) = reading(512);
    reads.ask(blocks(0, 512), 2).unwrap();
    let tokens = |ended: Vec<Ended>, why| {
        assert!(ended.iter().all(|ended| ended.result == Err(why)));
        ended.iter().map(|ended| ended.token).collect::<Vec<_>>()
    };
    assert_eq!(tokens(reads.end(), ScanError::NotReady), [1, 2]);
    let mut reads = Reads::new();
    reads.ask(blocks(0, 512), 3).unwrap();
    assert_eq!(reads.step(false, NOW), Step::Make);
    assert_eq!(tokens(reads.not_made(), ScanError::NoPair), [3]);
    assert_eq!(reads.step(false, NOW), Step::Wait);
}

#[test]
fn too_long_a_read_and_too_many_are_refused() {
    let mut reads = Reads::new();
    assert_eq!(reads.ask(blocks(0, u64::from(SCAN_MAX) + 512), 1), Err(ScanError::BadRange));
    for token in 0..WAITING_MAX {
        assert_eq!(reads.ask(blocks(0, SCAN_MAX.into()), token as u32), Ok(()));
    }
    assert_eq!(reads.ask(blocks(0, 512), 1), Err(ScanError::BadRange));
}

#[test]
fn a_read_that_fails_for_the_moment_is_issued_again_by_another_command_and_five_times() {
    let (mut reads, mut played) = reading(2 * PAGE as u64 + 512);
    played.answer(0);
    assert_eq!(reads.step(false, NOW), Step::On);
    let (mut now, mut last) = (NOW, played.command());
    for tries in 0..=5 {
        played.answer(Status::NAMESPACE_NOT_READY);
        let step = reads.step(false, now);
        if tries == 5 {
            assert_eq!(step, ended(Err(ScanError::Failed(Status::NAMESPACE_NOT_READY))));
            break;
        }
        assert_eq!((step, reads.step(false, now)), (Step::On, Step::Wait));
        now = reads.next_deadline().unwrap();
        assert_eq!(reads.step(false, now), Step::On);
        let next = played.command();
        assert_eq!((next.cdw10, next.cdw12), (last.cdw10, last.cdw12), "the same part");
        assert_ne!(next.cid, last.cid);
        last = next;
    }
    assert!(now < NOW + TIMEOUT);
}

#[test]
fn a_read_that_would_be_issued_again_ends_with_its_namespace() {
    let (mut reads, mut played) = reading(512);
    assert_eq!(reads.namespaces_changed(|_| false), None, "it is in flight");
    played.answer(Status::NAMESPACE_NOT_READY);
    assert_eq!(reads.step(false, NOW), Step::On);
    assert_eq!(reads.namespaces_changed(|_| true), None);
    let ended = Ended { token: 1, result: Err(ScanError::NotReady) };
    assert_eq!(reads.namespaces_changed(|place| place.first() != 8), Some(ended));
    assert_eq!(reads.step(false, NOW + TIMEOUT), Step::Wait);
    assert_eq!(played.command().cid.get(), 1, "and nothing more was issued");
}

#[test]
fn a_read_that_would_fail_again_ends() {
    let (mut reads, mut played) = reading(512);
    let status = Status::NAMESPACE_NOT_READY | 1 << 14;
    played.answer(status);
    assert_eq!(reads.step(false, NOW), ended(Err(ScanError::Failed(status))));
}
