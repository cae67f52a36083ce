//! What can go wrong.

use std::io;

use crate::Status;

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer did not answer in time.
    #[error("no {0} within the deadline")]
    Deadline(&'static str),
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer acknowledged a request with this error (any non-zero value).
    #[error("request {request} was refused with {code}")]
    Refused {
        /// The vhost-user request.
        request: u32,
        /// The value of the acknowledgement.
        code: u64,
    },
    /// The peer said something that the protocol does not allow here.
    #[error("protocol: {0}")]
    Protocol(String),
    /// A block request ended with another status than OK.
    #[error("the device answered {0:?}")]
    Status(Status),
    /// `create` was refused: the negative errno and the message.
    #[error("create refused ({code}): {message}")]
    Create {
        /// A negative errno.
        code: i32,
        /// What the server said.
        message: String,
    },
    /// No room in the queue or in the client's memory.
    #[error("no room: {0}")]
    Full(&'static str),
    /// An address outside the client's own memory.
    #[error("{0:#x}+{1:#x} is not in the client's memory")]
    Address(u64, u64),
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        Error::Io(errno.into())
    }
}

impl From<nvme_mem::OutOfBounds> for Error {
    fn from(_: nvme_mem::OutOfBounds) -> Self {
        Error::Address(u64::MAX, 0)
    }
}
