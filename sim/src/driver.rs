//! The driver's side: memory, rings, and what was asked for. An honest one checks every answer; a hostile one writes what it likes.

use nvme_mem::{Window, heap};
use nvme_platform::Notify;
use nvme_testkit::{Desc, Ring, desc_flag};

use crate::inflight::Journal;

/// Entries of a virtqueue.
pub(crate) const RING: u16 = 32;
/// Requests of one virtqueue at a time.
pub(crate) const SLOTS: u16 = 6;
/// Descriptors that each may take.
const PER_SLOT: u16 = 5;
/// Virtqueues of a driver.
pub(crate) const QUEUES: u16 = 3;
/// Most sectors of a request.
pub(crate) const SECTORS_MAX: u32 = 32;

/// What a queue's rings, tables and headers take.
const STRIDE: u64 = 0x8000;
/// Room for one request's data, with what lies around it.
const ROOM: u64 = 0x6000;
/// Where data begins in the first region.
const DATA: u64 = QUEUES as u64 * STRIDE;
/// Bytes of each region.
pub(crate) const LEN: [u64; REGIONS] = [DATA + 18 * ROOM, 18 * ROOM + TAIL, 18 * ROOM + TAIL];
/// Room at the end of the other regions, for what reaches over it.
const TAIL: u64 = 0x4000;
/// Where a room has a header and a status, if they lie beside the data.
const BESIDE: usize = ROOM as usize - 0x80;
/// The region that some drivers share for reading only.
pub(crate) const SEALED: usize = 2;
/// Regions of a driver: the first has the rings.
pub(crate) const REGIONS: usize = 3;
/// Bytes around each piece of data that nobody may touch.
const GUARD: usize = 32;
const POISON: u8 = 0xa5;
/// What an unset status is.
const UNSET: u8 = 0xee;

/// Where a region is to the guest.
pub(crate) const fn guest(region: usize) -> u64 {
    0x10_0000 + ((region as u64) << 32)
}

/// Where the client's own process has it.
pub(crate) const fn user(region: usize) -> u64 {
    0x7f00_0000_0000 + ((region as u64) << 33)
}

/// Whether the server may use a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Share {
    /// No.
    Out,
    /// It was asked to.
    Adding,
    /// Yes.
    In,
    /// It was asked not to any more.
    Removing,
}

pub(crate) struct Memory {
    pub(crate) window: Window,
    pub(crate) share: Share,
    /// It is filled with a pattern, and nobody may write there.
    pub(crate) canary: bool,
    /// Whoever serves it next is to have it, too.
    pub(crate) wanted: bool,
    /// The window's clones that are the driver's own.
    own: usize,
}

impl Memory {
    /// Nobody else has it.
    pub(crate) fn count_own(&mut self) {
        self.own = std::sync::Arc::strong_count(self.window.owner());
    }
}

/// What a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// IN.
    Read,
    /// OUT.
    Write,
    /// FLUSH.
    Flush,
    /// DISCARD.
    Discard,
    /// WRITE_ZEROES.
    Zeroes,
    /// GET_ID.
    Id,
}

impl Kind {
    pub(crate) fn number(self) -> u32 {
        use nvme_testkit::kind as k;
        match self {
            Self::Read => k::IN,
            Self::Write => k::OUT,
            Self::Flush => k::FLUSH,
            Self::Discard => k::DISCARD,
            Self::Zeroes => k::WRITE_ZEROES,
            Self::Id => k::GET_ID,
        }
    }

    pub(crate) fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Discard | Self::Zeroes)
    }
}

/// A request that was made available.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) kind: Kind,
    /// On the driver's device.
    pub(crate) sector: u64,
    pub(crate) sectors: u32,
    pub(crate) region: usize,
    /// Where its header is: region and offset. The status is behind it.
    pub(crate) header: (usize, usize),
    /// Where its data is in that region.
    pub(crate) pieces: Vec<(usize, usize)>,
    /// The number of a write.
    pub(crate) id: u64,
    /// When it was made available, in steps, and in nanoseconds.
    pub(crate) begun: u64,
    pub(crate) at: u64,
    /// It may fail: something happened that is reason enough.
    pub(crate) may_fail: bool,
    /// It has to.
    pub(crate) must_fail: bool,
    /// What it supersedes is gone for good when it ends well.
    pub(crate) durable: bool,
    /// Whoever had it is no more: it may have to be done again.
    pub(crate) left: bool,
}

/// How a driver is told. Nobody listens: drivers look when the seed says so.
#[derive(Clone, Default)]
pub(crate) struct Told;

impl Notify for Told {
    fn used(&self) {}
    fn broken(&self) {}
}

pub(crate) struct Queue {
    pub(crate) ring: Ring,
    pub(crate) avail: u16,
    pub(crate) used: u16,
    pub(crate) slots: [Option<Asked>; SLOTS as usize],
    pub(crate) notify: Told,
    /// The driver takes it for running.
    pub(crate) running: bool,
    /// It was given what it needs to be started.
    pub(crate) ready: bool,
    /// What was available when it was told of last.
    pub(crate) told: u16,
    /// The eventfd is raised.
    pub(crate) kicked: bool,
    /// It will be started from here.
    pub(crate) base: u16,
    pub(crate) broken: bool,
    /// Somebody has kept what is in flight of it in the journal.
    pub(crate) journaled: bool,
}

/// How a request is laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout(pub(crate) u32);

impl Layout {
    fn indirect(self) -> bool {
        self.0 & 1 == 1
    }
    /// 1 to 3.
    fn pieces(self) -> u32 {
        (self.0 >> 1) % 3 + 1
    }
    pub(crate) fn region(self) -> usize {
        match self.0 >> 4 & 7 {
            0..5 => 0,
            5 | 6 => 1,
            _ => 2,
        }
    }
    /// Its header and status lie beside its data, in another region than the rings.
    pub(crate) fn beside(self) -> bool {
        self.0 >> 26 & 3 == 3 && self.region() != 0
    }
    /// Its data reaches over the end of its region.
    pub(crate) fn over(self) -> bool {
        self.0 >> 26 & 7 == 2 && self.region() != 0
    }
    /// Where the data begins in its room.
    fn offset(self) -> usize {
        [0, 512, 4, 1, 3584, 4095, 2048, 100][(self.0 >> 7 & 7) as usize] + GUARD * 2
    }
    /// Where a piece ends, in a request of so many bytes.
    fn cut(self, piece: u32, len: usize) -> usize {
        let cut = (self.0 >> (10 + 8 * piece) & 0xff) as usize;
        match cut % 4 {
            0 => cut / 4 * 512 % len.max(1),
            1 => cut * 16 % len.max(1),
            _ => cut * 61 % len.max(1),
        }
    }
}

pub(crate) struct Driver {
    pub(crate) memory: [Memory; REGIONS],
    pub(crate) queues: Vec<Queue>,
    pub(crate) features: u64,
    pub(crate) write_back: bool,
    /// Where it keeps what is in flight.
    pub(crate) journal: Option<Journal>,
    /// It has no server, and will have one.
    pub(crate) waits: bool,
    /// Since when its rings have vanished, if nothing was under way then.
    pub(crate) vanished: Option<u64>,
}

pub(crate) struct Done {
    pub(crate) slot: u16,
    pub(crate) asked: Asked,
    pub(crate) status: u8,
}

impl Driver {
    pub(crate) fn new(queues: u16) -> Option<Self> {
        let memory = |region: usize| {
            Some(Memory {
                window: heap(LEN[region] as usize)?,
                share: Share::Out,
                canary: false,
                wanted: false,
                own: 0,
            })
        };
        let mut memory = [memory(0)?, memory(1)?, memory(2)?];
        let mut made = Vec::new();
        for queue in 0..queues.min(QUEUES) {
            let at = (u64::from(queue) * STRIDE) as usize;
            let ring = Ring::within(&memory[0].window, RING, [at, at + 0x1000, at + 0x2000]).ok()?;
            made.push(Queue {
                ring,
                avail: 0,
                used: 0,
                slots: Default::default(),
                notify: Told,
                running: false,
                ready: false,
                told: 0,
                kicked: false,
                base: 0,
                broken: false,
                journaled: false,
            });
        }
        memory.iter_mut().for_each(Memory::count_own);
        Some(Self {
            memory,
            queues: made,
            features: 0,
            write_back: true,
            journal: None,
            waits: false,
            vanished: None,
        })
    }

    /// Whether somebody else holds one of the regions.
    pub(crate) fn held(&self) -> Option<usize> {
        let held = |m: &Memory| std::sync::Arc::strong_count(m.window.owner()) > m.own;
        self.memory.iter().position(held)
    }

    /// Whether somebody else holds a region.
    pub(crate) fn is_held(&self, region: usize) -> bool {
        std::sync::Arc::strong_count(self.memory[region].window.owner()) > self.memory[region].own
    }

    /// Descriptor table, available ring, used ring: as the client's process has them.
    pub(crate) fn rings(queue: u16) -> (u64, u64, u64) {
        let at = user(0) + u64::from(queue) * STRIDE;
        (at, at + 0x1000, at + 0x2000)
    }

    /// The driver forgets all that it asked of a queue, and its rings are as new.
    pub(crate) fn reset(&mut self, queue: u16) -> Vec<Asked> {
        let queue = &mut self.queues[usize::from(queue)];
        let _ = queue.ring.clear();
        (queue.avail, queue.used, queue.told, queue.base) = (0, 0, 0, 0);
        (queue.running, queue.kicked, queue.broken, queue.ready) = (false, false, false, false);
        // It has nothing in flight, and no journal until it starts again: its front-end says that it begins with the first.
        queue.journaled = false;
        queue.slots.iter_mut().filter_map(Option::take).collect()
    }

    pub(crate) fn free_slot(&self, queue: u16) -> Option<u16> {
        let slots = &self.queues[usize::from(queue)].slots;
        slots.iter().position(Option::is_none).map(|slot| slot as u16)
    }

    fn header(queue: u16, slot: u16) -> u64 {
        u64::from(queue) * STRIDE + 0x4000 + 0x40 * u64::from(slot)
    }

    fn room(queue: u16, slot: u16, region: usize) -> usize {
        let base = if region == 0 { DATA } else { 0 };
        (base + u64::from(queue * SLOTS + slot) * ROOM) as usize
    }

    /// Makes a request available.
    pub(crate) fn ask(&mut self, queue: u16, slot: u16, layout: Layout, mut asked: Asked) -> Option<()> {
        let data = matches!(asked.kind, Kind::Read | Kind::Write | Kind::Id);
        if data && layout.beside() {
            asked.header = (layout.region(), Self::room(queue, slot, layout.region()) + BESIDE);
        } else {
            asked.header = (0, Self::header(queue, slot) as usize);
        }
        let (place, header) = asked.header;
        let window = self.memory[place].window.clone();
        let range = matches!(asked.kind, Kind::Discard | Kind::Zeroes);
        let sector = if range { 0 } else { asked.sector };
        window.write(header, &asked.kind.number().to_le_bytes()).ok()?;
        window.write(header + 4, &[0; 4]).ok()?;
        window.write(header + 8, &sector.to_le_bytes()).ok()?;
        window.write(header + 16, &[UNSET]).ok()?;
        let mut chain: Vec<(u64, u32, u16)> = vec![(guest(place) + header as u64, 16, 0)];
        match asked.kind {
            Kind::Discard | Kind::Zeroes => {
                window.write(header + 32, &asked.sector.to_le_bytes()).ok()?;
                window.write(header + 40, &asked.sectors.to_le_bytes()).ok()?;
                window.write(header + 44, &[0; 4]).ok()?;
                chain.push((guest(place) + header as u64 + 32, 16, 0));
            }
            Kind::Flush => {}
            Kind::Read | Kind::Write | Kind::Id => {
                let len = if asked.kind == Kind::Id { 20 } else { asked.sectors as usize * 512 };
                self.lay_out(queue, slot, layout, len, &mut asked)?;
                let flags = if asked.kind == Kind::Write { 0 } else { desc_flag::WRITE };
                let at = |start: usize| guest(asked.region) + start as u64;
                chain.extend(asked.pieces.iter().map(|(start, len)| (at(*start), *len as u32, flags)));
            }
        }
        chain.push((guest(place) + header as u64 + 16, 1, desc_flag::WRITE));
        let window = self.memory[0].window.clone();
        let queue_state = &mut self.queues[usize::from(queue)];
        let head = slot * PER_SLOT;
        if layout.indirect() && self.features & nvme_testkit::feature::INDIRECT_DESC != 0 {
            let table = u64::from(queue) * STRIDE + 0x3000 + 0x80 * u64::from(slot);
            for (i, (addr, len, flags)) in chain.iter().enumerate() {
                let last = i + 1 == chain.len();
                let flags = if last { *flags } else { flags | desc_flag::NEXT };
                let next = if last { 0 } else { i as u16 + 1 };
                let desc = Desc { addr: *addr, len: *len, flags, next };
                window.write_value(table as usize + 16 * i, &desc).ok()?;
            }
            let len = 16 * chain.len() as u32;
            let desc = Desc { addr: guest(0) + table, len, flags: desc_flag::INDIRECT, next: 0 };
            queue_state.ring.set_desc(head, desc).ok()?;
        } else {
            queue_state.ring.chain(head, &chain).ok()?;
        }
        queue_state.ring.offer(&mut queue_state.avail, head).ok()?;
        queue_state.slots[usize::from(slot)] = Some(asked);
        Some(())
    }

    fn lay_out(
        &mut self,
        queue: u16,
        slot: u16,
        layout: Layout,
        len: usize,
        asked: &mut Asked,
    ) -> Option<()> {
        asked.region = layout.region();
        let window = &self.memory[asked.region].window;
        if layout.over() {
            let start = window.len() - len.div_ceil(2);
            asked.pieces = vec![(start, len)];
            return window.fill(start, window.len() - start, POISON).ok();
        }
        let room = Self::room(queue, slot, asked.region);
        let mut cuts: Vec<usize> = (1..layout.pieces()).map(|i| layout.cut(i - 1, len)).collect();
        cuts.extend([0, len]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut at = room + layout.offset();
        asked.pieces.clear();
        for ends in cuts.windows(2) {
            asked.pieces.push((at, ends[1] - ends[0]));
            at += ends[1] - ends[0] + 2 * GUARD + (layout.0 >> 26) as usize * 4;
        }
        let (first, last) = (asked.pieces.first()?, asked.pieces.last()?);
        let (from, to) = (first.0 - GUARD, last.0 + last.1 + GUARD);
        window.fill(from, to - from, POISON).ok()?;
        if asked.kind == Kind::Write {
            let mut data = [0; SECTORS_MAX as usize * 512];
            let data = data.get_mut(..len)?;
            for (i, sector) in data.chunks_exact_mut(512).enumerate() {
                crate::judge::model::fill(
                    if i == 0 || asked.id < crate::judge::model::TABLE { asked.id } else { 0 },
                    sector,
                );
            }
            let mut done = 0;
            for (start, some) in &asked.pieces {
                window.write(*start, &data[done..done + some]).ok()?;
                done += some;
            }
        }
        Some(())
    }

    /// Whether the device wants to be told of what is available (virtio 1.2, 2.7.7 and 2.7.10).
    pub(crate) fn wants_kick(&self, queue: u16) -> bool {
        let queue = &self.queues[usize::from(queue)];
        let (old, new) = (queue.told, queue.avail);
        if old == new {
            return false;
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if self.features & nvme_testkit::feature::EVENT_IDX != 0 {
            let event = queue.ring.avail_event().unwrap_or(0);
            return new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old);
        }
        queue.ring.used_flags().unwrap_or(0) & 1 == 0
    }

    /// Takes what was used. An error: it is not what was asked.
    pub(crate) fn reap(&mut self, queue: u16) -> Result<Vec<Done>, String> {
        let mut done = Vec::new();
        let state = &mut self.queues[usize::from(queue)];
        for _ in 0..RING {
            let Ok(Some((head, _))) = state.ring.take_used(&mut state.used) else { break };
            let slot = head as u16 / PER_SLOT;
            let asked = state.slots.get_mut(usize::from(slot)).and_then(Option::take);
            let asked = asked.filter(|_| (head as u16).is_multiple_of(PER_SLOT));
            let Some(asked) = asked else {
                return Err(format!("descriptor {head} was used, which is nobody's"));
            };
            let mut status = [0];
            let (region, header) = asked.header;
            let memory = &self.memory[region];
            let _ = memory.window.read(header + 16, &mut status);
            if status[0] == UNSET {
                return Err(format!("{:?} was answered without a status", asked.kind));
            }
            if memory.share == Share::Out {
                return Err(format!("{:?} was answered in memory that was given back", asked.kind));
            }
            done.push(Done { slot, asked, status: status[0] });
        }
        if self.features & nvme_testkit::feature::EVENT_IDX != 0 && !done.is_empty() {
            let _ = state.ring.set_used_event(state.used);
        }
        Ok(done)
    }

    /// Whether there is something used that was not taken.
    pub(crate) fn has_used(&self, queue: u16) -> bool {
        let queue = &self.queues[usize::from(queue)];
        queue.ring.used_index().is_ok_and(|index| index != queue.used)
    }

    /// The data of a request that was answered, and whether what lies around it is untouched.
    pub(crate) fn data(&self, asked: &Asked, into: &mut [u8]) -> Result<(), String> {
        let window = &self.memory[asked.region].window;
        let mut done = 0;
        for (start, len) in &asked.pieces {
            let _ = window.read(*start, &mut into[done..done + len]);
            done += len;
            let mut around = [0; 2 * GUARD];
            let (before, after) = around.split_at_mut(GUARD);
            let _ = window.read(start - GUARD, before);
            let _ = window.read(start + len, after);
            if around.iter().any(|byte| *byte != POISON) {
                return Err(format!("bytes around a piece of {len} bytes at {start:#x} were touched"));
            }
        }
        Ok(())
    }
}
