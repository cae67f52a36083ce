//! A client that proves what it wrote, while servers come and go.
//!
//! It has some blocks, each with one request at a time: a write of a number that no write had before, then a read of it, then the next.
//! A write that was lost, or done again after a later one, shows in the read behind it; a request that failed, or was answered twice, at
//! once. One more place may flush all the time: on a disk in a file, others overtake that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvme_client::{Client, Io, Segment, Status, kind};

/// Bytes of a block.
const BLOCK: usize = 4096;

struct Slot {
    /// It flushes, and that is all.
    flushes: bool,
    /// Which submission this is.
    turn: u64,
    addr: u64,
    sector: u64,
    /// What it writes, or reads back.
    number: u64,
    writes: bool,
    since: Instant,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Requests that ended well.
    pub(crate) requests: u64,
    /// The longest that one took.
    pub(crate) longest: Duration,
    /// Those that ended after one which was submitted later.
    pub(crate) overtaken: u64,
}

/// A checker that runs.
pub(crate) struct Checker {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    /// The longest of late, in microseconds.
    longest: Arc<AtomicU64>,
    thread: JoinHandle<(Client, Seen)>,
}

fn fill(number: u64) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(BLOCK).collect()
}

fn submit(client: &mut Client, slot: &mut Slot, token: u64, turn: &mut u64) {
    *turn += 1;
    (slot.turn, slot.since) = (*turn, Instant::now());
    if slot.flushes {
        let io = Io { kind: kind::FLUSH, sector: 0, segments: &[], to_device: false };
        return client.queue(0).unwrap().submit(io, token).unwrap();
    }
    let bytes = if slot.writes { fill(slot.number) } else { vec![0xa5; BLOCK] };
    client.memory.write(slot.addr, &bytes).unwrap();
    let segments = [Segment { addr: slot.addr, len: BLOCK as u32 }];
    let kind = if slot.writes { kind::OUT } else { kind::IN };
    let io = Io { kind, sector: slot.sector, segments: &segments, to_device: slot.writes };
    client.queue(0).unwrap().submit(io, token).unwrap();
}

fn run(
    client: &mut Client,
    (depth, flushes): (u64, bool),
    (requests, longest): (&AtomicU64, &AtomicU64),
    stop: &AtomicBool,
) -> Seen {
    let now = Instant::now();
    let mut slots: Vec<Slot> = (0..depth + u64::from(flushes))
        .map(|n| {
            let addr = client.memory.alloc(BLOCK as u64, 4096).unwrap();
            Slot {
                flushes: n == depth,
                turn: 0,
                addr,
                sector: 8 * n,
                number: 1 + n,
                writes: true,
                since: now,
            }
        })
        .collect();
    let (mut seen, mut flying, mut turn, mut latest) = (Seen::default(), slots.len(), 0, 0);
    for (token, slot) in (0..).zip(&mut slots) {
        submit(client, slot, token, &mut turn);
    }
    while flying > 0 {
        let queue = client.queue(0).unwrap();
        if queue.publish().unwrap() {
            queue.kick().unwrap();
        }
        let done = queue.next(Duration::from_micros(50), Instant::now() + Duration::from_secs(30)).unwrap();
        let slot = &mut slots[done.token as usize];
        assert_eq!(done.status, Status::Ok, "block {} of {}", slot.sector / 8, depth);
        let took = slot.since.elapsed();
        seen.longest = seen.longest.max(took);
        longest.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
        seen.overtaken += u64::from(slot.turn < latest);
        latest = latest.max(slot.turn);
        seen.requests += 1;
        requests.store(seen.requests, Ordering::Relaxed);
        if slot.flushes {
            slot.writes = false;
        } else if !slot.writes {
            let found = client.memory.bytes(slot.addr, BLOCK).unwrap();
            assert!(found == fill(slot.number), "block {}: not what was written last", slot.sector / 8);
            slot.number += depth;
        }
        slot.writes = !slot.writes;
        if slot.writes && stop.load(Ordering::Relaxed) {
            flying -= 1;
        } else {
            submit(client, slot, done.token, &mut turn);
        }
    }
    seen
}

impl Checker {
    /// With so many requests in flight, over the first blocks of the disk.
    pub(crate) fn start(client: Client, depth: u64) -> Self {
        Self::begin(client, depth, false)
    }

    /// The same, and one flush more after the other.
    pub(crate) fn start_with_flushes(client: Client, depth: u64) -> Self {
        Self::begin(client, depth, true)
    }

    fn begin(mut client: Client, depth: u64, flushes: bool) -> Self {
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicU64>::default());
        let longest = Arc::<AtomicU64>::default();
        let (stopped, counts, longer) = (Arc::clone(&stop), Arc::clone(&requests), Arc::clone(&longest));
        let thread = std::thread::spawn(move || {
            let seen = run(&mut client, (depth, flushes), (&counts, &longer), &stopped);
            (client, seen)
        });
        Self { stop, requests, longest, thread }
    }

    /// The longest that one took that ended since this was asked last.
    pub(crate) fn take_longest(&self) -> Duration {
        Duration::from_micros(self.longest.swap(0, Ordering::Relaxed))
    }

    /// How many requests have ended.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Waits until so many requests more have ended.
    pub(crate) fn more(&self, count: u64) {
        let until = self.requests.load(Ordering::Relaxed) + count;
        let deadline = Instant::now() + Duration::from_secs(40);
        while self.requests.load(Ordering::Relaxed) < until && !self.thread.is_finished() {
            assert!(Instant::now() < deadline, "no requests end any more");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it; the client, and what it saw.
    pub(crate) fn stop(self) -> (Client, Seen) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("what it wrote is what it read")
    }
}
