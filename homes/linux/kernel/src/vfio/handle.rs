//! A device's descriptor, which is closed under its users.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

/// A descriptor of the device's, its group's or its container's, which is closed when the device is cut off.
pub(super) type Handle = Arc<Mutex<Option<OwnedFd>>>;

/// Does something with the device, if it is still open.
pub(super) fn with<T>(
    device: &Handle,
    act: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>,
) -> Result<T, Errno> {
    match &*device.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(fd) => act(fd.as_fd()),
        None => Err(Errno::NODEV),
    }
}

/// A device that can be closed under its users.
pub(super) fn new(device: OwnedFd) -> Handle {
    Arc::new(Mutex::new(Some(device)))
}

/// Another descriptor of the same, to give away.
pub(super) fn share(handle: &Handle) -> Result<OwnedFd, Errno> {
    with(handle, |fd| rustix::io::fcntl_dupfd_cloexec(fd, 0))
}

/// Closes it for all who have it.
pub(super) fn close(handle: &Handle) {
    drop(handle.lock().unwrap_or_else(PoisonError::into_inner).take());
}
