//! The control thread: one loop over everything that can happen.
//!
//! * `start`: what main prepared. `watched`: what each descriptor is, and what is done when something happens there. `expiry`: whose time is over.
//! * `sessions`: clients, and what control says of them. `door`: who connects to a session's socket. `callers`: the factory; `waiting`: calls that wait.
//! * `factories`: attenuated ones; `tenants`: whose lines and callers are bounded together.
//! * `exchange`: what workers and lanes say, and workers are told. `watchdog`: whether all go round. `ready`: what is said when all is there.
//! * `admin`: the operator; `limit`: who bounds sessions; `slow`: which requests took long; `drains`: devices that wait; `listing`: what there is. `metrics`: who reads numbers.
//! * `records`: what is written into the audit trail. `handover`: the next server takes over; `takeover`: from the one before.
//! * `kept`: what is kept in case that this server is killed; `takeup`: what one left that was.

mod admin;
mod callers;
mod door;
mod drains;
mod exchange;
mod expiry;
mod factories;
mod handover;
mod kept;
mod limit;
mod listing;
mod metrics;
mod ready;
mod records;
mod rescan;
mod sessions;
mod slow;
mod start;
mod takeover;
mod takeup;
mod tenants;
mod waiting;
mod watchdog;
mod watched;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use nvme_audit as audit;
use nvme_audit::Record;
use nvme_core::server::control::Control;
use nvme_core::server::message::SessionKey;
use nvme_linux::events::{Doorbell, Epoll, Events, Interest, Signals, bounded, now};
use nvme_linux::inventory::Inventory;
use nvme_linux::logger::{self, Notifier, SERVER};
use nvme_linux::memory::{Failures, Trusted};
use nvme_linux::socket::{self, Acceptor, Cookie};
use nvme_linux::storage::LettingGo;
use nvme_platform::Time;
use nvme_policy::Errno;
use nvme_session::factory::FactoryId;

use self::drains::Draining;
use self::factories::Post;
pub(crate) use self::handover::Began;
use self::handover::Upgrades;
use self::kept::Unminted;
use self::records::Unrecorded;
use self::rescan::Rescan;
pub(crate) use self::start::{Parts, StaticClient, StaticFactory};
use self::takeup::Late;
use self::waiting::{Waiting, refused};
use self::watchdog::Watchdog;
use self::watched::Watched;
use crate::audit::Audit;
use crate::budget::Budget;
use crate::capability::Capability;
use crate::devices::{AllInterrupts, Served};
use crate::fatal::Fatal;
use crate::inventory::{self, Introspection};
use crate::keep::Keep;
use crate::regions::Found;
use crate::seat::Seat;
use crate::worker::{self, Message, ROOM_STEP};

/// Connections to the factory, and to introspection, at a time. Who comes later waits in the backlog.
const CALLERS_MAX: usize = 48;
/// Connections to `ctl` that are being told what there is, at a time.
const CTL_PEERS_MAX: usize = 16;
/// Connections that are accepted before it is others' turn.
const ACCEPTS_PER_TURN: usize = 16;
/// How long nobody is let in after that failed. The reason, no room, goes on for a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long a connection to the factory may be silent while there is no place for others.
const CALLER_IDLE: Duration = Duration::from_millis(250);

/// How long the kernel may take at the end to let go of images.
const LETS_GO: Duration = Duration::from_secs(1);

/// Why something ended: nobody has its capability any more.
const CLOSED: &str = "its capability was closed";
/// Why all end.
const STOPS: &str = "the server is stopping";

/// The server.
pub(crate) struct Server {
    pub(crate) control: Control,
    workers: Vec<worker::Handle>,
    letting_go: Option<LettingGo>,
    bell: Arc<Doorbell>,
    epoll: Epoll,
    signals: Signals,
    failures: &'static Failures,
    interrupts: Arc<AllInterrupts>,
    images: Vec<Option<Served>>,
    /// Controllers whose pin interrupted: it is masked until their admin queues were looked at.
    pins: Vec<u16>,
    acceptor: Acceptor,
    svr: Option<OwnedFd>,
    ctl: Option<OwnedFd>,
    admin: Option<OwnedFd>,
    pub(crate) audit: Option<Audit>,
    /// What is not granted before it is written down.
    unrecorded: Vec<Unrecorded>,
    /// What is kept in case that the server is killed, where there is a service manager that keeps it.
    keep: Option<Keep>,
    /// What is not granted before it is kept.
    unkept: Vec<Unminted>,
    /// Seats that are being taken up from a server that was killed.
    taking_up: BTreeSet<u32>,
    /// What a server left that was killed, and that waits for a controller.
    late: Option<Late>,
    /// Operators who wait until a device is drained.
    draining: Vec<Draining>,
    /// Operators who wait until controllers were looked at.
    rescans: Vec<Rescan>,
    /// When it was last looked how large images are.
    looked: Time,
    /// Which controllers are lost, as far as that was written down.
    lost: Vec<bool>,
    metrics: Option<OwnedFd>,
    pub(crate) trusted: Arc<Trusted>,
    /// What lanes found.
    found: (Sender<Found>, Receiver<Found>),
    watched: BTreeMap<u64, Watched>,
    next_token: u64,
    pub(crate) seats: BTreeMap<u32, Seat>,
    next_seat: u32,
    by_session: BTreeMap<SessionKey, u32>,
    /// The other ends of what the server minted.
    capabilities: BTreeMap<Cookie, Capability>,
    /// The attenuated factories.
    posts: BTreeMap<FactoryId, Post>,
    waiting: VecDeque<Waiting>,
    budget: Budget,
    /// When to listen again, after descriptors or memory ran out.
    paused_until: Option<Time>,
    /// Whether no callers are taken any more.
    closed: bool,
    notifier: Notifier,
    watchdog: Watchdog,
    /// What is said when the scan is over: where clients find the sockets.
    sockets: Vec<String>,
    upgrades: Upgrades,
    /// The client that the server was started for is gone.
    leave: bool,
    stop: bool,
    down: bool,
}

impl Server {
    /// Lets pins interrupt again; one that still has a reason does so at once.
    fn unmask_pins(&mut self) {
        for controller in self.pins.drain(..) {
            if let Some(Some(interrupts)) = self.interrupts.get(usize::from(controller)) {
                interrupts.unmask();
            }
        }
    }

    fn hear_control(&mut self, time: Time) {
        while let Some(event) = self.control.take_event() {
            self.speak_of_event(&event);
            self.control_event(event, time);
        }
    }

    fn hear(&mut self, events: &Events, time: Time) -> Result<(), Fatal> {
        for event in events.iter() {
            self.speak_of_token(event.token);
            self.event(event.token, event.hangup, time)?;
            if self.upgrades.gone.is_some() {
                // What else there is to hear is the next server's.
                break;
            }
        }
        Ok(())
    }

    /// Serves until the server is told to stop and everything has ended.
    pub(crate) fn run(mut self) -> Result<(), Fatal> {
        let mut events = Events::new(64);
        loop {
            let time = now();
            if self.bell.take() {
                self.hear_workers(time)?;
                self.hear_lanes(time);
                self.hear_trail(time);
                self.hear_keeper(time);
                self.lose_images(time);
            }
            self.end_dear();
            if self.leave {
                self.stop(time);
            }
            self.control.poll(time);
            self.note_devices(time);
            self.tell_workers()?;
            // In whatever way somebody's descriptor is closed in what follows: nobody's wish makes that wait for long.
            bounded(|| self.hear_control(time));
            logger::speak_of(0);
            self.tell_workers()?;
            self.unmask_pins();
            self.tell_drained(time);
            self.tell_rescanned(time);
            bounded(|| self.expire(time));
            self.take_up_more(time);
            self.keep_changes();
            if self.down {
                if let Some(audit) = self.audit.take() {
                    audit.close(time);
                }
                if let Some(keep) = &self.keep {
                    keep.close();
                }
                for served in self.images.iter().flatten() {
                    served.stored.image().say_loss();
                }
                self.let_go_of_images();
                for (index, worker) in self.workers.iter().enumerate() {
                    let (longest, otherwise, long) = worker.waits();
                    let (longest, otherwise) = (longest.as_micros(), otherwise.as_micros());
                    let unseen = worker.longest_unseen().as_micros();
                    log::info!(target: SERVER, "worker {index}: no kick waited longer than {longest} µs, nor was unseen for longer than {unseen} µs and a round; but for what {long} long turns held up {otherwise} µs");
                }
                return Ok(());
            }
            if self.leave && !self.stop || !self.bell.arm() {
                continue;
            }
            if self.watchdog.feeds(time, self.workers.iter().map(worker::Handle::pulse)) {
                self.notifier.alive();
            }
            let behind = self.workers.iter().any(worker::Handle::is_behind).then(|| time + ROOM_STEP);
            let timeout = self.deadline().into_iter().chain(behind).min().map(|at| at - time);
            let waited = self.epoll.wait(&mut events, timeout);
            self.bell.disarm();
            waited?;
            let time = now();
            bounded(|| self.hear(&events, time))?;
            logger::speak_of(0);
            if self.upgrades.unknown {
                // What is kept goes on, so nothing is closed here that others would hear of.
                core::mem::forget(self);
                let why = "the server before died before the service manager knew of this one";
                return Err(std::io::Error::other(why).into());
            }
            if let Some(gone) = &self.upgrades.gone {
                let goes_on = gone.goes_on();
                log::info!(target: SERVER, "pid {} goes on with all that was here", gone.pid);
                // Callers are told of the end of their connection when it is dropped here, and it does not end.
                core::mem::forget(self);
                return goes_on;
            }
        }
    }

    /// Waits until the images are nobody's any more, as far as that takes no longer than it should: whoever is told of the end unmounts
    /// what they lie on.
    fn let_go_of_images(&self) {
        let Some(letting_go) = &self.letting_go else { return };
        let told = self.workers.iter().map(|worker| worker.send(Message::Leave));
        if told.filter(Result::is_err).count() == 0 && !letting_go.wait(LETS_GO) {
            log::warn!(target: SERVER, "the kernel has not let go of all images yet: what they lie on may be busy for a while");
        }
    }

    fn stop(&mut self, time: Time) {
        if self.stop {
            return;
        }
        self.stop = true;
        log::info!(target: SERVER, "stopping: sessions drain");
        self.notifier.stopping();
        if let Some(svr) = self.svr.take() {
            let _ = self.epoll.remove(&svr);
        }
        self.note(Record::of(audit::Event::Stop), time);
        for waiting in core::mem::take(&mut self.waiting) {
            self.answer(waiting.caller, Err(refused(Errno::Again, STOPS)));
        }
        self.end_late();
        let factories: Vec<FactoryId> = self.posts.keys().copied().collect();
        for id in factories {
            self.take_back(id, STOPS);
        }
        let ids: Vec<u32> = self.seats.keys().copied().collect();
        for id in ids {
            self.end(id, STOPS);
        }
        self.control.shut_down(time);
    }

    fn inventory(&self) -> Inventory {
        inventory::of(&self.control, &self.seats, &self.trusted, self.audit.as_ref(), &self.workers)
    }

    fn accept_ctl(&mut self, time: Time) {
        if !self.is_sound() || self.ctl_peers() >= CTL_PEERS_MAX {
            return self.breathe();
        }
        let Some(ctl) = &self.ctl else { return };
        // One each turn: with many sessions it is long, and who asks for a session does not wait for several.
        let socket = match socket::accept(ctl) {
            Ok(Some(socket)) => socket,
            Ok(None) => return,
            Err(e) => return self.pause_accepting("ctl", e, time),
        };
        let mut peer = Introspection::new(socket, &self.inventory());
        if peer.send() {
            return;
        }
        let token = self.next_token;
        if self.epoll.add(&peer, token, Interest::Write).is_ok() {
            self.token(Watched::CtlPeer(peer, time));
        }
        self.breathe();
    }
}
