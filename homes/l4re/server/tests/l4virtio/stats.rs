//! What sessions did, as the log says it.

use std::time::Duration;

use nvme_soft::faulty::{Action, Queue, Rule, When};
use nvme_soft::wire::Status;

use crate::driver::*;
use crate::rig::*;

const MINUTE: Duration = Duration::from_secs(60);

fn told(options: &str) -> Rig {
    Rig::start(options, vec![soft("soft0", &disk())], |_, _| {}).unwrap()
}

/// The number behind a name.
fn value(line: &str, name: &str) -> Option<u64> {
    line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// So many reads, writes of twice the size, and a request that fails.
fn work(rig: &mut Rig, driver: &mut Driver, reads: usize, writes: usize) {
    for _ in 0..reads {
        assert_eq!(driver.request(rig, IN, 0, 0, 4096), OK);
    }
    for _ in 0..writes {
        assert_eq!(driver.request(rig, OUT, 8, 0, 8192), OK);
    }
    assert_eq!(driver.request(rig, IN, DISK as u64, 0, 512), IOERR);
}

#[test]
fn what_a_session_did_is_said_once_a_minute_and_at_its_end() {
    let mut rig = told("-v");
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    work(&mut rig, &mut driver, 10, 3);
    rig.pass_time(MINUTE / 2);
    assert_eq!(rig.log.stats(), [""; 0], "not before a minute is over");
    rig.pass_time(MINUTE);
    let said = rig.log.stats();
    let [line] = said.as_slice() else { panic!("{said:?}") };
    assert!(line.starts_with("session 1: requests=14 "), "{line}");
    for (name, count) in [
        ("read", Some(11)),
        ("write", Some(3)),
        ("flush", None),
        ("failed", Some(1)),
        ("unsupported", Some(0)),
        ("read_bytes", Some(10 * 4096)),
        ("written_bytes", Some(3 * 8192)),
        ("in_flight", Some(0)),
        ("depth_most", Some(1)),
        ("held_ms", Some(0)),
        ("iops", None),
        ("bytes", None),
    ] {
        assert_eq!(value(line, name), count, "{name}: {line}");
    }
    assert!(value(line, "notifications").is_some_and(|n| n >= 13), "{line}");
    // All that was done since the session began is said at its end.
    work(&mut rig, &mut driver, 1, 0);
    driver.task.die();
    rig.pass_time(SECOND);
    let said = rig.log.stats();
    assert!(said.len() == 2 && value(&said[1], "requests") == Some(16), "{said:?}");
}

#[test]
fn a_session_that_does_nothing_is_not_spoken_of_and_wakes_nobody() {
    let mut rig = told("-v");
    let (task, session) = rig.client(&["device=soft0:n1", "read-only"]);
    let (other, of_other) = rig.client(&["device=soft0:n1", "read-only"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    let idle = Driver::setup(&mut rig, other, of_other, 1 << 20);
    work(&mut rig, &mut driver, 1, 0);
    rig.pass_time(2 * MINUTE);
    assert_eq!(rig.log.stats().len(), 1, "{:?}", rig.log.stats());
    let idle_after = rig.settle();
    rig.pass_time(10 * MINUTE);
    assert_eq!((rig.log.stats().len(), rig.settle().is_some()), (1, idle_after.is_some()));
    idle.task.die();
    rig.pass_time(SECOND);
    assert_eq!(rig.log.stats().len(), 1, "it did nothing");
}

#[test]
fn nothing_is_said_of_sessions_to_whoever_does_not_ask_for_it() {
    let mut rig = told("");
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    work(&mut rig, &mut driver, 1, 0);
    let until = rig.settle();
    // Nothing but the controller's health, which is asked for once a minute, wakes an idle server.
    let soon = rig.model.time() + Duration::from_secs(50);
    assert!(until.is_none_or(|at| at > soon), "{until:?}");
    rig.pass_time(2 * MINUTE);
    driver.task.die();
    rig.pass_time(SECOND);
    assert_eq!(rig.log.stats(), [""; 0]);
}

#[test]
fn a_session_with_work_without_end_is_spoken_of_each_minute() {
    let mut rig = told("-v");
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    for _ in 0..35 {
        work(&mut rig, &mut driver, 1, 0);
        rig.pass_time(5 * SECOND);
    }
    let said = rig.log.stats();
    assert_eq!(said.len(), 2, "{said:?}");
    let requests: Vec<_> = said.iter().map(|line| value(line, "requests").unwrap()).collect();
    assert!(requests[0] >= 22 && requests[1] >= requests[0] + 22, "{requests:?}");
}

#[test]
fn limits_hold_and_are_said_with_how_long_they_kept_requests_waiting() {
    let mut rig = told("-v");
    let (task, session) = rig.client(&["device=soft0:n1", "iops=50", "bytes=1M"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    let before = rig.model.time();
    for slot in 0..60u64 {
        driver.ask(IN, slot * 8, slot as usize * 4096, 4096).unwrap();
    }
    driver.notify();
    let mut ended = 0;
    rig.until("the end of all", |_| {
        ended += driver.ended().len();
        ended == 60
    });
    // Of the second's 50, five lie ready; one is on credit.
    let took = rig.model.time() - before;
    assert!(took >= 1080 * MS && took < 1300 * MS, "{took:?}");
    driver.task.die();
    rig.pass_time(SECOND);
    let said = rig.log.stats();
    let line = said.last().unwrap();
    assert_eq!(
        (value(line, "iops"), value(line, "bytes"), value(line, "requests")),
        (Some(50), Some(1 << 20), Some(60))
    );
    assert!(value(line, "held_ms").is_some_and(|ms| (900..1300).contains(&ms)), "{line}");
}

#[test]
fn what_the_controller_fails_is_counted_by_its_status() {
    let mut rig = told("-v");
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    for status in [0x4281, 0x4281, 0x4080] {
        rig.faults().inject(Rule::any(Queue::AnyIo, When::First(1), Action::Status(Status(status))));
        assert_eq!(driver.request(&mut rig, IN, 0, 0, 4096), IOERR);
        rig.faults().clear();
    }
    work(&mut rig, &mut driver, 1, 1);
    driver.task.die();
    rig.pass_time(SECOND);
    let said = rig.log.stats();
    let line = said.last().unwrap();
    let numbers = ["failed", "read_error", "out_of_range", "write_fault"].map(|name| value(line, name));
    assert_eq!(numbers, [Some(4), Some(2), Some(1), None], "{line}");
}
