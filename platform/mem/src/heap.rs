//! Windows onto zeroed memory of our own, for fakes, tests and media that live in memory.
#![expect(unsafe_code, reason = "memory of our own is shown as if others shared it")]

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::NonNull;

use crate::{Owner, Window};

const PAGE: usize = 4096;
/// What the allocator aligns to anyhow.
const ALIGN: usize = 16;

struct Allocation {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the allocation is only freed through this value; its bytes are accessed through windows alone (M3, M4).
unsafe impl Send for Allocation {}
// SAFETY: as above; a shared reference gives no access to the bytes.
unsafe impl Sync for Allocation {}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: `base` came from `alloc_zeroed` with this very layout and is freed once.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// Allocates `len` zeroed bytes at a page boundary. `None` when `len` is zero or there is no memory.
pub fn heap(len: usize) -> Option<Window> {
    // Room for the first page boundary in it, instead of an alignment: what is aligned to more than a word or two is zeroed by hand by std's
    // allocator, all of it, and so costs memory that nobody ever uses.
    let room = len.checked_add(PAGE - ALIGN).filter(|_| len > 0)?;
    let layout = Layout::from_size_align(room, ALIGN).ok()?;
    // SAFETY: the layout's size is not zero.
    let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
    let skip = start.addr().get().next_multiple_of(PAGE) - start.addr().get();
    let owner = Arc::new(Owner::new(Box::new(Allocation { base: start, layout })));
    // SAFETY: a page boundary is at most `PAGE - ALIGN` bytes behind what is aligned to `ALIGN`; `len` bytes are behind it.
    let base = unsafe { start.add(skip) };
    // SAFETY: this is what M1 and M3 ask of a maker: the bytes are valid until the owner drops the allocation, and no reference to
    // them exists.
    Some(unsafe { Window::new(base, len, owner) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_begins_at_a_page_is_zero_and_has_an_end() {
        for len in [1, 16, 4095, 4096, 4097, 3 << 20] {
            let window = heap(len).unwrap();
            assert!(window.address().is_multiple_of(PAGE) && window.len() == len);
            let mut last = [1];
            window.read(len - 1, &mut last).unwrap();
            assert_eq!(last, [0]);
            window.write(len - 1, &[7]).unwrap();
            assert!(window.write(len, &[7]).is_err());
        }
        assert!(heap(0).is_none() && heap(usize::MAX).is_none() && heap(isize::MAX as usize).is_none());
    }

    #[test]
    #[cfg(all(target_os = "linux", not(miri)))]
    fn memory_that_nobody_touches_is_not_there() {
        extern crate std;
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * PAGE
        };
        let (len, before) = (256 << 20, resident());
        let window = heap(len).unwrap();
        window.write(0, &[7]).unwrap();
        let grown = resident().saturating_sub(before);
        assert!(grown < len / 8, "{grown} of {len} bytes");
    }
}
