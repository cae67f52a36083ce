//! Real storage: a file of the machine's disk, and a loop device over memory, beside `qemu-storage-daemon` with
//! `aio=io_uring,cache.direct=on`, and fio on the same without any server. Reads and writes of 4 KiB at a depth of 32 and of 1, and of
//! 128 KiB; images in memory beside an older server; and who has another disk ([`bystander`](super::bystander)).

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::places::{Loop, OnDisk};
use super::{
    BEFORE, DISK, Figures, Plan, Result, Subject, best, bystander, have, of, target, target_row, words,
};

/// What is to be reached, of the peer's.
const IOPS: f64 = 1.3;
/// Of fio's, where that is less.
const BARE: f64 = 0.95;
const CPU: f64 = 0.4;
const CPU_LONG: f64 = 0.5;

/// One load.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    block: u32,
    depth: u16,
    write: bool,
}

const LOADS: [Load; 6] = [
    Load { name: "4 KiB read", block: 4096, depth: 32, write: false },
    Load { name: "4 KiB write", block: 4096, depth: 32, write: true },
    Load { name: "4 KiB read", block: 4096, depth: 1, write: false },
    Load { name: "4 KiB write", block: 4096, depth: 1, write: true },
    Load { name: "128 KiB read", block: 128 << 10, depth: 32, write: false },
    Load { name: "128 KiB write", block: 128 << 10, depth: 32, write: true },
];

/// The table of all places and loads.
pub(super) fn table(plan: &Plan, peer: bool) -> Result<()> {
    let on_disk = OnDisk(target()?.join(format!("bench-image-{}", std::process::id())));
    nvme_client::bench::fill_pattern(&on_disk.0, DISK)?;
    // Or whoever is first pays for the write-back of what was just written.
    File::open(&on_disk.0)?.sync_all()?;
    let device = Loop::over(&plan.dir.join("image"), &["--direct-io=on"]);
    println!(
        "\nStorage: the image is read and written directly (io_uring), beside qemu-storage-daemon with aio=io_uring,cache.direct=on.\n"
    );
    println!("| place | load | depth | server | IOPS | p50 µs | p99 µs | server CPU µs per request |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let fio = have("fio");
    let mut results = Vec::new();
    let places = [
        ("file on disk", Some(on_disk.0.as_path())),
        ("loop over tmpfs", device.as_ref().map(|l| l.0.as_path())),
    ];
    for (place, path) in places {
        let Some(path) = path else {
            println!("| {place} | skipped: needs root and loop devices | | | | | | |");
            continue;
        };
        for load in LOADS {
            let (mut ours, mut theirs, mut bare) = (Vec::new(), Vec::new(), Bare::default());
            for _ in 0..plan.rounds.max(1) {
                ours.push(measure(plan, path, load, true)?);
                if peer {
                    theirs.push(measure(plan, path, load, false)?);
                }
                if fio {
                    bare = bare.better(alone(plan, path, load)?);
                }
            }
            let (ours, theirs) = (best(&ours).unwrap_or_default(), best(&theirs).unwrap_or_default());
            for (server, figures) in [("nvme-drv", &ours), ("qemu-storage-daemon", &theirs)] {
                println!(
                    "| {place} | {} | {} | {server} | {:.0} | {:.1} | {:.1} | {:.3} |",
                    load.name,
                    load.depth,
                    of(figures, "iops"),
                    of(figures, "p50") / 1e3,
                    of(figures, "p99") / 1e3,
                    of(figures, "cpu") / 1e3,
                );
            }
            if fio {
                println!(
                    "| {place} | {} | {} | none (fio) | {:.0} | | | {:.3} |",
                    load.name,
                    load.depth,
                    bare.iops,
                    bare.cpu / 1e3
                );
            }
            results.push((place, load, ours, theirs, bare));
        }
    }
    println!("\n| target | measured | bound | |\n| --- | --- | --- | --- |");
    for (place, load, ours, theirs, bare) in &results {
        // What the kernel takes for each request with no server at all: no server can do with less.
        let least = bare.cpu / of(theirs, "cpu");
        let ratio = |name| of(ours, name) / of(theirs, name);
        let what = |of: &str| format!("{place}, {} QD{}: {of}", load.name, load.depth);
        if load.depth == 1 {
            target_row(&what("p50"), of(ours, "p50") / 1e3, of(theirs, "p50") / 1e3, false, "µs");
        } else if load.block > 4096 {
            target_row(&what("bandwidth"), ratio("iops"), 1.0, true, "×");
            target_row(
                &what(&format!("CPU per request (fio alone {least:.2})")),
                ratio("cpu"),
                CPU_LONG,
                false,
                "×",
            );
        } else {
            // Whichever is less; NaN is neither.
            let bound = (IOPS * of(theirs, "iops")).min(BARE * bare.iops);
            target_row(&what("IOPS"), of(ours, "iops"), bound, true, "of 1.3 × its or 0.95 × fio's");
            target_row(
                &what(&format!("CPU per request (fio alone {least:.2})")),
                ratio("cpu"),
                CPU,
                false,
                "×",
            );
        }
    }
    let now = in_memory(plan, &plan.server)?;
    let before = plan.before.as_deref().map_or(Ok(f64::NAN), |server| in_memory(plan, server))?;
    target_row("tmpfs, 4 KiB read QD32: IOPS over the older server's", now / before, BEFORE, true, "×");
    bystander::rows(plan)
}

/// IOPS of a server over an image in memory.
fn in_memory(plan: &Plan, server: &Path) -> Result<f64> {
    let round = || super::measure(plan, server, Subject::OursOverImage, 32, 0, false);
    let rounds = (0..plan.rounds.max(1)).map(|_| round()).collect::<Result<Vec<_>>>()?;
    Ok(of(&best(&rounds).unwrap_or_default(), "iops"))
}

/// What fio has of the storage, with nothing between: IOPS, and nanoseconds of CPU per request.
#[derive(Clone, Copy)]
struct Bare {
    iops: f64,
    cpu: f64,
}

impl Default for Bare {
    fn default() -> Self {
        Self { iops: f64::NAN, cpu: f64::NAN }
    }
}

impl Bare {
    fn better(self, other: Self) -> Self {
        if self.iops >= other.iops { self } else { other }
    }
}

fn alone(plan: &Plan, path: &Path, load: Load) -> Result<Bare> {
    let (kind, field) = if load.write { ("randwrite", 48) } else { ("randread", 7) };
    let output = Command::new("fio")
        .args([
            "--name=bare",
            "--ioengine=io_uring",
            "--direct=1",
            "--time_based",
            "--minimal",
            "--terse-version=3",
        ])
        .args([
            format!("--filename={}", path.display()),
            format!("--rw={kind}"),
            format!("--bs={}", load.block),
        ])
        .args([
            format!("--iodepth={}", load.depth),
            format!("--runtime={}", plan.seconds.ceil()),
            format!("--size={DISK}"),
        ])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Version 3 of its terse lines: fields 8 and 49 are the IOPS of reads and writes, 88 and 89 its CPU in per cent.
    let line = text.lines().find(|line| line.starts_with("3;")).ok_or("fio said nothing")?;
    let fields: Vec<_> = line.split(';').collect();
    let number =
        |at: usize| fields.get(at).and_then(|w| w.trim_end_matches('%').parse().ok()).unwrap_or(f64::NAN);
    let iops: f64 = number(field);
    Ok(Bare { iops, cpu: (number(87) + number(88)) * 1e7 / iops })
}

fn measure(plan: &Plan, path: &Path, load: Load, ours: bool) -> Result<Figures> {
    let socket = plan.dir.join("socket");
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new(&plan.blkbench);
    command.arg("--plain").args(["--depth", &load.depth.to_string(), "--block", &load.block.to_string()]);
    command.args(["--time", &plan.seconds.to_string()]);
    if load.write {
        command.arg("--write");
    }
    if ours {
        command.args(["--create", "device=soft0:n1"]).arg(&socket).arg("--");
        command.arg(&plan.server).arg("--quiet");
        command.args(["--cap", &format!("vbus=soft:{},engine=uring", path.display())]);
        command.args(["--cap", &format!("svr=unix:{}", socket.display())]);
    } else {
        let driver = if path.starts_with("/dev") { "host_device" } else { "file" };
        let node =
            format!("driver={driver},node-name=f0,filename={},aio=io_uring,cache.direct=on", path.display());
        let export = format!(
            "type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path={},writable=on,num-queues=2,iothread=io0",
            socket.display()
        );
        command.arg(&socket).arg("--").args([
            "qemu-storage-daemon",
            "--object",
            "iothread,id=io0,poll-max-ns=32768",
        ]);
        command.args(["--blockdev", &node, "--export", &export]);
    }
    // A server that was killed keeps its image until its last request has landed: for a moment nobody else can have it. Whoever is
    // refused is waited for by its client for 10 s.
    let deadline = Instant::now() + Duration::from_secs(35);
    loop {
        let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output()?;
        if output.status.success() {
            return Ok(words(&String::from_utf8_lossy(&output.stdout)));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if Instant::now() > deadline || !said.contains("lock") {
            return Err(format!("{}: measuring failed: {said}", path.display()).into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
