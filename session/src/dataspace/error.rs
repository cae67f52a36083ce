//! Why memory is not registered, or not removed.

use core::fmt;

use nvme_policy::Errno;

use crate::memory::REGIONS_MAX;

/// Why memory is not registered, or not removed. What is over a limit says what was asked for and what is allowed; how a limit is raised is for the home to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegistryError {
    /// It has no byte.
    Empty,
    /// Its end wraps.
    Wraps,
    /// It reaches over the end of its file.
    OutsideFile,
    /// It overlaps another region, in the guest's or in the client's addresses.
    Overlaps,
    /// There are [`REGIONS_MAX`] regions already (or as many as that which are still being removed).
    TooManyRegions,
    /// The home has no room for that many regions, those that are still being removed included.
    NoRoom {
        /// How many there would be.
        asked: usize,
        /// How many the session may have now.
        allowed: usize,
    },
    /// It would be more dataspaces than `ds-max`.
    TooManyDataspaces {
        /// How many there would be.
        asked: usize,
        /// `ds-max`.
        allowed: usize,
    },
    /// It would be more memory than a session may register, what is still being removed included.
    TooMuchMemory {
        /// How many bytes there would be.
        asked: u64,
        /// How many a session may have.
        allowed: u64,
    },
    /// Its file is none of the trusted dataspaces.
    NotTrusted,
    /// Its file is none of the trusted dataspaces that the session was given by name.
    NotNamed,
    /// Its file is not memory.
    NotMemory,
    /// No such region is registered.
    NotRegistered,
    /// The region, or another, is being mapped.
    Busy,
    /// What was mapped is not what was claimed.
    BadMapping,
    /// The plan was made for what was registered before.
    Outdated,
}

impl RegistryError {
    /// The error number that goes with it.
    pub fn errno(self) -> Errno {
        match self {
            Self::TooManyRegions
            | Self::NoRoom { .. }
            | Self::TooManyDataspaces { .. }
            | Self::TooMuchMemory { .. } => Errno::NoMemory,
            Self::Busy | Self::Outdated => Errno::Busy,
            Self::Empty
            | Self::Wraps
            | Self::OutsideFile
            | Self::Overlaps
            | Self::NotTrusted
            | Self::NotNamed
            | Self::NotMemory
            | Self::NotRegistered
            | Self::BadMapping => Errno::Invalid,
        }
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the region is empty",
            Self::Wraps => "the region's end wraps",
            Self::OutsideFile => "the region reaches over the end of its file",
            Self::Overlaps => "the region overlaps another",
            Self::TooManyRegions => return write!(f, "too many regions ({REGIONS_MAX} at most)"),
            Self::NoRoom { asked, allowed } => {
                return write!(
                    f,
                    "{asked} regions, and the session's share of what the server can map is {allowed}"
                );
            }
            Self::TooManyDataspaces { asked, allowed } => {
                return write!(f, "too many dataspaces ({asked}, and {allowed} at most); raise ds-max");
            }
            Self::TooMuchMemory { asked, allowed } => {
                return write!(f, "too much memory ({asked} bytes, and {allowed} at most)");
            }
            Self::NotTrusted => "the dataspace is none of the trusted ones",
            Self::NotNamed => "the dataspace is none of those that this session may register (ds=)",
            Self::NotMemory => "the dataspace is not known to be memory, and not trusted",
            Self::NotRegistered => "no such region is registered",
            Self::Busy => "a region is still being mapped",
            Self::BadMapping => "the mapping is not what was claimed",
            Self::Outdated => "what is registered has changed meanwhile",
        })
    }
}

impl core::error::Error for RegistryError {}
