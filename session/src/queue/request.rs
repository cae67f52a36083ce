//! A request as one value: what was asked, and whose it is.

use core::fmt;

use super::Spares;
use crate::memory::{DmaRange, Quiet};
use crate::operation::{Operation, Outcome};

/// A virtqueue as the worker that owns it numbers it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct QueueTag(u64);

impl QueueTag {
    /// At place `token`, which another virtqueue gets later; of all that the worker ever has, this one is `life`.
    #[inline(always)]
    pub const fn new(token: u32, life: u32) -> Self {
        Self((life as u64) << 32 | token as u64)
    }

    /// The place.
    #[inline(always)]
    pub fn token(&self) -> usize {
        self.0 as u32 as usize
    }

    /// Which virtqueue of all.
    #[inline(always)]
    pub fn life(&self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl fmt::Debug for QueueTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.token(), self.life())
    }
}

/// Which request of which virtqueue. It means nothing to the driver, and nobody but the virtqueue makes one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tag {
    queue: QueueTag,
    take: Take,
}

/// Which use of which head: 16 bits are the head, 48 count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) struct Take(u64);

impl Take {
    /// Of a head, after so many of the queue's requests.
    #[inline(always)]
    pub(super) fn new(head: u16, before: u64) -> Self {
        Self(before << 16 | u64::from(head))
    }

    #[inline(always)]
    pub(super) fn head(self) -> u16 {
        self.0 as u16
    }

    /// How many there were before.
    pub(super) fn before(self) -> u64 {
        self.0 >> 16
    }

    /// The same use of another head; this one is head 0's.
    #[inline(always)]
    pub(super) fn of(self, head: u16) -> Self {
        Self(self.0 | u64::from(head))
    }

    /// Goes on to the next use.
    #[inline(always)]
    pub(super) fn step(&mut self) {
        self.0 += 1 << 16;
    }
}

impl Tag {
    #[inline(always)]
    pub(super) fn new(queue: QueueTag, take: Take) -> Self {
        Self { queue, take }
    }

    /// The virtqueue.
    #[inline(always)]
    pub fn queue(&self) -> QueueTag {
        self.queue
    }

    /// The head of the descriptor chain.
    #[inline(always)]
    pub fn head(&self) -> u16 {
        self.take.head()
    }

    #[inline(always)]
    pub(super) fn take(&self) -> Take {
        self.take
    }
}

/// One thing to do for one request of a virtqueue. Having this value tells you that the virtqueue took the request, that
/// the operation's proofs are that request's, and that it waits for exactly this value: it comes back in [`Ended`].
#[derive(Debug)]
#[must_use = "a request that is dropped is never answered"]
pub struct Request {
    tag: Tag,
    operation: Operation,
}

impl Request {
    /// For virtqueues only.
    #[inline(always)]
    pub(super) fn new(tag: Tag, operation: Operation) -> Self {
        Self { tag, operation }
    }

    /// Whose it is.
    #[inline(always)]
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// What is to be done.
    #[inline(always)]
    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    /// Divides it after `blocks` blocks, when it is longer. Both parts are the same request's: the virtqueue has to be
    /// told of the second ([`BlkQueue::divided`](super::BlkQueue::divided)), and both have to end.
    pub fn split_at(self, blocks: u64, spares: &mut Spares) -> (Self, Option<Self>) {
        let Self { tag, operation } = self;
        let (operation, rest) = operation.split_at(blocks, spares);
        (Self { tag, operation }, rest.map(|operation| Self { tag, operation }))
    }

    /// It ended so, and its memory is not used any more.
    #[inline(always)]
    pub fn end(self, outcome: Outcome, quiet: Quiet) -> Ended {
        Ended { request: self, outcome, quiet }
    }

    /// It was done, and its memory, which [is one range](Operation::is_of_one), is not used any more. `None` if it is not: then it is held for
    /// ever, and never answered.
    #[inline(always)]
    pub fn end_one(self, quiet: Quiet) -> Option<EndedOne> {
        let Self { tag, operation } = self;
        Some(EndedOne { tag, range: operation.into_one()?, quiet })
    }

    #[inline(always)]
    pub(super) fn into_parts(self) -> (Tag, Operation) {
        (self.tag, self.operation)
    }
}

/// A request's operation that has ended.
#[derive(Debug)]
#[must_use = "its memory is held until its virtqueue has it back"]
pub struct Ended {
    /// The request, with its proofs.
    pub request: Request,
    /// How it ended.
    pub outcome: Outcome,
    /// Proof that its memory is not used any more.
    pub quiet: Quiet,
}

/// A read or write of one range of memory that was done: what remains of its request ([`Request::end_one`]).
#[derive(Debug)]
#[must_use = "its memory is held until its virtqueue has it back"]
pub struct EndedOne {
    pub(super) tag: Tag,
    pub(super) range: DmaRange,
    pub(super) quiet: Quiet,
}

impl EndedOne {
    /// Whose it is.
    #[inline(always)]
    pub fn tag(&self) -> Tag {
        self.tag
    }
}

impl Ended {
    /// Whose it is.
    pub fn tag(&self) -> Tag {
        self.request.tag
    }
}

/// Where a request goes on from its virtqueue. Not a closure, since it is to be inlined wherever a request comes about.
pub trait Onward {
    /// What comes of it.
    type Answer;
    /// Goes on with it.
    fn go_on(self, request: Request) -> Self::Answer;
}

/// Nowhere: the request is the answer.
pub(super) struct Here;

impl Onward for Here {
    type Answer = Request;

    #[inline(always)]
    fn go_on(self, request: Request) -> Request {
        request
    }
}
