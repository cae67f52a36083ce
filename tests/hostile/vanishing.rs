//! Memory that its owner takes away under the server.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nvme_client::{Client, Io, Memory, Options, Segment, kind, memfd, socket};
use rustix::event::PollFlags;
use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, ftruncate};

use crate::disk::memory_dir;
use crate::raw::Raw;
use crate::rig::{Rig, Setup, WAIT, attack, attack_on};

const RAM: u64 = 1 << 20;
const DATA: u64 = 1 << 30;
const LEN: u64 = 1 << 20;

/// A client with its rings in one file and its data in another.
fn client(rig: &Rig, rings: OwnedFd, data: OwnedFd) -> Client {
    let options = Options { queue_size: 64, seg_max: 4, scratch: 4096, wait: WAIT, ..Options::default() };
    let mut memory = Memory::new();
    for (file, guest) in [(rings, RAM), (data, DATA)] {
        let file = memory.add_file(file);
        memory.add_region(file, 0, guest, LEN).unwrap();
    }
    Client::with_memory(rig.create(&["device=partlabel:attack"]), memory, &options).unwrap()
}

/// Offers reads and writes of the whole data file.
fn offer(client: &mut Client, requests: std::ops::Range<u64>) {
    let queue = &mut client.queues[0];
    for token in requests {
        let segments = [Segment { addr: DATA + token % 16 * (64 << 10), len: 64 << 10 }];
        let to_device = token % 3 == 0;
        let kind = if to_device { kind::OUT } else { kind::IN };
        queue.submit(Io { kind, sector: token % 16 * 64, segments: &segments, to_device }, token).unwrap();
    }
    queue.publish().unwrap();
    queue.kick().unwrap();
}

/// Keeps the queue busy, and calls `vanish` in the middle.
fn in_mid_io(client: &mut Client, vanish: impl FnOnce(&Client)) {
    offer(client, 0..20);
    vanish(client);
    offer(client, 20..60);
}

/// The client is told that its queue is broken.
fn told(client: &Client) {
    let (err, deadline) = (client.queues[0].err.as_fd(), Instant::now() + WAIT);
    assert!(socket::wait_for(err, PollFlags::IN, deadline).unwrap(), "the server did not notice");
}

/// All is answered.
fn answered(client: &Client) {
    let deadline = Instant::now() + WAIT;
    while client.queues[0].ring.used_index().unwrap() < 60 {
        assert!(Instant::now() < deadline, "not answered");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(socket::drain(client.queues[0].err.as_fd()).unwrap(), 0, "the queue broke");
}

/// A memfd that cannot be sealed, or a file in memory.
fn files() -> [OwnedFd; 2] {
    let unsealable = memfd(LEN, true).unwrap();
    fcntl_add_seals(&unsealable, SealFlags::SEAL).unwrap();
    let dir = memory_dir();
    let path = dir.path().join("ram");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(LEN).unwrap();
    [unsealable, file.into()]
}

/// The device is free for the next client.
fn next_client(rig: &Rig) {
    let mut raw = Raw::new(rig);
    raw.serves();
    raw.guards_hold();
}

fn punch(file: BorrowedFd<'_>) {
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, LEN).unwrap();
}

#[test]
fn data_memory_truncated_in_mid_io_costs_its_own_session_only() {
    attack(|rig| {
        for file in files() {
            for len in [0, 4096, LEN / 2] {
                ftruncate(&file, LEN).unwrap();
                let data = file.try_clone().unwrap();
                let mut client = client(rig, memfd(LEN, false).unwrap(), data);
                in_mid_io(&mut client, |c| ftruncate(c.memory.file(1).unwrap(), len).unwrap());
                told(&client);
                rig.goes_on();
                drop(client);
                next_client(rig);
            }
        }
    });
}

#[test]
fn data_memory_truncated_in_mid_io_does_no_more_where_the_parent_left_all_signals_blocked_or_ignored() {
    for starter in [
        &["env", "--block-signal", "--default-signal"][..],
        &["env", "--ignore-signal=BUS,PIPE,URG,XFSZ,SEGV", "--block-signal=BUS,URG"],
    ] {
        attack_on(Setup { starter, ..Setup::default() }, |rig| {
            for file in files() {
                let mut client = client(rig, memfd(LEN, false).unwrap(), file);
                in_mid_io(&mut client, |c| ftruncate(c.memory.file(1).unwrap(), 4096).unwrap());
                told(&client);
                rig.goes_on();
            }
            next_client(rig);
        });
    }
}

#[test]
fn rings_truncated_in_mid_io_cost_their_own_session_only() {
    attack(|rig| {
        for rings in files() {
            let mut client = client(rig, rings, memfd(LEN, false).unwrap());
            offer(&mut client, 0..60);
            // From here on this process must not look at its rings either.
            ftruncate(client.memory.file(0).unwrap(), 0).unwrap();
            client.queues[0].kick().unwrap();
            told(&client);
            rig.goes_on();
            drop(client);
            next_client(rig);
        }
    });
}

#[test]
fn memory_punched_in_mid_io_is_memory_still() {
    attack(|rig| {
        for file in files() {
            let mut client = client(rig, memfd(LEN, false).unwrap(), file);
            in_mid_io(&mut client, |c| punch(c.memory.file(1).unwrap()));
            answered(&client);
        }
        // Rings full of zeroes are rings that were never used, or that jumped.
        for file in files() {
            let mut client = client(rig, file, memfd(LEN, false).unwrap());
            offer(&mut client, 0..20);
            punch(client.memory.file(0).unwrap());
            client.queues[0].kick().unwrap();
            rig.goes_on();
        }
        next_client(rig);
    });
}

#[test]
fn memory_that_vanished_before_it_was_used_costs_its_own_session_only() {
    attack(|rig| {
        for file in files() {
            let mut client = client(rig, memfd(LEN, false).unwrap(), file);
            ftruncate(client.memory.file(1).unwrap(), 0).unwrap();
            in_mid_io(&mut client, |_| ());
            told(&client);
            // Everything can be given back.
            client.stop_queue(0).unwrap();
            client.front.set_mem_table_raw(0, &[], &[]).unwrap();
            rig.goes_on();
        }
        next_client(rig);
    });
}

#[test]
fn memory_that_can_be_sealed_cannot_be_truncated_any_more() {
    attack(|rig| {
        let data = memfd(LEN, true).unwrap();
        let mut client = client(rig, memfd(LEN, true).unwrap(), data);
        for file in 0..2 {
            let file = client.memory.file(file).unwrap();
            assert!(fcntl_get_seals(file).unwrap().contains(SealFlags::SHRINK));
            assert!(ftruncate(file, 4096).is_err());
        }
        in_mid_io(&mut client, |_| ());
        answered(&client);
    });
}
