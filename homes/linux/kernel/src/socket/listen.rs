//! Listening sockets by path.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Uid, fchmod, flock, openat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, bind, connect, listen, socket_with};

use super::Kind;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;
/// How long another server may take to replace a stale socket in the same directory.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// `PATH[,mode=0660][,user=U][,group=G]`: where to listen, and who may connect. A path holds no comma.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenSpec {
    /// The path to listen at.
    pub path: PathBuf,
    /// Permissions; connecting needs the right to write. 0600 unless said otherwise.
    pub mode: u32,
    /// Owner, when it is not the server's own user.
    pub user: Option<u32>,
    /// Group, when it is not the server's own.
    pub group: Option<u32>,
}

/// What is wrong with a SPEC; the text names the word.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpecError {
    /// There is no path.
    #[error("no path")]
    NoPath,
    /// A path that cannot be a socket's.
    #[error("`{0}` is too long for a socket's path")]
    TooLong(String),
    /// A word that is none of `mode=`, `user=`, `group=`.
    #[error("unknown word `{0}`")]
    Unknown(String),
    /// A word that comes twice.
    #[error("`{0}` comes twice")]
    Repeated(String),
    /// Not an octal mode of up to 0777.
    #[error("`{0}`: not an octal mode of up to 0777")]
    Mode(String),
    /// No such user or group.
    #[error("`{0}`: no such user or group")]
    Nobody(String),
}

/// Why a listening socket was not made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error("{0}: another process listens there")]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("{0}: something else than a socket is there; remove it, or choose another path")]
    NotASocket(PathBuf),
    /// Another process holds the directory's lock.
    #[error("{0}: another process is making a socket in the same directory")]
    Locked(PathBuf),
    /// Its folder does not exist.
    #[error("{path}: there is no folder {folder}; make it first", path = .path.display(), folder = .folder.display())]
    NoFolder {
        /// The path.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// An address that cannot be listened at.
    #[error("{address}: {errno}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// How it failed.
        errno: Errno,
    },
    /// A system call failed.
    #[error("{path}: {what}: {errno}")]
    System {
        /// The path.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// How it failed.
        errno: Errno,
    },
}

impl ListenSpec {
    /// Reads a SPEC, without its `unix:`. Names of users and groups are looked up now.
    pub fn parse(spec: &str) -> Result<Self, SpecError> {
        let mut words = spec.split(',');
        let path = words.next().filter(|p| !p.is_empty()).ok_or(SpecError::NoPath)?;
        if SocketAddrUnix::new(path).is_err() {
            return Err(SpecError::TooLong(path.into()));
        }
        let (mut mode, mut user, mut group) = (None, None, None);
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| SpecError::Unknown(word.into()))?;
            let nobody = || SpecError::Nobody(word.into());
            let repeated = match name {
                "mode" => mode.replace(octal(value).ok_or_else(|| SpecError::Mode(word.into()))?).is_some(),
                "user" => user.replace(crate::accounts::user(value).ok_or_else(nobody)?).is_some(),
                "group" => group.replace(crate::accounts::group(value).ok_or_else(nobody)?).is_some(),
                _ => return Err(SpecError::Unknown(word.into())),
            };
            if repeated {
                return Err(SpecError::Repeated(name.into()));
            }
        }
        Ok(Self { path: path.into(), mode: mode.unwrap_or(0o600), user, group })
    }

    /// Makes the socket: non-blocking, closed on exec. Nobody can connect before its permissions are as they should be.
    /// A stale socket is replaced; one on which somebody listens is not.
    pub fn listen(&self, kind: Kind) -> Result<OwnedFd, ListenError> {
        let system = |what| move |errno| ListenError::System { path: self.path.clone(), what, errno };
        let address = SocketAddrUnix::new(self.path.as_os_str()).map_err(system("address"))?;
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = self.path.file_name().ok_or(ListenError::NotASocket(self.path.clone()))?;
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, directory, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => {
                ListenError::NoFolder { path: self.path.clone(), folder: parent.to_owned() }
            }
            errno => system("opening its folder")(errno),
        })?;
        // Two servers that both find the same stale socket take turns; the lock goes with `directory`.
        self.lock(&directory)?;

        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            socket_with(AddressFamily::UNIX, kind.socket_type(), flags, None).map_err(system("socket"))?;
        // Linux makes the file with the mode of the socket's own inode, less the umask: no moment with other rights.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(system("fchmod"))?;
        match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                self.remove_stale(&directory, name, kind, &address)?;
                bind(&socket, &address).map_err(system("bind"))?;
            }
            other => other.map_err(system("bind"))?,
        }
        // Until `listen`, whoever tries to connect is refused.
        self.set_rights(&directory, name).map_err(system("set owner and mode"))?;
        listen(&socket, BACKLOG).map_err(system("listen"))?;
        Ok(socket)
    }

    fn lock(&self, directory: &OwnedFd) -> Result<(), ListenError> {
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match flock(directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(ListenError::Locked(self.path.clone())),
                Err(errno) => {
                    return Err(ListenError::System {
                        path: self.path.clone(),
                        what: "lock directory",
                        errno,
                    });
                }
            }
        }
    }

    fn remove_stale(
        &self,
        directory: &OwnedFd,
        name: &OsStr,
        kind: Kind,
        address: &SocketAddrUnix,
    ) -> Result<(), ListenError> {
        let system = |what| move |errno| ListenError::System { path: self.path.clone(), what, errno };
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(system("stat"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(ListenError::NotASocket(self.path.clone()));
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let probe =
            socket_with(AddressFamily::UNIX, kind.socket_type(), flags, None).map_err(system("socket"))?;
        match connect(&probe, address) {
            // Nobody has that socket open, or nobody listens.
            Err(Errno::CONNREFUSED) => {}
            // Connected; or its queue is full; or it is a living socket of another kind.
            Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
                return Err(ListenError::InUse(self.path.clone()));
            }
            Err(errno) => return Err(system("connect")(errno)),
        }
        rustix::fs::unlinkat(directory, name, AtFlags::empty()).map_err(system("remove"))
    }

    /// Gives the new socket's file its owner and mode, through a descriptor of the file, so that nobody can put another
    /// in its place meanwhile.
    fn set_rights(&self, directory: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        let file = openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(Errno::NOTSOCK);
        }
        if self.user.is_some() || self.group.is_some() {
            let (user, group) = (self.user.map(Uid::from_raw), self.group.map(Gid::from_raw));
            rustix::fs::chownat(&file, "", user, group, AtFlags::EMPTY_PATH)?;
        }
        if stat.st_mode & 0o777 != self.mode {
            rustix::fs::chmod(crate::memory::proc_path(file.as_fd()), Mode::from_raw_mode(self.mode))?;
        }
        Ok(())
    }
}

/// Listens at a TCP address: non-blocking, closed on exec.
pub fn listen_at(address: SocketAddr) -> Result<OwnedFd, ListenError> {
    let made = || -> Result<OwnedFd, Errno> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, Kind::Stream.socket_type(), flags, None)?;
        // Else a server that was restarted would have to wait for the last connections to be forgotten.
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    made().map_err(|errno| ListenError::Address { address, errno })
}

fn octal(word: &str) -> Option<u32> {
    let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    u32::from_str_radix(word, 8).ok().filter(|mode| digits && *mode <= 0o777)
}
