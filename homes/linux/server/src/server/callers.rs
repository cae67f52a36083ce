//! The factory's side: who connects to `svr`, what is asked, and the session capability that is the answer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nvme_core::server::message::SessionKey;
use nvme_linux::dispose;
use nvme_linux::events::Interest;
use nvme_linux::factory::{Caller, Refusal, Request};
use nvme_linux::logger::{OPERATOR, REFUSAL};
use nvme_linux::socket::{self, Cookie, Kind, Peer};
use nvme_linux::vhost::Connection;
use nvme_platform::Time;
use nvme_policy::{Errno, Policy, Shown};
use nvme_session::factory::CreateError;

use super::waiting::{Waiting, refused};
use super::{ACCEPTS_PER_TURN, CALLERS_MAX, Server, Watched};
use crate::hints::Told;
use crate::seat::{Conn, Phase, Seat, Source};

/// How long a call waits for the scan to end.
const SCAN_WAIT: Duration = Duration::from_secs(30);
/// How long a call waits for sessions that are about to end.
const LEAVE_WAIT: Duration = Duration::from_secs(5);
/// What a request begins with: the one operation that there is, and the type of what is created, as ned has them.
const CREATE: [&str; 2] = ["create", "0"];

impl Server {
    pub(super) fn callers(&self) -> usize {
        self.watched.values().filter(|w| matches!(w, Watched::Caller(..) | Watched::CtlPeer(..))).count()
    }

    /// Whether there is a place for one more. There is none once clients have made the server lose too many descriptors.
    pub(super) fn has_place(&mut self) -> bool {
        let sound = dispose::lost() < self.budget.lost;
        if !sound && !core::mem::replace(&mut self.closed, true) {
            log::error!(
                "clients sent {} files that cannot be closed; no new callers are taken until a restart",
                dispose::lost()
            );
        }
        sound && self.callers() < CALLERS_MAX
    }

    /// Listens to newcomers only while there is room for them.
    pub(super) fn breathe(&mut self) {
        let room = self.has_place() && self.paused_until.is_none();
        let interest = if room { Interest::Read } else { Interest::Hangup };
        for (token, watched) in &self.watched {
            let fd = match watched {
                Watched::Svr => &self.svr,
                Watched::Ctl => &self.ctl,
                Watched::Admin => &self.admin,
                _ => continue,
            };
            if let Some(fd) = fd {
                // The operator gets in though callers crowd.
                let open = matches!(watched, Watched::Admin) && self.paused_until.is_none();
                let _ = self.epoll.modify(fd, *token, if open { Interest::Read } else { interest });
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
                self.token(Watched::Caller(caller, time));
                self.serve_caller(token, time);
            }
        }
        self.breathe();
    }

    pub(super) fn serve_caller(&mut self, token: u64, time: Time) {
        // A call that waits for the scan is answered before the next is read.
        if self.waiting.iter().any(|w| w.caller == token) {
            return;
        }
        let Some(Watched::Caller(caller, heard)) = self.watched.get_mut(&token) else { return };
        *heard = time;
        let peer = caller.peer();
        let lost = dispose::lost_here();
        match caller.receive() {
            Ok(None) => {}
            Ok(Some(Err(refusal))) => self.refuse(token, peer, refusal),
            Ok(Some(Ok(request))) => match policy(&request) {
                Ok(policy) => self.create(token, peer, request, policy, time),
                Err(why) => self.refuse(token, peer, refused(Errno::Invalid, &why)),
            },
            Err(_) => self.forget(token),
        }
        if dispose::lost_here() > lost {
            log::warn!(target: REFUSAL, "svr: a caller sent files that cannot be closed; it is dropped");
            self.caller_left(token);
        }
    }

    pub(super) fn refuse(&mut self, token: u64, peer: Option<Peer>, refusal: Refusal) {
        let who = peer.map_or_else(String::new, |p| format!(" ({p})"));
        log::warn!(target: REFUSAL, "svr{who}: create refused: {}", refusal.message);
        self.answer(token, Err(refusal));
    }

    pub(super) fn answer(&mut self, token: u64, reply: Result<(OwnedFd, &str), Refusal>) {
        let Some(Watched::Caller(caller, _)) = self.watched.get_mut(&token) else { return };
        let sent = match &reply {
            Ok((fd, message)) => caller.reply(Ok((fd.as_fd(), message))),
            Err(refusal) => caller.reply(Err(refusal)),
        };
        if sent.is_err() {
            self.forget(token);
        }
    }

    pub(super) fn create(
        &mut self,
        token: u64,
        peer: Option<Peer>,
        mut request: Request,
        policy: Policy,
        time: Time,
    ) {
        self.look_at_images();
        match self.control.create(&policy, false) {
            Ok(key) => match self.mint(key, policy, peer, request.take_listener(), time) {
                Ok(fd) => self.answer(token, Ok((fd, ""))),
                Err(e) => {
                    self.control.end(key);
                    let refusal = refused(Errno::NoMemory, &format!("no room for the session: {e}"));
                    self.refuse(token, peer, refusal);
                }
            },
            Err(why) => {
                let patience = match why {
                    CreateError::Scanning => Some(SCAN_WAIT),
                    // Whoever closed a session and asks for its device again need not know how long it drains.
                    // (And a whole disk's names are those of its table once that was read again.)
                    CreateError::InUse { .. } | CreateError::NoDevice(_) | CreateError::NoRoom { .. }
                        if self.someone_leaves() =>
                    {
                        Some(LEAVE_WAIT)
                    }
                    _ => None,
                };
                let refusal = refused(why.errno(), &Told(&why).to_string());
                match patience.filter(|_| !self.stop) {
                    Some(patience) => {
                        let until = time + patience;
                        self.hold(token, Waiting { caller: token, request, policy, until, refusal });
                    }
                    None => self.refuse(token, peer, refusal),
                }
            }
        }
    }

    /// Lets a call wait. Nothing more is read from its connection meanwhile.
    fn hold(&mut self, token: u64, waiting: Waiting) {
        if let Some(Watched::Caller(caller, _)) = self.watched.get(&token) {
            let _ = self.epoll.modify(caller, token, Interest::Hangup);
            self.waiting.push_back(waiting);
        }
    }

    /// Tries again what waits, after something became free.
    pub(super) fn retry_waiting(&mut self, time: Time) {
        for waiting in core::mem::take(&mut self.waiting) {
            let Waiting { caller: token, request, policy, until, .. } = waiting;
            let Some(Watched::Caller(caller, _)) = self.watched.get(&token) else { continue };
            let peer = caller.peer();
            let _ = self.epoll.modify(caller, token, Interest::Read);
            self.create(token, peer, request, policy, time);
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
            let Some(Watched::Caller(caller, _)) = self.watched.get(&token) else { continue };
            let peer = caller.peer();
            let _ = self.epoll.modify(caller, token, Interest::Read);
            self.refuse(token, peer, refusal);
        }
    }

    /// A caller that waits went away.
    pub(super) fn caller_left(&mut self, token: u64) {
        self.waiting.retain(|w| w.caller != token);
        self.forget(token);
    }

    /// Makes the session capability.
    pub(super) fn mint(
        &mut self,
        key: SessionKey,
        policy: Policy,
        owner: Option<Peer>,
        listener: Option<OwnedFd>,
        time: Time,
    ) -> io::Result<OwnedFd> {
        let (ours, theirs) = socket::pair(Kind::Stream)?;
        let id = self.next_seat;
        let name = format!("session {}", key.0);
        let device = policy.device().to_string();
        let mut seat = Seat::new(name, 0, policy, Source::Connection, self.budget.dynamic);
        (seat.key, seat.owner, seat.phase) = (Some(key), owner, Phase::Free);
        let capability = Cookie::of(&theirs)?;
        if let Some(listener) = listener {
            let token = self.next_token;
            self.epoll.add(&ours, token, Interest::Read)?;
            self.token(Watched::Lifetime(id));
            let token = self.next_token;
            self.epoll.add(&listener, token, Interest::Read)?;
            self.token(Watched::Listener(id));
            seat.source = Source::Listener(listener);
            seat.lifetime = Some(ours);
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
        self.capabilities.insert(capability, id);
        self.seats.insert(id, seat);
        Ok(theirs)
    }
}

/// What a request asks for.
fn policy(request: &Request) -> Result<Policy, String> {
    let mut words = request.words();
    for (known, what) in CREATE.into_iter().zip(["operation", "type"]) {
        let word = words.next().unwrap_or_default();
        if word != known {
            return Err(format!(
                "{}: no such {what}; a request begins with create, 0",
                Shown::new(word.as_bytes()).as_str()
            ));
        }
    }
    Policy::from_words(words).map_err(|refusal| refusal.to_string())
}
