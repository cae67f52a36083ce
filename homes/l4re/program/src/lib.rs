//! The program for L4Re: entry, allocator, panic handler, log; all else is in its crates.
// Nothing that comes from outside ends a server: what may not be there is looked for, and not counted on.
#![cfg_attr(
    not(test),
    warn(
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable
    )
)]
#![expect(unsafe_code, reason = "is a C program's entry")]
#![no_std]

extern crate alloc;

use core::ffi::{c_char, c_int};
use core::panic::PanicInfo;

use nvme_l4re::sys::{self, Heap};

#[cfg(feature = "defmt")]
mod frames;
mod output;
mod run;

#[global_allocator]
static HEAP: Heap = Heap;

/// A broken invariant: says where, and ends the program. Its clients see their sessions' gates gone.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    sys::line(format_args!("nvme-drv: {info}"));
    sys::exit(101)
}

/// L4Re's C library calls it.
///
/// # Safety
/// As for any `main`: `argv` holds `argc` strings that end with NUL and live as long as the program.
// SAFETY: no other symbol of the program has this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { sys::arguments(argc, argv) } {
        Ok(arguments) => run::run(arguments),
        Err(at) => {
            sys::line(format_args!("nvme-drv: argument {at} is not UTF-8"));
            1
        }
    }
}

/// Named by the precompiled core and alloc; a panic ends the program before it comes to unwinding.
// SAFETY: no other symbol of the program has this name.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}
