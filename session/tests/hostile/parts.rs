//! Requests for parts of 4096-byte blocks: what they are divided into, and what they are no way out of.

use nvme_policy::{Access, BlockSize};
use nvme_session::operation::{Operation, Outcome};
use nvme_session::queue::{Next, Request};

use crate::driver::*;
use crate::requests::*;

fn big() -> Driver {
    Driver::with(|c| c.grant = grant(Access::ReadWrite, BlockSize::B4096))
}

/// A piece of a request: kind, place, bytes that are left alone before it, bytes.
type Piece = (&'static str, (u64, u64), u32, u64);

/// What a request is divided into.
fn divided(d: &mut Driver) -> (Vec<Request>, Vec<Piece>) {
    let mut all = vec![];
    loop {
        match d.next() {
            Next::Request(request) => all.push(request),
            Next::Again => {}
            Next::Idle => break,
            Next::Broken(why) => panic!("{why}"),
        }
    }
    let shape = |request: &Request| {
        let bytes = ranges(request).iter().map(|(_, len)| u64::from(*len)).sum();
        let (what, skip) = match request.operation() {
            Operation::Read(_) => ("read", 0),
            Operation::Write { .. } => ("write", 0),
            Operation::ReadPart(part) => ("read part", part.skip()),
            Operation::WritePart { part, .. } => ("write part", part.skip()),
            other => panic!("{other:?}"),
        };
        (what, place(request), skip, bytes)
    };
    let shapes = all.iter().map(shape).collect();
    (all, shapes)
}

#[test]
fn a_transfer_of_parts_of_4096_byte_blocks_is_divided_at_their_boundaries() {
    // From sector, bytes: what of the first block, whole blocks, what of the last.
    for (sector, bytes, pieces) in [
        (0, 512, vec![(0, 1, 0, 512)]),
        (15, 512, vec![(1, 1, 3584, 512)]),
        (3, 2048, vec![(0, 1, 1536, 2048)]),
        (7, 1024, vec![(0, 1, 3584, 512), (1, 1, 0, 512)]),
        (1, 4096, vec![(0, 1, 512, 3584), (1, 1, 0, 512)]),
        (8, 4608, vec![(1, 1, 0, 4096), (2, 1, 0, 512)]),
        (4, 2048 + 8192, vec![(0, 1, 2048, 2048), (1, 2, 0, 8192)]),
        (6, 1024 + 8192 + 1536, vec![(0, 1, 3072, 1024), (1, 2, 0, 8192), (3, 1, 0, 1536)]),
        (63, 512, vec![(7, 1, 3584, 512)]),
    ] {
        for (kind, flag, data) in [(IN, WRITE, bytes), (OUT, 0, 0)] {
            for failing in 0..=pieces.len() {
                let mut d = big();
                // In three buffers, of odd lengths, over two regions.
                let cuts = [bytes / 3 + 1, bytes / 4, bytes - bytes / 3 - 1 - bytes / 4];
                let mut at = DATA - 300;
                let buffers = cuts.map(|len| {
                    at += u64::from(len);
                    (at - u64::from(len), len, flag)
                });
                d.request(0, kind, sector, &buffers);
                let (all, shapes) = divided(&mut d);
                let want: Vec<_> = pieces
                    .iter()
                    .map(|(first, blocks, skip, len): &(u64, u64, u32, u64)| {
                        let part = *len % 4096 != 0;
                        let what = match (kind, part) {
                            (IN, true) => "read part",
                            (IN, false) => "read",
                            (_, true) => "write part",
                            (_, false) => "write",
                        };
                        (what, (100 + first, *blocks), *skip, *len)
                    })
                    .collect();
                assert_eq!(shapes, want, "{sector} {bytes}");
                assert_eq!(d.queue.bytes_held(), u64::from(bytes) + 1);
                for (i, request) in all.into_iter().enumerate() {
                    assert!(d.used().is_empty(), "answered before its last part has ended");
                    let outcome = if i == failing { Outcome::Failed } else { Outcome::Done };
                    assert!(d.complete(request, outcome).is_none());
                }
                let done = failing == pieces.len();
                assert_eq!(d.status(0), if done { OK } else { IOERR });
                assert_eq!(d.used(), [(0, if done { data } else { 0 } + 1)]);
                assert_eq!((d.queue.in_flight(), d.queue.bytes_held()), (0, 0));
            }
        }
    }
}

#[test]
fn a_part_of_a_block_is_no_way_out_of_an_extent_nor_of_memory_nor_of_a_right() {
    let read_only = || Driver::with(|c| c.grant = grant(Access::ReadOnly, BlockSize::B4096));
    for (sector, bytes) in [(64, 512), (63, 1024), (1, 64 * 512), (1 << 55, 512), (u64::MAX, 512)] {
        refused(big(), IN, sector, &[(DATA, bytes, WRITE)], IOERR);
        refused(big(), OUT, sector, &[(DATA, bytes, 0)], IOERR);
    }
    // The unit is 512 bytes.
    for bytes in [1, 511, 513, 4095, 4097] {
        refused(big(), IN, 0, &[(DATA, bytes, WRITE)], IOERR);
        refused(big(), OUT, 0, &[(DATA, bytes, 0)], IOERR);
    }
    refused(read_only(), OUT, 1, &[(DATA, 512, 0)], IOERR);
    refused(big(), IN, 1, &[(ROM, 512, WRITE)], IOERR);
    refused(big(), IN, 1, &[(DATA_END - 256, 512, WRITE)], IOERR);
    refused(big(), IN, 1, &[(DATA, 512, 0)], IOERR);
    refused(big(), OUT, 1, &[(DATA, 512, WRITE)], IOERR);
    let mut d = read_only();
    d.request(0, IN, 1, &[(DATA, 512, WRITE)]);
    let (mut all, shapes) = divided(&mut d);
    assert_eq!(shapes, [("read part", (100, 1), 512, 512)]);
    d.complete(all.remove(0), Outcome::Done);
}

#[test]
fn discards_that_are_misaligned_to_4096_byte_blocks_are_refused() {
    for kind in [DISCARD, WRITE_ZEROES] {
        for (sector, sectors) in [(1, 8), (0, 7), (4, 8)] {
            let mut d = Driver::with(|c| c.grant = grant(Access::ReadWrite, BlockSize::B4096));
            d.put(DATA, &range(sector, sectors, 0));
            d.request(0, kind, 0, &[(DATA, 16, 0)]);
            d.refused(0, IOERR);
        }
    }
}
