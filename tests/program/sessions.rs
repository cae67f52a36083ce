//! How long a session lives, who may connect to it, and who gets which device.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nvme_client::{Client, Options};

use crate::disk::{SECTORS, pattern, start};
use crate::server::{Bench, WAIT, wait_until};

fn client(session: OwnedFd) -> Client {
    Client::from_fd(session, &Options::default()).unwrap()
}

const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;

#[test]
fn closing_the_last_copy_of_a_session_frees_its_device() {
    let bench = Bench::new();
    let mut server = bench.serve(&[]);
    let session = bench.create(&["device=partlabel:attack"]);
    let copy = session.try_clone().unwrap();
    drop(session);
    assert_eq!(bench.refused(&["device=partlabel:attack"]).0, EBUSY);
    drop(copy);
    // It is free, though it may still drain.
    for _ in 0..20 {
        client(bench.create(&["device=partlabel:attack"])).write(0, &[1; 4096]).unwrap();
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn readers_share_and_a_writer_is_alone_on_every_block() {
    let bench = Bench::new();
    let mut server = bench.serve(&[]);
    let readers: Vec<OwnedFd> = (0..3).map(|_| bench.create(&["device=SN 1:2:n1:2", "read-only"])).collect();
    let whole = bench.create(&["read-only", "device=SN 1:2:n1"]);
    assert_eq!(bench.refused(&["device=SN 1:2:n1:2"]).0, EBUSY);
    assert_eq!(bench.refused(&["device=SN 1:2:n1"]).0, EBUSY);
    drop(whole);
    drop(readers);
    let writer = bench.create(&["device=SN 1:2:n1"]);
    assert_eq!(bench.refused(&["device=SN 1:2:n1:2", "read-only"]).0, EBUSY);
    drop(writer);
    let writer = bench.create(&["device=SN 1:2:n1:2"]);
    // Neighbours are not overlapped; the whole is.
    let neighbour = bench.create(&["device=SN 1:2:n1:3"]);
    assert_eq!(bench.refused(&["device=SN 1:2:n1", "read-only"]).0, EBUSY);
    drop((writer, neighbour));
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_device_goes_by_all_its_names() {
    let bench = Bench::new();
    let mut server = bench.serve(&["-v"]);
    drop(bench.create(&["device=SN 1:2:n1:2"]));
    let said = server.said();
    let line = said.lines().find(|l| l.contains("SN 1:2:n1:2: ") && l.contains("attack")).unwrap();
    let uuid = line.split("SN 1:2:n1:2: ").nth(1).unwrap().split_whitespace().next().unwrap();
    let names = [
        "SN 1:2:n1:2".to_owned(),
        "attack".to_owned(),
        "partlabel:attack".to_owned(),
        uuid.to_owned(),
        uuid.to_uppercase(),
        format!("partuuid:{uuid}"),
    ];
    let expected = pattern(start("attack"), 512);
    for name in &names {
        let mut client = client(bench.create(&[&format!("device={name}"), "read-only"]));
        let mut bytes = [0; 512];
        client.read(0, &mut bytes).unwrap();
        assert!(bytes[..] == expected, "{name}");
        assert_eq!(client.config.capacity, SECTORS);
        assert_eq!(client.id().unwrap()[..], uuid.replace('-', "").to_lowercase().as_bytes()[..20]);
    }
    let mut whole = client(bench.create(&["device=SN 1:2:n1", "read-only"]));
    assert!(whole.id().unwrap().starts_with(b"SN 1:2:n1\0"));
    for name in ["SN 1:2:n2", "SN 1:2:n1:9", "SN:n1", "nobody", "partlabel:SN 1:2:n1:2"] {
        assert_eq!(bench.refused(&[&format!("device={name}")]).0, ENODEV, "{name}");
    }
    drop(whole);
    assert_eq!(server.stop(), 0);
}

#[test]
fn create_fails_closed_and_names_the_word() {
    let bench = Bench::new();
    let mut server = bench.serve(&[]);
    for (words, named) in [
        (&["device=attack", "readonly"][..], "readonly"),
        (&["device=attack", "device=after"], "device"),
        (&["device="], "device"),
        (&["read-only"], "device"),
        (&["device=attack", "ds-max=0"], "ds-max"),
        (&["device=attack", "ds-max=257"], "ds-max"),
        (&["device=attack", "ds-max=+2"], "ds-max"),
        (&["device=attack", "read-only", "read-only"], "read-only"),
        (&["device=attack", "size=4"], "size"),
    ] {
        let (errno, message) = bench.refused(words);
        assert!(errno == EINVAL && message.contains(named), "{words:?}: {errno} {message}");
    }
    for words in [
        &["create", "1", "device=attack"][..],
        &["destroy", "0", "device=attack"],
        &["create"],
        &["create", "0"],
    ] {
        let factory = bench.factory();
        factory.send_raw(words.join("\0").as_bytes(), &[]).unwrap();
        let reply = factory.receive().unwrap();
        assert!(reply.code == -EINVAL && reply.fds.is_empty(), "{words:?}: {reply:?}");
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_session_with_a_listening_socket_takes_one_client_after_the_other() {
    let bench = Bench::new();
    let mut server = bench.serve(&[]);
    let listener = UnixListener::bind(bench.path("disk.sock")).unwrap();
    let lifetime = bench.factory().create(&["device=partlabel:attack"], Some(listener.as_fd())).unwrap();
    drop(listener);
    for round in 0..3u8 {
        let mut client = Client::connect(bench.path("disk.sock"), &Options::default()).unwrap();
        client.write(0, &[round; 512]).unwrap();
        // The next one waits outside meanwhile.
        let second = UnixStream::connect(bench.path("disk.sock")).unwrap();
        second.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        drop(client);
        drop(second);
    }
    drop(lifetime);
    wait_until("the end of the session", || {
        bench.factory().create(&["device=partlabel:attack"], None).is_ok()
    });
    let gone = Client::connect(bench.path("disk.sock"), &Options::default());
    assert!(gone.is_err());
    assert_eq!(server.stop(), 0);
}

#[test]
fn the_next_client_of_a_session_finds_nothing_of_the_last() {
    let bench = Bench::new();
    let cl1 = bench.socket("cl1");
    let mut server = bench.serve(&[&cl1, "--client", "cl1", "--device", "partlabel:attack"]);
    drop(bench.factory());
    let connect = || {
        let mut result = Client::connect(bench.path("cl1"), &Options::default());
        wait_until("the static client's socket", || {
            if result.is_err() {
                result = Client::connect(bench.path("cl1"), &Options::default());
            }
            result.is_ok()
        });
        result.unwrap()
    };
    for byte in 1..4 {
        let mut client = connect();
        assert_eq!(client.stop_queue(0).unwrap(), 0, "the ring goes on where the last client's was");
        client.restart_queue(0).unwrap();
        client.write(0, &[byte; 4096]).unwrap();
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_static_client_has_its_device_before_any_dynamic_one() {
    let bench = Bench::new();
    let (cl1, cl2) = (bench.socket("cl1"), bench.socket("cl2"));
    let mut server = bench.serve(&[
        &cl1,
        "--client",
        "cl1",
        "--device",
        "partlabel:attack",
        "--ds-max",
        "1",
        &cl2,
        "--client",
        "cl2",
        "--device",
        "partlabel:absent",
        "--readonly",
    ]);
    assert_eq!(bench.refused(&["device=partlabel:attack", "read-only"]).0, EBUSY);
    assert_eq!(bench.refused(&["device=SN 1:2:n1"]).0, EBUSY);
    drop(bench.create(&["device=partlabel:after"]));
    server.says("cl2");
    assert!(server.said().contains("absent"), "{}", server.said());
    assert_eq!(server.stop(), 0);
}

#[test]
fn an_absent_device_is_served_when_it_appears() {
    let bench = Bench::new();
    let cl1 = bench.socket("cl1");
    let mut server = bench.serve(&[&cl1, "--client", "cl1", "--device", "partlabel:fresh", "--readonly"]);
    // A client with the whole disk gives a partition another name: both copies of the table are written anew.
    let image = relabelled(&std::fs::read(bench.path("disk")).unwrap(), "after", "fresh");
    let mut writer = client(bench.create(&["device=SN 1:2:n1"]));
    for at in [0, image.len() - (64 << 10)] {
        writer.write(at as u64 / 512, &image[at..at + (64 << 10)]).unwrap();
    }
    writer.flush().unwrap();
    drop(writer);
    let mut reader = None;
    wait_until("the static client's socket", || {
        let options = Options { wait: WAIT, ..Options::default() };
        reader = Client::connect(bench.path("cl1"), &options).ok();
        reader.is_some()
    });
    let mut bytes = [0; 512];
    reader.unwrap().read(0, &mut bytes).unwrap();
    assert!(bytes[..] == pattern(start("after"), 512));
    assert_eq!(server.stop(), 0);
}

fn relabelled(image: &[u8], from: &str, to: &str) -> Vec<u8> {
    let device = std::io::Cursor::new(image.to_vec());
    let mut disk = gpt::GptConfig::new().writable(true).open_from_device(device).unwrap();
    let mut partitions = disk.partitions().clone();
    partitions.values_mut().find(|p| p.name == from).unwrap().name = to.into();
    disk.update_partitions(partitions).unwrap();
    disk.write().unwrap().into_inner()
}

#[test]
fn sigterm_ends_the_server_though_clients_are_connected() {
    let bench = Bench::new();
    let mut server = bench.serve(&[]);
    // Once the server is gone nobody answers: this client does not wait for long.
    let options = Options { wait: Duration::from_millis(500), ..Options::default() };
    let mut client = Client::from_fd(bench.create(&["device=partlabel:attack"]), &options).unwrap();
    client.write(0, &[3; 4096]).unwrap();
    assert_eq!(server.stop(), 0);
    assert!(client.read(0, &mut [0; 512]).is_err());
}

#[test]
fn two_workers_serve_many_sessions() {
    let bench = Bench::new();
    let mut server = bench.serve(&["--workers", "2", "--sessions-max", "40"]);
    let mut clients: Vec<Client> =
        (0..40).map(|_| client(bench.create(&["device=partlabel:before", "read-only"]))).collect();
    assert_eq!(bench.refused(&["device=partlabel:before", "read-only"]).0, 12);
    let expected = pattern(start("before"), 8192);
    for client in &mut clients {
        let mut bytes = vec![0; 8192];
        client.read(0, &mut bytes).unwrap();
        assert!(bytes == expected);
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_client_that_has_said_nothing_yet_may_wait_while_nobody_else_does() {
    let bench = Bench::new();
    let cl1 = bench.socket("cl1");
    let mut server = bench.serve(&["--client", "cl1", "--device", "SN 1:2:n1:1", &cl1]);
    server.says("session 1");
    let silent = UnixStream::connect(bench.path("cl1")).unwrap();
    server.says("connected");
    // Longer than anything that was begun may stall.
    std::thread::sleep(Duration::from_secs(12));
    assert!(!server.said().contains("disconnected"), "{}", server.said());
    let mut client = Client::from_fd(silent.into(), &Options::default()).unwrap();
    client.read(0, &mut [0; 512]).unwrap();
    drop(client);
    server.says("disconnected");

    // One that says nothing for as long yields to whoever connects then.
    let silent = UnixStream::connect(bench.path("cl1")).unwrap();
    std::thread::sleep(Duration::from_secs(11));
    let start = Instant::now();
    let mut client = Client::connect(bench.path("cl1"), &Options::default()).unwrap();
    client.read(0, &mut [0; 512]).unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{}", server.said());
    server.says("it has said nothing, and another client waits");
    drop(silent);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_second_client_of_a_socket_waits_with_a_line_that_says_for_whom() {
    let bench = Bench::new();
    let cl1 = bench.socket("cl1");
    let mut server = bench.serve(&["--client", "cl1", "--device", "SN 1:2:n1:1", &cl1]);
    server.says("session 1");
    let first = Client::connect(bench.path("cl1"), &Options::default()).unwrap();
    let second = UnixStream::connect(bench.path("cl1")).unwrap();
    let own = std::process::id();
    server.says(&format!("client cl1: another client waits until this one (pid {own} "));
    drop(first);
    let mut client = Client::from_fd(second.into(), &Options::default()).unwrap();
    client.read(0, &mut [0; 512]).unwrap();
    assert_eq!(server.said().matches("another client waits").count(), 1, "once for each");
    drop(client);
    assert_eq!(server.stop(), 0);
}
