//! The conventions of QEMU's documentation for back-end programs (`docs/interop/vhost-user.rst`, "Backend program conventions"): one
//! disk, one client, no factory.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command};
use std::time::Instant;

use nvme_client::{Client, Options};

use crate::server::{Bench, WAIT, wait_until};

/// The program with these words; the socket is its descriptor 7.
struct Backend(Child);

impl Backend {
    fn start(bench: &Bench, socket: OwnedFd, words: &[&str]) -> Self {
        let log = File::create(bench.path("log")).unwrap();
        let child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 7<&0 </dev/null", env!("CARGO_BIN_EXE_nvme-drv")])
            .args(words)
            .stdin(socket)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Self(child.unwrap())
    }

    /// Its status, once it has ended by itself.
    fn ends(&mut self) -> Option<i32> {
        let until = Instant::now() + WAIT;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn said(bench: &Bench) -> String {
    std::fs::read_to_string(bench.path("log")).unwrap()
}

/// The bytes at the start of the disk.
fn on_disk(bench: &Bench) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    File::open(bench.path("disk")).unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn capabilities_are_printed_as_qemu_s_schema_has_them() {
    let bench = Bench::new();
    for words in
        [&["--print-capabilities"][..], &["--nonsense", "--fd", "99", "--print-capabilities", "stray"]]
    {
        let mut server = bench.start(words, &[], &[]);
        assert_eq!(server.wait(), 0, "{words:?}");
        let said: String = server.said().split_whitespace().collect();
        assert_eq!(said, r#"{"type":"block","features":["read-only","blk-file"]}"#, "{words:?}");
    }
    // What management software finds it by (`VhostUserBackend` of the same schema).
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = std::fs::read_to_string(root.join("packaging/50-nvme-drv.json")).unwrap();
    let fields: Vec<&str> = found.lines().filter_map(|line| line.trim().split('"').nth(1)).collect();
    assert_eq!(fields, ["description", "type", "binary"]);
    assert!(found.contains(r#""type": "block""#) && found.contains(r#""binary": "/usr/bin/nvme-drv""#));
}

#[test]
fn one_disk_is_served_at_a_path_to_one_client_after_the_other() {
    let bench = Bench::new();
    let (disk, path) = (bench.path("disk").display().to_string(), bench.path("s"));
    let words = [&format!("--blk-file={disk}"), &format!("--socket-path={}", path.display())];
    let mut server = bench.start(&words.map(String::as_str), &[], &[]);
    server.says("ready: ");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for fill in [0x11, 0x22] {
        let mut client = Client::connect(&path, &Options::default()).unwrap();
        assert_eq!(client.config.capacity * 512, std::fs::metadata(&disk).unwrap().len());
        client.write(0, &[fill; 512]).unwrap();
        client.flush().unwrap();
        drop(client);
        assert_eq!(on_disk(&bench), [fill; 512]);
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_client_that_is_connected_already_is_served_until_it_goes() {
    let bench = Bench::new();
    let disk = bench.path("disk").display().to_string();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut server = Backend::start(&bench, theirs.into(), &["--fd=7", "--blk-file", &disk]);
    let mut client = Client::from_fd(ours.into(), &Options::default()).unwrap();
    client.write(0, &[0x33; 512]).unwrap();
    drop(client);
    assert_eq!(server.ends(), Some(0), "{}", said(&bench));
    assert_eq!(on_disk(&bench), [0x33; 512]);
    // One that goes before it has said a word ends it, too.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut server = Backend::start(&bench, theirs.into(), &["--fd=7", "--blk-file", &disk]);
    drop(ours);
    assert_eq!(server.ends(), Some(0), "{}", said(&bench));
}

#[test]
fn a_listening_socket_by_its_number_is_served_until_its_client_goes() {
    let bench = Bench::new();
    let disk = bench.path("disk").display().to_string();
    let listener = UnixListener::bind(bench.path("s")).unwrap();
    let mut server =
        Backend::start(&bench, listener.into(), &["--blk-file", &disk, "--fd", "7", "--read-only"]);
    let mut client = Client::connect(bench.path("s"), &Options::default()).unwrap();
    client.read(0, &mut [0; 512]).unwrap();
    drop(client);
    assert_eq!(server.ends(), Some(0), "{}", said(&bench));
}

#[test]
fn a_disk_that_may_only_be_read_is_not_written() {
    let bench = Bench::new();
    let disk = bench.path("disk");
    let (before, words) = (
        on_disk(&bench),
        [
            format!("--blk-file={}", disk.display()),
            format!("--socket-path={}", bench.path("s").display()),
            "--read-only".to_owned(),
        ],
    );
    let mut server = bench.start(&words.each_ref().map(String::as_str), &[], &[]);
    server.says("ready: ");
    let mut client = Client::connect(bench.path("s"), &Options::default()).unwrap();
    assert!(client.write(0, &[0x44; 512]).is_err());
    client.read(0, &mut [0; 512]).unwrap();
    drop(client);
    assert_eq!(server.stop(), 0);
    assert_eq!(on_disk(&bench), before);
    // A second one that only reads may stand beside it: neither changes it.
    File::options().write(true).open(&disk).unwrap().write_at(&before, 0).unwrap();
}

#[test]
fn two_disks_of_one_guest_are_told_apart_each_time() {
    let id = |bench: &Bench, disk: &str| {
        let path = bench.path("s");
        let words = [format!("--blk-file={disk}"), format!("--socket-path={}", path.display())];
        let mut server = bench.start(&words.each_ref().map(String::as_str), &[], &[]);
        server.says("ready: ");
        let id = Client::connect(&path, &Options::default()).unwrap().id().unwrap();
        assert_eq!(server.stop(), 0);
        id
    };
    let bench = Bench::new();
    let first = bench.path("disk").display().to_string();
    let second = bench.path("other").display().to_string();
    std::fs::copy(&first, &second).unwrap();
    assert_eq!(id(&bench, &first), id(&bench, &first));
    assert_ne!(id(&bench, &first), id(&bench, &second));
}

#[test]
fn what_is_wrong_ends_it_with_2_before_it_serves() {
    let bench = Bench::new();
    let disk = format!("--blk-file={}", bench.path("disk").display());
    let path = format!("--socket-path={}", bench.path("s").display());
    let none = format!("--blk-file={}", bench.path("none").display());
    let svr = bench.socket("svr");
    let wrong: &[(&[&str], &str)] = &[
        (&[&none, &path], "none"),
        (&[&disk], "--socket-path"),
        (&[&path], "--blk-file"),
        (&[&disk, &path, "--fd=7"], "--socket-path"),
        (&[&disk, &path, &svr], "cannot stand beside --blk-file"),
        (&[&disk, &path, "--client", "a", "--device", "x:n1"], "cannot stand beside --blk-file"),
        (&[&disk, "--fd=70"], "descriptor 70 (`fd`) is not open"),
        (&["--blk-file=/", &path], "Is a directory"),
        (&[&disk, "--socket-path=/nonexistent/s"], "/nonexistent"),
    ];
    for (words, named) in wrong {
        let mut server = bench.start(words, &[], &[]);
        assert_eq!(server.wait(), 2, "{words:?}: {}", server.said());
        assert!(server.said().contains(named), "{words:?}: {}", server.said());
        assert!(!bench.path("s").exists(), "{words:?}: it served");
    }
    // A descriptor that is no socket; and a factory that was inherited.
    let file = File::open("/dev/null").unwrap();
    let mut server = Backend::start(&bench, file.into(), &[&disk, "--fd=7"]);
    assert_eq!(server.ends(), Some(2));
    assert!(said(&bench).contains("a character device"), "{}", said(&bench));
    let factory = nvme_linux::socket::ListenSpec::parse(&bench.path("svr").display().to_string()).unwrap();
    let factory = factory.listen(nvme_linux::socket::Kind::SeqPacket).unwrap();
    let mut server = bench.start(&[&disk, &path], &[("svr", factory.as_fd())], &[]);
    assert_eq!(server.wait(), 2, "{}", server.said());
    wait_until("the reason", || server.said().contains("without a factory"));
}
