//! `nvme-ctl create`.

use std::os::fd::OwnedFd;

use nvme_linux::socket::{Kind, ListenSpec};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::failure::Failure;
use crate::hold::Held;
use crate::server::Place;
use crate::spelling;

/// Mints a session that takes clients at `listen`, and holds it until a signal comes or the server ends it.
pub(crate) fn create(place: &Place, words: &[String], listen: &str) -> Result<(), Failure> {
    if let Some(text) = words.iter().find_map(|word| spelling::joined(word)) {
        return Err(Failure::wrong(text));
    }
    let spec = ListenSpec::parse(listen).map_err(|error| format!("--listen {listen}: {error}"))?;
    // Before anything is held: a signal that comes from now on is seen.
    let signals = signals().map_err(|error| format!("signals: {error}"))?;
    let what = Held { place, spec: &spec, words, kind: Kind::Stream, name: "the session" };
    what.hold(listen, &signals, |factory, socket| factory.create(words, Some(socket)))
}

/// A socket that becomes readable with the first signal.
pub(crate) fn signals() -> std::io::Result<OwnedFd> {
    let (read, write) = std::os::unix::net::UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(read.into())
}
