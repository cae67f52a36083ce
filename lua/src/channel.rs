//! Channels: what L4Re calls an IPC gate is a listening socket here.
//!
//! A channel does not know its type until its server side is handed to a program: as `svr` it is the factory
//! (`SOCK_SEQPACKET`); under any other name, a static client's above all, it is a vhost-user back-end (`SOCK_STREAM`).
//! So the socket is made then.
//!
//! Nothing names the socket for longer than a moment. It is bound in a new folder that only this user can enter, opened
//! once as a mere place (`O_PATH`), and unlinked, before anybody listens. Its place is the client side: whoever
//! holds that descriptor can connect, through `/proc/self/fd`, and nobody else. The listening end goes to the program and
//! is kept only as long as the program may be started again (`keep`): when it has ended, a connection is refused instead of waiting for ever.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::failure::Failure;
use crate::supervise::Program;

/// How many clients may wait to be accepted.
const BACKLOG: i32 = 64;

/// A channel, as far as it is used.
#[derive(Default)]
pub(crate) struct Channel {
    served: Option<Served>,
}

struct Served {
    place: OwnedFd,
    kind: SocketType,
    by: Weak<Program>,
}

/// The two ends of a channel that is being handed to a program.
pub(crate) struct Ends {
    /// The listening socket, for the program.
    pub(crate) server: OwnedFd,
    /// Where clients connect.
    pub(crate) place: OwnedFd,
    pub(crate) kind: SocketType,
}

/// Makes a socket that listens, and its place.
pub(crate) fn make(factory: bool) -> Result<Ends, Failure> {
    let kind = if factory { SocketType::SEQPACKET } else { SocketType::STREAM };
    let failed = |what: &'static str| move |errno: Errno| Failure::io(what, &errno.into());
    let folder = tempfile::Builder::new()
        .prefix(".nvme-ned-")
        .tempdir_in(runtime_folder())
        .map_err(|error| Failure::io("a folder for a socket", &error))?;
    let path = folder.path().join("s");
    let server = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
        .map_err(failed("a socket"))?;
    let address = SocketAddrUnix::new(&path).map_err(failed("the address of a socket"))?;
    rustix::net::bind(&server, &address).map_err(failed("bind"))?;
    rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR).map_err(failed("the mode of a socket"))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::open(&path, flags, Mode::empty()).map_err(failed("the place of a socket"))?;
    rustix::fs::unlink(&path).map_err(failed("unlink"))?;
    folder.close().map_err(|error| Failure::io("the folder of a socket", &error))?;
    rustix::net::listen(&server, BACKLOG).map_err(failed("listen"))?;
    Ok(Ends { server, place, kind })
}

/// Where sockets can be bound: the path must be short.
pub(crate) fn runtime_folder() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute() && folder.as_os_str().len() < 64 && folder.is_dir())
        .unwrap_or_else(|| PathBuf::from("/tmp"))
}

impl Channel {
    /// Whether the server side may be handed out: to one program at a time.
    pub(crate) fn may_be_served(&self) -> Result<(), Failure> {
        match self.server() {
            Some(program) if !program.ended() => Err(Failure::new(
                Errno::EXIST,
                format!("the channel is served already, by {} ({})", program.name(), program.pid()),
            )),
            _ => Ok(()),
        }
    }

    /// Remembers who serves it.
    pub(crate) fn serve(&mut self, place: OwnedFd, kind: SocketType, by: &Arc<Program>) {
        self.served = Some(Served { place, kind, by: Arc::downgrade(by) });
    }

    /// Connects to whoever serves it; the server need not have accepted yet.
    pub(crate) fn connect(&self) -> Result<OwnedFd, Failure> {
        let served = self.served.as_ref().ok_or_else(|| {
            Failure::new(
                Errno::NOENT,
                "nobody serves this channel yet: first start the server with `channel:svr()` among its caps",
            )
        })?;
        let connect = || -> Result<OwnedFd, Errno> {
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, served.kind, SocketFlags::CLOEXEC, None)?;
            // The place of an unlinked socket can still be gone to this way.
            let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", served.place.as_fd().as_raw_fd()))?;
            rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
            Ok(socket)
        };
        connect().map_err(|errno| match errno {
            Errno::CONNREFUSED => Failure::new(errno, format!("nobody listens: {}", self.server_state())),
            _ => Failure::io("the channel", &errno.into()),
        })
    }

    /// Whether it was handed out as the factory.
    pub(crate) fn is_factory(&self) -> bool {
        self.served.as_ref().is_none_or(|served| served.kind == SocketType::SEQPACKET)
    }

    /// What became of the server, for a message.
    pub(crate) fn server_state(&self) -> String {
        match self.server() {
            Some(program) => program.describe(),
            None => "the server has ended".to_owned(),
        }
    }

    fn server(&self) -> Option<Arc<Program>> {
        self.served.as_ref().and_then(|served| served.by.upgrade())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected(ends: &Ends) -> Result<OwnedFd, Errno> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, ends.kind, SocketFlags::CLOEXEC, None)?;
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", ends.place.as_raw_fd()))?;
        rustix::net::connect(&socket, &address).map(|()| socket)
    }

    #[test]
    fn the_socket_has_no_name_and_its_place_still_leads_to_it() {
        for factory in [true, false] {
            let ends = make(factory).unwrap();
            let link = std::fs::read_link(format!("/proc/self/fd/{}", ends.place.as_raw_fd())).unwrap();
            assert!(link.to_string_lossy().ends_with("(deleted)"), "{link:?}");
            let parent = link.parent().unwrap();
            assert!(!parent.exists(), "{parent:?}");
            let client = connected(&ends).unwrap();
            rustix::net::send(&client, b"hello", rustix::net::SendFlags::empty()).unwrap();
            let accepted = rustix::net::accept(&ends.server).unwrap();
            let mut buffer = [0; 8];
            let (length, _) =
                rustix::net::recv(&accepted, &mut buffer, rustix::net::RecvFlags::empty()).unwrap();
            assert_eq!(&buffer[..length], b"hello");
        }
    }

    #[test]
    fn a_connection_is_refused_once_nobody_listens() {
        let mut ends = make(true).unwrap();
        let other = make(true).unwrap();
        ends.server = other.server;
        assert_eq!(connected(&ends).unwrap_err(), Errno::CONNREFUSED);
    }

    #[test]
    fn an_unserved_channel_says_what_to_do() {
        let failure = Channel::default().connect().unwrap_err();
        assert_eq!(failure.code, -2);
        assert!(failure.text.contains("channel:svr()"), "{}", failure.text);
    }
}
