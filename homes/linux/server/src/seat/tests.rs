//! A seat whose lane takes its time.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use nvme_core::nvme;
use nvme_core::server::control::{Config, Control, RecoveryTimes};
use nvme_core::server::message::SessionKey;
use nvme_linux::events::{Doorbell, now};
use nvme_linux::lanes;
use nvme_linux::memory::Trusted;
use nvme_linux::socket::{self, Kind};
use nvme_linux::vhost::Connection;
use nvme_policy::Policy;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::{Conn, Over, PATIENCE, Seat, Source};
use crate::budget::Share;
use crate::capability::Capability;
use crate::lent::Lent;
use crate::regions::Found;

const SET_PROTOCOL_FEATURES: u32 = 16;
const ADD_MEM_REG: u32 = 37;
const NEED_REPLY: u32 = 8;
/// REPLY_ACK and CONFIGURE_MEM_SLOTS.
const FEATURES: u64 = 1 << 3 | 1 << 15;

fn send(client: &OwnedFd, request: u32, flags: u32, words: &[u64], files: &[BorrowedFd<'_>]) {
    let head = [request, 1 | flags, 8 * words.len() as u32].map(u32::to_ne_bytes).concat();
    let words = words.iter().flat_map(|w| w.to_ne_bytes());
    socket::send(client, &head.into_iter().chain(words).collect::<Vec<_>>(), files).unwrap();
}

fn add(client: &OwnedFd) {
    let file = memfd_create("m", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, 4096).unwrap();
    send(client, ADD_MEM_REG, NEED_REPLY, &[0, 0, 4096, 0, 0], &[file.as_fd()]);
}

/// What the client was answered, if anything.
fn answer(client: &OwnedFd) -> Option<u64> {
    let mut bytes = [0; 64];
    let (n, _) = socket::receive(client, &mut bytes).ok()?;
    assert_eq!(n, 20, "an acknowledgement");
    Some(u64::from_ne_bytes(bytes[12..20].try_into().unwrap()))
}

struct Rig {
    control: Control,
    trusted: Arc<Trusted>,
    found: (std::sync::mpsc::Sender<Found>, Receiver<Found>),
    capabilities: BTreeMap<socket::Cookie, Capability>,
}

impl Rig {
    fn lent(&mut self) -> Lent<'_> {
        Lent {
            control: &mut self.control,
            workers: &[],
            trusted: &self.trusted,
            found: &self.found.0,
            seat: 7,
            capabilities: &self.capabilities,
            keeps: false,
            stores: false,
            now: now(),
        }
    }
}

fn rig() -> Rig {
    let config = Config {
        workers: 1,
        sessions_max: 1,
        memory_max: 1 << 30,
        trusted_only: false,
        transport: crate::TRANSPORT,
        queues: 1,
        nvme: nvme::Options::default(),
        recovery: RecoveryTimes::default(),
        drain: PATIENCE,
    };
    Rig {
        control: Control::new(config),
        trusted: Arc::new(Trusted::new()),
        found: channel(),
        capabilities: BTreeMap::new(),
    }
}

#[test]
fn memory_that_takes_too_long_is_refused_and_who_does_not_wait_for_its_end_is_cut() {
    lanes::start(0, &Arc::new(Doorbell::new().unwrap())).unwrap();
    let mut rig = rig();
    let (ours, client) = socket::pair(Kind::Stream).unwrap();
    rustix::io::ioctl_fionbio(&client, true).unwrap();
    let policy = Policy::from_words(["device=d0:n1"]).unwrap();
    let share = Share { eventfds: 64, waiting: 0 };
    let mut seat = Seat::new("test".into(), 0, policy, Source::Connection, share);
    seat.key = Some(SessionKey(1));
    seat.conn = Some(Conn::new(Connection::new(ours, 0, 1).unwrap(), None, 0, false, now()));
    // The lane is stuck in what was put there before.
    let (release, held) = channel::<()>();
    seat.lane.put(move || {
        let _ = held.recv();
    });

    send(&client, SET_PROTOCOL_FEATURES, 0, &[FEATURES], &[]);
    add(&client);
    seat.serve(&mut rig.lent()).unwrap();
    let patience = seat.conn.as_ref().unwrap().patience().unwrap();
    assert!(patience > now() && patience <= now() + PATIENCE);
    assert_eq!(answer(&client), None, "it waits");
    seat.out_of_patience();
    assert_eq!(answer(&client), Some(1), "it is refused");
    assert_eq!(seat.conn.as_ref().unwrap().patience(), None);

    add(&client);
    assert!(matches!(seat.serve(&mut rig.lent()), Err(Over::Slow)));
    // The next client of the seat is not let in before the lane has nothing of this one's.
    assert!(!seat.is_cleared());
    drop(release);
    let found = rig.found.1.recv_timeout(PATIENCE).unwrap();
    assert!((found.seat, found.order) == (7, 1) && found.result.is_ok());
    seat.found(found, &mut rig.lent());
    assert!(seat.is_free());
    assert_eq!(answer(&client), None, "what comes too late is nobody's");
}
