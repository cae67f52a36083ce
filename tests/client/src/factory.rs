//! The client's side of the factory socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use crate::{Error, Result, socket};

/// What the factory said.
#[derive(Debug)]
pub struct Reply {
    /// 0 or a negative errno.
    pub code: i32,
    /// What it said about it.
    pub message: String,
    /// What came with it: one descriptor when the code is 0.
    pub fds: Vec<OwnedFd>,
}

/// A connection to the factory (`svr`).
#[derive(Debug)]
pub struct Factory {
    socket: OwnedFd,
    /// How long each call waits. A server that scans its devices may take 30 s.
    pub wait: Duration,
}

impl Factory {
    /// Connects.
    pub fn connect(path: impl AsRef<Path>, wait: Duration) -> Result<Self> {
        Ok(Self { socket: socket::connect_seqpacket(path.as_ref())?, wait })
    }

    /// Speaks over a connection that somebody else made.
    pub fn from_fd(socket: OwnedFd, wait: Duration) -> Self {
        Self { socket, wait }
    }

    /// Connects to a server that may still be starting.
    pub fn connect_retry(path: impl AsRef<Path>, wait: Duration) -> Result<Self> {
        let deadline = socket::until(wait);
        loop {
            match Self::connect(path.as_ref(), wait) {
                Err(_) if std::time::Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_micros(200))
                }
                other => return other,
            }
        }
    }

    /// The socket itself.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends any datagram.
    pub fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        socket::send(self.socket(), bytes, fds, socket::until(self.wait))
    }

    /// Receives one reply.
    pub fn receive(&self) -> Result<Reply> {
        let mut bytes = vec![0; 128 << 10];
        let (len, fds) = socket::receive(self.socket(), &mut bytes, socket::until(self.wait))?;
        let (code, message) = match bytes.get(..len) {
            Some([]) | None => return Err(Error::Closed),
            Some([a, b, c, d, message @ ..]) => (i32::from_le_bytes([*a, *b, *c, *d]), message),
            Some(_) => return Err(Error::Protocol(format!("a reply of {len} bytes"))),
        };
        let message =
            String::from_utf8(message.to_vec()).map_err(|_| Error::Protocol("a reply not UTF-8".into()))?;
        Ok(Reply { code, message, fds })
    }

    /// One `create` with these words, as the contract has them: the object type 0 is put in. The reply as it came.
    pub fn ask(&self, words: &[&str], listener: Option<BorrowedFd<'_>>) -> Result<Reply> {
        self.request("0", words, listener)
    }

    /// One `create` of that object: `0` for a session, `factory` for a factory.
    pub fn request(&self, object: &str, words: &[&str], listener: Option<BorrowedFd<'_>>) -> Result<Reply> {
        let mut datagram = format!("create\0{object}");
        for word in words {
            datagram.push('\0');
            datagram.push_str(word);
        }
        self.send_raw(datagram.as_bytes(), listener.as_slice())?;
        self.receive()
    }

    /// What the factory holds, and what was minted through it, as JSON.
    pub fn list(&self) -> Result<String> {
        self.send_raw(b"list", &[])?;
        match self.receive()? {
            Reply { code: 0, message, fds } if fds.is_empty() => Ok(message),
            Reply { code, message, .. } => Err(Error::Create { code, message }),
        }
    }

    /// The session capability for these words ([`Error::Create`] when refused).
    pub fn create(&self, words: &[&str], listener: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
        let Reply { code, message, mut fds } = self.ask(words, listener)?;
        match (code, fds.pop()) {
            (0, Some(fd)) if fds.is_empty() => Ok(fd),
            (0, _) => Err(Error::Protocol("success without exactly one descriptor".into())),
            _ => Err(Error::Create { code, message }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (Factory, OwnedFd) {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (Factory { socket: a, wait: Duration::from_secs(5) }, b)
    }

    #[test]
    fn words_are_separated_by_nul_and_the_listener_goes_with_them() {
        let (factory, server) = pair();
        let thread = std::thread::spawn(move || {
            let deadline = socket::until(Duration::from_secs(5));
            let mut bytes = [0; 100];
            let (n, fds) = socket::receive(server.as_fd(), &mut bytes, deadline).unwrap();
            socket::send(server.as_fd(), &[0, 0, 0, 0, b'o', b'k'], &[server.as_fd()], deadline).unwrap();
            (bytes[..n].to_vec(), fds.len())
        });
        let listener = socket::event().unwrap();
        factory.create(&["device=x", "read-only"], Some(listener.as_fd())).unwrap();
        assert_eq!(thread.join().unwrap(), (b"create\x000\0device=x\0read-only".to_vec(), 1));
    }

    #[test]
    fn success_without_a_descriptor_is_no_success() {
        let (factory, server) = pair();
        socket::send(server.as_fd(), &[0; 4], &[], socket::until(Duration::from_secs(5))).unwrap();
        assert!(matches!(factory.create(&[], None), Err(Error::Protocol(_))));
        socket::send(server.as_fd(), &(-19i32).to_le_bytes(), &[], socket::until(Duration::from_secs(5)))
            .unwrap();
        assert!(matches!(factory.create(&[], None), Err(Error::Create { code: -19, .. })));
    }
}
