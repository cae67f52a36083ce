//! A client decides how many wait for its eventfds, and so what it takes to tell it something: its own session ends by that.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvme_client::message::request;
use nvme_client::watchers::watch_until;
use nvme_client::{Client, Io, Options, Segment, kind, socket};

use crate::rig::{Rig, Setup, WAIT, attack, attack_on};

const ENDS: &str = "so many wait for its eventfd; it ends";
/// What a notification takes, more than twice what ends a session.
const COST: Duration = Duration::from_millis(12);

/// Has so many wait for it that one write takes that long.
fn watch(fd: BorrowedFd<'_>) -> Vec<OwnedFd> {
    watch_until(fd, COST).unwrap()
}

fn options() -> Options {
    Options { scratch: 4096, wait: WAIT, ..Options::default() }
}

fn count(rig: &Rig) -> usize {
    rig.said().iter().filter(|line| line.contains(ENDS)).count()
}

/// Its connection is closed, and whoever comes next has the device.
fn is_over(rig: &Rig, client: Client) {
    rig.says(ENDS);
    let deadline = Instant::now() + WAIT;
    while client.front.features().is_ok() {
        assert!(Instant::now() < deadline, "its connection is open");
    }
    assert!(
        rig.said().iter().any(|line| line.contains(ENDS) && line.contains("1234:n1:")),
        "{:?}",
        rig.said()
    );
    drop(client);
    let mut next = Client::from_fd(rig.create(&["device=partlabel:attack"]), &options()).unwrap();
    next.read(0, &mut [0; 4096]).unwrap();
    assert_eq!(count(rig), 1, "{:?}", rig.said());
}

#[test]
fn a_client_whose_eventfd_very_many_wait_for_is_ended_by_name() {
    attack(|rig| {
        let client = Client::from_fd(rig.create(&["device=partlabel:attack"]), &options()).unwrap();
        let event = socket::event().unwrap();
        let _sets = watch(event.as_fd());
        // Nobody needs to be told anything for that.
        let _ = client.front.vring_fd(request::SET_VRING_CALL, 0, Some(event.as_fd()));
        is_over(rig, client);
    });
}

#[test]
fn a_client_whose_eventfd_very_many_come_to_wait_for_is_ended_by_name() {
    attack(|rig| {
        let mut client = Client::from_fd(rig.create(&["device=partlabel:attack"]), &options()).unwrap();
        let event = client.queues[0].call.try_clone().unwrap();
        let stop = AtomicBool::new(false);
        let _sets = std::thread::scope(|scope| {
            // It is told something all the time, by its worker.
            let (queue, addr, stop) = (&mut client.queues[0], client.scratch, &stop);
            scope.spawn(move || {
                let segments = [Segment { addr, len: 4096 }];
                while !stop.load(Ordering::Relaxed) {
                    if queue.in_flight() == 0 {
                        let io = Io { kind: kind::IN, sector: 0, segments: &segments, to_device: false };
                        queue.submit(io, 0).unwrap();
                        queue.publish().unwrap();
                    }
                    // Once it is ended nothing comes any more.
                    let _ = queue.next(Duration::ZERO, Instant::now() + WAIT / 100);
                }
            });
            let sets = watch(event.as_fd());
            rig.says(ENDS);
            stop.store(true, Ordering::Relaxed);
            sets
        });
        is_over(rig, client);
    });
}

#[test]
fn whoever_comes_to_a_static_client_s_socket_after_one_that_was_ended_is_served() {
    let dir = crate::disk::memory_dir();
    let path = dir.path().join("cl1");
    let words = ["--client", "cl1", "--device", "partlabel:attack", "--cap"].map(String::from);
    let arguments = words.into_iter().chain([format!("cl1=unix:{}", path.display())]).collect();
    attack_on(Setup { arguments, ..Setup::default() }, |rig| {
        for round in 1..3 {
            let client = Client::connect(&path, &options()).unwrap();
            let event = socket::event().unwrap();
            let _sets = watch(event.as_fd());
            let _ = client.front.vring_fd(request::SET_VRING_CALL, 0, Some(event.as_fd()));
            let deadline = Instant::now() + WAIT;
            while count(rig) < round || client.front.features().is_ok() {
                assert!(Instant::now() < deadline, "round {round}: {:?}", rig.said());
            }
        }
        let mut next = Client::connect(&path, &options()).unwrap();
        next.read(0, &mut [0; 4096]).unwrap();
        assert_eq!(count(rig), 2, "{:?}", rig.said());
    });
}
