//! Shared mappings for the front-end of `nvme-client` and other programs that hold the *client's* end.
//!
//! The server maps client memory through its own guarded windows; this is the other side, which trusts its own file.
#![expect(unsafe_code, reason = "maps memory that it shares with a server")]

use std::any::Any;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use nvme_mem::{Owner, Window};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes are reached through windows alone, which copy and never refer.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are what `mmap` returned; the last window is gone with its owner.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Maps `len` bytes at `offset` of a file, shared, readable and writable. `offset` must be a multiple of the page size.
///
/// Touching a page that the file no longer has raises SIGBUS: whoever truncates the file keeps away from the window.
pub fn map_shared(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Window> {
    let len = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?.get();
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice overlays nothing that exists.
    let base = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, file, offset) }?;
    let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
    let owner = Arc::new(Owner::new(Box::new(Mapping { base, len }) as Box<dyn Any + Send + Sync>));
    // SAFETY: the mapping lives until `owner` drops it, is readable and writable, and nothing else refers to it.
    Ok(unsafe { Window::new(base, len, owner) })
}
