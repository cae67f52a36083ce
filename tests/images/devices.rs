//! Block devices.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use nvme_client::feature;

use crate::server::{Bench, wait_until};
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
    assert!(server.said().contains("has it for itself"), "{}", server.said());
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
