//! Sockets whose last close waits for as long as their sender likes: it is nobody else's time.

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nvme_client::message::request;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType, sendmsg,
};

use crate::rig::{Rig, Setup, WAIT, attack_on};

/// What none of them may make anybody else wait for. The machine may be busy; they linger for an hour.
const MOST: Duration = Duration::from_secs(5);
/// More than the server takes with one message.
const MANY: usize = 65;
/// GET_FEATURES.
const ASK: [u8; 12] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

/// A socket of which the other end takes nothing any more, and that is to linger.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut refused = 0;
    while refused < 20 {
        if (&ours).write(&[0; 1 << 16]).is_err() {
            refused += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    set_socket_linger(&ours, Some(Duration::from_secs(3600))).unwrap();
    (ours.into(), theirs)
}

/// Whether it could be sent: the server may have closed its end meanwhile.
fn send(to: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MANY + 1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).is_ok()
}

/// The server has its last copy.
fn give(rig: &Rig, to: impl AsFd, bytes: &[u8], before: &[BorrowedFd<'_>], socket: OwnedFd) {
    rig.while_it_stands_still(|| {
        if !send(to, bytes, &[before, &[socket.as_fd()]].concat()) {
            set_socket_linger(&socket, None).unwrap();
        }
        drop(socket);
    });
}

/// One of it, as often as said.
fn copies(of: &OwnedFd, times: usize) -> Vec<BorrowedFd<'_>> {
    (0..times).map(|_| of.as_fd()).collect()
}

fn caller(rig: &Rig) -> OwnedFd {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(rig.path("svr")).unwrap()).unwrap();
    socket
}

fn listening(rig: &Rig) -> (UnixListener, OwnedFd) {
    let path = rig.path("listen");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(path).unwrap();
    let lifetime = rig.mint(&["device=partlabel:attack"], Some(&listener));
    (listener, lifetime)
}

fn on_a_server(work: impl FnOnce(&Rig)) {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["ctl", "metrics"].into_iter();
    let arguments =
        arguments.flat_map(|n| ["--cap".into(), format!("{n}=unix:{}", dir.path().join(n).display())]);
    let arguments = arguments.collect();
    attack_on(Setup { arguments, descriptors: Some(20_000), ..Setup::default() }, |rig| {
        for name in ["ctl", "metrics"] {
            std::os::unix::fs::symlink(dir.path().join(name), rig.path(name)).unwrap();
        }
        work(rig);
    });
}

/// How long somebody else's `create` takes.
fn create(rig: &Rig) -> Duration {
    let begun = Instant::now();
    drop(rig.create(&["device=partlabel:before", "read-only"]));
    begun.elapsed()
}

#[test]
fn a_socket_that_lingers_is_nobody_elses_time_in_whatever_way_it_comes() {
    on_a_server(|rig| {
        let mut others = Vec::new();
        let mut hold = |way: &str, begin: &mut dyn FnMut(OwnedFd)| {
            let (socket, other) = lingering();
            others.push(other);
            let begun = Instant::now();
            begin(socket);
            let took = create(rig);
            assert!(took < MOST && begun.elapsed() < 2 * MOST, "{way}: {took:?}");
        };
        for kind in [
            request::SET_VRING_KICK,
            request::SET_VRING_CALL,
            request::ADD_MEM_REG,
            request::SET_BACKEND_REQ_FD,
        ] {
            hold("a message", &mut |socket| {
                let session = rig.create(&["device=partlabel:attack"]);
                let mut message = ASK;
                message[..4].copy_from_slice(&kind.to_le_bytes());
                message[8] = 8;
                give(rig, &session, &[&message[..], &[0; 8]].concat(), &[], socket);
            });
        }
        hold("more descriptors than may come", &mut |socket| {
            let session = rig.create(&["device=partlabel:attack"]);
            let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
            give(rig, &session, &ASK, &copies(&null, MANY), socket);
        });
        hold("the same at svr", &mut |socket| {
            let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
            give(rig, caller(rig), b"create\x000\0x", &copies(&null, MANY), socket);
        });
        for name in ["ctl", "metrics"] {
            hold(name, &mut |socket| {
                let peer = UnixStream::connect(rig.path(name)).unwrap();
                give(rig, &peer, b"GET /", &[], socket);
            });
        }
        hold("before its turn", &mut |socket| {
            let (_listener, _lifetime) = listening(rig);
            let first = UnixStream::connect(rig.path("listen")).unwrap();
            send(&first, &ASK, &[]);
            let second = UnixStream::connect(rig.path("listen")).unwrap();
            give(rig, &second, &ASK, &[], socket);
        });
        hold("a lifetime", &mut |socket| {
            let (_listener, lifetime) = listening(rig);
            give(rig, &lifetime, &ASK, &[], socket);
        });
        hold("the backlog of a socket that comes with a refused call", &mut |socket| {
            let path = rig.path("refused");
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(&path).unwrap();
            let waits = UnixStream::connect(&path).unwrap();
            rig.while_it_stands_still(|| {
                send(&waits, &ASK, &[socket.as_fd()]);
                send(caller(rig), b"create\x000\0device=partlabel:nowhere", &[listener.as_fd()]);
                // The server's are the last.
                drop((socket, waits, listener));
            });
        });
    });
}

#[test]
fn many_that_linger_are_nobody_elses_time() {
    on_a_server(|rig| {
        let many: Vec<_> = (0..120).map(|_| lingering()).collect();
        let session = rig.create(&["device=partlabel:attack"]);
        let mut kick = ASK;
        kick[..4].copy_from_slice(&request::SET_VRING_KICK.to_le_bytes());
        kick[8] = 8;
        let kick = [&kick[..], &[0; 8]].concat();
        let mut others = Vec::new();
        rig.while_it_stands_still(|| {
            for (socket, other) in many {
                assert!(send(&session, &kick, &[socket.as_fd()]));
                others.push(other);
            }
        });
        let took = create(rig);
        assert!(took < MOST, "{took:?}");
    });
}

#[test]
fn who_does_not_read_what_there_is_keeps_nobody_from_a_session() {
    on_a_server(|rig| {
        let words: Vec<String> = (0..240).map(|n| format!("name={n:036}")).collect();
        let _sessions: Vec<OwnedFd> =
            words.iter().map(|name| rig.create(&["device=partlabel:before", "read-only", name])).collect();
        let _silent: Vec<UnixStream> =
            (0..100).map(|_| UnixStream::connect(rig.path("ctl")).unwrap()).collect();
        let took = create(rig);
        assert!(took < MOST, "{took:?}");
        // Others are told what there is, once those have had their time.
        let mut reader = UnixStream::connect(rig.path("ctl")).unwrap();
        reader.set_read_timeout(Some(WAIT)).unwrap();
        let mut told = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut told).unwrap();
        assert!(told.len() > 100_000, "{}", told.len());
    });
}
