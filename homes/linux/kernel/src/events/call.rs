//! Telling a client, through a descriptor that the client chose.
#![expect(unsafe_code, reason = "writes to a descriptor that a client chose")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nvme_platform::Notify;
use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use rustix::io::Errno;

use crate::dispose::dispose;

use super::account::{Account, Signalled};

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
/// - a write is watched over, and interrupted when it waits ([`guard_calls`](super::guard_calls)). A full counter has
///   been signalled already.
#[derive(Debug)]
pub struct CallNotify {
    call: Option<Arc<Signalled>>,
    error: Option<Arc<Signalled>>,
}

impl CallNotify {
    /// Takes the client's descriptors; without a call descriptor the client polls. They are closed on error. What their
    /// notifications cost is put down to the account.
    pub fn new(
        call: Option<OwnedFd>,
        error: Option<OwnedFd>,
        account: &Arc<Account>,
    ) -> Result<Self, CallError> {
        if call.iter().chain(&error).all(|fd| is_eventfd(fd.as_fd())) {
            let signalled = |fd| Signalled::new(fd, Arc::clone(account));
            return Ok(Self { call: call.map(signalled), error: error.map(signalled) });
        }
        dispose(call.into_iter().chain(error));
        Err(CallError::NotAnEventFd)
    }

    /// The call eventfd.
    pub fn call(&self) -> Option<BorrowedFd<'_>> {
        self.call.as_ref().map(|call| call.fd())
    }
}

impl Notify for CallNotify {
    fn used(&self) {
        if let Some(call) = &self.call {
            call.signal();
        }
    }

    fn broken(&self) {
        if let Some(error) = &self.error {
            error.signal();
        }
    }
}

/// Whether a descriptor is an eventfd, found out without any effect on what it is otherwise.
///
/// There is no call that says so once `/proc` is out of reach. Three properties together do: an anonymous inode has
/// no file type; what can be written to at all finds an address that nobody has (`EFAULT`), where other anonymous inodes
/// have no write (`EINVAL`); and an eventfd refuses, full or not, the value of all ones (eventfd(2), `EINVAL`), which
/// is the only value that this writes. (A VFIO device has a write, into the device that the client has itself; it does not
/// refuse the value, and is found out by that.)
pub fn is_eventfd(fd: BorrowedFd<'_>) -> bool {
    // Asks the kernel alone: an ordinary fstat waits for the file system, which may be the client's own.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let Ok(stat) = statx(fd, "", flags, StatxFlags::TYPE) else { return false };
    if FileType::from_raw_mode(u32::from(stat.stx_mode)) != FileType::Unknown {
        return false;
    }
    has_write(fd) && rustix::io::write(fd, &u64::MAX.to_ne_bytes()) == Err(Errno::INVAL)
}

fn has_write(fd: BorrowedFd<'_>) -> bool {
    // The last page of the address space, which no process has.
    let nobody = std::ptr::without_provenance::<libc::c_void>(usize::MAX - 4095);
    // SAFETY: the kernel refuses the address before anything is read from it.
    let result = unsafe { libc::write(fd.as_raw_fd(), nobody, size_of::<u64>()) };
    result < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use nvme_platform::Notify;
    use rustix::event::{EventfdFlags, epoll, eventfd};

    use super::super::Account;
    use super::{CallError, CallNotify};

    fn notify(call: Option<OwnedFd>, error: Option<OwnedFd>) -> Result<CallNotify, CallError> {
        CallNotify::new(call, error, &Account::new("test"))
    }

    fn count(fd: &OwnedFd) -> u64 {
        let mut bytes = [0; 8];
        rustix::io::read(fd, &mut bytes).unwrap();
        u64::from_ne_bytes(bytes)
    }

    fn refused(fd: impl Into<OwnedFd>) {
        assert_eq!(notify(Some(fd.into()), None).unwrap_err(), CallError::NotAnEventFd);
    }

    #[test]
    fn call_and_error_are_signalled_apart() {
        let (call, error) =
            (eventfd(0, EventfdFlags::NONBLOCK).unwrap(), eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let notify = self::notify(Some(call.try_clone().unwrap()), Some(error.try_clone().unwrap())).unwrap();
        notify.used();
        notify.used();
        assert_eq!(count(&call), 2);
        assert!(rustix::io::read(&error, &mut [0; 8]).is_err());
        notify.broken();
        assert_eq!(count(&error), 1);
    }

    #[test]
    fn a_client_that_polls_needs_no_eventfd() {
        let notify = self::notify(None, None).unwrap();
        notify.used();
        notify.broken();
    }

    #[test]
    fn blocking_and_semaphore_eventfds_are_good() {
        for flags in [EventfdFlags::empty(), EventfdFlags::SEMAPHORE] {
            let call = eventfd(0, flags).unwrap();
            notify(Some(call.try_clone().unwrap()), None).unwrap().used();
            assert_eq!(count(&call), 1);
            let flags = rustix::fs::fcntl_getfl(&call).unwrap();
            assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "the client's flags are its own");
        }
    }

    #[test]
    fn a_full_blocking_eventfd_does_not_block() {
        let call = eventfd(0, EventfdFlags::empty()).unwrap();
        let notify = self::notify(Some(call.try_clone().unwrap()), None).unwrap();
        rustix::io::write(&call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        notify.used();
        assert_eq!(count(&call), u64::MAX - 1);
        notify.used();
        assert_eq!(count(&call), 1);
    }

    #[test]
    fn an_eventfd_that_is_full_already_is_taken() {
        let call = eventfd(0, EventfdFlags::empty()).unwrap();
        rustix::io::write(&call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        notify(Some(call.try_clone().unwrap()), None).unwrap().used();
        assert_eq!(count(&call), u64::MAX - 1);
    }

    /// What is read there once the other side is closed, which another thread does.
    fn end(fd: impl std::os::fd::AsFd) -> usize {
        let started = std::time::Instant::now();
        loop {
            match rustix::io::read(&fd, &mut [0; 8]) {
                Err(rustix::io::Errno::AGAIN) if started.elapsed() < std::time::Duration::from_secs(10) => {
                    std::thread::yield_now()
                }
                other => return other.unwrap(),
            }
        }
    }

    #[test]
    fn what_is_no_eventfd_is_refused_and_left_alone() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        refused(writer);
        assert_eq!(end(&reader), 0);

        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        refused(theirs);
        assert_eq!(end(&ours), 0);

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
