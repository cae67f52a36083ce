//! The system call filter.
//!
//! Two filters, of which the stricter answer counts:
//!
//! * what only an intruder calls (running a program, looking into another process, loading kernel code, changing
//!   identity or name spaces) ends the process at once with SIGSYS: whatever runs then is no longer this program;
//! * of the rest, what is on the list below is allowed, and everything else fails with EPERM, as a library that probes for a
//!   feature or a panic that looks for its own symbols expects it to.
//!
//! Arguments count where the same call can do more than is needed: memory is never made executable, a signal goes
//! to this process only, a datagram to nowhere but its socket's peer, `fcntl`, `ioctl`, `prctl`, `socketpair` and
//! `setsockopt` do a few things each. Pointers cannot be looked through, so `sendmsg` could name an address; without
//! `socket` and `connect`, on sockets that others made, and under Landlock's scope, that leads nowhere new.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use super::{Options, SandboxError};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Result<T> = std::result::Result<T, seccompiler::Error>;

/// Allowed with any arguments.
const FREE: &[c_long] = &[
    // Data: files, sockets, events that are open already.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_close,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    // Notifications that must not wait (`events::submission`); in the one context that was made before.
    libc::SYS_io_submit,
    libc::SYS_io_getevents,
    // Images: in the rings that were made before, restricted to reading, writing, syncing and allocating in these files.
    libc::SYS_io_uring_enter,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_clock_gettime,
    libc::SYS_getrusage,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_futex,
    libc::SYS_restart_syscall,
    // Memory.
    libc::SYS_memfd_create,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_brk,
    // The thread itself.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The same under the names that only the older architecture has.
#[cfg(target_arch = "x86_64")]
const FREE_OLD: &[c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time, libc::SYS_gettimeofday];
#[cfg(not(target_arch = "x86_64"))]
const FREE_OLD: &[c_long] = &[libc::SYS_gettimeofday];

/// Ends the process.
const FATAL: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_open_by_handle_at,
];
#[cfg(target_arch = "x86_64")]
const FATAL_OLD: &[c_long] = &[libc::SYS_fork, libc::SYS_vfork, libc::SYS_ioperm, libc::SYS_iopl];
#[cfg(not(target_arch = "x86_64"))]
const FATAL_OLD: &[c_long] = &[];

/// What may be asked of a descriptor by `fcntl`. Not F_SETFL: its flags belong to both ends. Not F_OFD_SETLKW: it
/// waits. F_SETLK is how a trusted dataspace is recognised.
const FCNTL: &[i32] = &[
    libc::F_GETFL,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_ADD_SEALS,
    libc::F_GET_SEALS,
    libc::F_OFD_GETLK,
    libc::F_OFD_SETLK,
    libc::F_SETLK,
];

/// IORING_REGISTER_BUFFERS_UPDATE of io_uring_register(2): a ring is told of memory.
const BUFFERS_UPDATE: u32 = 16;

const PRCTL: &[i32] = &[libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];

/// Puts both filters on all threads.
pub(super) fn install(options: &Options) -> std::result::Result<(), SandboxError> {
    let allowed = allow_list(options)?;
    // The fatal one first: the second forbids installing a third.
    apply_filter_all_threads(&fatal_list()?)?;
    apply_filter_all_threads(&allowed)?;
    Ok(())
}

fn fatal_list() -> Result<BpfProgram> {
    let rules = FATAL.iter().chain(FATAL_OLD).map(|call| (*call, Vec::new())).collect();
    compile(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

fn allow_list(options: &Options) -> Result<BpfProgram> {
    let mut rules: Rules = FREE.iter().chain(FREE_OLD).map(|call| (*call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule([without(2, libc::PROT_EXEC)?])?]);
    }
    rules.insert(libc::SYS_fcntl, any_of(1, FCNTL)?);
    rules.insert(libc::SYS_prctl, any_of(0, PRCTL)?);
    let mut requests = any_of(1, &options.ioctls)?;
    requests.extend(any_of(1, &[libc::FIONREAD, libc::FIONBIO])?);
    rules.insert(libc::SYS_ioctl, requests);
    if options.pins {
        rules.insert(libc::SYS_io_uring_register, any_of(1, &[BUFFERS_UPDATE])?);
    }
    // Meant for a descriptor (AT_EMPTY_PATH). With a path in spite of the flag they tell a file's size and times,
    // where the mount view is not empty; its contents stay out of reach.
    rules.insert(libc::SYS_newfstatat, vec![rule([with(3, libc::AT_EMPTY_PATH)?])?]);
    rules.insert(libc::SYS_statx, vec![rule([with(2, libc::AT_EMPTY_PATH)?])?]);
    rules.insert(libc::SYS_setsockopt, any_of(1, &[libc::SOL_SOCKET])?);
    rules.insert(libc::SYS_socketpair, any_of(0, &[libc::AF_UNIX])?);
    let nowhere = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_sendto, vec![rule([nowhere])?]);
    // A thread's own processors (`events::slowly`).
    rules.insert(libc::SYS_sched_setaffinity, any_of(0, &[0])?);
    // A thread has an ordinary priority (`priority`), and its own alone.
    let ordinary = |argument| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0);
    rules.insert(libc::SYS_setpriority, vec![rule([ordinary(0)?, ordinary(1)?, ordinary(2)?])?]);
    // abort(3) sends a signal to itself.
    let own = i32::try_from(std::process::id()).unwrap_or(-1);
    rules.insert(libc::SYS_tgkill, any_of(0, &[own])?);
    compile(rules, SeccompAction::Errno(libc::EPERM.unsigned_abs()), SeccompAction::Allow)
}

fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()?)
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule> {
    Ok(SeccompRule::new(conditions.into())?)
}

/// One rule per value of a 32-bit argument.
fn any_of<T: Copy + Word>(argument: u8, values: &[T]) -> Result<Vec<SeccompRule>> {
    let equal = |value: &T| {
        let value = u64::from(value.word());
        rule([SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?])
    };
    values.iter().map(equal).collect()
}

/// All of the bits are set.
fn with(argument: u8, bits: i32) -> Result<SeccompCondition> {
    let bits = u64::from(bits.word());
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits), bits)?)
}

/// None of the bits is set.
fn without(argument: u8, bits: i32) -> Result<SeccompCondition> {
    let bits = u64::from(bits.word());
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits), 0)?)
}

/// The low 32 bits of an argument, which is all that the kernel looks at for these.
trait Word {
    fn word(self) -> u32;
}

impl Word for i32 {
    fn word(self) -> u32 {
        self.cast_unsigned()
    }
}

impl Word for u32 {
    fn word(self) -> u32 {
        self
    }
}

impl Word for u64 {
    fn word(self) -> u32 {
        (self & 0xffff_ffff) as u32
    }
}
