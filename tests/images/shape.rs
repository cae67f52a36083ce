//! How large an image is, what it takes, and what an operator is told of it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::server::{Bench, Server, wait_until};
use crate::storage::{Loop, MIB, Mount, able, operator, run, serve, session, sparse, taken, vbus};

const SECTORS: u64 = MIB / 512;

#[test]
fn growth_is_told_to_sessions_and_to_new_ones() {
    for engine in ["uring", "threads", "window"] {
        let bench = Bench::new();
        let image = bench.path("image");
        sparse(&image, 8 * MIB);
        let mut server = serve(&bench, &[vbus(&image, &format!(",serial=a,engine={engine}"))]);
        let client = session(&bench, &["device=a:n1"]);
        assert_eq!(client.config.capacity, 8 * SECTORS);
        File::options().write(true).open(&image).unwrap().set_len(12 * MIB).unwrap();
        let told = operator(&bench, &["rescan", "a"]).unwrap();
        assert_eq!(told, "[{\"device\":\"a:n1\",\"bytes\":12582912}]");
        wait_until("the session's new size", || client.read_config().unwrap().capacity == 12 * SECTORS);
        drop(client);
        let mut client = session(&bench, &["device=a:n1"]);
        assert_eq!(client.config.capacity, 12 * SECTORS);
        client.write(11 * SECTORS, &[1; 4096]).unwrap();
        let mut bytes = vec![0; 4096];
        client.read(11 * SECTORS, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 4096]);
        assert_eq!(fs::read(&image).unwrap()[11 << 20..][..4096], [1; 4096]);
        // Less of it is refused blocks, and not a dead image.
        File::options().write(true).open(&image).unwrap().set_len(4 * MIB).unwrap();
        operator(&bench, &["rescan"]).unwrap();
        assert!(client.read(8 * SECTORS, &mut [0; 4096]).is_err());
        assert!(client.write(8 * SECTORS, &[0; 4096]).is_err());
        assert_eq!(fs::metadata(&image).unwrap().len(), 4 * MIB);
        client.write(0, &[1; 4096]).unwrap();
        server.says("shrank");
        assert_eq!(operator(&bench, &["rescan", "nobody"]), Err(3));
        drop(client);
        // As large as it was, for whoever comes new, too; and whole when it is as long again.
        let mut client = session(&bench, &["device=a:n1"]);
        assert_eq!(client.config.capacity, 12 * SECTORS, "{engine}");
        assert!(client.read(8 * SECTORS, &mut [0; 4096]).is_err());
        File::options().write(true).open(&image).unwrap().set_len(12 * MIB).unwrap();
        operator(&bench, &["rescan"]).unwrap();
        client.write(8 * SECTORS, &[5; 4096]).unwrap();
        drop(client);
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn growth_is_noticed_without_an_operator() {
    let bench = Bench::new();
    let engines = ["uring", "threads", "window"];
    for engine in engines {
        sparse(&bench.path(engine), 8 * MIB);
    }
    let all = engines.map(|engine| vbus(&bench.path(engine), &format!(",serial={engine},engine={engine}")));
    let mut server = serve(&bench, &all);
    let mut clients = engines.map(|engine| session(&bench, &[&format!("device={engine}:n1")]));
    for engine in engines {
        File::options().write(true).open(bench.path(engine)).unwrap().set_len(12 * MIB).unwrap();
    }
    for client in &mut clients {
        wait_until("the session's new size", || client.read_config().unwrap().capacity == 12 * SECTORS);
        client.write(11 * SECTORS, &[1; 4096]).unwrap();
    }
    drop(clients);
    assert_eq!(server.stop(), 0);
}

#[test]
fn nobody_is_asked_for_a_size_who_might_not_answer_unless_the_operator_says_so() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let (far, near) = (Mount::unknown(), bench.path("near"));
    for image in [&far.path("far"), &near] {
        sparse(image, 8 * MIB);
    }
    let words = [vbus(&far.path("far"), ",serial=far"), vbus(&near, ",serial=near")];
    let mut server = serve(&bench, &words);
    server.says("ready: ");
    for image in [&far.path("far"), &near] {
        File::options().write(true).open(image).unwrap().set_len(12 * MIB).unwrap();
    }
    let capacity = |device| session(&bench, &[device, "read-only"]).config.capacity;
    assert_eq!(capacity("device=near:n1"), 12 * SECTORS);
    assert_eq!(capacity("device=far:n1"), 8 * SECTORS);
    operator(&bench, &["rescan", "far"]).unwrap();
    assert_eq!(capacity("device=far:n1"), 12 * SECTORS);
    assert_eq!(server.stop(), 0);
}

#[test]
fn an_image_in_memory_that_shrank_fails_what_is_gone_of_it_and_serves_it_again_when_it_is_back() {
    let bench = Bench::new();
    let image = bench.path("image");
    sparse(&image, 8 * MIB);
    let resize = |bytes: u64| File::options().write(true).open(&image).unwrap().set_len(bytes).unwrap();
    let mut server = serve(&bench, &[vbus(&image, ",serial=a")]);
    server.says("engine=window");
    let mut client = session(&bench, &["device=a:n1"]);
    let mut bytes = vec![0; 4096];
    for round in 1..4 {
        for sector in [0, 6 * SECTORS] {
            client.write(sector, &[round; 4096]).unwrap();
        }
        resize(4 * MIB);
        assert!(client.read(6 * SECTORS, &mut bytes).is_err(), "round {round}: it is gone");
        client.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [round; 4096]);
        client.write(0, &[round + 1; 4096]).unwrap();
        client.flush().unwrap();
        resize(8 * MIB);
        client.read(6 * SECTORS, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4096], "round {round}");
    }
    drop(client);
    assert_eq!(server.stop(), 0);
}

/// What a process had of processors so far, in ticks.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    [11, 12].iter().map(|at| fields[*at].parse::<u64>().unwrap()).sum()
}

#[test]
fn nothing_is_done_for_an_image_of_which_nobody_asks_anything() {
    for engine in ["window", "uring", "threads"] {
        let bench = Bench::new();
        let image = bench.path("image");
        sparse(&image, 8 * MIB);
        let mut server = serve(&bench, &[vbus(&image, &format!(",serial=a,engine={engine}"))]);
        let mut client = session(&bench, &["device=a:n1"]);
        client.write(0, &vec![1; MIB as usize]).unwrap();
        client.flush().unwrap();
        std::thread::sleep(Duration::from_millis(700));
        let before = ticks(server.pid());
        std::thread::sleep(Duration::from_millis(800));
        let spent = ticks(server.pid()) - before;
        assert!(spent <= 2, "{engine}: {spent} ticks of idling");
        drop(client);
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn write_zeroes_take_no_storage_where_the_driver_allows_it() {
    for engine in ["auto", "uring", "threads"] {
        let bench = Bench::new();
        let image = bench.path("image");
        sparse(&image, 256 * MIB);
        let mut server = serve(&bench, &[vbus(&image, &format!(",serial=a,engine={engine}"))]);
        let mut client = session(&bench, &["device=a:n1"]);
        assert_eq!(client.config.write_zeroes_may_unmap, 1);
        client.write_zeroes(0, (192 * SECTORS) as u32, true).unwrap();
        assert_eq!(taken(&image), 0, "{engine}");
        client.write(0, &vec![1; 4 * MIB as usize]).unwrap();
        client.flush().unwrap();
        assert_eq!(taken(&image), 4 * MIB);
        client.write_zeroes(0, (4 * SECTORS) as u32, true).unwrap();
        assert_eq!(taken(&image), 0, "{engine}: nothing was given back");
        let mut bytes = vec![1; MIB as usize];
        client.read(SECTORS, &mut bytes).unwrap();
        assert!(bytes.iter().all(|b| *b == 0));
        drop(client);
        assert_eq!(server.stop(), 0);
    }
}

#[test]
fn whoever_sees_the_server_end_can_unmount_what_its_images_lie_on() {
    if !able() {
        return;
    }
    for round in 0..12 {
        let bench = Bench::new();
        let file = bench.path("file");
        sparse(&file, 32 * MIB);
        let device = Loop::over(&file, &[]);
        let system = Mount::ext4(&device.0);
        let image = system.path("image");
        sparse(&image, 8 * MIB);
        let mut server = serve(&bench, &[vbus(&image, ",serial=a,engine=uring"), "--workers=2".to_owned()]);
        let mut client = session(&bench, &["device=a:n1"]);
        client.write(0, &vec![1; MIB as usize]).unwrap();
        client.flush().unwrap();
        if round % 2 == 0 {
            drop(client);
            assert_eq!(server.stop(), 0);
        } else {
            // It is there still.
            assert_eq!(server.stop(), 0);
            drop(client);
        }
        let unmounted = Command::new("umount").arg(system.0.path()).output().unwrap();
        let said = String::from_utf8_lossy(&unmounted.stderr);
        assert!(unmounted.status.success(), "round {round}: {said}: {}", server.said());
    }
}

/// Headers as the descriptions of the formats have them, as far as they say what it is.
fn headers() -> Vec<(Vec<u8>, &'static str)> {
    let all = |parts: &[&[u8]]| parts.concat();
    let number = |number: u32| number.to_le_bytes();
    // VirtualBox's and QEMU's word it otherwise.
    let vdi = |text: &[u8]| {
        let mut header = text.to_vec();
        header.resize(64, 0);
        header.extend(all(&[&number(0xbeda_107f), &number(0x0001_0001), &number(0x190), &number(1)]));
        header
    };
    let luks = |version: u16| {
        let mut header = all(&[b"LUKS\xba\xbe", &version.to_be_bytes(), b"aes"]);
        header.resize(512, 0);
        header
    };
    vec![
        (all(&[b"QFI\xfb", &3_u32.to_be_bytes()]), "qcow2"),
        (all(&[b"KDMV", &number(1), &number(3)]), "VMDK"),
        (all(&[b"COWD", &number(1), &number(3), &number(2048), &number(1), &number(4)]), "VMDK"),
        (b"# Disk DescriptorFile\nversion=1\n".to_vec(), "VMDK"),
        (all(&[b"vhdxfile", b"Q\0E\0M\0U\0"]), "VHDX"),
        (all(&[b"conectix", &2_u32.to_be_bytes(), &0x0001_0000_u32.to_be_bytes()]), "VHD"),
        (all(&[b"QED\0", &number(65536), &number(4), &number(1)]), "QED"),
        (vdi(b"<<< Oracle VM VirtualBox Disk Image >>>\n"), "VDI"),
        (vdi(b"<<< QEMU VM Virtual Disk Image >>>\n"), "VDI"),
        (luks(1), "LUKS"),
        (luks(2), "LUKS"),
        (all(&[b"WithoutFreeSpace", &number(2), &number(16), &number(4)]), "Parallels"),
        (all(&[b"WithouFreSpacExt", &number(2), &number(16), &number(4)]), "Parallels"),
        (all(&[b"Bochs Virtual HD Image\0\0\0\0\0\0\0\0\0\0", b"Redolog\0"]), "Bochs"),
    ]
}

#[test]
fn what_an_operator_should_know_is_said_at_start() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let small = Mount::tmpfs(16 * MIB);
    let said = |name: &str, bytes: &[u8], len: u64, options: &str| {
        let image = small.path(name);
        fs::write(&image, bytes).unwrap();
        File::options().write(true).open(&image).unwrap().set_len(len).unwrap();
        let mut server = serve(&bench, &[vbus(&image, options)]);
        server.says("seccomp on");
        assert_eq!(server.stop(), 0);
        let said = server.said();
        fs::remove_file(image).unwrap();
        said
    };
    assert!(said("tail", b"", MIB + 100, "").contains("the last 100 bytes are no whole block"));
    for (header, name) in headers() {
        let said = said("format", &header, MIB, "");
        assert!(said.contains(&format!("looks like a {name} image")), "{name}: {said}");
    }
    assert!(
        said("sparse", b"", 64 * MIB, "").contains("it is sparse, and 67108864 bytes of it have no space")
    );
    let plain = said("plain", b"", MIB, "");
    assert!(!plain.contains("sparse") && !plain.contains("looks like") && !plain.contains("last"), "{plain}");
    let image = small.path("open");
    sparse(&image, MIB);
    let mut holder = std::process::Command::new("sh")
        .args(["-c", "exec 3>>\"$0\"; read line"])
        .arg(&image)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let info = format!("/proc/{}/fd/3", holder.id());
    wait_until("the other writer", || fs::metadata(&info).is_ok());
    let mut server = serve(&bench, &[vbus(&image, "")]);
    server.says("has it open for writing, too");
    server.says("seccomp on");
    assert!(server.said().contains(&holder.id().to_string()), "{}", server.said());
    assert_eq!(server.stop(), 0);
    // What is only read may change below it.
    let mut server = serve(&bench, &[vbus(&image, ",ro,preallocate")]);
    server.says("has it open for writing; what is read may change at any time");
    server.says("preallocate does nothing for a read-only image");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(server.stop(), 0);
    let file = small.path("device");
    sparse(&file, 8 * MIB);
    let device = Loop::over(&file, &[]);
    let mut server = serve(&bench, &[vbus(&device.0, ",preallocate")]);
    server.says("preallocate does nothing for a block device");
    assert_eq!(server.stop(), 0);
    // Faults of pages that have to be brought are waited for by the worker.
    let (far, holds_up) = (Mount::unknown(), "holds up all sessions of the worker");
    let mut server = serve(&bench, &[vbus(&unopened(&far), ",engine=window")]);
    server.says(holds_up);
    assert_eq!(server.stop(), 0);
    let mut server = serve(&bench, &[vbus(&unopened(&small), ",engine=window")]);
    server.says("seccomp on");
    assert!(!server.said().contains(holds_up), "{}", server.said());
    assert_eq!(server.stop(), 0);
}

/// A new image there.
fn unopened(system: &Mount) -> PathBuf {
    let image = system.path("new");
    sparse(&image, MIB);
    image
}

/// A server that is passed this descriptor.
fn passed(bench: &Bench, file: &File) -> Server {
    bench.start(&[&bench.socket("svr")], &[("vbus", file.as_fd())], &[])
}

#[test]
fn what_a_descriptor_s_flags_would_do_to_writes_is_not_done_or_it_is_refused() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let file = bench.path("file");
    sparse(&file, 64 * MIB);
    // With blocks of 4096 bytes below, an image of 512-byte blocks goes through the page cache.
    let device = Loop::over(&file, &["-b", "4096"]);
    let system = Mount::ext4(&device.0);
    let image = system.path("image");
    let open = |flag: OFlags| {
        let flag = flag.bits().cast_signed();
        File::options().read(true).write(true).custom_flags(flag).open(&image).unwrap()
    };
    sparse(&image, 16 * MIB);
    for flag in [OFlags::APPEND, OFlags::DIRECT] {
        let file = open(flag);
        let mut server = passed(&bench, &file);
        let mut client = session(&bench, &["device=soft0:n1"]);
        client.write(SECTORS + 1, &[7; 512]).unwrap();
        client.flush().unwrap();
        let mut read = [0; 512];
        client.read(SECTORS + 1, &mut read).unwrap();
        assert_eq!(read, [7; 512], "{flag:?}");
        drop(client);
        assert_eq!(server.stop(), 0);
        let bytes = fs::read(&image).unwrap();
        assert_eq!(
            (bytes.len() as u64, &bytes[MIB as usize + 512..][..512]),
            (16 * MIB, &[7; 512][..]),
            "{flag:?}"
        );
        assert!(rustix::fs::fcntl_getfl(&file).unwrap().contains(flag), "it is its giver's, too");
    }
    // It may be appended to, and nothing else.
    run("chattr", &["+a", image.to_str().unwrap()]);
    let file = open(OFlags::APPEND);
    let mut server = passed(&bench, &file);
    assert_ne!(server.wait(), 0);
    assert!(
        server.said().contains("was opened with O_APPEND, and cannot be opened again without"),
        "{}",
        server.said()
    );
    run("chattr", &["-a", image.to_str().unwrap()]);
}

#[test]
fn space_can_be_taken_at_start() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let small = Mount::tmpfs(16 * MIB);
    let image = small.path("image");
    sparse(&image, 8 * MIB);
    let mut server = serve(&bench, &[vbus(&image, ",preallocate")]);
    server.says("seccomp on");
    assert_eq!(taken(&image), 8 * MIB);
    assert_eq!(server.stop(), 0);
    sparse(&image, 64 * MIB);
    let mut server = serve(&bench, &[vbus(&image, ",preallocate")]);
    assert_ne!(server.wait(), 0);
    assert!(server.said().contains("preallocate"), "{}", server.said());
}

#[test]
fn an_image_of_a_hundred_tebibytes_is_served() {
    if !able() {
        return;
    }
    let bench = Bench::new();
    let system = Mount::tmpfs(16 * MIB);
    let image = system.path("image");
    let bytes = 100_u64 << 40;
    sparse(&image, bytes);
    let mut server = serve(&bench, &[vbus(&image, ",serial=a")]);
    let mut client = session(&bench, &["device=a:n1"]);
    assert_eq!(client.config.capacity, bytes / 512);
    client.write(bytes / 512 - 8, &[6; 4096]).unwrap();
    let mut read = [0; 4096];
    client.read(bytes / 512 - 8, &mut read).unwrap();
    assert_eq!(read, [6; 4096]);
    drop(client);
    assert_eq!(server.stop(), 0);
}
