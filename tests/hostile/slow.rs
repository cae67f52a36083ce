//! Files that take long to be sealed, mapped, unmapped and closed: their own client waits, and nobody else.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvme_client::message::{RegionWords, request};
use nvme_client::{FrontEnd, memfd};
use rustix::fs::{FallocateFlags, fallocate};

use crate::rig::{Rig, Setup, WAIT, attack, attack_on};

const LEN: u64 = 1 << 30;
const THREADS: usize = 8;

/// Allocates and punches in a loop, in so many threads, while something else is done: whoever wants the file's lock waits for
/// all of them.
fn while_busy(file: &OwnedFd, work: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for n in 0..THREADS as u64 {
            let stop = &stop;
            scope.spawn(move || {
                let (at, len) = (n * (LEN / THREADS as u64), LEN / THREADS as u64);
                while !stop.load(Ordering::Relaxed) {
                    let _ = fallocate(file, FallocateFlags::KEEP_SIZE, at, len);
                    let hole = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE;
                    let _ = fallocate(file, hole, at, len);
                }
            });
        }
        // Also when what follows fails.
        let _stop = Stop(&stop);
        std::thread::sleep(Duration::from_millis(100));
        work();
    });
}

fn front(session: OwnedFd) -> FrontEnd {
    let mut front = FrontEnd::from_fd(session, WAIT);
    let features = front.features().unwrap();
    front.set_protocol_features(front.protocol_features().unwrap()).unwrap();
    assert_ne!(features & 1 << 30, 0);
    front.set_owner().unwrap();
    front
}

/// How long anybody else's `create` takes, with what comes first of a session: the median, and the worst.
fn creates(rig: &Rig, times: usize) -> (Duration, Duration) {
    let mut took: Vec<Duration> = (0..times)
        .map(|_| {
            let start = Instant::now();
            let session = rig.create(&["device=partlabel:before", "read-only"]);
            assert_ne!(FrontEnd::from_fd(session, WAIT).features().unwrap(), 0);
            start.elapsed()
        })
        .collect();
    took.sort();
    (took[times / 2], took[times - 1])
}

#[test]
fn threads_that_do_what_one_client_makes_take_long_have_no_more_of_the_processors_than_others() {
    let starter = &["nice", "-n", "-5"];
    attack_on(Setup { starter, ..Setup::default() }, |rig| {
        let nice = |of: &str| {
            let threads = rig.threads();
            let found: Vec<i32> =
                threads.iter().filter(|(name, _)| name.starts_with(of)).map(|(_, nice)| *nice).collect();
            assert!(!found.is_empty(), "{of}: {threads:?}");
            found
        };
        let main = nice("nvme-drv")[0];
        if main == 0 {
            eprintln!("skipped: who runs this may not have a server start with more");
            return;
        }
        assert!(nice("worker").iter().chain(&nice("watch")).all(|nice| *nice == main), "{:?}", rig.threads());
        // Some of them may not have begun.
        let deadline = Instant::now() + WAIT;
        for of in ["lane", "foreign", "close", "notify", "apart"] {
            while nice(of).iter().any(|nice| *nice != 0) {
                assert!(Instant::now() < deadline, "{of}: {:?}", rig.threads());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
}

#[test]
fn a_file_that_is_busy_while_it_is_registered_holds_up_its_own_client_only() {
    attack(|rig| {
        let file = memfd(LEN, false).unwrap();
        let front = front(rig.create(&["device=partlabel:attack"]));
        let end = AtomicBool::new(false);
        while_busy(&file, || {
            std::thread::scope(|scope| {
                let registering = scope.spawn(|| {
                    let mut most = Duration::ZERO;
                    let words = RegionWords { guest: 0, size: LEN, user: 0, offset: 0 };
                    while !end.load(Ordering::Relaxed) {
                        let start = Instant::now();
                        // It may take too long, and is refused then.
                        if front.add_mem_reg(words, file.as_fd()).is_ok() {
                            front.rem_mem_reg(words).unwrap();
                        }
                        most = most.max(start.elapsed());
                    }
                    most
                });
                let began = Instant::now();
                let (mut all, mut worst) = (Vec::new(), Duration::ZERO);
                while began.elapsed() < Duration::from_secs(4) {
                    let (median, longest) = creates(rig, 5);
                    all.push(median);
                    worst = worst.max(longest);
                }
                end.store(true, Ordering::Relaxed);
                all.sort();
                let median = all[all.len() / 2];
                let own = registering.join().unwrap();
                eprintln!("creates: median {median:?}, worst {worst:?}; the busy file's own {own:?}");
                assert!(median < Duration::from_millis(100), "median {median:?}, worst {worst:?}");
                assert!(worst < Duration::from_secs(2), "median {median:?}, worst {worst:?}");
                rig.goes_on();
            });
        });
    });
}

#[test]
fn large_memory_that_comes_and_goes_holds_up_its_own_client_only() {
    attack(|rig| {
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let coming = scope.spawn(|| {
                let words = RegionWords { guest: 0, size: LEN, user: 0, offset: 0 };
                let mut rounds = 0;
                while !end.load(Ordering::Relaxed) {
                    // The server has its last descriptor and its last mapping: its pages are freed there.
                    let file = memfd(LEN, false).unwrap();
                    fallocate(&file, FallocateFlags::empty(), 0, LEN).unwrap();
                    let front = front(rig.create(&["device=partlabel:attack"]));
                    front.add_mem_reg(words, file.as_fd()).unwrap();
                    // Not as memory: it is refused, and closed.
                    let _ = front.command(request::SET_OWNER, &[], &[file.as_fd()]);
                    drop(file);
                    rounds += 1;
                }
                rounds
            });
            let mut all = Vec::new();
            for _ in 0..20 {
                all.push(creates(rig, 5));
            }
            end.store(true, Ordering::Relaxed);
            all.sort();
            let (median, worst) = (all[10].0, all.iter().map(|t| t.1).max().unwrap());
            let rounds = coming.join().unwrap();
            eprintln!("creates: median {median:?}, worst {worst:?}; {rounds} rounds");
            assert!(rounds > 0 && median < Duration::from_millis(100), "median {median:?}, worst {worst:?}");
        });
    });
}

#[test]
fn a_client_that_sends_more_before_the_last_is_looked_at_is_the_only_one_to_lose() {
    attack(|rig| {
        let file = memfd(LEN, false).unwrap();
        while_busy(&file, || {
            // None of them waits for an answer.
            for _ in 0..8 {
                let front = front(rig.create(&["device=partlabel:after", "read-only"]));
                let words = RegionWords { guest: 0, size: LEN, user: 0, offset: 0 };
                let payload = [0, words.guest, words.size, words.user, words.offset].map(u64::to_ne_bytes);
                for _ in 0..20 {
                    let payload = payload.concat();
                    let sent = front.send(request::ADD_MEM_REG, 1, &payload, &[file.as_fd()]);
                    if sent.is_err() {
                        break;
                    }
                }
            }
            let (median, _) = creates(rig, 9);
            assert!(median < Duration::from_millis(200), "{median:?}");
        });
    });
}
