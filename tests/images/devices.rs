//! Block devices.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nvme_client::feature;

use crate::server::{Bench, Server, wait_until};
use crate::storage::{Loop, MIB, Mount, able, operator, run, serve, session, sparse, taken, vbus};

const SECTORS: u64 = MIB / 512;

/// What the program says when it does not serve.
fn refusal(bench: &Bench, word: &str) -> String {
    let mut server = serve(bench, &[word.to_owned()]);
    assert_ne!(server.wait(), 0, "{}", server.said());
    server.said()
}

#[test]
fn a_block_device_is_served_with_its_own_blocks() {
    if !able() {
        return;
    }
    for engine in ["uring", "threads"] {
        for block in [512_u32, 4096] {
            let bench = Bench::new();
            let file = bench.path("file");
            sparse(&file, 32 * MIB);
            let device = Loop::over(&file, &["-b", &block.to_string()]);
            let mut server = serve(&bench, &[vbus(&device.0, &format!(",serial=a,engine={engine}"))]);
            let mut client = session(&bench, &["device=a:n1"]);
            assert_eq!((client.config.capacity, client.config.blk_size), (32 * SECTORS, block), "{engine}");
            assert_eq!(client.config.write_zeroes_may_unmap, 1);
            let name = device.0.file_name().unwrap().to_str().unwrap();
            let said = fs::read_to_string(format!("/sys/block/{name}/queue/discard_granularity")).unwrap();
            let granularity: u32 = said.trim().parse().unwrap();
            assert!(granularity >= 4096, "{granularity}");
            assert_eq!(client.config.discard_sector_alignment * 512, granularity);
            let written: Vec<u8> = (0..MIB as usize).map(|n| (n * 7 / 13) as u8).collect();
            client.write(8 * SECTORS, &written).unwrap();
            client.flush().unwrap();
            let mut read = vec![0; MIB as usize];
            client.read(8 * SECTORS, &mut read).unwrap();
            assert!(read == written);
            // Behind the device, too.
            assert!(fs::read(&file).unwrap()[8 * MIB as usize..9 * MIB as usize] == written);
            assert!(client.has(feature::DISCARD) && client.has(feature::WRITE_ZEROES));
            client.write_zeroes(8 * SECTORS, 1024, true).unwrap();
            client.write_zeroes(8 * SECTORS + 1024, 1024, false).unwrap();
            client.read(8 * SECTORS, &mut read).unwrap();
            assert!(read.iter().all(|b| *b == 0));
            client.write(0, &written).unwrap();
            client.flush().unwrap();
            let before = taken(&file);
            client.discard(0, SECTORS as u32).unwrap();
            assert!(taken(&file) < before, "nothing was given back");
            drop(client);
            assert_eq!(server.stop(), 0);
        }
    }
}

#[test]
fn a_device_that_somebody_has_is_refused_with_the_holders_name() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 32 * MIB);
    let device = Loop::over(&file, &[]);
    let system = Mount::ext4(&device.0);
    let said = refusal(&bench, &vbus(&device.0, ""));
    let place = system.0.path().to_str().unwrap();
    assert!(said.contains("in use") && said.contains(place), "{said}");
    drop(system);
    // Its own two controllers are in each other's way, too.
    let mut server = serve(&bench, &[vbus(&device.0, ",serial=a"), vbus(&device.0, ",serial=b")]);
    assert_ne!(server.wait(), 0);
    assert!(server.said().contains("another program or mount has it for itself"), "{}", server.said());
    // While it is served nobody mounts it.
    let mut server = serve(&bench, &[vbus(&device.0, ",serial=a")]);
    server.says("seccomp on");
    let mount = std::process::Command::new("mount").arg(&device.0).arg(bench.path("")).output().unwrap();
    assert!(!mount.status.success());
    assert_eq!(server.stop(), 0);
}

/// Swap space on a device. None any more with this value.
struct Swap<'a>(&'a Path);

impl Drop for Swap<'_> {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(self.0).status();
    }
}

#[test]
fn swap_what_lies_below_a_device_and_what_a_process_has_alone_is_refused_by_name() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 32 * MIB);
    let device = Loop::over(&file, &[]);
    let node = device.0.to_str().unwrap();
    run("mkswap", &["-q", node]);
    run("swapon", &[node]);
    let swap = Swap(&device.0);
    let said = refusal(&bench, &vbus(&device.0, ""));
    assert!(said.contains("in use: it is swap space"), "{said}");
    drop(swap);
    // A loop device claims nothing of what it lies over, so this is seen in no other way.
    let above = Loop::over(&device.0, &[]);
    let said = refusal(&bench, &vbus(&device.0, ""));
    let name = above.0.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(said.contains(&format!("{name} lies over it")), "{said}");
    drop(above);
    let alone = File::options().read(true).write(true).custom_flags(exclusively()).open(&device.0).unwrap();
    let said = refusal(&bench, &vbus(&device.0, ""));
    assert!(said.contains(&format!("in use: process {} (", std::process::id())), "{said}");
    drop(alone);
    let mut server = serve(&bench, &[vbus(&device.0, ",serial=a")]);
    server.says("seccomp on");
    assert_eq!(server.stop(), 0);
    // Of a file it is a warning: its owner may know.
    let below = bench.path("below");
    sparse(&below, 32 * MIB);
    let above = Loop::over(&below, &[]);
    let name = above.0.file_name().unwrap().to_str().unwrap().to_owned();
    let mut server = serve(&bench, &[vbus(&below, ",serial=a")]);
    server.says(&format!("{name} has it open for writing, too"));
    assert_eq!(server.stop(), 0);
}

/// What the program says when it is passed a descriptor of the device and does not serve it.
fn refusal_of_passed(bench: &Bench, device: &Path) -> String {
    let file = File::options().read(true).write(true).open(device).unwrap();
    let mut server = bench.start(&[&bench.socket("svr")], &[("vbus", file.as_fd())], &[]);
    assert_ne!(server.wait(), 0, "{}", server.said());
    server.said()
}

/// A partition of a loop device, whatever tables the kernel can read: its node, and the folder where that is.
fn partition(device: &Loop) -> (tempfile::TempDir, PathBuf) {
    run("addpart", &[device.0.to_str().unwrap(), "1", "2048", "98304"]);
    let name = device.0.file_name().unwrap().to_str().unwrap();
    let numbers = format!("/sys/block/{name}/{name}p1/dev");
    wait_until("the partition", || Path::new(&numbers).exists());
    let numbers = fs::read_to_string(numbers).unwrap();
    let (major, minor) = numbers.trim().split_once(':').unwrap();
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("part");
    run("mknod", &[node.to_str().unwrap(), "b", major, minor]);
    (dir, node)
}

#[test]
fn a_device_that_is_passed_and_mounted_is_refused_whatever_hides_the_mount() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 256 * MIB);
    let refused = |device: &Path, why: &str| {
        for said in [refusal_of_passed(&bench, device), refusal(&bench, &vbus(device, ""))] {
            assert!(said.contains("in use: ") && said.contains(why), "{why}: {said}");
        }
    };
    {
        // Its mount has a device number of its own.
        let device = Loop::over(&file, &[]);
        let system = Mount::btrfs(&device.0, 12 * MIB);
        refused(&device.0, &format!("it is mounted on {}", system.0.path().display()));
    }
    // Of two devices the mount names one.
    let second = bench.path("second");
    sparse(&second, 256 * MIB);
    {
        let devices = [Loop::over(&file, &[]), Loop::over(&second, &[])];
        let nodes = devices.each_ref().map(|device| device.0.to_str().unwrap());
        run("mkfs.btrfs", &["-q", "-f", "-K", nodes[0], nodes[1]]);
        run("btrfs", &["device", "scan", nodes[0], nodes[1]]);
        let _system = Mount::of(nodes[0]);
        refused(&devices[1].0, "which is mounted");
    }
    // The kernel holds a disk and its partitions together.
    sparse(&file, 64 * MIB);
    {
        let device = Loop::over(&file, &["-P"]);
        let (_dir, part) = partition(&device);
        let system = Mount::ext4(&part);
        let place = system.0.path().display().to_string();
        refused(&device.0, &format!("p1, is mounted on {place}"));
        drop(system);
        let alone =
            File::options().read(true).write(true).custom_flags(exclusively()).open(&device.0).unwrap();
        refused(&part, &format!("process {} (", std::process::id()));
        drop(alone);
    }
    // Mounted for others, and not for the server.
    sparse(&second, 64 * MIB);
    let device = Loop::over(&second, &[]);
    let dir = tempfile::tempdir().unwrap();
    run("mkfs.ext4", &["-q", "-F", device.0.to_str().unwrap()]);
    let mut other = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount \"$0\" \"$1\" && touch \"$2\" && read line"])
        .args([&device.0, dir.path(), &bench.path("mounted")])
        .stdin(Stdio::piped())
        .spawn()
        .map(Ended)
        .unwrap();
    wait_until("the mount", || bench.path("mounted").exists());
    let place = dir.path().display();
    refused(&device.0, &format!("it is mounted on {place}, as process {} (sh) sees it", other.0.id()));
    other.0.stdin.take();
    other.0.wait().unwrap();
}

/// A process that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_device_that_is_passed_is_the_servers_alone_or_refused() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 32 * MIB);
    let device = Loop::over(&file, &[]);
    // A server that has just ended may have it for a moment still.
    let open = |flags| {
        let mut opened = None;
        wait_until("the device", || {
            opened = File::options().read(true).write(true).custom_flags(flags).open(&device.0).ok();
            opened.is_some()
        });
        opened.unwrap()
    };
    let svr = bench.socket("svr");
    let is_served = |mut server: Server| {
        server.says("seccomp on");
        let mount = Command::new("mount").arg(&device.0).arg(bench.path("")).output().unwrap();
        assert!(!mount.status.success(), "it was mounted while it is served");
        let mut client = session(&bench, &["device=soft0:n1"]);
        client.write(0, &[1; 4096]).unwrap();
        drop(client);
        assert_eq!(server.stop(), 0);
    };
    let shared = open(0);
    is_served(bench.start(&[&svr], &[("vbus", shared.as_fd())], &[]));
    drop(shared);
    // Whoever passes it has it alone, and keeps it: as far as can be seen that is anybody.
    let alone = open(exclusively());
    let mut server = bench.start(&[&svr], &[("vbus", alone.as_fd())], &[]);
    assert_ne!(server.wait(), 0);
    let said = server.said();
    assert!(said.contains(&format!("in use: process {} (", std::process::id())), "{said}");
    assert!(said.contains("whoever passes one must not have it alone (O_EXCL)"), "{said}");
    // Whoever keeps nothing of it has given that away, too.
    let go = bench.path("go");
    let wait = "while [ ! -e \"$0\" ]; do sleep 0.02; done; exec \"$@\"";
    bench.use_program(Path::new("/bin/sh"));
    let words = ["-c", wait, go.to_str().unwrap(), env!("CARGO_BIN_EXE_nvme-drv"), &svr];
    let server = bench.start(&words, &[("vbus", alone.as_fd())], &[]);
    drop(alone);
    std::thread::sleep(Duration::from_millis(200));
    fs::write(&go, "").unwrap();
    is_served(server);
}

#[test]
fn a_device_goes_on_in_the_next_server_and_stays_claimed() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 32 * MIB);
    let device = Loop::over(&file, &[]);
    let words = [vbus(&device.0, ",serial=a"), bench.socket("svr"), bench.socket("upgrade")];
    let words = words.each_ref().map(String::as_str);
    let mut server = bench.start(&words, &[], &[]);
    let mut client = session(&bench, &["device=a:n1"]);
    client.write(0, &[1; 4096]).unwrap();
    let mut next = bench.start(&words, &[], &[]);
    assert_eq!(server.wait(), 0, "{}", next.said());
    client.write(8, &[2; 4096]).unwrap();
    let mount = Command::new("mount").arg(&device.0).arg(bench.path("")).output().unwrap();
    assert!(!mount.status.success(), "it was mounted while it is served");
    drop(client);
    assert_eq!(next.stop(), 0);
}

/// O_EXCL: of a block device, alone.
fn exclusively() -> i32 {
    rustix::fs::OFlags::EXCL.bits().cast_signed()
}

#[test]
fn a_device_sets_the_least_block_size_and_may_be_read_only() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 32 * MIB);
    {
        let device = Loop::over(&file, &["-b", "4096"]);
        let said = refusal(&bench, &vbus(&device.0, ",lba=512"));
        assert!(said.contains("lba=512 is less than the device's block size, 4096"), "{said}");
    }
    let device = Loop::over(&file, &["-r"]);
    let said = refusal(&bench, &vbus(&device.0, ""));
    assert!(said.contains("read-only (`ro`)") || said.contains("ermission denied"), "{said}");
    let mut server = serve(&bench, &[vbus(&device.0, ",serial=a,ro,lba=4096")]);
    let mut client = session(&bench, &["device=a:n1", "read-only"]);
    assert_eq!(client.config.blk_size, 4096);
    client.read(0, &mut [0; 4096]).unwrap();
    drop(client);
    assert_eq!(server.stop(), 0);
    drop(File::open(&file));
}

#[test]
fn a_device_of_blocks_between_those_of_sessions_is_served_with_larger_ones() {
    if !able() {
        return;
    }
    for block in ["1024", "2048"] {
        let bench = Bench::new();
        let file = bench.path("file");
        sparse(&file, 32 * MIB);
        let device = Loop::over(&file, &["-b", block]);
        let said = refusal(&bench, &vbus(&device.0, ""));
        assert!(said.contains(&format!("block size is {block}, and sessions have 512 or 4096")), "{said}");
        let said = refusal(&bench, &vbus(&device.0, ",lba=512"));
        assert!(said.contains(&format!("lba=512 is less than the device's block size, {block}")), "{said}");
        let mut server = serve(&bench, &[vbus(&device.0, ",serial=a,lba=4096")]);
        let mut client = session(&bench, &["device=a:n1"]);
        assert_eq!(client.config.blk_size, 4096);
        client.write(8, &[5; 4096]).unwrap();
        client.flush().unwrap();
        let mut read = [0; 4096];
        client.read(8, &mut read).unwrap();
        assert_eq!(read, [5; 4096]);
        drop(client);
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn a_device_that_goes_for_good_is_lost_to_its_sessions_alone() {
    if !able() {
        return;
    }
    for engine in ["uring", "threads"] {
        let bench = Bench::new();
        let (file, other) = (bench.path("file"), bench.path("other"));
        sparse(&file, 32 * MIB);
        sparse(&other, 32 * MIB);
        let device = Loop::over(&file, &[]);
        let options = format!(",engine={engine}");
        let words =
            [vbus(&device.0, &format!(",serial=a{options}")), vbus(&other, &format!(",serial=b{options}"))];
        let mut server = serve(&bench, &words);
        let mut goes = session(&bench, &["device=a:n1"]);
        let mut stays = session(&bench, &["device=b:n1"]);
        goes.write(0, &[1; 4096]).unwrap();
        File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
        run("losetup", &["-c", device.0.to_str().unwrap()]);
        assert!(goes.read(0, &mut [0; 4096]).is_err(), "{engine}");
        server.says("the device is gone; its sessions are lost");
        server.says("session 1: its device is lost");
        wait_until("a size of nothing", || goes.read_config().unwrap().capacity == 0);
        assert!(goes.write(0, &[0; 4096]).is_err() && goes.flush().is_err());
        stays.write(0, &[2; 4096]).unwrap();
        stays.flush().unwrap();
        assert!(!server.said().contains("session 2: its device"), "{}", server.said());
        assert!(bench.factory().create(&["device=a:n1", "read-only"], None).is_err());
        assert_eq!(operator(&bench, &["rescan", "b"]).unwrap(), "[{\"device\":\"b:n1\",\"bytes\":33554432}]");
        drop((goes, stays));
        assert_eq!(server.stop(), 0);
    }
}
