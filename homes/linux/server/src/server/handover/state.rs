//! All that the server has, as the next one gets it.

use std::os::fd::AsFd;
use std::time::UNIX_EPOCH;

use nvme_core::nvme;
use nvme_handover as handover;
use nvme_linux::vfio::Held;
use nvme_session::factory::FactoryView;

use super::super::Server;
use super::super::watched::Watched;
use super::Stays;
use super::give::LeftRunning;
use crate::capability::Capability as Minted;
use crate::devices::Served;
use crate::seat::{Seat, Source, peer};
use crate::upgrade::Files;

impl Server {
    pub(super) fn state<'a>(
        &'a self,
        head: Option<String>,
        lefts: &'a [(&str, Option<LeftRunning>)],
        files: &mut Files<'a>,
    ) -> Result<handover::State, Stays> {
        let mut sessions = Vec::new();
        for (id, seat) in &self.seats {
            if let Some(session) = self.session_state(*id, seat, files)? {
                sessions.push(session);
            }
        }
        let catalogue = self.control.catalogue();
        Ok(handover::State {
            next_session: catalogue.next_session(),
            next_factory: catalogue.next_factory(),
            head,
            factories: catalogue.factories().map(|factory| self.factory_state(factory, files)).collect(),
            sessions,
            callers: self.callers_state(files),
            lost: self.images.iter().flatten().filter_map(lost).collect(),
            drained: handover::drained(&self.control),
            stands_still: u64::try_from(self.stands_still().as_millis()).unwrap_or(u64::MAX),
            mapped: self.functions().map(|function| mapped(function, lefts, files)).collect(),
            store: self.store_state(files)?,
        })
    }

    pub(in super::super) fn factory_state<'a>(
        &'a self,
        factory: FactoryView<'a>,
        files: &mut Files<'a>,
    ) -> handover::Factory {
        let id = factory.id();
        let post = self.posts.get(&id);
        let mine = |(_, whose): &(_, &Minted)| **whose == Minted::Factory(id);
        let listener = post.filter(|post| post.cap.is_none()).and_then(|post| post.listener.as_ref());
        let connection =
            post.and_then(|post| post.connection).and_then(|token| match self.watched.get(&token) {
                Some(Watched::Caller(caller, ..)) => Some(files.add(caller.as_fd())),
                _ => None,
            });
        handover::Factory {
            capability: post.and_then(|post| post.cap.clone()),
            lifetime: post
                .and_then(|post| post.lifetime.as_ref())
                .map(|lifetime| files.add(lifetime.as_fd())),
            listener: listener.map(|listener| files.add(listener.as_fd())),
            connection,
            cookies: self.capabilities.iter().filter(mine).map(|(cookie, _)| cookie.number()).collect(),
            ..handover::factory(&self.control, factory, &self.names())
        }
    }

    /// What the trusted dataspaces are called.
    pub(in super::super) fn names(&self) -> Vec<&str> {
        self.trusted.names().collect()
    }

    /// Who is connected to the sockets of factories, and has asked for nothing that is not answered.
    fn callers_state<'a>(&'a self, files: &mut Files<'a>) -> Vec<handover::Caller> {
        let connections: Vec<u64> = self.posts.values().filter_map(|post| post.connection).collect();
        let callers = self.watched.iter().filter(|(token, _)| !connections.contains(token));
        let callers = callers.filter_map(|(_, watched)| match watched {
            Watched::Caller(caller, at, _) => {
                Some(handover::Caller { factory: at.number(), socket: files.add(caller.as_fd()) })
            }
            _ => None,
        });
        callers.collect()
    }

    pub(in super::super) fn session_state<'a>(
        &'a self,
        id: u32,
        seat: &'a Seat,
        files: &mut Files<'a>,
    ) -> Result<Option<handover::Session>, Stays> {
        let session = seat.key.and_then(|key| self.control.session(key));
        // A static client whose device is absent: the next server looks for it as this one did.
        let Some(session) = session else { return Ok(None) };
        let gone = || Stays::Why(format!("{}: its device is gone; end it first", seat.name));
        let connection = seat.carry(session.features(), files);
        if connection.is_none() && seat.conn.is_some() {
            return Err(Stays::Why(format!("{}: what its client asked for is still under way", seat.name)));
        }
        let mine = |(_, whose): &(_, &Minted)| **whose == Minted::Session(id);
        let listener = match &seat.source {
            Source::Listener(listener) if seat.cap.is_none() => Some(files.add(listener.as_fd())),
            _ => None,
        };
        let core = seat.key.and_then(|key| handover::session(&self.control, key, &self.names()));
        let core = core.ok_or_else(gone)?;
        Ok(Some(handover::Session {
            client: seat.cap.clone(),
            owner: seat.owner.map(peer),
            since: seat.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64),
            cookies: self.capabilities.iter().filter(mine).map(|(cookie, _)| cookie.number()).collect(),
            lifetime: seat.lifetime.as_ref().map(|lifetime| files.add(lifetime.as_fd())),
            listener,
            waiting: seat.waiting.iter().map(|waiter| files.add(waiter.socket.as_fd())).collect(),
            barred: seat.barred,
            connection,
            ..core
        }))
    }
}

/// What an image lost, if it did.
fn lost(served: &Served) -> Option<handover::Lost> {
    let image = served.stored.image();
    let errno = image.lost()?.raw_os_error();
    Some(handover::Lost { serial: image.serial().to_owned(), errno })
}

fn mapped<'a>(
    (word, held): (&str, &Held),
    lefts: &'a [(&str, Option<LeftRunning>)],
    files: &mut Files<'a>,
) -> handover::Mapped {
    let left = lefts.iter().find(|(known, _)| *known == word).and_then(|(_, left)| left.as_ref());
    let left = left.map(|LeftRunning { file, at, left }| {
        let nvme::Left { tail, head, phase, events, pairs, live } = left.clone();
        handover::Left { file: files.add(file.as_fd()), at: at.0, tail, head, phase, events, pairs, live }
    });
    handover::Mapped { word: word.to_owned(), ranges: held.addresses(), left }
}
