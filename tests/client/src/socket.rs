//! Bytes and descriptors over a Unix socket, each call with a deadline.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg,
    socket_with, socketpair,
};

use crate::{Error, Result};

/// The most descriptors that the kernel passes with one message (`SCM_MAX_FD`).
pub const FDS_MAX: usize = 253;

const CONTROL: usize = rustix::cmsg_space!(ScmRights(FDS_MAX));

/// When a wait that starts now must be over.
pub fn until(wait: Duration) -> Instant {
    Instant::now().checked_add(wait).unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400))
}

/// Waits until the descriptor is ready or the deadline is over; says whether it is ready. A peer that hung up is ready.
pub fn wait_for(fd: BorrowedFd<'_>, what: PollFlags, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::from_borrowed_fd(fd, what)], Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => (),
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Connects a `SOCK_STREAM` socket.
pub fn connect_stream(path: &Path) -> Result<OwnedFd> {
    Ok(UnixStream::connect(path)?.into())
}

/// Connects a `SOCK_SEQPACKET` socket.
pub fn connect_seqpacket(path: &Path) -> Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Connects a `SOCK_STREAM` socket to a server that is still starting.
pub fn connect_retry(path: &Path, wait: Duration) -> Result<OwnedFd> {
    let deadline = until(wait);
    loop {
        match connect_stream(path) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(200)),
            other => return other,
        }
    }
}

/// A connected pair of `SOCK_STREAM` sockets.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// A non-blocking eventfd.
pub fn event() -> Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)
}

/// Adds one to an eventfd.
pub fn signal(fd: BorrowedFd<'_>) -> Result<()> {
    match rustix::io::write(fd, &1u64.to_ne_bytes()) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Takes the count out of an eventfd; 0 when it was not signalled.
pub fn drain(fd: BorrowedFd<'_>) -> Result<u64> {
    let mut count = [0; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(_) => Ok(u64::from_ne_bytes(count)),
        Err(rustix::io::Errno::AGAIN) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

/// Sends all bytes; the descriptors go with the first of them. At most [`FDS_MAX`] descriptors.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<()> {
    let mut sent = 0;
    loop {
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if sent == 0 && !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Error::Full("descriptors in one message"));
        }
        let rest = bytes.get(sent..).unwrap_or_default();
        match sendmsg(socket, &[IoSlice::new(rest)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        {
            Ok(n) => sent += n,
            Err(rustix::io::Errno::AGAIN) => {
                if !wait_for(socket, PollFlags::OUT, deadline)? {
                    return Err(Error::Deadline("room in the socket"));
                }
            }
            Err(rustix::io::Errno::INTR) => (),
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => return Err(Error::Closed),
            Err(errno) => return Err(errno.into()),
        }
        if sent >= bytes.len() {
            return Ok(());
        }
    }
}

/// Receives what one call gives: up to `into.len()` bytes, and any descriptors. 0 bytes: the peer closed.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8], deadline: Instant) -> Result<(usize, Vec<OwnedFd>)> {
    let mut reset = false;
    loop {
        if !wait_for(socket, PollFlags::IN, deadline)? {
            return Err(Error::Deadline("answer"));
        }
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, flags) {
            Ok(got) => {
                let mut fds = Vec::new();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(received) = message {
                        fds.extend(received);
                    }
                }
                return Ok((got.bytes, fds));
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => (),
            // The peer hung up with something unread; what it said before comes behind this.
            Err(rustix::io::Errno::CONNRESET) if !reset => reset = true,
            Err(rustix::io::Errno::CONNRESET) => return Err(Error::Closed),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives exactly `into.len()` bytes, and the descriptors that came with them.
pub fn receive_exact(socket: BorrowedFd<'_>, into: &mut [u8], deadline: Instant) -> Result<Vec<OwnedFd>> {
    let mut fds = Vec::new();
    let mut have = 0;
    while let Some(rest) = into.get_mut(have..).filter(|rest| !rest.is_empty()) {
        let (n, mut came) = receive(socket, rest, deadline)?;
        if n == 0 {
            return Err(Error::Closed);
        }
        fds.append(&mut came);
        have += n;
    }
    Ok(fds)
}

/// Waits until the peer closes the connection; whatever it still says is thrown away.
pub fn wait_closed(socket: &impl AsFd, wait: Duration) -> Result<()> {
    let deadline = until(wait);
    let mut waste = [0; 4096];
    loop {
        match receive(socket.as_fd(), &mut waste, deadline) {
            Ok((0, _)) | Err(Error::Closed) => return Ok(()),
            Ok(_) => (),
            Err(Error::Deadline(_)) => return Err(Error::Deadline("end of the connection")),
            Err(other) => return Err(other),
        }
    }
}
