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
        self.check("a user without the group's file", &format!("({user})"), 2, refused);
        self.guest.run(&format!("chown 1000 {group}"));
        self.enough(&user);
        self.stop("a user, stop");
        self.guest.run(&format!("chown 0 {group}"));
    }

    /// Begins with 64 KiB, and follows what the server says that it needs: for its queues, and for a client's memory.
    fn enough(&mut self, user: &str) {
        let check = "blkcheck /tmp/svr device=1234:n1 --mib 4";
        let mut bytes = 64 << 10;
        for _ in 0..5 {
            self.start(&format!("(ulimit -l {}; {user})", bytes / 1024));
            if self.guest.attempt(&format!("[ -S /tmp/svr ] && {check}"), WAIT).0 == 0 {
                break;
            }
            let told = "sed -n 's/.*RLIMIT_MEMLOCK is too small: \\([0-9]*\\) bytes are needed.*/\\1/p' /tmp/log | tail -1";
            let need: u64 = self.guest.attempt(told, WAIT).1.trim().parse().unwrap_or(0);
            let found = format!("{need} bytes are needed");
            self.note(need > bytes, &format!("a user who may lock {bytes} bytes is told more"), &found);
            self.guest.attempt("kill $(cat /tmp/pid); wait", WAIT);
            bytes = need.next_multiple_of(1024);
        }
        self.check("a user who may lock what is needed", check, 0, "ok 1234:n1");
        let little = format!("{bytes} bytes, for 16 MiB of the client's");
        self.note(bytes > 64 << 10 && bytes < 24 << 20, "what is needed is not much more", &little);
    }
}
