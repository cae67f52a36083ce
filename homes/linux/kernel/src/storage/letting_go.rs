//! The end of rings: what they have open is let go of by the kernel, behind whoever closed them.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Hangs up when all rings have let go of their files: the kernel does that behind whoever closed them.
#[derive(Debug)]
pub struct LettingGo(OwnedFd);

impl LettingGo {
    /// One end of a pipe, whose other is among the files of each ring.
    pub(super) fn of(end: OwnedFd) -> Self {
        Self(end)
    }

    /// Waits for that, so long at most. Whether it is so.
    pub fn wait(&self, patience: Duration) -> bool {
        let patience = Timespec::try_from(patience).ok();
        let mut end = [PollFd::new(&self.0, PollFlags::IN)];
        poll(&mut end, patience.as_ref()).is_ok_and(|count| count > 0)
    }
}
