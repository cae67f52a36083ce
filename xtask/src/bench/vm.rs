//! `cargo xtask bench --vm`: the server on VFIO beside `qemu-storage-daemon`'s userspace NVMe driver, which is on VFIO too, and
//! beside the kernel's own driver, in one virtual machine with four of QEMU's NVMe controllers behind an IOMMU.
//!
//! Each subject has a controller of its own, so that all run all the time and are measured in turn, case by case; an idle one
//! costs nothing. The processors are emulated: only ratios of one run mean anything.

use std::time::{Duration, Instant};

use super::{Figures, HELP, Result, best, have, of, target_row, words};
use crate::machine::console::Machine;
use crate::vm::machine::{self, Plan};

/// Bytes of each controller's namespace.
const DISK: u64 = 64 << 20;
/// What is to be reached at a depth of 32, for reads and for writes.
const IOPS_RATIO: [f64; 2] = [4.5, 1.5];
const CPU_RATIO: f64 = 0.5;
/// One read at a time: how long, over the peer's.
const P50_RATIO: f64 = 0.6;
/// At a depth of 32, with doorbells in memory over without.
const BUFFERED_RATIO: f64 = 1.3;
/// No round begins later than this, so that a busy machine bounds the rounds and not the user's patience.
const LAST_ROUND: Duration = Duration::from_secs(180);
/// How long one command in the machine may take, apart from the load itself.
const WAIT: Duration = Duration::from_secs(60);
/// A measurement is cut into so many, the best of which counts: other work on the machine comes in bursts.
const RUNS: u32 = 4;

/// What is measured, and where.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    Ours,
    /// The same with doorbells in memory.
    Buffered,
    Peer,
    Kernel,
}

const SUBJECTS: [Subject; 4] = [Subject::Ours, Subject::Buffered, Subject::Peer, Subject::Kernel];

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "nvme-drv",
            Self::Buffered => "nvme-drv, doorbell-buffers",
            Self::Peer => "qemu-storage-daemon, nvme://",
            Self::Kernel => "the kernel's driver, fio",
        }
    }

    /// Its controller.
    fn address(self) -> &'static str {
        match self {
            Self::Ours => "0000:00:04.0",
            Self::Peer => "0000:00:05.0",
            Self::Kernel => "0000:00:06.0",
            Self::Buffered => "0000:00:07.0",
        }
    }
}

struct Case {
    write: bool,
    block: u32,
    depth: u16,
}

const fn case(write: bool, block: u32, depth: u16) -> Case {
    Case { write, block, depth }
}

const CASES: [Case; 6] = [
    case(false, 4096, 32),
    case(true, 4096, 32),
    case(false, 4096, 1),
    case(true, 4096, 1),
    case(false, 128 << 10, 8),
    case(true, 128 << 10, 8),
];

impl Case {
    fn kind(&self) -> &'static str {
        if self.write { "write" } else { "read" }
    }
}

/// Measures, and prints what was reached and what was missed.
pub(super) fn bench(args: &[String]) -> Result<()> {
    let (mut rounds, mut seconds) = (3_u32, 1.0_f64);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value\n{HELP}"));
        match arg.as_str() {
            "--vm" => {}
            "--rounds" => rounds = value()?.parse()?,
            "--seconds" => seconds = value()?.parse()?,
            "--help" => {
                println!("{HELP}");
                return Ok(());
            }
            other => return Err(format!("--vm does not know {other}\n{HELP}").into()),
        }
    }
    let seconds = seconds.clamp(0.1, 5.0);
    // Before a build that takes minutes.
    let needed = ["qemu-system-x86_64", "qemu-storage-daemon", "fio"];
    let missing: Vec<_> = needed.into_iter().filter(|program| !have(program)).collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(format!("missing: {missing}; .ci/install-packages installs what is needed").into());
    }
    let programs = machine::build(&["nvme-drv", "nvme-client"], true)?;
    let mut plan = Plan::new("vm", &programs, &["nvme-drv", "nvme-ctl", "blkbench"])?;
    for (id, subject) in ["ours", "buffered", "peer", "kernel"].into_iter().zip(SUBJECTS) {
        let place = subject.address().trim_start_matches("0000:00:");
        plan = plan.controller(id, id, &format!("addr={place}")).namespace(id, 1, DISK, 512)?;
    }
    let version = plan.version().to_owned();
    let load = load();
    let begin = Instant::now();
    let mut bench = Bench { guest: plan.launch()?, seconds, absent: None };
    bench.start()?;
    let mut found: Vec<[Vec<Figures>; 4]> = CASES.iter().map(|_| Default::default()).collect();
    let mut done = 0;
    while done < rounds.max(1) && (done == 0 || begin.elapsed() < LAST_ROUND) {
        for (case, found) in CASES.iter().zip(&mut found) {
            for (subject, rounds) in SUBJECTS.into_iter().zip(found) {
                if bench.absent == Some(subject) {
                    continue;
                }
                rounds.push(bench.measure(subject, case)?);
            }
        }
        done += 1;
    }
    bench.guest.power_off();
    let host = Host { version, rounds: done, seconds, load, absent: bench.absent };
    let best: Vec<[Figures; 4]> =
        found.iter().map(|case| case.each_ref().map(|rounds| best(rounds).unwrap_or_default())).collect();
    print(&host, &best);
    println!("\nIn {:.0} s, without the build.", begin.elapsed().as_secs_f64());
    Ok(())
}

struct Bench {
    guest: Machine,
    seconds: f64,
    /// Whom there is nothing to measure of: it does not start.
    absent: Option<Subject>,
}

impl Bench {
    /// Runs a command that must succeed, or says what was printed and what a server had to say.
    fn run(&mut self, command: &str) -> Result<String> {
        let (status, output) = self.guest.attempt(command, WAIT + Duration::from_secs_f64(self.seconds));
        if status == 0 {
            return Ok(output);
        }
        let (_, logs) = self.guest.attempt("cat /tmp/*.log", WAIT);
        Err(format!("in the machine, `{command}` ended with {status}:\n{output}\n{logs}").into())
    }

    /// Starts the servers, and checks that what is written comes back from each.
    fn start(&mut self) -> Result<()> {
        let [ours, buffered, peer, _] = SUBJECTS.map(Subject::address);
        self.run(&format!("nvme-ctl bind {ours} && nvme-ctl bind {buffered} && nvme-ctl bind {peer}"))?;
        let ours = format!("nvme-drv --cap vbus=pci:{ours} --cap svr=unix:/tmp/ours");
        let buffered =
            format!("nvme-drv --cap vbus=pci:{buffered},doorbell-buffers --cap svr=unix:/tmp/buffered");
        let peer = format!(
            "qemu-storage-daemon --object iothread,id=io0,poll-max-ns=32768 \
             --blockdev driver=nvme,node-name=f0,device={peer},namespace=1 \
             --export type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path=/tmp/peer,writable=on,num-queues=2,iothread=io0"
        );
        let all = [
            ("ours", ours, Subject::Ours),
            ("buffered", buffered, Subject::Buffered),
            ("peer", peer, Subject::Peer),
        ];
        for (name, command, subject) in all {
            self.run(&format!("{command} >/tmp/{name}.log 2>&1 & echo $! >/tmp/{name}.pid"))?;
            let wait = format!(
                "for i in $(seq 100); do [ -S /tmp/{name} ] && break; sleep 0.1; done; [ -S /tmp/{name} ]"
            );
            if subject == Subject::Peer {
                // QEMU 11.1's does not start on its own driver: it is left out, and that is said.
                let (status, said) =
                    self.guest.attempt(&format!("{wait} || {{ cat /tmp/peer.log; false; }}"), WAIT);
                if status != 0 {
                    println!("left out: {}, which does not start: {}\n", subject.name(), said.trim());
                    self.absent = Some(subject);
                    continue;
                }
            }
            self.run(&wait)?;
            let command = blkbench(subject);
            self.run(&format!("{command} --fill --verify --time 0.3 --plain"))?;
            self.run(&format!("{command} --write --verify --time 0.3 --plain"))?;
            self.run(&format!("{command} --verify --block 131072 --depth 8 --time 0.3 --plain"))?;
        }
        Ok(())
    }

    fn measure(&mut self, subject: Subject, case: &Case) -> Result<Figures> {
        let Case { write, block, depth } = *case;
        let seconds = self.seconds / f64::from(RUNS);
        let figures = match subject {
            Subject::Ours | Subject::Buffered | Subject::Peer => {
                let load = format!("--depth {depth} --block {block} --time {seconds} --runs {RUNS} --plain");
                let kind = if write { "--write" } else { "" };
                words(&self.run(&format!("{} {load} {kind}", blkbench(subject)))?)
            }
            Subject::Kernel => {
                let address = subject.address();
                let job = format!(" --name=kernel --stonewall --runtime={}ms", (seconds * 1e3).round());
                let output = self.run(&format!(
                    "fio --filename=$({}) \
                     --direct=1 --ioengine=libaio --rw=rand{} --bs={block} --iodepth={depth} --time_based \
                     --percentile_list=50:99 --output-format=terse --terse-version=3{}",
                    crate::vm::disk_of(address, 1),
                    case.kind(),
                    job.repeat(RUNS as usize),
                ))?;
                let runs: Vec<Figures> = output.lines().filter_map(|line| terse(line, write)).collect();
                best(&runs).unwrap_or_default()
            }
        };
        if of(&figures, "iops").is_nan() {
            return Err(format!("{}: no figures", subject.name()).into());
        }
        Ok(figures)
    }
}

/// The client of a server that serves.
fn blkbench(subject: Subject) -> &'static str {
    match subject {
        Subject::Ours => "blkbench /tmp/ours --create device=ours:n1 --pid $(cat /tmp/ours.pid)",
        Subject::Buffered => {
            "blkbench /tmp/buffered --create device=buffered:n1 --pid $(cat /tmp/buffered.pid)"
        }
        _ => "blkbench /tmp/peer --pid $(cat /tmp/peer.pid)",
    }
}

/// The figures in a line of fio's terse output: fields by number, percentiles as `50.000000%=MICROSECONDS`.
fn terse(line: &str, write: bool) -> Option<Figures> {
    let fields: Vec<&str> = line.strip_prefix("3;")?.split(';').collect();
    // What is said of writes stands 41 fields behind what is said of reads.
    let field = |at: usize| fields.get(at + if write { 41 } else { 0 }).copied().unwrap_or_default();
    let mut figures = Figures::from([("iops".into(), field(6).parse().ok()?)]);
    for (at, name) in [(16, "p50"), (17, "p99")] {
        if let Some(micros) = field(at).split_once('=').and_then(|(_, value)| value.parse::<f64>().ok()) {
            figures.insert(name.into(), micros * 1e3);
        }
    }
    Some(figures)
}

struct Host {
    version: String,
    rounds: u32,
    seconds: f64,
    /// Programs that wanted a processor before anything was started here.
    load: f64,
    /// Who was left out.
    absent: Option<Subject>,
}

fn load() -> f64 {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

fn print(host: &Host, best: &[[Figures; 4]]) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "Linux {} with two emulated processors (QEMU's TCG) and an emulated IOMMU, on {cores} cores; best of {} in \
         {} rounds, each of {} s. One queue; the client sleeps until an interrupt.\n",
        host.version,
        RUNS * host.rounds,
        host.rounds,
        host.seconds / f64::from(RUNS),
    );
    if host.load > cores as f64 {
        println!(
            "There was other work (a load of {:.1} before): the figures are low, and most so of servers that hand over.\n",
            host.load
        );
    }
    println!("| random | depth | server | IOPS | p50 µs | p99 µs | server CPU µs per request |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (case, best) in CASES.iter().zip(best) {
        for (subject, figures) in SUBJECTS.into_iter().zip(best) {
            if host.absent == Some(subject) {
                continue;
            }
            let cpu = match of(figures, "cpu") {
                cpu if cpu.is_nan() => "".to_owned(),
                cpu => format!("{:.1}", cpu / 1e3),
            };
            println!(
                "| {} KiB {}s | {} | {} | {:.0} | {:.0} | {:.0} | {cpu} |",
                case.block >> 10,
                case.kind(),
                case.depth,
                subject.name(),
                of(figures, "iops"),
                of(figures, "p50") / 1e3,
                of(figures, "p99") / 1e3,
            );
        }
    }
    if host.absent == Some(Subject::Peer) {
        println!("\nThe targets are not measured: {} is left out.", Subject::Peer.name());
        return;
    }
    println!("\n| target | measured | bound | |\n| --- | --- | --- | --- |");
    for (case, [ours, buffered, peer, _]) in CASES.iter().zip(best) {
        let ratio = |name| of(ours, name) / of(peer, name);
        let what = |figure| format!("QD{} {}s: {figure} over qemu-storage-daemon's", case.depth, case.kind());
        match case.depth {
            32 => {
                let [reads, writes] = IOPS_RATIO;
                target_row(&what("IOPS"), ratio("iops"), if case.write { writes } else { reads }, true, "×");
                target_row(&what("CPU per request"), ratio("cpu"), CPU_RATIO, false, "×");
                let more = of(buffered, "iops") / of(ours, "iops");
                let what = format!("QD32 {}s: IOPS with doorbell-buffers over without", case.kind());
                target_row(&what, more, BUFFERED_RATIO, true, "×");
            }
            1 if !case.write => target_row(&what("p50"), ratio("p50"), P50_RATIO, false, "×"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_fio_are_found_by_their_place() {
        let mut fields = vec!["0".to_owned(); 130];
        fields[0] = "3".into();
        for (at, value) in [(7, "100"), (17, "50.000000%=7"), (18, "99.000000%=9")] {
            fields[at] = value.into();
            fields[at + 41] = value.replace('7', "8");
        }
        fields[48] = "200".into();
        let line = fields.join(";");
        let (reads, writes) = (terse(&line, false).unwrap(), terse(&line, true).unwrap());
        assert_eq!((of(&reads, "iops"), of(&reads, "p50"), of(&reads, "p99")), (100.0, 7e3, 9e3));
        assert_eq!((of(&writes, "iops"), of(&writes, "p50"), of(&writes, "p99")), (200.0, 8e3, 9e3));
        assert_eq!(terse("fio: error", false), None);
    }
}
