//! The loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nvme_core::nvme::Options;
use nvme_l4re::kernel::{Cap, Objects};
use nvme_l4re::model::Model;
use nvme_l4re_server::{Controller, Hardware, Interrupt, Server, Tuning, interrupt_label};
use nvme_policy::{CommandLine, Dialect};
use nvme_soft::SoftDevice;
use nvme_soft::faulty::{Action, Queue, Rule, When};

use crate::driver::*;
use crate::quiet::{Engine, Quiet};
use crate::rig::*;

/// A controller whose interrupts arrive, level-triggered ones if `level`; how often they were raised and unmasked.
fn wired(vectors: u16, level: bool, tuning: &Tuning) -> (Rig, Arc<AtomicU64>, Arc<AtomicU64>) {
    faulty(vectors, level, tuning, Vec::new())
}

fn faulty(
    vectors: u16,
    level: bool,
    tuning: &Tuning,
    faults: Vec<Rule>,
) -> (Rig, Arc<AtomicU64>, Arc<AtomicU64>) {
    let mut model = Model::new();
    let ned = model.task();
    let svr = ned.channel("svr");
    let irqs: Vec<Cap> = (0..vectors).map(|at| model.irq(interrupt_label(at.into())).unwrap()).collect();
    let (raised, unmasked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut soft = soft("soft0", &disk());
    soft.vectors = vectors;
    soft.faults = Some(faults);
    soft.interrupts = Some(Box::new(Wire(model.clone(), irqs, Arc::clone(&raised))));
    let device = SoftDevice::new(soft).unwrap();
    let (handles, engine) = (vec![device.handle()], Engine::default());
    let interrupt = |at| {
        let unmasked = Arc::clone(&unmasked);
        let unmask: Box<dyn FnMut()> = Box::new(move || {
            unmasked.fetch_add(1, Ordering::Relaxed);
        });
        Interrupt { admin: at == 0, unmask: level.then_some(unmask) }
    };
    let hardware = Hardware {
        controllers: vec![Controller {
            name: "wired".into(),
            device: Box::new(Quiet(device, engine.clone())),
            pci: None,
        }],
        interrupts: (0..vectors).map(interrupt).collect(),
    };
    let line = CommandLine::parse(Vec::<&str>::new(), Dialect::COMMON).unwrap();
    let log = Log::default();
    let server = Server::new(model.clone(), log.clone(), &line, hardware, tuning).unwrap();
    (Rig { model, server, log, handles, engine, ned, svr, turns: 0 }, raised, unmasked)
}

#[test]
fn a_server_without_work_sleeps_until_somebody_wants_something() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    driver.serves(&mut rig, 1);
    rig.settle();
    let turns = rig.turns;
    for _ in 0..10 {
        rig.settle();
    }
    assert!(rig.turns - turns <= 20, "a turn for each look");
}

#[test]
fn an_admin_interrupt_wakes_the_control_role() {
    let (mut rig, raised, _) = wired(2, false, &Tuning::default());
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    driver.serves(&mut rig, 1);
    assert!(raised.load(Ordering::Relaxed) > 0);
    rig.settle();
    // Shrinking is news too, though not for the driver.
    assert!(rig.handles[0].resize(1, (DISK / 2) as u64));
    rig.settle();
    assert_eq!(driver.request(&mut rig, IN, (DISK / 2 / 512) as u64, 0, 4096), IOERR);
    driver.serves(&mut rig, 2);
}

#[test]
fn a_line_that_was_delivered_is_unmasked_after_what_it_was_raised_for_was_taken() {
    let (mut rig, raised, unmasked) = wired(1, true, &Tuning::default());
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    for seed in 0..50 {
        driver.serves(&mut rig, seed);
    }
    rig.settle();
    let (raised, unmasked) = (raised.load(Ordering::Relaxed), unmasked.load(Ordering::Relaxed));
    assert!(raised >= 100 && unmasked > 0 && unmasked <= raised, "{raised} raised, {unmasked} unmasked");
}

#[test]
fn polling_is_bounded_and_stops_while_it_does_not_pay() {
    let tuning = Tuning { poll: Duration::from_micros(50), ..Tuning::default() };
    let (mut rig, ..) = wired(2, false, &tuning);
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    for seed in 0..20 {
        driver.serves(&mut rig, seed);
        rig.pass_time(10 * MS);
    }
    rig.settle();
    let turns = rig.turns;
    driver.ask(IN, 0, 0, 4096).unwrap();
    driver.notify();
    rig.settle();
    assert!(rig.turns - turns < 60, "{} turns for one request", rig.turns - turns);
}

#[test]
fn calls_that_come_without_end_do_not_keep_others_from_being_served() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    driver.serves(&mut rig, 1);
    let noisy = rig.model.task();
    let svr = rig.ned.give(rig.svr, &noisy);
    let mut calls: Vec<_> = (0..50).map(|_| noisy.call(svr, create(&["readonly"]))).collect();
    let mut served = 0;
    driver.ask(IN, 0, 0, 4096).unwrap();
    driver.notify();
    for _ in 0..20_000 {
        rig.turn();
        for (_, status) in driver.ended() {
            assert_eq!(status, OK);
            served += 1;
            driver.ask(IN, 0, 0, 4096).unwrap();
            driver.notify();
        }
        // Whatever is answered is asked again at once.
        for call in &mut calls {
            if noisy.answer(*call).is_some() {
                *call = noisy.call(svr, create(&["readonly"]));
            }
        }
    }
    assert!(served > 1000, "{served}");
}

#[test]
fn requests_that_come_without_end_do_not_keep_calls_from_being_answered() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1", "read-only"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    while driver.ask(IN, 0, 0, 4096).is_some() {}
    driver.notify();
    let call = rig.ned.call(rig.svr, create(&["device=soft0:n1", "read-only"]));
    let mut turns = 0;
    while rig.ned.answer(call).is_none() {
        rig.turn();
        driver.ended();
        while driver.ask(IN, 0, 0, 4096).is_some() {}
        turns += 1;
        assert!(turns < 5000, "not answered");
    }
}

#[test]
fn what_is_asked_before_the_scan_is_over_is_answered_after_it() {
    let (mut rig, _) = Rig::one();
    let task = rig.model.task();
    let svr = rig.ned.give(rig.svr, &task);
    let call = task.call(svr, create(&["device=soft0:n1"]));
    rig.turn();
    assert_eq!(task.answer(call), None);
    assert_eq!(label(&rig.answer(&task, call)), 0);
}

#[test]
fn a_scan_that_does_not_end_keeps_nobody_waiting_for_ever() {
    let nvme = Options { admin_timeout: 500 * SECOND, ..Options::default() };
    let stuck = Rule::any(Queue::Admin, When::Always, Action::Hang);
    let (mut rig, ..) = faulty(2, false, &Tuning { nvme, ..Tuning::default() }, vec![stuck]);
    let before = rig.model.time();
    assert_eq!(rig.create(&["device=soft0:n1"]), Err(EAGAIN));
    let took = rig.model.time() - before;
    assert!(took >= 30 * SECOND && took < 32 * SECOND, "{took:?}");
}
