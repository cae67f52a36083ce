//! A session ends with its clients, wherever they have put copies of its capability before they went.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nvme_client::message::{protocol, request};
use nvme_client::{Client, Options, socket};

use crate::raw;
use crate::rig::{Rig, Setup, WAIT, attack, attack_on};

/// A header with nothing behind it: GET_FEATURES.
const ASK: [u8; 12] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

/// With a channel for the server's requests.
fn options() -> Options {
    let all = raw::options();
    Options { protocol: all.protocol | protocol::BACKEND_REQ, ..all }
}

fn send(to: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) {
    socket::send(to, &ASK, fds, Instant::now() + WAIT).unwrap();
}

/// A client, and a copy of the descriptor that it is connected by.
fn client(rig: &Rig, words: &[&str]) -> (Client, OwnedFd) {
    let session = rig.create(words);
    let copy = session.try_clone().unwrap();
    (Client::from_fd(session, &options()).unwrap(), copy)
}

/// Nobody has the device any more: whoever wants to write gets it.
fn free(rig: &Rig) {
    drop(rig.create(&["device=partlabel:attack"]));
}

/// A session with a listening socket, and what ends it.
fn listening(rig: &Rig) -> (UnixListener, OwnedFd) {
    let path = rig.path("listen");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(path).unwrap();
    let lifetime = rig.mint(&["device=partlabel:attack"], Some(&listener));
    (listener, lifetime)
}

fn connect(rig: &Rig) -> UnixStream {
    UnixStream::connect(rig.path("listen")).unwrap()
}

#[test]
fn a_capability_that_is_sent_as_a_channel_a_kick_a_call_or_memory_is_not_kept() {
    attack(|rig| {
        for kind in [
            request::SET_BACKEND_REQ_FD,
            request::SET_VRING_KICK,
            request::SET_VRING_CALL,
            request::SET_VRING_ERR,
            request::ADD_MEM_REG,
            request::SET_MEM_TABLE,
        ] {
            let (client, copy) = client(rig, &["device=partlabel:attack"]);
            let payload = vec![0; if kind == request::SET_BACKEND_REQ_FD { 0 } else { 8 }];
            let _ = client.front.command(kind, &payload, &[copy.as_fd()]);
            drop((client, copy));
            free(rig);
        }
    });
}

#[test]
fn capabilities_of_two_sessions_that_are_sent_to_each_other_are_not_kept() {
    attack(|rig| {
        let words = ["device=partlabel:attack", "read-only"];
        let ((one, of_one), (two, of_two)) = (client(rig, &words), client(rig, &words));
        for (front, other) in [(&one.front, &of_two), (&two.front, &of_one)] {
            assert!(front.command(request::SET_BACKEND_REQ_FD, &[], &[other.as_fd()]).is_err());
        }
        // That was of no harm to them.
        assert!(one.front.features().is_ok() && two.front.features().is_ok());
        drop((one, two, of_one, of_two));
        free(rig);
        // And what ends a session with a socket of its own.
        let (listener, lifetime) = listening(rig);
        let client = Client::connect(rig.path("listen"), &options()).unwrap();
        assert!(client.front.command(request::SET_BACKEND_REQ_FD, &[], &[lifetime.as_fd()]).is_err());
        drop((client, lifetime, listener));
        free(rig);
    });
}

#[test]
fn the_other_end_of_a_connection_is_not_kept_by_it() {
    attack(|rig| {
        let (_listener, _lifetime) = listening(rig);
        let options = options();
        for _ in 0..2 {
            let connection = OwnedFd::from(connect(rig));
            let copy = connection.try_clone().unwrap();
            let client = Client::from_fd(connection, &options).unwrap();
            assert!(client.front.command(request::SET_BACKEND_REQ_FD, &[], &[copy.as_fd()]).is_err());
        }
        drop(Client::connect(rig.path("listen"), &options).unwrap());
    });
}

#[test]
fn a_static_client_that_sends_its_own_end_and_goes_leaves_its_socket_to_the_next() {
    let dir = crate::disk::memory_dir();
    let path = dir.path().join("cl1");
    let words = ["--client", "cl1", "--device", "partlabel:attack", "--cap"].map(String::from);
    let arguments = words.into_iter().chain([format!("cl1=unix:{}", path.display())]).collect();
    attack_on(Setup { arguments, ..Setup::default() }, |_| {
        for kind in [request::SET_BACKEND_REQ_FD, request::SET_VRING_KICK, request::ADD_MEM_REG] {
            let connection = OwnedFd::from(UnixStream::connect(&path).unwrap());
            let copy = connection.try_clone().unwrap();
            let client = Client::from_fd(connection, &options()).unwrap();
            let payload = vec![0; if kind == request::SET_BACKEND_REQ_FD { 0 } else { 8 }];
            let _ = client.front.command(kind, &payload, &[copy.as_fd()]);
        }
        let mut next = Client::connect(&path, &options()).unwrap();
        next.read(0, &mut [0; 4096]).unwrap();
    });
}

#[test]
fn a_capability_that_lies_unread_in_a_channel_is_not_kept() {
    attack(|rig| {
        let (client, copy) = client(rig, &["device=partlabel:attack"]);
        let (ours, theirs) = socket::pair().unwrap();
        send(ours.as_fd(), &[copy.as_fd()]);
        client.front.command(request::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]).unwrap();
        let again = socket::send(ours.as_fd(), &ASK, &[copy.as_fd()], Instant::now());
        assert!(again.is_err(), "nothing more can be sent there");
        drop((client, copy, theirs));
        free(rig);
        drop(ours);
    });
}

#[test]
fn what_is_sent_to_the_lifetime_of_a_session_ends_it() {
    attack(|rig| {
        let (_listener, lifetime) = listening(rig);
        send(lifetime.as_fd(), &[lifetime.as_fd()]);
        drop(lifetime);
        free(rig);
    });
}

#[test]
fn descriptors_that_lie_in_a_connection_before_its_turn_keep_nothing() {
    attack(|rig| {
        // The other end of the connection whose turn it is, in one that waits.
        let (listener, lifetime) = listening(rig);
        let first = connect(rig);
        send(first.as_fd(), &[]);
        let waiting = connect(rig);
        send(waiting.as_fd(), &[first.as_fd()]);
        drop((first, waiting));
        drop(Client::connect(rig.path("listen"), &options()).unwrap());

        // The session's capability, in a connection that waits, behind bytes that may lie there.
        let client = Client::connect(rig.path("listen"), &options()).unwrap();
        let waiting = connect(rig);
        send(waiting.as_fd(), &[]);
        send(waiting.as_fd(), &[lifetime.as_fd()]);
        rig.says("before its turn");
        drop((lifetime, listener, waiting));
        free(rig);
        drop(client);
    });
}

#[test]
fn a_connection_that_has_asked_for_features_waits_for_its_turn() {
    attack(|rig| {
        let (_listener, _lifetime) = listening(rig);
        let client = Client::connect(rig.path("listen"), &options()).unwrap();
        let mut waiting = connect(rig);
        waiting.write_all(&ASK).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let what = rustix::event::PollFlags::IN;
        assert!(!socket::wait_for(waiting.as_fd(), what, Instant::now()).unwrap(), "not yet");
        drop(client);
        assert!(socket::wait_for(waiting.as_fd(), what, Instant::now() + WAIT).unwrap());
        assert_eq!(socket::receive(waiting.as_fd(), &mut [0; 64], Instant::now() + WAIT).unwrap().0, 20);
    });
}

#[test]
fn more_connections_than_may_wait_are_closed() {
    // So few sessions that there are descriptors for all who may wait.
    let arguments = ["--sessions-max", "16"].map(String::from).to_vec();
    attack_on(Setup { arguments, ..Setup::default() }, |rig| {
        let (_listener, _lifetime) = listening(rig);
        let client = Client::connect(rig.path("listen"), &options()).unwrap();
        let crowd: Vec<_> = (0..40).map(|_| connect(rig)).collect();
        rig.says("wait already");
        let closed = |s: &UnixStream| {
            let what = rustix::event::PollFlags::HUP;
            socket::wait_for(s.as_fd(), what, Instant::now()).unwrap()
        };
        let deadline = Instant::now() + WAIT;
        while crowd.iter().filter(|s| closed(s)).count() != 32 {
            assert!(Instant::now() < deadline);
        }
        drop((crowd, client));
        drop(Client::connect(rig.path("listen"), &options()).unwrap());
    });
}
