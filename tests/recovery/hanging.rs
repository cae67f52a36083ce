//! Storage that hangs: who waits, who does not, and what becomes of what its sessions want back meanwhile.

use std::sync::{Arc, Mutex};

use nvme_core::server::control::{ControllerState, Event, MemoryChange};
use nvme_mem::Window;
use nvme_soft::{Begun, Job, NamespaceConfig, Request, Storage};

use crate::client::{Client, IN, LEN, OK, PENDING, region};
use crate::device::Knobs;
use crate::rig::{Rig, SECOND, config, soft};

const DISK: usize = 8 << 20;
/// Where a session's second region is.
const SECOND_AT: u64 = 1 << 32;

/// Storage of which a part hangs.
struct Hanging {
    disk: Window,
    /// Requests below this offset wait.
    below: Mutex<u64>,
    waiting: Mutex<Vec<Request>>,
}

impl Hanging {
    fn new() -> Arc<Self> {
        let disk = nvme_mem::heap(DISK).unwrap();
        Arc::new(Self { disk, below: Mutex::new(0), waiting: Mutex::default() })
    }

    fn freeze(&self, below: u64) {
        *self.below.lock().unwrap() = below;
    }

    fn thaw(&self) {
        self.freeze(0);
        for request in self.waiting.lock().unwrap().drain(..) {
            self.serve(&request);
            request.end(Ok(()));
        }
    }

    fn serve(&self, request: &Request) {
        assert!(match request.job() {
            Job::Read { offset, .. } => request.scatter(&self.disk, offset as usize),
            Job::Write { offset, .. } => request.gather(&self.disk, offset as usize),
            Job::Flush | Job::Discard { .. } | Job::Zero { .. } => true,
        });
    }
}

impl Storage for Hanging {
    fn size(&self) -> u64 {
        DISK as u64
    }

    fn begin(&self, request: Request) -> Begun {
        let (Job::Read { offset, .. } | Job::Write { offset, .. }) = request.job() else {
            return Begun::Ended(request, Ok(()));
        };
        if offset < *self.below.lock().unwrap() {
            self.waiting.lock().unwrap().push(request);
            return Begun::UnderWay;
        }
        self.serve(&request);
        Begun::Ended(request, Ok(()))
    }
}

/// `d0` over such storage, `d1` over memory.
fn rig() -> (Rig, Arc<Hanging>) {
    let storage = Hanging::new();
    let mut device = soft("d0");
    device.namespaces = vec![NamespaceConfig::stored(Arc::clone(&storage) as Arc<dyn Storage>)];
    (Rig::with(config(), vec![device, soft("d1")]), storage)
}

fn hangs(rig: &Rig, client: &Client) -> usize {
    rig.events.iter().filter(|e| matches!(e, Event::Hangs(key) if *key == client.key)).count()
}

/// A read that hangs, of a session that reads only: others may read there too.
fn reader_that_hangs(rig: &mut Rig, storage: &Hanging) -> Client {
    let mut a = rig.client(&["device=d0:n1", "read-only"]);
    storage.freeze(4096);
    a.ask(0, 0, IN, 0, Client::place(0), 4096);
    rig.kick(&a, 0);
    rig.step();
    assert_eq!(storage.waiting.lock().unwrap().len(), 1);
    a
}

/// It reads where nothing hangs.
fn reads(rig: &mut Rig, client: &mut Client) {
    client.ask(0, 1, IN, 64, Client::place(1), 4096);
    assert_eq!(rig.status(client, 0, 1), OK);
}

#[test]
fn storage_that_hangs_for_three_minutes_ends_nobody_and_begins_no_recovery() {
    let (mut rig, storage) = rig();
    let mut a = rig.client(&["device=d0:n1"]);
    let mut b = rig.client(&["device=d1:n1"]);
    storage.freeze(u64::MAX);
    rig.ask_writes(&mut a, 0, 0..40, 7);
    for second in 0..180 {
        rig.pass_time(SECOND);
        rig.serves(&mut b, 0, second);
        assert_eq!(rig.state(0), ControllerState::Serving, "after {second} s");
    }
    assert!((0..40).all(|slot| a.status(0, slot) == PENDING));
    assert!(!rig.said(|e| matches!(e, Event::Lost(_) | Event::Hangs(_) | Event::QueueBroken(..))));
    assert_eq!((Knobs::count(&rig.knobs[0].function_resets), Knobs::count(&rig.knobs[0].cut_offs)), (0, 0));
    storage.thaw();
    rig.answered(&mut a, 0, (0..40).collect());
    assert!((0..40).all(|slot| a.status(0, slot) == OK));
    rig.check_writes(&mut a, 0, 0..40, 7);
}

#[test]
fn a_queue_that_hanging_storage_keeps_from_stopping_closes_its_session_alone() {
    let (mut rig, storage) = rig();
    let a = reader_that_hangs(&mut rig, &storage);
    let mut b = rig.client(&["device=d0:n1", "read-only"]);
    rig.control.stop_queue(a.key, 0).unwrap();
    rig.pass_time(19 * SECOND);
    assert_eq!(hangs(&rig, &a), 0, "it has its time");
    rig.pass_time(2 * SECOND);
    assert_eq!(hangs(&rig, &a), 1);
    rig.control.end(a.key);
    rig.pass_time(100 * SECOND);
    assert_eq!(hangs(&rig, &a), 1, "it is said once");
    // What it had is kept: its memory is mapped, and nobody may write where it reads.
    assert!(!rig.said(|e| matches!(e, Event::Ended(key) if *key == a.key)));
    assert_eq!(rig.knobs[0].reach(), (2, 2 * LEN));
    reads(&mut rig, &mut b);
    rig.end(&b);
    assert!(rig.create(&["device=d0:n1"]).is_err(), "a write of another would race with what hangs");
    assert!(rig.create(&["device=d0:n1", "read-only"]).is_ok());
    storage.thaw();
    rig.expect("the end", |e| matches!(e, Event::Ended(key) if *key == a.key));
    assert_eq!(rig.knobs[0].reach(), (0, 0));
}

#[test]
fn memory_that_hanging_storage_reaches_is_not_given_back_and_its_session_is_closed() {
    let (mut rig, storage) = rig();
    let mut a = rig.client(&["device=d0:n1", "read-only"]);
    let (claim, file) = region(SECOND_AT, 1 << 20, 77);
    let window = nvme_mem::heap(1 << 20).unwrap();
    rig.change(&a, &MemoryChange::Add(claim, file), |_| Some(window.clone())).unwrap();
    storage.freeze(4096);
    a.ask(0, 0, IN, 0, SECOND_AT, 4096);
    rig.kick(&a, 0);
    rig.step();
    rig.begin_change(&a, &MemoryChange::Remove(SECOND_AT, SECOND_AT, 1 << 20), |_| None).unwrap();
    rig.pass_time(19 * SECOND);
    assert_eq!(hangs(&rig, &a), 0);
    rig.pass_time(2 * SECOND);
    assert_eq!(hangs(&rig, &a), 1);
    assert!(!rig.said(|e| matches!(e, Event::Done(..))), "nobody is told that it is free");
    assert_eq!(rig.knobs[0].reach(), (2, LEN + (1 << 20)));
    rig.control.clear(a.key);
    rig.pass_time(100 * SECOND);
    assert!(!rig.said(|e| matches!(e, Event::Cleared(_))));
    assert!(Arc::strong_count(window.owner()) > 1);
    storage.thaw();
    rig.expect("the clearing", |e| matches!(e, Event::Cleared(key) if *key == a.key));
    assert_eq!((rig.knobs[0].reach(), Arc::strong_count(window.owner())), ((0, 0), 1));
}

#[test]
fn a_session_that_ends_while_its_storage_hangs_ends_when_that_answers() {
    let (mut rig, storage) = rig();
    let a = reader_that_hangs(&mut rig, &storage);
    rig.control.end(a.key);
    rig.pass_time(15 * SECOND);
    storage.thaw();
    rig.expect("the end", |e| matches!(e, Event::Ended(key) if *key == a.key));
    assert_eq!(hangs(&rig, &a), 0, "it was in time");
    let a = reader_that_hangs(&mut rig, &storage);
    rig.control.end(a.key);
    rig.pass_time(25 * SECOND);
    assert_eq!(hangs(&rig, &a), 1);
    let mut b = rig.client(&["device=d0:n1", "read-only"]);
    reads(&mut rig, &mut b);
    storage.thaw();
    rig.expect("the end", |e| matches!(e, Event::Ended(key) if *key == a.key));
    rig.end(&b);
    assert_eq!(rig.knobs[0].reach(), (0, 0));
    let mut next = rig.client(&["device=d0:n1"]);
    rig.serves(&mut next, 0, 3);
}
