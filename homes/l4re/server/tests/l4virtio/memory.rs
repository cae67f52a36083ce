//! What is registered.

use std::time::Duration;

use nvme_l4re::model::{Kind, Said};

use crate::driver::*;
use crate::rig::*;

fn connected(rig: &mut Rig, words: &[&str]) -> Driver {
    let (task, session) = rig.client(words);
    Driver::connect(rig, task, session)
}

fn try_register(rig: &mut Rig, driver: &Driver, said: Said) -> i64 {
    rig.code(&driver.task, driver.session, said)
}

#[test]
fn ds_max_counts_dataspaces_and_not_regions() {
    let (mut rig, _) = Rig::one();
    let driver = connected(&mut rig, &["device=soft0:n1", "ds-max=3"]);
    let new = || driver.task.dataspace(Kind::Memory, 1 << 16);
    let (a, b, c, d) = (new(), new(), new(), new());
    for (ds, at) in [(a, 0), (b, 1), (c, 2)] {
        assert_eq!(try_register(&mut rig, &driver, register(ds, at << 20, 0, 1 << 16)), 0);
    }
    assert_eq!(try_register(&mut rig, &driver, register(d, 3 << 20, 0, 1 << 16)), ENOMEM);
    for at in 4..20 {
        let part = register(b, at << 20, (at % 16) << 12, 4096);
        assert_eq!(try_register(&mut rig, &driver, part), 0, "another part of the same");
    }
    assert_eq!(try_register(&mut rig, &driver, register(d, 3 << 20, 0, 1 << 16)), ENOMEM);
    assert!(rig.log.text().contains("raise ds-max"));
}

#[test]
fn two_is_what_a_session_has_where_nothing_is_said() {
    let (mut rig, _) = Rig::one();
    let driver = connected(&mut rig, &["device=soft0:n1"]);
    for (at, code) in [(0, 0), (1, 0), (2, ENOMEM)] {
        let ds = driver.task.dataspace(Kind::Memory, 4096);
        assert_eq!(try_register(&mut rig, &driver, register(ds, at << 20, 0, 4096)), code);
    }
}

#[test]
fn a_region_lies_in_its_dataspace_and_beside_others() {
    let (mut rig, _) = Rig::one();
    let driver = connected(&mut rig, &["device=soft0:n1", "ds-max=9"]);
    let slots = rig.model.slots();
    let ds = driver.task.dataspace(Kind::Memory, 1 << 16);
    for (base, offset, size, code) in [
        (BASE, 0, 0, EINVAL),
        (BASE, 0, (1 << 16) + 1, EINVAL),
        (BASE, 0x8000, 0x9000, EINVAL),
        (BASE, 1 << 16, 4096, ERANGE),
        (BASE, u64::MAX, 4096, ERANGE),
        (BASE, 0, u64::MAX, EINVAL),
        (u64::MAX - 4095, 0, 4096, EINVAL),
        (BASE, 0, 1 << 16, 0),
        // What is registered already, just so, is the same.
        (BASE, 0, 1 << 16, 0),
        (BASE, 0, 0x8000, EINVAL),
        (BASE + 0xf000, 0, 4096, EINVAL),
        (BASE - 0x1000, 0, 0x2000, EINVAL),
        (BASE + 0x1_0000, 0, 0x1000, 0),
    ] {
        let said = register(ds, base, offset, size);
        assert_eq!(try_register(&mut rig, &driver, said), code, "{base:#x} {offset:#x} {size:#x}");
    }
    rig.settle();
    assert_eq!(rig.model.slots(), slots + 1, "what was refused was given back, and one does for both");
}

#[test]
fn what_is_registered_anew_after_a_reset_replaces_what_was_there() {
    let (mut rig, _) = Rig::one();
    let mut driver = connected(&mut rig, &["device=soft0:n1", "ds-max=1"]);
    for seed in 0..5 {
        let ds = driver.task.dataspace(Kind::Memory, queue_size(1 << 20));
        assert_eq!(driver.share(&mut rig, ds), 0);
        let other = driver.task.dataspace(Kind::Memory, 4096);
        assert_eq!(try_register(&mut rig, &driver, register(other, BASE, 0, 4096)), EINVAL, "without one");
        driver.begin(&mut rig);
        driver.serves(&mut rig, seed);
        for status in [0, 1, 3] {
            assert_eq!(driver.set_status(&mut rig, status), 0);
        }
    }
}

#[test]
fn only_memory_of_l4res_own_is_taken_and_nothing_else_is_asked_what_it_is() {
    let (mut rig, _) = Rig::one();
    let driver = connected(&mut rig, &["device=soft0:n1"]);
    let slots = rig.model.slots();
    // The model panics when one of these is called.
    let foreign = driver.task.dataspace(Kind::Foreign, 1 << 16);
    let bus = driver.task.dataspace(Kind::Bus, 1 << 16);
    let junk = [foreign, bus, driver.task.other(), driver.task.irq(), driver.session];
    for cap in junk {
        assert_eq!(try_register(&mut rig, &driver, register(cap, BASE, 0, 4096)), EINVAL);
    }
    rig.settle();
    assert_eq!(rig.model.slots(), slots);
}

/// A server that trusts one dataspace of each kind.
fn trusting() -> (Rig, [nvme_l4re::model::TaskCap; 3]) {
    let mut caps = None;
    let rig =
        Rig::start("-d ram --register-ds far --register-ds=bus", vec![soft("soft0", &disk())], |_, ned| {
            let ds =
                [(Kind::Memory, "ram"), (Kind::Foreign, "far"), (Kind::Bus, "bus")].map(|(kind, name)| {
                    let ds = ned.dataspace(kind, queue_size(1 << 20));
                    ned.trust(name, ds);
                    ds
                });
            caps = Some(ds);
        });
    (rig.unwrap(), caps.unwrap())
}

#[test]
fn with_a_trusted_dataspace_no_other_can_be_registered() {
    let (mut rig, [ram, ..]) = trusting();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let ram = rig.ned.give(ram, &task);
    let mut driver = Driver::connect(&mut rig, task, session);
    for kind in [Kind::Memory, Kind::ReadOnly, Kind::Foreign, Kind::Bus] {
        let own = driver.task.dataspace(kind, queue_size(1 << 20));
        assert_eq!(try_register(&mut rig, &driver, register(own, BASE, 0, 4096)), EINVAL, "{kind:?}");
    }
    assert!(rig.log.text().contains("none of the trusted ones"));
    assert_eq!(driver.share(&mut rig, ram), 0);
    driver.begin(&mut rig);
    driver.serves(&mut rig, 1);
}

#[test]
fn a_trusted_dataspace_may_be_anybodys_even_one_that_does_not_say_what_it_is() {
    let (mut rig, caps) = trusting();
    for (seed, ds) in (1..).zip(caps) {
        let (task, session) = rig.client(&["device=soft0:n1"]);
        let ds = rig.ned.give(ds, &task);
        let mut driver = Driver::setup_with(&mut rig, task, session, ds);
        driver.serves(&mut rig, seed);
        driver.task.die();
    }
}

#[test]
fn who_comes_back_with_the_same_memory_gets_it_and_nothing_of_the_last_one_counts() {
    let (mut rig, [ram, ..]) = trusting();
    let session = rig.create(&["device=soft0:n1", "ds-max=1"]).unwrap();
    for seed in 1..5 {
        let task = rig.model.task();
        let (session, ram) = (rig.ned.give(session, &task), rig.ned.give(ram, &task));
        let mut driver = Driver::connect(&mut rig, task, session);
        // Somewhere else each time: nothing of the last one's is in the way.
        let size = driver.task.window(ram).len() as u64;
        assert_eq!(try_register(&mut rig, &driver, register(ram, seed << 40, 0, size)), 0);
        assert_eq!(driver.share(&mut rig, ram), 0);
        driver.begin(&mut rig);
        driver.serves(&mut rig, seed);
        driver.task.die();
        rig.pass_time(3 * MS);
    }
}

#[test]
fn a_dataspace_may_be_trusted_by_a_capability_that_cannot_write() {
    let mut caps = None;
    let rig = Rig::start("-d ram", vec![soft("soft0", &disk())], |_, ned| {
        let ds = ned.dataspace(Kind::Memory, queue_size(1 << 20));
        ned.trust("ram", ned.read_only(ds));
        caps = Some(ds);
    });
    let (mut rig, ram) = (rig.unwrap(), caps.unwrap());
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let ram = rig.ned.give(ram, &task);
    let mut driver = Driver::setup_with(&mut rig, task, session, ram);
    driver.serves(&mut rig, 1);
}

#[test]
fn memory_stays_in_place_while_the_capability_of_the_one_who_came_first_goes() {
    let (mut rig, [ram, ..]) = trusting();
    let first = rig.client(&["device=soft0:n1", "read-only"]);
    let ds = rig.ned.give(ram, &first.0);
    let first = Driver::setup_with(&mut rig, first.0, first.1, ds);
    let second = rig.client(&["device=soft0:n1", "read-only"]);
    let ds = rig.ned.give(ram, &second.0);
    let mut second = Driver::connect(&mut rig, second.0, second.1);
    assert_eq!(second.share(&mut rig, ds), 0);
    first.task.die();
    rig.pass_time(3 * MS);
    second.begin(&mut rig);
    assert_eq!(second.request(&mut rig, IN, 0, 0, 4096), OK);
}

#[test]
fn one_slot_does_for_a_dataspace_in_many_places_and_others_find_room() {
    let (mut rig, _) = Rig::one();
    let driver = connected(&mut rig, &["device=soft0:n1", "read-only"]);
    let ds = driver.task.dataspace(Kind::Memory, 4096);
    let slots = rig.model.slots();
    for at in 0..513 {
        let code = if at < 512 { 0 } else { ENOMEM };
        assert_eq!(try_register(&mut rig, &driver, register(ds, at << 20, 0, 4096)), code, "{at}");
    }
    assert_eq!(rig.model.slots(), slots + 1);
    // Whoever connects anew is another client, whose capability is kept as well; but not without end.
    let (task, session) = rig.client(&["device=soft0:n1", "read-only", "ds-max=1"]);
    let driver = Driver::connect(&mut rig, task, session);
    let ds = driver.task.dataspace(Kind::Memory, 4096);
    let slots = rig.model.slots();
    for at in 0..5 {
        assert_eq!(try_register(&mut rig, &driver, register(ds, at << 20, 0, 4096)), 0, "{at}");
        assert_eq!(driver.set_status(&mut rig, 0), 0);
    }
    assert_eq!(rig.model.slots(), slots + 2);
}

#[test]
fn a_registration_that_takes_too_long_holds_nobody_up_for_ever() {
    let (mut rig, _) = Rig::one();
    let driver = connected(&mut rig, &["device=soft0:n1", "read-only"]);
    let other = connected(&mut rig, &["device=soft0:n1", "read-only"]);
    let size = 200 << 20;
    let ds = driver.task.dataspace(Kind::Memory, size);
    rig.model.set_tick(10 * SECOND);
    assert_eq!(try_register(&mut rig, &driver, register(ds, BASE, 0, size as u64)), EBUSY);
    rig.model.set_tick(Duration::from_micros(1));
    assert_eq!(other.set_status(&mut rig, 0), 0);
    rig.pass_time(SECOND);
    // It went on without its caller.
    assert_eq!(try_register(&mut rig, &driver, register(ds, BASE, 0, 4096)), EINVAL);
    assert_eq!(try_register(&mut rig, &driver, register(ds, 1 << 40, 0, 4096)), 0);
}

#[test]
fn a_server_that_is_short_of_memory_takes_nothing_more_on_and_serves_what_it_has() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1", "read-only"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    let ds = driver.task.dataspace(Kind::Memory, 4096);
    rig.model.set_reserve(false);
    let slots = rig.model.slots();
    assert_eq!(try_register(&mut rig, &driver, register(ds, 1 << 40, 0, 4096)), ENOMEM);
    assert!(rig.log.text().contains("short of memory"));
    assert_eq!(rig.create(&["device=soft0:n1", "read-only"]), Err(ENOMEM));
    assert_eq!(driver.request(&mut rig, IN, 0, 0, 4096), OK);
    assert_eq!(rig.model.slots(), slots);
    rig.model.set_reserve(true);
    assert_eq!(try_register(&mut rig, &driver, register(ds, 1 << 40, 0, 4096)), 0);
}

#[test]
fn a_session_is_not_held_by_the_server_itself() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let slots = rig.model.slots();
    assert_eq!(rig.code(&task, session, with_cap(-1, &[0, 0], session)), EINVAL);
    assert_eq!(rig.model.slots(), slots);
}

#[test]
fn sessions_that_may_have_many_dataspaces_leave_capability_slots_to_others() {
    let (mut rig, _) = Rig::one();
    let all: Vec<_> = (0..6).map(|_| rig.create(&["device=soft0:n1", "read-only", "ds-max=256"])).collect();
    let refused: Vec<_> = all.iter().filter_map(|session| session.as_ref().err()).collect();
    assert_eq!(refused, [&ENOMEM, &ENOMEM]);
    assert!(rig.create(&["device=soft0:n1", "read-only"]).is_ok());
}

#[test]
fn a_part_of_a_trusted_dataspace_is_trusted() {
    let (mut rig, [ram, ..]) = trusting();
    let driver = connected(&mut rig, &["device=soft0:n1"]);
    let ram = rig.ned.give(ram, &driver.task);
    assert_eq!(try_register(&mut rig, &driver, register(ram, BASE, 0x3000, 0x2000)), 0);
}

#[test]
fn a_queue_dataspace_that_holds_256_entries_and_no_more_is_enough() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let queue = task.dataspace(Kind::Memory, queue_size(0));
    let data = task.dataspace(Kind::Memory, 1 << 16);
    let mut driver = Driver::connect(&mut rig, task, session);
    assert_eq!(driver.share(&mut rig, queue), 0);
    let far = BASE + (1 << 30);
    assert_eq!(try_register(&mut rig, &driver, register(data, far, 0, 1 << 16)), 0);
    driver.begin(&mut rig);
    driver.task.window(data).write(0, &pattern(4, 4096)).unwrap();
    let slot = driver.ask_at(OUT, 0, far, 4096).unwrap();
    assert_eq!(driver.finish(&mut rig, slot), OK);
    let slot = driver.ask_at(IN, 0, far + 8192, 4096).unwrap();
    assert_eq!(driver.finish(&mut rig, slot), OK);
    let mut read = vec![0; 4096];
    driver.task.window(data).read(8192, &mut read).unwrap();
    assert!(read == pattern(4, 4096));
}

#[test]
fn a_long_dataspace_is_mapped_in_steps_and_its_buffers_cross_them() {
    let (mut rig, disk) = Rig::one();
    let chunk = nvme_l4re::chunk::chunk_size(4 << 30);
    let len = 3 * chunk as usize + (1 << 20);
    let mut driver = connected(&mut rig, &["device=soft0:n1"]);
    let ram = driver.task.dataspace(Kind::Memory, len);
    let attachments = rig.model.attachments();
    assert_eq!(driver.share(&mut rig, ram), 0);
    assert_eq!(rig.model.attachments(), attachments + 4, "one for each chunk");
    driver.begin(&mut rig);
    for boundary in [chunk, 2 * chunk, 3 * chunk] {
        let addr = BASE + boundary - 4096;
        let written = pattern(boundary, 8192);
        driver.memory.write(boundary as usize - 4096, &written).unwrap();
        let slot = driver.ask_at(OUT, 64, addr, 8192).unwrap();
        assert_eq!(driver.finish(&mut rig, slot), OK);
        let mut found = vec![0; 8192];
        disk.read(64 * 512, &mut found).unwrap();
        assert!(found == written);
        driver.memory.fill(boundary as usize - 4096, 8192, 0).unwrap();
        let slot = driver.ask_at(IN, 64, addr, 8192).unwrap();
        assert_eq!(driver.finish(&mut rig, slot), OK);
        driver.memory.read(boundary as usize - 4096, &mut found).unwrap();
        assert!(found == written);
    }
}

#[test]
fn others_are_served_while_memory_is_mapped() {
    let disks = [disk(), disk()];
    let devices = vec![soft("soft0", &disks[0]), soft("other", &disks[1])];
    let mut rig = Rig::start("", devices, |_, _| {}).unwrap();
    let (task, session) = rig.client(&["device=other:n1"]);
    let mut other = Driver::setup(&mut rig, task, session, 1 << 20);
    let mut driver = connected(&mut rig, &["device=soft0:n1"]);
    let chunk = nvme_l4re::chunk::chunk_size(1 << 30);
    let ram = driver.task.dataspace(Kind::Memory, 8 * chunk as usize);
    driver.memory = driver.task.window(ram);
    rig.settle();
    let call = driver.task.call(driver.session, register(ram, BASE, 0, 8 * chunk));
    let mut served = 0;
    other.ask(IN, 0, 0, 4096).unwrap();
    other.task.trigger(other.kick);
    let before = rig.turns;
    while driver.task.answer(call).is_none() {
        rig.turn();
        for (_, status) in other.ended() {
            assert_eq!(status, OK);
            served += 1;
            other.ask(IN, 0, 0, 4096).unwrap();
            other.notify();
        }
    }
    assert_eq!(label(&driver.task.answer(call).unwrap()), 0);
    // Eight steps to attach, and as many to map.
    assert!(rig.turns - before >= 16 && served >= 4, "{} turns, {served} served", rig.turns - before);
}

#[test]
fn what_a_session_had_is_given_back_when_it_ends() {
    let (mut rig, _) = Rig::one();
    let (slots, attachments) = (rig.model.slots(), rig.model.attachments());
    for round in 0..3 {
        let (task, session) = rig.client(&["device=soft0:n1", "ds-max=5"]);
        let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
        for at in 1..4 {
            let ds = driver.task.dataspace(Kind::Memory, 1 << 16);
            assert_eq!(try_register(&mut rig, &driver, register(ds, at << 30, 0, 1 << 16)), 0);
        }
        driver.serves(&mut rig, round);
        assert_eq!(rig.model.attachments(), attachments + 5, "and the page");
        driver.task.die();
        rig.settle();
        assert_eq!((rig.model.slots(), rig.model.attachments()), (slots, attachments));
    }
}

#[test]
fn memory_that_cannot_be_attached_is_refused_and_leaves_nothing() {
    let (mut rig, _) = Rig::one();
    let driver = connected(&mut rig, &["device=soft0:n1"]);
    let (slots, attachments) = (rig.model.slots(), rig.model.attachments());
    let chunk = nvme_l4re::chunk::chunk_size(1 << 30);
    let ram = driver.task.dataspace(Kind::Memory, 3 * chunk as usize);
    rig.model.refuse_attach_after(2);
    assert_eq!(try_register(&mut rig, &driver, register(ram, BASE, 0, 3 * chunk)), ENOMEM);
    rig.model.refuse_attach_after(usize::MAX);
    rig.settle();
    assert_eq!((rig.model.slots(), rig.model.attachments()), (slots, attachments));
    assert_eq!(try_register(&mut rig, &driver, register(ram, BASE, 0, 3 * chunk)), 0);
}
