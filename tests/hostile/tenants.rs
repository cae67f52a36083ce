//! Tenants that want more than their share, or to keep what was taken back.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvme_client::{Client, Factory, memfd};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{Shutdown, shutdown};

use crate::delegation::{READ, Tenant, delegate, errno, free, is_over, office, tenant};
use crate::raw;
use crate::rig::{Rig, Setup, WAIT, attack, attack_on};

const EACCES: i32 = -13;
const EINVAL: i32 = -22;
const ENOMEM: i32 = -12;

/// A server with more arguments; `DIR` in them is a folder with another disk, `second`.
fn with(arguments: &[&str], work: impl FnOnce(&Rig)) {
    let dir = crate::disk::memory_dir();
    std::fs::write(dir.path().join("second"), crate::disk::image(512)).unwrap();
    let arguments = arguments.iter().map(|word| word.replace("DIR", &dir.path().display().to_string()));
    let setup = Setup { arguments: arguments.collect(), ..Setup::default() };
    attack_on(setup, |rig| {
        std::os::unix::fs::symlink(dir.path(), rig.path("more")).unwrap();
        work(rig);
    });
}

/// Does something over and over while the other goes on.
fn meanwhile(flood: impl Fn() + Sync, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                flood();
            }
        });
        work();
        stop.store(true, Ordering::Relaxed);
    });
}

/// Requests that are granted and requests that are refused, as fast as they go: the other tenant is served, its lines are in the log,
/// and the log stays short.
#[test]
fn a_tenant_s_flood_hides_nobody_s_lines_and_fills_no_log() {
    attack(|rig| {
        let words = |name| [READ[0], READ[1], name];
        let may_delegate = [READ[0], READ[1], "name=loud", "factories=1"];
        let (loud, quiet) = (tenant(rig, &may_delegate), tenant(rig, &words("name=quiet")));
        let begun = Instant::now();
        let flood = || {
            // A factory that it makes has no more lines of its own.
            if let Ok(below) = delegate(&loud.factory, &words("name=loud")) {
                assert_eq!(below.factory.ask(&["device=partlabel:after"], None).unwrap().code, EACCES);
            }
            drop(loud.factory.create(&READ, None).unwrap());
            assert_eq!(loud.factory.ask(&["device=partlabel:after"], None).unwrap().code, EACCES);
            let _ = delegate(&loud.factory, &["device=partlabel:after"]).err().unwrap();
        };
        meanwhile(flood, || {
            for round in 0..20 {
                drop(quiet.factory.create(&READ, None).unwrap());
                if round % 10 == 5 {
                    assert_eq!(quiet.factory.ask(&["device=partlabel:before"], None).unwrap().code, EACCES);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let seconds = begun.elapsed().as_secs() as usize + 2;
        rig.says("\"quiet\" (");
        let said = rig.said();
        let about = |name: &str| said.iter().filter(|line| line.contains(name)).count();
        let refused =
            said.iter().filter(|line| line.contains("\"quiet\"") && line.contains("refused")).count();
        assert_eq!(refused, 2, "{said:#?}");
        assert!(about("\"loud\"") <= seconds * 24 + 4, "{} lines in {seconds} s", about("\"loud\""));
        assert!(about("more lines were not shown") <= seconds * 2, "{said:#?}");
        drop((loud, quiet));
        free(rig);
    });
}

/// Its name is text between quotes, and stays there.
#[test]
fn what_a_tenant_calls_itself_does_not_pass_for_the_server_s_words() {
    attack(|rig| {
        let tenant = tenant(rig, &[READ[0], READ[1], "name=x\": ended; factory 9 \"y\\"]);
        assert_eq!(tenant.factory.ask(&["device=partlabel:after"], None).unwrap().code, EACCES);
        drop(tenant.factory.create(&READ, None).unwrap());
        rig.says("factory 1 \"x\\\": ended; factory 9 \\\"y\\\\\" (");
        assert!(!rig.said().iter().any(|line| line.contains("\"x\": ended")), "{:#?}", rig.said());
        drop(tenant);
        free(rig);
    });
}

/// Callers that say nothing, and more of them than there are places.
#[test]
fn callers_of_one_factory_hold_up_neither_another_nor_each_other_for_long() {
    let arguments = [
        "--factory",
        "a",
        "--device",
        "partlabel:attack",
        "--readonly",
        "--cap",
        "a=unix:DIR/a",
        "--factory",
        "b",
        "--device",
        "partlabel:attack",
        "--readonly",
        "--cap",
        "b=unix:DIR/b",
    ];
    with(&arguments, |rig| {
        let connect = |name: &str| Factory::connect_retry(rig.path("more").join(name), WAIT).unwrap();
        let silent: Vec<Factory> = (0..12).map(|_| connect("a")).collect();
        let begun = Instant::now();
        drop(connect("b").create(&READ, None).unwrap());
        drop(rig.create(&READ));
        assert!(begun.elapsed() < Duration::from_secs(5));
        // Who waits gets the place of one that is silent.
        drop(connect("a").create(&READ, None).unwrap());
        drop(silent);
        let callers: Vec<Factory> = (0..8).map(|_| connect("a")).collect();
        for _ in 0..3 {
            for caller in &callers {
                drop(caller.create(&READ, None).unwrap());
            }
        }
        free(rig);
    });
}

#[test]
fn sessions_are_not_all_one_tenant_s() {
    with(&["--sessions-max", "17"], |rig| {
        let (greedy, other) = (tenant(rig, &READ), tenant(rig, &READ));
        let below = delegate(&tenant(rig, &[READ[0], READ[1], "factories=1"]).factory, &READ);
        let taken: Vec<OwnedFd> =
            std::iter::from_fn(|| greedy.factory.create(&READ, None).ok()).take(17).collect();
        assert!((6..14).contains(&taken.len()), "{}", taken.len());
        for _ in 0..2 {
            let kept = [other.factory.create(&READ, None).unwrap(), rig.create(&READ)];
            drop(kept);
        }
        drop((greedy, other, below, taken));
        free(rig);
    });
}

/// Each word of a factory twice, and each that it does not know.
#[test]
fn a_word_of_a_factory_that_is_repeated_empty_or_out_of_range_is_refused_by_name() {
    attack(|rig| {
        let factory = rig.factory();
        let good = [
            "device=partlabel:attack",
            "read-only",
            "ds-max=2",
            "sessions=2",
            "factories=1",
            "mem-max=1G",
            "iops=9",
            "bytes=1M",
            "iops-all=9",
            "bytes-all=1M",
            "name=x",
        ];
        for word in good {
            let words: Vec<&str> = good.iter().copied().chain([word]).collect();
            let reply = factory.request("factory", &words, None).unwrap();
            assert_eq!((reply.code, reply.fds.len()), (EINVAL, 0), "{word}: {reply:?}");
            assert!(reply.message.contains(word) && reply.message.contains("twice"), "{word}: {reply:?}");
            let Some((name, _)) = word.split_once('=') else { continue };
            for wrong in [
                format!("{name}="),
                name.to_string(),
                format!("{name} =1"),
                format!("{}=1", name.to_uppercase()),
            ] {
                let words: Vec<&str> =
                    good.iter().copied().filter(|w| *w != word).chain([wrong.as_str()]).collect();
                let reply = factory.request("factory", &words, None).unwrap();
                assert_eq!((reply.code, reply.fds.len()), (EINVAL, 0), "{wrong}: {reply:?}");
                assert!(reply.message.contains(&wrong), "{wrong}: {reply:?}");
            }
        }
        for word in [
            "sessions=0",
            "sessions=65536",
            "factories=65",
            "factories=-1",
            "mem-max=0",
            "iops=0",
            "bytes-all=1X",
            "depth=3",
        ] {
            let reply = factory.request("factory", &[READ[0], word], None).unwrap();
            assert_eq!((reply.code, reply.fds.len()), (EINVAL, 0), "{word}: {reply:?}");
        }
        drop(factory);
        free(rig);
    });
}

/// The factory is with a process that never lets go of it. The second descriptor takes all of it back.
#[test]
fn what_another_process_holds_on_to_is_taken_back_by_the_second_descriptor() {
    attack(|rig| {
        let Tenant { factory, copy, lifetime } =
            tenant(rig, &["device=partlabel:attack", "read-only", "factories=1"]);
        let below = delegate(&factory, &READ).unwrap();
        let session = below.factory.create(&READ, None).unwrap();
        let held = [copy.as_fd(), below.copy.as_fd(), below.lifetime.as_fd(), session.as_fd()];
        let mut command = std::process::Command::new("sleep");
        command.arg("60");
        held.iter().for_each(|fd| fcntl_setfd(fd, FdFlags::empty()).unwrap());
        let mut holder = command.spawn().unwrap();
        held.iter().for_each(|fd| fcntl_setfd(fd, FdFlags::CLOEXEC).unwrap());
        drop((factory, copy, below, session));
        rig.goes_on();
        assert_eq!(rig.refused(&["device=partlabel:attack"]), -16, "its session lives");
        drop(lifetime);
        free(rig);
        holder.kill().unwrap();
        holder.wait().unwrap();
    });
}

/// A session of it holds memory, a ring's descriptors, a connection and requests in flight; none of that outlives it.
#[test]
fn a_session_that_holds_memory_and_descriptors_ends_with_its_factory() {
    attack(|rig| {
        let before = rig.descriptors();
        let tenant = tenant(rig, &["device=partlabel:attack"]);
        let session = tenant.factory.create(&["device=partlabel:attack"], None).unwrap();
        let copy = session.try_clone().unwrap();
        let mut client = Client::from_fd(session, &raw::options()).unwrap();
        client.write(0, &[7; 4096]).unwrap();
        let memory = memfd(1 << 20, false).unwrap();
        let words =
            nvme_client::message::RegionWords { guest: 1 << 40, size: 1 << 20, user: 1 << 41, offset: 0 };
        let _ = client.front.add_mem_reg(words, memory.as_fd());
        let Tenant { factory, copy: kept, lifetime } = tenant;
        drop(lifetime);
        assert!(is_over(&copy) && is_over(&kept));
        // All that they hold is theirs alone: the device is free, and the server has none of it open.
        free(rig);
        rig.descriptors_at_most(before);
        assert!(client.write(0, &[8; 4096]).is_err());
        drop((client, factory, copy, kept, memory));
    });
}

/// Its holder shuts its socket down, or goes away without it; somebody connects and says nothing, or half of something.
#[test]
fn half_open_forms_of_a_listening_factory_leave_nothing_behind() {
    attack(|rig| {
        let before = rig.descriptors();
        for round in 0..6 {
            let listener = office(rig, "office");
            let reply = rig.factory().request("factory", &READ, Some(listener.as_fd())).unwrap();
            let [lifetime] = <[OwnedFd; 1]>::try_from(reply.fds).unwrap();
            let silent = Factory::connect(rig.path("office"), WAIT).unwrap();
            let session = silent.create(&READ, None).unwrap();
            match round {
                // Nobody comes any more; what was minted goes on until it is taken back.
                0 => {
                    shutdown(&listener, Shutdown::Both).unwrap();
                    rig.says("its socket was shut down");
                    assert!(Factory::connect(rig.path("office"), WAIT).is_err());
                    Client::from_fd(session, &raw::options()).unwrap().read(0, &mut [0; 512]).unwrap();
                    drop(lifetime);
                }
                // The server has the only copy of the socket.
                1 => drop((listener, session, lifetime)),
                // The other end of its lifetime can no longer hear.
                2 => {
                    shutdown(&lifetime, Shutdown::Both).unwrap();
                    assert!(is_over(&session));
                }
                3 => {
                    shutdown(&lifetime, Shutdown::Read).unwrap();
                    drop((silent, lifetime, session));
                }
                // A socket of its own, given to it again.
                4 => {
                    let again = silent.request("factory", &READ, Some(listener.as_fd())).unwrap();
                    assert_eq!((again.code, again.fds.len()), (ENOMEM, 0), "it may make none: {again:?}");
                    drop((lifetime, session));
                }
                // In the middle of a request.
                _ => {
                    let _ = silent
                        .send_raw(b"create\x000\0device=partlabel:attack\0read-only", &[lifetime.as_fd()]);
                    drop((lifetime, silent));
                    assert!(is_over(&session), "what was sent kept it alive");
                }
            }
            free(rig);
        }
        rig.descriptors_at_most(before);
    });
}

#[test]
fn floods_of_descriptors_at_a_factory_are_closed() {
    attack(|rig| {
        let before = rig.descriptors();
        let loud = tenant(rig, &READ);
        let quiet = tenant(rig, &READ);
        let files: Vec<OwnedFd> = (0..60).map(|_| memfd(4096, false).unwrap()).collect();
        let many: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        for round in 0..40 {
            for datagram in [&b"list"[..], b"create\x000\0device=partlabel:attack\0read-only", b"x"] {
                if loud.factory.send_raw(datagram, &many[..(round % 60) + 1]).is_err() {
                    continue;
                }
                assert_eq!(loud.factory.receive().unwrap().code, EINVAL);
            }
        }
        drop(quiet.factory.create(&READ, None).unwrap());
        drop((loud, quiet));
        rig.descriptors_at_most(before);
        free(rig);
    });
}

/// One thread mints and delegates as fast as it can while another takes the factory back, or a table is read again.
#[test]
fn a_close_races_with_create_and_with_a_scan() {
    attack(|rig| {
        for round in 0..30 {
            let Tenant { factory, copy, lifetime } =
                tenant(rig, &["device=partlabel:attack", "device=partlabel:after", "factories=9"]);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut held = Vec::new();
                    // Until it is over: each is granted or refused, and none comes after the end.
                    while let Ok(reply) = factory.ask(&["device=partlabel:after", "read-only"], None) {
                        held.extend(reply.fds);
                        match factory.request("factory", &["device=partlabel:after", "read-only"], None) {
                            Ok(reply) => held.extend(reply.fds),
                            Err(_) => break,
                        }
                    }
                    assert!(held.iter().all(is_over), "something outlived its factory");
                });
                // Its end makes the server read the table again.
                if round % 3 == 0 {
                    let _ = rig.factory().ask(&["device=1234:n1"], None);
                }
                std::thread::sleep(Duration::from_micros(300 * round));
                drop(lifetime);
            });
            assert!(is_over(&copy));
            drop(copy);
        }
        free(rig);
        assert_eq!(rig.factory().list().unwrap().matches("\"ended\":true").count(), 0);
    });
}

/// The image grows: who holds the whole disk has more, who holds a partition has what it had.
#[test]
fn a_disk_that_grows_gives_a_partition_s_factory_nothing() {
    with(&["--cap", "vbus=soft:DIR/second,serial=5678,engine=threads", "-v"], |rig| {
        let path = rig.path("more").join("second");
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let (whole, part) = (tenant(rig, &["device=5678:n1"]), tenant(rig, &["device=5678:n1:2"]));
        let size = |t: &Tenant, device: &str| {
            let session = t.factory.create(&[device, "read-only"], None).unwrap();
            Client::from_fd(session, &raw::options()).unwrap().config.capacity
        };
        let before = [size(&whole, "device=5678:n1"), size(&part, "device=5678:n1:2")];
        file.set_len(2 * crate::disk::SIZE).unwrap();
        let deadline = Instant::now() + WAIT;
        while size(&whole, "device=5678:n1") == before[0] {
            assert!(Instant::now() < deadline, "it does not grow");
        }
        assert_eq!(size(&whole, "device=5678:n1"), 2 * before[0]);
        assert_eq!(size(&part, "device=5678:n1:2"), before[1]);
        assert_eq!(part.factory.ask(&["device=5678:n1", "read-only"], None).unwrap().code, EACCES);
        // Nor is there more in a part of it.
        let part = tenant(rig, &["device=5678:n1:2", "factories=1"]);
        assert_eq!(errno(delegate(&part.factory, &["device=5678:n1"])), EACCES);
    });
}
