//! The command line: the options that every home has, and those of which a home takes what it needs.
//!
//! The arguments go by once, from left to right. Options may stand anywhere, but those of a client or of a factory (`--device`,
//! `--ds-max`, `--readonly`, …) belong to the `--client` or the `--factory` before them. A long option takes its value as the next argument or behind a `=`; a value that
//! starts with `-` only behind a `=`. `-v` and `-q` may be bundled (`-vvv`), and `-d` may end a bundle (`-vdCAP`). `--` ends the options. Nothing
//! is abbreviated, and nothing else is accepted: an argument that is not known ends the parse with an [`OptionError`].
//!
//! * `option`: which options there are, and what they are for.
//! * `parser`: [`CommandLine::parse`]. `scope`: the options of one client or one factory.
//! * `backend`: the options of QEMU's back-end programs.
//! * `error`: [`OptionError`], which names the option, its value and what to do.

mod backend;
mod error;
mod option;
mod parser;
mod scope;
#[cfg(test)]
mod tests;

pub use backend::{Backend, BackendSocket};
pub use error::{OptionError, Problem};
pub use option::{Described, Topic};

use crate::device::DeviceName;
use crate::words::{FactoryRequest, Policy, Terms};

/// How many `--client` are accepted.
pub const CLIENTS_MAX: usize = 64;
/// How many `--factory` are accepted: there can be no more factories in all.
pub const FACTORIES_MAX: usize = 64;
/// How many devices all `--factory` together may name.
pub const FACTORY_DEVICES_MAX: usize = 256;
/// How many `--register-ds` are accepted, and how many names `--ds` may say.
pub const TRUSTED_MAX: usize = 64;
/// How many `--cap` are accepted: those of all clients, factories and dataspaces, and as many again for controllers.
pub const CAPS_MAX: usize = 256;
/// The length of a capability's name in bytes, at most (that of systemd's `LISTEN_FDNAMES`).
pub const CAP_NAME_MAX: usize = 255;
/// The longest time to poll for, in microseconds: one second.
pub const POLL_US_MAX: u64 = 1_000_000;
/// How many workers are accepted.
pub const WORKERS_MAX: u64 = 256;
/// How many sessions are accepted.
pub const SESSIONS_MAX: u64 = 65_535;

/// What a home has besides the common options. It says so itself; nothing here depends on which home it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dialect {
    /// Of the options that not every home has, those that it takes: their long names, without hyphens.
    pub options: &'static [&'static str],
    /// Names of capabilities that are the program's own there, besides `vbus` and `svr`.
    pub reserved: &'static [&'static str],
}

impl Dialect {
    /// The common options, and nothing else.
    pub const COMMON: Self = Self { options: &[], reserved: &[] };
}

/// How much to say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Verbosity {
    /// Nothing at all.
    Quiet,
    /// Errors and warnings.
    #[default]
    Normal,
    /// What happens, too.
    Info,
    /// What is of use to developers.
    Debug,
    /// Everything.
    Trace,
}

impl Verbosity {
    fn more(self) -> Self {
        match self {
            Self::Quiet | Self::Normal => Self::Info,
            Self::Info => Self::Debug,
            Self::Debug | Self::Trace => Self::Trace,
        }
    }
}

/// What to print instead of serving.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// `--help`
    Help,
    /// `--version`
    Version,
    /// `--print-capabilities`
    Capabilities,
}

/// What the command line says. Capabilities are names, not yet looked up.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CommandLine<'a> {
    /// Something to print instead of serving. The arguments behind it were not read, and an open scope may be missing.
    pub ask: Option<Ask>,
    /// How much to say.
    pub verbosity: Verbosity,
    /// The static clients, in order; each name once.
    pub clients: heapless::Vec<StaticClient<'a>, CLIENTS_MAX>,
    /// What the factories hold, one after the other.
    factory_devices: heapless::Vec<DeviceName, FACTORY_DEVICES_MAX>,
    factories: heapless::Vec<StaticFactory<'a>, FACTORIES_MAX>,
    /// The names of the trusted dataspaces; each once. With at least one, no other memory may be registered.
    pub trusted: heapless::Vec<&'a str, TRUSTED_MAX>,
    /// Do not use SGLs.
    pub nosgl: bool,
    /// Do not use MSI.
    pub nomsi: bool,
    /// Do not use MSI-X.
    pub nomsix: bool,
    /// What not every home has.
    pub extra: ExtraOptions<'a>,
}

/// A client that is configured from the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaticClient<'a> {
    /// The name of the capability that it is served on.
    pub cap: &'a str,
    /// What it may do.
    pub policy: Policy,
}

/// A factory that is made at the start.
#[derive(Clone, PartialEq, Eq, Debug)]
struct StaticFactory<'a> {
    cap: &'a str,
    /// How many of the devices are its.
    devices: usize,
    terms: Terms,
}

impl<'a> CommandLine<'a> {
    /// The factories that are to be made at the start, in order: the name of the capability that each is served on (each once), and what
    /// it is to hold.
    pub fn factories(&self) -> impl Iterator<Item = (&'a str, FactoryRequest)> {
        self.factories.iter().scan(self.factory_devices.as_slice(), |devices, factory| {
            let (own, rest) = devices.split_at_checked(factory.devices)?;
            *devices = rest;
            Some((factory.cap, FactoryRequest::of(own, factory.terms.clone())))
        })
    }
}

/// The options of which a home takes what its [`Dialect`] says. What was not said is `None`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExtraOptions<'a> {
    /// The capabilities that the server opens itself; a name may repeat.
    pub caps: heapless::Vec<Cap<'a>, CAPS_MAX>,
    /// How long to poll after work, in microseconds; at most [`POLL_US_MAX`].
    pub poll_us: Option<u32>,
    /// How many workers; 1 to [`WORKERS_MAX`].
    pub workers: Option<u16>,
    /// The memory that one session may register, in bytes; at least 1.
    pub mem_max: Option<u64>,
    /// How many sessions there may be; 1 to [`SESSIONS_MAX`].
    pub sessions_max: Option<u16>,
    /// One disk for one client. There is no static client, no factory and no capability `vbus` or `svr` then.
    pub backend: Option<Backend<'a>>,
}

/// A capability that the server opens itself: `--cap NAME=SPEC`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cap<'a> {
    /// Its name.
    pub name: &'a str,
    /// How to open it; not empty, otherwise unchecked.
    pub spec: &'a str,
}
