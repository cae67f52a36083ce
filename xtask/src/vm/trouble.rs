//! What is killed or pulled out in mid-I/O.

use super::bed::{Bed, WAIT, over, server};
use super::fault::NOWHERE;
use super::fio::job;
use super::{ADDRESS, SECOND};

impl Bed {
    /// A server that is killed in mid-I/O leaves nothing behind: the next one starts and serves, with what was written.
    pub(super) fn killed(&mut self) {
        self.bound();
        self.start(&server());
        self.attach("device=1234:n1");
        let first = job("8m", "");
        self.check("before the kill, fio", &format!("{first} >/tmp/fio; cut -d';' -f3,5 /tmp/fio"), 0, "v;0");
        let second = job("16m", "--offset=16m --time_based --runtime=60");
        self.guest.run(&format!("{second} >/tmp/fio 2>&1 & echo $! >/tmp/fio.pid; sleep 3"));
        let command = format!("/usr/bin/od -An -tx2 -j4 -N2 /sys/bus/pci/devices/{ADDRESS}/config");
        self.check("it masters the bus", &command, 0, "0107");
        // Newer versions of fio (3.39) see the error and stay: half a minute is enough for that.
        let end = "kill -9 $(cat /tmp/pid); for i in $(seq 300); do kill -0 $(cat /tmp/fio.pid) 2>/dev/null || break; sleep 0.1; done; \
                   kill -9 $(cat /tmp/fio.pid); wait";
        self.guest.attempt(end, WAIT);
        let quiet = format!("for i in $(seq 50); do {command} | grep 0103 && break; sleep 0.1; done");
        self.check("killed in mid-I/O, the controller masters the bus no more", &quiet, 0, "0103");
        self.check("killed in mid-I/O, its client knows", "cat /tmp/nbd.log", 0, "closed the connection");
        self.check("killed in mid-I/O, fio sees errors", "grep -c 'io_u error' /tmp/fio", 0, "");
        self.start(&server());
        self.attach("device=1234:n1");
        let again = job("8m", "--verify_only");
        self.check(
            "started again, what was written is there",
            &format!("{again} >/tmp/fio; cut -d';' -f3,5 /tmp/fio"),
            0,
            "v;0",
        );
        self.detach();
        self.check("started again", "blkcheck /tmp/svr device=1234:n1 --mib 4", 0, "ok 1234:n1");
        self.stop("started again, stop");
    }

    /// Somebody else resets the function: the server notices, resets the controller, and its client is served on.
    pub(super) fn reset(&mut self) {
        self.bound();
        self.start(&server());
        self.attach("device=1234:n2");
        self.start_fio("16m", 8);
        self.guest.run(&format!("echo 1 >/sys/bus/pci/devices/{ADDRESS}/reset"));
        let told = "for i in $(seq 100); do grep -F 'fatal status' /tmp/log && break; sleep 0.1; done";
        self.check("reset by somebody else, the log says so", told, 0, "it reports a fatal status");
        self.fio_ends();
        self.stop("reset by somebody else, stop");
    }

    /// The bus reports an error of a controller: it is reset, and its client is served on.
    pub(super) fn bus_error(&mut self) {
        self.check("bind the controller behind a port", &format!("nvme-ctl bind {SECOND}"), 0, "");
        self.start(&over(SECOND));
        self.attach("device=5678:n1");
        self.start_fio("16m", 8);
        let inject = r#"{"execute":"human-monitor-command","arguments":{"command-line":"pcie_aer_inject_error rp COMP_TIME"}}"#;
        self.guest.monitor(&[inject]);
        let told = "for i in $(seq 100); do grep -F 'reports an error' /tmp/log && break; sleep 0.1; done";
        self.check("the bus reports an error, the log says so", told, 0, "the bus reports an error of it");
        self.fio_ends();
        self.stop("after the bus's error, stop");
    }

    /// One of two controllers is pulled out in mid-I/O: its client sees errors, the other controller is served on.
    pub(super) fn removed(&mut self) {
        self.bound();
        self.check("bind a second controller", &format!("nvme-ctl bind {SECOND}"), 0, "");
        self.start(&format!("{} --cap vbus=pci:{SECOND}", server()));
        let both = "blkcheck /tmp/svr device=5678:n1 --mib 4 && blkcheck /tmp/svr device=1234:n1 --mib 4";
        self.check("two controllers", both, 0, "ok 1234:n1");
        let place = format!("blkcheck /tmp/svr device=pci:{SECOND}:n1 --mib 4");
        self.check("a disk by its controller's place", &place, 0, "ok 5678:n1");
        self.guest
            .run("blkbench /tmp/svr --create device=5678:n1 --write --time 60 >/tmp/bench 2>&1 & sleep 2");
        // On a busy machine a moment is not enough: it watches once it has said how large the disk is.
        let watches = "blkwatch /tmp/svr device=5678:n2 >/tmp/watch 2>&1 & \
            for i in $(seq 300); do grep ' sectors' /tmp/watch && break; sleep 0.1; done";
        self.check("another client watches", watches, 0, " sectors");
        self.guest.monitor(&[r#"{"execute":"device_del","arguments":{"id":"nvme1"}}"#]);
        let place = format!("/sys/bus/pci/devices/{SECOND}");
        let gone =
            format!("for i in $(seq 100); do [ -e {place} ] || break; sleep 0.3; done; [ ! -e {place} ]");
        self.check("pulled out in mid-I/O, given back", &gone, 0, "");
        let told = "for i in $(seq 100); do grep IoErr /tmp/bench && break; sleep 0.1; done";
        self.check("its client sees an error", told, 0, "IoErr");
        let told =
            "for i in $(seq 300); do grep '^0 sectors' /tmp/watch && break; sleep 0.1; done; cat /tmp/watch";
        self.check("another client is told that nothing is left of it", told, 0, "0 sectors now");
        self.check("the log says so", "grep -F 'taken away' /tmp/log", 0, "controller 1");
        self.check("the other serves on", "blkcheck /tmp/svr device=1234:n1 --mib 4", 0, "ok 1234:n1");
        self.stop("pulled out, stop");
    }

    /// The controller goes back to the kernel's driver.
    pub(super) fn unbinding(&mut self) {
        let back = format!("nvme-ctl unbind {ADDRESS} && sleep 1 && ls /sys/bus/pci/devices/{ADDRESS}/nvme");
        self.check("unbind", &back, 0, "nvme");
        let (fault, made) = self.iommu.fault(NOWHERE);
        let faults = format!("! dmesg | grep -E '{fault}' | grep -vE '{made}'");
        self.check("no IOMMU fault but the one that was made", &faults, 0, "");
    }
}
