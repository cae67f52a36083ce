//! A driver that writes whatever it likes into rings and guest memory. What a controller would be given lies in registered
//! memory that has the right, inside the extent; and in the end nothing is held.
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use nvme_mem::heap;
use nvme_platform::{Iova, Window};
use nvme_policy::{Access, BlockSize, Extent, Grant, Namespace};
use nvme_session::memory::{MemoryTable, Quiet, QuietBy, Region, Spares};
use nvme_session::operation::{Limits, Operation, Outcome};
use nvme_session::queue::{AddressSpace, BlkQueue, Direction, Next, QueueConfig, Request, RingAddresses};
use nvme_testkit::Ring;

const LEN: usize = 0x4000;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    features: u64,
    by_request: bool,
    read_only: bool,
    write_back: bool,
    big_blocks: bool,
    size: u8,
    next_avail: u16,
    /// Guest memory at start; the rings lie in it.
    memory: &'a [u8],
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Serve,
    End(u8, u8),
    PutBack(u8),
    Split(u8),
    /// Writes eight bytes.
    Poke(u16, u64),
    /// Makes a head available.
    Offer(u16),
    /// The second region goes, or comes back.
    Table(bool),
}

struct World {
    queue: BlkQueue,
    spares: Spares,
    flying: Vec<Request>,
    regions: Vec<Region>,
    extent: Extent,
}

impl World {
    fn check(&self, request: &Request) {
        let operation = request.operation();
        let memory = operation.memory();
        let Some(place) = operation.place() else { return };
        assert!(place.first() >= self.extent.first());
        assert!(place.first() + place.blocks() <= self.extent.first() + self.extent.blocks());
        let writes = matches!(operation, Operation::Read(_) | Operation::ReadPart(_));
        for range in memory {
            let (at, len) = (range.iova().0, u64::from(range.len()));
            let inside = |r: &&Region| r.iova.0 <= at && at + len <= r.iova.0 + r.len;
            let region = self.regions.iter().find(inside).expect("inside a region");
            assert!(region.writable || !writes);
            assert!(self.queue.holds(region.slot));
        }
    }

    fn end(&mut self, which: usize, outcome: Outcome) {
        if self.flying.is_empty() {
            return;
        }
        let request = self.flying.swap_remove(which % self.flying.len());
        self.check(&request);
        let ended = request.end(outcome, Quiet::seen(QuietBy::Completed));
        if let Some(next) = self.queue.complete(ended, &mut self.spares) {
            self.flying.push(next);
        }
        self.queue.publish();
    }

    fn step(&mut self, step: Step, ram: &Window, ring: &Ring, avail: &mut u16) {
        match step {
            Step::Serve => match self.queue.next(&mut self.spares) {
                Next::Request(request) => {
                    self.check(&request);
                    self.flying.push(request);
                }
                Next::Again | Next::Idle | Next::Broken(_) => {
                    self.queue.listen();
                }
            },
            Step::End(which, outcome) => {
                let outcomes = [Outcome::Done, Outcome::Failed, Outcome::Unsupported];
                self.end(which.into(), outcomes[usize::from(outcome) % 3]);
            }
            Step::PutBack(which) if !self.flying.is_empty() => {
                let request = self.flying.swap_remove(usize::from(which) % self.flying.len());
                self.queue.put_back(request);
            }
            Step::Split(which) if !self.flying.is_empty() => {
                let request = self.flying.swap_remove(usize::from(which) % self.flying.len());
                let (request, rest) = request.split_at(1, &mut self.spares);
                if let Some(rest) = rest {
                    self.queue.divided(rest);
                }
                self.flying.push(request);
            }
            Step::PutBack(_) | Step::Split(_) => {}
            Step::Poke(at, value) => {
                let _ = ram.write_value(usize::from(at), &value);
            }
            Step::Offer(head) => {
                let _ = ring.offer(avail, head);
            }
            Step::Table(all) => {
                let left = if all { self.regions.clone() } else { self.regions[..1].to_vec() };
                let _ = self.queue.set_table(Arc::new(MemoryTable::new(left).expect("as before")));
            }
        }
    }
}

/// See the module.
pub fn virtqueue(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let region = |slot: u16, guest: u64, writable| Region {
        guest,
        user: guest,
        len: LEN as u64,
        slot,
        window: heap(LEN).expect("memory"),
        iova: Iova(0xab_0000_0000 + (u64::from(slot) << 24)),
        writable,
    };
    // The first two adjoin; the third may not be written to.
    let regions = vec![region(0, 0, true), region(1, LEN as u64, true), region(2, 4 * LEN as u64, false)];
    let ram = regions[0].window.clone();
    let _ = ram.write(0, &input.memory[..input.memory.len().min(LEN)]);
    let size = if input.big_blocks { BlockSize::B4096 } else { BlockSize::B512 };
    let whole = Extent::whole(Namespace { controller: 0, nsid: 1 }, 1 << 20, size).expect("a disk");
    let extent = whole.part(100, 64).expect("a partition");
    let access = if input.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let config = QueueConfig {
        size: 1 << (input.size % 8),
        rings: RingAddresses { desc: 0, avail: 0x1000, used: 0x2000, space: AddressSpace::Guest },
        next_avail: input.next_avail,
        features: input.features,
        direction: if input.by_request { Direction::ByRequest } else { Direction::AsFlagged },
        grant: Grant::new(extent, access),
        limits: Limits {
            transfer_blocks: 8,
            discard_blocks: 8,
            discard_granularity: 0,
            write_zeroes_blocks: 8,
            volatile_cache: true,
            unmaps_to_zeroes: false,
        },
        id: [7; 20],
        write_back: input.write_back,
    };
    let table = Arc::new(MemoryTable::new(regions.clone()).expect("a table"));
    let queue = BlkQueue::new(config, table).expect("a queue");
    let mut world = World { queue, spares: Spares::new(), flying: Vec::new(), regions, extent };
    let ring = Ring::within(&ram, 1 << (input.size % 8), [0, 0x1000, 0x2000]).expect("inside");
    let mut avail = input.next_avail;
    for step in input.steps.into_iter().take(4096) {
        world.step(step, &ram, &ring, &mut avail);
    }
    while !world.flying.is_empty() {
        world.end(0, Outcome::Done);
    }
    world.queue.cancel(&mut world.spares);
    assert_eq!(world.queue.strays(), 0);
    assert_eq!((world.queue.in_flight(), world.queue.bytes_held()), (0, 0));
}
