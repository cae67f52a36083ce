//! The device's side of a split virtqueue (virtio 1.2, 2.7).
//!
//! * `ring`: the three rings, resolved once into windows; indices, used entries, notifications.
//! * `journal`: what is in flight, for whoever serves the queue next.
//! * `chain`: a descriptor chain becomes a bounded list of [`Buffer`]s.
//!
//! The driver can write all of it at any time. Indices are read and written atomically; a descriptor is read
//! exactly once, into a local copy, and what is checked is the copy. Whatever breaks the *structure* of the ring
//! ([`Broken`]) stops the queue until it is set up again: nothing that follows in such a ring could be believed, and
//! the driver is told by `DEVICE_NEEDS_RESET`. What is merely wrong with a request is answered in its status.

mod chain;
mod journal;
mod ring;

use core::fmt;

pub use chain::{Buffer, INDIRECT_MAX};
pub(crate) use chain::{Descriptor, Read, Three, indirect_shape};
pub(crate) use journal::{Found, Journal, Keeping};
pub use journal::{forget_journal, journal_holds, journal_len};
pub use ring::{AddressSpace, QUEUE_MAX, Ring, RingAddresses};

/// Why a queue cannot be set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RingError {
    /// The size is no power of two from 1 to [`QUEUE_MAX`].
    BadSize,
    /// A ring is not aligned as virtio 1.2, 2.7 wants it (16, 2 and 4 bytes).
    Misaligned,
    /// A ring does not lie in one registered region.
    NotRegistered,
    /// The used ring lies where nothing may be written.
    NotWritable,
    /// The journal is not one of this queue.
    Journal,
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadSize => "the queue's size is no power of two from 1 to 1024",
            Self::Misaligned => "a ring is misaligned",
            Self::NotRegistered => "a ring does not lie in registered memory",
            Self::NotWritable => "the used ring lies in read-only memory",
            Self::Journal => "the journal of what is in flight does not fit the queue",
        })
    }
}

impl core::error::Error for RingError {}

/// Why a queue serves nothing any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The available index runs ahead by more than the queue's size.
    AvailableJump,
    /// The head of a chain is no descriptor of the queue.
    HeadOutOfRange,
    /// The head of a chain is still in flight.
    HeadInFlight,
    /// A `next` points outside the table.
    NextOutOfRange,
    /// A chain is longer than its table, so it loops.
    Loop,
    /// An indirect descriptor, though `INDIRECT_DESC` was not negotiated.
    IndirectNotNegotiated,
    /// An indirect descriptor that has a `next`.
    IndirectWithNext,
    /// An indirect descriptor in an indirect table.
    IndirectNested,
    /// An indirect table of no, too many, or no whole number of descriptors.
    IndirectLength,
    /// An indirect table outside the registered memory.
    IndirectNotRegistered,
    /// A request without a status byte that can be written.
    NoStatus,
    /// The rings' memory was unregistered.
    RingsGone,
    /// The memory under the rings vanished.
    MemoryGone,
    /// The journal of what is in flight does not fit the queue.
    Journal,
    /// The device is lost. The home says so; no ring does.
    DeviceLost,
    /// Its session's memory holds others up. The home says so.
    HoldsUp,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AvailableJump => "the available index jumped",
            Self::HeadOutOfRange => "the head of a chain is out of range",
            Self::HeadInFlight => "the head of a chain is still in flight",
            Self::NextOutOfRange => "a descriptor's next is out of range",
            Self::Loop => "a descriptor chain loops",
            Self::IndirectNotNegotiated => "an indirect descriptor was not negotiated",
            Self::IndirectWithNext => "an indirect descriptor has a next",
            Self::IndirectNested => "an indirect table holds an indirect descriptor",
            Self::IndirectLength => "an indirect table has a bad length",
            Self::IndirectNotRegistered => "an indirect table lies outside the registered memory",
            Self::NoStatus => "a request has no status byte that can be written",
            Self::RingsGone => "the rings lie outside the registered memory now",
            Self::MemoryGone => "the memory under the rings vanished",
            Self::Journal => "the journal of what is in flight does not fit the queue",
            Self::DeviceLost => "the device is lost",
            Self::HoldsUp => "reaching its memory holds others up",
        })
    }
}

impl core::error::Error for Broken {}
