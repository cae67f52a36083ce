//! Error numbers that clients are answered with. They are the same in every home.

use core::fmt;

/// Why something is refused, as a number on the wire; there it is negative.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Errno {
    /// `ENOENT`: nothing goes by that name.
    NotFound = 2,
    /// `EIO`: it could not be done: what it depends on failed.
    Io = 5,
    /// `EAGAIN`: not yet; ask again.
    Again = 11,
    /// `ENOMEM`: no room, or more than is allowed.
    NoMemory = 12,
    /// `EACCES`: it is not allowed that way.
    Access = 13,
    /// `EBUSY`: somebody else, or an earlier request, is in the way.
    Busy = 16,
    /// `ENODEV`: there is no such device, or no more.
    NoDevice = 19,
    /// `EINVAL`: what was asked for is wrong.
    Invalid = 22,
}

impl Errno {
    /// The number, positive.
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// By the name that manuals have for it.
impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "ENOENT",
            Self::Io => "EIO",
            Self::Again => "EAGAIN",
            Self::NoMemory => "ENOMEM",
            Self::Access => "EACCES",
            Self::Busy => "EBUSY",
            Self::NoDevice => "ENODEV",
            Self::Invalid => "EINVAL",
        })
    }
}
