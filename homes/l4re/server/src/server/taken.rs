//! Dataspaces that are gone while they are registered: deleted by their client, or by whoever gave them to it, or with it.
//!
//! L4Re gives the memory to somebody else then, and without an IOMMU what the controller was told stays where it was. No fault
//! tells, since the server itself need not touch a client's data. So it asks the kernel now and then whether the capabilities are
//! still there, and takes what is gone from the controller, and from the worker before that.

use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::Time;

use super::Server;
use crate::session::memory::{Change, Stage};
use crate::{Kernel, Output};

/// How often it asks, while there is something to do. A system call for each capability.
const EVERY: Duration = Duration::from_micros(100);
/// How many at a time, or all of one session.
const AT_ONCE: usize = 8;

impl<K: Kernel, O: Output> Server<K, O> {
    /// Looks after some sessions' dataspaces, if it is time to.
    #[inline]
    pub(super) fn look_after_memory(&mut self, now: Time) {
        if now - self.last_asked >= EVERY {
            self.last_asked = now;
            self.ask_for_memory();
        }
    }

    fn ask_for_memory(&mut self) {
        let mut asked = 0;
        // Each of them once at most, and the next ones next time.
        for _ in 0..self.sessions.len() {
            let from = self.next_asked;
            let next = self.sessions.iter().map(|(slot, _)| slot).find(|slot| *slot >= from);
            let Some(slot) = next else {
                self.next_asked = 0;
                continue;
            };
            self.next_asked = slot + 1;
            asked += self.sessions.get(slot).map_or(0, |s| s.memory.len());
            self.take_away(slot);
            if asked >= AT_ONCE {
                break;
            }
        }
    }

    /// Begins to take away what is gone of a session's memory, if anything is and nothing else changes there.
    pub(super) fn take_away(&mut self, slot: usize) {
        let Some(session) = self.sessions.get(slot) else { return };
        if session.change.is_some() || session.key.is_none() || session.lost || session.ending {
            return;
        }
        if session.memory.iter().any(|ds| !self.kernel.valid(ds.cap)) {
            self.forget(slot, |kernel, ds| !kernel.valid(ds.cap));
        }
        if let Some(session) = self.sessions.get_mut(slot)
            && session.stale
        {
            session.change = Some(Change::new(Vec::new()));
            self.restoring.push(slot);
        }
    }

    /// Whether a change that no call waits for has a step to be taken now.
    pub(super) fn restores(&self) -> bool {
        let step = |slot: &usize| {
            let change = self.sessions.get(*slot).and_then(|s| s.change.as_ref());
            change.is_none_or(|change| !matches!(change.stage, Stage::Mapping))
        };
        self.restoring.iter().any(step)
    }
}
