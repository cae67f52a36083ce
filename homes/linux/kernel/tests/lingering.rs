//! Sockets whose last close waits for as long as their sender likes. A process of its own: the guard over waits is the process's.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nvme_linux::dispose::{self, ClientFd, dispose};
use nvme_linux::events::{bounded, guard_calls};
use nvme_linux::socket::{self, Kind};
use rustix::net::sockopt::set_socket_linger;

/// A connection of which the other end takes nothing, whose last close waits until what was sent is acknowledged: for an hour.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    // Until neither end has room for more.
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

/// Whether the other end hears that it was closed, in a while. What was sent is read first.
fn is_closed(other: &TcpStream) -> bool {
    other.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut bytes = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut &*other, &mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

#[test]
fn a_socket_that_lingers_holds_up_nobody_who_closes_it() {
    guard_calls().unwrap();
    dispose::start().unwrap();
    let begun = Instant::now();
    // Those that were sent, and those that were kept: others close them, and are not stuck in the first.
    let (mut others, mut sockets) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let (socket, other) = lingering();
        sockets.push(socket);
        others.push(other);
    }
    for (at, socket) in sockets.into_iter().enumerate() {
        match at % 2 {
            0 => dispose([socket]),
            _ => drop(ClientFd::new(socket)),
        }
    }
    assert!(others.iter().all(is_closed));
    // Where the wish came after it was told not to, or nobody told it: so does this.
    let (socket, _other) = lingering();
    bounded(|| drop(socket));
    // In a message that nobody reads.
    let (socket, _other) = lingering();
    let (from, to) = socket::pair(Kind::Stream).unwrap();
    socket::send(&from, b"x", &[socket.as_fd()]).unwrap();
    drop(socket);
    bounded(|| drop(to));
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}
