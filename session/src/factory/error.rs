//! Why a session is not minted.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use nvme_policy::{DeviceName, Errno, Refusal};

use super::catalogue::FactoryId;
use super::device::Protection;

/// Most candidates that a message lists.
const LISTED_MAX: usize = 8;

/// The refusal of a session. Prints as a message for the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CreateError {
    /// The device may be on a disk that is still being scanned. Ask again when a scan has ended.
    Scanning,
    /// There is no such device.
    NoDevice(Box<DeviceName>),
    /// The name matches several devices.
    Ambiguous {
        /// The name.
        name: Box<DeviceName>,
        /// What it matches, each by a name that matches nothing else: `SN:nNSID:PART`, or
        /// `pci:DDDD:BB:DD.F:nNSID:PART` where two controllers have that serial number.
        candidates: Vec<String>,
    },
    /// Somebody else uses the device, or a part of it, or has reserved it.
    InUse {
        /// The device.
        device: String,
        /// Whether it could be had read-only.
        readable: bool,
    },
    /// The device can only be read.
    ReadOnly {
        /// The device.
        device: String,
        /// Why.
        why: Protection,
        /// Whether a static client asks, whose words are the operator's options.
        fixed: bool,
    },
    /// There are as many sessions as are allowed.
    NoRoom {
        /// How many that is.
        allowed: usize,
    },
    /// The static client has not been reserved for.
    NotReserved,
    /// The words ask for what the factory does not give.
    Words(Box<Refusal>),
    /// The factory holds no device of that name. One and the same answer, whether there is one or not.
    NotHeld,
    /// As many as a factory above allows are there already.
    UsedUp {
        /// Sessions or factories.
        what: &'static str,
        /// Which factory allows no more.
        above: FactoryId,
        /// How many that is; `None` where another was asked than that one.
        allowed: Option<u64>,
    },
    /// Factories cannot stand that deep.
    TooDeep {
        /// How deep they may.
        allowed: usize,
    },
    /// There are as many factories as there may be.
    NoRoomForFactory {
        /// How many that is.
        allowed: usize,
    },
    /// The factory was taken back.
    FactoryEnded,
}

impl CreateError {
    /// The error number that goes with it.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Scanning => Errno::Again,
            Self::Words(refusal) => refusal.errno(),
            Self::NotHeld | Self::FactoryEnded => Errno::Access,
            Self::NoRoom { .. }
            | Self::UsedUp { .. }
            | Self::TooDeep { .. }
            | Self::NoRoomForFactory { .. } => Errno::NoMemory,
            Self::ReadOnly { why: Protection::Attribute | Protection::CoversTable, .. } => Errno::Access,
            Self::InUse { .. } => Errno::Busy,
            Self::NoDevice(_) => Errno::NoDevice,
            Self::Ambiguous { .. }
            | Self::ReadOnly { why: Protection::Namespace, .. }
            | Self::NotReserved => Errno::Invalid,
        }
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scanning => f.write_str("devices are still being scanned; try again"),
            Self::NoDevice(name) => write!(f, "no such device: {name}"),
            Self::Ambiguous { name, candidates } => {
                write!(f, "{name} names {} devices; say which: ", candidates.len())?;
                for (i, candidate) in candidates.iter().take(LISTED_MAX).enumerate() {
                    write!(f, "{}{candidate}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(if candidates.len() > LISTED_MAX { ", …" } else { "" })
            }
            Self::InUse { device, readable: true } => {
                write!(f, "{device} is in use; it can be had read-only")
            }
            Self::InUse { device, readable: false } => write!(f, "{device} is in use"),
            Self::ReadOnly { device, why, fixed } => {
                let why = match why {
                    Protection::Namespace => "is write-protected",
                    Protection::Attribute => "is marked read-only in its partition table",
                    Protection::CoversTable => "covers its disk's partition table",
                };
                write!(f, "{device} {why}; add {}", if *fixed { "--readonly" } else { "read-only" })
            }
            Self::NoRoom { allowed } => write!(f, "too many sessions ({allowed} at most)"),
            Self::NotReserved => f.write_str("no such static client"),
            Self::Words(refusal) => refusal.fmt(f),
            Self::NotHeld => f.write_str("device: not held by this factory"),
            Self::UsedUp { what, allowed: Some(allowed), .. } => {
                write!(f, "no more {what} through this factory ({allowed} at most)")
            }
            Self::UsedUp { what, allowed: None, .. } => {
                write!(f, "no more {what} through this factory: one above it allows no more")
            }
            Self::TooDeep { allowed } => write!(f, "factories stand {allowed} deep at most"),
            Self::NoRoomForFactory { allowed } => write!(f, "too many factories ({allowed} at most)"),
            Self::FactoryEnded => f.write_str("the factory was taken back"),
        }
    }
}

impl core::error::Error for CreateError {}
