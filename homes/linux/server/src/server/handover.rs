//! The next server takes over from this one.
//!
//! Whoever connects to the capability `upgrade` and is of this server's user, or root, gets first what the server was started with, and
//! builds on it while this one serves. When it asks for the rest, everything here stands still: rings are stopped with what is in flight,
//! nothing is read from anybody, nobody is let in. Then it gets all of it. Up to the last word this server can go on as if nothing had been,
//! and does, whatever goes wrong. It opens nothing for this and starts nothing: it passes what it has.
//!
//! * `began`: what this server was started with, as the next one gets it.
//! * `still`: everything stands still.
//! * `state`: all that this server has, as a document.
//! * `give`: the next one gets it, and takes over; or this one goes on.

mod began;
mod give;
mod state;
mod still;

use std::cell::Cell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use nvme_linux::dispose::dispose;
use nvme_linux::events::Interest;
use nvme_linux::logger::REFUSAL;
use nvme_linux::socket::{self, Peer};
use nvme_platform::Time;
use rustix::net::{RecvFlags, recv};

use super::{Server, Watched};
use crate::devices::Over;
use crate::fatal::Fatal;
use crate::upgrade::{Broken, Link, greeting};

/// How long the next server may take until it has built on what this one was started with.
const PREPARES: Duration = Duration::from_secs(30);
/// How long a document may take on its way while others are served.
const LINK: Duration = Duration::from_millis(200);
/// How soon it is looked again whether all stands still, where nothing tells of it.
const LOOK: Duration = Duration::from_millis(1);

/// What the server was started with, as the next one has to be.
pub(crate) struct Began {
    /// Where the next one comes.
    pub(crate) listener: Option<OwnedFd>,
    /// The words of `--cap`, with the names.
    pub(crate) words: Vec<(String, String)>,
    /// The controllers, in their order, each with its word.
    pub(crate) controllers: Vec<(String, Over)>,
    /// The file of the audit trail.
    pub(crate) audit: Option<OwnedFd>,
    /// Whose process this is.
    pub(crate) user: u32,
    /// In which control group, where the kernel can say that.
    pub(crate) group: Option<socket::Group>,
}

/// How far the next server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// It has connected.
    Connected,
    /// It has what this one was started with.
    Prepares,
}

/// The next server.
pub(super) struct Successor {
    link: Link,
    peer: Option<Peer>,
    token: u64,
    until: Time,
    step: Step,
}

/// The next server, which has everything.
pub(super) struct Gone {
    pub(super) pid: i32,
    link: Link,
}

impl Gone {
    /// Whether it runs. Where it has died before the service manager knew of it, this server has failed: whoever is started next finds everything.
    pub(super) fn goes_on(&self) -> Result<(), Fatal> {
        if self.link.hung_up() {
            Err(std::io::Error::other("the next server died as it took over").into())
        } else {
            Ok(())
        }
    }
}

/// What has to do with another server.
pub(super) struct Upgrades {
    pub(super) began: Began,
    successor: Option<Successor>,
    /// Everything stands still.
    pub(super) frozen: bool,
    /// The next server may have begun with what this one has.
    given: Cell<bool>,
    /// Nothing is this server's yet: what happens is not written down.
    pub(super) taking: bool,
    /// Who has it all by now.
    pub(super) gone: Option<Gone>,
    /// Where the server before says that the service manager knows of this one, until it has; and the token.
    before: Option<(OwnedFd, u64)>,
    /// It died before it had.
    pub(super) unknown: bool,
}

/// Why this server goes on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stays {
    #[error("{0}")]
    Link(#[from] Broken),
    #[error("{0}")]
    Why(String),
    #[error("{0}")]
    Fatal(#[from] Fatal),
}

impl Upgrades {
    pub(super) fn new(began: Began) -> Self {
        Self {
            began,
            successor: None,
            frozen: false,
            given: Cell::new(false),
            taking: false,
            gone: None,
            before: None,
            unknown: false,
        }
    }

    /// Whether another server may take over, so that what it needs is kept.
    pub(super) fn keeps(&self) -> bool {
        self.began.listener.is_some()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.successor.as_ref().map(|successor| successor.until)
    }
}

impl Server {
    /// Somebody connects to `upgrade`.
    pub(super) fn accept_successor(&mut self, time: Time) -> Result<(), Fatal> {
        loop {
            let Some(listener) = &self.upgrades.began.listener else { return Ok(()) };
            let socket = match socket::accept(listener) {
                Ok(Some(socket)) => socket,
                Ok(None) => return Ok(()),
                Err(why) => {
                    self.pause_accepting("upgrade", why, time);
                    return Ok(());
                }
            };
            // One that has hung up, unseen so far, is in nobody's way: each look takes a message of it, or its end.
            while self.upgrades.successor.as_ref().is_some_and(|successor| successor.link.hung_up()) {
                self.serve_successor(time)?;
            }
            let peer = socket::peer(&socket);
            let who = shown(peer);
            // A service manager knows its service by that, and would not have another for it.
            let group = self.upgrades.began.group.as_ref().filter(|_| self.notifier.socket().is_some());
            let stranger = group.and_then(|group| group.has_peer(&socket)) == Some(false);
            let Ok(link) = Link::new(socket) else { continue };
            let own = self.upgrades.began.user;
            let refused = match peer {
                _ if self.upgrades.successor.is_some() => Some("another program is taking over already"),
                _ if self.stop => Some("the server is stopping"),
                _ if stranger => Some(
                    "a service is taken over by a program in its own control group only (systemctl reload)",
                ),
                Some(peer) if peer.uid == own || peer.uid == 0 => None,
                _ => Some("only the server's own user, or root, takes over"),
            };
            if let Some(why) = refused {
                log::warn!(target: REFUSAL, "upgrade{who}: refused: {why}");
                link.refuse(why);
                continue;
            }
            let token = self.next_token;
            if self.epoll.add(&link, token, Interest::Read).is_err() {
                continue;
            }
            self.token(Watched::Successor);
            let until = time + PREPARES;
            self.upgrades.successor = Some(Successor { link, peer, token, until, step: Step::Connected });
        }
    }

    /// The next server says something.
    pub(super) fn serve_successor(&mut self, time: Time) -> Result<(), Fatal> {
        let Some(successor) = &mut self.upgrades.successor else { return Ok(()) };
        let said = match successor.link.try_receive() {
            Ok(None) => return Ok(()),
            Ok(Some((said, files))) => {
                dispose(files);
                said
            }
            Err(why) => {
                self.leave_successor(&why.into());
                return Ok(());
            }
        };
        match successor.step {
            Step::Connected if said == greeting() => {
                successor.step = Step::Prepares;
                if let Err(why) = self.hand_capabilities(time) {
                    self.leave_successor(&why);
                }
            }
            Step::Prepares if said == "freeze" && self.stop => {
                self.leave_successor(&Stays::Why("the server is stopping".into()));
            }
            Step::Prepares if said == "freeze" => return self.hand_over(),
            Step::Connected if said.starts_with("take over\0") => {
                let version = nvme_handover::VERSION;
                let why = format!("this server hands over documents of version {version} only");
                self.leave_successor(&Stays::Why(why));
            }
            _ => self.leave_successor(&Broken::Turn(said).into()),
        }
        Ok(())
    }

    /// The next server took too long.
    pub(super) fn expire_successor(&mut self, time: Time) {
        if self.upgrades.successor.as_ref().is_some_and(|successor| time >= successor.until) {
            self.leave_successor(&Broken::Late.into());
        }
    }

    /// This server goes on.
    fn leave_successor(&mut self, why: &Stays) {
        let Some(successor) = self.upgrades.successor.take() else { return };
        let who = shown(successor.peer);
        log::warn!(target: REFUSAL, "upgrade{who}: {why}; this server goes on");
        let _ = self.epoll.remove(&successor.link);
        self.watched.remove(&successor.token);
        successor.link.refuse(&why.to_string());
    }

    /// Where something is kept, hears whether the server before, which has handed over, has told the service manager of this one.
    pub(super) fn await_main(&mut self, link: BorrowedFd<'_>) {
        if self.keep.is_none() {
            return;
        }
        let Ok(link) = rustix::io::fcntl_dupfd_cloexec(link, 0) else { return };
        let token = self.token(Watched::Predecessor);
        if self.epoll.add(&link, token, Interest::Read).is_ok() {
            self.upgrades.before = Some((link, token));
        } else {
            self.watched.remove(&token);
        }
    }

    /// Looks whether the service manager knows of this process. Where the server before has died and not told it, the manager ends this one, too, and
    /// starts another, which finds everything: so nothing may end here in an orderly way.
    pub(super) fn hear_predecessor(&mut self) {
        let Some((link, token)) = &self.upgrades.before else { return };
        // It stays where it is: somebody else waits for it as well.
        let mut said = [0; 8];
        match recv(link, &mut said, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            Ok((length, _)) if length > 0 => {}
            Ok(_) | Err(_) => self.upgrades.unknown = true,
        }
        let _ = self.epoll.remove(link);
        self.watched.remove(token);
        self.upgrades.before = None;
    }

    /// Goes on after everything stood still.
    pub(super) fn go_on(&mut self, time: Time) {
        let seats: Vec<u32> = self.seats.keys().copied().collect();
        for id in seats {
            self.lend(id, time, |seat, lent| seat.unpause(lent));
            self.serve_again(id, time);
            self.admit(id, time);
        }
        if self.control.scanned() {
            self.start_static(false, time);
            self.look_at_factories(false);
            self.retry_waiting(time);
        }
    }
}

pub(super) fn shown(peer: Option<Peer>) -> String {
    peer.map_or_else(String::new, |peer| format!(" ({peer})"))
}
