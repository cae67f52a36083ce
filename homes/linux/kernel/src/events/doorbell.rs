//! Waking a thread, without a system call while it is awake.
//!
//! Stepped through every order of its accesses by `tests/threads`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::EventFd;
use super::sync::{AtomicU32, Ordering};

/// The thread is awake, and nothing is new.
const QUIET: u32 = 0;
/// The thread sleeps, or is about to.
const ARMED: u32 = 1;
/// Something is new.
const RUNG: u32 = 2;

/// Wakes one thread. Any number of threads ring; only the one that owns the bell calls `take`, `arm` and `disarm`.
///
/// Add it to the thread's [`Epoll`](super::Epoll) with [`Interest::ReadEdge`](super::Interest::ReadEdge): its
/// counter is never read, so a wake-up costs one system call on either side and none when the thread is awake.
#[derive(Debug)]
pub struct Doorbell {
    state: AtomicU32,
    event: EventFd,
}

impl Doorbell {
    /// A bell that nobody rang. Fails when the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { state: AtomicU32::new(QUIET), event: EventFd::new()? })
    }

    /// Says that something is new. What was written before is visible to the thread when it has seen the bell.
    pub fn ring(&self) {
        // Release: publishes what is new. Acquire, because a second ring must not be ordered before the first
        // one's state.
        if self.state.swap(RUNG, Ordering::AcqRel) == ARMED {
            self.event.signal();
        }
    }

    /// Whether somebody rang; the next answer is no, until somebody rings again. One relaxed load when nobody did.
    pub fn take(&self) -> bool {
        if self.state.load(Ordering::Relaxed) != RUNG {
            return false;
        }
        // Acquire pairs with `ring`. Nobody else takes RUNG away, so this is no race.
        self.state.swap(QUIET, Ordering::Acquire) == RUNG
    }

    /// Says that the thread is going to sleep. False: somebody rang meanwhile, so it must not.
    #[must_use = "a thread that sleeps after somebody rang is not woken"]
    pub fn arm(&self) -> bool {
        self.state.compare_exchange(QUIET, ARMED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Says that the thread is awake again, whatever woke it. A ring stays to be taken.
    pub fn disarm(&self) {
        let _ = self.state.compare_exchange(ARMED, QUIET, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::super::{Epoll, Events, Interest};
    use super::Doorbell;

    #[test]
    fn an_awake_thread_is_rung_without_a_system_call() {
        let bell = Doorbell::new().unwrap();
        bell.ring();
        assert_eq!(bell.event.take(), 0);
        assert!(bell.take());
        assert!(!bell.take());
    }

    #[test]
    fn a_sleeping_thread_is_woken_by_one_write() {
        let bell = Doorbell::new().unwrap();
        assert!(bell.arm());
        bell.ring();
        bell.ring();
        assert_eq!(bell.event.take(), 1);
        bell.disarm();
        assert!(bell.take());
    }

    #[test]
    fn a_thread_that_was_rung_does_not_go_to_sleep() {
        let bell = Doorbell::new().unwrap();
        bell.ring();
        assert!(!bell.arm());
        assert!(bell.take());
        assert!(bell.arm());
        bell.disarm();
        bell.ring();
        assert_eq!(bell.event.take(), 0);
    }

    #[test]
    fn no_ring_is_lost_however_the_two_sides_interleave() {
        const ROUNDS: u64 = 20_000;
        let bell = Arc::new(Doorbell::new().unwrap());
        let (sent, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let ringer = std::thread::spawn({
            let (bell, sent, seen) = (bell.clone(), sent.clone(), seen.clone());
            move || {
                for round in 1..=ROUNDS {
                    sent.store(round, Ordering::Relaxed);
                    bell.ring();
                    // Every other round waits to be seen, so that both states of the other side are met.
                    while round % 2 == 0 && seen.load(Ordering::Relaxed) < round {
                        std::hint::spin_loop();
                    }
                }
            }
        });
        let epoll = Epoll::new().unwrap();
        epoll.add(&*bell, 0, Interest::ReadEdge).unwrap();
        let mut events = Events::new(1);
        let mut last = 0;
        while last < ROUNDS {
            if bell.take() {
                last = sent.load(Ordering::Relaxed);
                seen.store(last, Ordering::Relaxed);
            } else if bell.arm() {
                epoll.wait(&mut events, Some(Duration::from_secs(10))).unwrap();
                assert_ne!(events.iter().count(), 0, "a ring was lost");
                bell.disarm();
            }
        }
        ringer.join().unwrap();
    }
}
