//! Giving up what the server does not need.
//!
//! ```text
//! main:   Inherited::take      every inherited descriptor that nobody named is closed
//!         check_calls          what serving cannot do without is there
//!         open, bind, map      with the authority that the server was started with
//!         Sandbox::prepare     limits, capabilities, file systems: threads started from here on inherit it
//!         start the threads
//!         Prepared::seal       the system call filter, on all threads at once
//!         serve
//! ```
//!
//! [`Sandbox::enter`] is both at once, for a program of one thread. What is in force afterwards is in the
//! [`Report`]; a kernel without one of the optional parts does not keep the server from starting, a failure of
//! a mandatory one does.
//!
//! | part | mandatory | holds |
//! | --- | --- | --- |
//! | limits | yes | no core dumps; as many descriptors as the hard limit allows |
//! | capabilities | yes | none left in any set, none to be had by anything |
//! | `no_new_privs`, not dumpable | yes | no set-user-id program; no ptrace, no `/proc/PID/mem` by others of the same user |
//! | empty mount view | as root | no path leads anywhere |
//! | Landlock | where the kernel has it | no path leads anywhere, no TCP, no signals or abstract sockets outside |
//! | seccomp | yes | the calls that serving needs, and no others: [`filter`] |

mod authority;
mod descriptors;
mod error;
mod filter;
mod limits;
mod needed;
mod paths;

pub use descriptors::close_all_but;
pub use error::SandboxError;
pub use needed::check_calls;
pub use paths::Landlock;

/// What the server still needs.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `ioctl` requests that are allowed, besides FIONREAD and FIONBIO: those of VFIO.
    pub ioctls: Vec<u32>,
    /// Rings may be told of client memory: `io_uring_register` with IORING_REGISTER_BUFFERS_UPDATE, and nothing else.
    pub pins: bool,
}

/// What is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// How many descriptors the process may have open.
    pub descriptors: u64,
    /// Whether there were capabilities to give up.
    pub had_capabilities: bool,
    /// Whether the mount view is empty.
    pub empty_view: bool,
    /// How much of Landlock the kernel has.
    pub landlock: Landlock,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Sandbox(());

/// All but the system call filter is in force.
#[derive(Debug)]
pub struct Prepared {
    options: Options,
    report: Report,
}

impl Sandbox {
    /// Gives up everything but system calls. The calling thread must be the only one: what is given up here is
    /// given up by threads that it starts later, but not by others.
    pub fn prepare(options: Options) -> Result<Prepared, SandboxError> {
        limits::only_thread()?;
        let descriptors = limits::set()?;
        // Before the capabilities, which it needs.
        let empty_view = paths::empty_view();
        let had_capabilities = authority::drop_capabilities()?;
        authority::no_new_privileges()?;
        let landlock = paths::landlock()?;
        let report = Report { descriptors, had_capabilities, empty_view, landlock };
        Ok(Prepared { options, report })
    }

    /// Gives up everything at once.
    pub fn enter(options: Options) -> Result<Report, SandboxError> {
        Self::prepare(options)?.seal()
    }
}

impl Prepared {
    /// What is in force already.
    pub fn report(&self) -> Report {
        self.report
    }

    /// Puts the system call filter on every thread of the process. No thread can be started afterwards.
    pub fn seal(self) -> Result<Report, SandboxError> {
        filter::install(&self.options)?;
        Ok(self.report)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let view = if self.empty_view { "empty" } else { "unchanged" };
        write!(
            f,
            "seccomp on, no capabilities, Landlock {}, mount view {view}, {} descriptors",
            self.landlock, self.descriptors
        )
    }
}
