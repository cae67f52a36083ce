//! From arguments to a [`CommandLine`].

use core::cell::Cell;

use super::backend::{self, BackendSocket, FD_LEAST};
use super::error::{OptionError, Problem};
use super::option::Name;
use super::{
    Ask, CAP_NAME_MAX, CAPS_MAX, CLIENTS_MAX, Cap, CommandLine, Dialect, ExtraOptions, POLL_US_MAX,
    SESSIONS_MAX, StaticClient, TRUSTED_MAX, Verbosity, WORKERS_MAX,
};
use crate::ceiling::Ceiling;
use crate::number::{decimal_within, size};
use crate::words::Draft;

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
        let mut parser =
            Parser { line: Self::default(), scope: None, backend: backend::Draft::default(), dialect };
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
            if parser.line.ask.is_some() {
                return Ok(parser.line);
            }
        }
        if let Some(arg) = args.next() {
            return Err(OptionError::at("", arg, Problem::Unknown));
        }
        parser.close_scope()?;
        let mut line = parser.line;
        line.extra.backend = parser.backend.finish(&line)?;
        Ok(line)
    }
}

struct Parser<'a> {
    line: CommandLine<'a>,
    /// The client whose options may come, and what it got so far.
    scope: Option<(&'a str, Draft)>,
    backend: backend::Draft<'a>,
    dialect: Dialect,
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
        let unknown = || OptionError::at("", arg.as_bytes(), Problem::unknown(name, &self.dialect));
        let name = Name::of(name, &self.dialect).ok_or_else(unknown)?;
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
            let Some((name, option)) = Name::of_letter(letter, &self.dialect) else {
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
        let line = &mut self.line;
        match name {
            Name::Verbose => line.verbosity = line.verbosity.more(),
            Name::Quiet => line.verbosity = Verbosity::Quiet,
            Name::Nosgl => line.nosgl = true,
            Name::Nomsi => line.nomsi = true,
            Name::Nomsix => line.nomsix = true,
            Name::Help => line.ask = Some(Ask::Help),
            Name::Version => line.ask = Some(Ask::Version),
            Name::ReadOnly if self.scope.is_some() => {
                return Err(meant(name, Name::Readonly));
            }
            Name::ReadOnly => {
                self.backend.read_only().map_err(|why| OptionError::of(name.as_str(), why))?;
            }
            Name::Readonly if self.backend.blk_file.is_some() && self.scope.is_none() => {
                return Err(meant(name, Name::ReadOnly));
            }
            Name::Readonly => {
                let read_only = self.draft(name)?.read_only();
                read_only.map_err(|why| OptionError::of(name.as_str(), Problem::Client(why)))?;
            }
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
            Name::Client => self.open_scope(value)?,
            Name::Device => self.draft(name)?.device(value).map_err(|why| wrong(Problem::Client(why)))?,
            Name::DsMax => self.draft(name)?.ds_max(value).map_err(|why| wrong(Problem::Client(why)))?,
            Name::RegisterDs => self.trust(value).map_err(wrong)?,
            Name::Cap => self.line.extra.cap(value).map_err(wrong)?,
            Name::PollUs => number(&mut self.line.extra.poll_us, value, 0, POLL_US_MAX).map_err(wrong)?,
            Name::Workers => number(&mut self.line.extra.workers, value, 1, WORKERS_MAX).map_err(wrong)?,
            Name::SessionsMax => {
                number(&mut self.line.extra.sessions_max, value, 1, SESSIONS_MAX).map_err(wrong)?;
            }
            Name::MemMax => {
                let bytes = size(value).ok_or_else(|| wrong(Problem::Size))?;
                once(&mut self.line.extra.mem_max, bytes).map_err(wrong)?;
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

    /// The open scope, for an option that needs one.
    fn draft(&mut self, option: Name) -> Result<&mut Draft, OptionError> {
        match &mut self.scope {
            Some((_, draft)) => Ok(draft),
            None => Err(OptionError::of(option.as_str(), Problem::NoClient)),
        }
    }

    /// Ends the scope before it, and starts another.
    fn open_scope(&mut self, cap: &'a str) -> Result<(), OptionError> {
        self.close_scope()?;
        self.client_name(cap)
            .map_err(|problem| OptionError::at(Name::Client.as_str(), cap.as_bytes(), problem))?;
        self.scope = Some((cap, Draft::default()));
        Ok(())
    }

    fn client_name(&self, cap: &str) -> Result<(), Problem> {
        cap_name(cap)?;
        if matches!(cap, "vbus" | "svr") || self.dialect.reserved.contains(&cap) {
            return Err(Problem::Reserved);
        }
        if self.line.clients.iter().any(|client| client.cap == cap) {
            return Err(Problem::Repeated);
        }
        if self.line.trusted.contains(&cap) {
            return Err(Problem::TwoUses);
        }
        Ok(())
    }

    /// Ends the open scope, if there is one: by now the client must have a device.
    fn close_scope(&mut self) -> Result<(), OptionError> {
        let Some((cap, draft)) = self.scope.take() else {
            return Ok(());
        };
        let wrong = |problem| OptionError::at(Name::Client.as_str(), cap.as_bytes(), problem);
        let admitted =
            draft.session().and_then(|asked| Ceiling::SERVER.admit(&asked).map_err(|refused| refused.why));
        let policy = admitted.map_err(|why| wrong(Problem::Client(why)))?;
        let client = StaticClient { cap, policy };
        self.line.clients.push(client).map_err(|_full| wrong(Problem::TooMany(CLIENTS_MAX)))
    }

    /// Names a trusted dataspace; once or more often is the same.
    fn trust(&mut self, cap: &'a str) -> Result<(), Problem> {
        cap_name(cap)?;
        let open = self.scope.as_ref().map(|(client, _)| *client);
        if self.line.clients.iter().map(|client| client.cap).chain(open).any(|client| client == cap) {
            return Err(Problem::TwoUses);
        }
        if self.line.trusted.contains(&cap) {
            return Ok(());
        }
        self.line.trusted.push(cap).map_err(|_full| Problem::TooMany(TRUSTED_MAX))
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

/// A capability's name: printable ASCII, without what separates it from others (`=` in `--cap`, `:` in `LISTEN_FDNAMES`).
fn cap_name(name: &str) -> Result<(), Problem> {
    let fit = name.bytes().all(|b| b.is_ascii_graphic() && b != b'=' && b != b':');
    if fit && !name.is_empty() && name.len() <= CAP_NAME_MAX { Ok(()) } else { Err(Problem::CapName) }
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
