//! Memory of the driver's own.
#![expect(unsafe_code, reason = "makes windows of fresh mappings")]

use std::ptr::{self, NonNull};
use std::sync::Arc;

use nvme_mem::{Owner, Window};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Memory of the process's own.
struct Anonymous {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes are reached through windows alone, which copy and never refer.
unsafe impl Send for Anonymous {}
// SAFETY: as above.
unsafe impl Sync for Anonymous {}

impl Drop for Anonymous {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are what `mmap` returned; the last window is gone with its owner. Where the device
        // still reaches these pages, the IOMMU's pin keeps them from being anybody else's.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// So many zeroed bytes of the process's own, each page of which costs nothing until it is written; in no core dump.
pub fn anonymous(len: usize) -> Result<Window, Errno> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let base = unsafe { mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE) }?;
    let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::FAULT)?;
    let owner = Arc::new(Owner::new(Box::new(Anonymous { base, len })));
    for advice in [Advice::LinuxDontDump, Advice::LinuxDontFork] {
        // SAFETY: the range was just mapped; neither advice changes its bytes. (A fork would leave the device with the
        // parent's old pages.)
        unsafe { madvise(base.as_ptr().cast(), len, advice) }?;
    }
    // SAFETY: mapped for `len` bytes until the owner drops the mapping; no reference to the bytes was ever made.
    Ok(unsafe { Window::new(base, len, owner) })
}
