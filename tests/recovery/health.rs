//! How controllers are, and what went wrong with them, as it is counted.

use nvme_core::nvme::{Smart, Troubled};
use nvme_core::server::control::ControllerState;
use nvme_soft::Health;
use nvme_soft::faulty::{Action, Queue, When};
use nvme_soft::wire::{Status, admin, nvm};

use crate::client::{IOERR, OK};
use crate::rig::{Rig, SECOND};

fn smart(rig: &Rig) -> Option<Smart> {
    rig.control.controllers().next().and_then(|(_, controller, _)| controller.smart().copied())
}

fn troubled(rig: &Rig) -> Troubled {
    rig.control.controllers().next().unwrap().1.troubled()
}

#[test]
fn a_controller_is_asked_for_its_health_once_a_minute() {
    let mut rig = Rig::new(1);
    rig.pass_time(SECOND);
    let first = smart(&rig).expect("it answers");
    assert_eq!((first.critical, first.celsius(), first.spare, first.used), (0, 37, 100, 0));
    assert_eq!((first.media_errors, first.unsafe_shutdowns), (0, 0));
    rig.handles[0].set_health(Health { critical: 1, temperature: 350, spare: 3, used: 101 });
    rig.pass_time(50 * SECOND);
    assert_eq!(smart(&rig), Some(first), "not more often");
    rig.pass_time(15 * SECOND);
    let second = smart(&rig).unwrap();
    assert_eq!((second.critical, second.celsius(), second.spare, second.used), (1, 77, 3, 101));
    assert_eq!(troubled(&rig), Troubled::default());
}

/// One that does not know the log pages serves all the same, and is asked again.
#[test]
fn a_controller_without_health_serves_and_says_nothing_of_it() {
    let mut rig = Rig::new(1);
    rig.inject(Queue::Admin, admin::GET_LOG_PAGE, When::Always, Action::Fail(Status(0x109)));
    rig.pass_time(130 * SECOND);
    let mut client = rig.client(&["device=d0:n1"]);
    rig.serves(&mut client, 0, 1);
    assert_eq!(rig.state(0), ControllerState::Serving);
    assert!(rig.faults(0).fired() >= 2, "{}", rig.faults(0).fired());
}

#[test]
fn what_goes_wrong_is_counted_by_what_it_is() {
    let mut rig = Rig::new(1);
    let mut client = rig.client(&["device=d0:n1"]);
    rig.inject(Queue::AnyIo, nvm::WRITE, When::First(1), Action::Fail(Status(0x280 | 1 << 14)));
    rig.ask_writes(&mut client, 0, 0..1, 1);
    assert_eq!(rig.status(&mut client, 0, 0), IOERR);
    assert_eq!(troubled(&rig), Troubled { failed: 1, ..Troubled::default() });
    rig.inject(Queue::AnyIo, nvm::WRITE, When::First(1), Action::Fail(Status(0x21)));
    rig.ask_writes(&mut client, 0, 1..2, 1);
    assert_eq!(rig.status(&mut client, 0, 1), OK);
    assert_eq!(troubled(&rig), Troubled { failed: 1, repeated: 1, ..Troubled::default() });
    rig.inject(Queue::AnyIo, nvm::WRITE, When::First(1), Action::Hang);
    rig.ask_writes(&mut client, 0, 2..3, 1);
    assert_eq!(rig.status(&mut client, 0, 2), OK);
    let Troubled { late, aborts, resets, .. } = troubled(&rig);
    assert_eq!((late, aborts, resets), (1, 1, 0));
    rig.handles[0].raise_fatal();
    rig.until("a reset", |rig| troubled(rig).resets == 1 && rig.state(0) == ControllerState::Serving);
    rig.serves(&mut client, 0, 5);
}
