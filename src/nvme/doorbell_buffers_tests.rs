use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::AtomicU32;

use nvme_platform::fake::FakeIommu;
use proptest::prelude::*;

use super::*;

/// Registers that count what is written to them.
#[derive(Clone, Default)]
struct Rung(Arc<[AtomicU32; 2]>);

impl QueueDoorbells for Rung {
    fn submission_tail(&mut self, _: u16) {
        self.0[0].fetch_add(1, Ordering::Relaxed);
    }

    fn completion_head(&mut self, _: u16) {
        self.0[1].fetch_add(1, Ordering::Relaxed);
    }
}

impl Rung {
    fn count(&self) -> [u32; 2] {
        [0, 1].map(|n: usize| self.0[n].load(Ordering::Relaxed))
    }
}

fn buffers(pairs: u16) -> DoorbellBuffers {
    let mut buffers = DoorbellBuffers::new(&mut FakeIommu::new().pool(), pairs, 4).unwrap().unwrap();
    buffers.set(true);
    buffers
}

#[test]
fn a_page_holds_the_doorbells_of_as_many_pairs_as_have_a_place_there() {
    let mut pool = FakeIommu::new().pool();
    let mut made = |pairs, stride| DoorbellBuffers::new(&mut pool, pairs, stride).unwrap().is_some();
    assert!(made(511, 4) && !made(512, 4) && made(255, 8) && !made(256, 8) && made(0, 2048));
    assert!(!made(0, 4096) && !made(1, 0) && !made(1, 6) && !made(u16::MAX, u32::MAX - 3));
}

#[test]
fn a_pair_has_the_words_of_its_number_and_no_other() {
    let buffers = buffers(8);
    let mut pair = buffers.around(3, Box::new(Rung::default()));
    pair.submission_tail(5);
    pair.completion_head(7);
    let words: Vec<u32> = (0..PAGE / 4).map(|n| buffers.doorbells.window().load32(4 * n).unwrap()).collect();
    let set: Vec<(usize, u32)> = words.into_iter().enumerate().filter(|(_, word)| *word != 0).collect();
    assert_eq!(set, [(6, 5), (7, 7)]);
    buffers.clear(3);
    assert_eq!(buffers.doorbells.window().load32(24), Ok(0));
}

#[test]
fn the_register_is_written_when_the_controller_waits_for_it_and_not_otherwise() {
    let (buffers, rung) = (buffers(2), Rung::default());
    let mut pair = buffers.around(1, Box::new(rung.clone()));
    // It has seen 0, and sleeps.
    pair.submission_tail(1);
    assert_eq!(rung.count(), [1, 0]);
    // It is at work, and said nothing new: it looks by itself.
    (2..9).for_each(|tail| pair.submission_tail(tail));
    assert_eq!(rung.count(), [1, 0]);
    // It has seen 8, and sleeps. The queue ends at 10.
    buffers.events.window().store32(8, 8).unwrap();
    pair.submission_tail(0);
    assert_eq!(rung.count(), [2, 0]);
    pair.completion_head(4);
    assert_eq!(rung.count(), [2, 1]);
}

#[test]
fn before_the_command_and_after_a_reset_there_are_registers_alone() {
    let mut buffers = buffers(2);
    buffers.doorbells.window().store32(8, 5).unwrap();
    buffers.forget();
    assert_eq!(buffers.doorbells.window().load32(8), Ok(0), "a controller begins with zeroes");
    let rung = Rung::default();
    let mut pair = buffers.around(1, Box::new(rung.clone()));
    (1..5).for_each(|tail| pair.submission_tail(tail));
    assert_eq!(rung.count(), [4, 0]);
    assert_eq!(buffers.doorbells.window().load32(8), Ok(0));
}

/// A controller that follows the rule: it looks at the doorbell until it has caught up, says from where on it wants to be told, looks
/// once more, and sleeps.
struct Model {
    buffers: DoorbellBuffers,
    seen: u32,
    /// What is left to be done before it sleeps: to catch up, or to look once more.
    looks_once_more: bool,
    sleeps: bool,
}

impl Model {
    fn step(&mut self) {
        if self.sleeps {
            return;
        }
        let tail = self.buffers.doorbells.window().load32(8).unwrap();
        if self.looks_once_more {
            self.looks_once_more = false;
            self.sleeps = tail == self.seen;
        } else {
            self.seen = tail;
            self.buffers.events.window().store32(8, tail).unwrap();
            self.looks_once_more = true;
        }
    }
}

proptest! {
    /// Whatever the length of the queue, the steps of its tail and the pace of the controller: it never sleeps over what was submitted.
    #[test]
    fn a_controller_that_follows_the_rule_sleeps_over_nothing(
        length in 2_u16..1025,
        steps in proptest::collection::vec((1_u16..64, 0_u8..5), 1..200),
    ) {
        let model = Model { buffers: buffers(2), seen: 0, looks_once_more: false, sleeps: false };
        let model = Rc::new(RefCell::new(model));
        let rung = Rung::default();
        let mut pair = model.borrow().buffers.around(1, Box::new(rung.clone()));
        let (mut tail, mut rings) = (0_u16, 0);
        for (step, pace) in steps {
            // No more than the queue has room for: a controller that is a whole queue behind cannot be submitted to.
            let behind = (tail + length - u16::try_from(model.borrow().seen).unwrap()) % length;
            let step = step.min(length - 1 - behind);
            if step > 0 {
                tail = (tail + step) % length;
                pair.submission_tail(tail);
                let [rung, _] = rung.count();
                if rung > rings {
                    rings = rung;
                    model.borrow_mut().sleeps = false;
                }
            }
            (0..pace).for_each(|_| model.borrow_mut().step());
            let model = model.borrow();
            prop_assert!(!model.sleeps || model.seen == u32::from(tail), "{} of {tail}", model.seen);
        }
    }

    /// Whatever the controller writes there: the register is written, or it is not.
    #[test]
    fn what_a_controller_writes_there_decides_nothing_else(events: Vec<u32>) {
        let (buffers, rung) = (buffers(2), Rung::default());
        let mut pair = buffers.around(1, Box::new(rung.clone()));
        for (n, event) in (1_u32..).zip(events) {
            buffers.events.window().store32(8, event).unwrap();
            buffers.doorbells.window().store32(8, event).unwrap();
            pair.submission_tail((n % 7) as u16);
            prop_assert_eq!(buffers.doorbells.window().load32(8), Ok(n % 7));
            prop_assert!(rung.count()[0] <= n);
        }
    }
}
