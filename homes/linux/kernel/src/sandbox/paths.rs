//! File systems out of reach.
#![expect(unsafe_code, reason = "asks the kernel for Landlock, and leaves its mount view")]

use std::fmt;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope,
};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::UnshareFlags;

use super::SandboxError;

/// How much of Landlock is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Landlock {
    /// All that this program asks for.
    Full,
    /// What this kernel knows of it.
    Partial,
    /// The kernel has none.
    None,
    /// The kernel has it, and was started without it.
    Off,
    /// A system call filter that was in force before the server started forbids it: protection is lost that this kernel has.
    Denied,
}

impl fmt::Display for Landlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Partial => "partial",
            Self::None => "not in this kernel",
            Self::Off => "turned off when this kernel was started (lsm=)",
            Self::Denied => {
                "DENIED by a system call filter from outside (SystemCallFilter= of a unit, a container's profile): \
                 let landlock_create_ruleset and landlock_restrict_self through"
            }
        })
    }
}

/// What keeps Landlock away, if anything does. Any answer but these two errors means that somebody answers in the kernel's
/// place.
fn missing() -> Option<Landlock> {
    const VERSION: u32 = 1;
    // SAFETY: asked for the version, the call reads no memory and changes nothing.
    let answer = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, core::ptr::null::<u8>(), 0_usize, VERSION)
    };
    if answer >= 0 {
        return None;
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::ENOSYS) => Some(Landlock::None),
        Some(libc::EOPNOTSUPP) => Some(Landlock::Off),
        _ => Some(Landlock::Denied),
    }
}

/// Denies every access to a file system, TCP, and signals and abstract sockets outside: all that the kernel knows
/// of these, which may be less than this program does.
pub(super) fn landlock() -> Result<Landlock, SandboxError> {
    if let Some(missing) = missing() {
        return Ok(missing);
    }
    let abi = ABI::V6;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Landlock::Full,
        RulesetStatus::PartiallyEnforced => Landlock::Partial,
        RulesetStatus::NotEnforced => Landlock::None,
    })
}

/// Gives the process a mount view of its own with nothing in it. Needs CAP_SYS_ADMIN, and is done where it can be:
/// an ordinary user could only do it in a user namespace, in which the peers' user numbers would be lost.
pub(super) fn empty_view() -> bool {
    let enter = || -> rustix::io::Result<()> {
        // SAFETY: a mount namespace of our own changes what paths mean, and no descriptor's ownership.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        // Nothing of what follows may reach the namespace that we came from.
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("none", "/proc", "tmpfs", flags, Some(c"size=4k,nr_inodes=1,mode=0555"))?;
        rustix::process::chdir("/proc")?;
        rustix::process::pivot_root(".", ".")?;
        // The old root lies on top of the new one now.
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")
    };
    enter().is_ok()
}
