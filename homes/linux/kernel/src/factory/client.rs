//! The caller's side.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::listing::Listing;
use super::reply::{Refusal, decode, decode_all, decode_answer};
use super::{ANSWER_MAX, REQUEST_MAX};
use crate::socket::{self, ReceiveError};

/// How long a call may take: the server itself answers within 30 s.
const PATIENCE: Duration = Duration::from_secs(40);

/// An attenuated factory that was made.
#[derive(Debug)]
pub struct Delegated {
    /// Its connection, to be passed on; `None` where a listening socket was sent.
    pub factory: Option<OwnedFd>,
    /// Its lifetime, to be kept: the factory ends when the last copy of either is closed.
    pub lifetime: OwnedFd,
}

impl Delegated {
    /// Its connection, where there is one.
    pub fn connection(&self) -> Option<BorrowedFd<'_>> {
        self.factory.as_ref().map(AsFd::as_fd)
    }
}

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

    /// `create` with these words after `create` and `factory`: makes a factory that holds a part of what this one holds.
    pub fn delegate<W: AsRef<str>>(
        &mut self,
        words: impl IntoIterator<Item = W>,
        listener: Option<BorrowedFd<'_>>,
    ) -> Result<Delegated, Refusal> {
        let mut request = String::from("create\x00factory");
        for word in words {
            request.push('\0');
            request.push_str(word.as_ref());
        }
        let (reply, files) = self.exchange(request.as_bytes(), listener.as_slice())?;
        let (mut files, _) = decode_all(&reply, files)?;
        let lifetime = files.pop();
        match (lifetime, files.pop(), files.is_empty(), listener) {
            (Some(lifetime), factory, true, Some(_)) if factory.is_none() => {
                Ok(Delegated { factory, lifetime })
            }
            (Some(lifetime), factory, true, None) if factory.is_some() => Ok(Delegated { factory, lifetime }),
            _ => Err(system("the factory's reply carries other descriptors than it should", Errno::PROTO)),
        }
    }

    /// What the factory holds, and what was minted through it.
    pub fn list(&mut self) -> Result<Listing, Refusal> {
        let text = self.ask(["list"])?;
        serde_json::from_str(&text)
            .map_err(|e| Refusal { errno: libc::EPROTO, message: format!("the factory's listing: {e}") })
    }

    /// Sends any datagram, and returns what the factory makes of it.
    pub fn call(&mut self, datagram: &[u8], files: &[BorrowedFd<'_>]) -> Result<(OwnedFd, String), Refusal> {
        let (reply, files) = self.exchange(datagram, files)?;
        decode(&reply, files)
    }

    /// Asks the capability `admin` something; its answer.
    pub fn ask<W: AsRef<str>>(&mut self, words: impl IntoIterator<Item = W>) -> Result<String, Refusal> {
        self.ask_with(words, None)
    }

    /// The same, with a file.
    pub fn ask_with<W: AsRef<str>>(
        &mut self,
        words: impl IntoIterator<Item = W>,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<String, Refusal> {
        let words: Vec<String> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let (reply, files) = self.exchange(words.join("\0").as_bytes(), file.as_slice())?;
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
                // Whether it hung up before this or after is chance.
                Err(Errno::PIPE) => return Err(system("factory", Errno::CONNRESET)),
                Err(e) => return Err(system("factory", e)),
            }
        }
        let mut buffer = vec![0; ANSWER_MAX];
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
