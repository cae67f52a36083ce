//! Why words are refused.

use core::fmt;

use crate::device::NoName;
use crate::errno::Errno;
use crate::shown::Shown;

/// Why words do not make a session or a factory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The word is not known.
    Unknown,
    /// The word is not known to a session's `create()`, but to a factory's.
    OfFactory,
    /// The word is not known, but looks like this one.
    Meant(&'static str),
    /// The word, or the value behind its `=`, is empty.
    Empty,
    /// The word is not UTF-8.
    NotText,
    /// The same was said before.
    Repeated,
    /// The device is not named, or by no name.
    Device(NoName),
    /// The number of dataspaces is none, or out of range.
    DsMax,
    /// No device was named.
    NoDevice,
    /// More devices than that.
    TooManyDevices(usize),
    /// Not a number of this range.
    Number {
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// Not a size.
    Size,
    /// Not a name that a listing can show.
    Tag,
    /// No trusted dataspace has that name.
    NoDataspace,
    /// The factory does not hold it, whether it exists or not.
    NotHeld,
    /// More than the factory holds, which is this much.
    MoreThan(u64),
    /// The factory can mint read-only sessions alone.
    FactoryReadOnly,
}

impl Why {
    /// The error number that goes with it.
    pub fn errno(self) -> Errno {
        match self {
            Self::NotHeld | Self::MoreThan(_) | Self::FactoryReadOnly => Errno::Access,
            _ => Errno::Invalid,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str(
                "unknown; the words are device=DEV, ds-max=N, read-only, ds=CAP, iops=N, bytes=SIZE and name=TEXT",
            ),
            Self::OfFactory => f.write_str("a word for a factory; the object of that create is \"factory\""),
            Self::Meant(word) => write!(f, "unknown; did you mean {word}?"),
            Self::Empty => f.write_str("empty; leave it out or give it a value"),
            Self::NotText => f.write_str("not UTF-8"),
            Self::Repeated => f.write_str("said twice; say it once"),
            Self::Device(why) => write!(f, "{why}"),
            Self::DsMax => f.write_str("not a decimal number from 1 to 256"),
            Self::NoDevice => f.write_str("no device is named; add device=DEV"),
            Self::TooManyDevices(most) => write!(f, "too many devices ({most} at most)"),
            Self::Number { least, most: u64::MAX } => write!(f, "not a decimal number from {least}"),
            Self::Number { least, most } => write!(f, "not a decimal number from {least} to {most}"),
            Self::Size => f.write_str("no size; write bytes, or a number with K, M, G or T behind it"),
            Self::Tag => f.write_str("no name to list it by; it has 1 to 36 printable ASCII characters"),
            Self::NoDataspace => f.write_str("no trusted dataspace has that name"),
            Self::NotHeld => f.write_str("not held by this factory"),
            Self::MoreThan(most) => write!(f, "more than this factory may give; it has {most}"),
            Self::FactoryReadOnly => f.write_str("this factory is read-only; add read-only"),
        }
    }
}

impl core::error::Error for Why {}

/// The refusal of words. Prints as a message for the client: the word, escaped and cut, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Which word it was; `None` if one is missing.
    pub word: Option<Shown>,
    /// What is wrong.
    pub why: Why,
}

impl Refusal {
    pub(crate) fn of(word: Shown, why: Why) -> Self {
        Self { word: Some(word), why }
    }

    pub(crate) fn missing(why: Why) -> Self {
        Self { word: None, why }
    }

    /// The error number that goes with it.
    pub fn errno(&self) -> Errno {
        self.why.errno()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.word {
            Some(word) => write!(f, "{word}: {}", self.why),
            None => write!(f, "{}", self.why),
        }
    }
}

impl core::error::Error for Refusal {}
