//! I/O commands: what they do to the disk, and what they refuse.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nvme_platform::{DmaRights, Registers, Window};
use nvme_soft::wire::{Sqe, Status, admin, feature, nvm, reg};
use nvme_soft::{Config, Interrupts, Medium, MediumFailed, MemoryMedium, NamespaceConfig, WriteCache};

use crate::driver::*;

fn flush(nsid: u32) -> Sqe {
    entry(nvm::FLUSH, nsid, [0; 2], &[])
}

fn zeroes(lba: u64, blocks: u32) -> Sqe {
    transfer(nvm::WRITE_ZEROES, lba, blocks, [0; 2])
}

/// Dataset Management of the ranges in `list`.
fn dsm(list: u64, ranges: u32, attributes: u32) -> Sqe {
    entry(nvm::DATASET_MANAGEMENT, 1, [list, 0], &[ranges - 1, attributes])
}

fn range(window: &Window, index: usize, lba: u64, blocks: u32) {
    window.write_value(index * 16 + 4, &blocks.to_le_bytes()).unwrap();
    window.write_value(index * 16 + 8, &lba.to_le_bytes()).unwrap();
}

/// A controller over one medium.
fn over(
    medium: impl Medium + 'static,
    change: impl FnOnce(NamespaceConfig) -> NamespaceConfig,
) -> (Rig, Pair) {
    let namespaces = vec![change(NamespaceConfig::new(Arc::new(medium)))];
    let mut rig = Rig::new(Config { namespaces, ..Config::default() });
    let pair = rig.pair(1, 16);
    (rig, pair)
}

fn disk(blocks: usize) -> (MemoryMedium, Window) {
    let medium = MemoryMedium::new(blocks * 512).unwrap();
    let window = medium.window().clone();
    pattern(&window, 3);
    (medium, window)
}

#[test]
fn what_was_written_is_read_back_and_only_there() {
    let (medium, disk) = disk(2048);
    let (mut rig, mut pair) = over(medium, |n| n);
    let (at, memory) = rig.client(2, DmaRights::ReadWrite);
    let before = bytes(&disk, 0, 1 << 20);
    pattern(&memory, 9);
    pair.done(write(17, 8, [at, 0]));
    pair.done(read(17, 8, [at + 4096, 0]));
    assert_eq!(bytes(&memory, 4096, 4096), bytes(&memory, 0, 4096));
    let after = bytes(&disk, 0, 1 << 20);
    assert_eq!((&after[..17 * 512], &after[25 * 512..]), (&before[..17 * 512], &before[25 * 512..]));
    let s = rig.handle.statistics();
    assert_eq!((s.reads, s.writes, s.bytes_read, s.bytes_written), (1, 1, 4096, 4096));
}

#[test]
fn blocks_of_4096_bytes_are_counted_as_such() {
    let (medium, disk) = disk(2048);
    let (mut rig, mut pair) = over(medium, |n| n.block_size(4096));
    let (at, memory) = rig.client(4, DmaRights::ReadWrite);
    pair.done(read(3, 2, [at, at + 4096]));
    assert_eq!(bytes(&memory, 0, 8192), bytes(&disk, 3 * 4096, 8192));
    pair.done(write(255, 1, [at, 0]));
    assert_eq!(bytes(&disk, 255 * 4096, 4096), bytes(&memory, 0, 4096));
    pair.refused(read(256, 1, [at, 0]), Status::LBA_RANGE);
    pair.refused(read(255, 2, [at, at + 4096]), Status::LBA_RANGE);
}

#[test]
fn blocks_beyond_the_end_are_refused_whatever_wraps() {
    let (medium, disk) = disk(64);
    let (mut rig, mut pair) = over(medium, |n| n);
    let (at, _) = rig.page();
    let before = bytes(&disk, 0, 64 * 512);
    for lba in [64, 60, 1 << 32, 1 << 55, u64::MAX - 7, u64::MAX] {
        for opcode in [nvm::READ, nvm::WRITE, nvm::WRITE_ZEROES] {
            pair.refused(transfer(opcode, lba, 8, [at, 0]), Status::LBA_RANGE);
        }
    }
    assert_eq!(bytes(&disk, 0, 64 * 512), before);
    pair.done(read(56, 8, [at, 0]));
}

#[test]
fn the_longest_transfer_is_what_mdts_says() {
    let mut rig = Rig::new(Config { mdts: 1, ..config() });
    let mut pair = rig.pair(1, 4);
    let (at, _) = rig.client(3, DmaRights::ReadWrite);
    pair.done(read(0, 16, [at, at + 4096]));
    pair.refused(read(0, 17, [at, at + 4096]), Status::INVALID_FIELD);
    pair.refused(write(0, 17, [at, at + 4096]), Status::INVALID_FIELD);
    // Write Zeroes transfers nothing.
    pair.done(zeroes(0, 100));
}

#[test]
fn commands_that_do_not_exist_are_refused() {
    let mut rig = Rig::new(Config { dataset_management: false, write_zeroes: false, ..config() });
    let mut pair = rig.pair(1, 4);
    let (at, _) = rig.page();
    for opcode in [0x04, 0x05, 0x08, 0x09, 0x0c, 0x80, 0xff] {
        pair.refused(transfer(opcode, 0, 1, [at, 0]), Status::INVALID_OPCODE);
    }
    let mut fused = read(0, 1, [at, 0]);
    fused.flags = 1;
    pair.refused(fused, Status::INVALID_FIELD);
    for nsid in [0, 2, 300, u32::MAX] {
        let mut sqe = read(0, 1, [at, 0]);
        sqe.nsid = nsid.into();
        pair.refused(sqe, Status::INVALID_NAMESPACE);
        if nsid != u32::MAX {
            pair.refused(flush(nsid), Status::INVALID_NAMESPACE);
        }
    }
}

#[test]
fn a_write_protected_namespace_changes_by_no_command() {
    let (medium, disk) = disk(64);
    let (mut rig, mut pair) = over(medium, |n| n.read_only(true));
    let (at, memory) = rig.page();
    let before = bytes(&disk, 0, 64 * 512);
    range(&memory, 0, 0, 8);
    for sqe in [write(0, 8, [at, 0]), zeroes(0, 8), dsm(at, 1, 4)] {
        pair.refused(sqe, Status::WRITE_PROTECTED);
    }
    pair.done(flush(1));
    pair.done(read(0, 8, [at, 0]));
    assert_eq!(bytes(&disk, 0, 64 * 512), before);
}

#[test]
fn write_zeroes_makes_zeroes_of_exactly_its_blocks() {
    let (medium, disk) = disk(64);
    let (_rig, mut pair) = over(medium, |n| n);
    let before = bytes(&disk, 0, 64 * 512);
    pair.done(zeroes(5, 7));
    let after = bytes(&disk, 0, 64 * 512);
    assert!(after[5 * 512..12 * 512].iter().all(|b| *b == 0));
    assert_eq!((&after[..5 * 512], &after[12 * 512..]), (&before[..5 * 512], &before[12 * 512..]));
}

#[test]
fn deallocate_takes_all_its_ranges_or_none() {
    let (medium, disk) = disk(64);
    let (mut rig, mut pair) = over(medium, |n| n);
    let (at, memory) = rig.page();
    let before = bytes(&disk, 0, 64 * 512);
    range(&memory, 0, 0, 2);
    range(&memory, 1, 63, 2);
    pair.refused(dsm(at, 2, 4), Status::LBA_RANGE);
    assert_eq!(bytes(&disk, 0, 64 * 512), before);
    range(&memory, 1, 63, 1);
    range(&memory, 2, 10, 0);
    // Only a hint: nothing is deallocated.
    pair.done(dsm(at, 3, 3));
    assert_eq!(bytes(&disk, 0, 64 * 512), before);
    pair.done(dsm(at, 3, 4));
    let after = bytes(&disk, 0, 64 * 512);
    assert!(after[..1024].iter().chain(&after[63 * 512..]).all(|b| *b == 0));
    assert_eq!(after[1024..63 * 512], before[1024..63 * 512]);
    (0..256).for_each(|i| range(&memory, i, 20, 1));
    pair.done(dsm(at, 256, 4));
    assert!(bytes(&disk, 20 * 512, 512).iter().all(|b| *b == 0));
}

#[test]
fn power_loss_takes_what_was_not_flushed_and_leaves_what_was() {
    let cache = Arc::new(WriteCache::new(MemoryMedium::new(64 * 512).unwrap()).unwrap());
    let (mut rig, mut pair) = over(Arc::clone(&cache), |n| n);
    let (at, memory) = rig.client(2, DmaRights::ReadWrite);
    memory.fill(0, 4096, 0x11).unwrap();
    pair.done(write(0, 8, [at, 0]));
    pair.done(flush(1));
    pair.done(write(8, 8, [at, 0]));
    pair.done(fua(write(16, 8, [at, 0])));
    pair.done(zeroes(0, 8));
    pair.done(fua(zeroes(24, 8)));
    rig.handle.power_cycle();
    cache.lose_power();
    rig.enable();
    let mut pair = rig.pair(1, 4);
    for (lba, byte) in [(0, 0x11), (8, 0), (16, 0x11), (24, 0)] {
        pair.done(read(lba, 8, [at + 4096, 0]));
        assert_eq!(bytes(&memory, 4096, 4096), [byte; 4096], "{lba}");
    }
}

#[test]
fn with_the_write_cache_off_every_write_is_durable() {
    let cache = Arc::new(WriteCache::new(MemoryMedium::new(64 * 512).unwrap()).unwrap());
    let (mut rig, mut pair) = over(Arc::clone(&cache), |n| n);
    let (at, memory) = rig.page();
    memory.fill(0, 4096, 0x22).unwrap();
    pair.done(write(0, 8, [at, 0]));
    assert_eq!(cache.dirty(), 1);
    rig.done(entry(admin::SET_FEATURES, 0, [0; 2], &[u32::from(feature::WRITE_CACHE), 0]));
    assert_eq!(cache.dirty(), 0);
    pair.done(write(8, 8, [at, 0]));
    assert_eq!(cache.dirty(), 0);
    rig.done(entry(admin::SET_FEATURES, 0, [0; 2], &[u32::from(feature::WRITE_CACHE), 1]));
    pair.done(write(8, 8, [at, 0]));
    assert_eq!(cache.dirty(), 1);
    // A shutdown makes it durable.
    rig.device.write32(reg::CC, ENABLE | 1 << 14);
    assert_eq!((cache.dirty(), rig.status() >> 2 & 3), (0, 2));
}

/// A medium that fails when it is told to.
struct Failing {
    inner: MemoryMedium,
    failing: Arc<AtomicBool>,
}

impl Failing {
    fn answer(&self) -> Result<(), MediumFailed> {
        if self.failing.load(Ordering::Relaxed) { Err(MediumFailed) } else { Ok(()) }
    }
}

impl Medium for Failing {
    fn window(&self) -> &Window {
        self.inner.window()
    }
    fn flush(&self, _: u64, _: u64) -> Result<(), MediumFailed> {
        self.answer()
    }
    fn discard(&self, _: u64, _: u64) -> Result<(), MediumFailed> {
        self.answer()
    }
    fn zero(&self, _: u64, _: u64) -> Result<(), MediumFailed> {
        self.answer()
    }
}

#[test]
fn a_medium_that_fails_fails_commands_and_is_counted() {
    let failing = Arc::new(AtomicBool::new(true));
    let medium = Failing { inner: disk(64).0, failing: Arc::clone(&failing) };
    let (mut rig, mut pair) = over(medium, |n| n);
    let (at, memory) = rig.page();
    range(&memory, 0, 0, 1);
    for sqe in [flush(1), flush(u32::MAX), fua(write(0, 1, [at, 0])), zeroes(0, 1), dsm(at, 1, 4)] {
        pair.refused(sqe, Status::WRITE_FAULT);
    }
    pair.done(write(0, 1, [at, 0]));
    assert_eq!(rig.handle.statistics().media_errors, 5);
    rig.device.write32(reg::CC, ENABLE | 1 << 14);
    assert_eq!(rig.status() >> 2 & 3, 1);
    failing.store(false, Ordering::Relaxed);
    pair.done(flush(1));
}

#[test]
fn an_image_that_shrank_is_an_error_of_the_medium() {
    let (medium, disk) = disk(64);
    let (mut rig, mut pair) = over(medium, |n| n);
    let (at, _) = rig.page();
    disk.owner().fail();
    pair.refused(read(0, 1, [at, 0]), Status::READ_ERROR);
    for sqe in [write(0, 1, [at, 0]), flush(1), zeroes(0, 1)] {
        pair.refused(sqe, Status::WRITE_FAULT);
    }
}

/// Remembers which vectors fired.
#[derive(Clone, Default)]
struct Fired(Arc<Mutex<Vec<u16>>>);

impl Interrupts for Fired {
    fn raise(&self, vector: u16) {
        self.0.lock().unwrap().push(vector);
    }
}

impl Fired {
    fn take(&self) -> Vec<u16> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[test]
fn one_interrupt_is_raised_per_batch_on_the_queues_vector_unless_masked() {
    let fired = Fired::default();
    let mut rig = Rig::new(Config { interrupts: Some(Box::new(fired.clone())), ..config() });
    let mut pair = rig.pair(7, 8);
    assert_eq!(fired.take(), [0, 0]);
    let (at, _) = rig.page();
    (0..3).for_each(|_| {
        let _ = pair.submit(read(0, 1, [at, 0]));
    });
    pair.run();
    assert_eq!(fired.take(), [7]);
    rig.device.write32(reg::INTMS, 1 << 7 | 1);
    assert_eq!(rig.device.read32(reg::INTMC), 1 << 7 | 1);
    pair.submit(read(0, 1, [at, 0]));
    pair.run();
    rig.done(identify(1, 0, at));
    assert!(fired.take().is_empty());
    rig.device.write32(reg::INTMC, 1 << 7);
    assert_eq!(fired.take(), [7]);
    rig.device.write32(reg::INTMC, u32::MAX);
    assert_eq!(fired.take(), [0]);
}

#[test]
fn a_queue_without_interrupts_raises_none() {
    let fired = Fired::default();
    let mut rig = Rig::new(Config { interrupts: Some(Box::new(fired.clone())), ..config() });
    let (at, _) = rig.page();
    let mut pair = rig.pair(2, 8);
    rig.done(delete_sq(2));
    rig.done(delete_cq(2));
    let mut sqe = create_cq(2, 8, pair.ring.cq.iova().0);
    sqe.cdw[1] = (2u32 << 16 | 1).into();
    rig.done(sqe);
    rig.done(create_sq(2, 8, pair.ring.sq.iova().0, 2));
    pair.doorbells = nvme_platform::Device::doorbells(&mut rig.device, 2, 4).unwrap();
    fired.take();
    pair.done(read(0, 1, [at, 0]));
    assert!(fired.take().is_empty());
}
