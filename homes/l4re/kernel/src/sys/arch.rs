//! What depends on amd64: the system call, where the UTCB is, and the time-stamp counter.
#![expect(unsafe_code, reason = "is the system call itself")]

use core::arch::asm;

use super::types::{l4_cap_idx_t, l4_msgtag_t, l4_timeout_t, l4_umword_t};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the system call is written for amd64 only");

/// The one system call: sends what is in this thread's UTCB, receives into it, or both.
///
/// # Safety
/// Nothing that the kernel or the receiver does because of the message may change or take away memory that this program
/// uses, other than what it reaches through a [`Window`](nvme_platform::Window); and the buffer registers may name only
/// capability slots that are free.
#[inline]
pub(super) unsafe fn l4_ipc(
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
pub(super) fn utcb() -> *mut l4_umword_t {
    let at;
    // SAFETY: L4Re gives each thread a GS segment whose first word is the address of its UTCB.
    unsafe { asm!("mov {}, gs:0", out(reg) at, options(nostack, preserves_flags, readonly)) };
    at
}

/// Cycles since the machine was switched on, at the KIP's frequency.
#[inline]
pub(super) fn cycles() -> u64 {
    // SAFETY: the kernel leaves the instruction to user mode.
    unsafe { core::arch::x86_64::_rdtsc() }
}
