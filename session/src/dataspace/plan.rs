//! A change of a session's memory: what a client wants, and what that comes to.

use alloc::vec::Vec;

use super::{Claim, File, FileId};

/// What a client wants to be changed.
#[derive(Clone, Debug)]
pub enum MemoryChange {
    /// One region more. One that is registered already, just so, is no change.
    Add(Claim, File),
    /// One region less, exactly as it was registered, its file offset aside: guest address, client address and length.
    Remove(u64, u64, u64),
    /// The whole table, as a difference: what is unchanged keeps its slot and its mapping.
    Replace(Vec<(Claim, File)>),
}

/// A region that a change brings. The home maps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewRegion {
    /// Its slot, once the plan is applied.
    pub slot: u16,
    /// Which of the wanted regions it is (0 for a single one).
    pub index: usize,
    /// What it is.
    pub claim: Claim,
    /// Which file it lies in.
    pub file: FileId,
    /// Whether it may be written to.
    pub writable: bool,
}

/// What turns the registered regions into the wanted ones. Having one tells you that every rule was asked and none
/// is broken, for what was registered when it was made; a [`Registry`](super::Registry) changes by nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub(super) revision: u64,
    pub(super) new: Vec<NewRegion>,
    pub(super) removed: Vec<u16>,
}

impl Plan {
    /// To be mapped, in the order in which they were asked for.
    pub fn new_regions(&self) -> &[NewRegion] {
        &self.new
    }

    /// The slots that go out of the table; to be unmapped when drained.
    pub fn removed(&self) -> &[u16] {
        &self.removed
    }
}
