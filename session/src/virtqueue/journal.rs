//! The journal of a split virtqueue (vhost-user, "Inflight I/O tracking"): what was taken and not answered, in memory that outlives
//! whoever serves the queue.
//!
//! The memory is the client's, and a client may write anything there at any time. What is read is a number of descriptors, one
//! index and one bit for each descriptor; what cannot be is refused, and what can be makes a client ask its own requests once more.
//! Requests that are found in flight are taken, decided and mediated as new ones are.
//!
//! Whoever serves the queue may die between any two stores; the stores of a process that died are all there, in their order.
//! * Taken: `counter`, then `inflight`. Before the second the request counts as not taken, and is taken again from the ring: the next
//!   index to take follows from the used index and from how many are in flight.
//! * Answered: the head is linked into the list of its batch (`next`, `last_batch_head`), then the used index of the ring moves, then
//!   the batch's `inflight` go, then `used_idx` follows. Dead before the ring's index moved, the request is in flight: it is done
//!   again, and its driver was told nothing. Dead after that, `used_idx` is not the ring's, and says how many heads of the list are to be
//!   cleared still.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;

use nvme_platform::Window;

use super::RingError;

/// The header's fields: features (64 bits), then these, of 16 bits each.
const VERSION: usize = 8;
const DESC_NUM: usize = 10;
const LAST_BATCH_HEAD: usize = 12;
const USED_IDX: usize = 14;
const HEAD: usize = 16;
/// One descriptor's state: `inflight` (8 bits) at 0, `next` (16 bits), `counter` (64 bits).
const ENTRY: usize = 16;
const INFLIGHT: usize = 0;
const NEXT: usize = 6;
const COUNTER: usize = 8;
/// The only version.
const VERSION_1: u16 = 1;

/// Bytes of the journal of a queue of so many descriptors.
pub const fn journal_len(size: u16) -> usize {
    HEAD + ENTRY * size as usize
}

/// Makes a journal one that nobody has used yet. To be called while no queue has it.
pub fn forget_journal(window: &Window) {
    // One that is too short is no journal, and says so when it is opened.
    let _ = window.store16(VERSION, 0);
}

/// What was found in a journal.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// The heads in flight, in the order in which they were taken.
    pub(crate) heads: Vec<u16>,
    /// The available entry to go on from. `None`: nobody has used this journal yet.
    pub(crate) next_avail: Option<u16>,
}

/// The journal of one queue.
pub(crate) struct Journal {
    window: Window,
    size: u16,
    /// How many requests were taken.
    counter: u64,
    /// What `last_batch_head` is.
    last: u16,
    /// Heads that were answered since the used index moved.
    batch: Vec<u16>,
}

impl Journal {
    /// Opens a journal for a queue of `size` descriptors whose ring's used index is `used`, and says what was in flight. `window` has
    /// [`journal_len`] bytes.
    pub(crate) fn open(window: Window, size: u16, used: u16) -> Result<(Self, Found), RingError> {
        let read = |at| window.load16(at).map_err(|_| RingError::Journal);
        let (version, descriptors, last, before) =
            (read(VERSION)?, read(DESC_NUM)?, read(LAST_BATCH_HEAD)?, read(USED_IDX)?);
        let mut journal = Self { size, counter: 0, last, batch: Vec::with_capacity(size.into()), window };
        let fresh = version == 0;
        if !fresh && (version != VERSION_1 || descriptors != size || last >= size) {
            return Err(RingError::Journal);
        }
        let mut heads = Vec::new();
        if fresh {
            journal.last = 0;
            journal.put(LAST_BATCH_HEAD, 0)?;
            journal.put(DESC_NUM, size)?;
            for head in 0..size {
                journal.put(Self::entry(head) + INFLIGHT, 0)?;
            }
        } else {
            journal.settle(used, before)?;
            heads = journal.in_flight()?;
        }
        journal.put(USED_IDX, used)?;
        journal.put(VERSION, VERSION_1)?;
        let next_avail = (!fresh).then(|| used.wrapping_add(heads.len() as u16));
        Ok((journal, Found { heads, next_avail }))
    }

    fn entry(head: u16) -> usize {
        HEAD + ENTRY * usize::from(head)
    }

    fn put(&self, at: usize, value: u16) -> Result<(), RingError> {
        self.window.store16(at, value).map_err(|_| RingError::Journal)
    }

    /// Clears what the last batch left: so many heads as the ring's used index is ahead. One that is ahead by more than there are
    /// descriptors belongs to another ring than the journal does, of which nothing is in flight.
    fn settle(&self, used: u16, before: u16) -> Result<(), RingError> {
        let behind = used.wrapping_sub(before);
        if behind > self.size {
            return (0..self.size).try_for_each(|head| self.put(Self::entry(head) + INFLIGHT, 0));
        }
        let mut head = self.last;
        for _ in 0..behind {
            self.put(Self::entry(head) + INFLIGHT, 0)?;
            let next = self.window.load16(Self::entry(head) + NEXT).map_err(|_| RingError::Journal)?;
            if next >= self.size {
                return Err(RingError::Journal);
            }
            head = next;
        }
        Ok(())
    }

    /// The heads in flight, the one first that was taken first.
    fn in_flight(&mut self) -> Result<Vec<u16>, RingError> {
        let mut found = Vec::new();
        for head in 0..self.size {
            let at = Self::entry(head);
            let state = self.window.load16(at + INFLIGHT).map_err(|_| RingError::Journal)?;
            if state & 0xff != 0 {
                let counter: u64 = self.window.read_value(at + COUNTER).map_err(|_| RingError::Journal)?;
                found.push((u64::from_le(counter), head));
            }
        }
        // Two of one number were not written by anybody who keeps to the rules; any order will do.
        let found = BinaryHeap::from(found).into_sorted_vec();
        self.counter = found.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        Ok(found.into_iter().map(|(_, head)| head).collect())
    }

    /// The head was taken from the ring. It is a descriptor of the queue.
    #[inline]
    pub(crate) fn taken(&mut self, head: u16) {
        let at = Self::entry(head);
        // In bounds: the window is as long as the queue needs.
        let _ = self.window.write_value(at + COUNTER, &self.counter.to_le());
        let _ = self.window.store16(at + INFLIGHT, 1);
        self.counter = self.counter.wrapping_add(1);
    }

    /// The head has its used entry, which its driver does not see yet.
    #[inline]
    pub(crate) fn answered(&mut self, head: u16) {
        let _ = self.window.store16(Self::entry(head) + NEXT, self.last);
        let _ = self.window.store16(LAST_BATCH_HEAD, head);
        self.last = head;
        // There is room for as many as can be in flight.
        if self.batch.len() < self.batch.capacity() {
            self.batch.push(head);
        }
    }

    /// The ring's used index is this now.
    #[inline]
    pub(crate) fn published(&mut self, used: u16) {
        if self.batch.is_empty() {
            return;
        }
        for head in self.batch.drain(..) {
            let _ = self.window.store16(Self::entry(head) + INFLIGHT, 0);
        }
        let _ = self.window.store16(USED_IDX, used);
    }

    /// Whether its memory vanished.
    pub(crate) fn is_gone(&self) -> bool {
        self.window.failed()
    }
}
