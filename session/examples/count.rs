//! 4 KiB reads through a virtqueue, one after the other or in batches, for counting instructions:
//! `valgrind --tool=callgrind --toggle-collect=count::serve target/release/examples/count [REGIONS [INDIRECT [JOURNAL [BATCH [ORDER]]]]]`.
//! JOURNAL 1: what is in flight is kept, as with `INFLIGHT_SHMFD`. BATCH: so many requests are taken before the first of them is answered.
//! ORDER 1: the last of a batch that was taken is answered first; 2: and the first is answered, and its driver told, with the next batch only,
//! so that all others overtake it.
#![expect(clippy::disallowed_methods, reason = "tests make for themselves what they begin with")]

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;

use nvme_mem::heap;
use nvme_platform::Iova;
use nvme_policy::{Access, BlockSize, Extent, Grant, Namespace};
use nvme_session::blk::features;
use nvme_session::memory::{MemoryTable, Quiet, QuietBy, Region, Spares};
use nvme_session::operation::{Limits, Outcome};
use nvme_session::queue::{AddressSpace, BlkQueue, Direction, Next, QueueConfig, Request, RingAddresses};
use nvme_session::virtqueue::journal_len;
use nvme_testkit::{Desc, Ring, desc_flag};

const REGION: u64 = 0x10000;
const ROUNDS: u16 = 1000;

/// In which order requests are answered.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Taken,
    /// The last of a batch first.
    Reversed,
    /// The first of a batch with the next one.
    Across,
}

/// Requests, from the available ring to the used ring.
#[inline(never)]
fn serve(queue: &mut BlkQueue, spares: &mut Spares, batch: &mut VecDeque<Request>, order: Order) -> bool {
    // Of the batch before.
    let late = batch.len();
    while let Next::Request(request) = queue.next(spares) {
        batch.push_back(black_box(request));
    }
    let stay = if order == Order::Across {
        batch.swap(0, late);
        1
    } else {
        0
    };
    while batch.len() > stay {
        let Some(request) = (if order == Order::Taken { batch.pop_front() } else { batch.pop_back() }) else {
            break;
        };
        queue.complete(request.end(Outcome::Done, Quiet::seen(QuietBy::Completed)), spares);
    }
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
            discard_granularity: 0,
            write_zeroes_blocks: 0,
            volatile_cache: true,
            unmaps_to_zeroes: false,
        },
        id: [0; 20],
        write_back: true,
    };
    let mut queue = BlkQueue::new(config, table.clone()).expect("a queue");
    let (journal, batch) = (words.next().unwrap_or(0), words.next().unwrap_or(1));
    if journal > 0 {
        queue.keep(heap(journal_len(256)).expect("memory")).expect("a journal");
    }
    let mut spares = Spares::new();
    let ring = Ring::within(&ram, 256, [0, 0x1000, 0x2000]).expect("inside");
    // Each request of a batch has a table of its own.
    let each = |i: u64| if indirect == 1 { 0x3000 + i * 64 } else { 0 };
    let mut requests = VecDeque::with_capacity(256);
    let order = match words.next() {
        Some(1) => Order::Reversed,
        Some(2) => Order::Across,
        _ => Order::Taken,
    };
    let mut avail: u16 = 0;
    for round in 0..ROUNDS {
        for i in 0..batch {
            // The data goes from region to region.
            let data = (u64::from(round) * 7 % count) * 2 * REGION + 0x8000;
            let write = desc_flag::WRITE;
            let chain = [(0x7000, 16, 0), (data, 4096, write), (0x7010, 1, write)];
            // One of the batch before may have its head still.
            let i = if order == Order::Across { i + u64::from(round % 2) * batch } else { i };
            let head = if indirect == 1 { i } else { 3 * i } as u16;
            if indirect == 1 {
                let at = each(i) as usize;
                let table = Ring::within(&ram, 3, [at, 0x1000, 0x2000]).expect("inside");
                table.chain(0, &chain).expect("inside");
                let whole = Desc { addr: each(i), len: 48, flags: desc_flag::INDIRECT, next: 0 };
                ring.set_desc(head, whole).expect("inside");
            } else {
                ring.chain(head, &chain).expect("inside");
            }
            ring.offer(&mut avail, head).expect("inside");
        }
        black_box(serve(&mut queue, &mut spares, &mut requests, order));
    }
    assert_eq!(ram.load16(0x2002), Ok(avail.wrapping_sub(requests.len() as u16)));
    assert_eq!(queue.bytes_held(), 4097 * requests.len() as u64);
}
