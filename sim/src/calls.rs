//! What a client asks of its session, done as the Linux home does it.

use nvme_core::server::control::{Control, InForce, MemoryChange, QueueSpec, RegionMemory, SessionError};
use nvme_core::server::message::{Old, SessionKey};
use nvme_linux::vhost::{Call, Region, Reply, Token};
use nvme_platform::{Notify, Window};
use nvme_policy::Dataspaces;
use nvme_session::dataspace::{Claim, File, FileId};
use nvme_session::queue::{AddressSpace, RingAddresses};
use nvme_session::virtqueue::{forget_journal, journal_holds};

use crate::driver::{REGIONS, SEALED, Share};
use crate::handed::Change;
use crate::judge::Judge;
use crate::judge::court::Arena;
use crate::judge::{rate, register};
use crate::messages::JOURNAL;
use crate::seat::{Pending, Ring, Stage};
use crate::world::World;

/// How a virtqueue is started.
type Start = fn(&mut Control, SessionKey, u16, QueueSpec, Box<dyn Notify>) -> Result<(), SessionError>;

fn start_opened(
    control: &mut Control,
    key: SessionKey,
    index: u16,
    spec: QueueSpec,
    notify: Box<dyn Notify>,
) -> Result<(), SessionError> {
    let mut queue = control.prepare_queue(key, index, spec)?;
    queue.touch();
    if queue.broken().is_some() {
        Err(SessionError::Queue)
    } else {
        control.start_prepared(key, index, queue, notify)
    }
}

/// Those of the trusted dataspaces, by bits.
fn trusted_by(bits: u64) -> Dataspaces {
    let places: Vec<usize> = (0..64).filter(|place| bits >> place & 1 == 1).collect();
    Dataspaces::of(&places)
}

impl World {
    pub(crate) fn ring(&mut self, at: usize, ring: u16) -> Option<&mut Ring> {
        let conn = self.seats[at].conn.as_mut()?;
        let enabled = conn.machine.rings_start_enabled();
        Some(conn.rings.entry(ring).or_insert_with(|| Ring { enabled, ..Ring::default() }))
    }

    fn pend(&mut self, at: usize, pending: Pending) {
        if let Some(conn) = &mut self.seats[at].conn {
            conn.pending = Some(pending);
        }
    }

    pub(crate) fn call(&mut self, at: usize, token: Token, call: Call, file: &[usize]) -> Option<Reply> {
        let done = |ok: bool| Some(if ok { Reply::Done } else { Reply::Failed });
        let key = self.seats[at].key?;
        match call {
            Call::SetFeatures(bits) => {
                let same = self.control.session(key).is_some_and(|s| s.features() == bits);
                done(same || self.control.set_features(key, bits).is_ok())
            }
            Call::SetMemTable(files) => {
                let claims: Vec<Region> = files.iter().map(|f| f.region).collect();
                self.change_memory(at, key, token, None, &claims, file)
            }
            Call::AddRegion(one) => self.change_memory(at, key, token, Some(()), &[one.region], file),
            Call::RemoveRegion(region) => {
                let Region { guest, user, size, .. } = region;
                self.changes(at, Change::Remove(region));
                let change = MemoryChange::Remove(guest, user, size);
                let plan = self.control.plan_memory(key, &change);
                let result = plan.and_then(|plan| self.control.change_memory(&plan, Vec::new()));
                self.asked(at, token, result)
            }
            Call::SetRingSize { ring, size } => {
                done(self.still(at, ring).map(|r| r.size = Some(size)).is_some())
            }
            Call::SetRingAddresses { ring, desc, avail, used } => {
                done(self.still(at, ring).map(|r| r.addresses = Some((desc, avail, used))).is_some())
            }
            Call::SetRingBase { ring, base } => done(self.still(at, ring).map(|r| r.base = base).is_some()),
            Call::GetRingBase { ring } => {
                let known = self.ring(at, ring)?;
                if known.stage == Stage::Stopped {
                    known.kick = false;
                    return Some(Reply::RingBase(known.base));
                }
                self.pend(at, Pending::Base(token, ring));
                self.stop(at, key, ring, Old::First);
                None
            }
            // The sim's eventfds are no descriptors.
            Call::SetKick { ring, .. } => {
                let known = self.ring(at, ring)?;
                known.kick = true;
                if known.stage == Stage::Running {
                    return Some(Reply::Done);
                }
                self.start(at, key, ring)
            }
            Call::SetCall { ring, .. } | Call::SetError { ring, .. } => {
                if self.ring(at, ring)?.stage != Stage::Running {
                    return Some(Reply::Done);
                }
                let notify = self.seats[at].driver.as_ref()?.queues.get(usize::from(ring))?.notify.clone();
                match self.control.set_notify(key, ring, Box::new(notify)) {
                    Ok(InForce::Later) => {
                        self.pend(at, Pending::Notify(token, ring));
                        None
                    }
                    other => done(other.is_ok()),
                }
            }
            Call::EnableRing { ring, on } => {
                let known = self.ring(at, ring)?;
                known.enabled = on;
                if on {
                    return self.start(at, key, ring);
                }
                if known.stage == Stage::Stopped {
                    return Some(Reply::Done);
                }
                self.pend(at, Pending::Disable(token, ring));
                self.stop(at, key, ring, Old::Left);
                None
            }
            Call::GetConfig { offset, len } => {
                let mut bytes = vec![0; len as usize];
                self.control.session(key)?.read_config(offset, &mut bytes);
                Some(Reply::Config(bytes))
            }
            Call::SetConfig { offset, data } => match self.control.write_config(key, offset, &data) {
                Ok(InForce::Later) => {
                    self.pend(at, Pending::WriteBack(token));
                    None
                }
                other => done(other.is_ok()),
            },
            Call::ResetDevice => {
                self.pend(at, Pending::Reset(token));
                for ring in self.control.running_queues(key) {
                    self.stop(at, key, ring, Old::Left);
                }
                self.settle_reset(at);
                None
            }
            Call::StartSession => {
                self.pend(at, Pending::Start(token));
                self.control.clear(key);
                None
            }
            Call::SetBackendChannel(_) => Some(Reply::Done),
            Call::GetInflight { rings, size } => self.make_inflight(at, token, rings, size),
            Call::SetInflight { rings, size, offset, .. } => {
                self.take_inflight(at, key, (rings, size), offset, *file.first()?)
            }
        }
    }

    /// What a client's file is.
    pub(crate) fn window_of(&self, at: usize, file: usize) -> Option<Window> {
        let driver = self.seats[at].driver.as_ref()?;
        match file {
            JOURNAL => driver.journal.as_ref().map(|journal| journal.window.clone()),
            region => Some(driver.memory[region % 3].window.clone()),
        }
    }

    fn still(&mut self, at: usize, ring: u16) -> Option<&mut Ring> {
        self.ring(at, ring).filter(|ring| ring.stage == Stage::Stopped)
    }

    fn asked(&mut self, at: usize, token: Token, result: Result<(), SessionError>) -> Option<Reply> {
        if result.is_ok() {
            self.pend(at, Pending::Memory(token));
            return None;
        }
        if let Some(conn) = &mut self.seats[at].conn {
            conn.change = None;
        }
        Some(Reply::Failed)
    }

    fn changes(&mut self, at: usize, change: Change) {
        if let Some(conn) = &mut self.seats[at].conn {
            conn.change = Some(change);
        }
    }

    /// A change of memory: one more region, or a whole table.
    pub(crate) fn change_memory(
        &mut self,
        at: usize,
        key: SessionKey,
        token: Token,
        add: Option<()>,
        claims: &[Region],
        files: &[usize],
    ) -> Option<Reply> {
        let clients = self.seats[at].clients;
        let windows: Vec<Window> = {
            let driver = self.seats[at].driver.as_ref()?;
            (0..claims.len())
                .map(|i| driver.memory[files.get(i).copied().unwrap_or(0) % 3].window.clone())
                .collect()
        };
        let mut wanted = Vec::new();
        for (i, region) in claims.iter().enumerate() {
            let file = files.get(i).copied().unwrap_or(0) % 3;
            let claim =
                Claim { guest: region.guest, user: region.user, len: region.size, offset: region.offset };
            let id = FileId(1 + at as u64, clients * 8 + file as u64);
            let size = windows[i].len() as u64;
            let writable = !(self.seats[at].place.sealed && file == SEALED);
            let memory = self.setup.besides.is_memory(clients + at as u64, file);
            let trusted = trusted_by(self.setup.besides.trusted(clients + at as u64, file));
            wanted.push((claim, File { id, size, writable, memory, trusted }));
        }
        let named = |i: usize| files.get(i).copied().unwrap_or(0) % 3;
        let regions: Vec<(Region, usize)> = claims.iter().enumerate().map(|(i, c)| (*c, named(i))).collect();
        let wrong = self.registered_wrongly(at, add.is_some(), &regions);
        self.changes(at, if add.is_some() { Change::Add(regions) } else { Change::Replace(regions) });
        let change = match (add, wanted.first()) {
            (Some(()), Some((claim, file))) => MemoryChange::Add(*claim, *file),
            _ => MemoryChange::Replace(wanted.clone()),
        };
        let result = self.control.plan_memory(key, &change).and_then(|plan| {
            let mut memory = Vec::new();
            for new in plan.new_regions() {
                let window = &windows[new.index];
                let start = new.claim.offset & !4095;
                let end = (new.claim.offset + new.claim.len).next_multiple_of(4096).min(window.len() as u64);
                let pages = window.sub(start as usize, (end - start) as usize);
                let pages = pages.map_err(|_| SessionError::Busy)?;
                let may_be_written = wanted[new.index].1.writable;
                self.books.open().set_memory(window, Arena::In(key.0));
                self.books.open().set_writable(window, may_be_written);
                let skip = (new.claim.offset - start) as usize;
                memory.push(RegionMemory { pages, skip, len: new.claim.len as usize });
            }
            self.control.change_memory(&plan, memory)
        });
        self.judge_registering(at, wrong, &result);
        self.asked(at, token, result)
    }

    /// Why a client's change of memory has to be refused: one more region, or all of these.
    fn registered_wrongly(&self, at: usize, adds: bool, regions: &[(Region, usize)]) -> Option<&'static str> {
        let (besides, seat) = (self.setup.besides, &self.seats[at]);
        let driver = seat.driver.as_ref()?;
        let claim = |(region, file): &(Region, usize)| register::Claim {
            guest: region.guest,
            user: region.user,
            len: region.size,
            offset: region.offset,
            file: *file as u64,
            size: driver.memory[file % REGIONS].window.len() as u64,
            trusted: besides.trusted(seat.clients + at as u64, *file),
            memory: besides.is_memory(seat.clients + at as u64, *file),
        };
        let new: Vec<register::Claim> = regions.iter().map(claim).collect();
        let mut all: Vec<register::Claim> =
            seat.conn.iter().filter(|_| adds).flat_map(|conn| &conn.regions).map(claim).collect();
        // What is there already is the same.
        all.extend(new.iter().filter(|new| !adds || !all.contains(new)).copied().collect::<Vec<_>>());
        let words = &seat.place.words;
        let names = words.iter().filter_map(|word| word.strip_prefix("ds="));
        let named = names.fold(0, |bits, name| bits | if name == "a" { 0b01 } else { 0b10 });
        let one_of = (besides.trusted && named == 0).then_some(0b11).or((named != 0).then_some(named));
        let files = rate::number(words, "ds-max").unwrap_or(u64::MAX);
        register::wrong(&all, &new, register::Bounds { files, bytes: besides.memory_max(), one_of })
    }

    /// What must not be registered is refused, and what may be is not, whatever is wrong with its device.
    fn judge_registering(&self, at: usize, wrong: Option<&'static str>, result: &Result<(), SessionError>) {
        use nvme_session::dataspace::RegistryError as Why;
        let hostile = self.seats[at].place.hostile;
        match (wrong, result) {
            (Some(wrong), Ok(())) => {
                self.find(Judge::Authority, || format!("seat {at} registers memory, and {wrong}"));
            }
            (None, Err(SessionError::Memory(why)))
                if !hostile && !matches!(why, Why::Busy | Why::NoRoom { .. } | Why::Outdated) =>
            {
                self.find(Judge::Life, || format!("seat {at} may register memory, and is refused: {why}"));
            }
            _ => {}
        }
    }

    fn start(&mut self, at: usize, key: SessionKey, index: u16) -> Option<Reply> {
        // What a client keeps itself is opened before it is answered: with another server it may say where to go on by a request of which this
        // one has not heard.
        let conn = self.seats[at].conn.as_ref();
        let keeps = conn.and_then(|conn| conn.inflight.as_ref()).is_some();
        self.start_by(if keeps { start_opened } else { Control::start_queue }, at, key, index)
    }

    /// Starts a ring again that was stopped to go on elsewhere, of which its client knows nothing.
    pub(crate) fn start_again(&mut self, at: usize, key: SessionKey, index: u16) {
        let failed = self.start_by(Control::resume_queue, at, key, index) == Some(Reply::Failed);
        let rings = self.seats[at].driver.as_ref().is_some_and(|d| d.memory[0].share == Share::In);
        if failed
            && let Some(queue) =
                self.seats[at].driver.as_mut().and_then(|d| d.queues.get_mut(usize::from(index)))
        {
            // Its driver is told.
            (queue.running, queue.broken) = (false, true);
        }
        // Whose device is lost is served by nobody, and needs nothing of it; whose session ends is told so, with the end of its connection.
        let ends = self.control.session(key).is_none_or(|session| session.is_leaving());
        let excused = self.is_troubled(at) && (ends || !self.seats[at].lost);
        if failed && rings && !excused && !self.seats[at].place.hostile {
            self.find(Judge::Life, || format!("ring {index} of seat {at} does not go on"));
        }
    }

    fn start_by(&mut self, start: Start, at: usize, key: SessionKey, index: u16) -> Option<Reply> {
        let ring = self.ring(at, index)?;
        if !ring.kick || !ring.enabled || ring.stage != Stage::Stopped {
            return Some(Reply::Done);
        }
        let (Some((desc, avail, used)), Some(size)) = (ring.addresses, ring.size) else {
            return Some(Reply::Done);
        };
        let rings = RingAddresses { desc, avail, used, space: AddressSpace::Client };
        let next_avail = ring.base;
        let Ok(journal) = self.journal(at, index) else { return Some(Reply::Failed) };
        let spec = QueueSpec { size, rings, next_avail, journal };
        let driver = self.seats[at].driver.as_ref()?;
        let notify = driver.queues.get(usize::from(index)).map(|q| q.notify.clone()).unwrap_or_default();
        match start(&mut self.control, key, index, spec, Box::new(notify)) {
            Ok(()) => {
                let ring = self.ring(at, index)?;
                (ring.stage, ring.broken) = (Stage::Running, false);
                if let Some(inflight) = self.seats[at].conn.as_mut().and_then(|conn| conn.inflight.as_mut()) {
                    inflight.ran.insert(index);
                }
                Some(Reply::Done)
            }
            Err(_) => Some(Reply::Failed),
        }
    }

    pub(crate) fn stop(&mut self, at: usize, key: SessionKey, index: u16, old: Old) {
        if let Some(ring) = self.ring(at, index) {
            ring.stage = Stage::Stopping;
        }
        let stops = match old {
            Old::First => self.control.finish_queue(key, index),
            Old::Left => self.control.stop_queue(key, index),
        };
        if stops.is_err() {
            self.stopped(at, index, None);
        }
    }

    pub(crate) fn take_pending(
        &mut self,
        at: usize,
        which: impl FnOnce(&Pending) -> bool,
    ) -> Option<Pending> {
        self.seats[at].conn.as_mut()?.pending.take_if(|p| which(p))
    }

    pub(crate) fn stopped(&mut self, at: usize, index: u16, next: Option<u16>) {
        let Some(ring) = self.ring(at, index) else { return };
        let (size, broken) = (ring.size, ring.broken);
        ring.stage = Stage::Stopped;
        // What a killed server left and nobody did before it stopped is to be done when it is started again.
        let own = self.seats[at].conn.as_ref().and_then(|conn| conn.own.get(&index));
        if let Some(own) = own.filter(|_| broken) {
            forget_journal(own);
        }
        let left = size.zip(own).is_some_and(|(size, own)| journal_holds(own, size));
        let Some(ring) = self.ring(at, index) else { return };
        ring.killed |= left;
        // One that broke is started by its client and by nobody else.
        ring.paused &= !broken;
        ring.resumes &= !broken;
        if let Some(next) = next {
            ring.base = next;
        }
        let base = ring.base;
        let is =
            |p: &Pending| matches!(p, Pending::Base(_, ring) | Pending::Disable(_, ring) if *ring == index);
        match self.take_pending(at, is) {
            Some(Pending::Base(token, _)) => {
                if let Some(ring) = self.ring(at, index) {
                    ring.kick = false;
                }
                self.reply(at, token, Reply::RingBase(base));
            }
            Some(Pending::Disable(token, _)) => self.reply(at, token, Reply::Done),
            _ => {}
        }
        self.resume_ring(at, index);
        self.settle_reset(at);
    }

    /// A ring goes on that was to stand still and has stopped too late for that, unless its client wants otherwise by now.
    fn resume_ring(&mut self, at: usize, index: u16) {
        let resumes = self.ring(at, index).is_some_and(|ring| std::mem::take(&mut ring.resumes));
        let pending = self.seats[at].conn.as_ref().and_then(|conn| conn.pending.as_ref());
        let stays = matches!(pending, Some(Pending::Reset(_) | Pending::Start(_)));
        if let Some(key) = self.seats[at].key.filter(|_| resumes && !stays) {
            self.start_again(at, key, index);
        }
    }

    fn settle_reset(&mut self, at: usize) {
        let Some(conn) = &mut self.seats[at].conn else { return };
        let Some(Pending::Reset(token)) = conn.pending else { return };
        if conn.rings.values().any(|r| r.stage != Stage::Stopped) {
            return;
        }
        conn.pending = None;
        conn.forget_rings();
        if let Some(inflight) = &mut conn.inflight {
            inflight.forget();
        }
        if let Some(key) = self.seats[at].key {
            let _ = self.control.set_features(key, 0);
        }
        self.reply(at, token, Reply::Done);
    }
}
