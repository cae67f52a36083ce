//! A driver by hand, that trusts the controller: for tests only.

use std::sync::Arc;

use nvme_platform::{
    Bus, Device, DmaPool, DmaRights, DmaSpace, DriverMemory, Iova, QueueDoorbells, Registers, Time, Window,
};
use nvme_soft::wire::{Cqe, Sqe, Status, admin, nvm, reg};
use nvme_soft::{Config, MemoryMedium, NamespaceConfig, SoftDevice, SoftHandle};
use zerocopy::little_endian::{U16, U32, U64};

/// CC: IOCQES 4, IOSQES 6, EN.
pub(crate) const ENABLE: u32 = 4 << 20 | 6 << 16 | 1;
/// Entries of the admin queues.
pub(crate) const ADMIN: u32 = 8;
/// RDY and CFS in CSTS.
pub(crate) const READY: u32 = 1;
pub(crate) const FATAL: u32 = 2;

/// Compares a completion's status, without phase and DNR.
#[track_caller]
pub(crate) fn expect(cqe: &Cqe, status: Status) {
    let code = cqe.status.get() >> 1 & 0x7ff;
    assert_eq!(code, status.code(), "status {code:#x} where {:#x} was expected", status.code());
}

/// A pair of rings in memory, as the driver sees it.
pub(crate) struct Ring {
    pub(crate) sq: DriverMemory,
    pub(crate) cq: DriverMemory,
    pub(crate) sq_size: u32,
    pub(crate) cq_size: u32,
    pub(crate) tail: u32,
    pub(crate) head: u32,
    phase: u16,
    cid: u16,
}

impl Ring {
    pub(crate) fn new(device: &mut SoftDevice, sq_size: u32, cq_size: u32) -> Self {
        let pages = |bytes: u32| bytes.div_ceil(4096) as usize;
        let sq = device.allocate(pages(sq_size * 64)).unwrap();
        let cq = device.allocate(pages(cq_size * 16)).unwrap();
        Self { sq, cq, sq_size, cq_size, tail: 0, head: 0, phase: 1, cid: 0 }
    }

    /// Puts an entry into the queue, and says which identifier it got.
    pub(crate) fn push(&mut self, mut sqe: Sqe) -> u16 {
        self.cid = self.cid.wrapping_add(1);
        sqe.cid = U16::new(self.cid);
        self.sq.window().write_value(self.tail as usize * 64, &sqe).unwrap();
        self.tail = (self.tail + 1) % self.sq_size;
        self.cid
    }

    /// Takes a completion.
    pub(crate) fn pop(&mut self) -> Option<Cqe> {
        let at = self.head as usize * 16;
        let last = self.cq.window().load32(at + 12).unwrap();
        if (last >> 16) as u16 & 1 != self.phase {
            return None;
        }
        let cqe = self.cq.window().read_value::<Cqe>(at).unwrap();
        self.head += 1;
        if self.head == self.cq_size {
            (self.head, self.phase) = (0, self.phase ^ 1);
        }
        Some(cqe)
    }
}

/// A controller that is enabled, and its admin queue.
pub(crate) struct Rig {
    pub(crate) device: SoftDevice,
    pub(crate) handle: SoftHandle,
    pub(crate) admin: Ring,
}

/// An I/O queue pair.
pub(crate) struct Pair {
    pub(crate) ring: Ring,
    pub(crate) doorbells: Box<dyn QueueDoorbells>,
    pub(crate) now: Time,
}

/// A namespace of `blocks` blocks of 512 bytes in memory.
pub(crate) fn namespace(blocks: usize) -> NamespaceConfig {
    NamespaceConfig::new(Arc::new(MemoryMedium::new(blocks * 512).unwrap()))
}

/// A controller with one namespace of 1 MiB.
pub(crate) fn config() -> Config {
    Config { namespaces: vec![namespace(2048)], ..Config::default() }
}

impl Rig {
    pub(crate) fn new(config: Config) -> Self {
        let mut rig = Self::off(config);
        rig.enable();
        rig
    }

    /// Not enabled yet.
    pub(crate) fn off(config: Config) -> Self {
        let mut device = SoftDevice::new(config).unwrap();
        device.master(true).unwrap();
        let admin = Ring::new(&mut device, ADMIN, ADMIN);
        Self { handle: device.handle(), device, admin }
    }

    pub(crate) fn enable(&mut self) {
        self.admin = Ring::new(&mut self.device, ADMIN, ADMIN);
        self.device.write32(reg::AQA, (ADMIN - 1) << 16 | (ADMIN - 1));
        self.device.write64(reg::ASQ, self.admin.sq.iova().0);
        self.device.write64(reg::ACQ, self.admin.cq.iova().0);
        self.device.write32(reg::CC, ENABLE);
        assert_eq!(self.status(), READY);
    }

    pub(crate) fn status(&self) -> u32 {
        self.device.read32(reg::CSTS)
    }

    /// Submits without looking for a completion.
    pub(crate) fn admin_submit(&mut self, sqe: Sqe) -> u16 {
        let cid = self.admin.push(sqe);
        self.device.write32(reg::DOORBELLS, self.admin.tail);
        cid
    }

    pub(crate) fn admin_pop(&mut self) -> Option<Cqe> {
        let cqe = self.admin.pop()?;
        self.device.write32(reg::DOORBELLS + 4, self.admin.head);
        Some(cqe)
    }

    /// One admin command, from entry to completion.
    #[track_caller]
    pub(crate) fn admin(&mut self, sqe: Sqe) -> Cqe {
        let cid = self.admin_submit(sqe);
        let cqe = self.admin_pop().expect("no completion");
        assert_eq!((cqe.cid.get(), cqe.sq_id.get(), u32::from(cqe.sq_head.get())), (cid, 0, self.admin.tail));
        cqe
    }

    /// As [`admin`](Self::admin), for one that must succeed: dword 0.
    #[track_caller]
    pub(crate) fn done(&mut self, sqe: Sqe) -> u32 {
        let cqe = self.admin(sqe);
        expect(&cqe, Status::SUCCESS);
        cqe.result.get()
    }

    pub(crate) fn pair(&mut self, id: u16, size: u32) -> Pair {
        let ring = Ring::new(&mut self.device, size, size);
        self.done(create_cq(id, size, ring.cq.iova().0));
        self.done(create_sq(id, size, ring.sq.iova().0, id));
        let doorbells = self.device.doorbells(id, 4).unwrap();
        Pair { ring, doorbells, now: Time::default() }
    }

    /// Memory of a client, mapped.
    pub(crate) fn client(&mut self, pages: usize, rights: DmaRights) -> (u64, Window) {
        let window = nvme_mem::heap(pages * 4096).unwrap();
        let at = self.device.reserve(&window, rights).unwrap();
        self.device.map(at, &window, rights).unwrap();
        (at.0, window)
    }

    /// A page to read data from, after a command that fills it.
    pub(crate) fn page(&mut self) -> (u64, Window) {
        self.client(1, DmaRights::ReadWrite)
    }

    pub(crate) fn unmap(&mut self, at: u64, pages: u64) {
        self.device.unmap(Iova(at), pages * 4096).unwrap();
    }
}

impl Pair {
    pub(crate) fn submit(&mut self, sqe: Sqe) -> u16 {
        let cid = self.ring.push(sqe);
        self.doorbells.submission_tail(self.ring.tail as u16);
        cid
    }

    pub(crate) fn run(&mut self) -> Option<Time> {
        self.doorbells.run(64, self.now)
    }

    pub(crate) fn pop(&mut self) -> Option<Cqe> {
        let cqe = self.ring.pop()?;
        self.doorbells.completion_head(self.ring.head as u16);
        Some(cqe)
    }

    /// One command, from entry to completion.
    #[track_caller]
    pub(crate) fn command(&mut self, sqe: Sqe) -> Cqe {
        let cid = self.submit(sqe);
        assert_eq!(self.run(), None);
        let cqe = self.pop().expect("no completion");
        assert_eq!((cqe.cid.get(), u32::from(cqe.sq_head.get())), (cid, self.ring.tail));
        cqe
    }

    #[track_caller]
    pub(crate) fn done(&mut self, sqe: Sqe) {
        expect(&self.command(sqe), Status::SUCCESS);
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, sqe: Sqe, status: Status) {
        expect(&self.command(sqe), status);
    }
}

/// An entry with its data pointer and dwords 10 and up.
pub(crate) fn entry(opcode: u8, nsid: u32, data: [u64; 2], dwords: &[u32]) -> Sqe {
    let mut sqe = Sqe { opcode, nsid: U32::new(nsid), data: data.map(U64::new), ..Sqe::default() };
    for (to, from) in sqe.cdw.iter_mut().zip(dwords) {
        *to = U32::new(*from);
    }
    sqe
}

pub(crate) fn create_cq(id: u16, size: u32, at: u64) -> Sqe {
    entry(admin::CREATE_CQ, 0, [at, 0], &[(size - 1) << 16 | u32::from(id), u32::from(id) << 16 | 3])
}

pub(crate) fn create_sq(id: u16, size: u32, at: u64, cq: u16) -> Sqe {
    entry(admin::CREATE_SQ, 0, [at, 0], &[(size - 1) << 16 | u32::from(id), u32::from(cq) << 16 | 1])
}

pub(crate) fn delete_sq(id: u16) -> Sqe {
    entry(admin::DELETE_SQ, 0, [0; 2], &[u32::from(id)])
}

pub(crate) fn delete_cq(id: u16) -> Sqe {
    entry(admin::DELETE_CQ, 0, [0; 2], &[u32::from(id)])
}

pub(crate) fn identify(cns: u8, nsid: u32, at: u64) -> Sqe {
    entry(admin::IDENTIFY, nsid, [at, 0], &[u32::from(cns)])
}

/// Read or Write of `blocks` blocks.
pub(crate) fn transfer(opcode: u8, lba: u64, blocks: u32, data: [u64; 2]) -> Sqe {
    entry(opcode, 1, data, &[lba as u32, (lba >> 32) as u32, blocks - 1])
}

pub(crate) fn read(lba: u64, blocks: u32, data: [u64; 2]) -> Sqe {
    transfer(nvm::READ, lba, blocks, data)
}

pub(crate) fn write(lba: u64, blocks: u32, data: [u64; 2]) -> Sqe {
    transfer(nvm::WRITE, lba, blocks, data)
}

/// Force Unit Access.
pub(crate) fn fua(mut sqe: Sqe) -> Sqe {
    sqe.cdw[2] = U32::new(sqe.cdw[2].get() | 1 << 30);
    sqe
}

pub(crate) fn bytes(window: &Window, at: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    window.read(at, &mut bytes).unwrap();
    bytes
}

/// Fills a window with bytes that differ from block to block.
pub(crate) fn pattern(window: &Window, seed: u8) {
    for at in (0..window.len()).step_by(8) {
        let value = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(seed) << 56;
        window.write_value(at, &U64::new(value)).unwrap();
    }
}
