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
        // What the server needs to begin with; what a client's memory needs beside that; both with all that the server can
        // have when there is enough for it; and a queue pair for the session. Each time it says how much that is.
        for what in ["64 KiB", "what was said", "what was said then", "that, and no queue pair"] {
            self.guest.run("L=${NEED:-65536}; L=$((L / 1024))");
            self.start(&format!("(ulimit -l $L; {user})"));
            self.guest.attempt("blkcheck /tmp/svr device=1234:n1 --mib 4 & P=$!; for i in $(seq 100); do grep -q 'is too small' /tmp/log && break; sleep 0.1; done; kill $P", WAIT);
            let told = "grep -o 'RLIMIT_MEMLOCK is too small.*' /tmp/log";
            self.check(&format!("a user who may lock {what}"), told, 0, "bytes are needed");
            self.guest.run(
                "NEED=$(sed -n 's/.*RLIMIT_MEMLOCK is too small: \\([0-9]*\\).*/\\1/p' /tmp/log | tail -1)",
            );
            self.guest.attempt("kill $(cat /tmp/pid); wait", WAIT);
        }
        self.start(&format!("(ulimit -l $((NEED / 1024)); {user})"));
        let check = "blkcheck /tmp/svr device=1234:n1 --mib 4";
        self.check("a user who may lock what was said at last", check, 0, "ok 1234:n1");
        self.stop("a user, stop");
        self.guest.run(&format!("chown 0 {group}"));
    }
}
