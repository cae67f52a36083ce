//! The virtual machine of `cargo xtask vm` and `cargo xtask bench --vm`: a Debian kernel, QEMU's NVMe controllers behind an
//! IOMMU, this build's programs, and this machine's `/usr`, which may only be read.
//!
//! ```text
//! let plan = Plan::new("vm", &folder, &["nvme-drv", "nvme-ctl"])?;
//! let plan = plan.controller("nvme0", "1234", "addr=04.0").namespace("nvme0", 1, 64 << 20, 512)?;
//! let mut guest = plan.launch()?;
//! guest.run("nvme-ctl bind 0000:00:04.0");
//! ```

use std::any::Any;
use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::machine::archive::{self, Archive};
use crate::machine::console::Machine;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What has to be installed, and is not seen by its absence later.
const PROGRAMS: [&str; 9] = [
    "qemu-system-x86_64",
    "busybox",
    "modprobe",
    "xz",
    "fio",
    "sgdisk",
    "mkfs.ext4",
    "lspci",
    "systemd-sysusers",
];
/// VFIO, the kernel's own NVMe driver, a file system, and what gives the machine its `/usr`.
const MODULES: [&str; 7] =
    ["vfio-pci", "vfio_iommu_type1", "nvme", "ext4", "virtio_pci", "9pnet_virtio", "9p"];

/// How often a machine is booted until its clock is right.
const BOOTS: usize = 5;

/// Until the kernel has `@COUNT@` disks; then the host's programs, beside those of the initramfs.
const FIRST: &str = r#"for i in $(seq 400); do [ $(ls /sys/block | grep -c nvme) = @COUNT@ ] && break; sleep 0.05; done
mkdir -p /usr
mount -t 9p -o trans=virtio,ro,cache=loose,msize=512000 usr /usr
for i in lib lib64 sbin; do [ -e /$i ] || ln -s usr/$i /$i; done
ln -s /usr/bin/bash /bin/bash
export PATH=/opt/bin:/bin:/usr/bin:/usr/sbin"#;

/// The folder of programs that cargo built with `packages`, in this program's profile or in release mode.
pub(crate) fn build(packages: &[&str], release: bool) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(crate::root()).args(["build", "--quiet", "--bins"]);
    for package in packages {
        command.args(["-p", package]);
    }
    if release {
        command.arg("--release");
    }
    if !command.status()?.success() {
        return Err("the build failed".into());
    }
    // This program lies in a profile's folder, where cargo puts the others.
    let own = std::env::current_exe()?;
    let folder = own.parent().ok_or("no folder of programs")?;
    Ok(if release { folder.with_file_name("release") } else { folder.to_path_buf() })
}

/// The IOMMU of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Iommu {
    /// VT-d.
    #[default]
    Intel,
    /// AMD-Vi. QEMU's takes DMA and interrupts apart since 10.0; Linux does not count its remapping of interrupts as safe.
    Amd,
}

impl Iommu {
    fn device(self) -> &'static str {
        match self {
            Self::Intel => "intel-iommu,intremap=on,caching-mode=on",
            Self::Amd => "amd-iommu,intremap=on,dma-remap=on,xtsup=on",
        }
    }

    /// What the kernel says of a fault: what all lines have; and what one at this address has. QEMU's AMD-Vi says 0 of every address.
    pub(crate) fn fault(self, address: u64) -> (&'static str, String) {
        match self {
            Self::Intel => ("DMAR.*fault addr", format!("fault addr {address:#x}")),
            Self::Amd => ("AMD-Vi.*IO_PAGE_FAULT", format!("address=({address:#x}|0x0) ")),
        }
    }
}

/// What a machine is to be.
pub(crate) struct Plan {
    name: &'static str,
    dir: tempfile::TempDir,
    kernel: (String, PathBuf),
    initramfs: Archive,
    arguments: Vec<String>,
    namespaces: usize,
    words: String,
    iommu: Iommu,
    modules: Vec<&'static str>,
}

impl Plan {
    /// A machine with two processors and an IOMMU, and with `programs` out of `folder`. Says what is not installed.
    pub(crate) fn new(name: &'static str, folder: &Path, programs: &[&str]) -> Result<Self> {
        let lacking: Vec<_> = PROGRAMS.into_iter().filter(|program| !installed(program)).collect();
        if !lacking.is_empty() {
            return Err(missing(&lacking.join(", ")).into());
        }
        let dir = tempfile::tempdir()?;
        let kernel = archive::kernel(dir.path()).map_err(|what| missing(&what))?;
        let mut initramfs = Archive::default();
        for file in ["etc/ld.so.cache", "etc/mke2fs.conf"] {
            initramfs.copy(&Path::new("/").join(file), file)?;
        }
        let arguments = [
            "-M",
            "q35,kernel-irqchip=split",
            "-m",
            "768M",
            "-smp",
            "2",
            "-vga",
            "none",
            "-device",
            Iommu::default().device(),
            "-fsdev",
            "local,id=usr,path=/usr,security_model=none,readonly=on",
            "-device",
            "virtio-9p-pci,fsdev=usr,mount_tag=usr,addr=03.0",
        ];
        let arguments = arguments.map(str::to_owned).to_vec();
        let words = "intel_iommu=on".to_owned();
        let plan = Self {
            name,
            dir,
            kernel,
            initramfs,
            arguments,
            namespaces: 0,
            words,
            iommu: Iommu::default(),
            modules: MODULES.to_vec(),
        };
        programs.iter().try_fold(plan, |plan, program| plan.program(&folder.join(program), program))
    }

    /// A program from anywhere, as `/opt/bin/NAME`. Without symbols: all of it is unpacked into memory.
    pub(crate) fn program(mut self, path: &Path, name: &str) -> Result<Self> {
        let small = self.dir.path().join(name);
        let strip = Command::new("strip").arg("-o").arg(&small).arg(path).status()?;
        if !strip.success() {
            return Err(format!("strip {name}: {strip}").into());
        }
        self.initramfs.copy(&small, &format!("opt/bin/{name}"))?;
        Ok(self)
    }

    /// More arguments for QEMU: devices and what they need.
    pub(crate) fn qemu(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&word| word.to_owned()));
        self
    }

    /// The same with another IOMMU.
    pub(crate) fn iommu(mut self, iommu: Iommu) -> Self {
        let (before, after) = (self.iommu.device(), iommu.device());
        self.arguments.iter_mut().filter(|word| *word == before).for_each(|word| *word = after.to_owned());
        Self { iommu, ..self }
    }

    /// More words for the kernel.
    pub(crate) fn words(mut self, words: &str) -> Self {
        self.words = format!("{} {words}", self.words);
        self
    }

    /// More modules for the kernel.
    pub(crate) fn modules(mut self, names: &[&'static str]) -> Self {
        self.modules.extend(names);
        self
    }

    /// A file in the machine.
    pub(crate) fn file(mut self, name: &str, content: &[u8]) -> Self {
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.initramfs.dir(folder);
        }
        self.initramfs.file(name, content, true);
        self
    }

    /// A controller: QEMU's name for it, its serial number, and what else QEMU shall know, as `addr=04.0`.
    pub(crate) fn controller(self, id: &str, serial: &str, more: &str) -> Self {
        self.qemu(&["-device", &format!("nvme,id={id},serial={serial},{more}")])
    }

    /// The file of a namespace. What is made there before [`Plan::namespace`] is what it holds.
    pub(crate) fn disk(&self, controller: &str, nsid: u32) -> PathBuf {
        self.dir.path().join(format!("{controller}n{nsid}"))
    }

    /// A namespace of a controller, of `bytes` in blocks of `block`.
    pub(crate) fn namespace(self, controller: &str, nsid: u32, bytes: u64, block: u32) -> Result<Self> {
        self.namespace_with(controller, nsid, bytes, block, "")
    }

    /// One to which no more than so many bytes a second are written, and of which no more than so many are read.
    pub(crate) fn held_back(
        self,
        controller: &str,
        nsid: u32,
        bytes: u64,
        block: u32,
        (written, read): (u64, u64),
    ) -> Result<Self> {
        let held = format!(",throttling.bps-write={written},throttling.bps-read={read}");
        self.namespace_with(controller, nsid, bytes, block, &held)
    }

    fn namespace_with(
        mut self,
        controller: &str,
        nsid: u32,
        bytes: u64,
        block: u32,
        more: &str,
    ) -> Result<Self> {
        let id = format!("{controller}n{nsid}");
        let path = self.disk(controller, nsid);
        File::options().create(true).truncate(false).write(true).open(&path)?.set_len(bytes)?;
        // Without the host's cache flushes: nothing here outlives the machine.
        let drive = format!("file={},if=none,id={id},format=raw,cache=unsafe{more}", path.display());
        let blocks = format!("logical_block_size={block},physical_block_size={block}");
        let device = format!("nvme-ns,drive={id},bus={controller},nsid={nsid},{blocks}");
        self.namespaces += 1;
        Ok(self.qemu(&["-drive", &drive, "-device", &device]))
    }

    /// A controller's namespace 1, of `bytes` in blocks of 4096, and where QEMU logs what is written to it, and each flush.
    pub(crate) fn logged(mut self, controller: &str, bytes: u64) -> Result<(Self, PathBuf)> {
        let (disk, log) = (self.disk(controller, 1), self.dir.path().join("writes"));
        File::create(&disk)?.set_len(bytes)?;
        File::create(&log)?;
        let drive = format!(
            "driver=blklogwrites,node-name=logged,file.driver=file,file.filename={},log.driver=file,log.filename={}",
            disk.display(),
            log.display()
        );
        let blocks = "logical_block_size=4096,physical_block_size=4096";
        let device = format!("nvme-ns,drive=logged,bus={controller},nsid=1,{blocks}");
        self.namespaces += 1;
        Ok((self.qemu(&["-blockdev", &drive, "-device", &device]), log))
    }

    /// Where QEMU writes what it is told to trace.
    pub(crate) fn traces(&self) -> PathBuf {
        self.dir.path().join("traces")
    }

    /// The kernel's version.
    pub(crate) fn version(&self) -> &str {
        &self.kernel.0
    }

    /// Boots it, and waits for its shell.
    pub(crate) fn launch(mut self) -> Result<Machine> {
        self.initramfs.modules(&self.kernel.0, &self.modules)?;
        self.initramfs.shell(&FIRST.replace("@COUNT@", &self.namespaces.to_string()))?;
        let initramfs = self.dir.path().join("initramfs");
        std::fs::write(&initramfs, self.initramfs.finish())?;
        let traces = self.traces();
        // The disks are files there.
        let dir = Rc::new(self.dir);
        for _ in 0..BOOTS {
            let mut qemu = Command::new("qemu-system-x86_64");
            qemu.args(&self.arguments).arg("-D").arg(&traces);
            let held = Some(Box::new(Rc::clone(&dir)) as Box<dyn Any>);
            let kernel = (self.kernel.1.as_path(), initramfs.as_path());
            let mut guest = Machine::launch(self.name, qemu, kernel, &self.words, Stdio::null(), held);
            let pace = pace(&mut guest)?;
            if (0.7..1.4).contains(&pace) {
                if self.iommu == Iommu::Amd {
                    guest.run("echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
                }
                return Ok(guest);
            }
            println!("the machine's clock runs at {pace:.2} of its pace; it is booted once more");
            guest.power_off();
        }
        Err(format!("the machine's clock was wrong after {BOOTS} boots").into())
    }
}

/// How fast the machine's clock runs, 1 being right. Its kernel compares two clocks when it boots, and is wrong when this machine
/// has other work just then; all deadlines and figures in it would be, too.
fn pace(guest: &mut Machine) -> Result<f64> {
    let mut uptime = || -> Result<(Instant, f64)> {
        let text = guest.run("cut -d' ' -f1 /proc/uptime");
        Ok((Instant::now(), text.parse()?))
    };
    let (begin, first) = uptime()?;
    std::thread::sleep(Duration::from_secs(1));
    let (end, last) = uptime()?;
    Ok((last - first) / (end - begin).as_secs_f64())
}

fn missing(what: &str) -> String {
    format!("missing: {what}; .ci/install-packages installs what is needed")
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).any(|folder| folder.join(program).is_file())
}
