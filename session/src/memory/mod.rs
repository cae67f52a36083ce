//! Client memory: what was registered, and the proof that a transfer stays inside it.
//!
//! [`MemoryTable`] is one immutable state of a session's registered regions. A virtqueue holds the current one and
//! looks buffers up in it ([`Account::mediate`]): the only way to a [`DmaRange`].

mod account;
mod copy;
mod range;
mod slot;
mod spares;
mod table;

pub use account::{Account, NotMediated, Pinned, Rights};
pub use range::{DmaRange, Quiet, QuietBy, Ranges, Segments, Windows};
pub(crate) use spares::Lists;
pub use spares::Spares;
pub(crate) use table::Near;
pub use table::{MemoryTable, Region, TableError};

/// Most regions that a session may register (`GET_MAX_MEM_SLOTS`).
pub const REGIONS_MAX: usize = 512;

/// Slots for them: a region that was removed keeps its slot until the last DMA into it has ended, and a whole table
/// can be replaced meanwhile.
pub const SLOTS_MAX: usize = 2 * REGIONS_MAX;
