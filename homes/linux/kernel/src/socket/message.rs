//! Bytes with descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::dispose::dispose;

/// Most descriptors that one message may carry.
pub const DESCRIPTORS_MAX: usize = 64;

/// Why a message was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The socket failed, or (`AGAIN`) has nothing now.
    #[error("{0}")]
    Socket(Errno),
    /// The kernel dropped descriptors: too many in one message, or no room in the process's table. Those that came
    /// are closed.
    #[error("descriptors or bytes of a message were lost")]
    Truncated,
}

/// Sends bytes with descriptors, and says how many bytes went out. Never waits, and raises no signal.
pub fn send(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(Errno::TOOMANYREFS);
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

/// Receives bytes and the descriptors that came with them, closed on exec. Never waits. 0 bytes: the peer hung up.
pub fn receive(socket: impl AsFd, into: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), ReceiveError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, flags).map_err(ReceiveError::Socket)?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            files.extend(fds);
        }
    }
    if received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
        dispose(files);
        return Err(ReceiveError::Truncated);
    }
    Ok((received.bytes, files))
}
