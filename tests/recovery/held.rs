//! Sessions that wait: for what they may do a second, and for what another server began.

use nvme_core::server::control::{Drained, Event};
use nvme_mem::{Window, heap};
use nvme_session::virtqueue::{journal_holds, journal_len};

use crate::client::{Client, DATA, FLUSH, GUEST, IN, IOERR, OK, PENDING, SIZE};
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

/// Where another server kept that the first request of a ring was in flight, which overtook nothing yet.
fn journal() -> Window {
    let journal = heap(journal_len(SIZE)).unwrap();
    let (version, entries) = (1, SIZE);
    journal.write_value(8, &[version, entries]).unwrap();
    // The first entry, of the first descriptor.
    journal.write_value(16, &1_u8).unwrap();
    journal
}

/// A client whose ring has what a killed server left, and is stopped while its device is drained: by the worker that has it, or where it waits to go there.
fn stops_while_it_is_drained(rig: &mut Rig, waits: bool) -> (Client, Window) {
    let mut a = rig.client(&["device=d0:n1"]);
    rig.control.stop_queue(a.key, 0).unwrap();
    rig.expect("the stop", |e| matches!(e, Event::QueueStopped(..)));
    a.ask(0, 0, IN, 0, Client::place(0), 4096);
    let kept = journal();
    if waits {
        rig.control.drain(Drained::All);
    }
    let spec = nvme_core::server::control::QueueSpec { journal: Some(kept.clone()), ..a.spec(0) };
    rig.control.start_queue(a.key, 0, spec, Box::new(a.rings[0].notify.clone())).unwrap();
    if !waits {
        // Its worker hears of both before it looks.
        rig.control.drain(Drained::All);
        rig.expect("that it is quiet", |e| matches!(e, Event::Held(_)));
    }
    assert_eq!(rig.control.drain(Drained::All), [], "nothing of it is in flight here");
    rig.control.finish_queue(a.key, 0).unwrap();
    rig.pass_time(10 * SECOND);
    assert!(!rig.said(|e| matches!(e, Event::QueueStopped(..))), "it would say that nothing is left");
    assert_eq!((a.status(0, 0), journal_holds(&kept, SIZE)), (PENDING, true), "it is drained");
    (a, kept)
}

#[test]
fn a_ring_that_stops_while_it_is_drained_ends_once_what_a_killed_server_left_is_done() {
    for waits in [true, false] {
        let mut rig = Rig::new(1);
        let (a, kept) = stops_while_it_is_drained(&mut rig, waits);
        rig.control.resume(Drained::All);
        let stopped = rig.expect("the stop", |e| matches!(e, Event::QueueStopped(..)));
        assert!(matches!(stopped, Event::QueueStopped(key, 0, 1) if key == a.key));
        assert_eq!((a.status(0, 0), journal_holds(&kept, SIZE)), (OK, false));
    }
}

#[test]
fn a_ring_that_stops_while_it_is_drained_is_in_nobodys_way() {
    for waits in [true, false] {
        let mut rig = Rig::new(1);
        let (a, kept) = stops_while_it_is_drained(&mut rig, waits);
        rig.control.clear(a.key);
        rig.expect("that its client is gone", |e| matches!(e, Event::Cleared(_)));
        assert_eq!((a.status(0, 0), journal_holds(&kept, SIZE)), (PENDING, true), "the next server does it");

        let mut rig = Rig::new(1);
        let (a, _) = stops_while_it_is_drained(&mut rig, waits);
        rig.control.end(a.key);
        rig.expect("its end", |e| matches!(e, Event::Ended(_)));

        let mut rig = Rig::new(1);
        let (a, _) = stops_while_it_is_drained(&mut rig, waits);
        rig.handles[0].vanish();
        rig.expect("the loss", |e| matches!(e, Event::Lost(_)));
        rig.expect("the stop", |e| matches!(e, Event::QueueStopped(..)));
        assert_eq!(a.status(0, 0), IOERR);
    }
}

#[test]
fn nobody_is_served_where_what_another_server_began_may_still_land() {
    let mut rig = Rig::new(2);
    let mut before = rig.client(&["device=d0:n1", "read-only"]);
    let mut beside = rig.client(&["device=d1:n1"]);
    rig.control.set_unsettled(0, true);
    let mut after = rig.client(&["device=d0:n1", "read-only"]);
    let done = |rig: &Rig| (rig.handles[0].statistics().reads, rig.handles[0].statistics().flushes);
    let begun = done(&rig);
    for client in [&mut before, &mut after] {
        client.ask(0, 0, IN, 0, Client::place(0), 4096);
        client.ask(0, 1, FLUSH, 0, 0, 0);
        rig.kick(client, 0);
    }
    rig.pass_time(SECOND);
    for client in [&before, &after] {
        assert!(rig.control.is_unsettled(client.key));
        assert_eq!([0, 1].map(|slot| client.status(0, slot)), [PENDING; 2]);
    }
    assert_eq!(done(&rig), begun, "its controller is asked for nothing");
    rig.serves(&mut beside, 0, 1);
    rig.control.set_unsettled(0, false);
    for client in [&mut before, &mut after] {
        rig.answered(client, 0, vec![0, 1]);
        assert_eq!([0, 1].map(|slot| client.status(0, slot)), [OK; 2]);
    }
}
