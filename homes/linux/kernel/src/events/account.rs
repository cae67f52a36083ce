//! What a session's notifications cost, and where they are sent once that is too much.
//!
//! A write into an eventfd walks everybody who waits for it, and a client decides how many do: a thousand epoll sets with a
//! thousand copies each make one write take longer than all else. So a session that had a slow write is measured for a while, by
//! the processor's time (a thread that has to wait for a processor is slow through no fault of its client), and one that has
//! spent its [`BURST`] has its notifications sent by a thread of such sessions' own, for good: each of its eventfds has one
//! place in that thread's queue, so they take turns there. After each it rests: a session has a tenth of a processor for that, all of
//! them together a quarter, since what the kernel does there it does without letting anybody else have the processor.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nvme_platform::Time;

use super::clock::{now, processor_time};
use super::guard::{self, SLOW};
use crate::dispose::ClientFd;
use crate::logger::REFUSAL;

/// One part in so many of a worker's time may be spent in one session's slow notifications.
const SHARE: u32 = 100;
/// As much may be spent at once.
const BURST: Duration = Duration::from_millis(20);
/// So many writes are measured after a slow one.
const MEASURED: u32 = 1000;
/// Eventfds that may wait to be written to.
const WAITING: usize = 8192;

/// How long a session's next such notification waits, and anybody's, in times of what the last one took.
const REST: u32 = 9;
const REST_OF_ALL: u32 = 3;

static SENDER: OnceLock<SyncSender<Arc<Signalled>>> = OnceLock::new();

/// A session's account.
#[derive(Debug)]
pub struct Account {
    name: String,
    /// Until when what was spent counts, in nanoseconds.
    repaid: AtomicU64,
    /// Writes that are still measured.
    measured: AtomicU32,
    over: AtomicBool,
    /// Until when it rests after its last slow one, in nanoseconds. The sending thread's own.
    rests: AtomicU64,
}

/// An eventfd that is written to for a session.
#[derive(Debug)]
pub(super) struct Signalled {
    fd: ClientFd,
    account: Arc<Account>,
    /// Whether it waits to be written to.
    waits: AtomicBool,
}

impl Account {
    /// A session's, by its name in the log.
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            repaid: AtomicU64::new(0),
            measured: AtomicU32::new(0),
            over: AtomicBool::new(false),
            rests: AtomicU64::new(0),
        })
    }

    /// Whether its notifications are sent by the other thread.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A notification, which says whether it was slow. While nothing was, this costs two loads.
    fn spend(&self, notify: impl FnOnce() -> bool) {
        let left = self.measured.load(Ordering::Relaxed);
        if left == 0 {
            if notify() {
                self.measured.store(MEASURED, Ordering::Relaxed);
            }
            return;
        }
        let start = processor_time();
        notify();
        let took = processor_time().saturating_sub(start);
        let left = if took > SLOW { MEASURED } else { left - 1 };
        self.measured.store(left, Ordering::Relaxed);
        if took > SLOW {
            self.charge(now(), took);
        }
    }

    fn charge(&self, at: Time, took: Duration) {
        let at = at.as_nanos();
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let cost = nanos(took).saturating_mul(u64::from(SHARE));
        let repaid = self.repaid.load(Ordering::Relaxed).max(at).saturating_add(cost);
        // Two workers that charge at once lose one charge.
        self.repaid.store(repaid, Ordering::Relaxed);
        let most = nanos(BURST).saturating_mul(u64::from(SHARE));
        if repaid - at > most && SENDER.get().is_some() && !self.over.swap(true, Ordering::Relaxed) {
            log::warn!(target: REFUSAL, "{}: its notifications take too long; they are sent when there is time", self.name);
        }
    }
}

impl Signalled {
    pub(super) fn new(fd: OwnedFd, account: Arc<Account>) -> Arc<Self> {
        Arc::new(Self { fd: ClientFd::new(fd), account, waits: AtomicBool::new(false) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn signal(self: &Arc<Self>) {
        if !self.account.is_over() {
            return self.account.spend(|| guard::signal(self.fd.as_fd()));
        }
        let Some(sender) = SENDER.get() else { return };
        // One that waits already will tell of this as well.
        if !self.waits.swap(true, Ordering::AcqRel) && sender.try_send(Arc::clone(self)).is_err() {
            self.waits.store(false, Ordering::Release);
        }
    }
}

/// The thread that sends what takes too long.
#[derive(Default)]
struct Slowly {
    /// By when each is due, and then in the order in which they came.
    due: BTreeMap<(Time, u64), Arc<Signalled>>,
    came: u64,
    /// Until when the thread rests.
    rests: Time,
}

impl Slowly {
    /// Until nobody is left who has anything to send.
    fn send(mut self, waiting: &Receiver<Arc<Signalled>>) {
        loop {
            let first = self.due.first_key_value().map(|((due, _), _)| (*due).max(self.rests));
            let next = match first {
                None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => waiting.recv_timeout(due - now()),
            };
            match next {
                Ok(signalled) => self.put(signalled),
                Err(RecvTimeoutError::Timeout) => self.send_one(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn put(&mut self, signalled: Arc<Signalled>) {
        self.came += 1;
        let due = Time::from_nanos(signalled.account.rests.load(Ordering::Relaxed));
        self.due.insert((due, self.came), signalled);
    }

    fn send_one(&mut self) {
        let Some((_, signalled)) = self.due.pop_first() else { return };
        // Another one of its session may have been sent since it came.
        if Time::from_nanos(signalled.account.rests.load(Ordering::Relaxed)) > now() {
            return self.put(signalled);
        }
        // Before the write: what is to be told after this has a place of its own.
        signalled.waits.store(false, Ordering::Release);
        let start = processor_time();
        let _ = guard::signal(signalled.fd.as_fd());
        let (took, end) = (processor_time().saturating_sub(start), now());
        signalled.account.rests.store((end + took * REST).as_nanos(), Ordering::Relaxed);
        self.rests = end + took * REST_OF_ALL;
    }
}

/// Starts the threads that watch over notifications, and that send what takes too long. A server calls this before it gives up the
/// right to start threads.
pub fn guard_calls() -> io::Result<()> {
    if !guard::start()? {
        return Ok(());
    }
    let (sender, waiting) = sync_channel::<Arc<Signalled>>(WAITING);
    std::thread::Builder::new().name("notify".into()).stack_size(64 << 10).spawn(move || {
        guard::guard_this_thread();
        Slowly::default().send(&waiting);
    })?;
    let _ = SENDER.set(sender);
    Ok(())
}
