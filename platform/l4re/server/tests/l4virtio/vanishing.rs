//! Memory that a client deletes while it is registered.

use nvme_l4re::model::Kind;

use crate::driver::{Driver, IN, OUT, queue_size};
use crate::rig::{MS, Rig};

const NEEDS_RESET: u32 = 0x40;

#[test]
fn who_deletes_the_memory_of_its_queue_loses_the_queue_and_nobody_else_notices() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1", "read-only"]);
    let mut bystander = Driver::setup(&mut rig, task, session, 1 << 20);
    let (task, session) = rig.client(&["device=soft0:n1", "read-only"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    for at in 0..20 {
        driver.ask(IN, at * 8, at as usize * 4096, 4096).unwrap();
    }
    driver.notify();
    driver.task.delete_dataspace(driver.ds);
    rig.until("that it is told", |_| driver.status() & NEEDS_RESET != 0);
    assert!(rig.log.text().contains("memory"), "{}", rig.log.text());
    assert_eq!(bystander.request(&mut rig, IN, 0, 0, 4096), 0);
    // The same session with other memory.
    let ds = driver.task.dataspace(Kind::Memory, queue_size(1 << 20));
    for status in [0, 1, 3] {
        assert_eq!(driver.set_status(&mut rig, status), 0);
    }
    assert_eq!(driver.share(&mut rig, ds), 0);
    driver.begin(&mut rig);
    assert_eq!(driver.request(&mut rig, IN, 0, 0, 4096), 0);
}

#[test]
fn a_task_that_deletes_its_memory_and_dies_leaves_its_device_to_the_next() {
    let (mut rig, _) = Rig::one();
    for round in 0..3 {
        let (task, session) = rig.client(&["device=soft0:n1"]);
        let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
        driver.serves(&mut rig, round);
        for at in 0..20 {
            driver.ask(OUT, at * 8, at as usize * 4096, 4096).unwrap();
        }
        driver.notify();
        driver.task.delete_dataspace(driver.ds);
        driver.task.die();
        rig.pass_time(100 * MS);
        assert_eq!(rig.model.attachments(), 0, "nothing is left of it");
    }
}
