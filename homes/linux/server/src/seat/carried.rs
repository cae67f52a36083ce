//! A seat's client goes on in another server, or in this one.
//!
//! Here its rings are stopped first, as the client could have asked for it. There everything is done again that the client asked for here,
//! by the same rules and in the same lanes, without the client: its memory is registered, then where it keeps what is in flight, and when
//! all that has come to an end and the server before has let go, its rings are started.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nvme_core::server::message::Old;
use nvme_handover as handover;
use nvme_handover::File;
use nvme_linux::dispose::ClientFd;
use nvme_linux::socket::Peer;
use nvme_linux::vhost::{Connection, Region, RegionFile, Reply, Talk, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::fcntl_dupfd_cloexec;

use super::{Conn, Seat};
use crate::lent::Lent;
use crate::regions::Wanted;
use crate::rings::{Ring, Stage, check_kick};
use crate::upgrade::{Files, Given};

/// What is still to be done of what another server's client had asked for.
#[derive(Default)]
pub(super) struct GoingOn {
    /// Where it keeps what is in flight.
    inflight: Option<(u16, u16, u64, OwnedFd)>,
    /// Something was refused.
    refused: bool,
}

impl Seat {
    /// Stops what runs, to go on elsewhere. Whether all stands still.
    pub(crate) fn pause(&mut self, lent: &mut Lent<'_>) -> bool {
        let (Some(key), Some(conn)) = (self.key, &mut self.conn) else { return true };
        let runs: Vec<u16> =
            conn.rings.iter().filter(|(_, r)| r.stage == Stage::Running).map(|(index, _)| *index).collect();
        for (index, ring) in &mut conn.rings {
            ring.paused |= core::mem::take(&mut ring.resumes) || runs.contains(index);
        }
        for index in runs {
            self.stop(key, index, Old::Left, lent);
        }
        self.stands_still()
    }

    /// Starts again what was stopped to go on elsewhere.
    pub(crate) fn unpause(&mut self, lent: &mut Lent<'_>) {
        let (Some(key), Some(conn)) = (self.key, &mut self.conn) else { return };
        let paused: Vec<u16> = conn.rings.iter().filter(|(_, r)| r.paused).map(|(index, _)| *index).collect();
        for index in paused {
            let killed = self.ring(index).is_some_and(|ring| {
                ring.paused = false;
                ring.resumes = ring.stage == Stage::Stopping;
                ring.killed
            });
            self.start_again(key, index, lent);
            // The server before may have died between an answer and the news of it, or have left one that waited to be sent.
            if let Some(ring) = self.ring(index) {
                ring.killed &= !killed;
                let notify = ring.notify();
                self.lane.put(move || notify.used());
            }
        }
    }

    /// Whether no ring of it runs.
    pub(crate) fn stands_still(&self) -> bool {
        self.conn.as_ref().is_none_or(|conn| !conn.rings.values().any(Ring::is_busy))
    }

    /// A ring of it broke.
    pub(crate) fn is_broken(&mut self, index: u16) {
        if let Some(ring) = self.ring(index) {
            ring.broken = true;
        }
    }

    /// Whether rings of it stop, and its client wants nothing of that: they are to go on.
    pub(crate) fn stops_for_another(&self) -> bool {
        let Some(conn) = self.conn.as_ref().filter(|conn| conn.pending.is_none()) else { return false };
        let mut stopping = conn.rings.values().filter(|ring| ring.stage == Stage::Stopping).peekable();
        stopping.peek().is_some() && stopping.all(|ring| ring.paused || ring.resumes)
    }

    /// Whether nothing that its client asked for is under way.
    pub(crate) fn rests(&self) -> bool {
        let asks =
            self.conn.as_ref().is_some_and(|conn| conn.pending.is_some() || conn.connection.talk().is_none());
        self.at_lane == 0 && !asks
    }

    /// Whether its client, where it has one, has nothing to say: nothing of it lies here, or in its socket, and nothing is on its way there.
    pub(crate) fn is_quiet(&self) -> bool {
        let Some(conn) = &self.conn else { return true };
        let Some((talk, partial, attached)) = conn.connection.talk() else { return false };
        let here =
            !talk.input.is_empty() || !talk.output.is_empty() || !partial.is_empty() || attached.is_some();
        // It is to be told of news; or its time begins again.
        let awaited = conn.connection.channel().1 || conn.is_silent();
        let socket = conn.socket();
        let mut look = [PollFd::new(&socket, PollFlags::IN)];
        !here && !awaited && matches!(poll(&mut look, Some(&Timespec::default())), Ok(0))
    }

    /// Its client as another server takes it over. `None`: there is none, or what it asked for is under way.
    pub(crate) fn carry<'a>(&'a self, features: u64, files: &mut Files<'a>) -> Option<handover::Connection> {
        let conn = self.conn.as_ref()?;
        let (talk, partial, attached) = conn.connection.talk()?;
        let (channel, change_pending) = conn.connection.channel();
        let [taken, owned, negotiated, touched] = talk.steps;
        let machine = handover::Machine {
            features: talk.features,
            protocol: talk.protocol,
            taken,
            owned,
            negotiated,
            touched,
            input: talk.input,
            files: partial.into_iter().map(|file| files.add(file)).collect(),
            output: talk.output,
            attached: attached.map(|file| files.add(file)),
        };
        let (mut memory, mut named) = (Vec::new(), Vec::new());
        if let Some(kept) = &conn.files {
            let each = kept.each();
            for kept in kept.regions() {
                let at = each.iter().position(|file| Arc::ptr_eq(file, &kept.file))?;
                let Region { guest, size: len, user, offset } = kept.region;
                memory.push(handover::Memory { guest, user, len, offset, file: u32::try_from(at).ok()? });
            }
            for file in each {
                named.push(files.add(file.as_fd()?));
            }
        }
        let inflight = match (&conn.inflight, conn.files.as_ref().and_then(|kept| kept.inflight())) {
            (Some(inflight), Some((file, offset))) => {
                let (rings, size) = inflight.shape();
                Some(handover::Inflight { file: files.add(file), offset, rings, size })
            }
            _ => None,
        };
        let rings = conn.rings.iter().map(|(index, ring)| {
            let [kick, call, error] = ring.events().map(|event| event.map(|event| files.add(event)));
            handover::Ring {
                index: *index,
                size: ring.size,
                addresses: ring.addresses,
                base: ring.base,
                enabled: ring.enabled,
                runs: ring.goes_on(),
                kick,
                call,
                error,
            }
        });
        let rings = rings.collect();
        let journals =
            conn.own.files().map(|(first, file)| handover::Journals { first, file: files.add(file) });
        Some(handover::Connection {
            journals: journals.collect(),
            rings,
            socket: files.add(conn.connection.as_fd()),
            channel: channel.map(|channel| files.add(channel)),
            change_pending,
            peer: conn.peer.map(peer),
            accepted: conn.accepted,
            yields: conn.yields,
            machine,
            features,
            memory,
            files: named,
            inflight,
        })
    }

    /// Takes the client of another server over; `killed`: of one that was killed, and did not stop its rings. What is to be done for it is begun; [`rests`](Self::rests) says when a step is, and
    /// [`take_up`](Self::take_up) does the next.
    pub(crate) fn adopt(
        &mut self,
        carried: handover::Connection,
        token: u64,
        given: &mut Given,
        killed: bool,
        lent: &mut Lent<'_>,
    ) -> Result<(), String> {
        let Some(key) = self.key else { return Err("it has no session".into()) };
        let handover::Connection { machine, memory, files, inflight, journals, .. } = carried;
        let offered = lent.control.session(key).map_or(0, |session| session.offered());
        let queues = lent.control.config().queues;
        let talk = Talk {
            features: machine.features,
            protocol: machine.protocol,
            steps: [machine.taken, machine.owned, machine.negotiated, machine.touched],
            input: machine.input,
            output: machine.output,
        };
        let partial = machine.files.into_iter().map(|file| given.take(file)).collect::<Result<_, _>>()?;
        let attached = machine.attached.map(|file| given.take(file)).transpose()?;
        let channel = carried.channel.map(|file| given.take(file)).transpose()?;
        let socket = given.take(carried.socket)?;
        let channel = (channel, carried.change_pending);
        let connection = Connection::resume(socket, (offered, queues), talk, (partial, attached), channel)
            .map_err(|why| why.to_string())?;
        let peer = carried.peer.map(peer_of);
        let mut conn = Conn::new(connection, peer, token, carried.accepted, lent.now);
        conn.yields = carried.yields;
        for handover::Journals { first, file } in journals {
            conn.own.take(first, given.take(file)?).map_err(|why| why.to_string())?;
        }
        for ring in carried.rings {
            let mut take = |file: Option<File>| file.map(|file| given.take(file)).transpose();
            let (kick, call, error) = (take(ring.kick)?, take(ring.call)?, take(ring.error)?);
            if let Some(kick) = &kick {
                check_kick(kick)?;
            }
            let mut known = Ring {
                size: ring.size,
                addresses: ring.addresses,
                base: ring.base,
                kick: kick.map(|kick| Arc::new(ClientFd::new(kick))),
                enabled: ring.enabled,
                paused: ring.runs,
                // One that was taken up and not served since, or stopped before all of that was done, has still what its journal says.
                killed: ring.runs && killed || ring.size.is_some_and(|size| conn.own.holds(ring.index, size)),
                ..Ring::default()
            };
            known.set_call(call, &self.account).map_err(|why| why.to_string())?;
            known.set_error(error, &self.account).map_err(|why| why.to_string())?;
            if conn.rings.insert(ring.index, known).is_some() {
                return Err(format!("ring {} is there twice", ring.index));
            }
        }
        self.conn = Some(conn);
        let mut going_on = GoingOn::default();
        if let Some(handover::Inflight { file, offset, rings, size }) = inflight {
            going_on.inflight = Some((rings, size, offset, given.take(file)?));
        }
        self.going_on = Some(going_on);
        let files = files.into_iter().map(|file| given.take(file)).collect::<Result<Vec<_>, _>>()?;
        let mut regions = Vec::with_capacity(memory.len());
        for handover::Memory { guest, user, len, offset, file } in memory {
            let file = usize::try_from(file).ok().and_then(|at| files.get(at));
            let file = file.ok_or("a region lies in no file of it")?;
            let file = fcntl_dupfd_cloexec(file, 0).map_err(|why| why.to_string())?;
            regions.push(RegionFile { region: Region { guest, size: len, user, offset }, file });
        }
        self.lane.put(move || drop(files));
        if !regions.is_empty() {
            self.look(Token::NOBODY, Wanted::Replace, regions, lent);
        }
        Ok(())
    }

    /// Does the next step of what another server's client had asked for. `Ok(true)`: all is done.
    pub(crate) fn take_up(&mut self, lent: &mut Lent<'_>) -> Result<bool, String> {
        if self.going_on.as_ref().is_some_and(|going_on| going_on.refused) {
            return Err("its client's memory was refused".into());
        }
        if !self.rests() {
            return Ok(false);
        }
        let (Some(key), Some(going_on)) = (self.key, &mut self.going_on) else { return Ok(true) };
        let Some((rings, size, offset, file)) = going_on.inflight.take() else { return Ok(true) };
        if let Some(Reply::Failed) = self.take_inflight(key, Token::NOBODY, (rings, size), offset, file, lent)
        {
            return Err("where its client keeps what is in flight was refused".into());
        }
        Ok(false)
    }

    /// Whether that is still under way.
    pub(crate) fn is_going_on(&self) -> bool {
        self.going_on.is_some()
    }

    /// The client of another server is this one's.
    pub(crate) fn is_taken_up(&mut self) {
        self.going_on = None;
    }

    /// What nobody asked for here is done.
    pub(super) fn went_on(&mut self, reply: &Reply) {
        if let (Reply::Failed, Some(going_on)) = (reply, &mut self.going_on) {
            going_on.refused = true;
        }
    }
}

/// As the document has it.
pub(crate) fn peer(peer: Peer) -> handover::Peer {
    let Peer { pid, uid, gid } = peer;
    handover::Peer { pid, uid, gid }
}

/// The other way.
pub(crate) fn peer_of(peer: handover::Peer) -> Peer {
    let handover::Peer { pid, uid, gid } = peer;
    Peer { pid, uid, gid }
}
