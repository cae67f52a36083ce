//! A controller that lies about its completions, fails, or describes itself wrongly: the others go on, data is right, and
//! nobody hangs.

use nvme_core::server::control::{ControllerState, Event};
use nvme_soft::faulty::{Action, Queue, Rule, When};
use nvme_soft::wire::Status;

use crate::client::{Client, IOERR, OK};
use crate::rig::{Rig, SECOND, config, soft};
use crate::timeouts::shared;

/// All that can be wrong with a completion.
fn wrong() -> Vec<Action> {
    vec![
        Action::Drop,
        Action::Delay(SECOND / 100),
        Action::Delay(20 * SECOND),
        Action::Fail(Status::INTERNAL),
        Action::Status(Status(0x281)),
        Action::CommandId(0),
        Action::CommandId(0xffff),
        Action::QueueId(0),
        Action::QueueId(7),
        Action::Head(0xffff),
        Action::Phase,
        Action::Duplicate,
        Action::Forge((0..40).collect()),
        Action::Forge((0..=0xffff).step_by(97).collect()),
    ]
}

/// What was answered with success is right on the disk, and everything is answered.
fn round(rig: &mut Rig, client: &mut Client, seed: u64) {
    rig.ask_writes(client, 0, 0..20, seed);
    rig.answered(client, 0, (0..20).collect());
    for slot in 0..20 {
        let status = client.status(0, slot);
        assert!(matches!(status, OK | IOERR), "{status}");
    }
}

#[test]
fn whatever_is_wrong_with_a_completion_everybody_is_answered_and_others_go_on() {
    for action in wrong() {
        let mut rig = Rig::new(2);
        let mut a = rig.client(&["device=d0:n1"]);
        let mut b = rig.client(&["device=d1:n1"]);
        let odd = When::Chance { per_mille: 150, seed: 7 };
        rig.faults(0).inject(Rule::any(Queue::AnyIo, odd, action.clone()));
        for seed in 0..3 {
            round(&mut rig, &mut a, seed);
            rig.serves(&mut b, 0, seed);
        }
        rig.faults(0).clear();
        if rig.state(0) != ControllerState::Lost {
            rig.until("rest", |rig| rig.state(0) == ControllerState::Serving);
            rig.serves(&mut a, 0, 9);
        }
        rig.end(&a);
        assert_eq!(rig.knobs[0].reach(), (0, 0), "{action:?}");
    }
}

#[test]
fn what_is_dropped_on_a_shared_pair_costs_its_own_session_only() {
    let (mut rig, mut a, mut b) = shared();
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Drop);
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.ask_writes(&mut b, 0, 0..20, 50);
    assert_eq!(rig.status(&mut a, 0, 0), IOERR);
    assert!((0..20).all(|slot| b.status(0, slot) == OK));
    rig.check_writes(&mut b, 0, 0..20, 50);
    rig.serves(&mut a, 0, 3);
}

#[test]
fn admin_commands_that_go_wrong_at_start_cost_their_controller_at_most() {
    for action in wrong() {
        for nth in 1..12 {
            let mut bad = soft("d0");
            bad.faults = Some(vec![Rule::any(Queue::Admin, When::Nth(nth), action.clone())]);
            let mut rig = Rig::raw(config(), vec![bad, soft("d1")]);
            rig.expect("the scan", |e| matches!(e, Event::Scanned));
            let mut b = rig.client(&["device=d1:n1"]);
            rig.serves(&mut b, 0, nth);
            if rig.create(&["device=d0:n1"]).is_err() {
                // Not found, or found too late.
                rig.pass_time(60 * SECOND);
                rig.serves(&mut b, 0, nth);
            }
        }
    }
}

#[test]
fn admin_commands_that_go_wrong_at_run_time_hang_nobody() {
    for action in wrong() {
        for opcode in [0x00, 0x01, 0x04, 0x05, 0x08] {
            let (mut rig, mut a, mut b) = shared();
            // An abort that does not help, then a deletion.
            rig.inject(Queue::Admin, 0x08, When::Nth(2), Action::Fail(Status::INTERNAL));
            rig.inject(Queue::Admin, opcode, When::First(1), action.clone());
            rig.inject(Queue::AnyIo, 0x01, When::First(3), Action::Drop);
            rig.ask_writes(&mut a, 0, 0..2, 1);
            rig.ask_writes(&mut b, 0, 0..2, 50);
            rig.answered(&mut a, 0, vec![0, 1]);
            rig.answered(&mut b, 0, vec![0, 1]);
            rig.faults(0).clear();
            rig.until("rest", |rig| rig.state(0) != ControllerState::Recovering);
            if rig.state(0) == ControllerState::Serving && !rig.lost(&a) {
                rig.serves(&mut a, 0, 9);
            }
            rig.end(&a);
            rig.end(&b);
        }
    }
}

/// Identify data, by CNS, with a byte range of another content.
fn lying(rig: &Rig, cns: u8, at: usize, bytes: Vec<u8>) {
    rig.faults(0).lie_in_identify(Box::new(move |got, _, data| {
        if got == cns
            && let Some(part) = data.get_mut(at..at + bytes.len())
        {
            part.copy_from_slice(&bytes);
        }
    }));
}

#[test]
fn lies_in_identify_data_cost_their_controller_at_most() {
    let (namespace, controller) = (0, 1);
    let lies: Vec<(u8, usize, Vec<u8>)> = vec![
        (namespace, 0, vec![0xff; 8]),
        (namespace, 0, vec![0; 8]),
        (namespace, 0, (1_u64 << 40).to_le_bytes().to_vec()),
        (namespace, 25, vec![0xff, 0xff]),
        (namespace, 128, vec![0, 0, 63, 0]),
        (namespace, 128, vec![0, 0, 12, 0]),
        (namespace, 128, vec![8, 0, 9, 0]),
        (controller, 77, vec![0xff]),
        (controller, 77, vec![1]),
        (controller, 512, vec![0xff, 0xff]),
        (controller, 516, vec![0xff; 4]),
        (controller, 516, vec![0; 4]),
        (controller, 4, vec![0; 20]),
        (controller, 0, vec![0xff; 2048]),
        (2, 0, vec![0xff; 4096]),
        (2, 0, vec![2, 0, 0, 0, 1, 0, 0, 0]),
    ];
    for (cns, at, bytes) in lies {
        let mut rig = Rig::raw(config(), vec![soft("d0"), soft("d1")]);
        lying(&rig, cns, at, bytes.clone());
        rig.expect("the scan", |e| matches!(e, Event::Scanned));
        let mut b = rig.client(&["device=d1:n1"]);
        rig.serves(&mut b, 0, 1);
        if let Ok(key) = rig.create(&["device=d0:n1", "read-only"]) {
            rig.control.end(key);
            rig.expect("the end", |e| matches!(e, Event::Ended(ended) if *ended == key));
        }
        rig.serves(&mut b, 0, 2);
    }
}

#[test]
fn queues_that_were_granted_and_are_not_there_cost_only_their_own_pair() {
    let mut device = soft("d0");
    device.queues = 2;
    device.namespaces.push(nvme_soft::NamespaceConfig::new(crate::rig::medium()));
    let mut rig = Rig::raw(config(), vec![device]);
    rig.faults(0).grant_queues(Some((40, 60)));
    rig.expect("the scan", |e| matches!(e, Event::Scanned));
    let mut a = rig.client(&["device=d0:n1"]);
    let mut b = rig.client(&["device=d0:n2"]);
    rig.serves(&mut a, 0, 1);
    rig.serves(&mut b, 0, 2);
    assert!(!rig.lost(&a) && !rig.lost(&b));
}

#[test]
fn a_namespace_that_a_reset_brings_back_with_other_blocks_is_lost_to_its_sessions() {
    let (mut rig, mut a, mut b) = shared();
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Hang);
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.faults(0).lie_in_identify(Box::new(|cns, nsid, data| {
        if cns == 0 && nsid == 1 {
            data[128..132].copy_from_slice(&[0, 0, 12, 0]);
        }
    }));
    rig.handles[0].raise_fatal();
    rig.answered(&mut a, 0, vec![0]);
    assert_eq!(a.status(0, 0), IOERR, "its blocks are other bytes now");
    assert!(rig.lost(&a) && !rig.lost(&b));
    rig.serves(&mut b, 0, 1);
    let written = rig.handles[0].statistics().writes;
    rig.pass_time(SECOND);
    assert_eq!(rig.handles[0].statistics().writes, written);
    rig.end(&a);
}
