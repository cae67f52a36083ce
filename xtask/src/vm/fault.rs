//! An IOMMU fault: the controller is made to reach for memory that nobody gave it.
//!
//! The server cannot do that to itself, so somebody else does: with `iomem=relaxed` root can write the controller's registers
//! behind the server's back. While the server is stopped, the admin queue is moved to an address that is not mapped, and the
//! controller is told that there is a command.

use super::ADDRESS;
use super::bed::{Bed, server};

/// Nothing is mapped there: the server's addresses begin at the lower end of the 39 or 48 bits that this IOMMU has.
pub(super) const NOWHERE: u64 = 0x60_0000_0000;

impl Bed {
    pub(super) fn fault(&mut self) {
        self.bound();
        self.check("no IOMMU fault so far", "! dmesg | grep -E 'DMAR.*fault|AMD-Vi.*FAULT'", 0, "");
        self.start(&server());
        self.attach("device=1234:n2");
        self.start_fio("16m", 8);
        // CC (0x14) loses EN, ASQ (0x28) is moved, CC gets EN back, and the admin queue's tail becomes 1 (Base 2.0, 3.1.3).
        let hostile = format!(
            "kill -STOP $(cat /tmp/pid); B=$(($(head -1 /sys/bus/pci/devices/{ADDRESS}/resource | cut -d' ' -f1))); \
             C=$(devmem $((B+0x14)) 32); devmem $((B+0x14)) 32 $((C & ~1)); \
             devmem $((B+0x28)) 64 {NOWHERE}; devmem $((B+0x14)) 32 $((C | 1)); devmem $((B+0x1000)) 32 1; \
             sleep 0.5; devmem $((B+0x1c)) 32; kill -CONT $(cat /tmp/pid)"
        );
        // CSTS: ready, and a fatal status.
        self.check("the controller is sent to memory that is not mapped", &hostile, 0, "0x00000002");
        let (fault, at) = self.iommu.fault(NOWHERE);
        let device = ADDRESS.trim_start_matches("0000:");
        let line = format!("dmesg | grep -E '{fault}' | grep {device} | grep -E '{at}'");
        self.check("the kernel's log names the controller and the address", &line, 0, device);
        self.check(
            "the server says so",
            "for i in $(seq 100); do grep -i fatal /tmp/log && break; sleep 0.1; done",
            0,
            "fatal status",
        );
        self.fio_ends();
        self.check("the server serves on", "blkcheck /tmp/svr device=1234:n1 --mib 4", 0, "ok 1234:n1");
        self.stop("after the fault, stop");
    }
}
