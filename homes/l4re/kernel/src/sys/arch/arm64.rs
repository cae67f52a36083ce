//! arm64. Read against L4Re's headers (l4sys, `ARCH-arm64`) and compiled; never run.
#![expect(unsafe_code, reason = "is the system call itself, and maintains caches")]

use alloc::sync::Arc;
use core::arch::asm;

use nvme_platform::{Caches, DmaRights, Time, Window};

use crate::sys::types::{l4_cap_idx_t, l4_msgtag_t, l4_timeout_t, l4_umword_t};

/// In an interrupt's number, and in what an interrupt controller has: message-signalled.
pub(crate) const MSI: l4_umword_t = 0x8000_0000;

/// The one system call: sends what is in this thread's UTCB, receives into it, or both.
///
/// # Safety
/// As on amd64: nothing that the kernel or the receiver does because of the message may change or take away memory that this program
/// uses, other than what it reaches through a [`Window`](nvme_platform::Window); and the buffer registers may name only capability slots that are free.
#[inline]
pub(crate) unsafe fn l4_ipc(
    dest: l4_cap_idx_t,
    flags: l4_umword_t,
    label: l4_umword_t,
    tag: l4_msgtag_t,
    timeout: l4_timeout_t,
) -> (l4_msgtag_t, l4_umword_t) {
    let (raw, from);
    // SAFETY: L4Re's own stub is `svc #0` behind the procedure call standard: tag, label, destination and time-out in the first four argument
    // registers, tag and label back in the first two. So nothing beyond what that standard lets a function change is changed.
    // The caller answers for the rest.
    unsafe {
        asm!(
            "svc #0",
            inlateout("x0") tag.raw => raw,
            inlateout("x1") label => from,
            inlateout("x2") dest | flags => _,
            inlateout("x3") timeout.raw as l4_umword_t => _,
            clobber_abi("C"),
            options(nostack),
        );
    }
    (l4_msgtag_t { raw }, from)
}

/// Where this thread's UTCB is.
#[inline]
pub(crate) fn utcb() -> *mut l4_umword_t {
    let at;
    // SAFETY: L4Re leaves the UTCB's address in this register, which user mode may read.
    unsafe { asm!("mrs {}, tpidrro_el0", out(reg) at, options(nostack, preserves_flags, readonly)) };
    at
}

/// The generic timer's virtual counter.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    /// Nanoseconds per tick, times 2^32.
    scale: u128,
}

impl Clock {
    /// The counter says itself how fast it is; the KIP's frequency is the CPU's.
    pub(crate) fn new(_khz: u64) -> Self {
        let hz: u64;
        // SAFETY: reads a register, which the kernel leaves to user mode, as its own clock in the KIP needs.
        unsafe { asm!("mrs {}, cntfrq_el0", out(reg) hz, options(nostack, preserves_flags, nomem)) };
        Self { scale: (1_000_000_000_u128 << 32) / u128::from(hz.max(1)) }
    }

    /// The time since the machine was switched on.
    #[inline]
    pub(crate) fn now(self) -> Time {
        let ticks: u64;
        // SAFETY: as above. The barrier keeps the read from being done earlier.
        unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nostack, preserves_flags)) };
        Time::from_nanos(((u128::from(ticks) * self.scale) >> 32) as u64)
    }
}

/// Reads the byte there, or writes what is there.
///
/// # Safety
/// It is attached, for writing if it is to be written. Somebody else may write it meanwhile.
pub(crate) unsafe fn touch(at: *mut u8, write: bool) {
    if write {
        // SAFETY: the caller's promise. The exclusive store is not done if anybody else wrote in between; then it is tried again.
        unsafe {
            asm!(
                "2: ldxrb {value:w}, [{at}]",
                "stxrb {failed:w}, {value:w}, [{at}]",
                "cbnz {failed:w}, 2b",
                at = in(reg) at,
                value = out(reg) _,
                failed = out(reg) _,
                options(nostack),
            );
        }
    } else {
        // SAFETY: likewise.
        unsafe {
            asm!("ldrb {value:w}, [{at}]", at = in(reg) at, value = out(reg) _, options(nostack, readonly));
        }
    }
}

/// With what flags the driver's own memory is attached: queues and lists, which devices read and write. Not in the caches.
pub(crate) const DRIVER_MEMORY: u32 = crate::sys::memory::RM_UNCACHED;

/// Devices may not look into the caches; where they do, this costs time and nothing else.
pub(crate) fn caches() -> Option<Arc<dyn Caches>> {
    Some(Arc::new(DataCache))
}

struct DataCache;

impl Caches for DataCache {
    fn before(&self, memory: &Window, rights: DmaRights) {
        if rights == DmaRights::Read {
            clean(memory.address(), memory.len());
        } else {
            // What is dirty must not be written back over what the device writes.
            invalidate(memory.address(), memory.len());
        }
    }

    fn after(&self, memory: &Window) {
        // What was loaded meanwhile.
        invalidate(memory.address(), memory.len());
    }
}

/// Has devices see what was written there. To be called before they are told.
fn clean(at: usize, len: usize) {
    each_line(at, len, |line| {
        // SAFETY: writes a line of the cache back; no contents change.
        unsafe { asm!("dc cvac, {}", in(reg) line, options(nostack)) };
    });
}

/// Has this program see what devices wrote there; to be called before they are told, and after they have ended.
fn invalidate(at: usize, len: usize) {
    each_line(at, len, |line| {
        // SAFETY: writes a line of the cache back and forgets it (forgetting alone is privileged); no contents change.
        unsafe { asm!("dc civac, {}", in(reg) line, options(nostack)) };
    });
}

fn each_line(at: usize, len: usize, op: impl Fn(usize)) {
    let types: u64;
    // SAFETY: reads a register, which the kernel leaves to user mode, as L4Re's own functions need.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) types, options(nostack, preserves_flags, nomem)) };
    let line = 4_usize << (types >> 16 & 0xf);
    let mut next = at & !(line - 1);
    while next < at + len {
        op(next);
        next += line;
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}
