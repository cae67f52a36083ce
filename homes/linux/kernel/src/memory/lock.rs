//! Record locks of files, by the byte.
#![expect(unsafe_code, reason = "fcntl takes a pointer to a lock")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// What a lock keeps out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lock {
    /// Writers.
    Shared,
    /// Everybody.
    Exclusive,
}

fn record(kind: i32, start: i64, len: i64) -> libc::flock {
    // SAFETY: all zeroes is a valid flock; OFD locks want the process to be 0.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = start;
    lock.l_len = len;
    lock
}

fn control(fd: impl AsFd, command: i32, lock: &mut libc::flock) -> Result<(), Errno> {
    // SAFETY: the descriptor is open, and the command takes a pointer to a flock.
    if unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, lock) } == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

/// Locks the whole file for this open file description. `false`: another one has it.
pub(crate) fn lock_file(fd: impl AsFd, lock: Lock) -> Result<bool, Errno> {
    let kind = if lock == Lock::Shared { libc::F_RDLCK } else { libc::F_WRLCK };
    match control(fd, libc::F_OFD_SETLK, &mut record(kind, 0, 0)) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Locks one byte for this process, shared.
pub(super) fn lock_byte(fd: impl AsFd, at: i64) -> Result<(), Errno> {
    control(fd, libc::F_SETLK, &mut record(libc::F_RDLCK, at, 1))
}

/// Takes this process's lock of one byte away.
pub(super) fn unlock_byte(fd: impl AsFd, at: i64) {
    let _ = control(fd, libc::F_SETLK, &mut record(libc::F_UNLCK, at, 1));
}

/// Whether this process holds the lock of one byte of the file behind `fd`. It needs no right to read or write.
pub(super) fn holds_byte(fd: impl AsFd, at: i64) -> bool {
    let mut probe = record(libc::F_WRLCK, at, 1);
    let asked = control(fd, libc::F_OFD_GETLK, &mut probe).is_ok();
    let own = i32::try_from(std::process::id()).is_ok_and(|pid| probe.l_pid == pid);
    asked && i32::from(probe.l_type) == libc::F_RDLCK && own && probe.l_start == at && probe.l_len == 1
}
