//! Block devices.

use std::fs::{self, File};

use nvme_client::feature;

use crate::server::Bench;
use crate::storage::{Loop, MIB, Mount, able, serve, session, sparse, taken, vbus};

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
