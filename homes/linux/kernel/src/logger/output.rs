//! Where lines go, without ever waiting for whoever reads them.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::OwnedFd;

use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::SendFlags;

use super::line::{Line, OPERATOR};

/// How a descriptor is written to without waiting. Its flags are not ours: the shell and other programs write
/// to the same terminal or pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// The journal's stream, or any other socket: `MSG_DONTWAIT`.
    Socket,
    /// `RWF_NOWAIT`, and where the kernel does not know it for pipes (before 6.4), after asking for room.
    Pipe,
    /// After asking for room. (A file on a disk always has room, and is written through the page cache.)
    Other,
}

pub(super) struct Output {
    fd: OwnedFd,
    how: How,
    journal: bool,
    lost: u64,
}

impl Output {
    pub(super) fn new(fd: OwnedFd, journal_stream: Option<&OsStr>) -> Self {
        let stat = fstat(&fd).ok();
        let how = match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Some(FileType::Socket) => How::Socket,
            Some(FileType::Fifo) => How::Pipe,
            _ => How::Other,
        };
        // systemd.exec(5): device and inode of the stream, so that a service that redirects its output notices.
        let journal = match (stat, journal_stream) {
            (Some(stat), Some(stream)) => *stream == *format!("{}:{}", stat.st_dev, stat.st_ino),
            _ => false,
        };
        Self { fd, how, journal, lost: 0 }
    }

    /// Whether the journal reads this.
    pub(super) fn journal(&self) -> bool {
        self.journal
    }

    /// Writes the line, or loses it.
    pub(super) fn write(&mut self, line: &Line) {
        if self.lost > 0 {
            let count = format_args!("{} lines were lost, because nobody read them", self.lost);
            let told = Line::new(self.journal, Level::Warn, OPERATOR, &count);
            if !self.put(told.as_bytes()) {
                self.lost = self.lost.saturating_add(1);
                return;
            }
            self.lost = 0;
        }
        if !self.put(line.as_bytes()) {
            self.lost = self.lost.saturating_add(1);
        }
    }

    fn put(&self, bytes: &[u8]) -> bool {
        match self.how {
            How::Socket => {
                rustix::net::send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok()
            }
            How::Pipe => {
                // Offset -1: at the file's own position.
                match rustix::io::pwritev2(&self.fd, &[IoSlice::new(bytes)], u64::MAX, ReadWriteFlags::NOWAIT)
                {
                    // Or somebody denies it: a write to a pipe itself is never EPERM.
                    Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::SPIPE | Errno::PERM) => {
                        self.ask_and_put(bytes)
                    }
                    other => other.is_ok(),
                }
            }
            How::Other => self.ask_and_put(bytes),
        }
    }

    fn ask_and_put(&self, bytes: &[u8]) -> bool {
        let mut ready = [PollFd::new(&self.fd, PollFlags::OUT)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let room =
            matches!(poll(&mut ready, Some(&at_once)), Ok(1)) && ready[0].revents().contains(PollFlags::OUT);
        room && rustix::io::write(&self.fd, bytes).is_ok()
    }
}
