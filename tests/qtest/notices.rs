use std::time::Duration;

use nvme_core::nvme::spec::command::{Command, admin};
use nvme_core::nvme::spec::log::page;
use nvme_core::nvme::{ControllerEvent, Options};
use nvme_session::operation::Outcome;

use crate::machine::Shape;
use crate::need::needs_qemu;
use crate::rig::{GUEST, Rig, pattern};
use crate::rival::Rival;

fn logs(commands: &[Command], id: u8) -> usize {
    commands.iter().filter(|c| c.opcode == admin::GET_LOG_PAGE && c.cdw10.get() as u8 == id).count()
}

#[test]
fn the_health_log_is_told_and_a_warning_comes_by_itself() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::default(), Options::default());
    rig.controller.ask_smart();
    let ControllerEvent::Smart(smart) = rig.event() else { panic!() };
    assert_eq!((smart.critical, smart.temperature), (0, 323));
    let before = logs(&rig.watch.commands(true), page::SMART);
    let requests = rig.watch.count(true, admin::ASYNC_EVENT);
    assert_eq!(requests, 4, "as many as it takes (AERL)");
    // Twice: the event was armed again by reading the log.
    for (n, warning) in [(1, 4), (2, 1)] {
        let path = "/machine/peripheral/nvme0";
        rig.machine.qmp.set(path, "smart_critical_warning", &format!("{warning}")).unwrap();
        rig.quietly_until(|rig| rig.watch.count(true, admin::ASYNC_EVENT) == requests + n);
        assert_eq!(logs(&rig.watch.commands(true), page::SMART), before + n);
    }
    rig.controller.ask_smart();
    assert!(matches!(rig.event(), ControllerEvent::Smart(smart) if smart.critical == 1));
    rig.clean();
}

#[test]
fn a_namespace_that_another_host_takes_away_and_gives_back_is_told_while_io_goes_on() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape { controllers: vec!["", ""], ..Shape::default() }, Options::default());
    let mut pair = rig.pair(8);
    rig.client.write(GUEST, &pattern(1, 4096));
    let write = rig.write(2, 0, &[(GUEST, 4096)], false);
    assert_eq!(rig.run(&mut pair, write).1, Outcome::Done);
    let gone = rig.flush(2);
    let mut rival = Rival::new(rig.machine.device(1));
    let ids =
        |rig: &Rig| -> Vec<u32> { rig.controller.namespaces().iter().map(|n| n.namespace().nsid).collect() };
    assert!(rig.event_within(Duration::from_millis(20)).is_none());
    // Each time: the event was armed again.
    for _ in 0..3 {
        rival.attach(2, false);
        assert!(matches!(rig.event(), ControllerEvent::NamespacesChanged));
        assert_eq!(ids(&rig), [1]);
        let read = rig.read(1, 0, &[(GUEST, 4096)]);
        assert_eq!(rig.run(&mut pair, read), (1, Outcome::Done));
        rival.attach(2, true);
        assert!(matches!(rig.event(), ControllerEvent::NamespacesChanged));
        assert_eq!(ids(&rig), [1, 2]);
        assert!(rig.bytes(&mut pair, 2, 0, 4096) == pattern(1, 4096));
    }
    rival.attach(2, false);
    // What is on its way to a namespace that is gone fails.
    assert_eq!(rig.run(&mut pair, gone).1, Outcome::Failed);
    assert_eq!(logs(&rig.watch.commands(true), page::CHANGED_NAMESPACES), 6);
    rig.clean();
}

#[test]
fn an_error_event_is_answered_by_reading_the_error_log() {
    needs_qemu!();
    let mut rig = Rig::new(&Shape::default(), Options::default());
    let requests = rig.watch.count(true, admin::ASYNC_EVENT);
    for n in 1..=3 {
        // The doorbell of a queue that does not exist (Base 5.2.1: Write to Invalid Doorbell Register).
        rig.controller.device().registers().write32(0x1000 + 8 * 40, 1);
        rig.quietly_until(|rig| rig.watch.count(true, admin::ASYNC_EVENT) == requests + n);
        assert_eq!(logs(&rig.watch.commands(true), page::ERROR), n);
    }
    let mut pair = rig.pair(8);
    let flush = rig.flush(1);
    assert_eq!(rig.run(&mut pair, flush).1, Outcome::Done);
    rig.clean();
}
