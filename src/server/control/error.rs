//! Why a session did not do what its client asked.

use core::fmt;

use nvme_platform::DmaError;
use nvme_policy::Errno;
use nvme_session::dataspace::RegistryError;
use nvme_session::virtqueue::RingError;

/// Why a session did not do what its client asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionError {
    /// There is no such session, or it is ending.
    Ended,
    /// It is busy with what was asked before.
    Busy,
    /// Its device is lost.
    DeviceLost,
    /// The controller has no queue pair for it.
    NoQueuePair,
    /// No such virtqueue, or it is running (or not running).
    Queue,
    /// The virtqueue's rings are not in order.
    Ring(RingError),
    /// The configuration space cannot be written like that.
    Config,
    /// The memory is not for this session.
    Memory(RegistryError),
    /// The memory could not be mapped for DMA.
    Dma(DmaError),
}

impl SessionError {
    /// The error number that goes with it, where the transport has one.
    pub fn errno(self) -> Errno {
        match self {
            Self::Memory(why) => why.errno(),
            Self::Dma(DmaError::NoMemory | DmaError::NoAddresses | DmaError::LockLimit { .. })
            | Self::NoQueuePair => Errno::NoMemory,
            Self::Dma(DmaError::Gone | DmaError::InUse) | Self::DeviceLost | Self::Ended => Errno::NoDevice,
            Self::Busy => Errno::Busy,
            Self::Dma(DmaError::BadRange) | Self::Queue | Self::Ring(_) | Self::Config => Errno::Invalid,
        }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the session has ended"),
            Self::Busy => f.write_str("the session is busy with an earlier request"),
            Self::DeviceLost => f.write_str("the session's device is lost"),
            Self::NoQueuePair => f.write_str("the controller has no queue pair left"),
            Self::Queue => f.write_str("no such queue, or it is not in a state for that"),
            Self::Ring(e) => e.fmt(f),
            Self::Config => {
                f.write_str("only `writeback` can be written, with 0 or 1, where CONFIG_WCE was negotiated")
            }
            Self::Memory(e) => e.fmt(f),
            Self::Dma(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for SessionError {}
