//! Whoever asks a factory for more than it holds, whatever the word; and factories that are taken back in the midst of something.

use nvme_l4re::model::{Answer, Kind, Task, TaskCap};
use nvme_mem::Window;
use nvme_soft::faulty::{Action, Queue, Rule, When};

use crate::changes::{partitioned, partitioned_by};
use crate::driver::*;
use crate::rig::*;

/// What the factory of these tests holds.
const CEILING: [&str; 11] = [
    "device=golden",
    "read-only",
    "ds-max=3",
    "ds=a",
    "sessions=2",
    "factories=2",
    "mem-max=1M",
    "iops=100",
    "bytes=1M",
    "iops-all=150",
    "bytes-all=2M",
];

fn rig() -> Rig {
    let (window, _) = partitioned();
    over(&window)
}

/// Two partitions, `golden` and `scratch`; `a` and `b` are trusted.
fn over(window: &Window) -> Rig {
    Rig::start("-v -d a -d b", vec![soft("soft0", window)], |_, ned| {
        for name in ["a", "b"] {
            ned.trust(name, ned.dataspace(Kind::Memory, queue_size(1 << 16)));
        }
    })
    .unwrap()
}

/// A tenant with a factory of these words, and what ned keeps of it.
fn tenant(rig: &mut Rig, words: &[&str]) -> (Task, TaskCap, TaskCap) {
    let made = rig.call(&rig.ned.clone(), rig.svr, delegate(words));
    let Answer::Reply { label: 0, cap: Some(made), .. } = made else { panic!("{words:?}: {made:?}") };
    let task = rig.model.task();
    let weaker = rig.ned.undeletable(made);
    let given = rig.ned.give(weaker, &task);
    rig.ned.release(weaker);
    (task, given, made)
}

#[test]
fn each_word_that_asks_for_more_than_the_ceiling_is_refused_and_named() {
    let mut rig = rig();
    let (task, own, _) = tenant(&mut rig, &CEILING);
    let slots = rig.model.slots();
    let session = 0;
    let factory = -15;
    for (object, words, named) in [
        (session, &["device=golden"][..], "add read-only"),
        (session, &["device=scratch", "read-only"], "device: not held"),
        (session, &["device=soft0:n1", "read-only"], "device: not held"),
        (session, &["device=absent", "read-only"], "device: not held"),
        (session, &["device=golden", "read-only", "ds-max=4"], "ds-max"),
        (session, &["device=golden", "read-only", "ds-max=256"], "ds-max"),
        (session, &["device=golden", "read-only", "ds=b"], "\"b\": not held"),
        (session, &["device=golden", "read-only", "ds=a", "ds=b"], "\"b\": not held"),
        (session, &["device=golden", "read-only", "iops=101"], "iops"),
        (session, &["device=golden", "read-only", "bytes=1048577"], "bytes"),
        (session, &["device=golden", "read-only", "iops=100", "bytes=2G"], "bytes"),
        (factory, &["device=golden"], "add read-only"),
        (factory, &["device=scratch", "read-only"], "device: not held"),
        (factory, &["device=golden", "device=scratch", "read-only"], "device: not held"),
        (factory, &["device=soft0:n1", "read-only"], "device: not held"),
        (factory, &["device=absent", "read-only"], "device: not held"),
        (factory, &["device=golden", "read-only", "ds-max=4"], "ds-max"),
        (factory, &["device=golden", "read-only", "ds=b"], "\"b\": not held"),
        (factory, &["device=golden", "read-only", "ds=b", "ds=a"], "\"b\": not held"),
        (factory, &["device=golden", "read-only", "sessions=3"], "sessions"),
        (factory, &["device=golden", "read-only", "factories=3"], "factories"),
        (factory, &["device=golden", "read-only", "mem-max=2M"], "mem-max"),
        (factory, &["device=golden", "read-only", "iops=101"], "iops"),
        (factory, &["device=golden", "read-only", "bytes=1048577"], "bytes"),
        (factory, &["device=golden", "read-only", "iops-all=151"], "iops-all"),
        (factory, &["device=golden", "read-only", "bytes-all=2097153"], "bytes-all"),
    ] {
        rig.pass_time(SECOND);
        let before = rig.log.text().len();
        assert_eq!(rig.code(&task, own, ask(object, words)), EACCES, "{words:?}");
        let text = rig.log.text();
        let line = &text[before..];
        assert!(line.contains("create refused") && line.contains(named), "{words:?}: {line}");
    }
    rig.settle();
    assert_eq!(rig.model.slots(), slots, "nothing is left of what was refused");
    // To the brim it is given.
    let mut most = vec!["device=golden", "read-only", "ds-max=3", "ds=a", "iops=100", "bytes=1M"];
    rig.create_at(&task, own, &most).unwrap();
    most.extend(["sessions=2", "factories=1", "mem-max=1M", "iops-all=150", "bytes-all=2M"]);
    rig.delegate_at(&task, own, &most).unwrap();
}

#[test]
fn a_word_that_is_repeated_is_refused_whatever_it_says() {
    let mut rig = rig();
    let (task, own, _) = tenant(&mut rig, &CEILING);
    let base = ["device=golden", "read-only"];
    let session = ["device=golden", "read-only", "ds-max=2", "iops=5", "bytes=4096", "name=x"];
    let of_factory = ["sessions=1", "factories=0", "mem-max=4096", "iops-all=5", "bytes-all=4096"];
    let each = session.iter().map(|word| (0, *word));
    let each = each.chain(session[1..].iter().chain(&of_factory).map(|word| (-15, *word)));
    for (object, word) in each {
        // At `svr` as at a factory, the same value twice as well as two.
        for (task, at) in [(&task, own), (&rig.ned.clone(), rig.svr)] {
            let mut words = base.to_vec();
            words.retain(|base| *base != word);
            words.extend([word, word]);
            assert_eq!(rig.code(task, at, ask(object, &words)), EINVAL, "{object} {words:?}");
        }
        rig.pass_time(SECOND);
    }
}

#[test]
fn a_factory_nine_deep_is_refused_though_the_one_above_may_make_factories() {
    let mut rig = rig();
    let (task, mut at, _) = tenant(&mut rig, &["device=golden", "factories=20"]);
    for depth in 2..=8 {
        let factories = format!("factories={}", 20 - depth);
        at = rig.delegate_at(&task, at, &["device=golden", &factories]).unwrap();
    }
    assert_eq!(rig.delegate_at(&task, at, &["device=golden"]), Err(ENOMEM));
    assert!(rig.create_at(&task, at, &["device=golden"]).is_ok());
}

#[test]
fn one_tenants_factories_are_64_with_everybody_elses_and_a_65th_is_made_when_one_goes() {
    let mut rig = rig();
    let (task, own, _) = tenant(&mut rig, &["device=golden", "read-only", "factories=63"]);
    let below: Vec<_> =
        (0..63).map(|_| rig.delegate_at(&task, own, &["device=golden", "read-only"]).unwrap()).collect();
    assert_eq!(rig.delegate_at(&task, own, &["device=golden", "read-only"]), Err(ENOMEM), "its own quota");
    let (ned, svr) = (rig.ned.clone(), rig.svr);
    assert_eq!(rig.delegate_at(&ned, svr, &["device=scratch"]), Err(ENOMEM), "the 65th");
    task.delete(below[0]);
    assert!(rig.delegate_at(&ned, svr, &["device=scratch"]).is_ok());
}

/// Whether a capability's object is gone.
fn gone(task: &Task, cap: TaskCap) -> bool {
    task.answer(task.call(cap, said(-21, &[0]))) == Some(Answer::Gone)
}

#[test]
fn whenever_a_factory_is_deleted_a_create_that_is_under_way_is_refused_or_its_session_gone() {
    let (mut granted, mut refused) = (0, 0);
    for object in [0, -15] {
        for turns in 0..12 {
            let mut rig = rig();
            let svr = rig.svr;
            let baseline = {
                rig.pass_time(SECOND);
                rig.model.slots()
            };
            let (task, own, made) = tenant(&mut rig, &["device=golden", "factories=1"]);
            let call = task.call(own, ask(object, &["device=golden"]));
            for _ in 0..turns {
                rig.turn();
            }
            rig.ned.delete(made);
            match rig.answer(&task, call) {
                Answer::Reply { label: 0, cap: Some(cap), .. } => {
                    granted += 1;
                    rig.settle();
                    assert!(gone(&task, cap), "after {turns} turns");
                }
                Answer::Gone => refused += 1,
                Answer::Reply { label, .. } => {
                    refused += 1;
                    assert_eq!(label, EACCES, "after {turns} turns");
                }
                other => panic!("{other:?}"),
            }
            assert!(gone(&task, own));
            let again = rig.call(&rig.ned.clone(), svr, create(&["device=golden"]));
            let Answer::Reply { label: 0, cap: Some(again), .. } = again else { panic!("{again:?}") };
            rig.ned.release(again);
            task.die();
            rig.pass_time(SECOND);
            assert_eq!(rig.model.slots(), baseline, "after {turns} turns");
        }
    }
    assert!(granted > 0 && refused > 0, "{granted} granted, {refused} refused");
}

#[test]
fn a_factory_of_the_command_line_may_be_deleted_at_any_time_of_the_scan() {
    for turns in (0..200).step_by(7) {
        let (window, _) = partitioned();
        let mut given = None;
        let rig = Rig::start("--factory t1 --device golden", vec![soft("soft0", &window)], |_, ned| {
            given = Some(ned.channel("t1"));
        });
        let (mut rig, channel) = (rig.unwrap(), given.unwrap());
        let task = rig.model.task();
        let own = rig.ned.give(channel, &task);
        let call = task.call(own, create(&["device=golden"]));
        for _ in 0..turns {
            rig.turn();
        }
        rig.ned.delete(channel);
        match rig.answer(&task, call) {
            Answer::Gone => {}
            Answer::Reply { label: 0, cap: Some(cap), .. } => {
                rig.settle();
                assert!(gone(&task, cap), "after {turns} turns");
            }
            answer => assert_eq!(label(&answer), EACCES, "after {turns} turns"),
        }
        assert!(rig.create(&["device=golden"]).is_ok(), "after {turns} turns");
    }
}

#[test]
fn a_factory_that_is_deleted_while_its_controller_is_reset_ends_and_nobody_else() {
    for turns in [0, 1, 2, 5, 10, 50, 200, 1000] {
        let (window, _) = partitioned();
        let mut rig = Rig::start("", vec![soft("soft0", &window)], |_, _| {}).unwrap();
        let (other, of_other) = rig.client(&["device=scratch"]);
        let mut bystander = Driver::setup(&mut rig, other, of_other, 1 << 20);
        let (task, own, made) = tenant(&mut rig, &["device=golden"]);
        let session = rig.create_at(&task, own, &["device=golden"]).unwrap();
        let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
        driver.serves(&mut rig, 1);
        bystander.serves(&mut rig, 1);
        rig.faults().inject(Rule::any(Queue::AnyIo, When::First(20), Action::Delay(SECOND)));
        for slot in 0..16u64 {
            driver.ask(OUT, slot * 8, slot as usize * 4096, 4096).unwrap();
        }
        driver.notify();
        let waits = bystander.ask(IN, 0, 0, 4096).unwrap();
        bystander.notify();
        rig.settle();
        rig.handles[0].raise_fatal();
        for _ in 0..turns {
            rig.turn();
        }
        let before = rig.model.time();
        rig.ned.delete(made);
        rig.settle();
        assert!(gone(&driver.task, driver.session), "after {turns} turns");
        assert_eq!(bystander.finish(&mut rig, waits), OK, "after {turns} turns");
        bystander.serves(&mut rig, 2);
        assert!(rig.create(&["device=golden"]).is_ok(), "after {turns} turns");
        assert!(rig.model.time() - before < 30 * SECOND, "{:?}", rig.model.time() - before);
    }
}

#[test]
fn a_factory_whose_device_is_unplugged_holds_nothing_and_still_ends() {
    let (window, _) = partitioned();
    let mut rig = Rig::start("", vec![soft("soft0", &window), soft("soft1", &disk())], |_, _| {}).unwrap();
    let (task, own, made) = tenant(&mut rig, &["device=golden", "device=soft1:n1", "factories=1"]);
    let session = rig.create_at(&task, own, &["device=golden"]).unwrap();
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    driver.serves(&mut rig, 1);
    rig.handles[0].vanish();
    let slot = driver.ask(IN, 0, 0, 4096).unwrap();
    assert_eq!(driver.finish(&mut rig, slot), IOERR);
    rig.until("the loss", |_| driver.capacity() == 0);
    let task = &driver.task.clone();
    assert_ne!(rig.code(task, own, create(&["device=golden"])), 0);
    assert_ne!(rig.code(task, own, delegate(&["device=golden"])), 0);
    let whole = rig.create_at(task, own, &["device=soft1:n1"]).unwrap();
    rig.ned.delete(made);
    rig.settle();
    assert!(gone(task, whole) && gone(task, driver.session));
    assert!(rig.create(&["device=soft1:n1"]).is_ok());
}

#[test]
fn what_a_writer_of_the_whole_writes_into_the_table_gives_a_factory_nothing_more() {
    let (window, _) = partitioned();
    let mut rig = over_all(&window);
    let (tenant_task, own, _) = tenant(&mut rig, &["device=golden"]);
    let session = rig.create_at(&tenant_task, own, &["device=golden", "read-only"]).unwrap();
    let task = rig.model.task();
    let golden = tenant_task.give(session, &task);
    tenant_task.release(session);
    let reader = Driver::setup(&mut rig, task, golden, 1 << 20);
    let capacity = reader.capacity();
    reader.task.die();
    rig.pass_time(SECOND);
    // Now `golden` is four times as long.
    let (task, whole) = rig.client(&["device=soft0:n1"]);
    let mut writer = Driver::setup(&mut rig, task, whole, 1 << 20);
    let (wider, _) = partitioned_by(16384);
    let mut table = vec![0; 34 * 512];
    for first in [0, DISK / 512 - 34] {
        wider.read(first * 512, &mut table).unwrap();
        writer.fill(0, &table);
        assert_eq!(writer.request(&mut rig, OUT, first as u64, 0, table.len() as u32), OK);
    }
    writer.task.die();
    rig.pass_time(SECOND);
    let (task, session) = rig.client(&["device=golden", "read-only"]);
    let driver = Driver::setup(&mut rig, task, session, 1 << 20);
    assert_eq!(driver.capacity(), 16384, "for whoever asks at svr");
    driver.task.die();
    match rig.create_at(&tenant_task, own, &["device=golden"]) {
        Err(code) => assert!([EACCES, ENODEV].contains(&code), "{code}"),
        Ok(found) => {
            let task = rig.model.task();
            let found = tenant_task.give(found, &task);
            let mut driver = Driver::setup(&mut rig, task, found, 1 << 20);
            assert_eq!(driver.capacity(), capacity);
            assert_eq!(driver.request(&mut rig, IN, capacity, 0, 512), IOERR);
        }
    }
}

fn over_all(window: &Window) -> Rig {
    Rig::start("", vec![soft("soft0", window)], |_, _| {}).unwrap()
}
