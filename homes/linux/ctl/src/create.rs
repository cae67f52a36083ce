//! `nvme-ctl create`.

use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nvme_linux::socket::{Kind, ListenSpec};
use nvme_linux::standard::complain;
use rustix::event::{PollFd, PollFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::failure::Failure;
use crate::server::{self, Place};
use crate::spelling;

/// Mints a session that takes clients at `listen`, and holds it until a signal comes or the server ends it.
pub(crate) fn create(place: &Place, words: &[String], listen: &str) -> Result<(), Failure> {
    if let Some(text) = words.iter().find_map(|word| spelling::joined(word)) {
        return Err(Failure::wrong(text));
    }
    let spec = ListenSpec::parse(listen).map_err(|error| format!("--listen {listen}: {error}"))?;
    // Before anything is held: a signal that comes from now on is seen.
    let signals = signals().map_err(|error| format!("signals: {error}"))?;
    let mut factory = server::factory(place)?;
    let socket = spec.listen(Kind::Stream).map_err(|error| format!("--listen {listen}: {error}"))?;
    let minted = factory.create(words, Some(socket.as_fd()));
    // The server has it, or nobody has.
    drop(socket);
    let held = minted.map_err(|refusal| Failure::refused(&words.join(" "), &refusal)).and_then(|session| {
        complain(format_args!("nvme-ctl: clients of {} connect to {}", words.join(" "), spec.path.display()));
        tell_manager();
        hold(&session, &signals, "the session")
    });
    // The name leads nowhere once the session is over.
    let _ = std::fs::remove_file(&spec.path);
    held
}

/// Tells the service manager, if there is one, that clients may come (sd_notify(3)).
pub(crate) fn tell_manager() {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let tell = || -> std::io::Result<usize> {
        let socket = UnixDatagram::unbound()?;
        match place.as_bytes().strip_prefix(b"@") {
            Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => socket.connect(&place)?,
        }
        socket.send(b"READY=1")
    };
    if let Err(error) = tell() {
        complain(format_args!("nvme-ctl: NOTIFY_SOCKET={}: {error}", place.display()));
    }
}

/// A socket that becomes readable with the first signal.
pub(crate) fn signals() -> std::io::Result<OwnedFd> {
    let (read, write) = std::os::unix::net::UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(read.into())
}

/// Holds what was minted until a signal comes or the server ends it.
pub(crate) fn hold(minted: &OwnedFd, signals: &OwnedFd, what: &str) -> Result<(), Failure> {
    loop {
        let mut fds = [PollFd::new(minted, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(format!("poll: {errno}").into()),
            Ok(_) => (),
        }
        let [over, signals] = fds.map(|fd| !fd.revents().is_empty());
        if signals {
            return Ok(());
        }
        if over {
            return Err(format!("the server ended {what}; its log says why").into());
        }
    }
}
