//! In the place of `homes/linux/kernel/src/events`.

use std::cell::RefCell;
use std::io::{self, Stderr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use loom::sync::Notify;

#[path = "../../../homes/linux/kernel/src/events/doorbell.rs"]
mod doorbell;
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU32, Ordering};
}

pub(crate) use doorbell::Doorbell;

thread_local! {
    /// Of the eventfd that was made last: a model's threads are all on this one.
    static LAST: RefCell<Option<Arc<Notify>>> = const { RefCell::new(None) };
}

/// An eventfd whose edge wakes a thread.
pub(crate) struct EventFd {
    edge: Arc<Notify>,
    /// Nobody asks the model for its descriptor.
    fd: Stderr,
}

impl std::fmt::Debug for EventFd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventFd")
    }
}

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        let edge = Arc::new(Notify::new());
        LAST.with(|last| *last.borrow_mut() = Some(Arc::clone(&edge)));
        Ok(Self { edge, fd: io::stderr() })
    }

    pub(crate) fn signal(&self) {
        self.edge.notify();
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a thread with the last bell's eventfd in its epoll set waits for.
pub(crate) fn last_edge() -> Option<Arc<Notify>> {
    LAST.with(|last| last.borrow_mut().take())
}
