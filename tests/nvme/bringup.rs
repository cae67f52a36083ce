use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nvme_core::nvme::{ControllerEvent, Failure, Options, PairError, PciId, SglSupport};
use nvme_policy::BlockSize;
use nvme_session::factory::Identifiers;
use nvme_session::memory::QuietBy;
use nvme_soft::faulty::{Action, Queue, Rule, When};
use nvme_soft::wire::Status;
use nvme_soft::{Config, NamespaceConfig};

use crate::rig::{Rig, config, medium, options};

fn three() -> Config {
    Config {
        namespaces: vec![
            NamespaceConfig::new(medium(1 << 20)),
            NamespaceConfig::new(medium(2 << 20)).block_size(4096),
            NamespaceConfig::new(medium(3 << 20)).read_only(true),
        ],
        ..config(512)
    }
}

#[test]
fn a_controller_comes_up_with_all_of_its_namespaces() {
    let rig = Rig::new(Config { serial: "  A B:n1 C ".into(), ..three() }, options());
    let found: Vec<_> =
        rig.controller.namespaces().iter().map(|n| (n.namespace().nsid, n.blocks())).collect();
    assert_eq!(found, [(1, 2048), (2, 512), (3, 6144)], "the last one too");
    assert_eq!(rig.namespace(2).block_size(), BlockSize::B4096);
    assert!(rig.namespace(3).read_only && !rig.namespace(1).read_only);
    let info = rig.controller.info();
    assert_eq!(info.serial, "A B:n1 C", "inner spaces and colons stay");
    assert_eq!((info.transfer_bytes, info.volatile_cache), (1 << 20, true));
    assert!(info.sgl != SglSupport::None);
    assert_eq!(rig.controller.pairs_free(), 63, "one of 64 is the scan's");
}

#[test]
fn options_and_the_controller_bound_what_is_offered() {
    let plain = Config { mdts: 5, sgl: true, dataset_management: false, write_zeroes: false, ..config(512) };
    let rig = Rig::new(plain, Options { nosgl: true, ..options() });
    let limits = rig.namespace(1).limits;
    assert_eq!((limits.transfer_blocks, limits.discard_blocks, limits.write_zeroes_blocks), (256, 0, 0));
    assert_eq!(rig.controller.info().sgl, SglSupport::None);
}

#[test]
fn a_list_of_many_namespaces_is_read_page_by_page() {
    let one = medium(1 << 20);
    let namespaces: Vec<_> = (0..1500).map(|_| NamespaceConfig::new(one.clone())).collect();
    let many = Config { namespaces, namespaces_max: 2000, ..config(512) };
    let rig = Rig::new(many, Options { namespaces_max: 1400, ..options() });
    assert_eq!(rig.controller.namespaces().len(), 1400, "and bounded");
    assert_eq!(rig.controller.namespaces().last().map(|n| n.namespace().nsid), Some(1400));
}

#[test]
fn a_controller_that_does_not_get_ready_fails_in_time() {
    let mut rig = Rig::raw(config(512), options());
    rig.handle.faults().unwrap().stick_ready(Some(false));
    let start = rig.now;
    let ControllerEvent::Failed { why: Failure::NotReady(waited), quiet: Some(quiet) } = rig.event() else {
        panic!("it was seen to stop, so there is proof");
    };
    assert_eq!((waited, quiet.by()), (Duration::from_secs(10), QuietBy::ResetFinished));
    assert!(rig.now - start <= Duration::from_secs(11));
    assert_eq!(rig.controller.create_pair(8, 0), Err(PairError::NotReady));
}

#[test]
fn a_controller_that_does_not_stop_fails_without_proof() {
    let mut rig = Rig::raw(config(512), options());
    rig.handle.faults().unwrap().stick_ready(Some(true));
    let start = rig.now;
    let event = rig.event();
    let ControllerEvent::Failed { why: Failure::NotStopped(_), quiet: None } = event else {
        panic!("{event:?}")
    };
    assert!(rig.now - start <= Duration::from_secs(21), "twice: a function reset was tried");
    assert_eq!(rig.controller.cut_off().unwrap().by(), QuietBy::CutOff);
}

#[test]
fn a_device_that_is_gone_is_said_once() {
    let mut rig = Rig::raw(config(512), options());
    rig.handle.vanish();
    assert!(matches!(rig.event(), ControllerEvent::Gone));
    assert!(rig.event_within(Duration::from_secs(100)).is_none());
    let mut rig = Rig::new(config(512), options());
    rig.handle.vanish();
    assert!(matches!(rig.event(), ControllerEvent::Gone));
    assert!(rig.event_within(Duration::from_secs(100)).is_none());
}

#[test]
fn a_fatal_status_while_running_asks_for_a_reset_once() {
    let mut rig = Rig::new(config(512), options());
    rig.handle.raise_fatal();
    assert!(matches!(rig.event(), ControllerEvent::ResetNeeded(_)));
    assert!(rig.event_within(Duration::from_secs(100)).is_none());
    rig.controller.reset();
    let ControllerEvent::Reset { quiet } = rig.event() else { panic!() };
    assert_eq!(quiet.by(), QuietBy::ResetFinished);
    rig.pair(8);
}

#[test]
fn every_admin_command_of_set_up_has_a_deadline() {
    // Identify, Set Features.
    for opcode in [0x06, 0x09] {
        for nth in 1..=3 {
            let mut rig = Rig::raw(config(512), options());
            let rule = Rule::new(Queue::Admin, opcode, When::Nth(nth), Action::Hang);
            rig.handle.faults().unwrap().inject(rule);
            let start = rig.now;
            let event = rig.event();
            let ControllerEvent::Failed { why: Failure::AdminTimeout { opcode: said }, quiet: Some(_) } =
                event
            else {
                panic!("{opcode:#x} {nth}: {event:?}");
            };
            assert_eq!(said, opcode);
            assert!(rig.now - start < Duration::from_secs(12));
        }
    }
}

#[test]
fn an_identify_that_fails_is_fatal_only_where_it_must_be() {
    let rule = |nth| Rule::new(Queue::Admin, 0x06, When::Nth(nth), Action::Fail(Status::INVALID_FIELD));
    let mut rig = Rig::raw(config(512), options());
    rig.handle.faults().unwrap().inject(rule(1));
    let ControllerEvent::Failed { why: Failure::Admin { opcode: 6, status }, .. } = rig.event() else {
        panic!()
    };
    assert_eq!(status & 0x7ff, 2);
    // Any other: a namespace may be missing, the controller works.
    for nth in 2..=5 {
        let mut rig = Rig::raw(three(), options());
        rig.handle.faults().unwrap().inject(rule(nth));
        assert!(matches!(rig.event(), ControllerEvent::Ready), "{nth}");
        assert!(rig.controller.namespaces().len() >= 2);
        rig.pair(8);
    }
}

/// Everything that set-up asks, each time with an answer that says "not now".
#[test]
fn what_set_up_asks_is_asked_again_when_it_fails_for_the_moment() {
    for opcode in [0x06, 0x09] {
        for nth in 1..=3 {
            let mut rig = Rig::raw(three(), options());
            let faults = rig.handle.faults().unwrap();
            for again in 0..5 {
                // The next five tries of the same job, which are the next commands: it is one job after the other.
                let when = When::Nth(nth);
                let status = Status([0x82, 0x21, 0x22, 0x1d, 0x300][again]);
                faults.inject(Rule::new(Queue::Admin, opcode, when, Action::Fail(status)));
            }
            let start = rig.now;
            assert!(matches!(rig.event(), ControllerEvent::Ready), "{opcode:#x} {nth}");
            assert_eq!(rig.controller.namespaces().len(), 3, "{opcode:#x} {nth}");
            assert!(rig.now - start < Duration::from_secs(2));
            rig.pair(8);
        }
    }
}

#[test]
fn an_answer_that_says_never_ends_a_job_at_once() {
    let mut rig = Rig::raw(config(512), options());
    let never = Status(0x4082);
    rig.handle.faults().unwrap().inject(Rule::new(Queue::Admin, 0x06, When::Always, Action::Fail(never)));
    let event = rig.event();
    let ControllerEvent::Failed { why: Failure::Admin { opcode: 6, status: 0x4082 }, .. } = event else {
        panic!("{event:?}")
    };
    assert_eq!(rig.handle.faults().unwrap().fired(), 1);
}

/// A controller that always says "not now" is not asked for ever.
#[test]
fn an_answer_that_always_says_not_now_ends_a_job_after_five_more() {
    let mut rig = Rig::raw(config(512), options());
    let not_now = Action::Fail(Status(0x82));
    rig.handle.faults().unwrap().inject(Rule::new(Queue::Admin, 0x06, When::Always, not_now));
    let event = rig.event();
    assert!(
        matches!(event, ControllerEvent::Failed { why: Failure::Admin { opcode: 6, status: 0x82 }, .. }),
        "{event:?}"
    );
    assert_eq!(rig.handle.faults().unwrap().fired(), 6);
}

#[test]
fn identify_data_that_lies_costs_its_namespace_and_no_more() {
    type Lie = fn(&mut [u8; 4096]);
    let lies: [(&str, Lie); 5] = [
        ("format that does not exist", |d| d[26] = 0x0f),
        ("metadata", |d| d[128] = 8),
        ("block size", |d| d[130] = 31),
        ("size that wraps", |d| d[..8].fill(0xff)),
        ("protection", |d| d[29] = 1),
    ];
    for (what, lie) in lies {
        let mut rig = Rig::raw(three(), options());
        rig.handle.faults().unwrap().lie_in_identify(Box::new(move |cns, nsid, data| {
            if (cns, nsid) == (0, 2) {
                lie(data);
            }
        }));
        assert!(matches!(rig.event(), ControllerEvent::Ready), "{what}");
        let ids: Vec<_> = rig.controller.namespaces().iter().map(|n| n.namespace().nsid).collect();
        assert_eq!(ids, [1, 3], "{what}");
    }
}

#[test]
fn a_list_of_namespaces_that_never_ends_is_left() {
    let mut rig = Rig::raw(three(), options());
    rig.handle.faults().unwrap().lie_in_identify(Box::new(|cns, _, data| {
        if cns == 2 {
            // The same page for ever, full.
            data.chunks_exact_mut(4).zip(1_u32..).for_each(|(e, id)| e.copy_from_slice(&id.to_le_bytes()));
        }
    }));
    assert!(matches!(rig.event(), ControllerEvent::Ready));
    assert_eq!(rig.controller.namespaces().len(), 3);
}

#[test]
fn queues_granted_are_believed_only_downwards() {
    for (granted, free) in [((0, 0), 1), ((0, 9), 1), ((1, 1), 1), ((4, 3), 3), ((0xfffe, 0xfffe), 511)] {
        let mut rig = Rig::raw(config(512), options());
        rig.handle.faults().unwrap().grant_queues(Some(granted));
        assert!(matches!(rig.event(), ControllerEvent::Ready));
        assert_eq!(rig.controller.pairs_free(), free, "{granted:?}");
    }
}

#[test]
fn a_namespace_that_comes_grows_or_goes_is_told() {
    let mut rig = Rig::new(three(), options());
    assert!(rig.event_within(Duration::from_secs(1)).is_none());
    assert!(rig.handle.resize(1, 512 << 10));
    assert!(matches!(rig.event(), ControllerEvent::NamespacesChanged));
    assert_eq!(rig.namespace(1).blocks(), 1024);
    assert!(rig.handle.remove(2));
    assert!(matches!(rig.event(), ControllerEvent::NamespacesChanged));
    assert_eq!(rig.controller.namespaces().len(), 2);
    rig.handle.add(7, NamespaceConfig::new(medium(1 << 20))).unwrap();
    assert!(matches!(rig.event(), ControllerEvent::NamespacesChanged));
    assert_eq!(rig.namespace(7).blocks(), 2048);
}

#[test]
fn a_shutdown_is_confirmed_or_given_up_in_time() {
    let mut rig = Rig::new(config(512), options());
    rig.controller.shutdown(rig.now);
    assert!(matches!(rig.event(), ControllerEvent::ShutDown { clean: true }));
    assert!(rig.event_within(Duration::from_secs(100)).is_none());
    assert_eq!(rig.controller.pairs_free(), 0);
}

#[test]
fn the_health_log_is_told_when_asked_for() {
    let mut rig = Rig::new(config(512), options());
    rig.controller.ask_smart();
    let ControllerEvent::Smart(smart) = rig.event() else { panic!() };
    assert!(smart.temperature > 200 && smart.critical == 0);
}

/// A controller that the home says is this device.
fn device(vendor: u16, device: u16) -> Rig {
    Rig::raw(config(512), Options { pci: Some(PciId { vendor, device }), ..options() })
}

fn ready(mut rig: Rig) -> Rig {
    assert!(matches!(rig.event(), ControllerEvent::Ready));
    rig
}

#[test]
fn a_device_with_broken_write_zeroes_is_not_asked_for_it() {
    assert!(ready(device(0x2646, 0x5017)).namespace(1).limits.write_zeroes_blocks > 0);
    let limits = ready(device(0x2646, 0x502f)).namespace(1).limits;
    assert!(limits.write_zeroes_blocks == 0 && limits.discard_blocks > 0);
}

#[test]
fn a_device_is_not_asked_for_identify_data_that_it_does_not_bear() {
    let asked = |vendor, product| {
        let rig = device(vendor, product);
        let asked = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = Arc::clone(&asked);
        let lie = move |cns, _, _: &mut [u8; 4096]| _ = seen.lock().unwrap().insert(cns);
        rig.handle.faults().unwrap().lie_in_identify(Box::new(lie));
        let rig = ready(rig);
        assert_eq!(rig.controller.namespaces().len(), 1);
        asked.lock().unwrap().iter().copied().collect::<Vec<_>>()
    };
    assert_eq!(asked(1, 1), [0, 1, 2, 3]);
    assert_eq!(asked(0x1c5f, 0x0555), [0, 1, 2], "no list of descriptors");
    assert_eq!(asked(0x8086, 0x5845), [0, 1], "nothing but the first two");
}

#[test]
fn garbage_for_identifiers_is_not_believed() {
    let known = ready(device(1, 1)).namespace(1).unique;
    assert_ne!(known.eui64, [0; 8]);
    assert_eq!(ready(device(0x1e4b, 0x1602)).namespace(1).unique, Identifiers::default());
}

#[test]
fn a_device_that_bears_one_command_at_a_time_gets_one() {
    let mut rig = ready(device(0x106b, 0x2001));
    assert_eq!(rig.controller.pairs_free(), 1);
    let pair = rig.pair(64);
    assert_eq!((pair.capacity(), pair.vector(), rig.controller.pairs_free()), (1, 0, 0));
}

#[test]
fn a_device_of_another_interface_is_refused_untouched() {
    let mut rig = device(0x106b, 0x2005);
    let event = rig.event();
    assert!(
        matches!(event, ControllerEvent::Failed { why: Failure::QueueShape, quiet: Some(_) }),
        "{event:?}"
    );
}
