//! Factories that callers made outlive a server that is killed, with all below them; and what had ended, or has nobody any more, does not.

use std::os::fd::{AsFd, OwnedFd};

use nvme_client::{Client, Error, Factory, socket};
use nvme_linux::socket::{Kind, ListenSpec};
use rustix::process::Signal;

use crate::checker::Checker;
use crate::manager::{Manager, client, said_all};
use crate::server::{Bench, WAIT, wait_until};

/// A factory that was made at another, had by its connection: that, and its lifetime.
fn made(at: &Factory, words: &[&str]) -> (Factory, OwnedFd) {
    let made = at.request("factory", words, None).unwrap();
    assert_eq!(made.code, 0, "{}", made.message);
    let [factory, lifetime] = <[OwnedFd; 2]>::try_from(made.fds).unwrap();
    (Factory::from_fd(factory, WAIT), lifetime)
}

/// The same, had by a socket of that name.
fn made_listening(bench: &Bench, at: &Factory, words: &[&str], name: &str) -> OwnedFd {
    let path = bench.path(name).display().to_string();
    let listener = ListenSpec::parse(&path).unwrap().listen(Kind::SeqPacket).unwrap();
    let mut made = at.request("factory", words, Some(listener.as_fd())).unwrap();
    assert_eq!((made.code, made.fds.len()), (0, 1), "{}", made.message);
    made.fds.remove(0)
}

fn session(at: &Factory, words: &[&str]) -> Client {
    said_all(at.create(words, None).unwrap())
}

#[test]
fn factories_of_callers_outlive_their_server_with_all_below_them() {
    let bench = Bench::new();
    let manager = Manager::new(&bench, 100);
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let words = [disk.as_str(), svr.as_str()];
    let mut server = manager.start(&bench, &words);
    let tenant =
        ["device=partlabel:attack", "device=partlabel:before", "factories=2", "sessions=3", "name=t"];
    let (tenant, lifetime) = made(&bench.factory(), &tenant);
    let below = ["device=partlabel:before", "read-only", "sessions=1", "name=below"];
    let below = made_listening(&bench, &tenant, &below, "below");
    let at_below = || Factory::connect_retry(bench.path("below"), WAIT).unwrap();
    let checker = Checker::start(session(&tenant, &["device=partlabel:attack"]), 8);
    let mut reader = session(&at_below(), &["device=partlabel:before", "read-only"]);
    // One that had ended, with its session.
    let (gone, its_lifetime) = made(&bench.factory(), &["device=partlabel:after"]);
    let of_it = session(&gone, &["device=partlabel:after"]);
    drop(its_lifetime);
    socket::wait_closed(&of_it.front.socket(), WAIT).unwrap();
    let listing = tenant.list().unwrap();
    // Killed while it answers there, a server leaves a factory that ends. Who is answered next is answered after that.
    let answered = || drop(bench.factory().list().unwrap());
    answered();
    wait_until("what had ended to be let go of", || manager.names().len() == 5);
    for _ in 0..2 {
        checker.more(50);
        server = manager.restart(&bench, server, &words);
        checker.more(50);
        server.says("2 of 2 sessions go on");
        reader.read(0, &mut [0; 512]).unwrap();
        assert_eq!(tenant.list().unwrap(), listing);
        answered();
    }
    assert!(gone.list().is_err(), "it had ended");
    drop(bench.create(&["device=partlabel:after"]));
    // What they may give is what they might give before.
    let refused = |at: &Factory, words: &[&str]| match at.create(words, None) {
        Err(Error::Create { code, .. }) => -code,
        other => panic!("{words:?}: {other:?}"),
    };
    assert_eq!(refused(&at_below(), &["device=partlabel:before", "read-only"]), 12, "one is its most");
    assert_eq!(refused(&at_below(), &["device=partlabel:before"]), 13, "it reads alone");
    assert_eq!(refused(&tenant, &["device=partlabel:after"]), 13, "it does not hold that");
    // Taken back as ever: the one below with what it minted, then all.
    drop(below);
    socket::wait_closed(&reader.front.socket(), WAIT).unwrap();
    let more = session(&tenant, &["device=partlabel:before"]);
    let (client, seen) = checker.stop();
    println!("{seen:?}");
    drop(lifetime);
    for client in [&client, &more] {
        socket::wait_closed(&client.front.socket(), WAIT).unwrap();
    }
    wait_until("all but the server's own to be let go of", || manager.names() == ["nvme-drv.server"]);
    assert_eq!(server.stop(), 0);
    assert!(manager.names().is_empty(), "{:?}", manager.names());
}

#[test]
fn a_factory_whose_lifetime_was_closed_or_whose_entry_is_gone_ends_with_all_below_it() {
    let bench = Bench::new();
    let manager = Manager::new(&bench, 100);
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let words = [disk.as_str(), svr.as_str()];
    let mut server = manager.start(&bench, &words);
    let mut clients = Vec::new();
    let mut lifetimes = Vec::new();
    for device in ["attack", "before", "after"] {
        let device = format!("device=partlabel:{device}");
        let (top, lifetime) = made(&bench.factory(), &[&device, "factories=1"]);
        let (below, its_lifetime) = made(&top, &[&device]);
        clients.push(session(&below, &[&device]));
        lifetimes.push((lifetime, its_lifetime, top, below));
    }
    let ended = |clients: &[Client]| -> Vec<bool> {
        clients
            .iter()
            .map(|c| socket::wait_closed(&c.front.socket(), std::time::Duration::ZERO).is_ok())
            .collect()
    };
    server.signal(Signal::KILL);
    server.wait();
    assert_eq!(ended(&clients), [false; 3]);
    // The first top factory is taken back meanwhile, and of the second nothing is left. All else of theirs is there.
    let (lifetime, ..) = lifetimes.remove(0);
    drop(lifetime);
    let entry = |name: &str| name.strip_prefix("nvme-drv.factory.").map(|n| n.parse::<u64>().unwrap());
    let mut numbers: Vec<u64> = manager.names().iter().filter_map(|name| entry(name)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    manager.store.lock().unwrap().retain(|(name, _)| name != "nvme-drv.factory.3");
    server = manager.start(&bench, &words);
    server.says("1 of 3 sessions go on");
    for client in &clients[..2] {
        socket::wait_closed(&client.front.socket(), WAIT).unwrap();
    }
    clients[2].read(0, &mut [0; 512]).unwrap();
    assert!(lifetimes[1].2.list().unwrap().contains("\"session\":3"));
    assert!(lifetimes[0].2.list().is_err() && lifetimes[0].3.list().is_err(), "{}", server.said());
    server.says("factory 3 has not gone on");
    server.says("factory 4 has not gone on");
    for device in ["attack", "before"] {
        drop(bench.create(&[&format!("device=partlabel:{device}")]));
    }
    wait_until("what ended to be let go of", || manager.names().len() == 4);
    assert_eq!(server.stop(), 0);
}

#[test]
fn sessions_of_an_operator_s_factory_that_is_another_now_end() {
    let bench = Bench::new();
    let manager = Manager::new(&bench, 100);
    let (disk, svr, blue) = (bench.disk(), bench.socket("svr"), bench.socket("blue"));
    let device = "--factory blue --device partlabel:after";
    let with = |more: &'static str| -> Vec<&str> {
        let fixed = device.split_whitespace().chain(more.split_whitespace());
        [disk.as_str(), &svr, &blue].into_iter().chain(fixed).collect()
    };
    let before = with("--ds-max 4");
    let mut server = manager.start(&bench, &before);
    let at_blue = || Factory::connect_retry(bench.path("blue"), WAIT).unwrap();
    let mut session = session(&at_blue(), &["device=partlabel:after"]);
    server = manager.restart(&bench, server, &before);
    session.read(0, &mut [0; 512]).unwrap();
    // A factory of that number is there, and it is another.
    let other = with("--ds-max 3");
    server = manager.restart(&bench, server, &other);
    socket::wait_closed(&session.front.socket(), WAIT).unwrap();
    server.says("0 of 1 sessions go on");
    drop(at_blue().create(&["device=partlabel:after"], None).unwrap());
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_caller_whose_server_is_killed_is_told_to_ask_again_or_answered_by_the_next() {
    let bench = Bench::new();
    let manager = Manager::new(&bench, 100);
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let words = [disk.as_str(), svr.as_str()];
    let mut server = manager.start(&bench, &words);
    let (factory, _lifetime) = made(&bench.factory(), &["device=partlabel:attack"]);
    // The manager does not come to keep what is minted, so the caller waits.
    let store = std::sync::Arc::clone(&manager.store);
    let busy = store.lock().unwrap();
    factory.send_raw(b"create\x000\0device=partlabel:attack", &[]).unwrap();
    server.says("session 1 of factory 1");
    server.signal(Signal::KILL);
    server.wait();
    drop(busy);
    // This one nobody has read.
    factory.send_raw(b"create\x000\0device=partlabel:attack", &[]).unwrap();
    server = manager.start(&bench, &words);
    let first = factory.receive().unwrap();
    assert_eq!((first.code, first.fds.len()), (-11, 0), "{}", first.message);
    let second = factory.receive().unwrap();
    assert_eq!((second.code, second.fds.len()), (0, 1), "{}", second.message);
    let mut session = said_all(second.fds.into_iter().next().unwrap());
    session.read(0, &mut [0; 512]).unwrap();
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_factory_that_cannot_be_kept_is_refused() {
    let bench = Bench::new();
    // The server itself, one factory, and what tells that there was room.
    let manager = Manager::new(&bench, 5);
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let mut server = manager.start(&bench, &[&disk, &svr]);
    let (_factory, lifetime) = made(&bench.factory(), &["device=partlabel:attack"]);
    let refused = bench.factory().request("factory", &["device=partlabel:before"], None).unwrap();
    assert!(
        refused.code == -12 && refused.message.contains("FileDescriptorStoreMax="),
        "{}",
        refused.message
    );
    drop(lifetime);
    wait_until("the first to be let go of", || manager.names().len() == 1);
    drop(made(&bench.factory(), &["device=partlabel:before"]));
    assert_eq!(server.stop(), 0);
}

#[test]
fn crashes_in_turns_of_one_tenant_s_sessions_are_counted_by_the_factory_at_the_top() {
    let bench = Bench::new();
    let manager = Manager::new(&bench, 100);
    let (disk, svr) = (bench.disk(), bench.socket("svr"));
    let words = [disk.as_str(), svr.as_str()];
    let mut server = manager.start(&bench, &words);
    let mut other = client(&bench, &["device=partlabel:after"]);
    let (top, _lifetime) =
        made(&bench.factory(), &["device=partlabel:attack", "device=partlabel:before", "factories=1"]);
    let (below, _its_lifetime) = made(&top, &["device=partlabel:before"]);
    let sessions =
        [session(&top, &["device=partlabel:attack"]), session(&below, &["device=partlabel:before"])];
    let sockets = sessions.each_ref().map(|client| client.front.socket().try_clone_to_owned().unwrap());
    for mut busy in sessions {
        // It is asked for as long as it answers; nobody waits for the end of this.
        std::thread::spawn(move || while busy.write(0, &[1; 1 << 20]).is_ok() {});
    }
    let mut crashes = 0;
    while !server.said().contains("servers crashed 3 times within a minute in its turn") {
        assert!(crashes < 100, "{}", server.said());
        other.read(0, &mut [0; 512]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        server.signal(Signal::ABORT);
        assert_ne!(server.wait(), 0);
        crashes += 1;
        server = manager.start(&bench, &words);
        server.says("sessions go on");
    }
    println!("{crashes} crashes");
    // Both of them, whosever turns it were.
    for socket in &sockets {
        socket::wait_closed(socket, WAIT).unwrap();
    }
    other.read(0, &mut [0; 512]).unwrap_or_else(|why| panic!("{why}: {}", server.said()));
    assert!(top.list().is_ok(), "it may give anew");
    assert_eq!(server.stop(), 0);
}
