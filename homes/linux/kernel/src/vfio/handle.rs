//! A device's descriptor, which is closed under its users.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

/// The device's descriptor, which is closed when the device is cut off.
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
