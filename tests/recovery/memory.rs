//! Client memory: mapped once and in steps, unmapped when the last access has ended, and not sooner.

use std::sync::Arc;

use nvme_core::server::control::{Config, Event, MemoryChange, Regions, SessionError};
use nvme_mem::{Window, heap};
use nvme_platform::DmaError;
use nvme_session::dataspace::{Claim, File, RegistryError};
use nvme_soft::faulty::{Action, Queue, When};

use crate::client::{Client, GUEST, IN, IOERR, LEN, OK, OUT, PENDING, pattern, region};
use crate::device::Knobs;
use crate::rig::{Rig, SECOND, config, soft};

/// A second region, behind the first and a gap.
const SECOND_AT: u64 = 1 << 32;

fn second(len: u64) -> ((Claim, File), Window) {
    (region(SECOND_AT, len, 77), large(len as usize, 0))
}

/// Memory of which nobody looks at the content, so that the pages never exist; so many bytes after a multiple of 2 MiB.
fn large(len: usize, after: usize) -> Window {
    let more = heap(len + (4 << 20)).unwrap();
    let at = more.address().next_multiple_of(2 << 20) - more.address() + after;
    more.sub(at, len).unwrap()
}

fn two_regions(rig: &mut Rig) -> (Client, Window) {
    let a = rig.client(&["device=d0:n1"]);
    let ((claim, file), window) = second(1 << 20);
    rig.change(&a, &MemoryChange::Add(claim, file), |_| Some(window.clone())).unwrap();
    (a, window)
}

fn is_done(rig: &Rig) -> bool {
    rig.said(|e| matches!(e, Event::Done(..)))
}

#[test]
fn memory_is_mapped_once_whatever_is_asked() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1"]);
    for seed in 0..20 {
        rig.serves(&mut a, 0, seed);
    }
    let knobs = &rig.knobs[0];
    assert_eq!((Knobs::count(&knobs.maps), Knobs::count(&knobs.unmaps)), (1, 0));
}

#[test]
fn a_large_region_is_mapped_in_steps_and_others_are_served_in_between() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1"]);
    let ((claim, file), window) = second(256 << 20);
    rig.begin_change(&a, &MemoryChange::Add(claim, file), |_| Some(window.clone())).unwrap();
    let busy = rig.begin_change(&a, &MemoryChange::Remove(GUEST, GUEST, LEN), |_| None);
    assert_eq!(busy, Err(SessionError::Busy));
    a.ask(0, 0, crate::client::FLUSH, 0, 0, 0);
    rig.kick(&a, 0);
    for step in 1..=4_u64 {
        rig.control.poll(rig.now);
        assert_eq!(rig.knobs[0].reach(), (2, LEN + (step << 26)), "one step a poll");
        assert!(rig.control.take_event().is_none() && !is_done(&rig));
        assert!(rig.control.next_deadline().is_some_and(|t| t <= rig.now), "it wants to go on");
        let now = rig.now;
        rig.workers[0].pass(now, &|| now);
        if step == 2 {
            assert_eq!(a.status(0, 0), OK);
        }
    }
    rig.expect("the change", |e| matches!(e, Event::Done(_, Ok(()))));
}

#[test]
fn a_step_tears_no_large_page() {
    let mut rig = Rig::new(1);
    let a = rig.client(&["device=d0:n1"]);
    // As the second region of an ordinary machine: from 768 KiB on.
    let (len, after) = ((160 << 20) - (768 << 10), 768 << 10);
    let (claim, file) = region(SECOND_AT, len, 77);
    rig.knobs[0].steps.lock().unwrap().clear();
    rig.change(&a, &MemoryChange::Add(claim, file), |_| Some(large(len as usize, after))).unwrap();
    let want = [(64 << 20) - after, 64 << 20, 32 << 20];
    assert_eq!(*rig.knobs[0].steps.lock().unwrap(), want);
}

#[test]
fn what_may_not_be_locked_is_refused_with_the_figure_for_all_of_it() {
    let sizes = [1 << 20, 256 << 20, 3 << 20_u64];
    let all = LEN + sizes.iter().sum::<u64>();
    for limit in [LEN, LEN + (2 << 20), LEN + (130 << 20), all - 4096] {
        let mut rig = Rig::new(1);
        let mut a = rig.client(&["device=d0:n1", "ds-max=9"]);
        let mut wanted = vec![(region(GUEST, LEN, a.key.0), a.memory.clone())];
        for (i, len) in (1..).zip(sizes) {
            wanted.push((region(SECOND_AT * i, len, 80 + i), large(len as usize, 0)));
        }
        *rig.knobs[0].lock_limit.lock().unwrap() = Some(limit);
        let refused = rig.replace(&a, wanted.clone());
        assert_eq!(
            refused,
            Err(SessionError::Dma(DmaError::LockLimit { need: all, allowed: limit })),
            "{limit}"
        );
        // That much is enough.
        *rig.knobs[0].lock_limit.lock().unwrap() = Some(all);
        assert_eq!(rig.replace(&a, wanted), Ok(()));
        rig.serves(&mut a, 0, 1);
    }
}

#[test]
fn what_a_session_s_queue_pair_takes_is_in_the_figure_where_it_has_none_yet() {
    let mut rig = Rig::new(1);
    let client = Client::new(rig.create(&["device=d0:n1"]).unwrap());
    let (claim, file) = region(GUEST, LEN, 7);
    let add = MemoryChange::Add(claim, file);
    *rig.knobs[0].lock_limit.lock().unwrap() = Some(4096);
    let refused = rig.change(&client, &add, |_| Some(client.memory.clone()));
    // Entries of both queues, a list page for each command, and bounce memory.
    let pair = (4 + 1 + 255 + 64) * 4096;
    assert_eq!(refused, Err(SessionError::Dma(DmaError::LockLimit { need: LEN + pair, allowed: 4096 })));
}

#[test]
fn a_removal_is_acknowledged_after_the_last_access_and_unmapped_before_that() {
    let mut rig = Rig::new(1);
    let (mut a, window) = two_regions(&mut rig);
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Delay(3 * SECOND));
    window.write(0, &pattern(5, 4096)).unwrap();
    a.ask(0, 0, OUT, 64, SECOND_AT, 4096);
    rig.kick(&a, 0);
    rig.step();
    rig.begin_change(&a, &MemoryChange::Remove(SECOND_AT, SECOND_AT, 1 << 20), |_| None).unwrap();
    rig.pass_time(2 * SECOND);
    assert!(!is_done(&rig) && Knobs::count(&rig.knobs[0].unmaps) == 0);
    assert_eq!((a.status(0, 0), rig.knobs[0].reach()), (PENDING, (2, LEN + (1 << 20))));
    // New requests do not find it any more.
    a.ask(0, 1, IN, 0, SECOND_AT, 4096);
    assert_eq!(rig.status(&mut a, 0, 1), IOERR);
    assert_eq!(rig.status(&mut a, 0, 0), OK);
    rig.expect("the change", |e| matches!(e, Event::Done(_, Ok(()))));
    assert_eq!((Knobs::count(&rig.knobs[0].unmaps), rig.knobs[0].reach()), (1, (1, LEN)));
    // Nobody else has it, and the controller took its data before.
    assert_eq!(Arc::strong_count(window.owner()), 1);
    a.ask(0, 2, IN, 64, Client::place(2), 4096);
    assert_eq!(rig.status(&mut a, 0, 2), OK);
    assert!(a.bytes(Client::place(2), 4096) == pattern(5, 4096));
    assert_eq!(rig.handles[0].statistics().dma_faults, 0);
}

#[test]
fn a_removal_waits_for_no_other_session_and_no_other_region() {
    let mut rig = Rig::new(2);
    let (mut a, _window) = two_regions(&mut rig);
    let mut b = rig.client(&["device=d1:n1"]);
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Delay(3 * SECOND));
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.faults(1).inject(nvme_soft::faulty::Rule::any(
        Queue::AnyIo,
        When::First(1),
        Action::Delay(3 * SECOND),
    ));
    rig.ask_writes(&mut b, 0, 0..1, 1);
    let start = rig.now;
    rig.change(&a, &MemoryChange::Remove(SECOND_AT, SECOND_AT, 1 << 20), |_| None).unwrap();
    assert!(rig.now - start < SECOND, "its only command in flight is elsewhere");
    assert_eq!(rig.status(&mut a, 0, 0), OK);
    assert_eq!(rig.status(&mut b, 0, 0), OK);
}

#[test]
fn a_new_table_leaves_what_is_unchanged_where_it_is() {
    let mut rig = Rig::new(1);
    let (mut a, _window) = two_regions(&mut rig);
    let first = (
        (Claim { guest: GUEST, user: GUEST, len: LEN, offset: 0 }, region(GUEST, LEN, a.key.0).1),
        a.memory.clone(),
    );
    let before = rig.control.session(a.key).unwrap().registry().table();
    let kept = |table: &nvme_session::memory::MemoryTable| {
        table.regions().iter().find(|r| r.guest == GUEST).map(|r| (r.slot, r.iova))
    };
    let third = (region(SECOND_AT << 1, 1 << 20, 78), heap(1 << 20).unwrap());
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Delay(SECOND));
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.replace(&a, vec![first, third]).unwrap();
    let after = rig.control.session(a.key).unwrap().registry().table();
    assert_eq!((after.regions().len(), kept(&after)), (2, kept(&before)));
    assert_eq!((Knobs::count(&rig.knobs[0].maps), Knobs::count(&rig.knobs[0].unmaps)), (3, 1));
    assert_eq!(rig.status(&mut a, 0, 0), OK);
    rig.serves(&mut a, 0, 2);
}

#[test]
fn a_table_that_cannot_be_mapped_leaves_nothing_of_what_was_new() {
    let windows = [1 << 20, 256 << 20, 1 << 20].map(|len| large(len, 0));
    for left in 0..8 {
        let mut rig = Rig::new(1);
        let mut a = rig.client(&["device=d0:n1", "ds-max=9"]);
        let first = (region(GUEST, LEN, a.key.0), a.memory.clone());
        // The second of them takes four steps.
        let mut wanted = vec![first];
        for (i, window) in (1..).zip(&windows) {
            wanted.push((region(SECOND_AT * i, window.len() as u64, 80 + i), window.clone()));
        }
        *rig.knobs[0].maps_left.lock().unwrap() = Some(left);
        let result = rig.replace(&a, wanted);
        if left < 6 {
            assert_eq!(result, Err(SessionError::Dma(DmaError::NoMemory)));
            assert_eq!(rig.knobs[0].reach(), (1, LEN), "{left}");
            assert!(windows.iter().all(|w| Arc::strong_count(w.owner()) == 1), "{left}");
            assert_eq!(rig.control.session(a.key).unwrap().registry().bytes(), LEN);
        } else {
            assert_eq!((result, rig.knobs[0].reach().0), (Ok(()), 4));
        }
        rig.serves(&mut a, 0, 1);
    }
}

/// Its client is told that the change failed, and goes on with what it had.
#[test]
fn a_table_that_cannot_be_mapped_takes_nothing_away_that_was_there() {
    let mut rig = Rig::new(1);
    let (mut a, _window) = two_regions(&mut rig);
    let first = (region(GUEST, LEN, a.key.0), a.memory.clone());
    let third = (region(SECOND_AT << 1, 1 << 20, 78), heap(1 << 20).unwrap());
    let before = rig.control.session(a.key).unwrap().registry().table();
    *rig.knobs[0].maps_left.lock().unwrap() = Some(0);
    let result = rig.replace(&a, vec![first, third]);
    assert_eq!(result, Err(SessionError::Dma(DmaError::NoMemory)));
    let after = rig.control.session(a.key).unwrap().registry().table();
    let places = |table: &nvme_session::memory::MemoryTable| {
        table.regions().iter().map(|r| (r.guest, r.slot, r.iova)).collect::<Vec<_>>()
    };
    assert_eq!((places(&after).len(), places(&after)), (2, places(&before)));
    rig.serves(&mut a, 0, 1);
    // It is the worker's table, too, and what is there can go later.
    rig.change(&a, &MemoryChange::Remove(SECOND_AT, SECOND_AT, 1 << 20), |_| None).unwrap();
    assert_eq!(rig.knobs[0].reach(), (1, LEN));
    rig.serves(&mut a, 0, 2);
}

#[test]
fn a_home_that_has_no_view_of_a_region_leaves_nothing_of_what_was_new() {
    let mut rig = Rig::new(1);
    let mut a = rig.client(&["device=d0:n1", "ds-max=9"]);
    let wanted: Vec<_> = [(GUEST, LEN, a.key.0), (SECOND_AT, 4096, 91), (SECOND_AT * 2, 4096, 92)]
        .map(|(guest, len, file)| region(guest, len, file))
        .to_vec();
    let page = heap(4096).unwrap();
    let result = rig.change(&a, &MemoryChange::Replace(wanted), |i| (i == 1).then(|| page.clone()));
    assert!(matches!(result, Err(SessionError::Memory(_))));
    assert_eq!((rig.knobs[0].reach(), Arc::strong_count(page.owner())), ((1, LEN), 1));
    rig.serves(&mut a, 0, 1);
}

#[test]
fn memory_that_cannot_be_unmapped_is_kept() {
    let mut rig = Rig::new(1);
    let (a, window) = two_regions(&mut rig);
    Knobs::set(&rig.knobs[0].unmap_fails);
    rig.change(&a, &MemoryChange::Remove(SECOND_AT, SECOND_AT, 1 << 20), |_| None).unwrap();
    assert!(Arc::strong_count(window.owner()) > 1, "the controller may still reach it");
    rig.end(&a);
    assert!(Arc::strong_count(window.owner()) > 1);
}

#[test]
fn a_session_that_ends_while_its_memory_is_mapped_leaves_nothing() {
    let third = (region(SECOND_AT << 1, 256 << 20, 78), heap(256 << 20).unwrap());
    for polls in 0..10 {
        let mut rig = Rig::new(1);
        let (a, window) = two_regions(&mut rig);
        let (claim, file) = third.0;
        let _ = rig.change(&a, &MemoryChange::Remove(SECOND_AT, SECOND_AT, 1 << 20), |_| None);
        rig.begin_change(&a, &MemoryChange::Add(claim, file), |_| Some(third.1.clone())).unwrap();
        for _ in 0..polls {
            rig.control.poll(rig.now);
        }
        rig.end(&a);
        assert_eq!(rig.knobs[0].reach(), (0, 0), "{polls}");
        assert!([&window, &third.1].iter().all(|w| Arc::strong_count(w.owner()) == 1), "{polls}");
    }
}

#[test]
fn rings_that_are_removed_break_their_queue_and_the_session_goes_on() {
    let mut rig = Rig::new(1);
    let (mut a, _window) = two_regions(&mut rig);
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Delay(SECOND));
    rig.ask_writes(&mut a, 0, 0..1, 1);
    rig.change(&a, &MemoryChange::Remove(GUEST, GUEST, LEN), |_| None).unwrap();
    assert_eq!(rig.knobs[0].reach(), (1, 1 << 20));
    assert!(rig.said(|e| matches!(e, Event::QueueBroken(..))));
    rig.control.stop_queue(a.key, 0).unwrap();
    rig.expect("the stop", |e| matches!(e, Event::QueueStopped(..)));
    let (claim, file) = region(GUEST, LEN, a.key.0);
    rig.change(&a, &MemoryChange::Add(claim, file), |_| Some(a.memory.clone())).unwrap();
    a.reset_ring(0);
    rig.restart(&a, 0).unwrap();
    rig.serves(&mut a, 0, 2);
}

#[test]
fn many_queues_get_a_large_table_and_what_is_removed_from_it_is_waited_for() {
    const SMALL: u64 = 400;
    let mut rig = Rig::with(Config { queues: 32, ..config() }, vec![soft("d0")]);
    let mut a = rig.client(&["device=d0:n1"]);
    for _ in 1..32 {
        rig.start(&mut a).unwrap();
    }
    rig.step();
    let first = (region(GUEST, LEN, a.key.0), a.memory.clone());
    let page = heap(4096).unwrap();
    let at = |i: u64| SECOND_AT + i * 4096;
    let small = (0..SMALL).map(|i| (region(at(i), 4096, a.key.0), page.clone()));
    rig.replace(&a, [first.clone()].into_iter().chain(small).collect()).unwrap();
    // Each queue has the new table when the client is told so.
    for queue in 0..32 {
        a.ask(queue, 0, IN, 0, at(SMALL - 1 - queue as u64), 4096);
        rig.kick(&a, queue);
        assert_eq!(rig.status(&mut a, queue, 0), OK, "{queue}");
    }
    // One request holds one region; all the others are let go of, and so is it in the end.
    rig.inject(Queue::AnyIo, 0x01, When::First(1), Action::Delay(3 * SECOND));
    a.ask(0, 1, OUT, 64, at(200), 4096);
    rig.kick(&a, 0);
    rig.step();
    rig.begin_change(&a, &MemoryChange::Replace(vec![first.0]), |_| None).unwrap();
    rig.pass_time(2 * SECOND);
    assert!(!is_done(&rig));
    a.ask(31, 1, IN, 0, at(200), 4096);
    rig.kick(&a, 31);
    assert_eq!(rig.status(&mut a, 31, 1), IOERR, "a new request does not find it");
    rig.expect("the change", |e| matches!(e, Event::Done(_, Ok(()))));
    assert_eq!((a.status(0, 1), rig.knobs[0].reach()), (OK, (1, LEN)));
}

#[test]
fn a_session_s_share_of_the_regions_is_its_own_and_what_is_common_is_had_once() {
    let mut rig = Rig::new(2);
    rig.control.limit_regions(Regions { fixed: 0, dynamic: 2, common: 1 });
    let (a, b) = (rig.client(&["device=d0:n1", "ds-max=9"]), rig.client(&["device=d1:n1", "ds-max=9"]));
    let page = heap(4096).unwrap();
    let add = |rig: &mut Rig, client: &Client, at: u64| {
        let (claim, file) = region(SECOND_AT * at, 4096, at);
        rig.change(client, &MemoryChange::Add(claim, file), |_| Some(page.clone()))
    };
    let no_room = |asked| {
        let allowed = asked - 1;
        Err(SessionError::Memory(RegistryError::NoRoom { asked, allowed }))
    };
    assert_eq!([add(&mut rig, &a, 1), add(&mut rig, &a, 2)], [Ok(()), Ok(())]);
    assert_eq!(add(&mut rig, &a, 3), no_room(4));
    // The other one's share is there still, and no more than that.
    assert_eq!([add(&mut rig, &b, 1), add(&mut rig, &b, 2)], [Ok(()), no_room(3)]);
    rig.change(&a, &MemoryChange::Remove(SECOND_AT, SECOND_AT, 4096), |_| None).unwrap();
    assert_eq!([add(&mut rig, &b, 2), add(&mut rig, &a, 1)], [Ok(()), no_room(3)]);
}
