//! What a thread sleeps on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
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
            Self::Hangup => F::RDHUP,
        }
    }
}

/// Something happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
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
pub struct Events(Vec<epoll::Event>);

impl Events {
    /// Room for `count` events per wait (at least one). More of them come with the next wait.
    pub fn new(count: usize) -> Self {
        Self(Vec::with_capacity(count.max(1)))
    }

    /// What the last wait found.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        use epoll::EventFlags as F;
        self.0.iter().map(|event| Event {
            token: event.data.u64(),
            readable: { event.flags }.contains(F::IN),
            writable: { event.flags }.contains(F::OUT),
            hangup: { event.flags }.intersects(F::HUP | F::RDHUP | F::ERR),
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
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        events.0.clear();
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events.0), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::super::EventFd;
    use super::{Epoll, Event, Events, Interest};

    fn wait(epoll: &Epoll) -> Vec<Event> {
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
    fn a_wait_ends_at_its_deadline_to_the_microsecond() {
        let start = Instant::now();
        let mut events = Events::new(1);
        Epoll::new().unwrap().wait(&mut events, Some(Duration::from_micros(1500))).unwrap();
        assert!(start.elapsed() >= Duration::from_micros(1500));
        assert_eq!(events.iter().count(), 0);
    }
}
