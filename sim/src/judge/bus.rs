//! The controllers' side of the books: what each can reach, which commands are with it, and the judgement of each.

use nvme_mem::Window;

use super::court::{Arena, Behind, Completions, Court, Flight, Holding, Map, Place, Queue};
use super::walk::{ENTRY, Entry};

impl Court {
    pub(crate) fn map(&mut self, bus: usize, iova: u64, window: &Window, pool: bool) {
        let (addr, len) = (window.address(), window.len());
        let behind = if pool {
            self.buses[bus].pool += len / 4096;
            Behind::Pool(window.clone())
        } else {
            self.buses[bus].reach += len as u64;
            match self.memory.range(..=addr).next_back() {
                Some((at, memory)) if addr + len <= at + memory.len => {
                    let (at, state) = (*at, memory.state);
                    if state == Arena::Out {
                        self.colour(|| "memory is mapped that is nobody's to touch".into());
                    }
                    Behind::Client(at)
                }
                _ => {
                    self.colour(|| "memory is mapped that no client has".into());
                    return;
                }
            }
        };
        self.buses[bus].maps.insert(iova, Map { len: len as u64, behind });
    }

    pub(crate) fn unmap(&mut self, bus: usize, iova: u64, len: u64) {
        self.scan(bus);
        let gone: Vec<u64> = self.buses[bus].maps.range(iova..iova + len).map(|(at, _)| *at).collect();
        for at in gone {
            let reaches = |f: &&Flight| f.maps.contains(&at);
            let one = self.buses[bus].queues.values().flat_map(|q| &q.flights).find(reaches);
            if let Some(cid) = one.map(|f| f.entry.cid())
                && !self.buses[bus].off
            {
                self.colour(|| format!("memory is unmapped under command {cid:#x} of controller {bus}"));
            }
            if let Some(map) = self.buses[bus].maps.remove(&at) {
                match map.behind {
                    Behind::Pool(window) => self.buses[bus].pool -= window.len() / 4096,
                    Behind::Client(_) => self.buses[bus].reach -= map.len,
                }
            }
        }
    }

    /// It can do nothing any more.
    pub(crate) fn cut_off(&mut self, bus: usize) {
        let bus = &mut self.buses[bus];
        bus.off = true;
        bus.queues.clear();
        bus.completions.clear();
        bus.maps.clear();
        bus.reach = 0;
        bus.pool = 0;
    }

    /// It was seen to be disabled.
    pub(crate) fn disabled(&mut self, bus: usize) {
        let bus = &mut self.buses[bus];
        bus.queues.clear();
        bus.completions.clear();
        bus.stale.clear();
        bus.is_another |= bus.becomes_another;
    }

    /// A register was written; true: it may have been the admin queue's tail.
    pub(crate) fn wrote(&mut self, bus: usize, offset: u32, value: u32) {
        let state = &mut self.buses[bus];
        match offset {
            0x24 => state.registers[0] = value,
            0x28..0x38 => state.registers[1 + (offset as usize - 0x28) / 4] = value,
            0x14 if value & 1 == 1 && !state.queues.contains_key(&0) => {
                let r = state.registers;
                let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
                let (sq, cq) = ((r[0] & 0xfff) + 1, (r[0] >> 16 & 0xfff) + 1);
                state.queues.insert(0, Queue { at: word(r[1], r[2]), entries: sq, ..Queue::default() });
                let completions =
                    Completions { at: word(r[3], r[4]), entries: cq, phase: true, ..Completions::default() };
                state.completions.insert(0, completions);
            }
            0x1000 => self.tail(bus, 0, None, value),
            _ => {}
        }
    }

    /// The life of the queue of that number.
    pub(crate) fn life(&self, bus: usize, queue: u16) -> Option<u64> {
        self.buses[bus].queues.get(&queue).map(|q| q.life)
    }

    /// A submission queue's tail moved: its new entries are the controller's from here on.
    pub(crate) fn tail(&mut self, bus: usize, number: u16, life: Option<u64>, tail: u32) {
        loop {
            let Some(queue) = self.buses[bus].queues.get_mut(&number) else { return };
            if life.is_some_and(|life| life != queue.life) || tail >= queue.entries || queue.tail == tail {
                return;
            }
            let at = queue.at + u64::from(queue.tail) * ENTRY as u64;
            queue.tail = (queue.tail + 1) % queue.entries;
            let mut entry = [0; ENTRY];
            if !self.read_pool(bus, at, &mut entry) {
                return self
                    .colour(|| format!("queue {number} of controller {bus} is not in the driver's memory"));
            }
            self.submitted(bus, number, Entry(entry));
        }
    }

    fn read_pool(&self, bus: usize, at: u64, into: &mut [u8]) -> bool {
        let Some((start, map)) = self.buses[bus].maps.range(..=at).next_back() else { return false };
        match &map.behind {
            Behind::Pool(window) => window.read((at - start) as usize, into).is_ok(),
            Behind::Client(_) => false,
        }
    }

    fn submitted(&mut self, bus: usize, number: u16, entry: Entry) {
        self.buses[bus].judged += 1;
        self.buses[bus].rung = true;
        if number != 0 && self.buses[bus].is_another {
            self.colour(|| format!("controller {bus} is another, and is given a command"));
        }
        let (digest, colour, maps) =
            if number == 0 { (0, None, Vec::new()) } else { self.judge(bus, &entry) };
        if colour.is_some_and(|key| self.held.contains(&key)) {
            self.colour(|| format!("a command of session {colour:?}, whose device is drained"));
        }
        // (A scan reads what nobody holds.)
        if self.unsettled.contains(&bus)
            && (colour.is_some() || matches!(entry.opcode(), 1 | 8 | 9))
            && number != 0
        {
            self.colour(|| format!("a command for controller {bus}, whose storage may still do what a dead server asked of it"));
        }
        if let Some(queue) = self.buses[bus].queues.get_mut(&number) {
            if queue.flights.iter().any(|f| f.entry.cid() == entry.cid()) {
                self.colour(|| format!("identifier {:#x} is used for two commands", entry.cid()));
            } else {
                queue.flights.push(Flight { entry, digest, colour, maps });
            }
        }
    }

    /// Which bytes of data a command moves, and whether it writes to memory.
    fn data(entry: &Entry, shift: u32) -> (u64, bool) {
        match entry.opcode() {
            1 => (entry.blocks() << shift, false),
            2 => (entry.blocks() << shift, true),
            9 => (16 * (u64::from(entry.dword(10) & 0xff) + 1), false),
            _ => (0, false),
        }
    }

    /// Follows a command's data pointer: where it goes, whose that is, and what it reaches.
    fn follow(&mut self, bus: usize, entry: &Entry, shift: u32) -> (u64, Option<u64>, Vec<u64>) {
        let (len, writes) = Self::data(entry, shift);
        let (mut digest, mut colours, mut maps) = (0_u64, Vec::new(), Vec::new());
        if len == 0 {
            return (0, None, maps);
        }
        let mut wrong = None;
        let this = &*self;
        let mut each = |at: u64, len: u64| {
            let (mut at, mut len) = (at, len);
            digest = digest.rotate_left(7) ^ at ^ len << 48;
            while len > 0 {
                let found = this.buses[bus].maps.range(..=at).next_back().filter(|(s, m)| at - **s < m.len);
                let Some((start, map)) = found else {
                    wrong = Some(format!("bus address {at:#x} is behind no mapping"));
                    return false;
                };
                if !maps.contains(start) {
                    maps.push(*start);
                }
                match &map.behind {
                    Behind::Pool(_) => {}
                    Behind::Client(own) => match this.memory.get(own).map(|m| (m.state, m.writable)) {
                        Some((Arena::In(_), false)) if writes => {
                            wrong = Some("it writes to memory that may only be read".into());
                            return false;
                        }
                        Some((Arena::In(key), _)) => {
                            if !colours.contains(&key) {
                                colours.push(key);
                            }
                        }
                        _ => {
                            wrong = Some("it moves data of memory that is not registered".into());
                            return false;
                        }
                    },
                }
                let now = len.min(start + map.len - at);
                (at, len) = (at + now, len - now);
            }
            true
        };
        let mut read = |at: u64, into: &mut [u8]| this.read_pool(bus, at, into);
        let right = entry.data(len, &mut read, &mut each);
        if let Some(wrong) = wrong {
            self.colour(|| format!("command {:#x} of controller {bus}: {wrong}", entry.cid()));
        } else if !right {
            self.colour(|| {
                format!("command {:#x} of controller {bus}: a malformed data pointer", entry.cid())
            });
        } else if colours.len() > 1 {
            self.colour(|| format!("command {:#x} moves data of sessions {colours:?}", entry.cid()));
        }
        (digest, colours.first().copied(), maps)
    }

    fn judge(&mut self, bus: usize, entry: &Entry) -> (u64, Option<u64>, Vec<u64>) {
        let Some(Place { disk, shift }) = self.places.get(&(bus, entry.nsid())).copied() else {
            // A flush of all, or a namespace that has gone.
            return (0, None, Vec::new());
        };
        let (digest, colour, maps) = self.follow(bus, entry, shift);
        let scale = shift - 9;
        let mut places = Vec::new();
        match entry.opcode() {
            1 | 2 | 8 => places.push((entry.lba() << scale, entry.blocks() << scale)),
            9 => {
                for i in 0..u64::from(entry.dword(10) & 0xff) + 1 {
                    let mut range = [0; 16];
                    if !self.read_pool(bus, entry.prp1() + 16 * i, &mut range) {
                        self.colour(|| "the ranges of a discard are not in the driver's memory".into());
                        break;
                    }
                    let word = |at: usize| {
                        u64::from(u32::from_le_bytes([
                            range[at],
                            range[at + 1],
                            range[at + 2],
                            range[at + 3],
                        ]))
                    };
                    places.push(((word(8) | word(12) << 32) << scale, word(4) << scale));
                }
            }
            _ => {}
        }
        let changes = entry.opcode() != 2;
        let mut holder = colour;
        for (first, sectors) in places {
            let fits = |h: &Holding| h.has(disk, first, sectors) && (h.writes || !changes);
            if changes && holder.is_none() {
                // Writers overlap nobody, so it is that one's, whatever memory it has.
                holder = self.holdings.iter().find(|(_, h)| fits(h)).map(|(key, _)| *key);
            }
            let right = match colour {
                Some(key) => self.holdings.get(&key).is_some_and(fits),
                // Through the driver's own memory: somebody must hold it. The scan of partition tables reads what nobody holds.
                None => !changes || self.holdings.values().any(fits),
            };
            if !right {
                let what = if changes { "changes" } else { "reads" };
                self.colour(|| {
                    format!("a command of session {colour:?} {what} sectors {first}+{sectors} of disk {disk}")
                });
            }
        }
        (digest, holder, maps)
    }

    /// Looks for completions that were posted.
    pub(crate) fn scan(&mut self, bus: usize) {
        let numbers: Vec<u16> = self.buses[bus].completions.keys().copied().collect();
        for number in numbers {
            self.scan_one(bus, number);
        }
    }

    pub(crate) fn scan_one(&mut self, bus: usize, number: u16) {
        loop {
            let Some(cq) = self.buses[bus].completions.get(&number) else { return };
            let (at, phase) = (cq.at + u64::from(cq.head) * 16, cq.phase);
            let mut entry = [0; 16];
            if !self.read_pool(bus, at, &mut entry) || (entry[14] & 1 == 1) != phase {
                return;
            }
            if let Some(cq) = self.buses[bus].completions.get_mut(&number) {
                cq.head += 1;
                if cq.head == cq.entries {
                    (cq.head, cq.phase) = (0, !cq.phase);
                }
            }
            let half = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            self.completed(bus, half(10), half(12), half(14) >> 1);
            let bus = &mut self.buses[bus];
            bus.admin_news |= number == 0;
            if number != 0 && !bus.news.contains(&number) {
                bus.news.push(number);
            }
        }
    }

    fn completed(&mut self, bus: usize, number: u16, cid: u16, status: u16) {
        let Some(queue) = self.buses[bus].queues.get_mut(&number) else { return };
        let Some(at) = queue.flights.iter().position(|f| f.entry.cid() == cid) else { return };
        let flight = queue.flights.swap_remove(at);
        let stale = &mut self.buses[bus].stale;
        stale.truncate(15);
        stale.insert(0, (number, cid));
        if number == 0 {
            if status == 0 {
                self.admin(bus, &flight.entry);
            }
            return;
        }
        if let Some(place) = self.places.get(&(bus, flight.entry.nsid())).copied() {
            let (digest, _, _) = self.follow(bus, &flight.entry, place.shift);
            if digest != flight.digest {
                self.colour(|| format!("what command {cid:#x} points to has changed under it"));
            }
        }
    }

    /// An admin command has succeeded.
    fn admin(&mut self, bus: usize, entry: &Entry) {
        let (number, size) = (entry.dword(10) as u16, (entry.dword(10) >> 16) + 1);
        let state = &mut self.buses[bus];
        match entry.opcode() {
            0x00 => {
                state.queues.remove(&number);
                state.stale.clear();
            }
            0x04 => drop(state.completions.remove(&number)),
            0x01 => {
                state.lives += 1;
                let queue = Queue { at: entry.prp1(), entries: size, life: state.lives, ..Queue::default() };
                state.queues.insert(number, queue);
            }
            0x05 => {
                let completions =
                    Completions { at: entry.prp1(), entries: size, phase: true, ..Completions::default() };
                state.completions.insert(number, completions);
            }
            _ => {}
        }
    }

    /// How many commands of clients are with a controller.
    pub(crate) fn in_flight(&self, bus: usize) -> usize {
        self.buses[bus].queues.iter().filter(|(n, _)| **n != 0).map(|(_, q)| q.flights.len()).sum()
    }

    /// Which they are.
    pub(crate) fn flights(&self, bus: usize) -> Vec<(u16, u16, u8, Option<u64>)> {
        let queues = self.buses[bus].queues.iter().filter(|(n, _)| **n != 0);
        queues
            .flat_map(|(n, q)| q.flights.iter().map(|f| (*n, f.entry.cid(), f.entry.opcode(), f.colour)))
            .collect()
    }
}
