//! Whatever a session asks of parts of blocks, on whatever queues, and whatever the controller does meanwhile: no write is lost,
//! none is torn, and nothing else changes. What may be there is said by a model that knows requests, and nothing of blocks.

use std::sync::Arc;
use std::time::Duration;

use nvme_core::server::control::{ControllerState, Event};
use nvme_mem::Window;
use nvme_soft::faulty::{Action, Queue, Rule, When};
use nvme_soft::wire::Status;
use nvme_soft::{MemoryMedium, NamespaceConfig};
use proptest::prelude::*;

use crate::client::{Client, DISCARD, GUEST, IN, IOERR, OK, OUT, SLOTS, ZEROES};
use crate::rig::{IO, MS, Rig, SECOND, config, soft};

const SECTOR: usize = 512;
/// Sectors that are used: four blocks.
const SECTORS: u64 = 32;
/// Most bytes of a request.
const MOST: u32 = 6 * 4096;
const QUEUES: usize = 3;

/// One disk of 4096-byte blocks, and what is on it.
fn disk() -> (Rig, Window) {
    let window = nvme_mem::heap(8 << 20).unwrap();
    let mut device = soft("d0");
    device.namespaces =
        vec![NamespaceConfig::new(Arc::new(MemoryMedium::over(window.clone()))).block_size(4096)];
    let config = nvme_core::server::control::Config { workers: 2, ..config() };
    (Rig::with(config, vec![device]), window)
}

fn session(rig: &mut Rig) -> Client {
    let mut client = rig.client(&["device=d0:n1"]);
    for _ in 1..QUEUES {
        rig.start(&mut client).unwrap();
    }
    rig.step();
    client
}

/// A sector's content: its writer, all over.
fn sector(writer: u32) -> [u8; SECTOR] {
    std::array::from_fn(|at| writer.to_le_bytes()[at % 4])
}

/// The writer of a sector; `None`: it is torn.
fn writer(bytes: &[u8]) -> Option<u32> {
    let first = u32::from_le_bytes(bytes[..4].try_into().unwrap());
    (bytes == sector(first)).then_some(first)
}

/// A change under way, or over.
#[derive(Clone, Debug)]
struct Change {
    /// What it writes, 0 for zeroes; each has a number of its own otherwise.
    writer: u32,
    first: u64,
    end: u64,
    began: u32,
    /// When it was answered.
    answered: Option<u32>,
    failed: bool,
}

/// What may be on the disk.
#[derive(Default)]
struct Model {
    changes: Vec<Change>,
    clock: u32,
}

impl Model {
    fn tick(&mut self) -> u32 {
        self.clock += 1;
        self.clock
    }

    /// Whether a sector may hold what that writer wrote: no change that was done began after the writer's had ended.
    fn allows(&self, at: u64, writer: u32) -> bool {
        let here: Vec<_> = self.changes.iter().filter(|c| (c.first..c.end).contains(&at)).collect();
        let last =
            here.iter().filter(|c| c.answered.is_some() && !c.failed).map(|c| c.began).max().unwrap_or(0);
        let is_old = writer == 0 && last == 0;
        is_old || here.iter().any(|c| c.writer == writer && c.answered.is_none_or(|end| end >= last))
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Write, or read: queue, first sector, sectors, an odd address.
    Write(usize, u64, u32, bool),
    Read(usize, u64, u32),
    /// Of whole blocks: queue, which, first, how many.
    Range(usize, u32, u64, u64),
    /// Time goes on.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let place = (0..SECTORS).prop_flat_map(|first| (Just(first), 1..=(SECTORS - first).min(24) as u32));
    let small = (0..SECTORS).prop_flat_map(|first| (Just(first), 1..=(SECTORS - first).min(2) as u32));
    let blocks = || (0..4_u64).prop_flat_map(|first| (Just(first), 1..=4 - first));
    let queue = || 0..QUEUES;
    prop_oneof![
        6 => (queue(), small, any::<bool>()).prop_map(|(q, (at, n), odd)| Step::Write(q, at, n, odd)),
        3 => (queue(), place.clone(), any::<bool>()).prop_map(|(q, (at, n), odd)| Step::Write(q, at, n, odd)),
        // Whole blocks, in memory that needs no copy: the fast way.
        4 => (queue(), blocks()).prop_map(|(q, (at, n))| Step::Write(q, at * 8, n.min(2) as u32 * 8, false)),
        2 => (queue(), place).prop_map(|(q, (at, n))| Step::Read(q, at, n)),
        2 => (queue(), prop::sample::select(vec![DISCARD, ZEROES]), blocks())
            .prop_map(|(q, kind, (at, n))| Step::Range(q, kind, at, n)),
        2 => (0_u64..3).prop_map(Step::Wait),
    ]
}

/// What the controller does to some commands.
fn trouble() -> impl Strategy<Value = Vec<(u16, u64, Action)>> {
    let action = prop_oneof![
        Just(Action::Delay(MS)),
        Just(Action::Delay(20 * MS)),
        Just(Action::Fail(Status(0x21))),
        Just(Action::Fail(Status(0x4281))),
        Just(Action::Hang),
        Just(Action::DelayDeaf(IO + SECOND)),
        Just(Action::Drop),
        Just(Action::Status(Status(0x4006))),
    ];
    prop::collection::vec((0_u16..200, any::<u64>(), action), 0..4)
}

struct Play {
    rig: Rig,
    client: Client,
    disk: Window,
    model: Model,
    /// By queue: slot, and either its change or what is read: first sector, how many.
    flying: [Vec<(u16, Asked)>; QUEUES],
    writers: u32,
}

enum Asked {
    Change(usize),
    Read(u64, u32, Model),
}

impl Play {
    fn new() -> Self {
        let (mut rig, disk) = disk();
        let client = session(&mut rig);
        Self {
            rig,
            client,
            disk,
            model: Model::default(),
            flying: [const { Vec::new() }; QUEUES],
            writers: 0,
        }
    }

    /// Where the data of a slot is.
    fn data(queue: usize, slot: u16) -> u64 {
        GUEST + (1 << 20) + (queue as u64 * 16 + u64::from(slot)) * u64::from(MOST + 8192)
    }

    fn slot(&mut self, queue: usize) -> u16 {
        loop {
            let free = (0..SLOTS.min(16)).find(|slot| self.flying[queue].iter().all(|(s, _)| s != slot));
            if let Some(slot) = free {
                return slot;
            }
            self.wait(1);
        }
    }

    fn change(&mut self, first: u64, sectors: u64, writer: u32) -> Asked {
        let began = self.model.tick();
        let end = first + sectors;
        self.model.changes.push(Change { writer, first, end, began, answered: None, failed: false });
        Asked::Change(self.model.changes.len() - 1)
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Write(queue, first, sectors, odd) => {
                let slot = self.slot(queue);
                self.writers += 1;
                let writer = self.writers;
                let at = Self::data(queue, slot) + u64::from(odd);
                self.client.fill(at, &sector(writer).repeat(sectors as usize));
                let asked = self.change(first, sectors.into(), writer);
                self.flying[queue].push((slot, asked));
                self.client.ask(queue, slot, OUT, first, at, sectors * 512);
                self.rig.kick(&self.client, queue);
            }
            Step::Read(queue, first, sectors) => {
                let slot = self.slot(queue);
                let at = Self::data(queue, slot);
                self.client.fill(at, &vec![0x55; sectors as usize * SECTOR]);
                // What was answered before it began may have been overwritten, and not the other way round.
                let before = Model { changes: self.model.changes.clone(), clock: self.model.clock };
                self.flying[queue].push((slot, Asked::Read(first, sectors, before)));
                self.client.ask(queue, slot, IN, first, at, sectors * 512);
                self.rig.kick(&self.client, queue);
            }
            Step::Range(queue, kind, block, blocks) => {
                let slot = self.slot(queue);
                // What is discarded reads as zeroes here, or is as it was.
                let asked = self.change(block * 8, blocks * 8, 0);
                self.flying[queue].push((slot, asked));
                self.client.ask_range(queue, slot, kind, block * 8, blocks as u32 * 8);
                self.rig.kick(&self.client, queue);
            }
            Step::Wait(ms) => self.wait(ms),
        }
    }

    fn wait(&mut self, ms: u64) {
        if ms == 0 {
            self.rig.step();
        } else {
            self.rig.pass_time(Duration::from_millis(ms));
        }
        self.look();
    }

    /// Takes what was answered.
    fn look(&mut self) {
        for queue in 0..QUEUES {
            for slot in self.client.used(queue) {
                let at = self.flying[queue].iter().position(|(s, _)| *s == slot).expect("it was asked");
                let (slot, asked) = self.flying[queue].remove(at);
                let status = self.client.status(queue, slot);
                assert!(matches!(status, OK | IOERR), "{status}");
                let now = self.model.tick();
                match asked {
                    Asked::Change(change) => {
                        let change = &mut self.model.changes[change];
                        change.answered = Some(now);
                        change.failed = status != OK;
                    }
                    Asked::Read(..) if status != OK => {}
                    Asked::Read(first, sectors, before) => {
                        let bytes = self.client.bytes(Self::data(queue, slot), sectors as usize * SECTOR);
                        for (i, bytes) in bytes.chunks(SECTOR).enumerate() {
                            let at = first + i as u64;
                            let writer = writer(bytes).expect("a sector that is torn was read");
                            let since = self
                                .model
                                .changes
                                .iter()
                                .any(|c| c.writer == writer && (c.first..c.end).contains(&at));
                            assert!(before.allows(at, writer) || since, "sector {at} was read as {writer}");
                        }
                    }
                }
            }
        }
    }

    /// Everything has been answered: the disk is what the model says.
    fn settle(&mut self) {
        for _ in 0..200 {
            if self.flying.iter().all(Vec::is_empty) {
                break;
            }
            self.rig.pass_time(SECOND / 2);
            self.look();
        }
        assert!(self.flying.iter().all(Vec::is_empty), "something is never answered");
        let mut all = vec![0; (SECTORS as usize + 8) * SECTOR];
        self.disk.read(0, &mut all).unwrap();
        for (at, bytes) in all.chunks(SECTOR).enumerate() {
            let writer = writer(bytes).expect("a sector is torn");
            let asked: Vec<_> =
                self.model.changes.iter().filter(|c| (c.first..c.end).contains(&(at as u64))).collect();
            assert!(self.model.allows(at as u64, writer), "sector {at} is {writer}; {asked:#?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_write_of_a_session_is_lost_or_torn_whatever_else_it_asks_and_the_controller_does(
        steps in prop::collection::vec(step(), 1..80), trouble in trouble(),
    ) {
        let mut play = Play::new();
        for (per_mille, seed, action) in trouble {
            play.rig.faults(0).inject(Rule::any(Queue::AnyIo, When::Chance { per_mille, seed }, action));
        }
        for step in &steps {
            play.run(step);
        }
        play.settle();
        // And with a controller that does as it is told, everything is done.
        play.rig.faults(0).clear();
        play.rig.until("rest", |rig| rig.state(0) != ControllerState::Recovering);
        if play.rig.state(0) == ControllerState::Serving && !play.rig.lost(&play.client) {
            for step in &steps {
                play.run(step);
            }
            play.settle();
            prop_assert!(play.model.changes.iter().rev().take(steps.len().min(1)).all(|c| !c.failed));
        }
        play.rig.end(&play.client);
    }
}

#[test]
fn eight_writers_of_one_block_on_three_queues_all_have_their_sectors() {
    let (mut rig, disk) = disk();
    let mut client = session(&mut rig);
    let before = rig.handles[0].statistics().writes;
    for round in 0..10_u32 {
        for slot in 0..8_u16 {
            let writer = round * 8 + u32::from(slot) + 1;
            let at = Client::place(slot) + 1;
            client.fill(at, &sector(writer));
            client.ask(usize::from(slot) % QUEUES, slot, OUT, u64::from(slot), at, 512);
        }
        for queue in 0..QUEUES {
            rig.kick(&client, queue);
        }
        for queue in 0..QUEUES {
            rig.answered(
                &mut client,
                queue,
                (0..8).filter(|slot| usize::from(*slot) % QUEUES == queue).collect(),
            );
        }
        let mut block = vec![0; 4096];
        disk.read(0, &mut block).unwrap();
        let writers: Vec<_> = block.chunks(SECTOR).map(writer).collect();
        assert_eq!(writers, (0..8).map(|slot| Some(round * 8 + slot + 1)).collect::<Vec<_>>());
    }
    assert_eq!(rig.handles[0].statistics().writes - before, 80);
    rig.end(&client);
}

#[test]
fn a_session_that_ends_while_a_part_is_written_leaves_its_block_whole_and_its_memory_free() {
    for action in [Action::Hang, Action::Delay(SECOND), Action::Drop] {
        for opcode in [1, 2] {
            let (mut rig, disk) = disk();
            let mut client = session(&mut rig);
            rig.inject(Queue::AnyIo, opcode, When::First(1), action.clone());
            let at = Client::place(0);
            client.fill(at, &sector(7));
            client.ask(0, 0, OUT, 1, at, 512);
            rig.kick(&client, 0);
            rig.step();
            rig.end(&client);
            assert_eq!(rig.knobs[0].reach(), (0, 0));
            let mut block = vec![0; 4096];
            disk.read(0, &mut block).unwrap();
            let writers: Vec<_> =
                block.chunks(SECTOR).map(|bytes| writer(bytes).expect("it is torn")).collect();
            assert!(writers.iter().enumerate().all(|(i, w)| *w == 0 || (i, *w) == (1, 7)), "{writers:?}");
            let mut next = session(&mut rig);
            rig.serves(&mut next, 0, 3);
        }
    }
}

#[test]
fn a_lost_device_fails_parts_as_it_fails_everything() {
    let (mut rig, _) = disk();
    let mut client = session(&mut rig);
    rig.inject(Queue::AnyIo, 2, When::Always, Action::Hang);
    for slot in 0..8 {
        client.ask(0, slot, OUT, u64::from(slot), Client::place(slot), 512);
    }
    rig.kick(&client, 0);
    rig.step();
    rig.handles[0].vanish();
    rig.control.remove_device(0);
    rig.answered(&mut client, 0, (0..8).collect());
    assert!((0..8).all(|slot| client.status(0, slot) == IOERR));
    assert!(rig.said(|e| matches!(e, Event::Lost(_))));
    rig.end(&client);
}
