//! Memory that a client deletes while it is registered.

use nvme_l4re::model::Kind;

use crate::driver::{BASE, Driver, IN, IOERR, OK, OUT, queue_size, register};
use crate::rig::{EINVAL, MS, Rig};

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

/// Dataspaces that are gone without anybody touching them: no page fault tells, and without an IOMMU the controller would go on
/// writing to what is somebody else's memory by then.
#[test]
fn memory_that_was_taken_away_is_out_of_the_controllers_reach_though_nobody_touched_it() {
    let (mut rig, disk) = Rig::one();
    disk.fill(0, 1 << 20, 0xd5).unwrap();
    let (task, session) = rig.client(&["device=soft0:n1", "read-only"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    let data = driver.task.dataspace(Kind::Memory, 1 << 20);
    let (at, bytes) = (1 << 30, driver.task.window(data));
    assert_eq!(rig.code(&driver.task, driver.session, register(data, at, 0, 1 << 20)), 0);
    let read = |rig: &mut Rig, driver: &mut Driver| {
        let slot = driver.ask_at(IN, 0, at, 4096).unwrap();
        driver.finish(rig, slot)
    };
    assert_eq!(read(&mut rig, &mut driver), OK);
    bytes.fill(0, 1 << 20, 0).unwrap();
    let attachments = rig.model.attachments();
    driver.task.destroy(data);
    rig.pass_time(2 * MS);
    // The request that wakes the server may be the one with which it finds out.
    for _ in 0..2 {
        assert_eq!(read(&mut rig, &mut driver), IOERR);
    }
    let mut seen = [0xff; 4096];
    bytes.read(0, &mut seen).unwrap();
    assert!(seen == [0; 4096], "nothing is written where it was");
    assert_eq!(rig.model.attachments(), attachments - 1);
    assert_eq!(driver.request(&mut rig, IN, 0, 0, 4096), OK, "what is left serves");
    // It does not count, and its place is free.
    let data = driver.task.dataspace(Kind::Memory, 1 << 20);
    assert_eq!(rig.code(&driver.task, driver.session, register(data, at, 0, 1 << 20)), 0);
    assert_eq!(read(&mut rig, &mut driver), OK);
}

#[test]
fn a_refused_registration_leaves_nothing_in_reach_that_was_taken_away() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    let data = driver.task.dataspace(Kind::Memory, 1 << 20);
    assert_eq!(rig.code(&driver.task, driver.session, register(data, 1 << 30, 0, 1 << 20)), 0);
    let attachments = rig.model.attachments();
    driver.task.destroy(data);
    // Refused for what has nothing to do with it.
    let ds = driver.ds;
    assert_eq!(rig.code(&driver.task, driver.session, register(ds, BASE, 0, 4096)), EINVAL);
    rig.pass_time(2 * MS);
    assert_eq!(rig.model.attachments(), attachments - 1);
    driver.serves(&mut rig, 3);
}

#[test]
fn rings_that_were_taken_away_are_served_no_more() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    driver.serves(&mut rig, 1);
    driver.task.destroy(driver.ds);
    rig.pass_time(2 * MS);
    driver.ask(IN, 0, 0, 4096).unwrap();
    driver.notify();
    rig.until("that it is told", |_| driver.status() & NEEDS_RESET != 0);
    // The next on the same session begins where the last one did.
    let task = rig.model.task();
    let session = driver.task.give(driver.session, &task);
    driver.task.die();
    let mut heir = Driver::setup(&mut rig, task, session, 1 << 20);
    heir.serves(&mut rig, 2);
}
