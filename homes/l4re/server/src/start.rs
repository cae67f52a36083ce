//! Starting: options and capabilities become a server, or the reason why not.

use alloc::string::String;
use core::fmt;
use core::time::Duration;

use nvme_core::nvme;
use nvme_core::server::control::{Config, RecoveryTimes};
use nvme_l4re::kernel::L4Error;
use nvme_policy::CommandLine;
use nvme_session::Transport;
use nvme_session::factory::CreateError;
use nvme_session::queue::Direction;

/// L4virtio. Its drivers ignore the flags of descriptors, and acknowledge all they are offered, whether they know it or not: what is
/// optional is not offered.
pub(crate) const TRANSPORT: Transport = Transport { direction: Direction::ByRequest, features: 0 };

/// Bounds, and how eagerly to work. What L4Re's command line has no option for.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How long to poll for completions after the last work before going to sleep, at most: it is less while it does not
    /// pay. Zero: never, which is best where clients run on the same CPU.
    pub poll: Duration,
    /// Most sessions at a time, static clients' included; at most 512.
    pub sessions_max: usize,
    /// Most bytes of memory that one session may register.
    pub memory_max: u64,
    /// Capability slots for all sessions together. L4Re's allocator has 4,096 as a rule; the rest is the server's own.
    pub slots_max: usize,
    /// The driver's own.
    pub nvme: nvme::Options,
    /// How long each step of a recovery may take.
    pub recovery: RecoveryTimes,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            poll: Duration::ZERO,
            sessions_max: 256,
            memory_max: 64 << 30,
            slots_max: 3500,
            // Twice the entries that the original has: memory is short here, and nearly all of a pair's is by entry.
            nvme: nvme::Options { depth_max: 64, bounce_chunks: 2, ..nvme::Options::default() },
            recovery: RecoveryTimes::default(),
        }
    }
}

impl Tuning {
    pub(crate) fn config(&self, line: &CommandLine<'_>) -> Config {
        Config {
            workers: 1,
            sessions_max: self.sessions_max.min(crate::label::SLOTS),
            memory_max: self.memory_max,
            trusted_only: !line.trusted.is_empty(),
            queues: 1,
            transport: TRANSPORT,
            nvme: nvme::Options { nosgl: line.nosgl || self.nvme.nosgl, ..self.nvme },
            recovery: self.recovery,
            drain: Duration::from_secs(30),
        }
    }
}

/// Why the server does not start. Prints as one line that names what is wrong and says what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartError {
    /// There is neither a factory nor a static client: nobody could ever ask for anything.
    Nobody,
    /// A `--client` names a capability that the program was not started with.
    NoClient(String),
    /// A `--register-ds` likewise.
    NoDataspace(String),
    /// A static client's device cannot be reserved.
    NotReserved(String, CreateError),
    /// A `--factory` names a capability that the program was not started with.
    NoFactory(String),
    /// A `--factory` cannot be made.
    NotMade(String, CreateError),
    /// The kernel refused an object.
    Kernel(&'static str, L4Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str(
                "neither a capability svr nor a --client: nobody could use the server; give it svr in its caps",
            ),
            Self::NoClient(name) => write!(f, "--client {name}: no such capability; give it in the caps"),
            Self::NoDataspace(name) => {
                write!(f, "--register-ds {name}: no such capability; give it in the caps")
            }
            Self::NotReserved(name, why) => write!(f, "--client {name}: {why}"),
            Self::NoFactory(name) => write!(f, "--factory {name}: no such capability; give it in the caps"),
            Self::NotMade(name, why) => write!(f, "--factory {name}: {why}"),
            Self::Kernel(what, why) => write!(f, "{what}: {why}"),
        }
    }
}

impl core::error::Error for StartError {}

#[cfg(test)]
mod tests {
    use nvme_session::blk::features::{EVENT_IDX, MQ};

    use super::*;

    #[test]
    fn drivers_that_acknowledge_all_they_are_offered_are_offered_nothing_optional() {
        let config = Tuning::default().config(&CommandLine::default());
        assert_eq!(config.transport, TRANSPORT);
        assert_eq!((TRANSPORT.features & (EVENT_IDX | MQ), config.queues), (0, 1));
        assert_eq!(TRANSPORT.direction, Direction::ByRequest);
    }
}
