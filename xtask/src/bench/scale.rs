//! Much of everything: sessions and queues that idle beside busy ones, regions, and partitions at start. Each ratio is of one run.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use nvme_client::{Client, Factory, Io, Options, Segment, kind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Plan, Result, target_row};

const SESSIONS: usize = 256;
const BUSY: usize = 16;
const QUEUES: u16 = 8;
/// Entries of each.
const SIZE: u16 = 64;
/// Requests in flight in each busy session.
const DEPTH: u64 = 8;
/// Regions of each of two sessions.
const REGIONS: u64 = 500;
const NAMESPACES: usize = 64;
const PARTITIONS: usize = 128;
/// Of what the busy ones have alone.
const KEEPS: f64 = 0.9;
const IDLE_KIB: f64 = 24.0;
const START_MS: f64 = 100.0;
const WAIT: Duration = Duration::from_secs(30);
/// Where the memory of clients begins.
const GUEST: u64 = 0x10_0000;
const FIRST: u64 = 4 << 20;
const REGION: u64 = 64 << 10;

/// Ends with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(plan: &Plan, socket: &Path, controllers: &[String]) -> Result<Self> {
        let mut command = Command::new(&plan.server);
        command.args(["--sessions-max", &(SESSIONS + 16).to_string()]);
        command.args(["--cap", &format!("svr=unix:{}", socket.display())]);
        for controller in controllers {
            command.args(["--cap", &format!("vbus=soft:{controller}")]);
        }
        Ok(Self(command.stdin(Stdio::null()).spawn()?))
    }

    /// Its anonymous memory, in KiB.
    fn anonymous(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

fn client(factory: &Factory, options: &Options) -> Result<Client> {
    Ok(Client::from_fd(factory.create(&["device=soft0:n1", "read-only"], None)?, options)?)
}

/// Keeps so many 4 KiB reads in flight on the first queue of each client, into the pages `at` says; how many end in a second.
fn load(clients: &mut [Client], depth: u64, time: Duration, at: impl Fn(u64) -> u64) -> Result<f64> {
    let (mut number, mut ended) = (0_u64, 0_u64);
    let mut submit = |client: &mut Client| -> Result<()> {
        number += 1;
        // A walk that visits all of the disk's blocks in no order.
        let sector = number.wrapping_mul(0x9e37_79b1) % 4096 * 8;
        let segments = [Segment { addr: at(number), len: 4096 }];
        let io = Io { kind: kind::IN, sector, segments: &segments, to_device: false };
        client.queue(0)?.submit(io, number)?;
        Ok(())
    };
    for client in clients.iter_mut() {
        (0..depth).try_for_each(|_| submit(client))?;
        client.queue(0)?.publish()?;
    }
    let begun = Instant::now();
    while begun.elapsed() < time {
        for client in clients.iter_mut() {
            let mut came = false;
            while let Some(done) = client.queue(0)?.poll()? {
                (ended, came) = (ended + u64::from(done.status == nvme_client::Status::Ok), true);
                submit(client)?;
            }
            if came {
                client.queue(0)?.publish()?;
            }
        }
    }
    let rate = ended as f64 / begun.elapsed().as_secs_f64();
    for client in clients {
        while client.queue(0)?.in_flight() > 0 {
            client.queue(0)?.next(Duration::from_millis(1), Instant::now() + WAIT)?;
        }
    }
    Ok(rate)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Sessions that idle beside busy ones.
fn sessions(plan: &Plan) -> Result<()> {
    let socket = plan.dir.join("scale");
    let server = Server::start(plan, &socket, &["mem:32M".into()])?;
    let factory = Factory::connect_retry(&socket, WAIT)?;
    let regions = vec![(GUEST, FIRST)];
    let options = Options { queues: QUEUES, queue_size: SIZE, seg_max: 8, regions, ..Options::default() };
    let mut busy = (0..BUSY).map(|_| client(&factory, &options)).collect::<Result<Vec<_>>>()?;
    let at = busy.first().map_or(0, |client| client.scratch);
    let page = move |number: u64| at + number % 16 * 4096;
    let time = Duration::from_secs_f64(plan.seconds);
    load(&mut busy, DEPTH, time, page)?;
    let (mut alone, mut beside, mut kib, mut all) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..plan.rounds.max(1) {
        alone.push(load(&mut busy, DEPTH, time, page)?);
        let before = server.anonymous()?;
        // Fewer where the machine's limits have room for fewer: the row says how many.
        let idle: Vec<_> = (BUSY..SESSIONS).map_while(|_| client(&factory, &options).ok()).collect();
        all = BUSY + idle.len();
        kib.push((server.anonymous()? - before) / idle.len() as f64);
        beside.push(load(&mut busy, DEPTH, time, page)?);
        drop(idle);
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("| {BUSY} busy sessions alone | {:.0} IOPS | | |", median(alone.clone()));
    println!("| the same among {all} with {QUEUES} queues each | {:.0} IOPS | | |", median(beside.clone()));
    let ratio = median(beside.iter().zip(&alone).map(|(beside, alone)| beside / alone).collect());
    target_row(&format!("{BUSY} busy of {all} sessions, of {BUSY} alone"), ratio, KEEPS, true, "×");
    // The first round has the memory made; what was given back is had again later.
    let first = kib.first().copied().unwrap_or(f64::NAN);
    println!("| RssAnon of an idle session with {QUEUES} queues of {SIZE} | {first:.1} KiB | | |");
    Ok(())
}

/// What an idle session costs that has one queue, in a server that had no other before.
fn idle(plan: &Plan) -> Result<()> {
    let socket = plan.dir.join("idle");
    let server = Server::start(plan, &socket, &["mem:32M".into()])?;
    let factory = Factory::connect_retry(&socket, WAIT)?;
    let options =
        Options { regions: vec![(GUEST, FIRST)], queue_size: SIZE, seg_max: 8, ..Options::default() };
    let _first = client(&factory, &options)?;
    let before = server.anonymous()?;
    let many = (0..BUSY * 8).map(|_| client(&factory, &options)).collect::<Result<Vec<_>>>()?;
    let each = (server.anonymous()? - before) / many.len() as f64;
    target_row(&format!("RssAnon of an idle session with a queue of {SIZE}"), each, IDLE_KIB, false, "KiB");
    Ok(())
}

/// Two sessions with many regions, beside two with one each.
fn regions(plan: &Plan) -> Result<()> {
    let socket = plan.dir.join("regions");
    let _server = Server::start(plan, &socket, &["mem:32M".into()])?;
    let factory = Factory::connect_retry(&socket, WAIT)?;
    let start = |n: u64| GUEST + FIRST + n * 2 * REGION;
    let many = std::iter::once((GUEST, FIRST)).chain((1..REGIONS).map(|n| (start(n), REGION))).collect();
    let one = vec![(GUEST, FIRST + REGIONS * 2 * REGION)];
    let base = Options { queue_size: 64, seg_max: 8, region_by_region: true, ..Options::default() };
    let pair = |regions: Vec<_>| {
        let options = Options { regions, ..base.clone() };
        (0..2).map(|_| client(&factory, &options)).collect::<Result<Vec<_>>>()
    };
    let (mut one, mut many) = (pair(one)?, pair(many)?);
    // The same addresses in both.
    let page = |number: u64| start(1 + number.wrapping_mul(0x9e37_79b1) % (REGIONS - 1)) + number % 16 * 4096;
    // As a machine's memory is after its start: there. What is not is made in the fault, and that is another figure.
    for client in one.iter().chain(&many) {
        (0..(REGIONS - 1) * 16)
            .try_for_each(|n| client.memory.write(start(1 + n / 16) + n % 16 * 4096, &[1]))?;
    }
    let time = Duration::from_secs_f64(plan.seconds);
    let mut ratios = Vec::new();
    load(&mut one, 32, time, page)?;
    load(&mut many, 32, time, page)?;
    for _ in 0..plan.rounds.max(1) {
        let with_one = load(&mut one, 32, time, page)?;
        ratios.push(load(&mut many, 32, time, page)? / with_one);
    }
    let what = format!("reads into {} regions, of the same with 2", 2 * REGIONS);
    target_row(&what, median(ratios), KEEPS, true, "×");
    Ok(())
}

fn image(path: &Path, name: usize) -> Result<()> {
    const SIZE: u64 = 64 << 20;
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    file.set_len(SIZE)?;
    ProtectiveMBR::with_lb_size(u32::try_from(SIZE / 512 - 1)?).overwrite_lba0(&mut file)?;
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut disk = config.create_from_device(file, None)?;
    for number in 0..PARTITIONS {
        let kind = gpt::partition_types::LINUX_FS;
        disk.add_partition(&format!("{name}-{number}"), 256 << 10, kind, 0, None)?;
    }
    disk.write()?;
    Ok(())
}

/// Until a session of the last partition of the last disk is there.
fn start(plan: &Plan) -> Result<()> {
    let images: Vec<_> = (0..NAMESPACES).map(|n| plan.dir.join(format!("scale{n}.img"))).collect();
    images.iter().enumerate().try_for_each(|(n, path)| image(path, n))?;
    let words: Vec<String> = images.iter().map(|path| path.display().to_string()).collect();
    let device = format!("device=soft{}:n1:{PARTITIONS}", NAMESPACES - 1);
    let mut least = f64::INFINITY;
    for round in 0..plan.rounds.max(1) {
        let socket = plan.dir.join(format!("start{round}"));
        let begun = Instant::now();
        let _server = Server::start(plan, &socket, &words)?;
        let factory = Factory::connect_retry(&socket, WAIT)?;
        while let Err(why) = factory.create(&[&device, "read-only"], None) {
            if begun.elapsed() > WAIT {
                return Err(why.into());
            }
        }
        least = least.min(begun.elapsed().as_secs_f64() * 1e3);
    }
    for path in images {
        std::fs::remove_file(path)?;
    }
    let what = format!("start with {NAMESPACES} namespaces of {PARTITIONS} partitions, until one is had");
    target_row(&what, least, START_MS, false, "ms");
    Ok(())
}

/// Measures, and prints a row for each target.
pub(super) fn rows(plan: &Plan) -> Result<()> {
    // As the unit has it, where that may be set.
    let unit = Some(262_144);
    if setrlimit(Resource::Nofile, Rlimit { current: unit, maximum: unit }).is_err() {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    }
    sessions(plan)?;
    idle(plan)?;
    regions(plan)?;
    start(plan)
}
