//! A server is killed over storage that hangs, where a service manager keeps what sessions need: who waits for what the dead one began, and who
//! does not.

use std::path::Path;
use std::time::{Duration, Instant};

use nvme_client::{Io, Segment, Status, kind};
use rustix::process::Signal;

use crate::manager::{Manager, client};
use crate::server::{Bench, wait_until};
use crate::storage::{Loop, MIB, Mount, able, sparse, vbus};

/// How many writes a block device has begun.
fn in_flight(device: &Path) -> u64 {
    let name = device.file_name().unwrap();
    let counts = std::fs::read_to_string(Path::new("/sys/block").join(name).join("inflight")).unwrap();
    counts.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn sessions_of_an_image_wait_until_the_dead_server_s_ring_is_gone_and_others_do_not() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 96 * MIB);
    let device = Loop::over(&file, &[]);
    let system = Mount::ext4(&device.0);
    let inner = system.path("inner");
    // What is written there waits in the block layer, for a file system that is frozen: the process that asked for it can go.
    std::fs::write(&inner, vec![0; 32 << 20]).unwrap();
    let image = Loop::over(&inner, &["--direct-io=on"]);
    let other = bench.path("other");
    sparse(&other, 32 * MIB);
    let other = Loop::over(&other, &[]);
    let manager = Manager::new(&bench, 100);
    let words = [
        vbus(&image.0, ",serial=a,engine=uring"),
        vbus(&other.0, ",serial=b,engine=uring"),
        bench.socket("svr"),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut server = manager.start(&bench, &words);
    let (mut waits, mut goes_on) = (client(&bench, &["device=a:n1"]), client(&bench, &["device=b:n1"]));
    for client in [&mut waits, &mut goes_on] {
        client.write(0, &[1; 4096]).unwrap();
        client.flush().unwrap();
    }
    system.freeze();
    waits.memory.write(waits.scratch, &[2; 4096]).unwrap();
    let segments = [Segment { addr: waits.scratch, len: 4096 }];
    let queue = waits.queue(0).unwrap();
    queue.submit(Io { kind: kind::OUT, sector: 8, segments: &segments, to_device: true }, 1).unwrap();
    queue.publish().unwrap();
    queue.kick().unwrap();
    wait_until("the kernel has the write", || in_flight(&image.0) > 0);
    server.signal(Signal::KILL);
    // It is reaped, and its write has not landed.
    server.wait();
    server = manager.start(&bench, &words);
    let began = Instant::now();
    goes_on.write(8, &[3; 4096]).unwrap_or_else(|why| panic!("{why}: {}", server.said()));
    let took = began.elapsed();
    server.says("a: what the server before began there has not ended; its sessions wait");
    server.says("2 of 2 sessions go on");
    server.says("session 2: goes on");
    while began.elapsed() < took + Duration::from_secs(2) {
        goes_on.write(8, &[3; 4096]).unwrap();
        assert!(waits.queue(0).unwrap().poll().unwrap().is_none(), "it was not frozen");
    }
    assert!(!server.said().contains("session 1: goes on"), "{}", server.said());
    system.thaw();
    let queue = waits.queue(0).unwrap();
    let done = queue.next(Duration::from_millis(1), Instant::now() + Duration::from_secs(20)).unwrap();
    assert_eq!((done.token, done.status), (1, Status::Ok));
    server.says("a: nothing of the server before is under way any more");
    let mut bytes = [0; 4096];
    waits.read(8, &mut bytes).unwrap();
    assert_eq!(bytes, [2; 4096]);
    println!("the other went on after {took:?}");
    drop((waits, goes_on));
    assert_eq!(server.stop(), 0);
}
