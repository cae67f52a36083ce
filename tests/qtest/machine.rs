//! Starting QEMU: a q35 board with an IOMMU, each controller behind a root port of its own, no guest.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::device::QemuDevice;
use crate::iommu::Iommu;
use crate::memory::Memory;
use crate::need::QEMU;
use crate::pci::Function;
use crate::qmp::Qmp;
use crate::qtest::Qtest;

const MEMORY: u64 = 96 << 20;
/// How long QEMU may take to start, on a box with other work.
const START: Duration = Duration::from_secs(30);
/// How long it may take to answer anything.
const ANSWER: Duration = Duration::from_secs(30);

/// One namespace.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) block: u32,
    pub(crate) bytes: u64,
    /// More properties of `nvme-ns`, each after a comma.
    pub(crate) more: &'static str,
    /// Options of `blkdebug`, JSON, without braces.
    pub(crate) debug: Option<&'static str>,
    /// Its requests go through the throttle group `slow`.
    pub(crate) slow: bool,
    /// Each write that is to be synced reaches `debug` as a write and a flush. A file takes both as one (since QEMU 10), and `debug` passes
    /// that by; what compares two files knows no such thing, and stands above.
    pub(crate) apart: bool,
}

impl Disk {
    pub(crate) fn new(block: u32) -> Self {
        Self { block, bytes: 8 << 20, more: "", debug: None, slow: false, apart: false }
    }
}

/// What a machine has.
pub(crate) struct Shape {
    /// Namespaces 1, 2, … of the first controller.
    pub(crate) disks: Vec<Disk>,
    /// More properties of `nvme`, each after a comma, one entry for each controller. More than one share a subsystem, and the first
    /// has all namespaces.
    pub(crate) controllers: Vec<&'static str>,
    /// But these are drives of their own, with a namespace each, and one serial number.
    pub(crate) apart: bool,
    /// Whether doorbells in memory are wanted.
    pub(crate) doorbell_buffers: bool,
}

impl Default for Shape {
    /// One controller, namespaces with blocks of 512 and 4096 bytes.
    fn default() -> Self {
        Self {
            disks: vec![Disk::new(512), Disk::new(4096)],
            controllers: vec![""],
            apart: false,
            doorbell_buffers: false,
        }
    }
}

impl Shape {
    pub(crate) fn of(disk: Disk) -> Self {
        Self { disks: vec![disk], ..Self::default() }
    }
}

/// A running machine; dropped, it is killed.
pub(crate) struct Machine {
    child: Child,
    dir: tempfile::TempDir,
    qtest: Qtest,
    pub(crate) qmp: Qmp,
    pub(crate) memory: Memory,
    pub(crate) iommu: Iommu,
}

/// In memory where there is such a place: tests do not wait for a disk.
fn folder() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir()
        && let Ok(dir) = tempfile::tempdir_in(shm)
    {
        return dir;
    }
    tempfile::tempdir().unwrap()
}

fn file(path: &Path, bytes: u64) -> File {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(bytes).unwrap();
    file
}

/// The firmware: the first instruction is at the last 16 bytes. cli; hlt; and again.
fn rom(path: &Path) {
    let mut rom = vec![0xf4; 64 << 10];
    let at = rom.len() - 16;
    rom[at..at + 4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    std::fs::write(path, rom).unwrap();
}

fn accept(listener: &UnixListener, child: &mut Child) -> Result<UnixStream, String> {
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + START;
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(ANSWER)).unwrap();
            return Ok(stream);
        }
        let ended = child.try_wait().unwrap();
        if ended.is_some() || Instant::now() >= deadline {
            return Err(format!("{ended:?}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Machine {
    pub(crate) fn new(shape: &Shape) -> Self {
        Self::start(shape).unwrap_or_else(|why| panic!("QEMU does not start: {why}"))
    }

    /// The machine, or what QEMU said when it did not start.
    pub(crate) fn start(shape: &Shape) -> Result<Self, String> {
        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        rom(&at("rom"));
        let ram = file(&at("ram"), MEMORY);
        let listeners = ["qtest", "qmp"].map(|name| UnixListener::bind(at(name)).unwrap());
        let mut words: Vec<String> = Vec::new();
        let mut say = |option: &str, value: String| words.extend([option.to_owned(), value]);
        let path = |name: &str| at(name).to_str().unwrap().to_owned();
        say("-accel", "tcg".into());
        say("-M", "q35,memory-backend=ram,usb=off,vmport=off".into());
        say("-m", format!("{}M", MEMORY >> 20));
        say("-bios", path("rom"));
        say("-object", format!("memory-backend-file,id=ram,size={MEMORY},share=on,mem-path={}", path("ram")));
        say("-object", "throttle-group,id=slow".into());
        say("-qtest", format!("unix:{}", path("qtest")));
        say("-qtest-log", "none".into());
        say("-qmp", format!("unix:{}", path("qmp")));
        // Root ports that need no ACPI to let go of what is plugged there.
        say("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off".into());
        say("-device", "intel-iommu,intremap=off,aw-bits=39".into());
        let shared = shape.controllers.len() > 1 && !shape.apart;
        if shared {
            say("-device", "nvme-subsys,id=subsystem,nqn=qtest".into());
        }
        for (i, more) in shape.controllers.iter().enumerate() {
            say("-device", format!("pcie-root-port,id=port{i},chassis={},addr={:#x}", i + 1, 4 + i));
            let subsystem = if shared { ",subsys=subsystem" } else { "" };
            say("-device", format!("nvme,id=nvme{i},bus=port{i},serial=  qtest 0 {more}{subsystem}"));
        }
        for (i, disk) in shape.disks.iter().enumerate() {
            file(&at(&format!("disk{i}")), disk.bytes);
            let storage = |name: &str| format!(r#"{{"driver":"file","filename":"{}"}}"#, path(name));
            let mut node =
                format!(r#"{{"driver":"raw","file":{},"discard":"unmap""#, storage(&format!("disk{i}")));
            let mut wrap = |driver: &str, child: &str, more: &str| {
                node = format!(r#"{{"driver":"{driver}","{child}":{node}}},"discard":"unmap"{more}"#);
            };
            if let Some(debug) = disk.debug {
                wrap("blkdebug", "image", &format!(",{debug}"));
            }
            if disk.apart {
                let twin = format!("twin{i}");
                file(&at(&twin), disk.bytes);
                wrap("blkverify", "test", &format!(r#","raw":{}"#, storage(&twin)));
            }
            if disk.slow {
                wrap("throttle", "file", r#","throttle-group":"slow""#);
            }
            let _ = write!(node, r#","node-name":"disk{i}"}}"#);
            say("-blockdev", node);
            let Disk { block, more, .. } = disk;
            let size = format!("logical_block_size={block},physical_block_size={block}");
            let (bus, nsid) = if shape.apart { (i, 1) } else { (0, i + 1) };
            let at = format!("nsid={nsid},bus=nvme{bus}");
            say("-device", format!("nvme-ns,id=ns{},drive=disk{i},{at},{size}{more}", i + 1));
        }
        let mut child = Command::new(QEMU)
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file(&at("said"), 0))
            .spawn()
            .unwrap();
        let [qtest, qmp] = listeners.map(|listener| accept(&listener, &mut child));
        let both = qtest.and_then(|qtest| Ok((Qtest::new(qtest), Qmp::new(qmp?)?)));
        let (qtest, qmp) = match both {
            Ok(both) => both,
            Err(why) => {
                let said = std::fs::read_to_string(at("said")).unwrap_or_default();
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{why}\n{said}"));
            }
        };
        let memory = Memory::new(&ram, MEMORY);
        let iommu = Iommu::new(qtest.clone(), memory.clone());
        Ok(Self { child, dir, qtest, qmp, memory, iommu })
    }

    /// A controller, ready for the driver.
    pub(crate) fn device(&self, index: u8) -> QemuDevice {
        let port = Function::new(self.qtest.clone(), 0, (4 + index) << 3);
        QemuDevice::new(self.qtest.clone(), self.memory.clone(), &self.iommu, port, index)
    }

    /// What is on the disk below a namespace, as the host sees it.
    pub(crate) fn on_disk(&self, nsid: usize, at: u64, len: usize) -> Vec<u8> {
        let file = File::open(self.dir.path().join(format!("disk{}", nsid - 1))).unwrap();
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    /// The host changes what is on the disk below a namespace, of which its controller says nothing.
    pub(crate) fn change_disk(&self, nsid: usize, at: u64, bytes: &[u8]) {
        let path = self.dir.path().join(format!("disk{}", nsid - 1));
        File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
    }

    /// Lets `slow` disks do so many requests a second; 0: as many as they can.
    pub(crate) fn throttle(&mut self, requests: u32) {
        let limits = format!(r#"{{"iops-total":{requests}}}"#);
        self.qmp.set("/objects/slow", "limits", &limits).unwrap();
    }

    /// The machine ends as if its power was cut.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}
