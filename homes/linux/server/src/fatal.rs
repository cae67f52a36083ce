//! What ends a server that serves.

use std::io;

use crate::worker::WorkerLost;

/// Why the server ends other than by being told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    #[error("waiting for events: {0}")]
    Epoll(#[from] io::Error),
    #[error(transparent)]
    Worker(#[from] WorkerLost),
}
