//! fio, over a session that is a network block device: what it writes, it reads back and compares.

use std::time::{Duration, Instant};

use super::bed::{Bed, WAIT};

/// Writes of many sizes anywhere, 16 at a time.
const JOB: &str = "fio --name=v --ioengine=nbd --uri='nbd+unix:///?socket=/tmp/nbd' --iodepth=16 --bsrange=4k-64k \
    --rw=randwrite --verify=crc32c --verify_fatal=1 --randseed=7 --minimal";

/// A job over so many bytes, with more options.
pub(super) fn job(size: &str, more: &str) -> String {
    format!("{JOB} --size={size} {more}")
}

impl Bed {
    /// Attaches a session, and writes and verifies with fio.
    pub(super) fn fio(&mut self, what: &str, words: &str, size: &str) {
        self.attach(words);
        // The fifth word of the line is the error.
        let job = job(size, "");
        self.check(what, &format!("{job} >/tmp/fio; cut -d';' -f3,5 /tmp/fio"), 0, "v;0");
        self.detach();
    }

    /// Starts a job that goes on for some seconds, on the session that is attached.
    pub(super) fn start_fio(&mut self, size: &str, seconds: u32) {
        let job = job(size, &format!("--time_based --runtime={seconds}"));
        self.guest.run(&format!("rm -f /tmp/rc; ({job} >/tmp/fio 2>&1; echo rc $? >/tmp/rc) & sleep 3"));
        self.runs_until = Instant::now() + Duration::from_secs(seconds.into());
    }

    /// Waits for its end, which must be a good one, and ends its session.
    pub(super) fn fio_ends(&mut self) {
        self.fio_ends_attached();
        self.detach();
    }

    /// Waits for its end, which must be a good one.
    pub(super) fn fio_ends_attached(&mut self) {
        // It may have been told to run for longer than a command in the machine may take.
        while Instant::now() < self.runs_until {
            let ended = "for i in $(seq 300); do [ -e /tmp/rc ] && break; sleep 0.1; done; [ -e /tmp/rc ]";
            if self.guest.attempt(ended, WAIT).0 == 0 {
                break;
            }
        }
        let ended =
            "for i in $(seq 600); do [ -e /tmp/rc ] && break; sleep 0.1; done; tail -3 /tmp/fio; cat /tmp/rc";
        self.check("fio goes on, and verifies", ended, 0, "rc 0");
    }
}
