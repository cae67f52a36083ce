//! The factory's side: who connects to `svr`, what is asked, and the session capability that is the answer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nvme_core::server::message::SessionKey;
use nvme_linux::dispose;
use nvme_linux::events::Interest;
use nvme_linux::factory::{ANSWER_MAX, Caller, Refusal, Request};
use nvme_linux::logger::{OPERATOR, REFUSAL, speak_of};
use nvme_linux::socket::{self, Cookie, Kind};
use nvme_linux::vhost::Connection;
use nvme_platform::Time;
use nvme_policy::{Dataspaces, Errno, FactoryRequest, Policy, SessionRequest, Shown, Trusted};
use nvme_session::factory::{CreateError, FactoryId, SessionId};

use super::records::Minted;
use super::waiting::{Asked, Call, WAITING_EACH, Waiting, refused};
use super::{ACCEPTS_PER_TURN, CALLERS_MAX, CTL_PEERS_MAX, Server, Watched};
use crate::capability::Capability;
use crate::hints::Told;
use crate::keep::State;
use crate::seat::{Conn, Phase, Seat, Source};

/// How long a call waits for the scan to end.
const SCAN_WAIT: Duration = Duration::from_secs(30);
/// How long a call waits for sessions that are about to end.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

impl Server {
    pub(super) fn callers(&self) -> usize {
        self.watched.values().filter(|w| matches!(w, Watched::Caller(_, FactoryId::SERVER, _))).count()
    }

    /// Who is being told what there is has places apart from those who ask for sessions.
    pub(super) fn ctl_peers(&self) -> usize {
        self.watched.values().filter(|w| matches!(w, Watched::CtlPeer(..))).count()
    }

    /// Whether there is a place for one more. There is none once clients have made the server lose too many descriptors.
    pub(super) fn has_place(&mut self) -> bool {
        self.is_sound() && self.callers() < CALLERS_MAX
    }

    /// Whether anybody is let in.
    pub(super) fn is_sound(&mut self) -> bool {
        let sound = dispose::lost() < self.budget.lost;
        if !sound && !core::mem::replace(&mut self.closed, true) {
            log::error!(
                "clients sent {} files that cannot be closed; no new callers are taken until a restart",
                dispose::lost()
            );
        }
        sound
    }

    /// Listens to newcomers only while there is room for them.
    pub(super) fn breathe(&mut self) {
        let room = self.has_place() && self.paused_until.is_none();
        let ctl = self.is_sound() && self.ctl_peers() < CTL_PEERS_MAX && self.paused_until.is_none();
        for (token, watched) in &self.watched {
            let fd = match watched {
                Watched::Svr => &self.svr,
                Watched::Ctl => &self.ctl,
                Watched::Admin => &self.admin,
                Watched::Metrics => &self.metrics,
                _ => continue,
            };
            if let Some(fd) = fd {
                // The operator gets in though callers crowd, and who reads numbers.
                let open = match watched {
                    Watched::Admin | Watched::Metrics => self.paused_until.is_none(),
                    Watched::Ctl => ctl,
                    _ => room,
                };
                let interest = if open { Interest::Read } else { Interest::Hangup };
                let _ = self.epoll.modify(fd, *token, interest);
            }
        }
    }

    pub(super) fn accept_caller(&mut self, time: Time) {
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.has_place() {
                break;
            }
            let Some(svr) = &self.svr else { return };
            let socket = match socket::accept(svr) {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(e) => return self.pause_accepting("svr", e, time),
            };
            let Ok(caller) = Caller::new(socket) else { continue };
            let token = self.next_token;
            if self.epoll.add(&caller, token, Interest::Read).is_ok() {
                self.token(Watched::Caller(caller, FactoryId::SERVER, time));
                self.serve_caller(token, time);
            }
        }
        self.breathe();
    }

    pub(super) fn serve_caller(&mut self, token: u64, time: Time) {
        // A call that waits for the scan is answered before the next is read.
        if self.is_held(token) {
            return;
        }
        self.mark_caller(token, State::Says);
        let Some(Watched::Caller(caller, at, heard)) = self.watched.get_mut(&token) else { return };
        *heard = time;
        let at = *at;
        let lost = dispose::lost_here();
        let received = caller.receive();
        // Who sent it, which may be another than the one before.
        let call = Call { token, at, peer: caller.peer() };
        self.mark_caller(token, if matches!(received, Ok(None)) { State::Told } else { State::Asks });
        match received {
            Ok(None) => {}
            Ok(Some(Err(refusal))) => self.refuse(call, refusal, time),
            Ok(Some(Ok(request))) => match self.asked(call.at, &request) {
                Ok(asked) => self.grant(call, request, asked, time),
                Err(refusal) => self.refuse(call, refusal, time),
            },
            Err(_) => self.forget(token),
        }
        if dispose::lost_here() > lost {
            log::warn!(target: REFUSAL, "{}: a caller sent files that cannot be closed; it is dropped", self.post_name(call.at));
            self.caller_left(token);
        }
    }

    pub(super) fn refuse(&mut self, call: Call, refusal: Refusal, time: Time) {
        speak_of(self.tenant_of(call.at));
        let who = call.peer.map_or_else(String::new, |p| format!(" ({p})"));
        log::warn!(target: REFUSAL, "{}{who}: create refused: {}", self.post_name(call.at), refusal.message);
        self.note_refusal(call, &refusal, time);
        self.answer(call.token, Err(refusal));
    }

    pub(super) fn answer(&mut self, token: u64, reply: Result<Vec<OwnedFd>, Refusal>) {
        self.mark_caller(token, State::Says);
        let Some(Watched::Caller(caller, ..)) = self.watched.get_mut(&token) else { return };
        let sent = match &reply {
            Ok(minted) => {
                let minted: Vec<BorrowedFd<'_>> = minted.iter().map(AsFd::as_fd).collect();
                caller.reply(Ok((&minted, "")))
            }
            Err(refusal) => caller.reply(Err(refusal)),
        };
        self.mark_caller(token, State::Told);
        if sent.is_err() {
            self.forget(token);
        }
    }

    /// Gives what is asked for, refuses it, or lets it wait.
    fn grant(&mut self, call: Call, mut request: Request, asked: Asked, time: Time) {
        speak_of(self.tenant_of(call.at));
        self.look_at_images(time);
        self.take_up_late(time);
        let minted = match &asked {
            Asked::List => return self.show(call, time),
            // It may be theirs.
            _ if self.is_held_for_late() => Err(CreateError::Scanning),
            Asked::Session(asked) => self.control.create_at(call.at, asked).map(Minted::Session),
            Asked::Factory(asked) => self.control.delegate(call.at, asked).map(Minted::Factory),
        };
        match minted {
            Ok(Minted::Session(key)) => match self.mint(key, call, request.take_listener(), time) {
                Ok(fd) => self.hand_out(call, Minted::Session(key), vec![fd], time),
                Err(e) => {
                    self.control.end(key);
                    self.refuse(
                        call,
                        refused(Errno::NoMemory, &format!("no room for the session: {e}")),
                        time,
                    );
                }
            },
            Ok(Minted::Factory(id)) => match self.post(id, call.peer, request.take_listener(), time) {
                Ok(fds) => self.hand_out(call, Minted::Factory(id), fds, time),
                Err(e) => {
                    self.control.end_factory(id);
                    self.refuse(
                        call,
                        refused(Errno::NoMemory, &format!("no room for the factory: {e}")),
                        time,
                    );
                }
            },
            Err(why) => {
                // It may be on the one that is not scanned. Of what is there and not held the answer is the same.
                let unknown = matches!(why, CreateError::NoDevice(_) | CreateError::NotHeld);
                let held_up = unknown && self.control.waits_for_unsettled();
                let why = if held_up { CreateError::Scanning } else { why };
                let patience = match why {
                    CreateError::Scanning => Some(SCAN_WAIT),
                    // Whoever closed a session and asks for its device again need not know how long it drains.
                    _ if self.is_about_to_change(call.at, &asked, &why) => Some(LEAVE_WAIT),
                    _ => None,
                };
                let refusal = refused(why.errno(), &Told(&why).to_string());
                let tenant = self.tenant_of(call.at);
                match patience.filter(|_| !self.stop && self.may_wait(tenant)) {
                    Some(patience) => {
                        let until = time + patience;
                        let token = call.token;
                        self.hold(token, Waiting { caller: token, tenant, request, asked, until, refusal });
                    }
                    None => self.refuse(call, refusal, time),
                }
            }
        }
    }

    /// Whether it may be had soon, since a session that stands in its way is about to end. Of others' ends, which are none of the caller's
    /// business, it is not to learn by how long it waits.
    fn is_about_to_change(&mut self, at: FactoryId, asked: &Asked, why: &CreateError) -> bool {
        // A whole disk's names are those of its table once that was read again.
        let matters = match why {
            CreateError::InUse { .. } | CreateError::UsedUp { .. } | CreateError::NoRoom { .. } => true,
            CreateError::NoDevice(_) => at == FactoryId::SERVER,
            _ => false,
        };
        if !matters || !self.someone_leaves() {
            return false;
        }
        let catalogue = self.control.catalogue();
        let leaves = |session: SessionId| {
            let seat = self.by_session.get(&SessionKey(session.number())).and_then(|id| self.seats.get(id));
            seat.is_some_and(|seat| seat.phase == Phase::Ending)
        };
        match (why, asked) {
            (CreateError::InUse { .. }, Asked::Session(asked)) => {
                catalogue.in_the_way(at, asked.device()).into_iter().any(leaves)
            }
            (CreateError::UsedUp { above, .. }, _) => self
                .seats
                .values()
                .any(|seat| seat.phase == Phase::Ending && catalogue.is_below(seat.factory, *above)),
            // What others give back is not this tenant's share.
            (CreateError::NoRoom { .. }, _) if at != FactoryId::SERVER => {
                let own = self.tenant_of(at);
                self.seats
                    .values()
                    .any(|seat| seat.phase == Phase::Ending && self.tenant_of(seat.factory) == own)
            }
            _ => true,
        }
    }

    /// Answers what a factory holds.
    fn show(&mut self, call: Call, time: Time) {
        let listing = self.list(call.at).to_json();
        if listing.len() + 4 > ANSWER_MAX {
            let refusal = refused(Errno::NoMemory, "the listing is longer than an answer can be");
            return self.refuse(call, refusal, time);
        }
        self.mark_caller(call.token, State::Says);
        let Some(Watched::Caller(caller, ..)) = self.watched.get_mut(&call.token) else { return };
        let sent = caller.answer(&listing);
        self.mark_caller(call.token, State::Told);
        if sent.is_err() {
            self.forget(call.token);
        }
    }

    /// Lets a call wait. Nothing more is read from its connection meanwhile.
    fn hold(&mut self, token: u64, waiting: Waiting) {
        if let Some(Watched::Caller(caller, ..)) = self.watched.get(&token) {
            let _ = self.epoll.modify(caller, token, Interest::Hangup);
            self.waiting.push_back(waiting);
        }
    }

    /// Whether one more call of that tenant may wait; whoever has `svr` is bounded by his connections.
    fn may_wait(&self, tenant: u64) -> bool {
        tenant == 0 || self.waiting.iter().filter(|w| w.tenant == tenant).count() < WAITING_EACH
    }

    /// Tries again what waits, after something became free.
    pub(super) fn retry_waiting(&mut self, time: Time) {
        for waiting in core::mem::take(&mut self.waiting) {
            let Waiting { caller: token, request, asked, until, .. } = waiting;
            let Some(Watched::Caller(caller, at, _)) = self.watched.get(&token) else { continue };
            let call = Call { token, at: *at, peer: caller.peer() };
            let _ = self.epoll.modify(caller, token, Interest::Read);
            self.grant(call, request, asked, time);
            match self.waiting.iter_mut().find(|w| w.caller == token) {
                Some(again) => again.until = again.until.min(until),
                None => self.serve_caller(token, time),
            }
        }
    }

    /// Refuses what has waited for long enough.
    pub(super) fn expire_waiting(&mut self, time: Time) {
        while let Some(at) = self.waiting.iter().position(|w| time >= w.until) {
            let Some(Waiting { caller: token, refusal, .. }) = self.waiting.remove(at) else { return };
            let Some(Watched::Caller(caller, at, _)) = self.watched.get(&token) else { continue };
            let call = Call { token, at: *at, peer: caller.peer() };
            let _ = self.epoll.modify(caller, token, Interest::Read);
            self.refuse(call, refusal, time);
        }
    }

    /// A caller that waits went away.
    pub(super) fn caller_left(&mut self, token: u64) {
        self.waiting.retain(|w| w.caller != token);
        self.forget(token);
    }

    /// Whether a caller waits for its answer: then nothing is read from it.
    pub(super) fn is_held(&self, token: u64) -> bool {
        self.waiting.iter().any(|w| w.caller == token) || self.waits_for_record(token)
    }

    /// The callers that wait for an answer.
    pub(super) fn held(&self) -> Vec<u64> {
        let tokens = self.watched.keys().copied();
        tokens.filter(|token| self.is_held(*token)).collect()
    }

    /// Makes the session capability.
    pub(super) fn mint(
        &mut self,
        key: SessionKey,
        call: Call,
        listener: Option<OwnedFd>,
        time: Time,
    ) -> io::Result<OwnedFd> {
        let owner = call.peer;
        let gone = || io::Error::other("the session has ended");
        let minted = self.control.session(key).ok_or_else(gone)?.minted();
        let (policy, canonical): (Policy, String) = (minted.policy().clone(), minted.device().to_owned());
        let (ours, theirs) = socket::pair(Kind::Stream)?;
        let id = self.next_seat;
        let through = match call.at {
            FactoryId::SERVER => String::new(),
            id => format!(" of {}", self.post_name(id)),
        };
        let name = format!("session {}{through}", key.0);
        let device = policy.device().to_string();
        let mut seat =
            Seat::new(name, self.group_of(call.at), policy, Source::Connection, self.budget.dynamic);
        (seat.key, seat.owner, seat.phase) = (Some(key), owner, Phase::Free);
        (seat.factory, seat.device) = (call.at, canonical);
        seat.tenant = self.tenant_of(call.at);
        let capability = Cookie::of(&theirs)?;
        if let Some(listener) = listener {
            let token = self.next_token;
            self.epoll.add(&ours, token, Interest::Read)?;
            self.token(Watched::Lifetime(id));
            let token = self.next_token;
            self.epoll.add(&listener, token, Interest::Read)?;
            self.token(Watched::Listener(id));
            seat.source = Source::Listener(listener.into());
            seat.lifetime = Some(ours.into());
        } else {
            let token = self.next_token;
            let offered = self.control.session(key).map_or(0, |s| s.offered());
            let connection = Connection::new(ours, offered, self.control.config().queues)?;
            self.epoll.add(connection.as_fd(), token, Interest::Read)?;
            self.token(Watched::Conn(id));
            seat.conn = Some(Conn::new(connection, owner, token, false, time));
            seat.phase = Phase::Connected;
        }
        let who = owner.map_or_else(String::new, |p| format!(" for {p}"));
        let access = seat.policy.access();
        log::info!(target: OPERATOR, "{}{who}: {device}, {access}, ds-max {}", seat.name, seat.policy.ds_max().get());
        self.next_seat += 1;
        self.by_session.insert(key, id);
        self.capabilities.insert(capability, Capability::Session(id));
        self.seats.insert(id, seat);
        Ok(theirs)
    }
}

impl Server {
    /// What a request asks a factory for.
    fn asked(&self, at: FactoryId, request: &Request) -> Result<Asked, Refusal> {
        let held = self.control.catalogue().factory(at).map_or(Dataspaces::ALL, |f| f.ceiling().dataspaces());
        let names: Vec<&str> = self.trusted.names().collect();
        let trusted = Trusted { names: &names, held };
        let mut words = request.words();
        let wrong = |what: &str, word: &str| {
            let word = Shown::new(word.as_bytes());
            let hint = "a request begins with create, 0 or create, factory; or it is list";
            refused(Errno::Invalid, &format!("{}: no such {what}; {hint}", word.as_str()))
        };
        match words.next().unwrap_or_default() {
            "create" => {}
            "list" if words.next().is_none() && !request.has_listener() => return Ok(Asked::List),
            "list" => return Err(refused(Errno::Invalid, "list takes neither words nor a descriptor")),
            other => return Err(wrong("operation", other)),
        }
        let words_of = |refusal: nvme_policy::Refusal| refused(refusal.errno(), &refusal.to_string());
        match words.next().unwrap_or_default() {
            "0" => {
                Ok(Asked::Session(Box::new(SessionRequest::from_words(words, &trusted).map_err(words_of)?)))
            }
            "factory" => {
                Ok(Asked::Factory(Box::new(FactoryRequest::from_words(words, &trusted).map_err(words_of)?)))
            }
            other => Err(wrong("type", other)),
        }
    }
}
