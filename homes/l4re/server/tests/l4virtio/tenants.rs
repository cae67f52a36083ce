//! Tenants beside each other: what one of them learns of another, has more than its share of, or leaves behind.

use std::sync::Arc;

use nvme_l4re::model::{Answer, Task, TaskCap};
use nvme_mem::heap;
use nvme_soft::faulty::{Action, Queue, Rule, When};
use nvme_soft::{MemoryMedium, NamespaceConfig};

use crate::changes::partitioned;
use crate::driver::*;
use crate::rig::*;

/// Two partitions, `golden` and `scratch`, on `soft0`, and a second controller.
fn rig() -> Rig {
    let (window, _) = partitioned();
    Rig::start("", vec![soft("soft0", &window), soft("soft1", &disk())], |_, _| {}).unwrap()
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

fn gone(task: &Task, cap: TaskCap) -> bool {
    task.answer(task.call(cap, said(-21, &[0]))) == Some(Answer::Gone)
}

/// A session of that controller whose client has died, and that drains for half a second.
fn dying(rig: &mut Rig, controller: usize, task: Task, session: TaskCap) {
    let mut driver = Driver::setup(rig, task, session, 1 << 20);
    let slow = rig.handles[controller].faults().unwrap();
    slow.inject(Rule::any(Queue::AnyIo, When::Always, Action::Delay(500 * MS)));
    driver.ask(OUT, 0, 0, 4096).unwrap();
    driver.notify();
    rig.settle();
    driver.task.die();
}

/// Refused again and again, through factories that it makes for that: it has one tenant's lines.
#[test]
fn a_tenant_has_no_more_lines_for_making_factories() {
    let mut rig = rig();
    let (task, own, _) = tenant(&mut rig, &["device=golden", "factories=40"]);
    let (other, of_other, _) = tenant(&mut rig, &["device=scratch", "name=quiet"]);
    rig.pass_time(SECOND);
    let before = (rig.log.text().lines().count(), rig.model.time());
    for _ in 0..30 {
        let below = rig.delegate_at(&task, own, &["device=golden"]).unwrap();
        for _ in 0..10 {
            assert_eq!(rig.create_at(&task, below, &["device=flood"]), Err(EACCES));
        }
        task.delete(below);
    }
    assert_eq!(rig.create_at(&other, of_other, &["device=flood"]), Err(EACCES));
    assert!(rig.model.time() - before.1 < SECOND);
    let text = rig.log.text();
    let lines: Vec<&str> = text.lines().skip(before.0).collect();
    let refused = lines.iter().filter(|line| line.contains("create refused"));
    assert_eq!(refused.count(), 10 + 1, "{text}");
    assert!(lines.iter().any(|line| line.starts_with("factory 2 \"quiet\": create refused")), "{text}");
}

/// Somebody's session drains for long: who is refused what another session of his own has is told so at once, and learns nothing.
#[test]
fn a_refusal_does_not_wait_for_an_end_that_gives_nothing() {
    let mut rig = rig();
    let (first, own, _) = tenant(&mut rig, &["device=soft1:n1", "sessions=1", "factories=1"]);
    let (second, of_second, _) =
        tenant(&mut rig, &["device=golden", "sessions=2", "factories=2", "device=scratch"]);
    let held = rig.create_at(&second, of_second, &["device=golden"]).unwrap();
    let below = rig.delegate_at(&second, of_second, &["device=golden", "device=scratch"]).unwrap();
    rig.create_at(&second, of_second, &["device=scratch", "read-only"]).unwrap();
    let session = rig.create_at(&first, own, &["device=soft1:n1"]).unwrap();
    let task = rig.model.task();
    let given = first.give(session, &task);
    first.release(session);
    dying(&mut rig, 1, task, given);
    let begun = rig.model.time();
    // In use, and used up, at its factory and below that.
    assert_eq!(rig.create_at(&second, of_second, &["device=scratch", "read-only"]), Err(ENOMEM));
    assert_eq!(rig.create_at(&second, below, &["device=scratch", "read-only"]), Err(ENOMEM));
    second.release(held);
    let held = rig.create_at(&second, of_second, &["device=golden"]).unwrap();
    assert_eq!(rig.delegate_at(&second, below, &["device=golden"]), Err(ENOMEM));
    let third = tenant(&mut rig, &["device=golden", "device=scratch"]);
    assert_eq!(rig.create_at(&third.0, third.1, &["device=golden"]), Err(EBUSY));
    assert!(rig.model.time() - begun < 50 * MS, "{:?}", rig.model.time() - begun);
    // Whoever waits for that very end is served when it comes.
    assert!(rig.create_at(&first, own, &["device=soft1:n1"]).is_ok());
    assert!(rig.model.time() - begun > 100 * MS);
    second.release(held);
}

/// By the time that an answer takes nobody tells what there is.
#[test]
fn what_is_not_held_is_refused_in_the_same_time_whether_it_is_there_or_not() {
    let mut rig = rig();
    let (task, own, _) = tenant(&mut rig, &["device=golden"]);
    let busy = rig.create(&["device=scratch"]).unwrap();
    rig.pass_time(SECOND);
    // After the tenth in a second nothing is printed, so that lines take no time here.
    let mut took = Vec::new();
    for name in ["device=scratch", "device=soft1:n1", "device=nothing", "device=soft9:n9"] {
        let each = (0..3).map(|_| {
            let begun = rig.model.time();
            assert_eq!(rig.create_at(&task, own, &[name]), Err(EACCES), "{name}");
            rig.model.time() - begun
        });
        took.push(each.min().unwrap());
    }
    assert!(took.iter().all(|time| *time == took[0]), "{took:?}");
    rig.ned.release(busy);
}

#[test]
fn a_namespace_that_grows_gives_the_factory_of_a_partition_nothing() {
    let (table, _) = partitioned();
    let window = heap(2 * DISK).unwrap();
    let mut bytes = vec![0; DISK];
    table.read(0, &mut bytes).unwrap();
    window.write(0, &bytes).unwrap();
    let mut device = soft("soft0", &table);
    device.namespaces = vec![NamespaceConfig::new(Arc::new(MemoryMedium::over(window)))];
    let mut rig = Rig::start("", vec![device], |_, _| {}).unwrap();
    assert!(rig.handles[0].resize(1, DISK as u64));
    rig.pass_time(SECOND);
    let (task, part, _) = tenant(&mut rig, &["device=golden", "factories=1"]);
    let (other, whole, _) = tenant(&mut rig, &["device=soft0:n1"]);
    let sectors = |rig: &mut Rig, task: &Task, at: TaskCap, name: &str| {
        let session = rig.create_at(task, at, &[name, "read-only"]).unwrap();
        let heir = rig.model.task();
        let given = task.give(session, &heir);
        task.release(session);
        let driver = Driver::setup(rig, heir, given, 1 << 20);
        let capacity = driver.capacity();
        driver.task.die();
        rig.pass_time(SECOND);
        capacity
    };
    let before = sectors(&mut rig, &task, part, "device=golden");
    assert_eq!(sectors(&mut rig, &other, whole, "device=soft0:n1"), (DISK / 512) as u64);
    assert!(rig.handles[0].resize(1, 2 * DISK as u64));
    rig.pass_time(SECOND);
    assert_eq!(sectors(&mut rig, &other, whole, "device=soft0:n1"), (2 * DISK / 512) as u64);
    assert_eq!(sectors(&mut rig, &task, part, "device=golden"), before);
    for name in ["device=soft0:n1", "device=scratch"] {
        assert_eq!(rig.create_at(&task, part, &[name, "read-only"]), Err(EACCES));
        assert_eq!(rig.delegate_at(&task, part, &[name, "read-only"]), Err(EACCES));
    }
}

/// Capabilities come with what is asked, its own factory and sessions among them: none is kept, and none keeps anything alive.
#[test]
fn a_flood_of_capabilities_at_a_factory_leaves_nothing_behind() {
    let mut rig = rig();
    rig.pass_time(SECOND);
    let slots = rig.model.slots();
    let (task, own, made) = tenant(&mut rig, &["device=golden", "read-only", "factories=1"]);
    let below = rig.delegate_at(&task, own, &["device=golden", "read-only"]).unwrap();
    let session = rig.create_at(&task, own, &["device=golden", "read-only"]).unwrap();
    let had = rig.model.slots();
    for cap in [own, below, session, task.irq(), task.other()] {
        for at in [own, below] {
            for mut said in [
                create(&["device=golden", "read-only"]),
                delegate(&["device=golden", "read-only"]),
                create(&["device=scratch"]),
                said(-21, &[0]),
                said(-15, &[]),
            ] {
                said.cap = with_cap(0, &[], cap).cap;
                for _ in 0..5 {
                    let answer = rig.call(&task, at, said.clone());
                    if let Answer::Reply { cap: Some(got), .. } = answer {
                        task.release(got);
                    }
                }
            }
        }
    }
    rig.pass_time(SECOND);
    assert_eq!(rig.model.slots(), had);
    rig.ned.delete(made);
    rig.settle();
    assert!([own, below, session].into_iter().all(|cap| gone(&task, cap)));
    task.die();
    rig.pass_time(SECOND);
    assert_eq!(rig.model.slots(), slots);
}

/// Its name is text between quotes, and stays there.
#[test]
fn what_a_tenant_calls_itself_does_not_pass_for_the_servers_words() {
    let mut rig = rig();
    let (task, own, _) = tenant(&mut rig, &["device=golden", "name=x\": ended; factory 9 \"y\\"]);
    assert_eq!(rig.create_at(&task, own, &["device=scratch"]), Err(EACCES));
    let text = rig.log.text();
    assert!(text.contains("factory 1 \"x\\\": ended; factory 9 \\\"y\\\\\": create refused"), "{text}");
}

/// The table of a disk is read again, and at each moment of that its factory is deleted.
#[test]
fn a_factory_that_is_deleted_while_its_disk_is_scanned_again_ends_and_mints_no_more() {
    for turns in (0..60).step_by(3) {
        let mut rig = rig();
        let (task, own, made) = tenant(&mut rig, &["device=golden", "factories=1"]);
        let session = rig.create_at(&task, own, &["device=golden"]).unwrap();
        let below = rig.delegate_at(&task, own, &["device=golden"]).unwrap();
        // Another namespace appears, and all tables are read.
        assert!(rig.handles[0].add(5, NamespaceConfig::new(Arc::new(MemoryMedium::over(disk())))).is_ok());
        let call = task.call(below, create(&["device=golden", "read-only"]));
        for _ in 0..turns {
            rig.turn();
        }
        rig.ned.delete(made);
        match rig.answer(&task, call) {
            Answer::Gone => {}
            answer => assert!([EACCES, EBUSY].contains(&label(&answer)), "after {turns} turns: {answer:?}"),
        }
        rig.settle();
        assert!([own, below, session].into_iter().all(|cap| gone(&task, cap)), "after {turns} turns");
        rig.pass_time(SECOND);
        assert_eq!(rig.model.kept(), 0);
        assert!(rig.create(&["device=golden"]).is_ok(), "after {turns} turns");
    }
}
