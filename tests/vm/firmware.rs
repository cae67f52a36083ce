//! Firmware as a client: U-Boot, which asks for single sectors of 512 bytes whatever a disk says of its blocks.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::need;
use crate::server::program;

const UBOOT: &str = "/usr/lib/u-boot/qemu-x86_64/u-boot.rom";
const SECTOR: usize = 512;
const WAIT: Duration = Duration::from_secs(120);

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// U-Boot's shell, on the serial console.
struct Shell {
    _qemu: Running,
    input: ChildStdin,
    said: Arc<Mutex<String>>,
}

impl Shell {
    fn start(socket: &Path) -> Self {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-nodefaults", "-display", "none", "-serial", "stdio", "-bios", UBOOT]);
        qemu.args(["-object", "memory-backend-memfd,id=mem,size=256M,share=on", "-m", "256M"]);
        // It finds virtio disks on this machine, and not on q35.
        qemu.args(["-M", "pc,memory-backend=mem", "-device", "vhost-user-blk-pci,chardev=disk", "-chardev"]);
        qemu.arg(format!("socket,id=disk,path={}", socket.display()));
        let mut qemu = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, mut output) = (qemu.stdin.take().unwrap(), qemu.stdout.take().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        let lines = Arc::clone(&said);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
                eprint!("{text}");
                lines.lock().unwrap().push_str(&text);
            }
        });
        let mut shell = Self { _qemu: Running(qemu), input, said };
        // A key stops what it boots by itself.
        let end = Instant::now() + WAIT;
        while !shell.said.lock().unwrap().ends_with("=> ") {
            assert!(Instant::now() < end, "no shell");
            shell.input.write_all(b" ").unwrap();
            std::thread::sleep(Duration::from_millis(200));
        }
        // What was typed too late.
        shell.input.write_all(&[3]).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        shell
    }

    /// Gives a command, and says what came until its shell is back.
    fn run(&mut self, command: &str) -> String {
        let before = self.said.lock().unwrap().len();
        self.input.write_all(command.as_bytes()).unwrap();
        self.input.write_all(b"\r").unwrap();
        let end = Instant::now() + WAIT;
        loop {
            let said = self.said.lock().unwrap()[before..].to_owned();
            // The command's own echo stands behind the prompt that was there.
            if said.contains(command) && said.ends_with("=> ") {
                return said;
            }
            assert!(Instant::now() < end, "{command}: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The first bytes at an address of its memory, as text.
    fn text(&mut self, at: u32) -> String {
        let said = self.run(&format!("md.b {at:#x} 10"));
        let line =
            said.lines().find(|line| line.starts_with(&format!("{at:08x}:"))).expect("a line of memory");
        line.chars().rev().take(16).collect::<Vec<_>>().into_iter().rev().collect()
    }
}

/// The disk's bytes: each sector begins with its number.
fn image() -> Vec<u8> {
    (0..16_384)
        .flat_map(|n| format!("sector {n:08};").into_bytes().into_iter().cycle().take(SECTOR))
        .collect()
}

#[test]
fn u_boot_reads_and_writes_single_sectors_of_a_disk_with_4096_byte_blocks() {
    let Some(_needs) = need::needs(need::beside).filter(|_| need::file(UBOOT)) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (disk, socket) = (dir.path().join("disk"), dir.path().join("cl1"));
    let mut want = image();
    fs::write(&disk, &want).unwrap();
    let mut server = Command::new(program());
    server.arg("--cap").arg(format!("vbus=soft:{},serial=1,lba=4096", disk.display()));
    server
        .args(["--client", "cl1", "--device", "1:n1", "--cap"])
        .arg(format!("cl1=unix:{}", socket.display()));
    let _server = Running(server.stdin(Stdio::null()).spawn().unwrap());
    let end = Instant::now() + WAIT;
    while !socket.exists() {
        assert!(Instant::now() < end, "no socket");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut shell = Shell::start(&socket);
    shell.run("virtio scan");
    assert!(shell.run("virtio info").contains("(16384 x 512)"));
    // One sector; some that begin and end inside of blocks; whole blocks.
    for (sector, count) in [(3, 1), (1, 0xf), (0x3fff, 1), (8, 0x10)] {
        let said = shell.run(&format!("virtio read 0x2000000 {sector:x} {count:x}"));
        assert!(said.contains("OK"), "{said}");
        assert_eq!(shell.text(0x200_0000), format!("sector {sector:08};"));
        let last = sector + count - 1;
        assert_eq!(shell.text(0x200_0000 + (count - 1) * 512), format!("sector {last:08};"));
    }
    shell.run("virtio read 0x2000000 64 9");
    for (sector, count) in [(5, 1), (0xe, 9)] {
        assert!(shell.run(&format!("virtio write 0x2000000 {sector:x} {count:x}")).contains("OK"));
        let (to, from) = (sector * SECTOR, 0x64 * SECTOR);
        want.copy_within(from..from + count * SECTOR, to);
    }
    let is = fs::read(&disk).unwrap();
    let first = is.chunks(SECTOR).zip(want.chunks(SECTOR)).position(|(is, want)| is != want);
    assert_eq!(first, None, "the first sector that is not what it should be");
}
