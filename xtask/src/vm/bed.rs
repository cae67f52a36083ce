//! Checks in a machine, and what is started and stopped there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::ADDRESS;
use super::machine::Iommu;
use crate::machine::console::Machine;

/// How long one command in the machine may take.
pub(super) const WAIT: Duration = Duration::from_secs(120);

/// The server over the controller under test, with a factory.
pub(super) fn server() -> String {
    over(ADDRESS)
}

/// The server over the controller at `address`, with a factory.
pub(super) fn over(address: &str) -> String {
    format!("nvme-drv -v --cap vbus=pci:{address} --cap svr=unix:/tmp/svr")
}

/// A command that prints the kernel's disk for a namespace of the controller at `address`. The Y of nvmeXnY is not the
/// namespace's number (since Linux 6.12 it seldom is); sysfs says which it is.
pub(crate) fn disk_of(address: &str, nsid: u32) -> String {
    format!(
        "grep -lx {nsid} /sys/bus/pci/devices/{address}/nvme/nvme*/nvme*n*/nsid \
         | sed -E 's,.*/(nvme[0-9]+)(c[0-9]+)?(n[0-9]+)/nsid,/dev/\\1\\3,'"
    )
}

/// What QEMU traces of how its controllers find the data: events, and the words that stand for them.
pub(super) const TRACES: [&str; 2] = ["pci_nvme_map_prp", "pci_nvme_map_sgl"];

/// A machine and what was found in it.
pub(super) struct Bed {
    pub(super) guest: Machine,
    /// Where QEMU writes its traces.
    traces: PathBuf,
    pub(super) iommu: Iommu,
    /// When the job that runs, if any, is to have run for as long as it was told to.
    pub(super) runs_until: Instant,
    failed: usize,
}

impl Bed {
    pub(super) fn new(guest: Machine, traces: PathBuf, iommu: Iommu) -> Self {
        Self { guest, traces, iommu, runs_until: Instant::now(), failed: 0 }
    }

    /// Runs a command, whose status must be `status` and whose output must hold `text`; says whether it is so.
    pub(super) fn check(&mut self, what: &str, command: &str, status: i32, text: &str) -> bool {
        let (got, output) = self.guest.attempt(command, WAIT);
        let good = got == status && output.contains(text);
        let last = output.trim().lines().last().unwrap_or_default().to_owned();
        self.note(good, what, &last);
        if !good {
            println!("       status {got}, not {status}; wanted {text:?} in:\n{output}");
        }
        good
    }

    /// Writes down how a check ended.
    pub(super) fn note(&mut self, good: bool, what: &str, found: &str) {
        println!("{} {what}: {found}", if good { "ok    " } else { "FAILED" });
        self.failed += usize::from(!good);
    }

    /// The controller under test is bound to vfio-pci.
    pub(super) fn bound(&mut self) {
        self.guest.run(&format!("nvme-ctl bind {ADDRESS}"));
    }

    /// Starts a server. Its log is in `/tmp/log`.
    pub(super) fn start(&mut self, command: &str) {
        // Appended, since the log of a server that takes over is appended to it: two that write at places of their own write over each other's lines.
        self.guest.run(&format!("rm -f /tmp/svr /tmp/log; {command} >>/tmp/log 2>&1 & echo $! >/tmp/pid"));
        // Until it listens, or has ended.
        self.guest.run(
            "P=$(cat /tmp/pid); for i in $(seq 100); do [ -S /tmp/svr ] && break; readlink /proc/$P/exe >/dev/null || break; sleep 0.1; done",
        );
    }

    /// Ends the server in order.
    pub(super) fn stop(&mut self, what: &str) {
        self.check(what, "kill $(cat /tmp/pid); wait $(cat /tmp/pid)", 0, "");
    }

    /// Makes a session with these words a network block device at `/tmp/nbd`. What it has to say is in `/tmp/nbd.log`.
    pub(super) fn attach(&mut self, words: &str) {
        self.guest.run(&format!(
            "rm -f /tmp/nbd; blknbd /tmp/nbd /tmp/svr {words} >/tmp/nbd.log 2>&1 & echo $! >/tmp/nbd.pid"
        ));
        self.guest.run("for i in $(seq 300); do [ -S /tmp/nbd ] && break; sleep 0.1; done; cat /tmp/nbd.log");
    }

    /// Ends that.
    pub(super) fn detach(&mut self) {
        self.guest.attempt("kill $(cat /tmp/nbd.pid); wait $(cat /tmp/nbd.pid)", WAIT);
    }

    /// Counts what QEMU traces of a kind while `act` is done, in the order of [`TRACES`].
    pub(super) fn traced(&mut self, act: impl FnOnce(&mut Self)) -> [usize; 2] {
        let switch = |on: bool| {
            TRACES.map(|name| {
                format!(
                    r#"{{"execute":"trace-event-set-state","arguments":{{"name":"{name}","enable":{on}}}}}"#
                )
            })
        };
        let before = self.counts();
        self.guest.monitor(&switch(true).each_ref().map(String::as_str));
        act(self);
        self.guest.monitor(&switch(false).each_ref().map(String::as_str));
        let after = self.counts();
        [0, 1].map(|i| after.get(i).copied().unwrap_or(0) - before.get(i).copied().unwrap_or(0))
    }

    fn counts(&self) -> [usize; 2] {
        let text = std::fs::read(&self.traces).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        TRACES.map(|name| text.matches(name).count())
    }

    /// Shuts the machine down; says how many checks failed.
    pub(super) fn end(self) -> usize {
        self.guest.power_off();
        self.failed
    }
}
