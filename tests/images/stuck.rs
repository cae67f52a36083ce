//! A worker that is stuck in the kernel, by storage that hangs under `engine=window`: what it says to the service manager, and to
//! clients meanwhile.

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nvme_client::message::{flag, request};
use nvme_client::{FrontEnd, Io, Segment, kind, socket};
use rustix::event::PollFlags;

use crate::server::{Bench, WAIT, wait_until};
use crate::storage::{Loop, MIB, Mount, able, session, sparse, vbus};

/// The watchdog's time.
const WATCHDOG: Duration = Duration::from_secs(2);
/// How long the worker is stuck.
const STUCK: Duration = Duration::from_secs(25);

/// What comes for the service manager, until then: how many, and how many of them feed the watchdog.
fn fed(manager: &UnixDatagram, until: Instant) -> usize {
    let mut count = 0;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return count;
        }
        manager.set_read_timeout(Some(left)).unwrap();
        let mut bytes = [0; 256];
        if let Ok(n) = manager.recv(&mut bytes) {
            count += usize::from(&bytes[..n] == b"WATCHDOG=1");
        }
    }
}

#[test]
fn a_worker_that_is_stuck_feeds_no_watchdog_and_a_flood_of_messages_for_it_ends_nobody() {
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
    let manager = UnixDatagram::bind(bench.path("notify")).unwrap();
    let path = bench.path("notify").display().to_string();
    let micros = WATCHDOG.as_micros().to_string();
    let (vbus, svr) = (vbus(&image, ",serial=a,engine=window"), bench.socket("svr"));
    let variables = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", micros.as_str())];
    let memory = ["--cap=vbus=soft:mem:16M,serial=b", "--cap=vbus=soft:mem:16M,serial=c"];
    let mut server = bench.start(&[&vbus, memory[0], memory[1], &svr], &[], &variables);
    let mut slow = session(&bench, &["device=a:n1"]);
    let mut other = session(&bench, &["device=b:n1"]);
    other.write(0, &[1; 4096]).unwrap();
    slow.write(0, &[1; 4096]).unwrap();
    assert!(fed(&manager, Instant::now() + 3 * WATCHDOG) >= 3);

    system.freeze();
    let frozen = Instant::now();
    let segments = [Segment { addr: slow.scratch, len: 4096 }];
    let queue = slow.queue(0).unwrap();
    // A page that was not written to before: the write faults, and the fault waits.
    queue.submit(Io { kind: kind::OUT, sector: 8192, segments: &segments, to_device: true }, 1).unwrap();
    queue.publish().unwrap();
    queue.kick().unwrap();
    // What was fed in the moment before does not count.
    fed(&manager, Instant::now() + WATCHDOG);

    // Floods: each message is one that the worker has to take, and nobody waits for an answer.
    let front = &slow.front;
    let event = socket::event().unwrap();
    let mut sent = 0;
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            while frozen.elapsed() < STUCK {
                for kind in [request::SET_VRING_CALL, request::SET_VRING_KICK] {
                    let words = 0u64.to_ne_bytes();
                    let one = nvme_client::message::header(kind, 1, 8);
                    let bytes = [&one[..], &words].concat();
                    let until = Instant::now() + Duration::from_millis(200);
                    if socket::send(front.socket(), &bytes, &[event.as_fd()], until).is_err() {
                        break;
                    }
                    sent += 1;
                }
            }
        });
        let hungry = fed(&manager, frozen + STUCK / 2);
        // Who is served by the same worker waits for it, with what it has to take, and is not told that it is in force.
        let call = other.queues[0].call.as_fd();
        let wants = flag::VERSION | flag::NEED_REPLY;
        other.front.send(request::SET_VRING_CALL, wants, &0u64.to_ne_bytes(), &[call]).unwrap();
        let answered = Instant::now() + Duration::from_secs(1);
        assert!(!socket::wait_for(other.front.socket(), PollFlags::IN, answered).unwrap());
        // Others' control messages are served meanwhile, though there is one worker.
        let start = Instant::now();
        let new = FrontEnd::from_fd(bench.create(&["device=c:n1", "read-only"]), WAIT);
        assert_ne!(new.features().unwrap_or(0), 0);
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(hungry, 0, "the watchdog was fed though the worker is stuck");
        flood.join().unwrap();
    });
    assert!(sent > 0);
    server.says("worker 0 has not gone round");
    system.thaw();
    // What waited is done, and all goes on.
    other.front.acknowledged(request::SET_VRING_CALL).unwrap();
    other.read(0, &mut [0; 4096]).unwrap();
    wait_until("the write that waited", || slow.queue(0).unwrap().poll().unwrap().is_some());
    assert!(fed(&manager, Instant::now() + 3 * WATCHDOG) >= 2);
    assert!(!server.said().contains("does not answer"), "{}", server.said());
    drop((slow, other));
    assert_eq!(server.stop(), 0);
}
