//! An error is the request's own; one of write-back is everybody's until the operator says otherwise.

use std::fs::{self, File};

use rustix::fs::{FallocateFlags, fallocate};

use crate::manager::{self, Manager};
use crate::server::{Bench, Server, wait_until};
use crate::storage::{Loop, MIB, Mount, able, divide, operator, run, serve, session, sparse, vbus};

/// What a server says of an image as it stops.
const LOST: &str = "goes out of use after a failed write-back";
/// Sectors of a mebibyte.
const SECTORS: u64 = MIB / 512;

/// An image of two partitions, 34 MiB each, on a file system over less room than it has been told; its word.
fn too_small_storage(engine: &str) -> (Mount, Loop, Mount, String) {
    let small = Mount::tmpfs(24 * MIB);
    sparse(&small.path("disk"), 128 * MIB);
    // With blocks of 4096 bytes below, an image of 512-byte blocks goes through the page cache.
    let device = Loop::over(&small.path("disk"), &["-b", "4096"]);
    let system = Mount::ext4(&device.0);
    let image = system.path("image");
    sparse(&image, 80 * MIB);
    divide(&image, &[34, 34]);
    let word = vbus(&image, &format!(",serial=a,lba=512,engine={engine}"));
    (small, device, system, word)
}

fn too_small(bench: &Bench, engine: &str) -> (Mount, Loop, Mount, Server) {
    let (small, device, system, word) = too_small_storage(engine);
    let server = serve(bench, &[word]);
    (small, device, system, server)
}

#[test]
fn a_server_that_stops_says_which_images_have_a_failed_write_back() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let (_small, _device, _system, mut server) = too_small(&bench, "uring");
    let mut a = session(&bench, &["device=a:n1:1"]);
    for mib in 0..32 {
        a.write(mib * SECTORS, &[1; MIB as usize]).unwrap();
    }
    assert!(a.flush().is_err(), "{}", server.said());
    assert!(!server.said().contains(LOST));
    drop(a);
    server.stop();
    server.says(LOST);
}

#[test]
fn who_takes_over_a_failed_write_back_says_so_by_name_and_flushes_go_on_failing() {
    if !able() {
        return;
    }
    const SAYS: &str = "a write-back had failed in the server before";
    for engine in ["uring", "threads"] {
        let bench = Bench::new();
        let (small, _device, system, word) = too_small_storage(engine);
        let image = system.path("image").display().to_string();
        let manager = Manager::new(&bench, 100);
        let words = [word, bench.disk(), bench.socket("svr"), bench.socket("admin"), bench.socket("upgrade")];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut server = manager.start(&bench, &words);
        let mut a = manager::client(&bench, &["device=a:n1:1"]);
        for mib in 0..32 {
            a.write(mib * SECTORS, &[1; MIB as usize]).unwrap();
        }
        assert!(a.flush().is_err(), "{engine}: {}", server.said());
        assert!(!server.said().contains(SAYS), "{engine}");
        let said = |server: &Server| {
            let said = server.said();
            let lines: Vec<&str> = said.lines().filter(|line| line.contains(SAYS)).collect();
            assert!(
                matches!(lines[..], [line] if line.contains(&image) && line.contains("may be lost")),
                "{engine}: {said}"
            );
        };
        // Killed, taken over, and killed again after that.
        server = manager.restart(&bench, server, &words);
        assert!(a.flush().is_err(), "{engine}: {}", server.said());
        said(&server);
        server = manager.upgrade(&bench, server, &words);
        assert!(a.flush().is_err(), "{engine}: {}", server.said());
        said(&server);
        server = manager.restart(&bench, server, &words);
        assert!(a.flush().is_err(), "{engine}: {}", server.said());
        said(&server);
        // What is forgotten is forgotten for the next one, too.
        run("mount", &["-o", "remount,size=256m", small.0.path().to_str().unwrap()]);
        operator(&bench, &["resume", "a:n1"]).unwrap();
        a.flush().unwrap();
        server = manager.restart(&bench, server, &words);
        a.flush().unwrap();
        assert!(!server.said().contains(SAYS), "{engine}: {}", server.said());
        drop(a);
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn a_failed_write_back_fails_every_sessions_flush_until_it_is_resumed() {
    if !able() {
        return;
    }
    for engine in ["uring", "threads"] {
        let bench = Bench::new();
        let (small, _device, _system, mut server) = too_small(&bench, engine);
        let mut a = session(&bench, &["device=a:n1:1"]);
        let mut b = session(&bench, &["device=a:n1:2"]);
        a.flush().unwrap();
        for mib in 0..32 {
            a.write(mib * SECTORS, &[1; MIB as usize]).unwrap();
            b.write(mib * SECTORS, &[2; MIB as usize]).unwrap();
        }
        assert!(a.flush().is_err(), "{engine}: {}", server.said());
        assert!(b.flush().is_err(), "{engine}: B's blocks are lost as well");
        assert!(a.flush().is_err(), "{engine}: a second time");
        // Write-through is a flush with each write.
        b.set_write_back(false).unwrap();
        wait_until("write-through", || b.write(0, &[3; 512]).is_err());
        b.set_write_back(true).unwrap();
        // Reads go on, and later sessions are told nothing else.
        a.read(0, &mut [0; 512]).unwrap();
        drop(b);
        assert!(session(&bench, &["device=a:n1:2"]).flush().is_err());
        server.says("write-back failed");
        server.says("nvme-ctl resume a");
        // Without space the next flush would fail as well.
        run("mount", &["-o", "remount,size=256m", small.0.path().to_str().unwrap()]);
        assert_eq!(operator(&bench, &["resume", "nobody:n1"]), Err(3));
        // Whoever ends a drain, of this or of all, forgets nothing of what is lost.
        let latched = "{\"resumed\":[],\"latched\":[\"a:n1\"]}";
        assert_eq!(operator(&bench, &["resume"]).as_deref(), Ok(latched), "{engine}");
        server.says("its flushes fail until `nvme-ctl resume a`");
        operator(&bench, &["drain"]).unwrap();
        let drained = "{\"resumed\":[],\"latched\":[\"a:n1\"],\"drained\":true}";
        assert_eq!(operator(&bench, &["resume"]).as_deref(), Ok(drained), "{engine}");
        assert!(a.flush().is_err(), "{engine}: nobody named it");
        assert_eq!(operator(&bench, &["resume", "a:n1"]).as_deref(), Ok("{\"resumed\":[\"a:n1\"]}"));
        server.says("resumed after a failed write-back");
        a.flush().unwrap();
        drop(a);
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn a_write_without_space_fails_alone_and_later_ones_succeed_when_there_is_some() {
    if !able() {
        return;
    }
    for engine in ["auto", "uring", "threads"] {
        let bench = Bench::new();
        let small = Mount::tmpfs(12 * MIB);
        let image = small.path("image");
        sparse(&image, 64 * MIB);
        divide(&image, &[20, 40]);
        fs::write(small.path("filler"), vec![1; 6 * MIB as usize]).unwrap();
        let mut server = serve(&bench, &[vbus(&image, &format!(",serial=a,engine={engine}"))]);
        let mut writer = session(&bench, &["device=a:n1:1"]);
        let mut reader = session(&bench, &["device=a:n1:2", "read-only"]);
        let failed: Vec<u64> =
            (0..16).filter(|mib| writer.write(mib * SECTORS, &[7; MIB as usize]).is_err()).collect();
        assert!((8..16).contains(&failed.len()), "{engine}: {failed:?}");
        server.says("no space");
        // Whose, of what, where, why: in one line.
        server.says(": a:n1:1: a write of ");
        let said = server.said();
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| {
                line.contains("session 1: a:n1:1: a write of ") && line.contains(" failed: no space")
            })
            .collect();
        let offset = lines[0].split_once(" at offset ").and_then(|(_, rest)| rest.split(' ').next()).unwrap();
        // A write may be several commands.
        let first = failed[0] * MIB..(failed[0] + 1) * MIB;
        assert!(first.contains(&offset.parse().unwrap()), "{failed:?}: {said}");
        assert!(lines.len() <= 4, "{} lines for {} failures: {said}", lines.len(), failed.len());
        // What was written is there, for everybody; holes read as zeroes though there is no room for them.
        let mut bytes = vec![0; MIB as usize];
        writer.read(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|b| *b == 7), "{engine}");
        for mib in 1..30 {
            reader.read(mib * SECTORS, &mut bytes).unwrap_or_else(|e| panic!("{engine}: {mib} {e}"));
            assert!(bytes.iter().all(|b| *b == 0), "{engine}");
        }
        fs::remove_file(small.path("filler")).unwrap();
        writer.write(failed[0] * SECTORS, &[8; MIB as usize]).unwrap();
        writer.read(failed[0] * SECTORS, &mut bytes).unwrap();
        assert!(bytes.iter().all(|b| *b == 8), "{engine}");
        writer.flush().unwrap();
        drop((writer, reader));
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn a_write_beyond_a_quota_fails_alone_and_later_ones_succeed_when_there_is_more() {
    if !able() {
        return;
    }
    for engine in ["uring", "threads"] {
        let bench = Bench::new();
        let file = bench.path("file");
        sparse(&file, 256 * MIB);
        let device = Loop::over(&file, &[]);
        let system = Mount::btrfs(&device.0, 12 * MIB);
        let limited = system.path("limited");
        let image = limited.join("image");
        sparse(&image, 64 * MIB);
        divide(&image, &[30, 30]);
        let mut server = serve(&bench, &[vbus(&image, &format!(",serial=a,engine={engine}"))]);
        let mut writer = session(&bench, &["device=a:n1:1"]);
        let mut reader = session(&bench, &["device=a:n1:2", "read-only"]);
        let failed: Vec<u64> =
            (0..20).filter(|mib| writer.write(mib * SECTORS, &[7; MIB as usize]).is_err()).collect();
        assert!((8..20).contains(&failed.len()), "{engine}: {failed:?}");
        server.says(": a:n1:1: a write of ");
        server.says(" failed: no space");
        let mut bytes = vec![0; MIB as usize];
        writer.read(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|b| *b == 7), "{engine}");
        for mib in 0..20 {
            reader.read(mib * SECTORS, &mut bytes).unwrap_or_else(|e| panic!("{engine}: {mib} {e}"));
        }
        // Zeroes where nothing was written take nothing.
        for (sectors, may_unmap) in [(16, false), (16, true), (1024, false), (1024, true)] {
            let zeroed = writer.write_zeroes(28 * SECTORS, sectors, may_unmap);
            assert!(zeroed.is_ok(), "{engine}: {sectors} {may_unmap}: {}", server.said());
        }
        run("btrfs", &["-q", "qgroup", "limit", "none", limited.to_str().unwrap()]);
        writer.write(failed[0] * SECTORS, &[8; MIB as usize]).unwrap();
        writer.read(failed[0] * SECTORS, &mut bytes).unwrap();
        assert!(bytes.iter().all(|b| *b == 8), "{engine}");
        writer.flush().unwrap();
        drop((writer, reader));
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn write_zeroes_of_holes_need_no_space() {
    if !able() {
        return;
    }
    for engine in ["auto", "uring", "threads"] {
        let bench = Bench::new();
        let small = Mount::tmpfs(4 * MIB);
        let image = small.path("image");
        sparse(&image, 64 * MIB);
        let _ = fs::write(small.path("filler"), vec![1; 8 * MIB as usize]);
        let mut server = serve(&bench, &[vbus(&image, &format!(",serial=a,engine={engine}"))]);
        let mut client = session(&bench, &["device=a:n1"]);
        for (sectors, may_unmap) in [(16, false), (16, true), (1024, false), (1024, true)] {
            client.write_zeroes(2 * SECTORS, sectors, may_unmap).unwrap();
        }
        drop(client);
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn a_block_that_cannot_be_read_fails_its_own_read() {
    if !able() {
        return;
    }
    for engine in ["uring", "threads"] {
        let bench = Bench::new();
        let file = bench.path("file");
        fs::write(&file, vec![5; 8 * MIB as usize]).unwrap();
        let device = Loop::over(&file, &["-r"]);
        // What the device believes to be there is not.
        File::options().write(true).open(&file).unwrap().set_len(4 * MIB).unwrap();
        let mut server = serve(&bench, &[vbus(&device.0, &format!(",serial=a,ro,engine={engine}"))]);
        let mut readers: Vec<_> = (0..3).map(|_| session(&bench, &["device=a:n1", "read-only"])).collect();
        let mut bytes = vec![0; 4096];
        assert!(readers[0].read(6 * SECTORS, &mut bytes).is_err(), "{engine}");
        for reader in &mut readers {
            reader.read(SECTORS, &mut bytes).unwrap();
            assert!(bytes.iter().all(|b| *b == 5));
        }
        server.says("a read of 4096 bytes at offset 6291456 failed");
        drop(readers);
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn a_file_size_limit_is_the_requests_error_and_not_the_servers_end() {
    if !able() {
        return;
    }
    for engine in ["uring", "threads"] {
        let bench = Bench::new();
        let image = bench.path("image");
        sparse(&image, 16 * MIB);
        let mut server = serve(&bench, &[vbus(&image, &format!(",serial=a,engine={engine}"))]);
        let mut client = session(&bench, &["device=a:n1"]);
        run("prlimit", &["--pid", &server.pid().to_string(), "--fsize=4194304"]);
        client.write(0, &[1; 4096]).unwrap();
        assert!(client.write(8 * SECTORS, &[1; 4096]).is_err(), "{engine}");
        client.read(8 * SECTORS, &mut [0; 4096]).unwrap();
        server.says("no space");
        drop(client);
        assert_eq!(server.stop(), 0);
    }
}

/// What a read sees that comes after the page which it reads into was given back, and touched again, as by a balloon.
fn after_a_balloon(options: &str) -> Vec<u8> {
    let bench = Bench::new();
    let image = bench.path("image");
    fs::write(&image, vec![9; MIB as usize]).unwrap();
    let mut server = serve(&bench, &[vbus(&image, &format!(",serial=a{options}"))]);
    let mut client = session(&bench, &["device=a:n1"]);
    let mut bytes = vec![0; 4096];
    client.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [9; 4096]);
    let page = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let scratch = client.scratch - 0x10_0000;
    fallocate(client.memory.file(0).unwrap(), page, scratch / 4096 * 4096, 8192).unwrap();
    assert_eq!(client.memory.bytes(client.scratch, 4).unwrap(), [0; 4]);
    client.read(0, &mut bytes).unwrap();
    drop(client);
    assert_eq!(server.stop(), 0);
    bytes
}

#[test]
fn memory_that_was_given_back_and_touched_again_gets_what_is_read() {
    for engine in ["auto", "uring", "threads"] {
        let read = after_a_balloon(&format!(",engine={engine}"));
        assert_eq!(read, [9; 4096], "{engine}: it was read into a page that nobody has");
    }
}

#[test]
fn with_pin_it_does_not_which_is_why_balloons_must_be_off_then() {
    // The kernel says that it read 4,096 bytes. (A session whose memory held others up has a thread of its own from then on, and is
    // read for by calls that find the page: on a machine with other work that may happen to one.)
    let lost = (0..20).any(|_| after_a_balloon(",engine=uring,pin") == [0; 4096]);
    assert!(lost, "what is pinned was found again");
}

#[test]
fn pinned_memory_is_served_for_one_client_after_the_other_and_of_rings_alone() {
    let bench = Bench::new();
    let image = bench.path("image");
    sparse(&image, 16 * MIB);
    let mut server = serve(&bench, &[vbus(&image, ",serial=a,pin")]);
    server.says("engine=uring, client memory is pinned");
    for round in 1..6_u8 {
        // Each has its own memory, at whatever address the last one's had.
        let mut client = session(&bench, &["device=a:n1"]);
        let written: Vec<u8> = (0..MIB as usize).map(|at| round.wrapping_mul((at / 7) as u8)).collect();
        client.write(u64::from(round) * 64, &written).unwrap();
        let mut read = vec![0; MIB as usize];
        client.read(u64::from(round) * 64, &mut read).unwrap();
        assert!(read == written, "round {round}");
        client.write_zeroes(0, 8, true).unwrap();
        client.flush().unwrap();
    }
    assert!(!server.said().contains("cannot be pinned"), "{}", server.said());
    assert_eq!(server.stop(), 0);
    for engine in ["threads", "window"] {
        let mut server = serve(&bench, &[vbus(&image, &format!(",pin,engine={engine}"))]);
        assert_ne!(server.wait(), 0);
        assert!(server.said().contains("pin: it is of use with engine=uring alone"), "{}", server.said());
    }
}

#[test]
fn what_was_flushed_is_there_after_a_kill() {
    if !able() {
        return;
    }
    for round in 0..20_u8 {
        let bench = Bench::new();
        let file = bench.path("file");
        sparse(&file, 32 * MIB);
        let device = Loop::over(&file, &[]);
        let mut server = serve(&bench, &[vbus(&device.0, ",serial=a")]);
        let mut client = session(&bench, &["device=a:n1"]);
        for at in 0..8_u64 {
            client.write(at * SECTORS, &vec![round + at as u8 + 1; 65536]).unwrap();
        }
        client.flush().unwrap();
        server.signal(rustix::process::Signal::KILL);
        server.wait();
        drop(client);
        for at in 0..8_u64 {
            use std::os::unix::fs::FileExt;
            let mut bytes = vec![0; 65536];
            File::open(&device.0).unwrap().read_exact_at(&mut bytes, at * MIB).unwrap();
            assert!(bytes.iter().all(|b| *b == round + at as u8 + 1), "round {round}");
        }
    }
}
