//! This server takes over from the one that runs.
//!
//! It has what that one was started with, has opened and started all that it needs, and has closed its sandbox. Now the other stands still,
//! and this one builds anew what the other has: sessions under their numbers, their clients' memory, their rings. Until the other has said its
//! last word nothing of it is used: nobody is read from or answered, no ring runs, nothing is written down. Whatever does not pass ends this
//! server, and the other goes on.

use std::os::fd::OwnedFd;
use std::time::{Duration, UNIX_EPOCH};

use nvme_audit as audit;
use nvme_audit::Record;
use nvme_core::nvme;
use nvme_core::server::control::{Drained, Event};
use nvme_core::server::message::SessionKey;
use nvme_handover as handover;
use nvme_linux::events::{Epoll, Interest, now};
use nvme_linux::factory::Caller;
use nvme_linux::logger::SERVER;
use nvme_linux::socket::Cookie;
use nvme_platform::{Iova, Time};
use nvme_session::factory::FactoryId;

use super::factories::Post;
use super::{Server, Watched};
use crate::capability::Capability;
use crate::devices::Over;
use crate::failure::Failure;
use crate::hints::Told;
use crate::keep::Board;
use crate::seat::{Phase, Seat, Source, Waiter, peer_of};
use crate::upgrade::{Given, Predecessor};

/// How long before the other goes on all of it has to be built anew.
const BEFORE: Duration = Duration::from_secs(2);
/// How long the other stands still at most, whatever it says.
const STANDS_STILL_MAX: Duration = Duration::from_secs(120);

impl Server {
    /// Takes over all that the other server has. On failure the other goes on.
    pub(crate) fn take_over(&mut self, from: &Predecessor) -> Result<(), Failure> {
        let start = now();
        let built = self.build(from, start);
        if let Err(why) = &built {
            from.refuse(&why.to_string());
        }
        let board = built?;
        from.take_over().map_err(|why| Failure::Failed(why.into()))?;
        for (word, held) in self.functions() {
            // What the other had mapped is reached by no controller from here on.
            held.reclaim().map_err(|why| Failure::Failed(format!("{word}: {why}").into()))?;
        }
        self.go_on_keeping(board.as_ref(), from.link());
        self.await_main(from.link());
        // From here on all of it is this server's.
        let time = now();
        (self.upgrades.frozen, self.upgrades.taking) = (false, false);
        let pid = from.pid;
        log::info!(target: SERVER, "took over from pid {pid} after {} ms", (time - start).as_millis());
        let version = concat!("nvme-drv ", env!("CARGO_PKG_VERSION"));
        let why = Some(format!("{version} takes over from pid {pid}"));
        self.note(Record { why, ..Record::of(audit::Event::Upgrade) }, time);
        self.control_event(Event::Scanned, time);
        self.go_on(time);
        Ok(())
    }

    /// All that the other server has. The board of what it keeps, if it does.
    fn build(&mut self, from: &Predecessor, start: Time) -> Result<Option<Board>, Failure> {
        (self.upgrades.frozen, self.upgrades.taking) = (true, true);
        let (state, mut given) = from.state().map_err(|why| Failure::Failed(why.into()))?;
        let stands_still = Duration::from_millis(state.stands_still).min(STANDS_STILL_MAX);
        let until = start + stands_still.saturating_sub(BEFORE);
        for mapped in &state.mapped {
            let taken = self.take_function(mapped, &mut given);
            taken.map_err(|why| Failure::asked(format!("{}: {why}", mapped.word)))?;
        }
        let own = self.own_events()?;
        while !self.control.scanned() {
            self.wait(&own, until, "its controllers are not scanned in time")?;
        }
        let time = now();
        let handover::State {
            next_session,
            next_factory,
            head,
            factories,
            sessions,
            callers,
            lost,
            drained,
            mapped: _,
            stands_still: _,
            store,
        } = state;
        if let (Some(audit), Some(head)) = (&mut self.audit, head) {
            audit.go_on_behind(&head).map_err(Failure::asked)?;
        }
        for handover::Lost { serial, errno } in lost {
            let image = self.images.iter().flatten().find(|served| served.stored.image().serial() == serial);
            let image = image.ok_or_else(|| Failure::asked(format!("{serial}: there is no such image")))?;
            image.stored.image().take_loss(errno);
        }
        for drained in drained {
            let drained = self.drained_of_state(&drained).ok_or("what is drained there is not here");
            self.control.drain(drained.map_err(Failure::asked)?);
        }
        for factory in factories {
            let name = format!("factory {}", factory.number);
            let adopted = self.adopt_factory(factory, &mut given, time);
            adopted.map_err(|why| Failure::asked(format!("{name}: {why}")))?;
        }
        for session in sessions {
            let name = format!("session {}", session.number);
            self.adopt(session, &mut given, false, time)
                .map_err(|why| Failure::asked(format!("{name}: {why}")))?;
        }
        self.control.catalogue_mut().begin_at(next_session);
        self.control.catalogue_mut().begin_factories_at(next_factory);
        for handover::Caller { factory, socket } in callers {
            let caller = self.factory_of(factory).and_then(|at| Ok((at, given.take(socket)?)));
            let taken = caller.and_then(|(at, socket)| self.adopt_caller(at, socket, time));
            taken.map_err(|why| Failure::asked(format!("a caller of factory {factory}: {why}")))?;
        }
        while !self.taken_up()? {
            self.wait(&own, until, "clients' memory is not mapped in time")?;
        }
        self.adopt_store(store, &mut given).map_err(Failure::asked)
    }

    /// A hardware controller: its addresses, and how it was left running, if it was.
    fn take_function(&mut self, mapped: &handover::Mapped, given: &mut Given) -> Result<(), String> {
        let handover::Mapped { word, ranges, left } = mapped;
        let mut all = self.upgrades.began.controllers.iter().zip(0_u16..);
        let found = all.find_map(|((known, over), index)| match over {
            Over::Hardware(held) if known == word => Some((held, index)),
            _ => None,
        });
        let (held, index) = found.ok_or("it is not here")?;
        held.begin_beside(ranges).map_err(|why| why.to_string())?;
        let Some(left) = left.clone() else {
            log::info!(target: SERVER, "{word}: something is under way there: it is reset");
            return Ok(());
        };
        let handover::Left { file, at, tail, head, phase, events, pairs, live } = left;
        let (file, at) = (given.take(file)?, Iova(at));
        let memory = held.take(at, file).map_err(|why| why.to_string())?;
        let left = nvme::Left { tail, head, phase, events, pairs, live };
        self.control.go_on_with_device(index, left, memory);
        Ok(())
    }

    fn wait(&mut self, own: &Epoll, until: Time, late: &str) -> Result<(), Failure> {
        if now() >= until {
            return Err(Failure::Failed(late.into()));
        }
        Ok(self.turn_still(own, until)?)
    }

    /// Whether all that clients had asked for is done here, too.
    fn taken_up(&mut self) -> Result<bool, Failure> {
        let (time, ids) = (now(), self.seats.keys().copied().collect::<Vec<u32>>());
        let mut all = true;
        for id in ids {
            let Some(step) = self.lend(id, time, |seat, lent| seat.take_up(lent)) else { continue };
            let name = self.seats.get(&id).map(|seat| seat.name.clone()).unwrap_or_default();
            all &= step.map_err(|why| Failure::asked(format!("{name}: {why}")))?;
        }
        if all {
            self.seats.values_mut().for_each(Seat::is_taken_up);
        }
        Ok(all)
    }

    /// A session goes on here, at the seat that is returned. `killed`: its server was killed.
    pub(super) fn adopt(
        &mut self,
        session: handover::Session,
        given: &mut Given,
        killed: bool,
        time: Time,
    ) -> Result<u32, String> {
        let text = |why: &dyn core::fmt::Display| why.to_string();
        let names: Vec<&str> = self.trusted.names().collect();
        let key = handover::adopt_session(&mut self.control, &session, &names).map_err(|why| told(&why))?;
        let id = match &session.client {
            Some(client) => self.static_seat(client)?,
            None => self.dynamic_seat(&session, key, given)?,
        };
        let canonical = self.control.session(key).map(|session| session.minted().device().to_owned());
        self.by_session.insert(key, id);
        for cookie in &session.cookies {
            self.capabilities.insert(Cookie::from_number(*cookie), Capability::Session(id));
        }
        let Some(seat) = self.seats.get_mut(&id) else { return Err("it has no place".into()) };
        (seat.key, seat.phase) = (Some(key), Phase::Free);
        seat.device = canonical.unwrap_or_default();
        seat.owner = session.owner.map(peer_of);
        seat.since = UNIX_EPOCH + Duration::from_nanos(session.since);
        seat.barred = session.barred;
        for file in session.waiting {
            let socket = given.take(file)?;
            let token = self.next_token;
            self.epoll.add(&socket, token, Interest::ReadEdge).map_err(|why| text(&why))?;
            if let Some(seat) = self.seats.get_mut(&id) {
                seat.waiting.push_back(Waiter { socket: socket.into(), token });
            }
            self.token(Watched::Waiter(id));
        }
        if let Some(connection) = session.connection {
            let token = self.token(Watched::Conn(id));
            self.lend(id, time, |seat, lent| seat.adopt(connection, token, given, killed, lent))
                .unwrap_or(Ok(()))?;
            let Some(seat) = self.seats.get_mut(&id) else { return Err("it has no place".into()) };
            seat.phase = Phase::Connected;
            if let Some(conn) = &seat.conn {
                self.epoll.add(conn.socket(), token, Interest::Read).map_err(|why| text(&why))?;
            }
            self.watch_conn(id);
        }
        Ok(id)
    }

    /// What is drained, in this server's terms. `None`: it is not here, or there are two of that number.
    pub(super) fn drained_of_state(&self, drained: &handover::Drained) -> Option<Drained> {
        handover::drained_of(&self.control, drained, |serial| self.awaited(serial))
    }

    pub(super) fn factory_of(&self, number: u64) -> Result<FactoryId, String> {
        let found = self.control.catalogue().factory_numbered(number);
        found.ok_or_else(|| format!("there is no factory {number}"))
    }

    /// A factory goes on here.
    pub(super) fn adopt_factory(
        &mut self,
        factory: handover::Factory,
        given: &mut Given,
        time: Time,
    ) -> Result<(), String> {
        let number = factory.number;
        let known = self.control.catalogue().factory_numbered(number).and_then(|id| self.posts.get(&id));
        if known.and_then(|post| post.cap.as_ref()) != factory.capability.as_ref() {
            let cap = factory.capability.as_deref().unwrap_or("another");
            return Err(format!(
                "it is {cap}'s there, and not here: the words of --factory must be the same"
            ));
        }
        let names: Vec<&str> = self.trusted.names().collect();
        let id = handover::adopt_factory(&mut self.control, &factory, &names).map_err(|why| told(&why))?;
        for cookie in factory.cookies {
            self.capabilities.insert(Cookie::from_number(cookie), Capability::Factory(id));
        }
        if factory.capability.is_some() {
            return Ok(());
        }
        let failed = |why: std::io::Error| why.to_string();
        let mut post = Post::new(self.factory_name(id), self.control.catalogue().top_of(id).number());
        let lifetime = given.take(factory.lifetime.ok_or("nobody holds its lifetime")?)?;
        let token = self.token(Watched::FactoryLifetime(id));
        self.epoll.add(&lifetime, token, Interest::Read).map_err(failed)?;
        post.lifetime = Some(lifetime.into());
        if let Some(listener) = factory.listener {
            let listener = given.take(listener)?;
            let token = self.token(Watched::FactoryListener(id));
            self.epoll.add(&listener, token, Interest::Read).map_err(failed)?;
            post.listener = Some(listener.into());
        }
        if let Some(connection) = factory.connection {
            let socket = given.take(connection)?;
            post.connection = Some(self.adopt_caller(id, socket, time)?);
        }
        self.posts.insert(id, post);
        Ok(())
    }

    /// Somebody is connected to a factory's socket. Nothing is read from there yet.
    fn adopt_caller(&mut self, at: FactoryId, socket: OwnedFd, time: Time) -> Result<u64, String> {
        let caller = Caller::new(socket).map_err(|why| why.to_string())?;
        let token = self.next_token;
        self.epoll.add(&caller, token, Interest::Read).map_err(|why| why.to_string())?;
        Ok(self.token(Watched::Caller(caller, at, time)))
    }

    /// The place of a static client, which is there since its options were read.
    fn static_seat(&self, client: &str) -> Result<u32, String> {
        let mine = |(_, seat): &(&u32, &Seat)| seat.cap.as_deref() == Some(client) && seat.key.is_none();
        let found = self.seats.iter().find(mine).map(|(id, _)| *id);
        found.ok_or_else(|| format!("there is no --client {client}"))
    }

    fn dynamic_seat(
        &mut self,
        session: &handover::Session,
        key: SessionKey,
        given: &mut Given,
    ) -> Result<u32, String> {
        let minted = self.control.session(key).ok_or("there is no such session")?.minted();
        let (policy, factory) = (minted.policy().clone(), minted.factory());
        let id = self.next_seat;
        self.next_seat += 1;
        let through = match factory {
            FactoryId::SERVER => String::new(),
            id => format!(" of {}", self.post_name(id)),
        };
        let name = format!("session {}{through}", key.0);
        let group = self.group_of(factory);
        let mut seat = Seat::new(name, group, policy, Source::Connection, self.budget.dynamic);
        (seat.factory, seat.tenant) = (factory, self.tenant_of(factory));
        let failed = |why: std::io::Error| why.to_string();
        match (session.lifetime, session.listener) {
            (Some(lifetime), Some(listener)) => {
                let (lifetime, listener) = (given.take(lifetime)?, given.take(listener)?);
                let token = self.token(Watched::Lifetime(id));
                self.epoll.add(&lifetime, token, Interest::Read).map_err(failed)?;
                let token = self.token(Watched::Listener(id));
                self.epoll.add(&listener, token, Interest::Read).map_err(failed)?;
                (seat.lifetime, seat.source) = (Some(lifetime.into()), Source::Listener(listener.into()));
            }
            (None, None) if session.connection.is_some() => {}
            _ => return Err("nobody has its capability".into()),
        }
        self.seats.insert(id, seat);
        Ok(id)
    }
}

/// Why something does not go on here, in this home's words.
fn told(why: &handover::NotTaken) -> String {
    match why {
        handover::NotTaken::Create(why) => Told(why).to_string(),
        handover::NotTaken::Session(why) => Told(why).to_string(),
        why => why.to_string(),
    }
}
