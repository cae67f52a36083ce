//! Attenuated factories over the wire: what a tenant can have through one, and that all of it can be taken back.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nvme_client::{Client, Factory, Reply, socket};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use crate::raw;
use crate::rig::{Rig, WAIT, attack};

const EACCES: i32 = -13;
const ENOMEM: i32 = -12;
const ENODEV: i32 = -19;
const EINVAL: i32 = -22;

pub(crate) const READ: [&str; 2] = ["device=partlabel:attack", "read-only"];

/// A factory in the connected form: its connection and its lifetime.
pub(crate) struct Tenant {
    pub(crate) factory: Factory,
    pub(crate) copy: OwnedFd,
    pub(crate) lifetime: OwnedFd,
}

pub(crate) fn delegate(at: &Factory, words: &[&str]) -> Result<Tenant, Reply> {
    let reply = at.request("factory", words, None).unwrap();
    if reply.code != 0 {
        assert!(reply.fds.is_empty() && !reply.message.is_empty(), "{words:?}: {reply:?}");
        return Err(reply);
    }
    let [factory, lifetime] = <[OwnedFd; 2]>::try_from(reply.fds).unwrap();
    let copy = factory.try_clone().unwrap();
    Ok(Tenant { factory: Factory::from_fd(factory, WAIT), copy, lifetime })
}

pub(crate) fn tenant(rig: &Rig, words: &[&str]) -> Tenant {
    delegate(&rig.factory(), words).unwrap()
}

pub(crate) fn errno(reply: Result<Tenant, Reply>) -> i32 {
    reply.err().unwrap().code
}

/// Whether the other side of that socket is gone.
pub(crate) fn is_over(socket: &OwnedFd) -> bool {
    let mut bytes = [0; 4096];
    let end = socket::receive(socket.as_fd(), &mut bytes, Instant::now() + WAIT);
    end.map_or(true, |(n, _)| n == 0)
}

/// Nobody has anything of the device any more: whoever wants to write gets it.
pub(crate) fn free(rig: &Rig) {
    drop(rig.create(&["device=partlabel:attack"]));
}

/// A listening socket of packets, as the holder of a factory makes one.
pub(crate) fn office(rig: &Rig, name: &str) -> OwnedFd {
    let path = rig.path(name);
    let _ = std::fs::remove_file(&path);
    let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    bind(&fd, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&fd, 16).unwrap();
    fd
}

#[test]
fn a_tenant_mints_what_its_factory_holds_and_the_disk_is_served() {
    attack(|rig| {
        let tenant = tenant(rig, &["device=partlabel:attack", "read-only", "ds-max=4", "name=tenant A"]);
        let session =
            tenant.factory.create(&["device=partlabel:attack", "read-only", "ds-max=4"], None).unwrap();
        let mut client = Client::from_fd(session, &raw::options()).unwrap();
        let mut block = [0; 512];
        client.read(0, &mut block).unwrap();
        assert!(client.write(0, &block).is_err(), "it is read-only");
        rig.says("tenant A");
        drop((client, tenant));
        free(rig);
    });
}

/// Each word that asks for more than there is, at both kinds of `create`; and what is not held has one answer.
#[test]
fn whoever_asks_for_more_is_refused_and_never_given_less() {
    attack(|rig| {
        let words = [
            "device=partlabel:attack",
            "read-only",
            "ds-max=3",
            "sessions=2",
            "factories=1",
            "mem-max=1G",
            "iops=100",
            "bytes=1M",
            "iops-all=200",
            "bytes-all=2M",
        ];
        let tenant = tenant(rig, &words);
        for more in [
            &["device=partlabel:attack"][..],
            &["device=partlabel:attack", "read-only", "ds-max=4"],
            &["device=partlabel:attack", "read-only", "iops=101"],
            &["device=partlabel:attack", "read-only", "bytes=1048577"],
            &["device=partlabel:attack", "read-only", "ds-max=256", "iops=1"],
        ] {
            let reply = tenant.factory.ask(more, None).unwrap();
            assert_eq!(reply.code, EACCES, "{more:?}: {reply:?}");
            assert_eq!(errno(delegate(&tenant.factory, more)), EACCES, "{more:?}");
        }
        for word in ["sessions=3", "factories=2", "mem-max=2G", "iops-all=201", "bytes-all=3M"] {
            let reply =
                delegate(&tenant.factory, &["device=partlabel:attack", "read-only", word]).err().unwrap();
            assert_eq!(reply.code, EACCES, "{word}");
            assert!(reply.message.contains(word.split('=').next().unwrap()), "{reply:?}");
        }
        let answers: Vec<Reply> =
            ["device=partlabel:after", "device=1234:n1", "device=1234:n1:4", "device=nobody", "device=9:n9"]
                .iter()
                .map(|device| tenant.factory.ask(&[device, "read-only"], None).unwrap())
                .collect();
        for answer in &answers {
            assert_eq!((answer.code, &answer.message), (EACCES, &answers[0].message));
        }
        // Words that are wrong are wrong first.
        for word in [
            "sessions=2",
            "read-only",
            "device=partlabel:attack",
            "ds=nothing-of-the-sort",
            "iops=0",
            "name=",
        ] {
            let reply = tenant.factory.ask(&[READ[0], READ[1], word], None).unwrap();
            assert_eq!(reply.code, EINVAL, "{word}: {reply:?}");
        }
        assert_eq!(errno(delegate(&rig.factory(), &["device=partlabel:nobody"])), ENODEV);
        assert_eq!(errno(delegate(&rig.factory(), &["read-only"])), EINVAL);
        assert_eq!(
            errno(delegate(&rig.factory(), &["device=partlabel:attack", "device=1234:n1:2", "x"])),
            EINVAL
        );
        // What there is of it is had.
        let sessions = [(); 2].map(|()| tenant.factory.create(&READ, None).unwrap());
        assert_eq!(tenant.factory.ask(&READ, None).unwrap().code, ENOMEM);
        drop((sessions, tenant));
        free(rig);
    });
}

/// The tenant passed its copies on, to somebody who never closes them: the lifetime takes all of it back.
#[test]
fn the_lifetime_takes_back_what_copies_keep_alive() {
    attack(|rig| {
        let tenant = tenant(rig, &["device=partlabel:attack", "read-only", "factories=2"]);
        let below = delegate(&tenant.factory, &["device=partlabel:attack", "read-only"]).unwrap();
        let sessions = [&tenant, &below].map(|t| t.factory.create(&READ, None).unwrap());
        let undisturbed = rig.create(&READ);
        let Tenant { factory, copy, lifetime } = tenant;
        let kept = lifetime.try_clone().unwrap();
        drop(lifetime);
        assert_eq!(factory.create(&READ, None).map(drop).ok(), Some(()), "a copy is still there");
        drop(kept);
        for socket in [&copy, &below.copy, &below.lifetime, &sessions[0], &sessions[1]] {
            assert!(is_over(socket));
        }
        assert!(factory.create(&READ, None).is_err());
        let mut other = Client::from_fd(undisturbed, &raw::options()).unwrap();
        other.read(0, &mut [0; 512]).unwrap();
        drop(other);
        free(rig);
        drop((factory, copy, sessions));
    });
}

#[test]
fn a_factory_ends_with_the_last_copy_of_its_connection() {
    attack(|rig| {
        let Tenant { factory, copy, lifetime } = tenant(rig, &READ);
        let session = factory.create(&READ, None).unwrap();
        drop(factory);
        rig.goes_on();
        drop(copy);
        assert!(is_over(&session) && is_over(&lifetime));
        free(rig);
    });
}

#[test]
fn a_factory_with_a_socket_of_its_holder_s_is_shared_and_taken_back() {
    attack(|rig| {
        let listener = office(rig, "office");
        let reply = rig.factory().request("factory", &READ, Some(listener.as_fd())).unwrap();
        assert_eq!(reply.code, 0, "{reply:?}");
        let [lifetime] = <[OwnedFd; 1]>::try_from(reply.fds).unwrap();
        let callers: Vec<Factory> =
            (0..8).map(|_| Factory::connect(rig.path("office"), WAIT).unwrap()).collect();
        let sessions: Vec<OwnedFd> = callers.iter().map(|c| c.create(&READ, None).unwrap()).collect();
        // One more is told at once, and does not lie in the backlog with whatever it has sent.
        let ninth = Factory::connect(rig.path("office"), WAIT).unwrap();
        let _ = ninth.send_raw(b"create\x000\0device=partlabel:attack\0read-only", &[lifetime.as_fd()]);
        // (Unless the first was silent for so long that it had to yield.)
        assert!(ninth.receive().map_or(true, |reply| reply.code == EINVAL));
        drop(lifetime);
        assert!(sessions.iter().all(is_over));
        free(rig);
        drop((callers, listener));
        // A stream socket is none for a factory, nor one of packets for a session.
        let streams = std::os::unix::net::UnixListener::bind(rig.path("streams")).unwrap();
        let reply = rig.factory().request("factory", &READ, Some(streams.as_fd())).unwrap();
        assert_eq!((reply.code, reply.fds.len()), (EINVAL, 0));
        let packets = office(rig, "packets");
        let reply = rig.factory().ask(&READ, Some(packets.as_fd())).unwrap();
        assert_eq!((reply.code, reply.fds.len()), (EINVAL, 0));
    });
}

/// Whoever holds a factory sends its ends to the server, through every door there is: none of that keeps it alive.
#[test]
fn a_factory_that_is_passed_back_to_the_server_has_no_life_beyond_its_holder() {
    attack(|rig| {
        let Tenant { factory, copy, lifetime } =
            tenant(rig, &["device=partlabel:attack", "read-only", "factories=3"]);
        for fd in [copy.as_fd(), lifetime.as_fd()] {
            // As the listening socket of a session, or of a factory.
            assert_eq!(factory.ask(&READ, Some(fd)).unwrap().code, EINVAL);
            assert_eq!(factory.request("factory", &READ, Some(fd)).unwrap().code, EINVAL);
        }
        // To a session, as the channel for the server's requests, a kick, a call, or memory.
        let client = Client::from_fd(factory.create(&READ, None).unwrap(), &raw::options()).unwrap();
        for kind in
            [nvme_client::message::request::SET_BACKEND_REQ_FD, nvme_client::message::request::SET_VRING_KICK]
        {
            for fd in [copy.as_fd(), lifetime.as_fd()] {
                let _ = client.front.command(kind, &[0; 8], &[fd]);
            }
        }
        // Two factories, each sent to the other one and left unread behind a request.
        let below = delegate(&factory, &["device=partlabel:attack", "read-only"]).unwrap();
        let _ = below.factory.send_raw(b"list", &[copy.as_fd()]);
        let _ = factory.send_raw(b"list", &[below.copy.as_fd()]);
        drop((client, below, factory, copy, lifetime));
        free(rig);
    });
}

#[test]
fn what_is_sent_to_a_factory_s_lifetime_ends_it() {
    attack(|rig| {
        let Tenant { factory, copy, lifetime } = tenant(rig, &READ);
        socket::send(lifetime.as_fd(), b"x", &[lifetime.as_fd()], Instant::now() + WAIT).unwrap();
        assert!(is_over(&copy));
        drop((factory, lifetime));
        free(rig);
    });
}

#[test]
fn factories_stand_eight_deep_and_sixty_four_are_all_there_are() {
    attack(|rig| {
        let mut chain = vec![tenant(rig, &["device=partlabel:attack", "read-only", "factories=20"])];
        for depth in 2..=8 {
            let words = ["device=partlabel:attack", "read-only", &format!("factories={}", 20 - depth)];
            chain.push(delegate(&chain[depth - 2].factory, &words).unwrap());
        }
        assert_eq!(errno(delegate(&chain[7].factory, &READ)), ENOMEM, "nine deep");
        let session = chain[7].factory.create(&READ, None).unwrap();
        let others: Vec<Tenant> = (8..64).map(|_| tenant(rig, &READ)).collect();
        assert_eq!(errno(delegate(&rig.factory(), &READ)), ENOMEM, "the 65th");
        // Parents after children; and from the first one all of the chain goes.
        drop(chain.remove(0));
        assert!(is_over(&session) && chain.iter().all(|t| is_over(&t.copy)));
        drop((chain, others));
        free(rig);
    });
}

#[test]
fn list_says_what_a_factory_holds_and_what_was_minted_through_it_and_nothing_else() {
    attack(|rig| {
        let tenant = tenant(rig, &["device=partlabel:attack", "read-only", "sessions=5", "name=tenant B"]);
        let _mine = tenant.factory.create(&[READ[0], READ[1], "name=web"], None).unwrap();
        let _not_mine = rig.create(&["device=partlabel:after", "read-only"]);
        let listing = tenant.factory.list().unwrap();
        for there in [
            "\"name\":\"tenant B\"",
            "\"name\":\"web\"",
            "\"sessions_max\":5",
            "\"present\":true",
            "\"read_only\":true",
        ] {
            assert!(listing.contains(there), "{there} in {listing}");
        }
        assert_eq!(listing.matches("\"session\":").count(), 1, "{listing}");
        let all = rig.factory().list().unwrap();
        assert!(all.matches("\"session\":").count() >= 3, "{all}");
        // With a descriptor, or with words, it is none.
        for (datagram, fds) in
            [(&b"list"[..], &[tenant.lifetime.as_fd()][..]), (b"list\0x", &[]), (b"list\0", &[])]
        {
            tenant.factory.send_raw(datagram, fds).unwrap();
            let reply = tenant.factory.receive().unwrap();
            assert_eq!((reply.code, reply.fds.len()), (EINVAL, 0), "{datagram:?}");
        }
    });
}

/// One tenant floods its factory with requests that are refused: another one is served meanwhile.
#[test]
fn a_flood_at_one_factory_does_not_starve_another() {
    attack(|rig| {
        let (loud, quiet) = (tenant(rig, &READ), tenant(rig, &READ));
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(loud.factory.ask(&["device=partlabel:after"], None).unwrap().code, EACCES);
                }
            });
            let begun = Instant::now();
            for _ in 0..50 {
                drop(quiet.factory.create(&READ, None).unwrap());
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        // What it is told is bounded: a line for each would fill the log.
        let refused = rig.said().iter().filter(|line| line.contains("create refused")).count();
        assert!(refused < 200, "{refused} lines");
        drop((loud, quiet));
        free(rig);
    });
}
