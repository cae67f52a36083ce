//! What control takes away while an engine on another thread is at work.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nvme_platform::{Device, DmaRights, DmaSpace, Iova, Registers, Time};
use nvme_soft::Config;
use nvme_soft::wire::{Status, reg};

use crate::driver::*;

/// Keeps a pair busy with reads into `at` on a thread of its own until told to stop; says how many completed.
fn busy(mut pair: Pair, at: u64, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> thread::JoinHandle<Pair> {
    thread::spawn(move || {
        let mut outstanding = 0;
        while !stop.load(Ordering::Relaxed) {
            while outstanding < 7 {
                pair.submit(read(0, 8, [at, 0]));
                outstanding += 1;
            }
            pair.run();
            while pair.pop().is_some() {
                outstanding -= 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
        pair
    })
}

fn await_progress(done: &AtomicU64) {
    let (start, since) = (done.load(Ordering::Relaxed), Instant::now());
    while done.load(Ordering::Relaxed) < start + 20 {
        assert!(since.elapsed() < Duration::from_secs(20), "the engine does not go on");
        thread::yield_now();
    }
}

fn yielding() -> Config {
    Config { pause: thread::yield_now, ..config() }
}

#[test]
fn after_a_deletion_no_engine_touches_memory() {
    let mut rig = Rig::new(yielding());
    let (at, memory) = rig.page();
    for _ in 0..50 {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let engine = busy(rig.pair(1, 8), at, Arc::clone(&stop), Arc::clone(&done));
        await_progress(&done);
        rig.done(delete_sq(1));
        memory.fill(0, 4096, 0x5a).unwrap();
        thread::yield_now();
        assert!(bytes(&memory, 0, 4096).iter().all(|b| *b == 0x5a));
        stop.store(true, Ordering::Relaxed);
        engine.join().unwrap();
        assert!(bytes(&memory, 0, 4096).iter().all(|b| *b == 0x5a));
        rig.done(delete_cq(1));
    }
}

#[test]
fn after_a_disable_no_engine_touches_memory() {
    let mut rig = Rig::new(yielding());
    let (at, memory) = rig.page();
    for _ in 0..30 {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let engine = busy(rig.pair(3, 8), at, Arc::clone(&stop), Arc::clone(&done));
        await_progress(&done);
        rig.device.write32(reg::CC, 0);
        assert_eq!(rig.status(), 0);
        memory.fill(0, 4096, 0x5a).unwrap();
        stop.store(true, Ordering::Relaxed);
        engine.join().unwrap();
        assert!(bytes(&memory, 0, 4096).iter().all(|b| *b == 0x5a));
        rig.enable();
    }
}

#[test]
fn after_an_unmap_no_engine_touches_memory_and_nobody_keeps_it() {
    let mut rig = Rig::new(yielding());
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (kept, _) = rig.page();
    let engine = busy(rig.pair(1, 8), kept, Arc::clone(&stop), Arc::clone(&done));
    let mut pair = rig.pair(2, 8);
    for _ in 0..50 {
        let (at, memory) = rig.page();
        await_progress(&done);
        pair.done(read(0, 8, [at, 0]));
        rig.unmap(at, 1);
        assert_eq!(Arc::strong_count(memory.owner()), 1);
        pair.refused(read(0, 8, [at, 0]), Status::DATA_TRANSFER);
    }
    stop.store(true, Ordering::Relaxed);
    engine.join().unwrap();
}

#[test]
fn what_is_mapped_while_an_engine_runs_is_there_for_the_next_command() {
    let mut rig = Rig::new(yielding());
    let mut pair = rig.pair(1, 8);
    let (to, from): (mpsc::Sender<u64>, _) = channel();
    let engine = thread::spawn(move || {
        for at in from {
            pair.done(read(0, 8, [at, 0]));
        }
    });
    let mut ranges = Vec::new();
    for _ in 0..200 {
        let page = nvme_mem::heap(4096).unwrap();
        let at = rig.device.reserve(&page, DmaRights::ReadWrite).unwrap();
        rig.device.map(at, &page, DmaRights::ReadWrite).unwrap();
        to.send(at.0).unwrap();
        ranges.push(at);
    }
    drop(to);
    engine.join().unwrap();
    for Iova(at) in ranges {
        rig.unmap(at, 1);
    }
    assert_eq!(rig.handle.statistics().reads, 200);
}

#[test]
fn a_removed_namespace_is_let_go_of_while_an_engine_runs() {
    let mut rig = Rig::new(yielding());
    let (at, _) = rig.page();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let engine = busy(rig.pair(1, 8), at, Arc::clone(&stop), Arc::clone(&done));
    for _ in 0..20 {
        let medium = Arc::new(nvme_soft::MemoryMedium::new(8 * 512).unwrap());
        rig.handle.add(2, nvme_soft::NamespaceConfig::new(medium.clone())).unwrap();
        await_progress(&done);
        assert!(rig.handle.remove(2));
        assert_eq!(Arc::strong_count(&medium), 1);
    }
    stop.store(true, Ordering::Relaxed);
    engine.join().unwrap();
}

#[test]
fn engines_of_queues_that_share_a_completion_queue_lose_nothing() {
    let mut rig = Rig::new(yielding());
    let (at, _) = rig.page();
    let ring = Ring::new(&mut rig.device, 64, 128);
    rig.done(create_cq(1, 128, ring.cq.iova().0));
    let mut engines = Vec::new();
    for id in 1..=2 {
        let memory = Ring::new(&mut rig.device, 64, 2);
        rig.done(create_sq(id, 64, memory.sq.iova().0, 1));
        let doorbells = rig.device.doorbells(id, 4).unwrap();
        engines.push(Pair { ring: memory, doorbells, now: Time::default() });
    }
    let threads: Vec<_> = engines
        .into_iter()
        .map(|mut pair| {
            thread::spawn(move || {
                (0..60).for_each(|_| {
                    let _ = pair.submit(read(0, 8, [at, 0]));
                });
                while pair.run().is_some() {
                    thread::yield_now();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    let mut ring = ring;
    let mut counts = [0; 3];
    while let Some(cqe) = ring.pop() {
        counts[usize::from(cqe.sq_id.get())] += 1;
    }
    assert_eq!(counts, [0, 60, 60]);
}

#[test]
fn apart_commands_run_on_the_engines_thread_when_it_is_woken() {
    let (wake, woken) = mpsc::sync_channel(1);
    let apart: Box<dyn Fn() + Send + Sync> = Box::new(move || {
        let _ = wake.try_send(());
    });
    let mut rig = Rig::new(Config { apart: Some(apart), ..yielding() });
    let mut engine = rig.device.engine();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            while engine.run(32, Time::default()).is_some() {}
            let _ = woken.recv_timeout(Duration::from_millis(100));
        }
    });
    let mut pair = rig.pair(1, 8);
    let (at, _) = rig.page();
    for _ in 0..50 {
        pair.submit(read(0, 8, [at, 0]));
        assert_eq!(pair.run(), None);
        let since = Instant::now();
        let cqe = loop {
            if let Some(cqe) = pair.pop() {
                break cqe;
            }
            assert!(since.elapsed() < Duration::from_secs(20));
            thread::yield_now();
        };
        expect(&cqe, Status::SUCCESS);
    }
    rig.done(delete_sq(1));
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}
