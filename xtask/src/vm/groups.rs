//! Two controllers in one IOMMU group: functions of one device that nothing keeps apart. One has too few vectors, the other one pair
//! of queues.

use super::bed::{Bed, WAIT, over};

/// With three vectors: the admin queue's, and two for all pairs.
pub(super) const FEW: &str = "0000:00:06.0";
/// With one pair of I/O queues.
pub(super) const ONE: &str = "0000:00:06.1";

impl Bed {
    pub(super) fn groups(&mut self) {
        self.check("bind one of a group", &format!("nvme-ctl bind {FEW}"), 0, "");
        let named = format!("is not viable: {ONE} (driver nvme) in it");
        self.check("a group that is not viable", &over(FEW), 2, &named);
        self.check("bind the other", &format!("nvme-ctl bind {ONE}"), 0, "");
        let both = format!("{} --cap vbus=pci:{ONE}", over(FEW));
        self.check(
            "both of a group in one server",
            &both,
            2,
            "is in use, by another program or another vbus",
        );
        self.shared("few vectors", FEW, "few", "MSI-X with 3 vectors", 2);
        self.shared("one pair of queues", ONE, "one", "MSI-X with 65 vectors", 1);
        self.check("unbind both", &format!("nvme-ctl unbind {FEW} && nvme-ctl unbind {ONE}"), 0, "");
    }

    /// Sessions that share what there is too little of: a writer that verifies, and readers beside it.
    fn shared(&mut self, name: &str, address: &str, serial: &str, says: &str, vectors: usize) {
        self.start(&over(address));
        self.check(&format!("{name}, log"), &format!("grep -F '{says}' /tmp/log"), 0, says);
        for reader in 1..=3 {
            let bench = "blkbench /tmp/svr --create read-only --time 2 --depth 8 --plain --create";
            self.guest.run(&format!(
                "({bench} device={serial}:n1 >/tmp/r{reader} 2>&1; echo rc $? >>/tmp/r{reader}) &"
            ));
        }
        let check = format!("blkcheck /tmp/svr device={serial}:n2 --mib 4");
        self.check(&format!("{name}, a writer beside three readers"), &check, 0, "ok ");
        self.guest.attempt("for i in $(seq 200); do grep -q ^rc /tmp/r1 && grep -q ^rc /tmp/r2 && grep -q ^rc /tmp/r3 && break; sleep 0.1; done", WAIT);
        let ended = "cat /tmp/r1 /tmp/r2 /tmp/r3; [ $(cat /tmp/r1 /tmp/r2 /tmp/r3 | grep -c '^rc 0') = 3 ]";
        self.check(&format!("{name}, the readers"), ended, 0, "iops=");
        // As many vectors as there can be for I/O queues are of use.
        let counts = format!(
            "grep -E 'vfio-msix\\[[12]\\]\\({address}\\)' /proc/interrupts | awk '{{ if ($2+$3 > 0) n++ }} END {{ print n \" vectors\" }}'"
        );
        self.check(&format!("{name}, interrupts"), &counts, 0, &format!("{vectors} vectors"));
        self.stop(&format!("{name}, stop"));
    }
}
