//! Client memory: what was registered, and the proof that a transfer stays inside it.
//!
//! [`MemoryTable`] is one immutable state of a session's registered regions. A virtqueue holds the current one and
//! looks buffers up in it ([`Held::mediate`]): the only way to a [`DmaRange`].

mod held;
mod range;
mod table;

pub use held::Held;
pub use range::{DmaRange, Quiet, QuietBy, Segments};
pub use table::{MemoryTable, Region, TableError};

/// Most regions that a session may register (`GET_MAX_MEM_SLOTS`).
pub const REGIONS_MAX: usize = 512;
