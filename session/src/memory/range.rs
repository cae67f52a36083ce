//! The proof of memory, and the proof that ends it.

use alloc::vec::Vec;

use nvme_platform::{Iova, Window};

/// Proof of memory. Having this value tells you that its bytes lie in one region that this session's client registered, with the right that the
/// request needs, that the controller reaches them at its address, and that the region stays mapped while the value exists. It does not
/// tell you what the bytes are, nor that they stay the same: the client writes them as it likes.
///
/// Only an `Account` makes it. Neither copied nor kept beyond the command: it goes back to its queue with a [`Quiet`].
#[derive(PartialEq, Eq, Debug)]
pub struct DmaRange {
    iova: Iova,
    len: u32,
    mark: u32,
}

impl DmaRange {
    /// For [`Account::mediate`](super::Account::mediate) only.
    #[inline]
    pub(super) fn mediated(iova: Iova, len: u32, mark: u32) -> Self {
        Self { iova, len, mark }
    }

    /// Where the controller finds it.
    #[inline]
    pub fn iova(&self) -> Iova {
        self.iova
    }

    /// Length in bytes; at least 1.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whose it is, and in which of the session's regions it lies.
    #[inline]
    pub(super) fn mark(&self) -> u32 {
        self.mark
    }

    /// Divides it after `bytes` bytes; hands it back when a side would be empty.
    pub fn split_at(self, bytes: u32) -> Result<(DmaRange, DmaRange), DmaRange> {
        if bytes == 0 || bytes >= self.len {
            return Err(self);
        }
        let Self { iova, len, mark } = self;
        Ok((
            Self { iova, len: bytes, mark },
            Self { iova: Iova(iova.0 + u64::from(bytes)), len: len - bytes, mark },
        ))
    }
}

/// The ranges of one transfer, in order. Its storage is used again and again: see [`Spares`](super::Spares).
pub type Segments = Vec<DmaRange>;

/// The ranges of one transfer. One, as a rule, which needs no storage apart.
#[derive(PartialEq, Eq, Debug)]
pub enum Ranges {
    /// One.
    One(DmaRange),
    /// Any number.
    Many(Segments),
}

impl Ranges {
    /// All of them.
    #[inline(always)]
    pub fn as_slice(&self) -> &[DmaRange] {
        match self {
            Self::One(range) => core::slice::from_ref(range),
            Self::Many(ranges) => ranges,
        }
    }

    /// Their bytes.
    #[inline(always)]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::One(range) => range.len().into(),
            Self::Many(ranges) => ranges.iter().map(|r| u64::from(r.len())).sum(),
        }
    }

    /// Divides them after `bytes` bytes, of which there are more; `spare` is empty storage for the second part.
    pub(crate) fn split_at(self, bytes: u64, mut spare: Segments) -> (Self, Self) {
        let mut left = bytes;
        let mut memory = match self {
            Self::Many(memory) => memory,
            Self::One(range) => match range.split_at(left as u32) {
                Ok((a, b)) => {
                    spare.push(b);
                    return (Self::One(a), Self::Many(spare));
                }
                // It is longer than that, so it can be divided.
                Err(range) => [range].into(),
            },
        };
        let mut whole = 0;
        while let Some(s) = memory.get(whole)
            && u64::from(s.len()) <= left
        {
            left -= u64::from(s.len());
            whole += 1;
        }
        let mut tail = memory.drain(whole..);
        let mut head = None;
        if left > 0
            && let Some(s) = tail.next()
        {
            // `left` is less than this segment's length, so it fits and neither side is empty.
            match s.split_at(left as u32) {
                Ok((a, b)) => {
                    head = Some(a);
                    spare.push(b);
                }
                Err(s) => spare.push(s),
            }
        }
        spare.extend(tail);
        memory.extend(head);
        (Self::Many(memory), Self::Many(spare))
    }

    /// As a list, in storage that is given for it.
    pub(crate) fn into_segments(self, mut storage: Segments) -> Segments {
        match self {
            Self::One(range) => {
                storage.push(range);
                storage
            }
            Self::Many(ranges) => ranges,
        }
    }
}

impl From<DmaRange> for Ranges {
    #[inline(always)]
    fn from(range: DmaRange) -> Self {
        Self::One(range)
    }
}

impl From<Segments> for Ranges {
    fn from(ranges: Segments) -> Self {
        Self::Many(ranges)
    }
}

impl IntoIterator for Ranges {
    type Item = DmaRange;
    type IntoIter = alloc::vec::IntoIter<DmaRange>;

    fn into_iter(self) -> Self::IntoIter {
        self.into_segments(Segments::new()).into_iter()
    }
}

/// Who can see the memory behind a range: the queue that mediated it. For bounce copies.
pub trait Windows {
    /// Our own view of a range that is in flight; `None` for a range of another queue.
    fn window(&self, range: &DmaRange) -> Option<Window>;
}

/// How the controller was proven to be done with memory. A time-out is none of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QuietBy {
    /// The command never reached a submission queue.
    NeverSubmitted,
    /// The command completed.
    Completed,
    /// Its submission queue was deleted.
    QueueDeleted,
    /// A controller reset was seen to finish.
    ResetFinished,
    /// The device was cut off from the bus.
    CutOff,
}

/// Proof that a command is over. Having this value tells you that the controller will not touch that command's memory any more, whatever
/// became of the command. It does not tell you that the command did what it should.
///
/// The driver makes it (`nvme::quiet`), at the moment it sees one of the events of [`QuietBy`]; and the session for what it kept back.
#[derive(Debug)]
pub struct Quiet(QuietBy);

impl Quiet {
    /// For the NVMe driver's module `quiet`: states that `by` was seen.
    #[inline]
    pub fn seen(by: QuietBy) -> Self {
        Self(by)
    }

    /// For what the session itself kept back.
    pub(crate) fn never_submitted() -> Self {
        Self(QuietBy::NeverSubmitted)
    }

    /// What was seen.
    pub fn by(&self) -> QuietBy {
        self.0
    }
}
