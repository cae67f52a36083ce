//! The virtqueues of one connection, as the client has described them so far.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nvme_core::server::control::QueueSpec;
use nvme_core::server::message::{QueueKey, SessionKey};
use nvme_linux::dispose::ClientFd;
use nvme_linux::events::{Account, CallError, CallNotify, is_eventfd};
use nvme_platform::{Notify, Window};
use nvme_session::virtqueue::{AddressSpace, RingAddresses};

use crate::lent::Lent;
use crate::worker::Message;

/// A ring's state towards the worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Stage {
    /// Not processed.
    #[default]
    Stopped,
    /// Control was told to start it.
    Running,
    /// Control was told to stop it.
    Stopping,
}

/// What is known about one ring.
#[derive(Default)]
pub(crate) struct Ring {
    pub(crate) size: Option<u16>,
    pub(crate) addresses: Option<(u64, u64, u64)>,
    pub(crate) base: u16,
    pub(crate) kick: Option<Arc<ClientFd>>,
    pub(crate) call: Option<Arc<CallNotify>>,
    pub(crate) error: Option<Arc<CallNotify>>,
    pub(crate) enabled: bool,
    pub(crate) stage: Stage,
    /// It was stopped to go on in another server; or here, if that does not take over.
    pub(crate) paused: bool,
    /// It goes on as soon as it has stopped: everything was to stand still, and did not in time.
    pub(crate) resumes: bool,
    /// It ran in a server that was killed: what is in flight is what the journal says.
    pub(crate) killed: bool,
    /// It broke.
    pub(crate) broken: bool,
}

impl Ring {
    /// How to start it, once the client has said everything.
    pub(crate) fn spec(&self, enabled: bool, journal: Option<Window>) -> Option<(QueueSpec, Arc<ClientFd>)> {
        let kick = self.kick.as_ref().filter(|_| enabled && self.stage == Stage::Stopped)?;
        let (desc, avail, used) = self.addresses?;
        let rings = RingAddresses { desc, avail, used, space: AddressSpace::Client };
        Some((QueueSpec { size: self.size?, rings, next_avail: self.base, journal }, Arc::clone(kick)))
    }

    /// Whether it runs, or has not stopped yet.
    pub(crate) fn is_busy(&self) -> bool {
        self.stage != Stage::Stopped
    }

    /// Whether it runs in the next server: it does here, or will as soon as it has stopped, or would if nothing were to stand still.
    pub(crate) fn goes_on(&self) -> bool {
        self.paused || self.resumes || self.stage == Stage::Running
    }

    /// How many eventfds it has.
    pub(crate) fn eventfds(&self) -> usize {
        [self.kick.is_some(), self.call.is_some(), self.error.is_some()].into_iter().map(usize::from).sum()
    }

    pub(crate) fn set_call(&mut self, fd: Option<OwnedFd>, account: &Arc<Account>) -> Result<(), CallError> {
        self.call = notify(fd, account)?;
        Ok(())
    }

    pub(crate) fn set_error(&mut self, fd: Option<OwnedFd>, account: &Arc<Account>) -> Result<(), CallError> {
        self.error = notify(fd, account)?;
        Ok(())
    }

    /// Its eventfds: kick, call, error.
    pub(crate) fn events(&self) -> [Option<BorrowedFd<'_>>; 3] {
        fn call_of(notify: &Option<Arc<CallNotify>>) -> Option<BorrowedFd<'_>> {
            notify.as_ref().and_then(|notify| notify.call())
        }
        [self.kick.as_ref().map(|kick| kick.as_fd()), call_of(&self.call), call_of(&self.error)]
    }

    /// How its driver is told.
    pub(crate) fn notify(&self) -> Box<dyn Notify> {
        Box::new(RingNotify { call: self.call.clone(), error: self.error.clone() })
    }
}

fn notify(fd: Option<OwnedFd>, account: &Arc<Account>) -> Result<Option<Arc<CallNotify>>, CallError> {
    fd.map(|fd| CallNotify::new(Some(fd), None, account).map(Arc::new)).transpose()
}

/// The call eventfd and the error eventfd, which the client replaces one by one.
struct RingNotify {
    call: Option<Arc<CallNotify>>,
    error: Option<Arc<CallNotify>>,
}

impl Notify for RingNotify {
    fn used(&self) {
        if let Some(call) = &self.call {
            call.used();
        }
    }

    fn broken(&self) {
        if let Some(error) = &self.error {
            error.used();
        }
    }
}

/// A kick has to be an eventfd: anything else could keep a worker busy, or not be watched at all.
pub(crate) fn check_kick(fd: &OwnedFd) -> Result<(), &'static str> {
    if is_eventfd(fd.as_fd()) { Ok(()) } else { Err("it is not an eventfd") }
}

/// Gives a worker another kick for a ring that runs; false where there is none. The worker says when it has it.
pub(crate) fn send_kick(lent: &Lent<'_>, key: SessionKey, index: u16, kick: Arc<ClientFd>) -> bool {
    // One on its way to another worker is given its kick when it goes on.
    let worker = lent.control.session(key).map(|s| s.worker_of(index).unwrap_or_else(|| s.worker()));
    let worker = worker.and_then(|worker| lent.workers.get(worker));
    // A worker that is gone ends the server at the next message of its own.
    worker.is_some_and(|w| w.send(Message::Kick(QueueKey { session: key, index }, kick)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_goes_on_once_it_has_stopped_runs_in_the_next_server() {
        let ring = |stage, paused, resumes| Ring { stage, paused, resumes, ..Ring::default() };
        // An upgrade did not come off, since what is in flight takes long; the server is killed before that has ended.
        assert!(ring(Stage::Stopping, false, true).goes_on());
        assert!(ring(Stage::Running, false, false).goes_on() && ring(Stage::Stopped, true, false).goes_on());
        // Its client stops it.
        assert!(
            !ring(Stage::Stopping, false, false).goes_on() && !ring(Stage::Stopped, false, false).goes_on()
        );
    }
}
