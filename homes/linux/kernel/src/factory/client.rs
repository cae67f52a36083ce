//! The caller's side.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::reply::{Refusal, decode, decode_answer};
use super::{REPLY_MAX, REQUEST_MAX};
use crate::socket::{self, ReceiveError};

/// How long a call may take: the server itself answers within 30 s.
const PATIENCE: Duration = Duration::from_secs(40);

/// A connection to the factory.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
}

impl Client {
    /// Connects to the factory's socket.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, Refusal> {
        let path = path.as_ref();
        let failed = |e: Errno| system(&format!("{}", path.display()), e);
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
        connect(&socket, &address).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Takes a socket that is connected to the factory.
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// `create` with these words after `create` and `0`: mints a session. Without a listener, the capability is a connected stream
    /// socket with the back-end at its other end; with one, it is the session's lifetime. Waits for 40 s at most.
    pub fn create<W: AsRef<str>>(
        &mut self,
        words: impl IntoIterator<Item = W>,
        listener: Option<BorrowedFd<'_>>,
    ) -> Result<OwnedFd, Refusal> {
        let mut request = String::from("create\x000");
        for word in words {
            request.push('\0');
            request.push_str(word.as_ref());
        }
        self.call(request.as_bytes(), listener.as_slice()).map(|(session, _)| session)
    }

    /// Sends any datagram, and returns what the factory makes of it.
    pub fn call(&mut self, datagram: &[u8], files: &[BorrowedFd<'_>]) -> Result<(OwnedFd, String), Refusal> {
        let (reply, files) = self.exchange(datagram, files)?;
        decode(&reply, files)
    }

    /// Asks the capability `admin` something; its answer.
    pub fn ask<W: AsRef<str>>(&mut self, words: impl IntoIterator<Item = W>) -> Result<String, Refusal> {
        let words: Vec<String> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let (reply, files) = self.exchange(words.join("\0").as_bytes(), &[])?;
        decode_answer(&reply, &files)
    }

    fn exchange(
        &mut self,
        datagram: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), Refusal> {
        if datagram.len() > REQUEST_MAX {
            return Err(system("request", Errno::MSGSIZE));
        }
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            match socket::send(&self.socket, datagram, files) {
                Ok(_) => break,
                Err(Errno::AGAIN | Errno::INTR) => self.wait(PollFlags::OUT, deadline)?,
                Err(e) => return Err(system("factory", e)),
            }
        }
        let mut buffer = [0; REPLY_MAX];
        loop {
            match socket::receive(&self.socket, &mut buffer) {
                Ok((0, files)) if files.is_empty() => return Err(system("factory", Errno::CONNRESET)),
                Ok((n, files)) => return Ok((buffer.get(..n).unwrap_or(&[]).to_vec(), files)),
                Err(ReceiveError::Socket(Errno::AGAIN | Errno::INTR)) => {
                    self.wait(PollFlags::IN, deadline)?
                }
                Err(ReceiveError::Socket(e)) => return Err(system("factory", e)),
                Err(ReceiveError::Truncated) => return Err(system("factory", Errno::MSGSIZE)),
            }
        }
    }

    fn wait(&self, what: PollFlags, deadline: std::time::Instant) -> Result<(), Refusal> {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let left = Timespec::try_from(left).map_err(|_| system("factory", Errno::INVAL))?;
        match poll(&mut [PollFd::new(&self.socket, what)], Some(&left)) {
            Ok(0) => Err(system("factory", Errno::TIMEDOUT)),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(system("factory", e)),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn system(what: &str, errno: Errno) -> Refusal {
    Refusal { errno: errno.raw_os_error(), message: format!("{what}: {errno}") }
}
