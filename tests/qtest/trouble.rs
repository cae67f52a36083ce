use std::time::Duration;

use nvme_core::nvme::spec::command::admin;
use nvme_core::nvme::{ControllerEvent, Options, ResetReason, ScanError};
use nvme_platform::{Iova, PAGE};
use nvme_session::memory::QuietBy;
use nvme_session::operation::Outcome;

use crate::machine::{Disk, Shape};
use crate::need::needs_qemu;
use crate::rig::{BYTES, GUEST, Rig, pattern};

/// Sector 64 cannot be read, sector 128 cannot be written.
const BAD_SECTORS: &str = r#""inject-error":[
    {"event":"none","iotype":"read","sector":64,"errno":5,"once":false},
    {"event":"none","iotype":"write","sector":128,"errno":5,"once":false}]"#;

#[test]
fn a_bad_sector_fails_its_command_and_no_other() {
    needs_qemu!();
    let disk = Disk { debug: Some(BAD_SECTORS), ..Disk::new(512) };
    let mut rig = Rig::new(&Shape::of(disk), Options::default());
    let mut pair = rig.pair(16);
    rig.client.write(GUEST, &pattern(1, 64 << 10));
    for head in 0..10 {
        let write = rig.write(1, 16 + u64::from(head) * 16, &[(GUEST + u64::from(head) * 4096, 8192)], false);
        rig.issue(&mut pair, write, head);
    }
    let ended = rig.drain(&mut pair);
    let failed = |head, bad| (head, if head == bad { Outcome::Failed } else { Outcome::Done });
    assert!(ended.into_iter().eq((0..10).map(|head| failed(head, 7))));
    for head in 0..10 {
        let read = rig.read(1, 16 + u64::from(head) * 16, &[(GUEST + (1 << 20), 8192)]);
        rig.issue(&mut pair, read, head);
    }
    assert!(rig.drain(&mut pair).into_iter().eq((0..10).map(|head| failed(head, 3))));
    assert_eq!(pair.counters().errors, 2);
    let place = rig.extent(1).confine(64, 512).unwrap();
    rig.controller.scan_read(place, 5);
    // Media error, unrecovered read error (NVM 4.3.1).
    match rig.event() {
        ControllerEvent::ScanRead { token: 5, result: Err(ScanError::Failed(status)) } => {
            assert_eq!(status & 0x7ff, 0x281);
        }
        other => panic!("{other:?}"),
    }
    rig.clean();
}

#[test]
fn memory_that_was_unmapped_is_out_of_the_controllers_reach() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::default(), Options::default());
    let mut pair = rig.pair(8);
    let write = rig.write(1, 0, &[(GUEST, 8192)], false);
    assert_eq!(rig.run(&mut pair, write).1, Outcome::Done);
    // Behind the driver's back: the command names memory that is not there any more.
    let read = rig.read(1, 0, &[(GUEST, 8192)]);
    rig.client.write(GUEST, &[0x77; 8192]);
    let nvme_session::operation::Operation::Read(transfer) = &read else { panic!() };
    let at = transfer.memory()[0].iova().0;
    rig.controller.device().dma().unmap(Iova(at), BYTES).unwrap();
    rig.issue(&mut pair, read, 0);
    rig.drain(&mut pair);
    let fault = rig.machine.iommu.fault().expect("a fault");
    assert_eq!(fault.at & !0xfff, at);
    assert!(rig.client.read(GUEST, 8192).iter().all(|b| *b == 0x77), "nothing arrived");
}

#[test]
fn memory_that_was_mapped_for_reading_is_not_written_by_the_controller() {
    needs_qemu!();
    let mut rig = Rig::over_read_only_memory(&Shape::default(), Options::default());
    let mut pair = rig.pair(8);
    rig.client.write(GUEST, &pattern(1, 8192));
    let write = rig.write(1, 0, &[(GUEST, 8192)], false);
    assert_eq!(rig.run(&mut pair, write).1, Outcome::Done, "it may be read");
    assert!(rig.machine.on_disk(1, 0, 8192) == pattern(1, 8192));
    assert_eq!(rig.machine.iommu.fault(), None);
    // Pages that the IOMMU has in its cache, and others: of the latter it says something.
    for (place, told) in [(GUEST, false), (GUEST + (1 << 20), true)] {
        rig.client.write(place, &[0x77; 8192]);
        let read = rig.read(1, 0, &[(place, 8192)]);
        let nvme_session::operation::Operation::Read(transfer) = &read else { panic!() };
        let at = transfer.memory()[0].iova().0;
        rig.issue(&mut pair, read, 0);
        rig.drain(&mut pair);
        assert!(rig.client.read(place, 8192).iter().all(|b| *b == 0x77), "nothing arrived");
        let fault = rig.machine.iommu.fault();
        assert_eq!(fault.map(|fault| fault.at & !0xfff), told.then_some(at));
    }
}

#[test]
fn a_function_reset_behind_the_drivers_back_needs_a_reset_and_nothing_more() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::default(), Options::default());
    let mut pair = rig.pair(8);
    rig.client.write(GUEST, &pattern(1, 4096));
    let write = rig.write(1, 0, &[(GUEST, 4096)], false);
    assert_eq!(rig.run(&mut pair, write).1, Outcome::Done);
    rig.controller.device().bus().reset().unwrap();
    assert!(matches!(rig.event(), ControllerEvent::ResetNeeded(ResetReason::Fatal)));
    rig.controller.reset();
    let ControllerEvent::Reset { quiet } = rig.event() else { panic!() };
    rig.controller.recreate_pair(&mut pair).unwrap();
    let ControllerEvent::PairRecreated { doorbells, .. } = rig.event() else { panic!() };
    pair.restart(quiet, doorbells, &mut |_| false).unwrap();
    assert!(rig.bytes(&mut pair, 1, 0, 4096) == pattern(1, 4096));
    rig.clean();
}

#[test]
fn a_device_that_is_unplugged_in_mid_io_is_gone_and_cut_off() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::of(Disk { slow: true, ..Disk::new(512) }), Options::default());
    let mut pair = rig.slow_writes(6);
    rig.machine.qmp.run("device_del", r#"{"id":"nvme0"}"#).unwrap();
    rig.watch.port.power_off();
    assert!(rig.watch.function.absent());
    assert!(matches!(rig.event(), ControllerEvent::Gone));
    assert!(rig.event_within(Duration::from_millis(50)).is_none(), "said once");
    let quiet = rig.controller.cut_off().unwrap();
    assert_eq!(quiet.by(), QuietBy::CutOff);
    pair.fail_all(quiet).unwrap();
    assert_eq!(rig.drain(&mut pair).len(), 6);
    assert_eq!(rig.client.desk.bytes_held(), 0);
    rig.controller.retire_pair(Box::new(pair)).unwrap();
    rig.clean();
}

#[test]
fn a_machine_that_ends_is_a_device_that_is_gone() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::default(), Options::default());
    let mut pair = rig.pair(8);
    rig.machine.kill();
    let read = rig.read(1, 0, &[(GUEST, PAGE as u32)]);
    rig.issue(&mut pair, read, 0);
    pair.ring();
    assert!(matches!(rig.event(), ControllerEvent::Gone));
    pair.fail_all(rig.controller.cut_off().unwrap()).unwrap();
    assert_eq!(rig.drain(&mut pair), [(0, Outcome::Failed)]);
}

#[test]
fn a_shutdown_is_confirmed_and_the_controller_comes_up_again_afterwards() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::default(), Options::default());
    let now = rig.now();
    rig.controller.shutdown(now);
    assert!(matches!(rig.event(), ControllerEvent::ShutDown { clean: true }));
    assert_eq!(rig.controller.pairs_free(), 0);
    // The next life of the server finds it as this one left it.
    let device = rig.machine.device(0);
    let watch = device.watch();
    rig.controller = nvme_core::nvme::Controller::new(Box::new(device), 0, Options::default());
    let event = rig.event();
    assert!(matches!(event, ControllerEvent::Ready), "{event:?}");
    assert!(watch.count(true, admin::IDENTIFY) >= 3);
    rig.clean();
}

#[test]
fn a_controller_that_an_earlier_life_left_running_is_taken_over() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::default(), Options::default());
    let _abandoned = rig.pair(8);
    let device = rig.machine.device(0);
    rig.controller = nvme_core::nvme::Controller::new(Box::new(device), 0, Options::default());
    assert!(matches!(rig.event(), ControllerEvent::Ready));
    assert_eq!(rig.controller.pairs_free(), 63);
    let mut pair = rig.pair(8);
    let flush = rig.flush(1);
    assert_eq!(rig.run(&mut pair, flush).1, Outcome::Done);
    rig.clean();
}
