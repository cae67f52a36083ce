//! More of everything than anybody needs.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvme_client::message::{flag, header, request};
use nvme_client::{Client, Error, Factory, FrontEnd, socket};

use crate::raw::*;
use crate::rig::{Rig, Setup, WAIT, attack, attack_on};

/// What anybody may expect of the factory while others flood it.
fn created_within(rig: &Rig, most: Duration) {
    let start = Instant::now();
    let mut raw = Raw::new(rig);
    raw.serves();
    assert!(start.elapsed() < most, "it took {:?}", start.elapsed());
}

/// Connects without waiting: `None` when the backlog is full.
fn connect(rig: &Rig) -> Option<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(rig.path("svr")).unwrap()).ok().map(|()| socket)
}

#[test]
fn a_flood_of_connections_delays_others_and_no_more() {
    attack(|rig| {
        created_within(rig, WAIT);
        let mut held = Vec::new();
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end && held.len() < 100 {
            match connect(rig) {
                Some(socket) => held.push(socket),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        assert!(held.len() > 64, "no flood: {}", held.len());
        rig.goes_on();
        // Those who are silent lose their places after 10 s.
        created_within(rig, Duration::from_secs(18));
        drop(held);
        created_within(rig, WAIT);
    });
}

#[test]
fn callers_that_ask_and_read_no_answers_are_dropped() {
    attack(|rig| {
        let mut held = Vec::new();
        for _ in 0..20 {
            let socket = connect(rig).unwrap();
            // As much as the socket takes.
            while rustix::net::send(&socket, b"create\x000\0device=x", rustix::net::SendFlags::NOSIGNAL)
                .is_ok()
            {}
            held.push(socket);
        }
        rig.goes_on();
        created_within(rig, Duration::from_secs(10));
    });
}

#[test]
fn a_flood_of_half_open_sessions_leaves_room_for_static_clients() {
    let arguments = ["--client", "cl1", "--device", "partlabel:before"].map(String::from).to_vec();
    let socket = crate::disk::memory_dir();
    let path = socket.path().join("cl1");
    let cap = ["--cap".into(), format!("cl1=unix:{}", path.display())];
    let arguments = arguments.into_iter().chain(cap).collect();
    attack_on(Setup { arguments, ..Setup::default() }, |rig| {
        let factory = rig.factory();
        let mut held = Vec::new();
        let refused = loop {
            match factory.create(&["device=partlabel:after", "read-only"], None) {
                Ok(session) => held.push(session),
                Err(Error::Create { code, message }) => break (code, message),
                Err(other) => panic!("{other}"),
            }
            assert!(held.len() < 1000, "sessions without end");
        };
        assert_eq!(refused.0, -12, "{}", refused.1);
        // Each in another stage: silent, or in the middle of a word.
        for (i, session) in held.iter().enumerate() {
            let half = &header(request::SET_FEATURES, flag::VERSION, 8)[..i % 12];
            socket::send(session.as_fd(), half, &[], socket::until(WAIT)).unwrap();
        }
        rig.goes_on();
        let mut client = Client::connect(&path, &options()).unwrap();
        client.read(0, &mut [0; 4096]).unwrap();
        drop(held);
        created_within(rig, WAIT);
    });
}

#[test]
fn a_static_client_s_socket_is_not_held_by_those_who_say_nothing() {
    attack(|rig| {
        let listener = UnixListener::bind(rig.path("listen")).unwrap();
        let _held = rig.mint(&["device=partlabel:attack"], Some(&listener));
        let silent = UnixStream::connect(rig.path("listen")).unwrap();
        let start = Instant::now();
        let mut client = Client::connect(rig.path("listen"), &options()).unwrap();
        client.read(0, &mut [0; 4096]).unwrap();
        assert!(start.elapsed() < Duration::from_secs(15));
        drop(silent);
    });
}

/// Fills every descriptor that a session has room for; says how many the server took.
fn fill(front: &FrontEnd) -> usize {
    let mut taken = 0;
    for ring in 0..=255u8 {
        for kind in [request::SET_VRING_KICK, request::SET_VRING_CALL, request::SET_VRING_ERR] {
            let event = socket::event().unwrap();
            match front.vring_fd(kind, ring, Some(event.as_fd())) {
                Ok(()) => taken += 1,
                Err(Error::Refused { .. }) => (),
                // Lost on the way: that connection is over.
                Err(_) => return taken,
            }
        }
    }
    taken
}

#[test]
fn a_flood_of_descriptors_leaves_some_to_others() {
    let arguments = ["--sessions-max", "16"].map(String::from).to_vec();
    attack_on(Setup { arguments, descriptors: Some(1024), ..Setup::default() }, |rig| {
        let mut held = Vec::new();
        let mut taken = 0;
        let factory = rig.factory();
        while held.len() < 8 {
            // The server takes no more sessions than it has descriptors for.
            let Ok(session) = factory.create(&["device=partlabel:after", "read-only"], None) else { break };
            let options = nvme_client::Options { queues: 0, ..options() };
            let client = Client::from_fd(session, &options).unwrap();
            taken += fill(&client.front);
            held.push(client);
        }
        assert!(taken > 100, "no flood: {taken}");
        if held.len() < 8 {
            held.pop();
        }
        assert!(rig.descriptors() < 900, "{} of 1024 descriptors are taken", rig.descriptors());
        rig.goes_on();
        created_within(rig, WAIT);
        drop(held);
        created_within(rig, WAIT);
    });
}

#[test]
fn descriptors_without_end_in_one_message_after_the_other_are_closed() {
    attack(|rig| {
        let raw = Raw::new(rig);
        let open = rig.descriptors();
        let event = socket::event().unwrap();
        let many = vec![event.as_fd(); 64];
        for _ in 0..200 {
            let _ = raw.client.front.command(request::SET_OWNER, &[], &many);
            raw.client.front.vring_fd(request::SET_VRING_CALL, 9, Some(event.as_fd())).unwrap();
        }
        rig.descriptors_at_most(open + 1);
    });
}

/// Sends these bytes over and over for a while without reading, as fast as the server takes them.
fn chatter(front: &FrontEnd, bytes: &[u8], meanwhile: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let fd = front.socket();
            while !stop.load(Ordering::Relaxed) {
                // A part of a message that did not go out would be the end of it.
                let _ = socket::send(fd, bytes, &[], Instant::now() + WAIT);
            }
        });
        // Also when what follows fails.
        let _stop = Stop(&stop);
        std::thread::sleep(Duration::from_millis(50));
        meanwhile();
    });
}

#[test]
fn a_client_that_chatters_holds_nobody_up() {
    attack(|rig| {
        let raw = Raw::new(rig);
        let message = |request: u32, payload: &[u8]| {
            [&header(request, flag::VERSION, payload.len() as u32)[..], payload].concat()
        };
        let write_back = message(request::SET_CONFIG, &[32u32, 1, 0].map(u32::to_ne_bytes).concat());
        let mut on = write_back.clone();
        on[8] += 1;
        on.push(1);
        let base = message(request::SET_VRING_BASE, &[5u32, 0].map(u32::to_ne_bytes).concat());
        for one in [on, base, message(request::SET_FEATURES, &raw.client.features.to_ne_bytes())] {
            // Many messages at once, so that the client is faster than the server.
            chatter(&raw.client.front, &one.repeat(2000), || {
                for _ in 0..5 {
                    let start = Instant::now();
                    let front =
                        FrontEnd::from_fd(rig.create(&["device=partlabel:before", "read-only"]), WAIT);
                    assert_ne!(front.features().unwrap(), 0);
                    assert!(start.elapsed() < Duration::from_secs(2), "it took {:?}", start.elapsed());
                }
                rig.goes_on();
            });
        }
        // What its worker is told is bounded, too.
        assert!(rig.anonymous() < 64 << 20, "{} bytes", rig.anonymous());
    });
}

#[test]
fn a_kick_is_never_unseen_for_longer_than_50_us_and_a_round_whatever_keeps_the_worker_awake() {
    let rig = Rig::start(Setup::default());
    {
        let rig = &rig;
        let mut raw = Raw::new(rig);
        raw.serves();
        let event = socket::event().unwrap();
        let front = &raw.client.front;
        // Each is a message for the worker, which has the next once it has taken this one.
        let flood = |kind: u32, payload: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]| {
            let message = [&header(kind, flag::VERSION, payload.len() as u32)[..], payload].concat();
            let end = Instant::now() + Duration::from_millis(400);
            let mut sent = 0;
            while Instant::now() < end {
                socket::send(front.socket(), &message, fds, Instant::now() + WAIT).unwrap();
                sent += 1;
            }
            assert!(sent > 100, "no flood: {sent}");
            rig.goes_on();
        };
        flood(request::SET_VRING_CALL, &0u64.to_ne_bytes(), &[event.as_fd()]);
        flood(request::SET_VRING_ERR, &0u64.to_ne_bytes(), &[event.as_fd()]);
        flood(request::SET_VRING_KICK, &0u64.to_ne_bytes(), &[event.as_fd()]);
        let mode = [[32u32, 1, 0].map(u32::to_ne_bytes).concat(), vec![1]].concat();
        flood(request::SET_CONFIG, &mode, &[]);
        front.set_config(32, &[0]).unwrap();
    }
    rig.check();
    // How long that ever was is said at the end, and looked at there.
    let said = rig.finish();
    assert!(said.iter().any(|line| line.contains("nor was unseen for longer than")), "{said:#?}");
}

#[test]
fn a_client_that_starts_and_stops_rings_without_end_holds_nobody_up() {
    attack(|rig| {
        let mut raw = Raw::new(rig);
        let end = Instant::now() + Duration::from_millis(400);
        while Instant::now() < end {
            raw.restart();
            raw.client.front.set_vring_enable(0, false).unwrap();
            raw.client.front.set_vring_enable(0, true).unwrap();
            let call = raw.client.queues[0].call.as_fd();
            raw.client.front.vring_fd(request::SET_VRING_CALL, 0, Some(call)).unwrap();
            raw.client.front.vring_fd(request::SET_VRING_CALL, 0, None).unwrap();
        }
        rig.goes_on();
        raw.client.front.reset_device().unwrap();
        raw.restart();
        raw.serves();
    });
}

#[test]
fn sessions_that_come_and_go_cost_nothing_in_the_end() {
    attack(|rig| {
        let mut before = (0, 0);
        for round in 0..120 {
            if round == 30 {
                before = (rig.descriptors(), rig.anonymous());
            }
            let mut raw = Raw::new(rig);
            raw.serves();
            raw.chain(nvme_client::kind::IN, 0, &[(raw.data, 32768, WRITE)]);
            raw.offer(&[0]);
        }
        drop(rig.create(&["device=partlabel:attack"]));
        drop(rig.create(&["device=partlabel:attack"]));
        let now = (rig.descriptors_at_most(before.0 + 4), rig.anonymous());
        assert!(now.0 <= before.0 + 4 && now.1 <= before.1 + (1 << 20), "{before:?} became {now:?}");
    });
}

#[test]
fn nothing_is_done_while_nobody_asks_for_anything() {
    crate::rig::attack_on(Setup { bystander: false, ..Setup::default() }, |rig| {
        let mut raw = Raw::new(rig);
        raw.serves();
        // Idle connections of every sort.
        let callers: Vec<Factory> = (0..70).map(|_| rig.factory()).collect();
        std::thread::sleep(Duration::from_millis(700));
        let before = rig.ticks();
        std::thread::sleep(Duration::from_millis(800));
        assert!(rig.ticks() <= before + 2, "{} ticks of idling", rig.ticks() - before);
        drop(callers);
        raw.serves();
    });
}

#[test]
fn a_client_that_shuts_its_own_listener_down_ends_its_session_and_costs_no_processor() {
    attack_on(Setup { bystander: false, ..Setup::default() }, |rig| {
        let listener = UnixListener::bind(rig.path("listen")).unwrap();
        let session = rig.mint(&["device=partlabel:attack"], Some(&listener));
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
        // The device is free again, so it ended.
        created_within(rig, WAIT);
        let before = rig.ticks();
        std::thread::sleep(Duration::from_millis(800));
        assert!(rig.ticks() <= before + 2, "{} ticks of idling", rig.ticks() - before);
        drop(session);
        created_within(rig, WAIT);
    });
}
