//! What one server leaves to the next, in the documents that the Linux home writes: made of what the server has, and taken up again as the home does it.
//!
//! Descriptors are told by number, as there; what is behind each is memory, or nothing.

use std::os::fd::OwnedFd;

use nvme_core::server::message::SessionKey;
use nvme_handover as handover;
use nvme_handover::File;
use nvme_linux::vhost::{Machine, Region, Reply, Talk, Token};
use nvme_mem::Window;
use nvme_session::virtqueue::journal_holds;

use crate::driver::QUEUES;
use crate::messages::JOURNAL;
use crate::seat::{Conn, Phase, Ring, Stage};
use crate::world::World;

/// What a descriptor is.
#[derive(Clone)]
pub(crate) enum Thing {
    /// A socket, an eventfd: nothing of it is looked at.
    Null,
    /// A region of the client's.
    Region(usize),
    /// Where the client keeps what is in flight.
    Journal,
    /// Where the server does.
    Own(Window),
}

/// The descriptors that go with a document.
#[derive(Default)]
pub(crate) struct Files(Vec<Thing>);

impl Files {
    pub(crate) fn add(&mut self, thing: Thing) -> File {
        self.0.push(thing);
        File(self.0.len() as u32 - 1)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    fn thing(&self, file: File) -> Thing {
        self.0.get(file.0 as usize).cloned().unwrap_or(Thing::Null)
    }
}

impl World {
    /// A seat's session, with its client. `None`: its device is gone, or what its client asked for is under way.
    pub(crate) fn session_state(&self, at: usize, files: &mut Files) -> Option<handover::Session> {
        let seat = &self.seats[at];
        let key = seat.key?;
        let core = handover::session(&self.control, key, &[])?;
        let connection = match &seat.conn {
            Some(conn) => Some(self.carry(conn, key, files)?),
            None => None,
        };
        let lifetime = seat.place.listens.then(|| files.add(Thing::Null));
        Some(handover::Session { lifetime, connection, ..core })
    }

    fn carry(&self, conn: &Conn, key: SessionKey, files: &mut Files) -> Option<handover::Connection> {
        let (talk, partial, attached) = conn.machine.talk()?;
        let [taken, owned, negotiated, touched] = talk.steps;
        let machine = handover::Machine {
            features: talk.features,
            protocol: talk.protocol,
            taken,
            owned,
            negotiated,
            touched,
            input: talk.input,
            files: partial.iter().map(|_| files.add(Thing::Null)).collect(),
            output: talk.output,
            attached: attached.map(|_| files.add(Thing::Null)),
        };
        let mut named: Vec<usize> = conn.regions.iter().map(|(_, file)| *file).collect();
        named.sort_unstable();
        named.dedup();
        let place = |file: usize| named.iter().position(|known| *known == file).unwrap_or(0) as u32;
        let memory = conn.regions.iter().map(|(region, file)| {
            let Region { guest, user, size: len, offset } = *region;
            handover::Memory { guest, user, len, offset, file: place(*file) }
        });
        let memory = memory.collect();
        let rings = conn.rings.iter().map(|(index, ring)| handover::Ring {
            index: *index,
            size: ring.size,
            addresses: ring.addresses,
            base: ring.base,
            enabled: ring.enabled,
            runs: ring.paused || ring.resumes || ring.stage == Stage::Running,
            kick: ring.kick.then(|| files.add(Thing::Null)),
            call: None,
            error: None,
        });
        let rings = rings.collect();
        let inflight = conn.inflight.as_ref().map(|inflight| {
            let thing = match inflight.file {
                JOURNAL => Thing::Journal,
                region => Thing::Region(region),
            };
            let (offset, rings, size) = (inflight.offset, inflight.rings, inflight.size);
            handover::Inflight { file: files.add(thing), offset, rings, size }
        });
        let own = conn.own.iter();
        let journals = own.map(|(ring, window)| handover::Journals {
            first: *ring,
            file: files.add(Thing::Own(window.clone())),
        });
        Some(handover::Connection {
            journals: journals.collect(),
            rings,
            socket: files.add(Thing::Null),
            channel: None,
            change_pending: false,
            peer: None,
            accepted: true,
            yields: false,
            machine,
            features: self.control.session(key)?.features(),
            memory,
            files: named.into_iter().map(|file| files.add(Thing::Region(file))).collect(),
            inflight,
        })
    }

    /// A session goes on, and its client. What is to be done for it is begun; `killed`: its server was killed.
    pub(crate) fn adopt(
        &mut self,
        session: handover::Session,
        files: &Files,
        killed: bool,
    ) -> Result<(), String> {
        let key = handover::adopt_session(&mut self.control, &session, &[]).map_err(|why| why.to_string())?;
        let at = self.seats.iter().position(|seat| seat.key == Some(key)).ok_or("it is nobody's")?;
        let was = self.seats[at].device;
        self.note_grant(at, key);
        let is = self.seats[at].device;
        let blocks = |d: Option<crate::seat::Device>| {
            d.map(|d| (d.holding.disk, d.holding.first, d.holding.sectors, d.holding.writes))
        };
        if blocks(was) != blocks(is) {
            self.find(crate::judge::Judge::Authority, || {
                format!("seat {at} had {was:?}, and has {is:?} in the next server")
            });
        }
        let Some(connection) = session.connection else {
            self.seats[at].phase = Phase::Free;
            return Ok(());
        };
        let handover::Connection { machine, memory, files: named, inflight, journals, rings, .. } =
            connection;
        let fds = |count: usize| -> Vec<OwnedFd> {
            (0..count).filter_map(|_| self.null.try_clone().ok()).collect()
        };
        let talk = Talk {
            features: machine.features,
            protocol: machine.protocol,
            steps: [machine.taken, machine.owned, machine.negotiated, machine.touched],
            input: machine.input,
            output: machine.output,
        };
        let attached = machine.attached.and_then(|_| fds(1).pop());
        let offered = self.control.session(key).map_or(0, |session| session.offered());
        let machine = Machine::resume((offered, QUEUES), talk, (fds(machine.files.len()), attached))
            .map_err(|why| why.to_string())?;
        let mut conn = Conn::new(machine, Default::default());
        for ring in rings {
            let known = Ring {
                size: ring.size,
                addresses: ring.addresses,
                base: ring.base,
                kick: ring.kick.is_some(),
                enabled: ring.enabled,
                stage: Stage::Stopped,
                paused: ring.runs,
                resumes: false,
                killed: ring.runs && killed,
                broken: false,
            };
            conn.rings.insert(ring.index, known);
        }
        for handover::Journals { first, file } in journals {
            if let Thing::Own(window) = files.thing(file) {
                conn.own.insert(first, window);
            }
        }
        for (index, ring) in &mut conn.rings {
            let own = conn.own.get(index).zip(ring.size);
            ring.killed |= own.is_some_and(|(own, size)| journal_holds(own, size));
        }
        conn.goes_on = inflight.map(|inflight| {
            let file = match files.thing(inflight.file) {
                Thing::Region(region) => region,
                _ => JOURNAL,
            };
            ((inflight.rings, inflight.size), inflight.offset, file)
        });
        let seat = &mut self.seats[at];
        // The client's side is the client's.
        if let Some(before) = seat.conn.take() {
            (conn.todo, conn.waiting, conn.rest) = (before.todo, before.waiting, before.rest);
        }
        (seat.conn, seat.phase) = (Some(conn), Phase::Connected);
        let mut claims = Vec::new();
        let mut numbers = Vec::new();
        for handover::Memory { guest, user, len: size, offset, file } in memory {
            let Thing::Region(region) = files.thing(*named.get(file as usize).ok_or("no such file")?) else {
                return Err("a region lies in no file of it".into());
            };
            claims.push(Region { guest, size, user, offset });
            numbers.push(region);
        }
        if !claims.is_empty() && self.change_memory(at, key, Token::NOBODY, None, &claims, &numbers).is_some()
        {
            return Err("its client's memory was refused".into());
        }
        Ok(())
    }

    /// Does the next step of what a seat's client had asked for. Whether all is done.
    pub(crate) fn take_up(&mut self, at: usize) -> Result<bool, String> {
        let seat = &mut self.seats[at];
        let (Some(key), Some(conn)) = (seat.key, &mut seat.conn) else { return Ok(true) };
        if conn.refused {
            return Err(format!("the memory of seat {at} was refused"));
        }
        if conn.pending.is_some() {
            return Ok(false);
        }
        let Some((shape, offset, file)) = conn.goes_on.take() else { return Ok(true) };
        if self.take_inflight(at, key, shape, offset, file) == Some(Reply::Done) {
            return Ok(true);
        }
        Err(format!("where seat {at} keeps what is in flight was refused"))
    }
}

/// What is in a connection's memory, by what was asked and done.
pub(crate) enum Change {
    Replace(Vec<(Region, usize)>),
    Add(Vec<(Region, usize)>),
    Remove(Region),
}

impl Conn {
    /// A change of memory is done, or not.
    pub(crate) fn changed(&mut self, done: bool) {
        let Some(change) = self.change.take().filter(|_| done) else { return };
        match change {
            Change::Replace(regions) => self.regions = regions,
            Change::Add(regions) => {
                let known = self.regions.clone();
                self.regions
                    .extend(regions.into_iter().filter(|(new, _)| !known.iter().any(|(k, _)| k == new)));
            }
            Change::Remove(region) => self.regions.retain(|(known, _)| {
                (known.guest, known.user, known.size) != (region.guest, region.user, region.size)
            }),
        }
    }
}

impl Conn {
    /// Whether nothing that its client asked for is under way.
    pub(crate) fn rests(&self) -> bool {
        self.pending.is_none() && self.machine.talk().is_some()
    }

    /// Whether nothing of what its client says, or of what it is told, is here.
    pub(crate) fn is_quiet(&self) -> bool {
        let talk = self.machine.talk();
        self.pending.is_none()
            && talk.is_some_and(|(talk, ..)| talk.input.is_empty() && talk.output.is_empty())
    }
}
