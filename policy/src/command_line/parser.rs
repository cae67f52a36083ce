//! From arguments to a [`CommandLine`].

use core::cell::Cell;

use super::backend::{self, BackendSocket, FD_LEAST};
use super::error::{OptionError, Problem};
use super::option::Name;
use super::scope::{Of, Read, cap_name};
use super::{
    Ask, CAPS_MAX, Cap, CommandLine, Dialect, ExtraOptions, POLL_US_MAX, SESSIONS_MAX, Verbosity, WORKERS_MAX,
};
use crate::number::{decimal_within, size};

impl<'a> CommandLine<'a> {
    /// Reads the arguments, without the program's name.
    pub fn parse<A>(args: impl IntoIterator<Item = &'a A>, dialect: Dialect) -> Result<Self, OptionError>
    where
        A: AsRef<[u8]> + ?Sized + 'a,
    {
        let asked = Cell::new(false);
        let look =
            |arg: &&[u8]| asked.set(asked.get() || *arg == Name::PrintCapabilities.as_str().as_bytes());
        let mut args = args.into_iter().map(AsRef::as_ref).inspect(look);
        let line = Self::read(&mut args, dialect);
        // "Other options and arguments should be ignored" (QEMU's conventions), and be they wrong.
        args.for_each(drop);
        if asked.get() && Name::of("print-capabilities", &dialect).is_some() {
            return Ok(Self { ask: Some(Ask::Capabilities), ..Self::default() });
        }
        line
    }

    fn read(args: &mut impl Iterator<Item = &'a [u8]>, dialect: Dialect) -> Result<Self, OptionError> {
        let mut parser = Parser { read: Read::new(dialect), backend: backend::Draft::default() };
        while let Some(arg) = args.next() {
            let text = text_of("", arg)?;
            if text == "--" {
                // No options from here on; and there is nothing else.
                break;
            }
            if let Some(long) = text.strip_prefix("--").filter(|long| !long.is_empty()) {
                parser.long(text, long, args)?;
            } else if let Some(bundle) = text.strip_prefix('-').filter(|short| !short.starts_with('-')) {
                parser.short(text, bundle, args)?;
            } else {
                return Err(OptionError::at("", arg, Problem::Unknown));
            }
            if parser.read.line.ask.is_some() {
                return Ok(parser.read.line);
            }
        }
        if let Some(arg) = args.next() {
            return Err(OptionError::at("", arg, Problem::Unknown));
        }
        parser.read.close_scope()?;
        parser.read.place_dataspaces()?;
        let mut line = parser.read.line;
        line.extra.backend = parser.backend.finish(&line)?;
        Ok(line)
    }
}

struct Parser<'a> {
    read: Read<'a>,
    backend: backend::Draft<'a>,
}

impl<'a> Parser<'a> {
    fn long(
        &mut self,
        arg: &'a str,
        long: &'a str,
        rest: &mut impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), OptionError> {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        let unknown = || OptionError::at("", arg.as_bytes(), Problem::unknown(name, &self.read.dialect));
        let name = Name::of(name, &self.read.dialect).ok_or_else(unknown)?;
        if name.is_flag() {
            return match value {
                None => self.flag(name),
                Some(value) => Err(OptionError::at(name.as_str(), value.as_bytes(), Problem::IsFlag)),
            };
        }
        let value = match value {
            Some(value) => value,
            None => next_value(name.as_str(), rest)?,
        };
        self.valued(name, value)
    }

    fn short(
        &mut self,
        arg: &'a str,
        bundle: &'a str,
        rest: &mut impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), OptionError> {
        if bundle.is_empty() {
            return Err(OptionError::at("", arg.as_bytes(), Problem::Unknown));
        }
        for (at, letter) in bundle.char_indices() {
            let Some((name, option)) = Name::of_letter(letter, &self.read.dialect) else {
                return Err(OptionError::at("", arg.as_bytes(), Problem::Unknown));
            };
            if name.is_flag() {
                self.flag(name)?;
                continue;
            }
            let attached = bundle.get(at + letter.len_utf8()..).filter(|value| !value.is_empty());
            let value = match attached {
                Some(value) => value,
                None => next_value(option, rest)?,
            };
            return self.valued(name, value);
        }
        Ok(())
    }

    fn flag(&mut self, name: Name) -> Result<(), OptionError> {
        let line = &mut self.read.line;
        match name {
            Name::Verbose => line.verbosity = line.verbosity.more(),
            Name::Quiet => line.verbosity = Verbosity::Quiet,
            Name::Nosgl => line.nosgl = true,
            Name::Nomsi => line.nomsi = true,
            Name::Nomsix => line.nomsix = true,
            Name::Help => line.ask = Some(Ask::Help),
            Name::Version => line.ask = Some(Ask::Version),
            Name::ReadOnly if self.read.scope.is_some() => {
                return Err(meant(name, Name::Readonly));
            }
            Name::ReadOnly => {
                self.backend.read_only().map_err(|why| OptionError::of(name.as_str(), why))?;
            }
            Name::Readonly if self.backend.blk_file.is_some() && self.read.scope.is_none() => {
                return Err(meant(name, Name::ReadOnly));
            }
            Name::Readonly => self.read.scope_reads()?,
            other => return Err(OptionError::of(other.as_str(), Problem::NoValue)),
        }
        Ok(())
    }

    fn valued(&mut self, name: Name, value: &'a str) -> Result<(), OptionError> {
        let wrong = |problem| OptionError::at(name.as_str(), value.as_bytes(), problem);
        if value.is_empty() {
            return Err(OptionError::of(name.as_str(), Problem::Empty));
        }
        match name {
            Name::Client => self.read.open_scope(Of::Client, value)?,
            Name::Factory => self.read.open_scope(Of::Factory, value)?,
            Name::Device | Name::DsMax | Name::Ds | Name::Iops | Name::Bytes => {
                self.read.scoped(name, value)?
            }
            Name::Sessions | Name::Factories | Name::IopsAll | Name::BytesAll => {
                self.read.scoped(name, value)?
            }
            Name::RegisterDs => self.read.trust(value).map_err(wrong)?,
            Name::Cap => self.read.line.extra.cap(value).map_err(wrong)?,
            Name::PollUs => {
                number(&mut self.read.line.extra.poll_us, value, 0, POLL_US_MAX).map_err(wrong)?
            }
            Name::Workers => {
                number(&mut self.read.line.extra.workers, value, 1, WORKERS_MAX).map_err(wrong)?
            }
            Name::SessionsMax => {
                number(&mut self.read.line.extra.sessions_max, value, 1, SESSIONS_MAX).map_err(wrong)?;
            }
            Name::MemMax => {
                let bytes = size(value).ok_or_else(|| wrong(Problem::Size))?;
                once(&mut self.read.line.extra.mem_max, bytes).map_err(wrong)?;
            }
            Name::BlkFile => once(&mut self.backend.blk_file, value).map_err(wrong)?,
            Name::SocketPath => self.backend.socket(BackendSocket::Path(value)).map_err(wrong)?,
            Name::Fd => {
                let (least, most) = (FD_LEAST, i32::MAX.unsigned_abs().into());
                let fd = decimal_within(value, least, most).and_then(|n| n.try_into().ok());
                let fd = fd.ok_or_else(|| wrong(Problem::Number { least, most }))?;
                self.backend.socket(BackendSocket::Fd(fd)).map_err(wrong)?;
            }
            flag => return Err(OptionError::at(flag.as_str(), value.as_bytes(), Problem::IsFlag)),
        }
        Ok(())
    }
}

impl<'a> ExtraOptions<'a> {
    fn cap(&mut self, value: &'a str) -> Result<(), Problem> {
        let (name, spec) = value.split_once('=').ok_or(Problem::CapForm)?;
        cap_name(name)?;
        if spec.is_empty() {
            return Err(Problem::CapForm);
        }
        self.caps.push(Cap { name, spec }).map_err(|_full| Problem::TooMany(CAPS_MAX))
    }
}

/// An option that is not known in this place, but another is.
fn meant(said: Name, other: Name) -> OptionError {
    OptionError::at("", said.as_str().as_bytes(), Problem::Meant(other.as_str()))
}

fn number<N: TryFrom<u64>>(slot: &mut Option<N>, value: &str, least: u64, most: u64) -> Result<(), Problem> {
    let number = decimal_within(value, least, most).and_then(|n| n.try_into().ok());
    once(slot, number.ok_or(Problem::Number { least, most })?)
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Problem> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Problem::Repeated),
    }
}

/// The value of an option that came without one: the next argument, unless that looks like an option.
fn next_value<'a>(
    option: &'static str,
    rest: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<&'a str, OptionError> {
    let value = text_of(option, rest.next().ok_or(OptionError::of(option, Problem::NoValue))?)?;
    if value.starts_with('-') {
        return Err(OptionError::at(option, value.as_bytes(), Problem::LooksLikeOption));
    }
    Ok(value)
}

fn text_of<'a>(option: &'static str, arg: &'a [u8]) -> Result<&'a str, OptionError> {
    core::str::from_utf8(arg).map_err(|_| OptionError::at(option, arg, Problem::NotText))
}
