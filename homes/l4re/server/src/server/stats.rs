//! What sessions did, as lines of the log (`-v`): each minute of those that did something in it, and at a session's end.

use core::fmt;
use core::time::Duration;

use nvme_platform::Time;
use nvme_policy::Rate;
use nvme_session::queue::{Asked, Counted, FAULTS, Fault};

use super::Server;
use crate::output::Level;
use crate::{Kernel, Output};

/// How long after the first work that was not told of.
const EVERY: Duration = Duration::from_secs(60);

/// When lines are due.
pub(super) struct Stats {
    /// None while nothing was done since the last ones: an idle server is not woken.
    at: Option<Time>,
    /// When the last ones were said.
    said: Time,
}

impl Stats {
    pub(super) fn new(now: Time) -> Self {
        Self { at: None, said: now }
    }
}

impl<K: Kernel, O: Output> Server<K, O> {
    /// When lines are due.
    pub(super) fn stats_at(&mut self) -> Option<Time> {
        if self.stats.at.is_none() && self.last_work > self.stats.said && self.lines.prints(Level::Info) {
            self.stats.at = Some(self.last_work + EVERY);
        }
        self.stats.at
    }

    /// Says them, if they are due.
    pub(super) fn tell_stats(&mut self, now: Time) {
        if self.stats_at().is_none_or(|at| at > now) {
            return;
        }
        self.stats = Stats::new(now);
        for slot in 0..self.sessions.capacity() {
            self.tell_stat(slot);
        }
    }

    /// What a session did, if that is more than was said of it last.
    pub(super) fn tell_stat(&mut self, slot: usize) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(found) = session.key.and_then(|key| self.control.session(key)) else { return };
        let counted = found.counted();
        let requests = counted.requests();
        if (requests == session.told && counted.in_flight == 0) || !self.lines.prints(Level::Info) {
            return;
        }
        session.told = requests;
        let stat = Stat { counted: &counted, rate: found.rate() };
        self.lines.say(Level::Info, format_args!("stat {}: {stat}", session.name));
    }
}

/// Counters under the names of doc/watching.md. All are the session's since it began; kinds of requests that did not occur are left out, as are
/// limits that it does not have.
struct Stat<'a> {
    counted: &'a Counted,
    rate: Rate,
}

impl fmt::Display for Stat<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counted, rate } = self;
        write!(f, "requests={}", counted.requests())?;
        let (mut failed, mut unsupported, mut errors) = (0, 0, [0_u64; FAULTS]);
        for asked in Asked::ALL {
            let kind = counted.of(asked);
            if kind.requests() > 0 {
                write!(f, " {}={}", asked.word(), kind.requests())?;
            }
            (failed, unsupported) = (failed + kind.failed, unsupported + kind.unsupported);
            for (sum, many) in errors.iter_mut().zip(kind.errors) {
                *sum = sum.wrapping_add(many);
            }
        }
        let (read, written) = (mean(counted, Asked::Read), mean(counted, Asked::Write));
        for (name, value) in [
            ("failed", failed),
            ("unsupported", unsupported),
            ("read_bytes", counted.read_bytes),
            ("written_bytes", counted.written_bytes),
            ("in_flight", counted.in_flight),
            ("depth_most", counted.depth_most),
            ("read_us", read),
            ("write_us", written),
            ("notifications", counted.notifications),
            ("slow_path", counted.slow_path),
            ("bounced", counted.bounced),
            ("held_ms", counted.held / 1_000_000),
        ] {
            write!(f, " {name}={value}")?;
        }
        for (fault, many) in Fault::ALL.into_iter().zip(errors).filter(|(_, many)| *many > 0) {
            write!(f, " {}={many}", fault.word())?;
        }
        for (name, limit) in [("iops", rate.iops), ("bytes", rate.bytes)] {
            if let Some(limit) = limit {
                write!(f, " {name}={limit}")?;
            }
        }
        Ok(())
    }
}

/// Microseconds that requests of a kind took on the average.
fn mean(counted: &Counted, asked: Asked) -> u64 {
    let kind = counted.of(asked);
    kind.time.checked_div(kind.requests()).unwrap_or(0) / 1000
}
