//! Tenants whose storage hangs, or goes for good.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nvme_audit::{Event, Record};
use nvme_client::{Client, Factory, Io, Reply, Segment, kind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use crate::server::{Bench, Server, WAIT, wait_until};
use crate::storage::{Loop, MIB, Mount, able, client, divide, run, session, sparse, vbus};

const ENOMEM: i32 = -12;
const EBUSY: i32 = -16;
const ENODEV: i32 = -19;

struct Tenant {
    factory: Factory,
    lifetime: OwnedFd,
}

fn delegate(at: &Factory, words: &[&str]) -> Result<Tenant, i32> {
    let reply = at.request("factory", words, None).unwrap();
    if reply.code != 0 {
        return Err(reply.code);
    }
    let [factory, lifetime] = <[OwnedFd; 2]>::try_from(reply.fds).unwrap();
    Ok(Tenant { factory: Factory::from_fd(factory, WAIT), lifetime })
}

fn code(factory: &Factory, words: &[&str]) -> i32 {
    factory.ask(words, None).unwrap().code
}

fn is_there(factory: &Factory) -> bool {
    let socket = factory.socket();
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
}

/// An image on a file system that can be frozen, in three parts.
struct Frozen {
    system: Mount,
    _device: Loop,
}

impl Frozen {
    fn serve(bench: &Bench, words: &[&str]) -> (Self, Server) {
        let file = bench.path("file");
        sparse(&file, 64 * MIB);
        let device = Loop::over(&file, &[]);
        let system = Mount::ext4(&device.0);
        let image = system.path("image");
        sparse(&image, 48 * MIB);
        divide(&image, &[14, 14, 14]);
        let (image, svr) = (vbus(&image, ",serial=a"), bench.socket("svr"));
        let words: Vec<&str> = [image.as_str(), &svr].into_iter().chain(words.iter().copied()).collect();
        (Self { system, _device: device }, bench.start(&words, &[], &[]))
    }

    fn freeze(&self, on: bool) {
        run("fsfreeze", &[if on { "-f" } else { "-u" }, self.system.0.path().to_str().unwrap()]);
    }
}

/// A write that is not waited for.
fn offer(client: &mut Client) {
    let segments = [Segment { addr: client.scratch, len: 4096 }];
    let queue = client.queue(0).unwrap();
    queue.submit(Io { kind: kind::OUT, sector: 8, segments: &segments, to_device: true }, 1).unwrap();
    queue.publish().unwrap();
    queue.kick().unwrap();
}

/// A session drains for as long as its storage hangs: whoever asks for its device waits. A tenant has many callers, at many factories.
#[test]
fn calls_of_one_tenant_that_wait_are_bounded_and_another_s_wait_and_are_granted_as_before() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let (frozen, mut server) = Frozen::serve(&bench, &["-q"]);
    let mut leaves = session(&bench, &["device=a:n1:1"]);
    leaves.write(0, &[1; 4096]).unwrap();
    let svr = bench.factory();
    let loud = delegate(&svr, &["device=a:n1:1", "factories=9"]).unwrap();
    let quiet = delegate(&svr, &["device=a:n1:1", "device=a:n1:2"]).unwrap();
    let mut lifetimes = Vec::new();
    let offices = ["one", "two", "three"].map(|name| {
        let (path, seqpacket) = (bench.path(name), SocketType::SEQPACKET);
        let fd = socket_with(AddressFamily::UNIX, seqpacket, SocketFlags::CLOEXEC, None).unwrap();
        bind(&fd, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&fd, 16).unwrap();
        let reply = loud.factory.request("factory", &["device=a:n1:1"], Some(fd.as_fd())).unwrap();
        lifetimes.extend(reply.fds);
        path
    });
    let callers: Vec<Factory> =
        offices.iter().flat_map(|path| (0..8).map(move |_| Factory::connect(path, WAIT).unwrap())).collect();
    frozen.freeze(true);
    offer(&mut leaves);
    std::thread::sleep(Duration::from_millis(300));
    drop(leaves);
    let began = Instant::now();
    for caller in &callers {
        caller.send_raw(b"create\x000\0device=a:n1:1", &[]).unwrap();
    }
    quiet.factory.send_raw(b"create\x000\0device=a:n1:1", &[]).unwrap();
    let answered = || callers.iter().filter(|caller| is_there(caller)).count();
    wait_until("those that may not wait", || answered() >= callers.len() - 16);
    // Others are served meanwhile, and at once.
    drop(svr.create(&["device=a:n1:2", "read-only"], None).unwrap());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!((answered(), is_there(&quiet.factory)), (callers.len() - 16, false));
    frozen.freeze(false);
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "the machine is too busy for this: {:?}",
        began.elapsed()
    );
    // One of them all has it then: the one that came first of those that wait.
    let replies: Vec<Reply> = callers.iter().map(|caller| caller.receive().unwrap()).collect();
    let codes: Vec<i32> = replies.iter().map(|reply| reply.code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|code| [0, EBUSY].contains(code)), "{codes:?}");
    assert_eq!(quiet.factory.receive().unwrap().code, EBUSY);
    assert_eq!(code(&quiet.factory, &["device=a:n1:2", "read-only"]), 0);
    drop((loud, quiet, lifetimes, callers, replies));
    wait_until("the device", || svr.ask(&["device=a:n1:1"], None).unwrap().code == 0);
    assert_eq!(server.stop(), 0);
}

/// Somebody's session drains for as long as its storage hangs: whoever is refused what somebody else has is told so at once, and does not
/// learn by how long that takes that anybody ends.
#[test]
fn a_refusal_does_not_wait_for_another_tenant_s_end() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let (frozen, mut server) = Frozen::serve(&bench, &["-q"]);
    let mut leaves = session(&bench, &["device=a:n1:1"]);
    leaves.write(0, &[1; 4096]).unwrap();
    let svr = bench.factory();
    let quiet = delegate(&svr, &["device=a:n1:2", "device=a:n1:3", "sessions=1"]).unwrap();
    let other = delegate(&svr, &["device=a:n1:2"]).unwrap();
    let held = quiet.factory.create(&["device=a:n1:2"], None).unwrap();
    frozen.freeze(true);
    offer(&mut leaves);
    std::thread::sleep(Duration::from_millis(300));
    drop(leaves);
    let began = Instant::now();
    assert_eq!(code(&other.factory, &["device=a:n1:2"]), EBUSY);
    assert_eq!(code(&quiet.factory, &["device=a:n1:3"]), ENOMEM);
    assert_eq!(code(&svr, &["device=a:n1:2", "read-only"]), EBUSY);
    let took = began.elapsed();
    // A call that waits has 5 s.
    assert!(took < Duration::from_secs(4), "{took:?}");
    frozen.freeze(false);
    drop((held, quiet, other));
    wait_until("the device", || svr.ask(&["device=a:n1:1"], None).unwrap().code == 0);
    assert_eq!(server.stop(), 0);
}

/// Nothing proves the memory of a session quiet whose write hangs in storage: its factory ends when that answers, and no sooner.
#[test]
fn a_factory_whose_session_hangs_in_storage_mints_no_more_at_once_and_ends_when_that_answers() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let (frozen, mut server) = Frozen::serve(&bench, &[]);
    let svr = bench.factory();
    let tenant = delegate(&svr, &["device=a:n1:1", "device=a:n1:2", "factories=1"]).unwrap();
    let below = delegate(&tenant.factory, &["device=a:n1:1"]).unwrap();
    let mut held = client(below.factory.create(&["device=a:n1:1"], None).unwrap());
    held.write(0, &[1; 4096]).unwrap();
    let mut bystander = session(&bench, &["device=a:n1:3"]);
    bystander.write(0, &[3; 4096]).unwrap();
    frozen.freeze(true);
    offer(&mut held);
    std::thread::sleep(Duration::from_millis(300));
    let Tenant { factory, lifetime } = tenant;
    drop(lifetime);
    // At once: neither may mint, and whatever else they held is somebody else's.
    wait_until("its end to be told", || factory.ask(&["device=a:n1:2"], None).is_err());
    assert!(below.factory.ask(&["device=a:n1:1"], None).is_err());
    drop(svr.create(&["device=a:n1:2", "read-only"], None).unwrap());
    bystander.read(0, &mut [0; 4096]).unwrap();
    // But not the blocks that the write is for.
    assert_eq!(svr.ask(&["device=a:n1:1"], None).unwrap().code, EBUSY);
    assert!(!server.said().contains("factory 1: ended") && !server.said().contains("factory 2: ended"));
    frozen.freeze(false);
    server.says("factory 1: ended");
    let said = server.said();
    let at = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what}: {said}"));
    assert!(at("session 1 of factory 2: ended") < at("factory 2: ended"));
    assert!(at("factory 2: ended") < at("factory 1: ended"));
    drop(svr.create(&["device=a:n1:1"], None).unwrap());
    bystander.write(0, &[4; 4096]).unwrap();
    drop((held, factory, below, bystander));
    assert_eq!(server.stop(), 0);
}

#[test]
fn the_factory_of_a_device_that_goes_for_good_has_the_rest_and_is_taken_back_and_all_is_written_down() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let (file, other, trail) = (bench.path("file"), bench.path("other"), bench.path("audit"));
    sparse(&file, 32 * MIB);
    sparse(&other, 32 * MIB);
    let device = Loop::over(&file, &[]);
    let audit = format!("--cap=audit=file:{}", trail.display());
    let (a, b, svr) = (vbus(&device.0, ",serial=a"), vbus(&other, ",serial=b"), bench.socket("svr"));
    let mut server = bench.start(&[&a, &b, &svr, &audit], &[], &[]);
    let svr = bench.factory();
    let tenant = delegate(&svr, &["device=a:n1", "device=b:n1", "factories=2", "name=blue"]).unwrap();
    let below = delegate(&tenant.factory, &["device=a:n1", "read-only"]).unwrap();
    let mut goes = client(tenant.factory.create(&["device=a:n1", "name=vm"], None).unwrap());
    let mut stays = client(tenant.factory.create(&["device=b:n1"], None).unwrap());
    goes.write(0, &[1; 4096]).unwrap();
    File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
    run("losetup", &["-c", device.0.to_str().unwrap()]);
    assert!(goes.read(0, &mut [0; 4096]).is_err());
    server.says("session 1 of factory 1 \"blue\": its device is lost");
    // What it holds of it is nothing now; the rest is what it was.
    wait_until("its absence", || code(&tenant.factory, &["device=a:n1", "read-only"]) == ENODEV);
    assert_eq!(code(&below.factory, &["device=a:n1", "read-only"]), ENODEV);
    assert_eq!(delegate(&tenant.factory, &["device=a:n1"]).err(), Some(ENODEV));
    let listing = tenant.factory.list().unwrap();
    assert!(listing.contains("\"present\":false") && listing.contains("\"present\":true"), "{listing}");
    stays.write(0, &[2; 4096]).unwrap();
    drop(delegate(&tenant.factory, &["device=b:n1", "read-only"]).unwrap());
    drop(tenant.lifetime);
    wait_until("its end", || svr.ask(&["device=b:n1"], None).unwrap().code == 0);
    server.says("factory 1 \"blue\": ended");
    assert!(tenant.factory.list().is_err() && below.factory.list().is_err());
    assert_eq!(server.stop(), 0);
    let lines = crate::trail::read(&trail).1;
    let records: Vec<&Record> = lines.iter().map(|line| &line.record).collect();
    let lost: Vec<_> = records.iter().filter(|r| r.event == Event::DeviceLost).collect();
    let [own, session] = lost[..] else { panic!("{lost:#?}") };
    let (own, session) = if own.session.is_none() { (own, session) } else { (session, own) };
    assert_eq!((own.device.as_deref(), own.session), (Some("a:n1"), None));
    assert!(own.why.is_some());
    assert_eq!((session.session, session.factory, session.name.as_deref()), (Some(1), Some(1), Some("vm")));
    assert_eq!(session.device.as_deref(), Some("a:n1"));
    drop((goes, stays));
}
