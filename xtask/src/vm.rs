//! `cargo xtask vm`: the server on VFIO, where there is somebody else's NVMe controller behind an IOMMU: in a virtual machine,
//! with QEMU's.
//!
//! The machine has a Debian kernel, a controller with two namespaces (blocks of 512 and of 4096 bytes), another that can be
//! pulled out, and this build's programs. Everything runs in it: binding, the server, and its clients.

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::machine::archive::{self, Archive};
use crate::machine::console::Machine;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MODULES: [&str; 4] = ["vfio-pci", "vfio_iommu_type1", "nvme", "ext4"];
/// The controller under test.
const ADDRESS: &str = "0000:00:04.0";
/// Another, which can be pulled out.
const SECOND: &str = "0000:01:00.0";
/// Bytes of each namespace.
const NAMESPACE: u64 = 64 << 20;
/// How long one command in the machine may take.
const WAIT: Duration = Duration::from_secs(120);

/// Another way to run the server, and what its log must say then.
const MODES: [(&str, &str); 4] = [
    ("", "MSI-X with 65 vectors"),
    ("--nosgl", "MSI-X with 65 vectors"),
    ("--nomsix", "INTx with 1 vectors"),
    ("--nomsix --nomsi --nosgl --workers 2", "INTx with 1 vectors"),
];

pub(crate) fn vm() -> Result<()> {
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        return Err("qemu-system-x86_64 is not there; .ci/install-packages has what is needed".into());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--quiet", "-p", "nvme-drv", "-p", "nvme-client", "--bins"];
    if !Command::new(cargo).current_dir(crate::root()).args(build).status()?.success() {
        return Err("the build failed".into());
    }
    let programs = std::env::current_exe()?.parent().ok_or("no folder of programs")?.to_path_buf();
    let dir = tempfile::tempdir()?;
    let (version, vmlinux) = archive::kernel(dir.path())?;
    let initramfs = initramfs(dir.path(), &version, &programs)?;
    let begin = Instant::now();
    let mut bed = Bed { guest: launch(dir.path(), &vmlinux, &initramfs)?, failed: 0 };
    println!("Linux {version} in {:.1} s", begin.elapsed().as_secs_f64());
    bed.all();
    let failed = bed.failed;
    bed.guest.power_off();
    println!("{failed} failed, in {:.1} s", begin.elapsed().as_secs_f64());
    if failed == 0 { Ok(()) } else { Err("the server on VFIO does not do what it should".into()) }
}

/// The machine's files: symbols are left out, since all of it is unpacked into memory.
fn initramfs(dir: &Path, version: &str, programs: &Path) -> Result<PathBuf> {
    let mut archive = Archive::default();
    archive.shell(
        "for i in $(seq 400); do [ $(ls /dev/nvme*n* 2>/dev/null | wc -l) = 3 ] && break; sleep 0.05; done",
    )?;
    archive.modules(version, &MODULES)?;
    for name in ["nvme-drv", "nvme-ctl", "blkcheck", "blkbench"] {
        let small = dir.join(name);
        let status = Command::new("strip").arg("-o").arg(&small).arg(programs.join(name)).status()?;
        if !status.success() {
            return Err(format!("strip {name}: {status}").into());
        }
        archive.linked(&small, name)?;
    }
    archive.program("mkfs.ext4")?;
    let path = dir.join("initramfs");
    std::fs::write(&path, archive.finish())?;
    Ok(path)
}

fn launch(dir: &Path, vmlinux: &Path, initramfs: &Path) -> Result<Machine> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "q35,kernel-irqchip=split", "-m", "768M", "-smp", "2", "-vga", "none"]);
    qemu.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
    for name in ["n1", "n2", "n3"] {
        let path = dir.join(name);
        File::create(&path)?.set_len(NAMESPACE)?;
        let drive = format!("file={},if=none,id={name},format=raw,cache=unsafe", path.display());
        qemu.args(["-drive", &drive]);
    }
    qemu.args(["-device", "nvme,serial=1234,id=nvme0,addr=04.0"]);
    qemu.args(["-device", "nvme-ns,drive=n1,bus=nvme0,nsid=1"]);
    let blocks = "logical_block_size=4096,physical_block_size=4096";
    qemu.args(["-device", &format!("nvme-ns,drive=n2,bus=nvme0,nsid=2,{blocks}")]);
    qemu.args(["-device", "pcie-root-port,id=rp,chassis=1,slot=1,addr=05.0"]);
    qemu.args(["-device", "nvme,serial=5678,id=nvme1,bus=rp"]);
    qemu.args(["-device", "nvme-ns,drive=n3,bus=nvme1,nsid=1"]);
    Ok(Machine::launch("vm", qemu, (vmlinux, initramfs), "intel_iommu=on", Stdio::null(), None))
}

struct Bed {
    guest: Machine,
    failed: usize,
}

impl Bed {
    /// Runs a command, whose status must be `status` and whose output must hold `text`.
    fn check(&mut self, what: &str, command: &str, status: i32, text: &str) {
        let (got, output) = self.guest.attempt(command, WAIT);
        let good = got == status && output.contains(text);
        let last = output.trim().lines().last().unwrap_or_default().to_owned();
        println!("{} {what}: {last}", if good { "ok    " } else { "FAILED" });
        if !good {
            println!("       status {got}, not {status}; wanted {text:?} in:\n{output}");
            self.failed += 1;
        }
    }

    fn all(&mut self) {
        let server = format!("nvme-drv -v --cap vbus=pci:{ADDRESS} --cap svr=unix:/tmp/svr");
        let bind = format!("nvme-ctl bind {ADDRESS}");
        let bound = format!("{ADDRESS} is not bound to vfio-pci (driver nvme); bind it: {bind}");
        self.check("a controller of the kernel's is refused", &server, 1, &bound);
        self.guest.run(&format!(
            "D=/dev/$(ls -d /sys/bus/pci/devices/{ADDRESS}/nvme/nvme*/nvme*n1 | sed 's,.*/,,')"
        ));
        self.guest.run("mkfs.ext4 -q -F -O ^has_journal $D && mount -t ext4 $D /mnt");
        self.check("a controller in use is not bound", &bind, 1, "n1 is mounted");
        self.check("bind", &format!("umount /mnt && {bind}"), 0, "");
        for (options, says) in MODES {
            self.mode(&server, options, says);
        }
        self.killed(&server);
        self.user(&server);
        self.removed(&server);
        let unbind =
            format!("nvme-ctl unbind {ADDRESS} && sleep 1 && ls /sys/bus/pci/devices/{ADDRESS}/nvme");
        self.check("unbind", &unbind, 0, "nvme");
        self.check("no IOMMU fault", "! dmesg | grep -iE 'DMAR.*fault'", 0, "");
    }

    /// Starts a server. Its log is in `/tmp/log`.
    fn start(&mut self, command: &str) {
        self.guest.run(&format!("rm -f /tmp/svr; {command} >/tmp/log 2>&1 & echo $! >/tmp/pid"));
        self.guest.run("for i in $(seq 100); do [ -S /tmp/svr ] && break; sleep 0.1; done");
    }

    fn stop(&mut self, what: &str) {
        self.check(what, "kill $(cat /tmp/pid); wait $(cat /tmp/pid)", 0, "");
    }

    fn mode(&mut self, server: &str, options: &str, says: &str) {
        let name = if options.is_empty() { "usual" } else { options };
        self.start(&format!("{server} {options}"));
        for device in ["1234:n1", "1234:n2"] {
            let command = format!("blkcheck /tmp/svr device={device}");
            self.check(&format!("{name}, {device}"), &command, 0, "ok 1234:n");
        }
        let bench = "blkbench /tmp/svr --create device=1234:n1 --write --depth 32 --time 1 --plain";
        self.check(&format!("{name}, writes, 32 deep"), bench, 0, "iops=");
        let unbind = format!("nvme-ctl unbind {ADDRESS}");
        self.check(&format!("{name}, unbind while served is refused"), &unbind, 1, "in use by a program");
        self.check(&format!("{name}, log"), &format!("grep -F '{says}' /tmp/log"), 0, says);
        self.stop(&format!("{name}, stop"));
        self.check(&format!("{name}, no errors"), "! grep -E 'error|panick' /tmp/log", 0, "");
    }

    /// A server that is killed in mid-I/O leaves nothing behind: the next one starts and serves.
    fn killed(&mut self, server: &str) {
        self.start(server);
        let bench = "blkbench /tmp/svr --create device=1234:n1 --write --time 20";
        self.guest.run(&format!("{bench} >/tmp/bench 2>&1 & sleep 3"));
        self.guest.attempt("kill -9 $(cat /tmp/pid); wait", WAIT);
        self.check("killed in mid-I/O, its client knows", "cat /tmp/bench", 0, "blkbench: ");
        self.start(server);
        self.check("killed in mid-I/O, started again", "blkcheck /tmp/svr device=1234:n1", 0, "ok 1234:n1");
        self.stop("killed in mid-I/O, stop");
    }

    /// As an ordinary user, who has the group's file, and may lock little memory or enough.
    fn user(&mut self, server: &str) {
        self.guest.run("mkdir -p /etc && echo 'u:x:1000:1000::/:/bin/sh' >/etc/passwd");
        let group =
            format!("/dev/vfio/$(readlink /sys/bus/pci/devices/{ADDRESS}/iommu_group | sed 's,.*/,,')");
        let user = format!("exec su u -s /bin/sh -c '{server}'");
        self.check(
            "a user without the group's file",
            &format!("({user})"),
            1,
            "no permission to open /dev/vfio/",
        );
        self.guest.run(&format!("chown 1000 {group}"));
        self.start(&format!("(ulimit -l 64; {user})"));
        let told = "sleep 2; grep -o 'RLIMIT_MEMLOCK is too small.*' /tmp/log";
        self.check("a user who may lock 64 KiB", told, 0, "bytes are needed");
        self.guest.attempt("kill $(cat /tmp/pid); wait", WAIT);
        self.start(&format!("(ulimit -l 65536; {user})"));
        self.check("a user who may lock 64 MiB", "blkcheck /tmp/svr device=1234:n1", 0, "ok 1234:n1");
        self.stop("a user, stop");
    }

    /// One of two controllers is pulled out in mid-I/O: its client sees errors, the other controller is served on.
    fn removed(&mut self, server: &str) {
        self.check("bind a second controller", &format!("nvme-ctl bind {SECOND}"), 0, "");
        self.start(&format!("{server} --cap vbus=pci:{SECOND}"));
        self.check(
            "two controllers",
            "blkcheck /tmp/svr device=5678:n1 && blkcheck /tmp/svr device=1234:n1",
            0,
            "ok 1234:n1",
        );
        self.guest
            .run("blkbench /tmp/svr --create device=5678:n1 --write --time 60 >/tmp/bench 2>&1 & sleep 2");
        self.guest.monitor(&[r#"{"execute":"device_del","arguments":{"id":"nvme1"}}"#]);
        let place = format!("/sys/bus/pci/devices/{SECOND}");
        let gone =
            format!("for i in $(seq 100); do [ -e {place} ] || break; sleep 0.3; done; [ ! -e {place} ]");
        self.check("pulled out in mid-I/O, given back", &gone, 0, "");
        self.check("its client sees an error", "sleep 1; cat /tmp/bench", 0, "IoErr");
        self.check("the log says so", "grep -F 'taken away' /tmp/log", 0, "controller 1");
        self.check("the other serves on", "blkcheck /tmp/svr device=1234:n1", 0, "ok 1234:n1");
        self.stop("pulled out, stop");
    }
}
