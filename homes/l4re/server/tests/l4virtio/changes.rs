//! Devices that grow and go, and what the operator reads.

use std::io::Cursor;
use std::sync::Arc;

use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, partition_types};
use nvme_mem::{Window, heap};
use nvme_soft::faulty::{Action, Queue, Rule, When};
use nvme_soft::{MemoryMedium, NamespaceConfig};

use crate::driver::*;
use crate::rig::*;

#[test]
fn a_namespace_that_grows_is_told_to_the_driver_that_has_all_of_it() {
    let window = heap(2 * DISK).unwrap();
    let mut device = soft("soft0", &disk());
    let medium = MemoryMedium::over(window);
    device.namespaces = vec![NamespaceConfig::new(Arc::new(medium))];
    let mut rig = Rig::start("", vec![device], |_, _| {}).unwrap();
    assert!(rig.handles[0].resize(1, DISK as u64));
    rig.pass_time(SECOND);
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    driver.serves(&mut rig, 1);
    let sectors = (DISK / 512) as u64;
    assert_eq!(driver.capacity(), sectors);
    assert_eq!(driver.request(&mut rig, IN, sectors, 0, 4096), IOERR);
    driver.take_irq_status();
    let (generation, raised) = (driver.generation(), driver.task.raised(driver.irq));
    assert!(rig.handles[0].resize(1, 2 * DISK as u64));
    rig.until("the news", |_| driver.capacity() == 2 * sectors);
    assert_ne!(driver.generation(), generation);
    assert_eq!(driver.take_irq_status(), 2, "CONFIG");
    assert!(driver.task.raised(driver.irq) > raised);
    assert_eq!(driver.request(&mut rig, IN, sectors, 0, 4096), OK);
    driver.serves(&mut rig, 2);
    driver.reset(&mut rig);
    assert_eq!(driver.capacity(), 2 * sectors);
}

#[test]
fn a_driver_that_is_not_ready_is_not_told_and_reads_what_is_new() {
    let mut device = soft("soft0", &disk());
    device.namespaces = vec![NamespaceConfig::new(Arc::new(MemoryMedium::over(heap(2 * DISK).unwrap())))];
    let mut rig = Rig::start("", vec![device], |_, _| {}).unwrap();
    assert!(rig.handles[0].resize(1, DISK as u64));
    rig.pass_time(SECOND);
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let driver = Driver::connect(&mut rig, task, session);
    assert!(rig.handles[0].resize(1, 2 * DISK as u64));
    rig.until("the news", |_| driver.capacity() == (2 * DISK / 512) as u64);
    assert_eq!((driver.take_irq_status(), driver.task.raised(driver.irq)), (0, 0));
}

#[test]
fn a_device_that_is_lost_fails_what_is_asked_and_has_no_sectors() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    driver.serves(&mut rig, 1);
    driver.take_irq_status();
    rig.handles[0].vanish();
    let slot = driver.ask(IN, 0, 0, 4096).unwrap();
    assert_eq!(driver.finish(&mut rig, slot), IOERR);
    rig.until("the loss", |_| driver.capacity() == 0);
    assert_eq!(driver.take_irq_status() & 2, 2, "CONFIG");
    assert_eq!(driver.request(&mut rig, OUT, 0, 0, 4096), IOERR);
    assert!(rig.log.text().contains("its device is lost"));
    // Nothing can be set up any more.
    for status in [0, 1, 3] {
        assert_eq!(driver.set_status(&mut rig, status), 0);
    }
    driver.config_queue(&mut rig);
    driver.acknowledge(u64::MAX);
    driver.set_status(&mut rig, 11);
    driver.set_status(&mut rig, 15);
    assert_eq!(driver.status() & 0x40, 0x40);
    assert_eq!(rig.create(&["device=soft0:n1"]), Err(ENODEV));
}

#[test]
fn a_controller_that_dies_and_is_reset_answers_everything_and_costs_nobody_its_session() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    rig.faults().inject(Rule::any(Queue::AnyIo, When::First(10), Action::Delay(SECOND)));
    for slot in 0..30 {
        driver.ask(OUT, slot * 8, slot as usize * 4096, 4096).unwrap();
    }
    driver.notify();
    rig.settle();
    rig.handles[0].raise_fatal();
    let mut ended = Vec::new();
    rig.until("the end of all", |_| {
        ended.extend(driver.ended());
        ended.len() == 30
    });
    assert!(ended.iter().all(|(_, status)| [OK, IOERR].contains(status)), "{ended:?}");
    assert_eq!((driver.status(), driver.capacity()), (15, (DISK / 512) as u64));
    driver.serves(&mut rig, 1);
}

#[test]
fn a_command_that_never_ends_fails_in_time_though_nobody_says_anything() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    // It is aborted and issued again once: a second time it is an error.
    rig.faults().inject(Rule::any(Queue::AnyIo, When::First(2), Action::Hang));
    let before = rig.model.time();
    assert_eq!(driver.request(&mut rig, IN, 0, 0, 4096), IOERR);
    let took = rig.model.time() - before;
    assert!(took >= 2 * IO && took < 3 * IO, "{took:?}");
    assert_eq!(driver.status(), 15);
    driver.serves(&mut rig, 1);
}

/// A disk with two partitions, and their identifiers.
pub(crate) fn partitioned() -> (Window, [String; 2]) {
    partitioned_by(4096)
}

/// The first of them of so many blocks, or as many as fit.
pub(crate) fn partitioned_by(blocks: u64) -> (Window, [String; 2]) {
    let mut device = Cursor::new(vec![0; DISK]);
    ProtectiveMBR::with_lb_size((DISK / 512 - 1) as u32).overwrite_lba0(&mut device).unwrap();
    let mut table = GptConfig::new().writable(true).create_from_device(device, None).unwrap();
    table.add_partition_at("golden", 1, 2048, blocks, partition_types::LINUX_FS, 0).unwrap();
    let behind = 2048 + blocks.max(6144);
    table.add_partition_at("scratch", 2, behind, 8192, partition_types::LINUX_FS, 0).unwrap();
    let ids = [1, 2].map(|number| table.partitions()[&number].part_guid.to_string().to_uppercase());
    let window = disk();
    window.write(0, &table.write().unwrap().into_inner()).unwrap();
    (window, ids)
}

#[test]
fn the_lines_that_an_integrator_looks_for_are_printed_when_nothing_is_said() {
    let (window, ids) = partitioned();
    let mut rig = Rig::start("", vec![soft("S4 X:7", &window)], |_, _| {}).unwrap();
    rig.pass_time(SECOND);
    let text = rig.log.text();
    let lines: Vec<&str> = text.lines().collect();
    for line in [
        "Serial Number: S4 X:7",
        "Model Number: nvme-drv software controller",
        "Number of Namespaces: 1",
        "S4 X:7:n1: 32768 blocks of 512 bytes",
        "  1:       2048       6143      2.0MiB [golden]",
        "  2:       8192      16383      4.0MiB [scratch]",
        &format!("   : [{}]", ids[0]),
        &format!("   : [{}]", ids[1]),
    ] {
        assert!(lines.contains(&line), "{line}\n{text}");
    }
    // Once, whatever is scanned again.
    let session = rig.create(&["device=S4 X:7:n1"]).unwrap();
    rig.ned.release(session);
    rig.pass_time(SECOND);
    assert_eq!(rig.log.text(), text);
}

#[test]
fn partitions_go_by_identifier_label_and_number_and_share_their_disk() {
    let (window, ids) = partitioned();
    let mut rig = Rig::start("", vec![soft("soft0", &window)], |_, _| {}).unwrap();
    let names = [format!("device={}", ids[0]), "device=partlabel:scratch".into()];
    let mut drivers = Vec::new();
    for name in &names {
        let (task, session) = rig.client(&[name]);
        drivers.push(Driver::setup(&mut rig, task, session, 1 << 20));
    }
    assert_eq!((drivers[0].capacity(), drivers[1].capacity()), (4096, 8192));
    for (at, driver) in (1..).zip(&mut drivers) {
        driver.serves(&mut rig, at);
        assert_eq!(driver.request(&mut rig, OUT, driver.capacity(), 0, 512), IOERR);
    }
    let mut found = vec![0; 4096];
    window.read((2048 + 8) * 512, &mut found).unwrap();
    assert!(found == pattern(1, 4096));
    for name in ["device=soft0:n1:1", "device=soft0:n1", "device=scratch"] {
        assert_eq!(rig.create(&[name]), Err(EBUSY), "{name}");
    }
}
