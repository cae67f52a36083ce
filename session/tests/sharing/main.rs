//! Who may have what.
//!
//! * `rig`: two disks with partitions.
//! * `names`: by which names a device is had, and what is said of those that name none or several.
//! * `access`: who may have a device beside whom: readers, writers, and how many.
//! * `statics`: static clients: their device is reserved, there or not.
//! * `tables`: a partition table that was rewritten takes nothing from whoever has a partition.
//! * `sizes`: namespaces that grow, shrink or change their blocks.
//! * `ways`: disks that two controllers share, and drives that say they are the same.
#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]

mod access;
mod names;
mod rig;
mod sizes;
mod statics;
mod tables;
mod ways;
