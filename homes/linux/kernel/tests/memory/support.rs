//! Files of all kinds.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};

use nvme_linux::memory::{MemoryFile, Refusal, Trusted};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// A memfd of `size` bytes that can be sealed.
pub(crate) fn memfd(size: u64) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, size).unwrap();
    fd
}

/// A memfd that its owner can shrink: nobody may seal it.
pub(crate) fn unsealable(size: u64) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, size).unwrap();
    fd
}

/// The same file by another open file description.
pub(crate) fn reopen(fd: &OwnedFd, write: bool) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    OpenOptions::new().read(true).write(write).open(path).unwrap().into()
}

/// A file of `size` bytes in a directory that is on a disk, as far as there is one.
pub(crate) fn on_disk(size: u64) -> File {
    let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    file.set_len(size).unwrap();
    file
}

pub(crate) fn open(fd: OwnedFd) -> Result<MemoryFile, Refusal> {
    MemoryFile::open(fd, &Trusted::new())
}
