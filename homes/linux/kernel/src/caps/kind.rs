//! What a descriptor is, asked of the kernel.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::net::{AddressFamily, SocketType, getpeername, sockopt};

use crate::socket::Kind;

/// What an image or a memory file may be done with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Read,
    ReadWrite,
}

/// A regular file (memfd, tmpfs and hugetlbfs files are regular), open for reading at least. Else: what it is.
pub(super) fn regular_file(fd: impl AsFd) -> Result<Access, String> {
    let fd = fd.as_fd();
    let kind = file_type(fd)?;
    if kind != FileType::RegularFile {
        return Err(describe(kind));
    }
    access(fd)
}

fn access(fd: BorrowedFd<'_>) -> Result<Access, String> {
    let flags = fcntl_getfl(fd).map_err(|error| error.to_string())?;
    if flags.contains(OFlags::PATH) {
        return Err("a file opened with O_PATH".to_owned());
    }
    match flags & OFlags::RWMODE {
        OFlags::RDWR => Ok(Access::ReadWrite),
        OFlags::WRONLY => Err("a file open for writing only".to_owned()),
        _ => Ok(Access::Read),
    }
}

/// An image: a regular file or a block device, open for reading at least; and whether it is a device. Else: what it is.
pub(super) fn image(fd: impl AsFd) -> Result<(Access, bool), String> {
    let fd = fd.as_fd();
    match file_type(fd)? {
        FileType::BlockDevice => access(fd).map(|access| (access, true)),
        _ => regular_file(fd).map(|access| (access, false)),
    }
}

/// A listening `AF_UNIX` socket of one of the types. Else: what it is.
pub(super) fn listening_unix(fd: impl AsFd, types: &[Kind]) -> Result<Kind, String> {
    let fd = fd.as_fd();
    let kind = file_type(fd)?;
    if kind != FileType::Socket {
        return Err(describe(kind));
    }
    let (domain, socket, listens) = ask(fd).map_err(|error| error.to_string())?;
    let kind = match socket {
        SocketType::STREAM => Some(Kind::Stream),
        SocketType::SEQPACKET => Some(Kind::SeqPacket),
        _ => None,
    };
    if let Some(kind) = kind.filter(|kind| domain == AddressFamily::UNIX && types.contains(kind) && listens) {
        return Ok(kind);
    }
    Err(described(domain, socket, if listens { "listens" } else { "does not listen" }))
}

/// Whether it is a TCP socket that listens.
pub(super) fn listening_tcp(fd: impl AsFd) -> bool {
    let found = ask(fd.as_fd());
    matches!(found, Ok((AddressFamily::INET | AddressFamily::INET6, SocketType::STREAM, true)))
}

/// An `AF_UNIX` `SOCK_STREAM` socket: whether it listens, or else is connected. Else: what it is.
pub(super) fn unix_stream(fd: impl AsFd) -> Result<bool, String> {
    let fd = fd.as_fd();
    let kind = file_type(fd)?;
    if kind != FileType::Socket {
        return Err(describe(kind));
    }
    let (domain, socket, listens) = ask(fd).map_err(|error| error.to_string())?;
    if domain != AddressFamily::UNIX || socket != SocketType::STREAM {
        return Err(described(domain, socket, if listens { "listens" } else { "does not listen" }));
    }
    if !listens && getpeername(fd).is_err() {
        return Err(described(domain, socket, "neither listens nor is connected"));
    }
    Ok(listens)
}

/// Domain, type, and whether it listens.
fn ask(fd: BorrowedFd<'_>) -> rustix::io::Result<(AddressFamily, SocketType, bool)> {
    Ok((sockopt::socket_domain(fd)?, sockopt::socket_type(fd)?, sockopt::socket_acceptconn(fd)?))
}

fn described(domain: AddressFamily, socket: SocketType, what: &str) -> String {
    let domain = match domain {
        AddressFamily::UNIX => "AF_UNIX",
        AddressFamily::INET => "AF_INET",
        AddressFamily::INET6 => "AF_INET6",
        AddressFamily::NETLINK => "AF_NETLINK",
        _ => "other",
    };
    let socket = match socket {
        SocketType::STREAM => "SOCK_STREAM",
        SocketType::DGRAM => "SOCK_DGRAM",
        SocketType::SEQPACKET => "SOCK_SEQPACKET",
        _ => "other",
    };
    format!("an {domain} {socket} socket that {what}")
}

fn file_type(fd: BorrowedFd<'_>) -> Result<FileType, String> {
    let stat = fstat(fd).map_err(|error| error.to_string())?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

pub(super) fn describe(kind: FileType) -> String {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a pipe",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Socket => "a socket",
        FileType::Unknown => "an eventfd, epoll or other anonymous descriptor",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn files_are_told_from_everything_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(regular_file(file.as_file()), Ok(Access::ReadWrite));
        assert_eq!(regular_file(File::open(file.path()).unwrap()), Ok(Access::Read));
        let write_only = File::options().write(true).open(file.path()).unwrap();
        assert_eq!(regular_file(write_only), Err("a file open for writing only".to_owned()));
        assert_eq!(regular_file(File::open("/").unwrap()), Err("a directory".to_owned()));
        assert_eq!(regular_file(File::open("/dev/null").unwrap()), Err("a character device".to_owned()));
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(regular_file(reader), Err("a pipe".to_owned()));
        let memfd = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(regular_file(memfd), Ok(Access::ReadWrite));
        let path_only =
            rustix::fs::open(file.path(), OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty()).unwrap();
        assert_eq!(regular_file(path_only), Err("a file opened with O_PATH".to_owned()));
    }

    #[test]
    fn a_client_s_socket_listens_or_is_connected() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        assert_eq!(unix_stream(&listener), Ok(true));
        let (connected, _peer) = UnixStream::pair().unwrap();
        assert_eq!(unix_stream(&connected), Ok(false));
        let neither = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let found = unix_stream(&neither).unwrap_err();
        assert_eq!(found, "an AF_UNIX SOCK_STREAM socket that neither listens nor is connected");
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(unix_stream(&tcp).unwrap_err().contains("AF_INET"));
        assert_eq!(unix_stream(File::open("/").unwrap()), Err("a directory".to_owned()));
    }

    #[test]
    fn sockets_must_be_unix_of_the_right_type_and_listen() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        assert_eq!(listening_unix(&listener, &[Kind::Stream]), Ok(Kind::Stream));
        assert_eq!(
            listening_unix(&listener, &[Kind::SeqPacket]),
            Err("an AF_UNIX SOCK_STREAM socket that listens".to_owned())
        );
        let (connected, _peer) = UnixStream::pair().unwrap();
        assert_eq!(
            listening_unix(&connected, &[Kind::Stream]),
            Err("an AF_UNIX SOCK_STREAM socket that does not listen".to_owned())
        );
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(
            listening_unix(&tcp, &[Kind::Stream]),
            Err("an AF_INET SOCK_STREAM socket that listens".to_owned())
        );
        assert_eq!(listening_unix(File::open("/").unwrap(), &[Kind::Stream]), Err("a directory".to_owned()));
    }
}
