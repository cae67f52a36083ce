//! Drivers that write whatever comes to mind, and memory that comes and goes under them.

use std::collections::HashMap;
use std::sync::Arc;

use nvme_session::memory::{MemoryTable, QuietBy};
use nvme_session::memory::{Quiet, Windows};
use nvme_session::operation::{Operation, Outcome};
use nvme_session::queue::{BlkQueue, Direction, Next, Request};
use proptest::prelude::*;

use crate::driver::*;

#[derive(Clone, Debug)]
enum Step {
    /// A descriptor: of the table or the indirect table, index, address, length, flags, next.
    Desc(bool, u16, u64, u32, u16, u16),
    /// A request header at an address.
    Header(u64, u32, u64),
    Offer(u16),
    /// An available index.
    Avail(u16),
    /// Bytes anywhere.
    Bytes(u64, Vec<u8>),
    Serve,
    /// Ends one operation in flight.
    End(usize, Outcome),
    PutBack(usize),
    Split(usize),
    /// Takes regions out of the table, by bits.
    Table(u8),
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => (0_u64..0x6_0000).prop_map(|a| RAM + a),
        4 => prop::sample::select(vec![DATA, HEAD, HEAD + 16, TABLE, AVAIL, USED, DESC, ROM]),
        1 => prop::sample::select(vec![0, DATA - 256, DATA_END - 256, DATA_END, u64::MAX, u64::MAX - 511]),
        1 => any::<u64>(),
    ]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![4 => prop::sample::select(vec![0_u32, 1, 16, 17, 48, 512, 1024, 4096]), 1 => any::<u32>()]
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![8 => 0_u16..4, 1 => 0_u16..8, 1 => any::<u16>()];
    let next = prop_oneof![9 => 0_u16..SIZE, 1 => any::<u16>()];
    let kind = prop_oneof![8 => prop::sample::select(vec![IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES]), 1 => any::<u32>()];
    let sector = prop_oneof![6 => 0_u64..66, 1 => any::<u64>()];
    prop_oneof![
        8 => (any::<bool>(), 0_u16..SIZE, address(), length(), flags, next)
            .prop_map(|(t, i, a, l, f, n)| Step::Desc(t, i, a, l, f, n)),
        4 => (address(), kind, sector).prop_map(|(a, k, s)| Step::Header(a, k, s)),
        8 => (0_u16..SIZE + 1).prop_map(Step::Offer),
        1 => any::<u16>().prop_map(Step::Avail),
        2 => (address(), prop::collection::vec(any::<u8>(), 1..64)).prop_map(|(a, b)| Step::Bytes(a, b)),
        8 => Just(Step::Serve),
        4 => (any::<usize>(), prop::sample::select(vec![Outcome::Done, Outcome::Failed, Outcome::Unsupported]))
            .prop_map(|(i, o)| Step::End(i, o)),
        1 => any::<usize>().prop_map(Step::PutBack),
        1 => any::<usize>().prop_map(Step::Split),
        1 => (0_u8..8).prop_map(Step::Table),
    ]
}

/// Everything that an honest driver would do, with hostile noise in between.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kinds = vec![(IN, WRITE, 512), (OUT, 0, 512), (FLUSH, 0, 0), (DISCARD, 0, 16), (WRITE_ZEROES, 0, 16)];
    let honest = (0_u16..4, address(), 0_u64..66, prop::sample::select(kinds)).prop_map(
        |(i, addr, sector, (kind, flags, len))| {
            let head = 4 * i;
            let at = HEAD + 64 * u64::from(head);
            let segment = [sector.to_le_bytes(), 2_u64.to_le_bytes()].concat();
            vec![
                Step::Header(at, kind, sector),
                if len == 16 { Step::Bytes(addr, segment) } else { Step::Serve },
                Step::Desc(false, head, at, 16, NEXT, head + 1),
                Step::Desc(false, head + 1, addr, len, NEXT | flags, head + 2),
                Step::Desc(false, head + 2, at + 16, 1, WRITE, 0),
                Step::Offer(head),
                Step::Serve,
            ]
        },
    );
    let noise = step().prop_map(|s| vec![s]);
    prop::collection::vec(prop_oneof![honest, noise], 1..60).prop_map(|v| v.concat())
}

struct World {
    driver: Driver,
    flying: Vec<Request>,
}

impl World {
    /// What a controller would be given lies inside what is registered and has the right; and the queue can see it.
    fn check(&self, request: &Request) {
        let op = request.operation();
        let writes = matches!(op, Operation::Read(_) | Operation::ReadPart(_));
        let memory = op.memory();
        let total: u64 = memory.iter().map(|r| u64::from(r.len())).sum();
        match op {
            Operation::Read(t) | Operation::Write { transfer: t, .. } => assert_eq!(total, t.place().bytes()),
            Operation::ReadPart(part) | Operation::WritePart { part, .. } => {
                assert!(total > 0 && u64::from(part.skip()) + total <= part.place().bytes());
                assert_eq!(part.place().blocks(), 1);
            }
            _ => {}
        }
        for range in memory {
            let (at, len) = (range.iova().0, u64::from(range.len()));
            let home = regions().into_iter().find(|r| r.iova.0 <= at && at + len <= r.iova.0 + r.len);
            let home = home.expect("inside a region");
            assert!(home.writable || !writes, "a region that may not be written");
            assert!(self.driver.queue.holds(home.slot));
            assert_eq!(self.driver.queue.window(range).map(|w| w.len() as u64), Some(len));
        }
        let (first, blocks) = place(request);
        if blocks > 0 {
            assert!(first >= 100 && first + blocks <= 164, "inside the partition");
        }
    }

    fn run(&mut self, step: Step, all: &MemoryTable) {
        let d = &mut self.driver;
        let put = |addr: u64, bytes: &[u8]| {
            for (i, byte) in bytes.iter().enumerate() {
                let at = addr.wrapping_add(i as u64);
                if let Some(r) = all.regions().iter().find(|r| r.guest <= at && at < r.guest + r.len) {
                    r.window.write((at - r.guest) as usize, &[*byte]).unwrap();
                }
            }
        };
        match step {
            Step::Desc(false, i, a, l, f, n) => d.set_desc(i, desc(a, l, f, n)),
            Step::Desc(true, i, a, l, f, n) => d.set_indirect(i, desc(a, l, f, n)),
            Step::Header(at, kind, sector) => {
                put(at, &kind.to_le_bytes());
                put(at.wrapping_add(8), &sector.to_le_bytes());
            }
            Step::Offer(head) => d.offer(head),
            Step::Avail(index) => d.set_avail(index),
            Step::Bytes(at, bytes) => put(at, &bytes),
            Step::Serve => {
                for _ in 0..2 * SIZE {
                    match d.queue.next(&mut d.spares) {
                        Next::Request(request) => {
                            self.check(&request);
                            self.flying.push(request);
                            return;
                        }
                        Next::Again => {}
                        Next::Idle => return,
                        Next::Broken(_) => {
                            self.repair(all);
                            return;
                        }
                    }
                }
            }
            Step::End(which, outcome) => self.end(which, outcome),
            Step::PutBack(which) => {
                if !self.flying.is_empty() {
                    d.queue.put_back(self.flying.swap_remove(which % self.flying.len()));
                }
            }
            Step::Split(which) => {
                if !self.flying.is_empty() {
                    let request = self.flying.swap_remove(which % self.flying.len());
                    let (request, rest) = request.split_at(1, &mut d.spares);
                    if let Some(rest) = rest {
                        d.queue.divided(rest);
                    }
                    self.flying.push(request);
                }
            }
            Step::Table(bits) => {
                let left = all.regions().iter().filter(|r| bits & (1 << r.slot) == 0).cloned().collect();
                // The rings may be gone with it; the queue says so.
                let _ = d.queue.set_table(Arc::new(MemoryTable::new(left).unwrap()));
            }
        }
    }

    fn end(&mut self, which: usize, outcome: Outcome) {
        if self.flying.is_empty() {
            return;
        }
        let request = self.flying.swap_remove(which % self.flying.len());
        self.check(&request);
        let d = &mut self.driver;
        let quiet = Quiet::seen(QuietBy::Completed);
        if let Some(next) = d.queue.complete(request.end(outcome, quiet), &mut d.spares) {
            self.flying.push(next);
        }
        d.queue.publish();
    }

    /// Everything ends; then nothing is held. The driver sets its queue up anew.
    fn repair(&mut self, all: &MemoryTable) {
        while !self.flying.is_empty() {
            self.end(0, Outcome::Done);
        }
        self.driver.queue.cancel(&mut self.driver.spares);
        assert_eq!((self.driver.queue.in_flight(), self.driver.queue.bytes_held()), (0, 0));
        let config = self.driver.queue.config().clone();
        let table = MemoryTable::new(all.regions().to_vec()).unwrap();
        self.driver.avail = config.next_avail;
        self.driver.set_avail(config.next_avail);
        self.driver.queue = BlkQueue::new(config, Arc::new(table)).unwrap();
        let (window, offset) = self.driver.at(USED);
        self.driver.seen_used = window.load16(offset + 2).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing panics, no range lies outside the registered regions or lacks the right, no block outside the partition,
    /// and every byte that was held is released.
    #[test]
    fn a_driver_that_writes_anything_gets_nothing_that_is_not_its_own(steps in steps(), by_request in any::<bool>()) {
        let direction = if by_request { Direction::ByRequest } else { Direction::AsFlagged };
        let mut world = World { driver: Driver::with(|c| c.direction = direction), flying: vec![] };
        let all = MemoryTable::new(world.driver.table.regions().to_vec()).unwrap();
        for step in steps {
            world.run(step, &all);
        }
        world.repair(&all);
        world.driver.serves();
    }
}

#[test]
fn the_steps_above_reach_what_they_are_about() {
    // Otherwise the property would hold for want of requests.
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let (mut runner, mut seen) = (TestRunner::deterministic(), HashMap::new());
    for _ in 0..100 {
        let mut world = World { driver: Driver::new(), flying: vec![] };
        let all = MemoryTable::new(world.driver.table.regions().to_vec()).unwrap();
        for step in steps().new_tree(&mut runner).unwrap().current() {
            let before = world.flying.len();
            world.run(step, &all);
            if world.flying.len() > before {
                *seen.entry(std::mem::discriminant(world.flying[before].operation())).or_insert(0) += 1;
            }
        }
        world.repair(&all);
    }
    assert!(seen.len() == 5 && seen.values().sum::<u32>() > 200, "{seen:?}");
}

#[test]
fn regions_come_and_go_while_requests_fly() {
    let mut d = Driver::new();
    let all = regions_of(&d);
    for round in 0..200_u16 {
        d.request(0, IN, 0, &[(DATA + u64::from(round) * 8, 512, WRITE)]);
        let op = d.taken();
        // The region goes while the controller writes into it; its memory is kept.
        let without: Vec<_> = all.iter().filter(|r| r.slot != 1).cloned().collect();
        d.queue.set_table(Arc::new(MemoryTable::new(without).unwrap())).unwrap();
        assert!(d.queue.holds(1));
        let Operation::Read(t) = op.operation() else { panic!("not a read") };
        assert!(d.queue.window(&t.memory()[0]).is_some());
        d.request(4, IN, 0, &[(DATA, 512, WRITE)]);
        assert!(matches!(d.next(), Next::Again), "no new request reaches it");
        assert_eq!(d.status(4), IOERR);
        d.complete(op, Outcome::Done);
        assert!(!d.queue.holds(1));
        d.queue.set_table(Arc::new(MemoryTable::new(all.clone()).unwrap())).unwrap();
        assert_eq!(d.used(), [(4, 1), (0, 513)]);
    }
}

fn regions_of(d: &Driver) -> Vec<nvme_session::memory::Region> {
    d.table.regions().to_vec()
}
