//! The colour judge, and the books that it is kept by: whose memory lies where, who holds which blocks, what each controller can reach, and which
//! commands are with it.
//!
//! A command is judged when its doorbell rings, for from then on the controller may carry it out at any moment, and again when its completion is
//! posted: what it points to may not have changed meanwhile. Until it is proven to be over (its completion, its queue deleted, the controller seen
//! to be off) nothing that it points to may be taken out of the controller's reach, let alone be given back.

use std::collections::{BTreeMap, BTreeSet};

use nvme_mem::Window;

use super::walk::Entry;
use super::{Finding, Judge};

/// Who a memory file belongs to, and whether the server may touch it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arena {
    /// It was offered to the server for this session.
    In(u64),
    /// It was never offered, or the server said that it has nothing of it any more.
    Out,
}

pub(super) struct Memory {
    pub(super) len: usize,
    pub(super) state: Arena,
    pub(super) writable: bool,
}

/// What a session holds, in units of 512 bytes of one disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    pub(crate) disk: usize,
    pub(crate) first: u64,
    pub(crate) sectors: u64,
    pub(crate) writes: bool,
}

impl Holding {
    pub(super) fn has(&self, disk: usize, first: u64, sectors: u64) -> bool {
        self.disk == disk && first >= self.first && first + sectors <= self.first + self.sectors
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.disk == other.disk
            && self.first < other.first + other.sectors
            && other.first < self.first + self.sectors
    }
}

pub(super) enum Behind {
    /// The driver's own.
    Pool(Window),
    /// A client's, by where it lies in this process.
    Client(usize),
}

pub(super) struct Map {
    pub(super) len: u64,
    pub(super) behind: Behind,
}

/// A command that the controller may carry out.
pub(super) struct Flight {
    pub(super) entry: Entry,
    /// The data's place, to be found unchanged at the end.
    pub(super) digest: u64,
    /// Whose it is: by its memory; one that changes blocks by way of the driver's own, or of none, by these.
    pub(super) colour: Option<u64>,
    /// The mappings that it reaches.
    pub(super) maps: Vec<u64>,
}

#[derive(Default)]
pub(super) struct Queue {
    /// Where it is; zero entries: there is none.
    pub(super) at: u64,
    pub(super) entries: u32,
    pub(super) tail: u32,
    /// Tells it from earlier ones of its number.
    pub(super) life: u64,
    pub(super) flights: Vec<Flight>,
}

#[derive(Default)]
pub(super) struct Completions {
    pub(super) at: u64,
    pub(super) entries: u32,
    pub(super) head: u32,
    pub(super) phase: bool,
}

/// One controller, as it is seen from the bus.
#[derive(Default)]
pub(crate) struct Bus {
    pub(super) maps: BTreeMap<u64, Map>,
    pub(super) queues: BTreeMap<u16, Queue>,
    pub(super) completions: BTreeMap<u16, Completions>,
    pub(super) lives: u64,
    pub(super) registers: [u32; 6],
    /// It can reach nothing any more.
    pub(crate) off: bool,
    /// It will be another after its next reset; and it is.
    pub(crate) becomes_another: bool,
    pub(super) is_another: bool,
    /// Completions on queue 0, and which others had any, since this was asked last.
    pub(crate) admin_news: bool,
    pub(crate) news: Vec<u16>,
    /// A doorbell rang since it was looked at.
    pub(crate) rung: bool,
    /// Identifiers that were over last: stale ones, to be forged.
    pub(crate) stale: Vec<(u16, u16)>,
    /// Pages of the driver's own.
    pub(crate) pool: usize,
    /// Bytes of clients' memory that it reaches.
    pub(crate) reach: u64,
    /// Commands that were judged.
    pub(crate) judged: u64,
}

/// A namespace of a controller: which disk it is, and its block size as a power of two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) disk: usize,
    pub(crate) shift: u32,
}

/// All books, and the first broken promise.
#[derive(Default)]
pub(crate) struct Court {
    pub(super) memory: BTreeMap<usize, Memory>,
    pub(crate) holdings: BTreeMap<u64, Holding>,
    pub(crate) places: BTreeMap<(usize, u32), Place>,
    pub(crate) buses: Vec<Bus>,
    pub(crate) finding: Option<Finding>,
    /// Sessions that were said to do nothing for now.
    pub(crate) held: BTreeSet<u64>,
    /// What sessions held that ended without a proof that nothing of them is with a device.
    kept: Vec<Holding>,
    /// Sessions whose device is lost.
    lost: BTreeSet<u64>,
    /// Controllers whose storage may still do what a dead server asked of it.
    pub(crate) unsettled: BTreeSet<usize>,
}

impl Court {
    /// A server begins: no controller reaches anything, and nobody has a session.
    pub(crate) fn begin(&mut self, controllers: usize) {
        let judged: u64 = self.buses.iter().map(|bus| bus.judged).sum();
        self.buses = (0..controllers).map(|_| Bus::default()).collect();
        if let Some(bus) = self.buses.first_mut() {
            bus.judged = judged;
        }
    }

    /// The first one counts.
    pub(crate) fn find(&mut self, judge: Judge, what: impl FnOnce() -> String) {
        if self.finding.is_none() {
            self.finding = Some(Finding { judge, what: what() });
        }
    }

    pub(super) fn colour(&mut self, what: impl FnOnce() -> String) {
        self.find(Judge::Colour, what);
    }

    /// A client's memory begins or ceases to be the server's to touch.
    pub(crate) fn set_memory(&mut self, window: &Window, state: Arena) {
        let at = window.address();
        if state == Arena::Out {
            let reached = |map: &Map| matches!(map.behind, Behind::Client(own) if own == at);
            let held = self.buses.iter().position(|bus| !bus.off && bus.maps.values().any(reached));
            if let Some(bus) = held {
                self.colour(|| format!("controller {bus} still reaches memory that was given back"));
            }
        }
        self.memory.insert(at, Memory { len: window.len(), state, writable: true });
    }

    /// Whether a device may write to a client's memory.
    pub(crate) fn set_writable(&mut self, window: &Window, writable: bool) {
        if let Some(memory) = self.memory.get_mut(&window.address()) {
            memory.writable = writable;
        }
    }

    /// Forgets it.
    pub(crate) fn drop_memory(&mut self, window: &Window) {
        self.memory.remove(&window.address());
    }

    /// A session was minted, or holds more.
    pub(crate) fn grant(&mut self, key: u64, holding: Holding) {
        let others = self.holdings.iter().filter(|(other, _)| **other != key);
        let clashes: Vec<u64> = others
            .filter(|(_, h)| h.overlaps(&holding) && (h.writes || holding.writes))
            .map(|(k, _)| *k)
            .collect();
        for other in clashes {
            // Who has lost its device has nothing of it any more but what is on its way.
            if self.lost.contains(&other) && !self.has_commands(other) {
                self.holdings.remove(&other);
                continue;
            }
            self.find(Judge::Authority, || {
                format!("session {key} overlaps session {other}, and one of them writes")
            });
        }
        // A write of the old one may still land.
        if self.kept.iter().any(|kept| kept.overlaps(&holding) && (kept.writes || holding.writes)) {
            self.find(Judge::Authority, || {
                format!("session {key} was granted what one that is not proven to be over had")
            });
        }
        self.holdings.insert(key, holding);
    }

    /// How many bytes of a session's memory controllers reach.
    pub(crate) fn mapped_of(&self, key: u64) -> u64 {
        let own = |map: &&Map| {
            let Behind::Client(at) = map.behind else { return false };
            self.memory.get(&at).is_some_and(|memory| memory.state == Arena::In(key))
        };
        self.buses
            .iter()
            .filter(|bus| !bus.off)
            .flat_map(|bus| bus.maps.values())
            .filter(own)
            .map(|map| map.len)
            .sum()
    }

    /// A session has lost its device for good.
    pub(crate) fn lose(&mut self, key: u64) {
        self.lost.insert(key);
    }

    /// Whether anything is kept that is not proven to be over.
    pub(crate) fn keeps_any(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Whether a controller may still carry out a command of a session.
    fn has_commands(&self, key: u64) -> bool {
        let own = |f: &Flight| f.colour == Some(key);
        self.buses.iter().any(|bus| !bus.off && bus.queues.values().any(|q| q.flights.iter().any(own)))
    }

    /// A session does nothing from now on.
    pub(crate) fn hold(&mut self, key: u64) {
        self.held.insert(key);
        let own = |f: &Flight| f.colour == Some(key);
        let bus = self
            .buses
            .iter()
            .position(|bus| !bus.off && bus.queues.values().any(|q| q.flights.iter().any(own)));
        if let Some(bus) = bus {
            self.find(Judge::Life, || {
                format!("session {key} is said to have nothing in flight, and controller {bus} has a command of it")
            });
        }
    }

    /// A session has ended: nothing of it may be with any controller, unless that is `kept` because nothing proves it quiet.
    pub(crate) fn end(&mut self, key: u64, kept: bool) {
        let holding = self.holdings.remove(&key);
        self.lost.remove(&key);
        if kept {
            self.kept.extend(holding.filter(|_| self.has_commands(key)));
            return;
        }
        for number in 0..self.buses.len() {
            let bus = &self.buses[number];
            let holds = |f: &Flight| f.colour == Some(key);
            if !bus.off && bus.queues.values().any(|q| q.flights.iter().any(holds)) {
                self.colour(|| {
                    format!("session {key} has ended, and controller {number} has a command of it")
                });
            }
        }
    }
}
