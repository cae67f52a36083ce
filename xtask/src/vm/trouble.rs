//! What is killed, pulled out, or not allowed.

use super::bed::{Bed, WAIT, server};
use super::{ADDRESS, SECOND};

impl Bed {
    /// All of it, and the controller goes back to the kernel's driver.
    pub(super) fn trouble(&mut self) {
        let server = server();
        self.killed(&server);
        self.user(&server);
        self.removed(&server);
        let unbind =
            format!("nvme-ctl unbind {ADDRESS} && sleep 1 && ls /sys/bus/pci/devices/{ADDRESS}/nvme");
        self.check("unbind", &unbind, 0, "nvme");
    }

    /// A server that is killed in mid-I/O leaves nothing behind: the next one starts and serves.
    fn killed(&mut self, server: &str) {
        self.start(server);
        let bench = "blkbench /tmp/svr --create device=1234:n1 --write --time 20";
        self.guest.run(&format!("{bench} >/tmp/bench 2>&1 & sleep 3"));
        self.guest.attempt("kill -9 $(cat /tmp/pid); wait", WAIT);
        self.check("killed in mid-I/O, its client knows", "cat /tmp/bench", 0, "blkbench: ");
        self.start(server);
        self.check("killed in mid-I/O, started again", "blkcheck /tmp/svr device=1234:n1", 0, "ok 1234:n1");
        self.stop("killed in mid-I/O, stop");
    }

    /// As an ordinary user, who has the group's file, and may lock little memory or enough.
    fn user(&mut self, server: &str) {
        self.guest.run("mkdir -p /etc && echo 'u:x:1000:1000::/:/bin/sh' >/etc/passwd");
        let group =
            format!("/dev/vfio/$(readlink /sys/bus/pci/devices/{ADDRESS}/iommu_group | sed 's,.*/,,')");
        let user = format!("exec su u -s /bin/sh -c '{server}'");
        self.check(
            "a user without the group's file",
            &format!("({user})"),
            1,
            "no permission to open /dev/vfio/",
        );
        self.guest.run(&format!("chown 1000 {group}"));
        self.start(&format!("(ulimit -l 64; {user})"));
        let told = "sleep 2; grep -o 'RLIMIT_MEMLOCK is too small.*' /tmp/log";
        self.check("a user who may lock 64 KiB", told, 0, "bytes are needed");
        self.guest.attempt("kill $(cat /tmp/pid); wait", WAIT);
        self.start(&format!("(ulimit -l 65536; {user})"));
        self.check("a user who may lock 64 MiB", "blkcheck /tmp/svr device=1234:n1", 0, "ok 1234:n1");
        self.stop("a user, stop");
    }

    /// One of two controllers is pulled out in mid-I/O: its client sees errors, the other controller is served on.
    fn removed(&mut self, server: &str) {
        self.check("bind a second controller", &format!("nvme-ctl bind {SECOND}"), 0, "");
        self.start(&format!("{server} --cap vbus=pci:{SECOND}"));
        self.check(
            "two controllers",
            "blkcheck /tmp/svr device=5678:n1 && blkcheck /tmp/svr device=1234:n1",
            0,
            "ok 1234:n1",
        );
        self.guest
            .run("blkbench /tmp/svr --create device=5678:n1 --write --time 60 >/tmp/bench 2>&1 & sleep 2");
        self.guest.monitor(&[r#"{"execute":"device_del","arguments":{"id":"nvme1"}}"#]);
        let place = format!("/sys/bus/pci/devices/{SECOND}");
        let gone =
            format!("for i in $(seq 100); do [ -e {place} ] || break; sleep 0.3; done; [ ! -e {place} ]");
        self.check("pulled out in mid-I/O, given back", &gone, 0, "");
        self.check("its client sees an error", "sleep 1; cat /tmp/bench", 0, "IoErr");
        self.check("the log says so", "grep -F 'taken away' /tmp/log", 0, "controller 1");
        self.check("the other serves on", "blkcheck /tmp/svr device=1234:n1", 0, "ok 1234:n1");
        self.stop("pulled out, stop");
    }
}
