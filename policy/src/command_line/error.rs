//! What is wrong with a command line.

use core::fmt;

use super::Dialect;
use super::option::Name;
use crate::shown::Shown;
use crate::words::Why;

/// Why the program does not start. Prints as one line that names the option and its value, and says what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OptionError {
    /// Which option it was, with its hyphens; empty if it is not known.
    pub option: &'static str,
    /// Its value, or the argument that is not known.
    pub value: Option<Shown>,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// There is no such option.
    Unknown,
    /// There is no such option, but this one, if `--` stands before it.
    Meant(&'static str),
    /// The argument is not UTF-8.
    NotText,
    /// The option takes no value.
    IsFlag,
    /// The value is missing.
    NoValue,
    /// The value is empty.
    Empty,
    /// What follows looks like another option.
    LooksLikeOption,
    /// It belongs to a `--client` or a `--factory`, and none came before it.
    NoClient,
    /// It belongs to a `--factory`, and none came before it.
    NoFactory,
    /// It was said before.
    Repeated,
    /// It is of no use without another option.
    Needs(&'static str),
    /// It rules out another option that was said.
    Beside(&'static str),
    /// The value is no name of a capability.
    CapName,
    /// The name is that of another of the program's capabilities.
    Reserved,
    /// Two of a client, a factory and a trusted dataspace have the same name.
    TwoUses,
    /// A dataspace is not among the trusted ones.
    NotTrusted,
    /// The value is not `NAME=SPEC`.
    CapForm,
    /// There are more than that many.
    TooMany(usize),
    /// The devices of all factories are more than that many.
    TooManyDevices(usize),
    /// The value is no decimal number from `least` to `most`.
    Number {
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// The value is no size.
    Size,
    /// What the client, or the factory, asks for is refused.
    Client(Why),
}

impl Problem {
    /// An unknown long option, given without its hyphens.
    pub(super) fn unknown(name: &str, dialect: &Dialect) -> Self {
        match Name::meant(name, dialect) {
            Some(meant) => Self::Meant(meant.as_str()),
            None => Self::Unknown,
        }
    }
}

impl OptionError {
    pub(super) fn of(option: &'static str, problem: Problem) -> Self {
        Self { option, value: None, problem }
    }

    pub(super) fn at(option: &'static str, value: &[u8], problem: Problem) -> Self {
        Self { option, value: Some(Shown::new(value)), problem }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no such option"),
            Self::Meant(option) => write!(f, "no such option; did you mean {option}?"),
            Self::NotText => f.write_str("not UTF-8"),
            Self::IsFlag => f.write_str("takes no value"),
            Self::NoValue => f.write_str("needs a value"),
            Self::Empty => f.write_str("needs a value that is not empty"),
            Self::LooksLikeOption => f.write_str(
                "needs a value, and this looks like an option; write it behind a = if it is the value",
            ),
            Self::NoClient => {
                f.write_str("belongs to a client or a factory; put --client CAP or --factory CAP before it")
            }
            Self::NoFactory => f.write_str("belongs to a factory; put --factory CAP before it"),
            Self::Repeated => f.write_str("said twice; say it once"),
            Self::Needs(other) => write!(f, "needs {other} beside it"),
            Self::Beside(other) => write!(f, "cannot stand beside {other}"),
            Self::CapName => {
                f.write_str("no name of a capability; it is printable ASCII without spaces, = and :")
            }
            Self::Reserved => f.write_str("the name of another capability of this program; choose another"),
            Self::TwoUses => f.write_str(
                "named twice, as a client, a factory or a trusted dataspace; it can be one of them",
            ),
            Self::NotTrusted => {
                f.write_str("no trusted dataspace has that name; name it with --register-ds, too")
            }
            Self::CapForm => f.write_str("not NAME=SPEC"),
            Self::TooMany(most) => write!(f, "too many; there may be {most}"),
            Self::TooManyDevices(most) => {
                write!(f, "too many devices; all factories together may name {most}")
            }
            Self::Number { least, most } => write!(f, "not a decimal number from {least} to {most}"),
            Self::Size => f.write_str("no size; write bytes, or a number with K, M, G or T behind it"),
            Self::Client(Why::NoDevice) => f.write_str("no device is named; add --device DEV behind it"),
            Self::Client(why) => write!(f, "{why}"),
        }
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.value, self.option) {
            (Some(value), "") => write!(f, "{value}: {}", self.problem),
            (Some(value), option) => write!(f, "{option} {value}: {}", self.problem),
            (None, option) => write!(f, "{option}: {}", self.problem),
        }
    }
}

impl core::error::Error for OptionError {}
