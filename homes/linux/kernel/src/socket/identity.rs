//! Which socket a descriptor is, and what may be kept of those that a client sends.
//!
//! A session lasts as long as anybody has a copy of its capability, so the server must have none. A copy can come to it as
//! the channel for its own requests, the only socket of a client's that is kept once it was looked at, or lie unread in one.
//! So of a channel it is asked which socket it is ([`Cookie`]) and whose; and nothing more can be sent to it.
#![expect(unsafe_code, reason = "socket options that rustix does not have")]

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_passcred, socket_cookie};
use rustix::net::{AddressFamily, Shutdown, getpeername, shutdown};

use super::{ReceiveError, is_unix_stream, receive};
use crate::dispose::dispose;

/// A socket's number, which the kernel gives once (socket(7), `SO_COOKIE`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cookie(u64);

impl Cookie {
    /// Which socket it is, by whatever descriptor.
    pub fn of(socket: impl AsFd) -> Result<Self, Errno> {
        socket_cookie(socket).map(Self)
    }

    /// As a number, for another process: a socket has one wherever it is.
    pub fn number(self) -> u64 {
        self.0
    }

    /// From what [`number`](Self::number) said elsewhere.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// Messages that may lie unread in a channel when it comes.
const UNREAD_MAX: usize = 1024;

/// Why a descriptor is no channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAChannel {
    /// It is something else than a connected stream socket.
    #[error("it is no connected AF_UNIX stream socket")]
    Kind,
    /// Its other end is a socket that listened by name: a session's, perhaps.
    #[error("its other end has a name: a channel is one of a pair")]
    Named,
    /// It is a session's capability.
    #[error("it is the capability of a session")]
    Capability,
    /// More lies in it than anybody sends there.
    #[error("it is full of messages")]
    Full,
}

/// Takes a client's socket for the server's requests. What was sent to it is thrown away, and nothing more can be. Connections
/// that were accepted have their listener's name, and `ours` says which sockets are the other ends of the server's own pairs.
pub fn channel(socket: OwnedFd, ours: impl Fn(Cookie) -> bool) -> Result<OwnedFd, NotAChannel> {
    match check(&socket, ours) {
        Ok(()) => Ok(socket),
        Err(why) => {
            dispose([socket]);
            Err(why)
        }
    }
}

fn check(socket: &OwnedFd, ours: impl Fn(Cookie) -> bool) -> Result<(), NotAChannel> {
    if !is_unix_stream(socket) {
        return Err(NotAChannel::Kind);
    }
    let peer = getpeername(socket).map_err(|_| NotAChannel::Kind)?.ok_or(NotAChannel::Kind)?;
    // A name of no characters is one: what counts is whether there is anything behind the family.
    if peer.address_family() != AddressFamily::UNIX
        || peer.addr_len() as usize > size_of::<libc::sa_family_t>()
    {
        return Err(NotAChannel::Named);
    }
    if Cookie::of(socket).map_or(true, ours) {
        return Err(NotAChannel::Capability);
    }
    // First no more, then what is there.
    shutdown(socket, Shutdown::Read).map_err(|_| NotAChannel::Kind)?;
    deliver_nothing_else(socket);
    let mut buffer = [0; 4096];
    for _ in 0..UNREAD_MAX {
        match receive(socket, &mut buffer) {
            Ok((0, files)) if files.is_empty() => return Ok(()),
            Ok((_, files)) => dispose(files),
            Err(ReceiveError::Truncated | ReceiveError::Socket(Errno::INTR)) => {}
            Err(ReceiveError::Socket(Errno::AGAIN)) => return Ok(()),
            Err(ReceiveError::Socket(_)) => return Err(NotAChannel::Kind),
        }
    }
    Err(NotAChannel::Full)
}

/// Turns off what would bring more than bytes and the descriptors that were sent: credentials, labels, and a descriptor of
/// the sender's process with each message. A connection has these options from its listener, which a client may have made.
pub(super) fn deliver_nothing_else(socket: impl AsFd) {
    let _ = set_socket_passcred(&socket, false);
    // `SO_PASSPIDFD` of Linux 6.5, which not every architecture numbers alike.
    const SO_PASSPIDFD: libc::c_int = 76;
    let off: libc::c_int = 0;
    for option in [libc::SO_PASSSEC, SO_PASSPIDFD] {
        // SAFETY: the value is an int, whose size is given. A kernel that does not know an option says so, and has none.
        unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const off).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
    }
}
