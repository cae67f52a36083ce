//! Client memory and images.
use std::os::fd::{AsRawFd, BorrowedFd};

/// The path by which a descriptor's file can be opened anew.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
