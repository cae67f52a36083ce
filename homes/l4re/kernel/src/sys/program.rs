//! What a Rust program needs of L4Re's C library: heap, arguments, its end.
#![expect(unsafe_code, reason = "is the allocator, and reads a C program's arguments")]

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;

unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn free(at: *mut c_void);
    fn posix_memalign(at: *mut *mut c_void, align: usize, size: usize) -> c_int;
    fn _exit(code: c_int) -> !;
}

/// What malloc aligns to without being asked.
const ALIGNED: usize = 16;

/// The C library's heap.
pub struct Heap;

// SAFETY: malloc and posix_memalign give memory of that size and alignment that is nobody else's, or null; free takes either's back.
// All of them lock.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGNED {
            // SAFETY: any size will do.
            return unsafe { malloc(layout.size()) }.cast();
        }
        let mut at = ptr::null_mut();
        // SAFETY: `at` is ours, and the alignment is a power of two and more than a pointer's size.
        match unsafe { posix_memalign(&raw mut at, layout.align(), layout.size()) } {
            0 => at.cast(),
            _ => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, _: Layout) {
        // SAFETY: it came from `alloc`, and is given back once.
        unsafe { free(at.cast()) }
    }
}

/// The arguments of `main`, without the program's name. What is not UTF-8 is refused by its place.
///
/// # Safety
/// `argv` holds `argc` strings that end with NUL and live as long as the program.
pub unsafe fn arguments(argc: c_int, argv: *const *const c_char) -> Result<Vec<&'static str>, usize> {
    let mut all = Vec::new();
    for at in 1..usize::try_from(argc).unwrap_or(0) {
        // SAFETY: the caller's promise.
        let text = unsafe { argv.wrapping_add(at).read() };
        // SAFETY: as above.
        let text = unsafe { CStr::from_ptr(text) };
        all.push(text.to_str().map_err(|_| at)?);
    }
    Ok(all)
}

/// Ends the program at once.
pub fn exit(code: i32) -> ! {
    // SAFETY: it does not return, and nothing is to be done before.
    unsafe { _exit(code) }
}
