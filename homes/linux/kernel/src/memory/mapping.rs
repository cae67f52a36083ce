//! One mapping: made, entered in the table of windows, and taken down.
#![expect(unsafe_code, reason = "maps and unmaps")]

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::{Arc, OnceLock};

use nvme_mem::{Owner, Window};
use nvme_platform::PAGE;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::faults::Faults;
use super::range::Range;
use super::sigbus::{self, Registration};
use crate::lanes::Lane;

/// How much is taken down at a time while nothing else can be mapped: half a millisecond.
const STEP: usize = 64 << 20;

/// The huge page of this machine, and the large page of its IOMMU.
const HUGE: usize = 2 << 20;

/// Why there is no mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MapError {
    /// The table of windows is full.
    TooMany,
    /// A system call failed.
    System(Errno),
}

struct Mapping {
    base: NonNull<u8>,
    len: usize,
    block: usize,
    writable: bool,
    registration: OnceLock<Registration>,
    /// Who minds single pages; the handler refers to it.
    faults: Option<Arc<Faults>>,
    /// Whose it is, and where it is taken down.
    lane: Option<Arc<Lane>>,
}

impl Mapping {
    fn range(&self) -> Range {
        let Self { base, len, block, writable, .. } = self;
        Range { base: base.as_ptr().expose_provenance(), len: *len, block: *block, writable: *writable }
    }
}

// SAFETY: the bytes are reached through windows alone, which copy and never refer.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // First out of the table: a handler must not put pages where there is no window any more.
        drop(self.registration.take());
        drop(self.faults.take());
        let place = Place { base: self.base, len: self.len };
        match self.lane.take() {
            Some(lane) => lane.take_down(move || place.take_down()),
            None => place.take_down(),
        }
    }
}

/// Where nobody looks any more, and something is still mapped.
struct Place {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: nobody has a pointer to it that is used.
unsafe impl Send for Place {}

impl Place {
    fn take_down(self) {
        // To forget pages keeps nobody from faulting; to unmap them keeps the whole process from mapping. So first the one, in
        // steps, then the other, which has little to do.
        if self.len > STEP {
            for at in (0..self.len).step_by(STEP) {
                let len = STEP.min(self.len - at);
                let start = self.base.as_ptr().wrapping_byte_add(at).cast();
                // SAFETY: a part of what `mmap` returned; the last window is gone with its owner. The file keeps its pages.
                let _ = unsafe { madvise(start, len, Advice::LinuxDontNeed) };
            }
        }
        // SAFETY: `base` and `len` are what `mmap` returned; the last window is gone with its owner.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Maps `len` bytes of a file from `offset`, both multiples of the size of its pages, `block`. Shared and never executable; kept out of core
/// dumps, since it is the client's, and out of children, so that no fork keeps a client's memory alive. What is mapped in a
/// [`Lane`] is taken down there.
pub(super) fn map(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: usize,
    block: usize,
    writable: bool,
) -> Result<Window, MapError> {
    map_with(fd, offset, len, block, writable, None)
}

/// As [`map`]; with `faults` a page that cannot be had is theirs, and the window does not fail.
pub(super) fn map_with(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: usize,
    block: usize,
    writable: bool,
    faults: Option<Arc<Faults>>,
) -> Result<Window, MapError> {
    // No window without the handler.
    sigbus::failures().map_err(MapError::System)?;
    let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
    let base = like_its_file(fd, offset, len, protection).map_err(MapError::System)?;
    let base = NonNull::new(base.cast::<u8>()).ok_or(MapError::System(Errno::FAULT))?;
    // Windows are looked up by address in the handler.
    let minds = faults.as_ref().map_or(ptr::null(), Arc::as_ptr);
    let lane = Lane::current();
    let mapping = Mapping { base, len, block, writable, registration: OnceLock::new(), faults, lane };
    let range = mapping.range();
    let owner = Arc::new(Owner::new(Box::new(mapping)));
    for advice in [Advice::LinuxDontDump, Advice::LinuxDontFork] {
        // SAFETY: the range was just mapped; neither advice changes its bytes.
        unsafe { madvise(base.as_ptr().cast(), len, advice) }.map_err(MapError::System)?;
    }
    // SAFETY: the mapping and its owner live until `Mapping` is dropped, which drops the registration first.
    let registration = unsafe { sigbus::register(range, Arc::as_ptr(&owner), minds) };
    let registration = registration.ok_or(MapError::TooMany)?;
    if let Some(mapping) = owner.resource().and_then(|r| r.downcast_ref::<Mapping>()) {
        let _ = mapping.registration.set(registration);
    }
    // SAFETY: mapped for `len` bytes until the owner drops the mapping; no reference to the bytes was ever made. A
    // window of a read-only mapping is not written: see `MemoryFile::writable`.
    Ok(unsafe { Window::new(base, len, owner) })
}

/// Maps an image of `size` bytes whole, so that a page that cannot be had costs only those who use it.
pub(crate) fn map_image(
    file: BorrowedFd<'_>,
    size: u64,
    writable: bool,
) -> Result<(Window, Arc<Faults>), String> {
    let whole = size.checked_next_multiple_of(PAGE as u64).and_then(|n| usize::try_from(n).ok());
    let whole = whole.ok_or("too long to be mapped")?;
    let own = file.try_clone_to_owned().map_err(|e| e.to_string())?;
    let faults = Arc::new(Faults::new(own, whole, writable));
    let mapped =
        map_with(file, 0, whole, PAGE, writable, Some(Arc::clone(&faults))).map_err(|e| match e {
            MapError::TooMany => "the server has no room for another window".into(),
            MapError::System(e) => format!("mmap: {e}"),
        })?;
    faults.mapped_at(mapped.address());
    let size = usize::try_from(size).map_err(|e| e.to_string())?;
    let window = mapped.sub(0, size).map_err(|e| e.to_string())?;
    Ok((window, faults))
}

/// A fresh mapping. One that is long enough for huge pages lies in them as it does in its file: only then can the kernel map
/// the huge pages that the file may have, and an IOMMU that is given like addresses.
fn like_its_file(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: usize,
    protection: ProtFlags,
) -> Result<*mut c_void, Errno> {
    let anywhere = || {
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, fd, offset) }
    };
    let Some(room) = len.checked_add(HUGE).filter(|_| len >= HUGE) else { return anywhere() };
    let reserve = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: as above.
    let Ok(free) = (unsafe { mmap_anonymous(ptr::null_mut(), room, ProtFlags::empty(), reserve) }) else {
        return anywhere();
    };
    // SAFETY: what was just mapped, and nobody knows of: all that is wanted is where there is room.
    unsafe { munmap(free, room) }?;
    let at = free.wrapping_byte_add((offset as usize).wrapping_sub(free.addr()) % HUGE);
    // SAFETY: in the place of nothing that is mapped.
    let mapped =
        unsafe { mmap(at, len, protection, MapFlags::SHARED | MapFlags::FIXED_NOREPLACE, fd, offset) };
    // Another thread was there first, or the file has huge pages of its own, and its own rule for addresses with them.
    mapped.or_else(|_| anywhere())
}

/// Takes a window's file away: zeroes are in its place, and it counts as failed. What held the file open by being mapped does
/// so no more, whoever still has a clone of the window.
pub(crate) fn withdraw(window: &Window) {
    // Before the zeroes are there to be read.
    window.owner().fail();
    let Some(mapping) = window.owner().resource().and_then(|r| r.downcast_ref::<Mapping>()) else { return };
    if let Some(registration) = mapping.registration.get() {
        let _ = registration.take_away(mapping.range());
    }
}
