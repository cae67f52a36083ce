//! As an ordinary user, who has the group's file or not, and may lock little memory or enough.

use super::ADDRESS;
use super::bed::{Bed, WAIT, server};

impl Bed {
    pub(super) fn users(&mut self) {
        self.bound();
        self.guest.run("mkdir -p /etc && echo 'u:x:1000:1000::/:/bin/sh' >>/etc/passwd");
        let group =
            format!("/dev/vfio/$(readlink /sys/bus/pci/devices/{ADDRESS}/iommu_group | sed 's,.*/,,')");
        let user = format!("exec /usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups {}", server());
        let refused = "no permission to open /dev/vfio/";
        self.check("a user without the group's file", &format!("({user})"), 1, refused);
        self.guest.run(&format!("chown 1000 {group}"));
        self.start(&format!("(ulimit -l 64; {user})"));
        let told = "sleep 2; grep -o 'RLIMIT_MEMLOCK is too small.*' /tmp/log";
        self.check("a user who may lock 64 KiB", told, 0, "bytes are needed");
        self.guest.attempt("kill $(cat /tmp/pid); wait", WAIT);
        self.start(&format!("(ulimit -l 65536; {user})"));
        let check = "blkcheck /tmp/svr device=1234:n1 --mib 4";
        self.check("a user who may lock 64 MiB", check, 0, "ok 1234:n1");
        self.stop("a user, stop");
        self.guest.run(&format!("chown 0 {group}"));
    }
}
