//! The flushes of a shutdown (NVM Express Base 1.4, 7.6.2): of windows at once, of storage as long as it takes.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::shared::Shared;
use crate::storage::{Begun, Inbox, Inner, Job, Request};

/// A shutdown under way.
pub(crate) struct Shutdown {
    inbox: Arc<Inbox>,
    /// Requests that did not end yet.
    left: usize,
    good: bool,
}

impl Shutdown {
    /// Begins to make everything durable.
    pub(crate) fn begin(shared: &Shared) -> Self {
        let (_, view) = shared.view();
        let writable = view.namespaces.iter().flatten().filter(|n| !n.read_only);
        let inbox = Inbox::new(&shared.control, 1);
        inbox.abandon();
        let mut shutdown = Self { inbox, left: 0, good: true };
        for namespace in writable {
            match &namespace.storage {
                None => shutdown.good &= namespace.medium.flush(0, namespace.window.len() as u64).is_ok(),
                Some(storage) => {
                    let mut inner = Inner::new(&shutdown.inbox);
                    inner.job = Some(Job::Flush);
                    match storage.begin(Request::new(inner)) {
                        Begun::UnderWay => shutdown.left += 1,
                        Begun::Ended(request, result) => {
                            drop(request.into_inner());
                            shutdown.good &= result.is_ok();
                        }
                        // So much is under way that nobody can say that all of it is durable.
                        Begun::Full(request) => {
                            drop(request.into_inner());
                            shutdown.good = false;
                        }
                    }
                }
            }
        }
        shutdown
    }

    /// Whether everything is durable; `None`: not known yet.
    pub(crate) fn poll(&mut self) -> Option<bool> {
        let mut ended = Vec::new();
        self.inbox.take(&mut ended);
        for inner in ended {
            self.left = self.left.saturating_sub(1);
            self.good &= inner.result.is_ok();
        }
        (self.left == 0).then_some(self.good)
    }
}
