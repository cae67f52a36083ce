//! How far the fast way came with what the slow way goes on with.

use super::counts::Asked;
use crate::blk::request::{Header, Status};
use crate::memory::Pinned;
use crate::virtqueue::{Broken, Buffer, Read};

/// The fast way ([`Taking`](super::Taking)) has no request. To be given to [`BlkQueue::next_slow`](super::BlkQueue::next_slow), which goes on
/// where that stopped: what is known is kept in the queue, so that nothing of it is carried along where all is well.
#[derive(Debug)]
#[must_use = "what was taken is lost if nobody goes on with it"]
pub struct Slow(pub(super) ());

/// How far a request was taken.
#[derive(Default, Debug)]
pub(super) enum Why {
    /// Nothing is available.
    #[default]
    Idle,
    /// The ring is broken.
    Fail(Broken),
    /// Nothing new is taken, or something old comes first.
    Old,
    /// Its chain is another; so much of it was read.
    Chain(u16, Read),
    /// It is no transfer, or one over several regions or of parts of blocks: header, status and data are known.
    Start(u16, Header, Pinned, Buffer),
    /// It is answered with an error.
    Answer(u16, Pinned, Status, Asked),
}
