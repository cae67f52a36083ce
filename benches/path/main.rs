//! Instructions for one 4 KiB read, counted by callgrind: from the available ring through virtqueue, mediation, NVMe
//! queue pair and software controller to the used ring, in one thread, by the worker that the server runs.
//!
//! Without arguments it runs itself under valgrind for 1 and 512 regions and for 1 and 256 sessions, and prints a table, and
//! the path by stage (`stages`): first all of it, then what a hardware controller would leave.
//! Only the functions named `counted_…` are counted; the driver's side of the ring is not. Requests come 32 at a time, each time for the next
//! session, each into the next region.
#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]
#![forbid(unsafe_code)]

mod stages;

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nvme_client::{Format, Io, Memory, Queue, Segment, Status, kind};
use nvme_core::nvme::{Controller, ControllerEvent, NamespaceInfo, Options};
use nvme_core::server::message::{GroupKey, NewQueue, PairId, QueueKey, SessionKey, ToWorker};
use nvme_core::server::worker::Worker;
use nvme_mem::Window;
use nvme_platform::{DmaRights, Notify, Time};
use nvme_policy::{Access, Grant};
use nvme_session::blk::features;
use nvme_session::memory::{Account, MemoryTable, Quiet, QuietBy, Region, Rights};
use nvme_session::queue::{AddressSpace, BlkQueue, Direction, QueueConfig, RingAddresses};
use nvme_soft::{Config, MemoryMedium, NamespaceConfig, SoftDevice};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Requests in one batch: a queue depth of 32.
const BATCH: usize = 32;
/// Batches that are counted.
const BATCHES: usize = 100;
const BLOCK: usize = 4096;
/// What is to be reached, in instructions: the path without the copy, its mediation, and what a hardware controller would leave of it.
const WHOLE_MOST: f64 = 700.0;
const MEDIATION_MOST: f64 = 60.0;
const HARDWARE_MOST: f64 = 420.0;
const DISK: usize = 16 << 20;
/// The first region, with the rings.
const FIRST: u64 = 4 << 20;
/// Each other region.
const REGION: u64 = 64 << 10;

/// What a request is.
#[derive(Clone, Copy)]
struct Shape {
    /// Segments of its data; no two adjoin.
    segments: usize,
    /// Bytes of each.
    bytes: usize,
}

impl Shape {
    /// As most requests are.
    const SMALL: Self = Self { segments: 1, bytes: 4096 };
    /// 64 KiB, in one segment and in sixteen.
    const WHOLE: Self = Self { segments: 1, bytes: 64 << 10 };
    const SCATTERED: Self = Self { segments: 16, bytes: 4096 };
}

/// What is counted.
#[derive(Clone, Copy)]
enum What {
    /// The whole path, of such requests.
    Path(Shape),
    /// Its mediation: check, proof and release, done again by themselves.
    Mediation,
    /// Its copy of the data, done again by itself.
    Copy(Shape),
    /// No instructions: how often a pass was made and a driver told.
    Events,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["count", what, regions, sessions] => {
            let what = match what {
                "mediation" => What::Mediation,
                "copy" => What::Copy(Shape::SMALL),
                "events" => What::Events,
                "whole" => What::Path(Shape::WHOLE),
                "whole-copy" => What::Copy(Shape::WHOLE),
                "scattered" => What::Path(Shape::SCATTERED),
                "scattered-copy" => What::Copy(Shape::SCATTERED),
                _ => What::Path(Shape::SMALL),
            };
            count(what, regions.parse()?, sessions.parse()?)
        }
        _ => table(),
    }
}

/// Profiles one case under valgrind.
fn profile(what: &str, regions: u32, sessions: u32) -> Result<String> {
    let out = std::env::temp_dir().join(format!("nvme-drv-callgrind-{}", std::process::id()));
    let status = Command::new("valgrind")
        .args(["-q", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=path::counted_*"])
        .args(["--dump-instr=yes", "--dump-line=no", "--compress-pos=no", "--compress-strings=no"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["count", what, &regions.to_string(), &sessions.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    let text = std::fs::read_to_string(&out).unwrap_or_default();
    let _ = std::fs::remove_file(&out);
    let status = status.map_err(|e| format!("valgrind: {e} (apt-get install valgrind)"))?;
    if !status.success() {
        return Err(format!("{what}, {regions} regions, {sessions} sessions: {status}").into());
    }
    Ok(text)
}

/// All instructions of a profile, for each request.
fn total(profile: &str) -> Result<f64> {
    let line = profile.lines().find_map(|l| l.strip_prefix("totals:").or(l.strip_prefix("summary:")));
    let total: f64 = line.ok_or("callgrind counted nothing")?.trim().parse()?;
    Ok(total / (BATCH * BATCHES) as f64)
}

fn table() -> Result<()> {
    println!(
        "Instructions per 4 KiB read (callgrind), batches of {BATCH}. Counted: the worker's passes from the kick to the"
    );
    println!(
        "last used entry, that is virtqueue, mediation, queue pair, software controller, completion, used ring, used"
    );
    println!(
        "index. The copy of the 4 KiB is shown apart. Not counted: the driver's side, eventfds, the clock.\n"
    );
    println!("| regions | sessions | path without the copy | of which mediation | the copy |");
    println!("| --- | --- | --- | --- | --- |");
    let mut whole = Vec::new();
    let mut mediation: f64 = 0.0;
    let mut first = None;
    for (regions, sessions) in [(1, 1), (512, 1), (1, 256)] {
        let copy = total(&profile("copy", regions, sessions)?)?;
        let counted = profile("path", regions, sessions)?;
        let path = total(&counted)? - copy;
        let part = total(&profile("mediation", regions, sessions)?)?;
        first.get_or_insert((counted, copy));
        println!("| {regions} | {sessions} | {path:.0} | {part:.0} | {copy:.0} |");
        whole.push(path);
        mediation = mediation.max(part);
    }
    let largest = whole.iter().copied().fold(0.0, f64::max);
    let smallest = whole.iter().copied().fold(f64::INFINITY, f64::min);
    let verdict = |reached| if reached { "reached" } else { "**missed**" };
    println!("\nat most {WHOLE_MOST} instructions: {largest:.0}, {}", verdict(largest <= WHOLE_MOST));
    println!(
        "of which mediation at most {MEDIATION_MOST}: {mediation:.0}, {}",
        verdict(mediation <= MEDIATION_MOST)
    );
    let spread = largest / smallest - 1.0;
    println!("flat within 5 %: {:.1} %, {}", spread * 100.0, verdict(spread <= 0.05));
    let large = |what: &str| -> Result<f64> {
        Ok(total(&profile(what, 1, 1)?)? - total(&profile(&format!("{what}-copy"), 1, 1)?)?)
    };
    let (one, sixteen) = (large("whole")?, large("scattered")?);
    let ratio = sixteen / one;
    println!(
        "64 KiB in sixteen segments, without the copy, at most 1.5 × one segment: {sixteen:.0}, {one:.0}, {ratio:.2} ×, {}",
        verdict(ratio <= 1.5)
    );
    let (counted, copy) = first.ok_or("nothing counted")?;
    let left = by_stage(&counted, copy)?;
    println!(
        "\nwhat a hardware controller would leave at most {HARDWARE_MOST}: {left:.0}, {}",
        verdict(left <= HARDWARE_MOST)
    );
    Ok(())
}

/// The path by stage, for one region and one session. What a hardware controller would leave of it.
fn by_stage(profile: &str, copy: f64) -> Result<f64> {
    let requests = (BATCH * BATCHES) as f64;
    let stages = stages::divide(profile, &std::env::current_exe()?, requests)?;
    let output = Command::new(std::env::current_exe()?).args(["count", "events", "1", "1"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let events: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [passes, told] = events[..] else { return Err("no events were counted".into()) };
    println!("\n| stage, 1 region and 1 session | instructions per request |\n| --- | --- |");
    let (mut all, mut controller, mut once) = (0.0, 0.0, 0.0);
    for (stage, name) in stages::Stage::ALL {
        let mut count = stages.get(&stage).copied().unwrap_or(0.0) / requests;
        if stage == stages::Stage::Controller {
            count -= copy;
            controller = count;
        }
        if stage == stages::Stage::Pass {
            once = count;
        }
        all += count;
        println!("| {name} | {count:.0} |");
    }
    println!("| all | {all:.0} |");
    println!("| what a hardware controller would leave of it | {:.0} |", all - controller);
    let batches = BATCHES as f64;
    let (passes, told) = (passes / batches, told / batches);
    println!(
        "\nFor a batch of {BATCH}: {passes:.1} passes, of {:.0} instructions each beside the requests; as many reads of \
         the clock by the home; {told:.1} writes into the driver's eventfd.",
        once * BATCH as f64 / passes
    );
    Ok(all - controller)
}

/// A driver that is told nothing: it looks at its used ring.
struct Silent;

impl Notify for Silent {
    fn used(&self) {}
    fn broken(&self) {}
}

/// A driver of which it is counted how often it is told.
struct Counting(Arc<AtomicU64>);

impl Notify for Counting {
    fn used(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn broken(&self) {}
}

/// One session: its driver, and where its buffers are.
struct Session {
    driver: Queue,
    buffers: Vec<u64>,
    token: usize,
    table: Arc<MemoryTable>,
    memory: Memory,
}

/// The controller after bring-up, its first pair and its first namespace.
fn controller() -> Result<(Controller, Box<nvme_core::nvme::QueuePair>, NamespaceInfo)> {
    let medium = Arc::new(MemoryMedium::new(DISK).ok_or("no memory")?);
    let config = Config { namespaces: vec![NamespaceConfig::new(medium)], ..Config::default() };
    let device = SoftDevice::new(config).map_err(|e| format!("{e}"))?;
    let mut controller = Controller::new(Box::new(device), 0, Options::default());
    let mut now = Time::from_nanos(1);
    let mut pair = None;
    for _ in 0..10_000 {
        while let Some(event) = controller.poll(now) {
            match event {
                ControllerEvent::Ready => controller.create_pair(256, 0).map_err(|e| format!("{e}"))?,
                ControllerEvent::PairReady { pair: ready, .. } => pair = Some(Box::new(ready)),
                other => return Err(format!("{other:?}").into()),
            }
        }
        if let Some(pair) = pair {
            let namespace = *controller.namespaces().first().ok_or("no namespace")?;
            return Ok((controller, pair, namespace));
        }
        now = now + Duration::from_millis(1);
    }
    Err("the controller does not come up".into())
}

fn session(
    controller: &mut Controller,
    namespace: &NamespaceInfo,
    regions: u64,
    shape: Shape,
) -> Result<(Session, Box<BlkQueue>)> {
    let mut memory = Memory::new();
    let file = memory.add_file(nvme_client::memfd(FIRST + (regions - 1) * REGION, false)?);
    memory.add_region(file, 0, 0x10_0000, FIRST)?;
    for i in 0..regions - 1 {
        // A gap after each, so that no two adjoin.
        memory.add_region(file, FIRST + i * REGION, 0x1000_0000 + i * 2 * REGION, REGION)?;
    }
    let driver = Queue::new(&mut memory, 0, 0, 128, 16, Format::Indirect, true)?;
    let mut buffers = Vec::new();
    for i in 0..BATCH as u64 {
        // Spread over all regions.
        let region = if regions == 1 { 0 } else { 1 + (i * 97) % (regions - 1) };
        buffers.push(memory.alloc_in(region as usize, (shape.segments * shape.bytes) as u64, 4096)?);
    }
    let mut listed = Vec::new();
    for (slot, region) in memory.regions.iter().enumerate() {
        let dma = controller.device().dma();
        let rights = DmaRights::ReadWrite;
        let iova = dma.reserve(&region.window, rights).map_err(|e| format!("{e}"))?;
        dma.map(iova, &region.window, rights).map_err(|e| format!("{e}"))?;
        listed.push(Region {
            guest: region.words.guest,
            user: region.words.user,
            len: region.words.size,
            slot: slot as u16,
            window: region.window.clone(),
            iova,
            writable: true,
        });
    }
    let table = Arc::new(MemoryTable::new(listed).map_err(|e| format!("{e}"))?);
    let rings = RingAddresses {
        desc: memory.user(driver.ring.desc)?,
        avail: memory.user(driver.ring.avail)?,
        used: memory.user(driver.ring.used)?,
        space: AddressSpace::Client,
    };
    let config = QueueConfig {
        size: 128,
        rings,
        next_avail: 0,
        features: features::VERSION_1 | features::INDIRECT_DESC | features::EVENT_IDX | features::FLUSH,
        direction: Direction::AsFlagged,
        grant: Grant::new(namespace.extent, Access::ReadWrite),
        limits: namespace.limits,
        id: [b'x'; 20],
        write_back: true,
    };
    let queue = BlkQueue::new(config, Arc::clone(&table)).map_err(|e| format!("{e:?}"))?;
    Ok((Session { driver, buffers, token: 0, table, memory }, Box::new(queue)))
}

fn count(what: What, regions: u64, sessions: u64) -> Result<()> {
    let (mut controller, pair, namespace) = controller()?;
    // No polling after work, so that sessions without work are asleep as they are in the server.
    let mut worker = Worker::new(Duration::ZERO);
    let mut now = Time::from_nanos(1_000_000_000);
    let id = PairId { controller: 0, queue: pair.id() };
    worker.handle(ToWorker::AddPair(id, pair), now);
    let shape = match what {
        What::Path(shape) | What::Copy(shape) => shape,
        What::Mediation | What::Events => Shape::SMALL,
    };
    let (mut all, told, mut passes) = (Vec::new(), Arc::new(AtomicU64::new(0)), 0);
    for number in 0..sessions {
        let (mut session, queue) = session(&mut controller, &namespace, regions, shape)?;
        let key = QueueKey { session: SessionKey(number), index: 0 };
        let group = GroupKey::FACTORY;
        let notify: Box<dyn Notify> = match what {
            What::Events => Box::new(Counting(Arc::clone(&told))),
            _ => Box::new(Silent),
        };
        worker.handle(
            ToWorker::AddQueue(NewQueue {
                key,
                group,
                queue,
                pair: id,
                notify,
                limits: Arc::default(),
                abroad: false,
            }),
            now,
        );
        session.token = worker.token(key).ok_or("the worker has no such queue")?;
        all.push(session);
    }
    if !worker.sleep() {
        return Err("a queue without work stays awake".into());
    }
    let medium = nvme_mem::heap(DISK).ok_or("no memory")?;
    let turns = all.len().max(8);
    for batch in 0..BATCHES + turns {
        now = now + Duration::from_millis(1);
        let index = batch % all.len();
        let session = all.get_mut(index).ok_or("no session")?;
        // The first turns warm up the sessions; they are not counted.
        let counted = batch >= turns;
        match what {
            What::Mediation if counted => mediation(&session.table, &session.buffers),
            What::Copy(shape) if counted => {
                let first = *session.buffers.first().ok_or("no buffer")?;
                let target = session.memory.window(first, shape.bytes as u64)?;
                counted_copies(&medium, &target, shape);
            }
            _ => {}
        }
        for (i, addr) in session.buffers.iter().enumerate() {
            let len = shape.segments * shape.bytes;
            let sector = ((batch * BATCH + i) * 7919 * 8) % ((DISK - len) / 512);
            // The last part of the memory comes first, so that no two segments adjoin.
            let segments: Vec<Segment> = (0..shape.segments)
                .rev()
                .map(|part| Segment { addr: addr + (part * shape.bytes) as u64, len: shape.bytes as u32 })
                .collect();
            let sector = (sector / 8 * 8) as u64;
            session
                .driver
                .submit(Io { kind: kind::IN, sector, segments: &segments, to_device: false }, i as u64)?;
        }
        session.driver.publish()?;
        match what {
            What::Path(_) if counted => counted_passes(&mut worker, session.token, now),
            What::Events if counted => passes += warm(&mut worker, session.token, now),
            _ => drop(warm(&mut worker, session.token, now)),
        }
        if !counted {
            told.store(0, Ordering::Relaxed);
        }
        for _ in 0..BATCH {
            let done = session.driver.poll()?.ok_or("a request was not served")?;
            if done.status != Status::Ok {
                return Err(format!("{:?}", done.status).into());
            }
        }
        worker.sleep();
    }
    if let What::Events = what {
        println!("{passes} {}", told.load(Ordering::Relaxed));
    }
    Ok(())
}

/// What is counted: from the kick to the last used entry.
#[inline(never)]
fn counted_passes(worker: &mut Worker, token: usize, now: Time) {
    worker.kick(token, now);
    while worker.pass(now, &|| now).worked {}
}

/// The same, not counted; how many passes it took. It must not be the same code: identical functions may become one.
#[inline(never)]
fn warm(worker: &mut Worker, token: usize, now: Time) -> u64 {
    worker.kick(black_box(token), now);
    let mut passes = 1;
    while black_box(worker.pass(now, &|| now)).worked {
        passes += 1;
    }
    passes
}

/// One batch's mediation alone: each buffer is looked up, proven, and released. The account is a fresh one, made
/// outside of what is counted.
fn mediation(table: &MemoryTable, buffers: &[u64]) {
    let mut account = Account::new(table, 1);
    counted_mediation(&mut account, table, buffers);
}

#[inline(never)]
fn counted_mediation(account: &mut Account, table: &MemoryTable, buffers: &[u64]) {
    let proof = Quiet::seen(QuietBy::Completed);
    for addr in buffers {
        if let Some(range) = account.mediate_whole(table, *addr, BLOCK as u32, Rights::Write) {
            let _ = account.release(black_box(range), &proof);
        }
    }
}

/// One batch's copies alone.
#[inline(never)]
fn counted_copies(medium: &Window, target: &Window, shape: Shape) {
    for i in 0..BATCH * shape.segments {
        let _ = black_box(medium.copy_to(i * 31 * BLOCK % (DISK / 2), target, 0, shape.bytes));
    }
}
