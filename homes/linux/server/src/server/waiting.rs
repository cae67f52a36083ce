//! A call that waits, and what is said to a call that is refused.

use nvme_linux::factory::{Refusal, Request};
use nvme_linux::socket::Peer;
use nvme_platform::Time;
use nvme_policy::{Errno, FactoryRequest, SessionRequest};
use nvme_session::factory::FactoryId;

/// Calls of one tenant that wait at a time: all of them are tried again whenever something becomes free.
pub(super) const WAITING_EACH: usize = 16;

/// What a caller asks for.
pub(super) enum Asked {
    Session(Box<SessionRequest>),
    Factory(Box<FactoryRequest>),
    List,
}

/// Who asks, and where.
#[derive(Clone, Copy)]
pub(super) struct Call {
    /// The caller's token.
    pub(super) token: u64,
    /// The factory that is asked.
    pub(super) at: FactoryId,
    pub(super) peer: Option<Peer>,
}

/// A call of `create` that waits: for the scan, or for a session to end.
pub(super) struct Waiting {
    pub(super) caller: u64,
    /// Whose it is.
    pub(super) tenant: u64,
    pub(super) request: Request,
    pub(super) asked: Asked,
    pub(super) until: Time,
    /// What it is told then.
    pub(super) refusal: Refusal,
}

pub(super) fn refused(errno: Errno, message: &str) -> Refusal {
    Refusal { errno: errno.number(), message: message.into() }
}
