//! What happens when memory vanishes under a window.
//!
//! The kernel says so by SIGBUS, in the middle of a copy. The handler looks the address up in a fixed table of windows, puts
//! zero pages over the whole window, and marks its owner failed; the copy goes on over zeroes, and whoever asks the owner
//! afterwards learns that they are no data. A SIGBUS anywhere else does what it did before there was a handler.
//!
//! *Why it is sound.* An address faults in a window only while some thread uses that window, and so keeps its owner alive
//! and its entry in place until the handler has returned. Other entries may change meanwhile: each carries a version, and one
//! that changes while it is read is passed over. An entry's memory is unmapped only after the entry was cleared and every
//! handler that might have read it has returned.
#![expect(unsafe_code, reason = "handles a signal, and maps over what vanished")]

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::faults::Faults;
use nvme_mem::Owner;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// Windows that may be mapped at once, in the whole process.
pub const WINDOWS_MAX: usize = 1 << 16;

struct Entry {
    /// Odd while the entry changes.
    version: AtomicU64,
    base: AtomicUsize,
    /// 0: free.
    len: AtomicUsize,
    writable: AtomicBool,
    owner: AtomicPtr<Owner>,
    /// Null: the whole window fails at once.
    faults: AtomicPtr<Faults>,
}

/// Entries in use are below `used`.
struct Table {
    entries: [Entry; WINDOWS_MAX],
    used: AtomicUsize,
    /// Handlers that run now.
    handlers: AtomicUsize,
    /// Entries below `used` that are free. Handlers do not look here.
    free: Mutex<Vec<usize>>,
}

static TABLE: Table = Table {
    entries: [const {
        Entry {
            version: AtomicU64::new(0),
            base: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
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

impl Entry {
    fn set(&self, base: usize, len: usize, writable: bool, owner: *mut Owner, faults: *mut Faults) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Whoever sees any of the new fields also sees the odd version.
        fence(Ordering::Release);
        self.base.store(base, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.writable.store(writable, Ordering::Relaxed);
        self.owner.store(owner, Ordering::Relaxed);
        self.faults.store(faults, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The window, if it holds `address` and did not change meanwhile.
    fn holding(&self, address: usize) -> Option<Found> {
        let version = self.version.load(Ordering::Acquire);
        let base = self.base.load(Ordering::Relaxed);
        let len = self.len.load(Ordering::Relaxed);
        let writable = self.writable.load(Ordering::Relaxed);
        let owner = self.owner.load(Ordering::Relaxed);
        let faults = self.faults.load(Ordering::Relaxed);
        // The fields are read before the version is read again.
        fence(Ordering::Acquire);
        let stable = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        (stable && address.wrapping_sub(base) < len).then_some(Found { base, len, writable, owner, faults })
    }
}

#[derive(Clone, Copy)]
struct Found {
    base: usize,
    len: usize,
    writable: bool,
    owner: *mut Owner,
    faults: *mut Faults,
}

/// An entry of the table. It must be cleared before the memory is unmapped.
#[derive(Debug)]
pub(super) struct Registration(usize);

/// Enters a mapping of `len` bytes at `base`, multiples of its page size. `None`: the table is full.
///
/// # Safety
/// Until the registration is dropped, `base` and `len` are one mapping that belongs to the caller, and `owner` and `faults`, if
/// that is not null, are valid.
pub(super) unsafe fn register(
    base: usize,
    len: usize,
    writable: bool,
    owner: *const Owner,
    faults: *const Faults,
) -> Option<Registration> {
    let mut free = TABLE.free.lock().unwrap_or_else(PoisonError::into_inner);
    let used = TABLE.used.load(Ordering::Relaxed);
    let index = free.pop().unwrap_or(used);
    let entry = TABLE.entries.get(index)?;
    entry.set(base, len, writable, owner.cast_mut(), faults.cast_mut());
    if index == used {
        // After the entry: a handler that looks at it finds it filled.
        TABLE.used.store(used + 1, Ordering::Release);
    }
    Some(Registration(index))
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(entry) = TABLE.entries.get(self.0) else { return };
        entry.set(0, 0, false, ptr::null_mut(), ptr::null_mut());
        // Either a handler that starts from here on sees the cleared entry, or we see the handler.
        fence(Ordering::SeqCst);
        while TABLE.handlers.load(Ordering::SeqCst) != 0 {
            // A handler takes some microseconds; it waits for nobody.
            std::thread::yield_now();
        }
        TABLE.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
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
/// unblocked, and a system call filter must leave `mmap`, `write` and `rt_sigreturn` to them.
pub fn failures() -> Result<&'static Failures, Errno> {
    static FAILURES: OnceLock<Failures> = OnceLock::new();
    static INSTALL: Mutex<()> = Mutex::new(());
    let _turn = INSTALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(failures) = FAILURES.get() {
        return Ok(failures);
    }
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
    TABLE.handlers.fetch_add(1, Ordering::SeqCst);
    // Pairs with the fence in `Registration::drop`.
    fence(Ordering::SeqCst);
    let used = TABLE.used.load(Ordering::Acquire).min(WINDOWS_MAX);
    let found = TABLE.entries.iter().take(used).find_map(|entry| entry.holding(address));
    // SAFETY: as for the owner, the entry was stable while this handler counts.
    let mended = found.is_some_and(|found| match unsafe { found.faults.as_ref() } {
        Some(faults) => faults.put(address),
        None => replace(found),
    });
    TABLE.handlers.fetch_sub(1, Ordering::SeqCst);
    mended
}

fn replace(window: Found) -> bool {
    // Before the zeroes are there to be read: whoever reads them and then asks the owner is told.
    // SAFETY: the entry was stable while this handler counts, so its owner is alive (see the head of this file).
    unsafe { (*window.owner).fail() };
    let protection = if window.writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: the range is a mapping of our own, which is used through windows alone; they may change at any time anyway.
    let mapped = unsafe {
        mmap_anonymous(ptr::with_exposed_provenance_mut(window.base), window.len, protection, flags)
    };
    let event = EVENT.load(Ordering::Acquire);
    if event >= 0 {
        // SAFETY: the eventfd is never closed.
        let event = unsafe { BorrowedFd::borrow_raw(event) };
        // A full counter is readable as well.
        let _ = rustix::io::write(event, &1u64.to_ne_bytes());
    }
    mapped.is_ok()
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
