//! The kernel's own way to count an eventfd up, which never waits.
//!
//! An asynchronous operation (io_submit(2)) can name an eventfd that the kernel signals when it has ended. That signal is
//! the kernel's: at a full counter it stays at the brim, whatever the flags say. The operation here reads nothing from an empty
//! file, and ends before the call returns.
#![expect(unsafe_code, reason = "sets up a context of asynchronous I/O")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};

/// `IOCB_CMD_PREAD` and `IOCB_FLAG_RESFD` of the kernel's aio_abi.h.
const READ: u16 = 0;
const SIGNAL: u32 = 1;
/// Ended operations are fetched after each; so many may be left over.
const ENDED: usize = 8;

/// `struct iocb` of aio_abi.h.
#[repr(C)]
#[derive(Default)]
struct Operation {
    data: u64,
    /// `aio_key` and `aio_rw_flags`, whose order is the architecture's; both zero.
    key_and_flags: u64,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    signalled: u32,
}

const _: () = assert!(size_of::<Operation>() == 64);

/// A context for asynchronous operations.
#[derive(Debug)]
pub(super) struct Submissions {
    context: libc::c_ulong,
    empty: OwnedFd,
}

impl Submissions {
    /// Fails where the kernel was built without, its limit (`fs.aio-max-nr`) is reached, or somebody denies one of the
    /// calls: it is tried out, for a signal that does not come would hang a client.
    pub(super) fn new() -> io::Result<Self> {
        let empty = memfd_create("nvme-empty", MemfdFlags::CLOEXEC)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: `context` is a place for the new context's number; the kernel maps the context's own memory, where
        // nothing else is.
        if unsafe { libc::syscall(libc::SYS_io_setup, ENDED, &raw mut context) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut submissions = Self { context, empty };
        let probe = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        for told in 1..=2 * ENDED {
            submissions.signal(probe.as_fd());
            let mut count = [0; 8];
            if rustix::io::read(&probe, &mut count).is_err() || u64::from_ne_bytes(count) != 1 {
                return Err(io::Error::other(format!("submission {told} was not signalled")));
            }
        }
        Ok(submissions)
    }

    /// Counts the eventfd up. A full one is as good as told.
    pub(super) fn signal(&mut self, fd: BorrowedFd<'_>) {
        // Descriptors in use are not negative.
        let operation = Operation {
            opcode: READ,
            file: self.empty.as_fd().as_raw_fd().cast_unsigned(),
            flags: SIGNAL,
            signalled: fd.as_raw_fd().cast_unsigned(),
            ..Operation::default()
        };
        let list = [&raw const operation];
        // SAFETY: the list holds one valid operation, which the kernel copies; it reads zero bytes into no memory.
        unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1usize, list.as_ptr()) };
        // `struct io_event`: four words each.
        let mut ended = [[0u64; 4]; ENDED];
        let forever = std::ptr::null::<libc::timespec>();
        // SAFETY: there is room for as many events as are asked for; with a minimum of none the call does not wait.
        unsafe {
            libc::syscall(libc::SYS_io_getevents, self.context, 0usize, ENDED, ended.as_mut_ptr(), forever)
        };
    }
}

impl Drop for Submissions {
    fn drop(&mut self) {
        // SAFETY: the context is this value's own, and nothing is on its way: each operation ended in its call.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::event::{EventfdFlags, eventfd};

    use super::Submissions;

    #[test]
    fn a_full_blocking_eventfd_is_counted_to_the_brim_without_waiting() {
        // Kernels without asynchronous operations have nothing to test.
        let Ok(mut submissions) = Submissions::new() else { return };
        let fd = eventfd(0, EventfdFlags::empty()).unwrap();
        let mut count = [0; 8];
        // More often than the context has room for: what ended is fetched.
        for _ in 0..10_000 {
            submissions.signal(fd.as_fd());
        }
        rustix::io::read(&fd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 10_000);
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        submissions.signal(fd.as_fd());
        submissions.signal(fd.as_fd());
        rustix::io::read(&fd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), u64::MAX);
    }
}
