//! `cargo xtask bench --neighbours`: what a client loses by others on its worker that cost as much as they can.
//!
//! One client (`blkbench`) reads 4 KiB at random from a partition of its own: alone, beside a neighbour (`blkneighbour`) on the
//! same server, and beside the same neighbour on a second server. The last is the control: there the two share the machine
//! alone. A server that is fair leaves it half of what it has alone, and adds little to what it waits.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, partition_types};
use rustix::process::{Pid, Signal, kill_process};

use super::{Figures, Result, cargo, of, scratch, target, words};

const HELP: &str = "cargo xtask bench --neighbours [--seconds S] [--depths N,…] [--server PROGRAM] [--nice N] [NEIGHBOUR…]
  --nice N: what the servers are started with; -10, as in the unit, unless said.
  Builds in release mode and measures what a client loses beside others that cost their server much. Two processors are needed
  at least; the fewer others use them, the better.";

/// Bytes of the partitions.
const ATTACK: u64 = 600 << 20;
const BYSTANDER: u64 = 64 << 20;
/// What is to be reached.
const PART: f64 = 0.8;
const HALF: f64 = 0.45;
/// As `systemd/nvme-drv.service` has it.
const NICE: i32 = -10;
const P99_MORE: f64 = 2e6;
const WAIT_MAX: f64 = 10e3;
/// Long turns that each session may have before something is done about it.
const LONG_TURNS: u64 = 2;
/// How long a neighbour is busy before anything is measured: what is accepted once has happened by then.
const SETTLE: Duration = Duration::from_millis(1500);

/// A neighbour: how it is called, what it does, and its arguments.
const NEIGHBOURS: [(&str, &str, &[&str]); 17] = [
    ("250 segments over 480 regions, 64 queues", "ranges", &["--queues", "64", "--depth", "16"]),
    ("250 segments over 480 regions, 256 queues", "ranges", &["--queues", "256", "--depth", "16"]),
    ("reads of 256 MiB, 32 at a time", "reads", &[]),
    ("writes of 256 MiB, 32 at a time", "writes", &[]),
    ("reads into memory never touched", "fresh", &[]),
    ("its call eventfd watched by 100 × 100", "watched", &[]),
    ("its call eventfd watched by 300 × 300", "watched-most", &[]),
    ("the same before the server has it", "watched-first", &[]),
    ("a flood of SET_VRING_CALL", "calls", &[]),
    ("a flood of SET_VRING_KICK", "kicks", &[]),
    ("fills and punches what it registers", "registers", &[]),
    ("punches what it reads into", "punched", &["--memory", "2147483648"]),
    ("4 KiB reads, 256 queues", "small", &["--queues", "256", "--depth", "16"]),
    ("requests refused at once, 64 queues", "refused", &["--queues", "64"]),
    ("reads of 250 pieces", "pieces", &["--depth", "64"]),
    ("reads of 2,000 ranges", "pages", &["--queues", "16", "--depth", "16"]),
    ("kicks without a request, 64 queues", "knocks", &["--queues", "64"]),
];

/// How it is run.
struct Plan {
    seconds: f64,
    depths: Vec<u16>,
    only: Vec<String>,
    nice: i32,
    server: PathBuf,
    blkbench: PathBuf,
    blkneighbour: PathBuf,
    dir: PathBuf,
}

/// What a server says of its worker at its end, in microseconds.
struct Waits {
    /// The longest time between its seeing a kick and taking it.
    longest: f64,
    /// The same of those that no long turn fell upon, and how many of these there were.
    otherwise: f64,
    long_turns: u64,
}

impl Waits {
    fn of(said: &str) -> Option<Self> {
        let (_, line) = said.lines().find_map(|line| line.split_once("no kick waited longer than "))?;
        let first = |text: &str| text.split_whitespace().next()?.parse().ok();
        let (_, long) = line.split_once("but for what ")?;
        let (_, otherwise) = long.split_once("long turns held up ")?;
        Some(Self { longest: first(line)?, otherwise: first(otherwise)?, long_turns: first(long)? as u64 })
    }

    fn is_good(&self, sessions: u64) -> bool {
        self.otherwise <= WAIT_MAX && self.long_turns <= LONG_TURNS * sessions
    }
}

pub(super) fn bench(args: &[String]) -> Result<()> {
    let dir = scratch()?;
    let result = plan(args, &dir).and_then(|plan| plan.map_or(Ok(()), |plan| all(&plan)));
    std::fs::remove_dir_all(&dir)?;
    result
}

fn plan(args: &[String], dir: &Path) -> Result<Option<Plan>> {
    let (mut seconds, mut depths, mut server, mut only, mut nice) =
        (1.0, vec![1, 32], None, Vec::new(), NICE);
    let mut args = args.iter().filter(|arg| *arg != "--neighbours");
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value\n{HELP}"));
        match arg.as_str() {
            "--seconds" => seconds = value()?.parse()?,
            "--depths" => {
                depths = value()?.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?
            }
            "--nice" => nice = value()?.parse()?,
            "--server" => server = Some(PathBuf::from(value()?)),
            "--help" => {
                println!("{HELP}");
                return Ok(None);
            }
            other if other.starts_with('-') => return Err(format!("unknown option {other}\n{HELP}").into()),
            other => only.push(other.to_string()),
        }
    }
    let mut build =
        vec!["build", "--release", "-p", "nvme-client", "--bin", "blkbench", "--bin", "blkneighbour"];
    if server.is_none() {
        build.extend(["-p", "nvme-drv", "--bin", "nvme-drv"]);
    }
    cargo(&build)?;
    let target = target()?.join("release");
    let server = server.unwrap_or_else(|| target.join("nvme-drv"));
    let (blkbench, blkneighbour) = (target.join("blkbench"), target.join("blkneighbour"));
    Ok(Some(Plan { seconds, depths, only, nice, server, blkbench, blkneighbour, dir: dir.into() }))
}

/// A server with an image of its own.
struct Server {
    child: Child,
    factory: PathBuf,
    fixed: PathBuf,
}

impl Server {
    fn start(plan: &Plan, name: &str) -> Result<Self> {
        let image = plan.dir.join(format!("{name}.img"));
        if !image.exists() {
            make(&image)?;
        }
        let (factory, fixed) = (plan.dir.join(format!("{name}.svr")), plan.dir.join(format!("{name}.one")));
        for path in [&factory, &fixed] {
            let _ = std::fs::remove_file(path);
        }
        let mut command = Command::new("nice");
        command.arg("-n").arg(plan.nice.to_string()).arg(&plan.server);
        command.args(["--cap", &format!("vbus=soft:{},serial=soft0", image.display())]);
        command.args(["--cap", &format!("svr=unix:{}", factory.display())]);
        command.args(["--client", "one", "--device", "partlabel:fixed", "--readonly"]);
        command.args(["--cap", &format!("one=unix:{}", fixed.display())]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        Ok(Self { child, factory, fixed })
    }

    /// Ends it.
    fn finish(mut self) -> Result<Waits> {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        let status = self.child.wait()?;
        if !status.success() {
            return Err(format!("the server ended with {status}: {said}").into());
        }
        Waits::of(&said).ok_or_else(|| format!("the server did not say how long kicks waited: {said}").into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A neighbour at work, ended when this goes, and what it says.
struct Neighbour(Child, BufReader<ChildStdout>);

impl Neighbour {
    fn start(plan: &Plan, factory: &Path, kind: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(&plan.blkneighbour);
        command.arg(factory).arg(kind).args(arguments).args(["--create", "device=partlabel:attack"]);
        if kind != "writes" {
            command.args(["--create", "read-only"]);
        }
        let mut child = command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let mut neighbour = Self(child, BufReader::new(stdout));
        if neighbour.says()? != "busy" {
            return Err(format!("the neighbour {kind} did not begin").into());
        }
        std::thread::sleep(SETTLE);
        Ok(neighbour)
    }

    fn says(&mut self) -> Result<String> {
        let mut line = String::new();
        self.1.read_line(&mut line)?;
        Ok(line.trim().to_string())
    }

    /// How many requests of its own have ended.
    fn ended(&mut self) -> Result<f64> {
        self.0.stdin.as_mut().ok_or("no input")?.write_all(b"\n")?;
        Ok(self.says()?.parse()?)
    }

    /// Its requests a second in the middle of so long a time.
    fn rate(&mut self, seconds: f64) -> Result<f64> {
        std::thread::sleep(Duration::from_secs_f64(seconds / 4.0));
        let (before, start) = (self.ended()?, Instant::now());
        std::thread::sleep(Duration::from_secs_f64(seconds / 2.0));
        Ok((self.ended()? - before) / start.elapsed().as_secs_f64())
    }

    /// Whether it still is at work, or why it is not.
    fn is_busy(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A disk with a partition for each.
fn make(path: &Path) -> Result<()> {
    let size = ATTACK + 2 * BYSTANDER + (8 << 20);
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(path)?;
    file.set_len(size)?;
    let mut file = file;
    let sectors = u32::try_from(size / 512 - 1)?;
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut file)?;
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut disk = config.create_from_device(file, None)?;
    for (name, size) in [("attack", ATTACK), ("bystander", BYSTANDER), ("fixed", BYSTANDER)] {
        disk.add_partition(name, size, partition_types::BASIC, 0, Some(2048))?;
    }
    disk.write()?;
    Ok(())
}

/// The bystander's figures.
fn measure(plan: &Plan, depth: u16, server: &Server) -> Result<Figures> {
    let mut command = Command::new(&plan.blkbench);
    command.args(["--plain", "--depth", &depth.to_string(), "--time", &plan.seconds.to_string()]);
    command.args(["--pid", &server.child.id().to_string()]);
    command.args(["--create", "device=partlabel:bystander", "--create", "read-only"]).arg(&server.factory);
    figures(command)
}

/// The same of the static client.
fn measure_fixed(plan: &Plan, depth: u16, server: &Server) -> Result<Figures> {
    let mut command = Command::new(&plan.blkbench);
    command
        .args(["--plain", "--depth", &depth.to_string(), "--time", &plan.seconds.to_string()])
        .args(["--pid", &server.child.id().to_string()])
        .arg(&server.fixed);
    figures(command)
}

fn figures(mut command: Command) -> Result<Figures> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("measuring failed".into());
    }
    Ok(words(&String::from_utf8_lossy(&output.stdout)))
}

fn all(plan: &Plan) -> Result<()> {
    println!(
        "4 KiB random reads of a client, {} s each: alone, beside a neighbour on its server's one worker, and beside the same on \
         another server (control). Default options, the servers {}; images in memory. Wait: the longest time from the \
         server's seeing a kick to taking what it was for, but for long turns (over 1 ms by one session's doing), which are counted \
         apart: what is done about them is done after the first.\n",
        plan.seconds,
        match plan.nice {
            0 => "with no more of the processors than others".to_string(),
            nice => format!("with Nice={nice}"),
        }
    );
    println!(
        "| neighbour | depth | alone: IOPS | beside: IOPS | of alone | without a processor: client, server | p99 µs | control: IOPS | of control | p99 µs | wait µs | long turns | longest wait µs | |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut missed = 0;
    let wanted = |kind: &str| plan.only.is_empty() || plan.only.iter().any(|only| only == kind);
    for (name, kind, arguments) in NEIGHBOURS.iter().filter(|(_, kind, _)| wanted(kind)) {
        for depth in &plan.depths {
            missed += u32::from(!row(plan, name, kind, arguments, *depth)?);
        }
    }
    if wanted("group") {
        missed += u32::from(!group(plan)?);
    }
    println!(
        "\n{}",
        if missed == 0 { "All are reached.".into() } else { format!("{missed} rows are missed.") }
    );
    Ok(())
}

/// One neighbour at one depth. Whether the bounds are reached.
fn row(plan: &Plan, name: &str, kind: &str, arguments: &[&str], depth: u16) -> Result<bool> {
    let server = Server::start(plan, "a")?;
    let alone = measure(plan, depth, &server)?;
    let mut neighbour = Neighbour::start(plan, &server.factory, kind, arguments)?;
    let beside = measure(plan, depth, &server)?;
    let busy = neighbour.is_busy()?;
    drop(neighbour);
    let wait = server.finish()?;
    let (server, other) = (Server::start(plan, "a")?, Server::start(plan, "b")?);
    let neighbour = Neighbour::start(plan, &other.factory, kind, arguments)?;
    let control = measure(plan, depth, &server)?;
    drop(neighbour);
    let part = of(&beside, "iops") / of(&alone, "iops");
    let more = of(&beside, "p99") - of(&control, "p99");
    let mut missed = Vec::new();
    if part < PART / 2.0 {
        // What it has though nobody shares its server is the machine's doing.
        let shared = of(&beside, "iops") >= PART * of(&control, "iops");
        missed.push(if shared { "IOPS, as beside another server" } else { "**IOPS**" });
    }
    if more > P99_MORE {
        missed.push("**p99**");
    }
    if !wait.is_good(1) {
        missed.push("**wait**");
    }
    let verdict =
        if missed.is_empty() { "reached".to_string() } else { format!("missed: {}", missed.join(", ")) };
    let ended = if busy { "" } else { "; its session was ended" };
    println!(
        "| {name} | {depth} | {:.0} | {:.0} | {part:.2} | {} | {:.0} | {:.0} | {:.2} | {:.0} | {:.0} | {} | {:.0} | {verdict}{ended} |",
        of(&alone, "iops"),
        of(&beside, "iops"),
        ready(&beside),
        of(&beside, "p99") / 1e3,
        of(&control, "iops"),
        of(&beside, "iops") / of(&control, "iops"),
        of(&control, "p99") / 1e3,
        wait.otherwise,
        wait.long_turns,
        wait.longest,
    );
    Ok(missed.is_empty())
}

/// The parts of the time for which the client, and the server, were ready to run and had no processor: where these are large, it is the
/// machine that is shared.
fn ready(figures: &Figures) -> String {
    format!("{:.0} %, {:.0} %", of(figures, "client_ready") * 100.0, of(figures, "server_ready") * 100.0)
}

/// A static client beside 64 busy sessions of the factory: half each, whatever the machine leaves all of them together.
fn group(plan: &Plan) -> Result<bool> {
    let depth = 32;
    let server = Server::start(plan, "a")?;
    let alone = of(&measure_fixed(plan, depth, &server)?, "iops");
    let mut neighbour = Neighbour::start(plan, &server.factory, "small", &["--sessions", "64"])?;
    let (beside, others) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| measure_fixed(plan, depth, &server).map_err(|error| error.to_string()));
        let others = neighbour.rate(plan.seconds);
        (beside.join(), others)
    });
    let (beside, others) = (beside.map_err(|_| "measuring failed")??, others?);
    drop(neighbour);
    let wait = server.finish()?;
    let part = of(&beside, "iops") / alone;
    let half = of(&beside, "iops") / (of(&beside, "iops") + others);
    let reached = half >= HALF && wait.is_good(64);
    println!(
        "| 64 busy sessions beside a static client: it has {half:.2} of what all have | {depth} | {alone:.0} | {:.0} | {part:.2} | {} | {:.0} | | | | {:.0} | {} | {:.0} | {} |",
        of(&beside, "iops"),
        ready(&beside),
        of(&beside, "p99") / 1e3,
        wait.otherwise,
        wait.long_turns,
        wait.longest,
        if reached { "reached" } else { "**missed**" }
    );
    Ok(reached)
}
