//! A driver as L4Re's own C++ client is one: it acknowledges all that it is offered, sizes its queue by `num_max`, keeps queue,
//! headers, status bytes and data in one dataspace, and flags its data the wrong way round.

use nvme_l4re::model::{Answer, Kind, Said, Task, TaskCap};
use nvme_mem::Window;
use nvme_testkit::desc_flag::WRITE;
pub(crate) use nvme_testkit::kind::{DISCARD, FLUSH, GET_ID, IN, OUT, WRITE_ZEROES as ZEROES};
pub(crate) use nvme_testkit::status::{IOERR, OK, UNSUPP};
use nvme_testkit::{Chained, Header, Ring, status::UNSET};
use zerocopy::IntoBytes;

use crate::rig::{Rig, label, said};

/// Where the client begins to hand addresses out: at the first superpage.
pub(crate) const BASE: u64 = 2 << 20;
/// Entries of the queue.
pub(crate) const SIZE: u16 = 256;
/// Requests that can be under way: three descriptors each.
pub(crate) const SLOTS: u16 = SIZE / 3;

const AVAIL: usize = Ring::desc_len(SIZE);
const USED: usize = AVAIL + Ring::avail_len(SIZE).next_multiple_of(4);
const HEADERS: usize = (USED + Ring::used_len(SIZE)).next_multiple_of(8);
const STATUS: usize = HEADERS + 16 * SIZE as usize;
/// Where data begins in the dataspace.
pub(crate) const DATA: usize = (STATUS + SIZE as usize).next_multiple_of(4096);

/// The configuration page, as drivers see it.
pub(crate) mod at {
    pub(crate) const NUM_QUEUES: usize = 0x28;
    pub(crate) const QUEUES_OFFSET: usize = 0x2c;
    pub(crate) const IRQ_STATUS: usize = 0x60;
    pub(crate) const STATUS: usize = 0x70;
    pub(crate) const DEVICE_FEATURES: usize = 0xc0;
    pub(crate) const DRIVER_FEATURES: usize = 0xe0;
    pub(crate) const GENERATION: usize = 0xfc;
    pub(crate) const SPACE: usize = 0x100;
    pub(crate) const QUEUE: usize = 0x140;
}

pub(crate) struct Driver {
    pub(crate) task: Task,
    pub(crate) session: TaskCap,
    pub(crate) page: Window,
    pub(crate) kick: TaskCap,
    pub(crate) irq: TaskCap,
    pub(crate) ds: TaskCap,
    pub(crate) memory: Window,
    avail: u16,
    used: u16,
    free: Vec<u16>,
}

/// What a dataspace for so much data is long.
pub(crate) fn queue_size(data: usize) -> usize {
    DATA + data.next_multiple_of(4096)
}

/// A message with a capability.
pub(crate) fn with_cap(protocol: i64, words: &[u64], cap: TaskCap) -> Said {
    Said { cap: Some((cap, true)), ..said(protocol, words) }
}

pub(crate) fn register(ds: TaskCap, base: u64, offset: u64, size: u64) -> Said {
    with_cap(0, &[3, base, offset, size], ds)
}

impl Driver {
    /// Connects: configuration page, reset, interrupts.
    pub(crate) fn connect(rig: &mut Rig, task: Task, session: TaskCap) -> Self {
        let Answer::Reply { label: 0, words, cap: Some(config) } = rig.call(&task, session, said(0, &[4]))
        else {
            panic!("no configuration page")
        };
        assert_eq!(words, [0], "it begins where its dataspace does");
        let page = task.window(config);
        assert_eq!(page.len(), 4096);
        let mut magic = [0; 4];
        page.read(0, &mut magic).unwrap();
        assert_eq!((&magic, page.load32(4)), (b"virt", Ok(2)));
        let irq = task.irq();
        let mut driver = Self {
            session,
            page,
            kick: irq,
            irq,
            ds: irq,
            memory: Window::empty(),
            avail: 0,
            used: 0,
            free: (0..SLOTS).rev().collect(),
            task,
        };
        for status in [0, 1, 3] {
            assert_eq!(driver.set_status(rig, status), 0);
            assert_eq!(driver.status(), status);
        }
        let answer = rig.call(&driver.task, session, said(0, &[5]));
        let Answer::Reply { label: 0, cap: Some(kick), .. } = answer else {
            panic!("no interrupt: {answer:?}")
        };
        driver.kick = kick;
        assert_eq!(rig.code(&driver.task, session, with_cap(-1, &[0, 0], irq)), 0);
        assert_eq!(driver.page.load32(at::NUM_QUEUES), Ok(1));
        assert_eq!(driver.page.load16(at::QUEUE), Ok(SIZE), "it sizes its memory by that");
        driver
    }

    /// All of it: with a dataspace of its own, for so many bytes of data.
    pub(crate) fn setup(rig: &mut Rig, task: Task, session: TaskCap, data: usize) -> Self {
        let ds = task.dataspace(Kind::Memory, queue_size(data));
        Self::setup_with(rig, task, session, ds)
    }

    /// Likewise, with a dataspace that it was given.
    pub(crate) fn setup_with(rig: &mut Rig, task: Task, session: TaskCap, ds: TaskCap) -> Self {
        let mut driver = Self::connect(rig, task, session);
        assert_eq!(driver.share(rig, ds), 0);
        driver.begin(rig);
        driver
    }

    /// Registers its memory at the first address that it hands out.
    pub(crate) fn share(&mut self, rig: &mut Rig, ds: TaskCap) -> i64 {
        (self.ds, self.memory) = (ds, self.task.window(ds));
        let said = register(ds, BASE, 0, self.memory.len() as u64);
        rig.code(&self.task, self.session, said)
    }

    /// Clears its rings, and sets the queue up.
    pub(crate) fn config_queue(&mut self, rig: &mut Rig) -> i64 {
        self.memory.fill(0, DATA, 0).unwrap();
        (self.avail, self.used) = (0, 0);
        self.free = (0..SLOTS).rev().collect();
        self.write_queue(SIZE, BASE, BASE + AVAIL as u64, BASE + USED as u64, 1);
        self.queue_call(rig, 0)
    }

    pub(crate) fn write_queue(&self, num: u16, desc: u64, avail: u64, used: u64, ready: u16) {
        self.page.store16(at::QUEUE + 2, num).unwrap();
        for (offset, addr) in [(8, desc), (16, avail), (24, used)] {
            self.page.write(at::QUEUE + offset, &addr.to_le_bytes()).unwrap();
        }
        self.page.store16(at::QUEUE + 4, ready).unwrap();
    }

    pub(crate) fn queue_call(&self, rig: &mut Rig, index: u64) -> i64 {
        rig.code(&self.task, self.session, said(0, &[1 | index << 32]))
    }

    /// Sets the queue up, and goes on to DRIVER_OK with all features that are offered.
    pub(crate) fn begin(&mut self, rig: &mut Rig) {
        assert_eq!(self.config_queue(rig), 0);
        self.acknowledge(u64::MAX);
        assert_eq!(self.set_status(rig, 11), 0);
        assert_eq!(self.status(), 11, "features");
        assert_eq!(self.set_status(rig, 15), 0);
        assert_eq!(self.status(), 15);
    }

    pub(crate) fn offered(&self) -> u64 {
        let [low, high] = [0, 4].map(|at| self.page.load32(at::DEVICE_FEATURES + at).unwrap());
        u64::from(low) | u64::from(high) << 32
    }

    /// Acknowledges these of the features that are offered.
    pub(crate) fn acknowledge(&self, mask: u64) {
        let features = self.offered() & mask;
        self.page.store32(at::DRIVER_FEATURES, features as u32).unwrap();
        self.page.store32(at::DRIVER_FEATURES + 4, (features >> 32) as u32).unwrap();
    }

    pub(crate) fn set_status(&self, rig: &mut Rig, status: u32) -> i64 {
        rig.code(&self.task, self.session, said(0, &[u64::from(status) << 32]))
    }

    pub(crate) fn status(&self) -> u32 {
        self.page.load32(at::STATUS).unwrap()
    }

    pub(crate) fn generation(&self) -> u32 {
        self.page.load32(at::GENERATION).unwrap()
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.page.read_value(at::SPACE).map(u64::from_le_bytes).unwrap()
    }

    /// Takes note of what its interrupt was about.
    pub(crate) fn take_irq_status(&self) -> u32 {
        let bits = self.page.load32(at::IRQ_STATUS).unwrap();
        self.page.store32(at::IRQ_STATUS, 0).unwrap();
        bits
    }

    /// Starts over on the session that it has, as a guest that reboots does.
    pub(crate) fn reset(&mut self, rig: &mut Rig) {
        for status in [0, 1, 3] {
            assert_eq!(self.set_status(rig, status), 0);
        }
        self.begin(rig);
    }

    fn ring(&self) -> Ring {
        Ring::within(&self.memory, SIZE, [0, AVAIL, USED]).unwrap()
    }

    /// Asks for something, with data at `data` bytes behind the begin of the dataspace's data. `None`: its queue is full.
    pub(crate) fn ask(&mut self, kind: u32, sector: u64, data: usize, len: u32) -> Option<u16> {
        self.ask_at(kind, sector, BASE + (DATA + data) as u64, len)
    }

    pub(crate) fn ask_at(&mut self, kind: u32, sector: u64, addr: u64, len: u32) -> Option<u16> {
        let slot = self.free.pop()?;
        let (head, slot_at) = (slot * 3, usize::from(slot));
        let header = HEADERS + 16 * slot_at;
        self.memory.write(header, Header::new(kind, sector).as_bytes()).unwrap();
        self.memory.fill(STATUS + slot_at, 1, UNSET).unwrap();
        let mut chain: Vec<Chained> = vec![(BASE + header as u64, 16, 0)];
        if len > 0 {
            // What is written to the disk is flagged as if it was read, and the other way round.
            chain.push((addr, len, if kind == IN { 0 } else { WRITE }));
        }
        chain.push((BASE + (STATUS + slot_at) as u64, 1, WRITE));
        self.ring().chain(head, &chain).unwrap();
        self.offer(head);
        Some(slot)
    }

    /// The slot that the next request gets.
    pub(crate) fn next_slot(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Makes a chain available, whatever it is.
    pub(crate) fn offer(&mut self, head: u16) {
        self.ring().offer(&mut self.avail, head).unwrap();
    }

    /// Says that there is something, unless the device does not want to hear it.
    pub(crate) fn notify(&self) {
        if self.ring().used_flags().unwrap() & 1 == 0 {
            self.task.trigger(self.kick);
        }
    }

    /// What has ended: slots with their status.
    pub(crate) fn ended(&mut self) -> Vec<(u16, u8)> {
        let mut ended = Vec::new();
        let ring = self.ring();
        while let Some((head, _)) = ring.take_used(&mut self.used).unwrap() {
            let slot = u16::try_from(head).unwrap() / 3;
            let mut status = [0];
            self.memory.read(STATUS + usize::from(slot), &mut status).unwrap();
            assert!(!self.free.contains(&slot), "answered twice");
            self.free.push(slot);
            ended.push((slot, status[0]));
        }
        ended
    }

    pub(crate) fn in_flight(&self) -> usize {
        usize::from(SLOTS) - self.free.len()
    }

    /// One request, from beginning to end.
    pub(crate) fn request(&mut self, rig: &mut Rig, kind: u32, sector: u64, data: usize, len: u32) -> u8 {
        let slot = self.ask(kind, sector, data, len).unwrap();
        self.finish(rig, slot)
    }

    /// Waits for the answer to a request.
    pub(crate) fn finish(&mut self, rig: &mut Rig, slot: u16) -> u8 {
        self.notify();
        let mut found = None;
        rig.until("the end of a request", |_| {
            let ended = self.ended();
            found = found.or(ended.iter().find(|(s, _)| *s == slot).map(|(_, status)| *status));
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn fill(&self, data: usize, bytes: &[u8]) {
        self.memory.write(DATA + data, bytes).unwrap();
    }

    pub(crate) fn bytes(&self, data: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(DATA + data, &mut bytes).unwrap();
        bytes
    }

    /// A write and a read of it, right.
    pub(crate) fn serves(&mut self, rig: &mut Rig, seed: u64) {
        let written = pattern(seed, 4096);
        self.fill(0, &written);
        assert_eq!(self.request(rig, OUT, seed % 64 * 8, 0, 4096), OK);
        self.fill(0, &[0x77; 4096]);
        assert_eq!(self.request(rig, IN, seed % 64 * 8, 0, 4096), OK);
        assert!(self.bytes(0, 4096) == written, "what was written is read");
    }
}

/// Bytes that tell where they belong.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect()
}

/// The answer to a call that is wanted to be refused.
pub(crate) fn refused(answer: &Answer) -> i64 {
    let code = label(answer);
    assert!(code < 0 && matches!(answer, Answer::Reply { cap: None, .. }), "{answer:?}");
    code
}
