//! One server takes over from another, under load that is verified.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nvme_audit::{Event, verify};
use nvme_client::message::protocol;
use nvme_client::{Client, Factory, Io, Options, Segment, kind, socket};
use nvme_handover::VERSION;
use nvme_linux::inventory::{Inventory, Session};
use nvme_linux::socket::{Kind, ListenSpec};
use rustix::event::PollFlags;
use rustix::process::Signal;

use crate::checker::Checker;
use crate::manager::Manager;
use crate::server::{Bench, Server, WAIT, wait_until};

/// A server over the disk with a factory, that can be taken over from.
fn serve(bench: &Bench, words: &[&str]) -> Server {
    let upgrade = bench.socket("upgrade");
    let all: Vec<&str> = [upgrade.as_str()].into_iter().chain(words.iter().copied()).collect();
    bench.serve(&all)
}

fn client(bench: &Bench, words: &[&str]) -> Client {
    Client::from_fd(bench.create(words), &Options::default()).unwrap()
}

/// The next server, which has taken over from that one.
fn upgrade(bench: &Bench, mut server: Server, words: &[&str]) -> Server {
    let mut next = serve(bench, words);
    wait_until("the end of one of them", || server.status_now().is_some() || next.status_now().is_some());
    assert_eq!(next.status_now(), None, "{}", next.said());
    assert_eq!(server.wait(), 0, "{}", server.said());
    next.says("took over from pid");
    next
}

/// The only session, as the document of `ctl` has it.
fn listed(ctl: &Path) -> Session {
    let mut found = Inventory::read(std::os::unix::net::UnixStream::connect(ctl).unwrap()).unwrap();
    assert_eq!(found.sessions.len(), 1);
    found.sessions.remove(0)
}

#[test]
fn a_session_by_descriptor_goes_on_in_the_next_server_and_no_request_fails() {
    let bench = Bench::new();
    let (word, ctl) = (bench.socket("ctl"), bench.path("ctl"));
    let mut server = serve(&bench, &[&word]);
    let mut session = client(&bench, &["device=partlabel:attack", "name=vm"]);
    assert!(session.read(1 << 30, &mut [0; 512]).is_err());
    let checker = Checker::start(session, 8);
    let first = listed(&ctl);
    // `since` is in seconds.
    std::thread::sleep(Duration::from_millis(1100));
    for _ in 0..3 {
        checker.more(200);
        server = upgrade(&bench, server, &[&word]);
        checker.more(200);
        let now = listed(&ctl);
        assert_eq!((now.id, now.since), (first.id, first.since), "it is the same session still");
        assert!(now.counters.requests.sum() >= first.counters.requests.sum() + 200);
        assert_eq!((now.counters.failed.read, now.name.as_deref()), (1, Some("vm")));
    }
    let (client, seen) = checker.stop();
    println!("{seen:?}");
    let (code, why) = bench.refused(&["device=partlabel:attack"]);
    assert_eq!((code, why.contains("in use")), (16, true), "it is held still: {why}");
    drop(client);
    drop(bench.create(&["device=partlabel:attack"]));
    assert_eq!(server.stop(), 0);
}

/// A listening socket that is the test's own.
#[test]
fn a_ring_that_broke_is_not_started_by_an_upgrade() {
    let bench = Bench::new();
    let server = serve(&bench, &[]);
    let mut session = client(&bench, &["device=partlabel:attack"]);
    session.write(0, &[7; 4096]).unwrap();
    let queue = session.queue(0).unwrap();
    // No chain is there: it breaks the ring, and is answered never.
    queue.offer(5).unwrap();
    queue.publish().unwrap();
    queue.kick().unwrap();
    socket::wait_for(queue.err.as_fd(), PollFlags::IN, socket::until(WAIT)).unwrap();
    let (addr, used) = (session.scratch, session.queue(0).unwrap().poll().unwrap());
    assert!(used.is_none());
    session.memory.write(addr, &[8; 4096]).unwrap();
    let segments = [Segment { addr, len: 4096 }];
    let io = Io { kind: kind::OUT, sector: 0, segments: &segments, to_device: true };
    let queue = session.queue(0).unwrap();
    queue.submit(io, 1).unwrap();
    queue.publish().unwrap();
    queue.kick().unwrap();
    let mut server = upgrade(&bench, server, &[]);
    // By then every ring has started that does.
    let mut other = client(&bench, &["device=partlabel:before", "read-only"]);
    other.read(0, &mut [0; 512]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(session.queue(0).unwrap().poll().unwrap().is_none(), "it is served behind what broke it");
    session.front.reset_device().unwrap();
    session.front.set_features(session.features).unwrap();
    session.restart_queue(0).unwrap();
    let mut bytes = [0; 4096];
    session.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|b| *b == 7));
    drop((session, other));
    assert_eq!(server.stop(), 0);
}

fn listening(path: &Path, kind: Kind) -> OwnedFd {
    ListenSpec::parse(&path.display().to_string()).unwrap().listen(kind).unwrap()
}

#[test]
fn all_that_a_server_has_goes_on_in_the_next() {
    let bench = Bench::new();
    let trail = bench.path("audit");
    let audit = format!("--cap=audit=file:{},required", trail.display());
    let (admin, ctl, cl1, blue) =
        (bench.socket("admin"), bench.socket("ctl"), bench.socket("cl1"), bench.socket("blue"));
    let fixed = "--client cl1 --device partlabel:after --readonly --factory blue --device partlabel:before";
    let words: Vec<&str> =
        [audit.as_str(), &admin, &ctl, &cl1, &blue].into_iter().chain(fixed.split_whitespace()).collect();
    let mut server = serve(&bench, &words);
    // A session that listens, with a client; another who waits there; a static client's; and who waits at the factory.
    let listener = listening(&bench.path("s"), Kind::Stream);
    let factory = bench.factory();
    let lifetime = factory.create(&["device=partlabel:attack"], Some(listener.as_fd())).unwrap();
    let checker = Checker::start(Client::connect(bench.path("s"), &Options::default()).unwrap(), 4);
    let waits = socket::connect_stream(&bench.path("s")).unwrap();
    let mut fixed = Client::connect(bench.path("cl1"), &Options::default()).unwrap();
    fixed.read(0, &mut [0; 512]).unwrap();
    // A factory of the tenant's, whose session it keeps.
    let tenant = Factory::connect_retry(bench.path("blue"), WAIT).unwrap();
    let words_of = ["device=partlabel:before", "read-only", "sessions=1", "name=below"];
    let made = bench.factory().request("factory", &words_of, None).unwrap();
    let [made, made_lifetime] = <[OwnedFd; 2]>::try_from(made.fds).unwrap();
    let made = Factory::from_fd(made, WAIT);
    let below = made.create(&["device=partlabel:before", "read-only"], None).unwrap();
    let mut below = Client::from_fd(below, &Options::default()).unwrap();
    let listing = (tenant.list().unwrap(), made.list().unwrap());
    let newest = |bench: &Bench| {
        let session = bench.create(&["device=partlabel:bystander"]);
        drop(session);
        let lines = std::fs::read_to_string(&trail).unwrap();
        let last = lines.lines().rfind(|line| line.contains("\"event\":\"grant\"")).unwrap().to_owned();
        let at = last.find("\"session\":").unwrap() + 10;
        last[at..].split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap()
    };
    let before = newest(&bench);
    for _ in 0..2 {
        checker.more(50);
        server = upgrade(&bench, server, &words);
        checker.more(50);
    }
    assert!(newest(&bench) > before, "a number is given once");
    fixed.read(0, &mut [0; 512]).unwrap();
    assert!(fixed.write(0, &[0; 512]).is_err(), "it is read-only still");
    below.read(0, &mut [0; 512]).unwrap();
    assert_eq!((tenant.list().unwrap(), made.list().unwrap()), listing);
    assert!(made.create(&["device=partlabel:before", "read-only"], None).is_err(), "one session is its most");
    assert!(factory.create(&["device=partlabel:attack"], None).is_err(), "it is held");
    // Who waited comes when the one before has gone.
    let (client, seen) = checker.stop();
    println!("{seen:?}");
    drop(client);
    let mut next = Client::from_fd(waits, &Options::default()).unwrap();
    next.read(0, &mut [0; 512]).unwrap();
    // What is taken back ends, and what lives on the lifetime ends with it.
    drop(made_lifetime);
    socket::wait_closed(&below.front.socket(), WAIT).unwrap();
    drop(lifetime);
    socket::wait_closed(&next.front.socket(), WAIT).unwrap();
    drop(bench.create(&["device=partlabel:attack"]));
    assert_eq!(server.stop(), 0);
    let mut events = Vec::new();
    let file = std::io::BufReader::new(std::fs::File::open(&trail).unwrap());
    verify(file, None, |line| events.push(line.record.event)).unwrap();
    assert_eq!(events.iter().filter(|e| **e == Event::Upgrade).count(), 2, "{events:?}");
    assert_eq!(events.iter().filter(|e| **e == Event::Start).count(), 1);
    assert!(!server.said().contains("anomal"), "{}", server.said());
}

/// To close it is not enough: programs that other tests start may hold copies of it for a moment.
fn hang_up(hand: &OwnedFd) {
    rustix::net::shutdown(hand, rustix::net::Shutdown::Both).unwrap();
}

/// A hand that says what the next server would.
fn hand(bench: &Bench) -> OwnedFd {
    let deadline = Instant::now() + WAIT;
    loop {
        match socket::connect_seqpacket(&bench.path("upgrade")) {
            Ok(socket) => return socket,
            Err(why) => assert!(Instant::now() < deadline, "{why}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What comes next, with its descriptors.
fn hear(hand: &OwnedFd) -> String {
    let mut bytes = [0; 8192];
    let (length, _) = socket::receive(hand.as_fd(), &mut bytes, Instant::now() + WAIT).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

fn say(hand: &OwnedFd, what: &str) {
    socket::send(hand.as_fd(), what.as_bytes(), &[], Instant::now() + WAIT).unwrap();
}

#[test]
fn until_the_last_step_a_server_goes_on_whatever_becomes_of_the_next() {
    let bench = Bench::new();
    let mut server = serve(&bench, &[]);
    let options = Options::default();
    let protocol = options.protocol | protocol::INFLIGHT_SHMFD;
    let session = bench.create(&["device=partlabel:attack"]);
    let checker = Checker::start(Client::from_fd(session, &Options { protocol, ..options }).unwrap(), 8);
    checker.more(50);
    let greeting = format!("take over\0{VERSION}");
    // It hangs up, says no, or says something else, after each step.
    for end in ["", "refused\0no", "nonsense"] {
        for steps in 0..4 {
            let hand = hand(&bench);
            for step in [greeting.as_str(), "freeze"].into_iter().take(steps) {
                say(&hand, step);
                let said = hear(&hand);
                let expected = if step == "freeze" { "state\0" } else { "capabilities\0" };
                assert!(said.starts_with(expected), "{said:?}");
                assert_eq!(hear(&hand), "files");
            }
            if steps == 3 && !end.is_empty() {
                say(&hand, end);
            }
            if steps < 3 {
                say(&hand, if end.is_empty() { "x" } else { end });
            }
            hang_up(&hand);
            checker.more(50);
        }
    }
    // Another version.
    let other = hand(&bench);
    say(&other, "take over\x0099");
    let only = format!("refused\0this server hands over documents of version {VERSION} only");
    assert_eq!(hear(&other), only);
    drop(other);
    // A second one, while the first has not come to its end.
    let first = hand(&bench);
    say(&first, &greeting);
    assert!(hear(&first).starts_with("capabilities\0"));
    assert_eq!(hear(&hand(&bench)), "refused\0another program is taking over already");
    // One that came while the first was there, and is looked at when that has hung up.
    server.signal(Signal::STOP);
    let second = hand(&bench);
    say(&second, &greeting);
    hang_up(&first);
    server.signal(Signal::CONT);
    let said = hear(&second);
    assert!(said.starts_with("capabilities\0"), "{said}");
    hang_up(&second);
    assert_eq!(server.status_now(), None, "{}", server.said());
    server = upgrade(&bench, server, &[]);
    checker.more(50);
    let (_, seen) = checker.stop();
    println!("{seen:?}");
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_server_with_other_words_does_not_take_over_and_says_why() {
    let bench = Bench::new();
    let (cl1, other) = (bench.socket("cl1"), bench.socket("cl2"));
    let fixed = |device| [cl1.as_str(), "--client", "cl1", "--device", device];
    let mut server = serve(&bench, &fixed("partlabel:after"));
    let checker = Checker::start(client(&bench, &["device=partlabel:attack"]), 4);
    for (words, why) in [
        (&[][..], "was started with `cl1=unix:"),
        (&fixed("partlabel:before"), "session "),
        (&[other.as_str(), "--client", "cl2", "--device", "partlabel:after"], "was started with `cl1=unix:"),
    ] {
        checker.more(20);
        let mut next = serve(&bench, words);
        let status = next.wait();
        assert!(status == 2 && next.said().contains(why), "{status}: {}", next.said());
        assert_eq!(server.status_now(), None);
        checker.more(20);
    }
    let more = [&fixed("partlabel:after")[..], &[&other, "--client", "cl2", "--device", "partlabel:before"]]
        .concat();
    server = upgrade(&bench, server, &more);
    checker.more(20);
    checker.stop();
    Client::connect(bench.path("cl2"), &Options::default()).unwrap().read(0, &mut [0; 512]).unwrap();
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_program_of_another_control_group_takes_over_from_no_service() {
    if nvme_linux::socket::Group::own().is_none() || !rustix::process::geteuid().is_root() {
        println!("skipped: this needs root, and a kernel that says the control group of a peer (6.13)");
        return;
    }
    let bench = Bench::new();
    let manager = Manager::new(&bench, 64);
    let (disk, svr, upgrade) = (bench.disk(), bench.socket("svr"), bench.socket("upgrade"));
    let words = [disk.as_str(), svr.as_str(), upgrade.as_str()];
    let server = manager.start(&bench, &words);
    server.says("ready");
    let checker = Checker::start(client(&bench, &["device=partlabel:attack"]), 4);
    checker.more(20);
    let place = bench.path("groups");
    std::fs::create_dir(&place).unwrap();
    let name = format!("nvme-drv-test-{}", std::process::id());
    let there = |script: &str| {
        let script = format!("mount -t cgroup2 none \"$PLACE\" && {script}");
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_nvme-drv")]).args(words);
        command.env("PLACE", &place).env("NAME", &name).output().unwrap()
    };
    let next = there(r#"mkdir "$PLACE/$NAME" && echo $$ >"$PLACE/$NAME/cgroup.procs" && exec "$@""#);
    let said = String::from_utf8_lossy(&next.stderr);
    assert!(there(r#"rmdir "$PLACE/$NAME""#).status.success());
    // What it says may come too late for the one that it is said to.
    assert!(!next.status.success(), "{said}");
    server.says("refused: a service is taken over by a program in its own control group only");
    checker.more(20);
    let mut server = manager.upgrade(&bench, server, &words);
    checker.more(20);
    checker.stop();
    assert_eq!(server.stop(), 0);
}

/// A number that a variable says, for a longer run.
fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// In the long form (doc/restarts.md): `NVME_DRV_UPGRADES=100 NVME_DRV_SESSIONS=16`.
#[test]
fn many_sessions_go_on_through_one_upgrade_after_the_other_and_so_do_disks_in_memory() {
    let bench = Bench::new();
    let (upgrades, sessions) = (number("NVME_DRV_UPGRADES", 4), number("NVME_DRV_SESSIONS", 3));
    let disks: Vec<String> = (0..sessions).map(|n| format!("--cap=vbus=soft:mem:4M,serial=m{n}")).collect();
    let words: Vec<&str> = disks.iter().map(String::as_str).collect();
    let mut server = serve(&bench, &words);
    let checkers: Vec<Checker> = (0..sessions)
        .map(|n| Checker::start(client(&bench, &[&format!("device=m{n}:n1"), &format!("name=vm{n}")]), 8))
        .collect();
    let (mut paused, mut took_most) = (Vec::new(), Vec::new());
    for _ in 0..upgrades {
        checkers.iter().for_each(|checker| checker.more(20));
        took_most.push(checkers.iter().map(|checker| checker.take_longest().as_millis()).max().unwrap());
        server = upgrade(&bench, server, &words);
        let said = server.said();
        let took = said.split(" after ").nth(1).and_then(|rest| rest.split(' ').next());
        paused.push(took.unwrap().parse::<u64>().unwrap());
    }
    checkers.iter().for_each(|checker| checker.more(20));
    let seen: Vec<_> = checkers.into_iter().map(|checker| checker.stop().1).collect();
    let longest = seen.iter().map(|seen| seen.longest).max().unwrap();
    let requests: u64 = seen.iter().map(|seen| seen.requests).sum();
    println!(
        "{upgrades} upgrades, {sessions} sessions, {requests} requests; the longest took {longest:?}; paused ms: {paused:?}; the longest request until each, in ms: {took_most:?}"
    );
    assert_eq!(server.stop(), 0);
}
