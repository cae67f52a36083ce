//! The operator asks which requests took long.

use nvme_core::server::message::SessionKey;
use nvme_linux::factory::Refusal;
use nvme_linux::inventory::{SLOW_MS, Slow, SlowRequest};
use nvme_platform::Time;
use nvme_policy::{Errno, Shown};
use nvme_session::operation::Outcome;
use nvme_session::queue::Laggard;

use super::Server;
use super::waiting::refused;
use crate::counters::seconds;

/// A millisecond, in nanoseconds.
const MS: u64 = 1_000_000;

impl Server {
    /// `slow [MS]`: the last requests that took as many milliseconds, or longer.
    pub(super) fn slow(&self, ms: Option<&str>, time: Time) -> Result<String, Refusal> {
        let wrong = |word: &str| {
            let shown = Shown::new(word.as_bytes());
            refused(Errno::Invalid, &format!("`{}`: slow takes milliseconds, 1 or more", shown.as_str()))
        };
        let ms = match ms {
            None => SLOW_MS,
            Some(word) => word.parse().ok().filter(|ms| *ms > 0).ok_or_else(|| wrong(word))?,
        };
        let found = self.control.laggards().longer_than(ms.saturating_mul(MS));
        let requests = found.iter().map(|laggard| self.slow_request(laggard)).collect();
        let slow = Slow { clock: time.as_nanos(), ms, requests };
        slow.to_json().map_err(|e| refused(Errno::Io, &e.to_string()))
    }

    fn slow_request(&self, laggard: &Laggard) -> SlowRequest {
        let session = self.control.session(SessionKey(laggard.session));
        let status = match laggard.outcome {
            Outcome::Done => "ok",
            Outcome::Failed => "ioerr",
            Outcome::Unsupported => "unsupp",
        };
        SlowRequest {
            session: laggard.session,
            device: session.map(|session| session.minted().device().to_owned()),
            queue: laggard.queue,
            kind: laggard.asked.word().to_owned(),
            bytes: laggard.bytes,
            together: laggard.together,
            status: status.to_owned(),
            seconds: seconds(laggard.nanos()),
            held_seconds: seconds(laggard.held),
            taken: laggard.taken.as_nanos(),
            submitted: laggard.submitted.as_nanos(),
            completed: laggard.completed.as_nanos(),
            used: laggard.used.as_nanos(),
        }
    }
}
