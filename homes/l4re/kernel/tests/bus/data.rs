//! Commands of a client, through all of it.

use nvme_core::nvme::{Clients, Controller, QueuePair, Submit};
use nvme_l4re::bus::Options;
use nvme_l4re::model::bus::{Bus, Shape};
use nvme_platform::{DmaRights, Time, Window};
use nvme_policy::{Access, Grant};
use nvme_session::memory::{DmaRange, MemoryTable, Region, Spares, Windows};
use nvme_session::operation::{Operation, Outcome};
use nvme_session::queue::fake::Desk;
use nvme_session::queue::{QueueTag, Tag};

use crate::rig::{add, one};

const GUEST: u64 = 0x10_0000;
const LEN: usize = 1 << 20;

fn grant(controller: &Controller) -> Grant {
    Grant::new(controller.namespaces()[0].extent, Access::ReadWrite)
}

/// One flush, to its end.
pub(crate) fn flush(pair: &mut QueuePair, controller: &Controller) {
    let operation = Operation::Flush { permit: grant(controller).write_permit().unwrap() };
    let mut desk = Desk::new(MemoryTable::default(), QueueTag::default());
    assert_eq!(run(pair, operation, &mut desk), Outcome::Done);
}

struct Client<'a>(&'a Desk);

impl Clients for Client<'_> {
    fn window(&self, _: Tag, range: &DmaRange) -> Option<Window> {
        self.0.window(range)
    }

    fn wants(&self, _: Tag) -> bool {
        true
    }
}

fn run(pair: &mut QueuePair, operation: Operation, desk: &mut Desk) -> Outcome {
    let (now, mut spares) = (Time::from_nanos(1), Spares::new());
    let request = desk.request(0, operation);
    assert!(matches!(pair.submit(request, now, desk, &mut spares), Submit::Issued));
    pair.ring();
    let mut ended = Vec::new();
    pair.poll(64, now, &Client(desk), &mut |one| ended.push(one));
    desk.complete(ended.pop().expect("it ended"), &mut spares)
}

#[test]
fn what_is_written_from_a_dataspace_is_read_back_into_another() {
    let bus = Bus::new(16);
    let (_, handle) = add(&bus, "first", Shape::default(), Some(7));
    let (mut driven, _) = one(&bus, Options::default());
    driven.ready();
    let mut pair = driven.pair();
    let dataspaces = [bus.dataspace(2 * LEN, u64::MAX), bus.dataspace(LEN, u64::MAX)];
    let windows = [bus.attach(dataspaces[0], LEN as u64, LEN), bus.attach(dataspaces[1], 0, LEN)];
    let mut regions = Vec::new();
    for (slot, window) in windows.iter().enumerate() {
        let iova = driven.controller.device().dma().reserve(window, DmaRights::ReadWrite).unwrap();
        let guest = GUEST + (slot * LEN) as u64;
        let (len, window, slot) = (LEN as u64, window.clone(), slot as u16);
        regions.push(Region { guest, user: guest, len, slot, window, iova, writable: true });
    }
    let table = MemoryTable::new(regions).unwrap();
    let mut desk = Desk::new(table, QueueTag::default());
    let bytes: Vec<u8> = (0..16384_u32).map(|i| ((i * 7) >> 3) as u8).collect();
    windows[0].write(512, &bytes).unwrap();
    let place = || grant(&driven.controller).confine(64, 16384).unwrap();
    let permit = grant(&driven.controller).write_permit().unwrap();
    let write = desk.write(place(), permit, false, &[(GUEST + 512, 16384)]);
    let read = desk.read(place(), &[(GUEST + LEN as u64 + 4096, 16384)]);
    assert_eq!(run(&mut pair, write, &mut desk), Outcome::Done);
    assert_eq!(run(&mut pair, read, &mut desk), Outcome::Done);
    assert_eq!(desk.bytes_held(), 0);
    let mut came = vec![0; bytes.len()];
    windows[1].read(4096, &mut came).unwrap();
    assert!(came == bytes);
    assert_eq!(handle.statistics().dma_faults, 0);
}
