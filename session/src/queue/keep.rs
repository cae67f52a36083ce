//! What is in flight is kept, for whoever serves the queue next.

use alloc::boxed::Box;
use core::mem;

use nvme_platform::{Window, debug};

use super::request::Tag;
use super::{BlkQueue, RingError, State};
use crate::virtqueue::{Broken, Found, Journal, Keeping};

impl BlkQueue {
    /// Keeps what is in flight in a journal of [`journal_len`](crate::virtqueue::journal_len) bytes, and takes first what was in flight
    /// when it was used last. To be called before the first is taken. Of a queue that has not been [touched](Self::touch) the journal is not touched
    /// before it does: only whether it can be there is said at once.
    pub fn keep(&mut self, journal: Window) -> Result<(), RingError> {
        Journal::fits(&journal, self.config.size)?;
        if self.is_touched {
            return self.open(&journal);
        }
        self.journal = Keeping::Unopened(Box::new(journal));
        Ok(())
    }

    /// Touches the rings and the journal for the first time, where that was left for later. It takes as long as their client likes, so it is for
    /// who has the client pay for it. What is found wrong breaks the queue.
    pub fn touch(&mut self) {
        if self.is_touched {
            return;
        }
        self.is_touched = true;
        if self.broken.is_some() {
            return;
        }
        let journal = match mem::take(&mut self.journal) {
            Keeping::Unopened(journal) => Some(journal),
            as_it_is => {
                self.journal = as_it_is;
                None
            }
        };
        let begun = self.ring.begin().and_then(|()| {
            let opened = journal.map(|journal| self.open(&journal)).transpose();
            opened.map(|_| ()).map_err(|_| Broken::Journal)
        });
        if let Err(why) = begun {
            self.break_off(why);
        }
    }

    /// Whether nobody knows yet what is in the journal.
    pub fn is_unopened(&self) -> bool {
        matches!(self.journal, Keeping::Unopened(_))
    }

    fn open(&mut self, journal: &Window) -> Result<(), RingError> {
        let (journal, Found { heads, next_avail }) =
            Journal::open(journal, self.config.size, self.ring.used())?;
        if let Some(next_avail) = next_avail {
            self.ring.start_at(next_avail);
        }
        if !heads.is_empty() {
            debug!("{} requests were in flight, and are issued again", heads.len());
            self.state = State::Again;
        } else {
            // As long as requests are answered in their order nothing is entered: those that were taken are taken again.
            debug!("{} requests wait, and may have been taken before", self.ring.offered());
        }
        self.again = heads.into();
        self.journal = journal;
        Ok(())
    }

    /// Whether what is in flight is kept.
    pub(super) fn keeps(&self) -> bool {
        !matches!(self.journal, Keeping::Nothing)
    }

    /// A request that was taken from the ring is answered next.
    #[inline(always)]
    pub(super) fn keep_after(&mut self, tag: Tag) {
        if matches!(self.journal, Keeping::InOrder(_)) {
            self.flights.is_answered(tag.take());
        }
    }

    /// Publishes what nothing is entered of. In a journal without entries all of it has to be what was taken first.
    #[inline(always)]
    pub(super) fn publish_in_order(&mut self) -> bool {
        if matches!(self.journal, Keeping::InOrder(_)) && !self.flights.are_in_order() {
            self.keep_order(0);
            return self.publish_entries();
        }
        self.ring.publish()
    }

    /// Something is answered before others that were taken earlier: from now on the journal has entries, for all whose driver was told
    /// nothing. `never`: of so many that are in flight no more it never will be.
    #[cold]
    #[inline(never)]
    pub(super) fn keep_order(&mut self, never: u16) {
        // What ends in a broken ring is answered no more: all of it is taken from there again.
        if self.broken.is_some() {
            return;
        }
        self.journal = match mem::take(&mut self.journal) {
            Keeping::InOrder(mut journal) => {
                // Together they are no more than there are heads.
                let count = (self.flights.count() as u16).wrapping_add(self.ring.to_publish());
                journal.enter(self.ring.used(), self.ring.taken_last(count.wrapping_add(never)));
                Keeping::Entries(journal)
            }
            as_it_is => as_it_is,
        };
    }

    /// Publishes used entries of requests that are entered.
    #[inline(never)]
    pub(super) fn publish_entries(&mut self) -> bool {
        let Keeping::Entries(journal) = &mut self.journal else { return self.ring.publish() };
        if !self.ring.is_to_publish() {
            return false;
        }
        let before = self.ring.used();
        journal.answered(self.ring.unpublished());
        let told = self.ring.publish();
        let used = self.ring.used();
        journal.published(self.ring.given(before, used), used);
        if journal.is_gone() {
            self.broken.get_or_insert(Broken::MemoryGone);
        } else if self.flights.count() == 0 && self.again.is_empty() && !self.left && journal.is_time() {
            self.keep_without();
        }
        told
    }

    /// Nothing is in flight, and nothing is entered.
    #[cold]
    fn keep_without(&mut self) {
        self.journal = match mem::take(&mut self.journal) {
            Keeping::Entries(journal) => Keeping::InOrder(journal),
            as_it_is => as_it_is,
        };
    }
}
