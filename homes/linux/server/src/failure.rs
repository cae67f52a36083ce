//! Why the server ends, and with which status.

use core::error::Error;
use core::fmt;
use std::process::ExitCode;

use nvme_linux::caps::CapError;
use nvme_linux::memory::ImageError;
use nvme_linux::sandbox::SandboxError;
use nvme_linux::storage::OpenError;
use nvme_linux::storage::facts::FactsError;
use nvme_linux::vfio::VfioError;

use crate::devices::DeviceError;
use crate::fatal::Fatal;

/// Why the server did not serve, or serves no more.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for is wrong: an option, a capability, an image that is in use. It is wrong the next time, too, so a
    /// service manager must not try again.
    Asked(Box<dyn Error>),
    /// Anything else. It may be gone the next time.
    Failed(Box<dyn Error>),
}

impl Failure {
    /// A fault in what was asked for.
    pub(crate) fn asked(why: impl Into<Box<dyn Error>>) -> Self {
        Self::Asked(why.into())
    }

    /// The exit status of each.
    pub(crate) fn status(&self) -> ExitCode {
        match self {
            Self::Asked(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(why) | Self::Failed(why) => why.fmt(f),
        }
    }
}

impl From<CapError> for Failure {
    fn from(why: CapError) -> Self {
        // Too many open files, say.
        if matches!(why, CapError::System { .. }) {
            Self::Failed(why.into())
        } else {
            Self::Asked(why.into())
        }
    }
}

impl From<DeviceError> for Failure {
    fn from(why: DeviceError) -> Self {
        let own = match &why {
            DeviceError::Memory(_, image) => {
                matches!(image, ImageError::System(..) | ImageError::TooManyWindows | ImageError::Failed)
            }
            DeviceError::Image(_, image) => matches!(
                image,
                OpenError::System(_) | OpenError::Preallocate(_) | OpenError::Facts(FactsError::System(..))
            ),
            DeviceError::Pci(function) => matches!(function, VfioError::System(..)),
            DeviceError::Soft(..) => false,
        };
        if own { Self::Failed(why.into()) } else { Self::Asked(why.into()) }
    }
}

impl From<std::io::Error> for Failure {
    fn from(why: std::io::Error) -> Self {
        Self::Failed(why.into())
    }
}

impl From<SandboxError> for Failure {
    fn from(why: SandboxError) -> Self {
        Self::Failed(why.into())
    }
}

impl From<Fatal> for Failure {
    fn from(why: Fatal) -> Self {
        Self::Failed(why.into())
    }
}
