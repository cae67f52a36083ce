//! One 4 KiB read after the other through a virtqueue, for counting instructions:
//! `valgrind --tool=callgrind --toggle-collect=count::serve target/release/examples/count [REGIONS [INDIRECT [JOURNAL]]]`.
//! JOURNAL 1: what is in flight is kept, as with `INFLIGHT_SHMFD`.
#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]

use std::hint::black_box;
use std::sync::Arc;

use nvme_mem::heap;
use nvme_platform::Iova;
use nvme_policy::{Access, BlockSize, Extent, Grant, Namespace};
use nvme_session::blk::features;
use nvme_session::memory::{MemoryTable, Quiet, QuietBy, Region, Spares};
use nvme_session::operation::{Limits, Outcome};
use nvme_session::queue::{AddressSpace, BlkQueue, Direction, Next, QueueConfig, RingAddresses};
use nvme_session::virtqueue::journal_len;
use nvme_testkit::{Desc, Ring, desc_flag};

const REGION: u64 = 0x10000;
const ROUNDS: u16 = 1000;

/// A request, from the available ring to the used ring.
#[inline(never)]
fn serve(queue: &mut BlkQueue, spares: &mut Spares) -> bool {
    let Next::Request(request) = queue.next(spares) else { return false };
    queue.complete(black_box(request).end(Outcome::Done, Quiet::seen(QuietBy::Completed)), spares);
    queue.publish()
}

fn main() {
    let mut words = std::env::args().skip(1).map(|w| w.parse().expect("a number"));
    let (count, indirect): (u64, u64) = (words.next().unwrap_or(1), words.next().unwrap_or(0));
    let region = |i: u64| Region {
        guest: i * 2 * REGION,
        user: i * 2 * REGION,
        len: REGION,
        slot: i as u16,
        window: heap(REGION as usize).expect("memory"),
        iova: Iova(0xab_0000_0000 + i * REGION),
        writable: true,
    };
    let table = Arc::new(MemoryTable::new((0..count).map(region).collect()).expect("a table"));
    let ram = table.regions()[0].window.clone();
    let extent =
        Extent::whole(Namespace { controller: 0, nsid: 1 }, 1 << 20, BlockSize::B512).expect("a disk");
    let config = QueueConfig {
        size: 256,
        rings: RingAddresses { desc: 0, avail: 0x1000, used: 0x2000, space: AddressSpace::Guest },
        next_avail: 0,
        features: features::VERSION_1 | features::FLUSH | features::INDIRECT_DESC | features::EVENT_IDX,
        direction: Direction::AsFlagged,
        grant: Grant::new(extent, Access::ReadWrite),
        limits: Limits {
            transfer_blocks: 256,
            discard_blocks: 0,
            write_zeroes_blocks: 0,
            volatile_cache: true,
            unmaps_to_zeroes: false,
        },
        id: [0; 20],
        write_back: true,
    };
    let mut queue = BlkQueue::new(config, table.clone()).expect("a queue");
    if words.next() == Some(1) {
        queue.keep(heap(journal_len(256)).expect("memory")).expect("a journal");
    }
    let mut spares = Spares::new();
    let ring = Ring::within(&ram, 256, [0, 0x1000, 0x2000]).expect("inside");
    // An indirect table looks as the ring's own does.
    let at = if indirect == 1 { 0x3000 } else { 0 };
    let table = Ring::within(&ram, 3, [at, 0x1000, 0x2000]).expect("inside");
    if indirect == 1 {
        ring.set_desc(0, Desc { addr: 0x3000, len: 48, flags: desc_flag::INDIRECT, next: 0 })
            .expect("inside");
    }
    for round in 1..=ROUNDS {
        // The data goes from region to region.
        let data = (u64::from(round) * 7 % count) * 2 * REGION + 0x8000;
        let write = desc_flag::WRITE;
        table.chain(0, &[(0x4000, 16, 0), (data, 4096, write), (0x4010, 1, write)]).expect("inside");
        ring.set_avail_index(round).expect("inside");
        black_box(serve(&mut queue, &mut spares));
    }
    assert_eq!(ram.load16(0x2002), Ok(ROUNDS));
    assert_eq!(queue.bytes_held(), 0);
}
