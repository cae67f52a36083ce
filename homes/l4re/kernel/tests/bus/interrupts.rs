use nvme_core::nvme::spec::registers;
use nvme_l4re::bus::{Mode, Options, Width};
use nvme_l4re::kernel::Label;
use nvme_l4re::model::bus::{Bus, Shape};

use crate::rig::{Driven, add, all, one};

const FIRST: Label = Label(0x100);
const SECOND: Label = Label(0x104);
const MSIX_CONTROL: u32 = 0x72;
const MSI: u32 = 0x50;

#[test]
fn each_vector_of_msix_reports_under_its_label() {
    let bus = Bus::new(16);
    add(&bus, "first", Shape::default(), None);
    let (mut driven, interrupts) = one(&bus, Options::default());
    assert_eq!(interrupts.labels(), [FIRST, SECOND]);
    driven.ready();
    // Admin commands were answered on vector 0 and nowhere else.
    let came = bus.interrupts();
    assert!(!came.is_empty() && came.iter().all(|label| *label == FIRST), "{came:?}");
    let mut pair = driven.pair();
    assert_eq!(pair.vector(), 1);
    crate::data::flush(&mut pair, &driven.controller);
    assert!(bus.interrupts().contains(&SECOND));
}

#[test]
fn msix_is_on_before_the_controller_is_enabled_and_other_vectors_are_masked() {
    let bus = Bus::new(16);
    let (handle, _) = add(&bus, "first", Shape::default(), None);
    let (driven, _) = one(&bus, Options::default());
    drop(driven);
    assert_eq!(bus.config(handle, MSIX_CONTROL, Width::Word) & 0xc000, 0x8000);
    let table = bus.table(handle);
    let masked: Vec<bool> = table.iter().map(|entry| entry[3] & 1 != 0).collect();
    assert_eq!(masked[..3], [false, false, true]);
    assert!(masked[2..].iter().all(|masked| *masked));
    // Each has a message of its own.
    assert_ne!(table[0][2], table[1][2]);
}

#[test]
fn messages_that_are_short_are_shared() {
    let bus = Bus::new(3);
    for (domain, serial) in ["a", "b", "c", "d"].into_iter().enumerate() {
        add(&bus, serial, Shape::default(), Some(domain as u32));
    }
    let found: Vec<_> = all(&bus, Options::default()).into_iter().map(|f| f.ok().unwrap()).collect();
    let kinds: Vec<_> = found.iter().map(|f| (f.interrupts.mode(), f.interrupts.count())).collect();
    assert_eq!(kinds, [(Mode::MsiX, 1), (Mode::MsiX, 1), (Mode::MsiX, 1), (Mode::Pin, 1)]);
    for found in found {
        let mut driven = Driven::new(found.device);
        driven.ready();
        // All queues on the one vector.
        assert_eq!(driven.pair().vector(), 0);
    }
}

#[test]
fn without_msix_there_is_msi_and_without_that_the_pin() {
    let shape = Shape { msi: true, ..Shape::default() };
    for (nomsix, nomsi, mode) in
        [(true, false, Mode::Msi), (true, true, Mode::Pin), (false, true, Mode::MsiX)]
    {
        let bus = Bus::new(16);
        let (handle, _) = add(&bus, "first", shape, None);
        let (mut driven, interrupts) = one(&bus, Options { nomsi, nomsix, ..Options::default() });
        assert_eq!(interrupts.mode(), mode);
        let control = bus.config(handle, MSI + 2, Width::Word);
        // One message, whatever the function would like.
        assert_eq!((control & 1, control >> 4 & 7), (u32::from(mode == Mode::Msi), 0));
        driven.ready();
        assert!(bus.interrupts().contains(&FIRST));
    }
}

/// The model's vendor and device.
const ID: (u16, u16) = (0x1b36, 0x0010);

#[test]
fn msi_is_not_used_of_devices_where_it_is_broken_and_msix_is() {
    let shape = Shape { msi: true, ..Shape::default() };
    let broken: [(&'static [(u16, u16)], Mode); 2] = [(&[ID], Mode::Pin), (&[(ID.0, ID.1 + 1)], Mode::Msi)];
    for (broken_msi, mode) in broken {
        for nomsix in [false, true] {
            let bus = Bus::new(16);
            add(&bus, "first", shape, None);
            let (_, interrupts) = one(&bus, Options { nomsix, broken_msi, ..Options::default() });
            assert_eq!(interrupts.mode(), if nomsix { mode } else { Mode::MsiX });
        }
    }
}

#[test]
fn a_pin_comes_again_when_it_was_served() {
    let bus = Bus::new(0);
    add(&bus, "first", Shape::default(), None);
    let (mut driven, mut interrupts) = one(&bus, Options::default());
    let unmask = interrupts.take_unmask().expect("a level");
    driven.ready();
    // It was masked when it came.
    assert_eq!(bus.interrupts(), [FIRST]);
    unmask();
    assert_eq!(bus.interrupts(), [FIRST], "what came meanwhile is not lost");
}

#[test]
fn controllers_on_the_same_pin_share_its_interrupt() {
    let bus = Bus::new(0);
    add(&bus, "first", Shape::default(), Some(1));
    add(&bus, "second", Shape::default(), Some(2));
    let mut found: Vec<_> = all(&bus, Options::default()).into_iter().map(|f| f.ok().unwrap()).collect();
    assert!(found.iter().all(|f| f.interrupts.labels() == [FIRST]));
    assert!(found[0].interrupts.take_unmask().is_some() && found[1].interrupts.take_unmask().is_none());
}

#[test]
fn after_a_reset_of_the_function_its_interrupts_are_as_before() {
    let bus = Bus::new(16);
    let (handle, _) = add(&bus, "first", Shape::default(), None);
    let (mut driven, _) = one(&bus, Options::default());
    driven.ready();
    let before = bus.table(handle);
    driven.controller.device().bus().reset().unwrap();
    assert_eq!(bus.table(handle), before);
    assert_eq!(bus.config(handle, MSIX_CONTROL, Width::Word) & 0xc000, 0x8000);
    assert!(bus.paused() >= std::time::Duration::from_millis(100));
    let status = driven.controller.device().registers().read32(registers::CSTS);
    assert_eq!(status & 1, 0, "it was reset");
}

#[test]
fn a_reset_that_loses_the_bars_is_said_to_have_failed() {
    let bus = Bus::new(16);
    add(&bus, "first", Shape { keeps_bars: false, ..Shape::default() }, None);
    let (mut driven, _) = one(&bus, Options::default());
    let reset = driven.controller.device().bus().reset();
    assert_eq!(reset, Err(nvme_platform::DeviceError::Failed));
    let bus = Bus::new(16);
    add(&bus, "first", Shape { can_reset: false, ..Shape::default() }, None);
    let (mut driven, _) = one(&bus, Options::default());
    let reset = driven.controller.device().bus().reset();
    assert_eq!(reset, Err(nvme_platform::DeviceError::Unsupported));
}
