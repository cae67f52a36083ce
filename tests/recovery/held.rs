//! Sessions that wait: for what they may do a second, and for what another server began.

use nvme_core::server::control::{Drained, Event};

use crate::client::{Client, DATA, GUEST, IN, OK, PENDING};
use crate::rig::{MS, Rig, SECOND};

/// Long for who may have 64 KiB a second: it is done in sixteen pieces.
const LONG: u32 = 128 << 10;

#[test]
fn who_stops_its_queue_in_the_middle_of_long_requests_has_no_more_than_it_may() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1", "bytes=64K"]);
    let begun = rig.now;
    let mut answered = 0;
    for slot in 0..4 {
        a.ask(0, slot, IN, 0, GUEST + DATA, LONG);
        while answered == slot {
            // It has begun by then, unless what was done before is still to be paid for.
            rig.kick(&a, 0);
            rig.pass_time(10 * MS);
            rig.control.stop_queue(a.key, 0).unwrap();
            rig.expect("the stop", |e| matches!(e, Event::QueueStopped(..)));
            answered += a.used(0).len() as u16;
            rig.restart(&a, 0).unwrap();
        }
        assert_eq!(a.status(0, slot), OK);
    }
    // Two seconds each, but for the last one, and a burst.
    assert!(rig.now - begun > 5 * SECOND, "4 times 128 KiB in {:?}", rig.now - begun);
    assert!(rig.now - begun < 9 * SECOND, "it is not held for longer: {:?}", rig.now - begun);
}

#[test]
fn a_drain_is_over_once_what_another_server_began_there_is() {
    let mut rig = Rig::new(1);
    let mut before = rig.client(&["device=d0:n1", "read-only"]);
    rig.control.set_unsettled(0, true);
    let after = rig.client(&["device=d0:n1", "read-only"]);
    rig.pass_time(SECOND);
    before.ask(0, 0, IN, 0, Client::place(0), 4096);
    rig.kick(&before, 0);
    assert_eq!(rig.control.drain(Drained::All), [before.key, after.key]);
    rig.pass_time(SECOND);
    assert!(!rig.said(|e| matches!(e, Event::Held(_))), "storage may still change what is there");
    rig.control.set_unsettled(0, false);
    for key in [before.key, after.key] {
        rig.expect("that it is quiet", |e| matches!(e, Event::Held(of) if *of == key));
        assert!(rig.control.session(key).unwrap().is_quiet());
    }
    assert_eq!(rig.control.drain(Drained::Controller(0)), []);
    // And the same with who was quiet before.
    rig.control.set_unsettled(0, true);
    assert_eq!(rig.control.drain(Drained::Controller(0)), [before.key, after.key]);
    rig.control.set_unsettled(0, false);
    rig.expect("that it is quiet", |e| matches!(e, Event::Held(of) if *of == before.key));
    assert_eq!(before.status(0, 0), PENDING);
    rig.control.resume(Drained::All);
    assert_eq!(rig.status(&mut before, 0, 0), OK);
}
