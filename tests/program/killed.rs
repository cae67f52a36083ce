//! Sessions outlive a server that is killed, where a service manager keeps what they need: here one of the test's own.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nvme_client::{Client, Options, socket};
use nvme_linux::socket::{Kind, ListenSpec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use crate::checker::Checker;
use crate::manager::{Manager, RESTART, client, said_all};
use crate::server::{Bench, WAIT, wait_until};

/// Says what the last server said, where a test fails.
struct Tell(std::path::PathBuf);

impl Drop for Tell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", std::fs::read_to_string(&self.0).unwrap_or_default());
        }
    }
}

fn words<'a>(disk: &'a str, svr: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [disk, svr].into_iter().chain(more.iter().copied()).collect()
}

#[test]
fn a_session_by_descriptor_outlives_its_server_and_no_request_fails() {
    let bench = Bench::new();
    let manager = Manager::new(&bench, 100);
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let words = words(&disk, &svr, &[]);
    let mut server = manager.start(&bench, &words);
    let checker = Checker::start(client(&bench, &["device=partlabel:attack", "name=vm"]), 8);
    for _ in 0..3 {
        checker.more(100);
        server = manager.restart(&bench, server, &words);
        checker.more(100);
        server.says("1 of 1 sessions go on");
    }
    let (client, seen) = checker.stop();
    println!("{seen:?}");
    let (code, why) = bench.refused(&["device=partlabel:attack"]);
    assert_eq!((code, why.contains("in use")), (16, true), "it is held still: {why}");
    drop(client);
    drop(bench.create(&["device=partlabel:attack"]));
    assert_eq!(server.stop(), 0);
    assert!(manager.names().is_empty(), "{:?}", manager.names());
}

/// A listening socket that is the test's own.
fn listening(bench: &Bench, name: &str) -> OwnedFd {
    ListenSpec::parse(&bench.path(name).display().to_string()).unwrap().listen(Kind::Stream).unwrap()
}

#[test]
fn what_listens_and_what_is_static_goes_on_and_what_had_ended_has() {
    let bench = Bench::new();
    let manager = Manager::new(&bench, 100);
    let (disk, svr, cl1, admin) =
        (bench.disk(), bench.socket("svr"), bench.socket("cl1"), bench.socket("admin"));
    let fixed = "--client cl1 --device partlabel:after --readonly";
    let more: Vec<&str> = [cl1.as_str(), &admin].into_iter().chain(fixed.split_whitespace()).collect();
    let words = words(&disk, &svr, &more);
    let mut server = manager.start(&bench, &words);
    let listener = listening(&bench, "s");
    let lifetime = bench.factory().create(&["device=partlabel:attack"], Some(listener.as_fd())).unwrap();
    let checker = Checker::start(Client::connect(bench.path("s"), &Options::default()).unwrap(), 4);
    let waits = socket::connect_stream(&bench.path("s")).unwrap();
    let mut fixed = Client::connect(bench.path("cl1"), &Options::default()).unwrap();
    fixed.read(0, &mut [0; 512]).unwrap();
    let ended = client(&bench, &["device=partlabel:before"]);
    drop(ended);
    drop(bench.create(&["device=partlabel:before"]));
    wait_until("what had ended to be let go of", || manager.names().len() == 3);
    for _ in 0..2 {
        checker.more(50);
        server = manager.restart(&bench, server, &words);
        checker.more(50);
    }
    let said = server.said();
    assert!(said.contains("2 of 2 sessions go on"), "{said}");
    fixed.read(0, &mut [0; 512]).unwrap();
    assert!(fixed.write(0, &[0; 512]).is_err(), "it is read-only still");
    // Who waited comes when the one before has gone, and what lives on the lifetime ends with it.
    drop(checker.stop().0);
    let mut next = Client::from_fd(waits, &Options::default()).unwrap();
    next.read(0, &mut [0; 512]).unwrap();
    drop(lifetime);
    socket::wait_closed(&next.front.socket(), WAIT).unwrap();
    drop(bench.create(&["device=partlabel:attack"]));
    wait_until("what ended to be let go of", || manager.names().len() == 2);
    assert_eq!(server.stop(), 0);
    assert!(manager.names().is_empty(), "{:?}", manager.names());
}

#[test]
fn a_client_in_mid_message_loses_its_connection_and_others_do_not() {
    let bench = Bench::new();
    let manager = Manager::new(&bench, 100);
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let words = words(&disk, &svr, &[]);
    let mut server = manager.start(&bench, &words);
    let checker = Checker::start(client(&bench, &["device=partlabel:attack"]), 4);
    let listener = listening(&bench, "s");
    let _lifetime = bench.factory().create(&["device=partlabel:before"], Some(listener.as_fd())).unwrap();
    let mut listens = Client::connect(bench.path("s"), &Options::default()).unwrap();
    listens.read(0, &mut [0; 512]).unwrap();
    let direct = client(&bench, &["device=partlabel:after"]);
    for client in [&listens, &direct] {
        // GET_FEATURES without its end.
        socket::send(client.front.socket(), &[1, 0, 0, 0, 1, 0], &[], Instant::now() + WAIT).unwrap();
    }
    // Whoever answers this has read what came before.
    for _ in 0..2 {
        bench.refused(&["device=partlabel:attack"]);
    }
    checker.more(50);
    server = manager.restart(&bench, server, &words);
    checker.more(50);
    for client in [&listens, &direct] {
        socket::wait_closed(&client.front.socket(), WAIT).unwrap();
    }
    // One has a place to come to again; the other's session has ended with it.
    let mut again = Client::connect(bench.path("s"), &Options::default()).unwrap();
    again.read(0, &mut [0; 512]).unwrap();
    drop(bench.create(&["device=partlabel:after"]));
    server.says("its client was saying something; that connection is closed");
    checker.stop();
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_server_with_other_words_lets_go_of_everything_and_says_so() {
    let bench = Bench::new();
    let manager = Manager::new(&bench, 100);
    let (disk, svr, ctl) = (bench.disk(), bench.socket("svr"), bench.socket("ctl"));
    let before = words(&disk, &svr, &[&ctl]);
    let mut server = manager.start(&bench, &before);
    let mut session = client(&bench, &["device=partlabel:attack"]);
    session.read(0, &mut [0; 512]).unwrap();
    server = manager.restart(&bench, server, &words(&disk, &svr, &[]));
    socket::wait_closed(&session.front.socket(), WAIT).unwrap();
    drop(bench.create(&["device=partlabel:attack"]));
    server.says(
        "what the server before left is let go of, and its sessions end: it was started with `ctl=unix:",
    );
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_session_that_the_manager_has_no_room_for_is_refused_and_without_a_store_all_is_as_ever() {
    let bench = Bench::new();
    // The server itself, one session, and what tells that there was room.
    let manager = Manager::new(&bench, 5);
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let words = words(&disk, &svr, &[]);
    let mut server = manager.start(&bench, &words);
    let first = bench.create(&["device=partlabel:attack"]);
    let (code, why) = bench.refused(&["device=partlabel:before"]);
    assert!(code == 12 && why.contains("FileDescriptorStoreMax="), "{code} {why}");
    drop(first);
    // The server's own is one name.
    wait_until("the first to be let go of", || manager.names().len() == 1);
    let second = bench.create(&["device=partlabel:before"]);
    drop(second);
    assert_eq!(server.stop(), 0);
    drop(manager);
    std::fs::remove_file(bench.path("notify")).unwrap();
    let none = Manager::new(&bench, 0);
    let mut server = none.start(&bench, &words);
    let mut session = client(&bench, &["device=partlabel:attack"]);
    session.read(0, &mut [0; 512]).unwrap();
    assert!(none.names().is_empty());
    server = none.restart(&bench, server, &words);
    socket::wait_closed(&session.front.socket(), WAIT).unwrap();
    server.says("ready: ");
    assert_eq!(server.stop(), 0);
}

#[test]
fn sessions_wait_as_long_as_the_server_before_may_still_do_something() {
    let bench = Bench::new();
    let manager = Manager::new(&bench, 100);
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let words = words(&disk, &svr, &[]);
    let mut before = manager.start(&bench, &words);
    let mut session = client(&bench, &["device=partlabel:attack"]);
    session.write(0, &[7; 4096]).unwrap();
    // As one that cannot be reaped: it has all its descriptors still.
    before.signal(Signal::STOP);
    let mut server = manager.start(&bench, &words);
    server.says("what the server before began there has not ended; its sessions wait");
    server.says("1 of 1 sessions go on");
    let reads = std::thread::spawn(move || {
        let start = Instant::now();
        let mut bytes = [0; 4096];
        session.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 4096]);
        (session, start.elapsed())
    });
    // New ones wait, too.
    let mut new = client(&bench, &["device=partlabel:before"]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!reads.is_finished(), "it waits");
    before.signal(Signal::KILL);
    before.wait();
    let (session, waited) = reads.join().unwrap();
    assert!(waited >= Duration::from_millis(250), "{waited:?}");
    new.read(0, &mut [0; 512]).unwrap();
    server.says("nothing of the server before is under way any more");
    drop(session);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_session_in_whose_turn_servers_crash_three_times_within_a_minute_ends_and_others_do_not() {
    let bench = Bench::new();
    let manager = Manager::new(&bench, 100);
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let words = words(&disk, &svr, &[]);
    let mut server = manager.start(&bench, &words);
    let mut other = client(&bench, &["device=partlabel:before"]);
    let mut busy = client(&bench, &["device=partlabel:attack", "name=poison"]);
    let socket_of_it = busy.front.socket().try_clone_to_owned().unwrap();
    // It is asked for as long as it answers; nobody waits for the end of this.
    std::thread::spawn(move || while busy.write(0, &[1; 1 << 20]).is_ok() {});
    let mut crashes = 0;
    while !server.said().contains("servers crashed 3 times within a minute in its turn") {
        assert!(crashes < 100, "{}", server.said());
        other.read(0, &mut [0; 512]).unwrap();
        // As long as it is polled for more, it has turns.
        std::thread::sleep(Duration::from_millis(50));
        // As a watchdog ends it. Whoever's turn it is then, is in question.
        server.signal(Signal::ABORT);
        assert_ne!(server.wait(), 0);
        crashes += 1;
        server = manager.start(&bench, &words);
        server.says("sessions go on");
    }
    println!("{crashes} crashes");
    socket::wait_closed(&socket_of_it, WAIT).unwrap();
    other.read(0, &mut [0; 512]).unwrap_or_else(|why| panic!("{why}: {}", server.said()));
    drop(bench.create(&["device=partlabel:attack"]));
    assert_eq!(server.stop(), 0);
}

/// What can be taken over from, over the disk, with a static client.
fn upgradable(bench: &Bench) -> Vec<String> {
    let sockets = ["svr", "cl1", "upgrade"].map(|name| bench.socket(name));
    let fixed = "--client cl1 --device partlabel:after --readonly".split_whitespace().map(str::to_owned);
    [bench.disk()].into_iter().chain(sockets).chain(fixed).collect()
}

#[test]
fn after_an_upgrade_a_kill_is_survived_as_before() {
    let bench = Bench::new();
    let _tell = Tell(bench.path("log"));
    let manager = Manager::new(&bench, 100);
    let words = upgradable(&bench);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut server = manager.start(&bench, &words);
    let checker = Checker::start(client(&bench, &["device=partlabel:attack", "name=vm"]), 8);
    let mut fixed = Client::connect(bench.path("cl1"), &Options::default()).unwrap();
    fixed.read(0, &mut [0; 512]).unwrap();
    let made = bench.factory().request("factory", &["device=partlabel:before"], None).unwrap();
    let [factory, _lifetime] = <[OwnedFd; 2]>::try_from(made.fds).unwrap();
    let factory = nvme_client::Factory::from_fd(factory, WAIT);
    let mut below = said_all(factory.create(&["device=partlabel:before"], None).unwrap());
    let ends = client(&bench, &["device=partlabel:bystander"]);
    let before = manager.names();
    server = manager.upgrade(&bench, server, &words);
    assert_eq!(manager.names(), before, "the store is never without what it kept");
    checker.more(50);
    // What ends here, and what begins, does so in the store as well.
    drop(ends);
    let mut begins = client(&bench, &["device=partlabel:bystander"]);
    let listing = factory.list().unwrap();
    wait_until("what ended to be let go of", || manager.names().len() == before.len());
    for upgrades in [0, 2, 1] {
        for _ in 0..upgrades {
            checker.more(50);
            server = manager.upgrade(&bench, server, &words);
        }
        checker.more(50);
        server = manager.restart(&bench, server, &words);
        server.says("4 of 4 sessions go on");
        checker.more(50);
        for client in [&mut fixed, &mut below, &mut begins] {
            client.read(0, &mut [0; 512]).unwrap();
        }
        assert_eq!(factory.list().unwrap(), listing);
    }
    let (client, seen) = checker.stop();
    println!("{seen:?}");
    drop(client);
    drop(bench.create(&["device=partlabel:attack"]));
    assert_eq!(server.stop(), 0);
    assert!(manager.names().is_empty(), "{:?}", manager.names());
}

/// In a longer run: `NVME_DRV_KILLS=100`.
#[test]
fn whoever_dies_while_one_server_takes_over_from_another_sessions_go_on() {
    let bench = Bench::new();
    let _tell = Tell(bench.path("log"));
    let manager = Manager::new(&bench, 100);
    let words = upgradable(&bench);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut server = manager.start(&bench, &words);
    let checker = Checker::start(client(&bench, &["device=partlabel:attack"]), 8);
    let mut seed = std::process::id();
    let mut ends = [0; 4];
    for turn in 0..number("NVME_DRV_KILLS", 8) {
        checker.more(20);
        let mut next = manager.next(&bench, &words);
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Some 30 ms, in which it starts and takes over; more where the machine is busy.
        std::thread::sleep(Duration::from_micros(u64::from(seed >> 17)));
        let (dies, other) = if turn % 2 == 0 { (&mut next, &mut server) } else { (&mut server, &mut next) };
        dies.signal(Signal::KILL);
        dies.wait();
        if turn % 2 == 1 {
            // The main process may have been another by then; a manager ends all that are left.
            other.signal(Signal::KILL);
            other.wait();
            ends[0] += 1;
        } else {
            let requests = checker.requests();
            wait_until("the server before to go on, or to end", || {
                other.status_now().is_some() || checker.requests() > requests + 20
            });
            match other.status_now() {
                None => {
                    ends[1] += 1;
                    continue;
                }
                // The manager knows of the next one, or restarts what has failed.
                Some(0) => ends[2] += 1,
                Some(1) => ends[3] += 1,
                Some(status) => panic!("{status}"),
            }
        }
        std::thread::sleep(RESTART);
        server = manager.start(&bench, &words);
    }
    let [both, goes_on, told, failed] = ends;
    println!("both died {both}, the one before went on {goes_on}, had told {told}, failed {failed}");
    checker.more(20);
    println!("{:?}", checker.stop().1);
    assert_eq!(server.stop(), 0);
}

/// Passes messages on between two ends, with their descriptors, up to and with this one that comes from the second.
fn pass_on(ends: [&OwnedFd; 2], last: &str) {
    let deadline = Instant::now() + WAIT;
    loop {
        assert!(Instant::now() < deadline, "`{last}` was never said");
        let [a, b] = ends;
        let mut fds = [PollFd::new(a, PollFlags::IN), PollFd::new(b, PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        for (from, to) in [(a, b), (b, a)] {
            let mut bytes = [0; 8192];
            let Ok((length, files)) = nvme_linux::socket::receive(from, &mut bytes) else { continue };
            let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            socket::send(to.as_fd(), &bytes[..length], &files, deadline).unwrap();
            if bytes[..length] == *last.as_bytes() {
                return;
            }
        }
    }
}

/// A server dies between its last step and telling the service manager, which ends the next one as well, kindly: all goes on in another.
#[test]
fn one_that_took_over_and_that_the_manager_does_not_know_of_leaves_everything_to_another() {
    for told_to_end in [false, true] {
        let bench = Bench::new();
        let _tell = Tell(bench.path("log"));
        let manager = Manager::new(&bench, 100);
        let words = upgradable(&bench);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut server = manager.start(&bench, &words);
        let checker = Checker::start(client(&bench, &["device=partlabel:attack"]), 8);
        checker.more(20);
        // Somebody between the two, who hears the last step and lets no more pass.
        let real = bench.path("upgrade.real");
        std::fs::rename(bench.path("upgrade"), &real).unwrap();
        let between = ListenSpec::parse(&bench.path("upgrade").display().to_string()).unwrap();
        let between = between.listen(Kind::SeqPacket).unwrap();
        let mut next = manager.next(&bench, &words);
        poll(&mut [PollFd::new(&between, PollFlags::IN)], None).unwrap();
        let link = nvme_linux::socket::accept(&between).unwrap().unwrap();
        let other = socket::connect_seqpacket(&real).unwrap();
        pass_on([&link, &other], "go");
        if told_to_end {
            next.signal(Signal::STOP);
            next.signal(Signal::TERM);
        }
        rustix::net::shutdown(&link, rustix::net::Shutdown::Both).unwrap();
        server.signal(Signal::KILL);
        server.wait();
        if told_to_end {
            next.signal(Signal::CONT);
        }
        assert_eq!(next.wait(), 1, "{}", next.said());
        std::thread::sleep(RESTART);
        drop(between);
        server = manager.start(&bench, &words);
        checker.more(50);
        println!("{:?}", checker.stop().1);
        assert_eq!(server.stop(), 0);
    }
}

/// A number that a variable says, for a longer run.
fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// In the long form (doc/restarts.md): `NVME_DRV_KILLS=100 NVME_DRV_SESSIONS=16`.
#[test]
fn many_sessions_outlive_one_kill_after_the_other_at_any_moment() {
    let bench = Bench::new();
    let _tell = Tell(bench.path("log"));
    let (kills, sessions) = (number("NVME_DRV_KILLS", 5), number("NVME_DRV_SESSIONS", 4));
    let manager = Manager::new(&bench, 1000);
    let svr = bench.socket("svr");
    // Half of the disks lie in a file that is reached by io_uring, where there is one.
    let file = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disks: Vec<String> = (0..sessions)
        .map(|n| match n % 2 {
            0 => format!("--cap=vbus=soft:mem:4M,serial=m{n}"),
            _ => {
                let path = file.path().join(format!("disk{n}"));
                std::fs::write(&path, vec![0; 4 << 20]).unwrap();
                format!("--cap=vbus=soft:{},serial=m{n}", path.display())
            }
        })
        .collect();
    let words: Vec<&str> = [svr.as_str()].into_iter().chain(disks.iter().map(String::as_str)).collect();
    let mut server = manager.start(&bench, &words);
    let checkers: Vec<Checker> = (0..sessions)
        .map(|n| {
            let client = client(&bench, &[&format!("device=m{n}:n1"), &format!("name=vm{n}")]);
            // What is flushed in a file is overtaken by what is read and written there.
            if n % 2 == 1 { Checker::start_with_flushes(client, 8) } else { Checker::start(client, 8) }
        })
        .collect();
    let mut seed = std::process::id();
    for kill in 0..kills {
        println!("kill {kill}: {:?}", manager.names().len());
        checkers.iter().for_each(|checker| checker.more(5));
        // Any moment, some of them before the next server has taken all up.
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(Duration::from_micros(u64::from(seed >> 15)));
        server = manager.restart(&bench, server, &words);
        if kill % 3 == 2 {
            std::thread::sleep(Duration::from_millis(u64::from(seed >> 25)));
            server = manager.restart(&bench, server, &words);
        }
    }
    checkers.iter().for_each(|checker| checker.more(20));
    let seen: Vec<_> = checkers.into_iter().map(|checker| checker.stop().1).collect();
    let longest = seen.iter().map(|seen| seen.longest).max().unwrap();
    let requests: u64 = seen.iter().map(|seen| seen.requests).sum();
    let overtaken: u64 = seen.iter().map(|seen| seen.overtaken).sum();
    println!(
        "{kills} kills, {sessions} sessions, {requests} requests, {overtaken} of them overtaken; the longest took {longest:?}"
    );
    assert!(overtaken > 0 || sessions < 2, "all ended in their order");
    assert_eq!(server.stop(), 0);
}
