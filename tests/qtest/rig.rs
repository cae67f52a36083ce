//! One controller of QEMU's, one client's memory, real time, and the little that control and worker do in between.

use std::time::{Duration, Instant};

use nvme_core::nvme::{Clients, Controller, ControllerEvent, NamespaceInfo, Options, QueuePair, Submit};
use nvme_platform::{DmaRights, PAGE, Time, Window};
use nvme_policy::{Access, Extent, Grant};
use nvme_session::memory::{DmaRange, MemoryTable, Region, Spares, Windows};
use nvme_session::operation::{Operation, Outcome};
use nvme_session::queue::fake::Desk;
use nvme_session::queue::{Ended, QueueTag, Request, Tag};

use crate::device::Watch;
use crate::machine::{Machine, Shape};

/// Where the client's memory begins, as the client says.
pub(crate) const GUEST: u64 = 0x10_0000;
pub(crate) const BYTES: u64 = 4 << 20;
/// How long anything may take, on a box with other work.
const PATIENCE: Duration = Duration::from_secs(20);

/// The client's memory: one region.
pub(crate) struct Client {
    pub(crate) desk: Desk,
    memory: Window,
}

impl Clients for Client {
    fn window(&self, _: Tag, range: &DmaRange) -> Option<Window> {
        self.desk.window(range)
    }

    fn wants(&self, _: Tag) -> bool {
        true
    }
}

impl Client {
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write((at - GUEST) as usize, bytes).unwrap();
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read((at - GUEST) as usize, &mut bytes).unwrap();
        bytes
    }
}

pub(crate) struct Rig {
    pub(crate) machine: Machine,
    pub(crate) controller: Controller,
    pub(crate) watch: Watch,
    pub(crate) client: Client,
    spares: Spares,
    start: Instant,
}

impl Rig {
    /// Not brought up yet.
    pub(crate) fn raw(shape: &Shape, options: Options) -> Self {
        Self::raw_with(shape, options, DmaRights::ReadWrite)
    }

    /// Likewise; the controller has these rights to the client's memory, whatever the driver believes.
    fn raw_with(shape: &Shape, options: Options, rights: DmaRights) -> Self {
        let machine = Machine::new(shape);
        let device = machine.device(0);
        let device = if shape.doorbell_buffers { device.with_doorbell_buffers() } else { device };
        let watch = device.watch();
        let mut controller = Controller::new(Box::new(device), 0, options);
        let window = machine.memory.take(BYTES as usize / PAGE).unwrap();
        let dma = controller.device().dma();
        let iova = dma.reserve(&window, rights).unwrap();
        dma.map(iova, &window, rights).unwrap();
        let region = Region {
            guest: GUEST,
            user: GUEST,
            len: BYTES,
            slot: 0,
            window: window.clone(),
            iova,
            writable: true,
        };
        let table = MemoryTable::new(vec![region]).unwrap();
        let client = Client { desk: Desk::new(table, QueueTag::new(5, 7)), memory: window };
        Self { machine, controller, watch, client, spares: Spares::new(), start: Instant::now() }
    }

    /// Ready.
    pub(crate) fn new(shape: &Shape, options: Options) -> Self {
        Self::raw(shape, options).ready()
    }

    /// Ready, over a client's memory that the controller can read and not write.
    pub(crate) fn over_read_only_memory(shape: &Shape, options: Options) -> Self {
        Self::raw_with(shape, options, DmaRights::Read).ready()
    }

    fn ready(mut self) -> Self {
        let event = self.event();
        assert!(matches!(event, ControllerEvent::Ready), "{event:?}");
        self
    }

    pub(crate) fn now(&self) -> Time {
        Time::from_nanos(1 + self.start.elapsed().as_nanos() as u64)
    }

    pub(crate) fn event(&mut self) -> ControllerEvent {
        self.event_within(PATIENCE).expect("an event")
    }

    /// The next event, if it comes in time.
    pub(crate) fn event_within(&mut self, time: Duration) -> Option<ControllerEvent> {
        let end = Instant::now() + time;
        loop {
            let now = self.now();
            if let Some(event) = self.controller.poll(now) {
                return Some(event);
            }
            if Instant::now() >= end {
                return None;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Goes on until something is so, which no event tells.
    pub(crate) fn quietly_until(&mut self, so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < end, "it never comes");
            let event = self.event_within(Duration::from_millis(1));
            assert!(event.is_none(), "{event:?}");
        }
    }

    pub(crate) fn pair(&mut self, depth: u16) -> QueuePair {
        self.controller.create_pair(depth, 7).unwrap();
        match self.event() {
            ControllerEvent::PairReady { token: 7, pair } => pair,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn namespace(&self, nsid: u32) -> NamespaceInfo {
        *self.controller.namespaces().iter().find(|n| n.namespace().nsid == nsid).expect("namespace")
    }

    pub(crate) fn extent(&self, nsid: u32) -> Extent {
        self.namespace(nsid).extent
    }

    fn grant(&self, nsid: u32) -> Grant {
        Grant::new(self.extent(nsid), Access::ReadWrite)
    }

    /// A read of as many bytes as the parts have. Sectors are 512 bytes, whatever the blocks are.
    pub(crate) fn read(&mut self, nsid: u32, sector: u64, parts: &[(u64, u32)]) -> Operation {
        let bytes = parts.iter().map(|(_, len)| u64::from(*len)).sum();
        let place = self.grant(nsid).confine(sector, bytes).unwrap();
        self.client.desk.read(place, parts)
    }

    pub(crate) fn write(&mut self, nsid: u32, sector: u64, parts: &[(u64, u32)], fua: bool) -> Operation {
        let bytes = parts.iter().map(|(_, len)| u64::from(*len)).sum();
        let place = self.grant(nsid).confine(sector, bytes).unwrap();
        let permit = self.grant(nsid).write_permit().unwrap();
        self.client.desk.write(place, permit, fua, parts)
    }

    /// A read of a part of a block.
    pub(crate) fn read_part(&mut self, nsid: u32, sector: u64, parts: &[(u64, u32)]) -> Operation {
        let bytes = parts.iter().map(|(_, len)| u64::from(*len)).sum();
        let cover = self.grant(nsid).cover(sector, bytes).unwrap();
        self.client.desk.read_part(cover.place, cover.skip, parts)
    }

    /// A write of a part of a block.
    pub(crate) fn write_part(
        &mut self,
        nsid: u32,
        sector: u64,
        parts: &[(u64, u32)],
        fua: bool,
    ) -> Operation {
        let bytes = parts.iter().map(|(_, len)| u64::from(*len)).sum();
        let cover = self.grant(nsid).cover(sector, bytes).unwrap();
        let permit = self.grant(nsid).write_permit().unwrap();
        self.client.desk.write_part(cover.place, cover.skip, permit, fua, parts)
    }

    pub(crate) fn flush(&self, nsid: u32) -> Operation {
        Operation::Flush { permit: self.grant(nsid).write_permit().unwrap() }
    }

    pub(crate) fn discard(&self, nsid: u32, sector: u64, bytes: u64) -> Operation {
        let place = self.grant(nsid).confine(sector, bytes).unwrap();
        Operation::Discard { place, permit: self.grant(nsid).write_permit().unwrap() }
    }

    pub(crate) fn zeroes(&self, nsid: u32, sector: u64, bytes: u64) -> Operation {
        let place = self.grant(nsid).confine(sector, bytes).unwrap();
        Operation::WriteZeroes {
            place,
            permit: self.grant(nsid).write_permit().unwrap(),
            fua: true,
            unmap: false,
        }
    }

    pub(crate) fn submit(&mut self, pair: &mut QueuePair, operation: Operation, head: u16) -> Submit {
        let request = self.client.desk.request(head, operation);
        self.submit_again(pair, request)
    }

    /// Submits what came back from a pair that was full.
    fn submit_again(&mut self, pair: &mut QueuePair, request: Request) -> Submit {
        let now = self.now();
        pair.submit(request, now, &self.client.desk, &mut self.spares)
    }

    /// Submits one command, which must be all of the operation.
    pub(crate) fn issue(&mut self, pair: &mut QueuePair, operation: Operation, head: u16) {
        assert!(matches!(self.submit(pair, operation, head), Submit::Issued));
    }

    /// One pass: what ended.
    pub(crate) fn pass(&mut self, pair: &mut QueuePair) -> Vec<Ended> {
        let mut all = Vec::new();
        let now = self.now();
        pair.issue_due(now);
        pair.ring();
        pair.poll(64, now, &self.client, &mut |ended| all.push(ended));
        all
    }

    /// Takes back what a request held; how it ended.
    pub(crate) fn complete(&mut self, ended: Ended) -> Outcome {
        self.client.desk.complete(ended, &mut self.spares)
    }

    /// Waits until nothing is in flight: what ended, by rising head. The memory is released.
    pub(crate) fn drain(&mut self, pair: &mut QueuePair) -> Vec<(u16, Outcome)> {
        let mut ended = Vec::new();
        let end = Instant::now() + PATIENCE;
        while pair.in_flight() > 0 {
            assert!(Instant::now() < end, "{pair:?}");
            let done = self.pass(pair);
            if done.is_empty() {
                std::thread::sleep(Duration::from_micros(20));
            }
            for done in done {
                ended.push((done.tag().head(), done.outcome));
                self.complete(done);
            }
        }
        ended.sort_unstable_by_key(|(head, _)| *head);
        ended
    }

    /// Does an operation to its end, however many commands that takes; answers how many, and the worst outcome.
    pub(crate) fn run(&mut self, pair: &mut QueuePair, operation: Operation) -> (u32, Outcome) {
        let (mut commands, mut outcome) = (0, Outcome::Done);
        let mut next = Some(self.client.desk.request(0, operation));
        let mut note = |ended: Vec<(u16, Outcome)>| {
            for (_, one) in ended.into_iter().filter(|(_, one)| *one != Outcome::Done) {
                outcome = one;
            }
        };
        while let Some(request) = next.take() {
            match self.submit_again(pair, request) {
                Submit::Issued => commands += 1,
                Submit::Part(rest) => {
                    commands += 1;
                    self.client.desk.divided(rest.tag());
                    next = Some(rest);
                }
                Submit::Full(request) => {
                    next = Some(request);
                    note(self.drain(pair));
                }
                Submit::Refused(ended) => note(vec![(0, self.complete(ended))]),
            }
        }
        note(self.drain(pair));
        (commands, outcome)
    }

    /// A pair with so many writes of 4 KiB in flight, on a slow disk that does a few in a second.
    pub(crate) fn slow_writes(&mut self, commands: u16) -> QueuePair {
        let mut pair = self.pair(16);
        self.machine.throttle(8);
        for head in 0..commands {
            let at = GUEST + u64::from(head) * 4096;
            self.client.write(at, &pattern(u64::from(head), 4096));
            let write = self.write(1, u64::from(head) * 8, &[(at, 4096)], false);
            self.issue(&mut pair, write, head);
        }
        pair.ring();
        let last = self.machine.on_disk(1, u64::from(commands - 1) * 4096, 4096);
        assert!(last.iter().all(|b| *b == 0), "in flight");
        pair
    }

    /// Runs a read and hands out the bytes.
    pub(crate) fn bytes(&mut self, pair: &mut QueuePair, nsid: u32, sector: u64, len: u32) -> Vec<u8> {
        let at = GUEST + (2 << 20);
        let read = self.read(nsid, sector, &[(at, len)]);
        assert_eq!(self.run(pair, read).1, Outcome::Done);
        self.client.read(at, len as usize)
    }

    /// The end of a test: nothing was blocked, nothing is held.
    pub(crate) fn clean(self) {
        assert_eq!(self.machine.iommu.fault(), None);
        assert_eq!(self.client.desk.bytes_held(), 0);
    }
}

/// Bytes that differ from place to place.
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
