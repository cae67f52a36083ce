//! amd64.
#![expect(unsafe_code, reason = "is the system call itself")]

use alloc::sync::Arc;
use core::arch::asm;

use nvme_platform::{Caches, Time};

use crate::sys::types::{l4_cap_idx_t, l4_msgtag_t, l4_timeout_t, l4_umword_t};

/// In an interrupt's number, and in what an interrupt controller has: message-signalled.
pub(crate) const MSI: l4_umword_t = 0x8000_0000;

/// The one system call: sends what is in this thread's UTCB, receives into it, or both.
///
/// # Safety
/// Nothing that the kernel or the receiver does because of the message may change or take away memory that this program
/// uses, other than what it reaches through a [`Window`](nvme_platform::Window); and the buffer registers may name only
/// capability slots that are free.
#[inline]
pub(crate) unsafe fn l4_ipc(
    dest: l4_cap_idx_t,
    flags: l4_umword_t,
    label: l4_umword_t,
    tag: l4_msgtag_t,
    timeout: l4_timeout_t,
) -> (l4_msgtag_t, l4_umword_t) {
    let (raw, from);
    // SAFETY: registers as the kernel's interface says; it changes no others, and no memory but the UTCB (which the compiler
    // takes for changed, since the block may touch memory). The caller answers for the rest.
    unsafe {
        asm!(
            "syscall",
            inlateout("rdx") dest | flags => _,
            inlateout("rsi") label => from,
            lateout("rdi") _,
            inlateout("rax") tag.raw => raw,
            in("r8") timeout.raw as l4_umword_t,
            lateout("rcx") _,
            lateout("r11") _,
            lateout("r15") _,
            options(nostack),
        );
    }
    (l4_msgtag_t { raw }, from)
}

/// Where this thread's UTCB is.
#[inline]
pub(crate) fn utcb() -> *mut l4_umword_t {
    let at;
    // SAFETY: L4Re gives each thread a GS segment whose first word is the address of its UTCB.
    unsafe { asm!("mov {}, gs:0", out(reg) at, options(nostack, preserves_flags, readonly)) };
    at
}

/// The time-stamp counter.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    /// Nanoseconds per cycle, times 2^32.
    scale: u128,
}

impl Clock {
    /// It counts as fast as the KIP says that the CPU is.
    pub(crate) fn new(khz: u64) -> Self {
        Self { scale: (1_000_000_u128 << 32) / u128::from(khz.max(1)) }
    }

    /// The time since the machine was switched on.
    #[inline]
    pub(crate) fn now(self) -> Time {
        // SAFETY: the kernel leaves the instruction to user mode.
        let cycles = unsafe { core::arch::x86_64::_rdtsc() };
        Time::from_nanos(((u128::from(cycles) * self.scale) >> 32) as u64)
    }
}

/// Reads the byte there, or writes what is there.
///
/// # Safety
/// It is attached, for writing if it is to be written. Somebody else may write it meanwhile.
pub(crate) unsafe fn touch(at: *mut u8, write: bool) {
    if write {
        // SAFETY: the caller's promise. (As an operation of Rust's it would be one that changes nothing, and left out.)
        unsafe { asm!("lock or byte ptr [{}], 0", in(reg) at, options(nostack)) };
    } else {
        // SAFETY: likewise.
        unsafe { asm!("mov {}, byte ptr [{}]", out(reg_byte) _, in(reg) at, options(nostack, readonly)) };
    }
}

/// Nothing: devices look into the caches.
pub(crate) fn caches() -> Option<Arc<dyn Caches>> {
    None
}

/// With what flags the driver's own memory is attached: queues and lists, which devices read and write.
pub(crate) const DRIVER_MEMORY: u32 = 0;
