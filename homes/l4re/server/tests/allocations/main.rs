//! Serving requests asks for no memory. A program of its own, since it counts for all of it.

use std::alloc::System;

use nvme_l4re::model::Counting;
use nvme_soft::Config as Soft;

use crate::driver::{Driver, IN, OK, OUT};
use crate::rig::{Rig, disk, soft};

#[expect(dead_code, unused_imports, reason = "shared with the other tests")]
#[path = "../l4virtio/driver.rs"]
mod driver;
#[path = "../l4virtio/quiet.rs"]
mod quiet;
#[expect(dead_code, reason = "likewise")]
#[path = "../l4virtio/rig.rs"]
mod rig;

#[global_allocator]
static HEAP: Counting<System> = Counting::new(System);

/// Keeps 16 requests of 4 KiB under way until `count` have ended; answers how often memory was asked for in the server's
/// turns.
fn serve(rig: &mut Rig, driver: &mut Driver, count: usize) -> u64 {
    let (mut asked, mut ended, mut memory) = (0, 0, 0);
    let mut done = Vec::with_capacity(256);
    while ended < count {
        while asked < count && driver.in_flight() < 16 {
            let kind = if asked % 2 == 0 { IN } else { OUT };
            driver.ask(kind, (asked % 64 * 8) as u64, asked % 16 * 4096, 4096).unwrap();
            asked += 1;
        }
        driver.notify();
        while rig.model.asleep().is_none() {
            let before = HEAP.asked();
            rig.server.turn();
            memory += HEAP.asked() - before;
            rig.engine.run(rig.model.time());
        }
        done.extend(driver.ended());
        assert!(done.iter().all(|(_, status)| *status == OK));
        ended += done.len();
        done.clear();
    }
    memory
}

#[test]
fn no_memory_is_asked_for_while_requests_are_served() {
    // With an interrupt for the queues, and with one for everything, which wakes the control role each time.
    for vectors in [2, 1] {
        let device = Soft { vectors, ..soft("soft0", &disk()) };
        let mut rig = Rig::start("", vec![device], |_, _| {}).unwrap();
        let (task, session) = rig.client(&["device=soft0:n1"]);
        let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
        // Tables grow to what they need.
        serve(&mut rig, &mut driver, 500);
        assert_eq!(serve(&mut rig, &mut driver, 5000), 0, "{vectors} vectors");
    }
}
