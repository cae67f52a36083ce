//! What drivers ask for, and what an honest one makes of the answers.

use nvme_core::server::message::SessionKey;
use nvme_session::virtqueue::Broken;
use nvme_testkit::{feature, status};

use crate::drains::Held;
use crate::driver::{Asked, Kind, Layout, QUEUES, REGIONS, SEALED, SECTORS_MAX, Share};
use crate::judge::Judge;
use crate::judge::model::TABLE;
use crate::seat::Phase;
use crate::world::World;

impl World {
    /// A driver makes a request available.
    pub(crate) fn ask(
        &mut self,
        at: usize,
        queue: u8,
        kind: Kind,
        sector: u16,
        sectors: u8,
        layout: u32,
    ) -> bool {
        let Some(seat) = self.seats.get_mut(at) else { return false };
        let (Some(device), Some(driver)) = (seat.device, &mut seat.driver) else { return false };
        let queue = u16::from(queue) % driver.queues.len() as u16;
        let state = &driver.queues[usize::from(queue)];
        // Who waits for a server goes on asking.
        let waits = driver.waits && state.journaled && !state.broken;
        if !state.running && !seat.place.hostile && !waits {
            return false;
        }
        let Some(slot) = driver.free_slot(queue) else { return false };
        let holding = device.holding;
        let sectors = u32::from(sectors) % SECTORS_MAX + 1;
        // Now and then it reaches over the end.
        let sector = u64::from(sector) % (holding.sectors + 4);
        let inside = sector + u64::from(sectors) <= holding.sectors;
        let layout = Layout(layout);
        let whole = sector.is_multiple_of(device.block) && u64::from(sectors).is_multiple_of(device.block);
        let has = |bit: u64| driver.features & bit != 0;
        let offered = match kind {
            Kind::Flush => has(feature::FLUSH),
            Kind::Discard => has(feature::DISCARD),
            Kind::Zeroes => has(feature::WRITE_ZEROES),
            _ => true,
        };
        let data = matches!(kind, Kind::Read | Kind::Write | Kind::Id);
        let region = if data { layout.region() } else { 0 };
        // Its content is not the client's to say any more once it is out.
        let shared = driver.memory[region].share;
        let ranged = matches!(kind, Kind::Discard | Kind::Zeroes);
        let placed = !matches!(kind, Kind::Flush | Kind::Id);
        let sealed = seat.place.sealed && region == SEALED && matches!(kind, Kind::Read | Kind::Id);
        let over = data && layout.over();
        let must_fail =
            kind.changes() && !holding.writes || placed && !inside || ranged && !whole || sealed || over;
        if data && layout.beside() && seat.place.sealed && region == SEALED {
            // There is nowhere to put its status.
            return false;
        }
        // Before the server has let go of it, what it is still to be told of may be asked for too early.
        let known = region == 0 || driver.memory[region].wanted;
        let there = shared == Share::In || waits && shared == Share::Out && known;
        let may_fail = must_fail || seat.lost || !there || !offered;
        self.writes += 1;
        let table = kind == Kind::Write
            && holding.first == 0
            && holding.disk == 0
            && sector == 0
            && layout.0 >> 20 & 3 == 0;
        let id = match kind {
            Kind::Write if table => TABLE + u64::from(layout.0 >> 22 & 3),
            Kind::Write => self.writes,
            _ => 0,
        };
        if data && driver.memory[region].canary {
            // The driver itself is about to write there.
            driver.memory[region].canary = false;
        }
        self.seq += 1;
        let durable = !(driver.write_back && has(feature::FLUSH));
        let asked = Asked {
            kind,
            sector,
            sectors,
            region,
            header: (0, 0),
            pieces: Vec::new(),
            id,
            begun: self.seq,
            at: self.now.as_nanos(),
            may_fail,
            must_fail,
            durable,
            left: false,
        };
        if driver.ask(queue, slot, layout, asked.clone()).is_none() {
            return false;
        }
        if inside && placed {
            let disk = &mut self.disks[holding.disk];
            let first = holding.first + sector;
            match kind {
                Kind::Read => disk.reads.push(asked.begun),
                Kind::Write | Kind::Discard | Kind::Zeroes if holding.writes => {
                    for (i, at) in (first..first + u64::from(sectors)).enumerate() {
                        let id = if table && i > 0 { 0 } else { id };
                        disk.begin(at, id, asked.begun);
                    }
                }
                _ => {}
            }
        }
        true
    }

    /// A request is over: answered well, or else.
    pub(crate) fn over(&mut self, at: usize, asked: &Asked, well: bool) {
        let now = self.seq;
        let Some(device) = self.seats[at].device.or(self.seats[at].last) else { return };
        let holding = device.holding;
        let inside = asked.sector + u64::from(asked.sectors) <= holding.sectors;
        let disk = &mut self.disks[holding.disk];
        let first = holding.first + asked.sector;
        match asked.kind {
            Kind::Read if inside => {
                if let Some(i) = disk.reads.iter().position(|begun| *begun == asked.begun) {
                    disk.reads.swap_remove(i);
                }
            }
            // One of who may only read succeeds, and no controller hears of it.
            Kind::Flush if well && holding.writes => {
                disk.flushed(holding.first..holding.first + holding.sectors, asked.begun, now);
            }
            kind if kind.changes() && inside && holding.writes => {
                // What was discarded reads as zeroes, or as it was.
                let well = well && kind != Kind::Discard;
                for sector in first..first + u64::from(asked.sectors) {
                    disk.end(sector, asked.begun, now, well, asked.durable);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn kick(&mut self, at: usize, queue: u8) -> bool {
        let Some(driver) = self.seats.get_mut(at).and_then(|s| s.driver.as_mut()) else { return false };
        let queue = u16::from(queue) % driver.queues.len() as u16;
        if driver.queues[usize::from(queue)].told == driver.queues[usize::from(queue)].avail {
            return false;
        }
        let wants = driver.wants_kick(queue);
        let state = &mut driver.queues[usize::from(queue)];
        state.told = state.avail;
        if wants {
            state.kicked = true;
            self.wake_workers();
        }
        true
    }

    fn wake_workers(&mut self) {
        for hand in &mut self.hands {
            hand.awake = true;
        }
    }

    /// A driver takes what was used, and looks at it.
    pub(crate) fn reap(&mut self, at: usize, queue: u8) -> bool {
        let Some(seat) = self.seats.get_mut(at) else { return false };
        let hostile = seat.place.hostile;
        let Some(driver) = &mut seat.driver else { return false };
        let queue = u16::from(queue) % driver.queues.len() as u16;
        if !driver.has_used(queue) {
            return false;
        }
        let done = match driver.reap(queue) {
            Ok(done) => done,
            // Of a ring that broke its driver knows no more where to go on.
            Err(what) if !hostile && !driver.queues[usize::from(queue)].broken => {
                self.find(Judge::Model, || format!("seat {at}, queue {queue}: {what}"));
                return true;
            }
            Err(_) => return true,
        };
        if self.seats[at].held == Held::Quiet && !done.is_empty() && !hostile {
            self.find(Judge::Life, || format!("seat {at} is answered, and its device is drained"));
        }
        for done in done {
            self.seq += 1;
            self.done += 1;
            self.check(at, queue, done.slot, &done.asked, done.status);
        }
        true
    }

    fn check(&mut self, at: usize, queue: u16, slot: u16, asked: &Asked, said: u8) {
        let well = said == status::OK;
        let troubled = self.is_troubled(at);
        let seat = &self.seats[at];
        let vanished = seat.driver.as_ref().and_then(|driver| driver.vanished);
        if vanished.is_some_and(|vanished| asked.begun > vanished) {
            self.find(Judge::Life, || {
                format!("seat {at} is answered what it asked for in rings that had vanished")
            });
        }
        if seat.place.hostile {
            return self.over(at, asked, false);
        }
        let Some(device) = seat.device else { return };
        self.metered(at, asked, well);
        let what = || {
            format!(
                "seat {at}, queue {queue}, slot {slot}: {:?} of {}+{}",
                asked.kind, asked.sector, asked.sectors
            )
        };
        if well && asked.must_fail {
            self.find(Judge::Authority, || format!("{} succeeded", what()));
        }
        if !well && !asked.may_fail && !troubled {
            self.find(Judge::Model, || format!("{} failed with {said} for no reason", what()));
        }
        if !matches!(said, status::OK | status::IOERR | status::UNSUPP) {
            self.find(Judge::Model, || format!("{} was answered with status {said:#x}", what()));
        }
        if asked.kind == Kind::Read && well {
            let mut buffer = std::mem::take(&mut self.buffer);
            let len = asked.sectors as usize * 512;
            let Some(driver) = &self.seats[at].driver else { return };
            if let Err(wrong) = driver.data(asked, &mut buffer[..len]) {
                self.find(Judge::Colour, || format!("{}: {wrong}", what()));
            }
            let (holding, now) = (device.holding, self.seq);
            for (sector, bytes) in (holding.first + asked.sector..).zip(buffer[..len].chunks_exact(512)) {
                let table = self.tables.get(holding.disk).and_then(|table| table.number(sector, bytes));
                let id = table.or_else(|| crate::judge::model::number(bytes));
                if let Err(wrong) = self.disks[holding.disk].saw(sector, id, asked.begun, now) {
                    self.find(Judge::Model, || format!("{}: disk {}, {wrong}", what(), holding.disk));
                    break;
                }
            }
            self.buffer = buffer;
        }
        self.over(at, asked, well);
    }

    /// A queue is broken. An honest driver's is not, but when its rings are gone or its device is.
    pub(crate) fn queue_broken(&mut self, at: usize, queue: u16, why: Broken) {
        let seat = &mut self.seats[at];
        // Of a ring that was broken its driver knows no more where to go on: what it does there until a reset is its own fault.
        let mut before = false;
        if let Some(state) = seat.driver.as_mut().and_then(|d| d.queues.get_mut(usize::from(queue))) {
            before = std::mem::replace(&mut state.broken, true);
            state.running = false;
        }
        let mut excused =
            before || seat.place.hostile || matches!(why, Broken::RingsGone | Broken::DeviceLost);
        if let (Broken::NoStatus, Some(driver)) = (why, &seat.driver) {
            // It took the memory back that its status lies in.
            let gone = |asked: &Asked| driver.memory[asked.header.0].share != Share::In;
            excused |= driver.queues.iter().flat_map(|q| q.slots.iter().flatten()).any(gone);
        }
        if !excused && seat.phase == Phase::Connected {
            self.find(Judge::Model, || format!("queue {queue} of honest seat {at} is broken: {why}"));
        }
        self.seats[at].excuse();
        if let Some(ring) = self.ring(at, queue) {
            ring.broken = true;
        }
    }

    /// What a session was granted, or holds from now on.
    pub(crate) fn granted(&mut self, key: SessionKey) {
        let Some(at) = self.seats.iter().position(|s| s.key == Some(key)) else { return };
        if self.seats[at].lost {
            return;
        }
        self.note_grant(at, key);
    }

    /// A hostile driver writes where its rings and tables are.
    pub(crate) fn scribble(&mut self, at: usize, place: u16, value: u32) -> bool {
        let Some(seat) = self.seats.get_mut(at).filter(|s| s.place.hostile) else { return false };
        let Some(driver) = seat.driver.as_mut().filter(|driver| driver.vanished.is_none()) else {
            return false;
        };
        if let Some(journal) = driver.journal.as_ref().filter(|_| place.is_multiple_of(5)) {
            let at = usize::from(place) * 7 % (journal.window.len() - 4);
            let _ = journal.window.write(at, &value.to_le_bytes());
            return true;
        }
        let queue = u64::from(place >> 14) % u64::from(QUEUES);
        // Descriptors, rings, tables, headers: four places that matter.
        let part = [0, 0x1000, 0x3000, 0x4000][(place >> 12 & 3) as usize];
        let offset = part + u64::from(place & 0xfff) % 0x220;
        let at = (queue * 0x8000 + (offset & !1)) as usize;
        let _ = driver.memory[0].window.write(at, &value.to_le_bytes());
        for queue in &mut driver.queues {
            queue.kicked = true;
        }
        self.wake_workers();
        true
    }

    /// A hostile client says something of its own making.
    pub(crate) fn say(&mut self, at: usize, kind: u8, value: u64) -> bool {
        let Some(seat) = self.seats.get_mut(at).filter(|s| s.place.hostile) else { return false };
        let Some(conn) = &mut seat.conn else { return false };
        let vanished = seat.driver.as_ref().is_some_and(|driver| driver.vanished.is_some());
        if self.frozen.is_some() || conn.taking_up || conn.rest.is_some() || vanished {
            return false;
        }
        let out = conn.machine.outgoing().len();
        conn.machine.sent(out);
        conn.waiting = None;
        if conn.machine.wanted() == 0 {
            return false;
        }
        let (header, payload, files) = crate::messages::forged(kind, value);
        self.feed(at, &[&header, &payload], files, &[(value >> 60) as usize % REGIONS, 1, 2]);
        true
    }

    /// Memory that was given back is untouched.
    pub(crate) fn look_at_canaries(&self) {
        for (at, seat) in self.seats.iter().enumerate() {
            let memories = seat.driver.iter().flat_map(|d| &d.memory);
            for memory in memories.filter(|m| m.canary) {
                let mut bytes = vec![0; memory.window.len()];
                let _ = memory.window.read(0, &mut bytes);
                if bytes.iter().any(|byte| *byte != 0xc7) {
                    self.find(Judge::Colour, || {
                        format!("memory of seat {at} was written to after it was given back")
                    });
                }
            }
        }
    }
}
