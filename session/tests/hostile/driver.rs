//! The driver's side of a virtqueue, in memory, as hostile as a test wants it; and a disk that does what it is told.

use std::sync::Arc;

use nvme_mem::heap;
use nvme_platform::{Iova, Window};
use nvme_policy::{Access, BlockSize, Extent, Grant, Namespace};
use nvme_session::blk::features;
use nvme_session::memory::{MemoryTable, Quiet, QuietBy, Region, Spares};
use nvme_session::operation::{Limits, Operation, Outcome};
use nvme_session::queue::{
    AddressSpace, BlkQueue, Broken, Direction, Next, QueueConfig, Request, RingAddresses,
};
pub(crate) use nvme_testkit::desc_flag::{INDIRECT, NEXT, WRITE};
pub(crate) use nvme_testkit::kind::{DISCARD, FLUSH, GET_ID, IN, OUT, WRITE_ZEROES};
pub(crate) use nvme_testkit::status::{IOERR, OK, UNSET, UNSUPP};
use nvme_testkit::{Desc, Header, Ring};
use zerocopy::IntoBytes;

pub(crate) const SIZE: u16 = 16;
/// Guest memory: rings and headers in the first region, data in the second, which adjoins it; then a gap, then a region
/// that may not be written to.
pub(crate) const RAM: u64 = 0x10_0000;
pub(crate) const DATA: u64 = RAM + 0x1_0000;
pub(crate) const DATA_END: u64 = DATA + 0x4_0000;
pub(crate) const ROM: u64 = DATA_END + 0x1_0000;
pub(crate) const ROM_LEN: u64 = 0x4000;

pub(crate) const DESC: u64 = RAM;
pub(crate) const AVAIL: u64 = RAM + 0x1000;
pub(crate) const USED: u64 = RAM + 0x2000;
pub(crate) const TABLE: u64 = RAM + 0x3000;
/// Headers and status bytes, 64 bytes for each head.
pub(crate) const HEAD: u64 = RAM + 0x8000;

pub(crate) const ALL: u64 = features::VERSION_1
    | features::INDIRECT_DESC
    | features::SEG_MAX
    | features::FLUSH
    | features::CONFIG_WCE
    | features::DISCARD
    | features::WRITE_ZEROES;

pub(crate) fn iova(slot: u16) -> Iova {
    Iova(0xab_0000_0000 + (u64::from(slot) << 24))
}

pub(crate) fn region(slot: u16, guest: u64, len: u64, writable: bool) -> Region {
    let window = heap(len as usize).unwrap();
    Region { guest, user: guest + 0x7f00_0000_0000, len, slot, window, iova: iova(slot), writable }
}

pub(crate) fn regions() -> Vec<Region> {
    vec![
        region(0, RAM, DATA - RAM, true),
        region(1, DATA, DATA_END - DATA, true),
        region(2, ROM, ROM_LEN, false),
    ]
}

pub(crate) fn rings() -> RingAddresses {
    let user = |a| a + 0x7f00_0000_0000;
    RingAddresses { desc: user(DESC), avail: user(AVAIL), used: user(USED), space: AddressSpace::Client }
}

/// A disk of 64 sectors' worth of 512-byte blocks, or as many bytes in 4096-byte ones; the partition starts at block 100.
pub(crate) fn grant(access: Access, size: BlockSize) -> Grant {
    let whole = Extent::whole(Namespace { controller: 0, nsid: 1 }, 1 << 20, size).unwrap();
    Grant::new(whole.part(100, 64 * 512 / size.bytes()).unwrap(), access)
}

pub(crate) fn config() -> QueueConfig {
    QueueConfig {
        size: SIZE,
        rings: rings(),
        next_avail: 0,
        features: ALL,
        direction: Direction::AsFlagged,
        grant: grant(Access::ReadWrite, BlockSize::B512),
        limits: Limits {
            transfer_blocks: 256,
            discard_blocks: 1 << 16,
            discard_granularity: 0,
            write_zeroes_blocks: 1 << 16,
            volatile_cache: true,
            unmaps_to_zeroes: false,
        },
        id: *b"0123456789abcdefghij",
        write_back: true,
    }
}

pub(crate) fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Desc {
    Desc { addr, len, flags, next }
}

/// A driver and its queue.
pub(crate) struct Driver {
    pub(crate) queue: BlkQueue,
    pub(crate) table: Arc<MemoryTable>,
    pub(crate) spares: Spares,
    pub(crate) avail: u16,
    pub(crate) seen_used: u16,
}

impl Driver {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with(change: impl FnOnce(&mut QueueConfig)) -> Self {
        let mut config = config();
        change(&mut config);
        let table = Arc::new(MemoryTable::new(regions()).unwrap());
        let avail = config.next_avail;
        let queue = BlkQueue::new(config, table.clone()).unwrap();
        Self { queue, table, spares: Spares::new(), avail, seen_used: 0 }
    }

    /// Guest memory, one region only.
    pub(crate) fn at(&self, addr: u64) -> (&Window, usize) {
        let r = self.table.regions().iter().find(|r| r.guest <= addr && addr < r.guest + r.len).unwrap();
        (&r.window, (addr - r.guest) as usize)
    }

    /// Where its rings are now.
    fn ring(&self) -> Ring {
        let (window, _) = self.at(RAM);
        Ring::within(window, SIZE, [DESC, AVAIL, USED].map(|at| (at - RAM) as usize)).unwrap()
    }

    pub(crate) fn put(&self, addr: u64, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            let (window, offset) = self.at(addr + i as u64);
            window.write(offset, &[*byte]).unwrap();
        }
    }

    pub(crate) fn get(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (i, byte) in bytes.iter_mut().enumerate() {
            let (window, offset) = self.at(addr + i as u64);
            window.read(offset, std::slice::from_mut(byte)).unwrap();
        }
        bytes
    }

    pub(crate) fn set_desc(&self, index: u16, d: Desc) {
        self.ring().set_desc(index, d).unwrap();
    }

    pub(crate) fn set_indirect(&self, index: u16, d: Desc) {
        self.put(TABLE + 16 * u64::from(index), d.as_bytes());
    }

    pub(crate) fn header(&self, addr: u64, kind: u32, sector: u64) {
        self.put(addr, Header::new(kind, sector).as_bytes());
    }

    /// Makes a head available.
    pub(crate) fn offer(&mut self, head: u16) {
        self.ring().offer(&mut self.avail, head).unwrap();
    }

    pub(crate) fn set_avail(&self, index: u16) {
        self.ring().set_avail_index(index).unwrap();
    }

    /// A chain in descriptors `head..`, made available: a header, these buffers, a status byte.
    pub(crate) fn request(&mut self, head: u16, kind: u32, sector: u64, data: &[(u64, u32, u16)]) {
        let at = HEAD + 64 * u64::from(head);
        self.header(at, kind, sector);
        self.put(at + 16, &[UNSET]);
        let mut chain = vec![(at, 16, 0)];
        chain.extend(data);
        chain.push((at + 16, 1, WRITE));
        self.ring().chain(head, &chain).unwrap();
        self.offer(head);
    }

    pub(crate) fn status(&self, head: u16) -> u8 {
        self.get(HEAD + 64 * u64::from(head) + 16, 1)[0]
    }

    pub(crate) fn next(&mut self) -> Next {
        self.queue.next(&mut self.spares)
    }

    /// The next request, which there has to be.
    pub(crate) fn taken(&mut self) -> Request {
        loop {
            match self.next() {
                Next::Request(request) => return request,
                Next::Again => {}
                other => panic!("no request but {other:?}"),
            }
        }
    }

    pub(crate) fn complete(&mut self, request: Request, outcome: Outcome) -> Option<Request> {
        self.queue.complete(request.end(outcome, Quiet::seen(QuietBy::Completed)), &mut self.spares)
    }

    /// New used entries: head and length.
    pub(crate) fn used(&mut self) -> Vec<(u32, u32)> {
        self.queue.publish();
        let ring = self.ring();
        std::iter::from_fn(|| ring.take_used(&mut self.seen_used).unwrap()).collect()
    }

    /// The request of `head` is answered at once, with this status and without any operation; nothing is held.
    pub(crate) fn refused(&mut self, head: u16, status: u8) {
        assert!(matches!(self.next(), Next::Again), "answered at once");
        assert_eq!(self.status(head), status);
        assert_eq!(self.used(), [(u32::from(head), 1)]);
        assert_eq!((self.queue.in_flight(), self.queue.bytes_held()), (0, 0));
    }

    /// The queue breaks, for this reason, and stays broken; nothing is held and nothing used.
    pub(crate) fn breaks(&mut self, why: Broken) {
        for _ in 0..2 {
            match self.next() {
                Next::Broken(got) => assert_eq!(got, why),
                other => panic!("not broken but {other:?}"),
            }
        }
        assert_eq!(self.used(), []);
        assert_eq!(self.queue.bytes_held(), 0);
    }

    /// It serves an ordinary read.
    pub(crate) fn serves(&mut self) {
        self.request(0, IN, 0, &[(DATA, 512, WRITE)]);
        let op = self.taken();
        let head = op.tag().head();
        assert!(matches!(op.operation(), Operation::Read(_)) && head == 0);
        assert!(self.complete(op, Outcome::Done).is_none());
        assert_eq!(self.status(0), OK);
        assert_eq!(self.used(), [(0, 513)]);
        assert_eq!((self.queue.in_flight(), self.queue.bytes_held()), (0, 0));
    }
}

/// Addresses and lengths of a request's memory.
pub(crate) fn ranges(request: &Request) -> Vec<(u64, u32)> {
    request.operation().memory().iter().map(|r| (r.iova().0, r.len())).collect()
}

/// First block and blocks of a request.
pub(crate) fn place(request: &Request) -> (u64, u64) {
    request.operation().place().map_or((0, 0), |p| (p.first(), p.blocks()))
}
