//! Memory that changes between the check and the use: what was checked is a copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nvme_session::operation::Outcome;
use nvme_session::queue::{Next, Request};

use crate::driver::*;

/// Serves one request while another thread flips `bytes` at `addr` between the two values as fast as it can; the
/// closure looks at each operation.
fn race(kind: u32, flip: u64, good: &[u8], bad: &[u8], each: impl Fn(&Request)) -> (u32, u32) {
    let mut d = Driver::new();
    let stop = Arc::new(AtomicBool::new(false));
    let flipper = {
        let (window, offset) = d.at(flip);
        let (window, stop) = (window.clone(), stop.clone());
        let (good, bad) = (good.to_vec(), bad.to_vec());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for value in [&good, &bad] {
                    window.write(offset, value).unwrap();
                    std::hint::spin_loop();
                }
            }
        })
    };
    let (mut served, mut refused) = (0, 0);
    let data = if kind == DISCARD { (DATA, 16, 0) } else { (DATA, 512, WRITE) };
    for _ in 0..20_000 {
        // Everything but what is being flipped.
        let at = HEAD;
        if flip != at + 8 {
            d.header(at, kind, 0);
        } else {
            d.put(at, &kind.to_le_bytes());
        }
        d.set_desc(0, desc(at, 16, NEXT, 1));
        if flip != DESC + 16 {
            d.set_desc(1, desc(data.0, data.1, data.2 | NEXT, 2));
        } else {
            let rest = desc(data.0, data.1, data.2 | NEXT, 2);
            d.put(DESC + 16 + 8, &rest.len.to_le_bytes());
            d.put(DESC + 16 + 12, &rest.flags.to_le_bytes());
            d.put(DESC + 16 + 14, &rest.next.to_le_bytes());
        }
        d.set_desc(2, desc(at + 16, 1, WRITE, 0));
        d.offer(0);
        loop {
            match d.next() {
                Next::Request(request) => {
                    served += 1;
                    each(&request);
                    d.complete(request, Outcome::Done);
                }
                Next::Again if d.queue.in_flight() > 0 => {}
                Next::Again => refused += u32::from(d.status(0) == IOERR),
                Next::Idle => break,
                Next::Broken(why) => panic!("{why}"),
            }
        }
        d.used();
        assert_eq!((d.queue.in_flight(), d.queue.bytes_held()), (0, 0));
    }
    stop.store(true, Ordering::Relaxed);
    flipper.join().unwrap();
    (served, refused)
}

fn is_ours(op: &Request) {
    let (first, blocks) = place(op);
    assert!(first >= 100 && first + blocks <= 164);
    for (at, len) in ranges(op) {
        let len = u64::from(len);
        assert!(regions().iter().any(|r| r.writable && r.iova.0 <= at && at + len <= r.iova.0 + r.len));
    }
}

#[test]
fn a_descriptor_that_is_flipped_after_the_check_is_used_as_it_was_checked() {
    // The buffer's address, between registered memory and somebody else's.
    let (good, bad) = (DATA.to_le_bytes(), (DATA_END + 0x100).to_le_bytes());
    let (served, refused) = race(IN, DESC + 16, &good, &bad, is_ours);
    assert_eq!(served + refused, 20_000);
}

#[test]
fn a_header_that_is_flipped_after_the_check_is_used_as_it_was_checked() {
    let (good, bad) = (3_u64.to_le_bytes(), 0x1_0000_u64.to_le_bytes());
    let (served, refused) = race(IN, HEAD + 8, &good, &bad, is_ours);
    assert_eq!(served + refused, 20_000);
}

#[test]
fn a_discard_segment_that_is_flipped_after_the_check_is_used_as_it_was_checked() {
    let segment = |sector: u64| {
        let mut b = sector.to_le_bytes().to_vec();
        b.extend(8_u64.to_le_bytes());
        b
    };
    let (served, refused) = race(DISCARD, DATA, &segment(0), &segment(0x1_0000), is_ours);
    assert_eq!(served + refused, 20_000);
}

#[test]
fn operations_keep_what_was_checked_when_the_memory_changes_afterwards() {
    // The same without a race: everything is overwritten right after the request was taken.
    let mut d = Driver::new();
    d.put(DATA, &[0; 8]);
    d.put(DATA + 8, &8_u64.to_le_bytes());
    d.request(0, DISCARD, 0, &[(DATA, 16, 0)]);
    assert!(matches!(d.next(), Next::Again));
    d.put(DATA, &[0xff; 16]);
    d.put(DESC, &[0xff; 64]);
    d.put(HEAD, &[0xff; 16]);
    let op = d.taken();
    let head = op.tag().head();
    assert_eq!((head, place(&op)), (0, (100, 8)));
    d.complete(op, Outcome::Done);
    assert_eq!((d.status(0), d.used()), (OK, vec![(0, 1)]));
}
