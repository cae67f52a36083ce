//! Storage of 5 MB/s, and 2 MB/s to read: a disk that QEMU holds back, served as a device, as a logical volume on it, and as a file of which much is dirty when
//! it is flushed, or nothing is in memory when it is read. What takes it seconds, nobody else on the worker waits for; and a volume that
//! grows is told of without an operator.

use std::path::Path;

use super::Result;
use super::bed::Bed;
use super::machine::{Iommu, Plan};

/// Bytes a second that are written, and that are read.
const RATE: (u64, u64) = (5_000_000, 2_000_000);
const DEVICE: u64 = 64 << 20;
const FILES: u64 = 256 << 20;
/// MiB that are dirty when they are flushed: 33 s of it.
const DIRTY: u32 = 160;

const NEAR: &str = "--cap vbus=soft:mem:16M,serial=near --cap svr=unix:/tmp/svr";
/// Whoever has another disk, while the slow one is at work: it must still be when that is done.
const BYSTANDER: &str = "timeout 20 blkcheck /tmp/svr device=near:n1 --mib 2 && [ ! -e /tmp/checked ]";
const CHECKED: &str =
    "for i in $(seq 900); do [ -e /tmp/checked ] && break; sleep 0.1; done; cat /tmp/check /tmp/checked";

/// The server over a file, with another disk, and one worker for both.
fn over_file(engine: &str) -> String {
    format!("nvme-drv -v --workers 1 --cap vbus=soft:/mnt/image,serial=file{engine} {NEAR}")
}

/// Boots the machine; says how many checks failed.
pub(super) fn slow(programs: &Path) -> Result<usize> {
    let plan =
        Plan::new("slow", programs, &["nvme-drv", "blkcheck", "blkbench", "blkwatch"])?.modules(&["dm-mod"]);
    let plan = plan.controller("nvme0", "1234", "addr=04.0");
    // Below a file system in blocks of 4096 an image in blocks of 512 goes through the page cache.
    let plan = plan.held_back("nvme0", 1, DEVICE, 512, RATE)?.held_back("nvme0", 2, FILES, 4096, RATE)?;
    let traces = plan.traces();
    let mut bed = Bed::new(plan.launch()?, traces, Iommu::Intel);
    bed.slow_device();
    bed.slow_flush();
    bed.cold_pages();
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

    /// Whoever has another disk on the same worker begins now, and goes on for so many seconds.
    fn start_bystander(&mut self, seconds: u32) {
        let bench = format!(
            "blkbench /tmp/svr --create device=near:n1 --depth 1 --pace 200 --time {seconds} --plain >/tmp/near 2>&1"
        );
        self.guest.run(&format!(
            "rm -f /tmp/benched /tmp/checked; ({bench}; [ -e /tmp/checked ] && echo over >>/tmp/near; echo >/tmp/benched) & sleep 1"
        ));
    }

    /// He has waited for nobody: what takes long was begun behind him, and was still at work when he was done.
    fn nobody_waited(&mut self, what: &str) {
        let ended = "for i in $(seq 900); do [ -e /tmp/benched ] && break; sleep 0.1; done; cat /tmp/near";
        let longest = r"L=$(sed -n 's/.*longest=\([0-9]*\).*/\1/p' /tmp/near); ! grep over /tmp/near && [ $L -lt 800000000 ] && echo short";
        self.check(what, &format!("{ended}; {longest}; echo \"longest wait $L ns\""), 0, "short");
    }

    /// What was written lies in the page cache, and its flush takes 33 s; where the image is mapped, 6 s of it are enough.
    fn slow_flush(&mut self) {
        let made = format!(
            "mkfs.ext4 -q -J size=4 -E lazy_itable_init=1,nodiscard /dev/nvme0n2 && mkdir -p /mnt && mount /dev/nvme0n2 /mnt && truncate -s {DIRTY}M /mnt/image"
        );
        self.check("a file system on it", &made, 0, "");
        // The kernel writes back when it is told to, and not before.
        let later = "echo 536870912 >/proc/sys/vm/dirty_bytes; echo 536870000 >/proc/sys/vm/dirty_background_bytes; echo 60000 >/proc/sys/vm/dirty_expire_centisecs";
        self.guest.run(later);
        self.start(&over_file(""));
        let cached = "grep -F engine= /tmp/log; ! grep -F ', direct' /tmp/log";
        self.check("an image in the page cache", cached, 0, "engine=uring");
        self.start_bystander(26);
        self.start_check("file:n1", DIRTY);
        let dirty = "for i in $(seq 100); do D=$(sed -n 's/^\\(Dirty\\|Writeback\\): *\\([0-9]*\\) kB/\\2/p' /proc/meminfo | tr '\\n' '+')0; [ $(($D)) -gt 120000 ] && break; sleep 0.1; done; echo $(($D)) kB; [ $(($D)) -gt 120000 ]";
        self.check(&format!("of {DIRTY} MiB much is dirty"), dirty, 0, "kB");
        let what = format!("{DIRTY} MiB are flushed to slow storage: nobody on the worker waits");
        self.nobody_waited(&what);
        self.check("a long flush to slow storage: all is there", CHECKED, 0, "rc 0");
        self.stop("a long flush to slow storage, stop");
        self.start(&over_file(",engine=window"));
        self.start_check("file:n1", 28);
        self.check("28 MiB of a mapped image are flushed: others are served", BYSTANDER, 0, "ok near:n1");
        self.check("a flush of a mapped image: all is there", CHECKED, 0, "rc 0");
        self.stop("a flush of a mapped image, stop");
    }

    /// Nothing of the image is in memory, and what is read of it comes at 15 requests a second.
    fn cold_pages(&mut self) {
        self.check("nothing is in memory", "sync && echo 3 >/proc/sys/vm/drop_caches", 0, "");
        self.start(&over_file(""));
        self.start_bystander(10);
        let cold = "blkbench /tmp/svr --create device=file:n1 --block 131072 --depth 32 --time 14 --plain";
        self.guest.run(&format!(
            "rm -f /tmp/check /tmp/checked; ({cold} >/tmp/check 2>&1; echo rc $? >/tmp/checked) & sleep 2"
        ));
        self.nobody_waited("cold pages are read from slow storage: nobody on the worker waits");
        self.check("cold pages: all were read", CHECKED, 0, "rc 0");
        let slow = r"I=$(sed -n 's/^iops=\([0-9]*\).*/\1/p' /tmp/check); echo $I a second; [ $I -lt 100 ]";
        self.check("cold pages: they were cold", slow, 0, "");
        self.stop("cold pages, stop");
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
