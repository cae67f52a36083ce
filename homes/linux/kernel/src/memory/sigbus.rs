//! What happens when memory vanishes under a window.
//!
//! The kernel says so by SIGBUS, in the middle of a copy. The handler looks the address up in a fixed table of windows, marks
//! its owner failed, and puts zero pages there ([`zeroes`]); the copy goes on over zeroes, and whoever asks the owner
//! afterwards learns that they are no data. A SIGBUS anywhere else does what it did before there was a handler.
//!
//! *Why it is sound.* An address faults in a window only while some thread uses that window, and so keeps its owner alive
//! and its entry in place until the handler has returned. Other entries may change meanwhile: each carries a version, and one
//! that changes while it is read is passed over. An entry's memory is unmapped only after the entry was cleared and every
//! handler that might have read it has returned.
#![expect(unsafe_code, reason = "handles a signal")]

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use nvme_mem::Owner;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::entries::{Entry, Found, Table};
use super::faults::Faults;
use super::range::{Range, WINDOWS_MAX};
use super::zeroes::{self, Gone};

static TABLE: Table<WINDOWS_MAX> = Table {
    entries: [const {
        Entry {
            version: AtomicU64::new(0),
            base: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            block: AtomicU32::new(0),
            writable: AtomicBool::new(false),
            owner: AtomicPtr::new(ptr::null_mut()),
            faults: AtomicPtr::new(ptr::null_mut()),
        }
    }; WINDOWS_MAX],
    used: AtomicUsize::new(0),
    handlers: AtomicUsize::new(0),
    free: Mutex::new(Vec::new()),
};

/// The eventfd that handlers write to.
static EVENT: AtomicI32 = AtomicI32::new(-1);
/// What SIGBUS did before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// An entry of the table. It must be cleared before the memory is unmapped.
#[derive(Debug)]
pub(super) struct Registration(usize);

/// Enters a mapping, whose base and length are multiples of its page size. `None`: the table is full.
///
/// # Safety
/// Until the registration is dropped, the range is one mapping that belongs to the caller, and `owner` and `faults`, if that is
/// not null, are valid.
pub(super) unsafe fn register(
    range: Range,
    owner: *const Owner,
    faults: *const Faults,
) -> Option<Registration> {
    TABLE.enter(range, owner.cast_mut(), faults.cast_mut()).map(Registration)
}

impl Registration {
    /// Takes the memory away as if it had vanished. The owner is to be failed before.
    pub(super) fn take_away(&self, range: Range) -> bool {
        zeroes::take_away(Gone { index: self.0, range })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        TABLE.clear(self.0);
        zeroes::release(self.0);
        TABLE.give_back(self.0);
    }
}

/// Tells the control role that some window failed.
#[derive(Debug)]
pub struct Failures {
    event: OwnedFd,
}

impl Failures {
    /// Takes note of what failed so far: `true` when anything did since the last call. Which window it was,
    /// [`Window::failed`](nvme_mem::Window::failed) says.
    pub fn take(&self) -> bool {
        rustix::io::read(&self.event, &mut [0; 8]).is_ok()
    }
}

/// Readable when a window failed since the last [`take`](Failures::take).
impl AsFd for Failures {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Installs the handler, once for the process, and returns where failures show. Threads must leave SIGBUS
/// unblocked, and a system call filter must leave `mmap`, `sched_yield`, `write` and
/// `rt_sigreturn` to them.
pub fn failures() -> Result<&'static Failures, Errno> {
    static FAILURES: OnceLock<Failures> = OnceLock::new();
    static INSTALL: Mutex<()> = Mutex::new(());
    let _turn = INSTALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(failures) = FAILURES.get() {
        return Ok(failures);
    }
    zeroes::prepare()?;
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?.into_raw_fd();
    EVENT.store(event, Ordering::Release);
    // SAFETY: `event` was just given up by its owner; it stays open for the life of the process, in a static.
    let failures = FAILURES.get_or_init(|| Failures { event: unsafe { OwnedFd::from_raw_fd(event) } });
    install()?;
    Ok(failures)
}

fn install() -> Result<(), Errno> {
    // SAFETY: all zeroes is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid, and the handler is async-signal-safe.
    if unsafe { libc::sigaction(libc::SIGBUS, &action, &mut before) } != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    }
    let _ = BEFORE.set(before);
    Ok(())
}

/// Async-signal-safe: atomics and system calls only.
extern "C" fn handler(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the C library's own location for this thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { errno.read() };
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let info = unsafe { &*info };
    let code = info.si_code;
    // SAFETY: for the codes of a fault the address is the member that is set; for others it is not looked at.
    let address = unsafe { info.si_addr() }.addr();
    // Codes of 0 and below are signals that somebody sent; they have no address.
    if code <= 0 || !mend(address) {
        give_back(code);
    }
    // SAFETY: as above.
    unsafe { errno.write(saved) };
}

/// Whether `address` lies in a window, which then holds zeroes.
fn mend(address: usize) -> bool {
    TABLE.with(address, |index, found| {
        // SAFETY: as for the owner, the entry is stable while this handler counts.
        let faults = unsafe { found.faults.as_ref() };
        faults.is_some_and(|faults| faults.put(index, address)) || replace(index, found, address)
    })
}

fn replace(index: usize, found: Found, address: usize) -> bool {
    // Before the zeroes are there to be read: whoever reads them and then asks the owner is told.
    // SAFETY: the entry was stable while this handler counts, so its owner is alive (see the head of this file).
    unsafe { (*found.owner).fail() };
    let mended = zeroes::put(Gone { index, range: found.range }, address);
    let event = EVENT.load(Ordering::Acquire);
    if event >= 0 {
        // SAFETY: the eventfd is never closed.
        let event = unsafe { BorrowedFd::borrow_raw(event) };
        // A full counter is readable as well.
        let _ = rustix::io::write(event, &1u64.to_ne_bytes());
    }
    mended
}

/// Lets the signal do what it did without us: a fault comes again when this handler returns, and is whoever's it was
/// before; a sent signal is sent again, and ends the process.
fn give_back(code: i32) {
    // SAFETY: all zeroes is a valid sigaction, and its handler is SIG_DFL.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    let before = BEFORE.get().filter(|_| code > 0).unwrap_or(&default);
    // SAFETY: the action is what the kernel returned, or the default.
    unsafe { libc::sigaction(libc::SIGBUS, before, ptr::null_mut()) };
    if code <= 0 {
        // SAFETY: no pointers.
        unsafe { libc::raise(libc::SIGBUS) };
    }
}
