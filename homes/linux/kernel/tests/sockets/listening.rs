//! Listening sockets by path.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nvme_linux::socket::{self, Kind, ListenError, ListenSpec, SpecError};

fn spec(path: &Path, words: &str) -> ListenSpec {
    ListenSpec::parse(&format!("{}{words}", path.display())).unwrap()
}

#[test]
fn a_spec_says_where_and_for_whom() {
    let spec = ListenSpec::parse("/run/x/svr,mode=0660,user=root,group=7").unwrap();
    assert_eq!(
        (spec.path.to_str(), spec.mode, spec.user, spec.group),
        (Some("/run/x/svr"), 0o660, Some(0), Some(7))
    );
    let spec = ListenSpec::parse("svr").unwrap();
    assert_eq!((spec.mode, spec.user, spec.group), (0o600, None, None));
}

#[test]
fn what_is_wrong_with_a_spec_is_named() {
    for (text, error) in [
        ("", SpecError::NoPath),
        (",mode=0600", SpecError::NoPath),
        ("s,mode", SpecError::Unknown("mode".into())),
        ("s,modes=0600", SpecError::Unknown("modes=0600".into())),
        ("s,mode=0600,mode=0600", SpecError::Repeated("mode".into())),
        ("s,mode=1777", SpecError::Mode("mode=1777".into())),
        ("s,mode=+600", SpecError::Mode("mode=+600".into())),
        ("s,mode=rw", SpecError::Mode("mode=rw".into())),
        ("s,user=no such user", SpecError::Nobody("user=no such user".into())),
        ("s,group=", SpecError::Nobody("group=".into())),
    ] {
        assert_eq!(ListenSpec::parse(text), Err(error), "{text}");
    }
    assert!(matches!(ListenSpec::parse(&"s".repeat(200)), Err(SpecError::TooLong(_))));
}

#[test]
fn a_socket_has_the_mode_and_group_that_were_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    for (words, mode) in [("", 0o600), (",mode=0666", 0o666), (",mode=0640", 0o640)] {
        let path = directory.path().join(format!("s{mode:o}"));
        let _socket = spec(&path, words).listen(Kind::Stream).unwrap();
        let file = path.metadata().unwrap();
        assert_eq!(file.permissions().mode() & 0o777, mode);
        assert!(file.file_type().is_socket());
        UnixStream::connect(&path).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        let path = directory.path().join("group");
        let _socket = spec(&path, ",group=17,user=18").listen(Kind::Stream).unwrap();
        let file = path.metadata().unwrap();
        assert_eq!((file.uid(), file.gid()), (18, 17));
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = spec(&path, "").listen(Kind::SeqPacket).unwrap();
    for kind in [Kind::SeqPacket, Kind::Stream] {
        assert_eq!(spec(&path, "").listen(kind).unwrap_err(), ListenError::InUse(path.clone()));
    }
    assert!(
        socket::is_unix_listener(&first, Kind::SeqPacket) && !socket::is_unix_listener(&first, Kind::Stream)
    );
    drop(first);
    spec(&path, "").listen(Kind::Stream).unwrap();
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(spec(&path, "").listen(Kind::Stream).unwrap_err(), ListenError::NotASocket(path.clone()));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let link = directory.path().join("l");
    std::os::unix::fs::symlink(directory.path().join("elsewhere"), &link).unwrap();
    assert!(spec(&link, "").listen(Kind::Stream).is_err());
    assert!(!directory.path().join("elsewhere").exists());
    assert!(
        spec(&directory.path().join("none/s"), "")
            .listen(Kind::Stream)
            .unwrap_err()
            .to_string()
            .contains("none/s")
    );
}

#[test]
fn of_two_servers_that_find_a_stale_socket_one_gets_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    for _ in 0..20 {
        drop(UnixListener::bind(&path).unwrap());
        let both: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..2).map(|_| scope.spawn(|| spec(&path, "").listen(Kind::Stream))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(both.iter().filter(|s| s.is_ok()).count(), 1, "{both:?}");
        assert!(UnixStream::connect(&path).is_ok());
        drop(both);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_peer_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = spec(&path, "").listen(Kind::Stream).unwrap();
    assert!(matches!(socket::accept(&listener), Ok(None)));
    let _client = UnixStream::connect(&path).unwrap();
    let accepted = socket::accept(&listener).unwrap().unwrap();
    let peer = socket::peer(&accepted).unwrap();
    assert_eq!((peer.pid as u32, peer.uid), (std::process::id(), rustix::process::getuid().as_raw()));
    assert_eq!(peer.to_string(), format!("pid {} uid {} gid {}", peer.pid, peer.uid, peer.gid));
}
