//! Real storage: a file of the machine's disk, and a loop device over memory, beside `qemu-storage-daemon` with
//! `aio=io_uring,cache.direct=on`. Reads and writes of 4 KiB at a depth of 32 and of 1, and of 128 KiB.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{DISK, Figures, Plan, Result, best, of, target, target_row, words};

/// What is to be reached, of the peer's.
const IOPS: f64 = 1.3;
const CPU: f64 = 0.4;
const CPU_LONG: f64 = 0.5;

/// A file on the machine's disk. Gone with this value.
struct OnDisk(PathBuf);

impl Drop for OnDisk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A loop device over a file. Gone with this value.
struct Loop(PathBuf);

impl Loop {
    /// `None`: not without root.
    fn over(file: &Path) -> Option<Self> {
        let done =
            Command::new("losetup").args(["-f", "--show", "--direct-io=on"]).arg(file).output().ok()?;
        let name = String::from_utf8(done.stdout).ok()?;
        done.status.success().then(|| Self(name.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// One load.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    block: u32,
    depth: u16,
    write: bool,
}

const LOADS: [Load; 5] = [
    Load { name: "4 KiB read", block: 4096, depth: 32, write: false },
    Load { name: "4 KiB write", block: 4096, depth: 32, write: true },
    Load { name: "4 KiB read", block: 4096, depth: 1, write: false },
    Load { name: "128 KiB read", block: 128 << 10, depth: 32, write: false },
    Load { name: "128 KiB write", block: 128 << 10, depth: 32, write: true },
];

/// The table of all places and loads.
pub(super) fn table(plan: &Plan, peer: bool) -> Result<()> {
    let on_disk = OnDisk(target()?.join(format!("bench-image-{}", std::process::id())));
    nvme_client::bench::fill_pattern(&on_disk.0, DISK)?;
    let device = Loop::over(&plan.dir.join("image"));
    println!(
        "\nStorage: the image is read and written directly (io_uring), beside qemu-storage-daemon with aio=io_uring,cache.direct=on.\n"
    );
    println!("| place | load | depth | server | IOPS | p50 µs | p99 µs | server CPU µs per request |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
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
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..plan.rounds.max(1) {
                ours.push(measure(plan, path, load, true)?);
                if peer {
                    theirs.push(measure(plan, path, load, false)?);
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
            results.push((place, load, ours, theirs));
        }
    }
    println!("\n| target | measured | bound | |\n| --- | --- | --- | --- |");
    for (place, load, ours, theirs) in &results {
        let ratio = |name| of(ours, name) / of(theirs, name);
        let what = |of: &str| format!("{place}, {} QD{}: {of}", load.name, load.depth);
        if load.depth == 1 {
            target_row(&what("p50"), of(ours, "p50") / 1e3, of(theirs, "p50") / 1e3, false, "µs");
        } else if load.block > 4096 {
            target_row(&what("bandwidth"), ratio("iops"), 1.0, true, "×");
            target_row(&what("CPU per request"), ratio("cpu"), CPU_LONG, false, "×");
        } else {
            target_row(&what("IOPS"), ratio("iops"), IOPS, true, "×");
            target_row(&what("CPU per request"), ratio("cpu"), CPU, false, "×");
        }
    }
    Ok(())
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
        let driver = if path.starts_with("/dev/loop") { "host_device" } else { "file" };
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
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{}: measuring failed", path.display()).into());
    }
    Ok(words(&String::from_utf8_lossy(&output.stdout)))
}
