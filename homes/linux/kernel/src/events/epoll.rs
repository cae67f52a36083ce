//! What a thread sleeps on.
//!
//! `epoll_pwait2` waits to the nanosecond, but Linux has it since 5.11 only, and containers and units deny what they do not know.
//! The first wait that finds it missing makes all of them use `epoll_pwait`, whose milliseconds are rounded up: nothing
//! comes early, and a deadline is met up to a millisecond late.
#![expect(unsafe_code, reason = "waits by calls that have no safe interface on older kernels")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;

/// What to be told about a descriptor. That the other side is gone is always told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest {
    /// As long as there is something to read or to accept.
    Read,
    /// Once each time that something comes. The descriptor need never be read, so this is what a client's kick is
    /// watched with: whatever it is, nobody can block on it.
    ReadEdge,
    /// As long as there is something to read, or room to write.
    ReadWrite,
    /// As long as there is room to write. What comes meanwhile wakes nobody.
    Write,
    /// Only that the other side is gone.
    Hangup,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        use epoll::EventFlags as F;
        match self {
            Self::Read => F::IN | F::RDHUP,
            Self::ReadEdge => F::IN | F::ET,
            Self::ReadWrite => F::IN | F::OUT | F::RDHUP,
            Self::Write => F::OUT | F::RDHUP,
            Self::Hangup => F::RDHUP,
        }
    }
}

/// A descriptor has something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// The word that the descriptor was added with.
    pub token: u64,
    /// There is something to read, or to accept.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The other side is gone, or has said that it sends no more.
    pub hangup: bool,
}

/// Where [`Epoll::wait`] puts what happened: a fixed buffer.
pub struct Events(Vec<libc::epoll_event>);

impl Events {
    /// Room for `count` events per wait (at least one). More of them come with the next wait.
    pub fn new(count: usize) -> Self {
        Self(Vec::with_capacity(count.max(1)))
    }

    /// What the last wait found.
    pub fn iter(&self) -> impl Iterator<Item = Ready> + '_ {
        use epoll::EventFlags as F;
        self.0.iter().map(|event| {
            let flags = F::from_bits_retain(event.events);
            Ready {
                token: event.u64,
                readable: flags.contains(F::IN),
                writable: flags.contains(F::OUT),
                hangup: flags.intersects(F::HUP | F::RDHUP | F::ERR),
            }
        })
    }
}

/// A set of descriptors to wait for.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Adds a descriptor. `EPERM`: it is of a kind that cannot be waited for (a file, a directory); `EEXIST`: it is
    /// in the set already.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Changes what a descriptor is waited for; with [`Interest::ReadEdge`], what is there already is told again.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.0, fd, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Takes a descriptor out of the set. Always do this before closing one that somebody else has a copy of: it
    /// would stay in the set otherwise, with nobody able to remove it.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, fd)?)
    }

    /// Waits until something happens, or `timeout` is over (`None`: for ever; zero: not at all). Returns with no
    /// events when a signal handler ran.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        // Says nothing about other memory: whoever finds out later finds out by itself.
        static COARSE: AtomicBool = AtomicBool::new(false);
        events.0.clear();
        let mut waited = Err(Errno::NOSYS);
        if !COARSE.load(Ordering::Relaxed) {
            waited = self.wait_finely(events, timeout);
        }
        // The call itself never answers so: the kernel lacks it, or a filter answers for the kernel.
        if matches!(waited, Err(Errno::NOSYS | Errno::PERM)) {
            COARSE.store(true, Ordering::Relaxed);
            waited = self.wait_coarsely(events, timeout);
        }
        match waited {
            Err(error) if error != Errno::INTR => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Takes what is there, but no more than `most` events.
    pub fn take(&self, events: &mut Events, most: usize) -> io::Result<()> {
        events.0.clear();
        let room = room(events).min(libc::c_int::try_from(most.max(1)).unwrap_or(libc::c_int::MAX));
        let at = events.0.as_mut_ptr();
        // SAFETY: there is room for so many events at `at`; without a mask nothing else is looked at.
        let found = unsafe { libc::epoll_pwait(self.0.as_raw_fd(), at, room, 0, std::ptr::null()) };
        match found_events(events, found.into()) {
            Err(error) if error != Errno::INTR => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn wait_finely(&self, events: &mut Events, timeout: Option<Duration>) -> Result<(), Errno> {
        // The kernel's own, whose fields have 64 bits everywhere.
        #[repr(C)]
        struct Timespec {
            seconds: i64,
            nanoseconds: i64,
        }
        let timeout = timeout.map(|t| Timespec {
            seconds: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: t.subsec_nanos().into(),
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let (set, room) = (self.0.as_raw_fd(), room(events));
        let (at, no_mask) = (events.0.as_mut_ptr(), std::ptr::null::<libc::sigset_t>());
        // SAFETY: there is room for so many events at `at`; the timeout lives until the call returns, and there is no mask.
        let found = unsafe { libc::syscall(libc::SYS_epoll_pwait2, set, at, room, timeout, no_mask, 0usize) };
        found_events(events, found)
    }

    fn wait_coarsely(&self, events: &mut Events, timeout: Option<Duration>) -> Result<(), Errno> {
        let timeout =
            timeout.map_or(-1, |t| i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        let (set, room) = (self.0.as_raw_fd(), room(events));
        let at = events.0.as_mut_ptr();
        // SAFETY: there is room for so many events at `at`; without a mask nothing else is looked at.
        let found = unsafe { libc::epoll_pwait(set, at, room, timeout, std::ptr::null()) };
        found_events(events, found.into())
    }
}

/// Waits until some of these can be read, at most so long: which. None when a signal handler ran. For sets that cannot be in one set: a
/// set that is in another is added to under a lock of the kernel's that all processes share.
pub fn any_readable<'f>(
    fds: impl Iterator<Item = BorrowedFd<'f>>,
    timeout: Duration,
) -> io::Result<Vec<usize>> {
    let mut fds: Vec<PollFd<'f>> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) | Err(Errno::INTR) => Ok(Vec::new()),
        Ok(_) => {
            let ready = fds.iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty());
            Ok(ready.map(|(at, _)| at).collect())
        }
        Err(error) => Err(error.into()),
    }
}

fn room(events: &Events) -> libc::c_int {
    libc::c_int::try_from(events.0.capacity()).unwrap_or(libc::c_int::MAX)
}

/// Takes what a wait has put into the buffer.
fn found_events(events: &mut Events, found: libc::c_long) -> Result<(), Errno> {
    let Ok(found) = usize::try_from(found) else {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    };
    // SAFETY: the kernel wrote so many events to the start of the buffer, which has room for more than that.
    unsafe { events.0.set_len(found.min(events.0.capacity())) };
    Ok(())
}

impl AsFd for Epoll {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::super::EventFd;
    use super::{Epoll, Events, Interest, Ready, any_readable};

    fn wait(epoll: &Epoll) -> Vec<Ready> {
        let mut events = Events::new(4);
        epoll.wait(&mut events, Some(Duration::ZERO)).unwrap();
        events.iter().collect()
    }

    #[test]
    fn an_edge_is_told_once_and_a_level_until_it_is_gone() {
        let (edge, level) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        let epoll = Epoll::new().unwrap();
        epoll.add(&edge, 1, Interest::ReadEdge).unwrap();
        epoll.add(&level, u64::MAX, Interest::Read).unwrap();
        assert_eq!(wait(&epoll), []);
        edge.signal();
        level.signal();
        assert_eq!(wait(&epoll).len(), 2);
        let again = wait(&epoll);
        assert_eq!(again.iter().map(|e| e.token).collect::<Vec<_>>(), [u64::MAX]);
        assert!(again[0].readable && !again[0].hangup);
        level.take();
        assert_eq!(wait(&epoll), []);
        edge.signal();
        assert_eq!(wait(&epoll).len(), 1);
    }

    #[test]
    fn a_closed_peer_is_a_hangup() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(&ours, 7, Interest::Hangup).unwrap();
        theirs.write_all(b"x").unwrap();
        assert_eq!(wait(&epoll), []);
        drop(theirs);
        assert!(wait(&epoll)[0].hangup);
        epoll.remove(&ours).unwrap();
        assert_eq!(wait(&epoll), []);
    }

    #[test]
    fn a_file_cannot_be_waited_for() {
        let file = tempfile::tempfile().unwrap();
        let error = Epoll::new().unwrap().add(&file, 0, Interest::ReadEdge).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn sets_with_something_are_found_and_so_much_is_taken_as_was_asked_for() {
        let sets = [Epoll::new().unwrap(), Epoll::new().unwrap()];
        let kicks = [(); 3].map(|()| EventFd::new().unwrap());
        for (token, kick) in (0..).zip(&kicks) {
            sets[1].add(kick, token, Interest::ReadEdge).unwrap();
        }
        let none = Vec::<usize>::new();
        let any = |millis| any_readable(sets.iter().map(AsFd::as_fd), Duration::from_millis(millis)).unwrap();
        let start = Instant::now();
        assert_eq!(any(2), none);
        assert!(start.elapsed() >= Duration::from_millis(2));
        kicks.iter().for_each(EventFd::signal);
        let mut events = Events::new(4);
        let mut take = || {
            sets[1].take(&mut events, 2).unwrap();
            events.iter().map(|event| event.token).collect::<Vec<_>>()
        };
        // What is left is there as long as it is.
        assert_eq!((any(10_000), take()), (vec![1], vec![0, 1]));
        assert_eq!((any(10_000), take(), take()), (vec![1], vec![2], vec![]));
        assert_eq!(any(0), none);
    }

    #[test]
    fn a_wait_ends_at_its_deadline_to_the_microsecond() {
        let start = Instant::now();
        let mut events = Events::new(1);
        Epoll::new().unwrap().wait(&mut events, Some(Duration::from_micros(1500))).unwrap();
        assert!(start.elapsed() >= Duration::from_micros(1500));
        assert_eq!(events.iter().count(), 0);
    }
}
