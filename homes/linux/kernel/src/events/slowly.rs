//! The thread that finds out what it takes to tell a client something, and tells those to whom it takes long.
//!
//! It looks at an eventfd by writing 0: the kernel wakes all who wait for it, and counts nothing. What that takes is told from what
//! others had of the processor by the thread's own time, and by doing it again and again ([`Trial`]): a machine that stood still in the middle
//! of one, or of two in a row, does not do so in each.
//!
//! What the kernel does there it does without letting anybody else have the processor. So the thread rests after each: a session has
//! a tenth of a processor, a group's first looks a quarter, and all that take long together a quarter. And it keeps off the
//! processors on which workers told somebody last, as far as there are others.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use nvme_platform::Time;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::account::{DEAR, ENDS, Signalled};
use super::clock::{now, processor_time};
use super::doorbell::Doorbell;
use super::guard::{self, SLOW};
use crate::priority;

/// Orders that may wait to be taken.
const WAITING: usize = 8192;
/// Orders that are taken before one that is due is carried out.
const TAKEN: usize = 64;

/// How long a session rests, and its group or all that take long, in times of what the last one took.
const REST: u32 = 9;
const REST_OF_ALL: u32 = 3;
/// So many looks at one that took long, of which the least counts. A processor that is an emulated one, or shared with other machines, stands
/// still for some milliseconds again and again, and says nothing of it: two in a row were seen.
const LOOKS: u32 = 8;
/// And so many at one that takes so long each time: that is no processor that stood still, and each look is one more wait for others.
const LOOKS_AT_LONG: u32 = 3;
const LONG: Duration = Duration::from_millis(20);

/// What is to be done. An eventfd that its client replaced meanwhile is nobody's any more.
pub(super) enum Order {
    /// It is not known what a write takes.
    Look(Weak<Signalled>),
    /// To be told what waits for it.
    Tell(Weak<Signalled>),
    /// It took long so far.
    Again(Weak<Signalled>, Trial),
}

/// What is known of an eventfd that took long when it was looked at.
#[derive(Clone, Copy)]
pub(super) struct Trial {
    least: Duration,
    looks: u32,
}

impl Trial {
    fn begins(took: Duration) -> Self {
        Self { least: took, looks: 1 }
    }

    /// One look more.
    fn looked(self, took: Duration) -> Self {
        Self { least: self.least.min(took), looks: self.looks + 1 }
    }

    /// What a write takes, once that is known.
    fn known(self) -> Option<Duration> {
        let enough = if self.least >= LONG { LOOKS_AT_LONG } else { LOOKS };
        (self.least < DEAR || self.looks >= enough).then_some(self.least)
    }
}

static SENDER: OnceLock<SyncSender<Order>> = OnceLock::new();
static BELL: OnceLock<Arc<Doorbell>> = OnceLock::new();
static ENDED: AtomicBool = AtomicBool::new(false);

/// Whether there is such a thread.
pub(super) fn runs() -> bool {
    SENDER.get().is_some()
}

/// Has something done. False: there is no room for it, or no thread.
pub(super) fn put(order: Order) -> bool {
    SENDER.get().is_some_and(|sender| sender.try_send(order).is_ok())
}

/// A session is to end.
pub(super) fn has_ended() {
    ENDED.store(true, Ordering::Release);
    if let Some(bell) = BELL.get() {
        bell.ring();
    }
}

/// Rings that bell when a session is to end for what its notifications take.
pub fn ring_for_ends(bell: &Arc<Doorbell>) {
    let _ = BELL.set(Arc::clone(bell));
}

/// Whether a session is to end since that was asked last: [`Account::ended`](super::Account::ended) says which.
pub fn some_ended() -> bool {
    ENDED.swap(false, Ordering::Acquire)
}

/// Starts the threads that watch over notifications, and that send what takes too long. A server calls this before it gives up the
/// right to start threads.
pub fn guard_calls() -> io::Result<()> {
    if !guard::start()? {
        return Ok(());
    }
    let (sender, waiting) = sync_channel::<Order>(WAITING);
    std::thread::Builder::new().name("notify".into()).stack_size(64 << 10).spawn(move || {
        priority::ordinary();
        guard::guard_this_thread();
        Slowly::new().work(&waiting);
    })?;
    let _ = SENDER.set(sender);
    Ok(())
}

impl Order {
    fn of(&self) -> Option<Arc<Signalled>> {
        let (Self::Look(signalled) | Self::Tell(signalled) | Self::Again(signalled, _)) = self;
        signalled.upgrade().filter(|signalled| signalled.account.ended().is_none())
    }
}

struct Slowly {
    /// By when each is due, and then in the order in which they came.
    due: BTreeMap<(Time, u64), Order>,
    came: u64,
    /// Until when all rest that take long, and those of a group that are to be looked at.
    rests: Time,
    groups: BTreeMap<u64, Time>,
    places: Places,
}

impl Slowly {
    fn new() -> Self {
        let (due, groups) = (BTreeMap::new(), BTreeMap::new());
        Self { due, came: 0, rests: Time::from_nanos(0), groups, places: Places::new() }
    }

    /// Until nobody is left who has anything to send.
    fn work(mut self, waiting: &Receiver<Order>) {
        loop {
            for order in waiting.try_iter().take(TAKEN) {
                self.put(order);
            }
            let first = self.due.first_key_value().map(|((due, _), _)| *due);
            if first.is_some_and(|due| due <= now()) {
                self.do_one();
                continue;
            }
            let next = match first {
                None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => waiting.recv_timeout(due - now()),
            };
            match next {
                Ok(order) => self.put(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// By when it is due, as things are.
    fn due(&self, signalled: &Signalled) -> Time {
        let account = &signalled.account;
        let others = match account.is_over() {
            true => self.rests,
            false => self.groups.get(&account.group).copied().unwrap_or_default(),
        };
        account.rests().max(others)
    }

    fn put(&mut self, order: Order) {
        let Some(signalled) = order.of() else { return };
        self.came += 1;
        self.due.insert((self.due(&signalled), self.came), order);
    }

    fn do_one(&mut self) {
        let Some((_, order)) = self.due.pop_first() else { return };
        let Some(signalled) = order.of() else { return };
        // Others may have been done since it came.
        if self.due(&signalled) > now() {
            return self.put(order);
        }
        match order {
            // What it takes is seen when it is told something.
            Order::Look(_) if signalled.account.is_over() => signalled.takes(Duration::ZERO),
            Order::Look(_) => {
                let took = self.write(&signalled, 0);
                self.go_on(&signalled, Trial::begins(took));
            }
            Order::Again(_, trial) => {
                let took = self.write(&signalled, 0);
                self.go_on(&signalled, trial.looked(took));
            }
            Order::Tell(_) => {
                // Before the write: what is to be told after this has a place of its own.
                let count = signalled.take_waits();
                // To whom it takes long it is said once, since it may have to be said by one call for each.
                let count = if signalled.account.is_over() { count.min(1) } else { count };
                let took = self.write(&signalled, count);
                if took >= ENDS && signalled.goes_on_trial() {
                    self.go_on(&signalled, Trial::begins(took));
                }
            }
        }
    }

    /// One that took long is looked at again when its session has rested.
    fn go_on(&mut self, signalled: &Arc<Signalled>, trial: Trial) {
        match trial.known() {
            Some(takes) => signalled.takes(takes),
            None => self.put(Order::Again(Arc::downgrade(signalled), trial)),
        }
    }

    /// Counts it up. What that took of a processor.
    fn write(&mut self, signalled: &Signalled, count: u32) -> Duration {
        self.places.keep_off();
        let start = processor_time();
        guard::add(signalled.fd(), count.into());
        let (took, end) = (processor_time().saturating_sub(start), now());
        signalled.account.rest_until(end + took * REST);
        if took > SLOW {
            self.rests = end + took * REST_OF_ALL;
            self.groups.retain(|_, until| *until > end);
            self.groups.insert(signalled.account.group, self.rests);
        }
        took
    }
}

/// The processors that this thread may be on.
struct Places {
    all: Option<CpuSet>,
    now: Cell<Option<CpuSet>>,
}

impl Places {
    fn new() -> Self {
        Self { all: sched_getaffinity(None).ok(), now: Cell::default() }
    }

    /// Keeps off the processors on which workers were last, if there is another.
    fn keep_off(&self) {
        let Some(all) = self.all else { return };
        let mut left = all;
        guard::places(|place| {
            if place < CpuSet::MAX_CPU {
                left.unset(place);
            }
        });
        let chosen = if left.count() == 0 { all } else { left };
        if self.now.replace(Some(chosen)) != Some(chosen) {
            // Where that is not to be had it is slower for others, and nothing else.
            let _ = sched_setaffinity(None, &chosen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(looks: impl IntoIterator<Item = u64>) -> Option<u64> {
        let mut looks = looks.into_iter().map(Duration::from_millis);
        let first = Trial::begins(looks.next()?);
        looks.fold(first, Trial::looked).known().map(|takes| takes.as_millis() as u64)
    }

    #[test]
    fn a_processor_that_stands_still_again_and_again_ends_nobody() {
        assert_eq!(known([0]), Some(0));
        assert_eq!(known([7]), None);
        // Of an eventfd that one thread waits for, in an emulated machine beside others.
        assert_eq!(known([5, 7]), None);
        assert_eq!(known([5, 7, 6, 30, 9, 8, 7, 0]), Some(0));
        assert_eq!(known([30, 30, 0]), Some(0));
    }

    #[test]
    fn what_takes_long_each_time_does() {
        assert_eq!(known([6; 7]), None);
        assert_eq!(known([6; 8]), Some(6));
        assert_eq!(known([6, 2, 6, 6, 6, 6, 6, 6]), Some(2));
        assert_eq!(known([400; 2]), None);
        assert_eq!(known([400; 3]), Some(400));
    }
}
