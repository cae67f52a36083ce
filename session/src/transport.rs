//! What a home's transport is like, as far as a session has to know.

use crate::queue::Direction;

/// How a home's clients reach their virtqueues. The home says it once, when it starts; nothing here depends on which home it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transport {
    /// What says which way a data buffer goes.
    pub direction: Direction,
    /// Of [`OPTIONAL`](crate::blk::features::OPTIONAL), those that the transport and its drivers can handle. What every
    /// device offers, and what the controller decides, is not the transport's to say; nor are the bits that the home
    /// offers on its own.
    pub features: u64,
}
