//! Clients that die, and who comes after them.

use nvme_l4re::model::{Answer, Kind};
use nvme_soft::faulty::{Action, Queue, Rule, When};

use crate::driver::*;
use crate::rig::*;

const WORDS: &[&str] = &["device=soft0:n1", "ds-max=2"];

/// A driver with requests in flight on a device that takes its time.
fn busy(rig: &mut Rig) -> Driver {
    let (task, session) = rig.client(WORDS);
    let mut driver = Driver::setup(rig, task, session, 1 << 20);
    driver.serves(rig, 1);
    rig.faults().inject(Rule::any(Queue::AnyIo, When::Always, Action::Delay(200 * MS)));
    for slot in 0..32u64 {
        driver.ask(if slot % 2 == 0 { IN } else { OUT }, slot * 8, slot as usize * 4096, 4096).unwrap();
    }
    driver.notify();
    rig.settle();
    assert!(driver.ended().is_empty() && driver.in_flight() == 32);
    driver
}

#[test]
fn a_client_that_dies_in_mid_io_leaves_nothing_and_its_device_to_the_next() {
    let (mut rig, _) = Rig::one();
    let (slots, attachments) = (rig.model.slots(), rig.model.attachments());
    let driver = busy(&mut rig);
    let (ds, memory) = (driver.ds, driver.memory.clone());
    driver.task.release(ds);
    driver.task.die();
    // The next asks before the server can know, and waits for the rest of what is in flight.
    rig.model.set_tick(MS / 10);
    let session = rig.create(WORDS).unwrap();
    rig.model.set_tick(MS / 10_000);
    memory.fill(0, memory.len(), 0x55).unwrap();
    rig.pass_time(SECOND);
    let mut bytes = vec![0; memory.len()];
    memory.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0x55), "nothing comes late");
    rig.faults().clear();
    let task = rig.model.task();
    let session = rig.ned.give(session, &task);
    Driver::setup(&mut rig, task, session, 1 << 20).serves(&mut rig, 2);
    assert_eq!(rig.model.slots(), slots + 5, "gate, kick, interrupt, page, dataspace");
    assert_eq!(rig.model.attachments(), attachments + 2);
}

#[test]
fn a_create_does_not_wait_for_ever_for_a_dead_clients_device() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(WORDS);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    rig.faults().inject(Rule::any(Queue::AnyIo, When::Always, Action::Hang));
    driver.ask(IN, 0, 0, 4096).unwrap();
    driver.notify();
    rig.settle();
    driver.task.die();
    let before = rig.model.time();
    rig.model.set_tick(MS);
    assert_eq!(rig.create(WORDS), Err(EBUSY));
    let took = rig.model.time() - before;
    assert!(took >= 2 * SECOND && took < 4 * SECOND, "{took:?}");
    rig.model.set_tick(MS / 10_000);
    rig.faults().clear();
    rig.pass_time(60 * SECOND);
    assert!(rig.create(WORDS).is_ok());
}

#[test]
fn hundreds_of_clients_come_and_go_and_nothing_is_left() {
    let (mut rig, _) = Rig::one();
    let (slots, attachments) = (rig.model.slots(), rig.model.attachments());
    for round in 0..300 {
        let (task, session) = rig.client(WORDS);
        let mut driver = Driver::setup(&mut rig, task, session, 8192);
        if round % 10 == 0 {
            driver.serves(&mut rig, round);
        } else {
            // It dies with something in its ring.
            driver.ask(OUT, 0, 0, 4096).unwrap();
            driver.notify();
        }
        driver.task.die();
    }
    rig.pass_time(SECOND);
    assert_eq!((rig.model.slots(), rig.model.attachments()), (slots, attachments));
}

#[test]
fn many_clients_at_a_time_have_a_session_each_until_there_is_no_room() {
    let (mut rig, _) = Rig::one();
    let words = &["device=soft0:n1", "read-only"];
    let mut clients = Vec::new();
    for _ in 0..256 {
        let (task, session) = rig.client(words);
        clients.push((task, session));
    }
    assert_eq!(rig.create(words), Err(ENOMEM));
    let (task, session) = clients.pop().unwrap();
    let mut driver = Driver::setup(&mut rig, task, session, 8192);
    assert_eq!(driver.request(&mut rig, IN, 0, 0, 4096), OK);
    driver.task.die();
    assert!(rig.create(words).is_ok());
    let (task, session) = clients.pop().unwrap();
    let mut driver = Driver::setup(&mut rig, task, session, 8192);
    assert_eq!(driver.request(&mut rig, IN, 0, 0, 4096), OK);
}

#[test]
fn objects_that_the_kernel_refuses_are_a_create_that_is_refused() {
    let (mut rig, _) = Rig::one();
    let (slots, attachments) = (rig.model.slots(), rig.model.attachments());
    for quota in 0..3 {
        rig.model.set_quota(quota);
        assert_eq!(rig.create(WORDS), Err(ENOMEM), "{quota} objects");
        rig.pass_time(SECOND);
        assert_eq!((rig.model.slots(), rig.model.attachments()), (slots, attachments));
    }
    rig.model.set_quota(usize::MAX);
    rig.model.refuse_attach_after(0);
    assert_eq!(rig.create(WORDS), Err(ENOMEM), "the page");
    rig.model.refuse_attach_after(usize::MAX);
    rig.pass_time(SECOND);
    assert_eq!(rig.model.slots(), slots);
    assert!(rig.create(WORDS).is_ok());
}

#[test]
fn a_gate_that_is_deleted_while_it_is_called_hurts_nobody_else() {
    let (mut rig, _) = Rig::one();
    let driver = busy(&mut rig);
    // A reset that has to wait, and a second call behind it.
    let reset = driver.task.call(driver.session, said(0, &[0]));
    let next = driver.task.call(driver.session, said(0, &[4]));
    rig.turn();
    rig.turn();
    assert_eq!((driver.task.answer(reset), driver.task.answer(next)), (None, None));
    driver.task.destroy(driver.session);
    assert_eq!(driver.task.answer(next), Some(Answer::Gone));
    driver.task.die();
    rig.faults().clear();
    rig.model.set_tick(MS / 10);
    assert!(rig.create(WORDS).is_ok());
}

#[test]
fn the_next_client_of_a_session_takes_the_place_of_one_that_died_unseen() {
    let (mut rig, _) = Rig::one();
    // ned keeps the session's capability, so nobody hears of the death.
    let session = rig.create(WORDS).unwrap();
    for seed in 0..5 {
        let task = rig.model.task();
        let given = rig.ned.give(session, &task);
        let mut driver = Driver::setup(&mut rig, task, given, 1 << 20);
        driver.serves(&mut rig, seed);
        let more = driver.task.dataspace(Kind::Memory, 1 << 16);
        let said = register(more, 1 << 30, 0, 1 << 16);
        assert_eq!(rig.code(&driver.task, given, said), 0, "ds-max counts this client's");
        for slot in 0..8 {
            driver.ask(OUT, slot * 8, 0, 4096).unwrap();
        }
        driver.notify();
        driver.task.die();
    }
    // Page, and what the last one registered.
    assert_eq!(rig.model.attachments(), 3);
}

#[test]
fn a_virtual_machine_that_is_started_again_registers_its_memory_first() {
    let (mut rig, _) = Rig::one();
    let session = rig.create(WORDS).unwrap();
    for seed in 0..4 {
        let task = rig.model.task();
        let given = rig.ned.give(session, &task);
        let ram = task.dataspace(Kind::Memory, queue_size(1 << 20));
        let second = task.dataspace(Kind::Memory, 1 << 16);
        let memory = task.window(ram);
        // The last one's queue still runs, in memory at these very addresses.
        assert_eq!(rig.code(&task, given, register(ram, BASE, 0, memory.len() as u64)), 0);
        assert_eq!(rig.code(&task, given, register(second, 1 << 30, 0, 1 << 16)), 0);
        let mut driver = Driver::connect(&mut rig, task, given);
        (driver.ds, driver.memory) = (ram, memory);
        driver.begin(&mut rig);
        driver.serves(&mut rig, seed);
        driver.reset(&mut rig);
        driver.serves(&mut rig, seed + 10);
        driver.ask(IN, 0, 0, 4096).unwrap();
        driver.notify();
        driver.task.die();
    }
}

#[test]
fn a_virtual_machine_that_never_came_to_its_driver_is_in_nobodys_way() {
    let (mut rig, _) = Rig::one();
    let session = rig.create(WORDS).unwrap();
    for round in 0..3 {
        let task = rig.model.task();
        let given = rig.ned.give(session, &task);
        for at in [BASE, 1 << 30] {
            let ram = task.dataspace(Kind::Memory, 1 << 16);
            assert_eq!(rig.code(&task, given, register(ram, at, 0, 1 << 16)), 0, "{round}");
        }
        assert_eq!(rig.code(&task, given, said(0, &[4])), 0);
        task.die();
    }
}

#[test]
fn a_dead_clients_dataspaces_are_not_in_the_way_and_do_not_count() {
    let (mut rig, _) = Rig::one();
    let session = rig.create(WORDS).unwrap();
    let task = rig.model.task();
    let given = rig.ned.give(session, &task);
    let mut driver = Driver::setup(&mut rig, task, given, 1 << 20);
    driver.serves(&mut rig, 1);
    let other = driver.task.dataspace(Kind::Memory, 1 << 16);
    assert_eq!(rig.code(&driver.task, given, register(other, 1 << 30, 0, 1 << 16)), 0);
    // The memory server closes its account.
    driver.task.destroy(driver.ds);
    driver.task.destroy(other);
    driver.task.die();
    let task = rig.model.task();
    let given = rig.ned.give(session, &task);
    // Nothing overlaps, and there would be no room beside two others.
    for at in [5, 6] {
        let ds = task.dataspace(Kind::Memory, 1 << 16);
        assert_eq!(rig.code(&task, given, register(ds, at << 30, 0, 1 << 16)), 0);
    }
    assert_eq!(rig.model.attachments(), 3);
}

#[test]
fn a_caller_that_dies_while_its_call_is_worked_on_is_forgotten() {
    let (mut rig, _) = Rig::one();
    let driver = busy(&mut rig);
    driver.task.call(driver.session, said(0, &[0]));
    rig.turn();
    driver.task.die();
    rig.model.set_tick(MS / 10);
    rig.until("the end of the session", |rig| rig.model.attachments() == 0);
    rig.faults().clear();
    assert!(rig.create(WORDS).is_ok());
}

#[test]
fn a_client_that_is_refused_again_and_again_fills_no_log() {
    let (mut rig, _) = Rig::one();
    rig.settle();
    let before = rig.log.text().lines().count();
    for _ in 0..200 {
        assert_eq!(rig.create(&["readonly"]), Err(EINVAL));
    }
    assert!(rig.log.text().lines().count() - before <= 12);
}

#[test]
fn a_session_that_nobody_received_ends() {
    let (mut rig, _) = Rig::one();
    rig.settle();
    let (slots, attachments) = (rig.model.slots(), rig.model.attachments());
    for _ in 0..5 {
        let task = rig.model.task();
        let svr = rig.ned.give(rig.svr, &task);
        task.call(svr, create(WORDS));
        while rig.model.slots() == slots {
            rig.turn();
        }
        // The answer is on its way.
        task.die();
        rig.settle();
        assert_eq!((rig.model.slots(), rig.model.attachments()), (slots, attachments));
    }
    assert!(rig.create(WORDS).is_ok());
}
