//! SIGTERM and SIGINT as an event; and what no signal does to the server.
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

/// What ends the server, and is an event.
const STOP: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGINT];
/// What would end a program that does not say otherwise, and does nothing here: a terminal that is gone, a service manager or an
/// operator that tries the usual words, a peer that is gone, a log that has reached its size limit. (The call that met the
/// last two fails, and is dealt with.)
const NOTHING: [libc::c_int; 5] = [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGPIPE, libc::SIGXFSZ];

/// Makes what signals do independent of whoever started the program: the [stopping](Signals) ones wait, from now on, until
/// they are asked for; those that mean nothing are ignored; all others have what the kernel does by itself, and none of them
/// is blocked (a fault in a client's memory could not be cured otherwise). First thing in `main`, before there are other threads.
pub fn settle_signals() -> io::Result<()> {
    let set = stopping();
    // SAFETY: the set was initialised; a null pointer says that the old mask is not wanted.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    for signal in NOTHING {
        // SAFETY: ignoring a signal installs no handler, so no code of ours runs in a signal's context.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    Ok(())
}

/// The set of [`STOP`].
fn stopping() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is a place for a signal set, which the call fills.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in STOP {
        // SAFETY: `set` was filled above, and these are signals.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: `sigemptyset` filled it, and cannot fail for a valid place.
    unsafe { set.assume_init() }
}

impl Signals {
    /// Blocks SIGTERM and SIGINT in this thread, and in every thread that it starts afterwards: call it before any
    /// other thread is there, or that one is ended by the signal. One that came while they were blocked already is told.
    pub fn new() -> io::Result<Self> {
        let set = stopping();
        // SAFETY: the set was initialised; a null pointer says that the old mask is not wanted.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: the set was initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
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
