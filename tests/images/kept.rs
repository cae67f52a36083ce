//! A server is killed over storage that hangs, where a service manager keeps what sessions need: who waits for what the dead one began, and who
//! does not.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nvme_client::{Client, Factory, Io, Segment, Status, kind, socket};
use rustix::process::Signal;

use crate::manager::{Manager, client, said_all};
use crate::server::{Bench, WAIT, wait_until};
use crate::storage::{Loop, MIB, Mount, able, divide, sparse, vbus};

/// How many writes a block device has begun.
fn in_flight(device: &Path) -> u64 {
    let name = device.file_name().unwrap();
    let counts = std::fs::read_to_string(Path::new("/sys/block").join(name).join("inflight")).unwrap();
    counts.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Begins a write of one block.
fn write(client: &mut Client) {
    client.memory.write(client.scratch, &[2; 4096]).unwrap();
    let segments = [Segment { addr: client.scratch, len: 4096 }];
    let queue = client.queue(0).unwrap();
    queue.submit(Io { kind: kind::OUT, sector: 8, segments: &segments, to_device: true }, 1).unwrap();
    queue.publish().unwrap();
    queue.kick().unwrap();
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
    write(&mut waits);
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

#[test]
fn two_frozen_images_at_their_caps_leave_kernel_threads_for_a_third_where_each_has_its_own_ring() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 96 * MIB);
    let device = Loop::over(&file, &[]);
    let system = Mount::ext4(&device.0);
    let third = bench.path("third");
    for image in [&system.path("a"), &system.path("b"), &third] {
        sparse(image, 16 * MIB);
    }
    let manager = Manager::new(&bench, 100);
    let words = [
        vbus(&system.path("a"), ",serial=a,engine=uring"),
        vbus(&system.path("b"), ",serial=b,engine=uring"),
        vbus(&third, ",serial=c,engine=uring"),
        bench.socket("svr"),
        "--workers=1".to_owned(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut server = manager.start(&bench, &words);
    let mut frozen = ["device=a:n1", "device=b:n1"].map(|device| client(&bench, &[device]));
    let mut other = client(&bench, &["device=c:n1"]);
    other.write(0, &[1; 4096]).unwrap();
    other.flush().unwrap();
    system.freeze();
    // More than either may have under way.
    const WRITES: u64 = 100;
    for client in &mut frozen {
        let segments = [Segment { addr: client.scratch, len: 4096 }];
        let queue = client.queue(0).unwrap();
        for n in 0..WRITES {
            let io = Io { kind: kind::OUT, sector: n * 8, segments: &segments, to_device: true };
            queue.submit(io, n).unwrap();
        }
        queue.publish().unwrap();
        queue.kick().unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    let before = Instant::now();
    let done = other.write(8, &[2; 4096]).and_then(|()| other.flush());
    let took = before.elapsed();
    system.thaw();
    done.unwrap_or_else(|why| panic!("{why}: {}", server.said()));
    assert!(took < Duration::from_secs(5), "{took:?}");
    for client in &mut frozen {
        for _ in 0..WRITES {
            let queue = client.queue(0).unwrap();
            let done =
                queue.next(Duration::from_millis(1), Instant::now() + Duration::from_secs(20)).unwrap();
            assert_eq!(done.status, Status::Ok);
        }
    }
    drop((frozen, other));
    assert_eq!(server.stop(), 0);
}

/// A factory that was made at another, and its lifetime.
fn made(at: &Factory, words: &[&str]) -> (Factory, OwnedFd) {
    let made = at.request("factory", words, None).unwrap();
    assert_eq!(made.code, 0, "{}", made.message);
    let [factory, lifetime] = <[OwnedFd; 2]>::try_from(made.fds).unwrap();
    (Factory::from_fd(factory, WAIT), lifetime)
}

/// The server does without an image that cannot be scanned after a minute. What its factories lost until then is found when it is scanned.
#[test]
fn factories_whose_image_is_scanned_late_end_where_their_lifetime_or_their_maker_is_gone() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 96 * MIB);
    let device = Loop::over(&file, &[]);
    let system = Mount::ext4(&device.0);
    let inner = system.path("inner");
    std::fs::write(&inner, vec![0; 48 << 20]).unwrap();
    divide(&inner, &[10, 10, 10, 10]);
    let image = Loop::over(&inner, &["--direct-io=on"]);
    let manager = Manager::new(&bench, 100);
    let words = [vbus(&image.0, ",serial=a,engine=uring"), bench.socket("svr")];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut server = manager.start(&bench, &words);
    let mut waits = client(&bench, &["device=a:n1:1"]);
    waits.write(0, &[1; 4096]).unwrap();
    waits.flush().unwrap();
    let (mut tenants, mut clients) = (Vec::new(), Vec::new());
    for part in 2..=4 {
        let device = format!("device=a:n1:{part}");
        let top = made(&bench.factory(), &[&device, "factories=1"]);
        let below = made(&top.0, &[&device]);
        clients.push(said_all(below.0.create(&[&device], None).unwrap()));
        tenants.push((top, below));
    }
    system.freeze();
    write(&mut waits);
    wait_until("the kernel has the write", || in_flight(&image.0) > 0);
    server.signal(Signal::KILL);
    server.wait();
    // The first is taken back meanwhile, and of the second's maker nothing is left.
    drop(tenants.remove(0));
    manager.store.lock().unwrap().retain(|(name, _)| name != "nvme-drv.factory.3");
    let began = Instant::now();
    server = manager.start(&bench, &words);
    while !server.said().contains(" sessions go on after ") {
        assert!(began.elapsed() < Duration::from_secs(120), "{}", server.said());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(began.elapsed() > Duration::from_secs(50), "none is late: {}", server.said());
    server.says("4 of 4 sessions go on");
    assert!(!server.said().contains("goes on"), "{}", server.said());
    system.thaw();
    for client in &clients[..2] {
        socket::wait_closed(&client.front.socket(), WAIT).unwrap();
    }
    server.says("factory 3 has not gone on");
    server.says("factory 4 has not gone on");
    clients[2].read(0, &mut [0; 512]).unwrap();
    let queue = waits.queue(0).unwrap();
    let done = queue.next(Duration::from_millis(1), Instant::now() + Duration::from_secs(20)).unwrap();
    assert_eq!((done.token, done.status), (1, Status::Ok));
    assert!(tenants[1].0.0.list().unwrap().contains("\"session\":4"));
    drop((waits, clients));
    assert_eq!(server.stop(), 0);
}
