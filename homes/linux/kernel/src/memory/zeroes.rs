//! What is put in the place of memory that vanished: pages that nobody can refuse at that moment.
//!
//! A fault cannot ask for memory: under a commit limit (`vm.overcommit_memory=2`) a private writable mapping is refused, and
//! a client that made enough of its memory vanish would have the server pay for all of it. So what is needed is made
//! beforehand, and is little: [`SLICES`] pieces of one memory file, whose pages are there, and an empty file. A window whose
//! memory vanished is mapped to the empty file, where every access faults, and a slice lies where the last faults were. Who
//! needs a slice when all are out takes the oldest: what it held is forgotten, since its window failed, and its place
//! faults again. Shared mappings cost no commit; a slice is zeroed before it is put anywhere.
//!
//! A page of an image that could not be had is replaced for now ([`lend`]): its window goes on. Whoever needs its slice has it, and that page
//! faults again.
//!
//! The first fault of a window replaces its page only, the next one elsewhere the whole window: so there are never more than
//! [`PARTS`] windows in several pieces, however many fail.
#![expect(unsafe_code, reason = "maps over what vanished, in a signal handler")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};

use super::range::{Range, WINDOWS_MAX};

/// Faults that may be mended at once. A thread needs two, where an access lies across their border.
pub(super) const SLICES: usize = 64;
/// Bytes of a slice.
pub(super) const SLICE: usize = 64 << 10;
/// Windows of which only a page is replaced.
const PARTS: usize = 64;

/// A window whose memory vanished.
#[derive(Clone, Copy)]
pub(super) struct Gone {
    /// Its place in the table of windows.
    pub(super) index: usize,
    pub(super) range: Range,
}

/// What was made beforehand.
struct Made {
    /// Nothing, for ever.
    empty: OwnedFd,
    /// All slices, and where this process zeroes them. `None` where the process may not make a file of that size
    /// (`RLIMIT_FSIZE`): then private memory has to do, which a commit limit can refuse.
    pages: Option<(OwnedFd, usize)>,
}

/// Where a slice is. `len` of 0: nowhere.
struct Slice {
    index: AtomicUsize,
    base: AtomicUsize,
    len: AtomicUsize,
}

/// Which part of a window is replaced. `len` of 0: nothing.
struct Part {
    base: AtomicUsize,
    len: AtomicUsize,
    /// Whether it counts as one of [`PARTS`].
    partial: AtomicBool,
}

static MADE: OnceLock<Made> = OnceLock::new();
/// Held by whoever looks at what follows: for some system calls, in which nothing waits.
static LOCK: AtomicBool = AtomicBool::new(false);
static PLACED: [Slice; SLICES] =
    [const { Slice { index: AtomicUsize::new(0), base: AtomicUsize::new(0), len: AtomicUsize::new(0) } };
        SLICES];
/// The slice that was placed longest ago.
static OLDEST: AtomicUsize = AtomicUsize::new(0);
static PARTS_OF: [Part; WINDOWS_MAX] =
    [const { Part { base: AtomicUsize::new(0), len: AtomicUsize::new(0), partial: AtomicBool::new(false) } };
        WINDOWS_MAX];
static PARTIAL: AtomicUsize = AtomicUsize::new(0);

/// Makes all that faults will need. An error is a refusal to start.
pub(super) fn prepare() -> Result<(), Errno> {
    if MADE.get().is_some() {
        return Ok(());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let empty = memfd_create("nvme-gone", flags)?;
    fcntl_add_seals(&empty, seals)?;
    let pages = match slices() {
        Ok(pages) => Some(pages),
        Err(Errno::FBIG) => {
            log::warn!(
                "RLIMIT_FSIZE is below {} KiB: where the host limits what may be committed, a client whose memory vanishes can end the \
                 server",
                (SLICES * SLICE) >> 10
            );
            None
        }
        Err(error) => return Err(error),
    };
    let _ = MADE.set(Made { empty, pages });
    Ok(())
}

/// The file of all slices, and where they are.
fn slices() -> Result<(OwnedFd, usize), Errno> {
    let pages = memfd_create("nvme-zeroes", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let len = SLICES * SLICE;
    fallocate(&pages, FallocateFlags::empty(), 0, len as u64)?;
    fcntl_add_seals(&pages, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let base = unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, &pages, 0) }?;
    // What clients' requests leave there is not for a core dump. A kernel that does not know the advice has dumps with it.
    // SAFETY: the range was just mapped; the advice does not change it.
    let _ = unsafe { madvise(base, len, Advice::LinuxDontDump) };
    Ok((pages, base.expose_provenance()))
}

/// Puts zeroes where `address`, in this window, is. Async-signal-safe.
pub(super) fn put(window: Gone, address: usize) -> bool {
    let Some(made) = MADE.get() else { return false };
    let _held = Held::new();
    mend(made, window, address) || (replace(made, window, None) && mend(made, window, address))
}

/// Takes a window's memory away as if it had vanished.
pub(super) fn take_away(window: Gone) -> bool {
    let Some(made) = MADE.get() else { return false };
    let _held = Held::new();
    replace(made, window, None)
}

/// Puts a page of zeroes there for now, in a window that goes on: until it is [given back](given_back). Async-signal-safe.
pub(super) fn lend(index: usize, base: usize, len: usize) -> bool {
    let Some(made) = MADE.get() else { return false };
    let Some((pages, zeroed_at)) = &made.pages else { return false };
    let _held = Held::new();
    place(made, (pages, *zeroed_at), index, base, len)
}

/// In this part of a window is its own memory again.
pub(super) fn given_back(base: usize, len: usize) {
    let _held = Held::new();
    for slice in &PLACED {
        if slice.base.load(Ordering::Relaxed).wrapping_sub(base) < len {
            slice.len.store(0, Ordering::Relaxed);
        }
    }
}

/// Forgets the window at `index`, which nobody uses any more.
pub(super) fn release(index: usize) {
    let Some(part) = PARTS_OF.get(index) else { return };
    let _held = Held::new();
    forget(part);
    forget_slices(index);
}

fn mend(made: &Made, window: Gone, address: usize) -> bool {
    let Some(part) = PARTS_OF.get(window.index) else { return false };
    let covered = (part.base.load(Ordering::Relaxed), part.len.load(Ordering::Relaxed));
    let (base, len) = if address.wrapping_sub(covered.0) < covered.1 {
        covered
    } else {
        let partly = covered.1 == 0 && PARTIAL.load(Ordering::Relaxed) < PARTS;
        if !replace(made, window, partly.then_some(address)) {
            return false;
        }
        (part.base.load(Ordering::Relaxed), part.len.load(Ordering::Relaxed))
    };
    if !window.range.writable {
        return private(base, len, ProtFlags::READ);
    }
    let Some((pages, zeroed_at)) = &made.pages else {
        return private(base, len, ProtFlags::READ | ProtFlags::WRITE);
    };
    // Another thread's fault at the same place, or an image's page was put back over the slice.
    let there = |s: &Slice| {
        let (base, len) = (s.base.load(Ordering::Relaxed), s.len.load(Ordering::Relaxed));
        (address.wrapping_sub(base) < len).then_some((base, len))
    };
    if let Some((number, (base, len))) =
        PLACED.iter().enumerate().find_map(|(number, s)| Some((number, there(s)?)))
    {
        return map(pages, base, len, (number * SLICE) as u64);
    }
    let skip = (address - base) / SLICE * SLICE;
    place(made, (pages, *zeroed_at), window.index, base + skip, (len - skip).min(SLICE))
}

/// Takes the memory away: of the whole window, or of the page that holds an address.
fn replace(made: &Made, window: Gone, only: Option<usize>) -> bool {
    let Some(part) = PARTS_OF.get(window.index) else { return false };
    let range = window.range;
    let (base, len) = match only {
        Some(address) => {
            let skip = (address - range.base) / range.block * range.block;
            (range.base + skip, range.block.min(range.len - skip))
        }
        None => (range.base, range.len),
    };
    let mapped = if range.writable { vanish(made, base, len) } else { private(base, len, ProtFlags::READ) };
    if !mapped {
        return false;
    }
    forget(part);
    forget_slices(window.index);
    part.base.store(base, Ordering::Relaxed);
    part.len.store(len, Ordering::Relaxed);
    if only.is_some() {
        part.partial.store(true, Ordering::Relaxed);
        PARTIAL.fetch_add(1, Ordering::Relaxed);
    }
    true
}

/// Puts a slice at `base`: a free one, or the oldest.
fn place(made: &Made, (pages, zeroed_at): (&OwnedFd, usize), index: usize, base: usize, len: usize) -> bool {
    let free = PLACED.iter().position(|s| s.len.load(Ordering::Relaxed) == 0);
    let number = free.unwrap_or_else(|| OLDEST.fetch_add(1, Ordering::Relaxed) % SLICES);
    let Some(slice) = PLACED.get(number) else { return false };
    let had = (slice.base.load(Ordering::Relaxed), slice.len.load(Ordering::Relaxed));
    // From here on nobody reaches the slice where it was: its window is still there, since one that goes releases it first.
    if had.1 != 0 && !vanish(made, had.0, had.1) {
        return false;
    }
    slice.len.store(0, Ordering::Relaxed);
    let offset = number * SLICE;
    let bytes = ptr::with_exposed_provenance_mut::<u8>(zeroed_at + offset);
    // SAFETY: inside the mapping of all slices, which lasts and cannot shrink; this slice is mapped nowhere else now, and
    // the lock keeps other handlers away.
    unsafe { ptr::write_bytes(bytes, 0, SLICE) };
    if !map(pages, base, len, offset as u64) {
        return false;
    }
    slice.index.store(index, Ordering::Relaxed);
    slice.base.store(base, Ordering::Relaxed);
    slice.len.store(len, Ordering::Relaxed);
    true
}

/// Makes a range fault. Neighbours of this kind are one mapping: each has its address for its offset.
fn vanish(made: &Made, base: usize, len: usize) -> bool {
    map(&made.empty, base, len, base as u64)
}

/// Puts zeroes of nobody else's. What cannot be written costs no commit.
fn private(base: usize, len: usize, protection: ProtFlags) -> bool {
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    let at = ptr::with_exposed_provenance_mut(base);
    // SAFETY: the range is part of a window's mapping, which is used through windows alone; they may change at any time
    // anyway.
    unsafe { mmap_anonymous(at, len, protection, flags) }.is_ok()
}

fn map(file: impl AsFd, base: usize, len: usize, offset: u64) -> bool {
    let file: BorrowedFd<'_> = file.as_fd();
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::SHARED | MapFlags::FIXED;
    let at = ptr::with_exposed_provenance_mut(base);
    // SAFETY: the range is part of a window's mapping, which is used through windows alone; they may change at any time
    // anyway.
    unsafe { mmap(at, len, protection, flags, file, offset) }.is_ok()
}

fn forget(part: &Part) {
    part.len.store(0, Ordering::Relaxed);
    if part.partial.swap(false, Ordering::Relaxed) {
        PARTIAL.fetch_sub(1, Ordering::Relaxed);
    }
}

fn forget_slices(index: usize) {
    for slice in &PLACED {
        if slice.index.load(Ordering::Relaxed) == index {
            slice.len.store(0, Ordering::Relaxed);
        }
    }
}

/// The lock, which a signal handler can take: nobody who holds it faults, sleeps or allocates.
struct Held;

impl Held {
    fn new() -> Self {
        while LOCK.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // Whoever holds it may have been interrupted by the scheduler.
            rustix::thread::sched_yield();
        }
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        LOCK.store(false, Ordering::Release);
    }
}
