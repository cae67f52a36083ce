//! What a client does with its call eventfd, from outside: the thread that signals it must come on.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nvme_client::watchers::{processor_time, watch_until, write_takes};
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
        call
    });
    let _call = join(calls, Duration::from_secs(20));
    told(&fd, 200);
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

/// Has so many wait for it that a write takes so long at least.
fn watch(fd: &OwnedFd, cost: Duration) -> Vec<OwnedFd> {
    watch_until(fd.as_fd(), cost).unwrap()
}

/// One that many wait for: it takes a third of a millisecond.
fn watched_by_many() -> (Arc<Account>, CallNotify, OwnedFd, Vec<OwnedFd>) {
    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let held = watch(&fd, Duration::from_micros(330));
    let account = Account::new("session");
    let call = CallNotify::new(Some(fd.try_clone().unwrap()), None, &account).unwrap();
    (account, call, fd, held)
}

/// Waits until that is so.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + HANG;
    while !is() {
        assert!(Instant::now() < until, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until it was told so often, by whomever.
fn told(fd: &OwnedFd, count: u64) {
    let mut all = 0;
    let until = Instant::now() + HANG;
    while all < count {
        assert!(Instant::now() < until, "told {all} times of {count}");
        let mut ready = [PollFd::new(fd, PollFlags::IN)];
        if poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 })).unwrap() == 1 {
            all += take(fd);
        }
    }
    assert_eq!(all, count);
}

#[test]
fn a_write_of_0_wakes_all_who_wait_and_counts_nothing() {
    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let _sets = watch(&fd, Duration::from_micros(500));
    assert!(rustix::io::read(&fd, &mut [0; 8]).is_err());
    rustix::io::write(&fd, &1u64.to_ne_bytes()).unwrap();
    assert!(write_takes(fd.as_fd()).unwrap() >= Duration::from_micros(250));
    assert_eq!(take(&fd), 1);
    fill(&fd);
    rustix::io::write(&fd, &0u64.to_ne_bytes()).unwrap();
    assert_eq!(take(&fd), FULL);
}

#[test]
fn an_eventfd_that_very_many_wait_for_is_soon_signalled_by_another_thread() {
    let (account, call, fd, _sets) = watched_by_many();
    guard_calls().unwrap();
    let calls = thread::spawn(move || {
        guard_this_thread();
        timed(|| {
            let (start, begin) = (processor_time(), Instant::now());
            // Until it is looked at, the other thread sends them, too.
            while !account.is_over() && begin.elapsed() < HANG {
                call.used();
            }
            (0..5000).for_each(|_| call.used());
            (processor_time() - start, account.is_over(), call)
        })
    });
    let (spent, is_over, call) = join(calls, Duration::from_secs(60));
    assert!(is_over && spent < Duration::from_millis(200), "{spent:?}");
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

#[test]
fn what_it_takes_to_tell_a_client_is_known_before_a_worker_does() {
    guard_calls().unwrap();
    guard_this_thread();
    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    // As little as a thread may meet that has cold caches, and less than what ends a session.
    let sets = watch(&fd, Duration::from_micros(1300));
    let account = Account::new("session");
    let start = processor_time();
    let call = CallNotify::new(Some(fd.try_clone().unwrap()), None, &account).unwrap();
    let mut longest = processor_time() - start;
    for _ in 0..200 {
        let start = processor_time();
        call.used();
        longest = longest.max(processor_time() - start);
        thread::sleep(Duration::from_micros(50));
    }
    // Not one that it makes itself: each takes as much.
    assert!(longest < Duration::from_micros(1300), "{longest:?}");
    until("it is not known what it takes", || account.is_over());
    assert_eq!(account.ended(), None);
    drop(sets);
    until("it is told nothing", || rustix::io::read(&fd, &mut [0; 8]).is_ok());
}

#[test]
fn a_client_for_whom_one_notification_takes_as_long_as_anybody_may_wait_is_ended() {
    guard_calls().unwrap();
    guard_this_thread();
    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let _sets = watch(&fd, Duration::from_millis(12));
    let account = Account::new("session");
    let call = CallNotify::new(Some(fd.try_clone().unwrap()), None, &account).unwrap();
    let start = processor_time();
    until("it is not ended", || {
        call.used();
        account.ended().is_some()
    });
    assert!(account.ended() >= Some(Duration::from_millis(5)), "{:?}", account.ended());
    assert!(processor_time() - start < Duration::from_secs(1) && account.is_over());
    // Nobody tells it anything more; and whoever comes next begins anew, after a while.
    let _ = rustix::io::read(&fd, &mut [0; 8]);
    call.used();
    thread::sleep(Duration::from_millis(50));
    assert!(rustix::io::read(&fd, &mut [0; 8]).is_err());
    let next = account.next();
    assert!(!next.is_over() && next.ended().is_none());
}

#[test]
fn those_who_come_to_wait_later_hold_a_worker_up_once() {
    guard_calls().unwrap();
    guard_this_thread();
    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let account = Account::new("session");
    let call = CallNotify::new(Some(fd.try_clone().unwrap()), None, &account).unwrap();
    for _ in 0..10 {
        call.used();
        told(&fd, 1);
    }
    assert!(!account.is_over());
    let _sets = watch(&fd, Duration::from_millis(12));
    let mut held_up = 0;
    until("it is not ended", || {
        let start = processor_time();
        call.used();
        held_up += u32::from(processor_time() - start > Duration::from_millis(5));
        account.ended().is_some()
    });
    // None where it was being looked at just then.
    assert!(held_up <= 1, "{held_up}: one wait is accepted");
}

#[test]
fn a_client_whose_eventfd_a_few_threads_wait_for_is_told_at_once_whatever_else_the_machine_does() {
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

    guard_calls().unwrap();
    guard_this_thread();
    let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let (account, stop) = (Account::new("session"), AtomicBool::new(false));
    let call = CallNotify::new(Some(fd.try_clone().unwrap()), None, &account).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let set = epoll::create(CreateFlags::CLOEXEC).unwrap();
                epoll::add(&set, &fd, EventData::new_u64(0), EventFlags::IN | EventFlags::ET).unwrap();
                let mut events = Vec::with_capacity(1);
                let wait = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                while !stop.load(Ordering::Relaxed) {
                    let _ = epoll::wait(&set, rustix::buffer::spare_capacity(&mut events), Some(&wait));
                    events.clear();
                }
            });
        }
        let busy = thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..2 * busy {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop()
                }
            });
        }
        (0..20_000).for_each(|_| call.used());
        stop.store(true, Ordering::Relaxed);
    });
    told(&fd, 20_000);
    assert!(!account.is_over());
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
        timed(|| {
            (0..100_000).for_each(|_| call.used());
            call
        })
    });
    let _call = join(calls, Duration::from_secs(60));
    assert!(!account.is_over());
    told(&fd, 100_000);
}
