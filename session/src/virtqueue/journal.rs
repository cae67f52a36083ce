//! The journal of a split virtqueue (vhost-user, "Inflight I/O tracking"): what was taken and not answered, in memory that outlives
//! whoever serves the queue.
//!
//! The memory is the client's, and a client may write anything there at any time. What is read is a number of descriptors, one
//! index and one bit for each descriptor; what cannot be is refused, and what can be makes a client ask its own requests once more.
//! Requests that are found in flight are taken, decided and mediated as new ones are.
//!
//! As long as those that their driver was told of are the first that were taken, nothing is entered: the ring itself says all. Its used index
//! tells how many were answered, what follows in the available ring was not, and a journal without entries says just that: it is taken
//! again from there. So those that are published together may have ended in any order. Before something is published that overtakes
//! another, everything that its driver was told nothing of is entered, and from then on each that is taken ([`Keeping`]).
//!
//! Whoever serves the queue may die between any two stores; the stores of a process that died are all there, in their order. The entries
//! that count, and the answers that the driver was told, are together the first of the available ring, always; so the next index to take
//! follows from the used index and from how many are entered.
//! * Before the first that overtakes: `used_idx` becomes the ring's, so that the list of an old batch says nothing any more. Then the entries
//!   are made, in the order of the available ring, of what was answered since the used index moved and of what is in flight. Dead before the
//!   last of them, those that were not entered are taken from the ring.
//! * Taken: `counter`, then `inflight`. Before the second the request counts as not taken, and is taken again from the ring.
//! * Answered: the heads of the batch are linked into a list (`next`, `last_batch_head`), then the used index of the ring moves, then
//!   the batch's `inflight` go, then `used_idx` follows. Dead before the ring's index moved, the requests are in flight: they are done
//!   again, and their driver was told nothing. Dead after that, `used_idx` is not the ring's, and says how many heads of the list are to be
//!   cleared still.
//!
//! The heads of a batch are read from the used ring, where they were just written, and those that are entered all at once from the available
//! ring, where its driver leaves them until they are answered. A client that changes them there has other entries of its journal made and
//! cleared than those of its requests, and is as well off as if it had done so itself.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::{iter, mem};

use nvme_platform::{OutOfBounds, Table, Window};

use super::RingError;

/// The header's fields: features (64 bits), then these, of 16 bits each.
const VERSION: usize = 8;
const DESC_NUM: usize = 10;
const LAST_BATCH_HEAD: usize = 12;
const USED_IDX: usize = 14;
const HEAD: usize = 16;
/// One descriptor's state: `inflight` (8 bits), `next` (16 bits), and behind them `counter` (64 bits).
const ENTRY: usize = 16;
const INFLIGHT: usize = 0;
const NEXT: usize = 6;
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

/// Whether a journal of a queue of so many descriptors says of a request that it is in flight.
pub fn journal_holds(window: &Window, size: u16) -> bool {
    let version = window.load16(VERSION);
    let in_flight = |head| {
        window.load16(HEAD + ENTRY * usize::from(head) + INFLIGHT).is_ok_and(|state| state & 0xff != 0)
    };
    version == Ok(VERSION_1) && (0..size).any(in_flight)
}

/// What was found in a journal.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// The heads in flight, in the order in which they were taken.
    pub(crate) heads: Vec<u16>,
    /// The available entry to go on from. `None`: nobody has used this journal yet.
    pub(crate) next_avail: Option<u16>,
}

/// Whether and how a queue keeps what is in flight.
#[derive(Default)]
pub(crate) enum Keeping {
    /// Not.
    #[default]
    Nothing,
    /// So it will: the memory was not touched yet.
    Unopened(Box<Window>),
    /// In the ring's own order: no entry is made as long as nothing that is published overtakes another.
    InOrder(Box<Journal>),
    /// With an entry for each request.
    Entries(Box<Journal>),
}

/// The journal of one queue.
pub(crate) struct Journal {
    /// The words of the header.
    header: Table<u16>,
    /// For each head two words: `inflight` and `next`, and `counter`.
    entries: Table<[u64; 2]>,
    size: u16,
    /// How many requests were entered.
    counter: u64,
    /// What `last_batch_head` is.
    last: u16,
    /// How many were answered since the first was entered.
    answered: u32,
}

/// So many times the queue's size are answered before it is tried again whether they come in order. To find out that they do not costs a
/// look at each head.
const PATIENCE: u32 = 16;

impl Journal {
    /// Whether `window` has room for the journal of a queue of `size` descriptors, at a place where it can be. It is not touched.
    pub(crate) fn fits(window: &Window, size: u16) -> Result<(), RingError> {
        let tables = Table::<u16>::new(window, 0, HEAD as u32 / 2)
            .and_then(|_| Table::<[u64; 2]>::new(window, HEAD, size.into()));
        tables.map(|_| ()).map_err(|_: OutOfBounds| RingError::Journal)
    }

    /// Opens a journal for a queue of `size` descriptors whose ring's used index is `used`, and says what was in flight. `window` has
    /// [`journal_len`] bytes, at a multiple of eight.
    pub(crate) fn open(window: &Window, size: u16, used: u16) -> Result<(Keeping, Found), RingError> {
        let tables = || {
            let entries = Table::new(window, HEAD, size.into())?;
            Ok((Table::new(window, 0, HEAD as u32 / 2)?, entries))
        };
        let (header, entries) = tables().map_err(|_: OutOfBounds| RingError::Journal)?;
        let mut journal = Self { header, entries, size, counter: 0, last: 0, answered: 0 };
        let [version, descriptors, last, before] = [VERSION, DESC_NUM, LAST_BATCH_HEAD, USED_IDX]
            .map(|at| journal.header.load_around(at as u32 / 2));
        let fresh = version == 0;
        if !fresh && (version != VERSION_1 || descriptors != size || last >= size) {
            return Err(RingError::Journal);
        }
        let mut heads = Vec::new();
        if fresh {
            journal.put(LAST_BATCH_HEAD, 0);
            journal.put(DESC_NUM, size);
            (0..size).for_each(|head| journal.clear(head));
        } else {
            journal.last = last;
            journal.settle(used, before)?;
            heads = journal.in_flight()?;
        }
        journal.put(USED_IDX, used);
        journal.put(VERSION, VERSION_1);
        let next_avail = (!fresh).then(|| used.wrapping_add(heads.len() as u16));
        let journal = Box::new(journal);
        let keeping = if heads.is_empty() { Keeping::InOrder(journal) } else { Keeping::Entries(journal) };
        Ok((keeping, Found { heads, next_avail }))
    }

    /// Writes a word of the header.
    #[inline(always)]
    fn put(&self, at: usize, value: u16) {
        self.header.store_around(at as u32 / 2, value);
    }

    #[inline(always)]
    fn clear(&self, head: u16) {
        self.clear_all(iter::once(head));
    }

    #[inline(always)]
    fn clear_all(&self, heads: impl Iterator<Item = u16>) {
        self.entries.store_quarters_around::<{ INFLIGHT / 2 }>(heads.map(|head| (head.into(), 0)));
    }

    fn read(&self, head: u16) -> Result<[u64; 2], RingError> {
        let [first, counter] = self.entries.read(head.into()).map_err(|_| RingError::Journal)?;
        Ok([u64::from_le(first), u64::from_le(counter)])
    }

    /// Clears what the last batch left: so many heads as the ring's used index is ahead. One that is ahead by more than there are
    /// descriptors belongs to another ring than the journal does, of which nothing is in flight.
    fn settle(&self, used: u16, before: u16) -> Result<(), RingError> {
        let behind = used.wrapping_sub(before);
        if behind > self.size {
            (0..self.size).for_each(|head| self.clear(head));
            return Ok(());
        }
        let mut head = self.last;
        for _ in 0..behind {
            self.clear(head);
            let [first, _] = self.read(head)?;
            head = (first >> (8 * NEXT)) as u16;
            if head >= self.size {
                return Err(RingError::Journal);
            }
        }
        Ok(())
    }

    /// The heads in flight, the one first that was taken first.
    fn in_flight(&mut self) -> Result<Vec<u16>, RingError> {
        let mut found = Vec::new();
        for head in 0..self.size {
            let [first, counter] = self.read(head)?;
            if first & 0xff != 0 {
                found.push((counter, head));
            }
        }
        // Two of one number were not written by anybody who keeps to the rules; any order will do.
        let found = BinaryHeap::from(found).into_sorted_vec();
        self.counter = found.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        Ok(found.into_iter().map(|(_, head)| head).collect())
    }

    /// From now on there are entries. `used` is the ring's index; `heads` are all that were taken and that their driver was told nothing of,
    /// in the order in which they were taken.
    #[cold]
    pub(crate) fn enter(&mut self, used: u16, heads: impl Iterator<Item = u16>) {
        self.put(USED_IDX, used);
        (self.counter, self.answered) = (0, 0);
        heads.for_each(|head| self.taken(head));
    }

    /// The head was taken from the ring. It is a descriptor of the queue.
    #[inline(always)]
    pub(crate) fn taken(&mut self, head: u16) {
        // Nobody is led by what `next` was: a head that is taken is in no batch any more.
        self.entries.store_backwards_around(head.into(), [1, self.counter]);
        self.counter = self.counter.wrapping_add(1);
    }

    /// These heads have their used entries, which their driver does not see yet.
    #[inline(always)]
    pub(crate) fn answered(&mut self, heads: impl Iterator<Item = u16>) {
        let mut last = self.last;
        let linked = heads.map(|head| (head.into(), mem::replace(&mut last, head)));
        self.entries.store_quarters_around::<{ NEXT / 2 }>(linked);
        self.put(LAST_BATCH_HEAD, last);
        self.last = last;
    }

    /// The driver sees those used entries, up to this index.
    #[inline(always)]
    pub(crate) fn published(&mut self, heads: impl ExactSizeIterator<Item = u16>, used: u16) {
        self.answered = self.answered.saturating_add(heads.len() as u32);
        self.clear_all(heads);
        self.put(USED_IDX, used);
    }

    /// Whether so many were answered since the first was entered that it is time to try without. To be asked when nothing is in flight: then
    /// there is no entry.
    pub(crate) fn is_time(&self) -> bool {
        self.answered >= PATIENCE * u32::from(self.size)
    }

    /// Whether its memory vanished.
    pub(crate) fn is_gone(&self) -> bool {
        self.entries.failed()
    }
}
