//! Storage that takes its time: requests are under way until the test ends them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use nvme_platform::{Bus, DmaError, DmaRights, DmaSpace, Iova, Registers, Window};
use nvme_soft::wire::{Status, nvm, reg};
use nvme_soft::{Begun, Config, Failure, Job, Missing, NamespaceConfig, Request, Resident, Storage};

use crate::driver::*;

pub(crate) const SIZE: u64 = 1 << 20;

/// Keeps requests until it is told how each ends; its bytes are in a window of the test's.
pub(crate) struct Slow {
    pub(crate) disk: Window,
    waiting: Mutex<VecDeque<Request>>,
    room: Mutex<usize>,
    /// Where it is memory that the controller copies from and to itself.
    missing: Option<Arc<Missing>>,
}

impl Slow {
    pub(crate) fn new(missing: Option<Arc<Missing>>) -> Arc<Self> {
        let disk = nvme_mem::heap(SIZE as usize).unwrap();
        pattern(&disk, 3);
        Arc::new(Self { disk, waiting: Mutex::default(), room: Mutex::new(usize::MAX / 2), missing })
    }

    pub(crate) fn jobs(&self) -> Vec<Job> {
        self.waiting.lock().unwrap().iter().map(Request::job).collect()
    }

    fn take(&self, at: usize) -> Request {
        *self.room.lock().unwrap() += 1;
        self.waiting.lock().unwrap().remove(at).expect("no such request")
    }

    /// Does what the n-th request asks for, and ends it.
    pub(crate) fn serve(&self, at: usize) {
        let request = self.take(at);
        let good = match request.job() {
            Job::Read { offset, .. } => request.scatter(&self.disk, offset as usize),
            Job::Write { offset, .. } => request.gather(&self.disk, offset as usize),
            Job::Zero { offset, len, .. } => self.disk.fill(offset as usize, len as usize, 0).is_ok(),
            Job::Flush | Job::Discard { .. } => true,
        };
        assert!(good);
        request.end(Ok(()));
    }

    fn fail(&self, at: usize, why: Failure) {
        self.take(at).end(Err(why));
    }
}

impl Storage for Slow {
    fn size(&self) -> u64 {
        SIZE
    }

    fn begin(&self, request: Request) -> Begun {
        let mut room = self.room.lock().unwrap();
        if *room == 0 {
            return Begun::Full(request);
        }
        *room -= 1;
        self.waiting.lock().unwrap().push_back(request);
        Begun::UnderWay
    }

    fn resident(&self) -> Option<Resident> {
        let missing = Arc::clone(self.missing.as_ref()?);
        Some(Resident { window: self.disk.clone(), missing })
    }
}

fn over(config: Config) -> (Rig, Arc<Slow>) {
    let slow = Slow::new(None);
    let namespace = NamespaceConfig::stored(Arc::clone(&slow) as Arc<dyn Storage>);
    (Rig::new(Config { namespaces: vec![namespace], ..config }), slow)
}

fn slow() -> (Rig, Arc<Slow>) {
    over(Config::default())
}

/// The identifiers of the commands that completed well, in their order.
pub(crate) fn completed(pair: &mut Pair) -> Vec<u16> {
    pair.run();
    std::iter::from_fn(|| pair.pop())
        .map(|cqe| {
            expect(&cqe, Status::SUCCESS);
            cqe.cid.get()
        })
        .collect()
}

pub(crate) fn status(pair: &mut Pair) -> u16 {
    pair.run();
    pair.pop().expect("no completion").status.get() >> 1 & 0x7ff
}

#[test]
fn a_command_completes_when_its_storage_has_answered_and_later_ones_do_not_wait_for_it() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (at, memory) = rig.client(2, DmaRights::ReadWrite);
    let first = pair.submit(read(8, 8, [at, 0]));
    let second = pair.submit(read(16, 8, [at + 4096, 0]));
    assert!(completed(&mut pair).is_empty());
    slow.serve(1);
    assert_eq!(completed(&mut pair), [second]);
    assert_eq!(bytes(&memory, 4096, 4096), bytes(&slow.disk, 16 * 512, 4096));
    assert_eq!(bytes(&memory, 0, 4096), vec![0; 4096]);
    slow.serve(0);
    assert_eq!(completed(&mut pair), [first]);
    assert_eq!(bytes(&memory, 0, 4096), bytes(&slow.disk, 8 * 512, 4096));
    let s = rig.handle.statistics();
    assert_eq!((s.reads, s.bytes_read), (2, 8192));
}

#[test]
fn a_transfer_over_pages_that_lie_apart_reaches_each() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (one, a) = rig.page();
    let (two, b) = rig.page();
    pair.submit(read(0, 16, [two, one]));
    assert!(completed(&mut pair).is_empty());
    slow.serve(0);
    assert_eq!(completed(&mut pair).len(), 1);
    assert_eq!(bytes(&b, 0, 4096), bytes(&slow.disk, 0, 4096));
    assert_eq!(bytes(&a, 0, 4096), bytes(&slow.disk, 4096, 4096));
}

#[test]
fn each_failure_is_its_own_commands_with_its_own_status() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (at, _) = rig.page();
    for (sqe, why, expected) in [
        (write(0, 8, [at, 0]), Failure::NoSpace, Status::CAPACITY_EXCEEDED),
        (entry(nvm::WRITE_ZEROES, 1, [0; 2], &[0, 0, 7]), Failure::NoSpace, Status::CAPACITY_EXCEEDED),
        (write(0, 8, [at, 0]), Failure::Io, Status::WRITE_FAULT),
        (read(0, 8, [at, 0]), Failure::Io, Status::READ_ERROR),
        (read(0, 8, [at, 0]), Failure::Memory, Status::DATA_TRANSFER),
        (write(0, 8, [at, 0]), Failure::ReadOnly, Status::WRITE_PROTECTED),
        (read(0, 8, [at, 0]), Failure::Gone, Status::LBA_RANGE),
        (entry(nvm::FLUSH, 1, [0; 2], &[]), Failure::Lost, Status::WRITE_FAULT),
    ] {
        pair.submit(sqe);
        assert!(completed(&mut pair).is_empty());
        slow.fail(0, why);
        assert_eq!(status(&mut pair), expected.code(), "{why:?}");
        pair.submit(read(0, 8, [at, 0]));
        pair.run();
        slow.serve(0);
        assert_eq!(completed(&mut pair).len(), 1, "after {why:?}");
    }
}

#[test]
fn a_request_that_is_dropped_has_failed() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (at, _) = rig.page();
    pair.submit(read(0, 8, [at, 0]));
    pair.run();
    drop(slow.take(0));
    assert_eq!(status(&mut pair), Status::READ_ERROR.code());
}

#[test]
fn a_forced_write_is_written_then_flushed_and_fails_with_the_flush() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (at, memory) = rig.page();
    pattern(&memory, 9);
    pair.submit(fua(write(0, 8, [at, 0])));
    pair.run();
    assert_eq!(slow.jobs(), [Job::Write { offset: 0, len: 4096 }]);
    slow.serve(0);
    assert!(completed(&mut pair).is_empty());
    assert_eq!(slow.jobs(), [Job::Flush]);
    slow.serve(0);
    assert_eq!(completed(&mut pair).len(), 1);
    assert_eq!(bytes(&slow.disk, 0, 4096), bytes(&memory, 0, 4096));

    pair.submit(fua(write(0, 8, [at, 0])));
    pair.run();
    slow.serve(0);
    pair.run();
    slow.fail(0, Failure::Lost);
    assert_eq!(status(&mut pair), Status::WRITE_FAULT.code());
}

#[test]
fn a_forced_read_is_flushed_first() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (at, memory) = rig.page();
    pair.submit(fua(read(8, 8, [at, 0])));
    pair.run();
    assert_eq!(slow.jobs(), [Job::Flush]);
    slow.serve(0);
    pair.run();
    assert_eq!(slow.jobs(), [Job::Read { offset: 4096, len: 4096 }]);
    slow.serve(0);
    assert_eq!(completed(&mut pair).len(), 1);
    assert_eq!(bytes(&memory, 0, 4096), bytes(&slow.disk, 4096, 4096));
}

#[test]
fn ranges_are_discarded_one_after_the_other() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (at, memory) = rig.page();
    for (index, (lba, blocks)) in [(8u64, 8u32), (100, 0), (64, 16)].into_iter().enumerate() {
        memory.write_value(index * 16 + 4, &blocks).unwrap();
        memory.write_value(index * 16 + 8, &lba).unwrap();
    }
    pair.submit(entry(nvm::DATASET_MANAGEMENT, 1, [at, 0], &[2, 4]));
    pair.run();
    assert_eq!(slow.jobs(), [Job::Discard { offset: 4096, len: 4096 }]);
    slow.serve(0);
    assert!(completed(&mut pair).is_empty());
    assert_eq!(slow.jobs(), [Job::Discard { offset: 32768, len: 8192 }]);
    slow.serve(0);
    assert_eq!(completed(&mut pair).len(), 1);
}

#[test]
fn a_flush_of_all_namespaces_flushes_each_storage() {
    let (rig, one) = slow();
    drop(rig);
    let (rig, two) = slow();
    drop(rig);
    let stored = |slow: &Arc<Slow>| NamespaceConfig::stored(Arc::clone(slow) as Arc<dyn Storage>);
    let namespaces = vec![stored(&one), namespace(8), stored(&two)];
    let mut rig = Rig::new(Config { namespaces, ..Config::default() });
    let mut pair = rig.pair(1, 8);
    pair.submit(entry(nvm::FLUSH, u32::MAX, [0; 2], &[]));
    pair.run();
    assert_eq!((one.jobs(), two.jobs()), (vec![Job::Flush], vec![]));
    one.serve(0);
    assert!(completed(&mut pair).is_empty());
    two.serve(0);
    assert_eq!(completed(&mut pair).len(), 1);
}

#[test]
fn what_finds_no_room_is_begun_later_and_nothing_is_fetched_meanwhile() {
    let (mut rig, slow) = slow();
    *slow.room.lock().unwrap() = 1;
    let mut pair = rig.pair(1, 8);
    let (at, _) = rig.page();
    let ids: Vec<u16> = (0..3).map(|n| pair.submit(read(n, 1, [at, 0]))).collect();
    for id in ids {
        let again = pair.run();
        assert_eq!(slow.jobs().len(), 1);
        assert!(id == 3 || again.is_some_and(|t| t > pair.now), "nobody looks again");
        slow.serve(0);
        assert_eq!(completed(&mut pair), [id]);
    }
}

#[test]
fn a_queue_is_deleted_when_the_last_of_its_commands_has_ended() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (at, memory) = rig.page();
    pair.submit(read(8, 8, [at, 0]));
    pair.submit(read(8, 8, [at, 0]));
    pair.run();
    rig.admin_submit(delete_sq(1));
    assert!(rig.admin_pop().is_none());
    slow.serve(0);
    assert!(rig.admin_pop().is_none(), "one is still under way");
    slow.serve(0);
    expect(&rig.admin_pop().expect("the deletion does not end"), Status::SUCCESS);
    assert_eq!(bytes(&memory, 0, 4096), bytes(&slow.disk, 4096, 4096));
    assert!(pair.pop().is_none());
    rig.done(delete_cq(1));
}

#[test]
fn other_admin_commands_do_not_wait_for_a_deletion() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (at, _) = rig.page();
    pair.submit(read(8, 8, [at, 0]));
    pair.run();
    let deletion = rig.admin_submit(delete_sq(1));
    rig.done(identify(1, 0, at));
    slow.serve(0);
    assert_eq!(rig.admin_pop().map(|cqe| cqe.cid.get()), Some(deletion));
}

#[test]
fn a_controller_is_disabled_when_the_last_command_has_ended() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (at, _) = rig.page();
    pair.submit(write(8, 8, [at, 0]));
    pair.run();
    rig.device.write32(reg::CC, 0);
    assert_eq!(rig.status(), READY, "its memory is in use");
    slow.serve(0);
    assert_eq!(rig.status(), 0);
    rig.enable();
}

#[test]
fn a_function_that_has_commands_under_way_cannot_be_reset_nor_cut_off() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (at, _) = rig.page();
    pair.submit(write(8, 8, [at, 0]));
    pair.run();
    assert!(Bus::reset(&mut rig.device).is_err());
    assert!(rig.device.cut_off().is_err());
    slow.serve(0);
    assert!(rig.device.cut_off().is_ok());
}

#[test]
fn memory_that_a_command_reaches_is_not_proven_unmapped() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (at, memory) = rig.page();
    let (other, _) = rig.page();
    pair.submit(read(8, 8, [at, 0]));
    pair.run();
    assert_eq!(rig.device.unmap(Iova(other), 4096), Ok(()));
    assert_eq!(rig.device.unmap(Iova(at), 4096), Err(DmaError::InUse));
    drop(memory);
    // It is not there any more for others; the request keeps it.
    pair.submit(read(8, 8, [at, 0]));
    assert_eq!(status(&mut pair), Status::DATA_TRANSFER.code());
    slow.serve(0);
    assert_eq!(completed(&mut pair).len(), 1);
}

#[test]
fn a_request_under_way_keeps_only_the_memory_that_it_reaches() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (at, _memory) = rig.page();
    let (other, memory) = rig.page();
    pair.submit(read(8, 8, [at, 0]));
    pair.run();
    assert_eq!(rig.device.unmap(Iova(other), 4096), Ok(()));
    pair.run();
    assert_eq!(Arc::strong_count(memory.owner()), 1, "whoever hangs keeps nobody else's");
    slow.serve(0);
    assert_eq!(completed(&mut pair).len(), 1);
}

#[test]
fn memory_is_free_as_soon_as_the_request_has_ended() {
    let (mut rig, slow) = slow();
    let mut pair = rig.pair(1, 8);
    let (at, _memory) = rig.page();
    pair.submit(read(8, 8, [at, 0]));
    pair.run();
    slow.serve(0);
    // Before anybody ran the queue.
    assert_eq!(rig.device.unmap(Iova(at), 4096), Ok(()));
    assert_eq!(completed(&mut pair).len(), 1);
}

#[test]
fn a_shutdown_is_complete_when_everything_is_durable() {
    let (mut rig, slow) = slow();
    rig.device.write32(reg::CC, ENABLE | 1 << 14);
    assert_eq!(rig.status() >> 2 & 3, 1, "it is under way");
    assert_eq!(slow.jobs(), [Job::Flush]);
    slow.serve(0);
    assert_eq!(rig.status() >> 2 & 3, 2);
}

#[test]
fn a_namespace_over_storage_tells_that_it_may_wait() {
    let (mut rig, _slow) = slow();
    assert!(rig.pair(1, 8).doorbells.waits_for_storage());
    assert!(!Rig::new(config()).pair(1, 8).doorbells.waits_for_storage());
}
