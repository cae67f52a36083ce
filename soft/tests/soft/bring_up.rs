//! Registers, enabling, disabling, shutting down.

use nvme_platform::{Bus, Device, DeviceError, Registers};
use nvme_soft::wire::{Cap, Status, reg};
use nvme_soft::{Config, ConfigError, NamespaceConfig, SoftDevice};

use crate::driver::*;

#[test]
fn capabilities_are_what_the_configuration_says() {
    let rig = Rig::off(Config { mqes: 255, timeout: 7, doorbell_stride: 2, ..config() });
    let cap = Cap::from_bits(rig.device.read64(reg::CAP));
    assert_eq!((cap.mqes(), cap.timeout(), cap.stride(), cap.command_sets()), (255, 7, 2, 1));
    assert!(cap.contiguous() && cap.page_min() == 0 && cap.page_max() == 0);
    assert_eq!((rig.device.read32(reg::VS), rig.status()), (0x0001_0400, 0));
}

#[test]
fn outside_the_bar_and_at_odd_offsets_all_is_ones() {
    let rig = Rig::off(Config { queues: 1, ..config() });
    assert_eq!((rig.device.read32(0x2000), rig.device.read32(0x15)), (u32::MAX, u32::MAX));
    assert_eq!((rig.device.read32(0x1ffc), rig.device.read32(0x18)), (0, 0));
}

#[test]
fn it_is_ready_when_enabled_and_not_when_disabled() {
    let mut rig = Rig::off(config());
    assert_eq!(rig.status(), 0);
    rig.enable();
    assert_eq!(rig.device.read32(reg::CC), ENABLE);
    rig.device.write32(reg::CC, ENABLE & !1);
    assert_eq!(rig.status(), 0);
    rig.enable();
    rig.pair(1, 4);
}

#[test]
fn addresses_of_the_admin_queue_are_written_in_halves_and_kept_while_enabled() {
    let mut rig = Rig::new(config());
    let at = rig.device.read64(reg::ASQ);
    rig.device.write64(reg::ASQ, 0x1234_5000);
    rig.device.write32(reg::AQA, 0);
    assert_eq!(rig.device.read64(reg::ASQ), at);
    assert_eq!(rig.device.read32(reg::AQA), (ADMIN - 1) << 16 | (ADMIN - 1));
    rig.device.write32(reg::CC, 0);
    rig.device.write32(reg::ACQ + 4, 0xabcd);
    rig.device.write32(reg::ACQ, 0x1fff);
    assert_eq!(rig.device.read64(reg::ACQ), 0xabcd_0000_1000);
}

#[test]
fn what_it_cannot_be_is_a_fatal_status_and_not_ready() {
    for cc in [ENABLE | 1 << 4, ENABLE | 1 << 7, ENABLE | 1 << 11] {
        let mut rig = Rig::off(config());
        rig.device.write32(reg::AQA, 0x0007_0007);
        rig.device.write32(reg::CC, cc);
        assert_eq!(rig.status(), FATAL, "{cc:#x}");
        rig.device.write32(reg::CC, 0);
        assert_eq!(rig.status(), 0);
        rig.enable();
    }
    let mut rig = Rig::off(config());
    rig.device.write32(reg::AQA, 0);
    rig.device.write32(reg::CC, ENABLE);
    assert_eq!(rig.status(), FATAL);
}

#[test]
fn an_admin_queue_that_is_not_mapped_is_fatal() {
    let mut rig = Rig::off(config());
    rig.device.write32(reg::AQA, 0x0007_0007);
    rig.device.write64(reg::ASQ, 0x5000);
    rig.device.write64(reg::ACQ, 0x6000);
    rig.device.write32(reg::CC, ENABLE);
    assert_eq!(rig.status(), READY);
    rig.device.write32(reg::DOORBELLS, 1);
    assert_eq!(rig.status() & FATAL, FATAL);
    assert_eq!(rig.handle.statistics().dma_faults, 1);
}

#[test]
fn without_bus_mastering_no_command_is_fetched() {
    let mut rig = Rig::new(config());
    let mut pair = rig.pair(1, 4);
    let (at, _) = rig.page();
    rig.device.master(false).unwrap();
    pair.submit(read(0, 1, [at, 0]));
    pair.run();
    rig.admin_submit(identify(1, 0, at));
    assert!(pair.pop().is_none() && rig.admin_pop().is_none());
    rig.device.master(true).unwrap();
    rig.device.write32(reg::DOORBELLS, rig.admin.tail);
    assert_eq!(pair.run(), None);
    assert!(pair.pop().is_some() && rig.admin_pop().is_some());
}

#[test]
fn a_shutdown_completes() {
    let mut rig = Rig::new(config());
    rig.device.write32(reg::CC, ENABLE | 1 << 14);
    assert_eq!(rig.status() >> 2 & 3, 2);
    rig.device.write32(reg::CC, 0);
    assert_eq!(rig.status(), 0);
    rig.enable();
}

#[test]
fn a_function_reset_forgets_all_registers() {
    let mut rig = Rig::new(config());
    rig.device.bus().reset().unwrap();
    assert_eq!((rig.status(), rig.device.read32(reg::CC), rig.device.read32(reg::AQA)), (0, 0, 0));
    assert_eq!(rig.device.read64(reg::ASQ), 0);
    rig.enable();
}

#[test]
fn a_device_that_vanished_reads_as_ones_and_does_nothing() {
    let mut rig = Rig::new(config());
    let mut pair = rig.pair(1, 4);
    let (at, _) = rig.page();
    rig.handle.vanish();
    assert_eq!((rig.status(), rig.device.read64(reg::CAP)), (u32::MAX, u64::MAX));
    pair.submit(read(0, 1, [at, 0]));
    assert_eq!((pair.run(), pair.pop()), (None, None));
    assert_eq!(rig.device.master(true), Err(DeviceError::Gone));
    assert!(rig.device.doorbells(1, 4).is_err());
    rig.handle.power_cycle();
    rig.enable();
}

#[test]
fn a_fatal_status_stops_everything_until_a_reset() {
    let mut rig = Rig::new(config());
    let mut pair = rig.pair(1, 4);
    let (at, _) = rig.page();
    rig.handle.raise_fatal();
    assert_eq!(rig.status(), READY | FATAL);
    pair.submit(read(0, 1, [at, 0]));
    rig.admin_submit(identify(1, 0, at));
    assert_eq!((pair.run(), pair.pop(), rig.admin_pop()), (None, None, None));
    rig.device.write32(reg::CC, 0);
    assert_eq!(rig.status(), 0);
    rig.enable();
    rig.pair(1, 4).done(read(0, 1, [at, 0]));
}

#[test]
fn a_cut_off_device_reaches_nothing() {
    let mut rig = Rig::new(config());
    let mut pair = rig.pair(1, 4);
    let (at, _) = rig.page();
    rig.device.bus().cut_off().unwrap();
    rig.device.master(true).unwrap();
    pair.submit(read(0, 1, [at, 0]));
    assert_eq!((pair.run(), pair.pop()), (None, None));
    assert_eq!(rig.status() & FATAL, FATAL);
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let refused = |config: Config, error| assert_eq!(SoftDevice::new(config).err(), Some(error));
    refused(Config { serial: "x".repeat(21), ..config() }, ConfigError::Text);
    refused(Config { model: "ä".into(), ..config() }, ConfigError::Text);
    refused(Config { queues: 0, ..config() }, ConfigError::Number);
    refused(Config { mqes: 0, ..config() }, ConfigError::Number);
    refused(Config { vectors: 0, ..config() }, ConfigError::Number);
    refused(Config { namespaces_max: 0, ..config() }, ConfigError::Namespaces);
    let with = |namespace: NamespaceConfig| Config { namespaces: vec![namespace], ..Config::default() };
    refused(with(namespace(8).block_size(1024)), ConfigError::BlockSize);
    refused(with(namespace(7).block_size(4096)), ConfigError::Empty);
}

#[test]
fn doorbells_are_where_the_stride_says() {
    let mut rig = Rig::off(Config { doorbell_stride: 1, ..config() });
    rig.enable();
    assert!(rig.device.doorbells(1, 4).is_err() && rig.device.doorbells(1, 8).is_ok());
    assert!(rig.device.doorbells(0, 8).is_err() && rig.device.doorbells(65, 8).is_err());
    let (at, window) = rig.page();
    rig.admin_submit(identify(1, 0, at));
    assert!(rig.admin.pop().is_some());
    assert_eq!(&bytes(&window, 4, 5), b"soft0");
    rig.device.write32(reg::DOORBELLS + 8, rig.admin.head);
    for _ in 0..3 * ADMIN {
        let cid = rig.admin.push(identify(1, 0, at));
        rig.device.write32(reg::DOORBELLS, rig.admin.tail);
        let cqe = rig.admin.pop().unwrap();
        assert_eq!(cqe.cid.get(), cid);
        expect(&cqe, Status::SUCCESS);
        rig.device.write32(reg::DOORBELLS + 8, rig.admin.head);
    }
}
