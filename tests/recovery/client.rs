//! A client: its memory, and the driver's side of its virtqueues.

use nvme_core::server::control::QueueSpec;
use nvme_core::server::message::SessionKey;
use nvme_mem::{Window, heap};
use nvme_platform::fake::FakeNotify;
use nvme_session::blk::features;
use nvme_session::dataspace::{Claim, File, FileId};
use nvme_session::queue::{AddressSpace, RingAddresses};
use nvme_testkit::desc_flag::WRITE;
pub(crate) use nvme_testkit::kind::{DISCARD, FLUSH, IN, OUT, WRITE_ZEROES as ZEROES};
pub(crate) use nvme_testkit::status::{IOERR, OK, UNSET as PENDING};
use nvme_testkit::{Chained, Header, Range, Ring as Raw};
use zerocopy::IntoBytes;

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
    (claim, File { id, size: len, writable: true, memory: true, trusted: nvme_policy::Dataspaces::NONE })
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
        QueueSpec { size: SIZE, rings, next_avail: self.rings[queue].used, journal: None }
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

    fn ring(&self, queue: usize) -> Raw {
        let at = Self::base(queue) as usize;
        Raw::within(&self.memory, SIZE, [at, at + 0x1000, at + 0x2000]).unwrap()
    }

    /// Writes a request: its header, its buffers, and a status that is not set.
    fn write(&self, queue: usize, slot: u16, kind: u32, sector: u64, buffers: &[(u64, u32)]) {
        let header = Self::header(queue, slot);
        self.put(header, Header::new(kind, sector).as_bytes());
        self.put(header + 16, &[PENDING]);
        let flags = if kind == IN { WRITE } else { 0 };
        let mut chain: Vec<Chained> = vec![(GUEST + header, 16, 0)];
        chain.extend(buffers.iter().map(|(at, len)| (*at, *len, flags)));
        chain.push((GUEST + header + 16, 1, WRITE));
        self.ring(queue).chain(slot * 4, &chain).unwrap();
    }

    fn header(queue: usize, slot: u16) -> u64 {
        Self::base(queue) + 0x4000 + 64 * u64::from(slot)
    }

    /// Makes a request available: `len` bytes at `at` (a guest address), in the place of `slot`.
    pub(crate) fn ask(&mut self, queue: usize, slot: u16, kind: u32, sector: u64, at: u64, len: u32) {
        let buffer = [(at, len)];
        self.write(queue, slot, kind, sector, if len > 0 { &buffer } else { &[] });
        self.offer(queue, slot * 4);
    }

    /// The same in slot 0, with as many buffers as there are, each with its length.
    pub(crate) fn ask_chain(&mut self, queue: usize, kind: u32, sector: u64, buffers: &[(u64, u32)]) {
        self.write(queue, 0, kind, sector, buffers);
        self.offer(queue, 0);
    }

    fn offer(&mut self, queue: usize, head: u16) {
        let raw = self.ring(queue);
        raw.offer(&mut self.rings[queue].avail, head).unwrap();
    }

    /// A discard or write-zeroes of so many sectors.
    pub(crate) fn ask_range(&mut self, queue: usize, slot: u16, kind: u32, sector: u64, sectors: u32) {
        let at = Self::header(queue, slot) + 32;
        self.put(at, Range { sector, sectors, flags: 0 }.as_bytes());
        self.ask(queue, slot, kind, 0, GUEST + at, 16);
    }

    /// Breaks a ring: its available index jumps.
    pub(crate) fn break_ring(&self, queue: usize) {
        let avail = self.rings[queue].avail.wrapping_add(SIZE + 1);
        self.ring(queue).set_avail_index(avail).unwrap();
    }

    pub(crate) fn status(&self, queue: usize, slot: u16) -> u8 {
        let mut byte = [0];
        self.memory.read(Self::header(queue, slot) as usize + 16, &mut byte).unwrap();
        byte[0]
    }

    /// Slots of new used entries.
    pub(crate) fn used(&mut self, queue: usize) -> Vec<u16> {
        let raw = self.ring(queue);
        let used = &mut self.rings[queue].used;
        std::iter::from_fn(|| raw.take_used(used).unwrap()).map(|(head, _)| (head / 4) as u16).collect()
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
