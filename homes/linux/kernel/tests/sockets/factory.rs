//! The factory's wire format, from both ends.

use std::os::fd::{AsFd, OwnedFd};

use nvme_linux::factory::{
    Caller, CallerError, Client, REPLY_MAX, REQUEST_MAX, Refusal, Request, WORDS_MAX, decode, encode,
};
use nvme_linux::socket::{self, Kind, ListenSpec};
use rustix::event::{EventfdFlags, eventfd};

const EINVAL: i32 = 22;
const EPROTO: i32 = 71;

fn listener(kind: Kind) -> OwnedFd {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    ListenSpec::parse(path.to_str().unwrap()).unwrap().listen(kind).unwrap()
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

fn refused(datagram: &[u8], files: Vec<OwnedFd>) -> String {
    let refusal = Request::parse(datagram, files).unwrap_err();
    assert_eq!(refusal.errno, EINVAL);
    refusal.message
}

#[test]
fn words_are_what_is_between_the_nuls() {
    let request = Request::parse(b"create\x000\0device=a b:c\0ds-max=5", vec![]).unwrap();
    assert_eq!(request.words().collect::<Vec<_>>(), ["create", "0", "device=a b:c", "ds-max=5"]);
    assert!(!request.has_listener());
}

#[test]
fn a_malformed_request_is_refused_by_name() {
    assert_eq!(refused(b"", vec![]), "word 1 of the request is empty");
    assert_eq!(refused(b"create\0\x000", vec![]), "word 2 of the request is empty");
    assert_eq!(refused(b"create\x000\0", vec![]), "word 3 of the request is empty");
    assert_eq!(refused(b"create\0\xff", vec![]), "the request is not UTF-8 from byte 7 on");
    assert!(refused(&[b'a'; REQUEST_MAX + 1], vec![]).contains("4096"));
    assert!(refused("w\0".repeat(WORDS_MAX + 1).trim_end_matches('\0').as_bytes(), vec![]).contains("words"));
}

#[test]
fn only_a_listening_stream_socket_comes_with_a_request() {
    let mut request = Request::parse(b"create", vec![listener(Kind::Stream)]).unwrap();
    let socket = request.take_listener().unwrap();
    assert!(matches!(socket::accept(&socket), Ok(None)), "non-blocking");
    let (stream, _peer) = socket::pair(Kind::Stream).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for wrong in [listener(Kind::SeqPacket), stream, event(), tcp.into()] {
        let why = refused(b"create", vec![wrong]);
        assert_eq!(why, "the descriptor is not a listening AF_UNIX stream socket");
    }
    let two = vec![listener(Kind::Stream), listener(Kind::Stream)];
    assert!(refused(b"create", two).contains("2 descriptors"));
}

#[test]
fn a_reply_is_a_little_endian_number_and_a_message() {
    assert_eq!(encode(22, "no"), [234, 255, 255, 255, b'n', b'o']);
    assert_eq!(encode(0, ""), [0; 4]);
    let long = encode(1, &"ä".repeat(5000));
    assert!(long.len() <= REPLY_MAX && std::str::from_utf8(&long[4..]).is_ok());
    assert_eq!(
        decode(&encode(16, "in use"), vec![]).unwrap_err(),
        Refusal { errno: 16, message: "in use".into() }
    );
    assert_eq!(decode(&encode(0, "hello"), vec![event()]).unwrap().1, "hello");
}

#[test]
fn a_reply_that_breaks_the_format_is_no_session() {
    for (bytes, files) in [
        (vec![0; 3], vec![event()]),
        (vec![], vec![]),
        (encode(0, ""), vec![]),
        (encode(0, ""), vec![event(), event()]),
        (vec![1, 0, 0, 0], vec![event()]),
    ] {
        assert_eq!(decode(&bytes, files).unwrap_err().errno, EPROTO);
    }
    assert_eq!(decode(&i32::MIN.to_le_bytes(), vec![]).unwrap_err().errno, i32::MAX);
}

#[test]
fn a_session_is_minted_over_a_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("svr");
    let svr = ListenSpec::parse(path.to_str().unwrap()).unwrap().listen(Kind::SeqPacket).unwrap();
    let server = std::thread::spawn(move || {
        let mut caller = Caller::new(wait(|| socket::accept(&svr).unwrap())).unwrap();
        assert_eq!(caller.peer().unwrap().pid as u32, std::process::id());
        let request = wait(|| caller.receive().unwrap()).unwrap();
        assert_eq!(request.words().collect::<Vec<_>>(), ["create", "0", "device=x", "read-only"]);
        assert!(request.has_listener());
        let (ours, theirs) = socket::pair(Kind::Stream).unwrap();
        caller.reply(Ok((&[theirs.as_fd()], "minted"))).unwrap();
        drop(theirs);
        let refusal = wait(|| caller.receive().unwrap()).unwrap_err();
        assert_eq!(refusal.message, "word 3 of the request is empty");
        caller.reply(Err(&refusal)).unwrap();
        // The capability is the connection's other end: it ends when the client drops it.
        wait(|| matches!(socket::receive(&ours, &mut [0; 8]), Ok((0, _))).then_some(()));
        wait(|| matches!(caller.receive(), Err(CallerError::Closed)).then_some(()));
    });
    let mut client = Client::connect(&path).unwrap();
    let s = listener(Kind::Stream);
    let session = client.create(["device=x", "read-only"], Some(s.as_fd())).unwrap();
    assert!(socket::is_unix_stream(&session));
    assert_eq!(client.create([""], None).unwrap_err().errno, EINVAL);
    drop((session, client));
    server.join().unwrap();
}

#[test]
fn a_request_that_is_too_long_is_answered() {
    let (ours, theirs) = socket::pair(Kind::SeqPacket).unwrap();
    let mut caller = Caller::new(ours).unwrap();
    for len in [REQUEST_MAX + 1, REQUEST_MAX + 100] {
        socket::send(&theirs, &vec![b'w'; len], &[]).unwrap();
        assert_eq!(caller.receive().unwrap().unwrap().unwrap_err().errno, EINVAL);
    }
    let mut client = Client::from_fd(theirs);
    assert_eq!(client.create(["w".repeat(REQUEST_MAX)], None).unwrap_err().errno, 90);
}

#[test]
fn a_factory_that_is_not_there_is_named() {
    let refusal = Client::connect("/nonexistent/svr").unwrap_err();
    assert_eq!(refusal.errno, 2);
    assert!(refusal.to_string().starts_with("/nonexistent/svr: "));
}

/// Asks again until there is an answer, for 5 s.
fn wait<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..5000 {
        if let Some(value) = ask() {
            return value;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("nothing came");
}
