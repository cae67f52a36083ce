//! Where the server is, and how to connect to it.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nvme_linux::factory::Client;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use crate::failure::Failure;

/// How soon a server that is starting is looked for again.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A socket of the server, and how long to wait until somebody listens there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: At,
    pub(crate) wait: Duration,
}

/// Where a socket of the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// To be connected to.
    Path(PathBuf),
    /// Inherited, and connected.
    Fd(i32),
}

/// The option's word, else the variable, else the place where the service has it.
pub(crate) fn find(name: &str, option: Option<&str>, variable: Option<OsString>) -> Place {
    let word = option.map(OsString::from).or(variable.filter(|value| !value.is_empty()));
    let word = word.unwrap_or_else(|| format!("/run/nvme-drv/{name}").into());
    let number =
        word.to_str().and_then(|word| word.strip_prefix("fd=")).and_then(|number| number.parse().ok());
    let at = number.map_or_else(|| At::Path(word.into()), At::Fd);
    Place { at, wait: Duration::ZERO }
}

impl Place {
    /// The same, with some time for a server that is starting.
    pub(crate) fn waiting(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }
}

/// Connects, as soon as there is a server, within the time that it has for that.
pub(crate) fn connect(place: &Place, kind: SocketType) -> Result<OwnedFd, Failure> {
    let until = Instant::now() + place.wait;
    loop {
        match connect_now(place, kind) {
            Err(failure) if failure.is_no_server() && Instant::now() < until => thread::sleep(LOOK_EVERY),
            other => return other,
        }
    }
}

fn connect_now(place: &Place, kind: SocketType) -> Result<OwnedFd, Failure> {
    let path = match &place.at {
        At::Fd(number) => return Ok(inherited(*number, kind)?),
        At::Path(path) => path,
    };
    let connected = || -> Result<OwnedFd, Errno> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        let address = SocketAddrUnix::new(path)?;
        rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
        Ok(socket)
    };
    let errno = match connected() {
        Ok(socket) => return Ok(socket),
        Err(errno) => errno,
    };
    let hint = match errno {
        Errno::NOENT => {
            "; is nvme-drv running? Give its socket by --svr or --ctl, or NVME_DRV_SVR or NVME_DRV_CTL"
        }
        Errno::CONNREFUSED => "; nobody listens there any more: start nvme-drv again",
        Errno::ACCESS => "; ask for the right to write to that socket, usually by its group",
        Errno::PROTOTYPE => "; that is another kind of socket: --svr is the factory, --ctl is introspection",
        _ => "",
    };
    let error = std::io::Error::from(errno);
    let text = format!("cannot connect to {}: {error}{hint}", path.display());
    Err(match errno {
        Errno::NOENT | Errno::CONNREFUSED => Failure::no_server(text),
        _ => text.into(),
    })
}

/// A copy of an inherited descriptor, as a value that owns it.
fn inherited(number: i32, wanted: SocketType) -> Result<OwnedFd, String> {
    let copy = || -> Result<(OwnedFd, SocketType), Errno> {
        let myself = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
        let socket = rustix::process::pidfd_getfd(&myself, number, PidfdGetfdFlags::empty())?;
        let kind = rustix::net::sockopt::socket_type(&socket)?;
        Ok((socket, kind))
    };
    match copy() {
        Ok((socket, kind)) if kind == wanted => Ok(socket),
        Ok(_) if wanted == SocketType::SEQPACKET => {
            Err(format!("fd={number} is not a connection to the factory (SOCK_SEQPACKET)"))
        }
        Ok(_) => Err(format!("fd={number} is not a connection for introspection (SOCK_STREAM)")),
        Err(errno) => Err(format!("fd={number} is no inherited socket: {errno}")),
    }
}

/// Connects to the factory.
pub(crate) fn factory(place: &Place) -> Result<Client, Failure> {
    Ok(Client::from_fd(connect(place, SocketType::SEQPACKET)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_comes_before_the_variable_and_that_before_the_service_s_place() {
        let variable = || Some(OsString::from("/v"));
        let found = |name, option, variable| find(name, option, variable).at;
        assert_eq!(found("svr", Some("/o"), variable()), At::Path("/o".into()));
        assert_eq!(found("svr", None, variable()), At::Path("/v".into()));
        assert_eq!(found("ctl", None, Some(OsString::new())), At::Path("/run/nvme-drv/ctl".into()));
        assert_eq!(found("svr", Some("fd=7"), None), At::Fd(7));
    }

    #[test]
    fn a_missing_server_is_an_error_that_says_what_to_do() {
        let place = |word| find("svr", Some(word), None);
        let error = connect(&place("/nonexistent/svr"), SocketType::STREAM).unwrap_err();
        assert!(error.text.contains("/nonexistent/svr") && error.text.contains("--svr"), "{error:?}");
        assert_eq!(error.status, 4);
        assert!(connect(&place("fd=987654"), SocketType::STREAM).is_err());
        // It is waited for as long as was said, and no longer.
        let begin = Instant::now();
        let waiting = place("/nonexistent/svr").waiting(Duration::from_millis(200));
        assert_eq!(connect(&waiting, SocketType::STREAM).unwrap_err().status, 4);
        assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
    }
}
