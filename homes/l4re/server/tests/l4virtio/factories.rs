//! Attenuated factories: what is minted through them, what is refused there, and how they are taken back.

use nvme_l4re::model::{Answer, Kind, Model, Task, TaskCap};
use nvme_mem::Window;
use nvme_soft::faulty::{Action, Queue, Rule, When};

use crate::changes::partitioned;
use crate::driver::*;
use crate::rig::*;

/// Two partitions, `golden` and `scratch`, on `soft0`, and a second controller.
fn rig() -> Rig {
    let (window, _) = partitioned();
    devices(&window)
}

fn devices(window: &Window) -> Rig {
    Rig::start("", vec![soft("soft0", window), soft("soft1", &disk())], |_, _| {}).unwrap()
}

/// ned makes a factory of `svr`.
fn factory(rig: &mut Rig, words: &[&str]) -> TaskCap {
    let (ned, svr) = (rig.model.task(), rig.svr);
    let svr = rig.ned.give(svr, &ned);
    let made = rig.delegate_at(&ned, svr, words).unwrap();
    let made = ned.give(made, &rig.ned);
    ned.die();
    made
}

/// A tenant, who has a factory without the D right.
fn tenant(rig: &Rig, factory: TaskCap) -> (Task, TaskCap) {
    let task = rig.model.task();
    let weaker = rig.ned.undeletable(factory);
    let given = rig.ned.give(weaker, &task);
    rig.ned.release(weaker);
    (task, given)
}

fn gone(task: &Task, cap: TaskCap) -> bool {
    task.answer(task.call(cap, said(-21, &[0]))) == Some(Answer::Gone)
}

#[test]
fn a_factory_mints_what_it_holds_and_refuses_more() {
    let mut rig = rig();
    let ceiling = &["device=golden", "device=soft1:n1", "read-only", "ds-max=3", "sessions=2", "iops=100"];
    let made = factory(&mut rig, ceiling);
    let (task, own) = tenant(&rig, made);
    for (words, code) in [
        (&["device=golden"][..], EACCES),
        (&["device=scratch", "read-only"], EACCES),
        (&["device=nothing", "read-only"], EACCES),
        (&["device=soft0:n1", "read-only"], EACCES),
        (&["device=soft0:n1:1", "read-only", "ds-max=4"], EACCES),
        (&["device=golden", "read-only", "iops=101"], EACCES),
        (&["device=golden", "read-only", "ds=ram"], EINVAL),
        (&["device=golden", "read-only", "sessions=1"], EINVAL),
        (&["device=golden", "read-only", "read-only"], EINVAL),
        (&["read-only"], EINVAL),
    ] {
        assert_eq!(rig.create_at(&task, own, words), Err(code), "{words:?}");
        rig.pass_time(SECOND);
    }
    assert_eq!(rig.delegate_at(&task, own, &["device=golden", "read-only"]), Err(ENOMEM), "factories=0");
    let session = rig.create_at(&task, own, &["device=golden", "read-only", "ds-max=3"]).unwrap();
    let second = rig.create_at(&task, own, &["device=soft0:n1:1", "read-only"]).unwrap();
    assert_eq!(rig.create_at(&task, own, &["device=golden", "read-only"]), Err(ENOMEM), "two at a time");
    task.release(second);
    let third = rig.create_at(&task, own, &["device=soft1:n1", "read-only"]);
    assert!(third.is_ok(), "what was given up counts no more");
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    assert_eq!(driver.request(&mut rig, IN, 0, 0, 4096), OK);
    assert_ne!(driver.request(&mut rig, OUT, 0, 0, 4096), OK);
    let text = rig.log.text();
    for word in
        ["factory 1: create refused: ", "add read-only", "device: not held by this factory", "ds-max=4"]
    {
        assert!(text.contains(word), "{word}:\n{text}");
    }
    assert!(!text.contains("scratch, "), "what it does not hold is not named:\n{text}");
}

#[test]
fn a_factory_and_a_session_say_what_they_are_and_another_number_is_a_session() {
    let mut rig = rig();
    let made = factory(&mut rig, &["device=golden", "factories=1"]);
    let (task, own) = tenant(&rig, made);
    // Whoever minted -15 at the C++ original has a session: this is how to know.
    assert_eq!(rig.code(&task, own, said(-21, &[2, -15i64 as u64])), 1);
    assert_eq!(rig.code(&task, own, said(-21, &[2, 0])), 0);
    for object in [0, 1, -1, 7, -21] {
        let answer = rig.call(&task, own, ask(object, &["device=golden"]));
        let Answer::Reply { label: 0, cap: Some(session), .. } = answer else {
            panic!("{object}: {answer:?}")
        };
        assert_eq!(rig.code(&task, session, said(-21, &[2, -15i64 as u64])), 0, "{object}");
        assert_eq!(rig.code(&task, session, said(-21, &[2, 0])), 1, "{object}");
        task.release(session);
    }
    let below = rig.delegate_at(&task, own, &["device=golden", "read-only"]).unwrap();
    assert_eq!(rig.code(&task, below, said(-21, &[2, -15i64 as u64])), 1);
}

#[test]
fn without_the_special_right_nothing_is_minted_by_a_factory() {
    let mut rig = rig();
    let made = factory(&mut rig, &["device=golden", "factories=1"]);
    let weak = rig.ned.weaker(made);
    let task = rig.model.task();
    let weak = rig.ned.give(weak, &task);
    assert_eq!(rig.create_at(&task, weak, &["device=golden"]), Err(EPERM));
    assert_eq!(rig.delegate_at(&task, weak, &["device=golden"]), Err(EPERM));
    assert_eq!(rig.code(&task, weak, said(-21, &[0])), 1, "but is told what it is");
}

#[test]
fn who_has_no_d_takes_nothing_back_and_who_has_d_takes_back_all() {
    let mut rig = rig();
    let (slots, attachments) = (rig.model.slots(), rig.model.attachments());
    let made = factory(&mut rig, &["device=golden", "device=soft1:n1", "factories=1"]);
    let (task, own) = tenant(&rig, made);
    let (friend, passed_on) = (rig.model.task(), own);
    let passed_on = task.give(passed_on, &friend);
    let below = rig.delegate_at(&task, own, &["device=soft1:n1"]).unwrap();
    let session = rig.create_at(&task, own, &["device=golden"]).unwrap();
    let of_friend = rig.create_at(&friend, passed_on, &["device=soft1:n1", "read-only"]).unwrap();
    let held = rig.ned.give(rig.svr, &friend);
    let untouched = rig.create_at(&friend, held, &["device=scratch"]).unwrap();

    task.delete(own);
    rig.settle();
    assert!(rig.create_at(&friend, passed_on, &["device=soft1:n1", "read-only"]).is_ok(), "it had no D");

    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    driver.serves(&mut rig, 1);
    rig.faults().inject(Rule::any(Queue::AnyIo, When::Always, Action::Delay(200 * MS)));
    for slot in 0..16u64 {
        driver.ask(OUT, slot * 8, slot as usize * 4096, 4096).unwrap();
    }
    driver.notify();
    rig.settle();
    rig.ned.delete(made);
    rig.settle();
    for (task, cap) in
        [(&driver.task, driver.session), (&driver.task, below), (&friend, passed_on), (&friend, of_friend)]
    {
        assert!(gone(task, cap), "the server deletes what was minted");
    }
    assert!(!gone(&friend, untouched));
    // Its device is free when its memory is quiet, and not before.
    let memory = driver.memory.clone();
    rig.model.set_tick(MS / 10);
    assert!(rig.create(&["device=golden"]).is_ok());
    rig.model.set_tick(MS / 10_000);
    memory.fill(0, memory.len(), 0x55).unwrap();
    rig.pass_time(SECOND);
    let mut bytes = vec![0; memory.len()];
    memory.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0x55), "nothing comes late");
    driver.task.die();
    friend.die();
    rig.pass_time(SECOND);
    // ned has a session of its own now.
    assert_eq!(rig.model.slots(), slots + 3, "gate, kick, page");
    assert_eq!(rig.model.attachments(), attachments + 1);
}

#[test]
fn a_factory_that_nobody_has_any_more_ends() {
    let mut rig = rig();
    let slots = rig.model.slots();
    let made = factory(&mut rig, &["device=golden", "factories=1"]);
    let (task, own) = tenant(&rig, made);
    rig.ned.release(made);
    rig.settle();
    assert!(rig.create_at(&task, own, &["device=golden"]).is_ok(), "one copy is left");
    rig.delegate_at(&task, own, &["device=golden", "read-only"]).unwrap();
    task.die();
    rig.pass_time(SECOND);
    assert_eq!(rig.model.slots(), slots);
    assert!(rig.create(&["device=golden"]).is_ok());
}

#[test]
fn factories_stand_eight_deep_and_are_64_in_all() {
    let mut rig = rig();
    let (task, mut at) = (rig.model.task(), rig.svr);
    at = rig.ned.give(at, &task);
    let top = at;
    let mut first = None;
    for left in (0..8).rev() {
        let factories = format!("factories={left}");
        at = rig.delegate_at(&task, at, &["device=golden", &factories]).unwrap();
        first.get_or_insert(at);
    }
    assert_eq!(rig.delegate_at(&task, at, &["device=golden"]), Err(ENOMEM), "it can make none");
    for _ in 8..64 {
        rig.delegate_at(&task, top, &["device=soft1:n1", "read-only"]).unwrap();
    }
    assert_eq!(rig.delegate_at(&task, top, &["device=soft1:n1", "read-only"]), Err(ENOMEM));
    let session = rig.create_at(&task, at, &["device=golden"]).unwrap();
    task.delete(first.unwrap());
    rig.settle();
    assert!(gone(&task, at) && gone(&task, session), "all eight go with the first");
    rig.pass_time(SECOND);
    assert!(rig.delegate_at(&task, top, &["device=golden"]).is_ok());
}

#[test]
fn one_tenants_waiting_creates_hold_up_nobody_elses() {
    let mut rig = rig();
    let one = factory(&mut rig, &["device=soft1:n1", "ds-max=2"]);
    let other = factory(&mut rig, &["device=golden", "device=scratch"]);
    let (first, own) = tenant(&rig, one);
    let (second, of_second) = tenant(&rig, other);
    // The device of the first is busy, and its session ends: whoever asks for it waits.
    let session = rig.create_at(&first, own, &["device=soft1:n1"]).unwrap();
    let dying = rig.model.task();
    let session = {
        let given = first.give(session, &dying);
        first.release(session);
        given
    };
    let mut driver = Driver::setup(&mut rig, dying, session, 1 << 20);
    let slow = rig.handles[1].faults().unwrap();
    slow.inject(Rule::any(Queue::AnyIo, When::Always, Action::Delay(500 * MS)));
    driver.ask(OUT, 0, 0, 4096).unwrap();
    driver.notify();
    rig.settle();
    driver.task.die();
    let flood: Vec<_> = (0..100).map(|_| first.call(own, create(&["device=soft1:n1"]))).collect();
    for _ in 0..300 {
        rig.turn();
    }
    assert_eq!(rig.model.kept(), 2, "it has two places, and no more");
    let refused = flood.iter().filter(|call| first.answer(**call).as_ref().map(label) == Some(EAGAIN));
    assert_eq!(refused.count(), 98);
    let before = rig.model.time();
    for device in ["device=golden", "device=scratch"] {
        let session = rig.create_at(&second, of_second, &[device]).unwrap();
        second.release(session);
    }
    assert!(rig.create(&["device=soft0:n1:2"]).is_ok());
    assert!(rig.model.time() - before < 100 * MS, "nobody waited for the first");
    rig.pass_time(2 * SECOND);
    let granted = flood.iter().filter(|call| first.answer(**call).as_ref().map(label) == Some(0));
    assert_eq!((granted.count(), rig.model.kept()), (1, 0));
}

#[test]
fn a_create_that_waits_at_a_factory_that_ends_is_refused() {
    let mut rig = rig();
    let made = factory(&mut rig, &["device=soft1:n1"]);
    let (task, own) = tenant(&rig, made);
    let session = rig.create_at(&task, own, &["device=soft1:n1"]).unwrap();
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    let slow = rig.handles[1].faults().unwrap();
    slow.inject(Rule::any(Queue::AnyIo, When::Always, Action::Delay(500 * MS)));
    driver.ask(OUT, 0, 0, 4096).unwrap();
    driver.notify();
    rig.settle();
    let (other, of_other) = tenant(&rig, made);
    driver.task.die();
    let call = other.call(of_other, create(&["device=soft1:n1"]));
    for _ in 0..20 {
        rig.turn();
    }
    assert_eq!((other.answer(call), rig.model.kept()), (None, 1));
    let before = rig.model.time();
    rig.ned.delete(made);
    let answer = rig.answer(&other, call);
    assert!(matches!(answer, Answer::Gone) || label(&answer) == EACCES, "{answer:?}");
    assert!(rig.model.time() - before < 100 * MS);
    rig.pass_time(SECOND);
    assert_eq!(rig.model.kept(), 0);
    assert!(rig.create(&["device=soft1:n1"]).is_ok());
}

#[test]
fn a_factory_whose_answer_reaches_nobody_ends() {
    let mut rig = rig();
    let slots = rig.model.slots();
    let impatient = rig.model.task();
    let svr = rig.ned.give(rig.svr, &impatient);
    rig.settle();
    impatient.call(svr, delegate(&["device=golden"]));
    // The server has taken the call, and its answer is on its way.
    rig.turn();
    impatient.die();
    rig.pass_time(SECOND);
    assert_eq!(rig.model.slots(), slots);
}

#[test]
fn objects_that_the_kernel_refuses_are_a_factory_that_is_refused() {
    let mut rig = rig();
    let slots = rig.model.slots();
    let ned = rig.model.task();
    let svr = rig.ned.give(rig.svr, &ned);
    rig.settle();
    rig.model.set_quota(0);
    assert_eq!(rig.delegate_at(&ned, svr, &["device=golden"]), Err(ENOMEM));
    rig.model.set_quota(usize::MAX);
    rig.model.set_reserve(false);
    assert_eq!(rig.delegate_at(&ned, svr, &["device=golden"]), Err(ENOMEM));
    rig.model.set_reserve(true);
    rig.settle();
    assert_eq!(rig.model.slots(), slots);
    assert!(rig.delegate_at(&ned, svr, &["device=golden"]).is_ok());
}

#[test]
fn a_factory_that_is_given_to_the_server_itself_lives_no_longer() {
    let mut rig = rig();
    let slots = rig.model.slots();
    let made = factory(&mut rig, &["device=golden"]);
    let (task, own) = tenant(&rig, made);
    rig.ned.release(made);
    let session = rig.create_at(&task, own, &["device=golden"]).unwrap();
    assert_eq!(rig.code(&task, session, with_cap(-1, &[0, 0], own)), EINVAL, "as its interrupt");
    let register = [3, BASE, 0, 4096];
    assert_ne!(rig.code(&task, session, with_cap(0, &register, own)), 0, "as memory");
    task.die();
    rig.pass_time(SECOND);
    assert_eq!(rig.model.slots(), slots);
}

#[test]
fn refusals_of_one_factory_do_not_keep_back_anothers() {
    let mut rig = rig();
    let one = factory(&mut rig, &["device=golden"]);
    let other = factory(&mut rig, &["device=scratch", "name=quiet"]);
    let (first, own) = tenant(&rig, one);
    let (second, of_second) = tenant(&rig, other);
    for _ in 0..100 {
        assert_eq!(rig.create_at(&first, own, &["device=flood"]), Err(EACCES));
    }
    assert_eq!(rig.create_at(&second, of_second, &["device=flood"]), Err(EACCES));
    assert_eq!(rig.create(&["device=flood"]), Err(ENODEV));
    let text = rig.log.text();
    let of = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!((of("factory 1: "), of("factory 2 \"quiet\": "), of("svr: ")), (10, 1, 1), "{text}");
}

/// Two dataspaces that are trusted, and a factory of the command line that trusts the first.
fn of_the_command_line(options: &str) -> (Rig, TaskCap, [TaskCap; 2]) {
    let (window, _) = partitioned();
    let options = format!("-d a -d b {options}");
    let mut given = None;
    let rig = Rig::start(&options, vec![soft("soft0", &window)], |_, ned| {
        let [a, b] = ["a", "b"].map(|name| {
            let ds = ned.dataspace(Kind::Memory, queue_size(1 << 16));
            ned.trust(name, ds);
            ds
        });
        given = Some((ned.channel("t1"), [a, b]));
    });
    let (channel, ram) = given.unwrap();
    (rig.unwrap(), channel, ram)
}

#[test]
fn a_factory_of_the_command_line_is_served_after_the_scan_and_ends_by_deletion_alone() {
    let (mut rig, channel, _) =
        of_the_command_line("--factory t1 --device golden --device absent --readonly --sessions 1");
    let (task, own) = tenant(&rig, channel);
    let early = task.call(own, create(&["device=golden", "read-only"]));
    let answer = rig.answer(&task, early);
    let Answer::Reply { label: 0, cap: Some(session), .. } = answer else { panic!("{answer:?}") };
    assert_eq!(rig.create_at(&task, own, &["device=golden"]), Err(EACCES));
    assert_eq!(rig.create_at(&task, own, &["device=golden", "read-only"]), Err(ENOMEM));
    task.release(session);
    assert_eq!(rig.create_at(&task, own, &["device=absent", "read-only"]), Err(ENODEV));
    assert_eq!(rig.create_at(&task, own, &["device=scratch", "read-only"]), Err(EACCES));
    let text = rig.log.text();
    assert!(text.contains("factory t1: no such device: partlabel:absent; it can be had when"), "{text}");
    // Its gate was given to the server, which keeps it.
    task.die();
    rig.pass_time(SECOND);
    let (task, own) = tenant(&rig, channel);
    let session = rig.create_at(&task, own, &["device=golden", "read-only"]).unwrap();
    rig.ned.delete(channel);
    rig.settle();
    assert!(gone(&task, own) && gone(&task, session));
    rig.pass_time(SECOND);
    assert!(rig.create(&["device=golden"]).is_ok());
}

#[test]
fn what_is_minted_by_a_factory_registers_its_dataspaces_alone() {
    let (mut rig, channel, [a, b]) = of_the_command_line("--factory t1 --device golden --ds a");
    let (task, own) = tenant(&rig, channel);
    assert_eq!(rig.create_at(&task, own, &["device=golden", "ds=b"]), Err(EACCES));
    let session = rig.create_at(&task, own, &["device=golden"]).unwrap();
    let [of_a, of_b] = [a, b].map(|ds| rig.ned.give(ds, &task));
    let mut driver = Driver::connect(&mut rig, task, session);
    assert_eq!(driver.share(&mut rig, of_b), EINVAL, "trusted, and not by this one");
    assert_eq!(driver.share(&mut rig, of_a), 0);
    driver.begin(&mut rig);
    assert_eq!(driver.request(&mut rig, IN, 0, 0, 4096), OK);
    // By a session's own word likewise.
    driver.task.die();
    let (task, session) = rig.client(&["device=golden", "ds=b"]);
    let a = rig.ned.give(a, &task);
    let mut driver = Driver::connect(&mut rig, task, session);
    assert_eq!(driver.share(&mut rig, a), EINVAL);
}

#[test]
fn a_server_with_nothing_but_a_factory_of_the_command_line_serves_it() {
    let model = Model::new();
    let ned = model.task();
    let channel = ned.channel("t1");
    let devices = vec![soft("soft0", &disk())];
    let mut rig = Rig::with(model, ned, channel, "--factory t1 --device soft0:n1", devices).unwrap();
    let (task, own) = tenant(&rig, channel);
    let session = rig.create_at(&task, own, &["device=soft0:n1"]).unwrap();
    Driver::setup(&mut rig, task, session, 1 << 20).serves(&mut rig, 1);
}
