//! Memory that belongs to others: clients' memory files and disk images, mapped so that they cannot hurt.
//!
//! A descriptor becomes a [`MemoryFile`] when it is memory indeed, or one of the [`Trusted`] files; a part of it becomes
//! a window ([`MemoryFile::map`]): shared, never executable, out of core dumps, unmapped with the last clone of
//! the window. An [`ImageFile`] is a whole disk image as one window.
//!
//! The files stay their owners' to shrink. A fault in a window that no longer has a file behind it puts zero pages there
//! and marks the window failed; the control role learns of it by [`failures`].

mod anonymous;
mod entries;
mod faults;
mod file;
mod identity;
mod image;
mod lock;
mod made;
mod mapping;
mod range;
mod sigbus;
mod sync;
mod trusted;
mod zeroes;

use std::os::fd::{AsRawFd, BorrowedFd};

pub(crate) use faults::Faults;
pub use file::MemoryFile;
pub use identity::{FileId, Refusal};
pub use image::{ImageAccess, ImageError, ImageFile};
pub use made::{SEALS, made_of_zeroes};
pub use range::WINDOWS_MAX;
pub use sigbus::{Failures, failures};
pub use trusted::Trusted;

/// A device's registers of `len` bytes at `offset`, as a window. A device that is pulled out makes it fail.
pub(crate) fn device(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: usize,
) -> Result<nvme_mem::Window, rustix::io::Errno> {
    mapping::map(fd, offset, len, nvme_platform::PAGE, true).map_err(|why| match why {
        mapping::MapError::TooMany => rustix::io::Errno::MFILE,
        mapping::MapError::System(why) => why,
    })
}

/// All of a file of our own, of so many bytes, as a window.
pub(crate) fn whole(file: BorrowedFd<'_>, len: usize) -> Result<nvme_mem::Window, rustix::io::Errno> {
    device(file, 0, len)
}

pub use anonymous::anonymous;
pub(crate) use lock::{Lock, lock_file};
pub(crate) use mapping::{map_image, withdraw};

/// The path by which a descriptor's file can be reached anew.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
