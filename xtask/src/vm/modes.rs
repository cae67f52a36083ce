//! Binding, and every way to run the server.

use super::ADDRESS;
use super::bed::{Bed, server};

/// Ways to run the server, and what its log must say then.
const MODES: [(&str, &str); 4] = [
    ("", "MSI-X with 65 vectors"),
    ("--nosgl", "MSI-X with 65 vectors"),
    ("--nomsix", "INTx with 1 vectors"),
    ("--nomsix --nomsi --nosgl --workers 2", "INTx with 1 vectors"),
];

impl Bed {
    /// From the kernel's driver to the server, in each way.
    pub(super) fn modes(&mut self) {
        let server = server();
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
}
