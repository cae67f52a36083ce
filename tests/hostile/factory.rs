//! Requests of the factory that are not what they should be. All fail closed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nvme_client::{Error, Factory, memfd, socket};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use crate::rig::{Rig, WAIT, attack};

const EINVAL: i32 = -22;
const ENODEV: i32 = -19;
const EBUSY: i32 = -16;

/// A datagram is refused with `EINVAL`, and says why.
fn invalid(factory: &Factory, datagram: &[u8], fds: &[BorrowedFd<'_>]) -> String {
    factory.send_raw(datagram, fds).unwrap();
    let reply = factory.receive().unwrap();
    let shown = String::from_utf8_lossy(datagram).into_owned();
    assert!(reply.fds.is_empty(), "{shown:?}");
    assert_eq!(reply.code, EINVAL, "{shown:?}: {}", reply.message);
    assert!(!reply.message.is_empty() && !reply.message.chars().any(char::is_control), "{shown:?}");
    reply.message
}

fn still_creates(rig: &Rig) {
    drop(rig.create(&["device=partlabel:attack", "ds-max=256", "read-only"]));
}

#[test]
fn words_of_create_that_are_unknown_repeated_empty_or_out_of_range_are_refused_by_name() {
    attack(|rig| {
        let factory = rig.factory();
        for (words, named) in [
            (&[][..], "device"),
            (&["read-only"], "device"),
            (&["device=partlabel:attack", "readonly"], "readonly"),
            (&["device=partlabel:attack", "read-only=yes"], "read-only=yes"),
            (&["device=partlabel:attack", "READ-ONLY"], "READ-ONLY"),
            (&["device=partlabel:attack", "read-only "], "read-only"),
            (&["device=partlabel:attack", "ro"], "ro"),
            (&["device=partlabel:attack", "rw"], "rw"),
            (&["device=partlabel:attack", "read-only", "read-only"], "read-only"),
            (&["device=partlabel:attack", "device=partlabel:attack"], "device"),
            (&["device=partlabel:attack", "device=partlabel:after"], "device"),
            (&["device=partlabel:attack", "ds-max=2", "ds-max=2"], "ds-max"),
            (&["device=partlabel:attack", "ds_max=2"], "ds_max"),
            (&["device=partlabel:attack", "ds-max"], "ds-max"),
            (&["device=partlabel:attack", "ds-max="], "ds-max"),
            (&["device=partlabel:attack", "ds-max=0"], "ds-max=0"),
            (&["device=partlabel:attack", "ds-max=257"], "ds-max=257"),
            (&["device=partlabel:attack", "ds-max=-1"], "ds-max=-1"),
            (&["device=partlabel:attack", "ds-max=+2"], "ds-max=+2"),
            (&["device=partlabel:attack", "ds-max=2.0"], "ds-max=2.0"),
            (&["device=partlabel:attack", "ds-max= 2"], "ds-max= 2"),
            (&["device=partlabel:attack", "ds-max=0x10"], "ds-max=0x10"),
            (&["device=partlabel:attack", "ds-max=65537"], "ds-max=65537"),
            (&["device=partlabel:attack", "ds-max=18446744073709551618"], "ds-max"),
            (&["device"], "device"),
            (&["device="], "device="),
            (&["DEVICE=partlabel:attack"], "DEVICE"),
            (&["dev=partlabel:attack"], "dev"),
            (&["=partlabel:attack"], "partlabel"),
            (&["partlabel:attack"], "partlabel:attack"),
            (&["device=partlabel:"], "partlabel:"),
            (&["device=partuuid:"], "partuuid:"),
            (&["device=partuuid:nonsense"], "nonsense"),
            (&["device=1234:n0"], "1234:n0"),
            (&["device=partlabel:attack", "\u{1b}[2J"], ""),
        ] {
            let reply = factory.ask(words, None).unwrap();
            assert!(reply.fds.is_empty(), "{words:?}");
            assert!(matches!(reply.code, EINVAL | ENODEV), "{words:?}: {reply:?}");
            assert!(reply.message.contains(named), "{words:?}: {}", reply.message);
            assert!(!reply.message.chars().any(char::is_control), "{words:?}: {:?}", reply.message);
        }
        still_creates(rig);
    });
}

#[test]
fn datagrams_that_are_no_request_are_refused() {
    attack(|rig| {
        let factory = rig.factory();
        let long = [b"create\x000\0device=".to_vec(), vec![b'x'; 4096]].concat();
        let many = [b"create\x000".to_vec(), b"\0read-only".repeat(40)].concat();
        for datagram in [
            &b"x"[..],
            b"\0",
            b"\0\0\0\0",
            b"create",
            b"create\0",
            b"create\x000\0",
            b"create\x001\0device=partlabel:attack",
            b"create\x0000\0device=partlabel:attack",
            b"create\0-0\0device=partlabel:attack",
            b"create\0\0device=partlabel:attack",
            b"Create\x000\0device=partlabel:attack",
            b"create 0 device=partlabel:attack",
            b"create\x000\0device=partlabel:attack\0",
            b"create\x000\0\0device=partlabel:attack",
            b"destroy\x000\0device=partlabel:attack",
            b"create\x000\0device=partlabel:att\xffack",
            b"create\x000\0device=partlabel:attack\0\xc3",
            &[0xff; 64],
            &long,
            &many,
        ] {
            invalid(&factory, datagram, &[]);
        }
        // Longer than any buffer: refused, or more than the socket takes.
        let huge = vec![b'a'; 1 << 16];
        if factory.send_raw(&huge, &[]).is_ok() {
            assert_eq!(factory.receive().unwrap().code, EINVAL);
        }
        // No byte at all looks like the end of the connection.
        let _ = rig.factory().send_raw(&[], &[]);
        still_creates(rig);
    });
}

#[test]
fn descriptors_that_are_no_listening_stream_socket_are_refused() {
    attack(|rig| {
        let good = b"create\x000\0device=partlabel:attack";
        let factory = rig.factory();
        invalid(&factory, b"x", &[]);
        let open = rig.descriptors();
        let seqpacket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        bind(&seqpacket, &SocketAddrUnix::new(rig.path("seqpacket")).unwrap()).unwrap();
        listen(&seqpacket, 1).unwrap();
        let unbound =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let odd: Vec<OwnedFd> = vec![
            seqpacket,
            unbound,
            stream.into(),
            tcp.into(),
            reader,
            null.into(),
            memfd(4096, false).unwrap(),
            socket::event().unwrap(),
        ];
        for fd in &odd {
            invalid(&factory, good, &[fd.as_fd()]);
        }
        let listener = UnixListener::bind(rig.path("listen")).unwrap();
        for n in [2, 3, 64, 200] {
            invalid(&factory, good, &vec![listener.as_fd(); n]);
        }
        // Some are closed by a thread of their own.
        let deadline = Instant::now() + WAIT;
        while rig.descriptors() > open {
            assert!(Instant::now() < deadline, "{} descriptors, {open} before", rig.descriptors());
            std::thread::sleep(Duration::from_millis(5));
        }
        still_creates(rig);
    });
}

#[test]
fn devices_that_are_absent_or_in_use_are_refused() {
    attack(|rig| {
        let _reader = rig.create(&["device=partlabel:attack", "read-only"]);
        for (words, code) in [
            (&["device=nothing"][..], ENODEV),
            (&["device=partlabel:Attack"], ENODEV),
            (&["device=partlabel:attack "], ENODEV),
            (&["device=1234:n2"], ENODEV),
            (&["device=1234:n1:9"], ENODEV),
            (&["device=1234:n1:0"], ENODEV),
            (&["device=123:n1"], ENODEV),
            (&["device=1234:n1:4294967296"], ENODEV),
            (&["device=00000000-0000-0000-0000-000000000000"], ENODEV),
            (&["device=partlabel:attack"], EBUSY),
            (&["device=1234:n1:2"], EBUSY),
            (&["device=1234:n1"], EBUSY),
            (&["device=1234:n1", "read-only"], EBUSY),
            (&["device=partlabel:bystander"], EBUSY),
            (&["device=partlabel:bystander", "read-only"], EBUSY),
        ] {
            let got = rig.refused(words);
            assert!(got == code || (code == ENODEV && got == EINVAL), "{words:?}: {got}");
        }
        let _another = rig.create(&["device=1234:n1:2", "read-only"]);
    });
}

#[test]
fn a_caller_that_hangs_up_before_the_answer_leaves_no_session_behind() {
    attack(|rig| {
        for _ in 0..50 {
            let factory = rig.factory();
            factory.send_raw(b"create\x000\0device=partlabel:attack", &[]).unwrap();
            drop(factory);
        }
        // A writer is alone, so this works only when none of them is left.
        drop(rig.create(&["device=partlabel:attack"]));
        let refused = rig.factory().create(&["device=partlabel:bystander"], None);
        assert!(matches!(refused, Err(Error::Create { code: EBUSY, .. })));
    });
}
