//! Telling the service manager (sd_notify(3)).
//!
//! The crate `sd-notify` makes a socket and connects it for every message, neither of which the sandbox allows. This
//! one connects once, before.
#![expect(unsafe_code, reason = "reads and changes the environment at start")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::keep::Manager;

/// A connection to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    feed: Option<Duration>,
}

impl Notifier {
    /// Connects to `NOTIFY_SOCKET`, and removes the variable, and those of the watchdog. Nothing happens later on when it is not
    /// set.
    ///
    /// # Safety
    /// There is no other thread.
    pub unsafe fn from_env() -> io::Result<Self> {
        let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
        let feed = feed(number("WATCHDOG_USEC"), number("WATCHDOG_PID"), std::process::id());
        let place = std::env::var_os("NOTIFY_SOCKET");
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            // SAFETY: there is no other thread (this function's contract).
            unsafe { std::env::remove_var(name) };
        }
        let Some(place) = place else { return Ok(Self::default()) };
        Ok(Self { feed, ..Self::connect(place.as_bytes())? })
    }

    /// `@` in front: an abstract name; else a path.
    fn connect(place: &[u8]) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        match place.strip_prefix(b"@") {
            Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => socket.connect(std::ffi::OsStr::from_bytes(place))?,
        }
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Some(socket), feed: None })
    }

    /// Over a socket that another process is done with, and that the manager hears this one by as well.
    pub fn over(socket: OwnedFd, feed: Option<Duration>) -> Self {
        Self { socket: Some(socket.into()), feed }
    }

    /// The socket.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// How often the manager's watchdog wants to be fed ([`alive`](Self::alive)), if it does.
    pub fn feed(&self) -> Option<Duration> {
        self.feed
    }

    /// The manager as one who may keep descriptors, if there is one.
    pub fn manager(&self) -> Option<Manager> {
        let socket = self.socket.as_ref()?.try_clone().ok()?;
        Some(Manager::new(socket.into()))
    }

    /// All goes round.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// The controllers are scanned, and clients are served.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// Another process is the service's main one from now on.
    pub fn main_pid(&self, pid: i32) {
        self.tell(&format!("MAINPID={pid}"));
    }

    /// The server drains.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// One line for `systemctl status`; control characters become spaces.
    pub fn status(&self, line: &str) {
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.tell(&format!("STATUS={line}"));
    }

    fn tell(&self, message: &str) {
        if let Some(socket) = &self.socket {
            // A manager that does not read is not waited for.
            let _ = socket.send(message.as_bytes());
        }
    }
}

/// How often a watchdog of so many microseconds is fed, if it is meant for this process: twice in its time, as sd_watchdog_enabled(3)
/// recommends.
fn feed(micros: Option<u64>, process: Option<u64>, own: u32) -> Option<Duration> {
    let ours = process.is_none_or(|process| process == u64::from(own));
    micros.filter(|micros| ours && *micros > 1).map(|micros| Duration::from_micros(micros / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_fed_twice_in_its_time_if_it_is_this_process_s() {
        assert_eq!(feed(Some(3_000_000), None, 7), Some(Duration::from_millis(1500)));
        assert_eq!(feed(Some(3_000_000), Some(7), 7), Some(Duration::from_millis(1500)));
        for (micros, process) in [(Some(3_000_000), Some(8)), (None, Some(7)), (Some(0), None), (None, None)]
        {
            assert_eq!(feed(micros, process, 7), None, "{micros:?} {process:?}");
        }
    }

    fn hear(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn the_manager_hears_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("nvme-notify-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (manager, place) in [
            (UnixDatagram::bind(&path).unwrap(), path.display().to_string()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}")),
        ] {
            let notifier = Notifier::connect(place.as_bytes()).unwrap();
            notifier.ready();
            notifier.status("two\nlines=1");
            notifier.alive();
            notifier.stopping();
            assert_eq!(hear(&manager), "READY=1");
            assert_eq!(hear(&manager), "STATUS=two lines=1");
            assert_eq!(hear(&manager), "WATCHDOG=1");
            assert_eq!(hear(&manager), "STOPPING=1");
        }
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        Notifier::default().ready();
        assert!(Notifier::connect(b"/no/such/socket").is_err());
    }
}
