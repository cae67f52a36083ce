//! Who tells whom, and when.

use nvme_session::blk::features;
use nvme_session::operation::Outcome;
use nvme_session::queue::Next;

use crate::driver::*;

fn event_idx() -> Driver {
    Driver::with(|c| c.features |= features::EVENT_IDX)
}

fn store(d: &Driver, at: u64, value: u16) {
    let (window, offset) = d.at(at);
    window.store16(offset, value).unwrap();
}

fn load(d: &Driver, at: u64) -> u16 {
    let (window, offset) = d.at(at);
    window.load16(offset).unwrap()
}

fn serve(d: &mut Driver) {
    d.request(0, IN, 0, &[(DATA, 512, WRITE)]);
    let op = d.taken();
    d.complete(op, Outcome::Done);
}

const USED_EVENT: u64 = AVAIL + 4 + 2 * SIZE as u64;
const AVAIL_EVENT: u64 = USED + 4 + 8 * SIZE as u64;

#[test]
fn a_driver_that_wants_no_interrupt_gets_none() {
    let mut d = Driver::new();
    serve(&mut d);
    assert!(d.queue.publish());
    assert!(!d.queue.publish(), "nothing new");
    store(&d, AVAIL, 1);
    serve(&mut d);
    assert!(!d.queue.publish());
    assert_eq!(load(&d, USED + 2), 2, "published all the same");
}

#[test]
fn with_an_event_index_the_driver_is_told_when_its_entry_comes_up() {
    let mut d = event_idx();
    // The flag counts for nothing then.
    store(&d, AVAIL, 1);
    store(&d, USED_EVENT, 2);
    let mut told = vec![];
    for _ in 0..5 {
        serve(&mut d);
        told.push(d.queue.publish());
    }
    assert_eq!(told, [false, false, true, false, false]);
    // In a batch, and over the end of the numbers.
    store(&d, USED_EVENT, 6);
    for _ in 0..3 {
        serve(&mut d);
    }
    assert!(d.queue.publish());
    let mut d = event_idx();
    store(&d, USED_EVENT, u16::MAX);
    serve(&mut d);
    assert!(!d.queue.publish());
}

#[test]
fn no_used_entry_is_seen_before_it_is_published() {
    let mut d = Driver::new();
    serve(&mut d);
    serve(&mut d);
    assert_eq!(load(&d, USED + 2), 0);
    d.queue.publish();
    assert_eq!(load(&d, USED + 2), 2);
}

#[test]
fn kicks_are_asked_for_by_flag_or_by_index() {
    let mut d = Driver::new();
    d.queue.ignore_kicks();
    assert_eq!(load(&d, USED), 1);
    assert!(!d.queue.listen());
    assert_eq!(load(&d, USED), 0);

    let mut d = event_idx();
    serve(&mut d);
    d.queue.ignore_kicks();
    assert_eq!((load(&d, USED), load(&d, AVAIL_EVENT)), (0, 0));
    assert!(!d.queue.listen());
    assert_eq!((load(&d, USED), load(&d, AVAIL_EVENT)), (0, 1));
}

#[test]
fn what_came_while_nobody_listened_is_not_lost() {
    for mut d in [Driver::new(), event_idx()] {
        d.queue.ignore_kicks();
        assert!(matches!(d.next(), Next::Idle));
        d.request(0, IN, 0, &[(DATA, 512, WRITE)]);
        assert!(d.queue.listen());
        let op = d.taken();
        d.complete(op, Outcome::Done);
        assert!(!d.queue.listen());
    }
}
