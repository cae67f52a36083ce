//! A client: its memory, and the driver's side of its virtqueues.

use nvme_core::server::control::QueueSpec;
use nvme_core::server::message::SessionKey;
use nvme_mem::{Window, heap};
use nvme_platform::fake::FakeNotify;
use nvme_session::blk::features;
use nvme_session::dataspace::{Claim, File, FileId};
use nvme_session::queue::{AddressSpace, RingAddresses};

/// Where the client's first region begins, and how long it is.
pub(crate) const GUEST: u64 = 0x10_0000;
pub(crate) const LEN: u64 = 4 << 20;
/// Where data is, from its beginning.
pub(crate) const DATA: u64 = 2 << 20;
/// Entries of a virtqueue; each request takes three.
pub(crate) const SIZE: u16 = 256;
/// Requests that fit into one.
pub(crate) const SLOTS: u16 = SIZE / 4;
const STRIDE: u64 = 0x8000;

pub(crate) const IN: u32 = 0;
pub(crate) const OUT: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const ZEROES: u32 = 13;

pub(crate) const OK: u8 = 0;
pub(crate) const IOERR: u8 = 1;
pub(crate) const PENDING: u8 = 0xee;

pub(crate) const ALL: u64 = features::VERSION_1
    | features::INDIRECT_DESC
    | features::FLUSH
    | features::CONFIG_WCE
    | features::DISCARD
    | features::WRITE_ZEROES;

pub(crate) struct Ring {
    avail: u16,
    used: u16,
    pub(crate) notify: FakeNotify,
}

pub(crate) struct Client {
    pub(crate) key: SessionKey,
    pub(crate) memory: Window,
    pub(crate) rings: Vec<Ring>,
}

/// A region in a file of its own.
pub(crate) fn region(guest: u64, len: u64, file: u64) -> (Claim, File) {
    let claim = Claim { guest, user: guest, len, offset: 0 };
    let id = FileId(1, file);
    (claim, File { id, size: len, writable: true, memory: true, trusted: None })
}

impl Client {
    pub(crate) fn new(key: SessionKey) -> Self {
        Self { key, memory: heap(LEN as usize).unwrap(), rings: Vec::new() }
    }

    fn base(queue: usize) -> u64 {
        queue as u64 * STRIDE
    }

    /// Where a new queue is; its rings are cleared.
    pub(crate) fn add_ring(&mut self, notify: FakeNotify) -> QueueSpec {
        let queue = self.rings.len();
        self.memory.fill(Self::base(queue) as usize, STRIDE as usize, 0).unwrap();
        self.rings.push(Ring { avail: 0, used: 0, notify });
        self.spec(queue)
    }

    pub(crate) fn spec(&self, queue: usize) -> QueueSpec {
        let at = GUEST + Self::base(queue);
        let space = AddressSpace::Client;
        let rings = RingAddresses { desc: at, avail: at + 0x1000, used: at + 0x2000, space };
        QueueSpec { size: SIZE, rings, next_avail: self.rings[queue].used }
    }

    /// The driver forgets everything and starts with fresh rings.
    pub(crate) fn reset_ring(&mut self, queue: usize) {
        self.memory.fill(Self::base(queue) as usize, STRIDE as usize, 0).unwrap();
        let ring = &mut self.rings[queue];
        (ring.avail, ring.used) = (0, 0);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write(at as usize, bytes).unwrap();
    }

    fn desc(&self, queue: usize, index: u16, addr: u64, len: u32, flags: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&(index + 1).to_le_bytes());
        self.put(Self::base(queue) + 16 * u64::from(index), &bytes);
    }

    fn header(queue: usize, slot: u16) -> u64 {
        Self::base(queue) + 0x4000 + 64 * u64::from(slot)
    }

    /// Makes a request available: `len` bytes at `at` (a guest address), in the place of `slot`.
    pub(crate) fn ask(&mut self, queue: usize, slot: u16, kind: u32, sector: u64, at: u64, len: u32) {
        let (head, header) = (slot * 4, Self::header(queue, slot));
        self.put(header, &kind.to_le_bytes());
        self.put(header + 8, &sector.to_le_bytes());
        self.put(header + 16, &[PENDING]);
        self.desc(queue, head, GUEST + header, 16, 1);
        let mut last = head + 1;
        if len > 0 {
            self.desc(queue, last, at, len, if kind == IN { 3 } else { 1 });
            last += 1;
        }
        self.desc(queue, last, GUEST + header + 16, 1, 2);
        self.offer(queue, head);
    }

    /// The same in slot 0, with as many buffers as there are, each with its length.
    pub(crate) fn ask_chain(&mut self, queue: usize, kind: u32, sector: u64, buffers: &[(u64, u32)]) {
        let header = Self::header(queue, 0);
        self.put(header, &kind.to_le_bytes());
        self.put(header + 8, &sector.to_le_bytes());
        self.put(header + 16, &[PENDING]);
        self.desc(queue, 0, GUEST + header, 16, 1);
        let mut last = 1;
        for (at, len) in buffers {
            self.desc(queue, last, *at, *len, if kind == IN { 3 } else { 1 });
            last += 1;
        }
        self.desc(queue, last, GUEST + header + 16, 1, 2);
        self.offer(queue, 0);
    }

    fn offer(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let entry = 0x1000 + 4 + 2 * u64::from(ring.avail % SIZE);
        ring.avail = ring.avail.wrapping_add(1);
        let avail = ring.avail;
        self.put(Self::base(queue) + entry, &head.to_le_bytes());
        self.memory.store16(Self::base(queue) as usize + 0x1002, avail).unwrap();
    }

    /// A discard or write-zeroes of so many sectors.
    pub(crate) fn ask_range(&mut self, queue: usize, slot: u16, kind: u32, sector: u64, sectors: u32) {
        let at = Self::header(queue, slot) + 32;
        self.put(at, &sector.to_le_bytes());
        self.put(at + 8, &sectors.to_le_bytes());
        self.put(at + 12, &[0; 4]);
        self.ask(queue, slot, kind, 0, GUEST + at, 16);
    }

    /// Breaks a ring: its available index jumps.
    pub(crate) fn break_ring(&self, queue: usize) {
        let avail = self.rings[queue].avail.wrapping_add(SIZE + 1);
        self.memory.store16(Self::base(queue) as usize + 0x1002, avail).unwrap();
    }

    pub(crate) fn status(&self, queue: usize, slot: u16) -> u8 {
        let mut byte = [0];
        self.memory.read(Self::header(queue, slot) as usize + 16, &mut byte).unwrap();
        byte[0]
    }

    /// Slots of new used entries.
    pub(crate) fn used(&mut self, queue: usize) -> Vec<u16> {
        let base = Self::base(queue) as usize + 0x2000;
        let index = self.memory.load16(base + 2).unwrap();
        let mut slots = Vec::new();
        while self.rings[queue].used != index {
            let mut word = [0; 4];
            let entry = usize::from(self.rings[queue].used % SIZE);
            self.memory.read(base + 4 + 8 * entry, &mut word).unwrap();
            slots.push((u32::from_le_bytes(word) / 4) as u16);
            self.rings[queue].used = self.rings[queue].used.wrapping_add(1);
        }
        slots
    }

    /// Where the data of a slot is kept by those who use 4 KiB for each.
    pub(crate) fn place(slot: u16) -> u64 {
        GUEST + DATA + 4096 * u64::from(slot)
    }

    pub(crate) fn fill(&self, at: u64, bytes: &[u8]) {
        self.put(at - GUEST, bytes);
    }

    pub(crate) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read((at - GUEST) as usize, &mut bytes).unwrap();
        bytes
    }
}

/// Bytes that differ from seed to seed.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(next).collect()
}
