//! What a thread leaves behind when it ends the process: that it was in its turn.
//!
//! A thread has a [`place`](mark_this_thread) in memory that is kept: whose turn it is there (64 bits; 0 is nobody's), and behind it whether the
//! process ended then (16 bits). A fault, an abort or a panic marks the place of its thread. A signal that somebody else sent to end the process
//! with its state, as a watchdog does, marks each place where it was somebody's turn. SIGKILL marks nothing: it is nobody's fault.
#![expect(unsafe_code, reason = "handles signals")]

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU16, AtomicU64, Ordering};

use nvme_mem::Window;
use rustix::io::Errno;

/// Bytes of a place.
pub const PLACE: usize = 16;
/// Threads that can have one.
pub const PLACES: usize = 128;
const MARK: usize = 8;

static ALL: [AtomicPtr<u8>; PLACES] = [const { AtomicPtr::new(ptr::null_mut()) }; PLACES];

thread_local! {
    static HERE: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// Gives the calling thread its place, for good: one window for each number below [`PLACES`].
pub fn mark_this_thread(number: usize, window: &Window) {
    let Some(all) = ALL.get(number).filter(|_| window.len() >= PLACE) else { return };
    let place: *mut u8 = ptr::with_exposed_provenance_mut(window.address());
    if !place.cast::<u64>().is_aligned() {
        return;
    }
    // The memory is never unmapped from here on.
    std::mem::forget(window.clone());
    HERE.set(place);
    all.store(place, Ordering::Release);
}

/// Has ends of the process marked, from now on.
pub fn watch() -> Result<(), Errno> {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        mark(HERE.get());
        before(info);
    }));
    for signal in [libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT] {
        // SAFETY: all zeroes is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        // It ends the process when it comes again, or is sent again.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND | libc::SA_NODEFER;
        // SAFETY: the pointer is valid, and the handler is async-signal-safe.
        if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } != 0 {
            return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL));
        }
    }
    Ok(())
}

fn mark(place: *mut u8) {
    if place.is_null() {
        return;
    }
    // SAFETY: a place is 16 bytes of memory that is never unmapped, aligned for its numbers, and looked at with atomics and copies only.
    unsafe { AtomicU16::from_ptr(place.wrapping_add(MARK).cast()) }.store(1, Ordering::Relaxed);
}

fn is_somebodys(place: *mut u8) -> bool {
    // SAFETY: as above.
    !place.is_null() && unsafe { AtomicU64::from_ptr(place.cast()) }.load(Ordering::Relaxed) != 0
}

/// Async-signal-safe: atomics and system calls only.
extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    if code == libc::SI_USER || code == libc::SI_QUEUE {
        for place in &ALL {
            let place = place.load(Ordering::Acquire);
            if is_somebodys(place) {
                mark(place);
            }
        }
    } else {
        mark(HERE.get());
    }
    // A fault comes again when this returns. What was sent has to be sent again.
    if code <= 0 {
        // SAFETY: no pointers.
        unsafe { libc::raise(signal) };
    }
}
