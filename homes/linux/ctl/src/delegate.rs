//! `nvme-ctl delegate`: a factory that holds a part of what another one holds.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};

use nvme_linux::factory::Delegated;
use nvme_linux::socket::{Kind, ListenSpec};
use rustix::event::{PollFd, PollFlags};
use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::create::signals;
use crate::failure::Failure;
use crate::hold::Held;
use crate::run::substitute;
use crate::server::{self, Place};
use crate::spelling;

/// Makes a factory whose callers come to `listen`, and holds its lifetime until a signal comes or the server ends it.
pub(crate) fn listen(place: &Place, words: &[String], listen: &str) -> Result<(), Failure> {
    check(words)?;
    let spec = ListenSpec::parse(listen).map_err(|error| format!("--listen {listen}: {error}"))?;
    // Before anything is held: a signal that comes from now on is seen.
    let signals = signals().map_err(|error| format!("signals: {error}"))?;
    let what = Held { place, spec: &spec, words, kind: Kind::SeqPacket, name: "the factory" };
    what.hold(listen, &signals, |factory, socket| {
        factory.delegate(words, Some(socket)).map(|made| made.lifetime)
    })
}

/// Makes a factory for a command, which inherits its connection as `{factory}`. The lifetime stays here: when the command is over,
/// everything that came of the factory is taken back, whoever has copies of it.
pub(crate) fn run(place: &Place, words: &[String], command: &[String]) -> Result<(), Failure> {
    check(words)?;
    let signals = signals().map_err(|error| format!("signals: {error}"))?;
    let mut server = server::factory(place)?;
    let made = server.delegate(words, None);
    let Delegated { factory, lifetime } =
        made.map_err(|refusal| Failure::refused(&words.join(" "), &refusal))?;
    let factory = factory.ok_or_else(|| "the server sent no factory".to_owned())?;
    // The command has a factory, not the one that it came from.
    drop(server);
    rustix::io::fcntl_setfd(&factory, FdFlags::empty()).map_err(|errno| format!("factory: {errno}"))?;
    let named = [("factory", factory.as_raw_fd())];
    let line: Vec<String> = command.iter().map(|word| substitute(word, &named)).collect();
    let (program, arguments) = line.split_first().ok_or_else(|| "there is no command".to_owned())?;
    let spawned = Command::new(program).args(arguments).spawn();
    let child = spawned.map_err(|error| {
        let status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
        Failure { text: format!("{program}: {error}"), status }
    })?;
    drop(factory);
    let status = wait(child, &signals)?;
    drop(lifetime);
    match status {
        0 => Ok(()),
        status => Err(Failure { text: format!("{program} ended with status {status}"), status }),
    }
}

/// The command's end, as a shell has its status. A signal that comes here is passed on.
fn wait(mut child: Child, signals: &OwnedFd) -> Result<u8, Failure> {
    let pid = Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| format!("pidfd: {errno}"))?;
    loop {
        let mut fds = [PollFd::new(&ended, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(format!("poll: {errno}").into()),
            Ok(_) => (),
        }
        let [over, signalled] = fds.map(|fd| !fd.revents().is_empty());
        if over {
            break;
        }
        if signalled {
            let mut byte = [0; 16];
            let _ = rustix::io::read(signals, &mut byte);
            // It may have ended just now.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    let status = child.wait().map_err(|error| format!("wait: {error}"))?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn check(words: &[String]) -> Result<(), Failure> {
    match words.iter().find_map(|word| spelling::joined(word)) {
        Some(text) => Err(Failure::wrong(text)),
        None => Ok(()),
    }
}
