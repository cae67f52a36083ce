//! Why the sandbox could not be entered.

use std::io;

/// A mandatory part of the sandbox failed. The server must not serve.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// There are other threads.
    #[error("the sandbox must be prepared before other threads are started, and there are {0} threads")]
    Threads(u64),
    /// A call failed.
    #[error("{step}: {error}")]
    Step {
        /// What was to be done.
        step: &'static str,
        /// The reason.
        error: io::Error,
    },
    /// A call that serving cannot do without.
    #[error("the system call {call}: {error} ({})", lacking(.error))]
    Lacks {
        /// Its name.
        call: &'static str,
        /// The answer.
        error: io::Error,
    },
    /// Landlock is there and failed.
    #[error("Landlock: {0}; is landlock_restrict_self denied by a filter from outside?")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter was not accepted.
    #[error("seccomp: {error} ({})", advice(.error))]
    Filter {
        /// The reason.
        #[from]
        error: seccompiler::Error,
    },
}

/// Who says no, and what to do: a filter that was there before answers for the kernel.
fn advice(error: &seccompiler::Error) -> &'static str {
    match error {
        seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error)
            if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) =>
        {
            "a system call filter from outside denies it: let the call `seccomp` through, in SystemCallFilter= of the unit or in \
             the container's profile"
        }
        _ => "the kernel must be built with CONFIG_SECCOMP_FILTER",
    }
}

fn lacking(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "this kernel is too old, or a system call filter from outside answers in its place"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "a system call filter from outside denies it: let it through, in SystemCallFilter= of the unit or in the \
             container's profile"
        }
        _ => "the server cannot do without",
    }
}

impl SandboxError {
    pub(super) fn step(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |error| Self::Step { step, error: error.into() }
    }
}
