//! A call that waits, and what is said to a call that is refused.

use nvme_linux::factory::{Refusal, Request};
use nvme_platform::Time;
use nvme_policy::{Errno, Policy};

/// A call of `create` that waits: for the scan, or for a session to end.
pub(super) struct Waiting {
    pub(super) caller: u64,
    pub(super) request: Request,
    pub(super) policy: Policy,
    pub(super) until: Time,
    /// What it is told then.
    pub(super) refusal: Refusal,
}

pub(super) fn refused(errno: Errno, message: &str) -> Refusal {
    Refusal { errno: errno.number(), message: message.into() }
}
