//! What a client asks for.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nvme_core::server::control::{InForce, QueueSpec, SessionError};
use nvme_core::server::message::{Old, SessionKey};
use nvme_linux::dispose::{ClientFd, dispose};
use nvme_linux::logger::OPERATOR;
use nvme_linux::socket;
use nvme_linux::vhost::{Call, RegionFile, Reply, Token, inflight_len};
use nvme_platform::Window;
use nvme_session::queue::{BlkQueue, Broken};
use rustix::io::Errno;

use super::{Anew, Order, Over, PATIENCE, Pending, Seat};
use crate::hints::Told;
use crate::inflight::{self, Made, NoJournal};
use crate::lent::Lent;
use crate::regions::{self, Wanted};
use crate::rings::{self, Ring, Stage};

/// What a machine whose memory is private looks like from here.
const NO_MEMORY: &str =
    "the client has registered no memory; a QEMU needs memory that is shared (memory-backend-memfd,share=on)";

/// Why a ring is not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotStarted {
    #[error("{}", Told(.0))]
    Session(#[from] SessionError),
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl Seat {
    /// `None`: the reply comes later.
    pub(super) fn call(
        &mut self,
        key: SessionKey,
        token: Token,
        call: Call,
        lent: &mut Lent<'_>,
    ) -> Option<Reply> {
        let done = |ok: bool| Some(if ok { Reply::Done } else { Reply::Failed });
        match call {
            Call::SetFeatures(bits) => {
                let same = lent.control.session(key).is_some_and(|s| s.features() == bits);
                if same {
                    return Some(Reply::Done);
                }
                let result = lent.control.set_features(key, bits);
                self.checked("features", result)
            }
            Call::SetMemTable(files) => {
                self.look(token, Wanted::Replace, files, lent);
                None
            }
            Call::AddRegion(file) => {
                self.look(token, Wanted::Add, vec![file], lent);
                None
            }
            Call::RemoveRegion(region) => {
                let result = regions::remove(lent.control, key, region);
                if let Some(files) = self.conn.as_mut().and_then(|conn| conn.files.as_mut()) {
                    files.remove(region);
                }
                self.memory(token, "removing memory", result)
            }
            Call::SetRingSize { ring, size } => {
                done(self.still_ring(ring).map(|r| r.size = Some(size)).is_some())
            }
            Call::SetRingAddresses { ring, desc, avail, used } => {
                done(self.still_ring(ring).map(|r| r.addresses = Some((desc, avail, used))).is_some())
            }
            Call::SetRingBase { ring, base } => done(self.still_ring(ring).map(|r| r.base = base).is_some()),
            Call::GetRingBase { ring } => {
                let stage = self.ring(ring)?.stage;
                if stage == Stage::Stopped {
                    let known = self.ring(ring)?;
                    known.kick = None;
                    return Some(Reply::RingBase(known.base));
                }
                self.pend(Pending::Base(token, ring));
                self.stop(key, ring, Old::First, lent);
                None
            }
            Call::SetKick { ring, event } => {
                let Some(event) = event else {
                    self.refuse("a ring without a kick", &"polling for it for ever would cost a core");
                    return Some(Reply::Failed);
                };
                if let Err(e) = rings::check_kick(&event) {
                    self.refuse("a kick", &e);
                    dispose([event]);
                    return Some(Reply::Failed);
                }
                if !self.has_room(ring, Some(&event), |r| r.kick.is_some()) {
                    dispose([event]);
                    return Some(Reply::Failed);
                }
                let event = Arc::new(ClientFd::new(event));
                let known = self.ring(ring)?;
                known.kick = Some(Arc::clone(&event));
                if known.stage == Stage::Running {
                    if rings::send_kick(lent, key, ring, event) {
                        self.pend(Pending::Told(token, Order::Kick(ring)));
                        return None;
                    }
                    return Some(Reply::Failed);
                }
                self.start(key, token, ring, lent)
            }
            Call::SetCall { ring, event } => {
                if !self.has_room(ring, event.as_ref(), |r| r.call.is_some()) {
                    dispose(event);
                    return Some(Reply::Failed);
                }
                let account = Arc::clone(&self.account);
                let known = self.ring(ring)?;
                if let Err(e) = known.set_call(event, &account) {
                    self.refuse("a call", &e);
                    return Some(Reply::Failed);
                }
                self.renotify(key, token, ring, lent)
            }
            Call::SetError { ring, event } => {
                if !self.has_room(ring, event.as_ref(), |r| r.error.is_some()) {
                    dispose(event);
                    return Some(Reply::Failed);
                }
                let account = Arc::clone(&self.account);
                let known = self.ring(ring)?;
                if let Err(e) = known.set_error(event, &account) {
                    self.refuse("an error descriptor", &e);
                    return Some(Reply::Failed);
                }
                self.renotify(key, token, ring, lent)
            }
            Call::EnableRing { ring, on } => {
                let known = self.ring(ring)?;
                known.enabled = on;
                if on {
                    return self.start(key, token, ring, lent);
                }
                if known.stage == Stage::Stopped {
                    return Some(Reply::Done);
                }
                self.pend(Pending::Disable(token, ring));
                self.stop(key, ring, Old::Left, lent);
                None
            }
            Call::GetConfig { offset, len } => {
                let session = lent.control.session(key)?;
                let mut bytes = vec![0; len as usize];
                session.read_config(offset, &mut bytes);
                Some(Reply::Config(bytes))
            }
            Call::SetConfig { offset, data } => {
                let result = lent.control.write_config(key, offset, &data);
                self.in_force(token, Order::WriteBack, "writing the configuration", result)
            }
            Call::ResetDevice => {
                self.pend(Pending::Reset(token));
                for ring in lent.control.running_queues(key) {
                    self.stop(key, ring, Old::Left, lent);
                }
                self.settle_reset(lent);
                None
            }
            Call::StartSession => {
                log::info!(target: OPERATOR, "{}: another session starts on its connection", self.name);
                self.pend(Pending::Start(token));
                lent.control.clear(key);
                None
            }
            Call::GetInflight { rings, size } => {
                // Who asks while none of its rings runs begins anew with what it is given, be it what it has already.
                let runs = self.conn.as_ref().is_some_and(|conn| conn.rings.values().any(Ring::is_busy));
                if runs {
                    self.give_inflight(token, rings, size);
                } else {
                    self.begin_anew(token, Anew::Inflight(rings, size), lent);
                }
                None
            }
            Call::SetInflight { rings, size, offset, file } => {
                self.take_inflight(key, token, (rings, size), offset, file, lent)
            }
            Call::SetBackendChannel(channel) => {
                match socket::channel(channel, |cookie| lent.capabilities.contains_key(&cookie)) {
                    Ok(channel) => self.conn.as_mut()?.connection.set_channel(channel),
                    Err(why) => {
                        self.refuse("a channel for the server's requests", &why);
                        return Some(Reply::Failed);
                    }
                }
                Some(Reply::Done)
            }
        }
    }

    /// Has a client's memory files looked at. One that does not wait for the end of what took too long has what it deserves:
    /// its files would pile up.
    pub(super) fn look(&mut self, token: Token, wanted: Wanted, files: Vec<RegionFile>, lent: &Lent<'_>) {
        if self.at_lane > 0 {
            self.lane.put(move || dispose(files.into_iter().map(|r| r.file)));
            self.over = Some(Over::Slow);
            return;
        }
        let order = self.order(lent);
        let until = lent.now + PATIENCE;
        self.pend(Pending::Looking(token, order.number, until, wanted));
        regions::look(order, lent.trusted, files);
    }

    /// Gives the client memory to keep in it what is in flight.
    pub(super) fn give_inflight(&mut self, token: Token, rings: u16, size: u16) {
        let Some(connection) = self.conn.as_ref().map(|conn| conn.token) else { return };
        match self.made_for(rings, size, connection).and_then(Made::share) {
            Ok(file) => {
                if let Some(conn) = &mut self.conn {
                    // It fails only for a request that is not outstanding.
                    let _ = conn.connection.reply_inflight(token, file);
                }
            }
            Err(why) => {
                self.refuse("memory for what is in flight", &why);
                self.reply(token, Reply::Failed);
            }
        }
    }

    /// What was made for a connection, or is now.
    fn made_for(&mut self, rings: u16, size: u16, connection: u64) -> Result<&Made, Errno> {
        let made = match self.made.take().filter(|made| made.is_for(rings, size, connection)) {
            Some(made) => made,
            None => Made::new(rings, size, connection)?,
        };
        Ok(self.made.insert(made))
    }

    /// Takes memory of the client's in which it keeps what is in flight.
    pub(super) fn take_inflight(
        &mut self,
        key: SessionKey,
        token: Token,
        (rings, size): (u16, u16),
        offset: u64,
        file: OwnedFd,
        lent: &mut Lent<'_>,
    ) -> Option<Reply> {
        let len = inflight_len(rings, size);
        let refusal: Option<&dyn core::fmt::Display> =
            if self.conn.as_ref()?.rings.values().any(Ring::is_busy) {
                Some(&"rings run already")
            } else {
                None
            };
        if let Some(why) = refusal {
            self.refuse("memory for what is in flight", why);
            self.lane.put(move || dispose([file]));
            return Some(Reply::Failed);
        }
        if let Err(why) = lent.control.reserve_memory(key, len) {
            self.refuse("memory for what is in flight", &Told(&why));
            self.lane.put(move || dispose([file]));
            return Some(Reply::Failed);
        }
        if self.at_lane > 0 {
            self.lane.put(move || dispose([file]));
            self.over = Some(Over::Slow);
            return None;
        }
        let made = inflight::is_made(&file, rings, size);
        let order = self.order(lent);
        let until = lent.now + PATIENCE;
        self.pend(Pending::Inflight(token, order.number, until, (rings, size)));
        inflight::map(order, lent.trusted, made, file, offset, len);
        None
    }

    /// The next order to the seat's lane.
    pub(super) fn order(&mut self, lent: &Lent<'_>) -> regions::Order {
        self.orders += 1;
        self.at_lane += 1;
        let (lane, found) = (Arc::clone(&self.lane), lent.found.clone());
        regions::Order { lane, seat: lent.seat, number: self.orders, found }
    }

    pub(super) fn checked(&self, what: &str, result: Result<(), SessionError>) -> Option<Reply> {
        match result {
            Ok(()) => Some(Reply::Done),
            Err(why) => {
                self.refuse(what, &Told(&why));
                Some(Reply::Failed)
            }
        }
    }

    fn in_force(
        &mut self,
        token: Token,
        order: Order,
        what: &str,
        result: Result<InForce, SessionError>,
    ) -> Option<Reply> {
        if let Ok(InForce::Later) = result {
            self.pend(Pending::Told(token, order));
            return None;
        }
        self.checked(what, result.map(|_| ()))
    }

    pub(super) fn memory(
        &mut self,
        token: Token,
        what: &str,
        result: Result<(), regions::Refused>,
    ) -> Option<Reply> {
        match result {
            Ok(()) => {
                self.pend(Pending::Memory(token));
                None
            }
            Err(why) => {
                self.refuse(what, &why);
                Some(Reply::Failed)
            }
        }
    }

    pub(super) fn pend(&mut self, pending: Pending) {
        if let Some(conn) = &mut self.conn {
            conn.pending = Some(pending);
        }
    }

    /// Starts a ring, once its client has said everything. In a journal of the client's, it is said before the client is answered where to go on: with
    /// another server it may say where by a request of which this one has not heard. The lane does that.
    fn start(&mut self, key: SessionKey, token: Token, index: u16, lent: &mut Lent<'_>) -> Option<Reply> {
        let (spec, kick) = match self.spec(index, lent) {
            Ok(Some(found)) => found,
            Ok(None) => return Some(Reply::Done),
            Err(reply) => return Some(reply),
        };
        let started = match lent.control.prepare_queue(key, index, spec) {
            Ok(queue) if self.keeps_itself(index) => {
                if self.at_lane > 0 {
                    self.lane.put(move || drop(queue));
                    self.over = Some(Over::Slow);
                    return None;
                }
                let order = self.order(lent);
                self.pend(Pending::Opening(token, order.number, lent.now + PATIENCE, index, kick));
                regions::touch(order, queue);
                return None;
            }
            Ok(queue) => self.start_prepared(key, index, queue, lent),
            Err(why) => Err(why),
        };
        Some(self.started(index, kick, started.map_err(Into::into), lent))
    }

    /// Starts a ring again that was stopped to go on elsewhere, of which its client knows nothing. What is wrong with it now is said, to its driver, too.
    pub(super) fn start_again(&mut self, key: SessionKey, index: u16, lent: &mut Lent<'_>) {
        let reply = match self.spec(index, lent) {
            Ok(Some((spec, kick))) => {
                let Some(ring) = self.ring(index) else { return };
                let notify = ring.notify();
                let started = lent.control.resume_queue(key, index, spec, notify);
                self.started(index, kick, started.map_err(Into::into), lent)
            }
            Ok(None) => Reply::Done,
            Err(reply) => reply,
        };
        if let (Reply::Failed, Some(ring)) = (reply, self.ring(index)) {
            let notify = ring.notify();
            self.lane.put(move || notify.broken());
        }
    }

    /// How a ring is to be started, and its kick. `None`: its client has not said everything.
    fn spec(&mut self, index: u16, lent: &mut Lent<'_>) -> Result<Option<(QueueSpec, Arc<ClientFd>)>, Reply> {
        let journal = self.journal(index, lent).map_err(|why| {
            self.refuse(&format!("starting ring {index}"), &why);
            Reply::Failed
        })?;
        Ok(self.ring(index).and_then(|ring| ring.spec(ring.enabled, journal)))
    }

    /// Whether the client keeps what is in flight on a ring.
    fn keeps_itself(&self, index: u16) -> bool {
        let inflight = self.conn.as_ref().and_then(|conn| conn.inflight.as_ref());
        inflight.is_some_and(|inflight| index < inflight.shape().0)
    }

    pub(super) fn start_prepared(
        &mut self,
        key: SessionKey,
        index: u16,
        queue: Box<BlkQueue>,
        lent: &mut Lent<'_>,
    ) -> Result<(), SessionError> {
        let notify = self.ring(index).ok_or(SessionError::Ended)?.notify();
        lent.control.start_prepared(key, index, queue, notify)
    }

    /// A ring was started, or not.
    pub(super) fn started(
        &mut self,
        index: u16,
        kick: Arc<ClientFd>,
        started: Result<(), NotStarted>,
        lent: &mut Lent<'_>,
    ) -> Reply {
        match started {
            Ok(()) => {
                if let Some(ring) = self.ring(index) {
                    (ring.stage, ring.broken) = (Stage::Running, false);
                    ring.kick = Some(kick);
                }
                if let Some(inflight) = self.conn.as_mut().and_then(|conn| conn.inflight.as_mut()) {
                    inflight.runs(index);
                }
                Reply::Done
            }
            Err(why) => {
                let what = format!("starting ring {index}");
                let session = self.key.and_then(|key| lent.control.session(key));
                if session.is_some_and(|s| s.registry().is_empty()) {
                    self.refuse(&what, &NO_MEMORY);
                } else {
                    self.refuse(&what, &why);
                }
                Reply::Failed
            }
        }
    }

    /// Where what is in flight of a ring is kept, once its size is known.
    fn journal(&mut self, index: u16, lent: &Lent<'_>) -> Result<Option<Window>, NoJournal> {
        let Some(conn) = &mut self.conn else { return Ok(None) };
        let Some((size, ring)) = conn.rings.get_mut(&index).and_then(|ring| Some((ring.size?, ring))) else {
            return Ok(None);
        };
        let client = conn.inflight.as_ref().map(|inflight| inflight.of(index, size)).transpose()?.flatten();
        if client.is_some() || !lent.stores {
            return Ok(client);
        }
        // What a killed server left counts once. Who starts a ring otherwise says where.
        let fresh = !core::mem::take(&mut ring.killed);
        Ok(Some(conn.own.of(index, size, fresh)?))
    }

    pub(super) fn stop(&mut self, key: SessionKey, index: u16, old: Old, lent: &mut Lent<'_>) {
        if let Some(ring) = self.ring(index) {
            ring.stage = Stage::Stopping;
        }
        let stops = match old {
            Old::First => lent.control.finish_queue(key, index),
            Old::Left => lent.control.stop_queue(key, index),
        };
        if let Err(why) = stops {
            // It does not run as control sees it: it is stopped.
            log::debug!("{}: stopping ring {index}: {why}", self.name);
            self.stopped(index, None, lent);
        }
    }

    fn renotify(&mut self, key: SessionKey, token: Token, index: u16, lent: &mut Lent<'_>) -> Option<Reply> {
        let ring = self.ring(index)?;
        if ring.stage == Stage::Running {
            let notify = ring.notify();
            let result = lent.control.set_notify(key, index, notify);
            return self.in_force(token, Order::Notify(index), "a notification", result);
        }
        Some(Reply::Done)
    }
}
