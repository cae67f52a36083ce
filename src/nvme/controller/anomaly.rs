//! What cannot happen, if the driver is right about itself.
//!
//! Each machine of the controller says so where it meets such a thing, and does nothing; the controller counts it, says it, and asks
//! for a reset: afterwards what it knows of the device is true again. Nothing that a device, a disk or a client does is one of these.

use core::fmt;

/// One thing that cannot happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Anomaly {
    /// Something is asked while there is no admin queue.
    NoAdminQueue,
    /// More is asked than may wait.
    TooMuchAsked,
    /// A command has a place in its table and none in its ring.
    NoPlace,
    /// The page of an answer is not where it was put.
    NoPage,
    /// An answer about namespaces, while nobody looks at them.
    NotListing,
    /// An answer about this queue pair, of which nothing is known.
    NoPair(u16),
    /// An answer about this queue pair, which waits for none, or for another.
    NotWaiting(u16),
    /// A pair for the control role's own reads that nobody made, or that cannot be deleted.
    NoReadsPair,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAdminQueue => f.write_str("something was asked without an admin queue"),
            Self::TooMuchAsked => f.write_str("more was asked than may wait"),
            Self::NoPlace => f.write_str("a command has no place in its ring"),
            Self::NoPage => f.write_str("an answer's page is not there"),
            Self::NotListing => f.write_str("an answer about namespaces that nobody waits for"),
            Self::NoPair(id) => write!(f, "an answer about queue pair {id}, of which nothing is known"),
            Self::NotWaiting(id) => write!(f, "an answer about queue pair {id}, which does not wait for it"),
            Self::NoReadsPair => f.write_str("there is no queue pair for what is being read"),
        }
    }
}

impl core::error::Error for Anomaly {}
