//! What is in flight is kept by clients ("Inflight I/O tracking"): an honest driver outlives its connection, and even its server, and what it asked for is answered
//! once all the same. The server's part is done as the Linux home does it.

use std::collections::BTreeSet;
use std::sync::Arc;

use nvme_core::server::message::SessionKey;
use nvme_linux::vhost::{Reply, Token, inflight_len, inflight_stride};
use nvme_mem::{Window, heap};
use nvme_session::virtqueue::{forget_journal, journal_len};

use crate::driver::{Driver, REGIONS, Share};
use crate::judge::Judge;
use crate::judge::court::Arena;
use crate::messages::Message;
use crate::seat::{Conn, Device, Phase, Stage};
use crate::world::World;

/// Where a client keeps what is in flight, with the clones of its window that are the client's.
pub(crate) struct Journal {
    pub(crate) window: Window,
    own: usize,
}

impl Journal {
    /// Whether somebody else has it, but for whoever `made` it and knows it still.
    pub(crate) fn is_held(&self, made: Option<&Window>) -> bool {
        // The one that was made is asked about by a clone.
        let known = 2 * usize::from(made.is_some_and(|made| made.address() == self.window.address()));
        Arc::strong_count(self.window.owner()) > self.own + known
    }
}

/// Journals of a client's rings, as the server has them.
#[derive(Clone)]
pub(crate) struct Inflight {
    pub(crate) window: Window,
    pub(crate) rings: u16,
    pub(crate) size: u16,
    /// Which of the client's files it is in, and where.
    pub(crate) file: usize,
    pub(crate) offset: u64,
    /// Rings that ran with theirs.
    pub(crate) ran: BTreeSet<u16>,
}

impl Inflight {
    /// The rings that ran begin anew.
    pub(crate) fn forget(&mut self) {
        for ring in std::mem::take(&mut self.ran) {
            if let Ok(Some(journal)) = self.of(ring, self.size) {
                forget_journal(&journal);
            }
        }
    }

    /// That of one ring. An error: the ring has another size.
    fn of(&self, ring: u16, size: u16) -> Result<Option<Window>, ()> {
        if ring >= self.rings {
            return Ok(None);
        }
        if size != self.size {
            return Err(());
        }
        let at = usize::from(ring) * inflight_stride(size) as usize;
        self.window.sub(at, journal_len(size)).map(Some).map_err(|_| ())
    }
}

/// What the server made for a client: for which connection.
pub(crate) struct Made {
    pub(crate) window: Window,
    rings: u16,
    size: u16,
    client: u64,
}

impl Driver {
    /// Whoever served it is no more.
    pub(crate) fn is_left(&mut self) {
        self.queues.iter_mut().flat_map(|q| q.slots.iter_mut().flatten()).for_each(|asked| asked.left = true);
    }

    /// Nobody else has any of its memory.
    pub(crate) fn count_own(&mut self) {
        for memory in &mut self.memory {
            memory.count_own();
        }
        if let Some(journal) = &mut self.journal {
            journal.own = Arc::strong_count(journal.window.owner());
        }
    }
}

impl World {
    /// The server gives a client memory to keep in it what is in flight.
    pub(crate) fn make_inflight(&mut self, at: usize, token: Token, rings: u16, size: u16) -> Option<Reply> {
        let seat = &mut self.seats[at];
        let conn = seat.conn.as_mut()?;
        let stopped = conn.rings.values().all(|r| r.stage == Stage::Stopped);
        if let Some(inflight) = conn.inflight.as_mut().filter(|_| stopped) {
            inflight.forget();
        }
        let known =
            seat.made.as_ref().is_some_and(|m| (m.rings, m.size, m.client) == (rings, size, seat.clients));
        if !known {
            let Some(window) = heap(inflight_len(rings, size) as usize) else { return Some(Reply::Failed) };
            seat.made = Some(Made { window, rings, size, client: seat.clients });
        }
        let file = self.null.try_clone().ok()?;
        let _ = seat.conn.as_mut()?.machine.reply_inflight(token, file);
        None
    }

    /// The server takes where a client keeps what is in flight.
    pub(crate) fn take_inflight(
        &mut self,
        at: usize,
        key: SessionKey,
        (rings, size): (u16, u16),
        offset: u64,
        file: usize,
    ) -> Option<Reply> {
        let len = inflight_len(rings, size);
        if self.seats[at].conn.as_ref()?.rings.values().any(|r| r.stage != Stage::Stopped) {
            return Some(Reply::Failed);
        }
        if self.control.reserve_memory(key, len).is_err() {
            return Some(Reply::Failed);
        }
        let window =
            self.window_of(at, file).and_then(|w| w.sub(usize::try_from(offset).ok()?, len as usize).ok());
        let Some(window) = window else { return Some(Reply::Failed) };
        self.seats[at].conn.as_mut()?.inflight =
            Some(Inflight { window, rings, size, file, offset, ran: BTreeSet::new() });
        Some(Reply::Done)
    }

    /// Where what is in flight on a ring is kept, if it is. An error: its client said something else of its size.
    pub(crate) fn journal(&mut self, at: usize, ring: u16) -> Result<Option<Window>, ()> {
        let stores = self.setup.store;
        let Some(conn) = &mut self.seats[at].conn else { return Ok(None) };
        let Some(size) = conn.rings.get(&ring).and_then(|r| r.size) else { return Ok(None) };
        let client = match &conn.inflight {
            Some(inflight) => inflight.of(ring, size)?,
            None => None,
        };
        if client.is_some() || !stores {
            return Ok(client);
        }
        Ok(conn.own_journal(ring, size))
    }

    /// A client has the memory that it asked for.
    pub(crate) fn has_journal(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        let (Some(made), Some(driver)) = (&seat.made, &mut seat.driver) else { return };
        driver.journal = Some(Journal { window: made.window.clone(), own: 1 });
        driver.queues.iter_mut().for_each(|queue| queue.journaled = false);
    }

    /// A client's connection ends, and its machine goes on: what it asked for will be answered by whoever serves it next.
    pub(crate) fn stays(&self, at: usize) -> bool {
        let seat = &self.seats[at];
        let (Some(driver), Some(conn)) = (&seat.driver, &seat.conn) else { return false };
        // What it has of its rings is nothing yet, or was.
        if conn.waiting.is_some_and(|m| matches!(m, Message::Reset | Message::OwnerAgain)) {
            return false;
        }
        seat.place.inflight && seat.place.listens && !seat.place.hostile && driver.journal.is_some()
    }

    /// A connection ends, and its client is to connect again.
    pub(crate) fn reconnect(&mut self, at: usize) -> bool {
        if self.seats[at].phase != Phase::Connected || self.seats[at].hangs_up.is_some() || !self.stays(at) {
            return false;
        }
        self.disconnect(at, true);
        true
    }

    /// Its driver has no server for now.
    pub(crate) fn waits_for_server(&mut self, at: usize) {
        let Some(driver) = &mut self.seats[at].driver else { return };
        for queue in &mut driver.queues {
            (queue.running, queue.ready, queue.kicked) = (false, false, false);
            for asked in queue.slots.iter_mut().flatten() {
                // The next server begins with the cache mode that is the default.
                asked.durable = false;
            }
        }
        driver.is_left();
        driver.write_back = true;
        driver.waits = true;
        for memory in &mut driver.memory {
            memory.wanted |= matches!(memory.share, Share::In | Share::Adding);
        }
    }

    /// The server has nothing of a client any more whose machine goes on.
    pub(crate) fn is_let_go_of(&mut self, at: usize) {
        for queue in 0..crate::driver::QUEUES as u8 {
            self.reap(at, queue);
        }
        let seat = &mut self.seats[at];
        let made = seat.made.as_ref().map(|made| made.window.clone());
        let Some(driver) = &mut seat.driver else { return };
        if !driver.waits {
            return;
        }
        let excused = self.keeps && seat.lost || !self.before.is_empty();
        let held = driver.held().filter(|_| !excused);
        let kept = !excused && driver.journal.as_ref().is_some_and(|journal| journal.is_held(made.as_ref()));
        let windows: Vec<Window> = driver.memory.iter().map(|m| m.window.clone()).collect();
        for memory in &mut driver.memory {
            memory.share = Share::Out;
        }
        if let Some(region) = held {
            self.find(Judge::Life, || {
                format!("region {region} of seat {at} is held, and its client is cleared away")
            });
        }
        if kept {
            self.find(Judge::Life, || {
                format!("what seat {at} keeps of what is in flight is held, and its client is cleared away")
            });
        }
        let mut court = self.court();
        windows.iter().for_each(|window| court.set_memory(window, Arena::Out));
    }

    /// There is a session again: a machine that waited for one goes on, if that has the same blocks as the one before.
    pub(crate) fn goes_on_or_not(&mut self, at: usize, last: Option<Device>) {
        let seat = &mut self.seats[at];
        let blocks = |d: Option<Device>| {
            d.map(|d| (d.holding.disk, d.holding.first, d.holding.sectors, d.holding.writes))
        };
        if seat.driver.is_none() || blocks(last) == blocks(seat.device) {
            return;
        }
        let Some(mut driver) = seat.driver.take() else { return };
        let now = seat.device;
        seat.device = last;
        for asked in driver.queues.iter_mut().flat_map(|q| q.slots.iter_mut()).filter_map(Option::take) {
            self.over(at, &asked, false);
        }
        self.seats[at].device = now;
        self.seats[at].left.push(driver);
        self.left_nothing(at, false);
    }

    /// What a client says that connects again, with its machine as it is.
    pub(crate) fn boot_again(driver: &mut Driver, clients: u64) -> Vec<Message> {
        driver.waits = false;
        let mut all = vec![
            Message::GetProtocol,
            Message::SetProtocol,
            Message::Owner,
            Message::SetFeatures,
            Message::SetInflight,
        ];
        for region in 0..REGIONS {
            if driver.memory[region].wanted || region == 0 {
                all.push(Message::Add(region as u8));
            }
        }
        for index in 0..driver.queues.len() {
            let queue = &mut driver.queues[index];
            if queue.journaled {
                // Some front-ends say what was used last, others what is available.
                let used = queue.ring.used_index().unwrap_or(queue.base);
                queue.base = if clients.is_multiple_of(2) { used } else { queue.avail };
            }
            all.extend(Message::start(index as u8));
        }
        all
    }
}

impl Conn {
    /// Its rings begin anew, and nothing that they had is to be done any more.
    pub(crate) fn forget_rings(&mut self) {
        self.rings.clear();
        self.own.values().for_each(forget_journal);
    }

    /// Where the server itself keeps what is in flight of a ring. What a killed server left counts once.
    fn own_journal(&mut self, ring: u16, size: u16) -> Option<Window> {
        let fresh = !self.rings.get_mut(&ring).is_some_and(|r| std::mem::take(&mut r.killed));
        let window = match self.own.get(&ring) {
            Some(window) => window.clone(),
            None => {
                let window = heap(journal_len(1024))?;
                self.own.insert(ring, window.clone());
                window
            }
        };
        let window = window.sub(0, journal_len(size)).ok()?;
        if fresh {
            forget_journal(&window);
        }
        Some(window)
    }
}
