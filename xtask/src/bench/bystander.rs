//! Who has a disk in memory, while another session's storage is slow: a flush of 1 GiB, cold pages, a file system that is frozen. The
//! other's image is on ext4 without direct I/O, so that flushes have something to do. And while the same is done to another server.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvme_client::message::{flag, request};
use nvme_client::{Client, Factory, Io, Options, Segment, kind};

use super::places::{Loop, OnDisk};
use super::{Plan, Result, of, target, target_row, words};

/// Bytes of the file system, of each of the two images in it, and of what is flushed at once.
const SYSTEM: u64 = 2600 << 20;
const IMAGE: u64 = 1200 << 20;
const FLUSHED: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Writes that are asked of a file system that is frozen.
const ASKED: u64 = 40;
/// Of its p99 alone.
const P99: f64 = 2.0;

/// A mounted file system. Gone with this value.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A server that ends with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// What the other session does until it is told to stop.
type Other<'a> = (&'static str, &'a (dyn Fn(&mut Client, &AtomicBool) -> Result<()> + Sync));

pub(super) fn rows(plan: &Plan) -> Result<()> {
    let file = OnDisk(target()?.join(format!("bench-system-{}", std::process::id())));
    File::create(&file.0)?.set_len(SYSTEM)?;
    // Blocks of 4096 below, so that an image of 512-byte blocks goes through the page cache.
    let Some(device) = Loop::over(&file.0, &["-b", "4096"]) else {
        println!("| bystanders | skipped: needs root and loop devices | | |");
        return Ok(());
    };
    let (node, place) = (device.0.display().to_string(), plan.dir.join("system"));
    std::fs::create_dir(&place)?;
    let system = place.display().to_string();
    if !run("mkfs.ext4", &["-q", "-F", "-m", "0", &node]) || !run("mount", &[&node, &system]) {
        return Err("no file system for the bystanders' neighbour".into());
    }
    let mount = Mount(place);
    let images = ["image", "image-of-the-other"].map(|name| mount.0.join(name));
    for image in &images {
        File::create(image)?.set_len(IMAGE)?;
    }
    let cold = |client: &mut Client, stop: &AtomicBool| cold(client, stop, &images);
    let frozen = |client: &mut Client, stop: &AtomicBool| frozen(client, stop, &system);
    let others: [Other<'_>; 4] = [
        ("flushes 1 GiB", &flushes),
        ("floods the server with messages while it flushes 1 GiB", &floods),
        ("reads what is in no cache", &cold),
        ("has its file system frozen", &frozen),
    ];
    for (near, what) in
        [("mem:64M".to_owned(), "memory"), (plan.dir.join("image").display().to_string(), "another image")]
    {
        let server = serve(plan, &near, &images[0], "socket")?;
        let _other = serve(plan, "mem:64M", &images[1], "far-socket")?;
        let alone = measure(plan, &server)?;
        for (name, other) in others {
            let during = |far: &Path| {
                let stop = AtomicBool::new(false);
                std::thread::scope(|scope| -> Result<f64> {
                    let working = scope.spawn(|| {
                        session(far).and_then(|mut far| other(&mut far, &stop)).map_err(|e| e.to_string())
                    });
                    std::thread::sleep(Duration::from_millis(500));
                    let beside = measure(plan, &server);
                    stop.store(true, Ordering::Relaxed);
                    working.join().map_err(|_| "the other session failed")??;
                    beside
                })
            };
            let beside = during(&plan.dir.join("socket"))?;
            // The same on a server of its own: there the two share the machine alone.
            let control = during(&plan.dir.join("far-socket"))? / alone;
            let row = format!(
                "p99 of who has {what}, while another {name} (alone {:.1} µs; beside another server {control:.1} ×)",
                alone / 1e3
            );
            target_row(&row, beside / alone, P99, false, "×");
        }
    }
    Ok(())
}

fn serve(plan: &Plan, near: &str, far: &Path, socket: &str) -> Result<Server> {
    let socket = plan.dir.join(socket);
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new(&plan.server);
    command.arg("--quiet").args(["--cap", &format!("vbus=soft:{near},serial=near")]);
    command.args(["--cap", &format!("vbus=soft:{},serial=far,engine=uring,lba=512", far.display())]);
    command.args(["--cap", &format!("svr=unix:{}", socket.display())]);
    Ok(Server(command.stdin(Stdio::null()).spawn()?))
}

fn session(socket: &Path) -> Result<Client> {
    let wait = Duration::from_secs(300);
    let session = Factory::connect_retry(socket, wait)?.create(&["device=far:n1"], None)?;
    Ok(Client::from_fd(session, &Options { wait, ..Options::default() })?)
}

/// p99 of the bystander, in nanoseconds: one request after the other.
fn measure(plan: &Plan, server: &Server) -> Result<f64> {
    let mut command = Command::new(&plan.blkbench);
    command.args(["--plain", "--depth", "1", "--create", "device=near:n1"]);
    command.args(["--time", &plan.seconds.max(3.0).to_string(), "--pid", &server.0.id().to_string()]);
    let output =
        command.arg(plan.dir.join("socket")).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("measuring the bystander failed".into());
    }
    Ok(of(&words(&String::from_utf8_lossy(&output.stdout)), "p99"))
}

fn flushes(client: &mut Client, stop: &AtomicBool) -> Result<()> {
    let bytes = vec![5; MIB as usize];
    while !stop.load(Ordering::Relaxed) {
        for at in 0..FLUSHED / MIB {
            client.write(at * MIB / 512, &bytes)?;
        }
        client.flush()?;
    }
    Ok(())
}

fn floods(client: &mut Client, stop: &AtomicBool) -> Result<()> {
    let bytes = vec![6; MIB as usize];
    while !stop.load(Ordering::Relaxed) {
        for at in 0..FLUSHED / MIB {
            client.write(at * MIB / 512, &bytes)?;
        }
        let queue = client.queue(0)?;
        queue.submit(Io { kind: kind::FLUSH, sector: 0, segments: &[], to_device: false }, 0)?;
        queue.publish()?;
        queue.kick()?;
        while client.queue(0)?.poll()?.is_none() {
            // Nobody waits for an answer.
            let queue = client.queues.first().ok_or("no queue")?;
            let payload = u64::from(queue.index).to_ne_bytes();
            client.front.send(request::SET_VRING_CALL, flag::VERSION, &payload, &[queue.call.as_fd()])?;
        }
    }
    Ok(())
}

fn cold(client: &mut Client, stop: &AtomicBool, images: &[PathBuf]) -> Result<()> {
    let mut bytes = vec![0; MIB as usize];
    while !stop.load(Ordering::Relaxed) {
        for image in images {
            run("dd", &[&format!("if={}", image.display()), "iflag=nocache", "count=0", "status=none"]);
        }
        for at in 0..FLUSHED / MIB {
            client.read(at * MIB / 512, &mut bytes)?;
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    Ok(())
}

fn frozen(client: &mut Client, stop: &AtomicBool, system: &str) -> Result<()> {
    if !run("fsfreeze", &["-f", system]) {
        return Err("the file system cannot be frozen".into());
    }
    let asked = ask(client);
    while asked.is_ok() && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
    run("fsfreeze", &["-u", system]);
    asked?;
    // All of them are answered now.
    let until = Instant::now() + Duration::from_secs(60);
    for _ in 0..ASKED {
        let queue = client.queue(0)?;
        queue.wait(Duration::ZERO, until)?;
        queue.poll()?.ok_or("a write was not answered")?;
    }
    Ok(())
}

/// Writes that wait; with each its descriptors.
fn ask(client: &mut Client) -> Result<()> {
    let scratch = client.scratch;
    let queue = client.queue(0)?;
    for n in 0..ASKED {
        let segments = [Segment { addr: scratch, len: 4096 }];
        queue.submit(Io { kind: kind::OUT, sector: n * 8, segments: &segments, to_device: true }, n)?;
    }
    queue.publish()?;
    Ok(queue.kick()?)
}
