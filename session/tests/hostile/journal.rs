//! The journal of what is in flight: whoever serves a queue next goes on where the last one died, whatever store was its last.

use nvme_mem::heap;
use nvme_platform::Window;
use nvme_session::operation::Outcome;
use nvme_session::queue::{BlkQueue, Broken, Next, QueueConfig, RingError};
use nvme_session::virtqueue::{forget_journal, journal_holds, journal_len};
use proptest::prelude::*;

use super::driver::*;

/// As vhost-user lays it out.
const DESC_NUM: usize = 10;
const LAST_BATCH_HEAD: usize = 12;
const USED_IDX: usize = 14;

fn inflight(head: u16) -> usize {
    16 + 16 * usize::from(head)
}

fn journal() -> Window {
    heap(journal_len(SIZE)).unwrap()
}

fn driver(journal: &Window) -> Driver {
    let mut d = Driver::new();
    d.queue.keep(journal.clone()).unwrap();
    d
}

/// Another server serves the queue from here on. It is told to start at `base`, which is wrong: as front-ends that rebuild their ring
/// do, it is the index of the driver's next request.
pub(crate) fn die(d: &mut Driver, journal: &Window) -> Result<(), RingError> {
    let mut config = config();
    config.next_avail = d.avail;
    let mut queue = BlkQueue::new(config, d.table.clone())?;
    queue.keep(journal.clone())?;
    // What the dead one had in flight is never completed.
    d.queue = queue;
    Ok(())
}

fn read(d: &mut Driver, head: u16) {
    d.request(head, IN, u64::from(head), &[(DATA + 512 * u64::from(head), 512, WRITE)]);
}

/// The heads that are taken until there is nothing more to do, all of them completed.
fn served(d: &mut Driver) -> Vec<u16> {
    let mut heads = Vec::new();
    loop {
        match d.next() {
            Next::Request(request) => {
                heads.push(request.tag().head());
                assert!(d.complete(request, Outcome::Done).is_none());
            }
            Next::Again => {}
            Next::Idle => return heads,
            other @ Next::Broken(_) => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_was_in_flight_is_taken_again_in_its_order_and_what_was_answered_is_not() {
    let journal = journal();
    let mut d = driver(&journal);
    for head in [9, 0, 6, 3] {
        read(&mut d, head);
    }
    let mut taken: Vec<_> = (0..4).map(|_| d.taken()).collect();
    // Out of order: the second.
    assert!(d.complete(taken.remove(1), Outcome::Done).is_none());
    assert_eq!(d.used(), [(0, 513)]);
    read(&mut d, 0);
    die(&mut d, &journal).unwrap();
    assert!(d.queue.listen(), "there is something to do though nobody kicks");
    assert_eq!(served(&mut d), [9, 6, 3, 0]);
    assert_eq!(d.used(), [(9, 513), (6, 513), (3, 513), (0, 513)]);
    die(&mut d, &journal).unwrap();
    assert_eq!(served(&mut d), []);
    d.serves();
}

#[test]
fn a_queue_that_comes_to_its_end_does_what_was_in_flight_before_and_nothing_else() {
    for held in [false, true] {
        let journal = journal();
        let mut d = driver(&journal);
        for head in [9, 0, 6] {
            read(&mut d, head);
        }
        let mut taken: Vec<_> = (0..3).map(|_| d.taken()).collect();
        assert!(d.complete(taken.remove(1), Outcome::Done).is_none());
        assert_eq!(d.used(), [(0, 513)]);
        die(&mut d, &journal).unwrap();
        read(&mut d, 3);
        d.queue.hold(held);
        d.queue.take_old_only();
        if held {
            assert_eq!(served(&mut d), [], "not before it goes on");
            assert!(d.queue.has_old() && !d.queue.has_work());
            d.queue.hold(false);
        }
        assert!(d.queue.has_old() && d.queue.has_work());
        assert_eq!(served(&mut d), [9, 6], "what is new waits in the ring");
        assert!(!d.queue.has_old() && !d.queue.has_work() && d.queue.in_flight() == 0);
    }
}

#[test]
fn a_queue_whose_client_leaves_or_that_breaks_does_nothing_of_what_was_in_flight_before() {
    for leaves in [false, true] {
        let journal = journal();
        let mut d = driver(&journal);
        for head in [9, 0] {
            read(&mut d, head);
        }
        let mut taken: Vec<_> = (0..2).map(|_| d.taken()).collect();
        assert!(d.complete(taken.remove(1), Outcome::Done).is_none());
        assert_eq!(d.used(), [(0, 513)]);
        die(&mut d, &journal).unwrap();
        d.queue.take_old_only();
        assert!(d.queue.has_old());
        if leaves {
            d.queue.leave()
        } else {
            d.queue.break_off(Broken::MemoryGone)
        }
        assert!(!d.queue.has_old());
        assert!(matches!(d.next(), Next::Idle | Next::Broken(_)));
    }
}

#[test]
fn a_journal_that_was_forgotten_has_nothing_in_flight_and_is_as_good_as_new() {
    // The ring's index comes round to where rings begin that are set up anew: by it nobody sees that the journal was another's.
    let before = || QueueConfig { next_avail: u16::MAX, ..config() };
    for forgotten in [false, true] {
        let journal = journal();
        let d = Driver::with(|config| *config = before());
        d.set_avail(u16::MAX);
        let (window, offset) = d.at(USED);
        window.store16(offset + 2, u16::MAX).unwrap();
        let queue = BlkQueue::new(before(), d.table.clone()).unwrap();
        let mut d = Driver { queue, seen_used: u16::MAX, ..d };
        d.queue.keep(journal.clone()).unwrap();
        for head in [9, 0] {
            read(&mut d, head);
        }
        let mut taken: Vec<_> = (0..2).map(|_| d.taken()).collect();
        // Out of order, so that the other is entered.
        assert!(d.complete(taken.remove(1), Outcome::Done).is_none());
        assert_eq!(d.used(), [(0, 513)]);
        assert!(journal_holds(&journal, SIZE));
        if forgotten {
            forget_journal(&journal);
        }
        assert_eq!(journal_holds(&journal, SIZE), !forgotten);
        let mut d = Driver::new();
        d.queue.keep(journal.clone()).unwrap();
        assert_eq!(d.queue.has_work(), !forgotten);
        if forgotten {
            read(&mut d, 3);
            assert_eq!(served(&mut d), [3]);
        }
        // The next ring may be a shorter one, too.
        if forgotten {
            forget_journal(&journal);
        }
        let mut d = Driver::with(|config| config.size = SIZE / 2);
        assert_eq!(d.queue.keep(journal).is_ok(), forgotten);
    }
}

#[test]
fn a_request_whose_used_entry_no_driver_saw_is_done_again() {
    let journal = journal();
    let mut d = driver(&journal);
    for head in [0, 3] {
        read(&mut d, head);
    }
    let first = d.taken();
    assert!(d.complete(first, Outcome::Done).is_none());
    // The ring's index has not moved.
    die(&mut d, &journal).unwrap();
    assert_eq!(served(&mut d), [0, 3]);
    assert_eq!(d.used(), [(0, 513), (3, 513)]);
}

#[test]
fn a_batch_that_its_driver_saw_is_cleared_wherever_its_server_died() {
    // So many stores of the clearing were made: of four, and the index last.
    for stores in 0..=4 {
        let journal = journal();
        let mut d = driver(&journal);
        for head in [12, 0, 6, 3, 9] {
            read(&mut d, head);
        }
        let mut taken: Vec<_> = (0..5).map(|_| d.taken()).collect();
        // All others overtake the first.
        let _never = taken.remove(0);
        taken.swap(0, 2);
        let batch: Vec<u16> = taken.iter().map(|r| r.tag().head()).collect();
        for request in taken {
            assert!(d.complete(request, Outcome::Done).is_none());
        }
        assert_eq!(d.used().len(), 4);
        // As it was before the stores that it did not live to make.
        journal.store16(USED_IDX, 0).unwrap();
        for head in batch.iter().skip(stores) {
            journal.store16(inflight(*head), 1).unwrap();
        }
        die(&mut d, &journal).unwrap();
        assert_eq!(served(&mut d), [12], "after {stores} stores");
        assert_eq!(d.used(), [(12, 513)]);
        d.serves();
    }
}

#[test]
fn what_is_told_of_in_its_order_is_not_entered_and_what_is_overtaken_is() {
    let journal = journal();
    let mut d = driver(&journal);
    let entered = |journal: &Window| {
        let heads = [0, 3, 6, 9, 12].into_iter();
        heads.filter(|head| journal.load16(inflight(*head)) != Ok(0)).collect::<Vec<_>>()
    };
    let mut before = vec![0; journal.len()];
    journal.read(0, &mut before).unwrap();
    for round in 0..100 {
        for head in [3, 0, 6] {
            read(&mut d, head);
        }
        let mut taken = [d.taken(), d.taken(), d.taken()];
        // What the driver is told of at once may have ended in any order.
        taken.rotate_left(round % 3);
        taken.swap(0, round % 2);
        for taken in taken {
            assert!(d.complete(taken, Outcome::Done).is_none());
        }
        assert_eq!(d.used().len(), 3);
    }
    let mut after = vec![1; journal.len()];
    journal.read(0, &mut after).unwrap();
    assert_eq!(before, after);
    for head in [3, 0, 6, 9] {
        read(&mut d, head);
    }
    let mut taken: Vec<_> = (0..4).map(|_| d.taken()).collect();
    assert!(d.complete(taken.remove(0), Outcome::Done).is_none());
    assert_eq!(entered(&journal), []);
    assert!(d.complete(taken.remove(1), Outcome::Done).is_none());
    assert_eq!(entered(&journal), []);
    assert_eq!(d.used().len(), 2);
    assert_eq!(entered(&journal), [0, 9]);
    read(&mut d, 12);
    taken.push(d.taken());
    assert_eq!(entered(&journal), [0, 9, 12]);
    for request in taken {
        assert!(d.complete(request, Outcome::Done).is_none());
    }
    assert_eq!(d.used().len(), 3);
    // After a while without it is tried again.
    for round in 0..300 {
        read(&mut d, 6);
        let request = d.taken();
        assert_eq!(!entered(&journal).is_empty(), round < 16 * SIZE - 5, "{round}");
        assert!(d.complete(request, Outcome::Done).is_none());
        assert_eq!(d.used(), [(6, 513)]);
    }
}

#[test]
fn what_is_answered_in_a_broken_ring_is_taken_again_whatever_its_order() {
    let journal = journal();
    let mut d = driver(&journal);
    for head in [0, 3, 6] {
        read(&mut d, head);
    }
    let [first, second, third] = [d.taken(), d.taken(), d.taken()];
    d.queue.break_off(Broken::HoldsUp);
    for request in [first, third, second] {
        assert!(d.complete(request, Outcome::Done).is_none());
    }
    assert_eq!(d.used(), []);
    die(&mut d, &journal).unwrap();
    assert_eq!(served(&mut d), [0, 3, 6]);
}

#[test]
fn requests_that_are_answered_at_once_are_in_the_journal_too() {
    let journal = journal();
    let mut d = driver(&journal);
    read(&mut d, 6);
    let _never = d.taken();
    d.request(0, 77, 0, &[]);
    assert!(matches!(d.next(), Next::Again));
    assert_eq!(d.used(), [(0, 1)]);
    assert_eq!(d.status(0), UNSUPP);
    die(&mut d, &journal).unwrap();
    assert_eq!(served(&mut d), [6]);
}

#[test]
fn a_fresh_journal_goes_on_where_the_client_says_and_one_of_another_ring_knows_nothing() {
    let fresh = journal();
    let mut d = driver(&fresh);
    d.serves();
    // Its driver begins anew, with rings that are all zeroes; the journal is the old one.
    let mut again = driver(&fresh);
    assert_eq!(again.queue.next_avail(), 0);
    again.serves();
    let old = journal();
    let mut d = driver(&old);
    read(&mut d, 0);
    let _never = d.taken();
    old.store16(USED_IDX, 1000).unwrap();
    let mut again = driver(&old);
    assert_eq!(served(&mut again), []);
    again.serves();
}

#[test]
fn a_journal_that_cannot_be_is_refused() {
    for (at, value) in [(DESC_NUM, SIZE * 2), (LAST_BATCH_HEAD, SIZE), (8, 2)] {
        let journal = journal();
        let mut d = driver(&journal);
        d.serves();
        journal.store16(at, value).unwrap();
        assert_eq!(die(&mut d, &journal), Err(RingError::Journal));
    }
    let short = heap(journal_len(SIZE) - 16).unwrap();
    assert_eq!(Driver::new().queue.keep(short), Err(RingError::Journal));
}

#[test]
fn what_fails_once_its_client_has_left_is_done_again_and_what_succeeds_is_not() {
    let journal = journal();
    let mut d = driver(&journal);
    for head in [0, 3, 6] {
        read(&mut d, head);
    }
    let mut taken: Vec<_> = (0..3).map(|_| d.taken()).collect();
    assert!(d.complete(taken.remove(0), Outcome::Failed).is_none());
    d.queue.leave();
    assert!(d.complete(taken.remove(0), Outcome::Failed).is_none());
    assert!(d.complete(taken.remove(0), Outcome::Done).is_none());
    assert_eq!(d.used(), [(0, 1), (6, 513)]);
    assert_eq!((d.queue.in_flight(), d.queue.bytes_held()), (0, 0));
    die(&mut d, &journal).unwrap();
    assert_eq!(served(&mut d), [3]);
    assert_eq!(d.used(), [(3, 513)]);
}

#[test]
fn the_first_may_be_the_one_that_fails_once_its_client_has_left() {
    let journal = journal();
    let mut d = driver(&journal);
    for head in [0, 3, 6] {
        read(&mut d, head);
    }
    let [first, _second, third] = [d.taken(), d.taken(), d.taken()];
    d.queue.leave();
    assert!(d.complete(first, Outcome::Failed).is_none());
    assert!(d.complete(third, Outcome::Done).is_none());
    assert_eq!(d.used(), [(6, 513)]);
    die(&mut d, &journal).unwrap();
    assert_eq!(served(&mut d), [0, 3]);
    assert_eq!(d.used(), [(0, 513), (3, 513)]);
}

#[test]
fn a_queue_that_breaks_on_what_was_in_flight_has_nothing_to_do_any_more() {
    let journal = journal();
    let mut d = driver(&journal);
    for head in [0, 3] {
        read(&mut d, head);
    }
    let _never = (d.taken(), d.taken());
    // Its first request is none any more.
    d.set_desc(0, desc(0, 0, 0, 0));
    die(&mut d, &journal).unwrap();
    assert!(d.queue.listen(), "what was in flight comes first");
    assert!(matches!(d.next(), Next::Broken(Broken::NoStatus)));
    assert!(!d.queue.listen(), "whoever serves it may sleep");
}

#[test]
fn a_head_that_is_in_flight_twice_breaks_the_queue() {
    let journal = journal();
    let mut d = driver(&journal);
    read(&mut d, 3);
    let _never = d.taken();
    // It is entered once it is overtaken.
    read(&mut d, 0);
    let other = d.taken();
    assert!(d.complete(other, Outcome::Done).is_none());
    assert_eq!(d.used().len(), 1);
    die(&mut d, &journal).unwrap();
    // Not answered yet, it is made available again.
    read(&mut d, 3);
    let _again = d.taken();
    assert!(matches!(d.next(), Next::Again));
    assert!(matches!(d.next(), Next::Broken(Broken::HeadInFlight)));
}

proptest! {
    #[test]
    fn whatever_a_client_writes_there_ends_in_requests_of_its_own(
        bytes in proptest::collection::vec(any::<u8>(), journal_len(SIZE)),
        sound in any::<bool>(),
    ) {
        let journal = journal();
        journal.write(0, &bytes).unwrap();
        if sound {
            journal.store16(8, 1).unwrap();
            journal.store16(DESC_NUM, SIZE).unwrap();
        }
        let mut d = Driver::new();
        read(&mut d, 0);
        if d.queue.keep(journal).is_ok() {
            for _ in 0..100 {
                match d.next() {
                    Next::Request(request) => prop_assert!(d.complete(request, Outcome::Done).is_none()),
                    Next::Again => {}
                    Next::Idle | Next::Broken(_) => break,
                }
            }
            prop_assert_eq!((d.queue.in_flight(), d.queue.bytes_held()), (0, 0));
        }
    }
}
