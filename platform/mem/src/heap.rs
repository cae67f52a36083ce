//! Windows onto zeroed memory of our own, for fakes, tests and media that live in memory.
#![expect(unsafe_code, reason = "memory of our own is shown as if others shared it")]

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::NonNull;

use crate::{Owner, Window};

const PAGE: usize = 4096;

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
    let layout = Layout::from_size_align(len, PAGE).ok().filter(|l| l.size() > 0)?;
    // SAFETY: the layout's size is not zero.
    let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
    let owner = Arc::new(Owner::new(Box::new(Allocation { base, layout })));
    // SAFETY: this is what M1 and M3 ask of a maker: the bytes are valid until the owner drops the allocation, and no reference to
    // them exists.
    Some(unsafe { Window::new(base, len, owner) })
}
