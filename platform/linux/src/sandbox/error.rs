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
    /// Landlock is there and failed.
    #[error("Landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter was not accepted.
    #[error("seccomp: {0} (the kernel must be built with CONFIG_SECCOMP_FILTER)")]
    Filter(#[from] seccompiler::Error),
}

impl SandboxError {
    pub(super) fn step(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |error| Self::Step { step, error: error.into() }
    }
}
