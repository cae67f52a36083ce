//! What is in flight when the server is killed is done by the next one, exactly once.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nvme_client::message::protocol;
use nvme_client::{Client, Error, FrontEnd, Inflight, Io, Options, Segment, Status, kind, socket};
use rustix::event::PollFlags;
use rustix::fs::{MemfdFlags, SealFlags, ftruncate, memfd_create};
use rustix::process::Signal;

use crate::server::{Bench, Server, WAIT};

const RINGS: (u16, u16) = (1, 128);

fn options() -> Options {
    let options = Options::default();
    Options { protocol: options.protocol | protocol::INFLIGHT_SHMFD, ..options }
}

/// A server with one static client.
fn serve(bench: &Bench) -> Server {
    let (disk, client) = (bench.disk(), bench.socket("cl1"));
    bench.start(&[&disk, &client, "--client", "cl1", "--device", "partlabel:attack"], &[], &[])
}

fn connect(bench: &Bench) -> OwnedFd {
    socket::connect_retry(&bench.path("cl1"), WAIT).unwrap()
}

fn memfd(len: u64) -> OwnedFd {
    let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, len).unwrap();
    file
}

/// A client that keeps what is in flight.
fn keeper(bench: &Bench) -> (Client, Inflight) {
    let options = options();
    let mut memory = nvme_client::Memory::new();
    let file = memory.add_file(memfd(16 << 20));
    memory.add_region(file, 0, 0x10_0000, 16 << 20).unwrap();
    let mut client = Client::negotiate(connect(bench), memory, &options).unwrap();
    assert_ne!(client.protocol & protocol::INFLIGHT_SHMFD, 0, "it is offered");
    let inflight = client.front.get_inflight(RINGS, 24).unwrap().expect("memory for what is in flight");
    client.front.set_inflight(&inflight).unwrap();
    client.register().unwrap();
    client.add_queue(0).unwrap();
    (client, inflight)
}

/// Writes the token's number over a block of its own, from memory of its own.
fn write(client: &mut Client, token: u64, round: u8) {
    let addr = client.scratch + 4096 * token;
    client.memory.write(addr, &[round; 4096]).unwrap();
    let segments = [Segment { addr, len: 4096 }];
    let io = Io { kind: kind::OUT, sector: 8 * token, segments: &segments, to_device: true };
    client.queue(0).unwrap().submit(io, token).unwrap();
}

/// Waits for so many ends. One that nobody waits for is an error of the queue's.
fn ends(client: &mut Client, mut count: usize) {
    let deadline = Instant::now() + WAIT;
    while count > 0 {
        let done = client.queue(0).unwrap().next(Duration::ZERO, deadline).unwrap();
        assert_eq!(done.status, Status::Ok);
        count -= 1;
    }
}

#[test]
fn requests_that_a_killed_server_did_not_take_are_taken_by_the_next_wherever_the_client_says_to_start() {
    let bench = Bench::new();
    let mut server = serve(&bench);
    let (mut client, inflight) = keeper(&bench);
    client.write(0, &[1; 4096]).unwrap();
    server.signal(Signal::STOP);
    for token in 0..5 {
        write(&mut client, token, 2);
    }
    let queue = client.queue(0).unwrap();
    queue.publish().unwrap();
    queue.kick().unwrap();
    server.signal(Signal::KILL);
    server.wait();
    let mut server = serve(&bench);
    client.reconnect(connect(&bench), Some(&inflight)).unwrap();
    ends(&mut client, 5);
    let mut bytes = vec![0; 5 * 4096];
    client.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|b| *b == 2));
    drop(client);
    assert_eq!(server.stop(), 0);
}

#[test]
fn under_load_a_kill_at_any_moment_loses_nothing_and_answers_nothing_twice() {
    let bench = Bench::new();
    let mut server = serve(&bench);
    let (mut client, inflight) = keeper(&bench);
    let count = 16;
    for round in 1..=25_u8 {
        let until = Instant::now() + Duration::from_micros(300 * u64::from(round));
        // All are in flight, and each is asked again as soon as it has ended.
        for token in 0..count {
            write(&mut client, token, round);
        }
        let mut flying = count as usize;
        while Instant::now() < until {
            let queue = client.queue(0).unwrap();
            if queue.publish().unwrap() {
                queue.kick().unwrap();
            }
            while let Some(done) = client.queue(0).unwrap().poll().unwrap() {
                assert_eq!(done.status, Status::Ok);
                write(&mut client, done.token, round);
            }
        }
        client.queue(0).unwrap().publish().unwrap();
        server.signal(Signal::KILL);
        server.wait();
        while let Some(done) = client.queue(0).unwrap().poll().unwrap() {
            assert_eq!(done.status, Status::Ok);
            flying -= 1;
        }
        server = serve(&bench);
        client.reconnect(connect(&bench), Some(&inflight)).unwrap();
        ends(&mut client, flying);
        let mut bytes = vec![0; 4096];
        for token in 0..count {
            client
                .read(8 * token, &mut bytes)
                .unwrap_or_else(|e| panic!("round {round}, block {token}: {e}"));
            assert!(bytes.iter().all(|b| *b == round), "round {round}, block {token}");
        }
    }
    drop(client);
    assert_eq!(server.stop(), 0);
}

#[test]
fn memory_for_what_is_in_flight_is_sealed_and_the_same_for_one_client_and_anew_for_the_next() {
    let bench = Bench::new();
    let mut server = serve(&bench);
    let (client, inflight) = keeper(&bench);
    let id = |file: &OwnedFd| rustix::fs::fstat(file).map(|s| s.st_ino).unwrap();
    assert!(ftruncate(&inflight.file, 0).is_err(), "it is sealed");
    let again = client.front.get_inflight(RINGS, 20).unwrap().unwrap();
    assert_eq!((id(&again.file), again.size), (id(&inflight.file), inflight.size));
    let first = id(&inflight.file);
    drop(client);
    let (client, next) = keeper(&bench);
    assert_ne!(id(&next.file), first);
    drop((client, inflight));
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_ring_that_broke_begins_anew_with_its_journal_after_a_reset_and_after_another_one_was_asked_for() {
    let bench = Bench::new();
    let mut server = serve(&bench);
    for resets in [true, false] {
        let (mut client, _inflight) = keeper(&bench);
        // No chain is there: it breaks the ring, and stays in flight.
        let queue = client.queue(0).unwrap();
        queue.offer(5).unwrap();
        queue.publish().unwrap();
        queue.kick().unwrap();
        socket::wait_for(queue.err.as_fd(), PollFlags::IN, socket::until(WAIT)).unwrap();
        if resets {
            client.front.reset_device().unwrap();
            client.front.set_features(client.features).unwrap();
        } else {
            client.stop_queue(0).unwrap();
            let again = client.front.get_inflight(RINGS, 24).unwrap().unwrap();
            client.front.set_inflight(&again).unwrap();
        }
        client.restart_queue(0).unwrap();
        client.write(0, &[3; 4096]).unwrap();
        let mut bytes = [0; 4096];
        client.read(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|b| *b == 3));
    }
    assert_eq!(server.stop(), 0);
}

fn refused(front: &FrontEnd, memory: &Inflight) {
    let answer = front.set_inflight(memory);
    assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
}

#[test]
fn memory_for_what_is_in_flight_that_is_none_is_refused() {
    let bench = Bench::new();
    let mut server = serve(&bench);
    let (client, inflight) = keeper(&bench);
    // Its rings run.
    refused(&client.front, &inflight);
    drop(client);
    let memory = nvme_client::Memory::new();
    let mut quiet = options();
    quiet.scratch = 0;
    let client = Client::negotiate(connect(&bench), memory, &quiet).unwrap();
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    let disk = std::fs::File::open(bench.path("disk")).unwrap();
    let whole = inflight.size;
    let of = |file, size, offset, rings| Inflight { size, offset, rings, file };
    for memory in [
        of(reader, whole, 0, RINGS),
        of(OwnedFd::from(disk), whole, 0, RINGS),
        of(memfd(whole - 1), whole, 0, RINGS),
        of(memfd(whole), whole - 1, 0, RINGS),
        of(memfd(whole), whole, 64, RINGS),
        of(memfd(whole), whole, u64::MAX - 16, RINGS),
        of(memfd(whole), whole, 0, (0, 128)),
        of(memfd(1 << 24), 1 << 24, 0, (257, 128)),
        of(memfd(whole), whole, 0, (1, 127)),
        of(memfd(1 << 24), 1 << 24, 0, (1, 2048)),
    ] {
        refused(&client.front, &memory);
    }
    client.front.set_inflight(&of(memfd(whole), whole, 0, RINGS)).unwrap();
    drop(client);
    assert_eq!(server.stop(), 0);
}

#[test]
fn where_dataspaces_are_trusted_only_memory_that_a_server_made_keeps_what_is_in_flight() {
    let bench = Bench::new();
    let trusted = memfd(16 << 20);
    let (disk, socket) = (bench.disk(), bench.socket("cl1"));
    let words =
        [disk.as_str(), &socket, "--client", "cl1", "--device", "partlabel:attack", "--register-ds", "vm"];
    let mut server = bench.start(&words, &[("vm", trusted.as_fd())], &[]);
    let mut memory = nvme_client::Memory::new();
    let file = memory.add_file(trusted.try_clone().unwrap());
    memory.add_region(file, 0, 0x10_0000, 16 << 20).unwrap();
    let mut client = Client::negotiate(connect(&bench), memory, &options()).unwrap();
    let made = client.front.get_inflight(RINGS, 24).unwrap().unwrap();
    refused(&client.front, &Inflight { file: memfd(made.size), size: made.size, offset: 0, rings: RINGS });
    // The memory of another machine, sealed as some are.
    let other = memfd(1 << 20);
    rustix::fs::fcntl_add_seals(&other, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    refused(&client.front, &Inflight { file: other, size: made.size, offset: 0, rings: RINGS });
    client.front.set_inflight(&made).unwrap();
    client.register().unwrap();
    client.add_queue(0).unwrap();
    client.write(0, &[3; 4096]).unwrap();
    server.signal(Signal::KILL);
    server.wait();
    let mut server = bench.start(&words, &[("vm", trusted.as_fd())], &[]);
    client.reconnect(connect(&bench), Some(&made)).unwrap();
    client.write(0, &[4; 4096]).unwrap();
    drop(client);
    assert_eq!(server.stop(), 0);
}
