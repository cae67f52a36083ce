//! Writes into eventfds that a client could make wait.
//!
//! A client can have its eventfd blocking and its counter full whenever it likes, and the kernel has no write to an eventfd
//! that neither waits nor depends on the flags, which are the client's. So:
//!
//! * a worker just writes, one system call, and says before and after in a slot of its own that it does. A thread
//!   that watches the slots interrupts a write that takes longer than [`TICK`] with a signal. A write that would wait fails
//!   then; its counter is full, so its client has been told;
//! * the time that a worker loses in slow writes has a budget of [`SHARE`] of its time. While that is spent, notifications go
//!   by another way, which never waits and costs three times as much ([`Submissions`]).
//!
//! The watching thread sleeps while nobody writes, and is woken by the first write after that.
//!
//! It watches over closing as well ([`bounded`]): a socket that its sender told to linger makes whoever closes it last wait for as long as the
//! sender likes, unless a signal comes.
#![expect(unsafe_code, reason = "handles and sends a signal")]

use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use nvme_platform::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::clock::now;
use super::submission::Submissions;

/// A write that is found waiting at two ticks is interrupted.
const TICK: Duration = Duration::from_millis(25);
/// After so many ticks without a write, the watching thread goes to sleep.
const CALM: u32 = 40;
/// A write that takes longer counts. One that wakes a thread takes a tenth of it.
pub(super) const SLOW: Duration = Duration::from_micros(50);
/// One part in so many of a worker's time may be lost in slow writes.
const SHARE: u32 = 25;
/// As much may be lost at once: three writes that had to be interrupted.
const BURST: Duration = Duration::from_millis(100);
/// Interrupts. It is ignored where there is no handler.
const SIGNAL: libc::c_int = libc::SIGURG;

/// What a worker is doing, for the watching thread.
#[derive(Debug)]
struct Slot {
    /// Writes that were begun and ended: odd while one is on its way.
    writes: AtomicU64,
    /// The processor on which it was when it told somebody last.
    place: AtomicUsize,
    thread: libc::pid_t,
}

/// It has told nobody.
const NO_PLACE: usize = usize::MAX;

#[derive(Debug)]
struct Guard {
    slots: Mutex<Vec<&'static Slot>>,
    awake: AtomicBool,
    watcher: OnceLock<Thread>,
    /// None where the kernel was built without.
    submissions: Option<Mutex<Submissions>>,
}

/// This thread's own.
#[derive(Clone, Copy)]
struct Own {
    slot: &'static Slot,
    /// Until when the time that was lost counts.
    repaid: Time,
}

static GUARD: OnceLock<Guard> = OnceLock::new();

thread_local! {
    static OWN: Cell<Option<Own>> = const { Cell::new(None) };
    static WORK: Cell<Option<&'static Slot>> = const { Cell::new(None) };
}

/// Does something in which the kernel may wait for a client, in a close or in what follows from one: what a signal can interrupt there takes no
/// longer than two [ticks](TICK). Within another it is part of that.
pub fn bounded<T>(work: impl FnOnce() -> T) -> T {
    let Some(guard) = GUARD.get() else { return work() };
    let slot = WORK.get().unwrap_or_else(|| {
        unblock_signal();
        let slot = guard.slot();
        WORK.set(Some(slot));
        slot
    });
    if !slot.writes.load(Ordering::Relaxed).is_multiple_of(2) {
        return work();
    }
    guard.begin(slot);
    let _end = End(slot);
    work()
}

/// What a slot says when the work is over, in whatever way.
struct End(&'static Slot);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Starts the thread that watches over notifications. False: there is one.
pub(super) fn start() -> io::Result<bool> {
    if GUARD.get().is_some() {
        return Ok(false);
    }
    handle_signal()?;
    let guard = Guard {
        slots: Mutex::default(),
        awake: AtomicBool::new(false),
        watcher: OnceLock::new(),
        submissions: Submissions::new().ok().map(Mutex::new),
    };
    // A second guard, made meanwhile, is dropped.
    let guard = GUARD.get_or_init(|| guard);
    let watcher = thread::Builder::new().name("watch".into()).stack_size(64 << 10).spawn(|| guard.watch())?;
    let _ = guard.watcher.set(watcher.thread().clone());
    Ok(true)
}

/// Says that the calling thread writes into clients' eventfds often, so that each costs it one system call. Once for each
/// such thread, after [`guard_calls`](super::guard_calls); without it every notification goes the slow way.
pub fn guard_this_thread() {
    let Some(guard) = GUARD.get().filter(|_| OWN.get().is_none()) else { return };
    unblock_signal();
    let slot = guard.slot();
    OWN.set(Some(Own { slot, repaid: Time::from_nanos(0) }));
}

/// Adds one to the counter of an eventfd, or finds it full. Never waits for longer than two [ticks](TICK). How long it took; nothing
/// where the calling thread is not [guarded](guard_this_thread).
pub(super) fn signal(fd: BorrowedFd<'_>) -> Duration {
    if let Some(own) = OWN.get() {
        own.slot.place.store(place(), Ordering::Relaxed);
    }
    add(fd, 1)
}

/// The same, with so many more. Of 0 nothing is counted, and who waits for it is woken as well.
pub(super) fn add(fd: BorrowedFd<'_>, count: u64) -> Duration {
    let (Some(guard), Some(own)) = (GUARD.get(), OWN.get()) else {
        signal_slowly(fd, count);
        return Duration::ZERO;
    };
    let start = now();
    let spent = own.repaid > start + BURST * SHARE;
    if count == 0 && !has_room(fd) {
        // Nothing is to be learned from it now.
        return Duration::ZERO;
    }
    if spent && count > 0 {
        // It does not wait, but whoever waits for the eventfd is woken as well.
        signal_slowly(fd, count);
    } else {
        guard.write(own.slot, fd, count);
    }
    let took = now() - start;
    if took > SLOW && !spent {
        let repaid = own.repaid.max(start) + took * SHARE;
        OWN.set(Some(Own { repaid, ..own }));
    }
    took
}

/// The processor that the calling thread is on. No system call where the C library or the vDSO knows it.
fn place() -> usize {
    // SAFETY: it takes nothing, and answers with a number, or less than 0.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(NO_PLACE)
}

/// The processors on which threads told somebody since that was asked last.
pub(super) fn places(mut each: impl FnMut(usize)) {
    let Some(guard) = GUARD.get() else { return };
    for slot in guard.slots().iter() {
        let place = slot.place.swap(NO_PLACE, Ordering::Relaxed);
        if place != NO_PLACE {
            each(place);
        }
    }
}

/// The same for a thread that has no slot, or no time to lose.
fn signal_slowly(fd: BorrowedFd<'_>, count: u64) {
    let guard = GUARD.get();
    if let Some(submissions) = guard.and_then(|g| g.submissions.as_ref()) {
        let mut submissions = submissions.lock().unwrap_or_else(PoisonError::into_inner);
        (0..count).for_each(|_| submissions.signal(fd));
    } else if has_room(fd) {
        match (guard, OWN.get()) {
            (Some(guard), Some(own)) => guard.write(own.slot, fd, count),
            _ => write(fd, count),
        }
    }
}

fn has_room(fd: BorrowedFd<'_>) -> bool {
    let mut ready = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut ready, Some(&at_once)), Ok(1)) && ready[0].revents().contains(PollFlags::OUT)
}

fn write(fd: BorrowedFd<'_>, count: u64) {
    // What fails is a full counter, which says what we want to say.
    let _: Result<usize, Errno> = rustix::io::write(fd, &count.to_ne_bytes());
}

impl Guard {
    fn slots(&self) -> MutexGuard<'_, Vec<&'static Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One for the calling thread.
    fn slot(&self) -> &'static Slot {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        // Kept for ever: the watching thread may look at any time. There are two for each thread that has any.
        let slot: &'static Slot = Box::leak(Box::new(Slot {
            writes: AtomicU64::new(0),
            place: AtomicUsize::new(NO_PLACE),
            thread,
        }));
        self.slots().push(slot);
        slot
    }

    fn write(&self, slot: &Slot, fd: BorrowedFd<'_>, count: u64) {
        self.begin(slot);
        write(fd, count);
        slot.end();
    }

    fn begin(&self, slot: &Slot) {
        let begun = slot.writes.load(Ordering::Relaxed).wrapping_add(1);
        // SeqCst on both: either this thread sees that the watcher is going to sleep, or the watcher sees this write.
        slot.writes.store(begun, Ordering::SeqCst);
        if !self.awake.load(Ordering::SeqCst) {
            self.awake.store(true, Ordering::SeqCst);
            if let Some(watcher) = self.watcher.get() {
                watcher.unpark();
            }
        }
    }

    /// The watching thread.
    fn watch(&self) {
        let mut seen = Vec::new();
        let mut calm = 0;
        loop {
            while !self.awake.load(Ordering::SeqCst) {
                thread::park();
            }
            thread::park_timeout(TICK);
            calm = if self.look(&mut seen) { 0 } else { calm + 1 };
            if calm < CALM {
                continue;
            }
            calm = 0;
            self.awake.store(false, Ordering::SeqCst);
            // A write that began before that did not wake this thread.
            if self.look(&mut seen) {
                self.awake.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Whether any thread writes, or wrote since the last time. Interrupts those that write since then.
    fn look(&self, seen: &mut Vec<u64>) -> bool {
        let slots = self.slots();
        seen.resize(slots.len(), 0);
        let mut busy = false;
        for (slot, seen) in slots.iter().zip(seen) {
            let writes = slot.writes.load(Ordering::SeqCst);
            if writes == *seen && !writes.is_multiple_of(2) {
                slot.interrupt();
            }
            busy |= writes != *seen || !writes.is_multiple_of(2);
            *seen = writes;
        }
        busy
    }
}

impl Slot {
    fn end(&self) {
        let begun = self.writes.load(Ordering::Relaxed);
        self.writes.store(begun.wrapping_add(1), Ordering::Release);
    }

    fn interrupt(&self) {
        let process = rustix::process::getpid().as_raw_nonzero().get();
        // SAFETY: plain numbers. A signal to another thread of this process, whose handler does nothing; it is ignored
        // should the thread be gone.
        unsafe { libc::syscall(libc::SYS_tgkill, process, self.thread, SIGNAL) };
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// A signal without a handler, or with SA_RESTART, would not interrupt.
fn handle_signal() -> io::Result<()> {
    // SAFETY: all zeroes are a valid value: no flags, no restorer, a handler that is set below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: `action` is filled in, and its handler does nothing, which is safe in a signal's context.
    let result = unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whoever started the process may have left it blocked.
fn unblock_signal() {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is a place for a signal set, which the call fills.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: `set` was filled above; it is a signal's number.
    unsafe { libc::sigaddset(set.as_mut_ptr(), SIGNAL) };
    // SAFETY: the set was filled above; a null pointer says that the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut()) };
}
