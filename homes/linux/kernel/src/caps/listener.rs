//! Sockets among the capabilities: what listens already, and how to make what does not.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::kind::{listening_tcp, listening_unix, unix_stream};
use super::raw::{Passed, Raw, described, wrong};
use super::{CapError, Place, Spec, UnixOptions};
use crate::accounts;
use crate::socket::{Kind, ListenError, ListenSpec, listen_at};

const SCRAPED: &str = "a listening stream socket, AF_UNIX or TCP: unix:PATH or tcp:ADDR:PORT";
const PEER: &str = "an AF_UNIX SOCK_STREAM socket that listens or is connected";

/// A listening socket, or how to make one.
#[derive(Debug)]
pub struct Listener {
    /// The capability's name.
    pub name: String,
    /// The socket.
    pub kind: ListenerKind,
    /// Its type.
    pub socket: Kind,
}

impl Listener {
    /// Whether it is not a listening socket, but a client's connection.
    pub fn is_connected(&self) -> bool {
        matches!(self.kind, ListenerKind::Connected(_))
    }

    /// Where clients find it: a path, if it is this server that makes it.
    pub fn path(&self) -> Option<&Path> {
        match &self.kind {
            ListenerKind::Make(spec) => Some(&spec.path),
            ListenerKind::Open(_) | ListenerKind::Tcp(_) | ListenerKind::Connected(_) => None,
        }
    }

    /// The socket, non-blocking; makes it where it is not there yet.
    pub fn open(self) -> Result<OwnedFd, ListenError> {
        match self.kind {
            ListenerKind::Open(fd) | ListenerKind::Connected(fd) => Ok(fd),
            ListenerKind::Make(spec) => spec.listen(self.socket),
            ListenerKind::Tcp(address) => listen_at(address),
        }
    }
}

/// Whether a socket is there already.
#[derive(Debug)]
pub enum ListenerKind {
    /// Inherited; it listens.
    Open(OwnedFd),
    /// To be made.
    Make(ListenSpec),
    /// To be made, at that address.
    Tcp(SocketAddr),
    /// Inherited; its client is connected already.
    Connected(OwnedFd),
}

pub(super) fn listener(
    name: &str,
    raw: Raw,
    types: &[Kind],
    wanted: &'static str,
) -> Result<Listener, CapError> {
    // Whoever made it may have left it blocking; the control role waits for nobody.
    let unblock = |fd: &OwnedFd| {
        rustix::io::ioctl_fionbio(fd, true)
            .map_err(|error| CapError::System { name: name.to_owned(), error: error.into() })
    };
    let listens = |fd: OwnedFd| {
        let socket = listening_unix(&fd, types).map_err(|found| wrong(name, found, wanted))?;
        unblock(&fd)?;
        Ok(Listener { name: name.to_owned(), kind: ListenerKind::Open(fd), socket })
    };
    match raw {
        Raw::Word(Spec::Peer(_), Some(Passed { fd, .. }), _) => {
            let listens = unix_stream(&fd).map_err(|found| wrong(name, found, PEER))?;
            unblock(&fd)?;
            let kind = if listens { ListenerKind::Open(fd) } else { ListenerKind::Connected(fd) };
            Ok(Listener { name: name.to_owned(), kind, socket: Kind::Stream })
        }
        Raw::Word(Spec::Peer(Place::Path(path)), None, _) => {
            let kind = ListenerKind::Make(listen_spec(name, path, &UnixOptions::default())?);
            Ok(Listener { name: name.to_owned(), kind, socket: Kind::Stream })
        }
        Raw::Open(Passed { fd, .. }, _) | Raw::Word(Spec::Unix { .. }, Some(Passed { fd, .. }), _) => {
            listens(fd)
        }
        Raw::Word(Spec::Unix { place: Place::Path(path), options }, None, _) => {
            let socket = types.first().copied().unwrap_or(Kind::Stream);
            let kind = ListenerKind::Make(listen_spec(name, path, &options)?);
            Ok(Listener { name: name.to_owned(), kind, socket })
        }
        Raw::Word(other, ..) => Err(wrong(name, described(&other), wanted)),
    }
}

/// The socket that metrics are had at. An inherited one may be TCP wherever it listens: whoever made it said so.
pub(super) fn scraped(raw: Raw) -> Result<Listener, CapError> {
    let name = "metrics".to_owned();
    match raw {
        Raw::Word(Spec::Tcp(address), None, _) => {
            Ok(Listener { name, kind: ListenerKind::Tcp(address), socket: Kind::Stream })
        }
        Raw::Open(Passed { fd, .. }, _) | Raw::Word(Spec::Tcp(_), Some(Passed { fd, .. }), _)
            if listening_tcp(&fd) =>
        {
            rustix::io::ioctl_fionbio(&fd, true)
                .map_err(|error| CapError::System { name: name.clone(), error: error.into() })?;
            Ok(Listener { name, kind: ListenerKind::Open(fd), socket: Kind::Stream })
        }
        other => listener(&name, other, &[Kind::Stream], SCRAPED),
    }
}

/// Looks up the owner's names: the user database is out of reach later.
fn listen_spec(name: &str, path: PathBuf, options: &UnixOptions) -> Result<ListenSpec, CapError> {
    let nobody =
        |kind, word: &str| CapError::NoAccount { name: name.to_owned(), kind, word: word.to_owned() };
    let user = match &options.user {
        Some(word) => Some(accounts::user(word).ok_or_else(|| nobody("user", word))?),
        None => None,
    };
    let group = match &options.group {
        Some(word) => Some(accounts::group(word).ok_or_else(|| nobody("group", word))?),
        None => None,
    };
    Ok(ListenSpec { path, mode: options.mode.unwrap_or(0o600), user, group })
}
