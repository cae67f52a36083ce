//! A controller that its driver leaves running, for the driver that goes on with it.
//!
//! A controller learns where its admin queue is while it is disabled, and never else. So whoever goes on without a reset goes on with that queue: in the
//! same memory, behind what was asked and answered there. I/O queues are no part of this: they are deleted, and made anew.

use alloc::vec::Vec;

use super::controller::ADMIN_DEPTH;

/// What a driver has to know of a controller that runs, besides where the admin queue is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Left {
    /// The place of the next admin command.
    pub tail: u16,
    /// The place of the next answer.
    pub head: u16,
    /// The phase tag that the next answer has.
    pub phase: bool,
    /// Identifiers of the commands that are answered when there is something to be told (Asynchronous Event Request). No other is under way.
    pub events: Vec<u16>,
    /// How many I/O queue pairs were granted. That can be asked for once after a reset.
    pub pairs: u16,
    /// Identifiers of the pairs that it has.
    pub live: Vec<u16>,
}

impl Left {
    /// Whether it can be so.
    pub(super) fn is_sound(&self) -> bool {
        let ids = self.live.iter().all(|id| (1..=self.pairs).contains(id));
        let one_less = usize::from(ADMIN_DEPTH - 1);
        ids && self.tail < ADMIN_DEPTH && self.head < ADMIN_DEPTH && self.events.len() < one_less
    }
}
