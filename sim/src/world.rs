//! The world: the real server's roles, two controllers, disks, seats for clients, and the channels between all of them. Nothing happens in it but by
//! [`World::step`].

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nvme_core::server::control::{Control, Event};
use nvme_core::server::message::{FromWorker, PairId, QueueKey, ToWorker};
use nvme_core::server::worker::Worker;
use nvme_platform::Time;
use nvme_soft::{Engine, Medium, MemoryMedium, SoftHandle, WriteCache};

use crate::device::{Books, Knobs};
use crate::gpt::Table;
use crate::judge::court::Court;
use crate::judge::model::Disk;
use crate::judge::titles::Title;
use crate::judge::{Finding, Judge};
use crate::seat::Seat;
use crate::setup::Setup;
use crate::step::Step;
use crate::storage::Slow;
use crate::upgrade::Frozen;

/// How long an I/O command may take.
pub(crate) const IO: Duration = Duration::from_secs(5);
/// What whoever polls for nothing that comes gives up after.
const PASSES: u32 = 1000;
/// Controllers.
pub(crate) const CONTROLLERS: usize = 2;

/// A namespace: its controller, its number, its sectors, its block size as a power of two.
pub(crate) const NAMESPACES: [(usize, u32, usize, u32); 4] =
    [(0, 1, 640, 9), (0, 2, 256, 12), (1, 1, 512, 12), (1, 2, 256, 9)];

/// The namespace that both controllers may have: its number, its sectors, its block size.
pub(crate) const SHARED: (u32, usize, u32) = (3, 256, 9);

/// Which disk a namespace is.
pub(crate) fn disk_of(controller: usize, nsid: u32) -> Option<usize> {
    if nsid == SHARED.0 && controller < CONTROLLERS {
        return Some(NAMESPACES.len());
    }
    NAMESPACES.iter().position(|(c, n, ..)| (*c, *n) == (controller, nsid))
}

pub(crate) type Cache = WriteCache<MemoryMedium>;

/// A controller from outside.
pub(crate) struct Machine {
    pub(crate) handle: SoftHandle,
    pub(crate) engine: Option<Engine>,
    pub(crate) knobs: Arc<Mutex<Knobs>>,
    /// Something of it was made to fail: its requests may fail, and take their time.
    pub(crate) troubled: bool,
    /// It completes commands in ways that the driver does not believe.
    pub(crate) unbelieved: bool,
    /// It was taken away for good, or what it does cannot be proven.
    pub(crate) gone: bool,
    /// It says that it is another.
    pub(crate) another: bool,
    /// When the engine wants to be run again.
    pub(crate) again: Option<Time>,
}

impl Machine {
    pub(crate) fn knobs(&self) -> MutexGuard<'_, Knobs> {
        self.knobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A namespace's blocks: its controller, its block size as a power of two, and where they are.
pub(crate) type Kept = (usize, u32, Arc<dyn Medium>);

/// A worker, and how its thread is.
pub(crate) struct Hand {
    pub(crate) worker: Worker,
    pub(crate) to: VecDeque<ToWorker>,
    pub(crate) from: VecDeque<FromWorker>,
    /// How many messages it has taken.
    pub(crate) delivered: u64,
    pub(crate) awake: bool,
    pub(crate) wake_at: Option<Time>,
    /// It found nothing to do in its last turn.
    pub(crate) idle: bool,
}

pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) control: Control,
    /// Somebody has news for control.
    pub(crate) control_awake: bool,
    pub(crate) hands: Vec<Hand>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) caches: Vec<Option<Arc<Cache>>>,
    pub(crate) books: Books,
    pub(crate) disks: Vec<Disk>,
    /// The GPTs that the disks began with, and what may be had by them.
    pub(crate) tables: Vec<Table>,
    pub(crate) titles: Vec<Title>,
    /// What the disks are kept in, whichever server has them.
    pub(crate) media: Vec<Kept>,
    pub(crate) storages: Vec<Arc<Slow>>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) now: Time,
    /// Steps taken: the judges' clock.
    pub(crate) seq: u64,
    /// The number of the last write.
    pub(crate) writes: u64,
    pub(crate) null: OwnedFd,
    pub(crate) scanned: bool,
    pub(crate) down: bool,
    pub(crate) done: u64,
    pub(crate) buffer: Vec<u8>,
    /// Factories that were made and not taken back.
    pub(crate) factories: Vec<crate::operator::Made>,
    /// What is drained.
    pub(crate) drained: Vec<crate::drains::Area>,
    /// Devices may be cut off without proof: what they had is kept for ever.
    pub(crate) keeps: bool,
    /// Everything is to stand still.
    pub(crate) frozen: Option<Frozen>,
    /// What a server that was killed had asked of storage, by disk.
    pub(crate) before: Vec<(usize, Arc<Slow>)>,
    /// A server begins, and takes up what another left: nothing of that lands meanwhile.
    pub(crate) taking_up: bool,
    /// Which controllers something was made to fail of, whichever server has them; which storages hang.
    pub(crate) troubled: Vec<bool>,
    pub(crate) hangs: Vec<bool>,
}

impl World {
    pub(crate) fn court(&self) -> MutexGuard<'_, Court> {
        self.books.open()
    }

    /// Says that a promise was broken.
    pub(crate) fn find(&self, judge: Judge, what: impl FnOnce() -> String) {
        self.court().find(judge, what);
    }

    /// The first broken promise.
    pub(crate) fn finding(&self) -> Option<Finding> {
        self.court().finding.clone()
    }

    /// Takes a step. False: there was nothing to be done.
    pub(crate) fn step(&mut self, step: &Step) -> bool {
        self.seq += 1;
        match step {
            Step::Settle => {
                if !self.settle() {
                    let state = self.describe();
                    self.find(Judge::Life, || format!("there is always something to do: {state}"));
                }
                true
            }
            Step::Chat(seat) => self.chat(usize::from(*seat)),
            Step::Control => self.control(),
            Step::Worker(hand) => self.pass(usize::from(*hand) % self.hands.len()),
            Step::Turn(hand) => self.turn(usize::from(*hand) % self.hands.len()),
            Step::Poll => self.poll(),
            Step::Deliver(hand) => self.deliver(usize::from(*hand) % self.hands.len()),
            Step::Hear(hand) => self.hear(usize::from(*hand) % self.hands.len()),
            Step::Engine(machine, budget) => {
                self.engine(usize::from(*machine) % CONTROLLERS, (*budget).into())
            }
            Step::Answer(machine, queue) => {
                self.answer(usize::from(*machine) % CONTROLLERS, u16::from(*queue))
            }
            Step::Storage(disk, which) => self.storage(usize::from(*disk), *which),
            Step::Time(nanos) => self.time(*nanos),
            Step::Ask { seat, queue, kind, sector, sectors, layout } => {
                self.ask(usize::from(*seat), *queue, *kind, *sector, *sectors, *layout)
            }
            Step::Kick(seat, queue) => self.kick(usize::from(*seat), *queue),
            Step::Reap(seat, queue) => self.reap(usize::from(*seat), *queue),
            Step::Talk(seat) => self.talk(usize::from(*seat)),
            Step::Want(seat, wish) => self.want(usize::from(*seat), *wish),
            Step::Operate(what) => self.operate(*what),
            Step::Spoil(what) => self.spoil(*what),
            Step::Scribble { seat, at, value } => self.scribble(usize::from(*seat), *at, *value),
            Step::Change { seat, at, value } => self.lie_in_wait(usize::from(*seat), *at, *value),
            Step::Say { seat, kind, value } => self.say(usize::from(*seat), *kind, *value),
        }
    }

    /// One poll of control, and what its home does with what it says.
    fn control(&mut self) -> bool {
        let frozen = self.frozen.map(|frozen| frozen.until);
        let due = [self.control.next_deadline(), frozen].into_iter().flatten().any(|t| t <= self.now);
        if !self.control_awake && !due {
            return false;
        }
        self.control_awake = false;
        self.control.poll(self.now);
        self.after_control();
        self.stand_still();
        true
    }

    /// Carries on what control has to say.
    pub(crate) fn after_control(&mut self) {
        while let Some((hand, message)) = self.control.take_message() {
            let hand = &mut self.hands[hand];
            hand.to.push_back(message);
            hand.awake = true;
        }
        while let Some(event) = self.control.take_event() {
            self.event(event);
        }
        self.look_at_buses();
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Scanned => self.scanned = true,
            Event::ShutDown => self.down = true,
            other => self.home(other),
        }
    }

    /// Whoever waits for a controller hears of what it has done.
    pub(crate) fn look_at_buses(&mut self) {
        for number in 0..CONTROLLERS {
            let mut court = self.books.open();
            let bus = &mut court.buses[number];
            self.control_awake |= std::mem::take(&mut bus.admin_news);
            if bus.news.is_empty() {
                continue;
            }
            let news = std::mem::take(&mut bus.news);
            drop(court);
            // What is no worker's is control's: it reads partition tables.
            let mut others = false;
            for hand in &mut self.hands {
                let waits = |id: PairId| usize::from(id.controller) == number && news.contains(&id.queue);
                let own = hand.worker.busy_pairs().any(waits);
                hand.awake |= own;
                others |= own;
            }
            self.control_awake |= !others;
        }
    }

    fn pass(&mut self, at: usize) -> bool {
        let hand = &mut self.hands[at];
        if hand.wake_at.is_some_and(|t| t <= self.now) {
            (hand.awake, hand.wake_at) = (true, None);
        }
        if !hand.awake {
            return false;
        }
        // What was kicked is seen first.
        for seat in &mut self.seats {
            let (Some(key), Some(driver)) = (seat.key, &mut seat.driver) else { continue };
            for (index, queue) in driver.queues.iter_mut().enumerate().filter(|(_, q)| q.kicked) {
                if let Some(token) = hand.worker.token(QueueKey { session: key, index: index as u16 }) {
                    hand.worker.kick(token, self.now);
                    queue.kicked = false;
                }
            }
        }
        let now = self.now;
        let pass = hand.worker.pass(now, &|| now);
        hand.idle &= !pass.worked;
        while let Some(message) = hand.worker.take_message() {
            hand.idle = false;
            hand.from.push_back(message);
            self.control_awake = true;
        }
        if !pass.worked && hand.worker.sleep() {
            hand.awake = false;
            hand.wake_at = pass.wake;
        }
        self.look_at_buses();
        true
    }

    /// All that a worker does before it sleeps again.
    fn turn(&mut self, at: usize) -> bool {
        let mut any = false;
        while self.deliver(at) {
            any = true;
        }
        self.hands[at].idle = !any;
        for _ in 0..PASSES {
            if !self.pass(at) {
                return any;
            }
            any = true;
        }
        self.find(Judge::Life, || format!("worker {at} does not sleep in {PASSES} passes"));
        true
    }

    /// All that control does before it waits again.
    fn poll(&mut self) -> bool {
        let mut any = false;
        for _ in 0..PASSES {
            let heard = (0..self.hands.len()).any(|hand| self.hear(hand));
            if !heard && !self.control() {
                return any;
            }
            any = true;
        }
        self.find(Judge::Life, || format!("control has something to do after {PASSES} polls"));
        true
    }

    fn deliver(&mut self, at: usize) -> bool {
        let hand = &mut self.hands[at];
        let Some(message) = hand.to.pop_front() else { return false };
        hand.awake = true;
        hand.delivered += 1;
        let added = match &message {
            ToWorker::AddQueue(new) => Some(new.key),
            _ => None,
        };
        hand.worker.handle(message, self.now);
        if let Some(key) = added
            && let Some(token) = hand.worker.token(key)
        {
            // As homes do when they begin to watch its kicks.
            hand.worker.kick(token, self.now);
        }
        while let Some(message) = hand.worker.take_message() {
            hand.from.push_back(message);
            self.control_awake = true;
        }
        self.look_at_buses();
        true
    }

    fn hear(&mut self, at: usize) -> bool {
        let Some(message) = self.hands[at].from.pop_front() else { return false };
        self.control.from_worker(at, message, self.now);
        self.control_awake = true;
        self.after_control();
        true
    }

    fn engine(&mut self, at: usize, budget: u32) -> bool {
        let machine = &mut self.machines[at];
        let Some(engine) = &mut machine.engine else { return false };
        let mut court = self.books.open();
        if !court.buses[at].rung && machine.again.is_none_or(|t| t > self.now) {
            return false;
        }
        court.buses[at].rung = false;
        drop(court);
        machine.again = engine.run(budget.max(1), self.now);
        self.books.open().scan(at);
        self.look_at_buses();
        true
    }

    /// One command of one queue, if it has one that is not under way already.
    fn answer(&mut self, at: usize, queue: u16) -> bool {
        let machine = &mut self.machines[at];
        let Some(engine) = &mut machine.engine else { return false };
        let before = self.books.open().in_flight(at);
        let again = engine.run_queue(queue, 1, self.now);
        self.books.open().scan(at);
        let done = self.books.open().in_flight(at) != before;
        machine.again = [machine.again, again.filter(|_| !done)].into_iter().flatten().min();
        self.look_at_buses();
        done
    }

    /// Whether anybody could do something now.
    pub(crate) fn is_busy(&self) -> bool {
        let due = |t: Option<Time>| t.is_some_and(|t| t <= self.now);
        self.control_awake
            || due(self.control.next_deadline())
            || due(self.frozen.map(|frozen| frozen.until))
            || self.hands.iter().any(|h| h.awake || due(h.wake_at) || !h.to.is_empty() || !h.from.is_empty())
            || (0..CONTROLLERS).any(|at| due(self.machines[at].again) && self.court().in_flight(at) > 0)
            || (0..CONTROLLERS).any(|at| self.machines[at].engine.is_some() && self.is_rung(at))
            || self.storages.iter().any(|s| s.is_busy())
            || self.landing().iter().any(|(_, s)| s.is_busy())
    }

    /// What may land now of a server that is no more.
    fn landing(&self) -> &[(usize, Arc<Slow>)] {
        if self.taking_up { &[] } else { &self.before }
    }

    /// Whether an engine apart has commands that it has not looked at.
    fn is_rung(&self, at: usize) -> bool {
        self.court().buses[at].rung
    }

    /// The next moment at which somebody wants to do something.
    pub(crate) fn next_moment(&self) -> Option<Time> {
        let hands = self.hands.iter().filter_map(|h| h.wake_at);
        let machines = self.machines.iter().filter_map(|m| m.again);
        let frozen = self.frozen.map(|frozen| frozen.until);
        hands
            .chain(machines)
            .chain(self.control.next_deadline())
            .chain(frozen)
            .filter(|t| *t > self.now)
            .min()
    }

    /// Time goes by: a little while there is something to do, and as long as it takes when there is not.
    fn time(&mut self, nanos: u64) -> bool {
        self.look_at_limited();
        let busy = self.is_busy();
        let next = if busy {
            self.now + Duration::from_nanos(nanos % 20_000)
        } else {
            let far = self.now + Duration::from_nanos(nanos);
            self.next_moment().map_or(far, |next| next.min(far))
        };
        self.now = next;
        for at in 0..CONTROLLERS {
            self.machines[at].handle.advance(next);
            self.books.open().scan(at);
        }
        self.look_at_buses();
        true
    }

    /// Everything that can be done now is done, in turns. False: it does not end.
    pub(crate) fn settle(&mut self) -> bool {
        for round in 0..8_000 {
            // What polls for something that does not come polls for a while.
            if round > 400 {
                self.now = self.now + Duration::from_millis(if round > 800 { 10 } else { 1 });
                for machine in &self.machines {
                    machine.handle.advance(self.now);
                }
            }
            if !self.is_busy() || self.finding().is_some() {
                return true;
            }
            self.step(&Step::Control);
            for hand in 0..self.hands.len() as u8 {
                while self.step(&Step::Deliver(hand)) {}
                self.step(&Step::Worker(hand));
                while self.step(&Step::Hear(hand)) {}
            }
            for machine in 0..CONTROLLERS as u8 {
                self.step(&Step::Engine(machine, 64));
            }
            for disk in (0..self.storages.len() + self.landing().len()).rev() {
                let disk = disk as u8;
                while self.step(&Step::Storage(disk, 0)) {}
            }
        }
        false
    }
}
