//! The next server takes over from this one.
//!
//! Whoever connects to the capability `upgrade` and is of this server's user, or root, gets first what the server was started with, and
//! builds on it while this one serves. When it asks for the rest, everything here stands still: rings are stopped with what is in flight,
//! nothing is read from anybody, nobody is let in. Then it gets all of it. Up to the last word this server can go on as if nothing had been,
//! and does, whatever goes wrong. It opens nothing for this and starts nothing: it passes what it has.

mod state;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use nvme_core::nvme;
use nvme_handover::{Capabilities, Capability, Function, Manager};
use nvme_linux::dispose::dispose;
use nvme_linux::events::{Epoll, Events, Interest, now};
use nvme_linux::logger::{REFUSAL, SERVER};
use nvme_linux::socket::{self, Peer};
use nvme_linux::vfio::{Descriptors, Held};
use nvme_platform::{Iova, Time};
use nvme_policy::Errno;
use rustix::net::{RecvFlags, recv};

use super::waiting::refused;
use super::{Server, Watched};
use crate::devices::Over;
use crate::fatal::Fatal;
use crate::keep::has_hung_up;
use crate::seat::{Phase, Seat, Source};
use crate::upgrade::{Broken, Files, Link, greeting};

/// How long the next server may take until it has built on what this one was started with.
const PREPARES: Duration = Duration::from_secs(30);
/// How long everything may stand still: what is in flight ends, and the next server takes it up. Longer by what the slowest hardware controller
/// may take for a reset.
const STANDS_STILL: Duration = Duration::from_secs(10);
/// Most of that.
const RESETS: Duration = Duration::from_secs(60);
/// How long what is in flight may take to end.
const DRAINS: Duration = Duration::from_secs(5);
/// How long a next server may take to end that does not take over.
const ENDS: Duration = Duration::from_secs(15);
/// Sessions wait for an image.
const HELD_UP: &str = "sessions wait until what a killed server began in their image has ended";
/// How long it is waited until nothing is under way at a controller's admin queue.
const SETTLES: Duration = Duration::from_millis(200);
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
            let Ok(link) = Link::new(socket) else { continue };
            let own = self.upgrades.began.user;
            let refused = match peer {
                _ if self.upgrades.successor.is_some() => Some("another program is taking over already"),
                _ if self.stop => Some("the server is stopping"),
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

    fn hand_capabilities(&self, time: Time) -> Result<(), Stays> {
        let Some(successor) = &self.upgrades.successor else { return Ok(()) };
        let who = shown(successor.peer);
        log::info!(target: SERVER, "upgrade{who}: it is told what this server was started with");
        let shared = self.functions().map(|(word, held)| match held.share() {
            Ok(shared) => Ok((word.to_owned(), shared)),
            Err(why) => Err(Stays::Why(format!("{word}: {why}"))),
        });
        let shared = shared.collect::<Result<Vec<_>, _>>()?;
        let mut files = Files::default();
        let capabilities = self.capabilities_with(&mut files);
        let feed = self.notifier.feed().map(|feed| u64::try_from(feed.as_nanos()).unwrap_or(u64::MAX));
        let keeps = self.keep.is_some();
        let socket = self.notifier.socket();
        let manager = socket.map(|socket| Manager { socket: files.add(socket), feed, keeps });
        let functions = shared.iter().map(|(word, shared)| function(word, shared, &mut files)).collect();
        let document = Capabilities { capabilities, functions, manager };
        Ok(successor.link.send_document(&document, &files, time + LINK)?)
    }

    /// The controllers that are hardware, with their words.
    pub(super) fn functions(&self) -> impl Iterator<Item = (&str, &Held)> {
        self.upgrades.began.controllers.iter().filter_map(|(word, over)| match over {
            Over::Hardware(held) => Some((word.as_str(), &**held)),
            Over::Memory(_) | Over::Image(_) => None,
        })
    }

    /// What this server was started with, but for hardware.
    pub(super) fn capabilities_with<'a>(&'a self, files: &mut Files<'a>) -> Vec<Capability> {
        let mut capabilities = Vec::new();
        for (word, over) in &self.upgrades.began.controllers {
            let Some(file) = over.file() else { continue };
            let word = self.upgrades.began.words.iter().find(|(_, known)| known == word);
            let word = word.map(|(_, word)| word.clone());
            capabilities.push(Capability { name: "vbus".into(), word, file: files.add(file) });
        }
        for (name, file) in self.by_name() {
            let word = self.upgrades.began.words.iter().find(|(known, _)| known == name);
            let word = word.map(|(_, word)| word.clone());
            capabilities.push(Capability { name: name.to_owned(), word, file: files.add(file) });
        }
        capabilities
    }

    /// All that the server has by a name but the controllers.
    fn by_name(&self) -> Vec<(&str, BorrowedFd<'_>)> {
        let own = [
            ("svr", &self.svr),
            ("ctl", &self.ctl),
            ("admin", &self.admin),
            ("metrics", &self.metrics),
            ("audit", &self.upgrades.began.audit),
            ("upgrade", &self.upgrades.began.listener),
        ];
        let own = own.into_iter().filter_map(|(name, file)| Some((name, file.as_ref()?.as_fd())));
        let clients = self.seats.values().filter_map(|seat| match &seat.source {
            Source::Listener(listener) => Some((seat.cap.as_deref()?, listener.as_fd())),
            Source::Connection => None,
        });
        let factories = self.posts.values();
        let factories =
            factories.filter_map(|post| Some((post.cap.as_deref()?, post.listener.as_ref()?.as_fd())));
        own.chain(clients).chain(factories).chain(self.trusted.files()).collect()
    }

    /// All stands still, and the next server gets it; or this one goes on.
    fn hand_over(&mut self) -> Result<(), Fatal> {
        let (start, Some(successor)) = (now(), self.upgrades.successor.take()) else { return Ok(()) };
        let who = shown(successor.peer);
        log::info!(target: SERVER, "upgrade{who}: it takes over; sessions stand still");
        self.upgrades.frozen = true;
        let handed = self
            .stand_still(start + DRAINS)
            .and_then(|()| self.settle_store(start + DRAINS))
            .and_then(|()| self.settle_functions(now() + SETTLES))
            .and_then(|()| self.give(&successor.link, start));
        match handed {
            Ok(()) => {
                let took = (now() - start).as_millis();
                log::info!(target: SERVER, "upgrade{who}: it has taken over after {took} ms; this server ends");
                if let Some(peer) = successor.peer {
                    self.notifier.main_pid(peer.pid);
                }
                // From here on the service manager listens to it.
                let _ = successor.link.send("main", &[], now() + LINK);
                let pid = successor.peer.map_or(0, |peer| peer.pid);
                self.upgrades.gone = Some(Gone { pid, link: successor.link });
                return Ok(());
            }
            Err(Stays::Fatal(fatal)) => return Err(fatal),
            Err(why) => {
                let ends = rustix::io::fcntl_dupfd_cloexec(&successor.link, 0);
                self.upgrades.successor = Some(successor);
                self.leave_successor(&why);
                if self.upgrades.given.take() && self.functions().next().is_some() {
                    self.take_functions_back(&ends.map_err(std::io::Error::from)?)?;
                }
            }
        }
        self.upgrades.frozen = false;
        self.go_on(now());
        Ok(())
    }

    /// The next server has had all, and does not take over: hardware is this one's again as soon as that one has ended. Both must not use it, so
    /// this one does not go on with it before, and ends where that takes too long: whoever is started next waits for both.
    fn take_functions_back(&mut self, link: &OwnedFd) -> Result<(), Fatal> {
        let until = now() + ENDS;
        while !has_hung_up(link.as_fd()) {
            if now() >= until {
                let why = "the next server neither takes over nor ends, and has hardware controllers";
                return Err(std::io::Error::other(why).into());
            }
            self.notifier.alive();
            std::thread::sleep(LOOK * 20);
        }
        for (word, held) in self.functions() {
            log::warn!(target: SERVER, "{word}: the next server had it; it is reset");
            // One that is gone is found to be by the driver.
            match held.stop().and_then(|()| held.reclaim()) {
                Ok(_) | Err(rustix::io::Errno::NODEV | rustix::io::Errno::IO) => {}
                Err(why) => return Err(std::io::Error::from(why).into()),
            }
        }
        // The driver sees that, and has its queues back from workers, before rings go on.
        self.control.poll(now());
        self.tell_workers()
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

    /// Has everything stand still.
    fn stand_still(&mut self, until: Time) -> Result<(), Stays> {
        if !self.control.scanned() {
            return Err(Stays::Why("controllers are still being scanned".into()));
        }
        if self.late.is_some() {
            return Err(Stays::Why(HELD_UP.into()));
        }
        let lost = |seat: &&Seat| {
            seat.key.and_then(|key| self.control.session(key)).is_some_and(|session| session.is_lost())
        };
        if let Some(seat) = self.seats.values().find(lost) {
            return Err(Stays::Why(format!("{}: its device is gone; end it first", seat.name)));
        }
        if !self.draining.is_empty() {
            return Err(Stays::Why("an operator waits until a device is drained".into()));
        }
        if !self.rescans.is_empty() {
            return Err(Stays::Why("an operator waits until controllers were looked at".into()));
        }
        for waiting in core::mem::take(&mut self.waiting) {
            let why = "another server is taking over; ask again";
            if let Some(Watched::Caller(caller, ..)) = self.watched.get(&waiting.caller) {
                let _ = self.epoll.modify(caller, waiting.caller, Interest::Read);
            }
            self.answer(waiting.caller, Err(refused(Errno::Again, why)));
        }
        // Whatever is asked of this server now waits where it is.
        let own = self.own_events()?;
        while !self.rests() {
            let late =
                if self.waits_for_the_dead() { HELD_UP } else { "what clients asked for is still under way" };
            self.turn(&own, until, late)?;
        }
        let seats: Vec<u32> = self.seats.keys().copied().collect();
        loop {
            let time = now();
            let mut still = true;
            for id in &seats {
                still &= self.lend(*id, time, |seat, lent| seat.pause(lent)).unwrap_or(true);
            }
            if still && self.rests() {
                return Ok(());
            }
            self.turn(&own, until, &self.in_flight())?;
        }
    }

    /// Has all that is kept tell all, and nothing else lie there, since another server goes on writing it.
    fn settle_store(&mut self, until: Time) -> Result<(), Stays> {
        let own = self.own_events()?;
        let said = self.keep.as_ref().map(|keep| keep.keeper.last());
        while self.keep.is_some() {
            self.keep_changes();
            let is_said =
                said.as_ref().is_none_or(|said| !matches!(said.try_recv(), Err(TryRecvError::Empty)));
            if self.store_is_settled() && is_said {
                break;
            }
            self.turn(&own, until, "what is kept is still being written")?;
        }
        Ok(())
    }

    /// Has hardware controllers answer what they were asked, so that they can be left running. One that does not in time is reset by the next
    /// server.
    fn settle_functions(&mut self, until: Time) -> Result<(), Stays> {
        let own = self.own_events()?;
        while now() < until && !self.lefts().iter().all(|(_, left)| left.is_some()) {
            self.turn_still(&own, until)?;
        }
        Ok(())
    }

    /// How hardware controllers are left running, as far as they can be, with their words.
    fn lefts(&self) -> Vec<(&str, Option<LeftRunning>)> {
        let all = self.upgrades.began.controllers.iter().zip(0_u16..);
        let hardware = all.filter_map(|((word, over), index)| match over {
            Over::Hardware(held) => Some((word.as_str(), held, index)),
            Over::Memory(_) | Over::Image(_) => None,
        });
        let lefts = hardware.map(|(word, held, index)| {
            let left = self.control.leave_device(index);
            (word, left.and_then(|(at, left)| Some(LeftRunning { file: held.left(at)?, at, left })))
        });
        lefts.collect()
    }

    fn in_flight(&self) -> String {
        let busy = |seat: &&Seat| !seat.stands_still();
        let names: Vec<&str> = self.seats.values().filter(busy).map(|seat| seat.name.as_str()).collect();
        format!("requests are still in flight: {}", names.join(", "))
    }

    /// Whether nothing is under way that changes what this server has.
    pub(super) fn rests(&self) -> bool {
        let seats = self
            .seats
            .values()
            .all(|seat| seat.rests() && matches!(seat.phase, Phase::Absent | Phase::Free | Phase::Connected));
        let ending = self.control.catalogue().factories().any(|factory| factory.is_ended());
        seats
            && !ending
            && self.unrecorded.is_empty()
            && self.unkept.is_empty()
            && self.taking_up.is_empty()
            && self.late.is_none()
    }

    /// What is heard while everything stands still: workers, lanes, the audit trail.
    pub(super) fn own_events(&self) -> Result<Epoll, Fatal> {
        let own = Epoll::new()?;
        own.add(&*self.bell, 0, Interest::ReadEdge)?;
        Ok(own)
    }

    /// One turn of what goes on while everything stands still. An error once the time is over.
    fn turn(&mut self, own: &Epoll, until: Time, late: &str) -> Result<(), Stays> {
        if now() >= until {
            return Err(Stays::Why(late.to_owned()));
        }
        self.turn_still(own, until)?;
        Ok(())
    }

    /// One turn of what goes on while everything stands still.
    pub(super) fn turn_still(&mut self, own: &Epoll, until: Time) -> Result<(), Fatal> {
        let time = now();
        if self.bell.take() {
            self.hear_workers(time)?;
            self.hear_lanes(time);
            self.hear_trail(time);
            self.hear_keeper(time);
            self.lose_images(time);
        }
        self.control.poll(time);
        self.tell_workers()?;
        while let Some(event) = self.control.take_event() {
            self.control_event(event, time);
        }
        self.tell_workers()?;
        self.expire_records(time);
        if !self.bell.arm() {
            return Ok(());
        }
        let next = self.control.next_deadline().into_iter().chain([until, time + LOOK]).min();
        let waited = own.wait(&mut Events::new(4), next.map(|at| at - time));
        self.bell.disarm();
        Ok(waited?)
    }

    /// How long everything may stand still.
    fn stands_still(&self) -> Duration {
        let hardware = self.functions().next().is_some();
        STANDS_STILL + if hardware { self.control.reset_wait().min(RESETS) } else { Duration::ZERO }
    }

    /// Gives the next server all that this one has, and has it take over.
    fn give(&mut self, link: &Link, start: Time) -> Result<(), Stays> {
        let until = start + self.stands_still();
        let head = match &mut self.audit {
            Some(audit) => Some(
                audit.rest(now()).ok_or_else(|| Stays::Why("the audit trail cannot be written".into()))?,
            ),
            None => None,
        };
        self.notifier.alive();
        let lefts = self.lefts();
        let mut files = Files::default();
        let state = self.state(head.map(|head| head.to_string()), &lefts, &mut files)?;
        self.upgrades.given.set(true);
        link.send_document(&state, &files, until)?;
        link.expect("ready", until)?;
        self.notifier.alive();
        Ok(link.send("go", &[], until)?)
    }
}

/// A hardware controller that is left running.
struct LeftRunning {
    /// The memory of its admin queue.
    file: OwnedFd,
    /// Where that is.
    at: Iova,
    left: nvme::Left,
}

fn function<'a>(word: &str, shared: &'a Descriptors, files: &mut Files<'a>) -> Function {
    let Descriptors { container, group, device, interrupts } = shared;
    let mut add = |file: &'a OwnedFd| files.add(file.as_fd());
    Function {
        word: word.to_owned(),
        container: add(container),
        group: add(group),
        device: add(device),
        interrupts: interrupts.mode.to_string(),
        vectors: interrupts.vectors.iter().map(&mut add).collect(),
        request: interrupts.request.as_ref().map(&mut add),
        error: interrupts.error.as_ref().map(&mut add),
    }
}

/// How long a document may take on its way while others are served.
const LINK: Duration = Duration::from_millis(200);

pub(super) fn shown(peer: Option<Peer>) -> String {
    peer.map_or_else(String::new, |peer| format!(" ({peer})"))
}
