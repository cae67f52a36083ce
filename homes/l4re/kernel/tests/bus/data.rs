//! Commands of a client, through all of it.

use nvme_core::nvme::{Controller, QueuePair, Submit};
use nvme_l4re::bus::Options;
use nvme_l4re::model::bus::{Bus, Shape};
use nvme_platform::{DmaRights, Time, Window};
use nvme_policy::{Access, Grant};
use nvme_session::memory::{DmaRange, Held, MemoryTable, Region, Rights, Segments, Spares, Windows};
use nvme_session::operation::{Operation, Outcome, Tag, Transfer};

use crate::rig::{add, one};

const GUEST: u64 = 0x10_0000;
const LEN: usize = 1 << 20;

struct Nobody;

impl Windows for Nobody {
    fn window(&self, _: &DmaRange) -> Option<Window> {
        None
    }
}

fn grant(controller: &Controller) -> Grant {
    Grant::new(controller.namespaces()[0].extent, Access::ReadWrite)
}

/// One flush, to its end.
pub(crate) fn flush(pair: &mut QueuePair, controller: &Controller) {
    let operation = Operation::Flush { permit: grant(controller).write_permit().unwrap() };
    assert_eq!(run(pair, operation, &Nobody, &mut |_| ()), Outcome::Done);
}

fn run(
    pair: &mut QueuePair,
    operation: Operation,
    windows: &dyn Windows,
    release: &mut dyn FnMut(nvme_core::nvme::Done),
) -> Outcome {
    let now = Time::from_nanos(1);
    let tag = Tag { queue: 0, head: 0 };
    let submitted = pair.submit(operation, tag, now, windows, &mut Spares::new());
    assert!(matches!(submitted, Submit::Issued));
    pair.ring();
    let mut outcome = None;
    pair.poll(64, &mut |_, range| windows.window(range), &mut |done| {
        outcome = Some(done.outcome);
        release(done);
    });
    outcome.expect("it ended")
}

struct Client {
    held: Held,
}

impl Windows for Client {
    fn window(&self, range: &DmaRange) -> Option<Window> {
        self.held.window(range)
    }
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
    let mut client = Client { held: Held::new(&table) };
    let bytes: Vec<u8> = (0..16384_u32).map(|i| ((i * 7) >> 3) as u8).collect();
    windows[0].write(512, &bytes).unwrap();
    let transfer = |client: &mut Client, at: u64, need| {
        let mut segments = Segments::new();
        client.held.mediate(&table, at, 16384, need, &mut segments).unwrap();
        let place = grant(&driven.controller).confine(64, 16384).unwrap();
        Transfer::new(place, segments).unwrap()
    };
    let permit = grant(&driven.controller).write_permit().unwrap();
    let write = transfer(&mut client, GUEST + 512, Rights::Read);
    let read = transfer(&mut client, GUEST + LEN as u64 + 4096, Rights::Write);
    let mut ended = Vec::new();
    let write = Operation::Write { transfer: write, permit, fua: false };
    assert_eq!(run(&mut pair, write, &client, &mut |done| ended.push(done)), Outcome::Done);
    assert_eq!(run(&mut pair, Operation::Read(read), &client, &mut |done| ended.push(done)), Outcome::Done);
    for done in ended {
        if let Operation::Read(transfer) | Operation::Write { transfer, .. } = done.operation {
            transfer.into_parts().1.into_iter().for_each(|range| client.held.release(range, &done.quiet));
        }
    }
    let mut came = vec![0; bytes.len()];
    windows[1].read(4096, &mut came).unwrap();
    assert!(came == bytes);
    assert_eq!(handle.statistics().dma_faults, 0);
}
