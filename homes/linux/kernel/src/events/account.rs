//! What a session's notifications cost, and where they are sent once that is too much.
//!
//! A write into an eventfd walks everybody who waits for it, with the processor's interrupts off, and a client decides how many do: a
//! thousand epoll sets with a thousand copies each make one write take longer than all else. Nobody knows what a write costs before
//! it is made, and no thread that serves others makes the first:
//!
//! * an eventfd that comes is *looked at* first, by a thread that has nothing else to do ([`slowly`](super::slowly)). Until that is done, that thread
//!   sends what it is to be told, too;
//! * a client may add to those who wait at any time. So a session that had a slow write is measured for a while, by the
//!   processor's time (a thread that has to wait for a processor is slow through no fault of its client), and one write that
//!   took long has its eventfd looked at once more;
//! * a session one of whose eventfds takes [`DEAR`], or that has spent its [`BURST`], has its notifications sent by that thread for
//!   good: each of its eventfds has one place in the thread's queue, so they take turns there;
//! * one of whose eventfds takes [`ENDS`] is ended. It is told nothing more, and control hears of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nvme_platform::Time;

use super::clock::{now, processor_time};
use super::guard::{self, SLOW};
use super::slowly::{self, Order};
use crate::dispose::ClientFd;
use crate::logger::REFUSAL;

/// One part in so many of a worker's time may be spent in one session's slow notifications.
const SHARE: u32 = 100;
/// As much may be spent at once.
const BURST: Duration = Duration::from_millis(20);
/// So many writes are measured after a slow one.
const MEASURED: u32 = 1000;
/// A write that takes so long is no worker's: some ten thousand wait.
pub(super) const DEAR: Duration = Duration::from_millis(1);
/// One that takes so long is nobody's: half of what anybody may have to wait for another. Ten times as many as wait for anything that
/// is meant well do not make it as long.
pub(super) const ENDS: Duration = Duration::from_millis(5);
/// For how long the next client of an ended session's place is not looked at, in times of what its notification took.
const REST_AFTER_END: u32 = 100;

/// Where a session's notifications are sent.
const BY_WORKERS: u8 = 0;
const BY_OTHERS: u8 = 1;
const NOWHERE: u8 = 2;

/// A session's account.
#[derive(Debug)]
pub struct Account {
    name: String,
    /// Those who rest together after what they cost.
    pub(super) group: u64,
    /// Until when what was spent counts, in nanoseconds.
    repaid: AtomicU64,
    /// Writes that are still measured.
    measured: AtomicU32,
    sent: AtomicU8,
    /// Until when it rests after its last slow one, in nanoseconds.
    rests: AtomicU64,
    /// What the notification took for which it ended, in nanoseconds.
    ended: AtomicU64,
}

/// An eventfd that is written to for a session.
#[derive(Debug)]
pub(super) struct Signalled {
    fd: ClientFd,
    pub(super) account: Arc<Account>,
    /// Whether it is known what a write takes.
    looked_at: AtomicBool,
    /// What it is to be told by the other thread.
    waits: AtomicU32,
}

impl Account {
    /// A session's, by its name in the log, of no group but the first.
    pub fn new(name: &str) -> Arc<Self> {
        Self::of_group(name, 0)
    }

    /// A session's, by its name in the log, of that group.
    pub fn of_group(name: &str, group: u64) -> Arc<Self> {
        Self::resting(name, group, 0)
    }

    /// That of the next client in the session's place, who is looked at once the last one has rested.
    pub fn next(&self) -> Arc<Self> {
        Self::resting(&self.name, self.group, self.rests.load(Ordering::Relaxed))
    }

    fn resting(name: &str, group: u64, rests: u64) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            group,
            repaid: AtomicU64::new(0),
            measured: AtomicU32::new(0),
            sent: AtomicU8::new(BY_WORKERS),
            rests: AtomicU64::new(rests),
            ended: AtomicU64::new(0),
        })
    }

    /// Whether its notifications are sent by the other thread, or not at all.
    pub fn is_over(&self) -> bool {
        self.sent.load(Ordering::Relaxed) != BY_WORKERS
    }

    /// What one notification takes of a processor, where that is so much that the session is to end.
    pub fn ended(&self) -> Option<Duration> {
        (self.sent.load(Ordering::Acquire) == NOWHERE)
            .then(|| Duration::from_nanos(self.ended.load(Ordering::Relaxed)))
    }

    /// Until when it rests.
    pub(super) fn rests(&self) -> Time {
        Time::from_nanos(self.rests.load(Ordering::Relaxed))
    }

    pub(super) fn rest_until(&self, until: Time) {
        self.rests.fetch_max(until.as_nanos(), Ordering::Relaxed);
    }

    fn charge(&self, at: Time, took: Duration) {
        let at = at.as_nanos();
        let cost = nanos(took).saturating_mul(u64::from(SHARE));
        let repaid = self.repaid.load(Ordering::Relaxed).max(at).saturating_add(cost);
        // Two workers that charge at once lose one charge.
        self.repaid.store(repaid, Ordering::Relaxed);
        let most = nanos(BURST).saturating_mul(u64::from(SHARE));
        if repaid - at > most && slowly::runs() {
            self.is_dear();
        }
    }

    /// No worker is to send its notifications any more.
    fn is_dear(&self) {
        let before = self.sent.compare_exchange(BY_WORKERS, BY_OTHERS, Ordering::Relaxed, Ordering::Relaxed);
        if before.is_ok() {
            log::warn!(target: REFUSAL, "{}: its notifications take too long; they are sent when there is time", self.name);
        }
    }

    fn end(&self, took: Duration) {
        self.ended.store(nanos(took), Ordering::Relaxed);
        self.rest_until(now() + took * REST_AFTER_END);
        // Release: whoever sees it sees what it took.
        if self.sent.swap(NOWHERE, Ordering::Release) != NOWHERE {
            slowly::has_ended();
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Signalled {
    pub(super) fn new(fd: OwnedFd, account: Arc<Account>) -> Arc<Self> {
        let (looked_at, waits) = (AtomicBool::new(true), AtomicU32::new(0));
        let signalled = Arc::new(Self { fd: ClientFd::new(fd), account, looked_at, waits });
        signalled.have_looked_at();
        signalled
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn signal(self: &Arc<Self>) {
        if self.looked_at.load(Ordering::Relaxed) && !self.account.is_over() {
            self.write();
        } else {
            self.send_later();
        }
    }

    /// The calling thread writes. While nothing was slow, this costs one load more.
    fn write(self: &Arc<Self>) {
        let account = &self.account;
        let left = account.measured.load(Ordering::Relaxed);
        if left == 0 {
            let took = guard::signal(self.fd());
            if took > SLOW {
                account.measured.store(MEASURED, Ordering::Relaxed);
            }
            // What it took of a processor is not known: somebody else may have had that.
            if took >= ENDS {
                self.have_looked_at();
            }
            return;
        }
        let start = processor_time();
        guard::signal(self.fd());
        let took = processor_time().saturating_sub(start);
        account.measured.store(if took > SLOW { MEASURED } else { left - 1 }, Ordering::Relaxed);
        if took > SLOW {
            account.charge(now(), took);
        }
        if took >= DEAR {
            self.have_looked_at();
        }
    }

    /// Has the other thread look at it. What is to be told before that is done is sent there.
    fn have_looked_at(self: &Arc<Self>) {
        if self.looked_at.swap(false, Ordering::Relaxed) && !slowly::put(Order::Look(Arc::downgrade(self))) {
            self.looked_at.store(true, Ordering::Relaxed);
        }
    }

    /// It is looked at from now on, and was not before.
    pub(super) fn goes_on_trial(&self) -> bool {
        self.looked_at.swap(false, Ordering::Relaxed)
    }

    /// It was looked at, and a write takes so long.
    pub(super) fn takes(&self, took: Duration) {
        if took >= ENDS {
            self.account.end(took);
        } else if took >= DEAR {
            self.account.is_dear();
        }
        // Release: whoever writes by itself does so after what was sent before.
        self.looked_at.store(true, Ordering::Release);
    }

    /// Has the other thread tell it.
    fn send_later(self: &Arc<Self>) {
        if self.account.ended().is_some() {
            return;
        }
        // One that waits already will tell of this as well.
        if self.waits.fetch_add(1, Ordering::AcqRel) > 0 || slowly::put(Order::Tell(Arc::downgrade(self))) {
            return;
        }
        self.waits.store(0, Ordering::Release);
        if !self.account.is_over() {
            // It is looked at late, since so many others are.
            self.write();
        }
    }

    /// How often it is to be told now.
    pub(super) fn take_waits(&self) -> u32 {
        self.waits.swap(0, Ordering::AcqRel)
    }
}
