//! SIGTERM and SIGINT as an event.
#![expect(unsafe_code, reason = "signal sets have no safe interface")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// What the operator asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
}

/// The signals that end the server, as a descriptor to wait for.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks SIGTERM and SIGINT in this thread, and in every thread that it starts afterwards: call it before any
    /// other thread is there, or that one is ended by the signal.
    pub fn new() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `set` is a place for a signal set, which the call fills.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: `set` was filled above; SIGTERM is a signal.
        unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM) };
        // SAFETY: likewise SIGINT.
        unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGINT) };
        // SAFETY: the set was initialised above; a null pointer says that the old mask is not wanted.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: the set was initialised above; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel made this descriptor just now, so nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that came, if any.
    pub fn take(&self) -> Option<Stop> {
        // signalfd(2): a record of 128 bytes, whose first field is the signal's number.
        let mut record = [0u8; size_of::<libc::signalfd_siginfo>()];
        let read = rustix::io::read(&self.0, &mut record).ok()?;
        let number = record.get(..read)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))?;
        match i32::try_from(number).ok()? {
            libc::SIGTERM => Some(Stop::Terminate),
            libc::SIGINT => Some(Stop::Interrupt),
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes a write to a socket whose peer is gone an error, and one beyond RLIMIT_FSIZE, whatever the parent process left
/// behind.
pub fn ignore_sigpipe() {
    // SAFETY: as below.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    // SAFETY: ignoring a signal installs no handler, so no code of ours runs in a signal's context.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use super::{Signals, Stop};

    #[test]
    fn a_signal_is_taken_once_and_does_not_end_the_process() {
        let signals = Signals::new().unwrap();
        assert_eq!(signals.take(), None);
        // SAFETY: sends a signal to this very thread, which has blocked it above.
        unsafe { libc::raise(libc::SIGTERM) };
        assert_eq!(signals.take(), Some(Stop::Terminate));
        assert_eq!(signals.take(), None);
    }
}
