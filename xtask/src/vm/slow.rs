//! Storage of 5 MB/s: a disk that QEMU holds back, served as a device, as a logical volume on it, and as a file of which much is dirty when
//! it is flushed. What takes it seconds, nobody else on the worker waits for; and a volume that grows is told of without an operator.

use std::path::Path;

use super::Result;
use super::bed::Bed;
use super::machine::{Iommu, Plan};

/// Bytes a second that are written.
const RATE: u64 = 5_000_000;
const DEVICE: u64 = 64 << 20;
const FILES: u64 = 128 << 20;

const NEAR: &str = "--cap vbus=soft:mem:16M,serial=near --cap svr=unix:/tmp/svr";
/// Whoever has another disk, while the slow one is at work: it must still be when that is done.
const BYSTANDER: &str = "timeout 20 blkcheck /tmp/svr device=near:n1 --mib 2 && [ ! -e /tmp/checked ]";
const CHECKED: &str =
    "for i in $(seq 900); do [ -e /tmp/checked ] && break; sleep 0.1; done; cat /tmp/check /tmp/checked";

/// Boots the machine; says how many checks failed.
pub(super) fn slow(programs: &Path) -> Result<usize> {
    let plan = Plan::new("slow", programs, &["nvme-drv", "blkcheck", "blkwatch"])?.modules(&["dm-mod"]);
    let plan = plan.controller("nvme0", "1234", "addr=04.0");
    let plan = plan.held_back("nvme0", 1, DEVICE, RATE)?.held_back("nvme0", 2, FILES, RATE)?;
    let traces = plan.traces();
    let mut bed = Bed::new(plan.launch()?, traces, Iommu::Intel);
    bed.slow_device();
    bed.slow_flush();
    bed.volume();
    Ok(bed.end())
}

impl Bed {
    /// Starts a check of so many MiB of a device, and leaves it.
    fn start_check(&mut self, device: &str, mib: u32) {
        self.guest.run(&format!(
            "rm -f /tmp/check /tmp/checked; (blkcheck /tmp/svr device={device} --mib {mib} >/tmp/check 2>&1; echo rc $? >/tmp/checked) & sleep 2"
        ));
    }

    /// What is written to it at once takes 6 s.
    fn slow_device(&mut self) {
        self.start(&format!("nvme-drv -v --cap vbus=soft:/dev/nvme0n1,serial=slow {NEAR}"));
        self.check("slow storage is written directly", "grep -F engine= /tmp/log", 0, "direct");
        self.start_check("slow:n1", 28);
        self.check("a slow device is written to: others are served", BYSTANDER, 0, "ok near:n1");
        self.check("a slow device: all is there", CHECKED, 0, "rc 0");
        self.stop("a slow device, stop");
    }

    /// What was written lies in the page cache, and its flush takes 6 s.
    fn slow_flush(&mut self) {
        let made = "mkfs.ext4 -q -E lazy_itable_init=1,nodiscard /dev/nvme0n2 && mkdir -p /mnt && mount /dev/nvme0n2 /mnt && truncate -s 64M /mnt/image";
        self.check("a file system on it", made, 0, "");
        self.start(&format!("nvme-drv -v --cap vbus=soft:/mnt/image,serial=file,engine=window {NEAR}"));
        self.start_check("file:n1", 28);
        self.check("28 MiB are flushed to slow storage: others are served", BYSTANDER, 0, "ok near:n1");
        self.check("a flush to slow storage: all is there", CHECKED, 0, "rc 0");
        self.stop("a flush to slow storage, stop");
        self.check("the file system is let go of", "umount /mnt", 0, "");
    }

    /// A logical volume, as device-mapper makes it, and more of it.
    fn volume(&mut self) {
        let table = |sectors: u32| format!("--noudevsync --table '0 {sectors} linear /dev/nvme0n1 2048'");
        let made = format!("dmsetup create group-volume {}", table(32768));
        self.check("a logical volume", &made, 0, "");
        self.start(&format!("nvme-drv -v --cap vbus=soft:/dev/dm-0,serial=lv {NEAR}"));
        self.check("a logical volume is served", "blkcheck /tmp/svr device=lv:n1 --mib 2", 0, "ok lv:n1");
        let taken = "nvme-drv --cap vbus=soft:/dev/nvme0n1 --cap svr=unix:/tmp/other";
        self.check("what it lies on is in use", taken, 2, "group-volume lies over it");
        self.guest.run("blkwatch /tmp/svr device=lv:n1 >/tmp/watch 2>&1 & sleep 1");
        let grown = format!(
            "dmsetup reload group-volume {} && dmsetup resume --noudevsync group-volume",
            table(65536).replace("--noudevsync ", "")
        );
        self.check("it is extended", &grown, 0, "");
        let told = "for i in $(seq 300); do grep '^65536 sectors' /tmp/watch && break; sleep 0.1; done; cat /tmp/watch";
        self.check("its client is told, and nobody had to ask", told, 0, "65536 sectors now");
        self.stop("a logical volume, stop");
    }
}
