//! Requests that controllers failed, as lines: a few a second of all sessions together, and how many there were besides.
//!
//! Each queue pair tells of one in a while already; with many sessions on a drive that fails, that is still many lines.

use core::time::Duration;

use nvme_platform::{Time, error};

use super::super::message::SessionKey;
use super::{Control, Session};
use crate::nvme::Mishap;

/// So many lines in one [`WINDOW`].
const LINES: u32 = 4;
const WINDOW: Duration = Duration::from_secs(1);

/// What was said, and what was not.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// Since when lines are counted, and how many there were.
    since: Option<Time>,
    lines: u32,
    /// Requests of which nothing was said.
    unsaid: u64,
}

impl Complaints {
    fn is_over(&self, now: Time) -> bool {
        self.since.is_none_or(|since| now >= since + WINDOW)
    }

    /// One more; what to say of it, with all that nothing was said of.
    fn more(&mut self, mishap: &Mishap, now: Time) -> Option<Mishap> {
        if self.is_over(now) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines == LINES {
            self.unsaid = self.unsaid.saturating_add(mishap.more).saturating_add(1);
            return None;
        }
        self.lines += 1;
        Some(Mishap { more: mishap.more.saturating_add(core::mem::take(&mut self.unsaid)), ..*mishap })
    }

    /// When the last are to be told of, should there be no others.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.since.filter(|_| self.unsaid > 0).map(|since| since + WINDOW)
    }

    /// How many nothing was said of, once it is time to.
    fn rest(&mut self, now: Time) -> Option<u64> {
        if self.unsaid == 0 || !self.is_over(now) {
            return None;
        }
        (self.since, self.lines) = (Some(now), 1);
        Some(core::mem::take(&mut self.unsaid))
    }
}

impl Control {
    /// The operator is told of a request that failed: whose, where, and why.
    pub(super) fn request_failed(&mut self, mishap: &Mishap, now: Time) {
        let key = mishap.session;
        // What failed last may be told when the session has ended.
        let minted = self.sessions.get(&SessionKey(key)).map(Session::minted);
        let Some((minted, extent)) = minted.map(|minted| (minted, minted.grant().extent())) else { return };
        let Some(mishap) = self.complaints.more(mishap, now) else { return };
        let (device, what) = (minted.device(), mishap.what);
        let first = extent.first() << extent.block_size().shift();
        match mishap.place {
            Some((at, bytes)) => {
                let offset = at.saturating_sub(first);
                error!(
                    "session {key}: {device}: a {what} of {bytes} bytes at offset {offset} failed: {mishap}"
                );
            }
            None => error!("session {key}: {device}: a {what} failed: {mishap}"),
        }
    }

    /// Those of which nothing was said.
    pub(super) fn tell_failed(&mut self, now: Time) {
        if let Some(rest) = self.complaints.rest(now) {
            error!("{rest} more requests of sessions failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::spec::command::Status;

    fn mishap(more: u64) -> Mishap {
        Mishap { session: 3, what: "read", place: None, status: Status(Status::READ_ERROR), more }
    }

    fn at(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_few_are_said_each_second_and_all_are_counted() {
        let mut complaints = Complaints::default();
        let (mut lines, mut told, mut failed) = (0, 0, 0);
        // 64 pairs, each of which tells of four a second for ten seconds, with 99 more each time.
        for now in (5_000..15_000).step_by(250).map(at) {
            for _ in 0..64 {
                failed += 100;
                if let Some(said) = complaints.more(&mishap(99), now) {
                    lines += 1;
                    told += said.more + 1;
                }
            }
        }
        assert_eq!(lines, 40);
        // The rest when there are no others, and once.
        assert_eq!(complaints.rest(at(14_750)), None);
        let until = complaints.deadline().unwrap();
        told += complaints.rest(until).unwrap();
        assert_eq!(told, failed);
        assert_eq!((complaints.deadline(), complaints.rest(at(99_000))), (None, None));
    }

    #[test]
    fn who_fails_now_and_then_is_said_at_once() {
        let mut complaints = Complaints::default();
        for now in (5_000..60_000).step_by(300).map(at) {
            assert_eq!(complaints.more(&mishap(0), now), Some(mishap(0)));
        }
        assert_eq!(complaints.deadline(), None);
    }
}
