//! One disk for one client: the options that QEMU's documentation sets for back-end programs ("Backend program conventions" of
//! vhost-user, and "vhost-user-blk" there).

use super::error::{OptionError, Problem};
use super::option::Name;
use super::{CommandLine, ExtraOptions};

/// The option that the others need beside them.
const DISK: &str = "--blk-file";
/// The least descriptor that can be inherited by number: those below it are the standard ones.
pub(super) const FD_LEAST: u64 = 3;

/// One disk that is served to one client at a time. There are no other clients and no factory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend<'a> {
    /// The path of an image file or a block device; not empty.
    pub blk_file: &'a str,
    /// Where the client comes from.
    pub socket: BackendSocket<'a>,
    /// Nothing may be written.
    pub read_only: bool,
}

/// Where the client of a [`Backend`] comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendSocket<'a> {
    /// It connects there; not empty.
    Path(&'a str),
    /// An inherited descriptor, 3 or above: a socket that listens, or is connected already.
    Fd(i32),
}

/// What was said of it so far.
#[derive(Default)]
pub(super) struct Draft<'a> {
    pub(super) blk_file: Option<&'a str>,
    socket: Option<BackendSocket<'a>>,
    read_only: bool,
}

impl<'a> Draft<'a> {
    pub(super) fn socket(&mut self, socket: BackendSocket<'a>) -> Result<(), Problem> {
        use BackendSocket::{Fd, Path};
        match (self.socket.replace(socket), socket) {
            (None, _) => Ok(()),
            (Some(Path(_)), Path(_)) | (Some(Fd(_)), Fd(_)) => Err(Problem::Repeated),
            (Some(Path(_)), Fd(_)) => Err(Problem::Beside(Name::SocketPath.as_str())),
            (Some(Fd(_)), Path(_)) => Err(Problem::Beside(Name::Fd.as_str())),
        }
    }

    pub(super) fn read_only(&mut self) -> Result<(), Problem> {
        if core::mem::replace(&mut self.read_only, true) { Err(Problem::Repeated) } else { Ok(()) }
    }

    /// All of it, beside what else was said.
    pub(super) fn finish(self, line: &CommandLine<'a>) -> Result<Option<Backend<'a>>, OptionError> {
        let alone = match (&self.socket, self.read_only) {
            (Some(BackendSocket::Path(_)), _) => Some(Name::SocketPath),
            (Some(BackendSocket::Fd(_)), _) => Some(Name::Fd),
            (None, true) => Some(Name::ReadOnly),
            (None, false) => None,
        };
        let Some(blk_file) = self.blk_file else {
            return match alone {
                Some(name) => Err(OptionError::of(name.as_str(), Problem::Needs("--blk-file PATH"))),
                None => Ok(None),
            };
        };
        let Some(socket) = self.socket else {
            return Err(OptionError::of(DISK, Problem::Needs("--socket-path PATH or --fd N")));
        };
        if let Some(client) = line.clients.first() {
            let beside = Problem::Beside(DISK);
            return Err(OptionError::at(Name::Client.as_str(), client.cap.as_bytes(), beside));
        }
        if let Some(factory) = line.factories.first() {
            let beside = Problem::Beside(DISK);
            return Err(OptionError::at(Name::Factory.as_str(), factory.cap.as_bytes(), beside));
        }
        Self::beside(&line.extra)?;
        Ok(Some(Backend { blk_file, socket, read_only: self.read_only }))
    }

    /// There is one disk and one client.
    fn beside(extra: &ExtraOptions<'_>) -> Result<(), OptionError> {
        match extra.caps.iter().find(|cap| matches!(cap.name, "vbus" | "svr")) {
            Some(cap) => Err(OptionError::at(Name::Cap.as_str(), cap.name.as_bytes(), Problem::Beside(DISK))),
            None => Ok(()),
        }
    }
}
