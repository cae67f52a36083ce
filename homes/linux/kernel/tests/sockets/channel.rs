//! Sockets that clients send, and those they make.
#![expect(unsafe_code, reason = "a socket option that rustix does not have")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nvme_linux::socket::{self, Cookie, Kind, NotAChannel, channel};
use rustix::net::sockopt::{set_socket_passcred, socket_passcred};

fn refused(fd: impl Into<OwnedFd>) -> NotAChannel {
    channel(fd.into(), |_| false).unwrap_err()
}

#[test]
fn a_channel_is_one_end_of_a_pair_that_is_not_the_servers() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("s")).unwrap();
    let connected = UnixStream::connect(directory.path().join("s")).unwrap();
    assert_eq!(refused(connected), NotAChannel::Named);
    assert_eq!(refused(listener), NotAChannel::Kind);
    // A name is one, however short, and however long.
    for name in [&b""[..], &[b'x'; 107]] {
        use rustix::net::{
            AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
        };
        let socket =
            || socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let address = SocketAddrUnix::new_abstract_name(name).unwrap();
        let (listener, client) = (socket(), socket());
        bind(&listener, &address).unwrap();
        listen(&listener, 1).unwrap();
        connect(&client, &address).unwrap();
        assert_eq!(refused(client), NotAChannel::Named);
    }
    assert_eq!(
        refused(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()),
        NotAChannel::Kind
    );
    assert_eq!(refused(socket::pair(Kind::SeqPacket).unwrap().1), NotAChannel::Kind);
    let (ours, theirs) = socket::pair(Kind::Stream).unwrap();
    let cookie = Cookie::of(&theirs).unwrap();
    assert_ne!(Cookie::of(&ours).unwrap(), cookie);
    let copy = theirs.try_clone().unwrap();
    assert_eq!(channel(copy, |c| c == cookie).unwrap_err(), NotAChannel::Capability);
    channel(theirs, |c| c != cookie).unwrap();
}

#[test]
fn what_lies_in_a_channel_is_closed_and_nothing_more_comes() {
    let (ours, theirs) = socket::pair(Kind::Stream).unwrap();
    let (kept, other) = UnixStream::pair().unwrap();
    for _ in 0..100 {
        socket::send(&ours, &[0; 20], &[other.as_fd()]).unwrap();
    }
    drop(other);
    let theirs = channel(theirs, |_| false).unwrap();
    let mut gone = [rustix::event::PollFd::new(&kept, rustix::event::PollFlags::empty())];
    assert_eq!(rustix::event::poll(&mut gone, Some(&Default::default())), Ok(1), "no copy is left");
    assert!(socket::send(&ours, &[0; 20], &[]).is_err());
    socket::send(&theirs, &[7; 20], &[]).unwrap();
    assert_eq!(socket::receive(&ours, &mut [0; 64]).unwrap().0, 20);
}

#[test]
fn what_a_listener_would_have_delivered_with_each_message_is_off() {
    let option = |fd: &OwnedFd, option: i32, set: Option<i32>| {
        let (mut value, mut len) = (set.unwrap_or(0), 4);
        let at = (&raw mut value).cast();
        let (fd, level) = (fd.as_raw_fd(), libc::SOL_SOCKET);
        let done = match set {
            // SAFETY: the value and its length are valid for the call.
            Some(_) => unsafe { libc::setsockopt(fd, level, option, at, len) },
            // SAFETY: as above.
            None => unsafe { libc::getsockopt(fd, level, option, at, &raw mut len) },
        };
        (done == 0).then_some(value)
    };
    let directory = tempfile::tempdir().unwrap();
    let listener = OwnedFd::from(UnixListener::bind(directory.path().join("s")).unwrap());
    rustix::io::ioctl_fionbio(&listener, true).unwrap();
    set_socket_passcred(&listener, true).unwrap();
    // `SO_PASSPIDFD`, of Linux 6.5.
    let known = option(&listener, 76, Some(1)).is_some();
    let _client = UnixStream::connect(directory.path().join("s")).unwrap();
    let accepted = socket::accept(&listener).unwrap().unwrap();
    assert!(!socket_passcred(&accepted).unwrap());
    assert!(!known || option(&accepted, 76, None) == Some(0));
}
