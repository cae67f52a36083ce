//! The journal of a split virtqueue (vhost-user, "Inflight I/O tracking"): what was taken and not answered, in memory that outlives
//! whoever serves the queue.
//!
//! The memory is the client's, and a client may write anything there at any time. What is read is a number of descriptors, one
//! index and one bit for each descriptor; what cannot be is refused, and what can be makes a client ask its own requests once more.
//! Requests that are found in flight are taken, decided and mediated as new ones are.
//!
//! As long as requests are answered in the order in which they were taken, nothing of them is entered: the ring itself says all. Its used index
//! tells how many were answered, what follows in the available ring was not, and a journal without entries says just that: it is taken
//! again from there. With the first that overtakes another everything that its driver was told nothing of is entered, and from then on each
//! that is taken ([`Keeping`]).
//!
//! Whoever serves the queue may die between any two stores; the stores of a process that died are all there, in their order. The entries
//! that count, and the answers that the driver was told, are together the first of the available ring, always; so the next index to take
//! follows from the used index and from how many are entered.
//! * The first that overtakes: `used_idx` becomes the ring's, so that the list of an old batch says nothing any more. Then the entries are made,
//!   in the order of the available ring: what was answered since the used index moved, then what is in flight. Dead before the last of
//!   them, those that were not entered are taken from the ring.
//! * Taken: `counter`, then `inflight`. Before the second the request counts as not taken, and is taken again from the ring.
//! * Answered: the heads of the batch are linked into a list (`next`, `last_batch_head`), then the used index of the ring moves, then
//!   the batch's `inflight` go, then `used_idx` follows. Dead before the ring's index moved, the requests are in flight: they are done
//!   again, and their driver was told nothing. Dead after that, `used_idx` is not the ring's, and says how many heads of the list are to be
//!   cleared still.
//!
//! The heads of a batch are read from the used ring, where they were just written. A client that changes them there has other entries of its
//! journal cleared than those that were answered, and is as well off as if it had done so itself.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::mem;

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
    /// In the ring's own order: no entry is made as long as nothing is overtaken.
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
    /// Room for all heads, to put them in order.
    room: Vec<(u64, u16)>,
}

/// So many times the queue's size are answered before it is tried again whether they come in order. To find out that they do not costs a
/// look at each head.
const PATIENCE: u32 = 16;

impl Journal {
    /// Opens a journal for a queue of `size` descriptors whose ring's used index is `used`, and says what was in flight. `window` has
    /// [`journal_len`] bytes, at a multiple of eight.
    pub(crate) fn open(window: &Window, size: u16, used: u16) -> Result<(Keeping, Found), RingError> {
        let tables = || {
            let entries = Table::new(window, HEAD, size.into())?;
            Ok((Table::new(window, 0, HEAD as u32 / 2)?, entries))
        };
        let (header, entries) = tables().map_err(|_: OutOfBounds| RingError::Journal)?;
        let room = Vec::with_capacity(size.into());
        let mut journal = Self { header, entries, size, counter: 0, last: 0, answered: 0, room };
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
        self.entries.store_quarter_around::<{ INFLIGHT / 2 }>(head.into(), 0);
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

    /// From now on there are entries. `used` is the ring's index; `answered` are the heads that were answered since it moved, in the order in
    /// which they were taken; `in_flight` are all others, in any order, each with a number that tells theirs.
    #[cold]
    pub(crate) fn enter(
        &mut self,
        used: u16,
        answered: impl Iterator<Item = u16>,
        in_flight: impl Iterator<Item = (u64, u16)>,
    ) {
        self.put(USED_IDX, used);
        (self.counter, self.answered) = (0, 0);
        answered.for_each(|head| self.taken(head));
        let mut room = mem::take(&mut self.room);
        room.clear();
        // There is room for each head once, and each is in flight once.
        room.extend(in_flight.take(self.size.into()));
        room.sort_unstable();
        room.iter().for_each(|(_, head)| self.taken(*head));
        self.room = room;
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
        for head in heads {
            self.entries.store_quarter_around::<{ NEXT / 2 }>(head.into(), last);
            last = head;
        }
        self.put(LAST_BATCH_HEAD, last);
        self.last = last;
    }

    /// The driver sees those used entries, up to this index.
    #[inline(always)]
    pub(crate) fn published(&mut self, heads: impl Iterator<Item = u16>, used: u16) {
        for head in heads {
            self.clear(head);
            self.answered = self.answered.saturating_add(1);
        }
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
