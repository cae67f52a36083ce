//! The factory: what there is, who has it, and who may have what.
//!
//! * [`Catalogue`]: mints sessions, reserves for static clients, and takes the results of scans.
//! * [`NamespaceEntry`], [`PartitionEntry`]: what a scan found. [`DiskIdentity`]: what tells a namespace from others, of a
//!   [`Subsystem`], with its [`Identifiers`].
//!
//! Sharing is a readers-writer rule on extents, so a whole namespace and its partitions are in each other's way.
//! Partition tables are written by clients, so a later scan is believed only as far as it touches nobody else:
//!
//! * a partition that a live session or a reservation holds stays as it is, whatever the table says now, and what
//!   overlaps it or has its number does not come up;
//! * an identifier or a label belongs to the partition that had it first: another one that comes up with it later can be
//!   had by its number only. What the scan at start finds twice is ambiguous, and refused.
//!
//! A partition that its table marks read-only, or that covers that table, is minted read-only or not at all.
//!
//! Authority is divided by factories ([`FactoryId`]): each holds a part of what the one holds that made it, and mints at most that. What it
//! holds is bound when it is made. Names are resolved among what it holds, and nothing is said of anything else.
//!
//! A namespace that two controllers share is one disk. It is had by the way that was there first, and by no other.

mod catalogue;
mod device;
mod error;
mod identity;
mod tables;

pub use catalogue::{
    AdoptedFactory, Catalogue, CatalogueConfig, Ended, FACTORIES_MAX, FACTORY_DEPTH_MAX, FactoryId,
    FactoryView, HeldDevice, Holder, Minted, Placed, PlacedHolding, PlacedPartition, ReservationId,
    SessionId,
};
pub use device::{NamespaceEntry, PartitionEntry, Protection, TableKind};
pub use error::CreateError;
pub use identity::{DiskIdentity, Identifiers, Subsystem};
pub use tables::Refused;
