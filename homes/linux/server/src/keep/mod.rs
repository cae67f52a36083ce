//! What is kept in case that the server is killed, so that the next one takes each session up where it was.
//!
//! The service manager keeps, under names, one shelf ([`nvme_linux::keep`]) for each session, one for each
//! factory that a caller made, and one for the server. What changes is written
//! there by control, after the fact; the board says meanwhile that there is more than the document tells. So a session is found as it was,
//! or with a client that may have said something which nobody knows: that connection is closed.
//!
//! * `board`: memory that is kept. `keeper`: the thread that talks with the manager. `found`: what the server before left. `turns`: who
//!   says where whose turn it is.

mod board;
mod found;
mod keeper;
mod turns;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nvme_handover::{Crash, Document};
use nvme_linux::dispose::dispose;
use nvme_linux::events::{Doorbell, now};
use nvme_linux::keep::crash;
use nvme_linux::keep::{Manager, NotKept, Shelf, Stale};
use nvme_linux::logger::SERVER;
use nvme_platform::Window;
use nvme_session::factory::FactoryId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};

pub(crate) use self::board::{Board, State};
pub(crate) use self::found::{Found, Leavings};
pub(crate) use self::keeper::{Keeper, PATIENCE};
pub(crate) use self::turns::{Place, Turns};
use crate::upgrade::{Files, sealed};

/// How long the manager may take to say whether it keeps anything.
const ANSWERS: Duration = Duration::from_secs(1);
/// What all names begin with that descriptors are kept under.
pub(crate) const PREFIX: &str = "nvme-drv.";
/// Likewise those of factories.
const FACTORY: &str = "nvme-drv.factory.";

/// The name that the server's own are kept under.
fn server() -> String {
    format!("{PREFIX}server")
}

/// The name that a session is kept under.
pub(crate) fn session(number: u64) -> String {
    format!("{PREFIX}session.{number}")
}

/// The name that a factory is kept under.
pub(crate) fn factory(number: u64) -> String {
    format!("{FACTORY}{number}")
}

/// Where a session, or a factory, is kept.
pub(crate) struct Kept {
    pub(crate) shelf: Shelf,
    pub(crate) slot: u32,
    /// Its name.
    pub(crate) name: String,
}

impl Kept {
    /// Closes it. What lies on it is a client's.
    pub(crate) fn dispose(self) {
        dispose(self.shelf.into_ends());
    }
}

/// Whether the other end of a socket or a pipe is closed.
pub(crate) fn has_hung_up(end: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&end, PollFlags::empty())];
    let gone = PollFlags::HUP | PollFlags::ERR;
    poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().intersects(gone)
}

/// Why something is not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unkept {
    #[error("its document: {0}")]
    Document(#[from] nvme_handover::Unreadable),
    #[error("{0}")]
    System(#[from] Errno),
    #[error(transparent)]
    Manager(#[from] NotKept),
    #[error("there is no room for more that is kept")]
    NoRoom,
}

/// Puts a document with what it names on a shelf. What is returned is of the version before.
pub(crate) fn put<D: Document>(shelf: &mut Shelf, document: &D, files: &Files<'_>) -> Result<Stale, Unkept> {
    let document = sealed(&document.write()?)?;
    let all: Vec<BorrowedFd<'_>> = [document.as_fd()].into_iter().chain(files.each()).collect();
    Ok(shelf.put(&all)?)
}

/// One end of a pipe that hangs up when nothing can land any more.
pub(crate) struct Gate {
    /// The image's controller by its serial number; none: all images.
    pub(crate) serial: Option<String>,
    pub(crate) end: OwnedFd,
}

impl Gate {
    /// A gate, and the end that keeps it closed.
    pub(crate) fn new(serial: Option<String>) -> Result<(Self, OwnedFd), Errno> {
        let (end, other) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok((Self { serial, end }, other))
    }

    /// Whether it has hung up.
    pub(crate) fn is_open(&self) -> bool {
        has_hung_up(self.end.as_fd())
    }
}

/// All of it.
pub(crate) struct Keep {
    pub(crate) keeper: Keeper,
    pub(crate) board: Board,
    pub(crate) shelf: Shelf,
    /// This server's gates: the next one waits for them.
    pub(crate) own: Vec<Gate>,
    /// Those of servers before, which still hold up their images.
    pub(crate) before: Vec<Gate>,
    pub(crate) crashes: Vec<Crash>,
    /// In whose turns the server before crashed.
    pub(crate) crashed: Vec<u64>,
    /// Seats that may be other than their documents say.
    pub(crate) touched: BTreeSet<u32>,
    /// Factories that are other than their documents say.
    pub(crate) factories: BTreeSet<FactoryId>,
    /// The server's own document is not as it should be.
    pub(crate) stale: bool,
    /// Where control says whose turn it is.
    pub(crate) turn: Option<Place>,
    /// Held as long as the process has descriptors.
    _alive: OwnedFd,
}

/// What is needed to keep anything, before it is known what.
pub(crate) struct Beginning {
    manager: Manager,
    board: Board,
    shelf: Option<Shelf>,
    own: Vec<Gate>,
    before: Vec<Gate>,
    crashes: Vec<Crash>,
    crashed: Vec<u64>,
    alive: OwnedFd,
    /// Another server keeps everything until this one takes over.
    takes_over: bool,
}

impl Beginning {
    /// Begins, or goes on with what the server before left. `None`: the service manager keeps nothing.
    pub(crate) fn of(manager: Manager, found: Option<&mut Found>) -> Option<Self> {
        if found.is_none() && !manager.keeps(now() + ANSWERS).unwrap_or(false) {
            return None;
        }
        let begun = Self::new(manager, found);
        begun.inspect_err(|why| log::warn!(target: SERVER, "nothing is kept: {why}")).ok()
    }

    /// Begins as one that takes over from a server which keeps everything: the manager is not told anything until then.
    pub(crate) fn behind(manager: Manager) -> Result<Self, String> {
        Self::new(manager, None).map(|begun| Self { takes_over: true, ..begun })
    }

    fn new(manager: Manager, found: Option<&mut Found>) -> Result<Self, String> {
        let text = |why: &dyn core::fmt::Display| why.to_string();
        let (process, alive) = Gate::new(None).map_err(|why| text(&why))?;
        let (board, shelf, before, crashes) = match found.and_then(Found::take) {
            Some((board, shelf, gates, crashes)) => (board, Some(shelf), gates, crashes),
            None => (Board::new().map_err(|why| text(&why))?, None, Vec::new(), Vec::new()),
        };
        let before = before.into_iter().filter(|gate| !gate.is_open()).collect();
        Ok(Self {
            manager,
            board,
            shelf,
            own: vec![process],
            before,
            crashes,
            crashed: Vec::new(),
            alive,
            takes_over: false,
        })
    }

    /// A gate for an image that rings reach: the end that they hold.
    pub(crate) fn gate(&mut self, serial: &str) -> Result<OwnedFd, Errno> {
        let (gate, end) = Gate::new(Some(serial.to_owned()))?;
        self.own.push(gate);
        Ok(end)
    }

    /// Counts in whose turns the server before crashed, before anybody has one; and where threads say whose it is.
    pub(crate) fn turns(&mut self) -> Result<Turns, Errno> {
        self.crashed = self.board.crashed();
        crash::watch()?;
        Ok(Turns::of(&self.board))
    }

    /// Where the error of an image's write-back is kept.
    pub(crate) fn loss(&self, image: usize) -> Option<Window> {
        self.board.loss(image)
    }

    /// Starts the thread, before the sandbox is closed.
    pub(crate) fn start(self, bell: &Arc<Doorbell>) -> std::io::Result<Keep> {
        let Self { manager, board, shelf, own, before, crashes, crashed, alive, takes_over } = self;
        let turn = Turns::of(&board).control();
        if let Some(turn) = &turn {
            turn.take();
        }
        let mut keeper = Keeper::start(manager, bell)?;
        let shelf = match shelf {
            Some(shelf) => shelf,
            None => {
                let shelf = Shelf::new()?;
                if !takes_over {
                    keeper.keep(server(), copies(&shelf)?);
                }
                shelf
            }
        };
        Ok(Keep {
            keeper,
            board,
            shelf,
            own,
            before,
            crashes,
            crashed,
            touched: BTreeSet::new(),
            factories: BTreeSet::new(),
            stale: true,
            turn,
            _alive: alive,
        })
    }
}

/// Both ends of a shelf, for the manager.
pub(crate) fn copies(shelf: &Shelf) -> Result<[OwnedFd; 2], Errno> {
    let [one, other] = shelf.ends();
    Ok([fcntl_dupfd_cloexec(one, 0)?, fcntl_dupfd_cloexec(other, 0)?])
}

impl Keep {
    /// Whether an image is as it will stay: nothing of a server before can land there any more.
    pub(crate) fn is_quiet(&self, serial: &str) -> bool {
        !self.before.iter().any(|gate| gate.serial.as_deref().is_none_or(|known| known == serial))
    }

    /// Lets go of a session, or of a factory, for good.
    pub(crate) fn forget(&mut self, kept: &Kept) {
        self.board.give_back(kept.slot);
        self.keeper.let_go(kept.name.clone());
    }

    /// Lets go of what is the server's own, at its end.
    pub(crate) fn close(&self) {
        self.keeper.let_go(server());
        self.keeper.wait();
    }
}

impl Drop for Leavings {
    fn drop(&mut self) {
        dispose(self.ends.drain(..));
    }
}
