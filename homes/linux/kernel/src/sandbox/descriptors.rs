//! Closing what was inherited by accident.
#![expect(unsafe_code, reason = "closes descriptors by number, before anybody owns them")]

use std::os::fd::RawFd;

/// Closes every descriptor above 2 that is not in `keep`.
///
/// # Safety
/// Nothing in the program owns a descriptor above 2 that is not in `keep`.
pub unsafe fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    keep.push(u32::MAX);
    let mut first = 3u32;
    for fd in keep {
        if fd > first {
            // SAFETY: nobody owns the descriptors between two that are kept (this function's contract).
            unsafe { close_range(first, fd - 1) };
        }
        first = first.max(fd.saturating_add(1));
    }
}

/// # Safety
/// Nobody owns a descriptor from `first` to `last`.
unsafe fn close_range(first: u32, last: u32) {
    // SAFETY: closing a descriptor that nobody owns takes it from nobody (this function's contract).
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 {
        return;
    }
    // A kernel (before 5.9) or a container's filter without close_range: one by one, as far as there can be any.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(65536);
    let end = last.min(u32::try_from(limit.min(1 << 20)).unwrap_or(u32::MAX));
    for fd in first..=end {
        let Ok(fd) = RawFd::try_from(fd) else { break };
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}
