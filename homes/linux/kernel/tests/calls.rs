//! What a client does with its call eventfd, from outside: the thread that signals it must come on.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nvme_linux::events::{Account, CallNotify, guard_calls, guard_this_thread};
use nvme_platform::Notify;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

const FULL: u64 = u64::MAX - 1;

fn fill(fd: &OwnedFd) {
    rustix::io::write(fd, &FULL.to_ne_bytes()).unwrap();
}

fn take(fd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count).unwrap();
    u64::from_ne_bytes(count)
}

fn has_room(fd: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(fd, PollFlags::OUT)];
    poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
        && ready[0].revents().contains(PollFlags::OUT)
}

/// When a thread that is stuck fails the test, where it would hang it. What it proves does not depend on this: a machine that is
/// busy with other things is slow, and nobody is stuck.
const HANG: Duration = Duration::from_secs(300);

/// How long this thread has run so far, or has wanted to and had no processor.
fn busy() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let numbers = text.split_whitespace().take(2).filter_map(|n| n.parse::<u64>().ok());
    Duration::from_nanos(numbers.sum())
}

/// What a thread did, and how long it waited in the kernel meanwhile: for a client, and not for a processor.
struct Done<T> {
    what: T,
    waited: Duration,
}

fn timed<T>(what: impl FnOnce() -> T) -> Done<T> {
    let (start, before) = (Instant::now(), busy());
    let what = what();
    let waited = start.elapsed().saturating_sub(busy() - before);
    Done { what, waited }
}

/// Signals from a thread of its own, as a worker does, until `what` says that it is enough.
fn worker<T: Send + 'static>(
    fd: &OwnedFd,
    what: impl FnOnce(CallNotify) -> T + Send + 'static,
) -> JoinHandle<Done<T>> {
    let call = CallNotify::new(Some(fd.try_clone().unwrap()), None, &Account::new("session")).unwrap();
    guard_calls().unwrap();
    thread::spawn(move || {
        guard_this_thread();
        timed(|| what(call))
    })
}

/// Joins one that waited for no longer than that.
fn join<T>(thread: JoinHandle<Done<T>>, limit: Duration) -> T {
    let until = Instant::now() + HANG;
    while !thread.is_finished() {
        assert!(Instant::now() < until, "the worker is stuck");
        thread::sleep(Duration::from_millis(5));
    }
    let Done { what, waited } = thread.join().unwrap();
    assert!(waited < limit, "the worker waited {waited:?}");
    what
}

#[test]
fn a_blocking_eventfd_that_stays_full_does_not_hold_the_worker() {
    let fd = eventfd(0, EventfdFlags::empty()).unwrap();
    fill(&fd);
    let calls = worker(&fd, |call| (0..20_000).for_each(|_| call.used()));
    // Each of them alone would wait for ever.
    join(calls, Duration::from_secs(20));
    assert!(!has_room(&fd), "nobody has read it");
}

#[test]
fn a_client_that_lets_each_write_wait_a_little_wins_little_time() {
    let fd = Arc::new(eventfd(0, EventfdFlags::empty()).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let client = thread::spawn({
        let (fd, stop) = (fd.clone(), stop.clone());
        move || {
            // Shorter than what is interrupted, and full again at once.
            while !stop.load(Ordering::Relaxed) {
                if has_room(&fd) {
                    rustix::io::ioctl_fionbio(&*fd, true).unwrap();
                    let _ = rustix::io::read(&*fd, &mut [0; 8]);
                    let _ = rustix::io::write(&*fd, &FULL.to_ne_bytes());
                    rustix::io::ioctl_fionbio(&*fd, false).unwrap();
                }
                thread::sleep(Duration::from_millis(5));
                rustix::io::ioctl_fionbio(&*fd, true).unwrap();
                let _ = rustix::io::read(&*fd, &mut [0; 8]);
                let _ = rustix::io::write(&*fd, &FULL.to_ne_bytes());
                rustix::io::ioctl_fionbio(&*fd, false).unwrap();
            }
        }
    });
    // Were every write to wait for the client, this would take 50 s and more.
    let calls = worker(&fd, |call| (0..10_000).for_each(|_| call.used()));
    join(calls, Duration::from_secs(20));
    stop.store(true, Ordering::Relaxed);
    client.join().unwrap();
}

#[test]
fn every_signal_counts_while_there_is_room() {
    let fd = eventfd(0, EventfdFlags::empty()).unwrap();
    let other = eventfd(0, EventfdFlags::empty()).unwrap();
    fill(&other);
    let hostile = CallNotify::new(Some(other.try_clone().unwrap()), None, &Account::new("hostile")).unwrap();
    // Before, while and after the worker has no time to lose any more.
    let calls = worker(&fd, move |call| {
        (0..100).for_each(|_| call.used());
        (0..100).for_each(|_| hostile.used());
        (0..100).for_each(|_| call.used());
    });
    join(calls, Duration::from_secs(20));
    assert_eq!(take(&fd), 200);
}

#[test]
fn the_watch_wakes_again_after_it_slept() {
    let fd = eventfd(0, EventfdFlags::empty()).unwrap();
    let calls = worker(&fd, {
        let fd = fd.try_clone().unwrap();
        move |call| {
            call.used();
            thread::sleep(Duration::from_millis(1500));
            fill_from_one(&fd);
            call.used();
        }
    });
    join(calls, Duration::from_secs(20));
    assert_eq!(take(&fd), FULL);
}

fn fill_from_one(fd: &OwnedFd) {
    rustix::io::write(fd, &(FULL - 1).to_ne_bytes()).unwrap();
}

/// An eventfd that a hundred sets wait for a hundred times each.
fn watched_by_many() -> (std::sync::Arc<Account>, CallNotify, OwnedFd, Vec<OwnedFd>) {
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let mut held: Vec<_> = (0..100).map(|_| fd.try_clone().unwrap()).collect();
    let sets: Vec<_> = (0..100).map(|_| epoll::create(CreateFlags::CLOEXEC).unwrap()).collect();
    for set in &sets {
        for copy in &held {
            epoll::add(set, copy, EventData::new_u64(0), EventFlags::IN).unwrap();
        }
    }
    held.extend(sets);
    let account = Account::new("session");
    let call = CallNotify::new(Some(fd.try_clone().unwrap()), None, &account).unwrap();
    (account, call, fd, held)
}

#[test]
fn an_eventfd_that_very_many_wait_for_is_soon_signalled_by_another_thread() {
    let (account, call, fd, _sets) = watched_by_many();
    guard_calls().unwrap();
    let own =
        || std::time::Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime));
    let calls = thread::spawn(move || {
        guard_this_thread();
        timed(|| {
            let start = own().unwrap();
            (0..5000).for_each(|_| call.used());
            (own().unwrap() - start, call)
        })
    });
    let (spent, call) = join(calls, Duration::from_secs(60));
    assert!(account.is_over() && spent < Duration::from_millis(200), "{spent:?}");
    // And it is told still.
    let until = Instant::now() + HANG;
    let mut count = [0; 8];
    let _ = rustix::io::read(&fd, &mut count);
    call.used();
    while rustix::io::read(&fd, &mut count).is_err() {
        assert!(Instant::now() < until, "the last signal was lost");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What the thread that sends slow notifications had of a processor.
fn sender_ran() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let is_sender = |task: &std::path::PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "notify")
    };
    let stat = std::fs::read_to_string(tasks.into_iter().find(is_sender).unwrap().join("schedstat")).unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

#[test]
fn signals_that_take_long_have_a_part_of_a_processor_and_no_more() {
    guard_calls().unwrap();
    let sessions: Vec<_> = (0..4).map(|_| watched_by_many()).collect();
    let calls = thread::spawn(move || {
        guard_this_thread();
        let all = |until: Instant| {
            while Instant::now() < until {
                sessions.iter().for_each(|(_, call, ..)| call.used());
            }
        };
        // Until they are over.
        let until = Instant::now() + HANG;
        while !sessions.iter().all(|(account, ..)| account.is_over()) {
            all(Instant::now() + Duration::from_millis(10));
            assert!(Instant::now() < until);
        }
        let (start, before) = (Instant::now(), sender_ran());
        all(start + Duration::from_secs(2));
        let part = (sender_ran() - before).as_secs_f64() / start.elapsed().as_secs_f64();
        let told = sessions.iter().filter(|(.., fd, _)| rustix::io::read(fd, &mut [0; 8]).is_ok());
        (part, told.count())
    });
    let (part, told) = calls.join().unwrap();
    assert!(part < 0.3 && told == 4, "{part} of a processor, {told} told");
}

#[test]
fn who_waits_for_a_client_is_told_from_who_waits_for_a_processor() {
    let slept = timed(|| thread::sleep(Duration::from_millis(300)));
    assert!(slept.waited >= Duration::from_millis(290), "{:?}", slept.waited);
    let start = Instant::now();
    let ran = timed(|| while start.elapsed() < Duration::from_millis(300) {});
    assert!(ran.waited < Duration::from_millis(100), "{:?}", ran.waited);
}

#[test]
fn an_eventfd_that_one_waits_for_is_signalled_at_once_for_good() {
    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let account = Account::new("session");
    let call = CallNotify::new(Some(fd.try_clone().unwrap()), None, &account).unwrap();
    guard_calls().unwrap();
    let calls = thread::spawn(move || {
        guard_this_thread();
        timed(|| (0..100_000).for_each(|_| call.used()))
    });
    join(calls, Duration::from_secs(60));
    assert!(!account.is_over());
    assert_eq!(take(&fd), 100_000);
}
