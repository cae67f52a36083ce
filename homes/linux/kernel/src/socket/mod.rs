//! `AF_UNIX` sockets: descriptors in messages, who the peer is, and listening sockets that are made safely.
//!
//! [`send`] and [`receive`] move bytes and descriptors and never wait. [`listen`] makes listening sockets from a
//! `unix:` SPEC; [`accept`] takes connections; [`peer`] names the process at the other end for the log.

mod acceptor;
mod group;
mod identity;
mod listen;
mod message;
mod unread;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::{
    set_socket_passcred, socket_acceptconn, socket_domain, socket_peercred, socket_type,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept_with};

pub use acceptor::Acceptor;
pub use group::Group;
pub use identity::{Cookie, NotAChannel, channel};
pub use listen::{ListenError, ListenSpec, SpecError, listen_at};
pub use message::{DESCRIPTORS_MAX, ReceiveError, receive, receive_from, send};
pub use unread::{Unread, unread};

/// What travels through a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Bytes: vhost-user.
    Stream,
    /// Datagrams in order, with connections: the factory and `ctl`.
    SeqPacket,
}

impl Kind {
    fn socket_type(self) -> SocketType {
        match self {
            Self::Stream => SocketType::STREAM,
            Self::SeqPacket => SocketType::SEQPACKET,
        }
    }
}

/// Whether `fd` is a listening `AF_UNIX` socket of that kind.
pub fn is_unix_listener(fd: impl AsFd, kind: Kind) -> bool {
    is_unix(&fd, kind) && socket_acceptconn(&fd) == Ok(true)
}

/// Whether `fd` is an `AF_UNIX` stream socket that does not listen.
pub fn is_unix_stream(fd: impl AsFd) -> bool {
    is_unix(&fd, Kind::Stream) && socket_acceptconn(&fd) == Ok(false)
}

pub(crate) fn is_unix(fd: impl AsFd, kind: Kind) -> bool {
    socket_domain(&fd) == Ok(AddressFamily::UNIX) && socket_type(&fd) == Ok(kind.socket_type())
}

/// Takes a connection that waits, non-blocking and closed on exec. `None`: none waits. Options that it has from its listener,
/// and that would bring descriptors with each message, are off.
///
/// The listener must be non-blocking. One that a client handed over shares its flags with the client, who can make it
/// block again: take its connections through an [`Acceptor`].
pub fn accept(listener: impl AsFd) -> Result<Option<OwnedFd>, Errno> {
    match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(socket) => {
            identity::deliver_nothing_else(&socket);
            Ok(Some(socket))
        }
        // A peer that gave up meanwhile is no error of the listener.
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A connected pair, non-blocking on the first side only: the server's.
pub fn pair(kind: Kind) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, kind.socket_type(), SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// A process at the other end: the one that connected, as the kernel noted it then, or the one that sent a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Process.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} uid {} gid {}", self.pid, self.uid, self.gid)
    }
}

/// Has the kernel say with each message who sent it (`SO_PASSCRED`): a connection that was passed on has other senders than the
/// one who made it.
pub fn tell_senders(socket: impl AsFd) -> Result<(), Errno> {
    set_socket_passcred(socket, true)
}

/// Who made the connection at the other end. `None` when the kernel cannot tell.
pub fn peer(socket: impl AsFd) -> Option<Peer> {
    let credentials = socket_peercred(socket).ok()?;
    Some(Peer {
        pid: credentials.pid.as_raw_nonzero().get(),
        uid: credentials.uid.as_raw(),
        gid: credentials.gid.as_raw(),
    })
}
