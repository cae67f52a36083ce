//! Checks in a machine, and a server that is started and stopped there.

use std::time::Duration;

use super::ADDRESS;
use crate::machine::console::Machine;

/// How long one command in the machine may take.
pub(super) const WAIT: Duration = Duration::from_secs(120);

/// The server over the controller under test, with a factory.
pub(super) fn server() -> String {
    format!("nvme-drv -v --cap vbus=pci:{ADDRESS} --cap svr=unix:/tmp/svr")
}

/// A machine and what was found in it.
pub(super) struct Bed {
    pub(super) guest: Machine,
    failed: usize,
}

impl Bed {
    pub(super) fn new(guest: Machine) -> Self {
        Self { guest, failed: 0 }
    }

    /// Runs a command, whose status must be `status` and whose output must hold `text`; says whether it is so.
    pub(super) fn check(&mut self, what: &str, command: &str, status: i32, text: &str) -> bool {
        let (got, output) = self.guest.attempt(command, WAIT);
        let good = got == status && output.contains(text);
        let last = output.trim().lines().last().unwrap_or_default().to_owned();
        println!("{} {what}: {last}", if good { "ok    " } else { "FAILED" });
        if !good {
            println!("       status {got}, not {status}; wanted {text:?} in:\n{output}");
            self.failed += 1;
        }
        good
    }

    /// Starts a server. Its log is in `/tmp/log`.
    pub(super) fn start(&mut self, command: &str) {
        self.guest.run(&format!("rm -f /tmp/svr; {command} >/tmp/log 2>&1 & echo $! >/tmp/pid"));
        self.guest.run("for i in $(seq 100); do [ -S /tmp/svr ] && break; sleep 0.1; done");
    }

    /// Ends the server in order.
    pub(super) fn stop(&mut self, what: &str) {
        self.check(what, "kill $(cat /tmp/pid); wait $(cat /tmp/pid)", 0, "");
    }

    /// Shuts the machine down; says how many checks failed.
    pub(super) fn end(self) -> usize {
        self.guest.power_off();
        self.failed
    }
}
