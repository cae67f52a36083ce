//! The device's status and queue.

use std::time::Duration;

use nvme_l4re::model::Kind;
use nvme_soft::faulty::{Action, Queue, Rule, When};

use crate::driver::*;
use crate::rig::*;

const READ: u8 = 0x02;
const WRITE: u8 = 0x01;

/// A connected driver whose memory is registered.
fn shared(rig: &mut Rig) -> Driver {
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::connect(rig, task, session);
    let ds = driver.task.dataspace(Kind::Memory, queue_size(1 << 20));
    assert_eq!(driver.share(rig, ds), 0);
    driver
}

fn ready(rig: &mut Rig) -> Driver {
    let mut driver = shared(rig);
    driver.begin(rig);
    driver
}

#[test]
fn a_guest_whose_memory_was_registered_before_any_status_resets_at_will() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    // As uvmm does: memory first.
    let ds = task.dataspace(Kind::Memory, queue_size(1 << 20));
    let memory = task.window(ds);
    assert_eq!(rig.code(&task, session, register(ds, BASE, 0, memory.len() as u64)), 0);
    let mut driver = Driver::connect(&mut rig, task, session);
    (driver.ds, driver.memory) = (ds, memory);
    driver.begin(&mut rig);
    driver.serves(&mut rig, 1);
    for seed in 2..7 {
        let before = driver.generation();
        driver.reset(&mut rig);
        assert_ne!(driver.generation(), before, "the configuration is to be read again");
        driver.serves(&mut rig, seed);
    }
}

#[test]
fn a_reset_makes_the_page_what_it_was_whatever_the_driver_wrote_there() {
    let (mut rig, _) = Rig::one();
    let mut driver = ready(&mut rig);
    let mut sound = vec![0; 4096];
    driver.page.read(0, &mut sound).unwrap();
    for round in 0..16u64 {
        driver.page.write(0, &pattern(round, 4096)).unwrap();
        // Whatever is asked now is answered from what was copied, or refused.
        let code = driver.queue_call(&mut rig, 0);
        assert!([0, EINVAL, EIO].contains(&code), "{code}");
        driver.set_status(&mut rig, 11);
        driver.set_status(&mut rig, 15);
        driver.task.trigger(driver.kick);
        rig.settle();
        assert_eq!(driver.set_status(&mut rig, 0), 0);
        let mut page = vec![0; 4096];
        driver.page.read(0, &mut page).unwrap();
        for range in [0x00..0x10, 0x28..0x30, 0x60..0x64, 0x70..0x74, 0xc0..0xd8, 0x100..0x13c] {
            let wanted = if range.start == 0x70 { &[0; 4][..] } else { &sound[range.clone()] };
            assert_eq!(&page[range.clone()], wanted, "{range:x?}");
        }
        assert_eq!(&page[0x140..0x146], [0, 1, 0, 0, 0, 0], "256 entries, none set up");
    }
    for status in [1, 3] {
        assert_eq!(driver.set_status(&mut rig, status), 0);
    }
    driver.begin(&mut rig);
    driver.serves(&mut rig, 1);
}

#[test]
fn driver_ok_without_a_queue_needs_a_reset() {
    let (mut rig, _) = Rig::one();
    let mut driver = shared(&mut rig);
    driver.acknowledge(u64::MAX);
    driver.set_status(&mut rig, 11);
    assert_eq!(driver.set_status(&mut rig, 15), 0);
    assert_eq!(driver.status(), 11 | 0x40);
    assert_eq!(driver.queue_call(&mut rig, 0), EIO, "nothing is set up in that state");
    driver.reset(&mut rig);
    driver.serves(&mut rig, 1);
}

#[test]
fn version_1_is_required_and_what_was_not_offered_is_not_taken() {
    let (mut rig, _) = Rig::one();
    let mut driver = shared(&mut rig);
    assert_eq!(driver.config_queue(&mut rig), 0);
    driver.acknowledge(!(1 << 32));
    driver.set_status(&mut rig, 11);
    assert_eq!(driver.status(), 3, "FEATURES_OK does not stay");
    for (word, bits) in [(0, 1 << 29), (0, 1 << 12), (4, 1 << 1), (8, 1), (20, 1 << 0)] {
        driver.acknowledge(u64::MAX);
        let old = driver.page.or32(at::DRIVER_FEATURES + word, bits).unwrap();
        driver.set_status(&mut rig, 11);
        assert_eq!(driver.status(), 3, "{word} {bits:#x}");
        driver.page.store32(at::DRIVER_FEATURES + word, old).unwrap();
    }
    driver.set_status(&mut rig, 11);
    assert_eq!(driver.status(), 11);
}

#[test]
fn a_status_that_is_none_is_refused() {
    let (mut rig, _) = Rig::one();
    let driver = ready(&mut rig);
    for status in [0x100, 0x1_0000, u32::MAX] {
        assert_eq!(driver.set_status(&mut rig, status), EINVAL);
    }
    assert_eq!(driver.status(), 15);
}

#[test]
fn a_driver_that_gives_up_is_not_served_before_a_reset() {
    let (mut rig, _) = Rig::one();
    let mut driver = ready(&mut rig);
    assert_eq!(driver.set_status(&mut rig, 15 | 0x80), 0);
    assert_eq!(driver.status(), 15 | 0x80);
    driver.ask(IN, 0, 0, 4096).unwrap();
    driver.task.trigger(driver.kick);
    rig.pass_time(SECOND);
    assert!(driver.ended().is_empty());
    assert_eq!(driver.set_status(&mut rig, 15), 0);
    assert_eq!(driver.status(), 15 | 0x80, "it stays");
    driver.reset(&mut rig);
    driver.serves(&mut rig, 1);
}

#[test]
fn a_queue_is_set_up_only_in_registered_memory_and_in_order() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    assert_eq!(rig.code(&task, session, said(0, &[1])), EIO, "before ACKNOWLEDGE and DRIVER");
    let mut driver = Driver::connect(&mut rig, task, session);
    let ds = driver.task.dataspace(Kind::Memory, queue_size(1 << 20));
    let (desc, avail, used) = (BASE, BASE + 0x1000, BASE + 0x2000);
    driver.write_queue(256, desc, avail, used, 1);
    assert_eq!(driver.queue_call(&mut rig, 0), EINVAL, "nothing is registered");
    assert_eq!(driver.share(&mut rig, ds), 0);
    let end = BASE + driver.memory.len() as u64;
    for (num, desc, avail, used) in [
        (0, desc, avail, used),
        (3, desc, avail, used),
        (512, desc, avail, used),
        (256, desc + 8, avail, used),
        (256, desc, avail + 1, used),
        (256, desc, avail, used + 2),
        (256, BASE - 16, avail, used),
        (256, end - 4080, avail, used),
        (256, desc, end - 516, used),
        (256, desc, avail, end - 2052),
        (256, 0, 0, 0),
        (256, u64::MAX - 15, u64::MAX - 1, u64::MAX - 3),
    ] {
        driver.write_queue(num, desc, avail, used, 1);
        assert_eq!(driver.queue_call(&mut rig, 0), EINVAL, "{num} {desc:#x} {avail:#x} {used:#x}");
    }
    for index in [1, 7, 0xffff_ffff] {
        assert_eq!(driver.queue_call(&mut rig, index), EINVAL, "{index}");
    }
    driver.begin(&mut rig);
    driver.serves(&mut rig, 1);
}

#[test]
fn a_used_ring_in_memory_that_may_not_be_written_is_refused() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let driver = Driver::connect(&mut rig, task, session);
    let ds = driver.task.dataspace(Kind::ReadOnly, 1 << 16);
    assert_eq!(rig.code(&driver.task, session, register(ds, BASE, 0, 1 << 16)), 0);
    driver.write_queue(256, BASE, BASE + 0x1000, BASE + 0x2000, 1);
    assert_eq!(driver.queue_call(&mut rig, 0), EINVAL);
}

#[test]
fn a_queue_is_taken_down_and_set_up_again_while_the_driver_runs() {
    let (mut rig, _) = Rig::one();
    let mut driver = ready(&mut rig);
    driver.serves(&mut rig, 1);
    driver.write_queue(256, 0, 0, 0, 0);
    assert_eq!(driver.queue_call(&mut rig, 0), 0, "an address counts only with ready");
    driver.ask(IN, 0, 0, 4096).unwrap();
    driver.task.trigger(driver.kick);
    rig.pass_time(SECOND);
    assert!(driver.ended().is_empty());
    for seed in 2..5 {
        assert_eq!(driver.config_queue(&mut rig), 0);
        driver.serves(&mut rig, seed);
    }
}

#[test]
fn a_ring_that_is_broken_needs_a_reset_and_the_driver_is_told() {
    let (mut rig, _) = Rig::one();
    let mut driver = ready(&mut rig);
    driver.serves(&mut rig, 1);
    driver.take_irq_status();
    let raised = driver.task.raised(driver.irq);
    driver.offer(SIZE);
    driver.task.trigger(driver.kick);
    rig.settle();
    assert_eq!(driver.status(), 15 | 0x40);
    assert_eq!(driver.take_irq_status() & 2, 2, "CONFIG");
    assert!(driver.task.raised(driver.irq) > raised);
    driver.reset(&mut rig);
    driver.serves(&mut rig, 2);
}

#[test]
fn a_reset_in_mid_io_waits_for_what_is_in_flight_and_nothing_comes_after_it() {
    let (mut rig, disk) = Rig::one();
    let mut driver = ready(&mut rig);
    disk.fill(0, 1 << 20, 0x33).unwrap();
    rig.faults().inject(Rule::new(Queue::AnyIo, READ, When::Always, Action::Delay(300 * MS)));
    for slot in 0..20 {
        driver.ask(IN, slot * 8, slot as usize * 4096, 4096).unwrap();
    }
    driver.notify();
    rig.settle();
    assert!(driver.ended().is_empty());
    let before = rig.model.time();
    let call = driver.task.call(driver.session, said(0, &[0]));
    rig.turn();
    assert_eq!(driver.task.answer(call), None);
    // Time passes by looks at the clock alone: nobody sleeps while a call is pending.
    rig.model.set_tick(50 * MS / 100);
    assert_eq!(label(&rig.answer(&driver.task, call)), 0);
    assert!(rig.model.time() - before >= 250 * MS, "{:?}", rig.model.time() - before);
    rig.model.set_tick(Duration::from_nanos(100));
    assert_eq!(driver.status(), 0);
    driver.fill(0, &[0x55; 20 * 4096]);
    rig.pass_time(2 * SECOND);
    assert!(driver.bytes(0, 20 * 4096).iter().all(|byte| *byte == 0x55), "nothing comes late");
    rig.faults().clear();
    for status in [1, 3] {
        driver.set_status(&mut rig, status);
    }
    driver.begin(&mut rig);
    driver.serves(&mut rig, 5);
}

#[test]
fn a_reset_of_a_device_that_is_stuck_is_answered_in_time_and_others_are_served_meanwhile() {
    let disks = [disk(), disk()];
    let devices = vec![soft("soft0", &disks[0]), soft("other", &disks[1])];
    let mut rig = Rig::start("", devices, |_, _| {}).unwrap();
    let mut driver = ready(&mut rig);
    let (task, session) = rig.client(&["device=other:n1"]);
    let mut other = Driver::setup(&mut rig, task, session, 1 << 20);
    rig.faults().inject(Rule::new(Queue::AnyIo, WRITE, When::Always, Action::Hang));
    driver.ask(OUT, 0, 0, 4096).unwrap();
    driver.notify();
    rig.settle();
    let before = rig.model.time();
    let call = driver.task.call(driver.session, said(0, &[0]));
    rig.model.set_tick(MS / 10);
    // The other asks for one after the other.
    let mut served = 0;
    let slot = other.ask(IN, 0, 0, 4096);
    assert!(slot.is_some());
    other.notify();
    while driver.task.answer(call).is_none() {
        rig.turn();
        for (_, status) in other.ended() {
            assert_eq!(status, OK);
            served += 1;
            other.ask(IN, served % 32 * 8, 0, 4096).unwrap();
            other.notify();
        }
    }
    let took = rig.model.time() - before;
    assert_eq!(label(&driver.task.answer(call).unwrap()), EBUSY);
    assert!(took >= 2 * SECOND && took < 3 * SECOND, "{took:?}");
    assert!(served > 1000, "{served}");
    assert_eq!(driver.status() & 0x40, 0x40);
    rig.model.set_tick(Duration::from_nanos(100));
    // The device is reset, the command fails, and the driver may try again.
    rig.faults().clear();
    rig.pass_time(30 * SECOND);
    driver.reset(&mut rig);
    driver.serves(&mut rig, 3);
}

#[test]
fn the_driver_is_told_by_a_bit_that_it_alone_takes_away() {
    let (mut rig, _) = Rig::one();
    let mut driver = ready(&mut rig);
    driver.take_irq_status();
    let raised = driver.task.raised(driver.irq);
    driver.page.store32(at::IRQ_STATUS, 2).unwrap();
    driver.serves(&mut rig, 1);
    assert_eq!(driver.page.load32(at::IRQ_STATUS), Ok(3), "VRING beside what it had not seen");
    assert!(driver.task.raised(driver.irq) > raised);
}

#[test]
fn an_interrupt_can_be_another_or_none_or_no_interrupt_at_all() {
    let (mut rig, _) = Rig::one();
    let mut driver = ready(&mut rig);
    let (old, new, junk) = (driver.irq, driver.task.irq(), driver.task.other());
    assert_eq!(rig.code(&driver.task, driver.session, with_cap(-1, &[0, 0], new)), 0);
    let raised = driver.task.raised(old);
    driver.serves(&mut rig, 1);
    assert!(driver.task.raised(new) > 0 && driver.task.raised(old) == raised);
    // It hurts nobody but itself.
    assert_eq!(rig.code(&driver.task, driver.session, with_cap(-1, &[0, 0], junk)), 0);
    driver.serves(&mut rig, 2);
}
