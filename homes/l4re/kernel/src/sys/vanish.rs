//! What happens when a client's memory vanishes under a window.
//!
//! A dataspace goes when its owner deletes it, and with a client that dies goes every capability that it gave away: ours to its
//! memory too. The next access to the window is a page fault that nobody can serve, which L4Re's itas turns into SIGSEGV.
//! So it does where a client gives pages of its dataspace back, and then has no quota to get them again. The handler puts fresh zero
//! pages in the place of the window in which the fault was, and of those whose capability is empty, and marks their owners failed;
//! the copy goes on over zeroes, and whoever asks the owner afterwards learns that they are no data. A fault anywhere else
//! ends the program, as it would have without a handler.
//!
//! *Why it is sound.* The program has one thread. A fault in a window comes in the middle of a copy, never while the list is
//! locked, the heap is at work or a message is being written: none of these touches a window. The UTCB is put back as it
//! was when the handler returns.
#![expect(unsafe_code, reason = "is told of page faults, and maps over what vanished")]

use alloc::sync::Weak;
use alloc::vec::Vec;
use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use nvme_mem::Owner;
use spin::Mutex;

use super::types::{L4_BASE_TASK_CAP, L4_CAP_FPAGE_R, L4_CAP_FPAGE_RW};
use super::{allocate, c, env, objects};
use crate::kernel::{Cap, L4Error};

const SIGSEGV: c_int = 11;
const SIG_DFL: usize = 0;

/// A window onto memory that is not ours.
struct Entry {
    base: usize,
    len: usize,
    writable: bool,
    /// Our capability to the dataspace: empty, when the memory is gone.
    dataspace: Cap,
    owner: Weak<Owner>,
    /// What is there in its place.
    replacement: Option<Cap>,
}

static WINDOWS: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
static NEWS: AtomicBool = AtomicBool::new(false);

/// Has vanishing memory handled from here on.
pub(super) fn install() {
    // SAFETY: the handler takes what a handler is given, and does only what may be done at a fault in a window.
    unsafe { c::signal(SIGSEGV, handler as *const () as usize) };
}

/// Whether memory vanished since the last call.
pub(super) fn take() -> bool {
    // Relaxed: the handler runs on this thread.
    NEWS.load(Ordering::Relaxed) && NEWS.swap(false, Ordering::Relaxed)
}

/// Watches over the region of `len` bytes at `base`, which shows `dataspace`. To be [forgotten](forget) before it is detached.
pub(super) fn watch(
    base: usize,
    len: usize,
    writable: bool,
    dataspace: Cap,
    owner: Weak<Owner>,
) -> Result<(), L4Error> {
    let mut windows = WINDOWS.lock();
    windows.try_reserve(1).map_err(|_| L4Error::NOMEM)?;
    windows.push(Entry { base, len, writable, dataspace, owner, replacement: None });
    Ok(())
}

/// Watches over the region at `base` no longer. What was put in its place is given up with it, once it is detached.
pub(super) fn forget(base: usize) -> Option<Cap> {
    let mut windows = WINDOWS.lock();
    let at = windows.iter().position(|entry| entry.base == base)?;
    windows.swap_remove(at).replacement
}

/// Where in a `siginfo_t` the address of a fault is, in words. L4Re passes the structure to every handler, however it was installed.
const SI_ADDR: usize = 2;

extern "C" fn handler(_signal: c_int, info: *const usize) {
    // SAFETY: the structure is on this stack, aligned and longer than that.
    let fault = unsafe { info.wrapping_add(SI_ADDR).read() };
    let mended = WINDOWS.try_lock().is_some_and(|mut windows| {
        let faulted = |entry: &Entry| fault.wrapping_sub(entry.base) < entry.len;
        let gone = |entry: &&mut Entry| {
            entry.replacement.is_none() && (faulted(entry) || !objects::cap_valid(entry.dataspace))
        };
        let mut mended = false;
        // All that are gone: each of them is going to fault.
        for entry in windows.iter_mut().filter(gone) {
            mended |= replace(entry);
        }
        mended
    });
    NEWS.store(true, Ordering::Relaxed);
    if !mended {
        // The fault comes again when this handler returns, and ends the program.
        // SAFETY: the default action.
        unsafe { c::signal(SIGSEGV, SIG_DFL) };
    }
}

/// Puts zero pages in the place of what is gone. They cost memory only where they are touched.
fn replace(entry: &mut Entry) -> bool {
    // Before the zeroes are there to be read: whoever reads them and then asks the owner is told.
    if let Some(owner) = entry.owner.upgrade() {
        owner.fail();
    }
    let Ok(zeroes) = allocate::by_page(entry.len) else { return false };
    let (rm, rights, flags) = (
        env::get().rm,
        if entry.writable { L4_CAP_FPAGE_RW } else { L4_CAP_FPAGE_R },
        if entry.writable { c::RM_RW } else { c::RM_R },
    );
    // SAFETY: the region is one of ours, used through windows alone; it may change at any time anyway.
    let _ = unsafe { c::l4re_rm_detach_srv(rm, entry.base, ptr::null_mut(), L4_BASE_TASK_CAP) };
    let mut start: *mut c_void = ptr::with_exposed_provenance_mut(entry.base);
    // SAFETY: the addresses were just given up, and nobody else asks for addresses meanwhile; `start` is ours.
    let done = unsafe {
        c::l4re_rm_attach_srv(rm, &raw mut start, entry.len, flags, zeroes.0 | rights, 0, c::PAGE_SHIFT)
    };
    if c::check(done).is_err() {
        objects::cap_free(zeroes);
        return false;
    }
    entry.replacement = Some(zeroes);
    true
}
