//! A server dies after any of its stores, and another goes on with the journal. In builds that assert, where memory can be told to take no
//! more stores.

use std::collections::VecDeque;
use std::sync::Arc;

use nvme_mem::heap;
use nvme_platform::Window;
use nvme_session::memory::{MemoryTable, Spares};
use nvme_session::operation::Outcome;
use nvme_session::queue::{BlkQueue, Next};
use nvme_session::virtqueue::journal_len;
use proptest::prelude::*;

use super::driver::*;
use super::journal::die;

/// What happens to a queue that keeps a journal.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Its driver asks for something, if it has a head left. `true`: for what is answered at once.
    Offer(bool),
    Take,
    /// One that is in flight ends, if there is one.
    End(usize),
    Publish,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => proptest::bool::weighted(0.1).prop_map(Event::Offer),
        3 => Just(Event::Take),
        3 => prop_oneof![2 => Just(0), 1 => 0..5_usize].prop_map(Event::End),
        2 => Just(Event::Publish),
    ]
}

/// A driver, its queue, and all memory that the queue's server writes: one piece, so that it can be said which store is the last.
struct Mortal {
    d: Driver,
    memory: Window,
    journal: Window,
    free: Vec<u16>,
    /// In the order in which they were offered, those that were not answered.
    waiting: Vec<u16>,
}

impl Mortal {
    fn new() -> Self {
        let ram = (DATA - RAM) as usize;
        let memory = heap(ram + journal_len(SIZE)).unwrap();
        let journal = memory.sub(ram, journal_len(SIZE)).unwrap();
        let mut regions = regions();
        regions[0].window = memory.sub(0, ram).unwrap();
        let table = Arc::new(MemoryTable::new(regions).unwrap());
        let mut queue = BlkQueue::new(config(), table.clone()).unwrap();
        queue.keep(journal.clone()).unwrap();
        let d = Driver { queue, table, spares: Spares::new(), avail: 0, seen_used: 0 };
        Self { d, memory, journal, free: vec![0, 3, 6, 9, 12], waiting: Vec::new() }
    }

    /// What its driver finds in the used ring.
    fn looks(&mut self) {
        let (ring, offset) = self.d.at(USED);
        let index = ring.load16(offset + 2).unwrap();
        while self.d.seen_used != index {
            let (ring, offset) = self.d.at(USED);
            let at = offset + 4 + 8 * usize::from(self.d.seen_used % SIZE);
            let head = ring.load16(at).unwrap();
            let place = self.waiting.iter().position(|waits| *waits == head);
            self.waiting.remove(place.expect("what is answered was asked for, and is answered once"));
            self.free.push(head);
            self.d.seen_used = self.d.seen_used.wrapping_add(1);
        }
    }

    /// Goes through it until that many stores were made. False: all of it was.
    fn lives(&mut self, events: &[Event], stores: u32) -> bool {
        let mut in_flight = VecDeque::new();
        self.memory.owner().limit(stores);
        for event in events {
            match event {
                Event::Offer(at_once) => {
                    let left = self.memory.owner().left();
                    self.memory.owner().limit(u32::MAX);
                    self.looks();
                    if let Some(head) = self.free.pop() {
                        let at = DATA + 512 * u64::from(head);
                        let kind = if *at_once { 77 } else { IN };
                        self.d.request(head, kind, u64::from(head), &[(at, 512, WRITE)]);
                        self.waiting.push(head);
                    }
                    self.memory.owner().limit(left);
                }
                Event::Take => {
                    if let Next::Request(request) = self.d.next() {
                        in_flight.push_back(request);
                    }
                }
                Event::End(which) => {
                    if let Some(request) = in_flight.remove(which % in_flight.len().max(1)) {
                        assert!(self.d.complete(request, Outcome::Done).is_none());
                    }
                }
                Event::Publish => {
                    self.d.queue.publish();
                }
            }
            if self.memory.owner().left() == 0 {
                break;
            }
        }
        let died = self.memory.owner().left() == 0;
        self.memory.owner().limit(u32::MAX);
        died
    }

    /// The next one does what was not answered, all of it, in its order, and nothing else.
    fn is_taken_up(&mut self) {
        self.looks();
        die(&mut self.d, &self.journal).unwrap();
        let waiting = self.waiting.clone();
        let mut taken = Vec::new();
        loop {
            let offered = self.d.queue.has_work();
            match self.d.next() {
                Next::Request(request) => {
                    taken.push(request.tag().head());
                    assert!(self.d.complete(request, Outcome::Done).is_none());
                }
                Next::Again => {}
                Next::Idle => break,
                other @ Next::Broken(_) => panic!("{other:?}, {offered}"),
            }
        }
        self.d.queue.publish();
        self.looks();
        assert_eq!(self.waiting, [], "of {waiting:?}");
        // Those that are answered at once do not show here.
        let mut all = waiting.iter();
        assert!(taken.iter().all(|head| all.any(|waits| waits == head)), "{taken:?} of {waiting:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn whichever_store_was_a_server_s_last_the_next_one_goes_on_from_there(
        events in proptest::collection::vec(event(), 1..60),
        again in 0..20_u32,
    ) {
        for stores in 1.. {
            let mut mortal = Mortal::new();
            let died = mortal.lives(&events, stores);
            // The next one dies as well, sooner or later.
            if stores % 3 == 0 {
                mortal.looks();
                die(&mut mortal.d, &mortal.journal).unwrap();
                mortal.lives(&events, 1 + again);
            }
            mortal.is_taken_up();
            if !died {
                break;
            }
        }
    }
}
