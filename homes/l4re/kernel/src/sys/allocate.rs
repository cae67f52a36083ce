//! New memory of our own, as dataspaces.
#![expect(unsafe_code, reason = "calls L4Re's C functions")]

use super::{c, env, objects};
use crate::kernel::{Cap, L4Error};

/// Allocation: contiguous, and never moved or swapped.
const MA_CONTINUOUS: usize = 1;
const MA_PINNED: usize = 2;
/// What is not given to clients of our own memory.
const RESERVE: usize = 128 << 10;

/// New memory of our own: zeroed, contiguous, and where it is for good.
pub(super) fn pinned(len: usize) -> Result<Cap, L4Error> {
    with(len, MA_CONTINUOUS | MA_PINNED)
}

/// New memory of our own that is there page by page, when it is touched: zeroed, and not for DMA.
pub(super) fn by_page(len: usize) -> Result<Cap, L4Error> {
    with(len, 0)
}

/// Whether L4Re would give us as much as the reserve, if the heap or the region map had to grow: when they cannot, the program ends, and
/// with it everybody's disk.
pub(super) fn has_reserve() -> bool {
    pinned(RESERVE).map(objects::cap_free).is_ok()
}

fn with(len: usize, flags: usize) -> Result<Cap, L4Error> {
    let size = isize::try_from(len).map_err(|_| L4Error::INVAL)?;
    let slot = objects::cap_alloc()?;
    // SAFETY: the allocator makes a dataspace in a slot that was free.
    let answer = unsafe { c::l4re_ma_alloc_align_srv(env::get().mem_alloc, size, slot.0, flags, 0) };
    if let Err(why) = c::check(answer) {
        objects::cap_free(slot);
        return Err(why);
    }
    Ok(slot)
}
