//! A disk of another machine, as the kernel's own initiator makes it: NVMe/TCP over the loopback, to the kernel's own target. A
//! path that is lost and comes back, growth, a target that does not come back; and a device that another lies over.

use std::path::Path;

use super::Result;
use super::bed::Bed;
use super::machine::{Iommu, Plan};

/// The target's and the initiator's, and device-mapper.
const MODULES: [&str; 4] = ["nvmet-tcp", "nvme-tcp", "dm-mod", "configfs"];

/// A target of 64 MiB of memory, and a connection to it.
const TARGET: &str = r#"set -e
ip link set lo up
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
cd /sys/kernel/config/nvmet
truncate -s 64M /tmp/target
mkdir subsystems/far
echo 1 >subsystems/far/attr_allow_any_host
mkdir subsystems/far/namespaces/1
cd subsystems/far/namespaces/1
echo -n /tmp/target >device_path
echo 1 >buffered_io
echo 1 >enable
cd /sys/kernel/config/nvmet
mkdir ports/1
echo tcp >ports/1/addr_trtype
echo ipv4 >ports/1/addr_adrfam
echo 127.0.0.1 >ports/1/addr_traddr
echo 4420 >ports/1/addr_trsvcid
ln -s /sys/kernel/config/nvmet/subsystems/far ports/1/subsystems/far
cd /
echo transport=tcp,traddr=127.0.0.1,trsvcid=4420,nqn=far,reconnect_delay=1,ctrl_loss_tmo=600,keep_alive_tmo=3 >/dev/nvme-fabrics
for i in $(seq 100); do [ -b /dev/nvme0n1 ] && break; sleep 0.1; done
cat /sys/class/nvme/nvme0/transport
"#;

const SERVER: &str = "nvme-drv -v --cap vbus=soft:/dev/nvme0n1,serial=far --cap vbus=soft:mem:16M,serial=near \
    --cap svr=unix:/tmp/svr --cap admin=unix:/tmp/admin";
/// Whoever has another disk, in time.
const BYSTANDER: &str = "timeout 20 blkcheck /tmp/svr device=near:n1 --mib 2";

/// Boots the machine; says how many checks failed.
pub(super) fn remote(programs: &Path) -> Result<usize> {
    let names = ["nvme-drv", "nvme-ctl", "blkcheck", "blkbench", "blknbd", "blkwatch"];
    let plan = Plan::new("remote", programs, &names)?.modules(&MODULES);
    let plan = plan.file("opt/target", TARGET.as_bytes());
    let traces = plan.traces();
    let mut bed = Bed::new(plan.launch()?, traces, Iommu::Intel);
    bed.far();
    bed.held();
    bed.lost_path();
    bed.grows();
    bed.target_goes();
    Ok(bed.end())
}

impl Bed {
    fn far(&mut self) {
        self.check("a target and a connection to it", "sh /opt/target", 0, "tcp");
        self.start(SERVER);
        self.check("a disk of another machine", "blkcheck /tmp/svr device=far:n1 --mib 8", 0, "ok far:n1");
        self.check("it is read and written directly", "grep -F engine= /tmp/log", 0, "engine=uring, direct");
        self.stop("a disk of another machine, stop");
    }

    /// Device-mapper lies over it.
    fn held(&mut self) {
        let made = "dmsetup create above --noudevsync --table '0 2048 linear /dev/nvme0n1 0'";
        self.check("a device that lies over it", made, 0, "");
        self.check("a device that another lies over is refused", SERVER, 2, "above lies over it");
        self.check("the device over it is gone", "dmsetup remove --noudevsync above", 0, "");
    }

    /// The path is lost for 40 s: its requests wait, nobody else does, nothing is lost.
    fn lost_path(&mut self) {
        self.start(SERVER);
        self.attach("device=far:n1");
        self.start_fio("16m", 60);
        self.guest.run("ip link set lo down; sleep 10");
        self.check("a path is lost: others are served", BYSTANDER, 0, "ok near:n1");
        self.guest.run("sleep 30");
        self.check("40 s later", BYSTANDER, 0, "ok near:n1");
        self.guest.run("ip link set lo up");
        self.fio_ends();
        let calm = "! grep -E 'late|abort|reset|lost|failed' /tmp/log";
        self.check("nobody was ended, and no recovery began", calm, 0, "");
    }

    /// What the target grows by is told to who has the whole disk.
    fn grows(&mut self) {
        self.guest.run("blkwatch /tmp/svr device=far:n1 >/tmp/watch 2>&1 & sleep 1");
        let grown = "truncate -s 96M /tmp/target; echo 1 >/sys/kernel/config/nvmet/subsystems/far/namespaces/1/revalidate_size; \
            for i in $(seq 100); do [ $(cat /sys/block/nvme0n1/size) = 196608 ] && break; sleep 0.1; done; cat /sys/block/nvme0n1/size";
        self.check("the target grows", grown, 0, "196608");
        self.check("rescan", "nvme-ctl --admin=/tmp/admin rescan far", 0, "100663296");
        let told = "for i in $(seq 100); do grep '^196608 sectors' /tmp/watch && break; sleep 0.1; done; cat /tmp/watch";
        self.check("its client is told", told, 0, "196608 sectors now");
    }

    /// The target does not come back: errors, then the device is lost to its own sessions.
    fn target_goes(&mut self) {
        self.guest.run("for i in $(seq 100); do grep -q sectors /tmp/watch && break; sleep 0.1; done");
        self.guest.run("blkwatch /tmp/svr device=far:n1 read-only >/tmp/watch 2>&1 & sleep 1");
        // As a guest does, it asks again.
        self.guest.run(
            "(while [ ! -e /tmp/over ]; do blkbench /tmp/svr --create device=far:n1 --create read-only --time 120; sleep 0.3; done) \
             >/tmp/bench 2>&1 & sleep 3",
        );
        // The kernel tries again until a minute is over, whatever it was told.
        self.guest.run("echo 5 >/sys/class/nvme/nvme0/ctrl_loss_tmo; ip link set lo down");
        // The one that asks may be between two tries; then the other sees it.
        let told = "for i in $(seq 1100); do grep -h IoErr /tmp/bench /tmp/watch && break; sleep 0.1; done; tail -3 /tmp/bench";
        self.check("a target that goes for good: its clients see an error", told, 0, "IoErr");
        let gone = "for i in $(seq 200); do grep -F 'device is gone' /tmp/log && break; sleep 0.1; done";
        self.check("the log says so", gone, 0, "its sessions are lost");
        let told =
            "for i in $(seq 100); do grep '^0 sectors' /tmp/watch && break; sleep 0.1; done; cat /tmp/watch";
        self.check("another client is told that nothing is left of it", told, 0, "0 sectors now");
        let none = "for i in $(seq 100); do grep -F 'no such device: far:n1' /tmp/log && break; sleep 0.1; done; touch /tmp/over";
        self.check("nobody has it any more", none, 0, "create refused");
        self.check("others are served", BYSTANDER, 0, "ok near:n1");
        self.stop("a target that went, stop");
    }
}
