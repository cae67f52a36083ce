//! The server's side: requests in, replies out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use super::reply::{Refusal, encode};
use super::{REQUEST_MAX, WORDS_MAX};
use crate::dispose::{ClientFd, dispose};
use crate::socket::{self, Kind, Peer, ReceiveError};

/// One request: its words, and the socket that the session is to take its clients from.
#[derive(Debug)]
pub struct Request {
    text: String,
    listener: Option<OwnedFd>,
}

impl Drop for Request {
    fn drop(&mut self) {
        // It may be any file, and a socket may have anything unread.
        dispose(self.listener.take());
    }
}

impl Request {
    /// Checks a datagram and the descriptors that came with it. Those of a refused request are closed.
    pub fn parse(datagram: &[u8], files: Vec<OwnedFd>) -> Result<Self, Refusal> {
        Self::parse_as(datagram, files, Self::check_listener)
    }

    /// The same of a request to the operator's capability: what may come with it is a file, of whatever kind.
    pub fn parse_with_file(datagram: &[u8], files: Vec<OwnedFd>) -> Result<Self, Refusal> {
        Self::parse_as(datagram, files, |_, _| Ok(()))
    }

    fn parse_as(
        datagram: &[u8],
        mut files: Vec<OwnedFd>,
        check: impl FnOnce(&str, &OwnedFd) -> Result<(), Refusal>,
    ) -> Result<Self, Refusal> {
        let text = Self::check(datagram, &files).and_then(|text| {
            files.first().map_or(Ok(()), |file| check(text, file))?;
            Ok(text)
        });
        match text {
            Ok(text) => Ok(Self { text: text.into(), listener: files.pop() }),
            Err(refusal) => {
                dispose(files);
                Err(refusal)
            }
        }
    }

    /// The words, when all is well with them and with the descriptors.
    fn check<'a>(datagram: &'a [u8], files: &[OwnedFd]) -> Result<&'a str, Refusal> {
        let invalid = |message: String| Refusal { errno: libc::EINVAL, message };
        if datagram.len() > REQUEST_MAX {
            return Err(invalid(format!("a request of more than {REQUEST_MAX} bytes")));
        }
        let text = std::str::from_utf8(datagram)
            .map_err(|e| invalid(format!("the request is not UTF-8 from byte {} on", e.valid_up_to())))?;
        for (n, word) in text.split('\0').enumerate() {
            if word.is_empty() {
                return Err(invalid(format!("word {} of the request is empty", n + 1)));
            }
            if n >= WORDS_MAX {
                return Err(invalid(format!("a request of more than {WORDS_MAX} words")));
            }
        }
        if files.len() > 1 {
            return Err(invalid(format!("a request with {} descriptors; one may come", files.len())));
        }
        Ok(text)
    }

    fn check_listener(text: &str, listener: &OwnedFd) -> Result<(), Refusal> {
        let invalid = |message: String| Refusal { errno: libc::EINVAL, message };
        let (kind, what) = match text.split('\0').nth(1) {
            Some("factory") => (Kind::SeqPacket, "SOCK_SEQPACKET"),
            _ => (Kind::Stream, "stream"),
        };
        if !socket::is_unix_listener(listener, kind) {
            return Err(invalid(format!("the descriptor is not a listening AF_UNIX {what} socket")));
        }
        rustix::io::ioctl_fionbio(listener, true).map_err(|e| invalid(format!("the listening socket: {e}")))
    }

    /// The words, `create` and `0` among them; none is empty.
    pub fn words(&self) -> impl Iterator<Item = &str> + Clone {
        self.text.split('\0')
    }

    /// The listening socket, non-blocking, if one came; or the operator's file. Its flags are shared with the client: see [`socket::Acceptor`].
    pub fn take_listener(&mut self) -> Option<OwnedFd> {
        self.listener.take()
    }

    /// Whether a listening socket, or the operator's file, came.
    pub fn has_listener(&self) -> bool {
        self.listener.is_some()
    }
}

/// How a connection to the factory ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallerError {
    /// It hung up.
    #[error("the caller hung up")]
    Closed,
    /// The socket failed.
    #[error("socket: {0}")]
    Socket(Errno),
}

/// One connection to the factory. Requests are answered one after the other, in order.
#[derive(Debug)]
pub struct Caller {
    /// What lies unread in it, another thread closes.
    socket: ClientFd,
    peer: Option<Peer>,
}

impl Caller {
    /// Wraps a connection that was accepted on `svr`; it becomes non-blocking, and tells who sends what.
    pub fn new(socket: OwnedFd) -> Result<Self, Errno> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let peer = socket::peer(&socket);
        socket::tell_senders(&socket)?;
        Ok(Self { socket: ClientFd::new(socket), peer })
    }

    /// Who sent the last request; before the first, or where the kernel does not know it, who connected. For the log.
    pub fn peer(&self) -> Option<Peer> {
        self.peer
    }

    /// The next request, or what is to be answered to it at once. `None`: nothing has come.
    pub fn receive(&mut self) -> Result<Option<Result<Request, Refusal>>, CallerError> {
        self.receive_as(Request::parse)
    }

    /// The same, of the operator: with it may come a file.
    pub fn receive_with_file(&mut self) -> Result<Option<Result<Request, Refusal>>, CallerError> {
        self.receive_as(Request::parse_with_file)
    }

    fn receive_as(
        &mut self,
        parse: impl FnOnce(&[u8], Vec<OwnedFd>) -> Result<Request, Refusal>,
    ) -> Result<Option<Result<Request, Refusal>>, CallerError> {
        // One byte more than may come, so that a longer one shows.
        let mut buffer = [0; REQUEST_MAX + 1];
        match socket::receive_from(&self.socket, &mut buffer) {
            Ok((0, files, _)) if files.is_empty() => Err(CallerError::Closed),
            Ok((n, files, sender)) => {
                self.peer = sender.or(self.peer);
                Ok(Some(parse(buffer.get(..n).unwrap_or(&[]), files)))
            }
            Err(ReceiveError::Socket(Errno::AGAIN | Errno::INTR)) => Ok(None),
            Err(ReceiveError::Socket(Errno::CONNRESET)) => Err(CallerError::Closed),
            Err(ReceiveError::Socket(e)) => Err(CallerError::Socket(e)),
            Err(ReceiveError::Truncated) => Ok(Some(Err(Refusal {
                errno: libc::EINVAL,
                message: format!(
                    "a request of more than {REQUEST_MAX} bytes, or with descriptors that were lost"
                ),
            }))),
        }
    }

    /// Sends the answer to a request that asks for no capability. Does not wait, as [`reply`](Self::reply).
    pub fn answer(&mut self, text: &str) -> Result<(), CallerError> {
        let mut bytes = 0_i32.to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        match socket::send(&self.socket, &bytes, &[]) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(CallerError::Closed),
            Err(e) => Err(CallerError::Socket(e)),
        }
    }

    /// Sends the reply to a request: what was minted with a message for people (may be empty), or a refusal. Does not
    /// wait: a caller that reads no replies loses its connection (`Err`).
    pub fn reply(&mut self, reply: Result<(&[BorrowedFd<'_>], &str), &Refusal>) -> Result<(), CallerError> {
        let sent = match reply {
            Ok((minted, message)) => socket::send(&self.socket, &encode(0, message), minted),
            Err(refusal) => socket::send(&self.socket, &encode(refusal.errno, &refusal.message), &[]),
        };
        match sent {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(CallerError::Closed),
            Err(e) => Err(CallerError::Socket(e)),
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // It knows at once.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
