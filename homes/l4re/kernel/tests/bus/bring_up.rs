use nvme_l4re::bus::{Mode, Options, PciError, Skipped, Width};
use nvme_l4re::model::bus::{Bus, Shape};

use crate::rig::{Driven, add, all, one};

const COMMAND: u32 = 4;
const MASTER: u32 = 4;

#[test]
fn the_driver_comes_up_over_what_is_found_on_the_bus() {
    let bus = Bus::new(16);
    add(&bus, "first", Shape::default(), Some(7));
    let (mut driven, interrupts) = one(&bus, Options::default());
    driven.ready();
    assert_eq!(driven.controller.info().serial.as_str(), "first");
    assert_eq!(driven.controller.namespaces().len(), 1);
    assert_eq!((interrupts.mode(), interrupts.count()), (Mode::MsiX, 2));
}

#[test]
fn other_devices_are_skipped_and_controllers_come_in_their_order() {
    let bus = Bus::new(16);
    bus.add_other();
    add(&bus, "sata", Shape { class: 0x01_06_01, ..Shape::default() }, None);
    add(&bus, "first", Shape::default(), Some(1));
    bus.add_other();
    // NVMe, but not its I/O controllers.
    add(&bus, "admin", Shape { class: 0x01_08_03, ..Shape::default() }, Some(2));
    add(&bus, "second", Shape::default(), Some(3));
    let serials: Vec<String> = all(&bus, Options::default())
        .into_iter()
        .map(|found| {
            let mut driven = Driven::new(found.unwrap_or_else(|s| panic!("{}", s.why)).device);
            driven.ready();
            driven.controller.info().serial.as_str().to_owned()
        })
        .collect();
    assert_eq!(serials, ["first", "second"]);
}

#[test]
fn an_empty_bus_has_no_controllers() {
    assert!(all(&Bus::new(16), Options::default()).is_empty());
}

#[test]
fn a_controller_that_was_pulled_out_is_not_found() {
    let bus = Bus::new(16);
    let (handle, _) = add(&bus, "first", Shape::default(), None);
    bus.pull(handle);
    assert!(all(&bus, Options::default()).is_empty());
}

#[test]
fn the_bus_is_not_mastered_before_the_driver_says_so() {
    let bus = Bus::new(16);
    let (handle, _) = add(&bus, "first", Shape::default(), None);
    assert_ne!(bus.config(handle, COMMAND, Width::Word) & MASTER, 0);
    let (mut driven, _) = one(&bus, Options::default());
    assert_eq!(bus.config(handle, COMMAND, Width::Word) & MASTER, 0);
    driven.ready();
    assert_ne!(bus.config(handle, COMMAND, Width::Word) & MASTER, 0);
}

#[test]
fn a_controller_that_cannot_be_used_is_named_and_the_others_are_taken() {
    let bus = Bus::new(16);
    let (broken, _) = add(&bus, "broken", Shape { memory: false, ..Shape::default() }, None);
    let (sound, _) = add(&bus, "sound", Shape::default(), None);
    let found: Vec<_> =
        all(&bus, Options::default()).into_iter().map(|f| f.map(|found| found.handle)).collect();
    assert_eq!(found, [Err(Skipped { handle: broken, why: PciError::Lacks("memory BAR") }), Ok(sound)]);
}
