//! `cargo xtask bench`: the server beside Debian's `qemu-storage-daemon`, in the same run, with the same client.
//!
//! Each case starts its server anew, checks the data where there are some, warms up and measures; the best of several
//! rounds counts, and the rounds of both servers alternate, since the machine may have other work. No figure fails the
//! command: it prints what was reached and what was missed. With `--vm` it is on real drivers, in a virtual machine (`vm`).

mod bystander;
mod factories;
mod limits;
mod neighbours;
mod places;
mod scale;
mod storage;
mod vm;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes of the disks: small enough for any machine's memory, too large for its caches.
const DISK: u64 = 256 << 20;
/// What is to be reached.
const IOPS_RATIO: f64 = 3.0;
const CPU_RATIO: f64 = 1.0 / 3.0;
/// Of an older server's IOPS: what two rounds of one program differ by, among other work.
const BEFORE: f64 = 0.95;
const RSS_MAX: f64 = 16.0 * 1024.0 * 1024.0;
/// Less than a clock tick in ten seconds counts as none.
const IDLE_NANOS: f64 = 1e7;

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Figures = BTreeMap<String, f64>;

/// How it is run.
struct Plan {
    rounds: u32,
    seconds: f64,
    idle: f64,
    server: PathBuf,
    blkbench: PathBuf,
    dir: PathBuf,
    callgrind: bool,
    /// Real storage alone.
    storage: bool,
    /// Sessions a second alone.
    factories: bool,
    /// Limits alone.
    limits: bool,
    /// Much of everything alone.
    scale: bool,
    /// A server of before, to compare with.
    before: Option<PathBuf>,
}

const HELP: &str =
    "cargo xtask bench [--rounds N] [--seconds S] [--idle S] [--server PROGRAM] [--no-callgrind]
                  [--storage] [--factories] [--limits] [--scale] [--before PROGRAM]
cargo xtask bench --vm [--rounds N] [--seconds S]
cargo xtask bench --neighbours [--seconds S] [--depths N,…] [--server PROGRAM] [NEIGHBOUR…]
  Builds in release mode and measures. Needs qemu-storage-daemon (apt-get install qemu-system-common) for the
  comparison, valgrind and binutils for the instructions; what is missing is named and left out. With --storage
  only images are measured (fio for the device alone; root for loop devices and file systems), with --factories sessions that are
  created and closed, with --limits how near a session comes to what it may do and what that costs (--seconds 10), with --scale many sessions, regions and partitions, and with --before an older server beside
  this one, round by round. With --vm it runs on VFIO, in a virtual machine, and all that is needed must be there (.ci/install-packages).
  With --neighbours it measures what a client loses beside others that cost the server much.";

/// Runs the whole comparison.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    if args.iter().any(|arg| arg == "--vm") {
        return vm::bench(args);
    }
    if args.iter().any(|arg| arg == "--neighbours") {
        return neighbours::bench(args);
    }
    let dir = scratch()?;
    let result = plan(args, &dir).and_then(|plan| plan.map_or(Ok(()), |plan| all(&plan)));
    std::fs::remove_dir_all(&dir)?;
    result
}

/// A directory in memory.
fn scratch() -> Result<PathBuf> {
    let shm = Path::new("/dev/shm");
    let base = if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() };
    let dir = base.join(format!("nvme-drv-bench-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    Ok(dir)
}

fn plan(args: &[String], dir: &Path) -> Result<Option<Plan>> {
    let (mut rounds, mut seconds, mut idle, mut server, mut callgrind) = (3, 1.0, 10.0, None, true);
    let (mut storage, mut factories, mut limits, mut scale, mut before) = (false, false, false, false, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value\n{HELP}"));
        match arg.as_str() {
            "--rounds" => rounds = value()?.parse()?,
            "--seconds" => seconds = value()?.parse()?,
            "--idle" => idle = value()?.parse()?,
            "--server" => server = Some(PathBuf::from(value()?)),
            "--no-callgrind" => callgrind = false,
            "--storage" => storage = true,
            "--factories" => factories = true,
            "--limits" => limits = true,
            "--scale" => scale = true,
            "--before" => before = Some(PathBuf::from(value()?)),
            "--help" => {
                println!("{HELP}");
                return Ok(None);
            }
            other => return Err(format!("unknown option {other}\n{HELP}").into()),
        }
    }
    let mut build = vec!["build", "--release", "-p", "nvme-client", "--bin", "blkbench"];
    if server.is_none() {
        build.extend(["-p", "nvme-drv", "--bin", "nvme-drv"]);
    }
    cargo(&build)?;
    let target = target()?.join("release");
    let server = server.unwrap_or_else(|| target.join("nvme-drv"));
    let blkbench = target.join("blkbench");
    let dir = dir.into();
    Ok(Some(Plan {
        rounds,
        seconds,
        idle,
        server,
        blkbench,
        dir,
        callgrind,
        storage,
        factories,
        limits,
        scale,
        before,
    }))
}

fn cargo(args: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(args).status()?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} failed", args.join(" ")).into()) }
}

/// Where cargo puts what it builds: this program lies in a profile's folder there.
fn target() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().and_then(Path::parent).ok_or("no target directory")?.to_path_buf())
}

/// A server and what it serves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    OursOverImage,
    OursOverMemory,
    PeerOverImage,
    PeerOverNothing,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Subject::OursOverImage => "nvme-drv, image in tmpfs",
            Subject::OursOverMemory => "nvme-drv, soft:mem",
            Subject::PeerOverImage => "qemu-storage-daemon, image in tmpfs, io_uring",
            Subject::PeerOverNothing => "qemu-storage-daemon, null-co",
        }
    }

    fn ours(self) -> bool {
        matches!(self, Subject::OursOverImage | Subject::OursOverMemory)
    }
}

/// One round of one case: starts the server, measures, ends it.
fn measure(
    plan: &Plan,
    server: &Path,
    subject: Subject,
    depth: u16,
    spin: u32,
    idle: bool,
) -> Result<Figures> {
    let socket = plan.dir.join("socket");
    let _ = std::fs::remove_file(&socket);
    let image = plan.dir.join("image");
    let mut command = Command::new(&plan.blkbench);
    command.arg("--plain").args(["--depth", &depth.to_string(), "--spin", &spin.to_string()]);
    command.args(["--time", &plan.seconds.to_string()]);
    if idle {
        command.args(["--idle", &plan.idle.to_string()]);
    }
    if subject == Subject::OursOverMemory {
        command.arg("--fill");
    }
    if subject.ours() {
        command.args(["--create", "device=soft0:n1"]);
    }
    command.arg(&socket).arg("--");
    if subject.ours() {
        let medium = match subject {
            Subject::OursOverMemory => format!("mem:{DISK}"),
            _ => image.display().to_string(),
        };
        command.arg(server).arg("--quiet").args(["--cap", &format!("vbus=soft:{medium}")]);
        command.args(["--cap", &format!("svr=unix:{}", socket.display())]);
    } else {
        let node = match subject {
            Subject::PeerOverNothing => format!("driver=null-co,node-name=f0,size={DISK}"),
            _ => format!("driver=file,node-name=f0,filename={},aio=io_uring", image.display()),
        };
        command.args([
            "qemu-storage-daemon",
            "--object",
            "iothread,id=io0,poll-max-ns=32768",
            "--blockdev",
            &node,
        ]);
        command.arg("--export").arg(format!(
            "type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path={},writable=on,num-queues=2,iothread=io0",
            socket.display()
        ));
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{}: measuring failed", subject.name()).into());
    }
    Ok(words(&String::from_utf8_lossy(&output.stdout)))
}

fn words(text: &str) -> Figures {
    let pairs = text.split_whitespace().filter_map(|word| word.split_once('='));
    pairs.filter_map(|(name, value)| Some((name.to_string(), value.parse().ok()?))).collect()
}

fn of(figures: &Figures, name: &str) -> f64 {
    figures.get(name).copied().unwrap_or(f64::NAN)
}

/// The round with the most IOPS; the shortest start-up of all.
fn best(rounds: &[Figures]) -> Option<Figures> {
    let mut best = rounds.iter().max_by(|a, b| of(a, "iops").total_cmp(&of(b, "iops")))?.clone();
    let first = rounds.iter().map(|round| of(round, "first")).fold(f64::INFINITY, f64::min);
    best.insert("first".into(), first);
    Some(best)
}

/// Of one case.
#[derive(Clone, Default)]
struct Case {
    ours: Figures,
    peers: Option<Figures>,
    before: Option<Figures>,
}

/// Measures all, round by round.
fn case(plan: &Plan, ours: Subject, peer: Option<Subject>, depth: u16, spin: u32) -> Result<Case> {
    let (mut our_rounds, mut peer_rounds, mut before_rounds) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds.max(1) {
        our_rounds.push(measure(plan, &plan.server, ours, depth, spin, false)?);
        if let Some(before) = &plan.before {
            before_rounds.push(measure(plan, before, ours, depth, spin, false)?);
        }
        if let Some(peer) = peer {
            peer_rounds.push(measure(plan, &plan.server, peer, depth, spin, false)?);
        }
    }
    let ours = best(&our_rounds).ok_or("no round")?;
    Ok(Case { ours, peers: best(&peer_rounds), before: best(&before_rounds) })
}

fn row(name: &str, client: &str, depth: u16, figures: &Figures) {
    println!(
        "| {name} | {client} | {depth} | {:.0} | {:.1} | {:.1} | {:.3} | {:.1} |",
        of(figures, "iops"),
        of(figures, "p50") / 1e3,
        of(figures, "p99") / 1e3,
        of(figures, "cpu") / 1e3,
        of(figures, "rss_anon") / f64::from(1 << 20),
    );
}

/// One target: its figure, the bound, and whether it was reached.
fn target_row(what: &str, figure: f64, bound: f64, at_least: bool, unit: &str) {
    let reached = if at_least { figure >= bound } else { figure <= bound };
    let verdict = match (figure.is_nan() || bound.is_nan(), reached) {
        (true, _) => "not measured",
        (_, true) => "reached",
        (_, false) => "**missed**",
    };
    let sign = if at_least { "≥" } else { "≤" };
    println!("| {what} | {figure:.3} {unit} | {sign} {bound:.3} | {verdict} |");
}

fn have(program: &str) -> bool {
    let probe = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    probe.is_ok_and(|status| status.success())
}

const TARGETS: &str = "\n| target | measured | bound | |\n| --- | --- | --- | --- |";

fn all(plan: &Plan) -> Result<()> {
    if plan.factories {
        println!("{TARGETS}");
        return factories::rows(plan);
    }
    if plan.scale {
        println!("{TARGETS}");
        return scale::rows(plan);
    }
    if plan.limits {
        return limits::table(plan);
    }
    let peer = have("qemu-storage-daemon");
    if !peer {
        println!("skipped: no qemu-storage-daemon to compare with (apt-get install qemu-system-common)");
    }
    nvme_client::bench::fill_pattern(&plan.dir.join("image"), DISK)?;
    if plan.storage {
        return storage::table(plan, peer);
    }
    let copy =
        Command::new(&plan.blkbench).args(["--copy", &DISK.to_string(), "--time", "0.5", "-"]).output()?;
    let copy = of(&words(&String::from_utf8_lossy(&copy.stdout)), "copy");

    println!(
        "4 KiB random reads, one queue, best of {} rounds of {} s, nothing pinned.",
        plan.rounds, plan.seconds
    );
    println!(
        "\"sleeps\": the client sleeps until an interrupt, as a guest does; \"polls\": it looks for 50 µs first.\n"
    );
    println!(
        "| server | client | depth | IOPS | p50 µs | p99 µs | server CPU µs per request | RssAnon MiB |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut found = BTreeMap::new();
    for (client, spin) in [("sleeps", 0), ("polls", 50)] {
        for (ours, theirs) in [
            (Subject::OursOverImage, Subject::PeerOverImage),
            (Subject::OursOverMemory, Subject::PeerOverNothing),
        ] {
            for depth in [32, 1] {
                let case = case(plan, ours, peer.then_some(theirs), depth, spin)?;
                row(ours.name(), client, depth, &case.ours);
                if let Some(before) = &case.before {
                    row(&format!("{}, older server", ours.name()), client, depth, before);
                }
                if let Some(their) = &case.peers {
                    row(theirs.name(), client, depth, their);
                }
                found.insert((client, ours == Subject::OursOverImage, depth), case);
            }
        }
    }
    wake_ups(&found);
    let idle = measure(plan, &plan.server, Subject::OursOverImage, 32, 0, true)?;
    targets(plan, &found, &idle, copy);
    factories::rows(plan)?;
    storage::table(plan, peer)?;
    if plan.callgrind {
        instructions()?;
    }
    Ok(())
}

type Found = BTreeMap<(&'static str, bool, u16), Case>;

/// Who wakes whom, and how often.
fn wake_ups(found: &Found) {
    println!(
        "\nFor each 1,000 requests of the same rounds: writes into the eventfds of both sides, how often a thread of the server, and the"
    );
    println!(
        "client, went to sleep and was woken, and how often others had the processor of the server's thread before that.\n"
    );
    println!(
        "| server | client | depth | kicks | notifications | server wakes | client wakes | server put aside |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for ((client, image, depth), case) in found {
        let (ours, peers) = if *image {
            (Subject::OursOverImage, Subject::PeerOverImage)
        } else {
            (Subject::OursOverMemory, Subject::PeerOverNothing)
        };
        let older = format!("{}, older server", ours.name());
        let rows = [
            (ours.name(), Some(&case.ours)),
            (&*older, case.before.as_ref()),
            (peers.name(), case.peers.as_ref()),
        ];
        for (name, figures) in rows.into_iter().filter_map(|(name, figures)| Some((name, figures?))) {
            let [kicks, calls, sleeps, wakes, aside] =
                ["kicks", "calls", "sleeps", "client_sleeps", "put_aside"].map(|n| of(figures, n) * 1e3);
            println!(
                "| {name} | {client} | {depth} | {kicks:.1} | {calls:.1} | {sleeps:.1} | {wakes:.1} | {aside:.1} |"
            );
        }
    }
}

fn targets(plan: &Plan, found: &Found, idle: &Figures, copy: f64) {
    println!("{TARGETS}");
    for client in ["sleeps", "polls"] {
        let case = |image, depth| found.get(&(client, image, depth)).cloned().unwrap_or_default();
        let get = |image, depth| {
            let Case { ours, peers, .. } = case(image, depth);
            (ours, peers.unwrap_or_default())
        };
        let (our, their) = get(true, 32);
        let ratio = |name| of(&our, name) / of(&their, name);
        target_row(&format!("QD32 IOPS over io_uring's ({client})"), ratio("iops"), IOPS_RATIO, true, "×");
        target_row(
            &format!("QD32 CPU per request over io_uring's ({client})"),
            ratio("cpu"),
            CPU_RATIO,
            false,
            "×",
        );
        let (our, their) = get(false, 32);
        let bound = (of(&their, "cpu") + copy) / 1e3;
        let what = format!("QD32 soft:mem CPU per request, null-co's + {:.3} µs copy ({client})", copy / 1e3);
        target_row(&what, of(&our, "cpu") / 1e3, bound, false, "µs");
        let (our, their) = get(false, 1);
        let what = format!("QD1 p50, null-co's ({client})");
        target_row(&what, of(&our, "p50") / 1e3, of(&their, "p50") / 1e3, false, "µs");
        for (image, depth) in [(true, 32), (true, 1), (false, 32), (false, 1)] {
            let Case { ours, before: Some(before), .. } = case(image, depth) else { continue };
            let place = if image { "image in tmpfs" } else { "soft:mem" };
            let what = format!("QD{depth} {place}: IOPS over the older server's ({client})");
            target_row(&what, of(&ours, "iops") / of(&before, "iops"), BEFORE, true, "×");
        }
    }
    let what = format!("idle: CPU over {} s ({} wake-ups)", plan.idle, of(idle, "idle_sleeps"));
    target_row(&what, of(idle, "idle_cpu") / 1e6, IDLE_NANOS / 1e6, false, "ms");
    target_row(
        "RssAnon with one session",
        of(idle, "rss_anon") / f64::from(1 << 20),
        RSS_MAX / f64::from(1 << 20),
        false,
        "MiB",
    );
    let Case { ours, peers, .. } = found.get(&("sleeps", true, 32)).cloned().unwrap_or_default();
    let (our, their) = (of(&ours, "first") / 1e6, of(&peers.unwrap_or_default(), "first") / 1e6);
    println!("| start-up to first I/O | {our:.1} ms | qemu-storage-daemon: {their:.1} ms | |");
}

/// Instructions per request: the harness counts them under callgrind by itself.
fn instructions() -> Result<()> {
    if !have("valgrind") {
        println!("\nskipped: instructions per request need valgrind (apt-get install valgrind)");
        return Ok(());
    }
    println!();
    cargo(&["bench", "-q", "-p", "nvme-drv", "--bench", "path"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_no_figures_are_left_out() {
        let figures = words("iops=12.5 p50=7 noise x=y\n");
        assert_eq!((figures.len(), of(&figures, "iops"), of(&figures, "p50")), (2, 12.5, 7.0));
        assert!(of(&figures, "cpu").is_nan());
    }

    #[test]
    fn the_best_round_has_the_most_iops_and_the_shortest_start() {
        let rounds = [words("iops=1 first=5"), words("iops=3 first=9"), words("iops=2 first=7")];
        assert_eq!(best(&rounds), Some(words("iops=3 first=5")));
        assert_eq!(best(&[]), None);
    }
}
