//! Calls that take time, and everybody else meanwhile.

use nvme_l4re::model::{Answer, CallId};
use nvme_soft::faulty::{Action, Queue, Rule, When};

use crate::driver::*;
use crate::rig::*;

const WORDS: &[&str] = &["device=soft0:n1", "ds-max=2"];

/// Two controllers, the first of them slow, and a driver with requests in flight on it.
fn slow() -> (Rig, Driver) {
    let devices = vec![soft("soft0", &disk()), soft("soft1", &disk())];
    let mut rig = Rig::start("", devices, |_, _| {}).unwrap();
    let (task, session) = rig.client(WORDS);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    driver.serves(&mut rig, 1);
    rig.faults().inject(Rule::any(Queue::AnyIo, When::Always, Action::Delay(500 * MS)));
    for slot in 0..16u64 {
        driver.ask(IN, slot * 8, slot as usize * 4096, 4096).unwrap();
    }
    driver.notify();
    rig.settle();
    assert_eq!(driver.in_flight(), 16);
    (rig, driver)
}

/// As a real controller, it answers later, and says so by an interrupt.
fn later(rig: &Rig) {
    for queue in [Queue::Admin, Queue::AnyIo] {
        rig.faults().inject(Rule::any(queue, When::Always, Action::Delay(MS / 5)));
    }
}

fn reset(driver: &Driver) -> CallId {
    driver.task.call(driver.session, said(0, &[0]))
}

#[test]
fn creates_and_drops_in_a_row_are_all_granted() {
    for kept in [511, 0] {
        let (mut rig, _) = Rig::one();
        rig.model.set_kept_max(kept);
        rig.settle();
        later(&rig);
        let before = rig.model.time();
        for round in 0..12 {
            let session =
                rig.create(WORDS).unwrap_or_else(|code| panic!("{round}: {code}\n{}", rig.log.text()));
            rig.ned.release(session);
        }
        assert!(rig.model.time() - before < SECOND, "nobody waits for a time-out");
        assert_eq!(rig.model.kept(), 0);
    }
}

#[test]
fn clients_that_come_and_die_in_mid_io_are_all_granted() {
    for kept in [511, 0] {
        let (mut rig, _) = Rig::one();
        rig.model.set_kept_max(kept);
        rig.settle();
        let (slots, attachments) = (rig.model.slots(), rig.model.attachments());
        for round in 0..60u64 {
            later(&rig);
            let session =
                rig.create(WORDS).unwrap_or_else(|code| panic!("{round}: {code}\n{}", rig.log.text()));
            let task = rig.model.task();
            let given = rig.ned.give(session, &task);
            rig.ned.release(session);
            let mut driver = Driver::setup(&mut rig, task, given, 1 << 16);
            if round % 3 == 0 {
                rig.faults().inject(Rule::any(Queue::AnyIo, When::Always, Action::Delay(50 * MS)));
                for slot in 0..8 {
                    driver.ask(OUT, slot * 8, 0, 4096).unwrap();
                }
                driver.notify();
                rig.turn();
            } else {
                driver.serves(&mut rig, round);
            }
            driver.task.die();
            rig.faults().clear();
        }
        rig.pass_time(SECOND);
        assert_eq!((rig.model.slots(), rig.model.attachments()), (slots, attachments));
        assert_eq!(rig.model.kept(), 0);
    }
}

#[test]
fn a_call_that_waits_keeps_nobody_elses_from_being_answered() {
    let (mut rig, driver) = slow();
    let before = rig.model.time();
    let call = reset(&driver);
    rig.settle();
    assert_eq!((driver.task.answer(call), rig.model.kept()), (None, 1));
    // Somebody else comes, connects, works and goes.
    let (task, session) = rig.client(&["device=soft1:n1"]);
    let mut other = Driver::setup(&mut rig, task, session, 1 << 20);
    other.serves(&mut rig, 2);
    other.reset(&mut rig);
    other.task.die();
    assert!(rig.model.time() - before < 100 * MS);
    assert_eq!(driver.task.answer(call), None);
    assert_eq!(label(&rig.answer(&driver.task, call)), 0);
    let took = rig.model.time() - before;
    assert!(took >= 300 * MS && took < SECOND, "{took:?}");
    assert_eq!((rig.model.kept(), rig.model.unanswered()), (0, 0));
}

#[test]
fn a_server_whose_call_waits_sleeps() {
    let (mut rig, driver) = slow();
    let call = reset(&driver);
    rig.settle();
    let turns = rig.turns;
    for _ in 0..10 {
        rig.settle();
    }
    assert!(rig.turns - turns <= 20, "{} turns", rig.turns - turns);
    assert_eq!(label(&rig.answer(&driver.task, call)), 0);
}

#[test]
fn calls_of_one_session_are_answered_in_the_order_in_which_they_came() {
    let (mut rig, driver) = slow();
    let calls = [
        reset(&driver),
        driver.task.call(driver.session, said(0, &[1 << 32])),
        driver.task.call(driver.session, said(0, &[3 << 32])),
        driver.task.call(driver.session, said(0, &[4])),
    ];
    let more = driver.task.call(driver.session, said(0, &[4]));
    rig.settle();
    assert_eq!(calls.map(|call| driver.task.answer(call)), [None, None, None, None]);
    assert_eq!(label(&driver.task.answer(more).unwrap()), EBUSY, "nobody has all the places");
    let first = rig.answer(&driver.task, calls[0]);
    assert_eq!(label(&first), 0);
    let rest = calls.map(|call| label(&rig.answer(&driver.task, call)));
    assert_eq!(rest, [0; 4]);
    assert_eq!(driver.status(), 3);
    assert_eq!(rig.model.kept(), 0);
}

#[test]
fn a_session_that_nobody_waited_for_any_more_ends() {
    let (mut rig, driver) = slow();
    rig.settle();
    driver.task.die();
    let impatient = rig.model.task();
    let svr = rig.ned.give(rig.svr, &impatient);
    let call = impatient.call(svr, create(WORDS));
    for _ in 0..20 {
        rig.turn();
    }
    assert_eq!((impatient.answer(call), rig.model.kept()), (None, 1), "it waits for the rest");
    impatient.die();
    rig.pass_time(SECOND);
    assert_eq!((rig.model.kept(), rig.model.attachments()), (0, 0));
    assert!(rig.create(WORDS).is_ok(), "nobody has the device");
}

#[test]
fn a_session_that_ends_while_its_calls_wait_answers_them() {
    let (mut rig, driver) = slow();
    let helper = rig.model.task();
    let session = driver.task.give(driver.session, &helper);
    let calls = [reset(&driver), driver.task.call(driver.session, said(0, &[4]))];
    rig.settle();
    driver.task.destroy(driver.session);
    for call in calls {
        assert_eq!(driver.task.answer(call), Some(Answer::Gone));
    }
    rig.settle();
    assert_eq!(rig.model.kept(), 0);
    let late = helper.call(session, said(0, &[0]));
    assert_eq!(helper.answer(late), Some(Answer::Gone));
    rig.pass_time(SECOND);
    assert!(rig.create(WORDS).is_ok());
}

#[test]
fn creates_that_wait_are_bounded_and_all_are_answered() {
    let (mut rig, driver) = slow();
    let call = || rig.ned.call(rig.svr, create(WORDS));
    let calls: Vec<_> = (0..40).map(|_| call()).collect();
    driver.task.die();
    for _ in 0..200 {
        rig.turn();
    }
    assert_eq!(rig.model.kept(), 32);
    rig.pass_time(5 * SECOND);
    let answers: Vec<_> = calls.iter().map(|call| label(&rig.ned.answer(*call).unwrap())).collect();
    assert_eq!(answers.iter().filter(|code| **code == 0).count(), 1, "the device has one writer");
    assert_eq!(answers[0], 0, "who came first has it");
    assert_eq!(answers[32..], [EAGAIN; 8]);
    assert_eq!(answers[1..32], [EBUSY; 31]);
    assert_eq!(rig.model.kept(), 0);
}
