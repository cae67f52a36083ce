//! What a run's world is like: chosen by its seed, and a part of its trace.

use crate::besides::Besides;
use crate::random::Random;

/// A seat: what its sessions are asked for with, and how its clients behave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Words of `create`.
    pub words: Vec<&'static str>,
    /// Its sessions take one client after the other; otherwise they end with their only one.
    pub listens: bool,
    /// Its clients may do anything.
    pub hostile: bool,
    /// Their last region may only be read.
    pub sealed: bool,
    /// Virtqueues of its drivers.
    pub queues: u16,
    /// Features that its drivers do not acknowledge.
    pub declines: u64,
    /// Its clients keep what is in flight.
    pub inflight: bool,
}

/// A world.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setup {
    /// Workers.
    pub workers: usize,
    /// Which controllers run apart from workers, as hardware does.
    pub apart: [bool; 2],
    /// Entries of their queues, less one.
    pub mqes: u16,
    /// Longest transfer as a power of two of pages; 0: any.
    pub mdts: u8,
    /// SGLs.
    pub sgl: bool,
    /// Volatile write caches.
    pub cache: bool,
    /// I/O queue pairs.
    pub pairs: u16,
    /// Storage takes its time.
    pub slow: bool,
    /// The controllers are of one subsystem, and share a namespace; they are the faulty twin then.
    pub shared: bool,
    /// The controllers are the faulty twin.
    pub faulty: bool,
    /// The server keeps what outlives it when it is killed.
    pub store: bool,
    /// The seats.
    pub seats: Vec<Place>,
    /// What else there is.
    pub besides: Besides,
}

const WORDS: [&[&str]; 10] = [
    &["device=d0:n1"],
    &["device=d0:n1:1"],
    &["device=d0:n1:2"],
    &["device=d0:n1:1", "read-only"],
    &["device=d0:n2"],
    &["device=d0:n2", "read-only"],
    &["device=d1:n1"],
    &["device=d1:n1", "read-only"],
    &["device=d1:n2"],
    &["device=d1:n2", "read-only"],
];

/// The namespace that both controllers have.
const SHARED: [&[&str]; 4] =
    [&["device=d0:n3"], &["device=d1:n3"], &["device=d0:n3", "read-only"], &["device=d1:n3", "read-only"]];

/// How much sessions may do.
const LIMITS: [&[&str]; 5] =
    [&["iops=20"], &["iops=500"], &["bytes=64K"], &["bytes=2M"], &["iops=100", "bytes=300K"]];

/// Features of which a driver may do without some.
const DECLINED: [u64; 6] = [
    nvme_testkit::feature::INDIRECT_DESC,
    nvme_testkit::feature::EVENT_IDX,
    nvme_testkit::feature::FLUSH,
    nvme_testkit::feature::CONFIG_WCE,
    nvme_testkit::feature::DISCARD,
    nvme_testkit::feature::WRITE_ZEROES,
];

impl Setup {
    /// By chance.
    pub(crate) fn random(random: &mut Random) -> Self {
        let seats = 2 + random.below(4);
        let faulty = random.chance(600);
        let shared = faulty && random.chance(250);
        let hostile = random.chance(400);
        let seats = (0..seats).map(|_| {
            let all: &[&[&str]] = if shared && random.chance(500) { &SHARED } else { &WORDS };
            let mut words = random.of(all).to_vec();
            words.push("ds-max=4");
            if random.chance(200) {
                words.extend(random.of(&LIMITS));
            }
            let declines = DECLINED.iter().filter(|_| random.chance(250)).fold(0, |all, bit| all | bit);
            Place {
                words,
                listens: random.chance(500),
                hostile: hostile && random.chance(400),
                sealed: random.chance(250),
                queues: 1 + random.below(3) as u16,
                declines,
                inflight: random.chance(400),
            }
        });
        Self {
            seats: seats.collect(),
            workers: 1 + random.below(2) as usize,
            apart: [random.chance(500), random.chance(500)],
            mqes: random.of(&[1, 3, 7, 31, 63]),
            mdts: random.of(&[0, 1, 2, 8]),
            sgl: random.chance(500),
            cache: random.chance(600),
            pairs: random.of(&[1, 2, 3, 8]),
            slow: random.chance(250),
            shared,
            faulty,
            store: random.chance(300),
            besides: Besides::default(),
        }
    }
}
