//! Storage that hangs: its own requests wait, as long as it does, and nobody else.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvme_client::{Client, Io, Options, Range, Segment, kind};
use zerocopy::IntoBytes;

use crate::server::{Bench, wait_until};
use crate::storage::{Loop, MIB, Mount, able, client, divide, serve, session, sparse, vbus};

/// Longer than a command of hardware may take before the controller is suspected.
const FROZEN: Duration = Duration::from_secs(35);
/// Writes that the frozen image is given: more than it may have under way.
const WRITES: u64 = 100;

/// The longest that a write and a flush of a device took, until it is over.
fn longest(device: &Path, over: &AtomicBool) -> Duration {
    let file = std::fs::File::options().write(true).open(device).unwrap();
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let before = Instant::now();
        file.write_all_at(&[2; 4096], 0).unwrap();
        file.sync_data().unwrap();
        longest = longest.max(before.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    longest
}

#[test]
fn a_frozen_file_system_makes_its_own_requests_wait_and_ends_nobody() {
    if !able() {
        return;
    }
    for (engine, frozen) in [("uring", FROZEN), ("threads", Duration::from_secs(3))] {
        let bench = Bench::new();
        let file = bench.path("file");
        sparse(&file, 64 * MIB);
        let device = Loop::over(&file, &[]);
        let system = Mount::ext4(&device.0);
        let (image, file) = (system.path("image"), bench.path("other"));
        sparse(&image, 32 * MIB);
        sparse(&file, 32 * MIB);
        // Real storage, too: what A has under way, at its cap, takes nothing that B needs.
        let other = Loop::over(&file, &[]);
        let file = bench.path("spare");
        sparse(&file, MIB);
        let spare = Loop::over(&file, &[]);
        let options = format!(",engine={engine}");
        let words =
            [vbus(&image, &format!(",serial=a{options}")), vbus(&other.0, &format!(",serial=b{options}"))];
        let mut server = serve(&bench, &words);
        let mut slow = session(&bench, &["device=a:n1"]);
        let mut bystander = session(&bench, &["device=b:n1"]);
        slow.write(0, &[1; 4096]).unwrap();
        system.freeze();
        let scratch = slow.scratch;
        let queue = slow.queue(0).unwrap();
        for n in 0..WRITES {
            let segments = [Segment { addr: scratch, len: 4096 }];
            queue
                .submit(Io { kind: kind::OUT, sector: n * 8, segments: &segments, to_device: true }, n)
                .unwrap();
        }
        queue.publish().unwrap();
        queue.kick().unwrap();
        let began = Instant::now();
        let mut worst = Duration::ZERO;
        let over = AtomicBool::new(false);
        // What the machine takes for the same at the same time, without a server: it has other tests to run.
        let own = std::thread::scope(|scope| {
            let control = scope.spawn(|| longest(&spare.0, &over));
            while began.elapsed() < frozen {
                let before = Instant::now();
                bystander.write(0, &[2; 4096]).unwrap();
                bystander.flush().unwrap();
                worst = worst.max(before.elapsed());
                std::thread::sleep(Duration::from_millis(20));
            }
            over.store(true, Ordering::Relaxed);
            control.join().unwrap()
        });
        assert!(slow.queue(0).unwrap().poll().unwrap().is_none(), "{engine}: it was not frozen");
        system.thaw();
        let bound = Duration::from_secs(2) + own;
        assert!(worst < bound, "{engine}: the bystander waited {worst:?}, and the machine {own:?}");
        let mut ended = 0;
        wait_until("the end of what waited", || {
            while let Some(completion) = slow.queue(0).unwrap().poll().unwrap() {
                assert_eq!(completion.status, nvme_client::Status::Ok);
                ended += 1;
            }
            ended == WRITES
        });
        let said = server.said();
        assert!(!said.contains("late") && !said.contains("abort") && !said.contains("reset"), "{said}");
        slow.flush().unwrap();
        drop((slow, bystander));
        assert_eq!(server.stop(), 0);
    }
}

/// What the threads of a process had of processors so far, and how often they went to sleep.
fn spent(pid: i32) -> (Duration, u64) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().map(|task| task.path());
    tasks.fold((Duration::ZERO, 0), |(time, sleeps), task| {
        let read = |name: &str| std::fs::read_to_string(task.join(name)).unwrap_or_default();
        let ran = read("schedstat").split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        let status = read("status");
        let slept = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let slept = slept.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0);
        (time + Duration::from_nanos(ran), sleeps + slept)
    })
}

/// Two clients of an image that is frozen: what the first has under way is all that the image may have, and the second waits for room.
#[test]
fn an_idle_server_sleeps_while_more_waits_for_a_frozen_image_than_it_may_have_under_way() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 64 * MIB);
    let device = Loop::over(&file, &[]);
    let system = Mount::ext4(&device.0);
    let image = system.path("image");
    sparse(&image, 32 * MIB);
    divide(&image, &[10, 10]);
    let mut server = serve(&bench, &[vbus(&image, ",serial=a,engine=uring"), "--workers=1".to_owned()]);
    let mut both = ["device=a:n1:1", "device=a:n1:2"].map(|device| session(&bench, &[device]));
    for client in &mut both {
        client.write(0, &[1; 4096]).unwrap();
    }
    system.freeze();
    for (client, writes) in both.iter_mut().zip([WRITES, 8]) {
        let segments = [Segment { addr: client.scratch, len: 4096 }];
        let queue = client.queue(0).unwrap();
        for n in 0..writes {
            let io = Io { kind: kind::OUT, sector: n * 8, segments: &segments, to_device: true };
            queue.submit(io, n).unwrap();
        }
        queue.publish().unwrap();
        queue.kick().unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(Duration::from_secs(2));
    let before = spent(server.pid());
    std::thread::sleep(Duration::from_secs(3));
    let after = spent(server.pid());
    assert!(both.iter_mut().all(|client| client.queue(0).unwrap().poll().unwrap().is_none()));
    system.thaw();
    let (ran, slept) = (after.0 - before.0, after.1 - before.1);
    println!("3 s of idling: {ran:?}, {slept} times asleep");
    assert!(slept < 300, "{slept} times asleep in 3 s");
    // Room is told of: nobody waits until it is looked again.
    let began = Instant::now();
    for (client, writes) in both.iter_mut().zip([WRITES, 8]) {
        for _ in 0..writes {
            let queue = client.queue(0).unwrap();
            queue.next(Duration::from_millis(1), began + Duration::from_secs(20)).unwrap();
        }
    }
    println!("all ended {:?} after it was thawed", began.elapsed());
    drop(both);
    assert_eq!(server.stop(), 0);
}

/// How long it may take until a client is told that it does not get back what it wants.
const QUIET: Duration = Duration::from_secs(20);

#[test]
fn whoever_wants_its_queue_back_from_frozen_storage_is_closed_and_its_disk_is_kept_until_that_answers() {
    if !able() {
        return;
    }
    std::thread::scope(|scope| {
        for engine in ["uring", "threads"] {
            scope.spawn(move || closed_in_time(engine));
        }
    });
}

fn closed_in_time(engine: &str) {
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 64 * MIB);
    let device = Loop::over(&file, &[]);
    let system = Mount::ext4(&device.0);
    let image = system.path("image");
    sparse(&image, 48 * MIB);
    divide(&image, &[14, 14, 14]);
    let mut server = serve(&bench, &[vbus(&image, &format!(",serial=a,engine={engine}"))]);
    let patient = Options { wait: QUIET * 3, ..Options::default() };
    let mut stops = Client::from_fd(bench.create(&["device=a:n1:1"]), &patient).unwrap();
    let mut leaves = session(&bench, &["device=a:n1:2"]);
    let mut reader = session(&bench, &["device=a:n1:3", "read-only"]);
    for client in [&mut stops, &mut leaves] {
        client.write(0, &[1; 4096]).unwrap();
    }
    system.freeze();
    for client in [&mut stops, &mut leaves] {
        let segments = [Segment { addr: client.scratch, len: 4096 }];
        let io = Io { kind: kind::OUT, sector: 8, segments: &segments, to_device: true };
        let queue = client.queue(0).unwrap();
        queue.submit(io, 1).unwrap();
        queue.publish().unwrap();
        queue.kick().unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    drop(leaves);
    let began = Instant::now();
    assert!(stops.stop_queue(0).is_err(), "{engine}: a queue stopped with a write under way");
    let took = began.elapsed();
    assert!(took >= QUIET - Duration::from_secs(1) && took < QUIET * 2, "{engine}: {took:?}");
    server.says("storage that hangs does not let go of what it wants back");
    server.says("session 1: the storage of a:n1:1 hangs");
    server.says("session 2: the storage of a:n1:2 hangs");
    // The image goes on, for whoever wants nothing of it that is frozen.
    reader.read(0, &mut [0; 4096]).unwrap();
    drop(stops);
    // What was written there may land still.
    let refused = bench.factory().create(&["device=a:n1:1"], None);
    assert!(refused.is_err(), "{engine}: a second writer beside one that nothing proves quiet");
    system.thaw();
    server.says("session 1: ended");
    server.says("session 2: ended");
    let mut next = session(&bench, &["device=a:n1:1"]);
    next.write(8, &[2; 4096]).unwrap();
    next.flush().unwrap();
    reader.read(0, &mut [0; 4096]).unwrap();
    drop((next, reader));
    assert_eq!(server.stop(), 0);
}

/// As long as sessions may drain when the server is told to stop.
const DRAINED: Duration = Duration::from_secs(30);

#[test]
fn a_server_that_is_told_to_stop_over_frozen_storage_says_so_and_ends_when_that_answers() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 64 * MIB);
    let device = Loop::over(&file, &[]);
    let system = Mount::ext4(&device.0);
    let image = system.path("image");
    sparse(&image, 48 * MIB);
    let mut server = serve(&bench, &[vbus(&image, ",serial=a,engine=uring")]);
    let mut client = session(&bench, &["device=a:n1"]);
    client.write(0, &[1; 4096]).unwrap();
    system.freeze();
    let segments = [Segment { addr: client.scratch, len: 4096 }];
    let queue = client.queue(0).unwrap();
    queue.submit(Io { kind: kind::OUT, sector: 8, segments: &segments, to_device: true }, 1).unwrap();
    queue.publish().unwrap();
    queue.kick().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    server.signal(rustix::process::Signal::TERM);
    while !server.said().contains("nvme-drv: stopped") && began.elapsed() < DRAINED * 2 {
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = began.elapsed();
    server.says("session 1: the storage of a:n1 hangs");
    server.says("nvme-drv: stopped");
    assert!(took < DRAINED + Duration::from_secs(5), "it drained for {took:?}");
    // The kernel keeps the process until its write has ended.
    system.thaw();
    assert_eq!(server.wait(), 0);
}

#[test]
fn a_write_that_outlives_its_killed_server_keeps_the_image_from_the_next_until_it_has_landed() {
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
    let word = vbus(&image.0, ",serial=a,engine=uring");
    let mut server = serve(&bench, std::slice::from_ref(&word));
    let mut client = session(&bench, &["device=a:n1"]);
    client.write(0, &[1; 4096]).unwrap();
    client.flush().unwrap();
    system.freeze();
    client.memory.write(client.scratch, &[2; 4096]).unwrap();
    let segments = [Segment { addr: client.scratch, len: 4096 }];
    let queue = client.queue(0).unwrap();
    queue.submit(Io { kind: kind::OUT, sector: 8, segments: &segments, to_device: true }, 1).unwrap();
    queue.publish().unwrap();
    queue.kick().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    server.signal(rustix::process::Signal::KILL);
    // It is reaped, and its write has not landed.
    server.wait();
    drop(client);
    let mut next = serve(&bench, std::slice::from_ref(&word));
    let (status, said) = (next.wait(), next.said());
    system.thaw();
    assert!(status == 2 && said.contains("in use"), "{status}: {said}");
    let until = Instant::now() + Duration::from_secs(20);
    let mut server = loop {
        let mut server = serve(&bench, std::slice::from_ref(&word));
        let served = Instant::now() + Duration::from_secs(5);
        while !server.said().contains("ready:") && server.status_now().is_none() && Instant::now() < served {
            std::thread::sleep(Duration::from_millis(10));
        }
        if server.said().contains("ready:") {
            break server;
        }
        assert!(Instant::now() < until, "{}", server.said());
        server.wait();
    };
    let mut client = session(&bench, &["device=a:n1"]);
    let mut bytes = [0; 4096];
    client.read(8, &mut bytes).unwrap();
    assert_eq!(bytes, [2; 4096], "it had landed before anybody else was served");
    drop(client);
    assert_eq!(server.stop(), 0);
}

#[test]
fn who_cannot_be_taken_over_since_an_image_hangs_goes_on_with_its_rings_and_its_clients() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 64 * MIB);
    let device = Loop::over(&file, &[]);
    let system = Mount::ext4(&device.0);
    let image = system.path("image");
    sparse(&image, 32 * MIB);
    let words = [vbus(&image, ",serial=a"), bench.socket("svr"), bench.socket("upgrade")];
    let words = words.each_ref().map(String::as_str);
    let mut server = bench.start(&words, &[], &[]);
    let mut client = session(&bench, &["device=a:n1"]);
    client.write(0, &[1; 4096]).unwrap();
    system.freeze();
    let segments = [Segment { addr: client.scratch, len: 4096 }];
    let queue = client.queue(0).unwrap();
    queue.submit(Io { kind: kind::OUT, sector: 8192, segments: &segments, to_device: true }, 1).unwrap();
    queue.publish().unwrap();
    queue.kick().unwrap();
    let mut next = bench.start(&words, &[], &[]);
    assert_ne!(next.wait(), 0, "{}", next.said());
    server.says("requests are still in flight");
    // Whose ring was to stop for another server is not closed for what it did not ask for.
    std::thread::sleep(QUIET + Duration::from_secs(3));
    system.thaw();
    wait_until("the write that waited", || client.queue(0).unwrap().poll().unwrap().is_some());
    client.write(8, &[2; 4096]).unwrap();
    client.flush().unwrap();
    drop(client);
    assert_eq!(server.stop(), 0);
}

#[test]
fn control_goes_on_while_a_device_hangs_over_a_write_zeroes_or_a_discard() {
    if !able() {
        return;
    }
    for (engine, kind) in [("uring", kind::WRITE_ZEROES), ("threads", kind::DISCARD)] {
        let bench = Bench::new();
        let file = bench.path("file");
        sparse(&file, 96 * MIB);
        let device = Loop::over(&file, &[]);
        let system = Mount::ext4(&device.0);
        let inner = system.path("inner");
        std::fs::write(&inner, vec![0; 32 << 20]).unwrap();
        let image = Loop::over(&inner, &[]);
        let words = [vbus(&image.0, &format!(",serial=a,engine={engine}")), bench.disk()];
        let mut server = serve(&bench, &words);
        let mut slow = session(&bench, &["device=a:n1"]);
        slow.write(0, &[1; 4096]).unwrap();
        slow.flush().unwrap();
        system.freeze();
        let range = [Range { sector: 2048, sectors: 512, flags: 0 }];
        slow.memory.write(slow.scratch, range.as_bytes()).unwrap();
        let scratch = slow.scratch;
        let queue = slow.queue(0).unwrap();
        // A write that hangs, and what waits for it below the device's lock.
        let write = (kind::OUT, Segment { addr: scratch + 4096, len: 4096 });
        let other = (kind, Segment { addr: scratch, len: size_of_val(&range) as u32 });
        for (token, (kind, segment)) in (1..).zip([write, other]) {
            let sector = if kind == kind::OUT { 8192 } else { 0 };
            queue.submit(Io { kind, sector, segments: &[segment], to_device: true }, token).unwrap();
            queue.publish().unwrap();
            queue.kick().unwrap();
            std::thread::sleep(Duration::from_millis(300));
        }
        // Longer than it takes until the server looks by itself whether images grew.
        std::thread::sleep(Duration::from_secs(7));
        let before = Instant::now();
        let list = bench.factory().list();
        let other = bench.factory().create(&["device=partlabel:bystander"], None);
        let took = before.elapsed();
        let waits = slow.queue(0).unwrap().poll().unwrap().is_none();
        system.thaw();
        let list = list.unwrap_or_else(|why| panic!("{engine}: {why}: {}", server.said()));
        assert!(list.contains("a:n1"), "{list}");
        client(other.unwrap()).write(0, &[2; 4096]).unwrap();
        assert!(took < Duration::from_secs(5), "{engine}: {took:?}");
        assert!(waits, "{engine}: it was not frozen");
        wait_until("the end of what waited", || slow.queue(0).unwrap().poll().unwrap().is_some());
        drop(slow);
        assert_eq!(server.stop(), 0);
    }
}
