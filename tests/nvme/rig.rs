use std::sync::Arc;
use std::time::Duration;

use nvme_core::nvme::{Clients, Controller, ControllerEvent, NamespaceInfo, Options, QueuePair, Submit};
use nvme_mem::heap;
use nvme_platform::{Device, DmaRights, Time, Window};
use nvme_policy::{Access, Extent, Grant};
use nvme_session::memory::{DmaRange, MemoryTable, Region, Spares, Windows};
use nvme_session::operation::{Operation, Outcome};
use nvme_session::queue::fake::Desk;
use nvme_session::queue::{Ended, QueueTag, Request, Tag};
use nvme_soft::{Config, MemoryMedium, NamespaceConfig, SoftDevice, SoftHandle};

/// Where the client's memory begins, as the client says.
pub const GUEST: u64 = 0x10_0000;
/// How much it has, in each of two regions that adjoin.
pub const REGION: u64 = 4 << 20;

/// The client's memory. Its two regions adjoin in guest addresses and nowhere else.
pub struct Client {
    pub desk: Desk,
    /// Whether requests are still to be done that fail for the moment.
    pub wants: bool,
    windows: Vec<Window>,
}

impl Clients for Client {
    fn window(&self, _: Tag, range: &DmaRange) -> Option<Window> {
        self.desk.window(range)
    }

    fn wants(&self, _: Tag) -> bool {
        self.wants
    }
}

impl Client {
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let (window, offset, now) = self.at(at + done as u64, bytes.len() - done);
            window.write(offset, &bytes[done..done + now]).unwrap();
            done += now;
        }
    }

    pub fn read(&mut self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            let (window, offset, now) = self.at(at + done as u64, len - done);
            window.read(offset, &mut bytes[done..done + now]).unwrap();
            done += now;
        }
        bytes
    }

    /// Where in this program a guest address is.
    pub fn address(&self, at: u64) -> usize {
        let (window, offset, _) = self.at(at, 1);
        window.address() + offset
    }

    /// The window at a guest address, the offset there, and how much of `len` lies in it.
    fn at(&self, at: u64, len: usize) -> (&Window, usize, usize) {
        let (slot, offset) = ((at - GUEST) / REGION, ((at - GUEST) % REGION) as usize);
        (&self.windows[slot as usize], offset, len.min(REGION as usize - offset))
    }
}

pub struct Rig {
    pub controller: Controller,
    pub handle: SoftHandle,
    pub client: Client,
    pub spares: Spares,
    pub now: Time,
}

pub fn medium(bytes: usize) -> Arc<MemoryMedium> {
    Arc::new(MemoryMedium::new(bytes).unwrap())
}

/// A faulty twin without faults, with one namespace of 8 MiB.
pub fn config(block_size: u32) -> Config {
    Config {
        namespaces: vec![NamespaceConfig::new(medium(8 << 20)).block_size(block_size)],
        faults: Some(Vec::new()),
        ..Config::default()
    }
}

pub fn options() -> Options {
    Options { io_timeout: Duration::from_secs(1), ..Options::default() }
}

/// Whatever a controller does, nothing happens to the driver that cannot.
impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.controller.anomalies(), 0);
        }
    }
}

impl Rig {
    /// Not brought up yet.
    pub fn raw(config: Config, options: Options) -> Self {
        Self::over(config, options, |device| Box::new(device))
    }

    /// Likewise, with something around the device.
    pub fn over(config: Config, options: Options, with: impl FnOnce(SoftDevice) -> Box<dyn Device>) -> Self {
        let device = SoftDevice::new(config).unwrap();
        let handle = device.handle();
        let mut controller = Controller::new(with(device), 0, options);
        let (mut regions, mut windows) = (Vec::new(), Vec::new());
        for slot in 0..2_u16 {
            let window = heap(REGION as usize).unwrap();
            let dma = controller.device().dma();
            let iova = dma.reserve(&window, DmaRights::ReadWrite).unwrap();
            dma.map(iova, &window, DmaRights::ReadWrite).unwrap();
            let guest = GUEST + u64::from(slot) * REGION;
            windows.push(window.clone());
            regions.push(Region { guest, user: guest, len: REGION, slot, window, iova, writable: true });
        }
        let table = MemoryTable::new(regions).unwrap();
        let desk = Desk::new(table, QueueTag::new(5, 7));
        let client = Client { desk, wants: true, windows };
        Self { controller, handle, client, spares: Spares::new(), now: Time::from_nanos(1) }
    }

    /// Ready.
    pub fn new(config: Config, options: Options) -> Self {
        Self::ready(Self::raw(config, options))
    }

    pub fn ready(mut rig: Self) -> Self {
        assert!(matches!(rig.event(), ControllerEvent::Ready));
        rig
    }

    /// The next event, with time going from deadline to deadline.
    pub fn event(&mut self) -> ControllerEvent {
        self.event_within(Duration::from_secs(1000)).expect("an event")
    }

    /// The next event within some time, if there is one.
    pub fn event_within(&mut self, time: Duration) -> Option<ControllerEvent> {
        let end = self.now + time;
        loop {
            if let Some(event) = self.controller.poll(self.now) {
                return Some(event);
            }
            let next = self.controller.next_deadline().filter(|next| *next <= end)?;
            // A deadline that has passed must come to something, or time must go on.
            self.now = next.max(self.now + Duration::from_micros(1));
        }
    }

    pub fn pair(&mut self, depth: u16) -> QueuePair {
        self.controller.create_pair(depth, 7).unwrap();
        match self.event() {
            ControllerEvent::PairReady { token: 7, pair } => pair,
            other => panic!("{other:?}"),
        }
    }

    pub fn namespace(&self, nsid: u32) -> NamespaceInfo {
        *self.controller.namespaces().iter().find(|n| n.namespace().nsid == nsid).expect("namespace")
    }

    pub fn extent(&self) -> Extent {
        self.namespace(1).extent
    }

    fn grant(&self) -> Grant {
        Grant::new(self.extent(), Access::ReadWrite)
    }

    /// A read of as many bytes as the parts have.
    pub fn read(&mut self, sector: u64, parts: &[(u64, u32)]) -> Operation {
        let bytes = parts.iter().map(|(_, len)| u64::from(*len)).sum();
        let place = self.grant().confine(sector, bytes).unwrap();
        self.client.desk.read(place, parts)
    }

    pub fn write(&mut self, sector: u64, parts: &[(u64, u32)]) -> Operation {
        let bytes = parts.iter().map(|(_, len)| u64::from(*len)).sum();
        let place = self.grant().confine(sector, bytes).unwrap();
        let permit = self.grant().write_permit().unwrap();
        self.client.desk.write(place, permit, false, parts)
    }

    /// A read of a part of a block.
    pub fn read_part(&mut self, sector: u64, parts: &[(u64, u32)]) -> Operation {
        let bytes = parts.iter().map(|(_, len)| u64::from(*len)).sum();
        let cover = self.grant().cover(sector, bytes).unwrap();
        self.client.desk.read_part(cover.place, cover.skip, parts)
    }

    /// A write of a part of a block.
    pub fn write_part(&mut self, sector: u64, fua: bool, parts: &[(u64, u32)]) -> Operation {
        let bytes = parts.iter().map(|(_, len)| u64::from(*len)).sum();
        let cover = self.grant().cover(sector, bytes).unwrap();
        let permit = self.grant().write_permit().unwrap();
        self.client.desk.write_part(cover.place, cover.skip, permit, fua, parts)
    }

    pub fn flush(&self) -> Operation {
        Operation::Flush { permit: self.grant().write_permit().unwrap() }
    }

    pub fn discard(&self, sector: u64, bytes: u64) -> Operation {
        let place = self.grant().confine(sector, bytes).unwrap();
        Operation::Discard { place, permit: self.grant().write_permit().unwrap() }
    }

    pub fn zeroes(&self, sector: u64, bytes: u64) -> Operation {
        let place = self.grant().confine(sector, bytes).unwrap();
        Operation::WriteZeroes {
            place,
            permit: self.grant().write_permit().unwrap(),
            fua: true,
            unmap: false,
        }
    }

    /// Submits one command.
    pub fn submit(&mut self, pair: &mut QueuePair, operation: Operation, head: u16) -> Submit {
        let request = self.client.desk.request(head, operation);
        self.submit_again(pair, request)
    }

    /// Submits what came back from a pair that was full.
    pub fn submit_again(&mut self, pair: &mut QueuePair, request: Request) -> Submit {
        pair.submit(request, self.now, &self.client.desk, &mut self.spares)
    }

    /// Submits one command, which must be all of the operation.
    pub fn issue(&mut self, pair: &mut QueuePair, operation: Operation, head: u16) {
        assert!(matches!(self.submit(pair, operation, head), Submit::Issued));
    }

    /// One pass: what ended.
    pub fn pass(&mut self, pair: &mut QueuePair) -> Vec<Ended> {
        let mut all = Vec::new();
        pair.issue_due(self.now);
        pair.ring();
        pair.run(64, self.now);
        pair.poll(64, self.now, &self.client, &mut |ended| all.push(ended));
        all
    }

    /// Takes back what a request held; how it ended.
    pub fn complete(&mut self, ended: Ended) -> Outcome {
        self.client.desk.complete(ended, &mut self.spares)
    }

    /// Does an operation to its end, however many commands that takes; answers how many, and the worst outcome.
    pub fn run(&mut self, pair: &mut QueuePair, operation: Operation) -> (u32, Outcome) {
        let (mut commands, mut outcome) = (0, Outcome::Done);
        let mut next = Some(self.client.desk.request(0, operation));
        for _ in 0..100_000 {
            let mut ended = Vec::new();
            match next.take() {
                None if pair.in_flight() == 0 => return (commands, outcome),
                None => ended = self.pass(pair),
                Some(request) => match self.submit_again(pair, request) {
                    Submit::Issued => commands += 1,
                    Submit::Part(rest) => {
                        commands += 1;
                        self.client.desk.divided(rest.tag());
                        next = Some(rest);
                    }
                    Submit::Full(request) => {
                        next = Some(request);
                        ended = self.pass(pair);
                    }
                    Submit::Refused(one) => ended.push(one),
                },
            }
            for one in ended {
                match self.complete(one) {
                    Outcome::Done => {}
                    other => outcome = other,
                }
            }
        }
        panic!("the operation does not end");
    }
}

/// Bytes that differ from place to place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(next).collect()
}
