//! What is said to the service manager about descriptors. Every wait has an end that the caller names: this is for a thread that has
//! nothing else to do.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nvme_platform::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::events::now;
use crate::socket::{self, Kind, pair};

/// What tells whether there was room: kept behind what is to be kept, for a moment.
const PROBE: &str = "nvme-drv.probe";

/// Why the manager does not keep something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotKept {
    /// It has no room, or keeps nothing.
    #[error("the service manager keeps no more descriptors (FileDescriptorStoreMax=)")]
    Full,
    /// It does not answer.
    #[error("the service manager does not answer")]
    Late,
    /// It cannot be told.
    #[error("the service manager cannot be told: {0}")]
    Socket(Errno),
}

/// The service manager, as far as it keeps descriptors.
#[derive(Debug)]
pub struct Manager(OwnedFd);

impl Manager {
    /// Over the socket that it is told everything by.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Whether it keeps anything at all.
    pub fn keeps(&self, until: Time) -> Result<bool, NotKept> {
        match self.keep(None, until) {
            Ok(()) => Ok(true),
            Err(NotKept::Full) => Ok(false),
            Err(why) => Err(why),
        }
    }

    /// Has it keep descriptors under a name, besides what it keeps under that name. It has them once this returns well.
    pub fn keep(&self, what: Option<(&str, &[BorrowedFd<'_>])>, until: Time) -> Result<(), NotKept> {
        if let Some((name, files)) = what {
            self.store(name, files, until)?;
        }
        let (ours, probe) = pair(Kind::Stream).map_err(NotKept::Socket)?;
        self.store(PROBE, &[probe.as_fd()], until)?;
        drop(probe);
        let heard = self.barrier(until);
        let has_room = !hangs_up(&ours, Timespec::default());
        self.let_go(PROBE, until)?;
        heard?;
        if has_room { Ok(()) } else { Err(NotKept::Full) }
    }

    /// Has it let go of what it keeps under a name.
    pub fn let_go(&self, name: &str, until: Time) -> Result<(), NotKept> {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[], until)
    }

    /// Without `FDPOLL=0` it would let go by itself of what hangs up.
    fn store(&self, name: &str, files: &[BorrowedFd<'_>], until: Time) -> Result<(), NotKept> {
        self.tell(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), files, until)
    }

    /// Returns once all that was said before has been heard: it closes what comes with this, in its turn.
    fn barrier(&self, until: Time) -> Result<(), NotKept> {
        let (ours, theirs) = pair(Kind::Stream).map_err(NotKept::Socket)?;
        self.tell("BARRIER=1", &[theirs.as_fd()], until)?;
        drop(theirs);
        let left = Timespec::try_from(until - now()).unwrap_or_default();
        if hangs_up(&ours, left) { Ok(()) } else { Err(NotKept::Late) }
    }

    fn tell(&self, message: &str, files: &[BorrowedFd<'_>], until: Time) -> Result<(), NotKept> {
        loop {
            match socket::send(&self.0, message.as_bytes(), files) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    let left = until - now();
                    if left.is_zero() {
                        return Err(NotKept::Late);
                    }
                    let left = Timespec::try_from(left).unwrap_or_default();
                    let _ = poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], Some(&left));
                }
                Err(why) => return Err(NotKept::Socket(why)),
            }
        }
    }
}

/// Whether the other end is gone within that time.
fn hangs_up(socket: &OwnedFd, within: Timespec) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    matches!(poll(&mut fds, Some(&within)), Ok(n) if n > 0) && fds[0].revents().contains(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::socket::receive;

    /// A manager with room for so many, which answers until the other end is dropped. What was stored, by name.
    fn manager(room: usize) -> (Manager, std::thread::JoinHandle<Vec<String>>) {
        let (theirs, ours) = pair(Kind::SeqPacket).unwrap();
        let thread = std::thread::spawn(move || {
            let mut kept: Vec<(String, OwnedFd)> = Vec::new();
            loop {
                let mut bytes = [0; 512];
                let _ = poll(&mut [PollFd::new(&theirs, PollFlags::IN)], None);
                let (length, files) = receive(&theirs, &mut bytes).unwrap();
                let text = std::str::from_utf8(&bytes[..length]).unwrap().to_owned();
                let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
                match text.lines().next() {
                    None => return kept.into_iter().map(|(name, _)| name).collect(),
                    Some("FDSTORE=1") => {
                        for file in files {
                            if kept.len() < room {
                                kept.push((name.to_owned(), file));
                            }
                        }
                    }
                    Some("FDSTOREREMOVE=1") => kept.retain(|(known, _)| known != name),
                    Some(other) => assert_eq!(other, "BARRIER=1"),
                }
            }
        });
        (Manager::new(ours), thread)
    }

    #[test]
    fn what_is_kept_is_with_the_manager_and_what_it_has_no_room_for_is_said() {
        let (a, b) = pair(Kind::Stream).unwrap();
        let until = now() + Duration::from_secs(20);
        let (full, thread) = manager(0);
        assert_eq!(full.keeps(until), Ok(false));
        drop(full);
        thread.join().unwrap();
        let (manager, thread) = manager(3);
        assert_eq!(manager.keeps(until), Ok(true));
        manager.keep(Some(("one", &[a.as_fd(), b.as_fd()])), until).unwrap();
        assert_eq!(manager.keep(Some(("two", &[a.as_fd()])), until), Err(NotKept::Full));
        manager.let_go("two", until).unwrap();
        manager.keep(None, until).unwrap();
        drop(manager);
        assert_eq!(thread.join().unwrap(), ["one", "one"]);
    }

    #[test]
    fn a_manager_that_does_not_answer_is_not_waited_for() {
        let (ours, _theirs) = pair(Kind::SeqPacket).unwrap();
        let manager = Manager::new(ours);
        assert_eq!(manager.keeps(now() + Duration::from_millis(30)), Err(NotKept::Late));
    }
}
