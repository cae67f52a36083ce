//! Event counters.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd of our own: non-blocking, closed on exec.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A counter that stands at zero. Fails when the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Adds one. A full counter stays full: whoever waits for it is woken all the same.
    pub fn signal(&self) {
        // What can fail here is a full counter, which says what we want to say.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes the counter, and leaves zero. Zero: nobody signalled.
    pub fn take(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        }
    }

    /// Another descriptor of the same counter, to give away.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }
}

impl From<OwnedFd> for EventFd {
    /// One that somebody else made.
    fn from(counter: OwnedFd) -> Self {
        Self(counter)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::EventFd;

    #[test]
    fn signals_add_up_and_are_taken_together() {
        let event = EventFd::new().unwrap();
        assert_eq!(event.take(), 0);
        event.signal();
        event.signal();
        assert_eq!(event.take(), 2);
        assert_eq!(event.take(), 0);
    }

    #[test]
    fn a_shared_descriptor_is_the_same_counter() {
        let event = EventFd::new().unwrap();
        rustix::io::write(event.share().unwrap(), &5u64.to_ne_bytes()).unwrap();
        assert_eq!(event.take(), 5);
    }

    #[test]
    fn a_full_counter_does_not_block() {
        let event = EventFd::new().unwrap();
        rustix::io::write(&event.0, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        event.signal();
        assert_eq!(event.take(), u64::MAX - 1);
    }
}
