//! A call that waits, and what is said to a call that is refused.

use nvme_linux::factory::{Refusal, Request};
use nvme_platform::Time;
use nvme_policy::Policy;

/// A call of `create` that waits: for the scan, or for a session to end.
pub(super) struct Waiting {
    pub(super) caller: u64,
    pub(super) request: Request,
    pub(super) policy: Policy,
    pub(super) until: Time,
    /// What it is told then.
    pub(super) refusal: Refusal,
}

pub(super) fn refused(errno: i32, message: &str) -> Refusal {
    Refusal { errno, message: message.into() }
}

/// The error numbers that the server itself answers with (they are the same on every Linux).
pub(super) mod errno {
    pub(crate) const EAGAIN: i32 = 11;
    pub(crate) const ENOMEM: i32 = 12;
    pub(crate) const EINVAL: i32 = 22;
}
