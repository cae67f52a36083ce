//! The control side of a session's memory: what is registered, and what may be.
//!
//! A *dataspace* is one memory file; a region is a part of one that the client wants to be reached at a guest address.
//! Registering takes three steps, because mapping takes time:
//!
//! 1. [`Registry::plan`] asks every rule what a [`MemoryChange`] comes to, and changes nothing. A [`Plan`] says which regions are new.
//! 2. The home maps those, or gives up.
//! 3. [`Registry::apply`] sets their slots aside and takes out of the table what goes. [`Registry::mapped`] makes each part of the next
//!    [`table`](Registry::table), once the controller reaches it; [`Registry::abandon`] gives it up.
//!
//! What is out of the table is still used: [`Registry::drained`], when no queue holds anything of it any more, hands back what is to be
//! unmapped.
//!
//! * `plan`: what is wanted, and what it comes to. `registry`: what is registered. `rules`: what may be. `error`: which rule is broken, and by how much.

mod error;
mod plan;
mod registry;
mod rules;

use nvme_policy::{Dataspaces, DsMax};

pub use error::RegistryError;
pub use plan::{MemoryChange, NewRegion, Plan};
pub use registry::{Registry, Removed};

/// The identity of a memory file: device and inode, or whatever tells one dataspace from another in this home.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(
    /// The device, or the kind of object.
    pub u64,
    /// The inode, or the object.
    pub u64,
);

/// What the home found out about a memory file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File {
    /// Which file it is.
    pub id: FileId,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it can be written to.
    pub writable: bool,
    /// Whether it is memory and nothing else (tmpfs, memfd, hugetlbfs): no page fault waits for somebody.
    pub memory: bool,
    /// Which of the trusted dataspaces it is, by its places in the server's list: one file may have several names there.
    /// [`Dataspaces::NONE`] if it is none of them.
    pub trusted: Dataspaces,
}

/// A region as the client describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Guest-physical address.
    pub guest: u64,
    /// Address in the client's own process; where there is no such thing, the same as `guest`.
    pub user: u64,
    /// Length in bytes.
    pub len: u64,
    /// Where it starts in the file, in bytes.
    pub offset: u64,
}

/// What a session may register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegistryConfig {
    /// How many dataspaces.
    pub ds_max: DsMax,
    /// How many bytes in all.
    pub memory_max: u64,
    /// Whether only trusted ones.
    pub trusted_only: bool,
    /// Which of the trusted ones, if not all.
    pub dataspaces: Dataspaces,
}
