//! The two rings of a queue pair, without what is in them: positions, phase, and the checks on what comes back.
//! Used by the admin queue and by I/O pairs alike.

use nvme_platform::{OutOfBounds, Table, Window};
use zerocopy::transmute;

use super::spec::command::{CQE_CODE, CQE_PHASE, Command, Completion, Status, Words};

/// A submission queue in driver memory. Whoever submits makes sure that no more than `depth - 1` commands are in
/// flight; then a free entry needs no head pointer from the controller.
pub(super) struct SubmissionRing {
    entries: Table<Words>,
    depth: u16,
    tail: u16,
    rung: u16,
}

impl SubmissionRing {
    /// `memory` holds at least `depth` entries of 64 bytes.
    pub(super) fn new(memory: Window, depth: u16) -> Self {
        // The pool gives as much as it is asked for, in whole pages.
        let entries = Table::new(&memory, 0, depth.into()).unwrap_or_else(|_| Table::gone());
        Self { entries, depth, tail: 0, rung: 0 }
    }

    /// Goes on where somebody left it, all of it rung.
    pub(super) fn resume(&mut self, tail: u16) {
        (self.tail, self.rung) = (tail, tail);
    }

    /// Where the next entry goes, when the controller knows of all before it.
    pub(super) fn position(&self) -> Option<u16> {
        (self.tail == self.rung).then_some(self.tail)
    }

    /// Writes one entry. It is seen by the controller once the doorbell is rung.
    #[inline(always)]
    pub(super) fn push(&mut self, command: &Command) -> Result<(), OutOfBounds> {
        self.push_words(transmute!(*command))
    }

    /// As [`push`](Self::push), for an entry that is words already.
    #[inline(always)]
    pub(super) fn push_words(&mut self, words: Words) -> Result<(), OutOfBounds> {
        self.entries.write(self.tail.into(), words)?;
        self.tail = if self.tail + 1 == self.depth { 0 } else { self.tail + 1 };
        Ok(())
    }

    /// The tail for the doorbell, when it moved since the last call.
    #[inline]
    pub(super) fn take_tail(&mut self) -> Option<u16> {
        if self.tail == self.rung {
            return None;
        }
        self.rung = self.tail;
        Some(self.tail)
    }

    /// Back to the start, for a queue that is created anew.
    pub(super) fn rewind(&mut self) {
        (self.tail, self.rung) = (0, 0);
    }
}

/// A completion queue in driver memory. The controller writes it at any time; each entry is taken once.
pub(super) struct CompletionRing {
    memory: Window,
    entries: Table<[u64; 2]>,
    depth: u16,
    head: u16,
    rung: u16,
    /// What the phase tag of the next new entry is, at its place in the dword.
    phase: u32,
}

impl CompletionRing {
    /// `memory` holds at least `depth` entries of 16 bytes, all zero.
    pub(super) fn new(memory: Window, depth: u16) -> Self {
        // As for the submission ring.
        let entries = Table::new(&memory, 0, depth.into()).unwrap_or_else(|_| Table::gone());
        Self { memory, entries, depth, head: 0, rung: 0, phase: CQE_PHASE }
    }

    /// Goes on where somebody left it.
    pub(super) fn resume(&mut self, head: u16, phase: bool) {
        (self.head, self.rung, self.phase) = (head, head, if phase { CQE_PHASE } else { 0 });
    }

    /// Where the next entry comes and with which phase, when the controller knows of all that were taken.
    pub(super) fn position(&self) -> Option<(u16, bool)> {
        (self.head == self.rung).then_some((self.head, self.phase != 0))
    }

    /// The next entry, if there is one.
    #[inline(always)]
    pub(super) fn peek(&self) -> Option<Completion> {
        self.peek_as(CQE_PHASE)
    }

    /// The same, if it says that all went well.
    #[inline(always)]
    pub(super) fn peek_good(&self) -> Option<Completion> {
        self.peek_as(CQE_PHASE | CQE_CODE)
    }

    /// The next entry, if of its last dword these bits are no others than the phase tag.
    #[inline(always)]
    fn peek_as(&self, bits: u32) -> Option<Completion> {
        // The controller writes the phase tag last, so the rest of the entry, and the data that the command brought,
        // are visible once the tag is. Dwords 2 and 3 are loaded as one.
        let [first, second] = self.entries.load_entry(self.head.into()).ok()?;
        let (dw0, dw2, dw3) = (first as u32, second as u32, (second >> 32) as u32);
        if dw3 & bits != self.phase {
            return None;
        }
        Some(Completion {
            dw0,
            sqhd: dw2 as u16,
            sqid: (dw2 >> 16) as u16,
            cid: dw3 as u16,
            status: Status((dw3 >> 17) as u16),
        })
    }

    /// Goes on behind the entry that [`peek`](Self::peek) found.
    #[inline(always)]
    pub(super) fn advance(&mut self) {
        self.head += 1;
        if self.head == self.depth {
            self.head = 0;
            self.phase ^= CQE_PHASE;
        }
    }

    /// Takes the next entry, if there is one.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Completion> {
        let completion = self.peek()?;
        self.advance();
        Some(completion)
    }

    /// The head for the doorbell, when it moved since the last call.
    #[inline]
    pub(super) fn take_head(&mut self) -> Option<u16> {
        if self.head == self.rung {
            return None;
        }
        self.rung = self.head;
        Some(self.head)
    }

    /// Back to the start, for a queue that is created anew. The controller does not know the old one any more, so
    /// nobody writes while it is cleared.
    pub(super) fn rewind(&mut self) {
        (self.head, self.rung, self.phase) = (0, 0, CQE_PHASE);
        // The range is the window's own.
        let _ = self.memory.fill(0, self.memory.len(), 0);
    }
}

#[cfg(test)]
mod tests {
    use nvme_mem::heap;

    use super::*;

    fn post(w: &Window, at: u16, phase: bool, cid: u16) {
        w.store32(usize::from(at) * 16 + 12, u32::from(cid) | u32::from(phase) << 16).unwrap();
    }

    #[test]
    fn an_entry_is_taken_once_in_every_lap() {
        let w = heap(4096).unwrap();
        let mut ring = CompletionRing::new(w.clone(), 3);
        assert!(ring.pop().is_none());
        for lap in 0..7_u16 {
            for i in 0..3 {
                post(&w, i, lap.is_multiple_of(2), lap * 3 + i);
                assert_eq!(ring.pop().map(|c| c.cid), Some(lap * 3 + i));
                assert!(ring.pop().is_none());
                assert_eq!(ring.take_head(), Some((i + 1) % 3));
                assert_eq!(ring.take_head(), None);
            }
        }
    }

    #[test]
    fn an_entry_of_the_lap_before_is_not_good_nor_is_one_that_says_an_error() {
        let w = heap(4096).unwrap();
        let mut ring = CompletionRing::new(w.clone(), 2);
        assert!(ring.peek_good().is_none());
        for (status, good) in [(0, true), (7, false), (0x700, false), (1 << 14, true)] {
            // Each of them in either lap.
            for phase in [true, false] {
                ring.resume(0, phase);
                w.store32(12, 5 | u32::from(phase) << 16 | status << 17).unwrap();
                assert_eq!(ring.peek_good().is_some(), good && Status(status as u16).ok());
                assert_eq!(ring.peek().map(|c| (c.cid, c.status)), Some((5, Status(status as u16))));
                ring.resume(0, !phase);
                assert!(ring.peek_good().is_none() && ring.peek().is_none());
            }
        }
    }

    #[test]
    fn a_ring_that_was_rewound_starts_in_its_first_lap() {
        let w = heap(4096).unwrap();
        let mut ring = CompletionRing::new(w.clone(), 2);
        for i in 0..2 {
            post(&w, i, true, i);
            ring.pop().unwrap();
        }
        ring.rewind();
        assert!(ring.pop().is_none());
        post(&w, 0, true, 9);
        assert_eq!(ring.pop().map(|c| c.cid), Some(9));
    }

    #[test]
    fn entries_wrap_and_the_tail_is_rung_once() {
        let w = heap(4096).unwrap();
        let mut ring = SubmissionRing::new(w.clone(), 3);
        let mut tails = alloc::vec::Vec::new();
        for cid in 0..7_u16 {
            ring.push(&Command { cid: cid.into(), ..Command::default() }).unwrap();
            tails.extend(ring.take_tail());
            assert_eq!(ring.take_tail(), None);
            let slot = usize::from(cid % 3) * 64;
            assert_eq!(w.read_value::<Command>(slot).unwrap().cid.get(), cid);
        }
        assert_eq!(tails, [1, 2, 0, 1, 2, 0, 1]);
    }
}
