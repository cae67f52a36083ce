//! When changes have to be durable.

use nvme_policy::{Access, BlockSize};
use nvme_session::blk::features;
use nvme_session::operation::{Operation, Outcome};
use nvme_session::queue::{Next, Request};

use crate::driver::*;

fn discard(d: &mut Driver, kind: u32) -> Request {
    let mut bytes = 0_u64.to_le_bytes().to_vec();
    bytes.extend(8_u32.to_le_bytes());
    bytes.extend([0; 4]);
    d.put(DATA, &bytes);
    d.request(0, kind, 0, &[(DATA, 16, 0)]);
    d.taken()
}

fn is_fua(request: &Request) -> bool {
    matches!(
        request.operation(),
        Operation::Write { fua: true, .. }
            | Operation::WriteZeroes { fua: true, .. }
            | Operation::WritePart { fua: true, .. }
    )
}

fn changes_are_durable(d: &mut Driver, durable: bool) {
    d.request(0, OUT, 0, &[(DATA, 512, 0)]);
    let op = d.taken();
    assert_eq!(is_fua(&op), durable);
    assert!(d.complete(op, Outcome::Done).is_none());
    let op = discard(d, WRITE_ZEROES);
    assert_eq!(is_fua(&op), durable);
    assert!(d.complete(op, Outcome::Done).is_none());
    assert_eq!(d.used().len(), 2);

    let op = discard(d, DISCARD);
    let follow_up = d.complete(op, Outcome::Done);
    assert_eq!(follow_up.is_some(), durable);
    if let Some(flush) = follow_up {
        assert!(matches!(flush.operation(), Operation::Flush { .. }));
        assert_eq!((d.used(), d.queue.in_flight()), (vec![], 1), "not answered before it is durable");
        assert!(d.complete(flush, Outcome::Done).is_none());
    }
    assert_eq!((d.status(0), d.used(), d.queue.in_flight()), (OK, vec![(0, 1)], 0));
}

#[test]
fn in_write_back_mode_changes_wait_for_a_flush() {
    let mut d = Driver::new();
    changes_are_durable(&mut d, false);
    d.request(0, FLUSH, 0, &[]);
    let op = d.taken();
    assert!(matches!(op.operation(), Operation::Flush { .. }));
    assert!(d.complete(op, Outcome::Done).is_none());
    assert_eq!(d.status(0), OK);
}

#[test]
fn in_write_through_mode_changes_are_durable_when_they_complete() {
    changes_are_durable(&mut Driver::with(|c| c.write_back = false), true);
}

#[test]
fn without_flush_changes_are_durable_when_they_complete() {
    let mut d = Driver::with(|c| c.features &= !features::FLUSH);
    changes_are_durable(&mut d, true);
    d.queue.set_write_back(true);
    changes_are_durable(&mut d, true);
}

#[test]
fn the_cache_mode_changes_with_writeback() {
    let mut d = Driver::new();
    for on in [false, true, false] {
        d.queue.set_write_back(on);
        changes_are_durable(&mut d, !on);
    }
}

#[test]
fn a_discard_that_failed_is_not_flushed_and_a_failed_flush_fails_it() {
    let mut d = Driver::with(|c| c.write_back = false);
    let op = discard(&mut d, DISCARD);
    assert!(d.complete(op, Outcome::Failed).is_none());
    assert_eq!((d.status(0), d.used()), (IOERR, vec![(0, 1)]));
    let op = discard(&mut d, DISCARD);
    let flush = d.complete(op, Outcome::Done).unwrap();
    assert!(d.complete(flush, Outcome::Failed).is_none());
    assert_eq!((d.status(0), d.used()), (IOERR, vec![(0, 1)]));
}

#[test]
fn a_write_of_parts_of_blocks_is_durable_in_each_of_them() {
    for write_back in [true, false] {
        let mut d = Driver::with(|c| {
            c.write_back = write_back;
            c.grant = grant(Access::ReadWrite, BlockSize::B4096);
        });
        d.request(0, OUT, 7, &[(DATA, 512 + 4096 + 512, 0)]);
        assert!(matches!(d.next(), Next::Again));
        for _ in 0..3 {
            let op = d.taken();
            assert_eq!(is_fua(&op), !write_back);
            assert!(d.complete(op, Outcome::Done).is_none());
        }
        assert_eq!((d.status(0), d.used()), (OK, vec![(0, 1)]));
    }
}
