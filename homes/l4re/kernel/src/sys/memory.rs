//! Dataspaces, attached as windows; device registers.
#![expect(unsafe_code, reason = "attaches memory and makes windows of it")]

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::c_void;
use core::ptr::{self, NonNull};

use nvme_mem::Owner;
use nvme_platform::{PAGE, Window};

use super::c::{self, PAGE_SHIFT, RM_R, RM_RW, check};
use super::types::{L4_BASE_TASK_CAP, L4_CAP_FPAGE_R, L4_CAP_FPAGE_RW, l4_ret_t, l4re_ds_stats_t};
use super::{allocate, arch, env, objects, vanish};
use crate::attachment::{Place, attached};
use crate::bus::Mmio;
use crate::kernel::{Cap, DataspaceInfo, L4Error};

/// The region map chooses the address.
const RM_SEARCH_ADDR: u32 = 0x2_0000;
/// All pages are there from the start.
const RM_EAGER_MAP: u32 = 0x8_0000;
pub(super) const RM_UNCACHED: u32 = 0x20;
/// A dataspace may be written to.
const DS_W: usize = 2;
/// Attached at a multiple of this when it is as long, so that large pages can be used.
const SUPERPAGE_SHIFT: u8 = 21;

/// A region of this task's memory that shows a dataspace.
struct Region {
    base: NonNull<u8>,
    /// The capability to the dataspace, if it is the region's. The region map uses the slot as long as the region is there.
    dataspace: Option<Cap>,
}

// SAFETY: the bytes are reached through windows alone, which copy and never refer.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        let (rm, at) = (env::get().rm, self.base.as_ptr() as usize);
        let replacement = vanish::forget(at);
        // SAFETY: the region was attached at this address, and the last window onto it is gone.
        let _ = unsafe { c::l4re_rm_detach_srv(rm, at, ptr::null_mut(), L4_BASE_TASK_CAP) };
        for cap in self.dataspace.into_iter().chain(replacement) {
            objects::cap_free(cap);
        }
    }
}

/// Attaches a part of what `dataspace` is. The slot becomes the region's if it is to be its `own`; else it stays as long as that.
fn attach(dataspace: Cap, own: bool, offset: u64, len: usize, flags: u32) -> Result<Window, L4Error> {
    let rights = if flags & RM_RW == RM_RW { L4_CAP_FPAGE_RW } else { L4_CAP_FPAGE_R };
    let align = if len >= 1 << SUPERPAGE_SHIFT { SUPERPAGE_SHIFT } else { PAGE_SHIFT };
    let mut start: *mut c_void = ptr::null_mut();
    let (rm, flags) = (env::get().rm, flags | RM_SEARCH_ADDR);
    // SAFETY: with this flag the region map takes addresses that nobody has; `start` is ours.
    let done =
        unsafe { c::l4re_rm_attach_srv(rm, &raw mut start, len, flags, dataspace.0 | rights, offset, align) };
    let base = check(done).and_then(|_| NonNull::new(start.cast::<u8>()).ok_or(L4Error::NOMEM));
    match base {
        Ok(base) => {
            // Addresses of windows become pointers again in `attached`.
            let _ = base.as_ptr().expose_provenance();
            let dataspace = own.then_some(dataspace);
            let owner = Arc::new(Owner::new(Box::new(Region { base, dataspace })));
            // SAFETY: attached for `len` bytes until the owner detaches them; no reference to them was ever made.
            Ok(unsafe { Window::new(base, len, owner) })
        }
        Err(why) => {
            if own {
                objects::cap_free(dataspace);
            }
            Err(why)
        }
    }
}

fn whole_pages(offset: u64, len: usize) -> Result<(), L4Error> {
    let whole = len > 0 && len.is_multiple_of(PAGE) && offset.is_multiple_of(PAGE as u64);
    if whole { Ok(()) } else { Err(L4Error::INVAL) }
}

/// See [`Dataspaces::attach`](crate::kernel::Dataspaces::attach).
pub(super) fn attach_dataspace(
    dataspace: Cap,
    offset: u64,
    len: usize,
    writable: bool,
) -> Result<Window, L4Error> {
    whole_pages(offset, len)?;
    let flags = RM_EAGER_MAP | if writable { RM_RW } else { RM_R };
    // What does not say how long it is (io's memory) is no longer than what is wanted of it.
    let size = info(dataspace).map_or(offset + len as u64, |info| info.size);
    let region = attach(dataspace, false, offset, len, flags)?;
    let window = attached(region, Place { dataspace, offset, size }, Box::new(()));
    vanish::watch(window.address(), len, writable, dataspace, Arc::downgrade(window.owner()))?;
    touch(&window, writable)?;
    Ok(window)
}

/// Has all pages there. Newer region maps attach a dataspace with `Eager_map` though its pages cannot be had, and say nothing: the first access would
/// be a request's. Here it is seen by the guard against vanishing memory, before anybody relies on it.
fn touch(window: &Window, writable: bool) -> Result<(), L4Error> {
    for page in (0..window.len()).step_by(PAGE) {
        let at = ptr::with_exposed_provenance_mut(window.address() + page);
        // SAFETY: inside of the window, which is attached and watched over; writable as it was attached.
        unsafe { arch::touch(at, writable) };
        if window.owner().failed() {
            return Err(L4Error::NOMEM);
        }
    }
    Ok(())
}

/// Memory of the driver's own, which nobody takes away.
pub(super) fn own(len: usize) -> Result<Window, L4Error> {
    whole_pages(0, len)?;
    // The slot becomes the region's.
    let dataspace = allocate::pinned(len)?;
    if !allocate::has_reserve() {
        objects::cap_free(dataspace);
        return Err(L4Error::NOMEM);
    }
    let region = attach(dataspace, true, 0, len, RM_EAGER_MAP | RM_RW | arch::DRIVER_MEMORY)?;
    Ok(attached(region, Place { dataspace, offset: 0, size: len as u64 }, Box::new(())))
}

/// See [`Dataspaces::info`](crate::kernel::Dataspaces::info).
pub(super) fn info(dataspace: Cap) -> Result<DataspaceInfo, L4Error> {
    let mut stats = l4re_ds_stats_t::default();
    // SAFETY: `stats` is ours.
    let answer: l4_ret_t = unsafe { c::l4re_ds_info(dataspace.0, &raw mut stats) };
    check(answer)?;
    Ok(DataspaceInfo { size: stats.size, writable: stats.flags & DS_W != 0 })
}

/// Registers of a device, uncached.
struct Registers(Window);

/// Attaches `len` bytes of the bus's memory at `at`, whole pages.
pub(super) fn registers(vbus: Cap, at: u64, len: usize) -> Result<Arc<dyn Mmio>, L4Error> {
    whole_pages(at, len)?;
    let own = objects::cap_copy(vbus, L4_CAP_FPAGE_RW)?;
    Ok(Arc::new(Registers(attach(own, true, at, len, RM_EAGER_MAP | RM_UNCACHED | RM_RW)?)))
}

impl Registers {
    /// The address of a register. `None`: outside, or not at a multiple of four.
    #[inline]
    fn register(&self, offset: usize) -> Option<*mut u32> {
        let inside = offset.is_multiple_of(4) && offset.checked_add(4).is_some_and(|end| end <= self.0.len());
        inside.then(|| ptr::with_exposed_provenance_mut(self.0.address() + offset))
    }
}

impl Mmio for Registers {
    #[inline]
    fn read32(&self, offset: usize) -> u32 {
        let Some(register) = self.register(offset) else { return u32::MAX };
        // SAFETY: inside the window, aligned, and attached as long as the window is there.
        unsafe { register.read_volatile() }
    }

    #[inline]
    fn write32(&self, offset: usize, value: u32) {
        let Some(register) = self.register(offset) else { return };
        // What was written to memory before must be there when the device learns of it.
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        // SAFETY: as in `read32`; the region is writable.
        unsafe { register.write_volatile(value) };
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}
