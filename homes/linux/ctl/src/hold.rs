//! What is minted with a listening socket, and held until it is over: a session or a factory.
//!
//! Clients come to the socket, and not to the server: so when the server goes, the socket stays, with whoever connects to it meanwhile,
//! and the next server gets it with the same words.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nvme_linux::factory::{Client, Refusal};
use nvme_linux::socket::{Kind, ListenSpec};
use nvme_linux::standard::complain;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::failure::Failure;
use crate::manager;
use crate::server::{self, At, Place};

/// How long after the end of what it minted a server that ends is seen to be gone.
const GOING: Duration = Duration::from_secs(1);
/// How often a server is looked for that is gone.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the place of a server may be missing: whoever replaces a socket takes the old one away first.
const MISSING: Duration = Duration::from_secs(2);
/// How long a new one may take to have the device: it is read, and a write of the old one's may be under way still.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is held.
pub(crate) struct Held<'a> {
    pub(crate) place: &'a Place,
    pub(crate) spec: &'a ListenSpec,
    pub(crate) words: &'a [String],
    pub(crate) kind: Kind,
    /// What it is called.
    pub(crate) name: &'static str,
}

/// How it was over.
enum Over {
    /// A signal came.
    Told,
    /// Its server ended it, and goes on.
    Ended,
    /// Its server is gone.
    Gone,
}

impl Held<'_> {
    /// Mints it, and holds it until a signal comes or the server ends it. When the server goes, it is minted anew by the next.
    pub(crate) fn hold(
        &self,
        listen: &str,
        signals: &OwnedFd,
        mint: impl Fn(&mut Client, BorrowedFd<'_>) -> Result<OwnedFd, Refusal>,
    ) -> Result<(), Failure> {
        let mut factory = server::factory(self.place)?;
        let socket = self.spec.listen(self.kind).map_err(|error| format!("--listen {listen}: {error}"))?;
        let held = self.hold_at(&mut factory, socket.as_fd(), signals, mint);
        // The name leads nowhere once it is over.
        let _ = std::fs::remove_file(&self.spec.path);
        held
    }

    fn hold_at(
        &self,
        factory: &mut Client,
        socket: BorrowedFd<'_>,
        signals: &OwnedFd,
        mint: impl Fn(&mut Client, BorrowedFd<'_>) -> Result<OwnedFd, Refusal>,
    ) -> Result<(), Failure> {
        let refused = |refusal: &Refusal| Failure::refused(&self.words.join(" "), refusal);
        let mut minted = mint(factory, socket).map_err(|refusal| refused(&refusal))?;
        self.say("connect to");
        manager::tell_ready();
        loop {
            match over(&minted, factory, signals)? {
                Over::Told => return Ok(()),
                Over::Ended => return Err(format!("the server ended {}; its log says why", self.name).into()),
                Over::Gone => {}
            }
            let At::Path(path) = &self.place.at else {
                return Err(format!("the server ended {}, and is gone", self.name).into());
            };
            complain(format_args!("nvme-ctl: the server is gone; waiting for the next"));
            let (mut until, mut missing) = (None, None);
            // Signals are looked for meanwhile.
            let again = self.place.clone().waiting(Duration::ZERO);
            minted = loop {
                if let Ok(next) = server::factory(&again) {
                    *factory = next;
                    let patience = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
                    match mint(factory, socket) {
                        Ok(minted) => break minted,
                        Err(refusal) if is_passing(&refusal) && Instant::now() < patience => {}
                        // Gone again, before it had an answer.
                        Err(refusal) if is_gone(&refusal) => until = None,
                        Err(refusal) => return Err(refused(&refusal)),
                    }
                }
                // A server that is killed leaves its socket behind. One that was stopped takes it away, as whoever takes a factory back does.
                match (path.exists(), missing) {
                    (true, _) => missing = None,
                    (false, None) => missing = Some(Instant::now()),
                    (false, Some(since)) if since.elapsed() < MISSING => {}
                    (false, Some(_)) => {
                        let text = format!("the server ended {}, and {} is gone", self.name, path.display());
                        return Err(text.into());
                    }
                }
                if told(signals, LOOK_EVERY)? {
                    return Ok(());
                }
            };
            self.say("are served again at");
        }
    }

    fn say(&self, what: &str) {
        let (words, path) = (self.words.join(" "), self.spec.path.display());
        match self.kind {
            Kind::Stream => complain(format_args!("nvme-ctl: clients of {words} {what} {path}")),
            Kind::SeqPacket => {
                complain(format_args!("nvme-ctl: callers of a factory for {words} {what} {path}"))
            }
        }
    }
}

/// Whether a new server may answer otherwise soon: it reads the devices still, or has not yet what the last one had.
fn is_passing(refusal: &Refusal) -> bool {
    [Errno::AGAIN, Errno::BUSY, Errno::NODEV].contains(&Errno::from_raw_os_error(refusal.errno))
}

fn is_gone(refusal: &Refusal) -> bool {
    [Errno::CONNRESET, Errno::PIPE, Errno::NOTCONN].contains(&Errno::from_raw_os_error(refusal.errno))
}

/// Waits for the end of what was minted, or a signal.
fn over(minted: &OwnedFd, factory: &Client, signals: &OwnedFd) -> Result<Over, Failure> {
    let ready = |fds: &mut [PollFd<'_>], wait: Option<&Timespec>| loop {
        match poll(fds, wait) {
            Err(Errno::INTR) => {}
            other => return other.map(drop).map_err(|errno| Failure::from(format!("poll: {errno}"))),
        }
    };
    loop {
        let mut fds = [PollFd::new(minted, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        ready(&mut fds, None)?;
        let [over, signalled] = fds.map(|fd| !fd.revents().is_empty());
        if signalled {
            return Ok(Over::Told);
        }
        if over {
            break;
        }
    }
    // A server that is gone has hung up there too.
    let mut fds = [PollFd::from_borrowed_fd(factory.as_fd(), PollFlags::IN)];
    ready(&mut fds, Some(&Timespec { tv_sec: GOING.as_secs() as i64, tv_nsec: 0 }))?;
    let [factory] = fds.map(|fd| fd.revents().contains(PollFlags::HUP));
    Ok(if factory { Over::Gone } else { Over::Ended })
}

/// Whether a signal comes within that time.
fn told(signals: &OwnedFd, wait: Duration) -> Result<bool, Failure> {
    let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
    let mut fds = [PollFd::new(signals, PollFlags::IN)];
    match poll(&mut fds, Some(&wait)) {
        Err(Errno::INTR) | Ok(0) => Ok(false),
        Ok(_) => Ok(true),
        Err(errno) => Err(format!("poll: {errno}").into()),
    }
}
