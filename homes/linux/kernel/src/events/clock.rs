//! The clock, and what a thread had of the processor.
#![expect(unsafe_code, reason = "asks how often a thread waited")]

use std::cell::Cell;
use std::time::Duration;

use nvme_platform::{Clock, Time};
use rustix::time::{ClockId, clock_gettime};

/// The time on the monotonic clock. No system call where the vDSO serves it.
pub fn now() -> Time {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// What the calling thread has had of the processor.
pub(super) fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// How often the calling thread gave the processor up because it had to wait, and how often it had memory brought.
fn waits_and_faults() -> (i64, u64) {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: a place for what is asked for.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    // SAFETY: it was all zeroes, which is a value of it, and the call leaves a value there or nothing.
    let usage = unsafe { usage.assume_init() };
    (usage.ru_nvcsw, (usage.ru_minflt + usage.ru_majflt).cast_unsigned())
}

thread_local! {
    /// What the calling thread did on purpose: faults, and how long it took.
    static MEANT: Cell<(u64, Duration)> = const { Cell::new((0, Duration::ZERO)) };
}

/// Does something that brings memory because it is to: the clock of this thread counts neither its faults nor its time.
pub(crate) fn bringing<R>(work: impl FnOnce() -> R) -> R {
    let (before, began) = (waits_and_faults().1, now());
    let result = work();
    let (faults, took) = MEANT.get();
    MEANT.set((faults + waits_and_faults().1.saturating_sub(before), took + (now() - began)));
    result
}

/// The clock of one thread, which knows when other programs had the processor in its place: while the thread neither ran, nor
/// slept as it wanted to, nor waited for anything else.
#[derive(Debug)]
pub struct ThreadClock {
    last: Cell<Look>,
    /// How long it slept, and how often.
    slept: Cell<(Duration, i64)>,
    preempted: Cell<Duration>,
    faults: Cell<u64>,
}

/// What was known when it was looked.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Time,
    /// What the thread had had of the processor.
    ran: Duration,
    slept: Duration,
    /// How often it had waited, its own sleep not counted.
    waits: i64,
}

impl ThreadClock {
    /// The calling thread's.
    pub fn of_this_thread() -> Self {
        let (waits, faults) = waits_and_faults();
        let look = Look { at: now(), ran: processor_time(), slept: Duration::ZERO, waits };
        let (slept, preempted) = (Cell::default(), Cell::default());
        let faults = Cell::new(faults.saturating_sub(MEANT.get().0));
        Self { last: Cell::new(look), slept, preempted, faults }
    }

    /// The thread slept for so long because it wanted to.
    pub fn slept(&self, time: Duration) {
        let (all, times) = self.slept.get();
        self.slept.set((all + time, times + 1));
    }
}

impl Clock for ThreadClock {
    fn now(&self) -> Time {
        now()
    }

    /// At least so long. Of the time between two looks in which the thread waited for something nothing is known.
    fn preempted(&self) -> Duration {
        let (slept, sleeps) = self.slept.get();
        let (waits, faults) = waits_and_faults();
        self.faults.set(faults.saturating_sub(MEANT.get().0));
        let look = Look { at: now(), ran: processor_time(), slept, waits: waits - sleeps };
        let last = self.last.replace(look);
        if look.waits <= last.waits {
            let had = look.ran.saturating_sub(last.ran) + look.slept.saturating_sub(last.slept);
            self.preempted.set(self.preempted.get() + (look.at - last.at).saturating_sub(had));
        }
        self.preempted.get() + MEANT.get().1
    }

    fn faults(&self) -> u64 {
        self.faults.get()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use nvme_platform::Clock;

    use super::{ThreadClock, now};

    #[test]
    fn time_that_others_had_is_told_from_time_that_was_waited() {
        let clock = ThreadClock::of_this_thread();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(clock.preempted(), Duration::ZERO, "it waited");
        let begin = Instant::now();
        std::thread::sleep(Duration::from_millis(20));
        clock.slept(begin.elapsed());
        assert!(clock.preempted() < Duration::from_millis(10), "it slept");
        // On one processor, with another thread that wants it as well.
        let mut one = rustix::thread::CpuSet::new();
        let before = rustix::thread::sched_getaffinity(None).unwrap();
        one.set((0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu)).unwrap());
        rustix::thread::sched_setaffinity(None, &one).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let other = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || while !stop.load(Ordering::Relaxed) {}
        });
        let (begin, mut lost) = (Instant::now(), Duration::ZERO);
        while begin.elapsed() < Duration::from_secs(10) && lost < Duration::from_millis(2) {
            let until = Instant::now() + Duration::from_millis(50);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            lost = clock.preempted();
        }
        stop.store(true, Ordering::Relaxed);
        other.join().unwrap();
        assert!(lost >= Duration::from_millis(2), "{lost:?}");
        assert!(lost <= begin.elapsed());
    }

    #[test]
    fn time_goes_forward() {
        let first = now();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!((now() - first).as_millis() >= 2);
    }
}
