//! Named descriptors, sockets, the service manager, and what the server gives up.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};

use nvme_client::{Client, Options};
use nvme_linux::socket::{Kind, ListenSpec};

use crate::server::Bench;

fn listener(bench: &Bench, name: &str, kind: Kind) -> OwnedFd {
    ListenSpec::parse(&bench.path(name).display().to_string()).unwrap().listen(kind).unwrap()
}

#[test]
fn descriptors_come_by_the_socket_activation_convention() {
    let bench = Bench::new();
    let image = File::options().read(true).write(true).open(bench.path("disk")).unwrap();
    let svr = listener(&bench, "svr", Kind::SeqPacket);
    let cl1 = listener(&bench, "cl1", Kind::Stream);
    let fds = [("cl1", cl1.as_fd()), ("svr", svr.as_fd()), ("vbus", image.as_fd())];
    let mut server =
        bench.start(&["-v", "--client", "cl1", "--device", "soft0:n1:1", "--readonly"], &fds, &[]);
    server.says("session 1");
    let mut client = Client::connect(bench.path("cl1"), &Options::default()).unwrap();
    assert_eq!(client.config.capacity, crate::disk::SECTORS);
    client.read(0, &mut [0; 512]).unwrap();
    let session = bench.create(&["device=partlabel:attack"]);
    Client::from_fd(session, &Options::default()).unwrap().write(0, &[7; 512]).unwrap();
    drop(client);
    assert_eq!(server.stop(), 0);
}

#[test]
fn an_inherited_descriptor_that_nobody_knows_is_refused_by_name() {
    let bench = Bench::new();
    let null = File::open("/dev/null").unwrap();
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let mut server = bench.start(&[&disk, &svr], &[("spare", null.as_fd())], &[]);
    assert!(server.wait() != 0 && server.said().contains("spare"), "{}", server.said());
    let mut server = bench.start(&[&disk], &[("svr", null.as_fd())], &[]);
    assert!(server.wait() != 0 && server.said().contains("svr"), "{}", server.said());
}

#[test]
fn sockets_are_for_the_owner_alone_unless_said_otherwise() {
    let bench = Bench::new();
    let ctl = format!("--cap=ctl=unix:{},mode=0660", bench.path("ctl").display());
    let mut server = bench.serve(&[&ctl]);
    // It serves only after all sockets are there.
    drop(bench.create(&["device=SN 1:2:n1:1"]));
    let mode = |name| std::fs::metadata(bench.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("svr"), mode("ctl")), (0o600, 0o660));
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let bench = Bench::new();
    drop(UnixListener::bind(bench.path("svr")).unwrap());
    let mut server = bench.serve(&[]);
    drop(bench.create(&["device=SN 1:2:n1:1"]));
    let second = Bench::new();
    let (disk, svr) = (second.disk(), bench.socket("svr"));
    let mut other = second.start(&[&disk, &svr], &[], &[]);
    assert!(other.wait() != 0 && other.said().contains("svr"), "{}", other.said());
    drop(bench.create(&["device=SN 1:2:n1:1"]));
    assert_eq!(server.stop(), 0);
}

#[test]
fn an_image_has_one_writer() {
    let bench = Bench::new();
    let mut server = bench.serve(&[]);
    drop(bench.factory());
    let (disk, other) = (bench.disk(), bench.socket("other"));
    let log = Bench::new();
    let mut second = log.start(&[&disk, &other.replace("=other=", "=svr=")], &[], &[]);
    assert_eq!(second.wait(), 2);
    // Which image, and who has it.
    let (said, image) =
        (second.said(), disk.split(':').nth(1).unwrap().split(',').next().unwrap().to_owned());
    assert!(
        said.contains(&image) && said.contains(&format!("(process {} (nvme-drv))", server.pid())),
        "{said}"
    );
    assert_eq!(server.stop(), 0);
}

#[test]
fn the_service_manager_is_told_after_the_scan_and_at_the_end() {
    let bench = Bench::new();
    let manager = UnixDatagram::bind(bench.path("notify")).unwrap();
    manager.set_read_timeout(Some(crate::server::WAIT)).unwrap();
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let path = bench.path("notify").display().to_string();
    let mut server = bench.start(&[&disk, &svr], &[], &[("NOTIFY_SOCKET", &path)]);
    let hear = || {
        let mut bytes = [0; 256];
        let n = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    };
    // What asks whether it keeps descriptors, which it does not, comes before.
    let asks = |said: &String| said.contains("FDSTORE") || said == "BARRIER=1";
    let told = || (0..9).map(|_| hear()).find(|said| !asks(said)).unwrap();
    assert!(told().contains("READY=1"));
    assert_eq!(server.stop(), 0);
    assert!(told().contains("STOPPING=1"));
}

#[test]
fn the_watchdog_is_fed_twice_in_its_time_though_nothing_happens() {
    let bench = Bench::new();
    let manager = UnixDatagram::bind(bench.path("notify")).unwrap();
    manager.set_read_timeout(Some(crate::server::WAIT)).unwrap();
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let path = bench.path("notify").display().to_string();
    let watchdog = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "600000")];
    let mut server = bench.start(&[&disk, &svr, "--workers=3"], &[], &watchdog);
    let mut fed = Vec::new();
    while fed.len() < 6 {
        let mut bytes = [0; 256];
        let n = manager.recv(&mut bytes).unwrap();
        if &bytes[..n] == b"WATCHDOG=1" {
            fed.push(std::time::Instant::now());
        }
    }
    // Never so early that it means nothing.
    let took = fed[5] - fed[0];
    assert!(took >= std::time::Duration::from_millis(1300), "{took:?}");
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_low_limit_of_descriptors_is_said_and_each_device_has_fewer_queues() {
    let bench = Bench::new();
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let mut command = std::process::Command::new("sh");
    let limit = "ulimit -n 4096 && exec \"$0\" \"$@\"";
    command.args(["-c", limit, env!("CARGO_BIN_EXE_nvme-drv"), &disk, &svr, "--sessions-max=16"]);
    let mut server = command.stderr(std::fs::File::create(bench.path("log")).unwrap()).spawn().unwrap();
    let mut front =
        nvme_client::FrontEnd::from_fd(bench.create(&["device=SN 1:2:n1:1"]), crate::server::WAIT);
    front.set_protocol_features(front.protocol_features().unwrap()).unwrap();
    let queues = front.queue_num().unwrap();
    let said = std::fs::read_to_string(bench.path("log")).unwrap();
    let line = format!("RLIMIT_NOFILE has room for 16 of 16 sessions, with {queues} of 256 queues each");
    assert!(queues < 256 && said.contains(&line), "{queues}: {said}");
    // What it may have it can have, and no more.
    for ring in [0, queues as u8 - 1] {
        let event = nvme_client::socket::event().unwrap();
        let call = nvme_client::message::request::SET_VRING_CALL;
        front.vring_fd(call, ring, Some(std::os::fd::AsFd::as_fd(&event))).unwrap();
    }
    front.vring_fd(nvme_client::message::request::SET_VRING_CALL, queues as u8, None).unwrap_err();
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn the_running_server_has_given_up_what_it_does_not_need() {
    let bench = Bench::new();
    let server = bench.serve(&["-v"]);
    drop(bench.create(&["device=SN 1:2:n1:1"]));
    assert_eq!(server.status("NoNewPrivs"), "1");
    assert_eq!(server.status("Seccomp"), "2");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&server.status(set), 16).unwrap(), 0, "{set}");
    }
    let proc = format!("/proc/{}", server.pid());
    for thread in std::fs::read_dir(format!("{proc}/task")).unwrap() {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2"), "{status}");
    }
    // Nothing writable can be executed, and no data of clients lands in a core dump.
    let maps = std::fs::read_to_string(format!("{proc}/maps")).unwrap();
    let both =
        |line: &&str| line.split_whitespace().nth(1).is_some_and(|p| p.contains('w') && p.contains('x'));
    assert_eq!(maps.lines().find(both), None);
    let limits = std::fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert!(core.split_whitespace().nth(4) == Some("0"), "{core}");
    let kilobytes: u64 = server.status("RssAnon").split_whitespace().next().unwrap().parse().unwrap();
    assert!(kilobytes < 16 << 10, "RssAnon of {kilobytes} kB");
}
