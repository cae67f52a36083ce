//! Telling a client, through a descriptor that the client chose.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nvme_platform::Notify;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

/// Why a descriptor is not taken as a call or error eventfd.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// It is a file, pipe, socket, device or anything else.
    #[error("the descriptor given for notifications is not an eventfd: pass one made by eventfd(2)")]
    NotAnEventFd,
}

/// A virtqueue's call eventfd and its error eventfd, both from the client.
///
/// The client can do with its end whatever it likes, at any time: pass something else, fill the counter, make it
/// blocking. So:
/// - what is not an eventfd is refused when it comes ([`is_eventfd`]), and nothing is ever written into a file, pipe,
///   socket or terminal on behalf of a client;
/// - the descriptor's flags are left alone, because they are the client's as much as ours (an application may well
///   have made its end blocking in order to wait in `read`);
/// - before each write the kernel is asked whether the counter has room. A full one has been signalled already.
///
/// A client that keeps its eventfd blocking and fills it to the brim between that question and the write, which are a few
/// hundred nanoseconds apart, would make the writer wait. The kernel offers no write to an eventfd with a time
/// limit (`RWF_NOWAIT` is refused); see the security documentation.
#[derive(Debug)]
pub struct CallNotify {
    call: Option<OwnedFd>,
    error: Option<OwnedFd>,
}

impl CallNotify {
    /// Takes the client's descriptors; without a call descriptor the client polls. They are closed on error.
    pub fn new(call: Option<OwnedFd>, error: Option<OwnedFd>) -> Result<Self, CallError> {
        for fd in call.iter().chain(&error) {
            if !is_eventfd(fd.as_fd()) {
                return Err(CallError::NotAnEventFd);
            }
        }
        Ok(Self { call, error })
    }
}

impl Notify for CallNotify {
    fn used(&self) {
        if let Some(call) = &self.call {
            signal(call.as_fd());
        }
    }

    fn broken(&self) {
        if let Some(error) = &self.error {
            signal(error.as_fd());
        }
    }
}

/// Whether a descriptor is an eventfd, found out without any effect on what it is otherwise.
///
/// There is no call that says so once `/proc` is out of reach. Three properties together do: an anonymous inode has
/// no file type; an eventfd can be polled for room; and it refuses, before anything else, the value of all ones
/// (eventfd(2), `EINVAL`), which is the only value that this writes. Other anonymous inodes have no write at all,
/// answer `EINVAL` for ever and are never ready for writing. (A VFIO device has a write, into the device that the
/// client has itself; it does not refuse the value, and is found out by that.)
pub fn is_eventfd(fd: BorrowedFd<'_>) -> bool {
    let Ok(stat) = fstat(fd) else { return false };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Unknown {
        return false;
    }
    // A full counter is not ready for writing: it is refused here, and its owner knows why.
    has_room(fd) && rustix::io::write(fd, &u64::MAX.to_ne_bytes()) == Err(Errno::INVAL)
}

fn has_room(fd: BorrowedFd<'_>) -> bool {
    let mut ready = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut ready, Some(&at_once)), Ok(1)) && ready[0].revents().contains(PollFlags::OUT)
}

fn signal(fd: BorrowedFd<'_>) {
    if has_room(fd) {
        let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use nvme_platform::Notify;
    use rustix::event::{EventfdFlags, epoll, eventfd};

    use super::{CallError, CallNotify};

    fn count(fd: &OwnedFd) -> u64 {
        let mut bytes = [0; 8];
        rustix::io::read(fd, &mut bytes).unwrap();
        u64::from_ne_bytes(bytes)
    }

    fn refused(fd: impl Into<OwnedFd>) {
        assert_eq!(CallNotify::new(Some(fd.into()), None).unwrap_err(), CallError::NotAnEventFd);
    }

    #[test]
    fn call_and_error_are_signalled_apart() {
        let (call, error) =
            (eventfd(0, EventfdFlags::NONBLOCK).unwrap(), eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let notify =
            CallNotify::new(Some(call.try_clone().unwrap()), Some(error.try_clone().unwrap())).unwrap();
        notify.used();
        notify.used();
        assert_eq!(count(&call), 2);
        assert!(rustix::io::read(&error, &mut [0; 8]).is_err());
        notify.broken();
        assert_eq!(count(&error), 1);
    }

    #[test]
    fn a_client_that_polls_needs_no_eventfd() {
        let notify = CallNotify::new(None, None).unwrap();
        notify.used();
        notify.broken();
    }

    #[test]
    fn blocking_and_semaphore_eventfds_are_good() {
        for flags in [EventfdFlags::empty(), EventfdFlags::SEMAPHORE] {
            let call = eventfd(0, flags).unwrap();
            CallNotify::new(Some(call.try_clone().unwrap()), None).unwrap().used();
            assert_eq!(count(&call), 1);
            let flags = rustix::fs::fcntl_getfl(&call).unwrap();
            assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "the client's flags are its own");
        }
    }

    #[test]
    fn a_full_blocking_eventfd_does_not_block() {
        let call = eventfd(0, EventfdFlags::empty()).unwrap();
        let notify = CallNotify::new(Some(call.try_clone().unwrap()), None).unwrap();
        rustix::io::write(&call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        notify.used();
        assert_eq!(count(&call), u64::MAX - 1);
        notify.used();
        assert_eq!(count(&call), 1);
    }

    #[test]
    fn what_is_no_eventfd_is_refused_and_left_alone() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        refused(writer);
        assert_eq!(rustix::io::read(&reader, &mut [0; 8]), Ok(0));

        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        refused(theirs);
        assert_eq!(rustix::io::read(&ours, &mut [0; 8]), Ok(0));

        let file = tempfile::tempfile().unwrap();
        refused(file.try_clone().unwrap());
        assert_eq!(file.metadata().unwrap().len(), 0);

        refused(std::fs::File::options().write(true).open("/dev/null").unwrap());
        refused(std::fs::File::open("/").unwrap());
        refused(rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    }

    #[test]
    fn other_anonymous_inodes_are_refused() {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

        refused(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
        refused(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap());
        let call = eventfd(0, EventfdFlags::empty()).unwrap();
        assert!(super::is_eventfd(call.as_fd()));
    }
}
